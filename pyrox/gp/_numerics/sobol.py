"""Scrambled Sobol points, drawn under `jit` and `vmap`.

A Sobol sequence fills the unit cube more evenly than chance does. Its direction numbers
are those of Joe & Kuo 2008, constants of the trace; the scramble, a random linear map
of the digits and a random shift (Matousek 1998), makes each point uniform by itself, so
that averages over the points are unbiased.

The table beside this file is SciPy's for the first 1024 columns, one row a binary
digit; to import it from there would take as long as all of pyrox.
"""

import functools
import math
import pathlib

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, UInt32

_BITS = 32


def sobol_normals(
    key: PRNGKeyArray, n_points: int, first: int, n_columns: int, dtype: np.dtype
) -> Float[Array, "n d"]:
    """Standard normals: columns `first`, `first + 1`, ... of one scrambled sequence.

    Columns of calls with different `first` and independent keys belong together. Those
    beyond the table (1024) are independent draws.

    Cost: O(n d log n).
    """
    key_scramble, key_beyond = jr.split(key)
    directions = _directions(n_points, first, n_columns)
    points = _points(n_points, _scramble(key_scramble, jnp.asarray(directions)))
    normals = normal_quantiles(points, dtype)
    n_beyond = n_columns - normals.shape[1]
    if n_beyond == 0:
        return normals
    beyond = jr.normal(key_beyond, (n_points, n_beyond), dtype)
    return jnp.concatenate([normals, beyond], axis=1)


def sobol_normals_for_each(
    key: PRNGKeyArray, n_points: int, n_columns: int, n_sets: int, dtype: np.dtype
) -> Float[Array, "n d N"]:
    """Standard normals for many small averages: a set of points for each of N, which
    are shifts of one scrambled sequence. A shift makes each point uniform whatever the
    scramble, so averages over the sets are unbiased and not correlated.

    Cost: O(n d N), of which d N random numbers; d is at most 1024.
    """
    key_scramble, key_shift = jr.split(key)
    directions = jnp.asarray(_directions(n_points, 0, n_columns))
    points = _points(n_points, _scramble(key_scramble, directions))
    shifts = jr.bits(key_shift, (n_columns, n_sets), np.uint32)
    return normal_quantiles(points[:, :, None] ^ shifts[None], dtype)


def sobol_points(
    key: PRNGKeyArray, n_points: int, n_columns: int, dtype: np.dtype
) -> Float[Array, "n d"]:
    """Points of one scrambled sequence in the open unit cube, columns beyond the table
    (1024) independent. Cost: O(n d log n)."""
    key_scramble, key_beyond = jr.split(key)
    directions = _directions(n_points, 0, n_columns)
    points = _points(n_points, _scramble(key_scramble, jnp.asarray(directions)))
    n_beyond = n_columns - points.shape[1]
    if n_beyond > 0:
        beyond = jr.bits(key_beyond, (n_points, n_beyond), np.uint32)
        points = jnp.concatenate([points, beyond], axis=1)
    return (centres(points, dtype) + 1) / 2


@functools.cache
def _table() -> np.ndarray:
    return np.load(pathlib.Path(__file__).with_name("sobol_directions.npy"))


def _directions(n_points: int, first: int, n_columns: int) -> np.ndarray:
    """What each binary digit of a point's number adds to it, one row a digit; the last
    row is zero, and the random shift takes its place."""
    n_digits = max(1, (n_points - 1).bit_length())
    rows = _table()[:n_digits, first : first + n_columns]
    return np.concatenate([rows, np.zeros_like(rows[:1])])


def _scramble(
    key: PRNGKeyArray, directions: UInt32[Array, "b d"]
) -> UInt32[Array, "b d"]:
    """Each column's digits through a random triangular matrix with ones on the
    diagonal (modulo 2), and a random shift in the last row."""
    random = jr.bits(key, (_BITS + 1, directions.shape[1]), np.uint32)
    digits = np.arange(_BITS, dtype=np.uint32)[::-1]  # the most significant one first
    own = np.left_shift(np.uint32(1), digits)[:, None]
    higher = ~(2 * own - 1) * (own < 2**31)
    masks = (random[:_BITS] & higher.astype(np.uint32)) | own
    ones = jax.lax.population_count(masks[:, None, :] & directions[None, :, :])
    mapped = jnp.sum((ones & 1) * own[:, None, :], axis=0, dtype=np.uint32)
    return mapped.at[-1].set(random[_BITS])


def _points(n_points: int, directions: UInt32[Array, "b d"]) -> UInt32[Array, "n d"]:
    *digits, shift = directions
    number = jnp.arange(n_points, dtype=np.uint32)[:, None]
    points = jnp.broadcast_to(shift[None, :], (n_points, shift.shape[0]))
    for place, digit in enumerate(digits):
        points = points ^ ((number >> np.uint32(place) & 1) * digit[None, :])
    return points


def normal_quantiles(
    points: UInt32[Array, "..."], dtype: np.dtype
) -> Float[Array, "..."]:
    """The normal quantiles of the cells' centres: in float32 the outermost cell has its
    centre at 5.2 standard deviations."""
    exact = np.promote_types(dtype, np.float32)
    normals = math.sqrt(2) * jax.lax.erf_inv(centres(points, exact))
    return normals.astype(dtype)


def centres(points: UInt32[Array, "..."], dtype: np.dtype) -> Float[Array, "..."]:
    """The points as centres of cells of (-1, 1), as fine as `dtype` resolves."""
    n_bits = min(_BITS, np.finfo(dtype).nmant)
    cells = (points >> np.uint32(_BITS - n_bits)).astype(dtype)
    return (2 * cells + (1 - 2.0**n_bits)) * 2.0**-n_bits
