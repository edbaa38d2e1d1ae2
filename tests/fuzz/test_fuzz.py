"""A share of `make fuzz`: random problems within the bounds of rounding, and a harness
that notices mistakes."""

import dataclasses

import answers
import jax.numpy as jnp
import problems
import pytest
import run
from outputs import CurlFree, DivergenceFree
from tally import Tally

from pyrox import gp

pytestmark = pytest.mark.usefixtures("plainly_compiled")

SIMPLE = problems.Structure(
    *(("Sum", ("RBF", 0.0, True), ("Matern", 1.5, False)), 5, 2),
    *("tilted", True, 1e-4, "FullRankGuide", "float64"),
)


def found(about: problems.Structure, n_problems: int, seed: int = 0) -> Tally:
    tally = Tally()
    with run.strictly(about.dtype):
        for index in range(n_problems):
            answers.check(problems.problem(seed, index, about), tally, index)
    return tally


SINGLE = dataclasses.replace(
    SIMPLE, recipe=("RBF", 0.0, False), in_size=1, dtype="float32"
)


COREGIONAL = (
    *("Product", ("ActiveDims", ("Matern", 2.5, False), (0, 1))),
    ("ActiveDims", ("Coregionalization", 2.0, False), (2,)),
)
FLOW, FORCE = ((kind, ("RBF", 0.0, True)) for kind in ("DivergenceFree", "CurlFree"))
OUTPUTS = [
    dataclasses.replace(SIMPLE, recipe=recipe, in_size=3, n_outputs=2)
    for recipe in (COREGIONAL, ("Sum", FLOW, ("Scale", FORCE)))
]
SOLID = dataclasses.replace(SINGLE, recipe=FLOW, in_size=4, n_outputs=3)


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "about",
    [SINGLE, SIMPLE, *OUTPUTS, SOLID],
    ids=lambda about: f"{about.recipe[0]}-{about.dtype}",
)
def test_one_program_of_random_numbers(about):
    tally = found(about, 8)
    tally.judge_residuals()
    assert tally.faults == []
    resolved = {"predict_mean", "leave one out", "paths", "FullRankGuide.elbo"}
    assert resolved <= {*tally.checked}


@pytest.mark.exhaustive
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("seed", range(8))
def test_random_kernels(seed, dtype):
    tally = run.batch(1000 + seed, dtype, 20, most_data=20)
    tally.judge_residuals()
    assert tally.faults == []


@pytest.mark.exhaustive
def test_a_field_of_the_other_kind_is_noticed(monkeypatch):
    monkeypatch.setattr(DivergenceFree, "directions", CurlFree.directions)
    assert any("predict_mean" in line for line in found(OUTPUTS[1], 2).faults)


def _other_variance(monkeypatch):
    process = answers.process

    def broken(kind, problem, X):
        kernel = problem.kernel.scaled(1 + 1e-6)
        return process(kind, dataclasses.replace(problem, kernel=kernel), X)

    monkeypatch.setattr(answers, "process", broken)


def _no_jitter(monkeypatch):
    monkeypatch.setattr(answers, "jitter_of", lambda *_: 0.0)


def _other_noise(monkeypatch):
    condition = gp.GPPrior.condition

    def broken(self, y, noise_var):
        return condition(self, y, noise_var * 1.001)

    monkeypatch.setattr(gp.GPPrior, "condition", broken)


def _nan(monkeypatch):
    monkeypatch.setattr(
        gp.ConditionedGP, "predict_var", lambda self, X: jnp.full(len(X), jnp.nan)
    )


def _traceback(monkeypatch):
    def broken(self, X):
        raise IndexError("list index out of range")

    monkeypatch.setattr(gp.ConditionedGP, "predict_cov", broken)


def _refusal(monkeypatch):
    def broken(self, y, noise_var):
        raise ValueError("`GPPrior.condition`: the Gram matrix has no factor.")

    monkeypatch.setattr(gp.GPPrior, "condition", broken)


MISTAKES = {
    "times its bound: predict_mean": _other_variance,
    "times its bound: FullRankGuide": _no_jitter,
    "times its bound: leave one out": _other_noise,
    "silent NaN or inf: predict_var": _nan,
    "unclear IndexError": _traceback,
    "refused without need": _refusal,
}


@pytest.mark.exhaustive
@pytest.mark.parametrize("fault", list(MISTAKES))
def test_a_mistake_is_noticed(monkeypatch, fault):
    MISTAKES[fault](monkeypatch)
    assert any(fault in line for line in found(SIMPLE, 3).faults)
