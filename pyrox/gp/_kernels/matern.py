"""The Matern kernels of half-integer smoothness."""

import functools
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from .._features.basis import Draw
from .._hyper.checks import is_traced
from .._hyper.parameters import POSITIVE, hyperparameter
from .._numerics.gamma import fixed_gamma
from .integrals import matern_mixture
from .stationary import AbstractRadial


class Matern(AbstractRadial):
    """The Matern kernels of half-integer smoothness nu, of z = sqrt(2 nu) |x - x'| / l:

        nu = 1/2: variance * exp(-z)
        nu = 3/2: variance * (1 + z) exp(-z)
        nu = 5/2: variance * (1 + z + z^2 / 3) exp(-z)

    and so on (Rasmussen & Williams 2006, eq. 4.16). The spectral measure is a
    multivariate Student-t with 2 nu degrees of freedom: a normal vector over the root
    of one Gamma(nu, rate nu) draw, shared by the coordinates of that vector.
    (Independent Student-t coordinates give a product of one-dimensional kernels
    instead.)

    Its functions have nu - 1/2 derivatives. Those of the kernel are right where points
    coincide, too; for nu = 1/2, which has none there, the first is given as zero.

    Args:
        nu: 0.5, 1.5, 2.5, ...
        init_variance: k(x, x), in squared units of the function.
        init_lengthscale: in input units, () or one for each input, (D,).
        name: the prefix of its NumPyro sites.

    Raises:
        ValueError: another nu; a value that is not positive and finite; another shape.

    Cost: O(N M D) time, O(N M) memory for a Gram matrix.

    Example:
        >>> import jax.numpy as jnp
        >>> from pyrox.gp import Matern
        >>> float(Matern(nu=0.5)(jnp.array([[0.0]]), jnp.array([[1.0]]))[0, 0])
        0.36787...
    """

    nu: float = eqx.field(static=True)
    variance: Float[Array, ""] = hyperparameter(POSITIVE, scale="output^2")
    lengthscale: Float[Array, "..."] = hyperparameter(
        POSITIVE, ndims=(0, 1), scale="input"
    )

    def __init__(
        self,
        nu: float = 2.5,
        init_variance: ArrayLike = 1.0,
        init_lengthscale: ArrayLike = 1.0,
        name: str = "Matern",
    ):
        if is_traced(nu) or not (nu > 0 and float(nu + 0.5).is_integer()):
            raise ValueError(
                "`Matern(nu=...)` must be 0.5, 1.5, 2.5, ..., a plain number. "
                f"Got {nu}. For smoother functions use `RBF`."
            )
        self.nu = float(nu)
        self._set(name, variance=init_variance, lengthscale=init_lengthscale)

    @property
    def smoothness(self) -> float:
        return self.nu - 0.5

    def correlation(self, r2: Float[Array, "..."]) -> Float[Array, "..."]:
        return _matern(round(self.nu - 0.5), 2 * self.nu * r2)

    def mixture(self) -> tuple[np.ndarray, np.ndarray]:
        return matern_mixture(self.nu)

    def unit_frequencies(self, draw: Draw, in_size: int) -> Float[Array, "m D"]:
        normal, rank = draw(self.lengthscale.dtype, in_size, 1)
        return normal * jax.lax.rsqrt(fixed_gamma(self.nu, rank) / self.nu)

    def log_density(self, r2: Float[Array, "..."], in_size: int) -> Array:
        nu, half = self.nu, in_size / 2
        constant = math.lgamma(nu + half) - math.lgamma(nu)
        constant -= half * math.log(2 * math.pi * nu)
        return constant - (nu + half) * jnp.log1p(r2 / (2 * nu))

    def farther(
        self, chance: Float[Array, "..."], r2: Float[Array, ""]
    ) -> Float[Array, "..."]:
        twice = 2 * self.nu
        return (twice + r2) * chance ** (-1 / self.nu) - twice

    @property
    def most_grid_inputs(self) -> int:
        return 2 if self.nu < 1 else 3


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _matern(order: int, t: Array) -> Array:
    """The Matern function of smoothness `order` + 1/2, of t = 2 nu r^2.

    Written in the squared distance its derivative is the function of the order below,
    so no root is differentiated at zero: all derivatives that exist are right where two
    points coincide.
    """
    z = jnp.sqrt(t)
    if order > 0:
        # No farther than where exp(-z) is zero: the polynomial would be infinite.
        farthest = -1.25 * math.log(jnp.finfo(t.dtype).tiny)
        z = jnp.where(z > farthest, farthest, z)
    coefficients = reversed(_coefficients(order))
    return functools.reduce(lambda total, c: total * z + c, coefficients) * jnp.exp(-z)


@_matern.defjvp
def _matern_jvp(order, primals, tangents):
    (t,), (dt,) = primals, tangents
    if order > 0:
        slope = -_matern(order - 1, t) / (2 * (2 * order - 1))
        return _matern(order, t), slope * dt
    # Infinite at zero, where the kernel has a kink: zero is the middle of its slopes.
    away = jnp.where(t > 0, t, 1)
    slope = -_matern(0, away) / (2 * jnp.sqrt(away))
    return _matern(0, t), jnp.where(t > 0, slope, 0) * dt


def _coefficients(p: int) -> list[float]:
    """Of 1, z, ..., z^p in front of exp(-z) (Rasmussen & Williams 2006, eq. 4.16)."""
    return [
        2**i * math.comb(p, i) / (math.comb(2 * p, i) * math.factorial(i))
        for i in range(p + 1)
    ]
