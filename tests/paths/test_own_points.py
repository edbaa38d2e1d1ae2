"""Each path at points of its own: values of `each`, gradients of `gradient`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import few_of

from pyrox.gp import (
    RBF,
    Derivatives,
    GPPrior,
    Linear,
    Matern,
    PathwiseSampler,
    Polynomial,
)
from pyrox.gp._numerics import blocks
from pyrox.gp._paths.own_points import rounding_of, values_and_gradients
from pyrox.gp._paths.path import bare

pytestmark = pytest.mark.usefixtures("plainly_compiled")

KERNELS = {
    "RBF": lambda: RBF(1.0, 0.5),
    "Matern-3/2": lambda: Matern(1.5, 1.0, 0.5),
    "of many kinds": lambda: RBF(1.0, 0.5) * Linear() + Matern() + Polynomial(2),
}


def drawn(kernel, derivatives=None):
    rng = np.random.default_rng(0)
    X = rng.uniform(size=(20, 3))
    prior = GPPrior(kernel, X, mean_fn=lambda X: 3 * X[:, 0] ** 2)
    posterior = prior.condition(np.sin(5 * X[:, 1]), 1e-2, derivatives)
    return PathwiseSampler(posterior, 32, "iid").sample_paths(jax.random.key(1), 5)


@pytest.mark.parametrize("rows", few_of([None, 8], None))
@pytest.mark.parametrize("name", few_of(KERNELS, "of many kinds"))
def test_they_are_those_of_each_and_gradient(x64, monkeypatch, name, rows):
    if rows:
        monkeypatch.setattr(blocks, "_BLOCK_BYTES", 0)
        monkeypatch.setattr(blocks, "_FEWEST_ROWS", rows)
    paths = drawn(KERNELS[name]())
    X = np.random.default_rng(2).uniform(size=(5, 4, 3))
    values, gradients = values_and_gradients(bare(paths), jnp.asarray(X))
    assert np.allclose(values, paths.each(X), atol=1e-11)
    for s in range(5):
        assert np.allclose(gradients[s], paths[s].gradient(X[s])[0], atol=1e-9)


@pytest.mark.exhaustive
def test_with_derivatives_as_data(x64):
    where = Derivatives(np.array([[0.2, 0.4, 0.6]]), 1, np.array([2.0]), 1e-2)
    paths = drawn(KERNELS["RBF"](), where)
    X = np.random.default_rng(2).uniform(size=(5, 4, 3))
    values, gradients = values_and_gradients(bare(paths), jnp.asarray(X))
    assert np.allclose(values, paths.each(X), atol=1e-11)
    assert np.allclose(gradients[2], paths[2].gradient(X[2])[0], atol=1e-9)


@pytest.mark.exhaustive
def test_rounding_is_of_the_size_of_what_float32_loses():
    with jax.enable_x64(True):
        wide = drawn(KERNELS["RBF"]())
        X = np.random.default_rng(3).uniform(size=(200, 3))
        exact = np.asarray(wide(X))
        narrow, points = wide.astype(jnp.float32), jnp.asarray(X, jnp.float32)
        lost = np.asarray(narrow(points), float) - np.asarray(wide(np.asarray(points)))
        stated = np.asarray(rounding_of(bare(narrow), points[:16]))
    assert exact.shape == lost.shape
    ratio = np.sqrt(np.mean(lost**2, axis=1)) / stated
    assert (ratio < 1).all() and (ratio > 1e-3).all()
