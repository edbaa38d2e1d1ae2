"""Columns of whole numbers: moves to the neighbours of a point."""

from collections.abc import Callable
from typing import Any, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .box import Box

_MOST_MOVES = 20


@runtime_checkable
class Placed(Protocol):
    """What is somewhere in the unit cube."""

    @property
    def unit(self) -> Array: ...


Best = TypeVar("Best", bound=Placed)


def moved(
    step: Callable[[Best], tuple[Best, Int[Array, ""]]],
    best: Best,
    count: Int[Array, ""],
) -> tuple[Best, Int[Array, ""]]:
    """From whole numbers to better neighbours, as long as there are any.

    `step` gives the best of a point and its neighbours, and how many evaluations that
    took, which are added to `count`.
    """

    def move(state):
        best, _, n, count = state
        new, more = step(best)
        return new, jnp.any(new.unit != best.unit), n + 1, count + more

    def improved(state):
        return state[1] & (state[2] < _MOST_MOVES)

    start: Any = best, jnp.asarray(True), jnp.zeros((), jnp.int32), count
    best, _, _, count = jax.lax.while_loop(improved, move, start)
    return best, count


def neighbours(box: Box, points: Float[Array, "S D"]) -> Float[Array, "S R D"]:
    """The point itself, and one whole number more and less in each such column, in the
    unit cube."""
    columns = np.repeat(box.integers, 2)
    steps = np.zeros((1 + columns.size, box.in_size))
    steps[1 + np.arange(columns.size), columns] = np.tile([1, -1], len(box.integers))
    X = box.inside(points)[:, None] + jnp.asarray(steps[None], points.dtype)
    moved = box.to_unit(X)
    # What does not move by whole numbers stays as it is, to the last digit.
    return jnp.where(box.is_whole(moved), moved, points[:, None])
