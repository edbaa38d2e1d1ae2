"""Entropy search: against NumPy, quadrature, and the posterior told each optimum."""

# Wrong arguments are passed on purpose.
# pyright: reportArgumentType=false

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import central_difference, few_of
from scipy import stats

from pyrox.gp import (
    RBF,
    GPPrior,
    Linear,
    PathOptima,
    joint_entropy,
    max_value_entropy,
)

pytestmark = pytest.mark.usefixtures("plainly_compiled")

X = np.array([[0.0], [0.3], [0.5], [0.9]])
Y = np.array([0.6, -0.4, 0.2, 0.9])
NOISE, ELL = 0.05, 0.3
QUERY = np.linspace(-0.2, 1.2, 9)[:, None]
AT, LOW = np.array([[0.28], [0.75], [0.2]]), np.array([-0.9, -0.5, -1.6])


def posterior(y=Y, noise_var: Any = NOISE, kernel: Any = None, x=X):
    kernel = RBF(1.0, ELL) if kernel is None else kernel
    return GPPrior(kernel, x).condition(y, noise_var)


def optima(at=AT, values=LOW):
    """Some, as `optimize_paths` returns them."""
    n = len(values)
    flags = jnp.ones(n, bool), jnp.zeros((n, at.shape[1]), bool)
    rest = jnp.zeros_like(jnp.asarray(values)), None, jnp.asarray(1)
    return PathOptima(jnp.asarray(at), jnp.asarray(values), *flags, *rest)


def both(f, x, found, maximize=False, noise_var=0.02):
    first = max_value_entropy(f, x, found, maximize=maximize)
    rest: Any = {"noise_var": noise_var, "maximize": maximize}
    return jnp.stack([first, joint_entropy(f, x, found, **rest)])


def truncated(u):
    """Entropy and variance of a standard normal below u, by quadrature."""
    nodes, weights = np.polynomial.legendre.leggauss(400)
    u = np.asarray(u)[..., None]
    low = np.minimum(u, 0) - 12
    z = low + (u - low) * (nodes + 1) / 2
    log_p = stats.norm.logpdf(z) - stats.norm.logcdf(u)
    mass = weights * (u - low) / 2 * np.exp(log_p)
    mean = (mass * z).sum(-1, keepdims=True)
    return -(mass * log_p).sum(-1), (mass * (z - mean) ** 2).sum(-1)


def moments(query, at: Any = None, value: Any = None):
    """Mean and variance in NumPy, perhaps given one value more, without noise."""

    def gram(A, B):
        return np.exp(-((A - B.T) ** 2) / (2 * ELL**2))

    x, y = (X, Y) if at is None else (np.vstack([X, at]), np.hstack([Y, value]))
    noise = 1e-6 + np.where(np.arange(len(y)) < len(Y), NOISE, 0.0)
    gain = np.linalg.solve(gram(x, x) + np.diag(noise), gram(x, query)).T
    return gain @ y, 1 - np.sum(gain * gram(query, x), axis=1)


@pytest.mark.parametrize("maximize", few_of([False, True], False))
def test_the_entropy_of_the_value_is_the_integral(maximize, x64):
    """With a twin: without the sign it is another number."""
    sign = 1 if maximize else -1
    mean, var = moments(QUERY)
    gaussian, expected = 0.5 * np.log(2 * np.pi * np.e), []
    for m, v in zip(mean, var, strict=True):
        u = (LOW - sign * m) / np.sqrt(v)
        expected.append(np.mean(gaussian - truncated(u)[0]))
    found = optima(values=sign * LOW)
    got = max_value_entropy(posterior(), QUERY, found, maximize=maximize)
    np.testing.assert_allclose(got, expected, rtol=1e-8)
    other = max_value_entropy(posterior(), QUERY, found, maximize=not maximize)
    assert np.abs(np.asarray(other) - expected).max() > 0.1


def reference(query, found_at, found_values, noise_var, maximize):
    """Hvarfner et al. 2022: dense, one optimum after the other."""
    sign = 1 if maximize else -1
    noise_var = noise_var + 1e-6
    before, total = np.log(moments(query)[1] + noise_var), 0
    for at, value in zip(found_at, found_values, strict=True):
        mean, var = moments(query, at[None], value)
        u = sign * (value - mean) / np.sqrt(var)
        left = var * truncated(u)[1]
        total = total + np.log(left + noise_var)
    return 0.5 * (before - total / len(found_values))


