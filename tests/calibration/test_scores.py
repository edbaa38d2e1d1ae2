"""Scores against `scoringrules`, closed forms, differences; calibration by chance."""

# Wrong arguments are passed on purpose.
# pyright: reportArgumentType=false

from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scoringrules
from helpers import central_difference
from scipy import stats

from pyrox.gp import (
    RBF,
    GPPrior,
    PathwiseSampler,
    SparseGPPrior,
    crps,
    energy_score,
    interval_coverage,
    log_predictive_density,
    log_score,
    optimal_guide,
    pit,
    variogram_score,
)

pytestmark = pytest.mark.usefixtures("plainly_compiled")

sr: Any = scoringrules
RNG = np.random.default_rng(0)
S, N = 12, 5
DRAWS = RNG.normal(size=(S, N)) * [1, 2, 0.1, 1, 1] + [0, 1, 0, 5, 0]
Y = np.array([0.3, -2.0, 0.0, 4.0, 30.0])
MEAN, VAR = DRAWS.mean(0), DRAWS.var(0)
WEIGHTS = RNG.uniform(size=(N, N))
X = np.linspace(0, 1, N)[:, None]
NOISE = 0.2


def posterior(noise_var: Any = NOISE):
    return GPPrior(RBF(1.0, 0.3), X).condition(np.sin(5 * X[:, 0]), noise_var)


def close(got, expected, tolerance=1e-10):
    np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance)


def test_scores_of_normals_are_those_of_scoringrules(x64):
    f = MEAN, VAR
    close(crps(f, None, Y), sr.crps_normal(Y, MEAN, np.sqrt(VAR)))
    close(log_score(f, None, Y), sr.logs_normal(Y, MEAN, np.sqrt(VAR)))
    close(pit(f, None, Y), stats.norm.cdf(Y, MEAN, np.sqrt(VAR)))


def test_scores_of_draws_are_those_of_scoringrules(x64):
    """The fair forms; the twin is the form that is not."""
    draws = DRAWS.T
    fair = sr.crps_ensemble(Y, draws, estimator="fair")
    close(crps(DRAWS, None, Y), fair)
    assert np.abs(fair - sr.crps_ensemble(Y, draws, estimator="nrg")).max() > 1e-2
    close(energy_score(DRAWS, None, Y), sr.es_ensemble(Y, DRAWS, estimator="fair"))
    for p in (0.5, 1.0, 2.0):
        got = variogram_score(DRAWS, None, Y, order=p, weights=WEIGHTS)
        how = {"p": p, "w": WEIGHTS, "backend": "numpy", "estimator": "fair"}
        close(got, sr.vs_ensemble(Y, DRAWS, **how))


def test_slopes_are_those_of_differences(x64):
    """In y and in the draws, ties between values and between draws apart."""
    scores = {
        "moments": lambda y: jnp.sum(crps((MEAN, VAR), None, y)),
        "variance": lambda v: jnp.sum(crps((MEAN, v**2), None, Y)),
        "log": lambda y: jnp.sum(log_score((MEAN, VAR), None, y)),
        "energy": lambda y: energy_score(DRAWS, None, y),
        "variogram": lambda y: variogram_score(DRAWS, None, y),
        "draws": lambda y: jnp.sum(crps(DRAWS * y[None], None, Y)),
        "energy of draws": lambda y: energy_score(DRAWS * y[None], None, Y),
    }
    at = np.abs(Y) + 0.7
    for name, score in scores.items():
        slope = jax.grad(score)(jnp.asarray(at))
        expected = central_difference(jax.jit(score), at)
        np.testing.assert_allclose(slope, expected, rtol=1e-6, atol=1e-6, err_msg=name)
    equal = jax.grad(lambda d: energy_score(d, None, Y))(jnp.zeros((3, N)))
    assert jnp.isfinite(equal).all()


def test_a_process_is_the_forecast_of_its_values(x64):
    """Noise is added; of the best guide at the data's inputs it is the posterior."""
    f = posterior()
    mean, var = f.predict(X)
    y = mean + 0.3
    for score in (crps, log_score, pit):
        alone = score((mean, var + NOISE), None, y)
        close(score(f, X, y, noise_var=NOISE), alone)
        assert np.abs(score(f, X, y, noise_var=2 * NOISE) - alone).max() > 1e-2
        prior = SparseGPPrior(RBF(1.0, 0.3), X, jitter=1e-8)
        guide = optimal_guide(prior, X, f.y, NOISE)
        close(score((prior, guide), X, y, noise_var=NOISE), alone, 1e-4)
    close(
        log_score(f, X, y, noise_var=NOISE),
        -log_predictive_density(f, X, y, noise_var=NOISE),
    )


def test_paths_agree_with_the_closed_forms(x64):
    """Within 5 standard errors of 4000 paths, of each of 5 values, a false alarm in a
    million; without their noise they would not."""
    f = posterior()
    paths = PathwiseSampler(f, 256).sample_paths(jr.key(0), 4000)
    y = np.asarray(f.predict_mean(X)) + [0.5, -1.0, 0.0, 0.2, 2.0]
    key = jr.key(1)
    exact = crps(f, X, y, noise_var=NOISE)
    sd = np.sqrt(np.asarray(f.predict_var(X)) + NOISE)
    error = sd / np.sqrt(len(paths))  # of E|x - y|; that of the spread is smaller
    got = crps(paths, X, y, noise_var=NOISE, key=key)
    assert (np.abs(got - exact) < 5 * error).all()
    assert (np.abs(crps(paths(X), None, y) - exact) > 5 * error).any()
    place = pit(paths, X, y, noise_var=NOISE, key=key)
    expected = np.asarray(pit(f, X, y, noise_var=NOISE))
    error = np.sqrt(expected * (1 - expected) / len(paths)) + 1 / len(paths)
    assert (np.abs(place - expected) < 5 * error).all()
    close(
        log_score(paths, X, y, noise_var=NOISE),
        -log_predictive_density(paths, X, y, noise_var=NOISE),
    )
    joint = energy_score(f, X, y, noise_var=NOISE, key=key, n_samples=2000)
    drawn = energy_score(paths[:2000], X, y, noise_var=NOISE, key=key)
    assert abs(joint - drawn) < 5 * 2 * np.sqrt(N) * sd.max() / np.sqrt(2000)


