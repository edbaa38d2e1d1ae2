"""Stationary kernels: each Gram function side by side with its spectral measure."""

import abc
import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from .._features.basis import Draw
from .._features.maps import FourierFeatures
from .._features.spectrum import RadialSpectrum
from .._hyper.checks import as_points, common_dtype
from .._hyper.parameters import POSITIVE, hyperparameter, per_input
from .._numerics.distances import quick_squared_distances, squared_distances
from .._numerics.gamma import log_gamma_of_normal
from .._numerics.measures import AbstractMeasure
from .._numerics.reciprocal import largest, reciprocal
from .integrals import Integrals, has_no_integrals
from .kernel import AbstractConstantVariance


class AbstractStationary(AbstractConstantVariance):
    """k(x, x') = variance * g(|(x - x') / lengthscale|^2).

    A subclass states g and its spectral measure; the rest is here once.
    """

    lengthscale: eqx.AbstractVar[Float[Array, "..."]]

    @abc.abstractmethod
    def correlation(self, r2: Float[Array, "..."]) -> Float[Array, "..."]:
        """g, with g(0) = 1, of squared scaled distances."""

    @abc.abstractmethod
    def unit_frequencies(self, draw: Draw, in_size: int) -> Float[Array, "m D"]:
        """Draws from the spectral measure at lengthscale 1: one row a frequency."""

    def __call__(
        self, X1: Float[Array, "N D"], X2: Float[Array, "M D"]
    ) -> Float[Array, "N M"]:
        return self._gram(squared_distances, X1, X2)

    def quick_gram(self, X1: Array, X2: Array) -> Float[Array, "N M"]:
        return self._gram(quick_squared_distances, X1, X2)

    def _gram(
        self, distances: Callable[..., Array], X1: Array, X2: Array
    ) -> Float[Array, "N M"]:
        X1, X2 = as_points(X1), as_points(X2)
        if X1.ndim != 2 or X2.ndim != 2 or X1.shape[1] != X2.shape[1]:
            raise ValueError(
                f"`{type(self).__name__}(X1, X2)` must be given shapes (N, D) and "
                f"(M, D). Got {X1.shape} and {X2.shape}. "
                "For one input dimension pass `X[:, None]`."
            )
        dtype = common_dtype(X1, X2)
        scale = reciprocal(per_input(self, "lengthscale", X1.shape[1]), dtype)
        r2 = distances(X1.astype(dtype), X2.astype(dtype), scale)
        return self.variance.astype(dtype) * self.correlation(r2)

    def mixture(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Squares s and weights w with g(r^2) = sum_j w_j exp(-r^2 / (2 s_j)) under an
        integral over an input, if they are known."""
        return None

    def integrals(self, X: Float[Array, "N D"], over: AbstractMeasure) -> Integrals:
        found = self.mixture()
        if found is None:
            has_no_integrals(self)
        scale = reciprocal(per_input(self, "lengthscale", X.shape[1]), X.dtype)
        squares, weights = (jnp.asarray(each, X.dtype) for each in found)

        def of_one(square):
            return over.of_squared_exponential(X, scale / jnp.sqrt(square))

        once, twice = jax.lax.map(of_one, squares)
        return Integrals(weights @ once, weights @ twice).scaled(self.variance)

    def sample_frequencies(self, draw: Draw, in_size: int) -> FourierFeatures:
        ells = per_input(self, "lengthscale", in_size)
        scale = reciprocal(ells, ells.dtype)
        frequencies = self.unit_frequencies(draw, in_size) * scale[None, :]
        m = frequencies.shape[0]
        return FourierFeatures(frequencies, jnp.broadcast_to(self.variance / m, (m,)))


class AbstractRadial(AbstractStationary):
    """A stationary kernel whose spectral density is known, and which falls off so fast
    that it can be repeated on a lattice (`FourierGrid`)."""

    @abc.abstractmethod
    def log_density(self, r2: Float[Array, "..."], in_size: int) -> Array:
        """The logarithm of the spectral density at lengthscale 1, of squared
        frequencies, which integrates to one over D inputs."""

    @abc.abstractmethod
    def farther(
        self, chance: Float[Array, "..."], r2: Float[Array, ""]
    ) -> Float[Array, "..."]:
        """Squared frequency, at lengthscale 1 and of two inputs, that a random one
        beyond `r2` exceeds with this chance. It goes with `log_density`."""

    @property
    @abc.abstractmethod
    def most_grid_inputs(self) -> int:
        """Up to how many inputs a grid of frequencies gains on random ones."""

    def spectrum(self, in_size: int) -> RadialSpectrum:
        lengthscale = per_input(self, "lengthscale", in_size)
        functions, dims = (self.log_density, self.farther), tuple(range(in_size))
        limits = dims, self.most_grid_inputs
        return RadialSpectrum(*functions, lengthscale, self.variance, *limits)


class RBF(AbstractRadial):
    """The squared exponential kernel: variance * exp(-r^2 / 2), r = |x - x'| / l.

    Rasmussen & Williams 2006, eq. 4.9. Its spectral measure is normal.

    Args:
        init_variance: k(x, x), in squared units of the function.
        init_lengthscale: in input units, () or one for each input, (D,).
        name: the prefix of its NumPyro sites.

    Raises:
        ValueError: a value that is not positive and finite, or another shape.

    Cost: O(N M D) time, O(N M) memory for a Gram matrix.

    Example:
        >>> import jax.numpy as jnp
        >>> from pyrox.gp import RBF
        >>> X = jnp.array([[0.0], [1.0]])
        >>> RBF(init_variance=2.0)(X, X).shape
        (2, 2)
    """

    variance: Float[Array, ""] = hyperparameter(POSITIVE, scale="output^2")
    lengthscale: Float[Array, "..."] = hyperparameter(
        POSITIVE, ndims=(0, 1), scale="input"
    )

    def __init__(
        self,
        init_variance: ArrayLike = 1.0,
        init_lengthscale: ArrayLike = 1.0,
        name: str = "RBF",
    ):
        self._set(name, variance=init_variance, lengthscale=init_lengthscale)

    def correlation(self, r2: Float[Array, "..."]) -> Float[Array, "..."]:
        return jnp.exp(-r2 / 2)

    def mixture(self) -> tuple[np.ndarray, np.ndarray]:
        return np.ones(1), np.ones(1)

    def unit_frequencies(self, draw: Draw, in_size: int) -> Float[Array, "m D"]:
        (frequencies,) = draw(self.lengthscale.dtype, in_size)
        return frequencies

    def log_density(self, r2: Float[Array, "..."], in_size: int) -> Array:
        return -r2 / 2 - in_size / 2 * math.log(2 * math.pi)

    def farther(
        self, chance: Float[Array, "..."], r2: Float[Array, ""]
    ) -> Float[Array, "..."]:
        return r2 - 2 * jnp.log(chance)

    @property
    def most_grid_inputs(self) -> int:
        return 3


class RationalQuadratic(AbstractStationary):
    """variance * (1 + r^2 / (2 alpha))^-alpha, r = |x - x'| / l.

    Rasmussen & Williams 2006, eq. 4.19: a mixture of RBF kernels of all lengthscales,
    those of small `alpha` spread widest. Its spectral measure is a normal vector times
    the root of one Gamma(alpha, rate alpha) variable.

    A small `alpha` puts most of that measure at frequencies below the smallest number
    of the type: in float32 a share of 0.01% at alpha = 0.05, 17% at 0.01 and 83% at
    0.001. Features take those as zero, as constants, which they are over any distance
    that can be seen; the variance is exact and nothing else is lost.

    Args:
        init_variance: k(x, x), in squared units of the function.
        init_lengthscale: in input units, () or one for each input, (D,).
        init_alpha: the weight of long lengthscales; at infinity the kernel is an RBF.
        name: the prefix of its NumPyro sites.

    Raises:
        ValueError: a value that is not positive and finite, or another shape.

    Cost: O(N M D) time, O(N M) memory for a Gram matrix.

    Example:
        >>> import jax.numpy as jnp
        >>> from pyrox.gp import RationalQuadratic
        >>> X = jnp.array([[0.0], [2.0]])
        >>> float(RationalQuadratic(init_alpha=1.0)(X, X)[0, 1])
        0.33333...
    """

    variance: Float[Array, ""] = hyperparameter(POSITIVE, scale="output^2")
    lengthscale: Float[Array, "..."] = hyperparameter(
        POSITIVE, ndims=(0, 1), scale="input"
    )
    alpha: Float[Array, ""] = hyperparameter(POSITIVE)

    def __init__(
        self,
        init_variance: ArrayLike = 1.0,
        init_lengthscale: ArrayLike = 1.0,
        init_alpha: ArrayLike = 1.0,
        name: str = "RationalQuadratic",
    ):
        self._set(
            name, variance=init_variance, lengthscale=init_lengthscale, alpha=init_alpha
        )

    def correlation(self, r2: Float[Array, "..."]) -> Float[Array, "..."]:
        alpha = self.alpha.astype(r2.dtype)
        # Infinity would make the derivative by alpha 0 times infinity.
        most = jax.lax.stop_gradient(jnp.minimum(alpha, 1)) * largest(r2.dtype)
        r2 = jnp.minimum(r2, most)
        return jnp.exp(-alpha * jnp.log1p(r2 / (2 * alpha)))

    def unit_frequencies(self, draw: Draw, in_size: int) -> Float[Array, "m D"]:
        normal, rank = draw(self.lengthscale.dtype, in_size, 1)
        alpha = self.alpha.astype(normal.dtype)
        log_scale = (log_gamma_of_normal(alpha, rank) - jnp.log(alpha)) / 2
        least = math.log(jnp.finfo(normal.dtype).tiny)
        return normal * jnp.exp(jnp.maximum(log_scale, least))
