"""Loops of Bayesian optimisation: how far the best value is from the optimum, round by
round, and what a round takes.

Everyone starts from the same scrambled Sobol points, 2 (D + 1) of them, sees the same
function without noise, has the same number of values to spend, and fits
hyperparameters anew each round.
"""

import importlib
import json
import pathlib
import time
from collections.abc import Callable, Iterable

import numpy as np

from .objectives import BY_NAME, OBJECTIVES, Objective

# Given all that was seen, where to look next: (X, y) -> (q, D).
Strategy = Callable[[np.ndarray, np.ndarray], np.ndarray]

STRATEGIES = {
    "pyrox": ("thompson_pyrox", "Thompson"),
    "pyrox trust region": ("thompson_pyrox", "NearBest"),
    "pyrox mean of four": ("thompson_pyrox", "OfFour"),
    "pyrox logEI": ("thompson_pyrox", "LogEI"),
    "botorch thompson": ("thompson_botorch", "Thompson"),
    "botorch qLogEI": ("thompson_botorch", "LogEI"),
    "random": ("thompson_regret", "Random"),
}
N_VALUES = 60  # after the first points
BATCH_SIZES = (1, 4)


class Random:
    """Uniform points."""

    def __init__(self, bounds: np.ndarray, q: int, seed: int):
        self.bounds, self.q = bounds, q
        self.rng = np.random.default_rng([seed, 1])

    def __call__(self, X: np.ndarray, y: np.ndarray) -> np.ndarray:
        low, high = self.bounds
        return self.rng.uniform(low, high, (self.q, len(low)))


def strategy(name: str, objective: Objective, q: int, seed: int) -> Strategy:
    module, of = STRATEGIES[name]
    made = getattr(importlib.import_module(f".{module}", __package__), of)
    return made(objective.bounds, q, seed)


def loop(
    name: str, objective: Objective, q: int, seed: int, n_values: int = N_VALUES
) -> dict:
    """Regret before the first round and after each, and the seconds of each."""
    X = objective.first_points(2 * (objective.in_size + 1), seed)
    y = objective(X)
    ask = strategy(name, objective, q, seed)
    regret, seconds = [y.min() - objective.optimum], []
    for _ in range(n_values // q):
        start = time.perf_counter()
        X_next = np.asarray(ask(X, y))
        seconds.append(time.perf_counter() - start)
        X, y = np.concatenate([X, X_next]), np.concatenate([y, objective(X_next)])
        regret.append(y.min() - objective.optimum)
    return {
        "strategy": name,
        "objective": objective.name,
        "q": q,
        "seed": seed,
        "n_values": n_values,
        "regret": [float(r) for r in regret],
        "seconds": seconds,
    }


def run(
    path: pathlib.Path,
    names: Iterable[str],
    objectives: Iterable[str],
    seeds: Iterable[int],
    n_values: int = N_VALUES,
) -> list[dict]:
    """Every loop, one a line in `path`; those that are there already are kept."""
    lines = path.read_text().splitlines() if path.exists() else []
    kept = {_label(record): record for record in map(json.loads, lines)}
    records = []
    for seed in seeds:
        for of in objectives:
            for q in BATCH_SIZES:
                for name in names:
                    record = kept.get((name, of, q, seed, n_values))
                    if record is None:
                        record = loop(name, BY_NAME[of], q, seed, n_values)
                        with path.open("a") as file:
                            file.write(json.dumps(record) + "\n")
                        print(_line(record), flush=True)
                    records.append(record)
    return records


def _label(record: dict) -> tuple:
    return tuple(record[k] for k in ("strategy", "objective", "q", "seed", "n_values"))


def _line(record: dict) -> str:
    return (
        f"{record['objective']:10s} q={record['q']} seed {record['seed']} "
        f"{record['strategy']:18s} regret {record['regret'][0]:9.3g} -> "
        f"{record['regret'][-1]:9.3g}  {np.median(record['seconds']):6.2f} s a round"
    )


def table(records: list[dict]) -> list[str]:
    """Quartiles of the last regret and the median round, a line a cell and rival; of
    ours also what is promised."""
    lines = []
    for objective in OBJECTIVES:
        for q in BATCH_SIZES:
            cell = _cell(records, objective.name, q)
            for name, (low, middle, high, seconds) in cell.items():
                line = (
                    f"{objective.name:10s} q={q} {name:18s} {middle:9.3g} "
                    f"[{low:9.3g}, {high:9.3g}] {seconds:7.3f} s a round"
                )
                ours = name.startswith("pyrox")
                lines.append(f"{line}  {_verdict(cell, name)}" if ours else line)
    return lines


def quartiles(records: list[dict]) -> list[dict]:
    """What is kept of all loops: a record a cell and strategy."""
    return [
        {
            "objective": objective.name,
            "q": q,
            "strategy": name,
            "last_regret": [float(x) for x in numbers[:3]],
            "seconds_a_round": float(numbers[3]),
        }
        for objective in OBJECTIVES
        for q in BATCH_SIZES
        for name, numbers in _cell(records, objective.name, q).items()
    ]


def _cell(records: list[dict], objective: str, q: int) -> dict[str, tuple]:
    """For each strategy the quartiles of its last regret, and the median of its rounds
    but the first two, which compile and load."""
    cell = {}
    for name in STRATEGIES:
        label = (objective, q, name)
        own = [r for r in records if (r["objective"], r["q"], r["strategy"]) == label]
        if own:
            last = np.quantile([r["regret"][-1] for r in own], [0.25, 0.5, 0.75])
            seconds = np.concatenate([r["seconds"][2:] or r["seconds"] for r in own])
            cell[name] = (*last, np.median(seconds))
    return cell


def _verdict(cell: dict[str, tuple], own: str) -> str:
    """Not above a rival by more than its quartile spread; whether below the median of
    BoTorch's loop of the same kind, and a round in a fifth of its time."""
    ours, rivals = cell[own], [n for n in cell if n.startswith("botorch")]
    kept = all(ours[1] <= cell[n][1] + cell[n][2] - cell[n][0] for n in rivals)
    said = ["regret ok" if kept else "regret ABOVE"]
    same = "botorch qLogEI" if own.endswith("logEI") else "botorch thompson"
    if same in cell:
        theirs = cell[same]
        said.append("below" if ours[1] < theirs[1] else "not below")
        times = theirs[3] / ours[3]
        said.append(f"{times:.1f} times {'ok' if times >= 5 else 'SHORT'}")
    return ", ".join(said)
