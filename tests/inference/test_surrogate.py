"""Surrogates in NumPyro models against integration on a grid by brute force."""

# Wrong arguments are passed on purpose.
# pyright: reportArgumentType=false

import functools
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.infer import MCMC, NUTS
from numpyro.infer.util import log_density
from scipy import stats

from pyrox.gp import (
    RBF,
    GPPrior,
    PathwiseSampler,
    surrogate_factor,
    surrogate_sample,
)

pytestmark = pytest.mark.usefixtures("plainly_compiled")

# A function of a parameter and a place; few runs, so that the emulator knows little.
RUNS = np.array([[a, b] for a in (-1.0, 0.0, 1.0) for b in (0.0, 1.0)])
OUT = np.sin(2 * RUNS[:, 0]) + 0.5 * RUNS[:, 1]
PLACES = np.array([0.2, 0.5, 0.9])
Y, NOISE = np.array([0.75, 1.0, 1.1]), 0.05
THETA = np.linspace(-1.5, 1.5, 61)


@functools.cache
def emulator():
    return GPPrior(RBF(1.0, 0.9), RUNS).condition(OUT, 1e-4)


@functools.cache
def drawn(n=64):
    return PathwiseSampler(emulator(), 128).sample_paths(jr.key(0), n)


def asked(theta):
    places = jnp.asarray(PLACES, jnp.result_type(float))
    return jnp.stack([jnp.full(3, theta, places.dtype), places], axis=1)


def model(f, likelihood=None):
    theta: Any = numpyro.sample("theta", dist.Uniform(-1.5, 1.5))
    noise = NOISE if likelihood is None else None
    surrogate_factor("y", f, asked(theta), Y, noise, likelihood=likelihood)


def log_densities(f, **how):
    """Of all theta, without that of its prior."""
    flat = np.log(3.0)

    def one(theta):
        return log_density(model, (f,), how, {"theta": theta})[0] + flat

    return np.asarray(jax.vmap(one)(jnp.asarray(THETA)))


def of_each_path():
    """log prod_i p(y_i | f_s), for each theta and path, in NumPy."""
    X = np.concatenate([np.asarray(asked(t)) for t in THETA])
    values = np.asarray(drawn()(X)).reshape(-1, len(THETA), 3)
    return stats.norm.logpdf(Y, values, NOISE**0.5).sum(axis=2).T


def normalised(log_p):
    p = np.exp(log_p - log_p.max())
    return p / p.sum()


@pytest.mark.numpyro
def test_the_posterior_is_that_of_brute_force(x64):
    """Of paths by the sum over them, of a posterior by the joint normal; a twin that
    takes the data for independent given theta is another posterior."""
    expected = np.log(np.exp(of_each_path()).mean(axis=1))
    np.testing.assert_allclose(log_densities(drawn()), expected, rtol=1e-10)
    by_law = log_densities(drawn(), likelihood=lambda f: dist.Normal(f, NOISE**0.5))
    np.testing.assert_allclose(by_law, expected, rtol=1e-10)
    joint, alone = [], []
    for theta in THETA:
        X = np.asarray(asked(theta))
        mean, cov = emulator().predict_mean(X), np.asarray(emulator().predict_cov(X))
        law = stats.multivariate_normal(np.asarray(mean), cov + NOISE * np.eye(3))
        joint.append(law.logpdf(Y))
        sd = np.sqrt(np.diag(cov) + NOISE)
        alone.append(stats.norm.logpdf(Y, mean, sd).sum())
    np.testing.assert_allclose(log_densities(emulator()), joint, rtol=1e-8)
    right, wrong = normalised(np.array(joint)), normalised(np.array(alone))
    assert np.abs(right - wrong).sum() / 2 > 0.1
    # By moments and by paths are two ways to the same, but for 64 paths.
    assert np.abs(right - normalised(expected)).sum() / 2 < 0.15


def law_of_chain(log_p):
    """What a Metropolis chain on the grid settles at, each proposal accepted with the
    mean probability over what is drawn at an evaluation, a column of `log_p` each."""
    n = len(log_p)
    ratio = log_p[None, :, :, None] - log_p[:, None, None, :]
    moves = np.minimum(1, np.exp(np.minimum(ratio, 0))).mean(axis=(2, 3)) / n
    moves[np.diag_indices(n)] = 0
    moves[np.diag_indices(n)] = 1 - moves.sum(axis=1)
    # p moves = p and p sums to one.
    system = np.vstack([moves.T - np.eye(n), np.ones(n)])
    return np.linalg.lstsq(system, np.append(np.zeros(n), 1.0))[0]


@pytest.mark.numpyro
def test_a_path_drawn_at_each_evaluation_is_another_posterior(x64):
    """The pitfall, without chance: the law that such a chain settles at, exactly. One
    with the sum over paths settles at the posterior."""
    each = of_each_path()
    right = normalised(log_densities(drawn()))
    one = np.log(np.exp(each).mean(axis=1, keepdims=True))
    np.testing.assert_allclose(law_of_chain(one), right, atol=1e-10)
    redrawn = law_of_chain(each)
    assert np.abs(redrawn - right).sum() / 2 > 0.05


