"""The rivals of a case, run in turns; a record for each."""

import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

from .cases import Case

# One thread pool of OpenBLAS less in each other's way (README, limits), and memory
# given back to the system as soon as it is free, so that peaks can be seen.
_ENVIRONMENT = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
# Modules are compiled to bytecode once, as they are when pip installs them.
_ENVIRONMENT.pop("PYTHONDONTWRITEBYTECODE", None)
_GIVING_BACK = {**_ENVIRONMENT, "MALLOC_MMAP_THRESHOLD_": "65536"}


class Worker:
    """A process that runs one case in one library when asked, with the code of the
    folder that it is started in."""

    def __init__(
        self,
        case: Case,
        library: str,
        environment: dict | None = None,
        folder: pathlib.Path | None = None,
    ):
        self.library = library
        self._errors = tempfile.TemporaryFile("w+")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", case.to_json(), library],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=environment or _ENVIRONMENT,
            cwd=folder,
        )
        self.about = self._hear()

    def ask(self, what: str) -> dict:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{what}\n")
        self._process.stdin.flush()
        return self._hear()

    def stop(self) -> None:
        self._process.communicate()
        self._errors.close()

    def _hear(self) -> dict:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.communicate()
            self._errors.seek(0)
            errors = self._errors.read()
            self._errors.close()
            raise RuntimeError(f"The worker for {self.library} stopped:\n{errors}")
        return json.loads(line)


def measure(
    case: Case, repeats: int, libraries: Sequence[str], memory: bool = True
) -> dict:
    """Seconds and memory of pyrox and of those `libraries` that the case has."""
    chosen = ["pyrox", *(r for r in case.rivals if r in libraries)]
    if case.task == "first_values":
        return _record(case, _whole_processes(chosen, repeats), {})
    workers = [Worker(case, library) for library in chosen]
    times: dict[str, list[float]] = {w.library: [] for w in workers}
    for _ in range(repeats):
        for worker in workers:
            times[worker.library].append(worker.ask("time")["seconds"])
    about = {worker.library: worker.about for worker in workers}
    for worker in workers:
        worker.stop()
    for library in ("pyrox", "gpjax", "botorch"):
        if memory and library in chosen:
            watcher = Worker(case, library, _GIVING_BACK)
            about[library].update(watcher.ask("memory"))
            watcher.stop()
    return _record(case, times, about)


def _whole_processes(libraries: Sequence[str], repeats: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {library: [] for library in libraries}
    for _ in range(repeats):
        for library in libraries:
            times[library].append(whole_process(first_values(library)))
    return times


def first_values(library: str) -> list[str]:
    """What Python is told, to get from an empty process to the first values."""
    return ["-m", "benchmarks.first_values", library]


def whole_process(
    arguments: Sequence[str], folder: pathlib.Path | None = None
) -> float:
    """Seconds from an empty process of Python to its end."""
    command = [sys.executable, *arguments]
    start = time.perf_counter()
    subprocess.run(
        command, check=True, env=_ENVIRONMENT, cwd=folder, capture_output=True
    )
    return time.perf_counter() - start


def _record(case: Case, times: dict[str, list[float]], about: dict) -> dict:
    medians = {library: statistics.median(runs) for library, runs in times.items()}
    ours = medians["pyrox"]
    results = {
        library: {
            "median_s": medians[library],
            "runs_s": runs,
            "ratio": medians[library] / ours,
            **about.get(library, {}),
        }
        for library, runs in times.items()
    }
    return {"case": json.loads(case.to_json()), "results": results}
