"""Kernels: what one answers, and the kernels made of others."""

import abc
import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from .._features.basis import IID, Draw, Lifted, has_features
from .._features.maps import (
    AbstractFeatures,
    FourierFeatures,
    scale_features,
)
from .._features.spectrum import RadialSpectrum
from .._hyper.checks import as_points, require_numbers
from .._hyper.parameters import POSITIVE, hyperparameter
from .._hyper.priors import AbstractWithPriors
from .._hyper.scales import part
from .._numerics.measures import AbstractMeasure
from .integrals import Integrals, has_no_integrals, integrals_of_terms


class Rule(NamedTuple):
    """What a kernel asks of some numbers in its inputs: these numbers, one for each
    row, whether each of them keeps it, and the rule in words."""

    numbers: Any
    holds: Callable[[Any], Any]
    words: str


class AbstractKernel(AbstractWithPriors):
    """A covariance function k(x, x').

    A kernel answers its Gram matrix, its diagonal and its features. The first two are
    enough to condition and predict; `features` is there to draw paths. Kernels add,
    multiply, and multiply with a positive number.

    A subclass declares its hyperparameters with `hyperparameter(constraint)`. If it has
    an `__init__` of its own, that sets `self.name` and `self.priors = ()` too.

    Example:
        >>> import jax.numpy as jnp
        >>> from pyrox.gp import RBF, Matern
        >>> kernel = 2.0 * RBF() + Matern(nu=1.5) * RBF(name="envelope")
        >>> kernel.diag(jnp.zeros((2, 1)))
        Array([3., 3.], dtype=float32)
    """

    # Keeps NumPy scalars from spreading themselves over a kernel: `np.float64(2) * k`.
    __array_ufunc__ = None

    @abc.abstractmethod
    def __call__(
        self, X1: Float[Array, "N D"], X2: Float[Array, "M D"]
    ) -> Float[Array, "N M"]:
        """The Gram matrix k(X1, X2)."""

    @abc.abstractmethod
    def diag(self, X: Float[Array, "N D"]) -> Float[Array, " N"]:
        """The variances k(x, x)."""

    def quick_gram(self, X1: Array, X2: Array) -> Float[Array, "N M"]:
        """The Gram matrix in less time and fewer digits, if there is such a way."""
        return self(X1, X2)

    @property
    def smoothness(self) -> float:
        """How many derivatives its functions have, in mean square: a whole number, or
        infinity, which a kernel of one's own is taken to have unless it says less."""
        return math.inf

    def terms(self) -> tuple[tuple["AbstractKernel", ...], ...]:
        """The kernel as a sum of products: one tuple of factors for each term."""
        return ((self,),)

    def columns(self, in_size: int) -> frozenset[int]:
        """The columns that it looks at, of inputs of D = `in_size`."""
        return frozenset(range(in_size))

    def rules(self, X: Any) -> tuple[Rule, ...]:
        """What it asks of the rows of `X`, (..., D), of NumPy's or JAX's numbers,
        beyond being finite."""
        return ()

    def exact_features(self, n_features: int, in_size: int) -> AbstractFeatures | None:
        """A map with phi(X) phi(X')^T = k(X, X') to rounding, if there is one of few
        columns; `n_features` is how many one would like. None if there is not."""
        return None

    def sample_frequencies(self, draw: Draw, in_size: int) -> FourierFeatures | None:
        """Frequencies from the spectral measure of a stationary kernel.

        None for a kernel that is not stationary.

        Args:
            draw: `draw(dtype, 3, 1)` gives standard normals, columns of shape (m, 3)
                and (m, 1) for one m and all calls. All that is random comes from it.
            in_size: D.

        Returns:
            m frequencies, in radians per input unit, with masses that sum to k(x, x).
        """
        return None

    def spectrum(self, in_size: int) -> RadialSpectrum | None:
        """The spectral density, if it is radial and known and the kernel falls off fast
        enough to be repeated on a lattice; else None."""
        return None

    def lifted(self, in_size: int) -> Lifted | None:
        """Another kernel, whose features make those of this one, if there is one."""
        return None

    def integrals(self, X: Float[Array, "N D"], over: AbstractMeasure) -> Integrals:
        """E[k(X_i, x)] and E[k(x, x')] for x and x' drawn from `over` independently, as
        if its mass were one. Raises where there is no closed form."""
        has_no_integrals(self)

    def breach(self, jacobian: Float[Array, "... P D"]) -> Float[Array, "... P D"]:
        """The part of a Jacobian that no function of this kernel has: P outputs, whose
        number is the last column, by the D inputs before it. A projection; zero unless
        they keep a law, as those of `DivergenceFree` do."""
        return jnp.zeros_like(jacobian)

    def features(
        self, key: PRNGKeyArray, n_features: int, in_size: int
    ) -> AbstractFeatures:
        """A random map phi, (N, D) -> (N, F), with E[phi(X) phi(X')^T] = k(X, X').

        By independent frequencies; `PathwiseSampler(basis=...)` has better ones. A
        kernel with neither frequencies nor exact features may have a map of its own
        here.

        Args:
            key: a PRNG key.
            n_features: F, the number of columns.
            in_size: D.
        """
        if is_factor(self) and not has_features(self, in_size):
            raise ValueError(
                f"`{type(self).__name__}` has no features, so its posterior has no "
                "paths (predict and sample at points work): give it a method "
                "`sample_frequencies(draw, in_size)` if it is stationary, else sample "
                "with `basis=Landmarks(Z)`, points Z all over the region of interest."
            )
        phi = IID().features(key, self, n_features, in_size)
        return require_numbers(phi, f"{type(self).__name__}.features(...)")

    def __add__(self, other: Any) -> "AbstractKernel":
        return Sum(self, _as_kernel(other, "+"))

    def __radd__(self, other: Any) -> "AbstractKernel":
        return Sum(_as_kernel(other, "+"), self)

    def __mul__(self, other: Any) -> "AbstractKernel":
        if _is_number(other):
            return Scale(self, other)
        return Product(self, _as_kernel(other, "*"))

    def __rmul__(self, other: Any) -> "AbstractKernel":
        return self * other


