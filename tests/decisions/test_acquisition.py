"""Acquisition functions: closed forms, far tails, derivatives, paths, batches."""

# Wrong arguments are passed on purpose.
# pyright: reportArgumentType=false

import functools
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import central_difference, few_of
from scipy import stats

from pyrox.gp import (
    RBF,
    GPPrior,
    Linear,
    Matern,
    PathwiseSampler,
    confidence_bound,
    expected_improvement,
    log_expected_improvement,
    paths_over_draws,
    probability_of_improvement,
)
from pyrox.gp._decisions.acquisition import _log_mean_softplus, _mean_sigmoid
from pyrox.gp._numerics.normal_tails import log_h as _log_h

pytestmark = pytest.mark.usefixtures("plainly_compiled")

X = np.array([[0.0], [0.3], [0.5], [0.9]])
Y = np.array([0.6, -0.4, 0.2, 0.9])
NOISE, BEST = 0.05, -0.1
QUERY = np.linspace(-0.2, 1.2, 15)[:, None]
IMPROVING = {
    "EI": expected_improvement,
    "log EI": log_expected_improvement,
    "PI": probability_of_improvement,
}


def posterior(y=Y, noise_var: Any = NOISE, kernel: Any = None):
    kernel = RBF(1.0, 0.3) if kernel is None else kernel
    return GPPrior(kernel, X).condition(y, noise_var)


def drawn(n_paths=64, seed=0):
    return PathwiseSampler(posterior(), 128).sample_paths(jr.key(seed), n_paths)


def everything(f, X, best, beta=1.5, senses=(False, True)):
    """All acquisition functions, of f minimised and of f maximised, (8, N)."""
    values = []
    for maximize in senses:
        for acquisition in IMPROVING.values():
            values.append(acquisition(f, X, best, maximize=maximize))
        values.append(confidence_bound(f, X, beta, maximize=maximize))
    return jnp.stack(values)


def test_closed_forms_are_those_of_scipy(x64):
    f = posterior()
    mean, var = (np.asarray(a) for a in f.predict(QUERY))
    sd, expected = np.sqrt(var), []
    for sign in (-1, 1):
        gain = sign * (mean - BEST)
        ei = gain * stats.norm.cdf(gain / sd) + sd * stats.norm.pdf(gain / sd)
        chance, bound = stats.norm.cdf(gain / sd), sign * mean + 1.5 * sd
        expected += [ei, np.log(ei), chance, bound]
    assert (gain / sd).min() < -0.5 and (gain / sd).max() > 3
    got = everything(f, QUERY, BEST)
    np.testing.assert_allclose(got, np.stack(expected), rtol=1e-12)
    plain = confidence_bound(f, QUERY)
    np.testing.assert_allclose(plain, 2 * sd - mean, rtol=1e-12)


def log_h_by_quadrature(u):
    """log h and two derivatives, from positive integrals alone.

    h(u) is the integral over t > 0 of t pdf(t - u), so its log less that of pdf(u) is
    the cumulant function of the density in t: mean and variance give derivatives.
    """
    nodes, weights = np.polynomial.legendre.leggauss(300)
    u = np.asarray(u, float)[:, None]
    low = np.maximum(u - 12, 0)
    high = np.where(u < -4, -50 / np.minimum(u, -4), np.maximum(u, 0) + 12)
    t = low + (high - low) * (nodes + 1) / 2
    mass = weights * (high - low) / 2 * t
    shift = np.maximum(u, 0)  # keeps exp in range
    mass = mass * np.exp(-0.5 * (t - shift) ** 2 + (u - shift) * t)
    total = mass.sum(axis=1, keepdims=True)
    mean = (mass * t).sum(axis=1, keepdims=True) / total
    var = (mass * (t - mean) ** 2).sum(axis=1, keepdims=True) / total
    log_h = np.log(total) + 0.5 * (shift**2 - u**2) - 0.5 * np.log(2 * np.pi)
    return log_h[:, 0], (mean - u)[:, 0], var[:, 0] - 1


