"""`python -m benchmarks.large PART [--data FOLDER] [--only NAME ...]`: large data.

`product`: K V against its roofline. `paths`: 64 paths of UCI sets by each solver, their
errors, products, seconds and memory. `cholesky`: solves against one LAPACK factor of
the same size. `gpytorch`: the time to a residual of 1e-2 against GPyTorch's conjugate
gradients, in turns. `fit`: hyperparameters by solves of 4,000 rows, with warm starts
and without, against the exact fit.
`certificate`: what `diagnose` says against exact paths of the same draws. Without a
folder of data it takes the 3,000 rows that lie beside it.
"""

import argparse
import pathlib
import resource
import time

import jax
import jax.numpy as jnp
import numpy as np

from . import large_data
from .large_data import Split, scores

N_PATHS, N_FEATURES, TOLERANCE = 64, 2000, 1e-2


def main() -> None:
    options = _parse()
    for name in options.only or ["bike3000"]:
        PARTS[options.part](large_data.load(options.data, name), options)


def product(split: Split, options: argparse.Namespace) -> None:
    from pyrox.gp._solvers.products import NoisyGram

    X = jnp.asarray(split.X[:13_500])
    (n, in_size), columns = X.shape, N_PATHS + 1
    V = jnp.asarray(np.random.default_rng(0).normal(size=(n, columns)), X.dtype)
    A = NoisyGram(split.kernel, X, jnp.full(n, split.noise_var))
    ours = jax.jit(lambda A, V: A(V))
    compiled = ours.lower(A, V).compile()
    rows = max(1, 2**24 // (4 * n))
    block = jnp.asarray(np.random.default_rng(1).random((rows, n)), X.dtype)

    @jax.jit
    def distances(X, rows):
        return jnp.max(rows @ X.T)

    @jax.jit
    def radial(block):
        z = jnp.sqrt(block)
        return jnp.max((1 + z) * jnp.exp(-z))

    @jax.jit
    def times(block, V):
        return block @ V

    parts = [
        _seconds(distances, X, X[:rows]),
        _seconds(radial, block),
        _seconds(times, block, V),
    ]
    roofline = sum(parts) * n / rows
    taken = _seconds(lambda: compiled(A, V))
    print(
        f"{split.name}: K V of N={n}, D={in_size}, {columns} columns: {taken:.3f} s, "
        f"roofline {roofline:.3f} s (distances, radial function, product "
        f"{', '.join(f'{p * n / rows:.3f}' for p in parts)}): "
        f"{taken / roofline:.2f} times, "
        f"{_held_mb(compiled):.0f} MB beside inputs and output, "
        f"{'quick' if bool(A.quick) else 'exact'} distances"
    )


def paths(split: Split, options: argparse.Namespace) -> None:
    from pyrox.gp import (
        ConjugateGradients,
        GPPrior,
        PathwiseSampler,
        StochasticDualDescent,
    )

    solver = (
        StochasticDualDescent(options.tolerance, max_products=options.products)
        if options.solver == "sdd"
        else ConjugateGradients(options.tolerance, rank=options.rank)
    )
    start = time.perf_counter()
    prior = GPPrior(split.kernel, split.X)
    posterior = prior.condition(split.y, split.noise_var, solver=solver)
    jax.block_until_ready(posterior)
    middle = time.perf_counter()
    sampler = PathwiseSampler(posterior, N_FEATURES)
    drawn = sampler.sample_paths(jax.random.key(0), N_PATHS)
    jax.block_until_ready(drawn)
    end = time.perf_counter()
    mean, values = posterior.predict_mean(split.X_test), drawn(split.X_test)
    rmse, nll = scores(mean, values.var(axis=0), split)
    print(
        f"{split.name} N={len(split.y)} {options.solver}: RMSE {rmse:.4f} NLL "
        f"{nll:.3f}; mean {middle - start:.0f} s, {posterior.convergence}; {N_PATHS} "
        f"paths {end - middle:.0f} s, {drawn.convergence}; peak {_peak_mb():.0f} MB"
    )


def exact(split: Split, options: argparse.Namespace) -> None:
    """RMSE and NLL by Cholesky, with exact variances and with those of paths."""
    from pyrox.gp import GPPrior, PathwiseSampler

    with jax.enable_x64(True):
        X = split.X.astype(float)
        posterior = GPPrior(split.kernel, X).condition(split.y, split.noise_var)
        mean, var = posterior.predict(split.X_test.astype(float))
        drawn = PathwiseSampler(posterior, N_FEATURES).sample_paths(
            jax.random.key(0), N_PATHS
        )
        by_paths = drawn(split.X_test.astype(float)).var(axis=0)
    for name, v in (("exact", var), (f"{N_PATHS} paths", by_paths)):
        rmse, nll = scores(mean, v, split)
        print(f"{split.name} Cholesky, {name}: RMSE {rmse:.4f} NLL {nll:.3f}")


def certificate(split: Split, options: argparse.Namespace) -> None:
    """Paths of 2000 data against exact ones of the same draws, at the test points, in
    posterior deviations, and what `diagnose` says of it."""
    from pyrox.gp import ConjugateGradients, GPPrior, PathwiseSampler, diagnose

    split, key = split.first(2000), jax.random.key(0)
    points = split.X_test[:300]
    prior = GPPrior(split.kernel, split.X, jitter=1e-6)
    solver = ConjugateGradients(options.tolerance, rank=options.rank, progress=False)

    def drawn(**how):
        posterior = prior.condition(split.y, split.noise_var, **how)
        return PathwiseSampler(posterior, N_FEATURES).sample_paths(key, N_PATHS)

    with jax.enable_x64(True):
        wide = GPPrior(split.kernel, split.X.astype(float), jitter=1e-6)
        exact_sd = wide.condition(split.y, split.noise_var).predict_std(points)
    ours, exact = drawn(solver=solver), drawn()
    off = np.asarray(ours(points) - exact(points)) / np.asarray(exact_sd)
    true = np.sqrt(np.mean(off**2, axis=1))
    said = diagnose(ours, points).solve_error
    print(
        f"{split.name} N={len(split.y)}: {ours.convergence}; paths off by "
        f"{np.sqrt(np.mean(off**2)):.3f} deviations, the worst by {true.max():.3f}; "
        f"said over true {(said / true).min():.2f} to {(said / true).max():.2f}"
    )


def cholesky(split: Split, options: argparse.Namespace) -> None:
    """Solves for 65 columns, both from nothing, in turns."""
    import scipy.linalg

    from pyrox.gp import ConjugateGradients
    from pyrox.gp._solvers.products import NoisyGram

    split = split.first(13_500)
    n, B = len(split.y), _sides(split)
    X, sides = jnp.asarray(split.X), jnp.asarray(B)
    solver = ConjugateGradients(options.tolerance, rank=options.rank, progress=False)

    @jax.jit
    def iterative(X, B):
        A = NoisyGram(split.kernel, X, jnp.full(n, split.noise_var))
        inverse = solver.prepare(A, split.kernel.diag(X))
        return inverse.solve_and_report(B)

    def lapack():
        K = np.array(split.kernel(X, X))
        K[np.diag_indices(n)] += split.noise_var
        # Of its transpose, which is in LAPACK's order: in place, without a copy.
        root = scipy.linalg.cho_factor(K.T, overwrite_a=True, check_finite=False)
        return scipy.linalg.cho_solve(root, np.array(B), check_finite=False)

    ours, theirs = _in_turns(lambda: iterative(X, sides), lapack)
    _, found = iterative(X, sides)
    held = _held_mb(iterative.lower(X, sides).compile())
    print(
        f"{split.name} N={n}: {ours:.2f} s by iterations, {found}, {theirs:.2f} s by "
        f"LAPACK: {theirs / ours:.1f} times faster; {held:.0f} MB against "
        f"{4 * n * n / 2**20:.0f}, a {4 * n * n / 2**20 / held:.0f}th"
    )


def fit(split: Split, options: argparse.Namespace) -> None:
    """From unit hyperparameters: ours in float32, warm and cold, exact in float64."""
    from pyrox.gp import ConjugateGradients, GPPrior, Matern
    from pyrox.gp._inference.fit_by_products import Sizes, descend
    from pyrox.gp._inference.fit_input import as_problem

    split = split.first(4000)
    unit = Matern(1.5, 1.0, np.ones(split.X.shape[1], np.float32))
    solver = ConjugateGradients(
        options.tolerance,
        options.rank,
        options.preconditioner,
        options.products,
        progress=False,
    )
    problem = as_problem(GPPrior(unit, split.X), split.y, 1.0, None, (), None)
    how = Sizes(solver, N_PATHS, 1024), options.slope, 200, False
    for warm in (True, False):
        start = time.perf_counter()
        ended = descend(problem, jax.random.key(0), *how, warm=warm)
        taken = time.perf_counter() - start
        posterior = ended.last.posterior
        density = _density(split, posterior.kernel, posterior.noise_var)
        print(
            f"{split.name} N={len(split.y)}, {'warm' if warm else 'cold'}: exact log "
            f"marginal likelihood {density:.2f}, noise {posterior.noise_var:.4f}, "
            f"slope {ended.slopes[-1]:.1e} after {ended.slopes.size} steps, "
            f"{ended.n_products.sum()} products, {taken:.0f} s"
        )
    if not options.no_exact:
        _exact_fit(split)


def _exact_fit(split: Split) -> None:
    from pyrox.gp import GPPrior, Matern
    from pyrox.gp import fit as fit_exactly

    with jax.enable_x64(True):
        start = time.perf_counter()
        X = split.X.astype(float)
        prior = GPPrior(Matern(1.5, 1.0, np.ones(X.shape[1])), X)
        found = fit_exactly(prior, split.y.astype(float), 1.0, n_starts=1)
        taken = time.perf_counter() - start
        print(f"{split.name} N={len(split.y)}, exact, {taken:.0f} s: {found}")


def _density(split: Split, kernel, noise_var) -> float:
    """The exact log marginal likelihood, in float64."""
    from pyrox.gp import GPPrior

    with jax.enable_x64(True):
        kernel, noise_var = jax.tree.map(
            lambda leaf: np.asarray(leaf, float), (kernel, noise_var)
        )
        prior = GPPrior(kernel, split.X.astype(float))
        return float(prior.log_marginal_likelihood(split.y.astype(float), noise_var))


def gpytorch(split: Split, options: argparse.Namespace) -> None:
    """To the same relative residual, both from nothing, in turns."""
    from pyrox.gp import ConjugateGradients
    from pyrox.gp._solvers.products import NoisyGram

    from . import large_gpytorch

    n, B = len(split.y), _sides(split)
    X, sides = jnp.asarray(split.X), jnp.asarray(B)
    solver = ConjugateGradients(options.tolerance, rank=options.rank, progress=False)
    bounds = options.tolerance * jnp.linalg.norm(sides, axis=0)

    @jax.jit
    def iterative(X, sides):
        A = NoisyGram(split.kernel, X, jnp.full(n, split.noise_var))
        inverse = solver.prepare(A, split.kernel.diag(X))
        with jax.default_matmul_precision("highest"):
            return inverse.iterations.run(A, sides, None, bounds)

    @jax.jit
    def residuals(X, solved):
        A = NoisyGram(split.kernel, X, jnp.full(n, split.noise_var))
        return jnp.linalg.norm(sides - A(solved), axis=0) * options.tolerance / bounds

    theirs = large_gpytorch.prepare(split, B, options.tolerance)
    times = _in_turns(lambda: iterative(X, sides), theirs)
    solved = iterative(X, sides)
    worst = [
        float(jnp.max(residuals(X, jnp.asarray(found))))
        for found in (solved[0], theirs())
    ]
    print(
        f"{split.name} N={n}: {times[0]:.1f} s and {int(solved[2])} products to a "
        f"residual of {worst[0]:.1e} at most; GPyTorch {times[1]:.1f} s, "
        f"{worst[1]:.1e}: {times[1] / times[0]:.1f} times"
    )


def _sides(split: Split) -> np.ndarray:
    """For the mean and 64 paths: values, and values less draws of their noise."""
    rng = np.random.default_rng(0)
    scale = np.sqrt(split.noise_var + split.variance)
    noise = scale * rng.normal(size=(len(split.y), N_PATHS))
    drawn = split.y[:, None] - noise
    return np.concatenate([split.y[:, None], drawn], axis=1).astype(np.float32)


def _in_turns(*calls) -> list[float]:
    times: list[list[float]] = [[] for _ in calls]
    for turn in range(4):
        for call, own in zip(calls, times, strict=True):
            start = time.perf_counter()
            jax.block_until_ready(call())
            if turn:
                own.append(time.perf_counter() - start)
    return [float(np.median(own)) for own in times]


def _seconds(call, *args) -> float:
    times = []
    for _ in range(8):
        start = time.perf_counter()
        jax.block_until_ready(call(*args))
        times.append(time.perf_counter() - start)
    return float(np.median(times[1:]))


def _held_mb(program: jax.stages.Compiled) -> float:
    """Memory of a program beside its arguments and results."""
    memory = program.memory_analysis()
    assert memory is not None
    return memory.temp_size_in_bytes / 2**20


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


PARTS = {
    "product": product,
    "paths": paths,
    "exact": exact,
    "certificate": certificate,
    "cholesky": cholesky,
    "gpytorch": gpytorch,
    "fit": fit,
}


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.large", description=__doc__
    )
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--data", type=pathlib.Path, help="a folder of sets")
    parser.add_argument("--only", nargs="*", default=[], help="names of sets")
    parser.add_argument("--solver", default="cg", choices=("cg", "sdd"))
    parser.add_argument("--tolerance", type=float, default=TOLERANCE)
    parser.add_argument("--rank", type=int)
    parser.add_argument("--products", type=int, default=1000)
    parser.add_argument("--preconditioner", default="random")
    parser.add_argument("--slope", type=float, default=1e-3, help="where `fit` ends")
    parser.add_argument("--no-exact", action="store_true", help="`fit` by solves alone")
    return parser.parse_args()


if __name__ == "__main__":
    main()
