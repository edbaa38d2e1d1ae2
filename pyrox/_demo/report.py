"""What the demonstration says: its tables and sentences."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import numpy as np
from jaxtyping import Array, Float
from numpyro.diagnostics import summary

from ..gp import SparseFit
from .demo import LENGTHSCALE, NOISE, VARIANCE, Problem, Query


def hyperparameter_table(
    problem: Problem, chains: Mapping[str, Float[Array, "C T ..."]]
) -> str:
    """Posterior means and 90% intervals in the user's units, and how NUTS fared."""
    in_units = {
        f"lengthscale of {name}": chains[LENGTHSCALE][..., d] * problem.x_scale[d]
        for d, name in enumerate(problem.x_names)
    }
    of, scale = f"of {problem.y_name}", problem.y_scale
    in_units[f"sqrt(variance) {of}"] = chains[VARIANCE] ** 0.5 * scale
    in_units[f"noise sd {of}"] = chains[NOISE] * scale
    rows = [("hyperparameter", "mean", "90% interval", "r-hat", "ESS")]
    for name, s in summary(in_units, prob=0.9).items():
        scale = float(s["mean"])
        interval = f"{number(s['5.0%'], scale)} to {number(s['95.0%'], scale)}"
        ess = f"{float(s['n_eff']):.0f}"
        rows.append(
            (name, number(s["mean"]), interval, f"{float(s['r_hat']):.2f}", ess)
        )
    return align(rows)


def fit_table(problem: Problem, found: SparseFit) -> str:
    """The best hyperparameters, in the user's units."""
    kernel: Any = found.prior.kernel
    noise_sd = np.sqrt(np.asarray(found.noise_var))
    in_units = {
        f"lengthscale of {name}": kernel.lengthscale[d] * problem.x_scale[d]
        for d, name in enumerate(problem.x_names)
    }
    of, scale = f"of {problem.y_name}", problem.y_scale
    in_units[f"sqrt(variance) {of}"] = kernel.variance**0.5 * scale
    in_units[f"noise sd {of}"] = noise_sd * scale
    rows = [(name, number(value)) for name, value in in_units.items()]
    return align([("hyperparameter", "best value"), *rows])


def mixing_warning(chains: Mapping[str, Float[Array, "C T ..."]]) -> str:
    """A sentence if the chains disagree or hold few effective draws, else nothing."""
    stats = summary(dict(chains), prob=0.9).values()
    r_hat = max(float(np.max(s["r_hat"])) for s in stats)
    ess = min(float(np.min(s["n_eff"])) for s in stats)
    if r_hat <= 1.05 and ess >= 100:
        return ""
    return (
        f"The chains have not mixed well: r-hat is up to {r_hat:.2f}, the effective "
        f"sample size down to {ess:.0f}. Raise --warmup and --samples."
    )


def query_text(problem: Problem, query: Query) -> str:
    """Where Thompson sampling would measure next."""
    columns = zip(problem.x_names, query.x, problem.x_scale, strict=True)
    texts = [f"{name} = {number(x, s)}" for name, x, s in columns]
    for d, origin in enumerate(problem.origins):
        if origin is not None:
            then = origin + timedelta(days=float(query.x[d]))
            texts[d] += f", {then:%Y-%m-%d %H:%M}"
    where = ", ".join(texts)
    return textwrap.fill(
        f"Thompson sampling would measure next at {where}. "
        f"There path {query.path + 1}, drawn at random, is least over "
        f"{query.n_candidates} candidates: {problem.y_name} = "
        f"{number(query.value, problem.y_scale)}.",
        79,
    )


def time_table(seconds: Mapping[str, float]) -> str:
    """Seconds of each stage, and their sum."""
    rows = [("stage", "seconds"), *((k, f"{v:.2f}") for k, v in seconds.items())]
    return align([*rows, ("total", f"{sum(seconds.values()):.2f}")])


def number(x: object, scale: float | None = None) -> str:
    """`x` to three digits of `scale`; of its own size if there is no scale.

    A year in data that span a decade is 2021.37, not 2020.
    """
    value = float(np.asarray(x))
    size = abs(value) if scale is None else scale
    if value == 0 or size == 0:
        return f"{value:g}"
    decimals = 2 - math.floor(math.log10(size))
    if decimals <= 5 and abs(value) < 1e6:
        return f"{value:.{max(decimals, 0)}f}"
    digits = math.floor(math.log10(abs(value))) + decimals
    return f"{value:.{min(max(digits, 2), 12)}e}"


def align(rows: Sequence[Sequence[str]]) -> str:
    """A table: the first row is a heading, the first column is set to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        right = [cell.rjust(w) for cell, w in zip(others, widths[1:], strict=True)]
        lines.append("   ".join([first.ljust(widths[0]), *right]))
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])
