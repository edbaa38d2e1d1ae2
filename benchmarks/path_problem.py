"""Paths to minimise, how low each one goes, and how an optimiser is judged on them.

A problem is (D, N, S, seed): data at N uniform points of [0, 1]^D, from a draw of a
Matern-5/2 prior of variance one with a lengthscale for each input, and S paths of the
posterior. An optimiser is judged by its hits, the share of paths whose minimum it found
to 1e-3 of the best that anyone found, and by its gap, the mean distance above that, in
standard deviations of the prior. One of those who search is `dense_search` below, which
takes minutes where an optimiser has seconds, and shares no code with any.
"""

import dataclasses
import pathlib
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.optimize import minimize
from scipy.spatial import KDTree
from scipy.stats import qmc

if TYPE_CHECKING:
    from pyrox.gp import PathwiseFunction

VARIANCE, NOISE_VAR = 1.0, 1e-4
# Times sqrt(D / 6), so that a problem is about as rugged in any D.
LENGTHSCALES = (0.35, 1.05)
N_FEATURES = 1024
HIT = 1e-3


@dataclasses.dataclass(frozen=True)
class PathArrays:
    """S paths in numbers that any library can take up.

        f_s(x) = cosine[s] cos(a) + sine[s] sin(a) + update[s] k(anchors, x)

    with a = frequencies (x - origin) and k a Matern-5/2 kernel. Amplitudes are in the
    weights `cosine` and `sine` already.
    """

    frequencies: np.ndarray  # (m, D), radians per unit of the input
    origin: np.ndarray  # (D,)
    cosine: np.ndarray  # (S, m)
    sine: np.ndarray  # (S, m)
    anchors: np.ndarray  # (N, D)
    update: np.ndarray  # (S, N)
    variance: np.ndarray  # ()
    lengthscale: np.ndarray  # (D,)

    @staticmethod
    def of(paths: "PathwiseFunction") -> "PathArrays":
        """What a path of one Matern-5/2 kernel without a mean function is made of."""
        phi: Any = paths.features
        kernel: Any = paths.kernel
        weights = np.asarray(paths.feature_weights)
        amplitudes = np.sqrt(np.asarray(phi.masses))
        m, in_size = phi.frequencies.shape
        return PathArrays(
            np.asarray(phi.frequencies),
            np.asarray(phi.origin),
            amplitudes * weights[:, :m],
            amplitudes * weights[:, m:],
            np.asarray(paths.anchors),
            np.asarray(paths.update_weights),
            np.asarray(kernel.variance),
            np.broadcast_to(np.asarray(kernel.lengthscale), (in_size,)),
        )

    def as_pyrox(self) -> "PathwiseFunction":
        """The same functions as pyrox has them; from a file, say. In JAX's 64 bits."""
        import jax.numpy as jnp

        from pyrox.gp import FourierFeatures, Matern, PathwiseFunction, Sobol
        from pyrox.gp._posterior.mean import ZeroMean

        m = len(self.frequencies)
        masses = jnp.full(m, self.variance / m)
        weights = np.concatenate([self.cosine, self.sine], axis=1)
        return PathwiseFunction(
            features=FourierFeatures(
                jnp.asarray(self.frequencies), masses, jnp.asarray(self.origin)
            ),
            feature_weights=jnp.asarray(weights / np.sqrt(self.variance / m)),
            anchors=jnp.asarray(self.anchors),
            update_weights=jnp.asarray(self.update),
            kernel=Matern(2.5, self.variance, self.lengthscale),
            mean_fn=ZeroMean(),
            given=None,
            basis=Sobol(),
        )

    def values(self, X: np.ndarray) -> np.ndarray:
        """(S, n), every path at every row of `X`."""
        angles = (X - self.origin) @ self.frequencies.T
        drawn = self.cosine @ np.cos(angles).T + self.sine @ np.sin(angles).T
        left, right = X / self.lengthscale, self.anchors / self.lengthscale
        squares = (left**2).sum(1)[:, None] + (right**2).sum(1) - 2 * left @ right.T
        r = np.sqrt(5 * np.maximum(squares, 0))
        gram = self.variance * (1 + r + r**2 / 3) * np.exp(-r)
        return drawn + self.update @ gram.T

    def value_and_slope(self, s: int, x: np.ndarray) -> tuple[float, np.ndarray]:
        """Path s at one point."""
        angles = self.frequencies @ (x - self.origin)
        cosine, sine = np.cos(angles), np.sin(angles)
        value = self.cosine[s] @ cosine + self.sine[s] @ sine
        slope = (self.sine[s] * cosine - self.cosine[s] * sine) @ self.frequencies
        apart = (x - self.anchors) / self.lengthscale
        r = np.sqrt(5 * (apart**2).sum(1))
        fall = self.variance * np.exp(-r) * self.update[s]
        value += ((1 + r + r**2 / 3) * fall).sum()
        slope -= 5 / 3 * ((1 + r) * fall) @ apart / self.lengthscale
        return float(value), slope


