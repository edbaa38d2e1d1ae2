"""Kernels of functions that repeat."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr
from jaxtyping import Array, ArrayLike, Float

from .._features.basis import Draw
from .._features.maps import FourierFeatures
from .._hyper.checks import as_points, common_dtype
from .._hyper.parameters import POSITIVE, hyperparameter, per_input
from .._hyper.scales import Scales
from .._numerics.distances import squared_distances
from .._numerics.reciprocal import reciprocal
from .._numerics.turns import turns_of_period
from .kernel import AbstractConstantVariance, AbstractKernel

_HARMONICS = 256  # that are drawn from: the others have no mass from l = 0.05 up
_PER_OCTAVE = 32  # lengthscales that harmonics are drawn for
_FEWEST = {1: 32, 2: 15}  # harmonics that are taken as all, for one and two inputs


class Periodic(AbstractConstantVariance):
    """variance * exp(-2 sum_d sin^2(pi (x_d - x'_d) / period_d) / l_d^2).

    MacKay 1998; Rasmussen & Williams 2006, eq. 4.31. An RBF on a circle, so its
    functions repeat exactly: `Periodic() * Matern()` lets the shape drift. Its spectral
    measure is discrete: harmonics of the period, whose masses are modified Bessel
    functions (Solin & Sarkka 2014). With one input and 66 columns, or two and 962, its
    features are all of these that fit, which is exact to 1e-6 for lengthscales from 0.2
    and 0.35 up; otherwise, and in products, harmonics are drawn. Those drawn stay the
    same while the lengthscale moves by less than about a hundredth, and their masses
    follow it, so that paths have a derivative by it.

    Args:
        init_variance: k(x, x), in squared units of the function.
        init_lengthscale: of the shape within a period, as a fraction of the circle's
            radius: () or one for each input, (D,). From 2 up it is close to a sine.
        init_period: in input units, () or one for each input, (D,).
        name: the prefix of its NumPyro sites.

    Raises:
        ValueError: a value that is not positive and finite, or another shape.

    Cost: O(N M D) time, O(N M) memory for a Gram matrix.

    Example:
        >>> import jax.numpy as jnp
        >>> from pyrox.gp import Periodic
        >>> kernel = Periodic(init_period=12.0)
        >>> float(kernel(jnp.array([[1.0]]), jnp.array([[25.0]]))[0, 0])
        1.0
    """

    variance: Float[Array, ""] = hyperparameter(POSITIVE, scale="output^2")
    lengthscale: Float[Array, "..."] = hyperparameter(POSITIVE, ndims=(0, 1))
    period: Float[Array, "..."] = hyperparameter(
        POSITIVE, ndims=(0, 1), scale=lambda k, data: _span(k.period, data)
    )

    def __init__(
        self,
        init_variance: ArrayLike = 1.0,
        init_lengthscale: ArrayLike = 1.0,
        init_period: ArrayLike = 1.0,
        name: str = "Periodic",
    ):
        self._set(
            name,
            variance=init_variance,
            lengthscale=init_lengthscale,
            period=init_period,
        )

    def __call__(
        self, X1: Float[Array, "N D"], X2: Float[Array, "M D"]
    ) -> Float[Array, "N M"]:
        X1, X2 = as_points(X1), as_points(X2)
        dtype, in_size = common_dtype(X1, X2), X1.shape[1]
        scale = reciprocal(per_input(self, "lengthscale", in_size), dtype)
        circles = _angles(self, X1.astype(dtype), X2.astype(dtype))
        left, right = (
            jnp.concatenate([jnp.cos(a), jnp.sin(a)], axis=1) for a in circles
        )
        r2 = squared_distances(left, right, jnp.concatenate([scale, scale]))
        return self.variance.astype(dtype) * jnp.exp(-r2 / 2)

    def exact_features(self, n_features: int, in_size: int) -> FourierFeatures | None:
        # The most harmonics whose lattice, opposite ones taken together, fits.
        highest = (int((n_features // 2 * 2 - 1) ** (1 / in_size) + 1e-9) - 1) // 2
        if highest < _FEWEST.get(in_size, np.inf):
            return None
        harmonics = range(-highest, highest + 1)
        lattice = np.array(list(itertools.product(harmonics, repeat=in_size)))
        zero_and_after = lattice[len(lattice) // 2 :]
        weights = _harmonics(highest, per_input(self, "lengthscale", in_size))
        masses = jnp.prod(_pick(weights, zero_and_after + highest), axis=1)
        masses = masses.at[1:].multiply(2)
        return FourierFeatures(
            self._frequencies(zero_and_after), self.variance * masses
        )

    def sample_frequencies(self, draw: Draw, in_size: int) -> FourierFeatures:
        (ranks,) = draw(self.lengthscale.dtype, in_size)
        ells = per_input(self, "lengthscale", in_size)
        # Drawn for a lengthscale that is rounded, weighted for the one that is asked
        # for: harmonics are whole numbers, and would jump at every change of it.
        rounded = jnp.exp2(jnp.round(_PER_OCTAVE * jnp.log2(ells)) / _PER_OCTAVE)
        drawn_from = jax.lax.stop_gradient(_harmonics(_HARMONICS, rounded))
        below = jnp.cumsum(drawn_from, axis=1)
        search = jax.vmap(jnp.searchsorted, in_axes=(0, 1), out_axes=1)
        # Not above the sum, which may be one but for rounding.
        chosen = search(below, jnp.minimum(ndtr(ranks), below[:, -1][None, :]))
        weights = _harmonics(_HARMONICS, ells)
        ratios = _pick(weights, chosen) / _pick(drawn_from, chosen)
        masses = jnp.prod(ratios, axis=1)
        masses = self.variance * masses / jnp.sum(masses)
        return FourierFeatures(self._frequencies(chosen - _HARMONICS), masses)

    def _frequencies(self, lattice: ArrayLike) -> Float[Array, "m D"]:
        lattice = jnp.asarray(lattice).astype(self.period.dtype)
        period = per_input(self, "period", lattice.shape[1])
        return 2 * np.pi * lattice / period[None, :]


class Cosine(AbstractConstantVariance):
    """variance * cos(2 pi sum_d (x_d - x'_d) / period_d): one sinusoid of unknown phase
    and amplitude. Its pair of features is exact.

    Args:
        init_variance: in squared units of the function.
        init_period: in input units, () or one for each input, (D,).
        name: the prefix of its NumPyro sites.

    Example:
        >>> import jax.numpy as jnp
        >>> from pyrox.gp import Cosine
        >>> float(Cosine(init_period=4.0)(jnp.array([[0.0]]), jnp.array([[2.0]]))[0, 0])
        -1.0
    """

    variance: Float[Array, ""] = hyperparameter(POSITIVE, scale="output^2")
    period: Float[Array, "..."] = hyperparameter(
        POSITIVE, ndims=(0, 1), scale=lambda k, data: _span(k.period, data)
    )

    def __init__(
        self,
        init_variance: ArrayLike = 1.0,
        init_period: ArrayLike = 1.0,
        name: str = "Cosine",
    ):
        self._set(name, variance=init_variance, period=init_period)

    def __call__(
        self, X1: Float[Array, "N D"], X2: Float[Array, "M D"]
    ) -> Float[Array, "N M"]:
        X1, X2 = as_points(X1), as_points(X2)
        dtype = common_dtype(X1, X2)
        left, right = _angles(self, X1.astype(dtype), X2.astype(dtype))
        left, right = jnp.sum(left, axis=1), jnp.sum(right, axis=1)
        variance = self.variance.astype(dtype)
        return variance * jnp.cos(left[:, None] - right[None, :])

    def exact_features(self, n_features: int, in_size: int) -> FourierFeatures:
        return self._wave(1, in_size)

    def sample_frequencies(self, draw: Draw, in_size: int) -> FourierFeatures:
        (nothing,) = draw(self.variance.dtype, 0)
        return self._wave(nothing.shape[0], in_size)

    def _wave(self, n: int, in_size: int) -> FourierFeatures:
        frequency = 2 * np.pi / per_input(self, "period", in_size)
        frequencies = jnp.broadcast_to(frequency[None, :], (n, in_size))
        return FourierFeatures(frequencies, jnp.broadcast_to(self.variance / n, (n,)))


def _harmonics(highest: int, ells: Float[Array, " D"]) -> Float[Array, "D H"]:
    """The spectral masses of harmonics -highest to highest, for each input, by the
    Fourier transform of the kernel over one period; they sum to one."""
    n = 4 * max(highest, 8)
    sines = np.sin(np.pi * np.arange(n) / n) ** 2
    shape = jnp.exp(-2 * sines.astype(ells.dtype)[None, :] / ells[:, None] ** 2)
    half = jnp.fft.rfft(shape, axis=1).real[:, : highest + 1]
    # Below is rounding, whose root would be noise of half the digits in every path.
    floor = 16 * jnp.finfo(half.dtype).eps * half[:, :1]
    half = jnp.where(half > floor, half, 0)
    both = jnp.concatenate([half[:, :0:-1], half], axis=1)
    return both / jnp.sum(both, axis=1, keepdims=True)


def _span(period: Float[Array, "..."], data: Scales) -> Float[Array, "..."]:
    """From end to end, which is about four deviations."""
    return 4 * (data.lengths if period.ndim else data.length)


def _angles(
    kernel: AbstractKernel, X1: Float[Array, "N D"], X2: Float[Array, "M D"]
) -> tuple[Float[Array, "N D"], Float[Array, "M D"]]:
    """2 pi x / period, less whole turns, with derivatives as from a common point: it
    cancels in the kernel."""
    period = per_input(kernel, "period", X1.shape[1]).astype(X1.dtype)
    origin = jax.lax.stop_gradient(X2[:1])
    reach = jnp.max(jnp.abs(jnp.concatenate([X1, X2]) - origin), axis=0)
    # The turns of a shorter period are beyond all digits of the inputs, and the
    # derivative by it is beyond the type.
    least = jnp.finfo(X1.dtype).eps ** 2 * jax.lax.stop_gradient(reach)
    period = jnp.maximum(period, least)
    left, right = (turns_of_period(X, origin, period) for X in (X1, X2))
    return 2 * np.pi * left, 2 * np.pi * right


def _pick(weights: Float[Array, "D H"], index: ArrayLike) -> Float[Array, "m D"]:
    """weights[d, index[i, d]]"""
    return weights[np.arange(weights.shape[0])[None, :], index]
