"""The knowledge gradient: against fantasies told to the posterior, and in NumPy."""

# Wrong arguments are passed on purpose.
# pyright: reportArgumentType=false

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import central_difference, few_of
from scipy import stats

from pyrox.gp import RBF, GPPrior, Linear, knowledge_gradient

pytestmark = pytest.mark.usefixtures("plainly_compiled")

X = np.array([[0.0], [0.3], [0.5], [0.9]])
Y = np.array([0.6, -0.4, 0.2, 0.9])
NOISE, ELL = 0.05, 0.3
QUERY = np.linspace(-0.2, 1.2, 8)[:, None]
OVER = np.linspace(0, 1, 11)[:, None]


def posterior(y=Y, noise_var: Any = NOISE, kernel: Any = None, x=X):
    kernel = RBF(1.0, ELL) if kernel is None else kernel
    return GPPrior(kernel, x).condition(y, noise_var)


def gain(f, x=QUERY, over=OVER, noise_var: Any = 0.02, maximize=False):
    return knowledge_gradient(f, x, over, noise_var=noise_var, maximize=maximize)


def places_and_masses(n=4001):
    """Of a standard normal, by the trapezoidal rule."""
    z = np.linspace(-9, 9, n)
    return z, stats.norm.pdf(z) * (z[1] - z[0])


def dense(maximize, noise_var=0.02, with_x=True):
    """In NumPy, from the covariance of all points and the mean after each of many
    observations."""

    def gram(A, B):
        return np.exp(-((A - B.T) ** 2) / (2 * ELL**2))

    sign, found = (1 if maximize else -1), []
    z, masses = places_and_masses()
    inverse = np.linalg.inv(gram(X, X) + (NOISE + 1e-6) * np.eye(4))
    for x in QUERY:
        points = np.vstack([OVER, x[None]])
        cross = gram(points, X) @ inverse
        mean, cov = cross @ Y, gram(points, points) - cross @ gram(X, points)
        step = cov[:, -1] / np.sqrt(cov[-1, -1] + noise_var + 1e-6)
        after = mean[:, None] + step[:, None] * z
        kept = slice(None) if with_x else slice(-1)
        best = (sign * after[kept]).max(axis=0)
        found.append(best @ masses - (sign * mean[:-1]).max())
    return np.array(found)


@pytest.mark.parametrize("maximize", few_of([False, True], False))
def test_it_is_the_expected_gain(maximize, x64):
    """With a twin: x itself counts."""
    got, expected = gain(posterior(), maximize=maximize), dense(maximize)
    np.testing.assert_allclose(got, expected, atol=1e-6)
    without = dense(maximize, with_x=False)
    assert np.abs(np.asarray(got) - without).max() > 1e-3


@pytest.mark.exhaustive
def test_it_is_that_of_fantasies(x64):
    """The posterior told y at x, for many y: the mean is linear in it, so nothing is
    approximate but the integral."""
    f, n = posterior(), 201
    z, masses = places_and_masses(n)
    mean, var = f.predict(QUERY)
    sd = jnp.sqrt(var + 0.02 + f.jitter_var)

    def after(x, y):
        told = f.condition_on(x[None], y[None], 0.02)
        return told.predict_mean(jnp.vstack([OVER, x[None]])).min()

    at_x = jax.vmap(after, (None, 0))
    ys = mean[:, None] + sd[:, None] * z[None]
    lowest = jnp.stack(
        [at_x(x, y) for x, y in zip(jnp.asarray(QUERY), ys, strict=True)]
    )
    now = f.predict_mean(OVER).min()
    np.testing.assert_allclose(gain(f), now - lowest @ masses, atol=1e-4)


@pytest.mark.exhaustive
def test_one_point_over_is_worth_the_improvement(x64):
    """Of x and one other the closed form is s h(gap / s)."""
    f, x, other = posterior(), np.array([[0.7]]), np.array([[0.1]])
    mean, cov = (
        np.asarray(m)
        for m in (
            f.predict_mean(np.vstack([x, other])),
            f.predict_cov(x, np.vstack([x, other])),
        )
    )
    steps = cov[0] / np.sqrt(cov[0, 0] + 0.02 + np.asarray(f.jitter_var))
    s = abs(steps[0] - steps[1])
    u = (mean[1] - mean[0]) / s
    expected = s * (stats.norm.pdf(u) + u * stats.norm.cdf(u))
    np.testing.assert_allclose(gain(f, x, other)[0], expected, rtol=1e-9)


