"""Expectations under a normal distribution, by Gauss-Hermite quadrature."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def normal_expectation(
    g: Callable[[Float[Array, " N"]], Float[Array, " N"]],
    mean: Float[Array, " N"],
    var: Float[Array, " N"],
    n_points: int,
) -> Float[Array, " N"]:
    """E[g(f)_i] for f_i ~ N(mean_i, var_i), by `n_points` nodes each.

    Exact for polynomials of degree 2 n_points - 1 (Abramowitz & Stegun 1964, 25.4.46).
    """
    points, weights = _nodes(mean, var, n_points)
    return weights @ jax.vmap(g)(points)


def log_normal_expectation(
    log_g: Callable[[Float[Array, " N"]], Float[Array, " N"]],
    mean: Float[Array, " N"],
    var: Float[Array, " N"],
    n_points: int,
) -> Float[Array, " N"]:
    """log E[exp(log_g(f)_i)], by the same nodes."""
    points, weights = _nodes(mean, var, n_points)
    terms = jnp.log(weights)[:, None] + jax.vmap(log_g)(points)
    return jax.nn.logsumexp(terms, axis=0)


def _nodes(
    mean: Float[Array, " N"], var: Float[Array, " N"], n_points: int
) -> tuple[Float[Array, "K N"], Float[Array, " K"]]:
    nodes, weights = np.polynomial.hermite_e.hermegauss(n_points)
    weights = jnp.asarray(weights / weights.sum(), mean.dtype)
    # A root of zero has no derivative; below this rounding hides what a node adds.
    root = jnp.sqrt(jnp.maximum(var, float(jnp.finfo(var.dtype).eps) ** 2))
    points = jnp.asarray(nodes, mean.dtype)[:, None] * root[None] + mean[None]
    return points, weights
