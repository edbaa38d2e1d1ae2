"""Compiled samplers at full size: moments of many paths against the Gaussian that their
features imply, and that Gaussian against the posterior.

Given its features a path is exactly Gaussian, so errors of sampling and of features are
held to limits of their own. (With frequencies drawn anew for each path the covariance
would tend to the kernel's for any number of features, and hide their error.)
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _moments import (
    BROKEN,
    KINDS,
    Problem,
    Process,
    break_matheron,
    eager_samplers,
    false_alarm,
    guide,
    problem,
    strays,
    strict_float64,
)
from helpers import few_of

from pyrox.gp import (
    AbstractFeatures,
    DecoupledPathwiseSampler,
    FourierFeatures,
    PathwiseSampler,
)

N_PATHS, N_FEATURES, IN_SIZE, N_DATA, N_QUERIES = 16_384, 4096, 3, 32, 64
LARGEST_Z = 5.3
LARGEST_RMS = 0.03
# Short enough that the posterior keeps much of the prior's variance, and so of the
# features' error.
LENGTHSCALE = 0.3
SAMPLERS = ("exact", "FullRankGuide", "WhitenedGuide")
CASES = [(kind, name) for kind in KINDS for name in SAMPLERS]
# 67 million weights a case: single precision halves their time and memory, and rounds
# by less than 0.01 standard errors (measured). The references are in double.
DTYPE = "float32"


@pytest.fixture(autouse=True)
def _strict():
    with strict_float64():
        yield


def _large(kind: str) -> Problem:
    # Jitter of the size of the noise, else its absence could not be seen.
    return problem(
        kind, N_DATA, N_QUERIES, IN_SIZE, jitter=0.04, lengthscale=LENGTHSCALE
    )


def _sampler(case: Problem, name: str, n_features: int):
    if name == "exact":
        return PathwiseSampler(case.posterior(DTYPE), n_features)
    q = guide(name, N_DATA, DTYPE)
    return DecoupledPathwiseSampler(case.sparse_prior(DTYPE), q, n_features)


def _process(case: Problem, name: str) -> Process:
    return case.exact() if name == "exact" else case.sparse(name)


def _key(kind: str, name: str) -> jax.Array:
    return jax.random.key(CASES.index((kind, name)))


@dataclasses.dataclass(frozen=True)
class Figures:
    mean_z: float
    cov_z: float
    rms: float


def _figures(kind: str, name: str, n_features: int) -> Figures:
    case = _large(kind)
    process, X = _process(case, name), case.queries
    sampler = _sampler(case, name, n_features)
    paths = sampler.sample_paths(_key(kind, name), N_PATHS)
    implied = process.mean(X), process.path_cov(X, paths.features)
    mean_z, cov_z = strays(paths(X.astype(DTYPE)), *implied)
    return Figures(mean_z, cov_z, _features_rms(process, X, paths.features))


def _features_rms(process: Process, X: np.ndarray, features: AbstractFeatures) -> float:
    """How far the covariance that these features imply is from the posterior's."""
    error = process.path_cov(X, features) - process.cov(X)
    return float(np.sqrt(np.mean(error**2)))


@pytest.fixture(scope="module")
def table():
    rows: dict[tuple[str, str], Figures] = {}
    yield rows
    print(f"\n{N_PATHS} paths, {N_FEATURES} features, D = {IN_SIZE}")
    print(f"{'':26s} max z mean  max z cov  RMS to posterior")
    for (kind, name), f in rows.items():
        print(f"{kind:12s}{name:14s}{f.mean_z:11.2f}{f.cov_z:11.2f}{f.rms:18.4f}")


@pytest.fixture(
    scope="module",
    params=few_of(CASES, whole=True),
    ids=lambda param: "-".join(param),
)
def figures(request, table):
    kind, name = request.param
    with strict_float64():
        table[kind, name] = _figures(kind, name, N_FEATURES)
    return table[kind, name]


def test_moments_are_those_of_the_drawn_features(figures):
    assert figures.mean_z < LARGEST_Z
    assert figures.cov_z < LARGEST_Z


def test_drawn_features_give_the_posterior_covariance(figures):
    assert figures.rms < LARGEST_RMS


def test_the_limit_has_the_false_alarm_rate_that_is_stated():
    # Means and the covariance's entries on and above the diagonal; normal limit.
    n_comparisons = len(CASES) * (N_QUERIES + N_QUERIES * (N_QUERIES + 1) // 2)
    print(
        f"\nfalse alarms, {n_comparisons}: {false_alarm(LARGEST_Z, n_comparisons):.1e}"
    )
    assert false_alarm(LARGEST_Z, n_comparisons) < 0.004


# The comparison is given the features, so its twins can do with fewer of them.
FEW_FEATURES = 128


def _worst_z(name: str) -> float:
    found = _figures("Matern-3/2", name, FEW_FEATURES)
    return max(found.mean_z, found.cov_z)


@pytest.mark.parametrize("name", few_of(SAMPLERS))
def test_the_twins_pass_while_unbroken(monkeypatch, name):
    eager_samplers(monkeypatch)
    assert _worst_z(name) < LARGEST_Z


# A sparse path has one residual noise, the jitter: there is no uneven one to average.
MISTAKES = [
    (mistake, name)
    for mistake in BROKEN
    for name in SAMPLERS
    if name == "exact" or mistake != "one noise for all data"
]


@pytest.mark.parametrize(("mistake", "name"), few_of(MISTAKES))
def test_a_broken_sampler_is_noticed(monkeypatch, mistake, name):
    eager_samplers(monkeypatch)
    break_matheron(monkeypatch, mistake)
    assert _worst_z(name) > LARGEST_Z


@pytest.mark.parametrize(("kind", "name"), few_of(CASES))
def test_too_few_features_are_noticed(kind, name):
    case = _large(kind)
    features = case.kernel.library().features(jax.random.key(0), 64, IN_SIZE)
    assert _features_rms(_process(case, name), case.queries, features) > LARGEST_RMS


@pytest.mark.parametrize("name", SAMPLERS)
def test_coordinatewise_student_t_is_noticed(name):
    # Of the Materns the roughest, which loses most; `test_features_statistics.py`
    # tells all of them.
    case, rng = _large("Matern-1/2"), np.random.default_rng(0)
    shape = N_FEATURES // 2, IN_SIZE
    frequencies = rng.normal(size=shape) / np.sqrt(rng.gamma(0.5, 2, shape))
    wrong = FourierFeatures(
        jnp.asarray(frequencies / case.kernel.lengthscale),
        jnp.full(shape[:1], case.kernel.variance / shape[0]),
    )
    assert _features_rms(_process(case, name), case.queries, wrong) > LARGEST_RMS