@pytest.mark.exhaustive
@pytest.mark.parametrize("bits", [32, 64])
def test_what_is_known_tells_nothing(bits):
    """A linear function at the origin; one that is far from all points that count."""
    with jax.enable_x64(bits == 64):
        _require_nothing(f"float{bits}")


def _require_nothing(dtype):
    y, x = Y.astype(dtype), X.astype(dtype)

    def total(at, f):
        values = gain(f, at, OVER.astype(dtype))
        return values.sum(), values

    program = jax.jit(jax.grad(total, has_aux=True))
    slope, values = program(jnp.zeros((1, 1), dtype), posterior(y, 0.01, Linear(), x))
    assert values[0] == 0 and jnp.isfinite(slope).all()
    places = jnp.asarray(np.vstack([X, OVER, [[40.0]]]).astype(dtype))
    slope, values = program(places, posterior(y, 1e-3, RBF(1.0, ELL), x))
    assert jnp.isfinite(slope).all() and (values > -1e-7).all()
    assert values.dtype == dtype


@pytest.mark.exhaustive
def test_derivatives(x64):
    def total(x, y, ell, noise_var, over):
        f = posterior(y, kernel=RBF(1.0, ell))
        return jnp.sum(gain(f, x, over, noise_var))

    args = [QUERY[1:5] + 0.013, Y, np.array(ELL), np.array(0.02), OVER]
    args = [jnp.asarray(a) for a in args]
    program = jax.jit(total)
    slopes = jax.jit(jax.grad(total, tuple(range(5))))(*args)
    for k, slope in enumerate(slopes):

        def moved(a, k=k):
            return program(*args[:k], jnp.asarray(a), *args[k + 1 :])

        expected = central_difference(moved, args[k])
        np.testing.assert_allclose(slope, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.exhaustive
def test_noise_of_each_point(x64):
    f, each = posterior(), np.linspace(0.01, 1.0, 8)
    expected = [gain(f, x[None], OVER, v)[0] for x, v in zip(QUERY, each, strict=True)]
    np.testing.assert_allclose(gain(f, noise_var=each), expected, rtol=1e-10)


@pytest.mark.exhaustive
def test_single_precision_is_near(x64):
    single = np.float32
    f = posterior(
        Y.astype(single), single(NOISE), RBF(single(1), single(ELL)), X.astype(single)
    )
    got = gain(f, QUERY.astype(single), OVER.astype(single))
    assert got.dtype == single
    np.testing.assert_allclose(got, gain(posterior()), rtol=1e-3, atol=1e-4)


@pytest.mark.exhaustive
def test_jit_and_vmap(x64):
    sets = jnp.asarray(QUERY).reshape(2, 4, 1)
    mapped = jax.jit(jax.vmap(gain, (None, 0)))(posterior(), sets)
    np.testing.assert_allclose(mapped.reshape(-1), gain(posterior()), rtol=1e-8)
    stacked = jax.vmap(posterior)(jnp.stack([Y, 2 * Y]))
    second = jax.vmap(gain)(stacked, jnp.stack([sets[0]] * 2))[1]
    np.testing.assert_allclose(second, gain(posterior(2 * Y), sets[0]), rtol=1e-8)


BAD: dict[str, Any] = {
    "must be a ConditionedGP. Got a str": lambda f: gain("f"),
    "knowledge_gradient(over=...)` must have shape (N, 1)": lambda f: gain(
        f, over=np.ones((2, 2))
    ),
    "at least one row": lambda f: gain(f, over=OVER[:0]),
    "must be True or False. Got 1": lambda f: gain(f, maximize=1),
    "have shape (N, 1)": lambda f: gain(f, np.ones((2, 2))),
    "positive finite variance": lambda f: gain(f, noise_var=-1.0),
}


@pytest.mark.parametrize("sentence", BAD)
def test_bad_input_is_a_sentence(sentence):
    with pytest.raises(ValueError) as error:
        BAD[sentence](posterior())
    assert sentence in str(error.value)
