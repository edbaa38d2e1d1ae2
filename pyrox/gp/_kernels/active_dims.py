"""A kernel on some columns of the input."""

import dataclasses
import operator
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from .._features.basis import Draw
from .._features.maps import (
    AbstractFeatures,
    FourierFeatures,
    column_features,
    fourier_columns,
)
from .._features.spectrum import RadialSpectrum
from .._hyper.scales import Scales, part
from .._numerics.measures import AbstractMeasure
from .integrals import Integrals
from .kernel import AbstractKernel, Rule, is_factor


class ActiveDims(AbstractKernel):
    """A kernel that sees only some columns of the input.

    Args:
        kernel: a kernel on those columns; its lengthscale is () or has one entry each.
        dims: the columns, from 0, without repeats.

    Raises:
        ValueError: a column that is negative, repeated, or beyond those of the input.

    Example:
        >>> import jax.numpy as jnp
        >>> from pyrox.gp import RBF, ActiveDims
        >>> kernel = ActiveDims(RBF(), (1,))
        >>> kernel(jnp.array([[0.0, 5.0]]), jnp.array([[9.0, 5.0]]))
        Array([[1.]], dtype=float32)
    """

    dims: tuple[int, ...] = eqx.field(static=True)
    kernel: AbstractKernel = part(
        lambda k, data: Scales(data.inputs[np.array(k.dims)], data.variance)
    )

    def __init__(self, kernel: AbstractKernel, dims: Sequence[int], name: str = ""):
        self.kernel = kernel
        self.dims = tuple(operator.index(d) for d in dims)
        self._set(name)
        repeated = len(set(self.dims)) < len(self.dims)
        if not self.dims or repeated or min(self.dims) < 0:
            raise ValueError(
                "`ActiveDims(dims=...)` must be columns from 0, each once. "
                f"Got {self.dims}. Pass `(0, 2)`, say."
            )

    def _columns(self, X: Any) -> Any:
        self._check(X.shape[-1])
        return X[..., self.dims]

    def _check(self, in_size: int) -> None:
        if max(self.dims) >= in_size:
            raise ValueError(
                f"`ActiveDims(dims={self.dims})` must name columns of the input. Got "
                f"an input of D={in_size}. Columns count from 0."
            )

    def __call__(
        self, X1: Float[Array, "N D"], X2: Float[Array, "M D"]
    ) -> Float[Array, "N M"]:
        return self.kernel(self._columns(X1), self._columns(X2))

    def quick_gram(self, X1: Array, X2: Array) -> Float[Array, "N M"]:
        return self.kernel.quick_gram(self._columns(X1), self._columns(X2))

    def diag(self, X: Float[Array, "N D"]) -> Float[Array, " N"]:
        return self.kernel.diag(self._columns(X))

    @property
    def smoothness(self) -> float:
        return self.kernel.smoothness

    def columns(self, in_size: int) -> frozenset[int]:
        seen = self.kernel.columns(len(self.dims))
        return frozenset(self.dims[d] for d in seen)

    def rules(self, X: Any) -> tuple[Rule, ...]:
        return self.kernel.rules(self._columns(X))

    def terms(self) -> tuple[tuple[AbstractKernel, ...], ...]:
        if is_factor(self.kernel):
            return ((self,),)
        return tuple(
            tuple(ActiveDims(factor, self.dims) for factor in term)
            for term in self.kernel.terms()
        )

    def integrals(self, X: Float[Array, "N D"], over: AbstractMeasure) -> Integrals:
        return self.kernel.integrals(self._columns(X), over.marginal(self.dims))

    def exact_features(self, n_features: int, in_size: int) -> AbstractFeatures | None:
        self._check(in_size)
        phi = self.kernel.exact_features(n_features, len(self.dims))
        return None if phi is None else column_features(phi, self.dims, in_size)

    def sample_frequencies(self, draw: Draw, in_size: int) -> FourierFeatures | None:
        self._check(in_size)
        phi = self.kernel.sample_frequencies(draw, len(self.dims))
        return None if phi is None else fourier_columns(phi, self.dims, in_size)

    def spectrum(self, in_size: int) -> RadialSpectrum | None:
        found = self.kernel.spectrum(len(self.dims))
        if found is None:
            return None
        dims = tuple(self.dims[d] for d in found.dims)
        return dataclasses.replace(found, dims=dims)

    def features(
        self, key: PRNGKeyArray, n_features: int, in_size: int
    ) -> AbstractFeatures:
        self._check(in_size)
        phi = self.kernel.features(key, n_features, len(self.dims))
        return column_features(phi, self.dims, in_size)
