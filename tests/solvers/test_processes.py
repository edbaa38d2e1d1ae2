"""Several processes, by the example that does it: what they find is what one finds, and
they end when one of them dies."""

import os
import pathlib
import runpy
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

EXAMPLE = pathlib.Path(__file__).parents[2] / "examples" / "distributed.py"


def started(*options: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, EXAMPLE, *options],
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def two(*options: str) -> list[subprocess.Popen]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        coordinator = f"--coordinator=127.0.0.1:{free.getsockname()[1]}"
    together = coordinator, "--processes=2", *options
    return [started(*together, f"--id={i}") for i in range(2)]


def values(text: str) -> np.ndarray:
    """The lines of the mean and of four paths."""
    rows = (line.split() for line in text.splitlines())
    names = "mean", "path-0", "path-1", "path-2", "path-3"
    return np.array([row[1:] for row in rows if row and row[0] in names], float)


@pytest.mark.exhaustive
def test_two_processes_say_what_one_does():
    small = "--n=1003", "--tolerance=3e-5"
    processes = started("--processes=1", *small), *two(*small)
    said = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], said
    want, got, silent = (values(text) for text, _ in said)
    assert "2 processes, 2 devices" in said[1][0] and silent.size == 0
    assert want.shape == (5, 5)
    off = np.linalg.norm(got - want, axis=1) / np.linalg.norm(want, axis=1)
    assert (off <= 1e-4).all(), off


@pytest.mark.exhaustive
@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_dies_ends_the_other_with_an_error(victim):
    """Within the time that the example states, plus what a loaded machine needs."""
    limit = 2 * runpy.run_path(str(EXAMPLE))["TIME_LIMIT"] + 20
    processes = two("--n=20000", "--tolerance=1e-6")
    try:
        assert processes[0].stdout is not None
        assert "2 processes" in processes[0].stdout.readline()
        time.sleep(5)  # they are at work
        assert processes[1 - victim].poll() is None
        processes[victim].kill()
        _, errors = processes[1 - victim].communicate(timeout=limit)
        assert processes[1 - victim].returncode != 0 and "died" in errors
    finally:
        for process in processes:
            process.kill()
            process.communicate()
