"""log_predictive_density and predict_observation."""

# pyright: reportArgumentType=false

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from helpers import few_of
from scipy import integrate, stats

from pyrox.gp import (
    RBF,
    DecoupledPathwiseSampler,
    GPPrior,
    PathwiseSampler,
    SparseGPPrior,
    log_predictive_density,
    optimal_guide,
    predict_observation,
)

pytestmark = [pytest.mark.usefixtures("plainly_compiled"), pytest.mark.numpyro]

X = np.linspace(-1, 1, 12)[:, None]
Y = np.sin(3 * X[:, 0])
AT = np.array([[-1.5], [0.1], [0.8]])
COUNTS = np.array([0, 3, 1])
KEY = jax.random.key(0)


def poisson(f):
    return dist.Poisson(jnp.exp(f))


def exact():
    return GPPrior(RBF(1.3, 0.5), X).condition(Y, 0.04)


def sparse():
    prior = SparseGPPrior(RBF(1.3, 0.5), X[::2])
    return prior, optimal_guide(prior, X, Y, 0.04)


def paths(n):
    return PathwiseSampler(exact(), 512).sample_paths(KEY, n)


def by_scipy(mean, var):
    """log p(count), by adaptive quadrature."""

    def one(m, v, k):
        def g(f):
            return stats.poisson.pmf(k, np.exp(f)) * stats.norm.pdf(f, m, np.sqrt(v))

        s = np.sqrt(v)
        return np.log(integrate.quad(g, m - 9 * s, m + 9 * s, epsabs=1e-12)[0])

    return np.array([one(*row) for row in zip(mean, var, COUNTS, strict=True)])


@pytest.mark.parametrize("kind", few_of(["exact", "sparse"], "sparse"))
def test_densities_and_moments_of_counts(kind, x64):
    f = {"exact": exact, "sparse": sparse}[kind]()
    mean, var = f.predict(AT) if kind == "exact" else f[1].predict(f[0], AT)
    mean, var = np.asarray(mean), np.asarray(var)
    found = log_predictive_density(f, AT, COUNTS, poisson)
    np.testing.assert_allclose(found, by_scipy(mean, var), rtol=0, atol=1e-8)
    law = predict_observation(f, AT, poisson)
    rate = np.exp(mean + var / 2)
    np.testing.assert_allclose(law.mean, rate, rtol=1e-9)
    spread = rate + rate**2 * np.expm1(var)
    np.testing.assert_allclose(law.var, spread, rtol=1e-8)


@pytest.mark.exhaustive
def test_draws_and_quantiles(x64):
    """The mean of 4000 draws within 5 standard errors: 3 figures, one in a million."""
    law = predict_observation(exact(), AT, lambda f: dist.Laplace(f, 0.5))
    draws = np.asarray(law.sample(KEY, 4000))
    mean, var = (np.asarray(part) for part in exact().predict(AT))
    np.testing.assert_allclose(law.var, var + 0.5, rtol=1e-10)

    def largest_z(mean):
        return np.abs((draws.mean(0) - mean) / np.sqrt(law.var / 4000)).max()

    assert largest_z(mean) < 5 < largest_z(mean + 0.1)
    low, high = np.asarray(law.quantile(KEY, [0.05, 0.95]))
    inside = np.mean((draws >= low) & (draws <= high), axis=0)
    np.testing.assert_allclose(inside, 0.9, atol=1e-3)


def test_gaussian_noise_has_a_closed_form(x64):
    posterior = exact()
    mean, var = (np.asarray(part) for part in posterior.predict(AT))
    noise = np.array([0.04, 1e-8, 0.5])  # the second is far below the variance
    y = mean + 0.3
    found = log_predictive_density(posterior, AT, y, noise_var=noise)
    closed = stats.norm.logpdf(y, mean, np.sqrt(var + noise))
    np.testing.assert_allclose(found, closed, rtol=1e-9)
    law = predict_observation(posterior, AT, noise_var=noise)
    np.testing.assert_allclose(law.mean, mean, rtol=1e-12)
    np.testing.assert_allclose(law.var, var + noise, rtol=1e-10)


