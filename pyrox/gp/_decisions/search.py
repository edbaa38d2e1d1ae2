"""The search for the optimum of every path: candidates, a race, a finish."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from .._hyper.arrays import cast_floats
from .._hyper.unchecked import jit
from .constrained import settle
from .integers import moved, neighbours
from .merit import (
    AbstractTarget,
    Scales,
    at_index,
    index_of_best,
    is_better,
    merit,
    ranked,
    spreads,
)
from .race import Searches, finish, race

Tree = TypeVar("Tree")

_FINALISTS, _CONSTRAINED_FINALISTS = 4, 8  # of a race


class Best(NamedTuple):
    """A point of each path, in the unit cube, and its standing."""

    unit: Float[Array, "S D"]
    value: Float[Array, " S"]
    violation: Float[Array, " S"]
    converged: Bool[Array, " S"]
    slope: Float[Array, "S D"]
    multipliers: Float[Array, "S K"]


class Found(NamedTuple):
    """The best points, the units of the search, and how long it took."""

    best: Best
    scales: Scales
    n_evaluations: Int[Array, ""]
    units: Any = None


class Sizes(NamedTuple):
    """How hard to search."""

    n_candidates: int
    n_starts: int
    in_single: bool


@functools.partial(jit, static_argnames="sizes")
def search(
    key: PRNGKeyArray,
    target: AbstractTarget,
    included: Float[Array, "N D"],
    sizes: Sizes,
) -> Found:
    """Each path's lowest point, by Sobol candidates and the points included."""
    target = jax.lax.stop_gradient(target)
    box = target.box
    unit = jnp.concatenate([box.sobol(key, sizes.n_candidates), box.to_unit(included)])
    rough, at = _in_single((target, unit)) if sizes.in_single else (target, unit)
    units, values = rough.seen(rough.box.inside(at))
    target = target.with_units(cast_floats(units, unit.dtype))
    scales = spreads(values)
    n_starts = min(sizes.n_starts, unit.shape[0])
    _, order = jax.lax.top_k(-ranked(values, scales), n_starts)
    scales = cast_floats(scales, unit.dtype)
    rounding = target.rounding(box.inside(unit[:16]), scales)
    left = _raced(target, scales, unit[order], rounding, sizes.in_single)
    polish = functools.partial(_polished, target, scales, rounding)
    n_last = _CONSTRAINED_FINALISTS
    if not target.constraints:  # of a small pool a quarter
        n_last = min(_FINALISTS, max(1, left.points.shape[1] // 4))
    first, known = (x[:, :n_last] for x in (left.points, left.inverse))
    candidate = unit[index_of_best(values.of_path, values.violation)]
    if target.constraints:
        # The race may end beyond a constraint, in basins that are lost when it holds.
        first, known = jnp.concatenate([first, candidate[:, None]], axis=1), None
    best, count = polish(first, known)
    if box.integers:
        step = functools.partial(_of_neighbours, target, polish)
        best, count = moved(step, best, count)
    raised = rounding * scales.of_path
    best = _better(_of_candidate(target, candidate, raised, best), best)
    count = left.n_evaluations + unit.shape[0] + count
    best = best._replace(value=target.sign * best.value)
    return Found(best, scales, count, target.units)


def _in_single(tree: Tree) -> Tree:
    return cast_floats(tree, jnp.float32)


def _raced(
    target: AbstractTarget,
    scales: Scales,
    starts: Float[Array, "S R D"],
    rounding: Float[Array, " S"],
    in_single: bool,
) -> Searches:
    """The last few starts: in float32, if that will do, at half of the time."""

    own = starts.dtype
    if in_single:
        coarser = float(jnp.finfo(jnp.float32).eps / jnp.finfo(own).eps)
        given = target, scales, starts, coarser * rounding
        target, scales, starts, rounding = _in_single(given)
    tolerance = tolerance_of(starts.dtype)
    found = race(merit(target, scales), starts, tolerance, rounding)
    return cast_floats(found, own)


def tolerance_of(dtype) -> float:
    """The slope, in spreads over the width of the box, that counts as none."""
    return 1e-4 if jnp.finfo(dtype).bits < 64 else 1e-7


def _polished(
    target: AbstractTarget,
    scales: Scales,
    rounding: Float[Array, " S"],
    starts: Float[Array, "S R D"],
    inverse: Float[Array, "S R D D"] | None = None,
) -> tuple[Best, Int[Array, ""]]:
    """The best of the minima that these starts lead to, and how many evaluations that
    took."""
    tolerance = tolerance_of(starts.dtype)
    if target.constraints or target.shares is not None:
        left, known, values = settle(target, scales, starts, tolerance, rounding)
        value, violation = values.of_path, values.violation
    else:
        function = merit(target, scales)
        left = finish(function, starts, tolerance, rounding, inverse)
        known = jnp.zeros((0, *starts.shape[:2]), starts.dtype)
        value = left.values * scales.of_path[:, None]
        violation = jnp.zeros_like(value)
    each = Best(
        unit=left.points,
        value=value,
        violation=violation,
        converged=left.converged,
        slope=left.gradients,
        multipliers=jnp.moveaxis(known, 0, -1),
    )
    index = index_of_best(value, violation)
    return jax.tree.map(lambda x: at_index(x, index), each), left.n_evaluations


def _better(one: Best, other: Best) -> Best:
    """Of two points of each path the better one."""
    gains = is_better((one.violation, one.value), (other.violation, other.value))

    def chosen(a, b):
        return jnp.where(gains.reshape(-1, *(1,) * (a.ndim - 1)), a, b)

    return jax.tree.map(chosen, one, other)


def _of_neighbours(
    target: AbstractTarget, polish: Callable[[Array], tuple[Best, Array]], best: Best
) -> tuple[Best, Int[Array, ""]]:
    """The best of each point and of those that differ by one in a whole number."""
    tried, count = polish(neighbours(target.box, best.unit))
    return _better(tried, best), count


def _of_candidate(
    target: AbstractTarget,
    unit: Float[Array, "S D"],
    rounding: Float[Array, " S"],
    like: Best,
) -> Best:
    """The best candidate of each path: better than the end of a search where the
    constraints leave little room, or rounding hides the slopes."""
    values = target.at_own(target.box.inside(unit[:, None]))
    value = values.of_path[:, 0]
    if target.shares is not None:  # at a kink rounding alone makes a neighbour lower
        value = value + rounding
    return Best(
        unit=unit,
        value=value,
        violation=values.violation[:, 0],
        converged=jnp.zeros_like(like.converged),
        slope=jnp.zeros_like(like.slope),
        multipliers=jnp.zeros_like(like.multipliers),
    )
