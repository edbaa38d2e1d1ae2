"""Sine and cosine together: their error, the way round the limit, derivatives, vmap."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyrox.gp._numerics import sincos as rule

# The bounds, in units of the last place of the correctly rounded value and in eps. The
# first one is relative, so it sees cancellation next to a zero of the result.
UNITS, EPS = 3.5, 1.25
LIMITS = {32: 1e4, 64: 1e6}


def sincos(angles):
    """The pair, with the least bound that is true."""
    return rule.sincos(angles, jnp.max(jnp.abs(angles), initial=0))


def hard_angles(width: int) -> np.ndarray:
    """Every scale, the whole range, and all floats nearest to multiples of pi/2."""
    rng, limit = np.random.default_rng(0), LIMITS[width]
    dtype = np.dtype(f"float{width}")
    half_pi = np.longdouble("1.57079632679489661923132169163975144")
    multiples = np.arange(1, int(limit / half_pi) + 1) * half_pi
    tiny = np.finfo(dtype).tiny
    angles = np.concatenate(
        [
            np.exp(rng.uniform(np.log(1e-12), np.log(limit), 20_000)),
            rng.uniform(0, limit, 20_000),
            multiples,
            (multiples[:10_000] - half_pi / 2),  # where the quadrant changes
            [0.0, tiny, 2 * tiny, 1e-20, limit],
        ]
    ).astype(dtype)
    return np.concatenate([angles, -angles])


def errors(angles: np.ndarray, values) -> tuple[float, float]:
    """The largest error of (sine, cosine), in units of the last place and in eps."""
    exact = angles.astype(np.longdouble)
    in_units, in_eps = [], []
    for reference, value in zip((np.sin(exact), np.cos(exact)), values, strict=True):
        error = np.abs(np.asarray(value, np.longdouble) - reference)
        in_units.append(
            np.max(error / np.spacing(np.abs(reference.astype(angles.dtype))))
        )
        in_eps.append(np.max(error) / np.finfo(angles.dtype).eps)
    return float(max(in_units)), float(max(in_eps))


def with_one_constant(angles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sine and cosine by a reduction with pi/2 in one constant, otherwise exact."""
    dtype = angles.dtype.type
    multiple = np.round(angles * dtype(2 / np.pi))
    r = (angles - multiple * dtype(np.pi / 2)).astype(np.longdouble)
    quadrant = multiple.astype(np.int64) % 4
    turns = [np.sin(r), np.cos(r), -np.sin(r), -np.cos(r)]
    sine = np.choose(quadrant, turns)
    cosine = np.choose((quadrant + 1) % 4, turns)
    return sine.astype(dtype), cosine.astype(dtype)


def test_each_value_is_within_its_units_of_the_last_place(width):
    angles = hard_angles(width)
    values = jax.jit(sincos)(jnp.asarray(angles))
    in_units, in_eps = errors(angles, values)
    assert in_units <= UNITS
    assert in_eps <= EPS


def test_a_reduction_with_one_constant_would_be_seen(width):
    angles = hard_angles(width)
    in_units, in_eps = errors(angles, with_one_constant(angles))
    assert in_units > 100 * UNITS
    assert in_eps > 100 * EPS


def test_the_sine_of_zero_is_zero(width):
    sine, cosine = sincos(jnp.array([0.0, -0.0]))
    assert np.array_equal(sine, [0, 0])
    assert np.abs(cosine - 1).max() <= EPS * jnp.finfo(cosine.dtype).eps


@pytest.mark.parametrize("times", [2.0, -2.0, np.inf, np.nan])
def test_one_entry_beyond_the_limit_sends_all_to_the_library(times, width):
    angles = jnp.linspace(-9.0, 9.0, 37).at[5].set(times * LIMITS[width])
    for ours, theirs in zip(sincos(angles), (jnp.sin, jnp.cos), strict=True):
        np.testing.assert_array_equal(ours, theirs(angles))
        assert np.isnan(ours[5]) == (not np.isfinite(times))


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_short_floats_keep_their_type(dtype):
    angles = jnp.linspace(-9, 9, 19, dtype=dtype)
    for ours, theirs in zip(sincos(angles), (jnp.sin, jnp.cos), strict=True):
        assert ours.dtype == dtype
        np.testing.assert_array_equal(ours, theirs(angles))


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (2, 3, 4)])
def test_every_shape_is_kept(shape, width):
    angles = jnp.full(shape, 0.7)
    for ours, theirs in zip(sincos(angles), (np.sin, np.cos), strict=True):
        assert ours.shape == shape and ours.dtype == angles.dtype
        np.testing.assert_allclose(ours, theirs(np.full(shape, 0.7)), rtol=1e-6)


def sine(t):
    return sincos(t)[0]


def cosine(t):
    return sincos(t)[1]


def nested(derivatives, f):
    for derivative in derivatives:
        f = derivative(f)
    return f


def both_nested(*derivatives):
    """Derivatives of the first, second, third ... order of the sine and the cosine."""

    def all_of_them(t):
        orders = range(1, len(derivatives) + 1)
        return jnp.stack(
            [nested(derivatives[:n], f)(t) for f in (sine, cosine) for n in orders]
        )

    return jax.jit(jax.vmap(all_of_them))


