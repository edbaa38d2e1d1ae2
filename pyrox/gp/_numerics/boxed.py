"""Minimising many smooth functions in a box at once: projected BFGS, in lockstep.

Each problem keeps a dense inverse Hessian, since the inputs of a path are few, and one
evaluation of all problems together is one turn: what a turn means to each, a step or a
shorter trial, is decided afterwards. The direction is quasi-Newton among the variables
that are free and none in those that a bound holds, the two-metric projection of
Bertsekas 1982, and steps go along the projected line, so that no bound is ever crossed
(Kim, Sra & Dhillon 2010).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

_DECREASE = 1e-4  # of what the slope promises (Nocedal & Wright 2006, section 3.1)
_FIRST_STEP = 0.15  # of the box's width, before anything is known of the curvature
_MOST_TRIALS = 12
_NEAR = 0.01  # of a bound

# (P, D) points to their values (P,) and gradients (P, D).
Objective = Callable[[Array], tuple[Array, Array]]


class Descent(NamedTuple):
    """Where P searches in the unit box stand.

    Each looks next at `step` times `direction` from its point; `n_trials` counts the
    steps of this line that did not do.
    """

    point: Float[Array, "P D"]
    value: Float[Array, " P"]
    gradient: Float[Array, "P D"]
    inverse: Float[Array, "P D D"]
    direction: Float[Array, "P D"]
    step: Float[Array, " P"]
    n_trials: Int[Array, " P"]
    stuck: Bool[Array, " P"]
    is_first: Bool[Array, " P"]
    rounding: Float[Array, " P"]
    n_turns: Int[Array, ""]

    @property
    def residual(self) -> Float[Array, " P"]:
        """How far a step down the gradient leads within the box, along one axis."""
        return jnp.max(jnp.abs(_projected(self.point, self.gradient)), axis=1)

    def converged(self, tolerance: float) -> Bool[Array, " P"]:
        """Whether that is within the tolerance, or what is left to gain, by the
        curvature that was learnt, drowns in rounding."""
        newton = _direction(self.point, self.gradient, self.inverse)
        gain = -0.5 * jnp.sum(newton * self.gradient, axis=1)
        level = ~self.is_first & (gain <= self.rounding)
        finite = jnp.isfinite(self.value)
        return finite & ((self.residual <= tolerance) | level)


def begin(
    point: Float[Array, "P D"],
    rounding: Float[Array, " P"],
    inverse: Float[Array, "P D D"] | None = None,
) -> Descent:
    """Searches that have yet to evaluate their first points, of the unit box: their
    first trial, a step of length zero from a value of infinity.

    `rounding` is what values cannot tell apart; `inverse` what is known of the Hessian.
    """
    n, d = point.shape
    is_first = jnp.full(n, inverse is None)
    if inverse is None:
        inverse = jnp.broadcast_to(jnp.eye(d, dtype=point.dtype), (n, d, d))
    return Descent(
        point=point,
        value=jnp.full(n, jnp.inf, point.dtype),
        gradient=jnp.zeros_like(point),
        inverse=inverse,
        direction=jnp.zeros_like(point),
        step=jnp.zeros(n, point.dtype),
        n_trials=jnp.zeros(n, jnp.int32),
        stuck=jnp.zeros(n, bool),
        is_first=is_first,
        rounding=rounding,
        n_turns=jnp.zeros((), jnp.int32),
    )


def descend(
    objective: Objective,
    search: Descent,
    tolerance: float,
    most_turns: Int[Array, ""] | int,
) -> Descent:
    """Go on until each slope is within its tolerance or each search is stuck, for at
    most so many turns, each an evaluation of all."""

    def going(s: Descent) -> Array:
        return ~s.stuck & ~s.converged(tolerance)

    def unfinished(s: Descent) -> Array:
        return (s.n_turns < most_turns) & jnp.any(going(s))

    start = search._replace(n_turns=jnp.zeros((), jnp.int32))
    return jax.lax.while_loop(
        unfinished, lambda s: _turn(objective, s, going(s)), start
    )


def _turn(objective: Objective, s: Descent, going: Bool[Array, " P"]) -> Descent:
    """One evaluation of all, and what follows for those that are going: what one does
    must not depend on which others are there."""
    tried = jnp.clip(s.point + s.step[:, None] * s.direction, 0, 1)
    value, gradient = objective(tried)
    moved = tried - s.point
    slope = jnp.sum(s.gradient * moved, axis=1)
    drop = value - s.value
    flatter = jnp.abs(jnp.sum(gradient * moved, axis=1)) <= jnp.abs(slope)
    lower = (drop <= _DECREASE * slope) | ((drop <= s.rounding) & flatter)
    fresh = jnp.isinf(s.value)
    finite = jnp.isfinite(value) & jnp.all(jnp.isfinite(gradient), axis=1)
    reached = going & finite & (fresh | (lower & (slope < 0)))
    inverse, is_first = _learnt(s, moved, gradient - s.gradient, reached)
    point = jnp.where(reached[:, None], tried, s.point)
    here = jnp.where(reached[:, None], gradient, s.gradient)
    newton = _direction(point, here, inverse)
    failed = going & ~reached & ((s.n_trials >= _MOST_TRIALS) | (slope >= 0) | fresh)
    # A line that fails may have had a bad direction: once more, downhill.
    identity = jnp.eye(point.shape[1], dtype=point.dtype)[None]
    again = failed & ~s.is_first & ~fresh
    inverse = jnp.where(again[:, None, None], identity, inverse)
    unknown = is_first | again  # nothing of the curvature
    newton = jnp.where(unknown[:, None], _downhill(point, here), newton)
    turned = reached | again
    return Descent(
        point=point,
        value=jnp.where(reached, value, s.value),
        gradient=here,
        inverse=inverse,
        direction=jnp.where(turned[:, None], newton, s.direction),
        step=jnp.where(
            turned, 1, jnp.where(going, s.step * _shorter(drop, slope), s.step)
        ),
        n_trials=jnp.where(turned, 0, s.n_trials + going.astype(jnp.int32)),
        stuck=s.stuck | (failed & (s.is_first | fresh)),
        is_first=unknown,
        rounding=s.rounding,
        n_turns=s.n_turns + 1,
    )


def chosen(search: Descent, index: Int[Array, " Q"]) -> Descent:
    """Some of the searches."""
    return jax.tree.map(lambda leaf: leaf[index] if leaf.ndim else leaf, search)


def _projected(point: Array, gradient: Array) -> Array:
    """A step down the gradient, as far as the box allows."""
    return jnp.clip(point - gradient, 0, 1) - point


def _direction(point: Array, gradient: Array, inverse: Array) -> Array:
    """To the bound where that is near and downhill, Newton's among the other variables;
    where that leads up, steepest descent.

    What is near a bound must not wait until it is there, or each turn would add one
    variable to those that are held (Bertsekas 1982, section 2).
    """
    step = _projected(point, gradient)
    reach = jnp.minimum(_NEAR, jnp.max(jnp.abs(step), axis=1, keepdims=True))
    to_bound = jnp.where(gradient > 0, -point, 1 - point)
    held = (gradient != 0) & (jnp.abs(to_bound) <= reach)
    free = jnp.where(held, 0, gradient)
    newton = jnp.where(held, to_bound, -jnp.einsum("pij,pj->pi", inverse, free))
    descends = jnp.sum(newton * free, axis=1) < 0
    descends = descends | (jnp.sum(free**2, axis=1) == 0)
    return jnp.where(descends[:, None], newton, _downhill(point, gradient))


def _downhill(point: Array, gradient: Array) -> Array:
    """Steepest descent, of the length of a first step."""
    step = _projected(point, gradient)
    size = jnp.max(jnp.abs(step), axis=1, keepdims=True)
    return _FIRST_STEP * step / jnp.where(size > 0, size, 1)


def _learnt(
    s: Descent, moved: Array, change: Array, reached: Array
) -> tuple[Array, Array]:
    """The inverse Hessian after a step (Nocedal & Wright 2006, eqs. 6.17 and 6.20).

    Of variables that a bound held nothing is learnt: the block of the others is then
    their own inverse Hessian, not a block of the inverse of the whole one.
    """
    change = jnp.where(moved == 0, 0, change)
    curvature = jnp.sum(moved * change, axis=1)
    squared = jnp.sum(change**2, axis=1)
    tiny = jnp.finfo(moved.dtype).eps * jnp.sqrt(squared * jnp.sum(moved**2, axis=1))
    bends = reached & (curvature > tiny)
    safe = jnp.where(bends, curvature, 1)
    scale = jnp.where(bends & s.is_first, safe / jnp.where(bends, squared, 1), 1)
    inverse = s.inverse * scale[:, None, None]
    product = jnp.einsum("pij,pj->pi", inverse, change)
    rho = 1 / safe
    weight = rho * (1 + rho * jnp.sum(change * product, axis=1))
    outer = moved[:, :, None] * product[:, None, :]
    updated = (
        inverse
        + weight[:, None, None] * moved[:, :, None] * moved[:, None, :]
        - rho[:, None, None] * (outer + jnp.swapaxes(outer, 1, 2))
    )
    return jnp.where(bends[:, None, None], updated, s.inverse), s.is_first & ~bends


def _shorter(drop: Array, slope: Array) -> Array:
    """The share of a step at which a parabola through what is known is lowest."""
    bend = drop - slope
    share = -0.5 * slope / jnp.where(bend > 0, bend, 1)
    inside = jnp.clip(share, 0.1, 0.5)
    return jnp.where((bend > 0) & jnp.isfinite(drop), inside, 0.1)