class AbstractConstantVariance(AbstractKernel):
    """A kernel with k(x, x) = variance at every point."""

    variance: eqx.AbstractVar[Float[Array, ""]]

    def diag(self, X: Float[Array, "N D"]) -> Float[Array, " N"]:
        X = as_points(X)
        return jnp.broadcast_to(self.variance.astype(X.dtype), X.shape[:1])


def _is_number(x: Any) -> bool:
    if isinstance(x, jax.Array | np.ndarray | np.generic):
        return x.ndim == 0
    return isinstance(x, int | float)


def _as_kernel(other: Any, sign: str) -> "AbstractKernel":
    if isinstance(other, AbstractKernel):
        return other
    numbers = " or a positive number" if sign == "*" else ""
    raise TypeError(
        f"`kernel {sign} other` takes a kernel{numbers}. Got {other!r}. "
        "Multiply to scale a kernel: `2.0 * kernel`."
    )


def is_factor(kernel: AbstractKernel) -> bool:
    """Whether it is neither a sum nor a product."""
    ((first, *_), *_) = terms = kernel.terms()
    return first is kernel and len(terms) == 1


def product_of(term: Sequence[AbstractKernel]) -> AbstractKernel:
    """The kernel that a term of `terms()` is."""
    return functools.reduce(Product, term)


class Sum(AbstractKernel):
    """k1(x, x') + k2(x, x'): the sum of two independent functions.

    Features: half of the columns for each term, side by side; right for any two kernels
    that have features.

    Example:
        >>> from pyrox.gp import RBF, Matern, Sum
        >>> type(RBF() + Matern(nu=0.5)) is Sum
        True
    """

    # A slow and a fast one: two terms that start alike would stay alike.
    left: AbstractKernel = part(lambda _, data: data.times(3 / 2, 1 / 2))
    right: AbstractKernel = part(lambda _, data: data.times(1 / 3, 1 / 2))

    def __call__(
        self, X1: Float[Array, "N D"], X2: Float[Array, "M D"]
    ) -> Float[Array, "N M"]:
        return self.left(X1, X2) + self.right(X1, X2)

    def quick_gram(self, X1: Array, X2: Array) -> Float[Array, "N M"]:
        return self.left.quick_gram(X1, X2) + self.right.quick_gram(X1, X2)

    def diag(self, X: Float[Array, "N D"]) -> Float[Array, " N"]:
        return self.left.diag(X) + self.right.diag(X)

    @property
    def smoothness(self) -> float:
        return min(self.left.smoothness, self.right.smoothness)

    def columns(self, in_size: int) -> frozenset[int]:
        return self.left.columns(in_size) | self.right.columns(in_size)

    def rules(self, X: Any) -> tuple[Rule, ...]:
        return self.left.rules(X) + self.right.rules(X)

    def terms(self) -> tuple[tuple[AbstractKernel, ...], ...]:
        return self.left.terms() + self.right.terms()

    def integrals(self, X: Float[Array, "N D"], over: AbstractMeasure) -> Integrals:
        return self.left.integrals(X, over).plus(self.right.integrals(X, over))

    def breach(self, jacobian: Float[Array, "... P D"]) -> Float[Array, "... P D"]:
        return self.left.breach(self.right.breach(jacobian))


