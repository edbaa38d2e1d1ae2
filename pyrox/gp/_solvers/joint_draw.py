"""Draws from a joint normal distribution, by the root of its covariance."""

import functools

import jax
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from .._numerics.symmetric_sqrt import symmetric_sqrt


@functools.partial(jax.jit, static_argnames="n_samples")
def draw(
    key: PRNGKeyArray,
    mean: Float[Array, " N"],
    cov: Float[Array, "N N"],
    n_samples: int,
) -> Float[Array, "S N"]:
    """Draws from N(mean, cov).

    By the symmetric root: a joint covariance on a fine grid has no Cholesky factor in
    floating point, and a jitter would be white noise. For one key a draw is a smooth
    function of the covariance.
    """
    noise = jr.normal(key, (n_samples, mean.shape[0]), mean.dtype)
    return mean[None, :] + noise @ symmetric_sqrt(cov)
