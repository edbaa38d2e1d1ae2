"""Feature maps: what a kernel hands to the sampler.

A feature map is a callable pytree phi, (N, D) -> (N, F), drawn so that
E[phi(X) phi(X')^T] = K(X, X').
"""

import abc
import functools
import operator
from collections.abc import Callable, Sequence
from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._numerics.measures import AbstractMeasure
from .._numerics.safe_sqrt import safe_sqrt
from .._numerics.sincos import sincos

Tree = TypeVar("Tree")


class AbstractFeatures(eqx.Module):
    """A feature map phi, (N, D) -> (N, F), with E[phi(X) phi(X')^T] = K(X, X')."""

    @abc.abstractmethod
    def __call__(self, X: Float[Array, "N D"]) -> Float[Array, "N F"]:
        """The features of each row of `X`."""

    def integrals(self, over: AbstractMeasure) -> Float[Array, " F"]:
        """E[phi(x)] for x drawn from `over`, as if its mass were one. Raises where
        there is no closed form."""
        raise ValueError(
            f"`{type(self).__name__}` has no integrals in closed form. Take those of "
            "paths by quadrature: `integrate_paths(paths, measure, n_nodes=32)`."
        )


class FourierFeatures(AbstractFeatures):
    """Sine and cosine pairs: phi(x) = [sqrt(a_i) cos(w_i x), sqrt(a_i) sin(w_i x)]_i.

    For frequencies w_i drawn from a kernel's normalised spectral measure and masses a_i
    that sum to k(0), E[phi(x) phi(x')] = k(x - x') (Rahimi & Recht 2007), and
    |phi(x)|^2 = k(0) exactly, which a cosine with a random phase does not give
    (Sutherland & Schneider 2015, arXiv 1506.02785).

    Args:
        frequencies: radians per input unit, one row a frequency.
        masses: the spectral mass that each frequency carries.
        origin: where the angles are zero; the covariance does not depend on it, the
            rounding error does.

    Cost: O(N F D) time, O(N F) memory.

    Example:
        >>> import jax.numpy as jnp
        >>> from pyrox.gp import FourierFeatures
        >>> phi = FourierFeatures(jnp.array([[1.0], [2.0]]), jnp.array([0.5, 0.5]))
        >>> phi(jnp.zeros((3, 1))).shape
        (3, 4)
    """

    frequencies: Float[Array, "m D"]
    masses: Float[Array, " m"]
    origin: Float[Array, " D"]

    def __init__(
        self,
        frequencies: Float[Array, "m D"],
        masses: Float[Array, " m"],
        origin: Float[Array, " D"] | None = None,
    ):
        self.frequencies = frequencies
        self.masses = masses
        self.origin = jnp.zeros_like(frequencies[0]) if origin is None else origin

    def __call__(self, X: Float[Array, "N D"]) -> Float[Array, "N F"]:
        sine, cosine = self.sincos(X)
        amplitudes = self.amplitudes(X.dtype)
        return jnp.concatenate([amplitudes * cosine, amplitudes * sine], axis=1)

    def sincos(self, X: Float[Array, "N D"]) -> tuple[Float[Array, "N m"], ...]:
        """The sines and the cosines of the angles, of amplitude one."""
        dtype = X.dtype
        return _waves(
            self.frequencies.astype(dtype), X - self.origin.astype(dtype)[None, :]
        )

    def integrals(self, over: AbstractMeasure) -> Float[Array, " F"]:
        cosine, sine = over.of_waves(self.frequencies, self.origin)
        amplitudes = self.amplitudes(self.frequencies.dtype)[0]
        return jnp.concatenate([amplitudes * cosine, amplitudes * sine])

    def amplitudes(self, dtype: jnp.dtype) -> Float[Array, "1 m"]:
        """The root of each frequency's mass; without mass its derivative is zero."""
        return safe_sqrt(self.masses.astype(dtype))[None, :]


@jax.jit
def _waves(frequencies: Array, X: Array) -> tuple[Array, Array]:
    farthest, fastest = jax.lax.stop_gradient(
        [jnp.max(jnp.abs(rows), axis=0) for rows in (X, frequencies)]
    )
    return sincos(X @ frequencies.T, jnp.sum(farthest * fastest))


