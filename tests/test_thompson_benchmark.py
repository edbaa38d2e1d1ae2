"""The benchmark of Thompson sampling: its problems, reference minima and verdicts."""

import numpy as np
import pytest

from benchmarks import path_problem, thompson_paths, thompson_regret
from benchmarks.objectives import OBJECTIVES

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


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: o.name)
def test_the_optimum_is_the_least_value(objective):
    at_optimum = objective(objective.optimiser)[0]
    np.testing.assert_allclose(at_optimum, objective.optimum, atol=1e-9)
    near = objective.optimiser + 0.01 * (points(objective.in_size, 1000) - 0.5)
    assert objective(near).min() >= objective.optimum
    first = objective.first_points(6, 3)
    assert ((first >= objective.bounds[0]) & (first <= objective.bounds[1])).all()
    np.testing.assert_array_equal(first, objective.first_points(6, 3))


def test_loops_are_kept_and_judged(tmp_path):
    path = tmp_path / "loops.jsonl"
    asked = (["random"], ["Branin"], [0, 1], 8)
    records = thompson_regret.run(path, *asked)
    assert thompson_regret.run(path, *asked) == records  # seconds too: nothing ran
    assert len(records) == 4 and len(records[0]["regret"]) == 9
    assert np.diff(records[0]["regret"]).max() <= 0

    ours = [{**r, "strategy": "pyrox"} for r in records]
    theirs = [
        {**r, "strategy": "botorch thompson", "seconds": [9.0] * 9, "regret": [lost]}
        for r, lost in zip(records, (100.0, 0.0, 100.0, 0.0), strict=True)
    ]
    lines = "\n".join(thompson_regret.table(ours + theirs))
    assert "regret ABOVE" in lines and "ok" in lines


@pytest.mark.exhaustive
def test_our_loop_is_a_strategy(x64):
    record = thompson_regret.loop("pyrox", OBJECTIVES[0], 4, 0, 8)
    assert len(record["regret"]) == 3 and record["regret"][-1] < record["regret"][0]
