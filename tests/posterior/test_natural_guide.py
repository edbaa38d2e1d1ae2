"""NaturalGuide, its natural-gradient step, and log_prob of guides."""

# pyright: reportArgumentType=false

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from helpers import few_of
from scipy import stats

from pyrox.gp import (
    RBF,
    FullRankGuide,
    MeanFieldGuide,
    NaturalGuide,
    SparseGPPrior,
    WhitenedGuide,
    optimal_guide,
)

pytestmark = [pytest.mark.usefixtures("plainly_compiled"), pytest.mark.numpyro]

X = np.linspace(-1, 1, 20)[:, None]
Y = np.sin(3 * X[:, 0])
ROOT = np.array([[0.7, 0.0, 0.0], [0.2, 0.6, 0.0], [-0.1, 0.3, 0.4]])
MEAN = np.array([0.4, 0.9, -0.3])


def prior():
    return SparseGPPrior(RBF(1.3, 0.6), X[[2, 9, 16]], lambda X: 0.2 * X[:, 0])


def natural():
    precision = np.linalg.inv(ROOT @ ROOT.T)
    precision = (precision + precision.T) / 2
    return NaturalGuide(precision @ MEAN, precision)


@pytest.mark.exhaustive
def test_it_answers_as_the_whitened_guide_of_its_moments(x64):
    guide, same = natural(), WhitenedGuide(MEAN, ROOT)
    np.testing.assert_allclose(guide.kl(prior()), same.kl(prior()), rtol=1e-10)
    for found, wanted in zip(
        guide.predict(prior(), X), same.predict(prior(), X), strict=True
    ):
        np.testing.assert_allclose(found, wanted, rtol=1e-10)
    bound = guide.elbo(prior(), X, Y, 0.1)
    np.testing.assert_allclose(bound, same.elbo(prior(), X, Y, 0.1), rtol=1e-10)


def test_for_gaussian_noise_one_step_is_the_optimum(x64):
    bound = prior().log_marginal_bound(X, Y, 0.1)
    for start in (NaturalGuide.init(3), natural()):
        found = start.natural_update(prior(), X, Y, 0.1)
        np.testing.assert_allclose(found.elbo(prior(), X, Y, 0.1), bound, rtol=1e-9)
    half = NaturalGuide.init(3).natural_update(prior(), X, Y, 0.1, rate=0.5)
    best = optimal_guide(prior(), X, Y, 0.1)
    covariance = best.scale_tril @ best.scale_tril.T
    average = (np.eye(3) + np.linalg.inv(covariance)) / 2
    np.testing.assert_allclose(half.precision, average, rtol=1e-8)
    np.testing.assert_allclose(half.linear, found.linear / 2, rtol=1e-8, atol=1e-9)


@pytest.mark.exhaustive
def test_a_minibatch_stands_for_all_data(x64):
    twice = NaturalGuide.init(3).natural_update(
        prior(), np.concatenate([X, X]), np.concatenate([Y, Y]), 0.1
    )
    found = NaturalGuide.init(3).natural_update(prior(), X, Y, 0.1, n_total=40)
    np.testing.assert_allclose(found.precision, twice.precision, rtol=1e-9)
    np.testing.assert_allclose(found.linear, twice.linear, rtol=1e-9, atol=1e-12)


@pytest.mark.exhaustive
def test_a_step_to_no_gaussian_is_halved(x64):
    def heavy(f):
        return dist.StudentT(3.0, f, 0.05)

    far = NaturalGuide(1e3 * np.ones(3), 1e3 * np.eye(3))
    found = far.natural_update(prior(), X, 9 + Y, likelihood=heavy)
    assert np.linalg.eigvalsh(found.precision).min() > 0
    whole = 2 * np.asarray(found.precision) - np.asarray(far.precision)
    assert np.linalg.eigvalsh(whole).min() < 0  # twice the step was too much
    traced = jax.jit(lambda y: far.natural_update(prior(), X, y, likelihood=heavy))
    np.testing.assert_allclose(traced(9 + Y).precision, found.precision, rtol=1e-8)


@pytest.mark.parametrize(
    "kind", few_of([FullRankGuide, WhitenedGuide, MeanFieldGuide], WhitenedGuide)
)
def test_log_prob_is_the_density_of_its_draws(kind, x64):
    spread = np.diagonal(ROOT) if kind is MeanFieldGuide else ROOT
    guide, K = kind(MEAN, spread), np.asarray(prior().kernel(prior().Z, prior().Z))
    L = np.linalg.cholesky(K + 1.3e-6 * np.eye(3))
    law = {
        FullRankGuide: lambda: stats.multivariate_normal(MEAN, ROOT @ ROOT.T),
        MeanFieldGuide: lambda: stats.multivariate_normal(MEAN, spread**2),
        WhitenedGuide: lambda: stats.multivariate_normal(
            0.2 * X[[2, 9, 16], 0] + L @ MEAN, L @ ROOT @ (L @ ROOT).T
        ),
    }[kind]()
    u = np.random.default_rng(0).standard_normal((2, 4, 3))
    found = guide.log_prob(u, prior())
    np.testing.assert_allclose(found, law.logpdf(u), rtol=1e-7)
    assert guide.log_prob(u[0, 0], prior()).shape == ()


def test_types_and_sentences():
    small = SparseGPPrior(RBF(), X[::8].astype("float32"))
    found = NaturalGuide.init(3).natural_update(small, X.astype("float32"), Y, 0.1)
    assert found.precision.dtype == np.float32
    with pytest.raises(ValueError, match="shape \\(3,\\) and a precision of shape"):
        NaturalGuide(np.zeros(3), np.eye(2))
    with pytest.raises(ValueError, match="precision` must be finite and positive def"):
        NaturalGuide(np.zeros(2), -np.eye(2))
    with pytest.raises(ValueError, match="rate=.* above 0 and at most 1. Got 0"):
        NaturalGuide.init(3).natural_update(small, X, Y, 0.1, rate=0.0)
    with pytest.raises(ValueError, match=r"\(..., 3\).*Got \(4,\)"):
        NaturalGuide.init(3).log_prob(jnp.zeros(4), small)