class SumFeatures(AbstractFeatures):
    """The features of a sum of independent functions: those of each, side by side.

    All Fourier pairs come first and as one product, cosines before sines.
    """

    maps: tuple[AbstractFeatures, ...]

    def __call__(self, X: Float[Array, "N D"]) -> Float[Array, "N F"]:
        waves, others = self._split()
        return jnp.concatenate([phi(X) for phi in (*waves, *others)], axis=1)

    def combine(
        self, weights: Float[Array, "S F"], X: Float[Array, "N D"], product: "Product"
    ) -> Float[Array, "..."]:
        """`combine(self, weights, X, product)`."""
        waves, others = self._split()
        maps = (*waves, *others)
        ends = np.cumsum([count_columns(phi, X.shape[1]) for phi in maps])
        shares = zip(maps, jnp.split(weights, ends[:-1], axis=1), strict=True)
        values = (combine(*share, X, product) for share in shares)
        return functools.reduce(operator.add, values)

    def integrals(self, over: AbstractMeasure) -> Float[Array, " F"]:
        waves, others = self._split()
        return jnp.concatenate([phi.integrals(over) for phi in (*waves, *others)])

    def columns(self, index: int, in_size: int) -> np.ndarray:
        """Which columns belong to a map."""
        phi = self.maps[index]
        sizes = [count_columns(phi, in_size) for phi in self.maps]
        is_wave = [isinstance(phi, FourierFeatures) for phi in self.maps]
        alike = [size for size, w in zip(sizes, is_wave, strict=True) if w]
        before = sum(s for s, w in zip(sizes[:index], is_wave, strict=False) if w)
        if isinstance(phi, FourierFeatures):
            cosines = before // 2 + np.arange(sizes[index] // 2)
            return np.concatenate([cosines, sum(alike) // 2 + cosines])
        start = sum(alike) + sum(sizes[:index]) - before
        return start + np.arange(sizes[index])

    def _split(self) -> tuple[list[FourierFeatures], list[AbstractFeatures]]:
        waves = [phi for phi in self.maps if isinstance(phi, FourierFeatures)]
        others = [phi for phi in self.maps if not isinstance(phi, FourierFeatures)]
        if len(waves) > 1:
            frequencies = jnp.concatenate([phi.frequencies for phi in waves])
            masses = jnp.concatenate([phi.masses for phi in waves])
            waves = [FourierFeatures(frequencies, masses, waves[0].origin)]
        return waves, others


class TensorFeatures(AbstractFeatures):
    """Products of the columns of several maps, each with each: the features of a
    product of kernels whose maps are independent."""

    maps: tuple[AbstractFeatures, ...]

    def __call__(self, X: Float[Array, "N D"]) -> Float[Array, "N F"]:
        def times(left, right):
            both = left[:, :, None] * right[:, None, :]
            return both.reshape(X.shape[0], -1)

        return functools.reduce(times, (phi(X) for phi in self.maps))


class ColumnFeatures(AbstractFeatures):
    """A map of some columns of the input."""

    phi: AbstractFeatures
    dims: tuple[int, ...] = eqx.field(static=True)

    def __call__(self, X: Float[Array, "N D"]) -> Float[Array, "N F"]:
        return self.phi(X[:, self.dims])


class ScaledFeatures(AbstractFeatures):
    """A map times a constant."""

    phi: AbstractFeatures
    factor: Float[Array, ""]

    def __call__(self, X: Float[Array, "N D"]) -> Float[Array, "N F"]:
        return self.factor.astype(X.dtype) * self.phi(X)


def weigh(
    weights: Float[Array, "S F"], rows: Float[Array, "N F"]
) -> Float[Array, "S N"]:
    """weights rows^T: many paths as a matrix product, one as a matrix and a vector.

    (A vector times a matrix runs at a quarter of the speed on a CPU; many paths from
    the right, at two thirds.)
    """
    if weights.shape[0] == 1:
        return (rows @ weights.T).T
    return weights @ rows.T


def weigh_own(
    weights: Float[Array, "S F"], rows: Float[Array, "SR F"]
) -> Float[Array, "S R"]:
    """The same for rows of which the first R are those of the first path, and so on."""
    blocks = rows.reshape(weights.shape[0], -1, rows.shape[1])
    return jnp.einsum("srf,sf->sr", blocks, weights)


# How weights and the rows of a map become values.
Product = Callable[[Array, Array], Array]


def combine(
    phi: AbstractFeatures,
    weights: Float[Array, "S F"],
    X: Float[Array, "N D"],
    product: Product = weigh,
) -> Float[Array, "..."]:
    """The functions that have these weights at the rows of `X`: all of them at all
    rows, (S, N), or by `weigh_own` each at rows of its own, (S, N / S).

    Fourier features need no matrix of both halves side by side, nor a pass to scale it.
    """
    weights = weights.astype(X.dtype)
    if isinstance(phi, SumFeatures):
        return phi.combine(weights, X, product)
    if not isinstance(phi, FourierFeatures):
        return product(weights, phi(X))
    sine, cosine = phi.sincos(X)
    amplitudes, m = phi.amplitudes(X.dtype), phi.masses.shape[0]
    of_cosine, of_sine = amplitudes * weights[:, :m], amplitudes * weights[:, m:]
    return product(of_cosine, cosine) + product(of_sine, sine)


def count_columns(phi: AbstractFeatures, in_size: int) -> int:
    """F, of a map of D inputs."""
    if isinstance(phi, FourierFeatures):
        return 2 * phi.masses.shape[0]  # without tracing the map
    point = jax.ShapeDtypeStruct((1, in_size), jnp.result_type(float))
    return jax.eval_shape(phi, point).shape[1]


def sum_features(maps: Sequence[AbstractFeatures]) -> AbstractFeatures:
    """Features of a sum of kernels."""
    return maps[0] if len(maps) == 1 else SumFeatures(tuple(maps))


def product_features(maps: Sequence[FourierFeatures]) -> FourierFeatures:
    """Features of a product of stationary kernels, from frequencies drawn together:
    they add, their masses multiply."""

    def times(left, right):
        n = left.masses.shape[0]
        return FourierFeatures(
            left.frequencies + right.frequencies, n * left.masses * right.masses
        )

    return functools.reduce(times, maps)


def tensor_features(maps: Sequence[AbstractFeatures]) -> AbstractFeatures:
    """Features of a product of kernels from independent maps: all products of columns,
    F1 F2 of them."""
    return maps[0] if len(maps) == 1 else TensorFeatures(tuple(maps))


def scale_features(phi: AbstractFeatures, scale: Float[Array, ""]) -> AbstractFeatures:
    """Features of scale * k from those of k."""
    if isinstance(phi, FourierFeatures):
        return FourierFeatures(phi.frequencies, scale * phi.masses, phi.origin)
    return ScaledFeatures(phi, jnp.sqrt(scale))


def column_features(
    phi: AbstractFeatures, dims: tuple[int, ...], in_size: int
) -> AbstractFeatures:
    """Features on all `in_size` columns of a kernel that sees only `dims`."""
    if isinstance(phi, FourierFeatures):
        return fourier_columns(phi, dims, in_size)
    return ColumnFeatures(phi, dims)


def fourier_columns(
    phi: FourierFeatures, dims: tuple[int, ...], in_size: int
) -> FourierFeatures:
    """Fourier features stay Fourier features, with zeros for the other columns, so that
    kernels on different columns can be multiplied."""
    if dims == tuple(range(in_size)):
        return phi
    everywhere = jnp.zeros((phi.frequencies.shape[0], in_size), phi.frequencies.dtype)
    return FourierFeatures(everywhere.at[:, dims].set(phi.frequencies), phi.masses)


def move_origin(phi: Tree, point: Float[Array, " D"]) -> Tree:
    """`phi` with the zero of its Fourier angles at `point`, its covariance unchanged.

    The angle of an input near 2020 (a year) at lengthscale 0.3 is about 10^4, which
    float32 holds to 10^-3; measured from the data it is held to 10^-6.
    """

    def move(node):
        if not isinstance(node, FourierFeatures):
            return node
        if node.origin.shape[-1:] != point.shape[-1:]:
            return node  # a map of warped inputs lives in coordinates of its own
        return FourierFeatures(node.frequencies, node.masses, point)

    return jax.tree.map(move, phi, is_leaf=lambda x: isinstance(x, FourierFeatures))
