"""`python -m benchmarks.gradients`: derivatives against central differences, by kernel.

In float64, one and three inputs: the gradients of the posterior's mean, variance and
standard deviation, of a path, of the log marginal likelihood and of expected
improvement, with respect to query points, inputs, values, noise and hyperparameters.
One query coincides with an input, and two inputs with each other, where functions of
the kernel have a derivative there. Differences are of fourth order, at the best of
five steps for each block.

`--pymc` compares 10,000 gradients of a posterior mean with those of a PyMC model
of the same data, kernel and hyperparameters, and their times: PyMC asked once for each
point, and once for all of them. Medians of turns taken; compiling is left out.
"""

import argparse
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from pyrox.gp import (
    RBF,
    AbstractKernel,
    ActiveDims,
    Constant,
    Cosine,
    GPPrior,
    Linear,
    Matern,
    PathwiseSampler,
    Periodic,
    Polynomial,
    RationalQuadratic,
    SpectralMixture,
    White,
    expected_improvement,
)

OUTPUTS = ("mean", "variance", "deviation", "path", "log likelihood", "EI")
INPUTS = ("query", "X", "y", "noise", "kernel")
LARGEST_ERROR = 1e-6
# The best step depends on the block: a path of Matern-1/2 has frequencies of 1e4.
STEPS = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7)
_N_DATA, _N_FEATURES, _JITTER = 6, 256, 1e-6


def _ells(in_size: int) -> np.ndarray:
    return np.linspace(0.5, 0.9, in_size)


def _mixture(in_size: int) -> SpectralMixture:
    means = np.linspace(0.1, 1, 2 * in_size).reshape(2, in_size)
    return SpectralMixture(np.array([1.0, 0.5]), means, 0.3 + 0 * means)


KERNELS: dict[str, Callable[[int], AbstractKernel]] = {
    "RBF": lambda d: RBF(1.3, _ells(d)),
    "Matern-1/2": lambda d: Matern(0.5, 1.3, _ells(d)),
    "Matern-3/2": lambda d: Matern(1.5, 1.3, _ells(d)),
    "Matern-5/2": lambda d: Matern(2.5, 1.3, _ells(d)),
    "Matern-7/2": lambda d: Matern(3.5, 1.3, 0.7),
    "RationalQuadratic": lambda d: RationalQuadratic(1.3, _ells(d), 0.8),
    "Periodic": lambda d: Periodic(1.3, 1.2, 3.0),
    "Cosine": lambda d: Cosine(1.3, 4.0) + RBF(0.5, 0.8),
    "Linear": lambda d: Linear(_ells(d)) + RBF(0.5, 0.8),
    "Polynomial": lambda d: Polynomial(2, 0.5, 0.7) + RBF(0.5, 0.8),
    "Constant": lambda d: Constant(0.7) + RBF(0.5, 0.8),
    "White": lambda d: White(0.2) + RBF(0.5, 0.8),
    "SpectralMixture": _mixture,
    "Sum": lambda d: RBF(0.8, 1.4, name="long") + Matern(1.5, 0.6, 0.7),
    "Product": lambda d: RBF(0.8, 1.4, name="long") * Matern(2.5, 0.6, 0.7),
    "Scale": lambda d: 2.5 * Matern(2.5, 0.6, 0.7),
    "ActiveDims": lambda d: ActiveDims(RBF(1.3, 0.6), (d - 1,)) + Matern(2.5, 0.3, 2.0),
    "Periodic x Matern": lambda d: Periodic(1.3, 1.2, 3.0) * Matern(2.5, 1.0, 1.5),
    "Linear x RBF": lambda d: Linear(0.7) * RBF(1.3, 0.8) + RBF(0.3, 0.8, name="rest"),
}


def errors(kernel: AbstractKernel, in_size: int) -> dict[tuple[str, str], float]:
    """The largest relative error of each block of derivatives: of what, by what."""
    point, unravel = ravel_pytree(_problem(kernel, in_size))
    names = ravel_pytree(
        [
            jax.tree.map(lambda leaf, i=i: jnp.full(jnp.shape(leaf), i), part)
            for i, part in enumerate(unravel(point))
        ]
    )[0]

    def values(point):
        return _values(*unravel(point))

    by_autodiff = np.asarray(jax.jit(jax.jacrev(values))(point))
    differences = _central_differences(values, point)
    found = {}
    for row, of in enumerate(np.repeat(OUTPUTS, 2)):
        for i, by in enumerate(INPUTS):
            expected = differences[:, np.asarray(names) == i, row]
            got = by_autodiff[row, np.asarray(names) == i]
            # A block of zeros (the likelihood has no query) is held to its rounding.
            scale = max(float(np.abs(got).max()), 1e-3)
            error = np.abs(got[None] - expected).max(axis=1).min() / scale
            # Python's `max` passes over NaN.
            error = float(error) if np.isfinite(error) else float("inf")
            found[of, by] = max(found.get((of, by), 0.0), error)
    return found


