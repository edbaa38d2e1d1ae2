"""Dense answers in long double, each with a bound on the error of a shorter type.

The bounds are of first order in a perturbed matrix A + dA (Higham 2002, chapter 10):
dA holds the rounding of the kernel's entries and the backward error of a Cholesky
factor and of triangular solves, steps(N) eps sqrt(A_ii A_jj). They grow with A^-1 and
so with the condition of the problem; no further constant stands before them.
"""

import dataclasses
import functools

import numpy as np
from rounded import PI, Rounded, steps

Answer = tuple[np.ndarray, np.ndarray]  # a value and its bound


def cholesky(A: np.ndarray) -> np.ndarray | None:
    """The lower factor, or None if there is none."""
    L = np.zeros_like(A)
    for j in range(len(A)):
        column = A[j:, j] - L[j:, :j] @ L[j, :j]
        if not column[0] > 0:
            return None
        L[j:, j] = column / np.sqrt(column[0])
    return L


def inverse_lower(L: np.ndarray) -> np.ndarray:
    inverse = np.zeros_like(L)
    for i in range(len(L)):
        row = -L[i, :i] @ inverse[:i]
        row[i] += 1
        inverse[i] = row / L[i, i]
    return inverse


@dataclasses.dataclass(frozen=True)
class Dense:
    """What was observed has the covariance A = gram + diagonal, and is r off its mean.

    Columns C of covariance with A's inputs stand for what is asked.
    """

    gram: Rounded
    diagonal: np.ndarray
    residual: Rounded
    eps: float

    @functools.cached_property
    def A(self) -> np.ndarray:
        return self.gram.value + np.diag(self.diagonal)

    @functools.cached_property
    def scale(self) -> np.ndarray:
        return np.sqrt(np.diagonal(self.A))

    @functools.cached_property
    def slack(self) -> float:
        return self.eps * steps(len(self.A))

    @functools.cached_property
    def dA(self) -> np.ndarray:
        rounding = self.gram.error + 2 * np.diag(np.diagonal(self.A))
        return self.eps * rounding + self.slack * np.outer(self.scale, self.scale)

    @functools.cached_property
    def lower(self) -> np.ndarray | None:
        return cholesky(self.A)

    @functools.cached_property
    def whitener(self) -> np.ndarray:
        assert self.lower is not None
        return inverse_lower(self.lower)

    @functools.cached_property
    def inverse(self) -> np.ndarray:
        return self.whitener.T @ self.whitener

    @functools.cached_property
    def disturbance(self) -> float:
        """Of L^-1 dA L^-T, its norm: below one A + dA certainly has a factor."""
        if self.lower is None:
            return np.inf
        G = abs(self.whitener) @ self.dA @ abs(self.whitener).T
        return float(np.linalg.norm(G.astype(np.float64), 2))

    @property
    def resolved(self) -> bool:
        """Whether the type has digits left for this matrix, and first order holds."""
        return self.disturbance < 0.3

    @property
    def higher_order(self) -> float:
        return 1 / (1 - self.disturbance) ** 2

    @functools.cached_property
    def weights(self) -> np.ndarray:
        return self.inverse @ self.residual.value

    @functools.cached_property
    def weights_error(self) -> np.ndarray:
        """Of what the weights solve for: |r - A weights|, at most."""
        return self.eps * self.residual.error + self.dA @ abs(self.weights)

    def bounded(self, value: np.ndarray, error: np.ndarray) -> Answer:
        return value, error * self.higher_order

    def mean(self, prior: Rounded, C: Rounded) -> Answer:
        solved, eps = self.inverse @ C.value, self.eps
        size = abs(C.value).T @ abs(self.weights)
        error = abs(solved).T @ self.weights_error + self.slack * size
        error = error + eps * (C.error.T @ abs(self.weights) + prior.error)
        value = prior.value + C.value.T @ self.weights
        return self.bounded(value, error + eps * abs(value))

    def cov(self, prior: Rounded, C: Rounded) -> Answer:
        q, solved = self.whitener @ C.value, abs(self.inverse @ C.value)
        length, reach = np.sqrt((q**2).sum(0)), self.scale @ solved
        crossed = solved.T @ C.error
        error = self.eps * (prior.error + crossed + crossed.T) + solved.T @ (
            self.dA @ solved
        )
        lengths, mixed = np.outer(length, length), np.outer(reach, length)
        error = error + self.slack * (lengths + mixed + mixed.T)
        value = prior.value - q.T @ q
        return self.bounded(value, error + self.eps * abs(prior.value))

    def var(self, prior: Rounded, C: Rounded) -> Answer:
        value, error = (np.diagonal(x) for x in self.cov(prior, C))
        return np.maximum(value, 0), error

    def log_density(self) -> Answer:
        z, n = self.whitener @ self.residual.value, len(self.A)
        log_det = -2 * np.log(np.diagonal(self.whitener))
        value = -(z @ z + log_det.sum() + n * np.log(2 * PI)) / 2
        size, a = np.sqrt(z @ z), abs(self.weights)
        quadratic = a @ (self.dA @ a) + 2 * self.eps * (a @ self.residual.error)
        quadratic += self.slack * (size**2 + 2 * size * (a @ self.scale))
        determinant = (abs(self.inverse) * self.dA).sum()
        rounding = self.slack * (abs(log_det).sum() + 2 * n)
        return self.bounded(value, (quadratic + determinant + rounding) / 2)

    def leave_one_out(self) -> Answer:
        a, inverse = self.weights, abs(self.inverse)
        precision = np.diagonal(self.inverse)
        da = inverse @ self.weights_error + self.slack * abs(a)
        dp = np.einsum("ij,jk,ik->i", inverse, self.dA, inverse)
        dp = dp + 4 * self.slack * precision
        value = -(a**2 / precision - np.log(precision) + np.log(2 * PI)) / 2
        error = abs(a) * da / precision + da**2 / precision
        error = error + (a**2 / precision**2 + 1 / precision) * dp / 2
        rounding = self.eps * (4 + abs(np.log(precision)) + a**2 / precision)
        return self.bounded(value, error + rounding)

    def residual_of(self, weights: np.ndarray, target: Rounded) -> Answer:
        """target - A weights, for each row of `weights`, and how far from zero rounding
        takes it where they solve for that."""
        left = target.value - weights @ self.A
        return left, self.eps * target.error + abs(weights) @ self.dA
