"""What becomes of a standard normal z that is known to be below u, with all digits
however far below zero u is.

With the hazard r = pdf(u) / cdf(u) and s = u + r the mean of z is -r and its variance
1 - r s, and r' = -r s, s' = 1 - r s.

Below zero, with a = -u, let I_n be the integral over t > 0 of t^n / n! exp(-t^2 / 2 -
a t); then cdf(u) is pdf(a) I_0. By parts I_{n-1} = a I_n + (n + 1) I_{n+1} and I_{-1} =
1. So r_n = I_n / I_{n-1} = 1 / (a + (n + 1) r_{n+1}), a continued fraction of positive
terms. (The I_n are repeated integrals of erfc, DLMF 7.18.) All that is asked for is a
product of such terms, without a difference that would cancel.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtr
from jaxtyping import Array

# Below `_FAR` a continued fraction of `_TERMS` terms gives all digits of float64. Above
# it a sum of terms of both signs loses 0.9 digits, which float32 can spare. Above
# `_NO_TAIL` the densities of both types are zero.
_FAR, _TERMS, _NO_TAIL = -2.5, 40, 40.0
_LOG_ROOT_2_PI = 0.5 * math.log(2 * math.pi)


def density(u: Array) -> Array:
    """pdf(u) of the standard normal."""
    return jnp.exp(-0.5 * u * u - _LOG_ROOT_2_PI)


def _with_slope(
    value_and_slope: Callable[[Array], tuple[Array, Array]],
) -> Callable[[Array], Array]:
    """The value, with the derivative that is given beside it."""

    @jax.custom_jvp
    @functools.wraps(value_and_slope)
    def value(u):
        return value_and_slope(u)[0]

    @value.defjvp
    def slope(primals, tangents):
        at, slope = value_and_slope(*primals)
        return at, slope * tangents[0]

    return value


@_with_slope
def log_h(u: Array) -> tuple[Array, Array]:
    """log(pdf(u) + u cdf(u)) of the standard normal, h(u), at any u. Below zero h is
    pdf(a) I_1; the derivative is cdf(u) / h(u)."""
    far = u < _FAR
    v = jnp.where(far, 0, u)
    cdf = ndtr(v)
    h = density(v) + v * cdf
    a, r = _fractions(u)
    log_tail = jnp.log(r[1] / (a + r[1])) - 0.5 * a * a - _LOG_ROOT_2_PI
    return jnp.where(far, log_tail, jnp.log(h)), jnp.where(far, 1 / r[1], cdf / h)


@_with_slope
def entropy_lost(u: Array) -> tuple[Array, Array]:
    """By how much the entropy of z falls when it is known to be below u, in nats: the
    integral gives u r / 2 - log cdf(u), with the derivative -r (1 + u s) / 2."""
    far, v, r, s = _near(u)
    up = v > 0
    below = jnp.where(up, 0, v)
    log_cdf = jnp.where(up, jnp.log1p(-ndtr(-v)), jnp.log(ndtr(below)))
    a, tail = _fractions(u)
    s_far, t = tail[1], 2 * tail[2]
    lost = jnp.log(a + s_far) + _LOG_ROOT_2_PI - 0.5 * a * s_far
    slope = -0.5 * (a + s_far) * t * s_far
    near = 0.5 * v * r - log_cdf
    return jnp.where(far, lost, near), jnp.where(far, slope, -0.5 * r * (1 + v * s))


@_with_slope
def variance_left(u: Array) -> tuple[Array, Array]:
    """The variance of z when it is known to be below u, 1 - r s, with the derivative
    r (s^2 - (1 - r s))."""
    far, _, r, s = _near(u)
    a, tail = _fractions(u)
    s_far, t, w = (n * tail[n] for n in (1, 2, 3))
    left = s_far * (t - s_far)
    slope = (a + s_far) * s_far * s_far * t * (w - t)
    near = 1 - r * s
    return jnp.where(far, left, near), jnp.where(far, slope, r * (s * s - near))


def _near(u: Array) -> tuple[Array, Array, Array, Array]:
    """Whether u is far below zero, and u, r and s where it is not."""
    far = u < _FAR
    v = jnp.clip(u, _FAR, _NO_TAIL)
    r = density(v) / ndtr(v)
    return far, v, r, v + r


def _fractions(u: Array) -> tuple[Array, list[Array]]:
    """a and r_0, r_1, r_2 and r_3, where u is far below zero."""
    a = jnp.maximum(-u, -_FAR)
    r = 2 / (a + jnp.sqrt(a * a + 4 * (_TERMS + 2)))  # the fixed point, to start at
    kept = []
    for n in range(_TERMS, -1, -1):
        r = 1 / (a + (n + 1) * r)
        kept = [r, *kept[:3]]
    return a, kept
