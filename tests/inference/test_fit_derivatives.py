"""Fits to values and derivatives together, against SciPy and against differences."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy import optimize, stats

from pyrox.gp import RBF, Derivatives, GPPrior, Matern
from pyrox.gp import fit as public_fit
from pyrox.gp._inference.noise_alone import beside_noise

pytestmark = pytest.mark.usefixtures("plainly_compiled")

RNG = np.random.default_rng(0)
N, M, D = 6, 7, 2
X = RNG.uniform(0, 2, (N, D))
SITES: Any = RNG.uniform(0, 2, (M, D))
DIMS: Any = RNG.integers(0, D, M)
NOISE = np.linspace(0.01, 0.03, M)
Y = np.sin(2 * X[:, 0]) + np.cos(X[:, 1]) + 0.05 * RNG.normal(size=N)
SLOPES = np.where(DIMS == 0, 2 * np.cos(2 * SITES[:, 0]), -np.sin(SITES[:, 1]))
SLOPES = SLOPES + 0.1 * RNG.normal(size=M)
fit: Any = functools.partial(public_fit, progress=False)


def covariance(variance, lengthscale) -> np.ndarray:
    """Of the values, then the derivatives, of an RBF, by hand."""
    points = np.concatenate([X, SITES])
    gap = points[:, None] - points[None]
    K = variance * np.exp(-0.5 * np.sum((gap / lengthscale) ** 2, axis=2))
    by = [None] * N + list(DIMS)
    out = K.copy()
    for i, a in enumerate(by):
        for j, b in enumerate(by):
            left = 1.0 if a is None else -gap[i, j, a] / lengthscale[a] ** 2
            right = 1.0 if b is None else gap[i, j, b] / lengthscale[b] ** 2
            cross = 1 / lengthscale[a] ** 2 if a is not None and a == b else 0.0
            out[i, j] = K[i, j] * (left * right + cross)
    return out


def log_density(variance, first, second, noise_var) -> float:
    lengths = np.array([first, second])
    # The jitter: a millionth of the variance of values, and of slopes by each input.
    jitter = 1e-6 * variance * np.concatenate([np.ones(N), 1 / lengths[DIMS] ** 2])
    noise = np.concatenate([np.full(N, noise_var), NOISE]) + jitter
    total = covariance(variance, lengths) + np.diag(noise)
    observed = np.concatenate([Y, SLOPES])
    normal: Any = stats.multivariate_normal
    return normal.logpdf(observed, cov=total)


@pytest.mark.exhaustive
def test_the_optimum_is_that_of_scipy(x64):
    derivatives = Derivatives(SITES, DIMS, SLOPES, NOISE)
    prior = GPPrior(RBF(1.0, np.ones(D)), X)
    found = fit(prior, Y, 0.1, derivatives, tolerance=1e-8)
    best: Any = optimize.minimize(
        lambda u: -log_density(*np.exp(u)),
        np.log([1.0, 1.0, 1.0, 0.1]),
        method="BFGS",
        options={"gtol": 1e-7},
    )
    kernel, lengths = found.prior.kernel, found.prior.kernel.lengthscale
    first, second = np.asarray(lengths)
    at = float(kernel.variance), first, second, float(found.noise_var)
    here = log_density(*at)
    assert found.converged and abs(float(found.log_density) - here) < 1e-7
    # SciPy, by differences of the density, stops a little below.
    assert -1e-7 < here + best.fun < 1e-3
    np.testing.assert_allclose(np.log(lengths), best.x[1:3], atol=0.01)
    assert found.posterior.derivatives is not None and not found.only_noise
    again = found.prior.condition(Y, found.noise_var, derivatives)
    np.testing.assert_allclose(found.posterior.weights, again.weights)
    assert f"{N} data and {M} derivatives" in str(found)
    alone = stats.norm.logpdf(Y, scale=np.sqrt(np.mean(Y**2))).sum()
    alone += stats.norm.logpdf(SLOPES, scale=np.sqrt(NOISE)).sum()
    assert abs(float(found.noise_log_density) - alone) < 1e-9


@pytest.mark.exhaustive
@pytest.mark.parametrize("units", [(1e6, 1e6), (1e-6, 1e6)])
def test_units_of_the_inputs_do_not_matter(x64, units):
    """Slopes change by the inverse of their input's unit."""
    units = np.array(units)
    prior = GPPrior(Matern(2.5, 1.0, np.ones(D)), X)
    data = Derivatives(SITES, DIMS, SLOPES, NOISE)
    options = {"tolerance": 1e-7, "max_steps": 400}
    expected = fit(prior, Y, 0.1, data, n_starts=2, key=jr.key(0), **options)
    slopes, noise = SLOPES / units[DIMS], NOISE / units[DIMS] ** 2
    scaled = GPPrior(Matern(2.5, 1.0, np.ones(D)), units * X)
    data = Derivatives(units * SITES, DIMS, slopes, noise)
    found = fit(scaled, Y, 0.1, data, **options)
    shift = np.log(units[DIMS]).sum()
    density = float(found.log_density) - shift
    assert abs(density - float(expected.starts.log_density[1])) < 1e-6 * (N + M)
    assert not found.only_noise


@pytest.mark.exhaustive
def test_flat_slopes_are_noise(x64):
    """A level and slopes of zero are nothing; one datum with slopes that are not is
    something."""
    quiet = Derivatives(SITES, DIMS, np.zeros(M), NOISE)
    y = 5 + 0.1 * RNG.normal(size=N)
    level = GPPrior(RBF(25.0, 1e4), X).condition(y, 0.01, quiet)
    assert beside_noise(level, is_fixed=False).is_noise
    loud = Derivatives(SITES, DIMS, SLOPES, NOISE)
    one = GPPrior(RBF(1.0, np.ones(D)), X[:1]).condition(Y[:1], 0.1, loud)
    assert not beside_noise(one, is_fixed=True).is_noise


@pytest.mark.exhaustive
def test_the_gradient_of_the_refit_by_their_values(x64):
    """By the implicit function theorem, against differences of whole fits; with the
    hyperparameters held the same check fails."""

    def predicted(slopes, noise):
        data = Derivatives(SITES, DIMS, slopes, noise)
        prior = GPPrior(RBF(1.0, np.ones(D)), X)
        found = fit(prior, Y, 0.1, data, tolerance=1e-10)
        return found.posterior.predict_mean(jnp.ones((1, D)))[0], found

    both = jax.jit(jax.value_and_grad(predicted, argnums=(0, 1), has_aux=True))
    (_, found), (by_slopes, by_noise) = both(SLOPES, NOISE)

    def held(slopes):
        data = Derivatives(SITES, DIMS, slopes, NOISE)
        posterior = found.prior.condition(Y, found.noise_var, data)
        return posterior.predict_mean(jnp.ones((1, D)))[0]

    def difference(step, of_noise):
        values = [
            both(SLOPES + s * (not of_noise), NOISE + s * of_noise)[0][0]
            for s in (step, -step)
        ]
        return (values[0] - values[1]) / (2 * np.abs(step).sum())

    for i in (0, 3):
        step = 1e-5 * np.eye(M)[i]
        assert np.isclose(by_slopes[i], difference(step, False), rtol=1e-4)
        assert np.isclose(by_noise[i], difference(step, True), rtol=1e-4)
    kept = jax.grad(held)(SLOPES)
    assert np.abs(kept - by_slopes).max() > 0.05 * np.abs(by_slopes).max()
