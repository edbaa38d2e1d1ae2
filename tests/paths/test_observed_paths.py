"""Paths of data among rows that were not observed: they are paths of the data."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from _moments import (
    UnitVectors,
    eager_samplers,
    problem,
    relative_error,
    strict_float64,
)
from helpers import few_of

from pyrox.gp import (
    RBF,
    Derivatives,
    FourierGrid,
    GPPrior,
    PathwiseSampler,
    diagnose,
)
from pyrox.gp._paths import samplers

N_DATA, N_FEATURES = 10, 48
CASE = problem("Matern-3/2", N_DATA, 7, 2, jitter=0.05)
SEEN: Any = ~np.isin(np.arange(N_DATA), [1, 4, N_DATA - 1])
# Beyond any domain around the data, if it counted.
FAR = np.where(SEEN[:, None], CASE.X, 50.0)
ALONE = dataclasses.replace(
    CASE, X=CASE.X[SEEN], y=CASE.y[SEEN], noise_var=CASE.noise_var[SEEN]
)


@pytest.fixture(autouse=True)
def _strict():
    with strict_float64():
        yield


def among(derivatives=None) -> Any:
    y, noise = (np.where(SEEN, a, np.nan) for a in (CASE.y, CASE.noise_var))
    prior = dataclasses.replace(CASE, X=FAR).prior()
    return prior.condition(y, noise, derivatives, observed=SEEN)


def moment_errors(monkeypatch) -> tuple[float, float]:
    eager_samplers(monkeypatch)
    draws = UnitVectors(N_FEATURES + N_DATA)
    monkeypatch.setattr(samplers, "jr", draws)
    sampler = PathwiseSampler(among(), N_FEATURES)
    paths = sampler.sample_paths(jr.key(3), draws.n_draws)
    mean, cov = draws.moments(paths(CASE.queries))
    wanted = ALONE.exact()
    return (
        relative_error(mean, wanted.mean(CASE.queries)),
        relative_error(cov, wanted.path_cov(CASE.queries, paths.features)),
    )


@pytest.mark.exhaustive
def test_paths_have_the_moments_of_the_data_alone(monkeypatch):
    assert max(moment_errors(monkeypatch)) < 1e-9


@pytest.mark.exhaustive
def test_draws_in_rows_not_observed_would_be_noticed(monkeypatch):
    """Updates of all rows, and a noise of one there."""

    def given(mean, noise_var, **rest):
        return samplers_given(mean, jnp.where(SEEN, noise_var, 1.0), **rest)

    samplers_given = samplers.AnchorValues
    monkeypatch.setattr(samplers, "AnchorValues", given)
    monkeypatch.setattr(samplers, "only", lambda observed, x: x)
    assert max(moment_errors(monkeypatch)) > 1e-3


@pytest.mark.exhaustive
def test_updates_are_zero_where_nothing_was_observed():
    paths = PathwiseSampler(among(), N_FEATURES).sample_paths(jr.key(0), 3)
    weights = np.asarray(paths.update_weights)
    assert not weights[:, ~SEEN].any() and weights[:, SEEN].all()
    assert np.abs(np.asarray(paths.domain)).max() < 3  # around the data, not FAR


@pytest.mark.exhaustive
def test_the_certificate_leaves_them_out():
    paths = PathwiseSampler(among(), N_FEATURES).sample_paths(jr.key(0), 3)
    found, cov = diagnose(paths, CASE.queries), ALONE.exact().cov(CASE.queries)
    np.testing.assert_allclose(found.exact_sd, np.sqrt(np.diag(cov)), atol=1e-12)
    assert found.mean_error < 1e-9


@pytest.mark.exhaustive
def test_slopes_are_all_observed():
    sites = np.array([[0.2, 0.3], [0.6, 0.7]])
    slopes = Derivatives(sites, [0, 1], np.ones(2), 0.1)
    few = PathwiseSampler(ALONE.prior().condition(ALONE.y, ALONE.noise_var, slopes), 64)
    many = PathwiseSampler(among(slopes), 64)
    paths, wanted = (s.sample_paths(jr.key(0), 3) for s in (many, few))
    weights = np.asarray(paths.update_weights)
    assert not weights[:, :N_DATA][:, ~SEEN].any() and weights[:, N_DATA:].all()
    np.testing.assert_array_equal(paths.domain, wanted.domain)
    found, other = (diagnose(p, CASE.queries) for p in (paths, wanted))
    np.testing.assert_allclose(found.exact_sd, other.exact_sd, atol=1e-12)
    np.testing.assert_allclose(found.implied_sd, other.implied_sd, atol=1e-9)
    assert found.mean_error < 1e-9


@pytest.mark.exhaustive
def test_a_stated_domain_need_hold_the_observed_alone():
    basis = FourierGrid((np.zeros(2), np.ones(2)))
    paths = PathwiseSampler(among(), 64, basis).sample_paths(jr.key(0), 3)
    assert np.isfinite(paths(CASE.queries)).all()
    y, X = np.where(SEEN, CASE.y, 0.0), np.where(SEEN[:, None], CASE.X, 50.0)
    with pytest.raises(ValueError, match="must lie inside the domain"):
        everything = GPPrior(RBF(), X).condition(y, 0.1)
        PathwiseSampler(everything, 64, basis).sample_paths(jr.key(0))


@pytest.mark.exhaustive
def test_paths_of_nothing_observed_are_prior_draws():
    none = np.zeros(N_DATA, bool)
    posterior = CASE.prior().condition(CASE.y, 0.1, observed=none)
    sampler = PathwiseSampler(posterior, 64)
    paths = sampler.sample_paths(jr.key(0), 3)
    assert not np.any(paths.update_weights)
    found = diagnose(paths, CASE.queries)
    prior = diagnose(PathwiseSampler(CASE.prior(), 64), CASE.queries)
    np.testing.assert_allclose(found.exact_sd, prior.exact_sd)


@pytest.mark.exhaustive
def test_one_program_draws_for_data_of_all_sizes_and_has_gradients():
    masks = np.stack([SEEN, SEEN & (np.arange(N_DATA) < 5)])

    def total(y, noise, observed):
        posterior = CASE.prior().condition(y, noise, observed=observed)
        paths = PathwiseSampler(posterior, 64).sample_paths(jr.key(0), 2)
        return paths(CASE.queries).sum()

    y, noise = (np.where(SEEN, a, np.nan) for a in (CASE.y, CASE.noise_var))
    one = jax.jit(jax.value_and_grad(total, argnums=(0, 1)))
    mapped = jax.jit(jax.vmap(one, in_axes=(None, None, 0)))(y, noise, masks)
    for i, mask in enumerate(masks):
        value, slopes = one(y, noise, mask)
        np.testing.assert_allclose(mapped[0][i], value, atol=1e-9)
        for slope in slopes:
            assert np.isfinite(slope).all() and not np.any(slope[~mask])


@pytest.mark.parametrize("has_factor", few_of([True, False], True))
def test_what_they_are_told_has_the_gain_of_the_data_alone(has_factor):
    """Told two things they differ by Cov(x, X) (Cov(X, X) + noise)^-1 (y - y'), since
    the noise of what is told comes with the path."""
    paths = PathwiseSampler(among(), N_FEATURES).sample_paths(jr.key(0), 3)
    if not has_factor:
        known: Any = paths.given
        given = dataclasses.replace(known, inverse=None)
        paths = dataclasses.replace(paths, given=given)
    new, noise = CASE.queries[:2], 0.03
    x = CASE.queries[2:]
    y = np.array([[0.3, -0.2], [1.1, 0.4]])
    one, other = (paths.condition_on(new, values, noise)(x) for values in y)
    points = np.concatenate([x, new])
    posterior: Any = ALONE.posterior()
    cov, n = np.asarray(posterior.predict_cov(points)), len(x)
    jitter = float(np.max(posterior.jitter_var))
    block = cov[n:, n:] + (noise + jitter) * np.eye(2)
    wanted = cov[:n, n:] @ np.linalg.solve(block, y[0] - y[1])
    np.testing.assert_allclose(one - other, np.tile(wanted, (3, 1)), atol=1e-9)
