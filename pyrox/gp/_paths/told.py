"""More values for drawn functions: Matheron's rule once more, of what is new.

A path f of a posterior is told y = f(X) + e by the rule that drew it, with the
posterior's covariance c in the place of the kernel (Wilson et al. 2021, section 3):

    f + c(., X) v,   v = S^-1 (y - f(X) - e),   S = c(X, X) + noise,   e ~ N(0, noise)

c is the kernel less what the anchors explain, k(., X) - k(., Z) P k(Z, X), so the path
keeps its form: v joins the weights of the anchors, which change by -P k(Z, X) v. For
data P is A^-1, the inverse of their covariance with noise. Where the anchors' values
have a spread R R^T of their own, as those of a sparse posterior, P is
A^-1 - A^-1 R R^T A^-1, and what is told narrows the spread.
"""

import dataclasses
from typing import TypeAlias

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Bool, Float

from .._hyper.checks import common_dtype
from .._hyper.unchecked import jit, one_step
from .._numerics.blocks import block_rows
from .._posterior.by_solver import needs_factor, require_factor
from .._posterior.derivatives import cross_gram, gram
from .._posterior.jitter import jitter_variance
from .._posterior.mean import mean_at
from .._posterior.missing import only
from .._posterior.must_hold import require_told
from .._posterior.told import NewData, extend
from .._solvers.cholesky import (
    AbstractFactor,
    CholeskyFactor,
    ExtendedFactor,
    checked_factor,
    factor,
    insert,
    root_of,
)
from .formula import Formula, evaluate
from .given import AnchorValues, as_bytes, as_words

# What a factor got: the whitened columns, and the factor of the new block.
_Tail: TypeAlias = tuple[Array, CholeskyFactor]

# No split of the key that the path was drawn with comes as far.
_NOISE = 0x70797278


@one_step
def told(
    path: Formula, given: AnchorValues, data: NewData
) -> tuple[Formula, AnchorValues]:
    """The path and what it was given, with more data."""
    if given.convergence is not None:
        raise ValueError(needs_factor("paths.condition_on"))
    dtype = common_dtype(path.anchors, path.update_weights, data.X, data.y)
    path = _in_type(path, dtype)
    if not given.of_prior and not _has_digits(given, dtype):
        given = dataclasses.replace(given, inverse=_factor(path, given))
    anchors, weights, found, tail, ok = _told(path, given, data)
    weights = require_told("paths.condition_on", data, ok, weights)
    if given.inverse is not None and tail is not None:
        # The root stays outside of the program, which would copy it.
        before = weights.shape[1] - anchors.shape[0]
        root = ExtendedFactor(root_of(_factor_of(given)), *tail, before)
        found = dataclasses.replace(found, inverse=root)
    path = dataclasses.replace(path, anchors=anchors, update_weights=weights)
    return path, found


@jit
def _told(
    path: Formula, given: AnchorValues, data: NewData
) -> tuple[Array, Array, AnchorValues, _Tail | None, Array]:
    """The anchors, their weights and values, what the factor got, and whether there is
    one."""
    dtype = path.anchors.dtype
    X, y, noise_var = (part.astype(dtype) for part in data)
    block = path.kernel(X, X).astype(dtype)
    if given.jitter_var is None:
        jitter_var = jitter_variance(given.jitter, block)
    else:
        jitter_var = given.jitter_var.astype(dtype)
    noise_var = jnp.broadcast_to(noise_var + jitter_var, y.shape)
    key, noise = fresh_noise(given, y.shape[0], dtype)
    size = block_rows("paths.condition_on", None, path.feature_weights.shape[-1], dtype)
    predicted = evaluate(path, X, block_size=size).astype(dtype)
    surprise = y[None, :] - predicted - jnp.sqrt(noise_var)[None, :] * noise
    known = dataclasses.replace(given, key=key, jitter_var=jitter_var)
    if given.of_prior:
        root, ok = checked_factor(block, noise_var)
        known = dataclasses.replace(known, mean=y, noise_var=noise_var, inverse=root)
        return X, root.solve(surprise.T).T, known, None, ok
    new = y, (block, noise_var), surprise.T
    weights, known, tail, ok = _more(path, known, X, new)
    return jnp.concatenate([path.anchors, X]), weights.T, known, tail, ok


