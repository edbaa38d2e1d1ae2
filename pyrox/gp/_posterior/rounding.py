"""What the type takes of a posterior: its digits."""

import warnings

import numpy as np
from jaxtyping import Array, Float

from .._hyper.checks import is_traced
from .._solvers.cholesky import CholeskyFactor

_VISIBLE = 0.1


def rounding(
    factor: CholeskyFactor, weights: Float[Array, " U"], noise_var: tuple[Array, ...]
) -> float:
    """The error of the mean, at most, over the deviation of the least noise, of these
    variances added up.

    A product k(x, X) w of N terms rounds by eps sqrt(N) k |w|, and the weights are
    large where noise is little. Over 400 random problems in float32 the error over the
    posterior's deviation was below this, by 1.5 to 30 times where it was between .01
    and 1.
    """
    lower, w = np.asarray(factor.lower), np.asarray(weights)  # compiles nothing
    variance = np.einsum("ij,ij->i", lower, lower).max()
    size = np.linalg.norm(w) * np.sqrt(w.size)
    noise = sum(float(np.asarray(variances).min()) for variances in noise_var)
    return float(np.finfo(w.dtype).eps * variance * size / np.sqrt(noise))


def warn_of_rounding(
    call: str,
    factor: CholeskyFactor,
    weights: Float[Array, " U"],
    noise_var: tuple[Array, ...],
) -> None:
    """Say so if it would be seen. What is traced cannot be looked at."""
    if any(map(is_traced, (factor.lower, weights, *noise_var))):
        return
    lost = rounding(factor, weights, noise_var)
    if not lost > _VISIBLE:
        return
    warnings.warn(
        f"`{call}`: {weights.dtype} resolves the mean only to about {lost:.2g} "
        "standard deviations of the noise: noise_var and jitter are little against "
        "the variance of the process. Pass float64 data under "
        '`jax.config.update("jax_enable_x64", True)`, or a larger noise_var or jitter.',
        RuntimeWarning,
        stacklevel=3,
    )
