"""Little noise in float32: an error that would be seen is said, against float64."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import few_of

from pyrox.gp import RBF, GPPrior, Linear, Matern, PathwiseSampler, Polynomial
from pyrox.gp._posterior.rounding import rounding

rng = np.random.default_rng(0)
CASES = {
    "Polynomial": (lambda: Polynomial(2), 10.0),
    "Matern": (lambda: Matern(2.5, 100.0, 0.5), 1.0),
    "RBF": (lambda: RBF(1.0, 2.0), 1.0),
    "Linear": (lambda: Linear(3.0) + RBF(0.1, 1.0), 5.0),
}


def conditioned(make, width, X, y, noise_var, jitter):
    with jax.enable_x64(width == 64):
        dtype = jnp.dtype(f"float{width}")
        kernel = jax.tree.map(lambda leaf: leaf.astype(dtype), make())
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            prior = GPPrior(kernel, jnp.asarray(X, dtype), jitter=jitter)
            posterior = prior.condition(jnp.asarray(y, dtype), noise_var)
        mean, var = posterior.predict(jnp.asarray(X + 0.01, dtype))
        return posterior, np.asarray(mean, float), np.asarray(var, float), told


@pytest.mark.parametrize("name", few_of(CASES, "Polynomial", "Matern"))
@pytest.mark.parametrize("jitter", few_of([1e-7, 1e-6, 1e-4], 1e-6))
def test_an_error_that_would_be_seen_is_said(name, jitter):
    """Of ten data: the error over the noise's deviation is below the estimate, and
    above a tenth only where there was a warning."""
    make, span = CASES[name]
    X = np.linspace(0, span, 10, dtype=np.float32)[:, None]
    y = np.sin(3 * X[:, 0] / span).astype(np.float32)
    args = X, y, 1e-6, jitter
    try:
        posterior, mean, _, told = conditioned(make, 32, *args)
    except ValueError as error:
        assert "not positive definite" in str(error)
        return
    exact, right, _, _ = conditioned(make, 64, *args)
    noise = np.sqrt(1e-6 + float(exact.jitter_var))
    error = np.abs(mean - right).max() / noise
    least = posterior.noise_var, posterior.jitter_var
    estimate = rounding(posterior.factor, posterior.weights, least)
    assert error < max(estimate, 1e-3)
    assert bool(told) == (estimate > 0.1)
    for warning in told:
        assert "float32 resolves the mean only to about" in str(warning.message)


def test_the_warning_comes_and_float64_needs_none():
    X = np.linspace(0, 1, 20, dtype=np.float32)[:, None]
    y = 100 * np.sin(6 * X[:, 0])
    args = X, y, 1e-5, 3e-7
    make = CASES["Matern"][0]
    assert conditioned(make, 32, *args)[3]
    assert not conditioned(make, 64, *args)[3]


def test_under_jit_it_is_silent_and_works():
    X = jnp.linspace(0, 1, 20)[:, None]

    def mean(y):
        return GPPrior(Matern(2.5, 100.0, 0.5), X, jitter=3e-7).condition(y, 1e-5).X

    assert jax.jit(mean)(jnp.sin(X[:, 0])).shape == (20, 1)


@pytest.mark.exhaustive
def test_paths_of_a_large_variance_keep_it():
    """Variance 100 and noise 1e-5: paths had a sixth of their variance."""
    X = np.linspace(0, 1, 40, dtype=np.float32)[:, None]
    posterior = GPPrior(Matern(2.5, 100.0, 0.5), X).condition(
        10 * np.sin(6 * X[:, 0]), 1e-5
    )
    query = X[:-1] + 0.5 * (X[1] - X[0])
    sampler = PathwiseSampler(posterior, 1024)
    draws = sampler.sample_paths(jax.random.key(0), 2000)(query)
    ratio = np.asarray(draws).std(axis=0) / np.asarray(posterior.predict_std(query))
    assert 0.9 < ratio.min() and ratio.max() < 1.1
