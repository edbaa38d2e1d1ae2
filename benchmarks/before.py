"""`python -m benchmarks.before COMMIT`: the speed of an earlier commit and of the code
at hand, in turns, case by case.

Both run in this environment, so the libraries are the same. What counts is the median
of the ratios of neighbouring turns, which a machine that changes its pace moves least.
"""

import argparse
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from .cases import CASES, Case
from .run import Worker, first_values, whole_process

LARGEST_RATIO = 1.05
IMPORT = Case("import pyrox.gp", "import")
# Cases that are whole processes, and what Python is told in each.
_PROCESSES = {
    "import": ["-c", "import pyrox.gp"],
    "first_values": first_values("pyrox"),
}
_HERE = pathlib.Path(__file__).parents[1]


@contextmanager
def checked_out(commit: str) -> Iterator[pathlib.Path]:
    """A folder with the code of `commit`, removed in the end."""
    with tempfile.TemporaryDirectory() as parent:
        folder = pathlib.Path(parent) / "before"
        git = ["git", "-C", str(_HERE), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", folder, commit], check=True)
        try:
            yield folder
        finally:
            subprocess.run([*git, "remove", "--force", folder], check=True)


def turns(case: Case, folders: list[pathlib.Path], repeats: int) -> np.ndarray:
    """Seconds, (repeats, folders)."""
    workers: list[Worker] = []
    calls: list[Callable[[], float]]
    if case.task in _PROCESSES:
        told = _PROCESSES[case.task]
        calls = [lambda f=f: whole_process(told, f) for f in folders]
        for call in calls:
            call()  # the first compiles to bytecode
    else:
        workers = [Worker(case, "pyrox", folder=folder) for folder in folders]
        calls = [lambda w=w: w.ask("time")["seconds"] for w in workers]
    order = range(len(calls))
    seconds = np.zeros((repeats, len(calls)))
    for i in range(repeats):
        for j in reversed(order) if i % 2 else order:
            seconds[i, j] = calls[j]()
    for worker in workers:
        worker.stop()
    return seconds


def main(commit: str, names: list[str], repeats: int, most: float) -> bool:
    slowest = 0.0
    with checked_out(commit) as folder:
        print(f"{'case':24s} {'before':>9s} {'now':>9s}  now / before, in pairs")
        for case in (IMPORT, *CASES):
            if names and case.name not in names:
                continue
            n = repeats if case.n_query <= 10_000 else max(3, repeats // 4)
            seconds = turns(case, [folder, _HERE], n)
            before, now = np.median(seconds, axis=0)
            pairs = float(np.median(seconds[:, 1] / seconds[:, 0]))
            print(
                f"{case.name:24s} {before:8.4f}s {now:8.4f}s  {now / before:.2f} "
                f"{pairs:.2f}",
                flush=True,
            )
            slowest = max(slowest, pairs)
    print(f"slowest {slowest:.2f} in pairs, at most {most}")
    return slowest <= most


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("commit")
    parser.add_argument("--cases", nargs="*", default=[], metavar="NAME")
    parser.add_argument("--repeats", type=int, default=31)
    parser.add_argument("--most", type=float, default=LARGEST_RATIO, metavar="RATIO")
    asked = parser.parse_args()
    sys.exit(not main(asked.commit, asked.cases, asked.repeats, asked.most))