def _more(
    path: Formula,
    given: AnchorValues,
    X: Float[Array, "Q D"],
    new: tuple[Array, tuple[Array, Array], Array],
) -> tuple[Array, AnchorValues, _Tail, Array]:
    """The weights, what is given and what its factor got, where something was before;
    and whether the new covariance has a factor."""
    y, block, surprise = new
    dtype, weights = y.dtype, path.update_weights.T
    old_noise = jnp.broadcast_to(given.noise_var, given.mean.shape).astype(dtype)
    root = _factor_of(given)
    cross = cross_gram(path.kernel, X, path.anchors, path.sites).astype(dtype)
    cross = only(_observed(given), cross).T
    before = weights.shape[0] - path.anchors.shape[0]
    extended, joined, ok = extend(root, cross, block, (weights, surprise), before)
    told = dataclasses.replace(
        given,
        mean=insert(given.mean.astype(dtype), y, before),
        noise_var=insert(old_noise, block[1], before),
        inverse=None,
    )
    tail = extended.whitened, extended.own
    if given.root is None:
        return joined, told, tail, ok
    expected = mean_at(path.mean_fn, X), mean_at(path.mean_fn, path.anchors)
    apart = y - expected[0], given.mean.astype(dtype) - expected[1]
    columns = weights, surprise
    joined, told, sure = _narrowed(told, (root, extended), cross, columns, apart)
    return joined, told, tail, ok & sure


def _narrowed(
    told: AnchorValues,
    factors: tuple[AbstractFactor, ExtendedFactor],
    cross: Float[Array, "M Q"],
    columns: tuple[Float[Array, "M S"], Float[Array, "Q S"]],
    apart: tuple[Float[Array, " Q"], Float[Array, " M"]],
) -> tuple[Array, AnchorValues, Array]:
    """The same where the anchors' values have a spread, by which what was predicted of
    the new values is less certain. `apart` is how far these, and the anchors' expected
    values, are from the prior's mean."""
    assert told.root is not None
    (root, extended), (weights, surprise) = factors, columns
    n, q = cross.shape
    spread, gain = told.root.astype(cross.dtype), root.solve(cross)
    own, reach = CholeskyFactor(extended.own.lower[-q:, -q:]), spread.T @ gain
    whole = own.lower @ own.lower.T + reach.T @ reach
    whole, moved = factor(whole, jnp.zeros((), cross.dtype)), spread @ reach
    new = whole.solve(surprise)
    weights = jnp.concatenate([weights - (gain - root.solve(moved)) @ new, new])
    learnt = moved @ whole.solve((apart[0] - gain.T @ apart[1])[:, None])[:, 0]
    # I - T S^-1 T^T is (I + T N^-1 T^T)^-1 for S = N + T^T T: positive definite as it
    # is computed, too.
    part = own.whiten(reach.T)
    left = factor(part.T @ part, jnp.ones((), cross.dtype))
    spread = jnp.pad(left.whiten(spread.T).T, ((0, q), (0, 0)))
    mean = told.mean.at[:n].add(learnt)
    told = dataclasses.replace(told, mean=mean, root=spread)
    return weights, told, whole.succeeded()


def _has_digits(given: AnchorValues, dtype: np.dtype) -> bool:
    if given.inverse is None:
        return False
    return root_of(_factor_of(given)).lower.dtype == dtype


def _factor_of(given: AnchorValues) -> AbstractFactor:
    assert given.inverse is not None
    return require_factor("paths.condition_on", given.inverse)


@jit
def _factor(path: Formula, given: AnchorValues) -> CholeskyFactor:
    """That of the anchors' covariance, made anew."""
    dtype = path.anchors.dtype
    K = gram(path.kernel, path.anchors, path.sites).astype(dtype)
    seen = _observed(given)
    noise_var = jnp.broadcast_to(given.noise_var, given.mean.shape).astype(dtype)
    return factor(only(seen, only(seen, K).T), jnp.where(seen, noise_var, 1))


def _observed(given: AnchorValues) -> Bool[Array, " U"]:
    """Which of the anchors' values were: the noise of the others is infinite."""
    return jnp.broadcast_to(jnp.isfinite(given.noise_var), given.mean.shape)


def fresh_noise(
    given: AnchorValues, n: int, dtype: np.dtype
) -> tuple[Float[Array, " 8"], Float[Array, "S N"]]:
    """The key for the noise after this, and a standard normal row for each path."""
    assert given.key is not None and given.draws is not None
    key = jr.wrap_key_data(as_words(given.key), impl="threefry2x32")
    key = jr.fold_in(key, _NOISE)
    keys = jax.vmap(jr.fold_in, (None, 0))(key, as_words(given.draws)[:, 0])
    noise = jax.vmap(lambda key: jr.normal(key, (n,), dtype))(keys)
    return as_bytes(jr.key_data(key), given.key.dtype), noise


def _in_type(path: Formula, dtype: np.dtype) -> Formula:
    """The path with what is told in this type; evaluation takes any."""
    if path.anchors.dtype == path.update_weights.dtype == dtype:
        return path
    sites = jax.tree.map(lambda leaf: leaf.astype(dtype), path.sites)
    anchors, weights = path.anchors.astype(dtype), path.update_weights.astype(dtype)
    return dataclasses.replace(
        path, anchors=anchors, update_weights=weights, sites=sites
    )
