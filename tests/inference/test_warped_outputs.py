"""Outputs that are an increasing function of a Gaussian process: the recipe that
`gp_factor` documents, against dense densities and probabilities."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer import MCMC, NUTS
from numpyro.infer.util import log_density
from scipy import stats
from scipy.optimize import brentq

from pyrox.gp import RBF, GPPrior, gp_factor, paths_over_draws, substitute

pytestmark = [pytest.mark.numpyro, pytest.mark.usefixtures("plainly_compiled")]

N, N_PATHS, NOISE, JITTER = 20, 64, 0.05, 1e-6
X = np.linspace(0.0, 1.0, N)[:, None]
QUERY = np.linspace(0.05, 1.1, 5)[:, None]


@pytest.fixture(autouse=True)
def _double(x64):
    """All of it in double precision."""


def warp(y, skew, tail):
    """From outputs to what is Gaussian (Jones & Pewsey 2009); any y has one."""
    return jnp.sinh(tail * jnp.arcsinh(y) - skew)


def unwarp(z, skew, tail):
    return np.sinh((np.arcsinh(z) + skew) / tail)


_rng = np.random.default_rng(2)
SKEW, TAIL = 0.5, 0.7
Y = unwarp(np.sin(7 * X[:, 0]) + np.sqrt(NOISE) * _rng.normal(size=N), SKEW, TAIL)


def prior(X):
    kernel = RBF(1.0, 0.3).with_priors(lengthscale=dist.LogNormal(-1.0, 0.5))
    return GPPrior(kernel, X, jitter=JITTER)


def model(X, y, slopes=True):
    skew = numpyro.sample("skew", dist.Normal(0.0, 0.5))
    tail = numpyro.sample("tail", dist.LogNormal(0.0, 0.3))
    gp_factor("obs", prior(X), warp(y, skew, tail), NOISE)
    if slopes:
        found = jax.vmap(jax.grad(warp), (0, None, None))(y, skew, tail)
        numpyro.factor("slopes", jnp.sum(jnp.log(found)))


VALUES = {"skew": 0.3, "tail": 0.8, "RBF.lengthscale": 0.25}


def log_prior(skew, tail, lengthscale):
    normal = stats.norm.logpdf
    levels = normal(np.log(tail), 0, 0.3), normal(np.log(lengthscale), -1, 0.5)
    return normal(skew, 0, 0.5) + sum(levels) - np.log(tail) - np.log(lengthscale)


def gram(A, B, lengthscale):
    return np.exp(-0.5 * ((A - B.T) / lengthscale) ** 2)


def covariance(X, lengthscale):
    return gram(X, X, lengthscale) + (JITTER + NOISE) * np.eye(len(X))


def test_density_is_that_of_a_change_of_variables():
    skew, tail, lengthscale = VALUES.values()
    h = 1e-5
    above, below = (np.asarray(warp(Y + s, skew, tail)) for s in (h, -h))
    # NumPy's own z, from an inverse by bisection.
    z = [brentq(lambda z, y=y: unwarp(z, skew, tail) - y, -99, 99) for y in Y]
    dense = stats.multivariate_normal(np.zeros(N), covariance(X, lengthscale))
    wanted = dense.logpdf(z) + np.log((above - below) / (2 * h)).sum()
    wanted += log_prior(skew, tail, lengthscale)
    found, _ = log_density(model, (jnp.asarray(X), jnp.asarray(Y)), {}, VALUES)
    np.testing.assert_allclose(found, wanted, rtol=1e-8)


@pytest.mark.parametrize("slopes", [True, False])
def test_density_of_an_output_has_the_mass_one_by_its_slope_alone(slopes):
    x = jnp.asarray(X[:1])
    # Even steps of arcsinh(y), since the tails are wide.
    steps = np.linspace(-12, 12, 4001)
    y = np.sinh(steps)

    def one(y):
        return log_density(model, (x, y[None], slopes), {}, VALUES)[0]

    density = np.exp(
        jax.jit(jax.vmap(one))(jnp.asarray(y)) - log_prior(*VALUES.values())
    )
    mass = np.sum(density * np.cosh(steps)) * (steps[1] - steps[0])
    if slopes:
        np.testing.assert_allclose(mass, 1, atol=1e-8)
    else:
        assert abs(mass - 1) > 0.1


def moments(skew, tail, lengthscale):
    """Mean and deviation of the Gaussian function at QUERY, in NumPy."""
    z, cross = np.asarray(warp(Y, skew, tail)), gram(X, QUERY, lengthscale)
    gain = np.linalg.solve(covariance(X, lengthscale), cross)
    return gain.T @ z, np.sqrt(1 - np.sum(gain * cross, axis=0))


@pytest.mark.exhaustive
def test_paths_have_the_quantiles_of_the_dense_mixture():
    """Five standard errors of 15 probabilities: a false alarm in 100,000."""
    nuts = NUTS(model, max_tree_depth=5)
    mcmc = MCMC(nuts, num_warmup=150, num_samples=100, progress_bar=False)
    mcmc.run(jax.random.key(0), jnp.asarray(X), jnp.asarray(Y))
    draws = mcmc.get_samples()

    def condition(draw):
        z = warp(jnp.asarray(Y), draw["skew"], draw["tail"])
        own = {"RBF.lengthscale": draw["RBF.lengthscale"]}
        return substitute(prior(jnp.asarray(X)), own).condition(z, NOISE)

    f = np.asarray(
        paths_over_draws(jax.random.key(1), draws, condition, N_PATHS)(QUERY)
    )
    names = "skew", "tail", "RBF.lengthscale"
    each = np.stack([np.asarray(draws[name]) for name in names], axis=1)
    skew, tail = (each[:, i, None, None] for i in (0, 1))
    outputs = unwarp(f, skew, tail)
    mean, sd = (
        np.stack(part) for part in zip(*(moments(*d) for d in each), strict=True)
    )

    def probability(y, at):
        """That the function is below y, of each draw."""
        z = np.asarray(warp(y, each[:, 0], each[:, 1]))
        return stats.norm.cdf((z - mean[:, at]) / sd[:, at])

    def quantile(at, level):
        return brentq(lambda y: probability(y, at).mean() - level, -1e4, 1e4)

    def strays(values):
        z = []
        for at in range(len(QUERY)):
            for level in (0.1, 0.5, 0.9):
                y = quantile(at, level)
                p = probability(y, at)
                error = np.sqrt(np.mean(p * (1 - p)) / values[..., at].size)
                z.append(((values[..., at] <= y).mean() - level) / error)
        return np.abs(z).max()

    assert strays(outputs) < 5
    assert strays(f) > 5  # the twin: functions that were not sent through
    assert np.median(skew) > 0.1  # the data are skewed, and the chain has seen it
    # For one draw an increasing function moves quantiles as they are.
    for q in (0.1, 0.5, 0.9):
        low = [np.quantile(v, q, axis=1, method="lower") for v in (f, outputs)]
        np.testing.assert_allclose(unwarp(low[0], skew[:, 0], tail[:, 0]), low[1])
