"""Our half of `benchmarks.thompson`."""

import time
from typing import TYPE_CHECKING

import jax
import numpy as np
import numpyro.distributions as dist

if TYPE_CHECKING:
    from pyrox.gp import PathwiseFunction


def minimised(
    paths: "PathwiseFunction", bounds: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """Minimisers (S, D), minima (S,) and seconds, by our defaults."""
    from pyrox.gp import optimize_paths

    key = jax.random.key(seed)
    start = time.perf_counter()
    found = optimize_paths(key, paths, bounds, progress=False)
    jax.block_until_ready(found)
    seconds = time.perf_counter() - start
    return np.asarray(found.X), np.asarray(found.values), seconds


class Thompson:
    """`ThompsonSampling` as a strategy of `thompson_regret`: what it has not been told
    it is told before it is asked. BoTorch's model, an RBF kernel with the priors of
    Hvarfner et al. 2024 (arXiv 2402.02229), from whose mode the first fit starts."""

    trust_region = False

    def __init__(self, bounds: np.ndarray, q: int, seed: int):
        from pyrox.gp import RBF, ThompsonSampling

        width = bounds[1] - bounds[0]
        middle = np.log(width) + np.sqrt(2) + np.log(len(width)) / 2
        kernel = RBF(init_lengthscale=np.exp(middle - 3)).with_priors(
            lengthscale=dist.LogNormal(middle, np.sqrt(3)),
            variance=dist.LogNormal(0.0, 1.0),
        )
        self.study = ThompsonSampling(
            kernel,
            bounds,
            noise_prior=dist.LogNormal(-4.0, 1.0),
            batch_size=q,
            trust_region=self.trust_region,
        )
        self.key = jax.random.key(seed)
        self.state = self.study.init()
        self.n_told = 0

    def __call__(self, X: np.ndarray, y: np.ndarray) -> np.ndarray:
        new = slice(self.n_told, None)
        self.state = self.study.tell(self.state, X[new], y[new])
        self.n_told = len(y)
        self.key, key = jax.random.split(self.key)
        X_next, self.state = self.study.ask(key, self.state)
        return np.asarray(X_next)


class NearBest(Thompson):
    """The same in a trust region."""

    trust_region = True
