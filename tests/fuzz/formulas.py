"""Every kernel and every way to combine them, in NumPy, from the formulas.

Each answers its Gram matrix, its slopes by the first input, its mixed second
derivatives where the inputs coincide, and how far rounding may take each of them: by
what the arguments of exponentials and cosines are off, with a variance as scale.
"""

import abc
import dataclasses

import numpy as np
from rounded import PI, Long, Rounded

from pyrox import gp


@dataclasses.dataclass(frozen=True)
class Jet:
    """k(a, b), (N, M); dk/da, (N, M, D); d2k/da db at b = a, (N, D, D)."""

    gram: Rounded
    slope: Rounded
    mixed: Rounded

    def __add__(self, other: "Jet") -> "Jet":
        return Jet(
            *(self.gram + other.gram, self.slope + other.slope),
            self.mixed + other.mixed,
        )


class AbstractFormula(abc.ABC):
    """A kernel with its numbers."""

    smooth = True  # whether its functions have a derivative

    @abc.abstractmethod
    def jet(self, A: np.ndarray, B: np.ndarray) -> Jet: ...

    @abc.abstractmethod
    def library(self) -> gp.AbstractKernel: ...

    @abc.abstractmethod
    def scaled(self, factor: float) -> "AbstractFormula":
        """The same kernel with `factor` times the variance."""

    def terms(self) -> list["AbstractFormula"]:
        """Its additive terms, products of sums multiplied out."""
        return [self]

    def gram(self, A: np.ndarray, B: np.ndarray) -> Rounded:
        return self.jet(A.astype(Long), B.astype(Long)).gram

    def diag(self, X: np.ndarray) -> np.ndarray:
        return np.diagonal(self.gram(X, X).value)


@dataclasses.dataclass(frozen=True)
class Leaf(AbstractFormula):
    """A kernel that is made of no other. Its numbers are arrays of the tested type."""

    variance: np.ndarray
    values: tuple[np.ndarray, ...] = ()
    order: float = 0  # nu of a Matern, the degree of a polynomial

    def scaled(self, factor: float) -> "Leaf":
        return dataclasses.replace(self, variance=self.variance * factor)

    def library(self) -> gp.AbstractKernel:
        return getattr(gp, type(self).__name__)(self.variance, *self.values)

    def numbers(self, in_size: int) -> tuple[np.ndarray, ...]:
        """The variance, then the others, one for each input."""
        each = (np.broadcast_to(v.astype(Long), (in_size,)) for v in self.values)
        return self.variance.astype(Long), *each


class AbstractRadialLeaf(Leaf):
    """variance g(r^2); `correlation` is g and dg / dr^2."""

    @abc.abstractmethod
    def correlation(self, r2: np.ndarray) -> tuple[np.ndarray, np.ndarray]: ...

    def jet(self, A: np.ndarray, B: np.ndarray) -> Jet:
        n_inputs = A.shape[1]
        v, ell, *_ = self.numbers(n_inputs)
        gap = (A[:, None] - B[None]) / ell
        g, slope = self.correlation((gap**2).sum(-1))
        most = v * (n_inputs + 8)
        steep = most / ell
        at_zero = -2 * self.correlation(np.zeros((), Long))[1]
        mixed = at_zero * np.diag(v / ell**2)
        return Jet(
            Rounded(v * g, np.full_like(g, most)),
            Rounded(2 * v * slope[..., None] * gap / ell, 0 * gap + 2 * steep),
            everywhere(A, mixed, 4 * (1 + at_zero) * steep[:, None] / ell),
        )


def everywhere(A: np.ndarray, mixed: np.ndarray, error: np.ndarray) -> Rounded:
    """The same at each row of `A`."""
    full = (len(A), *mixed.shape)
    error = np.broadcast_to(error, mixed.shape)
    return Rounded(np.broadcast_to(mixed, full), np.broadcast_to(error, full))


class RBF(AbstractRadialLeaf):
    def correlation(self, r2):
        g = np.exp(-r2 / 2)
        return g, -g / 2


