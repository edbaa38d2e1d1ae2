"""What `benchmarks.likelihoods` measures: three small sets and a large one, the
likelihoods as NumPyro writes them, and the evidence lower bound once more, in NumPy."""

import dataclasses
from collections.abc import Callable

import numpy as np
import numpyro.distributions as dist
from scipy import linalg, special, stats

JITTER = 1e-6  # of the covariance of Z, in parts of the variance
DEGREES, SCALE = 4.0, 0.3  # of Student's t


@dataclasses.dataclass(frozen=True)
class Problem:
    """Data, a zero-mean process to start from, and the name of a likelihood.

    `kernel` is "rbf" or "matern52", of one lengthscale.
    """

    name: str
    X: np.ndarray
    y: np.ndarray
    Z: np.ndarray
    kernel: str
    variance: float
    lengthscale: float
    likelihood: str


@dataclasses.dataclass(frozen=True)
class Found:
    """Where an optimiser ended: hyperparameters, Z, and q(v) = N(mean, root root^T) of
    the whitened values at Z."""

    variance: float
    lengthscale: float
    Z: np.ndarray
    mean: np.ndarray
    root: np.ndarray


def distribution(name: str) -> Callable:
    """From latent values to a NumPyro distribution; `exp` by the library of `f`."""
    import jax.numpy as jnp

    return {
        "classes": lambda f: dist.Bernoulli(logits=f),
        "counts": lambda f: dist.Poisson(jnp.exp(f)),
        "heavy tails": lambda f: dist.StudentT(DEGREES, f, SCALE),
    }[name]


def two_classes(n: int = 400, m: int = 32) -> Problem:
    rng = np.random.default_rng(0)
    X = rng.uniform(-2, 2, (n, 2))
    f = 2 * np.sin(2 * X[:, 0]) * np.cos(1.5 * X[:, 1]) + X[:, 0]
    y = (rng.uniform(size=n) < special.expit(2 * f)).astype(float)
    Z = X[rng.choice(n, m, replace=False)]
    return Problem("two classes", X, y, Z, "rbf", 1.0, 1.0, "classes")


def coal() -> Problem:
    """Of 112 years, of a rate that falls, as the accidents in coal mines did."""
    rng, years = np.random.default_rng(1), np.arange(1851, 1963.0)
    rate = np.where(years < 1890, 3.1, np.where(years < 1947, 0.9, 0.5))
    X = ((years - 1906) / 30)[:, None]
    Z = np.linspace(X.min(), X.max(), 20)[:, None]
    y = rng.poisson(rate).astype(float)
    return Problem("counts", X, y, Z, "matern52", 1.0, 1.0, "counts")


def motorcycle() -> Problem:
    from pyrox import datasets

    X, y = datasets.motorcycle()
    X, y = (X - X.mean()) / X.std(), (y - y.mean()) / y.std()
    Z = np.linspace(X.min(), X.max(), 20)[:, None]
    return Problem("motorcycle", X, y, Z, "matern52", 1.0, 1.0, "heavy tails")


def started(problem: Problem, k: int) -> Problem:
    """From other hyperparameters: none but the first start is as the problem says, the
    others up to some times off."""
    if k == 0:
        return problem
    off = np.exp(np.random.default_rng([7, k]).normal(0, 1, 2))
    return dataclasses.replace(
        problem,
        variance=problem.variance * off[0],
        lengthscale=problem.lengthscale * off[1],
    )


SMALL = {"classes": two_classes, "counts": coal, "motorcycle": motorcycle}


def large(n: int, m: int = 200, n_held_out: int = 10_000) -> tuple[Problem, Problem]:
    """Two classes in the cube, made from a smooth function; and as many held out."""
    rng = np.random.default_rng(0)
    directions, phases = rng.normal(size=(3, 60)), rng.uniform(0, 2 * np.pi, 60)
    X = rng.uniform(-2, 2, (n + n_held_out, 3))
    f = 3 * np.sqrt(2 / 60) * np.cos(X @ directions * 1.5 + phases).sum(1)
    y = rng.uniform(size=len(X)) < special.expit(f)
    X, y = X.astype(np.float32), y.astype(np.float32)
    Z = X[rng.choice(n, m, replace=False)]

    def part(rows):
        return Problem("large", X[rows], y[rows], Z, "rbf", 1.0, 1.0, "classes")

    return part(slice(0, n)), part(slice(n, None))


def bound(problem: Problem, found: Found, n_points: int = 64) -> float:
    """The evidence lower bound where an optimiser ended, in float64."""
    mean, var = marginals(problem, found)
    nodes, weights = special.roots_hermitenorm(n_points)
    f = mean[:, None] + np.sqrt(var)[:, None] * nodes
    values = log_density(problem.likelihood, f, problem.y[:, None])
    expected = np.sum(values * weights) / np.sqrt(2 * np.pi)
    size = len(found.mean)
    log_det = np.sum(np.log(np.abs(np.diag(found.root))))
    moments = np.sum(found.root**2) + np.sum(found.mean**2)
    return expected - (0.5 * (moments - size) - log_det)


def log_predictive(problem: Problem, mean: np.ndarray, var: np.ndarray) -> float:
    """The mean log p(y*) under these marginals of f, by 64 points."""
    nodes, weights = special.roots_hermitenorm(64)
    f = mean[:, None] + np.sqrt(var)[:, None] * nodes
    values = log_density(problem.likelihood, f, problem.y[:, None])
    log_weights = np.log(weights / np.sqrt(2 * np.pi))
    each = np.log(np.sum(np.exp(values + log_weights), axis=1))
    return float(np.mean(each))


def marginals(problem: Problem, found: Found) -> tuple[np.ndarray, np.ndarray]:
    K = _covariance(problem.kernel, found, found.Z, found.Z)
    K[np.diag_indices_from(K)] += JITTER * found.variance
    lower = np.linalg.cholesky(K)
    cross = _covariance(problem.kernel, found, found.Z, problem.X)
    A = linalg.solve_triangular(lower, cross, lower=True)
    var = found.variance - np.sum(A**2, 0) + np.sum((found.root.T @ A) ** 2, 0)
    return A.T @ found.mean, np.maximum(var, 0)


def _covariance(kernel: str, found: Found, A: np.ndarray, B: np.ndarray) -> np.ndarray:
    r = np.linalg.norm(A[:, None] - B[None], axis=-1) / found.lengthscale
    if kernel == "rbf":
        return found.variance * np.exp(-0.5 * r**2)
    r = np.sqrt(5) * r
    return found.variance * (1 + r + r**2 / 3) * np.exp(-r)


def log_density(likelihood: str, f: np.ndarray, y: np.ndarray) -> np.ndarray:
    if likelihood == "classes":
        return -np.logaddexp(0, np.where(y > 0.5, -f, f))
    if likelihood == "counts":
        return y * f - np.exp(f) - special.gammaln(y + 1)
    return stats.t.logpdf(y, DEGREES, f, SCALE)
