"""The highest of several lines at a normal place: E[max_j (a_j + b_j z)], exactly.

Each line is the highest over one interval, from where it rises above all that are less
steep to where all that are steeper rise above it. There it is a truncated moment of the
normal. All pairs are compared at once, in place of the sorted sweep of Frazier, Powell
& Dayanik 2009 (algorithm 1), which is a sequence of C steps.
"""

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtr
from jaxtyping import Array, Bool, Float

from .blocks import map_rows
from .normal_tails import density

# Beyond it the density of both types is zero.
_EDGE = 40.0
_BLOCK_VALUES = 2**20  # of pairs of lines, in one block


def expected_rise(a: Float[Array, "N C"], b: Float[Array, "N C"]) -> Float[Array, " N"]:
    """E[max_j (a_j + b_j z)] - max_j a_j, z standard normal, for each row.

    Cost: O(N C^2), in blocks of rows.
    """
    n_lines = a.shape[1]

    def of_rows(rows):
        return _rise(rows[:, :n_lines], rows[:, n_lines:])

    size = max(1, _BLOCK_VALUES // n_lines**2)
    return map_rows(of_rows, jnp.concatenate([a, b], axis=1), size)


@jax.custom_jvp
def _rise(a: Array, b: Array) -> Array:
    mass, moment = _shares(a, b)
    # Seen from the line that is highest now, every other adds what is not negative.
    best = jnp.argmax(a, axis=1, keepdims=True)
    over, steeper = (x - jnp.take_along_axis(x, best, axis=1) for x in (a, b))
    return jnp.sum(over * mass + steeper * moment, axis=1)


@_rise.defjvp
def _rise_jvp(primals, tangents):
    """Where lines meet they are equal: that these places move adds nothing."""
    (a, b), (da, db) = primals, tangents
    mass, moment = _shares(a, b)
    best = jnp.argmax(a, axis=1, keepdims=True)
    now = jnp.take_along_axis(da, best, axis=1)[:, 0]
    return _rise(a, b), jnp.sum(mass * da + moment * db, axis=1) - now


def _shares(a: Array, b: Array) -> tuple[Array, Array]:
    """The normal's mass, and its first moment, where each line is the highest."""
    below, above, beaten = _rivals(*jax.lax.stop_gradient((a, b)))
    low, high = _meeting(a, b, below, -_EDGE), _meeting(a, b, above, _EDGE)
    right = low > 0  # two small numbers, not two near one
    mass = jnp.where(right, ndtr(-low) - ndtr(-high), ndtr(high) - ndtr(low))
    moment = density(low) - density(high)
    highest = (low < high) & ~beaten
    return jnp.where(highest, mass, 0), jnp.where(highest, moment, 0)


def _rivals(
    a: Array, b: Array
) -> tuple[tuple[Array, Array], tuple[Array, Array], Bool[Array, "N C"]]:
    """For each line the less steep one that it passes last, the steeper one that passes
    it first, whether there are such; and whether a parallel one is always above."""
    rises = b[:, None, :] - b[:, :, None]  # of the second line over the first
    falls = a[:, :, None] - a[:, None, :]
    size = jnp.max(jnp.abs(b), axis=1)[:, None, None]
    parallel = jnp.abs(rises) <= 4 * jnp.finfo(b.dtype).eps * size
    place = falls / jnp.where(parallel, 1, rises)
    less, more = ~parallel & (rises < 0), ~parallel & (rises > 0)
    below = jnp.argmax(jnp.where(less, place, -jnp.inf), axis=2)
    above = jnp.argmin(jnp.where(more, place, jnp.inf), axis=2)
    order = jnp.arange(a.shape[1])
    earlier = (order[None, :] < order[:, None])[None]
    beaten = parallel & ((falls < 0) | ((falls == 0) & earlier))
    rivals = (below, jnp.any(less, axis=2)), (above, jnp.any(more, axis=2))
    return *rivals, jnp.any(beaten, axis=2)


def _meeting(a: Array, b: Array, rival: tuple[Array, Array], otherwise: float) -> Array:
    """Where each line meets its rival, if it has one."""
    index, exists = rival
    other_a, other_b = (jnp.take_along_axis(x, index, axis=1) for x in (a, b))
    rise = jnp.where(exists, other_b - b, 1)
    return jnp.where(exists, jnp.clip((a - other_a) / rise, -_EDGE, _EDGE), otherwise)
