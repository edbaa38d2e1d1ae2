"""Gamma variables as functions of standard normals.

What mixes the scales of a Matern or a rational quadratic kernel. A function of one
normal, unlike a rejection sampler, keeps the even spread of a Sobol sequence, takes no
loop of unknown length and has a derivative by the shape.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import digamma, gammaln, log_ndtr
from jaxtyping import Array, Float
from numpy.polynomial import chebyshev

_FARTHEST, _DEGREE, _NEWTON_STEPS = 6.6, 40, 5


def fixed_gamma(shape: float, z: Float[Array, "..."]) -> Float[Array, "..."]:
    """The Gamma(shape, 1) variable that has the rank of the normal `z`.

    For a shape that is a plain number: the logarithm of SciPy's quantile as a
    polynomial in z, right to 2e-6 from shape 1/2 up. Beyond 6.6 standard deviations, as
    at 6.6.
    """
    u = jnp.clip(z / _FARTHEST, -1, 1)
    above = higher = jnp.zeros_like(u)
    first, *rest = (np.asarray(c, z.dtype) for c in _log_quantile(shape))
    for coefficient in reversed(rest):  # Clenshaw's recurrence
        above, higher = 2 * u * above - higher + coefficient, above
    return jnp.exp(u * above - higher + first)


@functools.lru_cache(maxsize=64)
def _log_quantile(shape: float) -> tuple[float, ...]:
    """Chebyshev coefficients on [-6.6, 6.6], each tail from its own probability."""
    from scipy import special  # a tenth of a second, for those who need it

    def values(u):
        z = u * _FARTHEST
        lower = special.gammaincinv(shape, special.ndtr(z))
        upper = special.gammainccinv(shape, special.ndtr(-z))
        return np.log(np.where(z < 0, lower, upper))

    return tuple(chebyshev.chebinterpolate(values, _DEGREE))


@jax.custom_jvp
def log_gamma_of_normal(
    shape: Float[Array, ""], z: Float[Array, "..."]
) -> Float[Array, "..."]:
    """The logarithm of the Gamma(shape, 1) variable that has the rank of the normal z.

    For any shape, differentiable by it; of a small shape the variable itself is mostly
    too small for floating point (the median at 0.001 is 1e-301). Newton's method on the
    logarithm of the smaller tail as a function of log x, which is concave, so that it
    cannot diverge from a good start; five steps give 1e-12 in float64 from shape 1e-4
    to 1e4.
    """
    log_upper, log_gamma, lower = log_ndtr(-z), gammaln(shape), z < 0
    # `log_ndtr` itself has no digits left where the lower tail is nearly one.
    log_lower = jnp.where(z < 1, log_ndtr(z), jnp.log1p(-jnp.exp(log_upper)))
    # Below the root by a bound of the lower tail; in the middle by Wilson & Hilferty.
    bound = (log_lower + _log_gamma_of_one_and(shape)) / shape
    root = 1 - 1 / (9 * shape) + z / (3 * jnp.sqrt(shape))
    middle = jnp.log(shape) + 3 * jnp.log(jnp.where(root > 0, root, 1))
    start = jnp.where(root > 0, jnp.maximum(bound, middle), bound)
    # Far in the upper tail of a small shape, which is about shape e^-x / (1 + x).
    far = jnp.maximum(jnp.log(shape) - log_upper, 0)
    start = jnp.maximum(start, jnp.log(far - jnp.log1p(far)))
    # Where x is less than rounding the bound is exact, and its tail has no digits left.
    exact = start < _log_eps(z.dtype)
    a = jnp.broadcast_to(shape, z.shape)

    def step(_, log_x):
        x = jnp.exp(log_x)
        tail = jnp.where(lower, jax.lax.igamma(a, x), jax.lax.igammac(a, x))
        tail = jnp.maximum(tail, jnp.finfo(x.dtype).tiny)
        short = jnp.log(tail) - jnp.where(lower, log_lower, log_upper)
        move = short * tail * jnp.exp(x + log_gamma - shape * log_x)
        return log_x - jnp.where(exact, 0, jnp.where(lower, move, -move))

    return jax.lax.fori_loop(0, _NEWTON_STEPS, step, start)


@log_gamma_of_normal.defjvp
def _log_gamma_of_normal_jvp(primals, tangents):
    (shape, z), (dshape, dz) = primals, tangents
    log_x = log_gamma_of_normal(shape, z)
    # Of x less than rounding the lower tail is x^shape / Gamma(1 + shape).
    exact = log_x < _log_eps(z.dtype)
    x = jnp.exp(jnp.where(exact, 0, log_x))
    a = jnp.broadcast_to(shape, z.shape)
    by_shape = jnp.where(
        exact,
        (digamma(1 + shape) - log_x) / shape,
        jax.lax.random_gamma_grad(a, x) / x,  # pyright: ignore[reportCallIssue]
    )
    log_normal = -(z**2) / 2 - np.log(2 * np.pi) / 2
    log_density = shape * log_x - jnp.exp(log_x) - gammaln(shape)  # of log x
    return log_x, by_shape * dshape + jnp.exp(log_normal - log_density) * dz


def _log_gamma_of_one_and(a: Float[Array, ""]) -> Float[Array, ""]:
    """log Gamma(1 + a) with all digits for a small `a`, where it is divided by `a`."""
    terms = (-np.euler_gamma, np.pi**2 / 12, -0.40068563438653143, np.pi**4 / 360)
    series = functools.reduce(lambda total, c: total * a + c, reversed(terms)) * a
    return jnp.where(a < 1e-3, series, gammaln(1 + a))


def _log_eps(dtype: np.dtype) -> float:
    return float(np.log(jnp.finfo(dtype).eps))