class Product(AbstractKernel):
    """k1(x, x') k2(x, x').

    Features, for stationary factors: the spectral measure of a product is the
    convolution of theirs, so frequencies add and masses multiply.

    Example:
        >>> from pyrox.gp import RBF, Matern, Product
        >>> type(RBF() * Matern(nu=0.5)) is Product
        True
    """

    left: AbstractKernel
    right: AbstractKernel = part(lambda _, data: data.of_unit_variance())

    def __call__(
        self, X1: Float[Array, "N D"], X2: Float[Array, "M D"]
    ) -> Float[Array, "N M"]:
        return self.left(X1, X2) * self.right(X1, X2)

    def quick_gram(self, X1: Array, X2: Array) -> Float[Array, "N M"]:
        return self.left.quick_gram(X1, X2) * self.right.quick_gram(X1, X2)

    def diag(self, X: Float[Array, "N D"]) -> Float[Array, " N"]:
        return self.left.diag(X) * self.right.diag(X)

    @property
    def smoothness(self) -> float:
        return min(self.left.smoothness, self.right.smoothness)

    def columns(self, in_size: int) -> frozenset[int]:
        return self.left.columns(in_size) | self.right.columns(in_size)

    def rules(self, X: Any) -> tuple[Rule, ...]:
        return self.left.rules(X) + self.right.rules(X)

    def terms(self) -> tuple[tuple[AbstractKernel, ...], ...]:
        return tuple(a + b for a in self.left.terms() for b in self.right.terms())

    def integrals(self, X: Float[Array, "N D"], over: AbstractMeasure) -> Integrals:
        return integrals_of_terms(self.terms(), X, over)


class Scale(AbstractKernel):
    """factor * k(x, x'), what `2.0 * kernel` makes; `factor` is a variance ratio.

    Example:
        >>> import jax.numpy as jnp
        >>> from pyrox.gp import RBF
        >>> (2.0 * RBF()).diag(jnp.zeros((1, 1)))
        Array([2.], dtype=float32)
    """

    kernel: AbstractKernel = part(lambda _, data: data.of_unit_variance())
    factor: Float[Array, ""] = hyperparameter(POSITIVE, scale="output^2")

    def __init__(self, kernel: AbstractKernel, factor: ArrayLike, name: str = "Scale"):
        self.kernel = kernel
        self._set(name, factor=factor)

    def __call__(
        self, X1: Float[Array, "N D"], X2: Float[Array, "M D"]
    ) -> Float[Array, "N M"]:
        gram = self.kernel(X1, X2)
        return self.factor.astype(gram.dtype) * gram

    def quick_gram(self, X1: Array, X2: Array) -> Float[Array, "N M"]:
        gram = self.kernel.quick_gram(X1, X2)
        return self.factor.astype(gram.dtype) * gram

    def diag(self, X: Float[Array, "N D"]) -> Float[Array, " N"]:
        return self.factor.astype(X.dtype) * self.kernel.diag(X)

    @property
    def smoothness(self) -> float:
        return self.kernel.smoothness

    def columns(self, in_size: int) -> frozenset[int]:
        return self.kernel.columns(in_size)

    def rules(self, X: Any) -> tuple[Rule, ...]:
        return self.kernel.rules(X)

    def terms(self) -> tuple[tuple[AbstractKernel, ...], ...]:
        if is_factor(self.kernel):
            return ((self,),)
        terms = self.kernel.terms()
        return tuple((Scale(first, self.factor), *rest) for first, *rest in terms)

    def exact_features(self, n_features: int, in_size: int) -> AbstractFeatures | None:
        phi = self.kernel.exact_features(n_features, in_size)
        return None if phi is None else scale_features(phi, self.factor)

    def sample_frequencies(self, draw: Draw, in_size: int) -> FourierFeatures | None:
        phi = self.kernel.sample_frequencies(draw, in_size)
        if phi is None:
            return None
        return FourierFeatures(phi.frequencies, self.factor * phi.masses)

    def spectrum(self, in_size: int) -> RadialSpectrum | None:
        found = self.kernel.spectrum(in_size)
        if found is None:
            return None
        return dataclasses.replace(found, variance=self.factor * found.variance)

    def integrals(self, X: Float[Array, "N D"], over: AbstractMeasure) -> Integrals:
        return self.kernel.integrals(X, over).scaled(self.factor)

    def lifted(self, in_size: int) -> Lifted | None:
        found = self.kernel.lifted(in_size)
        if found is None:
            return None
        lift = found.lift
        return found._replace(lift=lambda phi: scale_features(lift(phi), self.factor))

    def breach(self, jacobian: Float[Array, "... P D"]) -> Float[Array, "... P D"]:
        return self.kernel.breach(jacobian)

    def features(
        self, key: PRNGKeyArray, n_features: int, in_size: int
    ) -> AbstractFeatures:
        phi = self.kernel.features(key, n_features, in_size)
        return scale_features(phi, self.factor)
