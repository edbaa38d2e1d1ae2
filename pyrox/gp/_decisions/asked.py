"""What acquisition functions of a posterior are asked with, and the sentences."""

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Real

from .._hyper.checks import as_noise
from .._posterior.exact import ConditionedGP
from .optima import PathOptima


def sign_of(call: str, maximize: bool) -> int:
    """What makes of f something that is to be high."""
    if not isinstance(maximize, bool):
        raise ValueError(
            f"`{call}(maximize=...)` must be True or False. Got {maximize!r}."
        )
    return 1 if maximize else -1


def as_posterior(call: str, posterior: ConditionedGP) -> ConditionedGP:
    if not isinstance(posterior, ConditionedGP):
        raise ValueError(
            f"`{call}(posterior, ...)` must be a ConditionedGP. Got a "
            f"{type(posterior).__name__}. Pass what `GPPrior.condition` returns."
        )
    return posterior


def as_optima(call: str, found: PathOptima, in_size: int) -> PathOptima:
    """The optima of paths, as many as there are."""
    if not isinstance(found, PathOptima):
        raise ValueError(
            f"`{call}(found=...)` must be the optima of paths, a PathOptima. Got a "
            f"{type(found).__name__}. Pass what `optimize_paths` returns."
        )
    shape = found.X.shape
    if len(shape) != 2 or shape[1] != in_size or not shape[0]:
        raise ValueError(
            f"`{call}(found=...)` must be optima at points (S, {in_size}), as the "
            f"posterior has D={in_size}. Got {shape}. Pass the optima of paths of "
            "this posterior, and map over stacked ones with `jax.vmap`."
        )
    return found


def jitter_of(posterior: ConditionedGP) -> Float[Array, ""]:
    """The variance that the posterior's jitter adds to the noise of each value."""
    n = posterior.y.shape[0]
    return jnp.max(posterior.jitter_var.reshape(-1)[:n])


def noise_of(
    call: str, posterior: ConditionedGP, noise_var: Real[ArrayLike, "..."], n: int
) -> Float[Array, " n"]:
    """The variance of the noise of a value at each of n points, jitter included, as
    `posterior.condition_on` has it."""
    noise_var = as_noise(f"{call}(noise_var=...)", noise_var, n)
    jitter_var = jitter_of(posterior)
    noise_var = jnp.broadcast_to(noise_var.astype(jitter_var.dtype), (n,))
    return noise_var + jitter_var
