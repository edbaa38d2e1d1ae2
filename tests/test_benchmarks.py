"""The benchmarks run: every task of ours at small sizes, the report, one whole run."""

import argparse
import dataclasses
import json
import re
import subprocess
import sys

import jax
import matplotlib.image
import numpy as np
import pytest

from benchmarks import (
    accuracy,
    before,
    contract,
    fit,
    gram,
    large,
    large_data,
    likelihoods,
    outputs,
    pyrox_side,
    report,
    roofline,
    run,
)
from benchmarks.accuracy_figure import picture
from benchmarks.accuracy_problem import (
    Gaussian,
    Problem,
    exact_posterior,
    root,
    wasserstein,
)
from benchmarks.cases import CASES, SMALL, SWEEPS, Case

pytestmark = pytest.mark.exhaustive

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
    assert set(found) == {"iid", "orthogonal", "sobol", "grid"}
    roots = {kind: root for kind, (root, _) in found.items()}
    assert 0 < roots["grid"] < roots["sobol"] / 20
    assert 0 < roots["sobol"] < roots["iid"] / 2 < 0.05


def test_the_error_of_features_against_botorch():
    def verdict(name, in_size, ours, theirs=(0.010, 0.001)):
        found = {"sobol": ours, "grid": (0.0, 0.0), "botorch": theirs}
        return gram.against_botorch(name, in_size, found).split()[-1]

    assert verdict("RBF", 16, (0.014, 0.001)) == "ok"  # 2.8 standard errors
    assert verdict("RBF", 16, (0.015, 0.001)) == "SHORT"
    assert verdict("Matern-5/2", 8, (0.005, 0.001)) == "ok"
    assert verdict("Matern-5/2", 8, (0.006, 0.001)) == "SHORT"
    assert gram.against_botorch("RBF", 1, {"sobol": (1.0, 0.1)}) == ""
    root, error = gram._root(np.array([4.0, 16.0]))
    assert (root, error) == pytest.approx((10**0.5, 6 / (2 * 10**0.5)))


def rotated(values: np.ndarray, seed: int) -> np.ndarray:
    """A covariance of these variances, along axes that the seed chooses."""
    normal = np.random.default_rng(seed).normal(size=(len(values), len(values)))
    axes = np.linalg.qr(normal)[0]
    return axes * values @ axes.T


@pytest.mark.parametrize("gap", [1.0, 1e-5], ids=["by traces", "by roots"])
def test_the_distance_of_gaussians_with_common_axes(gap):
    """Of commuting covariances the roots' difference. The twin lacks the rotation of
    one root towards the other."""
    rng = np.random.default_rng(0)
    deviations = rng.uniform(0.5, 2, 20)
    others = deviations + gap * rng.uniform(0.5, 1, 20)
    first = Gaussian(np.zeros(20), rotated(deviations**2, 1))
    second = Gaussian(gap * rng.uniform(size=20), rotated(others**2, 1))
    square = np.sum((others - deviations) ** 2) + np.sum(second.mean**2)
    found = wasserstein(first, root(first.cov), second)
    np.testing.assert_allclose(found, np.sqrt(square), rtol=1e-8)
    twin = np.linalg.norm(np.linalg.cholesky(first.cov) - root(second.cov))
    assert twin > 2 * found


def test_the_distance_of_gaussians_in_the_plane():
    """Closed form for two by two. The twin takes the symmetric roots as they are."""
    first, second = (rotated(np.array([1.0, 16.0]), seed) for seed in (1, 2))
    cross = np.trace(first @ second) + 2 * np.sqrt(
        np.linalg.det(first) * np.linalg.det(second)
    )
    square = np.trace(first) + np.trace(second) - 2 * np.sqrt(cross)
    mean = np.zeros(2)
    found = wasserstein(Gaussian(mean, first), root(first), Gaussian(mean, second))
    np.testing.assert_allclose(found, np.sqrt(square), rtol=1e-12)
    twin = np.linalg.norm(
        rotated(np.array([1.0, 4.0]), 1) - rotated(np.array([1.0, 4.0]), 2)
    )
    assert twin > 1.01 * found


def test_drawn_functions_are_what_the_distance_is_of(x64):
    """Errors in units of those of 4000 independent draws, from a fixed key: near 1. The
    twin's covariance lacks the noise."""
    problem = Problem("Matern-5/2", 2, 16, n_test=32, noise_var=1.0)
    mean, cov, twin = accuracy.check_one(problem, "iid", 4000)
    assert mean < 1.5 and 0.5 < cov < 1.5
    assert twin > 2


