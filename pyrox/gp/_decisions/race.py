"""Many starts for many functions, of which the poor are dropped early.

Starts come in groups. Each group makes a few turns, its best go into a pool, and the
pool goes on, in the same loop: so there is one program, of which compiling is the
dearer part. A function of eight inputs has so many basins that 256 starts find more
than 20 that are followed to their end, in less time.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from .._numerics import boxed

# (S, R, D) points of the unit cube to values (S, R) and gradients (S, R, D).
Merit = Callable[[Array], tuple[Array, Array]]
# Turns of a group, of the pool of the best, and of a search that is to converge.
_FIRST_TURNS, _POOL_TURNS, _MOST_TURNS = 4, 8, 80
# Searches at a time for each function: of few starts half, so that both halves send
# several into the pool.
_SHARE, _POOL = 2, 32


class Searches(NamedTuple):
    """R searches of each of S functions."""

    points: Float[Array, "S R D"]
    values: Float[Array, "S R"]
    gradients: Float[Array, "S R D"]
    inverse: Float[Array, "S R D D"]
    converged: Bool[Array, "S R"]
    n_evaluations: Int[Array, ""]


def in_groups(n_starts: int) -> tuple[int, int]:
    """How many groups, and how many starts in each; their best fill one pool."""
    size = max(min(_POOL, n_starts // _SHARE), math.ceil(n_starts**0.5))
    return -(-n_starts // size), size


def race(
    merit: Merit,
    starts: Float[Array, "S R D"],
    tolerance: float,
    rounding: Float[Array, " S"],
) -> Searches:
    """The pool of the best, near their minima, the lowest first."""
    n, n_starts, d = starts.shape
    n_groups, size = in_groups(n_starts)
    n_kept = size // n_groups
    filled = jnp.minimum(jnp.arange(n_groups * size), n_starts - 1)
    groups = jnp.moveaxis(starts[:, filled].reshape(n, n_groups, size, d), 1, 0)
    rounding = jnp.repeat(rounding, size)

    def one_round(state, numbered):
        pool, count = state
        k, group = numbered
        is_group = k < n_groups
        fresh = boxed.begin(group.reshape(-1, d), rounding)
        search = jax.tree.map(lambda a, b: jnp.where(is_group, a, b), fresh, pool)
        turns = jnp.where(is_group, _FIRST_TURNS, _POOL_TURNS)
        search = boxed.descend(_flat(merit, n), search, tolerance, turns)
        search = _sorted(search, n)
        best = _put(pool, search, n, n_kept, k)
        pool = jax.tree.map(lambda a, b: jnp.where(is_group, a, b), best, search)
        return (pool, count + size * search.n_turns), None

    # What no group fills lies at infinity, and is never the best.
    nowhere = boxed.begin(groups[0].reshape(-1, d), rounding)
    nowhere = nowhere._replace(stuck=jnp.ones(n * size, bool))
    last = jnp.concatenate([groups, groups[:1]])
    begun = nowhere, jnp.zeros((), jnp.int32)
    rounds = jnp.arange(n_groups + 1), last
    (pool, count), _ = jax.lax.scan(one_round, begun, rounds)
    return _searches(pool, n, tolerance, count)


def finish(
    merit: Merit,
    starts: Float[Array, "S R D"],
    tolerance: float,
    rounding: Float[Array, " S"],
    inverse: Float[Array, "S R D D"] | None = None,
) -> Searches:
    """All of the starts at their minima, in the order in which they came."""
    n, n_starts, d = starts.shape
    if inverse is not None:
        inverse = inverse.reshape(-1, d, d)
    points, rounding = starts.reshape(-1, d), jnp.repeat(rounding, n_starts)
    search = boxed.begin(points, rounding, inverse)
    search = boxed.descend(_flat(merit, n), search, tolerance, _MOST_TURNS)
    return _searches(search, n, tolerance, n_starts * search.n_turns)


def _searches(
    search: boxed.Descent, n: int, tolerance: float, count: Array
) -> Searches:
    def own(x):
        return x.reshape(n, -1, *x.shape[1:])

    return Searches(
        own(search.point),
        own(search.value),
        own(search.gradient),
        own(search.inverse),
        own(search.converged(tolerance)),
        count,
    )


def _flat(merit: Merit, n: int) -> boxed.Objective:
    def flat(points):
        values, gradients = merit(points.reshape(n, -1, points.shape[1]))
        return values.reshape(-1), gradients.reshape(points.shape)

    return flat


def _sorted(search: boxed.Descent, n: int) -> boxed.Descent:
    """Those of each function from the lowest on."""
    values = search.value.reshape(n, -1)
    order = jnp.argsort(values, axis=1)
    first = values.shape[1] * jnp.arange(n)[:, None]
    return boxed.chosen(search, (first + order).reshape(-1))


def _put(
    pool: boxed.Descent, search: boxed.Descent, n: int, n_kept: int, k: Array
) -> boxed.Descent:
    """The first few of each function's searches in the places of group `k`."""

    def put(into, new):
        if not into.ndim:
            return into
        into, new = (x.reshape(n, -1, *x.shape[1:]) for x in (into, new))
        at = (0, k * n_kept) + (0,) * (into.ndim - 2)
        filled = jax.lax.dynamic_update_slice(into, new[:, :n_kept], at)
        return filled.reshape(-1, *filled.shape[2:])

    return jax.tree.map(put, pool, search)
