"""Minimising a smooth function of a vector: L-BFGS, one evaluation a turn.

The directions are optax's. Its `lbfgs` holds the function three times, in the branches
of two `cond`s, so it is compiled three times, and under `vmap`, where every branch
runs, evaluated three times as often. Here one flat loop evaluates the function at one
place and then decides: whether to step, and where to look next. Eight fits of 150 data
under `vmap` took 0.8 s of a CPU, and 2.9 s by `optax.lbfgs`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

# Of the two conditions of Wolfe on a step, the usual constants (Nocedal & Wright 2006,
# section 3.1): how much of the predicted decrease is enough, and how much of the slope
# may be left.
_DECREASE, _SLOPE = 1e-4, 0.9
_MOST_TRIALS = 25
_MOST_IDLE = 20
# Past steps to learn the curvature from. They cost nothing beside a Gram matrix; with
# 10, the usual number, 28 hyperparameters took nearly twice the steps.
_MEMORY = 30


class _End(NamedTuple):
    """The function at one end of the interval in which the step is sought."""

    step: Float[Array, ""]
    value: Float[Array, ""]
    slope: Float[Array, ""]


class Search(NamedTuple):
    """Where a search stands: the best point so far, and the line that it looks along.

    `low` is a step that decreases the function, zero at first, `high` one that does
    not, infinite while there is none. `record` is the value and the size of the
    gradient when one of them was last worth speaking of, `n_idle` steps ago.
    """

    point: Float[Array, " P"]
    value: Float[Array, ""]
    gradient: Float[Array, " P"]
    direction: Float[Array, " P"]
    steepest: Bool[Array, ""]
    slope: Float[Array, ""]
    step: Float[Array, ""]
    low: _End
    high: _End
    n_trials: Int[Array, ""]
    memory: Any
    n_steps: Int[Array, ""]
    n_idle: Int[Array, ""]
    record: tuple[Float[Array, ""], Float[Array, ""]]
    stuck: Bool[Array, ""]

    @property
    def gradient_norm(self) -> Float[Array, ""]:
        """The largest entry of the gradient, in size."""
        return jnp.max(jnp.abs(self.gradient))


def begin(point: Float[Array, " P"]) -> Search:
    """A search that has yet to evaluate the function at its first point.

    That is its first trial: a step of length zero from a value of infinity.
    """
    zero = jnp.zeros((), point.dtype)
    infinite = jnp.full_like(zero, jnp.inf)
    return Search(
        point=point,
        value=infinite,
        gradient=jnp.full_like(point, jnp.inf),
        direction=jnp.zeros_like(point),
        steepest=jnp.asarray(True),
        slope=zero,
        step=zero,
        low=_End(zero, infinite, zero),
        high=_End(infinite, infinite, zero),
        n_trials=jnp.zeros((), jnp.int32),
        memory=_lbfgs(point).init(point),
        n_steps=jnp.full((), -1, jnp.int32),
        n_idle=jnp.zeros((), jnp.int32),
        record=(infinite, infinite),
        stuck=jnp.asarray(False),
    )


def advance(
    objective: Callable[[Float[Array, " P"]], Float[Array, ""]],
    search: Search,
    tolerance: Float[Array, ""],
    most_steps: Int[Array, ""],
) -> Search:
    """Go on until the gradient is within `tolerance`, the search is stuck, or it has
    made `most_steps` steps in all. Values that are not finite are stepped back from."""

    def unfinished(s: Search) -> Array:
        return ~s.stuck & (s.n_steps < most_steps) & ~(s.gradient_norm <= tolerance)

    return jax.lax.while_loop(unfinished, lambda s: _turn(objective, s), search)


def _lbfgs(point: Array) -> Any:
    """The directions: a gradient transformation of optax's."""
    import optax  # takes a tenth of a second, which only those who fit should wait

    return optax.scale_by_lbfgs(memory_size=min(max(point.shape[0], 10), _MEMORY))


