"""The benchmarks run: every task of ours at small sizes, the report, one whole run."""

import dataclasses
import json
import re
import subprocess
import sys

import jax
import matplotlib.image
import numpy as np
import pytest

from benchmarks import contract, gram, pyrox_side, report, roofline, run
from benchmarks.cases import CASES, SMALL, SWEEPS, Case

TASKS = {case.task: case for case in reversed(SMALL) if case.task != "first_values"}
EVALUATE = TASKS["evaluate"]


@pytest.mark.parametrize("task", TASKS)
def test_our_side_runs(task):
    case = TASKS[task]
    with jax.enable_x64(case.dtype == "float64"):
        result = pyrox_side.prepare(case)()
    if case.task == "evaluate":
        assert isinstance(result, jax.Array)
        assert result.shape == (case.n_paths, case.n_query)
        assert result.dtype == case.dtype


def test_the_rivals_of_the_contract_do_the_same_work(x64):
    """Other random numbers, so equal in the mean over 960 functions, within 5 standard
    errors of the difference: a false alarm in 10^4 runs for 140 points."""
    case = dataclasses.replace(TASKS["draws"], n_features=256, n_query=200, n_paths=8)
    values = [np.asarray(contract.plain_vmap(case)())]
    values.append(np.asarray(pyrox_side.prepare(case)()))
    assert values[0].shape == values[1].shape == (120, 8, 200)
    middle = slice(30, 170)
    means = [v.reshape(960, 200).mean(axis=0)[middle] for v in values]
    spread = values[0].reshape(960, 200).std(axis=0)[middle]
    assert np.abs(means[0] - means[1]).max() < 5 * spread.max() * np.sqrt(2 / 960)


def test_the_roofline_grows_with_the_case():
    call = roofline.prepare(EVALUATE)
    more = roofline.prepare(dataclasses.replace(EVALUATE, n_query=10**6))
    assert 0 < call() < more()


def test_the_feature_error_is_that_of_random_features():
    """512 pairs at D = 4: about 0.02; with 8 times fewer, 2.8 times as much."""
    few = dataclasses.replace(CASES[0], n_data=200, n_features=128)
    many = dataclasses.replace(few, n_features=1024)
    assert 0.005 < pyrox_side.feature_error(many) < 0.05
    assert 1.5 < pyrox_side.feature_error(few) / pyrox_side.feature_error(many) < 5


def record(case: Case, **medians: float) -> dict:
    return run._record(case, {name: [s, s, s] for name, s in medians.items()}, {})


def test_the_table_says_which_promises_hold(tmp_path):
    found = record(CASES[0], pyrox=1.0, gpjax=6.0, botorch=24.0, roofline=0.8)
    lines = {line[25:40].strip(): line for line in report.table([found]).splitlines()}
    assert re.search(r"6\.0\s+>=5 ok", lines["gpjax"])
    assert re.search(r"24\.0\s+>=25 NO", lines["botorch"])
    assert re.search(r"1\.25\s+<1\.5 ok", lines["roofline"])
    assert "NO" not in lines["pyrox"]
    million = next(case for case in CASES if case.most_extra_mb)
    found = record(million, pyrox=1.0)
    for extra, verdict in ((150.0, True), (250.0, False)):
        result = {**found["results"]["pyrox"], "extra_mb": extra}
        assert report.kept(found["case"], "pyrox", result) is verdict


def test_the_picture_has_a_panel_for_each_size(tmp_path):
    sweeps = {
        size: [record(case, pyrox=1.0, gpjax=2.0) for case in cases]
        for size, cases in SWEEPS.items()
    }
    report.picture(sweeps, tmp_path / "speed.png")
    assert matplotlib.image.imread(tmp_path / "speed.png").shape[1] > 1000


def test_the_error_of_features_by_basis(monkeypatch):
    monkeypatch.setattr(gram, "N_DRAWS", 2)
    found = gram.errors("Matern-5/2", 2, botorch=False)
    assert set(found) == {"iid", "orthogonal", "sobol"}
    assert 0 < found["sobol"] < found["iid"] / 2 < 0.05


def test_a_whole_run_writes_what_it_measured(tmp_path):
    """One case in processes of its own."""
    command = [sys.executable, "-m", "benchmarks", "--small", "--repeats", "2"]
    command += ["--only", "every path", "--out", str(tmp_path), "--rivals"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "gradient of every path" in done.stdout
    found = json.loads((tmp_path / "speed.json").read_text())
    results = found["cases"][0]["results"]
    assert set(results) == {"pyrox"}
    ours = results["pyrox"]
    assert len(ours["runs_s"]) == 2 and ours["ratio"] == 1 and ours["first_s"] > 0
    assert ours["extra_mb"] >= 0 and ours["version"] and ours["feature_rms"] > 0
    assert "jax" in found["environment"]["versions"]


def test_a_worker_that_fails_says_why():
    broken = dataclasses.replace(EVALUATE, n_features=7)
    with pytest.raises(RuntimeError, match="an even whole number"):
        run.Worker(broken, "pyrox")


def test_the_first_values_are_values():
    times = run._whole_processes(["pyrox"], 1)["pyrox"]
    assert len(times) == 1 and times[0] > 0
