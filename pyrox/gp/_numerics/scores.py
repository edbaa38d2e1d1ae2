"""Proper scores of probability forecasts: of normals in closed form, of draws without
bias. The lower the better.

Averages over S draws are fair: where two draws meet, a draw does not meet itself, so
that their expectation is the score of the law that they are from (Ferro 2014).
"""

import math

import jax
import jax.numpy as jnp
from jax.scipy.special import erf, ndtr, ndtri
from jaxtyping import Array, Float

from .normal_tails import density
from .safe_sqrt import safe_sqrt


def crps_normal(
    y: Float[Array, " N"], mean: Float[Array, " N"], var: Float[Array, " N"]
) -> Float[Array, " N"]:
    """The continuous ranked probability score of N(mean, var), |y - mean| where there
    is no variance (Gneiting & Raftery 2007, eq. 21)."""
    sd = safe_sqrt(var)
    z = (y - mean) / jnp.where(sd > 0, sd, 1)
    spread = z * erf(z / math.sqrt(2)) + 2 * density(z) - 1 / math.sqrt(math.pi)
    return jnp.where(sd > 0, sd * spread, jnp.abs(y - mean))


def crps_draws(y: Float[Array, " N"], draws: Float[Array, "S N"]) -> Float[Array, " N"]:
    """E|x - y| - E|x - x'| / 2 (Gneiting & Raftery 2007, eq. 21), fair, from one sort:
    the r-th lowest of S draws is above r others and below S - 1 - r."""
    n = draws.shape[0]
    gap = draws - y[None]  # first, so that no digits cancel
    rank = jnp.arange(1 - n, n, 2, dtype=gap.dtype)
    spread = rank @ jnp.sort(gap, axis=0) / (n * (n - 1))
    return jnp.mean(jnp.abs(gap), axis=0) - spread


def log_score_normal(
    y: Float[Array, " N"], mean: Float[Array, "... N"], var: Float[Array, "... N"]
) -> Float[Array, "... N"]:
    """-log N(y; mean, var)."""
    return 0.5 * ((y - mean) ** 2 / var + jnp.log(2 * jnp.pi * var))


def log_score_mixture(
    y: Float[Array, " N"], means: Float[Array, "S N"], var: Float[Array, " N"]
) -> Float[Array, " N"]:
    """The same of an equal mixture of S normals."""
    each = jax.vmap(log_score_normal, (None, 0, None))(y, means, var)
    return math.log(len(means)) - jax.nn.logsumexp(-each, axis=0)


def energy_draws(y: Float[Array, " N"], draws: Float[Array, "S N"]) -> Float[Array, ""]:
    """The CRPS of vectors: E||x - y|| - E||x - x'|| / 2, fair (Gneiting & Raftery 2007,
    eq. 22). Cost: S^2 N, in the memory of the draws."""
    n = draws.shape[0]
    gap = draws - y[None]

    def to_others(one):
        return jnp.sum(_norm(gap - one[None]))

    between = jnp.sum(jax.lax.map(jax.checkpoint(to_others), gap))
    return jnp.mean(_norm(gap)) - between / (2 * n * (n - 1))


def _norm(x: Float[Array, "S N"]) -> Float[Array, " S"]:
    return safe_sqrt(jnp.sum(x * x, axis=1))


def variogram_draws(
    y: Float[Array, " N"],
    draws: Float[Array, "S N"],
    order: float,
    weights: Float[Array, "N N"],
) -> Float[Array, ""]:
    """The sum over all pairs of weight times (E|x_i - x_j|^p - |y_i - y_j|^p)^2
    (Scheuerer & Hamill 2015, eq. 9), fair: less the variance of the average. Cost:
    S N^2, in the memory of N^2."""
    n = draws.shape[0]
    seen = _powers(y, order)

    def add(sums, one):
        excess = _powers(one, order) - seen
        return (sums[0] + excess, sums[1] + excess**2), None

    zeros = jnp.zeros_like(seen), jnp.zeros_like(seen)
    (total, square), _ = jax.lax.scan(jax.checkpoint(add), zeros, draws)
    # mean^2 - variance / n, where variance is of one draw, by n - 1.
    fair = (total**2 - square) / (n * (n - 1))
    return jnp.sum(weights * fair)


def _powers(x: Float[Array, " N"], order: float) -> Float[Array, "N N"]:
    """|x_i - x_j|^p, with the gradient zero where they are equal."""
    gap = jnp.abs(x[:, None] - x[None])
    apart = gap > 0
    return jnp.where(apart, jnp.where(apart, gap, 1) ** order, 0)


def pit_normal(
    y: Float[Array, " N"], mean: Float[Array, " N"], var: Float[Array, " N"]
) -> Float[Array, " N"]:
    """P(x < y) for x ~ N(mean, var)."""
    return ndtr((y - mean) / jnp.sqrt(var))


def pit_draws(
    y: Float[Array, " N"], draws: Float[Array, "S N"], u: Float[Array, " N"]
) -> Float[Array, " N"]:
    """The place of y among the draws, from 0 to 1, at the part u of the room between
    those below and those above. For u uniform it is uniform if y is one more draw,
    ties included (Czado, Gneiting & Held 2009)."""
    below = jnp.sum(draws < y[None], axis=0).astype(draws.dtype)
    equal = jnp.sum(draws == y[None], axis=0).astype(draws.dtype)
    return (below + u * (equal + 1)) / (draws.shape[0] + 1)


def interval_normal(
    mean: Float[Array, " N"], var: Float[Array, " N"], levels: Float[Array, " L"]
) -> Float[Array, "2 L N"]:
    """The ends of the central intervals of these probabilities."""
    reach = ndtri((1 + levels) / 2)[:, None] * jnp.sqrt(var)[None]
    return jnp.stack([mean[None] - reach, mean[None] + reach])


def interval_draws(
    draws: Float[Array, "S N"], levels: Float[Array, " L"]
) -> Float[Array, "2 L N"]:
    """The same: one draw more falls below the r-th lowest of S with probability
    r / (S + 1), and in between by a line."""
    n = draws.shape[0]
    tails = jnp.stack([1 - levels, 1 + levels]) / 2
    place = (tails * (n + 1) - 1) / (n - 1)  # from the lowest, 0, to the highest, 1
    ends = jnp.quantile(draws, jnp.clip(place, 0, 1).reshape(-1), axis=0)
    return ends.reshape(2, -1, draws.shape[1])
