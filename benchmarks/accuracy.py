"""`python -m benchmarks.accuracy`: how far drawn functions are from the posterior.

The 2-Wasserstein distance between the Gaussian that a sampler implies at the test
points and the exact posterior there: the protocol of Wilson et al. 2020 (arXiv
2002.09309, figure 3). n training points are uniform in [.15, .85]^D; the coordinates of
1024 test points are uniform in [0, .3] or [.7, 1]. The lengthscale is sqrt(D / 100),
the variance 1, the noise's 1e-3. A sampler has n + 1024, n + 4096 or n + 16384 columns.

The distance is that of one draw of the features, in closed form: given the features, a
path is linear in normal numbers. "weight-space" is Bayesian linear regression on the
columns of "iid". What is below 1e-5 is mostly rounding. `--check` holds the closed form
to functions that each library drew. `--quick` prints a part and writes nothing.
"""

import argparse
import collections
import concurrent.futures
import itertools
import json
import multiprocessing
import os
import pathlib
from collections.abc import Iterator, Sequence
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np

from pyrox.gp import (
    AbstractBasis,
    FourierGrid,
    GPPrior,
    PathwiseFunction,
    PathwiseSampler,
    Sobol,
)

from . import accuracy_figure
from .accuracy_problem import (
    SMOOTHNESS,
    Problem,
    exact_posterior,
    exact_weights,
    feature_weights,
    implied,
    root,
    wasserstein,
)

IN_SIZES = (1, 2, 3, 4, 8)
N_TRAIN = (4, 16, 64, 256, 1024)
# Columns beyond n, and how many draws of the features are averaged.
N_DRAWS = {1024: 1, 4096: 1, 16384: 1}
BASES = ("grid", "sobol", "iid", "orthogonal")
RIVALS = ("gpjax", "botorch")
# log10 of the largest distance that "grid" may have at n = 1024.
MOST = {
    ("RBF", 1, 1024): -5,
    ("RBF", 2, 1024): -5,
    ("RBF", 3, 4096): -1.5,
    ("Matern-5/2", 1, 1024): -2,
    ("Matern-5/2", 2, 1024): -0.5,
    ("Matern-5/2", 2, 4096): -1,
}
# How far below "iid" it is at least, and by how much draws may blur that.
LEAST_GAIN = {("Matern-3/2", 2): 0.3} | {
    (name, in_size): -0.01 for name in SMOOTHNESS for in_size in (4, 8)
}


def grid_for(problem: Problem) -> AbstractBasis:
    """The default basis, on the domain that the data give it. Where they are so few
    that it does not hold the test points, the domain is stated: the unit cube."""
    X = jnp.asarray(problem.inputs[: problem.n])
    basis = FourierGrid().on(problem.kernel, X)
    if not isinstance(basis, FourierGrid) or basis.domain is None:
        return basis
    lower, upper = np.asarray(basis.domain)
    inside = (lower <= problem.inputs) & (problem.inputs <= upper)
    return FourierGrid() if inside.all() else FourierGrid((0.0, 1.0))


def our_paths(
    problem: Problem, basis: str, n_columns: int, n_paths: int, seed: int
) -> PathwiseFunction:
    X = jnp.asarray(problem.inputs[: problem.n])
    prior = GPPrior(problem.kernel, X, jitter=0.0)
    posterior = prior.condition(problem.y, problem.noise_var)
    chosen = grid_for(problem) if basis == "grid" else basis
    sampler = PathwiseSampler(posterior, n_columns, basis=chosen)
    return sampler.sample_paths(jax.random.key(seed), n_paths)


def rival_side(rival: str) -> ModuleType:
    if rival == "gpjax":
        from . import gpjax_side

        return gpjax_side
    from . import botorch_side

    return botorch_side


def feature_maps(
    problem: Problem, n_columns: int, rivals: Sequence[str], seed: int
) -> Iterator[tuple[tuple[str, ...], np.ndarray]]:
    """One draw of the features of each method, at the training and the test points.

    The grid leaves kernels of many inputs to Sobol: one draw serves for both.
    """
    inputs = jnp.asarray(problem.inputs)
    no_grid = isinstance(grid_for(problem), Sobol)
    for basis in BASES[1:] if no_grid else BASES:
        names = ("grid", basis) if no_grid and basis == "sobol" else (basis,)
        paths = our_paths(problem, basis, n_columns, 1, seed)
        yield names, np.asarray(paths.features(inputs))
    for rival in rivals:
        yield (rival,), rival_side(rival).features(problem, n_columns, seed)


def log10_distances(
    problem: Problem, extras: dict[int, int], rivals: Sequence[str]
) -> Iterator[tuple[int, dict[str, float]]]:
    """For each number of columns beyond n, by method. The exact side is shared."""
    exact, weights = exact_posterior(problem), exact_weights(problem)
    exact_root = root(exact.cov)
    for extra, n_draws in extras.items():
        found = collections.defaultdict(list)
        for seed in range(n_draws):
            for names, phi in feature_maps(problem, problem.n + extra, rivals, seed):
                drawn = implied(problem, phi, weights)
                distance = wasserstein(exact, exact_root, drawn)
                for name in names:
                    found[name].append(distance)
                if "iid" in names:
                    drawn = implied(problem, phi, feature_weights(problem, phi))
                    distance = wasserstein(exact, exact_root, drawn)
                    found["weight-space"].append(distance)
        yield extra, {name: float(np.log10(np.mean(x))) for name, x in found.items()}


