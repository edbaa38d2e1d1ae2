"""The highest of lines at a normal place, against the sorted sweep and quadrature."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import central_difference
from scipy import stats

from pyrox.gp._numerics import lines

pytestmark = pytest.mark.usefixtures("plainly_compiled")

expected_rise = jax.jit(lines.expected_rise)


def swept(a, b):
    """The sweep of Frazier, Powell & Dayanik 2009, algorithm 1, in NumPy.

    Lines by slope, the lower of two parallel ones left out; a stack of those that are
    highest somewhere, from which a new one takes what it overtakes too early.
    """
    order = np.lexsort((a, b))
    a, b = a[order], b[order]
    last = np.append(b[1:] != b[:-1], True)
    a, b = a[last], b[last]
    kept, places = [0], [-np.inf]
    for i in range(1, len(a)):
        while True:
            j = kept[-1]
            place = (a[j] - a[i]) / (b[i] - b[j])
            if place > places[-1]:
                break
            kept.pop()
            places.pop()
        kept.append(i)
        places.append(place)
    u = -np.abs(np.asarray(places[1:]))
    h = stats.norm.pdf(u) + u * stats.norm.cdf(u)
    return np.sum(np.diff(b[kept]) * h)


def drawn(n=40, n_lines=12, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, n_lines)), rng.normal(size=(n, n_lines))


def test_it_is_the_sorted_sweep(x64):
    a, b = drawn()
    expected = [swept(*row) for row in zip(a, b, strict=True)]
    np.testing.assert_allclose(expected_rise(a, b), expected, rtol=1e-10)


def test_it_is_the_integral(x64):
    a, b = drawn(5)
    z = np.linspace(-12, 12, 400_001)
    for row in range(5):
        highest = (a[row][:, None] + b[row][:, None] * z).max(axis=0)
        expected = np.trapezoid(highest * stats.norm.pdf(z), z) - a[row].max()
        np.testing.assert_allclose(expected_rise(a, b)[row], expected, atol=1e-8)


def test_copies_and_parallels_change_nothing(x64):
    """Nor lines that meet where others do, with rounding in all of them."""
    rng = np.random.default_rng(1)
    a, b = drawn(seed=1)
    expected = expected_rise(a, b)
    rounding = 1 + 1e-16 * rng.integers(-3, 4, size=(4, *a.shape))
    many = [
        np.concatenate([x, x * r, x * s], 1)
        for x, r, s in zip((a, b), rounding[:2], rounding[2:], strict=True)
    ]
    np.testing.assert_allclose(expected_rise(*many), expected, rtol=1e-9)
    lower = np.concatenate([a, a - 0.3], 1), np.concatenate([b, b], 1)
    np.testing.assert_allclose(expected_rise(*lower), expected, rtol=1e-12)
    i, j, share = rng.integers(0, 12, (3, 40, 5))
    share, rows = share / 12, np.arange(40)[:, None]
    through = [
        np.concatenate([x, (1 - share) * x[rows, i] + share * x[rows, j]], 1)
        for x in (a, b)
    ]
    np.testing.assert_allclose(expected_rise(*through), expected, rtol=1e-9)


def test_far_apart_it_keeps_its_digits(width):
    """Two lines that meet eight deviations away: h(-8), not a difference of sums."""
    a, b = np.array([[8.0, 0.0]]), np.array([[0.0, 1.0]])
    got = expected_rise(*(jnp.asarray(x, f"float{width}") for x in (a, b)))
    exact = 7.550262e-17  # pdf(8) - 8 cdf(-8), to seven digits
    assert abs(float(got[0]) / exact - 1) < (1e-6 if width == 64 else 1e-3)


def test_one_line_or_level_ones_rise_nowhere(width):
    one = jnp.ones((3, 1), f"float{width}")
    level = jnp.asarray(np.arange(12.0).reshape(3, 4), f"float{width}")
    total = jax.jit(jax.value_and_grad(lambda a, b: expected_rise(a, b).sum(), (0, 1)))
    value, slopes = total(level, 0 * level)
    assert (expected_rise(one, one) == 0).all() and value == 0
    assert all(jnp.isfinite(s).all() for s in slopes)


def test_first_and_second_derivatives(x64):
    a, b = drawn(1, 6, seed=3)
    start = jnp.asarray(np.stack([a[0], b[0]]))

    def rise(ab):
        return expected_rise(ab[:1], ab[1:])[0]

    slope = jax.jit(jax.grad(rise))
    expected = central_difference(rise, start)
    np.testing.assert_allclose(slope(start), expected, atol=1e-8)
    hessian = np.asarray(jax.jit(jax.hessian(rise))(start))
    assert np.abs(hessian).max() > 0.05
    for index in np.ndindex(2, 6):
        expected = central_difference(lambda ab, i=index: slope(ab)[i], start)
        np.testing.assert_allclose(hessian[index], expected, atol=1e-7)


def test_blocks_change_nothing(x64, monkeypatch):
    a, b = drawn()
    whole = expected_rise(a, b)
    monkeypatch.setattr(lines, "_BLOCK_VALUES", 7 * 12**2)
    blocked = jax.jit(lambda *lines_: lines.expected_rise(*lines_))
    np.testing.assert_allclose(blocked(a, b), whole, rtol=1e-14)
