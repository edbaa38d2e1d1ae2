"""Linear and polynomial kernels: exact in finitely many features."""

import itertools
import math

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from .._features.maps import AbstractFeatures
from .._hyper.checks import as_count, as_points, common_dtype
from .._hyper.parameters import POSITIVE, hyperparameter, per_input
from .._numerics.measures import AbstractMeasure
from .integrals import Integrals
from .kernel import AbstractKernel


class Linear(AbstractKernel):
    """k(x, x') = sum_d variance_d x_d x'_d: planes through the origin.

    Add a `Constant` for an intercept. Its D features are exact.

    Args:
        init_variance: of the slopes, () or one for each input, (D,).
        name: the prefix of its NumPyro sites.

    Example:
        >>> import jax.numpy as jnp
        >>> from pyrox.gp import Linear
        >>> Linear(4.0)(jnp.array([[3.0]]), jnp.array([[1.0], [2.0]]))
        Array([[12., 24.]], dtype=float32)
    """

    variance: Float[Array, "..."] = hyperparameter(
        POSITIVE, ndims=(0, 1), scale="output^2/input^2"
    )

    def __init__(self, init_variance: ArrayLike = 1.0, name: str = "Linear"):
        self._set(name, variance=init_variance)

    def __call__(
        self, X1: Float[Array, "N D"], X2: Float[Array, "M D"]
    ) -> Float[Array, "N M"]:
        X1, X2 = as_points(X1), as_points(X2)
        dtype, slopes = common_dtype(X1, X2), self._slopes(X1.shape[1])
        return (slopes(X1.astype(dtype))) @ slopes(X2.astype(dtype)).T

    def diag(self, X: Float[Array, "N D"]) -> Float[Array, " N"]:
        X = as_points(X)
        return jnp.sum(self._slopes(X.shape[1])(X) ** 2, axis=1)

    def integrals(self, X: Float[Array, "N D"], over: AbstractMeasure) -> Integrals:
        mean = over.mean.astype(X.dtype)
        both = self(jnp.concatenate([X, mean[None]]), mean[None])[:, 0]
        return Integrals(both[:-1], both[-1])

    def exact_features(self, n_features: int, in_size: int) -> "MonomialFeatures":
        return self._slopes(in_size)

    def _slopes(self, in_size: int) -> "MonomialFeatures":
        scales = jnp.sqrt(per_input(self, "variance", in_size))
        columns = tuple((d,) for d in range(in_size))
        return MonomialFeatures(scales, None, columns)


class Polynomial(AbstractKernel):
    """k(x, x') = variance (x . x' + offset)^degree.

    Its features, all monomials up to the degree, are exact: C(D + degree, degree) of
    them, whatever number is asked for.

    Args:
        degree: a whole number from 1.
        init_variance: in squared units of the function over inputs^(2 degree).
        init_offset: in squared units of the inputs; the smaller, the less the lower
            powers weigh.
        name: the prefix of its NumPyro sites.

    Example:
        >>> import jax.numpy as jnp
        >>> from pyrox.gp import Polynomial
        >>> Polynomial(2, init_offset=1.0)(jnp.array([[3.0]]), jnp.array([[1.0]]))
        Array([[16.]], dtype=float32)
    """

    degree: int = eqx.field(static=True)
    variance: Float[Array, ""] = hyperparameter(
        POSITIVE, scale=lambda k, data: data.variance / (2 * data.length**2) ** k.degree
    )
    offset: Float[Array, ""] = hyperparameter(POSITIVE, scale="input^2")

    def __init__(
        self,
        degree: int = 2,
        init_variance: ArrayLike = 1.0,
        init_offset: ArrayLike = 1.0,
        name: str = "Polynomial",
    ):
        self.degree = as_count("Polynomial(degree=...)", degree)
        self._set(name, variance=init_variance, offset=init_offset)

    def __call__(
        self, X1: Float[Array, "N D"], X2: Float[Array, "M D"]
    ) -> Float[Array, "N M"]:
        X1, X2 = as_points(X1), as_points(X2)
        dtype = common_dtype(X1, X2)
        return self._of_products(X1.astype(dtype) @ X2.astype(dtype).T)

    def diag(self, X: Float[Array, "N D"]) -> Float[Array, " N"]:
        return self._of_products(jnp.sum(as_points(X) ** 2, axis=1))

    def _of_products(self, products: Float[Array, "..."]) -> Float[Array, "..."]:
        dtype = products.dtype
        powers = (products + self.offset.astype(dtype)) ** self.degree
        return self.variance.astype(dtype) * powers

    def exact_features(self, n_features: int, in_size: int) -> "MonomialFeatures":
        # x.x' + c = z.z' for z = (x, sqrt c); the power of a product of vectors has one
        # feature for each multiset of `degree` columns of z.
        chosen = itertools.combinations_with_replacement(
            range(in_size + 1), self.degree
        )
        columns = tuple(chosen)
        ways = np.array([_arrangements(multiset) for multiset in columns])
        scales = jnp.sqrt(self.variance * ways.astype(self.variance.dtype))
        return MonomialFeatures(scales, jnp.sqrt(self.offset), columns)


def _arrangements(multiset: tuple[int, ...]) -> int:
    repeats = (math.factorial(multiset.count(i)) for i in set(multiset))
    return math.factorial(len(multiset)) // math.prod(repeats)


class MonomialFeatures(AbstractFeatures):
    """Products of columns of the input, each times a scale; `columns` says which, where
    column D stands for the constant."""

    scales: Float[Array, " F"]
    constant: Float[Array, ""] | None
    columns: tuple[tuple[int, ...], ...] = eqx.field(static=True)

    def __call__(self, X: Float[Array, "N D"]) -> Float[Array, "N F"]:
        scales, Z = self.scales.astype(X.dtype), X
        if self.constant is not None:
            constant = jnp.broadcast_to(self.constant.astype(X.dtype), (X.shape[0], 1))
            Z = jnp.concatenate([X, constant], axis=1)
        factors = np.array(self.columns).T
        return scales[None, :] * math.prod(Z[:, which] for which in factors)
