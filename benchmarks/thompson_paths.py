"""The minima of 64 paths, by BoTorch's optimiser and by ours, of the same functions in
one process, in turns; and of 1000 paths, by ours."""

import pathlib
import resource
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from . import path_problem
from .path_problem import Problem

SIZES = tuple((in_size, n) for n in (100, 500) for in_size in (2, 6, 8))
N_PATHS = 64
N_TURNS = 2
# Minimisers (S, D), minima (S,), seconds, for a seed.
Side = Callable[[int], tuple[np.ndarray, np.ndarray, float]]


def sides(problem: Problem, names: Sequence[str]) -> dict[str, Side]:
    made: dict[str, Side] = {}
    if "botorch" in names:
        from . import thompson_botorch

        same = thompson_botorch.taken_up(problem.arrays)
        thompson_botorch.use_quickest_threads(same, problem.X.shape[1])
        made["botorch"] = lambda seed: thompson_botorch.minimised(
            same, problem.bounds, seed
        )
    if "pyrox" in names:
        from . import thompson_pyrox

        made["pyrox"] = lambda seed: thompson_pyrox.minimised(
            problem.paths, problem.bounds, seed
        )
    return made


def measure(
    in_size: int, n: int, seed: int, names: Sequence[str], kept: pathlib.Path | None
) -> list[dict]:
    """A record for each side: mean hit and gap of its turns, median seconds, those of
    its first call."""
    problem = path_problem.problem(in_size, n, N_PATHS, seed)
    runs: dict[str, list] = {name: [] for name in names}
    called = sides(problem, names)
    # The first turn compiles, fills caches and is not counted.
    for turn in range(-1, N_TURNS):
        for name, side in called.items():
            runs[name].append(side(turn + 1))
    best = _best(problem, f"D{in_size}_N{n}_seed{seed}", runs.values(), kept)
    records = []
    for name, (first, *later) in runs.items():
        verdicts = [path_problem.judged(values, best) for _, values, _ in later]
        records.append(
            {
                "side": name,
                "D": in_size,
                "N": n,
                "S": N_PATHS,
                "seed": seed,
                "hit": float(np.mean([v["hit"] for v in verdicts])),
                "gap": float(np.mean([v["gap"] for v in verdicts])),
                "seconds": float(np.median([s for *_, s in later])),
                "first_seconds": float(first[2]),
            }
        )
        print(_line(records[-1]), flush=True)
    return records


def _best(
    problem: Problem, name: str, runs: Iterable[list], kept: pathlib.Path | None
) -> np.ndarray:
    """The least value of each path that anyone found; a dense search is kept in a
    folder, if there is one."""
    arrays = problem.arrays
    path = kept / f"{name}.npz" if kept else None
    if path and path.exists():
        with np.load(path) as stored:
            same = np.allclose(stored["path_update"], arrays.update, atol=1e-6)
            dense = stored["best"] if same else None
    else:
        dense = None
    if dense is None:
        _, dense = path_problem.dense_search(arrays)
    others = [path_problem.polished(arrays, X)[1] for side in runs for X, _, _ in side]
    best = np.min([dense, *others], axis=0)
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path_problem.save(path, problem, best=best)
    return best


def _line(record: dict) -> str:
    return (
        "D={D} N={N:3d} S={S} seed {seed} {side:8s} hit {hit:.3f} gap {gap:.4f} "
        "{seconds:7.3f} s, first {first_seconds:6.2f} s".format(**record)
    )


def table(records: list[dict]) -> list[str]:
    """Means over seeds, and whether ours is what is promised."""
    lines = []
    for in_size, n in SIZES:
        own = [r for r in records if (r["D"], r["N"]) == (in_size, n)]
        by_side = {
            side: {
                what: np.array([r[what] for r in own if r["side"] == side])
                for what in ("hit", "gap", "seconds")
            }
            for side in dict.fromkeys(r["side"] for r in own)
        }
        for side, of in by_side.items():
            lines.append(
                f"D={in_size} N={n:3d} {side:8s} hit {of['hit'].mean():.3f} "
                f"gap {of['gap'].mean():.4f} {np.median(of['seconds']):7.3f} s"
            )
        if len(by_side) == 2:
            verdict = _verdict(in_size, by_side["pyrox"], by_side["botorch"])
            lines.append(f"{'':10s}{verdict}")
    return lines


def _verdict(in_size: int, ours: dict, theirs: dict) -> str:
    times = float(np.median(theirs["seconds"] / ours["seconds"]))
    hit, their_hit = ours["hit"].mean(), theirs["hit"].mean()
    gap, their_gap = ours["gap"].mean(), theirs["gap"].mean()
    if in_size == 2:
        kept = {"hit": hit == 1.0, "times": times >= 50}
    else:
        least = their_hit + 0.03 if their_hit < 0.95 else their_hit
        kept = {
            "hit": hit >= least,
            "gap": gap <= max(2 / 3 * their_gap, 1e-9),
            "times": times >= 10,
        }
    said = [f"{what} {'ok' if ok else 'SHORT'}" for what, ok in kept.items()]
    return f"{times:.1f} times faster: {', '.join(said)}"


def many(in_size: int = 6, n: int = 500, sizes: tuple[int, int] = (64, 1000)) -> list:
    """Seconds of one call for 1000 paths and for the first 64 of them, in turns, and
    the process's peak memory."""
    from . import thompson_pyrox

    few, most = sizes
    problem = path_problem.problem(in_size, n, most, 0)
    before = _peak_mb()
    paths = {few: problem.paths[:few], most: problem.paths}
    runs: dict[int, list[float]] = {size: [] for size in sizes}
    for turn in range(6):
        for size in sizes:
            *_, seconds = thompson_pyrox.minimised(paths[size], problem.bounds, turn)
            runs[size].append(seconds)
    return [
        {
            "D": in_size,
            "N": n,
            "S": size,
            "seconds": float(np.median(seconds[1:])),
            "peak_before_mb": before,
            "peak_mb": _peak_mb(),
        }
        for size, seconds in runs.items()
    ]


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def table_of_many(records: list[dict]) -> list[str]:
    lines = [
        "D={D} N={N} S={S:4d} {seconds:7.3f} s, {each:5.2f} ms a path".format(
            **r, each=1e3 * r["seconds"] / r["S"]
        )
        for r in records
    ]
    few, most = records
    ratio = most["seconds"] / most["S"] / (few["seconds"] / few["S"])
    lines.append(f"time a path, the most against the fewest: {ratio:.3f}")
    lines.append("peak {peak_mb:.0f} MB, {peak_before_mb:.0f} before".format(**most))
    return lines
