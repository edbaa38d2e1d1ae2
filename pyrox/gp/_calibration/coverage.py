"""Whether forecasts are calibrated: the place of y in them, and in their intervals."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, PRNGKeyArray, Real

from .._hyper.unchecked import jit
from .._numerics import scores
from .forecast import Drawn, Forecast, Normal, as_forecast, require_draws

_LEVELS = (0.5, 0.8, 0.9, 0.95)


def pit(
    f: Forecast,
    X: Real[ArrayLike, "N D"] | None,
    y: Real[ArrayLike, " N"],
    *,
    noise_var: Real[ArrayLike, "..."] | None = None,
    key: PRNGKeyArray | None = None,
) -> Float[Array, " N"]:
    """The probability integral transform of each value, P(x < y_i) by the forecast.

    Of a calibrated forecast they are uniform from 0 to 1: heaped up in the middle they
    say that it is too wide, at the ends too narrow, at one side that it is biased.
    `plot.calibration` shows them. Of draws it is the place of y among them; with a key
    at random in the room that draws leave it, ties included, which makes it uniform for
    counts and for few draws, too, else in the middle of that.

    Args:
        f, X, y, noise_var: as in `crps`.
        key: for the noise along paths, and for the place among draws.

    Returns:
        One number for each value, from 0 to 1.

    Raises:
        ValueError: as `crps`.

    Cost: that of the predictions; of draws O(S) for each value.

    Source: Dawid 1984; Gneiting, Balabdaoui & Raftery 2007; among draws Czado, Gneiting
        & Held 2009.

    Example:
        >>> import jax.numpy as jnp
        >>> from pyrox.gp import pit
        >>> print(pit((jnp.zeros(2), jnp.ones(2)), None, jnp.array([0.0, 1.0])))
        [0.5       0.8413...]
    """
    forecast, y = as_forecast("pit", f, X, y, noise_var)
    if isinstance(forecast, Normal):
        return _pit_normal(y, forecast.mean, forecast.var)
    draws, key = _draws("pit", forecast, key)
    u = jnp.full(y.shape, 0.5, y.dtype)
    if key is not None:
        u = jr.uniform(key, y.shape, y.dtype)
    return _pit_draws(y, draws, u)


class Intervals(eqx.Module):
    """Central intervals of forecasts; what `interval_coverage` returns."""

    levels: Float[Array, " L"]
    """The probability of each."""
    lower: Float[Array, "L N"]
    """Their lower ends, a row for each level."""
    upper: Float[Array, "L N"]
    """Their upper ends."""
    covered: Bool[Array, "L N"]
    """Whether they hold y."""

    @property
    def coverage(self) -> Float[Array, " L"]:
        """The share of the values that each level holds."""
        return jnp.mean(self.covered.astype(self.levels.dtype), axis=1)

    @property
    def width(self) -> Float[Array, " L"]:
        """The mean width at each level, in the units of y."""
        return jnp.mean(self.upper - self.lower, axis=1)


def interval_coverage(
    f: Forecast,
    X: Real[ArrayLike, "N D"] | None,
    y: Real[ArrayLike, " N"],
    *,
    levels: Sequence[float] = _LEVELS,
    noise_var: Real[ArrayLike, "..."] | None = None,
    key: PRNGKeyArray | None = None,
) -> Intervals:
    """The central intervals of the forecast at these levels, how wide they are, and how
    many of the values they hold: as many as they say, if it is calibrated.

    For N independent values the coverage of a level p varies by sqrt(p (1 - p) / N).
    Of S draws an end is between two of them, so that one more draw would be held as
    often as the level says.

    Args:
        f, X, y, noise_var, key: as in `crps`.
        levels: probabilities, each between 0 and 1.

    Returns:
        `Intervals`: `found.coverage` and `found.width`, one for each level, and their
        ends.

    Raises:
        ValueError: as `crps`; levels that are not between 0 and 1, or wider than
            (S - 1) / (S + 1), which S draws do not reach.

    Cost: that of the predictions; of draws O(S log S) for each value.

    Source: Gneiting, Balabdaoui & Raftery 2007, section 3.

    Example:
        >>> import jax.numpy as jnp
        >>> from pyrox.gp import interval_coverage
        >>> f = jnp.zeros(3), jnp.ones(3)
        >>> found = interval_coverage(f, None, jnp.array([0.0, 1.0, 3.0]))
        >>> print(found.coverage, found.width)
        [0.33... 0.66... 0.66... 0.66...] [1.34... 2.56... 3.28... 3.91...]
    """
    call = "interval_coverage"
    forecast, y = as_forecast(call, f, X, y, noise_var)
    wanted = _as_levels(call, levels)
    at = jnp.asarray(wanted, y.dtype)
    if isinstance(forecast, Normal):
        ends = _interval_normal(forecast.mean, forecast.var, at)
    else:
        draws, _ = _draws(call, forecast, key)
        _require_reached(call, wanted, draws.shape[0])
        ends = _interval_draws(draws, at)
    inside = (ends[0] <= y[None]) & (y[None] <= ends[1])
    return Intervals(at, ends[0], ends[1], inside)


def _draws(
    call: str, forecast: Drawn, key: PRNGKeyArray | None
) -> tuple[Float[Array, "S N"], PRNGKeyArray | None]:
    """Draws of y, and what is left of the key."""
    of_noise, rest = (None, None) if key is None else jr.split(key)
    return require_draws(call, forecast.of_y(call, of_noise)), rest


def _as_levels(call: str, levels: Any) -> np.ndarray:
    wanted = np.asarray(levels, float)
    if wanted.ndim != 1 or not wanted.size or not ((wanted > 0) & (wanted < 1)).all():
        raise ValueError(
            f"`{call}(levels=...)` must be probabilities between 0 and 1. Got "
            f"{levels}. Pass `[0.5, 0.9]`, say."
        )
    return wanted


def _require_reached(call: str, levels: np.ndarray, n_draws: int) -> None:
    most = (n_draws - 1) / (n_draws + 1)
    if levels.max() > most + 1e-9:
        raise ValueError(
            f"`{call}(levels=...)`: the widest interval that {n_draws} draws know is "
            f"that of probability {most:.3g}. Got {levels.max():.3g}. Pass more draws, "
            "or lower levels."
        )


_pit_normal = jit(scores.pit_normal)
_pit_draws = jit(scores.pit_draws)
_interval_normal = jit(scores.interval_normal)
_interval_draws = jit(scores.interval_draws)