@pytest.mark.numpyro
@pytest.mark.exhaustive
def test_an_index_is_one_function(x64):
    """The joint density of parameter and index, summed by hand, is the factor."""

    def of_index():
        theta: Any = numpyro.sample("theta", dist.Uniform(-1.5, 1.5))
        f = surrogate_sample("path", drawn(), asked(theta))
        numpyro.sample("y", dist.Normal(f, NOISE**0.5).to_event(1), obs=jnp.asarray(Y))

    def one(theta, index):
        given = {"theta": theta, "path": index}
        return log_density(of_index, (), {}, given)[0] + np.log(3.0)

    every = jax.vmap(jax.vmap(one, (None, 0)), (0, None))
    found = every(jnp.asarray(THETA[::6]), jnp.arange(64))
    summed = jax.nn.logsumexp(found, axis=1)
    np.testing.assert_allclose(summed, log_densities(drawn())[::6], rtol=1e-10)


@pytest.mark.exhaustive
@pytest.mark.numpyro
def test_a_whitened_sample_has_the_moments(x64):
    X = asked(0.4)

    def values(key):
        with handlers.seed(rng_seed=key):
            return surrogate_sample("f", emulator(), X)

    with handlers.substitute(data={"f_whitened": jnp.zeros(3)}):
        middle = surrogate_sample("f", emulator(), X)
    np.testing.assert_allclose(middle, emulator().predict_mean(X))
    root = np.asarray(jax.jacobian(lambda z: _given(z, X))(jnp.zeros(3)))
    np.testing.assert_allclose(root @ root.T, emulator().predict_cov(X), atol=1e-10)
    assert values(jr.key(0)).shape == (3,)


def _given(z, X):
    with handlers.substitute(data={"f_whitened": z}):
        return surrogate_sample("f", emulator(), X)


@pytest.mark.exhaustive
@pytest.mark.numpyro
@pytest.mark.parametrize("way", ["sum", "moments"])
def test_chains_find_it(way, x64):
    """The mean of theta within 5 standard errors of its chain, by batch means."""

    f = emulator() if way == "moments" else drawn()
    p = normalised(log_densities(f))
    expected = p @ THETA
    kernel = NUTS(functools.partial(model, f))
    mcmc = MCMC(kernel, num_warmup=500, num_samples=4000, progress_bar=False)
    mcmc.run(jr.key(0))
    theta = np.asarray(mcmc.get_samples()["theta"])
    error = theta.reshape(20, -1).mean(axis=1).std() / np.sqrt(20)
    assert abs(theta.mean() - expected) < 5 * error
    assert error < 0.1 * theta.std()


@pytest.mark.exhaustive
@pytest.mark.numpyro
def test_the_type_is_that_of_the_emulator():
    f = GPPrior(RBF(), RUNS.astype(np.float32)).condition(OUT.astype(np.float32), 1e-3)
    paths = PathwiseSampler(f, 32).sample_paths(jr.key(0), 8)
    for way in (f, paths):
        with handlers.seed(rng_seed=0), handlers.trace() as sites:
            values = surrogate_sample("f", way, asked(0.2))
            surrogate_factor("y", way, asked(0.2), Y, NOISE)
        assert values.dtype == jnp.float32
        density = sites["y"]["fn"].log_factor
        assert density.dtype == jnp.float32 and jnp.isfinite(density)
        with handlers.trace() as sites:
            jitted = jax.jit(lambda v, way=way: _factor(way, v))
            assert jitted(-1.0) == -jnp.inf


def _factor(f, noise_var):
    with handlers.trace() as sites:
        surrogate_factor("y", f, asked(0.2), Y, noise_var)
    return sites["y"]["fn"].log_factor


@pytest.mark.parametrize(
    "call, sentence",
    [
        (lambda f, X: surrogate_sample("f", len, X), "must be paths or a Condition"),
        (lambda f, X: surrogate_factor("f", f, X, Y), "Got no noise_var"),
        (
            lambda f, X: surrogate_factor("f", f, X, Y, likelihood=dist.Poisson),
            "Got a likelihood",
        ),
        (lambda f, X: surrogate_factor("f", f, X, Y[:2], 0.1), r"shape \(3,\)"),
        (lambda f, X: surrogate_factor("f", f, X, Y, -0.1), "positive finite variance"),
        (
            lambda f, X: surrogate_factor(
                "f", PathwiseSampler(f, 8).sample_paths(jr.key(0), 4), X, Y
            ),
            "Got neither",
        ),
    ],
)
def test_bad_input_is_told_in_a_sentence(call, sentence):
    f = GPPrior(RBF(1.0, 0.9), RUNS).condition(OUT, 1e-3)
    with pytest.raises(ValueError, match=sentence):
        call(f, np.asarray(asked(0.2)))
