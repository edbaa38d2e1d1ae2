"""Several outputs in NumPy: covariances from the formulas, and what data make of them.

Rows are (x, p), the number p of an output as the last column.
"""

import dataclasses

import numpy as np

from pyrox import gp


@dataclasses.dataclass(frozen=True)
class Shared:
    """exp(-|x - x'|^2 / (2 l^2)) B_pq, with B = W W^T + diag(kappa)."""

    lengthscale: float
    W: np.ndarray
    kappa: np.ndarray

    @property
    def B(self) -> np.ndarray:
        return self.W @ self.W.T + np.diag(self.kappa)

    def __call__(self, A: np.ndarray, C: np.ndarray) -> np.ndarray:
        gap = (A[:, None, :-1] - C[None, :, :-1]) / self.lengthscale
        left, right = A[:, -1].astype(int), C[:, -1].astype(int)
        return np.exp(-(gap**2).sum(-1) / 2) * self.B[left][:, right]

    def library(self, in_size: int, name: str = "") -> gp.AbstractKernel:
        n_outputs, rank = self.W.shape
        named = f"Coregionalization{name}"
        outputs = gp.Coregionalization(rank, n_outputs, self.W, self.kappa, named)
        rbf = gp.RBF(1.0, self.lengthscale, name=f"RBF{name}")
        of_x = gp.ActiveDims(rbf, tuple(range(in_size)))
        return of_x * gp.ActiveDims(outputs, (in_size,))


def shared(n_outputs: int, rank: int, lengthscale: float, seed: int = 0) -> Shared:
    rng = np.random.default_rng(seed)
    W, kappa = rng.normal(size=(n_outputs, rank)), rng.uniform(0.1, 0.5, n_outputs)
    return Shared(lengthscale, W, kappa)


@dataclasses.dataclass(frozen=True)
class Dense:
    """A sum of such terms given y at the rows of X; the jitter is a part of the mean
    variance."""

    terms: tuple[Shared, ...]
    X: np.ndarray
    y: np.ndarray
    noise_var: np.ndarray
    jitter: float = 1e-6

    def prior(self, A: np.ndarray, C: np.ndarray) -> np.ndarray:
        return np.sum([term(A, C) for term in self.terms], axis=0)

    @property
    def of_data(self) -> np.ndarray:
        K = self.prior(self.X, self.X)
        jitter_var = self.jitter * np.mean(np.diag(K))
        return K + np.diag(np.broadcast_to(jitter_var + self.noise_var, len(K)))

    def mean(self, A: np.ndarray) -> np.ndarray:
        return self.prior(A, self.X) @ np.linalg.solve(self.of_data, self.y)

    def cov(self, A: np.ndarray) -> np.ndarray:
        cross = self.prior(self.X, A)
        return self.prior(A, A) - cross.T @ np.linalg.solve(self.of_data, cross)

    def log_density(self) -> float:
        A = self.of_data
        fit = self.y @ np.linalg.solve(A, self.y)
        return -0.5 * (fit + np.linalg.slogdet(A)[1] + len(self.y) * np.log(2 * np.pi))


def relative(got, want) -> float:
    return float(np.abs(np.asarray(got) - want).max() / np.abs(want).max())