def _turn(objective: Callable[[Array], Array], s: Search) -> Search:
    """One evaluation, and what follows from it."""
    point = s.point + s.step * s.direction
    value, gradient = jax.value_and_grad(objective)(point)
    tried = _End(s.step, value, gradient @ s.direction)
    lower = _is_lower(s, tried) & jnp.all(jnp.isfinite(gradient))
    last = s.n_trials >= _MOST_TRIALS
    reached = lower & ((tried.slope >= _SLOPE * s.slope) | last)
    low, high = _pick(lower, (tried, s.high), (s.low, tried))
    # Out of trials: one at the lower end, which is taken as it is.
    out = s.n_trials + 1 >= _MOST_TRIALS
    s = s._replace(
        low=low,
        high=high,
        step=jnp.where(out, low.step, _next_step(low, high)),
        n_trials=s.n_trials + 1,
    )
    here = point, value, gradient
    best = _pick(reached, here, (s.point, s.value, s.gradient))
    s = s._replace(point=best[0], value=best[1], gradient=best[2])
    failed = ~reached & (last | ~jnp.isfinite(s.value))
    return _turn_to(_counted(s, reached), reached, failed)


def _counted(s: Search, reached: Array) -> Search:
    """The search with its steps counted, and those that have gained nothing: no
    decrease beyond rounding, and a gradient no less than half of what it was."""
    value, norm = s.record
    gains = (s.value < value - _rounding(value)) | (s.gradient_norm < norm / 2)
    step = reached.astype(jnp.int32)
    return s._replace(
        n_steps=s.n_steps + step,
        n_idle=jnp.where(gains, 0, s.n_idle + step),
        record=_pick(gains, (s.value, s.gradient_norm), s.record),
    )


def _is_lower(s: Search, tried: _End) -> Array:
    """Whether the step decreases the function enough.

    Near the minimum differences of values drown in rounding; then slopes decide, the
    approximate condition of Wolfe (Hager & Zhang 2006, Algorithm 851, eq. 23).
    """
    decreases = tried.value <= s.value + _DECREASE * s.step * s.slope
    flattens = tried.slope <= (2 * _DECREASE - 1) * s.slope
    level = flattens & (tried.value <= s.value + _rounding(s.value))
    return jnp.isfinite(tried.value) & (decreases | level)


def _rounding(value: Array) -> Array:
    return rounding_of(value) * jnp.maximum(1, jnp.abs(value))


def rounding_of(x: Float[Array, "..."]) -> float:
    """A relative size that rounding of a log density stays below: eps^(2/3)."""
    return float(jnp.finfo(x.dtype).eps) ** (2 / 3)


def _next_step(low: _End, high: _End) -> Array:
    """Twice as far while nothing stops; else the minimum of the cubic between the ends
    (Nocedal & Wright 2006, eq. 3.59), kept off them, or the middle."""
    width = high.step - low.step
    chord = 3 * (high.value - low.value) / width
    bend = low.slope + high.slope - chord
    root = jnp.sqrt(bend**2 - low.slope * high.slope)
    turn = (high.slope + root - bend) / (high.slope - low.slope + 2 * root)
    inside = jnp.clip(1 - turn, 0.1, 0.9)
    share = jnp.where(jnp.isfinite(turn) & jnp.isfinite(high.value), inside, 0.5)
    return jnp.where(jnp.isfinite(high.step), low.step + share * width, 2 * low.step)


def _turn_to(s: Search, reached: Array, failed: Array) -> Search:
    """Choose a new direction where a step was `reached` or the line has `failed`."""
    with jax.numpy_dtype_promotion("standard"):  # optax mixes widths of integers
        scaled, memory = _lbfgs(s.point).update(s.gradient, s.memory, s.point)
    memory = _pick(reached, memory, s.memory)
    newton = -jnp.asarray(scaled).astype(s.point.dtype)
    descends = reached & (newton @ s.gradient < 0)
    size = jnp.maximum(1, jnp.linalg.norm(s.gradient))
    direction = jnp.where(descends, newton, -s.gradient / size)
    slope = direction @ s.gradient
    zero, one = jnp.zeros_like(s.step), jnp.ones_like(s.step)
    infinite = jnp.full_like(zero, jnp.inf)
    fresh = s._replace(
        direction=direction,
        steepest=~descends,
        slope=slope,
        step=one,
        low=_End(zero, s.value, slope),
        high=_End(infinite, infinite, zero),
        n_trials=jnp.zeros_like(s.n_trials),
    )
    chosen = _pick(reached | failed, fresh, s)
    return chosen._replace(
        memory=memory,
        stuck=(failed & s.steepest) | (s.n_idle >= _MOST_IDLE),
    )


def _pick(condition: Array, one, other):
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), one, other)