def _central_differences(f: Callable, point: jax.Array) -> np.ndarray:
    """(steps, entries of `point`, values): of fourth order in each step."""
    n = len(point)
    shifts = jnp.array([1.0, -1.0, 2.0, -2.0])
    moves = jnp.einsum("h,s,pq->hspq", jnp.array(STEPS), shifts, jnp.eye(n))
    points = (point[None, None, None] + moves).reshape(-1, n)
    moved = jax.jit(lambda points: jax.lax.map(f, points))(points)
    moved = np.asarray(moved).reshape(len(STEPS), 4, n, -1)
    sums = 8 * (moved[:, 0] - moved[:, 1]) - (moved[:, 2] - moved[:, 3])
    return sums / (12 * np.array(STEPS)[:, None, None])


def _problem(kernel: AbstractKernel, in_size: int) -> tuple:
    """Query, inputs, values, noise and kernel."""
    rng = np.random.default_rng(5)
    X = rng.uniform(0, 2, (_N_DATA, in_size))
    query = rng.uniform(0, 2, (2, in_size))
    if kernel.smoothness >= 1:
        # Not at the edge of the data: the domain of a path is the box around them, and
        # the lowest of two equal numbers has no derivative.
        X[2], query[0] = X[5], X[0]
    y = np.sin(2 * X).sum(axis=1) + 0.1 * rng.normal(size=_N_DATA)
    return *map(jnp.asarray, (query, X, y, 0.05)), kernel


def _values(query, X, y, noise_var, kernel: AbstractKernel) -> jax.Array:
    """Everything that is differentiated, two values each."""
    posterior = GPPrior(kernel, X, jitter=_JITTER).condition(y, noise_var)
    mean, var = posterior.predict(query)
    path = jnp.zeros(2)
    if not _is_white(kernel):
        sampler = PathwiseSampler(posterior, _N_FEATURES)
        path = sampler.sample_paths(jax.random.key(0))(query)[0]
    likelihood = jnp.broadcast_to(posterior.log_marginal_likelihood(), (2,))
    improvement = expected_improvement(posterior, query, best=0.3)
    parts = mean, var, posterior.predict_std(query), path, likelihood, improvement
    return jnp.concatenate(parts)


def _is_white(kernel: AbstractKernel) -> bool:
    return any(isinstance(part, White) for term in kernel.terms() for part in term)


def main(names: list[str], in_sizes: list[int]) -> bool:
    print("largest relative error over", ", ".join(OUTPUTS), "by", ", ".join(INPUTS))
    worst = 0.0
    for name in names:
        for in_size in in_sizes:
            found = errors(KERNELS[name](in_size), in_size)
            (of, by), error = max(found.items(), key=lambda item: item[1])
            print(f"{name:18s} D={in_size} {error:.1e} ({of} by {by})", flush=True)
            worst = max(worst, error)
    print(f"worst {worst:.1e}, to be below {LARGEST_ERROR:g}")
    return worst < LARGEST_ERROR


def compare_with_pymc(n_data: int = 200, n_points: int = 10_000) -> bool:
    from . import pymc_side  # of the extra `bench`

    rng = np.random.default_rng(7)
    X, points = rng.uniform(0, 2, (n_data, 2)), rng.uniform(0, 2, (n_points, 2))
    y = np.sin(3 * X).sum(axis=1) + 0.1 * rng.normal(size=n_data)
    hyperparameters = 1.3, 0.6, 0.01
    theirs = pymc_side.mean_gradient(X, y, *hyperparameters)
    prior = GPPrior(Matern(2.5, *hyperparameters[:2]), X, jitter=_JITTER)
    posterior = prior.condition(y, hyperparameters[2])

    @jax.jit
    def mean_gradient(posterior, points):
        return jax.grad(lambda points: posterior.predict_mean(points).sum())(points)

    calls = {
        "pyrox": lambda: np.asarray(mean_gradient(posterior, jnp.asarray(points))),
        "pymc, all points": lambda: theirs(points),
        "pymc, each point": lambda: np.concatenate([theirs(x[None]) for x in points]),
    }
    found = {name: call() for name, call in calls.items()}
    seconds = {name: [] for name in calls}
    for _ in range(5):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    ours, holds = found["pyrox"], []
    for name, least in (("pymc, all points", 2), ("pymc, each point", 20)):
        gap = np.abs(found[name] - ours).max() / np.abs(ours).max()
        ratio = np.median(seconds[name]) / np.median(seconds["pyrox"])
        holds += [gap < 1e-6, ratio >= least]
        print(
            f"{name}: {1e3 * np.median(seconds[name]):.1f} ms, pyrox "
            f"{1e3 * np.median(seconds['pyrox']):.1f} ms, {ratio:.1f} times (at least "
            f"{least}); relative difference {gap:.1e}"
        )
    return all(holds)


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kernels", nargs="+", default=list(KERNELS))
    parser.add_argument("--in-sizes", nargs="+", type=int, default=[1, 3])
    parser.add_argument("--pymc", action="store_true")
    options = parser.parse_args()
    if options.pymc:
        raise SystemExit(not compare_with_pymc())
    raise SystemExit(not main(options.kernels, options.in_sizes))
