"""`python -m benchmarks.told`: telling paths ten more values, against drawing anew.

Matern-5/2 of two inputs, 1000 and 4000 values and 10 more, 1024 features, 8 and 100
paths, in both float widths: `paths.condition_on` against `GPPrior.condition` of all and
`sample_paths`; then the posterior's `condition_on` against `condition`. Medians of
turns taken, so both find the cache as the other left it; compiling is left out.
"""

import time
from collections.abc import Callable

import jax
import numpy as np

from pyrox.gp import GPPrior, Matern, PathwiseSampler

_TURNS = 25


def medians(*calls: Callable[[], object]) -> list[float]:
    """Milliseconds of each, taken in turns."""
    times: list[list[float]] = [[] for _ in calls]
    for turn in range(2 + _TURNS):
        for call, own in zip(calls, times, strict=True):
            start = time.perf_counter()
            jax.block_until_ready(call())
            if turn > 1:
                own.append(1e3 * (time.perf_counter() - start))
    return [float(np.median(own)) for own in times]


def compare(n: int, q: int, n_paths: int, dtype: str) -> tuple[list[float], ...]:
    """Times anew and told, of paths and of posteriors."""
    rng = np.random.default_rng(0)
    X, y = rng.random((n + q, 2)).astype(dtype), rng.normal(size=n + q).astype(dtype)
    noise_var, key = np.asarray(0.1, dtype), jax.random.key(0)
    kernel = Matern(2.5, np.asarray(1.0, dtype), np.asarray(0.5, dtype))
    posterior = GPPrior(kernel, X[:n]).condition(y[:n], noise_var)
    paths = PathwiseSampler(posterior).sample_paths(key, n_paths)

    def anew():
        return GPPrior(kernel, X).condition(y, noise_var)

    def drawn_anew():
        return PathwiseSampler(anew()).sample_paths(key, n_paths)

    def told():
        return posterior.condition_on(X[n:], y[n:], noise_var)

    def paths_told():
        return paths.condition_on(X[n:], y[n:], noise_var)

    return medians(drawn_anew, paths_told), medians(anew, told)


def main(sizes: tuple[int, ...] = (1000, 4000), n_paths: tuple[int, ...] = (8, 100)):
    print("type     N + Q      paths  anew, ms  told, ms  ratio | posterior alone")
    for dtype in ("float64", "float32"):
        with jax.enable_x64(dtype == "float64"):
            for n in sizes:
                for s in n_paths:
                    (a, b), (c, d) = compare(n, 10, s, dtype)
                    row = f"{a:8.1f} {b:9.2f} {a / b:6.1f} | {c:7.1f} {d:6.2f}"
                    print(f"{dtype}  {n} + 10 {s:6d} {row} {c / d:6.1f}", flush=True)


if __name__ == "__main__":
    main()
