"""From points near a constrained minimum to points at it where all constraints hold."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .merit import Scales, Slopes, Target, Values, merit, slopes
from .race import Searches, finish

_ROUNDS, _PENALTY = 8, 100.0
_REPAIRS, _MARGIN = 6, 1e-6


def settle(
    target: Target,
    scales: Scales,
    starts: Float[Array, "S R D"],
    tolerance: float,
    rounding: Float[Array, " S"],
) -> tuple[Searches, Float[Array, "K S R"], Values]:
    """Augmented Lagrangian: the penalty stays, the multipliers, in units of spreads,
    move until they hold the slope of the path; then each point goes the short way back
    to where the constraints hold, by a margin of 1e-6 spreads. The searches, the
    multipliers, and the values at their ends."""
    shape = (len(target.constraints), *starts.shape[:2])
    known = jnp.zeros(shape, starts.dtype)

    def one_round(state, _):
        points, inverse, known, count = state
        function = merit(target, scales, known, _PENALTY)
        left = finish(function, points, tolerance, rounding, inverse)
        above = slopes(target, scales, left.points).constraints
        moved = jnp.maximum(known + _PENALTY * above, 0)
        count = count + left.n_evaluations + starts.shape[1]
        rest = left._replace(n_evaluations=count)
        return (left.points, left.inverse, moved, count), rest

    identity = jnp.eye(starts.shape[2], dtype=starts.dtype)[None, None]
    identity = jnp.broadcast_to(identity, (*starts.shape, starts.shape[2]))
    begun = starts, identity, known, jnp.zeros((), jnp.int32)
    (_, _, known, _), rounds = jax.lax.scan(one_round, begun, length=_ROUNDS)
    left = jax.tree.map(lambda x: x[-1], rounds)

    def repair(_, unit):
        return _toward_all(slopes(target, scales, unit), unit)

    points = jax.lax.fori_loop(0, _REPAIRS, repair, left.points)
    count = left.n_evaluations + (1 + _REPAIRS) * starts.shape[1]
    values = target.at_own(target.box.inside(points))
    return left._replace(points=points, n_evaluations=count), known, values


def _toward_all(here: Slopes, unit: Float[Array, "S R D"]) -> Float[Array, "S R D"]:
    """Newton's step for the root of the constraint that is violated most."""
    which = jnp.argmax(here.constraints, axis=0)[None]
    value = jnp.take_along_axis(here.constraints, which, axis=0)[0]
    slope = jnp.take_along_axis(here.of_constraints, which[..., None], axis=0)[0]
    size = jnp.sum(slope**2, axis=-1)
    length = (value + _MARGIN) / jnp.where(size > 0, size, jnp.inf)
    length = jnp.where(value > 0, length, 0)
    return jnp.clip(unit - length[..., None] * slope, 0, 1)
