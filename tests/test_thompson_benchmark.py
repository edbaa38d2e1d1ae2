"""The benchmark of Thompson sampling: its problems, its reference minima, its verdicts.
BoTorch's half needs the libraries of the extra `bench` and runs where they are."""

import dataclasses

import numpy as np
import pytest

from benchmarks import path_problem, thompson_paths, thompson_regret
from benchmarks.objectives import OBJECTIVES
from pyrox.gp import GPPrior, Matern

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


def test_verdicts_on_paths():
    ours = {"hit": np.ones(2), "gap": np.zeros(2), "seconds": np.full(2, 0.1)}
    theirs = {"hit": np.full(2, 0.9), "gap": np.full(2, 0.1), "seconds": np.ones(2)}
    assert "SHORT" not in thompson_paths._verdict(6, ours, theirs)
    assert "times SHORT" in thompson_paths._verdict(2, ours, theirs)
    assert "hit SHORT, gap SHORT" in thompson_paths._verdict(6, theirs, theirs)


def test_botorch_takes_up_the_same_functions(problem):
    theirs = pytest.importorskip("benchmarks.thompson_botorch", exc_type=ImportError)
    X, wanted = points(2), np.asarray(problem.paths(points(2)))
    same = theirs.taken_up(problem.arrays)
    np.testing.assert_allclose(theirs.values(same, X), wanted, atol=1e-10)
    larger = dataclasses.replace(problem.arrays, variance=np.array(2.3))
    values = theirs.values(theirs.taken_up(larger), X)
    np.testing.assert_allclose(values, larger.values(X), atol=1e-10)
    found, values, _ = theirs.minimised(same, problem.bounds, 0)
    assert found.shape == (4, 2)
    assert (values <= wanted.min(axis=1)).all()


def test_botorch_draws_from_the_same_posterior(problem, x64):
    """Means over 4000 paths within 5 standard errors: a false alarm in 10^5 runs. Their
    spread has the error of their features, up to a half of it near the data."""
    theirs = pytest.importorskip("benchmarks.thompson_botorch", exc_type=ImportError)
    scale = path_problem.lengthscales(2, 0)
    fixed = (path_problem.VARIANCE, scale, path_problem.NOISE_VAR)
    model = theirs.fixed_model(problem.X, problem.y, *fixed)
    prior = GPPrior(Matern(2.5, path_problem.VARIANCE, scale), problem.X)
    posterior = prior.condition(problem.y, path_problem.NOISE_VAR)
    X = points(2)
    drawn = theirs.values(theirs.own_paths(model, 4000, 0), X)
    apart = np.abs(drawn.mean(axis=0) - np.asarray(posterior.predict_mean(X)))
    assert (apart < 5 * drawn.std(axis=0) / np.sqrt(4000)).all()
