"""The search for the optimum of every path: candidates, a race, a finish."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from .._hyper.unchecked import jit
from .constrained import settle
from .integers import neighbours
from .merit import Scales, Target, is_better, merit, ranked, spreads
from .race import Searches, finish, race

_FINALISTS = 4  # of a race
_MOST_MOVES = 20  # from whole numbers to their neighbours


class Found(NamedTuple):
    """The best point of each path, in the unit cube, and its standing."""

    unit: Float[Array, "S D"]
    value: Float[Array, " S"]
    violation: Float[Array, " S"]
    converged: Bool[Array, " S"]
    slope: Float[Array, "S D"]
    multipliers: Float[Array, "K S"]
    scales: Scales
    n_evaluations: Int[Array, ""]


class Sizes(NamedTuple):
    """How hard to search."""

    n_candidates: int
    n_starts: int
    in_single: bool


@functools.partial(jit, static_argnames="sizes")
def search(
    key: PRNGKeyArray,
    target: Target,
    included: Float[Array, "N D"],
    sizes: Sizes,
) -> Found:
    """Each path's lowest point, by Sobol candidates and the points included."""
    target = jax.lax.stop_gradient(target)
    box = target.box
    unit = jnp.concatenate([box.sobol(key, sizes.n_candidates), box.to_unit(included)])
    X = box.inside(unit)
    values = target.at_all(X)
    scales = spreads(values)
    n_starts = min(sizes.n_starts, unit.shape[0])
    _, order = jax.lax.top_k(-ranked(values, scales), n_starts)
    starts = unit[order]
    rounding = target.rounding(X[:16], scales)
    left = _raced(target, scales, starts, rounding, sizes.in_single)
    polish = functools.partial(_polished, target, scales, rounding)
    first, known = (x[:, :_FINALISTS] for x in (left.points, left.inverse))
    best = polish(first, known)
    if box.integers:
        best = _moved(target, polish, best)
    best = _or_candidate(best, values, unit)
    count = left.n_evaluations + unit.shape[0] + best.n_evaluations
    return best._replace(value=target.sign * best.value, n_evaluations=count)


def _raced(
    target: Target,
    scales: Scales,
    starts: Float[Array, "S R D"],
    rounding: Float[Array, " S"],
    in_single: bool,
) -> Searches:
    """The last few starts: in float32, if that will do, at half of the time."""

    def to(dtype, tree):
        return jax.tree.map(lambda x: x.astype(dtype) if _is_floating(x) else x, tree)

    own = starts.dtype
    if in_single:
        coarser = float(jnp.finfo(jnp.float32).eps / jnp.finfo(own).eps)
        given = target, scales, starts, coarser * rounding
        target, scales, starts, rounding = to(jnp.float32, given)
    tolerance = tolerance_of(starts.dtype)
    return to(own, race(merit(target, scales), starts, tolerance, rounding))


def _is_floating(x: Array) -> bool:
    return jnp.issubdtype(x.dtype, jnp.floating)


def tolerance_of(dtype) -> float:
    """The slope, in spreads over the width of the box, that counts as none."""
    return 1e-4 if jnp.finfo(dtype).bits < 64 else 1e-7


def _polished(
    target: Target,
    scales: Scales,
    rounding: Float[Array, " S"],
    starts: Float[Array, "S R D"],
    inverse: Float[Array, "S R D D"] | None = None,
) -> Found:
    """The best of the minima that these starts lead to."""
    tolerance = tolerance_of(starts.dtype)
    if target.constraints:
        left, known, values = settle(target, scales, starts, tolerance, rounding)
        value, violation = values.of_path, values.violation
    else:
        function = merit(target, scales)
        left = finish(function, starts, tolerance, rounding, inverse)
        known = jnp.zeros((0, *starts.shape[:2]), starts.dtype)
        value = left.values * scales.of_path[:, None]
        violation = jnp.zeros_like(value)
    return _best_of(
        Found(
            unit=left.points,
            value=value,
            violation=violation,
            converged=left.converged,
            slope=left.gradients,
            multipliers=known,
            scales=scales,
            n_evaluations=left.n_evaluations,
        )
    )


def _best_of(found: Found) -> Found:
    """Of several points of each path, (S, R), the best."""
    least = jnp.min(found.violation, axis=1, keepdims=True)
    value = jnp.where(found.violation == least, found.value, jnp.inf)
    index = jnp.argmin(value, axis=1)[:, None]

    def at(x, axis):
        return jnp.squeeze(jnp.take_along_axis(x, index, axis=axis), axis)

    def of_inputs(x):
        return jnp.take_along_axis(x, index[..., None], axis=1)[:, 0]

    return found._replace(
        unit=of_inputs(found.unit),
        value=at(found.value, 1),
        violation=at(found.violation, 1),
        converged=at(found.converged, 1),
        slope=of_inputs(found.slope),
        multipliers=jnp.take_along_axis(found.multipliers, index[None], axis=2)[..., 0],
    )


def _moved(target: Target, polish, best: Found) -> Found:
    """From whole numbers to better neighbours, as long as there are any."""

    def better(state):
        best, improved, n = state
        tried = polish(neighbours(target.box, best.unit))
        gains = is_better((tried.violation, tried.value), (best.violation, best.value))
        count = best.n_evaluations + tried.n_evaluations
        best = _where(gains, tried, best)._replace(n_evaluations=count)
        return best, jnp.any(gains), n + 1

    def improved(state):
        return state[1] & (state[2] < _MOST_MOVES)

    start = best, jnp.asarray(True), jnp.zeros((), jnp.int32)
    return jax.lax.while_loop(improved, better, start)[0]


def _where(which: Bool[Array, " S"], one: Found, other: Found) -> Found:
    return one._replace(
        unit=jnp.where(which[:, None], one.unit, other.unit),
        value=jnp.where(which, one.value, other.value),
        violation=jnp.where(which, one.violation, other.violation),
        converged=jnp.where(which, one.converged, other.converged),
        slope=jnp.where(which[:, None], one.slope, other.slope),
        multipliers=jnp.where(which, one.multipliers, other.multipliers),
    )


def _or_candidate(best: Found, values, unit: Float[Array, "C D"]) -> Found:
    """The best candidate in its place, should that be better: where constraints leave
    little room, or rounding hides the slopes."""
    n, zeros = best.value.shape[0], jnp.zeros_like(best.multipliers)
    everywhere = jnp.broadcast_to(unit[None], (n, *unit.shape))
    candidates = best._replace(
        unit=everywhere,
        slope=jnp.zeros_like(everywhere),
        value=values.of_path,
        violation=values.violation,
        converged=jnp.zeros(values.of_path.shape, bool),
        multipliers=jnp.zeros((zeros.shape[0], *values.of_path.shape), zeros.dtype),
    )
    first = _best_of(candidates)
    gains = is_better((first.violation, first.value), (best.violation, best.value))
    return _where(gains, first, best)
