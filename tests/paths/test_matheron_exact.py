"""Matheron's rule to rounding: its paths are affine in their normal draws, so their
mean and covariance given the drawn features are numbers, not estimates.
"""

import dataclasses

import jax
import pytest
from _moments import (
    BROKEN,
    GUIDES,
    KINDS,
    Problem,
    Process,
    UnitVectors,
    break_matheron,
    eager_samplers,
    fourier,
    guide,
    no_trend,
    problem,
    relative_error,
    strict_float64,
    trend,
)
from helpers import few_of

from pyrox.gp import DecoupledPathwiseSampler, PathwiseSampler
from pyrox.gp._paths import samplers
from pyrox.gp._posterior import guide as q_of_u

ROUNDING = 1e-9
N_DATA, N_FEATURES = 10, 48


@pytest.fixture(autouse=True)
def _strict_and_eager(monkeypatch):
    eager_samplers(monkeypatch)
    with strict_float64():
        yield


def _small(kind: str, one_noise: bool = False) -> Problem:
    # A jitter of the size of the noise: one that is left out somewhere must show.
    return problem(kind, N_DATA, 7, 2, jitter=0.05, one_noise=one_noise)


def _errors(sampler, draws: UnitVectors, process: Process, queries) -> list[float]:
    """How far the moments of the paths are from the formula's, relatively."""
    paths = sampler.sample_paths(jax.random.key(3), draws.n_draws)
    mean, cov = draws.moments(paths(queries))
    wanted = process.mean(queries), process.path_cov(queries, paths.features)
    return [relative_error(mean, wanted[0]), relative_error(cov, wanted[1])]


def _exact_errors(monkeypatch, case: Problem) -> list[float]:
    draws = UnitVectors(N_FEATURES + N_DATA)
    monkeypatch.setattr(samplers, "jr", draws)
    sampler = PathwiseSampler(case.posterior(), N_FEATURES)
    return _errors(sampler, draws, case.exact(), case.queries)


def _sparse_errors(
    monkeypatch, case: Problem, kind: str, expected: str | None = None
) -> list[float]:
    draws = UnitVectors(N_DATA, N_FEATURES + N_DATA)  # u, then w and e
    for module in (q_of_u, samplers):
        monkeypatch.setattr(module, "jr", draws)
    q = guide(kind, N_DATA)
    sampler = DecoupledPathwiseSampler(case.sparse_prior(), q, N_FEATURES)
    return _errors(sampler, draws, case.sparse(expected or kind), case.queries)


SETTINGS = [*((kind, False) for kind in KINDS), ("Matern-3/2", True)]


@pytest.mark.parametrize(("kind", "one_noise"), few_of(SETTINGS, ("Matern-3/2", True)))
def test_exact_paths_have_the_moments_of_the_formula(monkeypatch, kind, one_noise):
    assert max(_exact_errors(monkeypatch, _small(kind, one_noise))) < ROUNDING


@pytest.mark.parametrize("kind", GUIDES)
def test_decoupled_paths_have_the_moments_of_the_formula(monkeypatch, kind):
    assert max(_sparse_errors(monkeypatch, _small("Matern-3/2"), kind)) < ROUNDING


@pytest.mark.parametrize("mistake", BROKEN)
def test_a_broken_exact_sampler_is_noticed(monkeypatch, mistake):
    break_matheron(monkeypatch, mistake)
    assert max(_exact_errors(monkeypatch, _small("Matern-3/2"))) > 1e-3


# A sparse path has one residual noise, the jitter: there is no uneven one to average.
SPARSE_MISTAKES = [m for m in BROKEN if m != "one noise for all data"]


@pytest.mark.parametrize("kind", GUIDES)
@pytest.mark.parametrize("mistake", SPARSE_MISTAKES)
def test_a_broken_decoupled_sampler_is_noticed(monkeypatch, mistake, kind):
    break_matheron(monkeypatch, mistake)
    assert max(_sparse_errors(monkeypatch, _small("Matern-3/2"), kind)) > 1e-3


def test_reading_a_whitened_guide_as_plain_is_noticed(monkeypatch):
    case = _small("Matern-3/2")
    errors = _sparse_errors(monkeypatch, case, "WhitenedGuide", "FullRankGuide")
    assert max(errors) > 1e-3


def _prior_errors(monkeypatch, case: Problem) -> list[float]:
    draws = UnitVectors(N_FEATURES + N_DATA)
    monkeypatch.setattr(samplers, "jr", draws)
    sampler = PathwiseSampler(case.prior(), N_FEATURES)
    paths = sampler.sample_paths(jax.random.key(3), draws.n_draws)
    mean, cov = draws.moments(paths(case.queries))
    phi = fourier(paths.features, case.queries)
    wanted = trend(case.queries), phi @ phi.T
    return [relative_error(mean, wanted[0]), relative_error(cov, wanted[1])]


def test_prior_paths_have_the_moments_of_their_features(monkeypatch):
    assert max(_prior_errors(monkeypatch, _small("RBF"))) < ROUNDING


def test_prior_paths_of_another_mean_are_noticed(monkeypatch):
    wrong = dataclasses.replace(_small("RBF"), mean_fn=no_trend)
    assert max(_prior_errors(monkeypatch, wrong)) > 1e-3
