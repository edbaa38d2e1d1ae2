"""More values for what has been conditioned: the factor grows by their block.

With A the covariance of what was observed, B that of it with the new values and C that
of those, noise included, and S = C - B^T A^-1 B what is new in them,

    [A   B]^-1 [r]   [v - A^-1 B w]
    [B^T C]    [s] = [      w     ],   v = A^-1 r,   w = S^-1 (s - B^T v).

So nothing is asked of the old data but their weights v and their factor, and s - B^T v
is the new values less what was predicted of them (Rasmussen & Williams 2006, eqs. A.11
to A.13).
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Real

from .._hyper.checks import as_inputs, as_noise, as_values, common_dtype
from .._hyper.unchecked import jit, one_step
from .._solvers.cholesky import (
    AbstractFactor,
    CholeskyFactor,
    ExtendedFactor,
    checked_factor,
    extended,
    insert,
    root_of,
)
from .mean import mean_at
from .must_hold import require_told


class NewData(NamedTuple):
    """Values of f at more inputs, y = f(X) + e, e ~ N(0, noise_var)."""

    X: Float[Array, "Q D"]
    y: Float[Array, " Q"]
    noise_var: Float[Array, "..."]


def as_new_data(
    call: str,
    X: Real[ArrayLike, "Q D"],
    y: Real[ArrayLike, " Q"],
    noise_var: Real[ArrayLike, "..."],
    in_size: int,
) -> NewData:
    """The data, their shapes and what is known of them checked."""
    X = as_inputs(f"{call}(X=...)", X, in_size, at_run_time=False)
    n = X.shape[0]
    y = as_values(f"{call}(y=...)", y, n, at_run_time=False)
    noise_var = as_noise(f"{call}(noise_var=...)", noise_var, n, at_run_time=False)
    return NewData(X, y, noise_var)


def extend(
    root: AbstractFactor,
    cross: Float[Array, "U Q"],
    block: tuple[Float[Array, "Q Q"], Float[Array, " Q"]],
    columns: tuple[Float[Array, "U K"], Float[Array, "Q K"]],
    before: int,
) -> tuple[ExtendedFactor, Float[Array, "V K"], Bool[Array, ""]]:
    """The factor and the weights with the new values inserted before the last `before`
    of the old observations, and whether there is a factor.

    `cross` is B, `block` C without noise and the noise, and `columns` are v and the new
    values less what was predicted of them, one column a draw.

    Cost: 2 N^2 Q operations for N old observations.
    """
    whitened, (weights, surprise) = root.whiten(cross), columns
    own, ok = checked_factor(block[0] - whitened.T @ whitened, block[1])
    new = own.solve(surprise)
    # The gain is one for all columns, and for all values that a `vmap` may ask with.
    old = weights - root.unwhiten(whitened) @ new
    return extended(root, whitened, own, before), insert(old, new, before), ok


@one_step
def posterior_told(posterior: Any, data: NewData) -> Any:
    """A ConditionedGP given more data, with the checks that it needs."""
    call = "ConditionedGP.condition_on"
    dtype = common_dtype(posterior.weights, data.X, data.y)
    root = root_of(posterior.inverse)
    if root.lower.dtype != dtype:
        root = CholeskyFactor(root.lower.astype(dtype))
    told, (whitened, own), ok = _extended(posterior, data)
    # The root stays outside of the program, which would copy it.
    extended = ExtendedFactor(root, whitened, own, told.weights.size - told.y.size)
    weights = require_told(call, data, ok, told.weights)
    return dataclasses.replace(told, inverse=extended, weights=weights)


@jit
def _extended(
    posterior: Any, data: NewData
) -> tuple[Any, tuple[Array, CholeskyFactor], Array]:
    """The posterior given more data, what its factor got, and whether there is one."""
    dtype = common_dtype(posterior.weights, data.X, data.y)
    cast = functools.partial(jax.tree.map, lambda leaf: leaf.astype(dtype))
    given, old, (X, y, noise_var) = posterior._conditional(), posterior, cast(data)
    seen = old.observed
    old_X, root, weights = cast((old.X, given.inverse, old.weights))
    jitter_var = cast(old.jitter_var)
    (n,), (q,) = old.y.shape, y.shape
    before = weights.shape[0] - n
    # Values are first, and what was not observed has none.
    own_jitter = jnp.broadcast_to(jnp.max(jitter_var.reshape(-1)[:n]), (q,))
    noise_var = jnp.broadcast_to(noise_var, (q,))
    cross = given.cross(X).astype(dtype).T
    surprise = y - mean_at(given.mean_fn, X) - cross.T @ weights
    block = given.kernel(X, X).astype(dtype), noise_var + own_jitter
    columns = weights[:, None], surprise[:, None]
    root, columns, ok = extend(root, cross, block, columns, before)
    if jitter_var.ndim:
        jitter_var = insert(jitter_var, own_jitter, before)
    old_noise = cast(jnp.broadcast_to(old.noise_var, (n,)))
    told = dataclasses.replace(
        old,
        prior=eqx.tree_at(lambda p: p.X, old.prior, jnp.concatenate([old_X, X])),
        y=jnp.concatenate([cast(old.y), y]),
        noise_var=jnp.concatenate([old_noise, noise_var]),
        inverse=None,
        weights=columns[:, 0],
        jitter_var=jitter_var,
        observed=None if seen is None else jnp.concatenate([seen, jnp.ones(q, bool)]),
        derivatives=cast(old.derivatives),
    )
    return told, (root.whitened, root.own), ok
