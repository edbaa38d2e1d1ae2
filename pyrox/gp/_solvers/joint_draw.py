"""Draws from a joint normal distribution, by eigenvalues of its covariance."""

import functools

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray


@functools.partial(jax.jit, static_argnames="n_samples")
def draw(
    key: PRNGKeyArray,
    mean: Float[Array, " N"],
    cov: Float[Array, "N N"],
    n_samples: int,
) -> Float[Array, "S N"]:
    """Draws from N(mean, cov).

    By eigenvalues, those below zero by rounding cut off: a joint covariance on a fine
    grid has no Cholesky factor in floating point, and a jitter would be white noise.
    """
    values, vectors = jnp.linalg.eigh(cov)
    root = vectors * jnp.sqrt(jnp.maximum(values, 0))[None, :]
    noise = jr.normal(key, (n_samples, mean.shape[0]), mean.dtype)
    return mean[None, :] + noise @ root.T
