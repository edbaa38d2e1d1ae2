"""Fits by leave-one-out scores: against SciPy's optima of data left out by hand."""

# Wrong arguments are passed on purpose.
# pyright: reportArgumentType=false

import functools
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import optimize, stats

from pyrox.gp import (
    RBF,
    ConjugateGradients,
    GPPrior,
    crps,
    fit,
    leave_one_out,
    log_score,
)

pytestmark = pytest.mark.usefixtures("plainly_compiled")

RNG = np.random.default_rng(0)
N = 14
X = np.sort(RNG.uniform(0, 3, N))[:, None]
Y = np.sin(3 * X[:, 0]) + 0.2 * RNG.normal(size=N)
Y[4] += 1.5  # an outlier, which the scores weigh in their own way


def left_out(variance, lengthscale, noise_var):
    """Mean and variance of each value, from a matrix without its row."""
    K = variance * np.exp(-0.5 * ((X - X.T) / lengthscale) ** 2)
    A = K + (noise_var + 1e-6 * variance) * np.eye(N)
    found = []
    for i in range(N):
        rest = np.arange(N) != i
        gain = np.linalg.solve(A[np.ix_(rest, rest)], K[rest, i])
        found.append((gain @ Y[rest], A[i, i] - gain @ K[rest, i]))
    return np.array(found).T


def by_crps(mean, var):
    z = (Y - mean) / np.sqrt(var)
    inner = z * (2 * stats.norm.cdf(z) - 1) + 2 * stats.norm.pdf(z) - np.pi**-0.5
    return np.sqrt(var) * inner


def by_log(mean, var):
    return -stats.norm.logpdf(Y, mean, np.sqrt(var))


def least(score, prior=lambda *values: 0.0):
    def total(u):
        values = np.exp(u)
        return score(*left_out(*values)).sum() - prior(*values)

    start = np.log([0.7, 0.5, 0.1])
    how: dict = {"xatol": 1e-9, "fatol": 1e-12, "maxiter": 5000, "maxfev": 5000}
    return np.exp(optimize.minimize(total, start, method="Nelder-Mead", options=how).x)


def numbers(found):
    kernel = found.prior.kernel
    return np.array([kernel.variance, kernel.lengthscale, found.noise_var])


quiet: Any = functools.partial(fit, progress=False, n_starts=1)


def test_leave_one_out_is_that_of_data_left_out(x64):
    f = GPPrior(RBF(0.8, 0.5), X).condition(Y, 0.1)
    np.testing.assert_allclose(leave_one_out(f), left_out(0.8, 0.5, 0.1), rtol=1e-8)
    scores = -np.asarray(log_score(leave_one_out(f), None, Y))
    np.testing.assert_allclose(scores, f.leave_one_out_log_density(), rtol=1e-10)
    seen = np.arange(N) != 3
    some = GPPrior(RBF(0.8, 0.5), X).condition(Y, 0.1, observed=seen)
    alone = GPPrior(RBF(0.8, 0.5), X[seen]).condition(Y[seen], 0.1)
    got = np.asarray(leave_one_out(some))
    np.testing.assert_allclose(got[:, seen], leave_one_out(alone), rtol=1e-8)
    assert np.isnan(got[:, 3]).all()
    told = alone.condition_on(X[3:4], Y[3:4], 0.1)
    got = np.sort(np.asarray(leave_one_out(told)), axis=1)
    np.testing.assert_allclose(got, np.sort(left_out(0.8, 0.5, 0.1)), rtol=1e-8)


@pytest.mark.parametrize(
    "objective, score",
    [
        (crps, by_crps),
        pytest.param(log_score, by_log, marks=pytest.mark.exhaustive),
    ],
)
def test_the_optimum_is_that_of_scipy(objective, score, x64):
    prior = GPPrior(RBF(0.7, 0.5), X)
    found = quiet(prior, Y, 0.1, objective=objective, tolerance=1e-9)
    best = least(score)
    np.testing.assert_allclose(numbers(found), best, rtol=1e-4)
    np.testing.assert_allclose(found.score, score(*left_out(*best)).mean(), rtol=1e-8)
    assert found.converged and "leave-one-out score" in str(found)
    # It is another optimum than that of the likelihood, whose fit is as it was.
    plain = quiet(prior, Y, 0.1, tolerance=1e-9)
    assert plain.score is None and "leave-one-out" not in str(plain)
    assert plain.log_marginal_likelihood > found.log_marginal_likelihood + 0.05
    other = np.mean(objective(leave_one_out(plain.posterior), None, Y))
    assert found.score < other - 1e-4


@pytest.mark.exhaustive
def test_priors_masks_and_refits_are_as_ever(x64):
    scale = dist.LogNormal(jnp.asarray(-1.0), 0.2)
    kernel = RBF(0.7, 0.5).with_priors(lengthscale=scale)
    found = quiet(GPPrior(kernel, X), Y, 0.1, objective=crps, tolerance=1e-9)

    def log_prior(variance, lengthscale, noise_var):
        return stats.lognorm.logpdf(lengthscale, 0.2, scale=np.exp(-1.0))

    np.testing.assert_allclose(numbers(found), least(by_crps, log_prior), rtol=1e-4)
    seen, loud = np.arange(N) != 4, np.where(np.arange(N) != 4, Y, np.nan)
    how: dict = {"objective": crps, "tolerance": 1e-9}
    masked = quiet(GPPrior(RBF(0.7, 0.5), X), loud, 0.1, observed=seen, **how)
    alone = quiet(GPPrior(RBF(0.7, 0.5), X[seen]), Y[seen], 0.1, **how)
    np.testing.assert_allclose(numbers(masked), numbers(alone), rtol=1e-5)
    np.testing.assert_allclose(masked.score, alone.score, rtol=1e-8)

    def refit(y):
        return quiet(GPPrior(RBF(0.7, 0.5), X), y, 0.1, **how).noise_var

    slope = jax.jit(jax.grad(refit))(jnp.asarray(Y))
    step = np.where(np.arange(N) == 2, 1e-5, 0)
    expected = (refit(Y + step) - refit(Y - step)) / 2e-5
    np.testing.assert_allclose(slope[2], expected, rtol=1e-3)


def test_bad_objectives_are_told_in_a_sentence():
    prior = GPPrior(RBF(), X)
    with pytest.raises(ValueError, match="must be a score.*Got 'crps'"):
        quiet(prior, Y, 0.1, objective="crps")
    with pytest.raises(ValueError, match="Do not average"):
        quiet(prior, Y, 0.1, objective=lambda f, X, y: jnp.mean(f[0] - y))
    solver = ConjugateGradients()
    with pytest.raises(ValueError, match="need a Cholesky factor"):
        quiet(prior, Y, 0.1, objective=crps, solver=solver, key=jr.key(0))
    with pytest.raises(ValueError, match="must be one ConditionedGP. Got a GPPrior"):
        leave_one_out(prior)
