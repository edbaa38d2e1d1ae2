"""Whether hyperparameters say more about the data than noise alone does."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from .._hyper.unchecked import jit
from .._posterior.derivatives import cross_gram, observe, with_derivatives
from .._posterior.exact import GPPrior
from .._posterior.mean import mean_at
from .trained import NOISE, Problem, from_vector

# In log density: less is "not worth more than a bare mention" (Kass & Raftery 1995,
# section 3.2), and a kernel that is noise has more parameters to gain it with.
_GAIN = 1.0
# Of the noise: a thousand data do not show a smaller signal.
_SIGNAL = 1e-3
# Variances that are tried where one a datum is known: 7% apart, within 1e-3 a datum.
_N_VARIANCES = 200


def noise_log_density(
    problem: Problem, prior: GPPrior, noise_var: Float[Array, "..."]
) -> Float[Array, ""]:
    """The log density of the data as noise about the mean, of the best variance.

    Known noise may grow, by as much for all values, since a kernel can add that, but
    not shrink. The noise of derivatives is as given.
    """
    n, derivatives = problem.y.shape[0], problem.derivatives
    residual = _residual(problem, prior)
    square = jnp.mean(residual[:n] ** 2)
    if noise_var.ndim:
        steps = jnp.exp(jnp.linspace(-14, 0, _N_VARIANCES, dtype=square.dtype))
        extra = jnp.concatenate([jnp.zeros_like(steps[:1]), square * steps])
        variances = noise_var[None, :] + extra[:, None]
    else:
        least = noise_var if NOISE in problem.fixed else jnp.finfo(square.dtype).tiny
        variances = jnp.broadcast_to(jnp.maximum(square, least), (1, n))
    best = jnp.max(jnp.sum(_log_normal(residual[None, :n], variances), axis=1))
    if derivatives is None:
        return best
    return best + jnp.sum(_log_normal(residual[n:], derivatives.noise_var))


@jit
def only_noise(problem: Problem, vector: Float[Array, " P"]) -> Bool[Array, ""]:
    """Whether the hyperparameters in `vector` explain nothing beyond noise.

    Either the data are no likelier than as noise, or the function that was fitted does
    not move where the data are: it is a level at most.
    """
    prior, noise_var = from_vector(problem, vector)
    alone = noise_log_density(problem, prior, noise_var)
    likelihood, fitted = _fitted(problem, prior, noise_var)
    n = problem.y.shape[0]
    moves = jnp.concatenate([fitted[:n] - jnp.mean(fitted[:n]), fitted[n:]])
    # Of a level that is far above the noise, the digits that are lost.
    rounding = 8 * jnp.finfo(fitted.dtype).eps * jnp.max(jnp.abs(fitted))
    moves = jnp.where(jnp.abs(moves) <= rounding, 0, moves)
    data = problem.y, noise_var, problem.derivatives
    signal = jnp.mean(moves**2 / with_derivatives(*data)[1])
    return ~(likelihood >= alone + _GAIN) | ~(signal > _SIGNAL)


def _fitted(
    problem: Problem, prior: GPPrior, noise_var: Float[Array, "..."]
) -> tuple[Float[Array, ""], Float[Array, " U"]]:
    """The log likelihood, and the function that all observations lead to, at them,
    without the mean. Its weights are the likelihood's slopes by what was observed."""

    def likelihood(y, derivatives):
        return prior.log_marginal_likelihood(y, noise_var, derivatives)

    X, derivatives = prior.X, problem.derivatives
    slopes = jax.value_and_grad(likelihood, argnums=(0, 1))
    value, (by_y, by_derivatives) = slopes(problem.y, derivatives)
    if derivatives is None:
        return value, prior.kernel(X, X) @ -by_y
    sites, weights = derivatives.sites, jnp.concatenate([by_y, by_derivatives.values])

    def function(rows):
        return cross_gram(prior.kernel, rows, X, sites) @ -weights

    return value, observe(function, X, sites)


def _residual(problem: Problem, prior: GPPrior) -> Float[Array, " U"]:
    derivatives = problem.derivatives
    sites = None if derivatives is None else derivatives.sites
    values, _ = with_derivatives(problem.y, problem.noise_var, derivatives)
    return values - observe(lambda X: mean_at(prior.mean_fn, X), prior.X, sites)


def _log_normal(x: Array, variance: Array) -> Array:
    return -(x**2 / variance + jnp.log(2 * np.pi * variance)) / 2