def test_a_right_forecast_is_calibrated_and_scores_best(x64):
    """Of 4000 values and their own law: coverage within 5 standard errors; a law that
    is too narrow is seen by all."""
    mean, sd = RNG.normal(size=4000), RNG.uniform(0.5, 2, 4000)
    y, levels = mean + sd * RNG.normal(size=4000), np.array([0.5, 0.9])
    draws = mean + sd * RNG.normal(size=(39, 4000))
    error = 5 * np.sqrt(levels * (1 - levels) / 4000)
    for f in ((mean, sd**2), draws):
        found = interval_coverage(f, None, y, levels=levels)
        assert (np.abs(found.coverage - levels) < error).all()
        place = pit(f, None, y, key=jr.key(0))
        assert stats.kstest(place, "uniform").pvalue > 1e-6
        tails = np.array([1 - levels, 1 + levels]) / 2
        ends = mean + sd * stats.norm.ppf(tails)[..., None]
        if f is draws:
            ends = np.quantile(draws, tails, axis=0, method="weibull")
        close([found.lower, found.upper], ends)
        close(found.width, (ends[1] - ends[0]).mean(axis=1))
    narrow = mean, (0.7 * sd) ** 2
    found = interval_coverage(narrow, None, y, levels=levels)
    assert (np.abs(found.coverage - levels) > error).all()
    assert stats.kstest(pit(narrow, None, y), "uniform").pvalue < 1e-6
    for score in (crps, log_score):
        right = np.mean(score((mean, sd**2), None, y))
        assert right < np.mean(score(narrow, None, y))


def test_the_place_of_counts_is_uniform(x64):
    counts = RNG.poisson(1.5, (100, 3000)).astype(float)
    place = pit(counts[1:], None, counts[0], key=jr.key(0))
    assert stats.kstest(place, "uniform").pvalue > 1e-6
    middle = pit(counts[1:], None, counts[0])
    assert stats.kstest(middle, "uniform").pvalue < 1e-6


def test_the_type_is_that_of_the_forecast(width):
    dtype = jnp.dtype(f"float{width}")
    mean, var, draws = (jnp.asarray(a, dtype) for a in (MEAN, VAR, DRAWS))
    for score in (crps, pit, log_score):
        assert score((mean, var), None, Y.astype(np.float32)).dtype == dtype
    for score in (crps, pit, energy_score, variogram_score):
        assert score(draws, None, jnp.asarray(Y, dtype)).dtype == dtype
    assert interval_coverage(draws, None, Y, levels=[0.5]).lower.dtype == dtype
    if width == 32:
        np.testing.assert_allclose(
            crps(draws + 1e3, None, np.float32(Y + 1e3)),
            sr.crps_ensemble(Y, DRAWS.T, estimator="fair"),
            rtol=1e-3,
            atol=1e-3,
        )


def bad(f: Any, sentence: str, score=crps, y=Y, X: Any = X, **how):
    return pytest.param(score, f, X, y, how, sentence, id=sentence[:30])


@pytest.mark.parametrize(
    "score, f, X, y, how, sentence",
    [
        bad(None, "must be a ConditionedGP.*Got a NoneType"),
        bad("posterior", "Got no noise_var. Pass its variance"),
        bad("posterior", "positive finite variance", noise_var=0.0),
        bad("paths", "needs a key", noise_var=NOISE),
        bad(DRAWS, "noise included. Got noise_var", noise_var=NOISE),
        bad(DRAWS[:1], "needs two of them"),
        bad(DRAWS[0], r"shape \(S, N\).*Got \(5,\)"),
        bad((MEAN, VAR[:2]), r"pair of arrays.*Got \(5,\) and \(2,\)"),
        bad((MEAN, -VAR), "positive finite variance"),
        bad(DRAWS, r"must have shape \(5,\)", y=Y[:2]),
        bad(DRAWS * np.nan, "must be finite"),
        bad(DRAWS, "needs a density. Got draws", log_score),
        bad((MEAN, VAR), "judges all values jointly", energy_score),
        bad("posterior", "needs a key: it", energy_score, noise_var=NOISE),
        bad(DRAWS, "must be a positive number. Got 0", variogram_score, order=0),
        bad(DRAWS, r"shape \(5, 5\)", variogram_score, weights=np.ones(5)),
        bad(DRAWS, "not negative", variogram_score, weights=-np.ones((5, 5))),
        bad(DRAWS, "between 0 and 1. Got", interval_coverage, levels=[1.0]),
        bad(DRAWS, "12 draws know is that", interval_coverage, levels=[0.9]),
    ],
)
def test_bad_input_is_told_in_a_sentence(score, f, X, y, how, sentence):
    if isinstance(f, str):
        paths = f == "paths"
        f = posterior()
        f = PathwiseSampler(f, 8).sample_paths(jr.key(0), 4) if paths else f
    with pytest.raises(ValueError, match=sentence):
        score(f, X, y, **how)
