"""Columns of whole numbers: moves to the neighbours of a point."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .box import Box


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
