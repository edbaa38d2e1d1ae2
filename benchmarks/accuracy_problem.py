"""The problem behind `benchmarks.accuracy`: its data, its exact posterior, the Gaussian
that a sampler implies, and the distance of the two."""

import dataclasses
import functools
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import scipy.linalg

from pyrox.gp import RBF, AbstractKernel, Matern

SMOOTHNESS = {"RBF": None, "Matern-5/2": 2.5, "Matern-3/2": 1.5, "Matern-1/2": 0.5}
N_TEST, NOISE_VAR = 1024, 1e-3
_ROUNDING = 0.01  # the share of a squared distance that rounding may have


@dataclasses.dataclass(frozen=True)
class Problem:
    """Data and test points from a seed that the sizes fix."""

    name: str
    in_size: int
    n: int
    n_test: int = N_TEST
    noise_var: float = NOISE_VAR

    @property
    def nu(self) -> float | None:
        return SMOOTHNESS[self.name]

    @property
    def lengthscale(self) -> float:
        return (self.in_size / 100) ** 0.5

    @functools.cached_property
    def kernel(self) -> AbstractKernel:
        if self.nu is None:
            return RBF(1.0, self.lengthscale)
        return Matern(self.nu, 1.0, self.lengthscale)

    @functools.cached_property
    def inputs(self) -> np.ndarray:
        """The training points above the test points."""
        rng = np.random.default_rng([self.in_size, self.n])
        train = rng.uniform(0.15, 0.85, (self.n, self.in_size))
        test = rng.uniform(0, 0.3, (self.n_test, self.in_size))
        return np.vstack([train, test + 0.7 * rng.integers(0, 2, test.shape)])

    @functools.cached_property
    def gram(self) -> np.ndarray:
        inputs = jnp.asarray(self.inputs)
        return np.asarray(self.kernel(inputs, inputs))

    @functools.cached_property
    def y(self) -> np.ndarray:
        """A draw from the prior, and noise."""
        covariance = self.noisy(self.gram)
        normal = np.random.default_rng(self.n).normal(size=self.n)
        return np.linalg.cholesky(covariance) @ normal

    def noisy(self, gram: np.ndarray) -> np.ndarray:
        return gram[: self.n, : self.n] + self.noise_var * np.eye(self.n)


class Gaussian(NamedTuple):
    mean: np.ndarray
    cov: np.ndarray


def exact_weights(problem: Problem) -> np.ndarray:
    """k(test, X) A^-1, with A the covariance of the data."""
    return _solved(problem, problem.gram)


def _solved(problem: Problem, gram: np.ndarray) -> np.ndarray:
    """From the rows of a covariance matrix that belong to the data."""
    factor = scipy.linalg.cho_factor(problem.noisy(gram), lower=True)
    return scipy.linalg.cho_solve(factor, gram[: problem.n, problem.n :]).T


def exact_posterior(problem: Problem) -> Gaussian:
    n, gram = problem.n, problem.gram
    root = np.linalg.cholesky(problem.noisy(gram))
    seen = scipy.linalg.solve_triangular(root, gram[:n, n:], lower=True)
    mean = exact_weights(problem) @ problem.y
    return Gaussian(mean, gram[n:, n:] - seen.T @ seen)


def implied(problem: Problem, phi: np.ndarray, weights: np.ndarray) -> Gaussian:
    """What phi w + weights (y - phi w - e) is, with w ~ N(0, I) and e the noise.

    With the `weights` of the exact posterior it is a Matheron path. With those that the
    features themselves give it is the weight-space posterior.
    """
    rest = phi[problem.n :] - weights @ phi[: problem.n]
    cov = rest @ rest.T + problem.noise_var * (weights @ weights.T)
    return Gaussian(weights @ problem.y, cov)


def feature_weights(problem: Problem, phi: np.ndarray) -> np.ndarray:
    """phi(test) phi(X)^T (phi(X) phi(X)^T + noise)^-1."""
    return _solved(problem, phi[: problem.n] @ phi.T)


def root(cov: np.ndarray) -> np.ndarray:
    """A root R, R R^T = cov, of a covariance that may have no Cholesky factor."""
    values, vectors = np.linalg.eigh(cov)
    return vectors * np.sqrt(np.maximum(values, 0))


def wasserstein(first: Gaussian, first_root: np.ndarray, second: Gaussian) -> float:
    """The 2-Wasserstein distance of two Gaussians, the root of the first being given.

    Traces give it in a third of the time, unless they would cancel to their rounding.
    Then the roots are turned towards each other (the Procrustes problem), which
    subtracts entry from entry and keeps small distances.
    """
    gap = float(np.sum((first.mean - second.mean) ** 2))
    traces = float(np.trace(first.cov) + np.trace(second.cov))
    values = np.linalg.eigvalsh(first_root.T @ second.cov @ first_root)
    square = gap + traces - 2 * float(np.sqrt(np.maximum(values, 0)).sum())
    lost = len(values) * float(np.sqrt(np.finfo(float).eps * values[-1]))
    if lost > _ROUNDING * square:
        second_root = root(second.cov)
        left, _, right = np.linalg.svd(first_root.T @ second_root)
        square = gap + float(np.sum((first_root @ left - second_root @ right.T) ** 2))
    return float(np.sqrt(square))
