"""From points near a constrained minimum to points at it where all constraints hold."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .merit import AbstractTarget, Scales, Slopes, Values, merit, slopes, with_shares
from .race import Searches, finish

# So large that what lies beyond a constraint is no lower than what it allows.
_ROUNDS, _PENALTY = 8, 1000.0
# A violation that a round leaves at more than this part calls for a larger penalty.
_PROGRESS, _GROWTH = 0.25, 5.0
_REPAIRS, _MARGIN = 6, 1e-6


def settle(
    target: AbstractTarget,
    scales: Scales,
    starts: Float[Array, "S R D"],
    tolerance: float,
    rounding: Float[Array, " S"],
) -> tuple[Searches, Float[Array, "K S R"], Values]:
    """Augmented Lagrangian: the multipliers, in units of spreads, move until they hold
    the slope of the path, and the penalty grows where the violation does not fall
    (Nocedal & Wright 2006, section 17.4); then each point goes the short way back to
    where the constraints hold, by a margin of 1e-6 spreads. At kinks of the
    function the shares of what meets there are learnt beside. The searches, the
    multipliers, and the values at their ends."""
    shape = (len(target.constraints), *starts.shape[:2])
    known = jnp.zeros(shape, starts.dtype)

    def one_round(state, _):
        points, inverse, known, penalty, before, count, shares = state
        here = with_shares(target, shares)
        function = merit(here, scales, known, penalty)
        left = finish(function, points, tolerance, rounding, inverse)
        above = slopes(here, scales, left.points).constraints
        moved = jnp.maximum(known + penalty[None] * above, 0)
        violation = jnp.max(above, axis=0, initial=0)
        slow = violation > _PROGRESS * before
        penalty = jnp.where(slow, _GROWTH, 1) * penalty
        count = count + left.n_evaluations + starts.shape[1]
        rest = left._replace(n_evaluations=count)
        shares = here.shares_at(target.box.inside(left.points))
        state = left.points, left.inverse, moved, penalty, violation, count, shares
        return state, rest

    identity = jnp.eye(starts.shape[2], dtype=starts.dtype)[None, None]
    identity = jnp.broadcast_to(identity, (*starts.shape, starts.shape[2]))
    penalty = jnp.full(shape[1:], _PENALTY, starts.dtype)
    count, before = jnp.zeros((), jnp.int32), jnp.full_like(penalty, jnp.inf)
    shares = jax.tree.map(
        lambda x: jnp.broadcast_to(x, (*shape[1:], x.shape[-1])), target.shares
    )
    begun = starts, identity, known, penalty, before, count, shares
    state, rounds = jax.lax.scan(one_round, begun, length=_ROUNDS)
    known = state[2]
    left = jax.tree.map(lambda x: x[-1], rounds)

    def repair(_, unit):
        return _toward_all(slopes(target, scales, unit), unit)

    points, n_repairs = left.points, 0
    if target.constraints:
        n_repairs = _REPAIRS
        points = jax.lax.fori_loop(0, n_repairs, repair, points)
    count = left.n_evaluations + (1 + n_repairs) * starts.shape[1]
    values = target.at_own(target.box.inside(points))
    return left._replace(points=points, n_evaluations=count), known, values


def _toward_all(here: Slopes, unit: Float[Array, "S R D"]) -> Float[Array, "S R D"]:
    """Newton's step for the root of the constraint that is violated most. What is at a
    bound stays there, if anything else can move."""
    which = jnp.argmax(here.constraints, axis=0)[None]
    value = jnp.take_along_axis(here.constraints, which, axis=0)[0]
    slope = jnp.take_along_axis(here.of_constraints, which[..., None], axis=0)[0]
    inner = jnp.where((unit > 0) & (unit < 1), slope, 0)
    moves = jnp.any(inner != 0, axis=-1, keepdims=True)
    slope = jnp.where(moves, inner, slope)
    size = jnp.sum(slope**2, axis=-1)
    length = (value + _MARGIN) / jnp.where(size > 0, size, jnp.inf)
    length = jnp.where(value > 0, length, 0)
    return jnp.clip(unit - length[..., None] * slope, 0, 1)