TAILS = np.concatenate([np.linspace(-10, 30, 401), -np.geomspace(10, 1e4, 50)])
EDGE = [-4.0, np.nextafter(-4, -5), np.float32(-4.0000005)]


def plain_log_h(u):
    return jnp.log(jax.scipy.stats.norm.pdf(u) + u * jax.scipy.special.ndtr(u))


def errors(log_h, u):
    """Of the value to its size or one, of the slope to itself, of the curvature."""
    expected = log_h_by_quadrature(u)
    slope = jax.grad(log_h)
    functions = log_h, slope, jax.grad(slope)
    got = [np.asarray(jax.jit(jax.vmap(f))(u), float) for f in functions]
    scales = np.maximum(1, np.abs(expected[0])), np.abs(expected[1]), 1.0
    pairs = zip(got, expected, scales, strict=True)
    return [np.max(np.abs(a - b) / scale) for a, b, scale in pairs]


def test_log_h_keeps_its_digits_from_far_below_to_far_above(x64):
    u = jnp.asarray(np.concatenate([TAILS, EDGE]))
    value, slope, curvature = errors(_log_h, u)
    assert value < 1e-13 and slope < 1e-12 and curvature < 1e-11
    assert not errors(plain_log_h, u)[0] < 1e-3  # the plain formula has none left


def test_log_h_in_single_precision():
    u = jnp.asarray(np.concatenate([TAILS, EDGE]), jnp.float32)
    value, slope, curvature = errors(_log_h, u)
    assert value < 1e-5 and slope < 1e-5 and curvature < 1e-4
    assert not errors(plain_log_h, u)[0] < 1e-2


def test_the_log_stays_finite_however_far_the_incumbent(x64):
    f, x = posterior(), jnp.array([[0.3]])
    mean, var = f.predict(x)
    bests = mean[0] + jnp.sqrt(var[0]) * jnp.array([30.0, 0.0, -5.0, -1e2, -1e4])

    def log_ei(best):
        return log_expected_improvement(f, x, best)[0]

    value, slope = jax.jit(jax.vmap(jax.value_and_grad(log_ei)))(bests)
    u = np.asarray((bests - mean[0]) / jnp.sqrt(var[0]))
    expected, expected_slope, _ = log_h_by_quadrature(u)
    expected, sd = expected + 0.5 * np.log(var[0]), np.sqrt(var[0])
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    np.testing.assert_allclose(slope * sd, expected_slope, rtol=1e-11)
    assert expected_improvement(f, x, bests[-1])[0] == 0


def of_numbers(numbers, kind):
    """Sums of all acquisition functions, of everything that they depend on."""
    var, ell, noise, best, beta, y, points = jnp.split(numbers, [1, 2, 3, 4, 5, 9])
    f: Any = posterior(y, noise[0], Matern(2.5, var[0], ell[0]))
    cases = [(points[:, None], (False, True))]
    if kind == "paths":
        f = PathwiseSampler(f, 8, "iid").sample_paths(jr.key(3), 8)
        cases = [(points[:, None], (False,)), (points.reshape(2, 2, 1), (True,))]
    values = [everything(f, X, best[0], beta[0], senses) for X, senses in cases]
    return jnp.concatenate([v @ jnp.linspace(0.5, 1.5, v.shape[1]) for v in values])


NUMBERS = np.array([1.2, 0.3, NOISE, BEST, 1.3, *Y, 0.12, 0.4, 0.62, 0.85])


