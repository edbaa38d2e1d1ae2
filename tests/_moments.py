"""The Gaussians that samplers must have, and what chance may do to an estimate.

The references are dense NumPy in float64, written from the formulas, not from the
library. `BROKEN` holds the mistakes that every check of a sampler must notice.
"""

import contextlib
import dataclasses
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from scipy.stats import norm

from pyrox import gp
from pyrox.gp._paths import samplers


@contextlib.contextmanager
def strict_float64() -> Iterator[None]:
    """Double precision, and an error where JAX would promote a dtype or a rank."""
    with (
        jax.enable_x64(True),
        jax.numpy_dtype_promotion("strict"),
        jax.numpy_rank_promotion("raise"),
    ):
        yield


# --- Kernels and processes in NumPy ------------------------------------------------

CORRELATION: dict[str, Callable[[Any], Any]] = {
    "RBF": lambda r: np.exp(-(r**2) / 2),
    "Matern-1/2": lambda r: np.exp(-r),
    "Matern-3/2": lambda r: (1 + np.sqrt(3) * r) * np.exp(-np.sqrt(3) * r),
    "Matern-5/2": lambda r: (
        (1 + np.sqrt(5) * r + 5 * r**2 / 3) * np.exp(-np.sqrt(5) * r)
    ),
}
KINDS = tuple(CORRELATION)
NU = {"Matern-1/2": 0.5, "Matern-3/2": 1.5, "Matern-5/2": 2.5}


@dataclasses.dataclass(frozen=True)
class Stationary:
    """variance * g(|(x - x') / lengthscale|), and the library's kernel of that name."""

    kind: str
    lengthscale: np.ndarray
    variance: float = 1.0

    def of(self, displacement: np.ndarray) -> np.ndarray:
        scaled = displacement / self.lengthscale
        return self.variance * CORRELATION[self.kind](np.sqrt(np.sum(scaled**2, -1)))

    def __call__(self, A: np.ndarray, B: np.ndarray) -> np.ndarray:
        return self.of(A[:, None, :] - B[None, :, :])

    def library(self, name: str = "", dtype: str = "float64") -> gp.AbstractKernel:
        values = np.asarray(self.variance, dtype), self.lengthscale.astype(dtype)
        if self.kind == "RBF":
            return gp.RBF(*values, name=name)
        return gp.Matern(NU[self.kind], *values, name=name)


def trend(X: Any) -> Any:
    """A mean function, for NumPy and JAX alike."""
    return 0.7 * X[:, 0] - 0.4 * X[:, -1] ** 2 + 0.3


def no_trend(X: Any) -> Any:
    return 0.0 * X[:, 0]


@dataclasses.dataclass(frozen=True)
class Process:
    """f ~ GP(mean_fn, kernel) told the `values` ~ N(values_mean, values_cov) of
    f + e at the anchors, e ~ N(0, diagonal).

    An exact posterior has values y without spread and the diagonal jitter_var + noise;
    a sparse one has values u ~ q(u) and the diagonal jitter_var.
    """

    kernel: Stationary
    anchors: np.ndarray
    values_mean: np.ndarray
    values_cov: np.ndarray
    noise_var: np.ndarray
    jitter_var: float
    mean_fn: Callable[[Any], Any] = trend

    @property
    def diagonal(self) -> np.ndarray:
        return np.broadcast_to(self.jitter_var + self.noise_var, len(self.anchors))

    @property
    def gram(self) -> np.ndarray:
        return self.kernel(self.anchors, self.anchors) + np.diag(self.diagonal)

    def gain(self, X: np.ndarray) -> np.ndarray:
        """k(X, anchors) A^-1, through which the values reach `X`."""
        return np.linalg.solve(self.gram, self.kernel(self.anchors, X)).T

    def mean(self, X: np.ndarray) -> np.ndarray:
        residual = self.values_mean - self.mean_fn(self.anchors)
        return self.mean_fn(X) + self.gain(X) @ residual

    def cov(self, X: np.ndarray) -> np.ndarray:
        """The posterior's covariance."""
        B = self.gain(X)
        return self.kernel(X, X) + B @ (self.values_cov - self.gram) @ B.T

    def path_cov(self, X: np.ndarray, features: gp.AbstractFeatures) -> np.ndarray:
        """The covariance of paths that have drawn these features."""
        B = self.gain(X)
        left = fourier(features, X) - B @ fourier(features, self.anchors)
        return left @ left.T + B @ (np.diag(self.diagonal) + self.values_cov) @ B.T


