"""A normal that is known to end somewhere: its entropy and variance, by quadrature."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import ndtr

from pyrox.gp._numerics.normal_tails import entropy_lost, variance_left

pytestmark = pytest.mark.usefixtures("plainly_compiled")

PLACES = np.concatenate([np.linspace(-8, 12, 81), -np.geomspace(8, 1e4, 30)])
EDGE = [-2.5, np.nextafter(-2.5, -3), np.nextafter(-2.5, 0), 0.0]


def by_quadrature(u):
    """The entropy that is lost and the variance that is left below u, and derivatives.

    In t = u - z > 0, whose density is exp(u t - t^2 / 2) but for a constant, there is
    nothing that cancels: the cumulants k_n give the derivatives of the variance, and
    those of the entropy.
    """
    nodes, weights = np.polynomial.legendre.leggauss(400)
    u = np.asarray(u, float)[:, None]
    low = np.maximum(u - 12, 0)
    high = np.where(u < -4, -45 / np.minimum(u, -4), np.maximum(u, 0) + 12)
    t = low + (high - low) * (nodes + 1) / 2
    shift = np.maximum(u, 0)  # keeps exp in range
    log_mass = -0.5 * (t - shift) ** 2 + (u - shift) * t
    mass = weights * (high - low) / 2 * np.exp(log_mass)
    total = mass.sum(axis=1, keepdims=True)
    p = mass / total
    mean = (p * t).sum(axis=1, keepdims=True)
    var = (p * (t - mean) ** 2).sum(axis=1)
    third = (p * (t - mean) ** 3).sum(axis=1)
    # log p = log_mass - log total, and the entropy is minus its mean.
    entropy = np.log(total[:, 0]) - (p * log_mass).sum(axis=1)
    lost = 0.5 * np.log(2 * np.pi * np.e) - entropy
    # d/du log p = t - mean: d entropy = -cov(t, log p).
    slope = (p * (t - mean) * log_mass).sum(axis=1)
    return lost, slope, var, third


def errors(u):
    """Of entropy, its slope, variance and its slope, to their sizes where these are
    not below 1e-3."""
    lost, slope, var, third = by_quadrature(u)
    functions = entropy_lost, jax.grad(entropy_lost), variance_left
    functions = *functions, jax.grad(variance_left)
    got = [np.asarray(jax.jit(jax.vmap(f))(u), float) for f in functions]
    expected = lost, slope, var, third
    floors = 1e-3, 1e-3, 0, 0
    scales = [np.maximum(np.abs(e), f) for e, f in zip(expected, floors, strict=True)]
    triples = zip(got, expected, scales, strict=True)
    return [np.max(np.abs(a - b) / scale) for a, b, scale in triples]


def test_all_digits_far_below_and_far_above(x64):
    near = np.concatenate([PLACES[(PLACES < 6)], EDGE])
    lost, slope, var, third = errors(jnp.asarray(near))
    assert lost < 1e-9 and slope < 1e-8 and var < 1e-10 and third < 1e-8


def test_all_digits_in_single_precision():
    near = np.concatenate([PLACES[(PLACES < 3)], EDGE])
    lost, slope, var, third = errors(jnp.asarray(near, jnp.float32))
    assert lost < 1e-4 and slope < 1e-4 and var < 1e-4 and third < 1e-3


def test_the_plain_formulas_have_none_left():
    u = np.asarray(PLACES[PLACES < -20], np.float32)
    lost, _, var, _ = by_quadrature(u)
    with np.errstate(all="ignore"):
        r = np.exp(-0.5 * u * u) / np.sqrt(2 * np.pi, dtype=np.float32) / ndtr(u)
        plain = 0.5 * u * r - np.log(ndtr(u)), 1 - r * (u + r)
    assert not np.abs(plain[0] / lost - 1).max() < 0.1
    assert not np.abs(plain[1] / var - 1).max() < 0.1


def test_second_derivatives_are_those_of_the_first(x64):
    u = jnp.asarray(np.concatenate([[-1e3, -30.0], np.linspace(-6, 6, 13) + 0.01]))
    for f in (entropy_lost, variance_left):
        slope = jax.jit(jax.vmap(jax.grad(f)))
        step = 1e-5 * jnp.maximum(1, jnp.abs(u))
        expected = (slope(u + step) - slope(u - step)) / (2 * step)
        got = jax.jit(jax.vmap(jax.grad(jax.grad(f))))(u)
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-10)


@pytest.mark.parametrize("f", [entropy_lost, variance_left])
def test_at_the_ends_of_the_type_all_is_finite(f, width):
    big = np.finfo(f"float{width}").max ** 0.5
    u = jnp.asarray([-big, -1e4, 50.0, big], f"float{width}")
    both = jax.vmap(jax.value_and_grad(f))(u)
    assert all(jnp.isfinite(x).all() for x in both)
    assert both[0][2] == both[0][3] == (0 if f is entropy_lost else 1)