@pytest.mark.parametrize("limit_times", [1e-5, 3.0])
def test_three_derivatives_forward_and_in_reverse(limit_times, x64):
    t = jnp.linspace(-1.0, 1.0, 41) * limit_times * LIMITS[64]
    s, c = np.sin(t), np.cos(t)
    expected = np.stack([c, -s, -c, -s, -c, s], axis=1)
    reverse = both_nested(jax.grad, jax.grad, jax.grad)(t)
    forward = both_nested(jax.jacfwd, jax.jacfwd, jax.jacfwd)(t)
    mixed = both_nested(jax.grad, jax.jacfwd, jax.jacrev)(t)
    np.testing.assert_allclose(reverse, expected, rtol=0, atol=1e-15)
    np.testing.assert_allclose(forward, reverse, rtol=0, atol=1e-15)
    np.testing.assert_allclose(mixed, reverse, rtol=0, atol=1e-15)


def test_a_tangent_of_the_whole_array(x64):
    t, dt = jnp.linspace(-3.0, 3.0, 11), jnp.linspace(1.0, 2.0, 11)
    values, tangents = jax.jvp(sincos, (t,), (dt,))
    np.testing.assert_array_equal(values, sincos(t))
    expected = np.stack([np.cos(t) * dt, -np.sin(t) * dt])
    np.testing.assert_allclose(np.stack(tangents), expected, rtol=0, atol=1e-15)


def test_the_sum_of_squares_does_not_move(x64):
    t = jnp.linspace(-30.0, 30.0, 101)
    slope = jax.grad(lambda t: jnp.sum(sine(t) ** 2 + cosine(t) ** 2))(t)
    assert np.abs(slope).max() <= 2 * jnp.finfo(t.dtype).eps


def over_rows(angles):
    """The rows one after the other, inside a loop of XLA."""
    return jax.lax.scan(lambda carry, row: (carry, sincos(row)), 0, angles)[1]


WRAPPED = {
    "jit": jax.jit(sincos),
    "vmap": jax.vmap(sincos),
    "vmap of vmap": jax.vmap(jax.vmap(sincos)),
    "vmap of the second axis": jax.vmap(sincos, in_axes=1, out_axes=1),
    "jit of vmap": jax.jit(jax.vmap(sincos)),
    "scan": over_rows,
    "scan under vmap": jax.vmap(lambda row: over_rows(row[None, :])),
    "checkpoint": jax.checkpoint(sincos),
    "checkpoint under jit": jax.jit(jax.checkpoint(sincos)),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_the_same_values_inside(name, x64):
    angles = jnp.linspace(-50.0, 50.0, 21).reshape(3, 7)
    for ours, outside in zip(WRAPPED[name](angles), sincos(angles), strict=True):
        ours = np.asarray(ours).reshape(3, 7)
        np.testing.assert_array_max_ulp(ours, np.asarray(outside), maxulp=1)


def test_gradients_under_vmap_scan_and_checkpoint(x64):
    angles = jnp.linspace(-50.0, 50.0, 21).reshape(3, 7)

    def of_loop(angles):
        return jnp.sum(jax.checkpoint(over_rows)(angles)[0])

    of_rows = jax.vmap(jax.grad(lambda row: jnp.sum(sine(row))))
    for gradient in (jax.grad(of_loop)(angles), of_rows(angles)):
        np.testing.assert_allclose(gradient, np.cos(angles), rtol=0, atol=1e-15)


def guards(f, *args) -> int:
    """How many choices of a branch the program of `f` makes."""
    text = jax.jit(f).lower(*args).as_text()
    return text.count("stablehlo.case") + text.count("stablehlo.if")


def test_one_guard_serves_a_whole_batch():
    angles = jnp.zeros((3, 7))
    alone = guards(sincos, angles)  # that of the platform included
    assert alone > 0
    assert guards(jax.vmap(sincos), angles) == alone
    assert guards(jax.vmap(jax.vmap(sincos)), angles) == alone
    of_rows = jax.vmap(jax.grad(lambda row: jnp.sum(sine(row))))
    assert guards(of_rows, angles) == alone


def test_a_guard_that_vmap_removed_would_be_seen():
    def plainly(angles):
        small = jnp.max(jnp.abs(angles)) <= 1e4
        branches = rule._polynomials, rule._library
        return jax.lax.cond(small, *branches, angles)

    angles = jnp.zeros((3, 7))
    assert guards(plainly, angles) == 1
    assert guards(jax.vmap(plainly), angles) == 0


def test_one_row_beyond_the_limit_leaves_the_batch_right(width):
    angles = np.linspace(-50, 50, 21).reshape(3, 7).astype(f"float{width}")
    angles[1] *= np.asarray(LIMITS[width], angles.dtype)
    values = jax.jit(jax.vmap(sincos))(jnp.asarray(angles))
    in_units, in_eps = errors(angles, values)
    assert in_units <= UNITS and in_eps <= EPS