def test_paths_average_over_themselves(x64):
    f = paths(40)
    values = np.asarray(f(AT))
    found = log_predictive_density(f, AT, COUNTS, poisson)
    each = stats.poisson.pmf(COUNTS, np.exp(values))
    np.testing.assert_allclose(found, np.log(each.mean(0)), rtol=1e-9)
    law = predict_observation(f, AT, poisson)
    rates = np.exp(values)
    np.testing.assert_allclose(law.mean, rates.mean(0), rtol=1e-12)
    np.testing.assert_allclose(law.var, rates.mean(0) + rates.var(0), rtol=1e-10)
    sure = predict_observation(f, AT, lambda f: dist.Normal(f, 1e-9)).sample(KEY, 41)
    np.testing.assert_allclose(sure, values[[*range(40), 0]], atol=1e-7)
    y = values.mean(0)
    found = log_predictive_density(f, AT, y, noise_var=0.1)
    each = stats.norm.pdf(y, values, np.sqrt(0.1))
    np.testing.assert_allclose(found, np.log(each.mean(0)), rtol=1e-9)


def test_paths_of_several_functions(x64):
    """A level and a log deviation, draw by draw."""
    keys = jax.random.split(KEY, 2)
    sampler = PathwiseSampler(exact(), 64)
    both = [sampler.sample_paths(key, 40) for key in keys]
    f, g = (np.asarray(one(AT)) for one in both)

    def noisy(f):
        return dist.Normal(f[0], jnp.exp(f[1]))

    y = f.mean(0)
    found = log_predictive_density(both, AT, y, noisy)
    each = stats.norm.pdf(y, f, np.exp(g))
    np.testing.assert_allclose(found, np.log(each.mean(0)), rtol=1e-9)
    law = predict_observation(both, AT, noisy)
    np.testing.assert_allclose(law.mean, f.mean(0), rtol=1e-10)
    np.testing.assert_allclose(law.var, np.exp(2 * g).mean(0) + f.var(0), rtol=1e-9)
    assert law.sample(KEY, 7).shape == (7, 3)
    with pytest.raises(ValueError, match=r"as many paths of each.*Got \[40, 3\]"):
        predict_observation([both[0], both[1][:3]], AT, noisy)
    with pytest.raises(ValueError, match="of several.*Got noise_var"):
        predict_observation(both, AT, noise_var=0.1)
    with pytest.raises(ValueError, match="Got no likelihood"):
        log_predictive_density(both, AT, y)


@pytest.mark.exhaustive
def test_single_precision():
    f = sparse()
    assert log_predictive_density(f, AT, COUNTS, poisson).dtype == np.float32
    drawn = DecoupledPathwiseSampler(*f, 64).sample_paths(KEY, 3)
    law = predict_observation(drawn, AT, lambda f: dist.Bernoulli(logits=f))
    assert law.var.dtype == np.float32
    assert law.sample(KEY, 2).dtype == np.int32


def test_what_is_refused():
    with pytest.raises(ValueError, match=r"\(f, ...\)` must be a ConditionedGP.*RBF"):
        predict_observation(RBF(), AT, poisson)
    law = predict_observation(exact(), AT, noise_var=0.1)
    with pytest.raises(ValueError, match="must be from 0 to 1. Got 95.0"):
        law.quantile(KEY, [0.05, 95])
    with pytest.raises(ValueError, match="Got neither"):
        predict_observation(exact(), AT)
    with pytest.raises(ValueError, match="Got both"):
        log_predictive_density(exact(), AT, COUNTS, poisson, noise_var=0.1)
    with pytest.raises(ValueError, match="support.*Got -1 at"):
        log_predictive_density(exact(), AT, COUNTS - 1, poisson)
    with pytest.raises(ValueError, match=r"batch shape \(3,\).*Got \(\)"):
        predict_observation(exact(), AT, lambda f: dist.Normal(0.0, 1.0))
