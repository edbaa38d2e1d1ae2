"""`python -m benchmarks.likelihoods PART`: sparse processes under any likelihood.

`optimum`: the evidence lower bound of the best q(u) at fixed hyperparameters, against
GPJax and GPyTorch, each evaluated once more in NumPy. `time`: seconds to within .1 nat
of the best bound, hyperparameters and Z trained, from several starts, in turns.
`minibatch`: 100,000 rows, held-out log density against GPyTorch after equal time.
`memory`: what a run by minibatches takes beside its data.
"""

import argparse
import resource
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from .likelihood_problems import (
    JITTER,
    SMALL,
    Found,
    Problem,
    bound,
    distribution,
    large,
    log_predictive,
    started,
)

SIDES = ("pyrox", "gpjax", "gpytorch")
NAT = 0.1


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parse(arguments)
    with jax.enable_x64(options.part in ("optimum", "time")):
        PARTS[options.part](options)


def _prior(problem: Problem) -> Any:
    from pyrox.gp import RBF, Matern, SparseGPPrior

    dtype = problem.X.dtype
    of = np.asarray(problem.variance, dtype), np.asarray(problem.lengthscale, dtype)
    kernel = RBF(*of) if problem.kernel == "rbf" else Matern(2.5, *of)
    return SparseGPPrior(kernel, problem.Z, jitter=JITTER)


def _given(problem: Problem) -> tuple[Any, np.ndarray, np.ndarray, Callable]:
    """Prior, inputs, values and likelihood, as `fit_sparse` takes them."""
    y = problem.y.astype(int) if problem.likelihood != "heavy tails" else problem.y
    return _prior(problem), problem.X, y, distribution(problem.likelihood)


def _fit(problem: Problem, **how: Any) -> Any:
    *data, likelihood = _given(problem)
    return _call(data, likelihood, **how)


def _call(data: Sequence[Any], likelihood: Callable, **how: Any) -> Any:
    from pyrox.gp import fit_sparse

    how |= {"likelihood": likelihood, "progress": False}
    with warnings.catch_warnings():  # of runs that are stopped early
        warnings.simplefilter("ignore", UserWarning)
        return jax.block_until_ready(fit_sparse(*data, **how))


def _found(fit: Any) -> Found:
    kernel = fit.prior.kernel
    return Found(
        float(kernel.variance),
        float(kernel.lengthscale),
        *map(np.asarray, (fit.prior.Z, fit.guide.mean, fit.guide.scale_tril)),
    )


def _rival(side: str) -> Any:
    if side == "gpjax":
        from . import likelihoods_gpjax as rival
    else:
        from . import likelihoods_gpytorch as rival
    return rival


def optimum(options: argparse.Namespace) -> None:
    for name in options.only or SMALL:
        problem = SMALL[name]()
        fit = _fit(problem, fixed="all")
        ours = bound(problem, _found(fit))
        natural = int(fit.n_natural_steps)
        print(f"{name:11s} pyrox    {ours:12.6f}, {natural} steps; said {fit.elbo:.6f}")
        for side in options.sides[1:]:
            theirs = bound(problem, _rival(side).best_q(problem))
            verdict = "ok" if theirs < ours + 1e-3 else "HIGHER"
            print(
                f"{name:11s} {side:8s} {theirs:12.6f}, {theirs - ours:+.1e} {verdict}"
            )


def seconds_to_optimum(options: argparse.Namespace) -> None:
    for name in options.only or SMALL:
        starts = [started(SMALL[name](), k) for k in range(options.starts)]
        trained = [_trained(problem, options) for problem in starts]
        target = max(end for runs in trained for *_, end in runs.values()) - NAT
        print(f"{name:11s} within .1 nat is {target:.4f}")
        pairs = zip(starts, trained, strict=True)
        runs = [_until(problem, sides, target) for problem, sides in pairs]
        for k, way in enumerate(("programs alone", "as users call them")):
            own = [{side: ways[k] for side, ways in each.items()} for each in runs]
            _compare(name, way, [_in_turns(each, options.turns) for each in own])


def _trained(problem: Problem, options: argparse.Namespace) -> dict[str, tuple]:
    """Of every side and optimiser a call, the bounds that a long run saw, and the last
    one in NumPy."""
    ours = bound(problem, _found(_fit(problem, max_steps=1000)))
    trained: dict[str, tuple] = {"pyrox": (None, None, ours)}
    for side in options.sides[1:]:
        for optimiser in _rival(side).OPTIMISERS:
            run = _rival(side).trainer(problem, optimiser)
            trained[f"{side}, {optimiser}"] = run, *_run(problem, run, options.steps)
    return trained


def _until(
    problem: Problem, trained: dict[str, tuple], target: float
) -> dict[str, tuple[Callable, Callable]]:
    """The runs that reach the target in the fewest steps, of those that do: what is
    compiled by itself, and the whole call."""
    of = f"{problem.variance:.2g}, {problem.lengthscale:.2g}"
    print(f"{problem.name:11s} from variance and lengthscale {of}:", flush=True)
    ways: dict[str, tuple[Callable, Callable]] = {}
    for side, (run, bounds, end) in trained.items():
        if run is None:
            ways[side] = _ours(problem, target)
            continue
        reached = np.flatnonzero(bounds >= target)
        after = int(reached[0]) if reached.size else None
        print(f"{problem.name:11s}   {side:32s} {_reached(after, bounds, end)}")
        if after is not None:
            library, optimiser = side.split(", ", 1)
            whole = _rival(library).trainer(problem, optimiser, whole=True)
            ways[side] = (
                lambda run=run, after=after: run(after),
                lambda run=whole, after=after: run(after),
            )
    return ways


