"""`python -m benchmarks.outputs [--n N] [--outputs P] [--turns T]`: several outputs.

The time to condition P outputs at N inputs in float64, taken apart, against one
Cholesky factor of N x N alone, in turns, medians; how far answers are from those of one
factor of all outputs together, at 200 inputs; and the divergence of paths of a field.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.outputs", description=__doc__
    )
    parser.add_argument("--n", type=int, default=2000)
    parser.add_argument("--outputs", type=int, default=5)
    parser.add_argument("--turns", type=int, default=9)
    options = parser.parse_args(arguments)
    with jax.enable_x64(True):
        kronecker(options.n, options.outputs, options.turns)
        apart_or_together(min(options.n, 200), options.outputs)
        for dtype in (np.float32, np.float64):
            divergence(dtype)


def _problem(n: int, n_outputs: int) -> tuple[Any, np.ndarray, np.ndarray]:
    from pyrox.gp import RBF, ActiveDims, Coregionalization, MultiOutputPrior

    rng = np.random.default_rng(0)
    X = rng.uniform(0, 2, (n, 2))
    W, kappa = rng.normal(size=(n_outputs, 2)), rng.uniform(0.1, 0.5, n_outputs)
    outputs = Coregionalization(2, n_outputs, W, kappa)
    kernel = ActiveDims(RBF(1.0, 0.4), (0, 1)) * ActiveDims(outputs, (2,))
    Y, noise_var = rng.normal(size=(n, n_outputs)), rng.uniform(0.05, 0.2, n_outputs)
    return MultiOutputPrior(kernel, X, n_outputs), Y, noise_var


def kronecker(n: int, n_outputs: int, turns: int) -> None:
    from pyrox.gp import RBF, GPPrior
    from pyrox.gp._numerics.lapack import cholesky

    prior, Y, noise_var = _problem(n, n_outputs)
    one = GPPrior(RBF(1.0, 0.4), prior.X)
    A = one.kernel(one.X, one.X) + 0.1 * jnp.eye(n)
    factor = jax.jit(cholesky)

    def all_outputs():
        return prior.condition(Y, noise_var).stacked.weights

    names = ("factor", "one output", "all outputs", "log density")
    times = in_turns(
        turns,
        lambda: factor(A),
        lambda: one.condition(Y[:, 0], 0.1).weights,
        all_outputs,
        lambda: prior.log_marginal_likelihood(Y, noise_var),
    )
    found = dict(zip(names, times, strict=True))
    told = ", ".join(
        f"{name} {seconds:.3f} s ({seconds / found['factor']:.2f})"
        for name, seconds in found.items()
    )
    print(f"N={n}, P={n_outputs}: {told}; in brackets over one factor")


def apart_or_together(n: int, n_outputs: int) -> None:
    from pyrox.gp import Cholesky

    prior, Y, noise_var = _problem(n, n_outputs)
    Q = np.random.default_rng(1).uniform(0, 2, (20, 2))
    answers = []
    for solver in (None, Cholesky()):
        posterior = prior.condition(Y, noise_var, solver=solver)
        mean, var = posterior.predict(Q)
        density = posterior.log_marginal_likelihood()
        answers.append([np.asarray(a) for a in (mean, var, density)])
    off = [np.abs(a - b).max() / np.abs(b).max() for a, b in zip(*answers, strict=True)]
    told = ", ".join(f"{number:.1e}" for number in off)
    print(f"N={n}, P={n_outputs}: mean, variance, density off by {told}")


def divergence(dtype: Any) -> None:
    """Of paths given 50 vectors of a field of the prior, with noise of a fortieth of
    its variance."""
    from pyrox.gp import RBF, DivergenceFree, MultiOutputPrior, MultiOutputSampler

    rng, keys = np.random.default_rng(0), jax.random.split(jax.random.key(0))
    for in_size in (2, 3):
        X = rng.uniform(0, 1, (50, in_size)).astype(dtype)
        kernel = DivergenceFree(RBF(dtype(1.0), dtype(0.5)))
        prior = MultiOutputPrior(kernel, X, in_size)
        truth = MultiOutputSampler(prior).sample_paths(keys[0])(X)[0]
        noise = np.sqrt(dtype(0.1)) * rng.normal(size=X.shape).astype(dtype)
        posterior = prior.condition(np.asarray(truth) + noise, dtype(0.1))
        paths = MultiOutputSampler(posterior).sample_paths(keys[1], 16)
        Q = rng.uniform(0, 1, (1000, in_size)).astype(dtype)
        by_jax = jax.vmap(jax.jacfwd(lambda x, paths=paths: paths(x[None])[:, 0]))
        found = {
            "paths.gradient": np.asarray(paths.gradient(Q)),
            "JAX's derivative": np.swapaxes(jax.jit(by_jax)(Q), 0, 1),
        }
        field = np.sqrt(np.mean(np.asarray(paths(Q)) ** 2))
        for name, slopes in found.items():
            most = np.abs(np.trace(slopes, axis1=2, axis2=3)).max()
            print(
                f"divergence, D={in_size}, {np.dtype(dtype)}, {name}: at most "
                f"{most / np.sqrt(np.mean(slopes**2)):.1e} of the slopes' root mean "
                f"square, {most / field:.1e} of the field's"
            )


def in_turns(turns: int, *calls: Callable[[], Any]) -> list[float]:
    times: list[list[float]] = [[] for _ in calls]
    for turn in range(turns + 1):
        for call, own in zip(calls, times, strict=True):
            start = time.perf_counter()
            jax.block_until_ready(call())
            if turn:  # the first compiles
                own.append(time.perf_counter() - start)
    return [float(np.median(own)) for own in times]


if __name__ == "__main__":
    main()
