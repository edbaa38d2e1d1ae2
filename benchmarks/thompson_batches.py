"""Large batches: 500 points a round, of 2000 and more values in eight inputs.

The protocol of Lin et al. 2023 (arXiv 2306.11589, section 4.3) scaled to two cores: the
target is a draw of the prior that all models have, a Matern-3/2 kernel, to be maximised
over the unit cube, seen with noise; each round draws 500 functions and measures at the
maximum of each.
"""

import time
from typing import TYPE_CHECKING

import jax
import numpy as np
from scipy.spatial.distance import cdist

if TYPE_CHECKING:
    from pyrox.gp import Matern

IN_SIZE, N_FIRST, BATCH, N_ROUNDS = 8, 2000, 500, 10
LENGTHSCALE, NOISE_VAR = 0.5, 1e-6
N_INDUCING = 1000
BOUNDS = np.array([[0.0], [1.0]]) * np.ones(IN_SIZE)


def kernel() -> "Matern":
    from pyrox.gp import Matern

    return Matern(1.5, init_lengthscale=np.full(IN_SIZE, LENGTHSCALE))


class Exact:
    """`ThompsonSampling` with the kernel and the noise that made the target."""

    def __init__(self, seed: int):
        from pyrox.gp import ThompsonSampling

        self.study = ThompsonSampling(
            kernel(),
            BOUNDS,
            noise_var=NOISE_VAR,
            batch_size=BATCH,
            maximize=True,
            hyperparameters="fixed",
        )
        self.key, self.state, self.n_told = jax.random.key(seed), self.study.init(), 0

    def __call__(self, X: np.ndarray, y: np.ndarray) -> np.ndarray:
        new = slice(self.n_told, None)
        self.state, self.n_told = self.study.tell(self.state, X[new], y[new]), len(y)
        self.key, key = jax.random.split(self.key)
        X_next, self.state = self.study.ask(key, self.state)
        return np.asarray(X_next)


class Sparse:
    """Paths of the best sparse posterior at some of the data's inputs: the best ones
    and others at random (Titsias 2009, eq. 10)."""

    def __init__(self, seed: int):
        self.key, self.rng = jax.random.key(seed), np.random.default_rng([seed, 2])

    def __call__(self, X: np.ndarray, y: np.ndarray) -> np.ndarray:
        from pyrox.gp import (
            DecoupledPathwiseSampler,
            FullRankGuide,
            SparseGPPrior,
            optimize_paths,
        )

        best = np.argsort(-y)[: N_INDUCING // 2]
        others = np.setdiff1d(np.arange(len(y)), best)
        others = self.rng.choice(others, N_INDUCING - len(best), replace=False)
        Z = X[np.concatenate([best, others])]
        guide = FullRankGuide(*_titsias(Z, X, y))
        sampler = DecoupledPathwiseSampler(SparseGPPrior(kernel(), Z), guide, 1024)
        self.key, of_paths, of_search = jax.random.split(self.key, 3)
        paths = sampler.sample_paths(of_paths, BATCH)
        found = optimize_paths(of_search, paths, BOUNDS, maximize=True, progress=False)
        return np.asarray(found.X)


class Random:
    def __init__(self, seed: int):
        self.rng = np.random.default_rng([seed, 1])

    def __call__(self, X: np.ndarray, y: np.ndarray) -> np.ndarray:
        return self.rng.random((BATCH, IN_SIZE))


def _gram(X: np.ndarray, Z: np.ndarray) -> np.ndarray:
    scaled = np.sqrt(3) * cdist(X, Z) / LENGTHSCALE
    return (1 + scaled) * np.exp(-scaled)


def _titsias(Z: np.ndarray, X: np.ndarray, y: np.ndarray) -> tuple:
    """Mean and root of the q(u) of the highest evidence lower bound."""
    prior = _gram(Z, Z) + 1e-6 * np.eye(len(Z))
    cross = _gram(Z, X)
    root = np.linalg.cholesky(prior)
    whitened = np.linalg.solve(root, cross)
    precision = np.eye(len(Z)) + whitened @ whitened.T / NOISE_VAR
    mean = root @ np.linalg.solve(precision, whitened @ y) / NOISE_VAR
    inner = np.linalg.inv(np.linalg.cholesky(precision))
    cov = root @ (inner.T @ inner) @ root.T
    return mean, np.linalg.cholesky(cov + 1e-9 * np.eye(len(Z)))


RIVALS = {"pyrox": Exact, "pyrox, sparse": Sparse, "random": Random}


def measure(name: str, seed: int) -> dict:
    """The best value of the target at the points of each round, and its seconds."""
    from pyrox.gp import GPPrior, PathwiseSampler

    rng = np.random.default_rng([seed, 0])
    X = rng.random((N_FIRST, IN_SIZE))
    prior = GPPrior(kernel(), X)
    target = PathwiseSampler(prior, 8192, basis="iid").sample_paths(
        jax.random.key(1000 + seed)
    )

    def values(X: np.ndarray) -> np.ndarray:
        return np.asarray(target(X))[0]

    def seen(f: np.ndarray) -> np.ndarray:
        return f + NOISE_VAR**0.5 * rng.standard_normal(len(f))

    f = values(X)
    y, best, seconds = seen(f), [f.max()], []
    ask = RIVALS[name](seed)
    for _ in range(N_ROUNDS):
        start = time.perf_counter()
        X_next = ask(X, y)
        seconds.append(time.perf_counter() - start)
        f = values(X_next)
        X, y = np.concatenate([X, X_next]), np.concatenate([y, seen(f)])
        best.append(max(best[-1], f.max()))
        print(f"{name}: {len(y)} values, best {best[-1]:.3f}", flush=True)
    return {
        "strategy": name,
        "seed": seed,
        "best": [float(b) for b in best],
        "seconds": seconds,
    }


def table(records: list[dict]) -> list[str]:
    lines = []
    for r in records:
        shown = ", ".join(f"{r['best'][i]:.3f}" for i in (1, 2, 5, N_ROUNDS))
        lines.append(
            f"seed {r['seed']} {r['strategy']:14s} best of {N_FIRST} values "
            f"{r['best'][0]:.3f}, after round 1, 2, 5, {N_ROUNDS}: {shown}; a round "
            f"{np.median(r['seconds']):.1f} s, the longest {max(r['seconds']):.1f} s"
        )
    return lines