def _run(problem: Problem, run: Callable, n_steps: int) -> tuple[np.ndarray, float]:
    """All bounds that a rival saw, and the last one in NumPy."""
    bounds, found = run(n_steps)
    whole = len(bounds) == n_steps and np.isfinite(bounds[-1])
    return bounds, bound(problem, found()) if whole else -np.inf


def _reached(after: int | None, bounds: np.ndarray, end: float) -> str:
    if after is None:
        return f"not within .1 nat in {len(bounds)} steps, where it has {end:.3f}"
    return f"within .1 nat after {after} steps; in the end {end:.4f}"


def _ours(problem: Problem, target: float) -> tuple[Callable, Callable]:
    """The fit of the fewest steps that reaches the target, which some number does."""
    low, high = 0, 1
    while bound(problem, _found(_fit(problem, max_steps=high))) < target:
        low, high = high, 2 * high
        if high > 2000:
            raise RuntimeError("our own fit does not come within .1 nat of the best")
    while high - low > 1:
        middle = (low + high) // 2
        enough = bound(problem, _found(_fit(problem, max_steps=middle))) >= target
        low, high = (low, middle) if enough else (middle, high)
    print(f"{problem.name:11s}   {'pyrox':32s} within .1 nat after {high} of L-BFGS")
    *data, likelihood = _given(problem)
    return (
        _program(data, likelihood, high),
        lambda: _call(data, likelihood, max_steps=high),
    )


def _program(data: Sequence[Any], likelihood: Callable, n_steps: int) -> Callable:
    """What `fit_sparse` does once it has read its arguments: the rivals' programs have
    read theirs, too."""
    from pyrox.gp._inference import sparse_fit

    prior, X, y = data
    args = prior, X, y, None, likelihood, 20, (), None
    problem = sparse_fit.as_sparse_problem(*args)
    tolerance = sparse_fit.as_tolerance(None, 1e-5, problem.X.dtype)
    sites = sparse_fit.no_sites(problem.X[:, 0])
    given = problem, sites, tolerance, n_steps, False
    return lambda: jax.block_until_ready(sparse_fit._search(*given))


def _in_turns(runs: dict[str, Callable[[], Any]], turns: int) -> dict[str, float]:
    """Median seconds of each."""
    times: dict[str, list[float]] = {side: [] for side in runs}
    for turn in range(turns + 1):
        for side, run in runs.items():
            start = time.perf_counter()
            run()
            if turn:  # the first compiles
                times[side].append(time.perf_counter() - start)
    return {side: float(np.median(own)) for side, own in times.items()}


def _compare(name: str, way: str, times: list[dict[str, float]]) -> None:
    """All starts together, of the sides that reach the target from each of them."""
    print(f"{name:11s} {way}:")
    sides = [side for side in times[0] if all(side in own for own in times)]
    totals = {side: sum(own[side] for own in times) for side in sides}
    for side, seconds in totals.items():
        each = ", ".join(f"{own[side]:.4f}" for own in times)
        print(f"{name:11s}   {side:32s} {seconds:8.4f} s: {each}")
    rivals = [seconds for side, seconds in totals.items() if side != "pyrox"]
    if not rivals:
        print(f"{name:11s}   no rival comes within .1 nat from every start")
        return
    ratio = min(rivals) / totals["pyrox"]
    verdict = "ok" if ratio >= 3 else "SHORT"
    print(f"{name:11s}   {ratio:.1f} times faster than the best rival: {verdict}")


def minibatch(options: argparse.Namespace) -> None:
    problem, held_out = large(options.n)
    how = {"batch_size": options.batch_size, "max_steps": options.steps}
    _fit(problem, key=jr.key(1), **how)
    start = time.perf_counter()
    fit = _fit(problem, key=jr.key(0), **how)
    seconds = time.perf_counter() - start
    moments = map(np.asarray, fit.predict(jnp.asarray(held_out.X)))
    ours = log_predictive(held_out, *moments)
    print(f"pyrox    {seconds:6.1f} s, {options.steps} batches: log density {ours:.4f}")
    if "gpytorch" not in options.sides:
        return
    rival = _rival("gpytorch")
    for optimiser in rival.OPTIMISERS:
        of = problem, held_out, optimiser, options.batch_size, seconds
        mean, var, steps = rival.by_minibatches(*of)
        theirs = log_predictive(held_out, mean, var)
        verdict = "ok" if ours > theirs - 0.01 else "BETTER"
        line = f"gpytorch {seconds:6.1f} s, {steps} batches, {optimiser}: log density"
        print(f"{line} {theirs:.4f} {verdict}", flush=True)


def memory(options: argparse.Namespace) -> None:
    problem, _ = large(options.n)
    before = _peak()
    _fit(problem, key=jr.key(0), batch_size=options.batch_size, max_steps=options.steps)
    mb = (problem.X.nbytes + problem.y.nbytes) / 1e6
    print(f"{options.n} rows, {mb:.1f} MB: {_peak() - before:.0f} MB more at the peak")


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


PARTS = {
    "optimum": optimum,
    "time": seconds_to_optimum,
    "minibatch": minibatch,
    "memory": memory,
}


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.likelihoods", description=__doc__
    )
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--only", nargs="*", default=[], choices=SMALL)
    parser.add_argument("--sides", nargs="*", default=SIDES, choices=SIDES)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--starts", type=int, default=4, help="of `time`")
    parser.add_argument("--n", type=int, default=100_000, help="rows of `minibatch`")
    parser.add_argument("--batch-size", type=int, default=1024)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
