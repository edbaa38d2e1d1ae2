"""Paths over draws: what their `condition` reads, means with parameters among it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import compilations, few_of

from pyrox.gp import RBF, GPPrior, PathwiseSampler, paths_over_draws

pytestmark = pytest.mark.usefixtures("plainly_compiled")

KEY = jax.random.key(0)
X = np.linspace(0.0, 1.0, 6)[:, None]
Y = np.sin(5 * X[:, 0]) + 3.0
FAR = np.array([[0.45], [1.1], [1.3]])
NOISE, JITTER = 0.1, 1e-6
_rng = np.random.default_rng(0)
DRAWS = {
    "a": _rng.normal(3.0, 1.0, 12),
    "b": _rng.normal(0.0, 2.0, 12),
    "ell": _rng.uniform(0.2, 0.6, 12),
}


def condition(draw):
    """With a mean function of two parameters that the model has sampled."""
    kernel = RBF(np.array(1.0), draw["ell"])
    prior = GPPrior(kernel, X, lambda X: draw["a"] + draw["b"] * X[:, 0], JITTER)
    return prior.condition(Y, NOISE)


def dense_moments(a, b, ell):
    """Mean and covariance of one posterior at FAR, in NumPy."""

    def gram(A, B):
        return np.exp(-0.5 * ((A - B.T) / ell) ** 2)

    gain = np.linalg.solve(gram(X, X) + (NOISE + JITTER) * np.eye(len(X)), gram(X, FAR))
    mean = a + b * FAR[:, 0] + gain.T @ (Y - a - b * X[:, 0])
    return mean, gram(FAR, FAR) - gain.T @ gram(X, FAR)


def moments():
    columns = zip(DRAWS["a"], DRAWS["b"], DRAWS["ell"], strict=True)
    means, covs = zip(*(dense_moments(*draw) for draw in columns), strict=True)
    return np.stack(means), np.stack(covs)


@pytest.mark.exhaustive
def test_a_mean_with_parameters_of_the_model(x64):
    means, covs = moments()
    found = jax.vmap(lambda draw: condition(draw).predict_mean(jnp.asarray(FAR)))(DRAWS)
    np.testing.assert_allclose(found, means, rtol=1e-9)
    n_paths = 256
    values = paths_over_draws(KEY, DRAWS, condition, n_paths, 512)(FAR)
    sd = np.sqrt(np.diagonal(covs, axis1=1, axis2=2))
    error = np.asarray(values).mean(axis=1) - means
    assert np.abs(error / sd).max() < 5 / np.sqrt(n_paths)
    # The mixture: all draws together.
    total = (sd**2).mean(axis=0) / len(means) / n_paths
    assert np.all(np.abs(error.mean(axis=0)) < 5 * np.sqrt(total))
    second = (np.asarray(values) ** 2).mean(axis=(0, 1))
    wanted = (sd**2 + means**2).mean(axis=0)
    spread = (2 * sd**4 + 4 * sd**2 * means**2).mean(axis=0) / len(means) / n_paths
    assert np.all(np.abs(second - wanted) < 5 * np.sqrt(spread))


@pytest.mark.exhaustive
def test_a_path_of_the_ensemble_is_the_path_of_its_draw(x64):
    paths = paths_over_draws(KEY, DRAWS, condition, 2, 16, basis="iid")
    draw = {name: jnp.asarray(values[3]) for name, values in DRAWS.items()}
    sampler = PathwiseSampler(condition(draw), 16, "iid")
    alone = sampler.sample_paths(jax.random.split(KEY, 12)[3], 2)
    np.testing.assert_allclose(paths[3](FAR), alone(FAR), rtol=1e-8, atol=1e-8)


class Data:
    shared = 0.0

    def __init__(self):
        self.y = 0.0

    def condition(self, draw):
        y = Y + self.y + self.shared
        return GPPrior(RBF(np.array(1.0), draw["ell"]), X).condition(y, NOISE)


@pytest.mark.parametrize("target", few_of(["object", "class"], "class"))
def test_data_of_an_object_and_of_its_class_are_read(target, x64, monkeypatch):
    data, draws = Data(), {"ell": np.array([0.3, 0.5])}

    def near():
        return paths_over_draws(KEY, draws, data.condition, 2, 8)(X)

    before = near()
    if target == "object":
        data.y = 50.0
    else:
        monkeypatch.setattr(Data, "shared", 50.0)
    with compilations() as programs:
        after = near()
    assert np.abs(after - before).min() > 20 and not programs


@pytest.mark.exhaustive
def test_draws_of_a_size_are_one_program(x64):
    def program(n, level):
        draws = {"ell": np.linspace(0.3, 0.5, n)}
        return paths_over_draws(
            KEY,
            draws,
            lambda draw: GPPrior(
                RBF(np.array(1.0), draw["ell"]), X, lambda X: level * X[:, 0]
            ).condition(Y, NOISE),
            2,
            8,
        )

    program(4, 0.5)
    for n, level, same in ((4, 0.5, True), (4, 0.25, False), (5, 0.5, False)):
        with compilations() as programs:
            program(n, level)
        assert bool(programs) != same


@pytest.mark.exhaustive
def test_what_condition_closes_over_may_be_traced(x64):
    def mean_far(slope):
        def condition(draw):
            kernel = RBF(np.array(1.0), draw["ell"])
            return GPPrior(kernel, X, lambda X: slope * X[:, 0]).condition(Y, NOISE)

        draws = {"ell": np.array([0.3, 0.5])}
        return paths_over_draws(KEY, draws, condition, 2, 8)(np.array([[0.9]])).mean()

    slopes = np.array([1.0, 2.0])
    by_jit = [jax.jit(mean_far)(s) for s in slopes]
    np.testing.assert_allclose(jax.vmap(mean_far)(slopes), by_jit, rtol=1e-9)
    # It is affine in the slope.
    slope = jax.grad(mean_far)(1.0)
    np.testing.assert_allclose(slope, by_jit[1] - by_jit[0], rtol=1e-7)
