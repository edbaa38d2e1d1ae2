"""The search for the batch of points at which one function is highest: candidates, a
race, a finish; and the derivative of what was found."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, DTypeLike, Float, Int, PRNGKeyArray

from .._hyper.unchecked import jit
from .._numerics.blocks import map_groups
from .._numerics.closure import Closure
from .._numerics.implicit import moving_root
from .box import Box
from .integers import moved, neighbours
from .race import Merit, finish, race
from .search import tolerance_of

_FEWEST = 64  # candidates whose spread is the unit of a search
_ROUNDED = 10  # of them that tell what rounding does


class Values(NamedTuple):
    """The function, read at two numbers of batches: of a group of starts, which blocks
    of candidates have too, and of the last few. Batches are rows, points side by side.
    """

    of_group: Closure
    of_few: Closure
    n_group: int
    n_few: int

    def at_few(self, X: Float[Array, "B E"]) -> Float[Array, " B"]:
        """At so few batches that they fill up one call."""
        rows = jnp.minimum(jnp.arange(self.n_few), X.shape[0] - 1)
        return self.of_few(X[rows])[: X.shape[0]]

    def at_many(self, X: Float[Array, "B E"]) -> Float[Array, " B"]:
        """At any number, in blocks, -inf where the function is NaN."""
        fill = -X.shape[0] % self.n_group
        rows = jnp.minimum(jnp.arange(X.shape[0] + fill), X.shape[0] - 1)
        values = map_groups(self.of_group, X[rows], self.n_group)[: X.shape[0]]
        return jnp.where(jnp.isnan(values), -jnp.inf, values)


class Best(NamedTuple):
    """A batch, in the unit cube, what it is worth, and where minus that leads down."""

    unit: Float[Array, " E"]
    value: Float[Array, ""]
    slope: Float[Array, " E"]
    converged: Bool[Array, ""]


class Unit(NamedTuple):
    """The units of a search, and what of them rounding hides."""

    scale: Float[Array, ""]
    rounding: Float[Array, ""]
    tolerance: float


@functools.partial(jit, static_argnames=("sizes", "n_candidates", "n_starts"))
def search_batches(
    key: PRNGKeyArray,
    closures: tuple[Closure, Closure],
    box: Box,
    included: Float[Array, "K E"],
    sizes: tuple[int, int],
    n_candidates: int,
    n_starts: int,
) -> tuple[Best, Int[Array, ""]]:
    """The best batch, by Sobol candidates and those included, and the number of batches
    that were evaluated."""
    closures, box, included = jax.lax.stop_gradient((closures, box, included))
    f = Values(*closures, *sizes)
    unit = jnp.concatenate([box.sobol(key, n_candidates), box.to_unit(included)])
    values = f.at_many(box.inside(unit))
    high, order = jax.lax.top_k(values, min(max(n_starts, _FEWEST), unit.shape[0]))
    starts = unit[order[:n_starts]]
    units = _units_of(high, _noise(f, box, starts[:_ROUNDED], values.dtype))
    group = _merit(f.of_group, box, units)
    rounding = units.rounding[None].astype(unit.dtype)
    raced = race(group, starts[None], units.tolerance, rounding)
    n_last = min(f.n_few, raced.points.shape[1])
    first, known = (x[:, :n_last] for x in (raced.points, raced.inverse))
    polish = functools.partial(_polished, f, box, units)
    best, count = polish(first, known)
    count = count + raced.n_evaluations
    if box.integers:
        step = functools.partial(_of_neighbours, f, box, polish)
        best, count = moved(step, best, count)
    candidate = Best(
        starts[0], high[0], jnp.zeros_like(best.slope), jnp.zeros_like(best.converged)
    )
    best = _better(candidate, best)
    return best, count + unit.shape[0] + 3 * min(n_starts, _ROUNDED)


def _units_of(high: Float[Array, " B"], noise: Float[Array, ""]) -> Unit:
    """By the values at the best candidates."""
    finite = jnp.isfinite(high)
    spread = jnp.std(jnp.where(finite, high, 0), where=finite)
    scale = jnp.where((spread > 0) & jnp.isfinite(spread), spread, 1)
    size = jnp.max(jnp.abs(high), where=finite, initial=0)
    rounding = jnp.maximum(8 * jnp.finfo(high.dtype).eps * size, 3 * noise) / scale
    return Unit(scale, rounding, tolerance_of(high.dtype))


def _noise(
    f: Values, box: Box, unit: Float[Array, "B E"], dtype: DTypeLike
) -> Float[Array, ""]:
    """What rounding moves the function by, often more than the last digit of its value:
    the second difference of steps so small that a smooth function has none (as in
    Moré & Wild 2011, Estimating computational noise)."""
    step = 16 * float(jnp.finfo(dtype).eps)
    away = jnp.where(box.is_whole(unit), 0, jnp.where(unit > 0.5, -step, step))
    steps = jnp.arange(3, dtype=unit.dtype)[:, None, None] * away[None]
    points = (unit[None] + steps).reshape(-1, unit.shape[1])
    values = f.at_many(box.inside(points)).reshape(3, -1)
    second = values[0] - 2 * values[1] + values[2]
    known = jnp.isfinite(second)
    square = jnp.mean(jnp.where(known, second, 0) ** 2, where=known)
    return jnp.where(jnp.any(known), jnp.sqrt(square / 6), 0)


def _merit(f: Callable[[Array], Array], box: Box, units: Unit) -> Merit:
    """What a search goes down: minus the function, in units of its spread."""

    def function(unit):
        def down(unit):
            return -f(box.inside(unit)) / units.scale

        values, pull = jax.vjp(down, unit[0])
        (slope,) = pull(jnp.ones_like(values))
        # Whole numbers stay where they are.
        slope = jnp.where(box.is_whole(slope), 0, slope)
        dtype = unit.dtype
        return values.astype(dtype)[None], slope[None]

    return function


def _polished(
    f: Values,
    box: Box,
    units: Unit,
    starts: Float[Array, "1 R E"],
    inverse: Float[Array, "1 R E E"] | None = None,
) -> tuple[Best, Int[Array, ""]]:
    """The best of the maxima that a few starts lead to."""
    merit = _merit(f.at_few, box, units)
    rounding = units.rounding[None].astype(starts.dtype)
    ends = finish(merit, starts, units.tolerance, rounding, inverse)
    k = jnp.argmin(ends.values[0])
    unit = ends.points[0, k]
    value = f.at_few(box.inside(unit[None]))[0]
    value = jnp.where(jnp.isnan(value), -jnp.inf, value)
    return Best(unit, value, ends.gradients[0, k], ends.converged[0, k]), (
        ends.n_evaluations + 1
    )


def _better(one: Best, other: Best) -> Best:
    first = one.value > other.value
    return jax.tree.map(lambda a, b: jnp.where(first, a, b), one, other)


def _of_neighbours(
    f: Values, box: Box, polish: Callable[[Array], tuple[Best, Array]], best: Best
) -> tuple[Best, Int[Array, ""]]:
    """The best of a batch and of those that differ by one in a whole number."""
    near = neighbours(box, best.unit[None])[0]
    _, order = jax.lax.top_k(f.at_many(box.inside(near)), min(f.n_few, near.shape[0]))
    tried, count = polish(near[order][None])
    return _better(tried, best), count + near.shape[0]


def moving_batch(f: Values, box: Box, best: Best) -> Float[Array, " E"]:
    """The batch found as a function of what `f` closes over and of the bounds, by the
    implicit function theorem; inputs that a bound holds, or whole numbers, stay."""
    unit, slope = jax.lax.stop_gradient((best.unit, best.slope))
    out = ((unit <= 0) & (slope > 0)) | ((unit >= 1) & (slope < 0))
    held = out | box.is_whole(out)

    def residual(z):
        x = jnp.where(held, unit, z)
        slope = jax.grad(lambda u: -f.at_few(box.inside(u[None]))[0].astype(u.dtype))(x)
        return jnp.where(held, z - unit, slope)

    return moving_root(residual, unit)
