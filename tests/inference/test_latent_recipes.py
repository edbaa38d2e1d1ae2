"""Likelihoods of several latent functions: noise that varies, and several classes."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer import MCMC, NUTS

from pyrox.gp import (
    RBF,
    GPPrior,
    gp_sample,
    latent,
    paths_over_draws,
    sample_hyperparameters,
)

pytestmark = [
    pytest.mark.numpyro,
    pytest.mark.exhaustive,
    pytest.mark.usefixtures("plainly_compiled"),
]

N, N_PATHS = 24, 32
X = np.linspace(0.0, 1.0, N)[:, None]
QUERY = np.linspace(-0.1, 1.1, 7)[:, None]
_rng = np.random.default_rng(5)
KEYS = jax.random.split(jax.random.key(0), 3)


def sampled(model, n_draws=100):
    nuts = NUTS(model, max_tree_depth=5)
    mcmc = MCMC(nuts, num_warmup=100, num_samples=n_draws, progress_bar=False)
    mcmc.run(KEYS[0])
    return mcmc.get_samples()


def dense(u, variance, ell):
    """Mean and deviation at QUERY given latent values, in NumPy."""

    def gram(A, B):
        return variance * np.exp(-0.5 * ((A - B.T) / ell) ** 2)

    gain = np.linalg.solve(gram(X, X) + 1e-6 * variance * np.eye(N), gram(X, QUERY))
    var = variance - np.sum(gain * gram(X, QUERY), axis=0)
    return gain.T @ u, np.sqrt(np.maximum(var, 0))


def test_noise_that_varies(x64):
    """A mean and a log deviation, each a latent function: p(y* | y) by their paths.

    Five standard errors of 14 numbers: a false alarm in 120,000."""
    y = np.sin(6 * X[:, 0]) + np.exp(-2 + 2 * X[:, 0]) * _rng.normal(size=N)
    wide = dist.LogNormal(-1.0, 0.3)
    level = GPPrior(RBF(1.0, 0.3, name="level").with_priors(lengthscale=wide), X)
    spread = GPPrior(RBF(1.0, 0.5, name="spread"), X, lambda X: -1.0 + 0 * X[:, 0])

    def model():
        f, g = gp_sample("f", level), gp_sample("g", spread)
        numpyro.sample("y", dist.Normal(f, jnp.exp(g)).to_event(1), obs=y)

    draws = sampled(model)
    f = paths_over_draws(KEYS[1], draws, latent(level, "f"), N_PATHS)(QUERY)
    g = paths_over_draws(KEYS[2], draws, latent(spread, "g"), N_PATHS)(QUERY)
    f, g = np.asarray(f), np.asarray(g)
    expected, noise, f_var, noise_var = [], [], [], []
    sites = (np.asarray(draws[n]) for n in ("f", "g", "level.lengthscale"))
    for u, v, ell in zip(*sites, strict=True):
        mean, sd = dense(u, 1.0, ell)
        log_mean, log_sd = dense(v + 1.0, 1.0, 0.5)
        square = np.exp(2 * (log_mean - 1.0) + 2 * log_sd**2)
        expected.append(mean)
        f_var.append(sd**2)
        noise.append(square)
        noise_var.append(square**2 * (np.exp(4 * log_sd**2) - 1))
    n = f.shape[0] * N_PATHS
    for found, wanted, var in (
        (f, expected, f_var),
        (np.exp(2 * g), noise, noise_var),
    ):
        error = found.mean((0, 1)) - np.mean(wanted, axis=0)
        assert np.all(np.abs(error) < 5 * np.sqrt(np.mean(var, axis=0) / n))
    # The noise of the data rises by a factor of e^2; what is found does, too.
    rise = np.exp(g)[..., -2].mean() / np.exp(g)[..., 1].mean()
    assert 2 < rise < 20


def test_several_classes(x64):
    """A latent function a class, in a plate, and the softmax over their paths.

    The reference draws from dense moments, so both sides have an error; five standard
    errors of 21 probabilities are a false alarm in 80,000."""
    centre = np.stack([np.cos(6 * X[:, 0] + shift) for shift in (0, 2, 4)], axis=1)
    y = np.argmax(2 * centre + _rng.gumbel(size=(N, 3)), axis=1)
    prior = GPPrior(RBF(4.0, 1.0).with_priors(lengthscale=dist.LogNormal(-1, 0.3)), X)

    def model():
        resolved = sample_hyperparameters(prior)
        with numpyro.plate("classes", 3):
            f = gp_sample("f", resolved)
        numpyro.sample("y", dist.CategoricalLogits(f.T).to_event(1), obs=y)

    draws = sampled(model)
    paths = paths_over_draws(KEYS[1], draws, latent(prior, "f"), N_PATHS)
    values = paths(QUERY)
    assert values.shape == (100, 3, N_PATHS, len(QUERY))
    found = np.asarray(jax.nn.softmax(values, axis=1))

    def softmax(f):
        raised = np.exp(f - f.max(axis=1, keepdims=True))
        return raised / raised.sum(axis=1, keepdims=True)

    reference = []
    for u, ell in zip(draws["f"], draws["RBF.lengthscale"], strict=True):
        moments = [dense(np.asarray(one), 4.0, float(ell)) for one in u]
        mean, sd = (np.stack(part)[None] for part in zip(*moments, strict=True))
        normal = _rng.normal(size=(400, 3, len(QUERY)))
        reference.append(softmax(mean + sd * normal))
    reference = np.stack(reference)
    # Within draws: these are shared by both sides.
    spread = reference.var(axis=1).mean(axis=0)
    n = found.shape[0] * np.array([N_PATHS, reference.shape[1]])
    error = found.mean((0, 2)) - reference.mean((0, 1))
    assert np.all(np.abs(error) < 5 * np.sqrt(spread * np.sum(1 / n)) + 1e-12)
    # It is no accident of a flat answer.
    at_data = np.asarray(jax.nn.softmax(paths(X), axis=1)).mean((0, 2))
    assert (at_data.argmax(axis=0) == y).mean() > 0.7