def fourier(features: gp.AbstractFeatures, X: np.ndarray) -> np.ndarray:
    """The features of each row of `X`, from the frequencies that were drawn."""
    assert isinstance(features, gp.FourierFeatures)
    fields = (features.frequencies, features.masses, features.origin)
    frequencies, masses, origin = (np.asarray(a, np.float64) for a in fields)
    angles = (X - origin) @ frequencies.T
    return np.hstack([np.cos(angles), np.sin(angles)]) * np.sqrt(np.tile(masses, 2))


@dataclasses.dataclass(frozen=True)
class Problem:
    """Some data, an uneven noise, and points to predict at."""

    kernel: Stationary
    X: np.ndarray
    y: np.ndarray
    noise_var: np.ndarray
    queries: np.ndarray
    jitter: float
    mean_fn: Callable[[Any], Any] = trend

    @property
    def jitter_var(self) -> float:
        """The jitter is a part of the process's variance."""
        return self.jitter * self.kernel.variance

    def exact(self) -> Process:
        no_spread = np.zeros((len(self.y), len(self.y)))
        return Process(
            *(self.kernel, self.X, self.y, no_spread),
            *(self.noise_var, self.jitter_var, self.mean_fn),
        )

    def sparse(self, kind: str) -> Process:
        """The process whose inducing inputs are X and whose q(u) is `guide(kind)`."""
        mean, root = guide_numbers(len(self.X))
        K = self.kernel(self.X, self.X) + self.jitter_var * np.eye(len(self.X))
        L = np.linalg.cholesky(K)
        moments = {
            "FullRankGuide": lambda: (mean, root),
            "MeanFieldGuide": lambda: (mean, np.diag(np.diag(root))),
            "WhitenedGuide": lambda: (self.mean_fn(self.X) + L @ mean, L @ root),
            "DeltaGuide": lambda: (mean, 0 * root),
        }
        u, R = moments[kind]()
        no_noise = np.zeros(())
        return Process(
            self.kernel, self.X, u, R @ R.T, no_noise, self.jitter_var, self.mean_fn
        )

    def prior(self, dtype: str = "float64") -> gp.GPPrior:
        X, kernel = self.X.astype(dtype), self.kernel.library(dtype=dtype)
        return gp.GPPrior(kernel, X, self.mean_fn, self.jitter)

    def posterior(self, dtype: str = "float64") -> gp.ConditionedGP:
        values = self.y.astype(dtype), self.noise_var.astype(dtype)
        return self.prior(dtype).condition(*values)

    def sparse_prior(self, dtype: str = "float64") -> gp.SparseGPPrior:
        X, kernel = self.X.astype(dtype), self.kernel.library(dtype=dtype)
        return gp.SparseGPPrior(kernel, X, self.mean_fn, self.jitter)


def problem(
    kind: str,
    n_data: int,
    n_queries: int,
    in_size: int,
    *,
    jitter: float,
    lengthscale: float = 0.7,
    one_noise: bool = False,
) -> Problem:
    """Data on the unit cube; `lengthscale` is the mean of one for each input."""
    rng = np.random.default_rng(n_data + 1000 * in_size)
    X, queries = rng.random((n_data, in_size)), rng.random((n_queries, in_size))
    noise_var = np.asarray(0.07) if one_noise else rng.uniform(0.02, 0.12, n_data)
    y = np.sin(5 * X[:, 0]) + trend(X) + 0.3 * rng.normal(size=n_data)
    kernel = Stationary(kind, lengthscale * np.linspace(0.7, 1.3, in_size), 1.2)
    return Problem(kernel, X, y, noise_var, queries, jitter)


GUIDES = ("FullRankGuide", "MeanFieldGuide", "WhitenedGuide", "DeltaGuide")


def guide_numbers(n_inducing: int) -> tuple[np.ndarray, np.ndarray]:
    """A mean and a lower-triangular root of a covariance."""
    rng = np.random.default_rng(n_inducing)
    root = np.tril(0.1 * rng.normal(size=(n_inducing, n_inducing)), -1)
    spread = rng.uniform(0.2, 0.7, n_inducing)
    return rng.normal(size=n_inducing), root + np.diag(spread)


def guide(kind: str, n_inducing: int, dtype: str = "float64") -> gp.AbstractGuide:
    mean, root = (a.astype(dtype) for a in guide_numbers(n_inducing))
    if kind == "DeltaGuide":
        return gp.DeltaGuide(mean)
    if kind == "MeanFieldGuide":
        return gp.MeanFieldGuide(mean, np.diag(root).copy())
    return getattr(gp, kind)(mean, root)


# --- Exact moments: draws replaced by unit vectors ---------------------------------