@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", ["posterior", "paths"])
def test_gradients_by_points_incumbent_data_noise_and_hyperparameters(kind, x64):
    value = jax.jit(partial(of_numbers, kind=kind))
    jacobian = np.asarray(jax.jit(jax.jacrev(partial(of_numbers, kind=kind)))(NUMBERS))
    at = functools.cache(lambda *numbers: np.asarray(value(np.array(numbers))))
    for k, row in enumerate(jacobian):
        expected = central_difference(lambda n, k=k: at(*n)[k], NUMBERS)
        np.testing.assert_allclose(row, expected, 1e-6, 1e-8 * np.abs(row).max())
    assert (np.abs(jacobian).max(axis=0) > 0.1).all()


@pytest.mark.exhaustive
def test_second_derivatives(x64):
    f = posterior()

    def at(x, best):
        values = [a(f, x[None, :], best)[0] for a in list(IMPROVING.values())[:2]]
        return jnp.stack(values)

    slope, hessian = jax.jit(jax.jacfwd(at)), jax.jit(jax.hessian(at))
    for best in [0.5, BEST, -1.0, -2.0]:
        for x in [0.1, 0.62]:
            got = np.asarray(hessian(jnp.array([x]), best))[:, 0, 0]
            for k, value in enumerate(got):
                expected = central_difference(
                    lambda x, b=best, k=k: slope(x, b)[k, 0], [x]
                )
                assert abs(value - expected[0]) < 1e-6 * abs(value)


N_MANY = 20_000
POINTS = np.array([[0.1], [0.4], [0.5], [0.6], [1.1]])
# Of 40 averages of at least 800 draws that count: below 1e-6 false alarms a seed.
SIGMAS = 6


@pytest.fixture(scope="module")
def many(plainly_compiled):
    with jax.enable_x64(True):
        return drawn(N_MANY, seed=4)


def three(f, X, maximize=False):
    """EI, PI and bound, as plain averages if of paths."""
    ei = expected_improvement(f, X, 0.0, maximize=maximize)
    pi = probability_of_improvement(f, X, 0.0, maximize=maximize, smoothing=0.0)
    return [ei, pi, confidence_bound(f, X, 1.5, maximize=maximize)]


def three_in_numpy(paths, batches, sign=-1):
    """The same by NumPy, of batches (N, q, D), and their standard errors."""
    n, q, _ = batches.shape
    gain = sign * np.asarray(paths(batches.reshape(n * q, -1))).reshape(-1, n, q)
    mean, best = gain.mean(axis=0), gain.max(axis=2)
    bounds = (mean + 1.5 * np.sqrt(np.pi / 2) * np.abs(gain - mean)).max(axis=2)
    draws = np.stack([np.maximum(best, 0), best > 0, bounds])
    errors = draws.std(axis=1)
    errors[2] += gain.std(axis=0).max(axis=1)  # of the mean in the bounds
    return draws.mean(axis=1), errors / np.sqrt(len(gain))


@pytest.mark.parametrize("maximize", few_of([False, True], False))
def test_averages_over_paths_tend_to_the_closed_forms(maximize, many, x64):
    """Within `SIGMAS` standard errors at every point, and not so to the closed forms of
    y, whose variance has the noise in it, nor to the bound without its root of pi / 2.
    """
    f, sign = posterior(), 1 if maximize else -1
    averages, errors = three_in_numpy(many, POINTS[:, None, :], sign)
    np.testing.assert_allclose(three(many, POINTS, maximize), averages, rtol=1e-10)
    closed = np.stack(three(f, POINTS, maximize))
    assert (np.abs(averages - closed) < SIGMAS * errors).all()
    mean, var = (np.asarray(a) for a in f.predict(POINTS))
    gain, sd = sign * mean, np.sqrt(var + NOISE)
    chance = stats.norm.cdf(gain / sd)
    ei = gain * chance + sd * stats.norm.pdf(gain / sd)
    no_root = closed[2] - 1.5 * np.sqrt(var) * (1 - np.sqrt(2 / np.pi))
    off = np.abs(averages - np.stack([ei, chance, no_root])) > SIGMAS * errors
    assert off.any(axis=1).all()