@dataclasses.dataclass(frozen=True)
class Problem:
    X: np.ndarray
    y: np.ndarray
    paths: "PathwiseFunction"

    @property
    def arrays(self) -> PathArrays:
        return PathArrays.of(self.paths)

    @property
    def bounds(self) -> np.ndarray:
        return np.array([[0.0], [1.0]]) * np.ones(self.X.shape[1])


def lengthscales(in_size: int, seed: int) -> np.ndarray:
    low, high = np.array(LENGTHSCALES) * (in_size / 6) ** 0.5
    return np.random.default_rng([seed, in_size]).uniform(low, high, in_size)


def problem(in_size: int, n_data: int, n_paths: int, seed: int) -> Problem:
    """Needs JAX in 64 bits."""
    import jax

    from pyrox.gp import GPPrior, Matern, PathwiseSampler

    rng = np.random.default_rng([seed, in_size, n_data])
    X = rng.uniform(size=(n_data, in_size))
    kernel = Matern(2.5, VARIANCE, lengthscales(in_size, seed))
    of_target, of_paths = jax.random.split(jax.random.key(seed))
    prior = GPPrior(kernel, X)
    # Many features of its own: what the paths are made of must not hold the target.
    target = PathwiseSampler(prior, 8 * N_FEATURES, basis="iid").sample_paths(of_target)
    y = np.asarray(target(X))[0] + NOISE_VAR**0.5 * rng.normal(size=n_data)
    sampler = PathwiseSampler(prior.condition(y, NOISE_VAR), N_FEATURES, basis="sobol")
    return Problem(X, y, sampler.sample_paths(of_paths, n_paths))


def dense_search(
    arrays: PathArrays, n_candidates: int = 2**14, n_starts: int = 200, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Minimisers (S, D) and minima (S,): from Sobol candidates that are lower than
    their neighbours, and from the lowest of all, L-BFGS-B to the end, one by one."""
    in_size = arrays.anchors.shape[1]
    candidates = qmc.Sobol(in_size, rng=np.random.default_rng(seed)).random(
        n_candidates
    )
    candidates = np.concatenate([candidates, arrays.anchors])
    values = np.concatenate(
        [arrays.values(rows) for rows in np.array_split(candidates, 32)], axis=1
    )
    _, nearest = KDTree(candidates).query(candidates, k=2 * in_size + 1)
    neighbours = np.asarray(nearest)[:, 1:]  # the first is the point itself
    found = [
        _descend(arrays, s, candidates[_starts(values[s], neighbours, n_starts)])
        for s in range(len(values))
    ]
    return np.array([x for x, _ in found]), np.array([v for _, v in found])


def _starts(values: np.ndarray, neighbours: np.ndarray, n_starts: int) -> np.ndarray:
    in_order = np.argsort(values)
    is_low = values < values[neighbours].min(axis=1)
    lows = in_order[is_low[in_order]][: n_starts * 3 // 4]
    others = np.setdiff1d(in_order[:n_starts], lows, assume_unique=True)
    return np.concatenate([lows, others[: n_starts - len(lows)]])


def _descend(
    arrays: PathArrays, s: int, starts: np.ndarray
) -> tuple[np.ndarray, float]:
    box = [(0.0, 1.0)] * starts.shape[1]
    ends = [
        minimize(
            lambda x: arrays.value_and_slope(s, x),
            x,
            jac=True,
            bounds=box,
            method="L-BFGS-B",
        )
        for x in starts
    ]
    best = min(ends, key=lambda end: end.fun)
    return best.x, float(best.fun)


def polished(arrays: PathArrays, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The minima below anyone's minimisers (S, D), so that none is judged by digits
    that another left out."""
    found = [_descend(arrays, s, x[None]) for s, x in enumerate(X)]
    return np.array([x for x, _ in found]), np.array([v for _, v in found])


def judged(values: np.ndarray, best: np.ndarray) -> dict[str, float]:
    above = np.maximum(values - best, 0.0) / VARIANCE**0.5
    return {"hit": float((above <= HIT).mean()), "gap": float(above.mean())}


def save(path: pathlib.Path, problem: Problem, **more: np.ndarray) -> None:
    stored: dict[str, Any] = {"X": problem.X, "y": problem.y, **more}
    for name, array in dataclasses.asdict(problem.arrays).items():
        stored[f"path_{name}"] = array
    np.savez(path, **stored)


def load_arrays(path: pathlib.Path) -> PathArrays:
    with np.load(path) as stored:
        names = [field.name for field in dataclasses.fields(PathArrays)]
        return PathArrays(*(stored[f"path_{name}"] for name in names))
