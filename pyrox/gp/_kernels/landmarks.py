"""Features of a kernel by its own columns at some points (Nystroem)."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray, Real

from .._features.basis import AbstractBasis, Expandable, exact_features
from .._features.maps import AbstractFeatures, sum_features
from .._hyper.checks import as_inputs, as_jitter, common_dtype, require_ok
from .._solvers.cholesky import CholeskyFactor, factor, positive_definite
from .kernel import AbstractKernel, product_of


class Landmarks(AbstractBasis):
    """Features phi(x) = L^-1 k(Z, x) with L L^T = k(Z, Z), for any kernel at all.

    For a kernel that has no spectral form: not stationary, warped, deep, arc-cosine.
    The Gram matrix phi phi^T is right at the landmarks Z and too small away from them,
    by the variance that f(Z) leaves (Williams & Seeger 2001). So place them where paths
    will be evaluated, closer than the kernel's finest detail; `diagnose` tells whether
    they do. The map has one column for each landmark and term of a sum, whatever
    `n_features` says; a term with an exact map takes that.

    Args:
        Z: the landmarks, one row a point.
        jitter: added to the diagonal of k(Z, Z), in parts of its mean; by default what
            rounding asks for, ten epsilons for each landmark.

    Raises:
        ValueError: a Z that is not (M, D), is empty, or has NaN or inf.

    Cost: O(M^3) for a draw, O(N M^2) for its features at N points.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from pyrox.gp import AbstractKernel, GPPrior, Landmarks, PathwiseSampler
        >>> class Brownian(AbstractKernel):
        ...     def __call__(self, X1, X2):
        ...         return jnp.minimum(X1, X2.T)
        ...
        ...     def diag(self, X):
        ...         return X[:, 0]
        >>> X = jnp.array([[0.2], [0.9]])
        >>> posterior = GPPrior(Brownian(), X).condition(jnp.array([0.5, -0.5]), 0.01)
        >>> basis = Landmarks(jnp.linspace(0.01, 1, 100)[:, None])
        >>> sampler = PathwiseSampler(posterior, basis=basis)
        >>> sampler.sample_paths(jax.random.key(0), 3)(X).shape
        (3, 2)
    """

    Z: Float[Array, "M D"]
    jitter: float = eqx.field(static=True)

    def __init__(self, Z: Real[ArrayLike, "M D"], jitter: float | None = None):
        self.Z = as_inputs("Landmarks(Z=...)", Z, at_run_time=False)
        if jitter is None:
            jitter = 10 * self.Z.shape[0] * float(jnp.finfo(self.Z.dtype).eps)
        self.jitter = as_jitter("Landmarks(jitter=...)", jitter)

    def features(
        self, key: PRNGKeyArray, kernel: Expandable, n_features: int, in_size: int
    ) -> AbstractFeatures:
        Z = as_inputs("Landmarks(Z=...)", self.Z, in_size)
        maps = [self._term(term, Z, n_features) for term in kernel.terms()]
        return sum_features(maps)

    def _term(
        self, term: Sequence[Any], Z: Float[Array, "M D"], n_features: int
    ) -> AbstractFeatures:
        exact = exact_features(term, n_features, Z.shape[1])
        if exact is not None:
            return exact
        kernel = product_of(term)
        gram = kernel(Z, Z)
        root = factor(gram, self.jitter * jnp.mean(jnp.diagonal(gram)))
        sentence = positive_definite("Landmarks", self.jitter, Z)
        Z = require_ok(Z, root.succeeded(), sentence)
        return LandmarkFeatures(kernel, Z, root)


class LandmarkFeatures(AbstractFeatures):
    """L^-1 k(Z, x), for each row x."""

    kernel: AbstractKernel
    Z: Float[Array, "M D"]
    root: CholeskyFactor

    def __call__(self, X: Float[Array, "N D"]) -> Float[Array, "N M"]:
        dtype = common_dtype(X, self.Z)
        columns = self.kernel(self.Z.astype(dtype), X.astype(dtype))
        return self.root.whiten(columns).T.astype(X.dtype)
