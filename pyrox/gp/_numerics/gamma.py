"""Gamma variables as functions of standard normals.

What mixes the scales of a Matern or a rational quadratic kernel. A function of one
normal, unlike a rejection sampler, keeps the even spread of a Sobol sequence, takes no
loop of unknown length and has a derivative by the shape.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln, log_ndtr
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
def gamma_of_normal(
    shape: Float[Array, ""], z: Float[Array, "..."]
) -> Float[Array, "..."]:
    """The Gamma(shape, 1) variable that has the rank of the normal `z`.

    For any shape, differentiable by it. Newton's method on the logarithm of the smaller
    tail as a function of log x, which is concave, so that it cannot diverge; five steps
    give 1e-13 in float64 from shape 0.05 to 200.
    """
    log_lower, log_upper, lower = log_ndtr(z), log_ndtr(-z), z < 0
    log_gamma = gammaln(shape)
    # Below the root by a bound of the lower tail; in the middle by Wilson & Hilferty.
    bound = (log_lower + jnp.log(shape) + log_gamma) / shape
    root = 1 - 1 / (9 * shape) + z / (3 * jnp.sqrt(shape))
    middle = jnp.log(shape) + 3 * jnp.log(jnp.where(root > 0, root, 1))
    start = jnp.where(root > 0, jnp.maximum(bound, middle), bound)
    a = jnp.broadcast_to(shape, z.shape)

    def step(_, log_x):
        x = jnp.exp(log_x)
        tail = jnp.where(lower, jax.lax.igamma(a, x), jax.lax.igammac(a, x))
        short = jnp.log(tail) - jnp.where(lower, log_lower, log_upper)
        move = short * tail * jnp.exp(x + log_gamma - shape * log_x)
        return log_x - jnp.where(lower, move, -move)

    return jnp.exp(jax.lax.fori_loop(0, _NEWTON_STEPS, step, start))


@gamma_of_normal.defjvp
def _gamma_of_normal_jvp(primals, tangents):
    (shape, z), (dshape, dz) = primals, tangents
    x = gamma_of_normal(shape, z)
    a = jnp.broadcast_to(shape, z.shape)
    log_normal = -(z**2) / 2 - np.log(2 * np.pi) / 2
    log_density = (shape - 1) * jnp.log(x) - x - gammaln(shape)
    by_shape = jax.lax.random_gamma_grad(a, x)  # pyright: ignore[reportCallIssue]
    return x, by_shape * dshape + jnp.exp(log_normal - log_density) * dz
