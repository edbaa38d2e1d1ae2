"""Gamma variables of normal rank, against SciPy's quantiles."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _moments import strict_float64
from scipy import special

from pyrox.gp._numerics.gamma import fixed_gamma, log_gamma_of_normal

RANKS = np.linspace(-6.3, 6.3, 401)
SHAPES = (0.05, 0.2, 0.5, 1.0, 2.5, 10.0, 200.0)


def gamma_of_normal(shape, z):
    return jnp.exp(log_gamma_of_normal(shape, z))


def quantile(shape: float, z: np.ndarray) -> np.ndarray:
    """SciPy's, each tail from its own probability."""
    lower = special.gammaincinv(shape, special.ndtr(z))
    return np.where(z < 0, lower, special.gammainccinv(shape, special.ndtr(-z)))


def log_error(got, want) -> float:
    return float(np.abs(np.log(np.asarray(got, np.float64) / want)).max())


@pytest.fixture(autouse=True)
def _strict():
    with strict_float64():
        yield


@pytest.mark.parametrize("dtype, bound", [("float64", 1e-13), ("float32", 3e-5)])
def test_any_shape(dtype, bound):
    z = RANKS if dtype == "float64" else RANKS[np.abs(RANKS) < 5.2]
    draw = jax.jit(gamma_of_normal)
    for shape in SHAPES:
        want = quantile(shape, z)
        seen = want > 1e-35  # below, float32 has no such numbers
        got = np.asarray(draw(jnp.asarray(shape, dtype), jnp.asarray(z, dtype)))
        assert got.dtype == dtype
        assert log_error(got[seen], want[seen]) < bound


SMALL = (1e-10, 1e-4, 1e-3, 0.003, 0.01, 0.03, 0.07)


def log_quantile(shape: float, z: np.ndarray) -> np.ndarray:
    """Where the quantile is below rounding, from P(x) = x^shape / Gamma(1 + shape)."""
    log_gamma = special.gammaln(1 + shape)
    if shape < 1e-6:  # where 1 + shape has too few of its digits
        log_gamma = -np.euler_gamma * shape + np.pi**2 / 12 * shape**2
    lowest = (special.log_ndtr(z) + log_gamma) / shape
    with np.errstate(divide="ignore"):
        return np.where(lowest < -40, lowest, np.log(quantile(shape, z)))


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_small_shape_in_logarithms(dtype):
    """The tail is right to a few eps, and its slope in log x is the shape."""
    eps = float(np.finfo(dtype).eps)
    z = RANKS if dtype == "float64" else RANKS[np.abs(RANKS) < 5.2]
    z = z.astype(dtype)
    draw = jax.jit(log_gamma_of_normal)
    for shape in SMALL:
        want = log_quantile(shape, z.astype(float))
        got = np.asarray(draw(jnp.asarray(shape, dtype), jnp.asarray(z)), np.float64)
        assert np.isfinite(got).all()
        # The large ones, which are a share of the shape, then those below rounding.
        large = want > -40
        bound = 60 * eps / shape
        assert np.abs(got - want)[large].max(initial=0) < bound
        assert np.abs(got / want - 1)[~large].max(initial=0) < 200 * eps


@pytest.mark.exhaustive
def test_derivatives_by_a_small_shape():
    z = jnp.array([-4.0, -1.0, -0.1, 0.3, 2.0, 2.9, 3.3, 5.0])
    draw = jax.jit(log_gamma_of_normal)
    by_both = jax.jit(jax.vmap(jax.grad(log_gamma_of_normal, (0, 1)), (None, 0)))
    for shape in (1e-4, 1e-3, 0.02):
        by_shape, by_rank = by_both(jnp.asarray(shape), z)
        step = 1e-3 * shape
        numeric = (draw(shape + step, z) - draw(shape - step, z)) / (2 * step)
        np.testing.assert_allclose(by_shape, numeric, rtol=1e-5)
        numeric = (draw(shape, z + 1e-5) - draw(shape, z - 1e-5)) / 2e-5
        np.testing.assert_allclose(by_rank, numeric, rtol=1e-5)


@pytest.mark.parametrize("shape", [0.5, 1.5, 2.5, 7.5])
def test_a_fixed_shape(shape):
    got = fixed_gamma(shape, jnp.asarray(RANKS))
    assert log_error(got, quantile(shape, RANKS)) < 2e-6
    single = fixed_gamma(shape, jnp.asarray(RANKS, jnp.float32))
    assert single.dtype == jnp.float32
    assert log_error(single, quantile(shape, RANKS)) < 2e-5


@pytest.mark.exhaustive
def test_the_moments_are_a_gammas():
    """By quadrature over the normal, not by chance."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    weights = weights / weights.sum()
    for shape in (0.5, 2.5):
        x = np.asarray(gamma_of_normal(jnp.asarray(shape), jnp.asarray(nodes)))
        assert abs(weights @ x / shape - 1) < 1e-6
        assert abs(weights @ x**2 / (shape * (shape + 1)) - 1) < 1e-6


@pytest.mark.exhaustive
def test_derivatives():
    z = jnp.array([-4.0, -1.0, -0.1, 0.3, 2.0, 5.0])
    shape, step = jnp.array(0.7), 1e-5
    draw = jax.jit(gamma_of_normal)

    @jax.jit
    def derivatives(shape, z):
        one, none = jnp.ones_like(shape), jnp.zeros_like(shape)
        _, by_shape = jax.jvp(gamma_of_normal, (shape, z), (one, jnp.zeros_like(z)))
        _, by_rank = jax.jvp(gamma_of_normal, (shape, z), (none, jnp.ones_like(z)))
        return by_shape, by_rank

    by_shape, by_rank = derivatives(shape, z)
    numeric = draw(shape + step, z) - draw(shape - step, z)
    np.testing.assert_allclose(by_shape, numeric / (2 * step), rtol=1e-6)
    numeric = draw(shape, z + step) - draw(shape, z - step)
    np.testing.assert_allclose(by_rank, numeric / (2 * step), rtol=1e-6)
