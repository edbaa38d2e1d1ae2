"""The benchmark of Thompson sampling: its problems, reference minima and verdicts."""

import numpy as np
import pytest

from benchmarks import path_problem, thompson_paths

pytestmark = pytest.mark.exhaustive

SMALL = (2, 30, 4, 0)


@pytest.fixture
def problem(x64):
    return path_problem.problem(*SMALL)


def points(in_size: int, n: int = 20) -> np.ndarray:
    return np.random.default_rng(1).uniform(size=(n, in_size))


def test_the_arrays_are_the_paths(problem, tmp_path):
    X, arrays = points(2), problem.arrays
    wanted = np.asarray(problem.paths(X))
    np.testing.assert_allclose(arrays.values(X), wanted, atol=1e-10)
    path_problem.save(tmp_path / "a.npz", problem)
    again = path_problem.load_arrays(tmp_path / "a.npz").as_pyrox()
    np.testing.assert_allclose(np.asarray(again(X)), wanted, atol=1e-12)


def test_value_and_slope_are_those_of_the_paths(problem):
    X = points(2)
    slopes = np.asarray(problem.paths.gradient(X))
    values = np.asarray(problem.paths(X))
    for s, x, n in ((0, X[0], 0), (3, X[7], 7)):
        value, slope = problem.arrays.value_and_slope(s, x)
        np.testing.assert_allclose(value, values[s, n], atol=1e-10)
        np.testing.assert_allclose(slope, slopes[s, n], atol=1e-9)


def test_the_dense_search_is_below_a_fine_grid(problem):
    side = np.linspace(0, 1, 200)
    grid = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    _, minima = path_problem.dense_search(problem.arrays, 1024, 40)
    lowest = problem.arrays.values(grid).min(axis=1)
    assert (minima <= lowest).all()
    assert (lowest - minima).max() < 0.01
    assert path_problem.judged(minima, minima) == {"hit": 1.0, "gap": 0.0}
    assert path_problem.judged(minima + [0.0, 0.0, 0.0, 0.4], minima)["hit"] == 0.75


def test_verdicts_on_paths():
    ours = {"hit": np.ones(2), "gap": np.zeros(2), "seconds": np.full(2, 0.1)}
    theirs = {"hit": np.full(2, 0.9), "gap": np.full(2, 0.1), "seconds": np.ones(2)}
    assert "SHORT" not in thompson_paths._verdict(6, ours, theirs)
    assert "times SHORT" in thompson_paths._verdict(2, ours, theirs)
    assert "hit SHORT, gap SHORT" in thompson_paths._verdict(6, theirs, theirs)
