"""The box that is searched: bounds, checked, and the unit cube that stands for it."""

from collections.abc import Sequence

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, PRNGKeyArray, Real, Shaped

from .._hyper.checks import as_points, is_traced, require_finite, require_ok
from .._numerics.sobol import sobol_points


class Box(eqx.Module):
    """Lower and upper bounds; some columns may hold whole numbers only."""

    lower: Float[Array, " D"]
    upper: Float[Array, " D"]
    integers: tuple[int, ...] = eqx.field(static=True, default=())

    @property
    def width(self) -> Float[Array, " D"]:
        return self.upper - self.lower

    @property
    def in_size(self) -> int:
        return self.lower.shape[0]

    def inside(self, unit: Float[Array, "... D"]) -> Float[Array, "... D"]:
        """Points of the unit cube as points of the box, never beyond its bounds."""
        lower, upper, width = self._beside(unit)
        return jnp.clip(lower + unit * width, lower, upper)

    def to_unit(self, X: Float[Array, "... D"]) -> Float[Array, "... D"]:
        """Points in the unit cube: from outside the nearest, whole where they must."""
        lower, upper, width = self._beside(X)
        points = jnp.clip(X, lower, upper)
        points = jnp.where(self.is_whole(X), jnp.round(points), points)
        return jnp.clip((points - lower) / width, 0, 1)

    def sobol(self, key: PRNGKeyArray, n: int) -> Float[Array, "n D"]:
        """Scrambled Sobol points of the unit cube, whole where they must be."""
        unit = sobol_points(key, n, self.in_size, self.lower.dtype)
        if not self.integers:
            return unit
        lower, _, width = self._beside(unit)
        whole = jnp.floor(lower + unit * (width + 1))  # each has the same share
        return jnp.where(self.is_whole(unit), self.to_unit(whole), unit)

    def is_whole(self, X: Shaped[Array, "... D"]) -> Bool[np.ndarray, "... D"]:
        """Which columns hold whole numbers, along the axes of `X`."""
        whole = np.isin(np.arange(self.in_size), self.integers)
        return np.broadcast_to(whole, X.shape)

    def _beside(self, X: Float[Array, "... D"]) -> list[Float[Array, "... D"]]:
        """Lower bounds, upper bounds and widths, with as many axes as `X`."""
        shape = (1,) * (X.ndim - 1) + (-1,)
        return [x.reshape(shape) for x in (self.lower, self.upper, self.width)]


def as_box(
    call: str,
    bounds: Real[ArrayLike, "2 D"],
    in_size: int,
    integers: Sequence[int] = (),
) -> Box:
    """`bounds` as a box of `in_size` inputs, those of `integers` shrunk to the whole
    numbers within."""
    name = f"{call}(bounds=...)"
    bounds = as_points(bounds, name)
    if bounds.shape != (2, in_size):
        raise ValueError(
            f"`{name}` must have shape (2, {in_size}): the lowest and the highest "
            f"value of each of the D={in_size} inputs. Got {bounds.shape}. Pass "
            "`jnp.array([lowest, highest])`."
        )
    bounds = require_finite(bounds, name)
    columns = as_columns(f"{call}(integers=...)", integers, in_size)
    if columns:
        whole = jnp.stack([jnp.ceil(bounds[0]), jnp.floor(bounds[1])])
        one = np.isin(np.arange(in_size), columns)
        _require_whole(name, bounds, columns)
        bounds = jnp.where(one[None], whole, bounds)
        # A column of one whole number has a width to divide by, and never moves.
        bounds = bounds.at[1].add(jnp.where(one & (bounds[0] == bounds[1]), 0.25, 0))
    _require_ordered(name, bounds)
    return Box(bounds[0], bounds[1], columns)


def as_columns(call: str, columns: Sequence[int], in_size: int) -> tuple[int, ...]:
    """Numbers of inputs, each once, in order."""
    array = np.asarray(columns)
    whole = array.size == 0 or np.issubdtype(array.dtype, np.integer)
    if array.ndim != 1 or not whole or not np.isin(array, np.arange(in_size)).all():
        raise ValueError(
            f"`{call}` must be a sequence of numbers of inputs, from 0 to "
            f"{in_size - 1}. Got {columns!r}. Pass `(0,)` for the first, say."
        )
    return tuple(sorted({int(column) for column in array}))


def _require_ordered(name: str, bounds: Array) -> None:
    """Raise unless each lower bound is below its upper one by what the type resolves;
    of traced bounds when the program runs."""
    fix = (
        "Each lower bound must be below the upper one. Leave out an input that is "
        "fixed, or pass the rows the other way round."
    )
    if is_traced(bounds):
        return
    low, high = np.asarray(bounds)
    bad = ~(high > low)
    if bad.any():
        d = int(np.argmax(bad))
        raise ValueError(
            f"`{name}`: {fix} Got {low[d]:g} to {high[d]:g} for input {d}."
        )


def checked_at_run_time(call: str, box: Box) -> Box:
    """`box` with its bounds checked when the program runs, if they are traced."""
    sentence = f"`{call}(bounds=...)`: each lower bound must be below the upper one."
    upper = require_ok(box.upper, box.upper > box.lower, sentence)
    return eqx.tree_at(lambda b: b.upper, box, upper)


def _require_whole(name: str, bounds: Array, columns: tuple[int, ...]) -> None:
    if is_traced(bounds):
        return
    low, high = np.asarray(bounds)
    for d in columns:
        if np.ceil(low[d]) > np.floor(high[d]):
            raise ValueError(
                f"`{name}` must hold a whole number for input {d}, which is among the "
                f"integers. Got {low[d]:g} to {high[d]:g}. Widen them."
            )