def test_the_log_of_averages_is_that_of_the_average(many, x64):
    sharp = log_expected_improvement(many, POINTS, 0.0, smoothing=0.0)
    plain = expected_improvement(many, POINTS, 0.0)
    np.testing.assert_allclose(sharp, np.log(plain), rtol=1e-12)


@pytest.mark.parametrize("smoothing", [0.1, 0.3])
def test_the_bias_of_smoothing_is_as_stated(smoothing, x64):
    """On draws as even as quantiles, so that nothing else differs."""
    u, s = np.linspace(-3, 3, 25), 2.5
    draws = stats.norm.ppf((np.arange(20_000) + 0.5) / 20_000)
    gain = jnp.asarray(s * (u[None, :] + draws[:, None]))
    chance = np.asarray(_mean_sigmoid(gain, jnp.asarray(smoothing)))
    bias = np.abs(chance - stats.norm.cdf(u)).max()
    assert 0.3 * smoothing**2 < bias < 0.4 * smoothing**2
    log_ei = np.asarray(_log_mean_softplus(gain, jnp.asarray(smoothing)))
    plain = s * np.exp(log_h_by_quadrature(u)[0])
    excess, stated = np.exp(log_ei) - plain, 1.645 * smoothing**2 * s
    assert (excess > 0).all() and (excess < smoothing * s * np.log(2)).all()
    near = np.abs(u) < 2
    expected = stated * stats.norm.pdf(u)
    np.testing.assert_allclose(excess[near], expected[near], atol=0.1 * stated)


@pytest.mark.exhaustive
def test_the_default_smoothing_has_gradients_to_follow(many, x64):
    """Those of the closed form, where the plain share of paths has none."""

    def slopes(f, **smoothing):
        def total(X):
            return jnp.sum(probability_of_improvement(f, X, 0.0, **smoothing))

        return np.asarray(jax.jit(jax.grad(total))(jnp.asarray(POINTS)))[:, 0]

    exact = slopes(posterior())
    assert np.abs(slopes(many) - exact).max() < 0.1 * np.abs(exact).max()
    assert (slopes(many, smoothing=0.0) == 0).all()


@pytest.mark.exhaustive
def test_the_log_over_paths_has_a_slope_where_none_improves(x64):
    paths, best = drawn(), -9.0
    x = jnp.array([[0.15], [0.8]])
    assert (expected_improvement(paths, x, best) == 0).all()

    def total(X, f):
        return jnp.sum(log_expected_improvement(f, X, best))

    value, slope = jax.jit(jax.value_and_grad(total))(x, paths)
    exact = jax.jit(jax.grad(total))(x, posterior())
    assert jnp.isfinite(value) and (jnp.sign(slope) == jnp.sign(exact)).all()


def test_batches_of_one_are_points(x64):
    paths = drawn()
    plain = everything(paths, QUERY, BEST)
    batched = everything(paths, QUERY[:, None, :], BEST)
    np.testing.assert_allclose(batched, plain, rtol=1e-12)
    closed = everything(posterior(), QUERY[:, None, :], BEST)
    np.testing.assert_array_equal(closed, everything(posterior(), QUERY, BEST))


def of_pair(mean, cov, best):
    """EI, PI and bound of a pair, by integrals of the joint normal."""
    nodes, weights = np.polynomial.legendre.leggauss(401)
    z = np.stack(np.meshgrid(8 * nodes, 8 * nodes, indexing="ij"), -1)
    weights = 64 * np.outer(weights, weights) * stats.norm.pdf(z).prod(-1)
    f = mean + z @ np.linalg.cholesky(cov).T
    gain = np.maximum(best - f, 0).max(-1)
    bound = (-mean + 1.5 * np.sqrt(np.pi / 2) * np.abs(f - mean)).max(-1)
    neither = stats.multivariate_normal(-mean, cov).cdf([-best, -best])
    return [(weights * gain).sum(), 1 - neither, (weights * bound).sum()]


