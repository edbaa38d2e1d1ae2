"""Little noise in float32: an error that would be seen is said, against float64."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import few_of

from pyrox.gp import RBF, GPPrior, Linear, Matern, PathwiseSampler, Polynomial
from pyrox.gp._posterior.rounding import rounding, shift_by_jitter

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
    estimate = rounding(
        posterior.inverse.variances(),
        np.asarray(posterior.weights),
        *map(np.asarray, least),
    )
    assert error < max(estimate, 1e-3)
    assert bool(told) == (estimate > 0.1)
    for warning in told:
        assert "float32 resolves the mean only to about" in str(warning.message)


def test_the_warning_comes_and_float64_needs_none():
    X = np.linspace(0, 1, 20, dtype=np.float32)[:, None]
    y = 100 * np.sin(6 * X[:, 0])
    args = X, y, 1e-5, 3e-7
    make = CASES["Matern"][0]
    told = conditioned(make, 32, *args)[3]
    assert told and told[0].filename == __file__
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
    with pytest.warns(RuntimeWarning, match="that of a larger noise"):
        posterior = GPPrior(Matern(2.5, 100.0, 0.5), X).condition(
            10 * np.sin(6 * X[:, 0]), 1e-5
        )
    query = X[:-1] + 0.5 * (X[1] - X[0])
    sampler = PathwiseSampler(posterior, 1024)
    draws = sampler.sample_paths(jax.random.key(0), 2000)(query)
    ratio = np.asarray(draws).std(axis=0) / np.asarray(posterior.predict_std(query))
    assert 0.9 < ratio.min() and ratio.max() < 1.1


# --- The jitter that was not asked for ---------------------------------------------

TOLD = {
    "Polynomial": (10.0, 10, 0.3, 1e-4, "0.029 to noise_var=0.0001"),
    "Matern": (1.0, 20, 6.0, 1e-5, "0.0024 to noise_var=1e-05"),
}


@pytest.mark.parametrize("name", few_of(TOLD, "Polynomial"))
def test_a_default_jitter_above_the_noise_is_said_with_figures(name):
    (span, n, rate, noise_var, figures), make = TOLD[name], CASES[name][0]
    X = np.linspace(0, span, n, dtype=np.float32)[:, None]
    y = {"Polynomial": 1, "Matern": 10}[name] * np.sin(rate * X[:, 0])
    *_, told = conditioned(make, 32, X, y, noise_var, None)
    (warning,) = told
    assert figures in str(warning.message) and "float64" in str(warning.message)
    posterior, *_, own = conditioned(make, 32, X, y, noise_var, 3e-5)
    assert not own and float(posterior.jitter_var) > noise_var
    assert not conditioned(make, 64, X, y, noise_var, None)[3]
    larger = str(warning.message).split("noise_var=")[2].split()[0]
    assert not conditioned(make, 32, X, y, float(larger), None)[3]


@pytest.mark.exhaustive
def test_a_jitter_that_moves_nothing_is_not_said():
    X = np.linspace(0, 1, 50, dtype=np.float32)[:, None]
    rough = conditioned(lambda: Matern(0.5, 1.0, 0.3), 32, X, X[:, 0], 1e-6, None)
    assert float(rough[0].jitter_var) > 1e-6 and not rough[3]
    assert not conditioned(RBF, 32, X, X[:, 0], 0.02, None)[3]


def spectral_shift(K, y, noise_var, jitter_var):
    """The root mean square that the mean at the data moves by, in float64."""
    values, vectors = np.linalg.eigh(K)
    values = np.maximum(values, 0)
    gains = [values / (values + v) for v in (noise_var, noise_var + jitter_var)]
    moved = (gains[1] - gains[0]) * (vectors.T @ y)
    return np.sqrt(np.mean(moved**2) / noise_var)


@pytest.mark.exhaustive
def test_the_figure_is_an_honest_bound():
    """Data of the model and others: the mean moves by no more than what is told, and
    by more than a tenth of the noise only where there is a warning."""
    rng, ratios = np.random.default_rng(5), []
    for _ in range(60):
        n, variance, ell = rng.choice([8, 30, 90]), *10 ** rng.uniform(-1, 1, 2)
        noise_var = float(np.float32(variance * 10 ** rng.uniform(-8, -3)))
        kinds = [RBF, Matern, lambda nu, v, ell: Polynomial(2, v)]
        kind = rng.integers(3)
        args = (variance, ell) if kind == 0 else (2.5, variance, ell)
        kernel = kinds[kind](*args)
        X = np.sort(rng.uniform(0, 3, n)).astype(np.float32)[:, None]
        with jax.enable_x64(True):
            exact = jax.tree.map(lambda leaf: leaf.astype("f8"), kernel)
            K = np.asarray(exact(jnp.asarray(X, "f8"), jnp.asarray(X, "f8")))
        values, vectors = np.linalg.eigh(K)
        y = vectors @ (np.sqrt(np.maximum(values, 0)) * rng.normal(size=n))
        y += rng.integers(2) * np.sqrt(noise_var) * rng.normal(size=n)
        y = y.astype(np.float32)
        posterior, *_, told = conditioned(lambda k=kernel: k, 32, X, y, noise_var, None)
        parts = posterior.weights, posterior.noise_var, posterior.jitter_var
        bound, jitter_var, asked = shift_by_jitter(*parts)
        moved = spectral_shift(K, y.astype(float), noise_var, jitter_var)
        assert asked == noise_var and moved <= 1.02 * bound + 1e-4
        assert told or moved < 0.1 or jitter_var <= noise_var
        ratios += [moved / bound] if bound > 0.1 else []
    assert len(ratios) > 20 and np.median(ratios) > 0.3
