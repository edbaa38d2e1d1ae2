"""`python -m benchmarks.fit`: the likelihood that a fit of 28 hyperparameters reaches.

The first 2000 rows of POL (26 inputs; Weiss & Indurkhya 1995, as collected in the
repository treforevans/uci_datasets), inputs and targets standardised. An RBF kernel
with a lengthscale for each input, in float64, from variance 1, lengthscales sqrt(26)
and noise variance 0.1, by `pyrox.gp.fit` with its defaults. GPJax sets out from the
same values: its `fit`, Adam at a rate of 0.1, for five times as long as ours took, and
its L-BFGS and its BFGS (SciPy) for twice as long, unless they stop by themselves. Ours
is timed without compilation, GPJax's with it, some seconds. Of all the likelihood is
computed here, from their hyperparameters.
"""

import argparse
import json
import pathlib
import time

import jax
import numpy as np

from pyrox.gp import RBF, GPPrior, fit

DATA = pathlib.Path(__file__).with_name("pol2000.npz")
JITTER = 1e-6
# How many times as long as ours each fit of GPJax may take.
TIMES = {"adam": 5.0, "lbfgs": 2.0, "scipy": 2.0}


def standardised(n: int) -> tuple[np.ndarray, np.ndarray]:
    with np.load(DATA) as stored:
        X, y = (stored[name][:n].astype(np.float64) for name in ("X", "y"))
    return (X - X.mean(axis=0)) / X.std(axis=0), (y - y.mean()) / y.std()


def starts(in_size: int) -> dict[str, np.ndarray]:
    return {
        "variance": np.array(1.0),
        "lengthscale": np.full(in_size, in_size**0.5),
        "noise_var": np.array(0.1),
    }


def prior_at(values: dict, X: np.ndarray) -> GPPrior:
    kernel = RBF(values["variance"], values["lengthscale"])
    return GPPrior(kernel, X, jitter=JITTER)


def likelihood(values: dict, X: np.ndarray, y: np.ndarray) -> float:
    """Of anyone's hyperparameters, computed here."""
    prior, noise_var = prior_at(values, X), values["noise_var"]
    return float(prior.log_marginal_likelihood(y, noise_var))


def ours(X: np.ndarray, y: np.ndarray, start: dict) -> tuple[dict, dict]:
    """Hyperparameters, and how they were found."""
    prior, noise_var = prior_at(start, X), start["noise_var"]
    began = time.perf_counter()
    fit(prior, y, noise_var, tolerance=1e6, progress=False)  # compiles
    first = time.perf_counter() - began
    began = time.perf_counter()
    found = fit(prior, y, noise_var, progress=False)
    jax.block_until_ready(found.posterior.weights)
    record = {
        "seconds": time.perf_counter() - began,
        "n_steps": int(found.n_steps),
        "converged": bool(found.converged),
        "gradient_norm": float(found.gradient_norm),
        "first_call_seconds": first,
    }
    kernel = found.prior.kernel
    assert isinstance(kernel, RBF)
    values = {
        "variance": np.asarray(kernel.variance),
        "lengthscale": np.asarray(kernel.lengthscale),
        "noise_var": np.asarray(found.noise_var),
    }
    return values, record


def line(name: str, record: dict, verdict: str = "") -> str:
    return (
        f"{name:14s} log likelihood {record['log_likelihood']:10.3f}  "
        f"{record['seconds']:7.1f} s  {record['n_steps']:4d} steps  {verdict}"
    )


def compare(X: np.ndarray, y: np.ndarray, rivals: list[str]) -> dict[str, dict]:
    start = starts(X.shape[1])
    values, record = ours(X, y, start)
    record["log_likelihood"] = likelihood(values, X, y)
    records = {"pyrox": record}
    print(f"{'start':14s} log likelihood {likelihood(start, X, y):10.3f}", flush=True)
    print(line("pyrox", record), flush=True)
    for rival in rivals:
        from . import gpjax_side

        budget = TIMES[rival] * record["seconds"]
        values, theirs = gpjax_side.fitted(X, y, start, JITTER, rival, budget)
        theirs["log_likelihood"] = likelihood(values, X, y)
        theirs["times_ours"] = theirs["seconds"] / record["seconds"]
        kept = record["log_likelihood"] >= theirs["log_likelihood"]
        verdict = f"{theirs['times_ours']:.1f} times {'ok' if kept else 'SHORT'}"
        print(line(f"gpjax {rival}", theirs, verdict), flush=True)
        records[f"gpjax {rival}"] = theirs
    return records


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fit")
    parser.add_argument("--rivals", nargs="*", default=list(TIMES), choices=TIMES)
    parser.add_argument("--n-data", type=int, default=2000)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("."))
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    X, y = standardised(options.n_data)
    records = compare(X, y, options.rivals)
    about = {"n_data": len(y), "jax": jax.__version__, "device": str(jax.devices()[0])}
    path = options.out / "fit.json"
    stored = json.loads(path.read_text()) if path.exists() else {}
    if stored.get("n_data") == len(y):  # rivals that are run on another day
        records = {**stored["fits"], **records}
    path.write_text(json.dumps({**about, "fits": records}, indent=1) + "\n")
    print(f"written: {path}")


if __name__ == "__main__":
    main()