@pytest.mark.parametrize("maximize", few_of([False, True], False))
def test_the_joint_entropy_is_the_formula(maximize, x64):
    values = -LOW if maximize else LOW
    found = optima(values=values)
    options: Any = {"noise_var": 0.02, "maximize": maximize}
    got = joint_entropy(posterior(), QUERY, found, **options)
    expected = reference(QUERY, AT, values, 0.02, maximize)
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    told_nothing = reference(QUERY, AT + 50, values, 0.02, maximize)
    assert np.abs(got - told_nothing).max() > 0.1


@pytest.mark.exhaustive
def test_an_optimum_is_told_as_condition_on_tells_it(x64):
    """But for a noise of 1e-12, which `condition_on` must have."""
    f, found = posterior(), optima()

    def given(at, value):
        told = f.condition_on(at[None], value[None], 1e-12)
        mean, var = told.predict(QUERY)
        return mean, var

    mean, var = jax.vmap(given)(found.X, found.values)
    left = var * truncated((mean - LOW[:, None]) / jnp.sqrt(var))[1]
    noise_var = 0.02 + f.jitter_var
    ratio = (f.predict_var(QUERY) + noise_var)[None] / (left + noise_var)
    got = joint_entropy(f, QUERY, found, noise_var=0.02)
    np.testing.assert_allclose(got, 0.5 * jnp.log(ratio).mean(axis=0), rtol=1e-6)


@pytest.mark.exhaustive
def test_it_is_from_below_and_near_where_noise_is_large(x64):
    """Of a value that ends at f*, plus noise, the density is known: the exact entropy,
    by quadrature, is no larger than that of the normal of the same variance."""
    y, gaps = np.linspace(-9, 9, 20_001), []
    for noise_var in (1e-2, 1.0):
        exact = []
        for m, v in zip(*moments(QUERY, AT[:1], LOW[0]), strict=True):
            u, total = (m - LOW[0]) / np.sqrt(v), v + noise_var + 1e-6
            above = m + v / total * (y - m) - LOW[0]
            spread = np.sqrt(v * (noise_var + 1e-6) / total)
            p = stats.norm.pdf(y, m, np.sqrt(total)) * stats.norm.cdf(above / spread)
            p = p / stats.norm.cdf(u)
            plogp = np.where(p > 0, p * np.log(np.where(p > 0, p, 1)), 0)
            exact.append(-np.trapezoid(plogp, y))
        before = 0.5 * np.log(2 * np.pi * np.e * (moments(QUERY)[1] + noise_var + 1e-6))
        found = optima(AT[:1], LOW[:1])
        got = joint_entropy(posterior(), QUERY, found, noise_var=noise_var)
        gaps.append(before - np.asarray(exact) - got)
    assert (np.stack(gaps) > -1e-7).all()
    assert gaps[0].max() < 0.2 and gaps[1].max() < 0.01


@pytest.mark.exhaustive
def test_derivatives(x64):
    """By points, data, kernel, noise and the optima themselves."""

    def total(x, y, ell, noise_var, at, values):
        f = posterior(y, kernel=RBF(1.0, ell))
        return jnp.sum(both(f, x, optima(at, values), noise_var=noise_var))

    args = [QUERY[2:5], Y, np.array(ELL), np.array(0.02), AT, LOW]
    args = [jnp.asarray(a) for a in args]
    program = jax.jit(total)
    slopes = jax.jit(jax.grad(total, tuple(range(6))))(*args)
    for k, slope in enumerate(slopes):

        def moved(a, k=k):
            return program(*args[:k], jnp.asarray(a), *args[k + 1 :])

        expected = central_difference(moved, args[k])
        np.testing.assert_allclose(slope, expected, rtol=1e-4, atol=1e-6)


SETTINGS = [(width, maximize) for width in (32, 64) for maximize in (False, True)]


