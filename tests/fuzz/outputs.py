"""Kernels of several outputs, whose number is the last column, from the formulas."""

import abc
import dataclasses
import functools
import itertools
import operator

import numpy as np
from formulas import RBF, AbstractFormula, Jet, Leaf
from rounded import Long, Rounded

from pyrox import gp


def numbers(X: np.ndarray) -> np.ndarray:
    return X[:, -1].astype(int)


@dataclasses.dataclass(frozen=True)
class Coregionalization(Leaf):
    """B_pq of B = W W^T + diag(kappa), which are its values; the variance is one."""

    def scaled(self, factor: float) -> "Coregionalization":
        W, kappa = self.values
        root = np.sqrt(np.asarray(factor, W.dtype))
        return dataclasses.replace(self, values=(W * root, kappa * root**2))

    def library(self) -> gp.AbstractKernel:
        W, kappa = self.values
        return gp.Coregionalization(W.shape[1], W.shape[0], W, kappa)

    def jet(self, A: np.ndarray, B: np.ndarray) -> Jet:
        W, kappa = (v.astype(Long) for v in self.values)
        value = W @ W.T + np.diag(kappa)
        size = (W.shape[1] + 3) * (abs(W) @ abs(W).T + np.diag(kappa))
        value, size = (x[numbers(A)][:, numbers(B)] for x in (value, size))
        flat = np.zeros((*value.shape, A.shape[1]), Long)
        bend = np.zeros((len(A), A.shape[1], A.shape[1]), Long)
        return Jet(Rounded(value, size), Rounded(flat, flat), Rounded(bend, bend))


@dataclasses.dataclass(frozen=True)
class AbstractField(AbstractFormula):
    """f_i = sum_b c_bi . grad psi_b of potentials with one squared exponential."""

    potential: RBF

    @abc.abstractmethod
    def directions(self, in_size: int) -> np.ndarray:
        """The c, (potentials, components, inputs)."""

    def scaled(self, factor: float) -> "AbstractField":
        return dataclasses.replace(self, potential=self.potential.scaled(factor))

    def library(self) -> gp.AbstractKernel:
        return getattr(gp, type(self).__name__)(self.potential.library())

    def jet(self, A: np.ndarray, B: np.ndarray) -> Jet:
        axes = range(A.shape[1] - 1)
        c = self.directions(len(axes)).astype(Long)
        left, right = c[:, numbers(A)], c[:, numbers(B)]
        both = np.einsum("bna,bmc->nmac", left, right)
        own = np.einsum("bna,bnc->nac", left, left)
        v, ell = self.potential.numbers(len(axes))
        gap = (A[:, None, :-1] - B[None, :, :-1]) / ell
        none = np.zeros((len(A), len(axes)), Long)

        def summed(weights, gap, by_left=(), by_right=()):
            """Of all slopes, differentiated again by these inputs."""
            total = []
            for a, c in itertools.product(axes, axes):
                slope = bent(v, ell, gap, (a, *by_left), (c, *by_right))
                total.append(weighed(weights[..., a, c], slope))
            return functools.reduce(operator.add, total)

        gram = summed(both, gap)
        slope = [summed(both, gap, (t,)) for t in axes]
        mixed = [[summed(own, none, (t,), (s,)) for s in axes] for t in axes]
        return Jet(gram, beside(slope), beside([beside(row) for row in mixed], -2))


class DivergenceFree(AbstractField):
    def directions(self, in_size: int) -> np.ndarray:
        if in_size == 2:
            return np.array([[[0, 1], [-1, 0]]])
        # A curl: d A_b / dx_a in the component i, with the sign of (i, a, b).
        c = np.zeros((3, 3, 3))
        for i in range(3):
            a, b = (i + 1) % 3, (i + 2) % 3
            c[b, i, a], c[a, i, b] = 1, -1
        return c


class CurlFree(AbstractField):
    def directions(self, in_size: int) -> np.ndarray:
        return np.eye(in_size)[None]


def bent(
    v: np.ndarray,
    ell: np.ndarray,
    gap: np.ndarray,
    by_left: tuple[int, ...],
    by_right: tuple[int, ...],
) -> Rounded:
    """Derivatives of v exp(-gap^2 / 2) by some inputs of each side, in Hermite's
    polynomials, of which one more derivative has up to twice the terms."""
    orders = np.bincount(by_left + by_right, minlength=len(ell))
    length = np.prod(ell**orders)
    g = v * np.exp(-(gap**2).sum(-1) / 2) / length
    for d, order in enumerate(orders):
        g = g * hermite(order, gap[..., d])
    sign = (-1) ** len(by_left)
    most = 2 ** sum(orders) * (len(ell) + 8) * v / length
    return Rounded(sign * g, np.full_like(g, most))


def hermite(order: int, x: np.ndarray) -> np.ndarray:
    """Those of the probabilists: He_n+1 = x He_n - n He_n-1."""
    before, found = np.zeros_like(x), np.ones_like(x)
    for n in range(order):
        before, found = found, x * found - n * before
    return found


def weighed(weights: np.ndarray, x: Rounded) -> Rounded:
    """By 0, 1 or -1, which is exact."""
    return Rounded(weights * x.value, abs(weights) * x.error)


def beside(parts: list[Rounded], axis: int = -1) -> Rounded:
    """Along a new axis, with zero at its end: nothing depends on the number."""
    zero = Rounded(0 * parts[0].value, 0 * parts[0].error)
    columns = [*parts, zero]
    return Rounded(
        np.stack([p.value for p in columns], axis),
        np.stack([p.error for p in columns], axis),
    )
