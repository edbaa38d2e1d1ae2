"""Our half of `benchmarks.thompson`."""

import time
from typing import TYPE_CHECKING

import jax
import numpy as np
import numpyro.distributions as dist

if TYPE_CHECKING:
    from pyrox.gp import AbstractKernel, ConditionedGP, PathwiseFunction


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


def model(bounds: np.ndarray) -> tuple["AbstractKernel", dist.Distribution]:
    """BoTorch's: an RBF kernel with the priors of Hvarfner et al. 2024 (arXiv
    2402.02229), from whose mode a fit starts, and a prior on the noise."""
    from pyrox.gp import RBF

    width = bounds[1] - bounds[0]
    middle = np.log(width) + np.sqrt(2) + np.log(len(width)) / 2
    kernel = RBF(init_lengthscale=np.exp(middle - 3)).with_priors(
        lengthscale=dist.LogNormal(middle, np.sqrt(3)),
        variance=dist.LogNormal(0.0, 1.0),
    )
    return kernel, dist.LogNormal(-4.0, 1.0)


class Thompson:
    """`ThompsonSampling` as a strategy of `thompson_regret`: what it has not been told
    it is told before it is asked."""

    trust_region, n_averaged = False, 1

    def __init__(self, bounds: np.ndarray, q: int, seed: int):
        from pyrox.gp import ThompsonSampling

        kernel, noise_prior = model(bounds)
        self.study = ThompsonSampling(
            kernel,
            bounds,
            noise_prior=noise_prior,
            batch_size=q,
            trust_region=self.trust_region,
            n_averaged=self.n_averaged,
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


class OfFour(Thompson):
    """Each point the optimum of the mean of four functions."""

    n_averaged = 4


class LogEI:
    """Expected improvement of q points jointly: of one in closed form, of more by 128
    paths. Rows are filled up, so that nothing is compiled anew as data grow."""

    def __init__(self, bounds: np.ndarray, q: int, seed: int):
        self.bounds, self.q, self.key = bounds, q, jax.random.key(seed)
        self.kernel, self.noise_prior = model(bounds)

    def __call__(self, X: np.ndarray, y: np.ndarray) -> np.ndarray:
        from pyrox.gp import log_expected_improvement, optimize_acquisition

        self.key, of_paths, of_search = jax.random.split(self.key, 3)
        z = (y - y.mean()) / y.std()
        f = self._fitted(of_paths, X, z)
        best = z.min()
        found = optimize_acquisition(
            of_search,
            lambda U: log_expected_improvement(f, U, best),
            self.bounds,
            self.q,
        )
        return np.asarray(found.X)

    def _fitted(
        self, key: jax.Array, X: np.ndarray, z: np.ndarray
    ) -> "ConditionedGP | PathwiseFunction":
        from pyrox.gp import ConstantMean, FourierGrid, GPPrior, PathwiseSampler, fit

        rows = 128
        prior = GPPrior(self.kernel, np.resize(X, (rows, X.shape[1])), ConstantMean())
        found = fit(
            prior,
            np.resize(z, rows),
            0.01,
            observed=np.arange(rows) < len(z),
            noise_prior=self.noise_prior,
            progress=False,
        )
        if self.q == 1:
            return found.posterior
        grid = FourierGrid((self.bounds[0], self.bounds[1]))
        return PathwiseSampler(found.posterior, 1024, grid).sample_paths(key, 128)
