"""Whole loops: what they compile, what survives a kill, every way to model."""

import pathlib
import pickle
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

from pyrox.gp import Matern, ThompsonSampling
from tests.helpers import compilations

pytestmark = pytest.mark.exhaustive
ROOT = pathlib.Path(__file__).parents[2]
NOISE = dist.LogNormal(-4.0, 1.0)


def bowl(X):
    return np.sum((np.asarray(X) - 0.3) ** 2, axis=1)


def kernel(in_size):
    scales = dist.LogNormal(jnp.zeros(in_size), 1.0)
    made = Matern(2.5, init_lengthscale=jnp.full(in_size, 0.5))
    return made.with_priors(lengthscale=scales)


def study_of(in_size, **settings):
    bounds = np.array([[0.0] * in_size, [1.0] * in_size])
    settings = {"noise_prior": NOISE, "n_candidates": 512, "n_starts": 16} | settings
    return ThompsonSampling(kernel(in_size), bounds, n_features=256, **settings)


def scale(holder):
    assert isinstance(holder.kernel, Matern)
    return holder.kernel.lengthscale


def rounds(study, state, n, seed=0, measure=bowl):
    for key in jax.random.split(jax.random.key(seed), n):
        X, state = study.ask(key, state)
        state = study.tell(state, X, measure(X))
    return state


def test_fifty_rounds_compile_few_programs():
    study = study_of(2)
    X = np.random.default_rng(0).random((10, 2)).astype(np.float32)
    jax.clear_caches()
    state, seconds = study.init(X, bowl(X)), []
    with compilations() as programs:
        for i in range(3):
            state = rounds(study, state, 1, i)
        first = len(programs)
        for i in range(3, 50):
            start = time.perf_counter()
            state = rounds(study, state, 1, i)
            seconds.append(time.perf_counter() - start)
        every = len(programs)
    print(f"{first} programs in the first three rounds, {every} in all fifty")
    assert int(state.n_points) == 60
    assert every == first <= 12


LOOP = """
import pickle, sys
import jax
from tests.decisions.test_thompson_whole import bowl, study_of
import numpy as np

path, n = sys.argv[1], int(sys.argv[2])
study = study_of(2, batch_size=2)
try:
    done, state = pickle.load(open(path, "rb"))
except FileNotFoundError:
    X = np.random.default_rng(0).random((6, 2)).astype(np.float32)
    done, state = 0, study.init(X, bowl(X))
for i in range(done, n):
    print("asking", i, flush=True)
    X, state = study.ask(jax.random.key(i), state)
    state = study.tell(state, X, bowl(X))
    with open(path, "wb") as file:
        pickle.dump((i + 1, state), file)
"""


def test_a_loop_killed_in_the_middle_of_ask_goes_on_as_if_it_had_not_been(tmp_path):
    def run(path, n):
        command = [sys.executable, "-c", LOOP, str(path), str(n)]
        return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)

    whole, cut = tmp_path / "whole", tmp_path / "cut"
    with run(cut, 6) as killed:
        assert killed.stdout is not None
        for line in killed.stdout:
            if line == "asking 3\n":
                killed.kill()  # SIGKILL, within the milliseconds that it takes to ask
                break
    assert killed.returncode == -9
    assert pickle.loads(cut.read_bytes())[0] == 3
    for path in (cut, whole):
        with run(path, 6) as going_on:
            going_on.communicate()
        assert going_on.returncode == 0
    stored = [pickle.loads(path.read_bytes()) for path in (whole, cut)]
    (n_whole, one), (n_cut, other) = stored
    assert n_whole == n_cut == 6
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.numpyro
def test_hyperparameters_that_are_integrated_differ_from_point_to_point():
    study = study_of(2, hyperparameters="nuts", batch_size=3)
    X = np.random.default_rng(0).random((8, 2)).astype(np.float32)
    state = rounds(study, study.init(X, bowl(X)), 4)
    log = study.history(state)
    assert log["best"][-1] < 0.3 * log["best"][7]
    again = rounds(study, study.init(X, bowl(X)), 4)
    np.testing.assert_array_equal(study.history(again)["y"], log["y"])
    assert not np.array_equal(scale(state), scale(study))


def test_fixed_hyperparameters_stay_and_are_of_the_values_as_they_are():
    study = study_of(2, hyperparameters="fixed", noise_var=1e-3)
    X = np.random.default_rng(0).random((8, 2)).astype(np.float32)
    state = rounds(study, study.init(X, bowl(X)), 5)
    np.testing.assert_array_equal(scale(state), scale(study))
    np.testing.assert_array_equal(state.noise_var, study.noise_var)
    key = jax.random.key(7)
    one, _ = study.ask(key, study.init(X, bowl(X)))
    moved, _ = study.ask(key, study.init(X, 100 + bowl(X)))
    assert np.abs(np.asarray(one) - np.asarray(moved)).max() > 0.05


def test_whole_numbers_are_asked_for():
    bounds = np.array([[0.0, 1.0], [1.0, 9.0]])

    def measure(X):
        X = np.asarray(X)
        return (X[:, 0] - 0.3) ** 2 + (X[:, 1] - 4) ** 2 / 20

    study = ThompsonSampling(
        kernel(2), bounds, noise_prior=NOISE, integers=(1,), n_features=256
    )
    state = rounds(study, study.init(), 12, measure=measure)
    x, y = study.best(state)
    np.testing.assert_array_equal(state.X[:, 1], np.round(state.X[:, 1]))
    assert x[1] == 4 and y < 0.02


def test_a_trust_region_shrinks_and_starts_anew():
    study = study_of(4, trust_region=True)
    X = np.random.default_rng(0).random((8, 4)).astype(np.float32)
    state = rounds(study, study.init(X, bowl(X)), 12)
    assert study.best(state)[1] < 0.3 * bowl(X).min()
    assert state.region is not None
    near = np.abs(np.asarray(study.ask(jax.random.key(9), state)[0][0]) - 0.3)
    assert (near <= float(state.region.length)).all()

    # Where nothing improves any more, it halves until it is exhausted.
    lengths, restarts = [], 0
    for key in jax.random.split(jax.random.key(1), 40):
        asked, state = study.ask(key, state)
        state = study.tell(state, asked, np.ones(1))
        assert state.region is not None
        lengths.append(float(state.region.length))
        if int(state.since):
            restarts = int(state.since)
            break
    assert min(lengths) < 0.1 and lengths[-1] == pytest.approx(0.8)
    assert restarts == int(state.n_points)
    first, _ = study.ask(jax.random.key(2), state)
    best = np.asarray(study.best(state)[0])
    assert np.abs(np.asarray(first)[0] - best).max() > 0.1  # a Sobol point