class UnitVectors:
    """Stands for `jax.random`, and answers `normal` with unit vectors.

    What is linear in its standard normal draws has a mean and a root of its covariance
    that are numbers, not estimates: the first row of every draw is zero and gives the
    mean, each other row has a single one and gives a column of the root.
    """

    def __init__(self, *widths: int):
        self.n_draws = 1 + sum(widths)
        rows = np.eye(self.n_draws)[:, 1:]
        self._blocks = np.split(rows, np.cumsum(widths)[:-1], axis=1)
        self._keys: list[bytes] = []

    def normal(self, key: jax.Array, shape: tuple, dtype: Any) -> jax.Array:
        self._keys.append(np.asarray(jr.key_data(key)).tobytes())
        block = self._blocks[len(self._keys) - 1]
        assert shape in (block.shape, (block.size,))  # by rows, or flat
        return jnp.asarray(block, dtype).reshape(shape)

    def __getattr__(self, name: str) -> Any:
        return getattr(jr, name)

    def moments(self, values: jax.Array) -> tuple[np.ndarray, np.ndarray]:
        """Mean and covariance of what the draws became."""
        # Independent draws of one call: every block was used, each with its own key.
        assert len(set(self._keys)) == len(self._blocks)
        mean, *rows = np.asarray(values)
        root = np.stack(rows) - mean[None, :]
        return mean, root.T @ root


def eager_samplers(monkeypatch: Any) -> None:
    """Run the samplers uncompiled: a jit cache would keep what a test puts in them."""
    for name in ("_paths", "_draw_exact", "_draw_prior", "_draw_sparse"):
        uncompiled = inspect.unwrap(getattr(samplers, name))
        monkeypatch.setattr(samplers, name, uncompiled)


def relative_error(got: Any, want: Any) -> float:
    """The largest difference, in units of the largest entry."""
    return float(np.max(np.abs(np.asarray(got) - want)) / np.max(np.abs(want)))


# --- Estimates with a stated error rate --------------------------------------------


def false_alarm(z: float, n_comparisons: int) -> float:
    """A bound on the chance that one of these normal estimates strays by z errors."""
    return float(2 * norm.sf(z) * n_comparisons)


def strays(values: Any, mean: np.ndarray, cov: np.ndarray) -> tuple[float, float]:
    """How many standard errors the estimated mean and covariance are off, at most.

    The covariance is taken about the known mean, so that the standard error
    sqrt((C_ii C_jj + C_ij^2) / S) is exact for S Gaussian draws.
    """
    centred, n_draws = np.asarray(values, np.float64) - mean, len(values)
    var = np.diag(cov)
    mean_z = np.abs(centred.mean(axis=0)) / np.sqrt(var / n_draws)
    error = np.sqrt((np.outer(var, var) + cov**2) / n_draws)
    cov_z = np.abs(centred.T @ centred / n_draws - cov) / error
    return float(mean_z.max()), float(cov_z.max())


# --- Mistakes that must be noticed -------------------------------------------------


def with_noise(given, noise_var):
    return eqx.tree_at(lambda g: g.noise_var, given, noise_var)


def _flipped_sign(matheron):
    def broken(key, prior, anchors, given, values, solve, *rest):
        def minus(residual):
            update, convergence = solve(residual)
            return -update, convergence

        return matheron(key, prior, anchors, given, values, minus, *rest)

    return broken


def _no_jitter_in_noise(matheron):
    def broken(key, prior, anchors, given, *rest):
        jitter_var = prior.jitter * jnp.mean(prior.kernel.diag(anchors))
        left = jnp.maximum(given.noise_var - jitter_var, 0)  # sparse: nothing
        return matheron(key, prior, anchors, with_noise(given, left), *rest)

    return broken


def _mean_forgotten(matheron):
    def broken(key, prior, *rest):
        zero = eqx.tree_at(lambda p: p.mean_fn, prior, no_trend)
        paths = matheron(key, zero, *rest)
        return eqx.tree_at(lambda p: p.mean_fn, paths, prior.mean_fn)

    return broken


def _one_noise_for_all(matheron):
    def broken(key, prior, anchors, given, *rest):
        mean = jnp.mean(given.noise_var)
        return matheron(key, prior, anchors, with_noise(given, mean), *rest)

    return broken


BROKEN = {
    "flipped sign of the update": _flipped_sign,
    "jitter left out of the noise drawn": _no_jitter_in_noise,
    "mean function forgotten in the residual": _mean_forgotten,
    "one noise for all data": _one_noise_for_all,
}


def break_matheron(monkeypatch: Any, mistake: str) -> None:
    broken = BROKEN[mistake](samplers.matheron)
    monkeypatch.setattr(samplers, "matheron", broken)