def test_pairs_are_judged_jointly(many, x64):
    """Within `SIGMAS` standard errors of integrals of the joint normal, and further
    than that from those of independent points where the two are near each other."""
    f, pairs = posterior(), np.array([[[0.1], [0.15]], [[0.4], [1.1]]])
    averages, errors = three_in_numpy(many, pairs)
    np.testing.assert_allclose(three(many, pairs), averages, rtol=1e-10)
    log_ei = log_expected_improvement(many, pairs, 0.0, smoothing=0.0)
    np.testing.assert_allclose(log_ei, np.log(averages[0]), rtol=1e-10)
    for i, pair in enumerate(pairs):
        mean, cov = (np.asarray(a) for a in (f.predict_mean(pair), f.predict_cov(pair)))
        gap = np.abs(averages[:, i] - of_pair(mean, cov, 0.0))
        assert (gap < SIGMAS * errors[:, i]).all()
        alone = np.abs(averages[:, i] - of_pair(mean, np.diag(np.diag(cov)), 0.0))
        assert i == 1 or (alone > SIGMAS * errors[:, i]).all()


@pytest.mark.exhaustive
def test_an_ensemble_is_the_average_of_its_members(x64):
    draws = {"ell": jnp.array([0.2, 0.3, 0.5])}

    def condition(draw):
        return posterior(kernel=RBF(1.0, draw["ell"]))

    ensemble = paths_over_draws(jr.key(0), draws, condition, n_paths=6, n_features=32)
    pairs = QUERY[:14].reshape(7, 2, 1) * 0.7
    for acquisition in (
        expected_improvement,
        partial(probability_of_improvement, smoothing=0),
    ):
        members = [acquisition(ensemble[b], pairs, BEST) for b in range(3)]
        expected = np.mean(np.stack(members), axis=0)
        np.testing.assert_allclose(acquisition(ensemble, pairs, BEST), expected)
    assert jnp.isfinite(everything(ensemble, pairs, BEST)).all()


@pytest.mark.exhaustive
def test_jit_and_vmap():
    def of_both(f, paths, X):
        values = [everything(m, X, BEST, senses=(False,)) for m in (f, paths)]
        return jnp.concatenate(values)

    def same(got, expected):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
        assert got.dtype == jnp.float32

    paths, sets = drawn(8), jnp.asarray(QUERY[:8], jnp.float32).reshape(2, 4, 1)
    compiled = jax.jit(of_both)
    plain = [compiled(posterior(), paths, X) for X in sets]
    same(plain[0][0], expected_improvement(posterior(), sets[0], BEST))
    over_sets = jax.jit(jax.vmap(of_both, in_axes=(None, None, 0)))
    same(over_sets(posterior(), paths, sets), np.stack(plain))
    stacked = jax.vmap(posterior)(jnp.stack([Y, 2 * Y]).astype(jnp.float32))
    of_each = jax.jit(jax.vmap(partial(everything, senses=(False,)), (0, None, None)))
    second = compiled(posterior(2 * Y), paths, sets[0])[:4]
    same(of_each(stacked, sets[0], BEST)[1], second)


def test_the_type_is_that_of_f(x64):
    single = GPPrior(RBF(np.float32(1), np.float32(0.3)), X.astype(np.float32))
    f = single.condition(Y.astype(np.float32), np.float32(NOISE))
    paths = PathwiseSampler(f, 16, "sobol").sample_paths(jr.key(0), 8)
    query = QUERY.astype(np.float32)
    for best in (BEST, jnp.asarray(BEST)):
        for model in (f, paths):
            at = partial(everything, model, best=best)
            assert jax.eval_shape(at, query).dtype == jnp.float32
    exact = np.asarray(everything(posterior(), QUERY, BEST))
    np.testing.assert_allclose(everything(f, query, BEST), exact, rtol=1e-3, atol=1e-4)


