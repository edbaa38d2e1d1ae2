"""What a loop of decisions is given, and told: checked."""

import jax
import numpy as np
from jaxtyping import ArrayLike
from numpyro.distributions import Distribution

from .._hyper.checks import as_count, as_numbers, as_points
from .._inference.fit_input import as_noise_prior
from .box import Box, as_box
from .thompson_state import ThompsonState

CALL = "ThompsonSampling"
_WAYS = "fit", "nuts", "fixed"


def as_own_box(bounds: ArrayLike, integers: tuple[int, ...]) -> Box:
    given = as_points(bounds, f"{CALL}(bounds=...)")
    return as_box(CALL, given, given.shape[-1] if given.ndim == 2 else 1, integers)


def require_ways(
    maximize: bool, trust_region: bool, hyperparameters: str, n_averaged: int
) -> None:
    for name, value in (("maximize", maximize), ("trust_region", trust_region)):
        if not isinstance(value, bool):
            raise ValueError(
                f"`{CALL}({name}=...)` must be True or False. Got {value!r}."
            )
    if hyperparameters not in _WAYS:
        raise ValueError(
            f"`{CALL}(hyperparameters=...)` must be one of "
            f"{', '.join(map(repr, _WAYS))}. Got {hyperparameters!r}."
        )
    n = as_count(f"{CALL}(n_averaged=...)", n_averaged)
    if n > 1 and hyperparameters == "nuts":
        raise ValueError(
            f"`{CALL}(n_averaged={n})` takes the mean of functions of the same "
            "hyperparameters, and 'nuts' draws others for each. Pass "
            "hyperparameters='fit', or leave n_averaged out."
        )


def as_prior_of_noise(prior: Distribution | None, how: str) -> Distribution | None:
    if prior is not None:
        return as_noise_prior(f"{CALL}(noise_prior=...)", prior)
    if how == "nuts":
        raise ValueError(
            f"`{CALL}(hyperparameters='nuts')` needs a prior on the noise. Got none. "
            "Pass `noise_prior=LogNormal(-4, 1)`, say."
        )
    return None


def as_count_or_none(name: str, n: int | None) -> int | None:
    return None if n is None else as_count(f"{CALL}({name}=...)", n)


def require_state(call: str, state: ThompsonState, own: ThompsonState) -> None:
    """Raise for a state in which something of a study, of which one is its `own`, would
    be ignored."""
    if not isinstance(state, ThompsonState):
        came = type(state).__name__
    elif state.X.shape[1] != own.X.shape[1]:
        came = f"state of D={state.X.shape[1]}"
    elif jax.tree.structure(state.kernel) != jax.tree.structure(own.kernel):
        came = "state of another kernel, or of other priors"
    elif jax.tree.structure(state.region) != jax.tree.structure(own.region):
        came = "state of another trust region, or of none"
    else:
        return
    raise ValueError(
        f"`{call}` must be a state of this study, of D={own.X.shape[1]} inputs. Got a "
        f"{came}. Pass what `init`, `ask` or `tell` returned; to go on with other "
        "settings, `init` with the points and values of `history`."
    )


def require_within(call: str, X: np.ndarray, bounds: np.ndarray) -> None:
    outside = (X < bounds[0]) | (X > bounds[1])
    if outside.any():
        row, d = np.argwhere(outside)[0]
        raise ValueError(
            f"`{call}` must lie within the bounds, input {d} from {bounds[0, d]:g} to "
            f"{bounds[1, d]:g}. Got {X[row, d]:g} in row {row}. Drop the point, or "
            f"make a `{CALL}` with wider bounds."
        )


def as_told(call: str, y: ArrayLike, n: int) -> np.ndarray:
    """Values of n points, of which NaN may be some."""
    values = np.asarray(as_numbers(y, call), float)
    if values.shape != (n,):
        raise ValueError(
            f"`{call}` must have shape ({n},), one value a point. Got {values.shape}."
        )
    if np.isinf(values).any():
        raise ValueError(
            f"`{call}` must be finite, or NaN where a point failed. Got "
            f"{values[np.isinf(values)][0]} at index {int(np.argmax(np.isinf(values)))}"
            ". Pass NaN, or the number it stands for."
        )
    return values
