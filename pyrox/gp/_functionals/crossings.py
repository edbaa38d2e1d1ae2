"""Where functions of one input cross a level."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Real

from .._hyper.checks import (
    as_count,
    as_float,
    common_dtype,
    require_finite,
    require_inside,
)
from .._hyper.unchecked import jit
from .._numerics.measures import LebesgueMeasure
from .._paths.formula import Formula, evaluate, evaluate_each
from .._paths.own_points import values_and_gradients
from .._paths.path import OUTSIDE, PathwiseFunction, bare
from .path_integrals import as_path

_MOST_STEPS = 100


class Crossings(eqx.Module):
    """Where paths cross a level; what `crossings` returns."""

    X: Float[Array, "S R"]
    """The places in order, NaN after the last one of a path."""
    count: Int[Array, " S"]
    """How many each path has, those beyond R too."""
    more: Bool[Array, " S"]
    """Whether there are, or may be, more than are given: more than R were found, or a
    pair may lie between two neighbours of the grid."""


def crossings(
    paths: PathwiseFunction,
    level: Real[ArrayLike, ""],
    bounds: Real[ArrayLike, "2 1"],
    *,
    n_grid: int = 1024,
    max_crossings: int = 16,
) -> Crossings:
    """Where each path of one input crosses `level`, as exactly as the type allows.

    Changes of sign on a regular grid bracket the crossings; Newton steps, halved where
    they leave the bracket, follow. Two crossings between neighbours of the grid are not
    seen, so that must be fine for the paths: where values and slopes at both ends of a
    cell leave room for a pair, `more` says so. The places have derivatives in whatever
    the paths and the level depend on, by the implicit function theorem.

    Args:
        paths: of one input.
        level: one number.
        bounds: the interval, `jnp.array([[low], [high]])`.
        n_grid: cells of the grid.
        max_crossings: R, places to return for each path.

    Returns:
        `Crossings`, of the wider dtype of paths and bounds.

    Raises:
        ValueError: other paths, more than one input, a level that is not one finite
            number, bounds outside the domain of the paths.

    Cost: twice that of `paths(X)` at n_grid points, and some ten values of each path at
        R points of its own.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from pyrox.gp import RBF, GPPrior, PathwiseSampler, crossings
        >>> X = jnp.array([[0.0], [1.0]])
        >>> posterior = GPPrior(RBF(), X).condition(jnp.array([1.0, -1.0]), 1e-4)
        >>> paths = PathwiseSampler(posterior, 64).sample_paths(jax.random.key(0), 5)
        >>> found = crossings(paths, 0.0, X)
        >>> found.X.shape, bool((found.count == 1).all())
        ((5, 16), True)
    """
    call = "crossings"
    paths = as_path(call, paths)
    if paths.anchors.shape[-1] != 1:
        raise ValueError(
            f"`{call}(paths, ...)` must be functions of one input. Got "
            f"D={paths.anchors.shape[-1]}. In more a level set is no list of points: "
            "see `excursion_probability`."
        )
    level = as_level(call, level)
    bounds = LebesgueMeasure(bounds).bounds
    bounds = require_inside(bounds, f"{call}(bounds)", paths.domain, OUTSIDE)
    sizes = {
        "n_grid": as_count(f"{call}(n_grid=...)", n_grid),
        "n_roots": as_count(f"{call}(max_crossings=...)", max_crossings),
    }
    dtype = common_dtype(bounds, paths.feature_weights)
    return _crossings(bare(paths), level.astype(dtype), bounds.astype(dtype), **sizes)


def as_level(call: str, level: ArrayLike) -> Float[Array, ""]:
    level = as_float(level, f"{call}(level)")
    if level.shape:
        raise ValueError(
            f"`{call}(level)` must be one number. Got shape {level.shape}. Map over "
            "many with `jax.vmap`."
        )
    return require_finite(level, f"{call}(level)")


@functools.partial(jit, static_argnames=("n_grid", "n_roots"))
def _crossings(
    path: Formula,
    level: Float[Array, ""],
    bounds: Float[Array, "2 1"],
    n_grid: int,
    n_roots: int,
) -> Crossings:
    # What is searched has no derivative; the last step has that of the crossing.
    still, aim, box = jax.lax.stop_gradient((path, level, bounds))
    places = jnp.linspace(0, 1, n_grid + 1, dtype=level.dtype)
    grid = box[0, 0] + places * (box[1, 0] - box[0, 0])
    values, slopes = _values_and_slopes(still, grid)
    heights = values - aim
    above = heights >= 0
    changes = above[:, 1:] != above[:, :-1]
    count = jnp.sum(changes, axis=1)
    cells = jax.vmap(lambda row: jnp.nonzero(row, size=n_roots, fill_value=0)[0])(
        changes
    )
    found = jnp.arange(n_roots)[None] < count[:, None]
    low, high = grid[cells], grid[cells + 1]
    rising = ~jnp.take_along_axis(above, cells, axis=1)
    roots = _roots(still, aim, low, high, rising)
    polished = _last_step(path, level, roots)
    roots = jnp.where(found, jnp.clip(polished, low, high), jnp.nan)
    hidden = jnp.any(_may_hide(heights, slopes, grid[1] - grid[0]) & ~changes, axis=1)
    return Crossings(roots, count, (count > n_roots) | hidden)


def _values_and_slopes(path: Formula, grid: Array) -> tuple[Array, Array]:
    size = 1024

    def values(X):
        return evaluate(path, X, block_size=size)

    X = grid[:, None]
    return jax.jvp(values, (X,), (jnp.ones_like(X),))


def _may_hide(heights: Array, slopes: Array, step: Array) -> Array:
    """Whether the tangents at both ends of a cell meet beyond the level."""
    left, right = heights[:, :-1], heights[:, 1:]
    sign = jnp.where(left >= 0, 1, -1).astype(heights.dtype)
    left, right = sign * left, sign * right
    down, up = -sign * slopes[:, :-1], sign * slopes[:, 1:]
    fall = jnp.maximum(down, 0) * step
    rise = jnp.maximum(up, 0) * step
    both = (fall > 0) & (rise > 0)
    return both & (
        left / jnp.where(both, fall, 1) + right / jnp.where(both, rise, 1) < 1
    )


def _roots(
    path: Formula, level: Array, low: Array, high: Array, rising: Array
) -> Float[Array, "S R"]:
    """Newton's method within brackets, of all paths together."""
    eps = jnp.finfo(low.dtype).eps

    def step(state):
        low, high, x, _, i = state
        values, slopes = values_and_gradients(path, x[:, :, None])
        height = values - level
        right = (height >= 0) == rising  # the root is not to the right of x
        low, high = jnp.where(right, low, x), jnp.where(right, x, high)
        slope = slopes[:, :, 0]
        newton = x - height / jnp.where(slope == 0, 1, slope)
        inside = (slope != 0) & (low < newton) & (newton < high)
        # Every fourth step halves, so that no bracket shrinks from one side only.
        middle = low + (high - low) / 2
        after = jnp.where(inside & (i % 4 != 3), newton, middle)
        near = 2 * eps * jnp.maximum(jnp.abs(low), jnp.abs(high))
        moved = jnp.abs(after - x) > near
        return low, high, after, jnp.any(moved & (high - low > near)), i + 1

    def go_on(state):
        return state[3] & (state[4] < _MOST_STEPS)

    start = low, high, low + (high - low) / 2, jnp.array(True), jnp.array(0)
    return jax.lax.while_loop(go_on, step, start)[2]


def _last_step(path: Formula, level: Array, roots: Array) -> Float[Array, "S R"]:
    """One more step, of which the derivative is that of the root."""
    roots = jax.lax.stop_gradient(roots)
    X = roots[:, :, None]
    _, slopes = values_and_gradients(jax.lax.stop_gradient(path), X)
    slope = jax.lax.stop_gradient(slopes[:, :, 0])
    values = evaluate_each(path, X, block_size=1024)
    height = values - level
    flat = slope == 0
    return roots - jnp.where(flat, 0, height / jnp.where(flat, 1, slope))