class Matern(AbstractRadialLeaf):
    """Rasmussen & Williams 2006, eq. 4.17 and its neighbours."""

    @property
    def smooth(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.order > 1

    def library(self) -> gp.AbstractKernel:
        return gp.Matern(self.order, self.variance, self.values[0])

    def correlation(self, r2):
        z = np.sqrt(2 * Long(self.order) * r2)
        shape, slope = {
            0.5: (1, -1 / (2 * np.where(z > 0, z, 1))),
            1.5: (1 + z, Long(-0.5)),
            2.5: (1 + z + z**2 / 3, -(1 + z) / 6),
            3.5: (1 + z + 2 * z**2 / 5 + z**3 / 15, -(1 + z + z**2 / 3) / 10),
        }[self.order]
        return shape * np.exp(-z), 2 * Long(self.order) * slope * np.exp(-z)


class RationalQuadratic(AbstractRadialLeaf):
    def correlation(self, r2):
        alpha = self.values[1].astype(Long)
        base = 1 + r2 / (2 * alpha)
        return base**-alpha, -(base ** (-alpha - 1)) / 2


def turned(A: np.ndarray, B: np.ndarray, waves: np.ndarray) -> np.ndarray:
    """How many eps the angle between rows may be off: by the angles that they have
    from any common point, of which the largest is taken."""
    far = np.concatenate([A, B])
    span = abs(waves) * (far.max(axis=0) - far.min(axis=0))
    return (len(waves) + 5) * span


class Periodic(Leaf):
    """Rasmussen & Williams 2006, eq. 4.31."""

    def jet(self, A: np.ndarray, B: np.ndarray) -> Jet:
        v, ell, period = self.numbers(A.shape[1])
        w = 2 * PI / period
        angle = w * (A[:, None] - B[None])
        g = np.exp(-2 * ((np.sin(angle / 2) / ell) ** 2).sum(-1))
        # A circle's point is off by the angle and by eps; it is 1 / l of a radius.
        most = v * (len(w) + 8 + (2 * (turned(A, B, w) + 2) / ell).sum())
        slope = -v * g[..., None] * w * np.sin(angle) / ell**2
        steep = most * w / ell * (1 + 1 / ell)
        mixed = np.diag(v * (w / ell) ** 2)
        return Jet(
            Rounded(v * g, np.full_like(g, most)),
            Rounded(slope, 0 * angle + steep),
            everywhere(A, mixed, 4 * steep[:, None] * w / ell * (1 + 1 / ell)),
        )


class Cosine(Leaf):
    def jet(self, A: np.ndarray, B: np.ndarray) -> Jet:
        v, period = self.numbers(A.shape[1])
        w = 2 * PI / period
        angle = (A[:, None] - B[None]) @ w
        most = v * (len(w) + 8 + turned(A, B, w).sum())
        slope = -v * np.sin(angle)[..., None] * w
        return Jet(
            Rounded(v * np.cos(angle), np.full_like(angle, most)),
            Rounded(slope, 0 * slope + most * w),
            everywhere(A, v * np.outer(w, w), 4 * most * np.outer(w, w)),
        )


class SpectralMixture(Leaf):
    """One mode; more are a sum (Wilson & Adams 2013)."""

    def library(self) -> gp.AbstractKernel:
        means, scales = self.values
        return gp.SpectralMixture(self.variance[None], means[None], scales[None])

    def jet(self, A: np.ndarray, B: np.ndarray) -> Jet:
        v, means, scales = self.numbers(A.shape[1])
        w, s = 2 * PI * means, 2 * PI * scales
        gap = A[:, None] - B[None]
        spread, angle = np.exp(-((gap * s) ** 2).sum(-1) / 2), gap @ w
        most = v * (len(w) + 8 + turned(A, B, w).sum())
        cosine, sine = (v * spread * f(angle) for f in (np.cos, np.sin))
        slope = -cosine[..., None] * s**2 * gap - sine[..., None] * w
        steep = most * (abs(w) + s)
        mixed = v * (np.diag(s**2) + np.outer(w, w))
        return Jet(
            Rounded(cosine, np.full_like(angle, most)),
            Rounded(slope, 0 * slope + 2 * steep),
            everywhere(A, mixed, 4 * np.outer(steep, abs(w) + s)),
        )


class Linear(Leaf):
    def numbers(self, in_size: int) -> tuple[np.ndarray, ...]:
        return (np.broadcast_to(self.variance.astype(Long), (in_size,)),)

    def jet(self, A: np.ndarray, B: np.ndarray) -> Jet:
        (v,) = self.numbers(A.shape[1])
        size = (v * abs(A)) @ abs(B).T
        slope = np.broadcast_to((v * B)[None], (*size.shape, len(v)))
        return Jet(
            Rounded((v * A) @ B.T, (len(v) + 6) * size),
            Rounded(slope, (len(v) + 6) * abs(slope)),
            everywhere(A, np.diag(v), (len(v) + 6) * np.diag(v)),
        )


class Polynomial(Leaf):
    def library(self) -> gp.AbstractKernel:
        return gp.Polynomial(int(self.order), self.variance, self.values[0])

    def jet(self, A: np.ndarray, B: np.ndarray) -> Jet:
        v, c, n = self.variance.astype(Long), self.values[0].astype(Long), self.order
        n_inputs = A.shape[1]
        base, size = A @ B.T + c, abs(A) @ abs(B).T + c
        own, few = (A**2).sum(1) + c, n * (n_inputs + 6)
        outer = A[:, :, None] * A[:, None, :]
        plane = n * own ** (n - 1)
        bend = n * (n - 1) * own ** max(n - 2, 0)
        mixed = plane[:, None, None] * np.eye(n_inputs) + bend[:, None, None] * outer
        sizes = plane[:, None, None] * np.eye(n_inputs)
        sizes = sizes + bend[:, None, None] * abs(outer)
        slope = n * base[..., None] ** (n - 1) * B[None]
        steep = n * size[..., None] ** (n - 1) * abs(B[None])
        return Jet(
            Rounded(v * base**n, few * v * size**n),
            Rounded(v * slope, few * v * steep),
            Rounded(v * mixed, few * v * sizes),
        )


class Constant(Leaf):
    def jet(self, A: np.ndarray, B: np.ndarray) -> Jet:
        return level(A, B, np.ones((len(A), len(B)), Long), self.variance.astype(Long))


class White(Leaf):
    smooth = False

    def jet(self, A: np.ndarray, B: np.ndarray) -> Jet:
        same = (A[:, None] == B[None]).all(-1).astype(Long)
        return level(A, B, same, self.variance.astype(Long))


def level(A: np.ndarray, B: np.ndarray, where: np.ndarray, v: np.ndarray) -> Jet:
    """A variance at some pairs, with no slope."""
    flat = np.zeros((len(A), len(B), A.shape[1]), Long)
    bend = np.zeros((len(A), A.shape[1], A.shape[1]), Long)
    return Jet(Rounded(v * where, v * where), Rounded(flat, flat), Rounded(bend, bend))
