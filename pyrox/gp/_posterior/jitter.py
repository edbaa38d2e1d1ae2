"""The jitter: a variance on the diagonal of a Gram matrix, in parts of its own mean.

So the answer does not depend on the units of y: an absolute variance would be another
model for data a thousand times smaller.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from .._solvers.cholesky import positive_definite
from .derivatives import DerivativeSites

_LEAST, _MOST = 1e-6, 1e-3


def as_fraction(jitter: float | None, n: int, dtype: np.dtype) -> float:
    """The number that was given, or what `n` points of this type need.

    Rounding moves the eigenvalues of a Gram matrix by .1 to .2 n eps of its variance
    (measured: RBF, Matern-5/2, Periodic and Polynomial at 10 to 2000 points). Fifty
    times that keeps what is solved right to about a percent. In float32 it is 1.2e-4
    for a hundred points; more than 1e-3 would be seen in any posterior.
    """
    if jitter is not None:
        return jitter
    return max(_LEAST, min(10 * n * float(jnp.finfo(dtype).eps), _MOST))


def jitter_variance(
    jitter: float | None,
    K: Float[Array, "U U"],
    sites: DerivativeSites | None = None,
    observed: Bool[Array, " U"] | None = None,
) -> Float[Array, "..."]:
    """That part of the mean of K's diagonal, (): with derivatives one for each
    observation, (U,), since those by each input have a unit of their own. Where some
    were not observed one for each, too, of the others' mean, and zero for these."""
    if observed is not None:
        return _of_the_observed(jitter, K, sites, observed)
    fraction = as_fraction(jitter, K.shape[0], K.dtype)
    diagonal = fraction * jnp.diagonal(K)
    if sites is None:
        return jnp.mean(diagonal)
    groups = _groups(K.shape[0], sites)
    counts = np.maximum(np.bincount(groups), 1).astype(K.dtype)
    sums = jax.ops.segment_sum(diagonal, groups, counts.size)
    return (sums / counts)[groups]


def jitter_variance_of_values(
    jitter: float | None,
    variances: Float[Array, " N"],
    observed: Bool[Array, " N"] | None,
) -> Float[Array, ""]:
    """The same where the matrix is not held, of the variances of values alone. Nothing
    is factored then, so the least jitter will do, whatever the type."""
    fraction = _LEAST if jitter is None else jitter
    if observed is None:
        return fraction * jnp.mean(variances)
    count = jnp.sum(observed).astype(variances.dtype)
    return fraction * jnp.sum(jnp.where(observed, variances, 0)) / count


def _groups(n: int, sites: DerivativeSites | None) -> np.ndarray:
    """The values are one group, and the derivatives by each input are another."""
    dims = np.array(() if sites is None else sites.dims, int)
    return np.concatenate([np.zeros(n - dims.size, int), 1 + dims])


def _of_the_observed(
    jitter: float | None,
    K: Float[Array, "U U"],
    sites: DerivativeSites | None,
    observed: Bool[Array, " U"],
) -> Float[Array, " U"]:
    n = jnp.sum(observed).astype(K.dtype)
    if jitter is None:  # `as_fraction` of a number that is not known here
        fraction = jnp.clip(10 * n * jnp.finfo(K.dtype).eps, _LEAST, _MOST)
    else:
        fraction = jnp.asarray(jitter, K.dtype)
    groups = _groups(K.shape[0], sites)
    size = 1 + int(groups.max())
    diagonal = jnp.where(observed, jnp.diagonal(K), 0)
    sums = jax.ops.segment_sum(diagonal, groups, size)
    counts = jax.ops.segment_sum(observed.astype(K.dtype), groups, size)
    return jnp.where(observed, fraction * (sums / jnp.maximum(counts, 1))[groups], 0)


def no_factor(call: str, jitter: float | None, X: Array) -> str:
    """The sentence for a Gram matrix of these inputs that has no factor."""
    return positive_definite(call, as_fraction(jitter, X.shape[0], X.dtype), X)