def check(rivals: Sequence[str], n_paths: int = 20_000) -> None:
    """Whether drawn functions have the mean and the covariance of the closed form.

    Distances are in units of what `n_paths` independent functions would have; of the
    same Gaussian it is 1, or less where the draws are better spread than independent
    ones. A twin whose noise is left out must be seen.
    """
    for name, method in itertools.product(SMOOTHNESS, (*BASES, *rivals)):
        problem = Problem(name, 2, 16, n_test=64, noise_var=0.5)
        mean, cov, twin = check_one(problem, method, n_paths)
        verdict = "ok" if max(mean, cov) < 1.3 and twin > 2 else "SHORT"
        print(
            f"{name:11s} {method:11s} mean {mean:.2f}  covariance {cov:.2f}  "
            f"without noise {twin:.1f} {verdict}",
            flush=True,
        )


def check_one(
    problem: Problem, method: str, n_paths: int, n_columns: int = 256
) -> tuple[float, float, float]:
    """The error of the mean, that of the covariance, and the twin's."""
    if method in BASES:
        paths = our_paths(problem, method, n_columns, n_paths, 0)
        phi = np.asarray(paths.features(jnp.asarray(problem.inputs)))
        values = np.asarray(paths(problem.inputs[problem.n :]))
    else:
        phi, values = rival_side(method).paths(problem, n_columns, n_paths, 0)
    weights = exact_weights(problem)
    mean, cov = implied(problem, phi, weights)
    seen = np.cov(values.T)
    twin = cov - problem.noise_var * (weights @ weights.T)
    spread = np.sqrt((np.trace(cov) ** 2 + np.sum(cov**2)) / n_paths)
    gap = np.linalg.norm(values.mean(axis=0) - mean)
    return (
        float(gap / np.sqrt(np.trace(cov) / n_paths)),
        float(np.linalg.norm(seen - cov) / spread),
        float(np.linalg.norm(seen - twin) / spread),
    )


def promises(records: Sequence[dict]) -> list[str]:
    """A line for each promise that the records say something about."""
    found = {
        (r["kernel"], r["in_size"], r["columns"] - r["n"], r["method"]): r["log10_w2"]
        for r in records
        if r["n"] == 1024
    }
    lines = []
    for (name, in_size, extra, method), value in found.items():
        if method != "grid":
            continue
        most = MOST.get((name, in_size, extra))
        gain = LEAST_GAIN.get((name, in_size))
        if gain is not None:
            most = found[name, in_size, extra, "iid"] - gain
        if most is not None:
            verdict = "ok" if value <= most else "SHORT"
            where = f"{name:11s} D={in_size} n+{extra:<5d}"
            lines.append(f"{where} grid {value:6.2f} <= {most:6.2f} {verdict}")
    return lines


def measure_cell(
    problem: Problem, extras: dict[int, int], rivals: Sequence[str]
) -> list[dict]:
    cell = {"kernel": problem.name, "in_size": problem.in_size, "n": problem.n}
    jax.clear_caches()  # programs of another cell have other shapes, and take memory
    return [
        {**cell, "columns": problem.n + extra, "method": method, "log10_w2": value}
        for extra, found in log10_distances(problem, extras, rivals)
        for method, value in found.items()
    ]


def prepare() -> None:
    jax.config.update("jax_enable_x64", True)
    # Each program runs once or a few times: compiling is most of its time.
    jax.config.update("jax_disable_most_optimizations", True)


def measure(
    problems: Sequence[Problem], extras: dict[int, int], rivals: Sequence[str]
) -> list[dict]:
    """The cells, as many at once as there are cores, eight at most."""
    os.environ.update({"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"})
    records = []
    with concurrent.futures.ProcessPoolExecutor(
        max_workers=min(os.cpu_count() or 1, 8),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=prepare,
    ) as pool:
        same = itertools.repeat(extras), itertools.repeat(rivals)
        for found in pool.map(measure_cell, problems, *same):
            print("\n".join(table(found)), flush=True)
            records += found
    return records


def table(records: Sequence[dict]) -> list[str]:
    """A line for each number of columns."""
    lines = collections.defaultdict(list)
    for r in records:
        extra = r["columns"] - r["n"]
        where = f"{r['kernel']:11s} D={r['in_size']} n={r['n']:<4d} +{extra:<5d}"
        lines[where].append(f"{r['method']} {r['log10_w2']:5.2f}")
    return ["  ".join([where, *values]) for where, values in lines.items()]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy")
    parser.add_argument("--rivals", nargs="*", default=RIVALS, choices=RIVALS)
    parser.add_argument("--kernels", nargs="*", default=SMOOTHNESS, choices=SMOOTHNESS)
    columns = {"type": int, "nargs": "*", "choices": N_DRAWS}
    train = {"type": int, "nargs": "*", "choices": N_TRAIN}
    parser.add_argument("--n", default=N_TRAIN, **train)
    parser.add_argument("--columns", default=list(N_DRAWS), **columns)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("."))
    options = parser.parse_args()
    prepare()
    if options.check:
        return check(options.rivals)
    extras = {extra: N_DRAWS[extra] for extra in options.columns}
    if options.quick:
        extras = {1024: 1, 4096: 1}
    sizes = N_TRAIN[-1:] if options.quick else options.n
    cells = itertools.product(options.kernels, IN_SIZES, sizes)
    problems = [Problem(*cell) for cell in cells]
    records = measure(problems, extras, options.rivals)
    print(*promises(records), sep="\n")
    if options.quick:
        return
    path = options.out / "accuracy.json"
    path.write_text(json.dumps(records, indent=1) + "\n")
    accuracy_figure.picture(records, options.out / "accuracy.png")
    print(f"written: {path} and accuracy.png")


if __name__ == "__main__":
    main()
