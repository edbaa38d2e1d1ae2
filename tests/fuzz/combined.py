"""Sums, products, scales and active columns of formulas."""

import dataclasses

import numpy as np
from formulas import AbstractFormula, Jet
from rounded import Long, Rounded

from pyrox import gp


@dataclasses.dataclass(frozen=True)
class Sum(AbstractFormula):
    left: AbstractFormula
    right: AbstractFormula

    @property
    def smooth(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.left.smooth and self.right.smooth

    def jet(self, A: np.ndarray, B: np.ndarray) -> Jet:
        return self.left.jet(A, B) + self.right.jet(A, B)

    def scaled(self, factor: float) -> "Sum":
        return Sum(self.left.scaled(factor), self.right.scaled(factor))

    def library(self) -> gp.AbstractKernel:
        return self.left.library() + self.right.library()

    def terms(self) -> list[AbstractFormula]:
        return self.left.terms() + self.right.terms()


@dataclasses.dataclass(frozen=True)
class Product(AbstractFormula):
    left: AbstractFormula
    right: AbstractFormula

    @property
    def smooth(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.left.smooth and self.right.smooth

    def jet(self, A: np.ndarray, B: np.ndarray) -> Jet:
        a, b = self.left.jet(A, B), self.right.jet(A, B)
        slope = a.slope * b.gram[..., None] + a.gram[..., None] * b.slope
        a0, b0 = (
            own if A is B else side.jet(A, A)
            for own, side in ((a, self.left), (b, self.right))
        )
        rows = np.arange(len(A))
        ka, kb = (j.gram[rows, rows][:, None, None] for j in (a0, b0))
        sa, sb = (j.slope[rows, rows] for j in (a0, b0))
        # The slope by the second input is, where they coincide, that by the first.
        crossed = sa[:, :, None] * sb[:, None, :] + sb[:, :, None] * sa[:, None, :]
        mixed = a0.mixed * kb + ka * b0.mixed + crossed
        return Jet(a.gram * b.gram, slope, mixed)

    def scaled(self, factor: float) -> "Product":
        return Product(self.left.scaled(factor), self.right)

    def library(self) -> gp.AbstractKernel:
        return self.left.library() * self.right.library()

    def terms(self) -> list[AbstractFormula]:
        return [Product(a, b) for a in self.left.terms() for b in self.right.terms()]


@dataclasses.dataclass(frozen=True)
class Scale(AbstractFormula):
    inner: AbstractFormula
    factor: np.ndarray

    @property
    def smooth(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.inner.smooth

    def jet(self, A: np.ndarray, B: np.ndarray) -> Jet:
        factor = self.factor.astype(Long)
        times, jet = Rounded(factor, factor), self.inner.jet(A, B)
        return Jet(times * jet.gram, times * jet.slope, times * jet.mixed)

    def scaled(self, factor: float) -> "Scale":
        return Scale(self.inner.scaled(factor), self.factor)

    def library(self) -> gp.AbstractKernel:
        return self.factor * self.inner.library()

    def terms(self) -> list[AbstractFormula]:
        return [Scale(term, self.factor) for term in self.inner.terms()]


@dataclasses.dataclass(frozen=True)
class ActiveDims(AbstractFormula):
    inner: AbstractFormula
    dims: tuple[int, ...]

    @property
    def smooth(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.inner.smooth

    def jet(self, A: np.ndarray, B: np.ndarray) -> Jet:
        seen, in_size = self.inner.jet(A[:, self.dims], B[:, self.dims]), A.shape[1]

        def spread(x: np.ndarray, n_axes: int) -> np.ndarray:
            shape = x.shape[: x.ndim - n_axes] + (in_size,) * n_axes
            full = np.zeros(shape, Long)
            full[(..., *np.ix_(*[self.dims] * n_axes))] = x
            return full

        def unfold(x: Rounded, n_axes: int) -> Rounded:
            return Rounded(spread(x.value, n_axes), spread(x.error, n_axes))

        return Jet(seen.gram, unfold(seen.slope, 1), unfold(seen.mixed, 2))

    def scaled(self, factor: float) -> "ActiveDims":
        return ActiveDims(self.inner.scaled(factor), self.dims)

    def library(self) -> gp.AbstractKernel:
        return gp.ActiveDims(self.inner.library(), self.dims)

    def terms(self) -> list[AbstractFormula]:
        return [ActiveDims(term, self.dims) for term in self.inner.terms()]