@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", ["posterior", "paths"])
def test_without_uncertainty_it_is_the_improvement(kind, x64):
    """A linear function through the origin is known there: all of it is zero."""
    f: Any = posterior(kernel=Linear())
    if kind == "paths":
        f = PathwiseSampler(f, 4).sample_paths(jr.key(0), 16)
    origin = jnp.zeros((1, 1))

    def total(x, best):
        values = everything(f, x, best)[:, 0]
        return jnp.sum(jnp.where(jnp.isfinite(values), values, 0)), values

    program = jax.jit(jax.grad(total, (0, 1), has_aux=True))
    for best in (0.7, 0.0, -0.7):
        slopes, values = program(origin, best)
        low, high = max(best, 0), max(-best, 0)
        with np.errstate(divide="ignore"):
            logs = np.log([low, high])
        expected = [low, logs[0], low > 0, 0, high, logs[1], high > 0, 0]
        np.testing.assert_allclose(values, expected, rtol=1e-12)
        assert all(jnp.isfinite(s).all() for s in slopes)


def test_one_path_is_thompson_sampling(x64):
    """It has no spread: what it says is certain."""
    path = drawn(1)
    values = BEST - path(QUERY)[0]
    assert (expected_improvement(path, QUERY, BEST) == jnp.maximum(values, 0)).all()
    chance = probability_of_improvement(path, QUERY, BEST)
    np.testing.assert_array_equal(np.asarray(chance), np.asarray(values > 0))
    assert (confidence_bound(path, QUERY) == -path(QUERY)[0]).all()


BAD: list = [
    (expected_improvement, (None, QUERY, 0.0), {}, r"f=...\)` must be a Conditioned.*"),
    (confidence_bound, (lambda X: X, QUERY), {}, "Got a function. Pass what"),
    (log_expected_improvement, ("f", QUERY[:, 0], 0.0), {}, r"\(N, q, D\) .*\(15,\)"),
    (expected_improvement, ("f", QUERY[:0], 0.0), {}, r"no axis empty. Got \(0, 1\)"),
    (expected_improvement, ("f", np.ones((3, 2, 1)), 0.0), {}, "of q=2. Pass paths"),
    (expected_improvement, ("f", np.ones((3, 2)), 0.0), {}, r"have shape \(N, 1\)"),
    (expected_improvement, ("f", QUERY, Y), {}, r"one number. Got shape \(4,\). .*min"),
    (expected_improvement, ("f", QUERY, Y), {"maximize": True}, r"Pass `y.max\(\)`"),
    (probability_of_improvement, ("f", QUERY, np.nan), {}, r"best=...\)` must be fin"),
    (expected_improvement, ("f", QUERY, 0.0), {"maximize": 1}, "True or False.*Got 1"),
    (confidence_bound, ("f", QUERY, -1.0), {}, r"beta=...\)` must be fin.* Got -1.0"),
    (confidence_bound, ("f", QUERY, np.inf), {}, r"not negative. Got inf"),
    (log_expected_improvement, ("f", QUERY, 0.0), {"smoothing": -0.1}, "smoothing=..."),
]


@pytest.mark.parametrize("case", BAD, ids=lambda case: case[-1])
def test_bad_input_is_told_in_a_sentence(case):
    acquisition, (f, *rest), options, sentence = case
    with pytest.raises(ValueError, match=sentence):
        acquisition(posterior() if f == "f" else f, *rest, **options)


def test_traced_numbers_are_checked_when_the_program_runs():
    f = posterior()
    ei = eqx.filter_jit(lambda best: expected_improvement(f, QUERY, best))
    bound = eqx.filter_jit(lambda beta: confidence_bound(f, QUERY, beta))
    for program, bad in [(ei, jnp.nan), (bound, -1.0)]:
        assert jnp.isfinite(program(jnp.asarray(1.0))).all()
        with pytest.raises(eqx.EquinoxRuntimeError, match="must be finite"):
            jax.block_until_ready(program(jnp.asarray(bad)))