@pytest.mark.exhaustive
@pytest.mark.parametrize("bits, maximize", list(SETTINGS))
def test_values_and_slopes_are_finite_at_any_distance(bits, maximize):
    """At data, at the optima, without uncertainty, and however far the optima are."""
    with jax.enable_x64(bits == 64):
        _require_finite(f"float{bits}", maximize)


def _require_finite(dtype, maximize):
    cast = [a.astype(dtype) for a in (X, Y)]
    linear = posterior(cast[1], 0.01, Linear(), cast[0])
    places = np.vstack([X, AT, AT + 1e-7, [[0.0]]]).astype(dtype)

    def total(x, f, found):
        values = both(f, x, found, maximize)
        return jnp.sum(values), values

    program = jax.jit(jax.grad(total, has_aux=True))
    for f in (posterior(cast[1], 1e-4, RBF(1.0, ELL), cast[0]), linear):
        for far in (0.0, 1e4, -1e4):
            found = optima(AT.astype(dtype), (LOW + far).astype(dtype))
            slope, values = program(jnp.asarray(places), f, found)
            assert jnp.isfinite(slope).all() and jnp.isfinite(values).all()
            assert values.dtype == dtype
            assert (values > -1e-3).all()
    # A linear function is known at the origin.
    assert values[0, 0] == values[0, -1] == 0


@pytest.mark.exhaustive
def test_single_precision_is_near(x64):
    found, single = optima(), np.float32
    exact = both(posterior(), QUERY, found)
    kernel = RBF(single(1), single(ELL))
    f = posterior(Y.astype(single), single(NOISE), kernel, X.astype(single))
    got = both(f, QUERY.astype(single), optima(AT.astype(single), LOW.astype(single)))
    assert got.dtype == single
    np.testing.assert_allclose(got, exact, rtol=2e-3, atol=1e-4)


@pytest.mark.exhaustive
def test_jit_and_vmap(x64):
    found, sets = optima(), jnp.asarray(QUERY[:8]).reshape(2, 4, 1)
    plain = jnp.stack([both(posterior(), x, found) for x in sets])
    mapped = jax.jit(jax.vmap(both, (None, 0, None)))(posterior(), sets, found)
    np.testing.assert_allclose(mapped, plain, rtol=1e-8)
    stacked = jax.vmap(posterior)(jnp.stack([Y, 2 * Y]))
    each = jax.vmap(both, (0, None, None))(stacked, sets[0], found)
    second = both(posterior(2 * Y), sets[0], found)
    np.testing.assert_allclose(each[1], second, rtol=1e-8)


BAD: dict[str, Any] = {
    "must be a ConditionedGP. Got a str": lambda f: both("f", QUERY, optima()),
    "optima of paths, a PathOptima. Got a ": lambda f: both(f, QUERY, LOW),
    "optima at points (S, 1)": lambda f: both(f, QUERY, optima(np.ones((3, 2)))),
    "map over stacked ones": lambda f: both(f, QUERY, optima(AT[None], LOW[None])),
    "max_value_entropy(found=...)` must be finite": lambda f: both(
        f, QUERY, optima(values=LOW * np.nan)
    ),
    "must be True or False. Got 1": lambda f: both(f, QUERY, optima(), 1),
    "have shape (N, 1)": lambda f: both(f, np.ones((2, 2)), optima()),
    "positive finite variance": lambda f: both(f, QUERY, optima(), noise_var=0.0),
    "must have shape () or (9,)": lambda f: both(f, QUERY, optima(), noise_var=Y),
}


@pytest.mark.parametrize("sentence", BAD)
def test_bad_input_is_a_sentence(sentence):
    with pytest.raises(ValueError) as error:
        BAD[sentence](posterior())
    assert sentence in str(error.value)


def test_traced_noise_is_checked_when_the_program_runs():
    f, found = posterior(), optima()
    run = eqx.filter_jit(lambda v: joint_entropy(f, QUERY, found, noise_var=v))
    assert jnp.isfinite(run(jnp.asarray(0.1))).all()
    with pytest.raises(eqx.EquinoxRuntimeError, match="positive finite variance"):
        jax.block_until_ready(run(jnp.asarray(-1.0)))