def test_the_distances_of_all_bases(x64):
    problem = Problem("RBF", 2, 16, n_test=64)
    records = accuracy.measure_cell(problem, {256: 2}, ())
    found = {r["method"]: r["log10_w2"] for r in records}
    assert set(found) == {*accuracy.BASES, "weight-space"}
    assert {r["columns"] for r in records} == {272}
    assert found["grid"] < found["iid"] - 1
    assert found["iid"] < found["weight-space"]
    exact = exact_posterior(problem)
    unseen = Gaussian(0 * exact.mean, problem.gram[16:, 16:])  # the prior
    far = np.log10(wasserstein(exact, root(exact.cov), unseen))
    assert all(value < far for value in found.values())


def cells(distances: dict[tuple[str, int, int, str], float]) -> list[dict]:
    return [
        {"kernel": k, "in_size": d, "n": 1024, "columns": c, "method": m, "log10_w2": x}
        for (k, d, c, m), x in distances.items()
    ]


def test_the_promises_of_the_accuracy(tmp_path):
    found = cells(
        {
            ("RBF", 1, 2048, "grid"): -5.1,
            ("Matern-3/2", 2, 2048, "grid"): 0.3,
            ("Matern-3/2", 2, 2048, "iid"): 0.5,
            ("Matern-3/2", 3, 2048, "grid"): 0.5,
        }
    )
    lines = accuracy.promises(found)
    assert [line.split()[-1] for line in lines] == ["ok", "SHORT"]
    assert "-5.10 <=" in lines[0] and "0.30 <=   0.20" in lines[1]
    picture(found, tmp_path / "accuracy.png")
    assert matplotlib.image.imread(tmp_path / "accuracy.png").shape[1] > 500


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


def test_an_earlier_commit_takes_turns_with_the_code_at_hand():
    with before.checked_out("HEAD") as folder:
        assert (folder / "pyrox" / "gp" / "__init__.py").exists()
        for case in (before.IMPORT, EVALUATE):
            seconds = before.turns(case, [folder, folder], 2)
            assert seconds.shape == (2, 2) and (seconds > 0).all()
    assert not folder.exists()


def test_a_fit_is_measured(x64):
    X, y = fit.standardised(30)
    start = fit.likelihood(fit.starts(X.shape[1]), X, y)
    ours = fit.compare(X, y, [])["pyrox"]
    assert ours["log_likelihood"] > start and ours["seconds"] > 0


def test_the_set_beside_the_benchmark_of_large_data_runs(capsys, monkeypatch):
    """Its first 400 rows, whose errors are those of a model that learnt something."""
    split = large_data.load(None, "bike3000").first(400)
    options = argparse.Namespace(solver="cg", tolerance=1e-2, rank=None, products=1000)
    monkeypatch.setattr(large, "N_PATHS", 8)
    monkeypatch.setattr(large, "N_FEATURES", 200)
    for part in (large.product, large.paths, large.certificate, large.cholesky):
        part(split, options)
    said = capsys.readouterr().out
    error = re.search(r"RMSE (\S+)", said)
    assert error is not None and 0 < float(error[1]) < 0.5, said
    assert "times" in said and "deviations" in said


def test_several_outputs(capsys):
    outputs.main(["--n", "40", "--outputs", "2", "--turns", "1"])
    text = capsys.readouterr().out
    assert "N=40, P=2" in text
    off = re.search("density off by (.*)", text)
    assert off and all(float(number) < 1e-8 for number in off[1].split(", "))
    parts = re.findall(r"(float\d\d), ([^:]+): at most (\S+) of", text)
    assert len(parts) == 8
    limits = {
        ("float32", "paths.gradient"): 1e-5,
        ("float32", "JAX's derivative"): 3e-5,
        ("float64", "paths.gradient"): 1e-10,
        ("float64", "JAX's derivative"): 1e-10,
    }
    assert all(float(found) < limits[dtype, how] for dtype, how, found in parts)


def test_likelihoods(capsys):
    """Our side alone: the bound that a fit says is that of NumPy, where it ends, and
    what it learns from minibatches is more than the share of the classes."""
    likelihoods.main(["optimum", "--sides", "pyrox"])
    said = re.findall(r"(-\d+\.\d+), \d+ steps; said (\S+)", capsys.readouterr().out)
    assert len(said) == 3
    assert all(abs(float(ours) - float(again)) < 1e-5 for ours, again in said)
    likelihoods.main(["time", "--sides", "pyrox", "--only", "counts", "--turns", "1"])
    text = capsys.readouterr().out
    assert "within .1 nat after" in text and re.search(r"pyrox +\d\.\d+ s", text)
    small = ["--n", "3000", "--batch-size", "256", "--steps", "200"]
    likelihoods.main(["minibatch", "--sides", "pyrox", *small])
    density = re.search(r"log density (\S+)", capsys.readouterr().out)
    assert density is not None and -0.68 < float(density[1]) < -0.3
    likelihoods.main(["memory", *small])
    assert re.search(r"\d+ MB more at the peak", capsys.readouterr().out)
