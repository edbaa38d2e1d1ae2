"""Entropy search: what a value at x would tell of where, and how low, the optimum is.

Draws of the optimum are those of paths. Given one of them, f(x) is a normal that ends
at the optimum's value, which costs it entropy.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Real

from .._hyper.checks import require_finite
from .._numerics.normal_tails import entropy_lost, variance_left
from .._numerics.safe_sqrt import safe_sqrt
from .._posterior.exact import ConditionedGP
from .asked import as_optima, as_posterior, jitter_of, noise_of, sign_of
from .optima import PathOptima


def max_value_entropy(
    posterior: ConditionedGP,
    X: Real[ArrayLike, "N D"],
    found: PathOptima,
    *,
    maximize: bool = False,
) -> Float[Array, " N"]:
    """What f(x) would tell of the optimum's value, in nats; to be maximised.

    The mutual information of f(x), without noise, and the optimum f*, averaged over
    draws of f*: with u = (f* - mean) / sd where f is maximised, (mean - f*) / sd where
    it is minimised, u pdf(u) / (2 cdf(u)) - log cdf(u). So at data it counts what
    their noise hid; `joint_entropy` knows of the noise to come.

    Args:
        posterior: what the paths were drawn from.
        X: points, one row each.
        found: what `optimize_paths` found of some tens of paths.
        maximize: as `optimize_paths` was told.

    Returns:
        One value for each point, zero where there is no uncertainty.

    Raises:
        ValueError: another posterior, no optima or those of other inputs, values that
            are not finite; and all that `posterior.predict(X)` raises.

    Cost: that of `posterior.predict(X)`, and S numbers for each point.

    Source: Wang & Jegelka 2017, arXiv 1703.01968, eq. 6.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from pyrox.gp import RBF, GPPrior, PathwiseSampler
        >>> from pyrox.gp import max_value_entropy, optimize_paths
        >>> X, y = jnp.array([[0.0], [0.5], [1.0]]), jnp.array([1.0, -1.0, 0.5])
        >>> posterior = GPPrior(RBF(1.0, 0.2), X).condition(y, noise_var=0.01)
        >>> paths = PathwiseSampler(posterior, 128).sample_paths(jax.random.key(0), 32)
        >>> found = optimize_paths(jax.random.key(1), paths, jnp.array([[0.0], [1.0]]))
        >>> grid = jnp.linspace(0, 1, 101)[:, None]
        >>> values = max_value_entropy(posterior, grid, found)
        >>> bool(0.5 < grid[jnp.argmax(values), 0] < 0.8)
        True
    """
    call = "max_value_entropy"
    sign = sign_of(call, maximize)
    posterior = as_posterior(call, posterior)
    mean, var = posterior.predict(X)
    optima = as_optima(call, found, posterior.X.shape[1]).values
    optima = require_finite(optima, f"{call}(found=...)").astype(mean.dtype)
    return _max_value(sign * mean, var, sign * optima)


def joint_entropy(
    posterior: ConditionedGP,
    X: Real[ArrayLike, "N D"],
    found: PathOptima,
    *,
    noise_var: Real[ArrayLike, "..."],
    maximize: bool = False,
) -> Float[Array, " N"]:
    """What an observation at x would tell of the optimum, its place and its value, in
    nats; to be maximised.

    The mutual information of y = f(x) + e and (x*, f*), from below, averaged over draws
    of the optimum: each is told to the posterior as a value without noise, f(x) then
    ends at f*, and y is taken for a normal of the same variance.

    Args:
        posterior, X, found, maximize: as in `max_value_entropy`.
        noise_var: variance of the noise e of the observation, one or one for each
            point; the posterior's jitter is added, as to the data.

    Returns:
        One value for each point.

    Raises:
        ValueError: as `max_value_entropy`; noise that is not positive.

    Cost: that of `posterior.predict_cov(X, found.X)`, and S numbers for each point: to
        know one value more costs no new factor.

    Source: Hvarfner, Hutter & Nardi 2022, arXiv 2206.04771; Tu et al. 2022, arXiv
        2206.04772, where it is the lower bound by moments.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from pyrox.gp import RBF, GPPrior, PathwiseSampler
        >>> from pyrox.gp import joint_entropy, optimize_paths
        >>> X, y = jnp.array([[0.0], [0.5], [1.0]]), jnp.array([1.0, -1.0, 0.5])
        >>> posterior = GPPrior(RBF(1.0, 0.2), X).condition(y, noise_var=0.01)
        >>> paths = PathwiseSampler(posterior, 128).sample_paths(jax.random.key(0), 32)
        >>> found = optimize_paths(jax.random.key(1), paths, jnp.array([[0.0], [1.0]]))
        >>> grid = jnp.linspace(0, 1, 101)[:, None]
        >>> values = joint_entropy(posterior, grid, found, noise_var=0.01)
        >>> bool(0.3 < grid[jnp.argmax(values), 0] < 0.7)
        True
    """
    call = "joint_entropy"
    sign = sign_of(call, maximize)
    posterior = as_posterior(call, posterior)
    mean, var = posterior.predict(X)
    found = as_optima(call, found, posterior.X.shape[1])
    values = require_finite(found.values, f"{call}(found=...)").astype(mean.dtype)
    noise_var = noise_of(call, posterior, noise_var, mean.shape[0])
    cov = posterior.predict_cov(X, found.X).astype(mean.dtype)
    at_optima = [moment.astype(mean.dtype) for moment in posterior.predict(found.X)]
    told = at_optima[1] + jitter_of(posterior).astype(mean.dtype)
    own = sign * mean, var, noise_var.astype(mean.dtype)
    return _joint(own, cov, sign * at_optima[0], told, sign * values)


@jax.jit
def _max_value(mean: Array, var: Array, optima: Array) -> Array:
    """Of f that is maximised."""
    gap = optima[:, None] - mean[None, :]
    lost = entropy_lost(gap / _positive(safe_sqrt(var))[None, :])
    return jnp.mean(jnp.where((var > 0)[None, :], lost, 0), axis=0)


@jax.jit
def _joint(
    own: tuple[Array, Array, Array],
    cov: Float[Array, "N S"],
    mean_at_optima: Float[Array, " S"],
    var_told: Float[Array, " S"],
    optima: Float[Array, " S"],
) -> Array:
    """Of f that is maximised: its moments and the noise at points, its covariance with
    the values at the optima, and what is known of these, `var_told` noise included."""
    mean, var, noise_var = (x[:, None] for x in own)
    gain = cov / _positive(var_told)[None, :]
    mean = mean + gain * (optima - mean_at_optima)[None, :]
    left = jnp.maximum(var - gain * cov, 0)
    u = (optima[None, :] - mean) / _positive(safe_sqrt(left))
    cut = left * jnp.where(left > 0, variance_left(u), 1)
    ratio = (var + noise_var) / (cut + noise_var)
    return 0.5 * jnp.mean(jnp.log(ratio), axis=1)


def _positive(x: Array) -> Array:
    """`x`, with one where it is zero: to divide by."""
    return jnp.where(x > 0, x, 1)
