"""What the type takes of a posterior: its digits, or all that is a number."""

import math
import warnings

import jax.numpy as jnp
from jaxtyping import Array, Float

from .._hyper.checks import is_traced, require
from .._solvers.cholesky import CholeskyFactor

_VISIBLE = 0.1


def rounding(
    factor: CholeskyFactor, weights: Float[Array, " U"], noise_var: Float[Array, "..."]
) -> Float[Array, ""]:
    """The error of the mean, at most, over the deviation of the least noise, jitter
    included.

    A product k(x, X) w of N terms rounds by eps sqrt(N) k |w|, and the weights are
    large where noise is little. Over 400 random problems in float32 the error over the
    posterior's deviation was below this, by 1.5 to 30 times where it was between .01
    and 1.
    """
    variance = jnp.max(jnp.sum(factor.lower**2, axis=1))
    size = jnp.sqrt(jnp.sum(weights**2) * weights.shape[0])
    eps = jnp.finfo(weights.dtype).eps
    return eps * variance * size / jnp.sqrt(jnp.min(noise_var))


def warn_of_rounding(call: str, lost: Array, weights: Array) -> None:
    """Say so if it would be seen; a traced one cannot be looked at."""
    if is_traced(lost) or not float(lost) > _VISIBLE:
        return
    warnings.warn(
        f"`{call}`: {weights.dtype} resolves the mean only to about {float(lost):.2g} "
        "standard deviations of the noise: noise_var and jitter are little against "
        "the variance of the process. Pass float64 data under "
        '`jax.config.update("jax_enable_x64", True)`, or a larger noise_var or jitter.',
        RuntimeWarning,
        stacklevel=3,
    )


def require_numbers(call: str, weights: Float[Array, " U"]) -> Float[Array, " U"]:
    """The weights of a posterior, if they are numbers."""
    sentence = (
        f"`{call}` must find finite weights: `mean_fn(X)` or the kernel holds NaN or "
        "inf, or y over the noise is beyond the type. Look at `mean_fn(X)`, at "
        "`kernel(X, X)`, and at the units of y."
    )
    return require(weights, lambda w: abs(w) < math.inf, sentence)
