"""Feature maps that are no Fourier features: a user's own, and what is made of them."""

# A hyperparameter field takes a number and makes it an array.
# pyright: reportArgumentType=false

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import inputs
from jaxtyping import Array
from numpyro.distributions import constraints

from pyrox.gp import (
    RBF,
    AbstractFeatures,
    AbstractKernel,
    ActiveDims,
    FourierFeatures,
    GPPrior,
    PathwiseSampler,
    hyperparameter,
)
from pyrox.gp._features.maps import move_origin


class LinearFeatures(AbstractFeatures):
    """phi(x) = sqrt(variance) x: exact."""

    variance: Array

    def __call__(self, X):
        return jnp.sqrt(self.variance.astype(X.dtype)) * X


class Linear(AbstractKernel):
    """variance x.x', with features that need no randomness."""

    variance: Array = hyperparameter(constraints.positive)

    def __call__(self, X1, X2):
        return self.variance * X1 @ X2.T

    def diag(self, X):
        return self.variance * jnp.sum(X**2, axis=1)

    def features(self, key, n_features, in_size):
        return LinearFeatures(self.variance)


@pytest.fixture(autouse=True)
def double(x64):
    """Features are compared to rounding."""


EXACT = {
    "itself": lambda: Linear(1.3),
    "sum": lambda: Linear(1.3) + Linear(0.4, name="other"),
    "scale": lambda: 2.5 * Linear(1.3),
    "columns": lambda: ActiveDims(Linear(1.3), (0, 2)),
    "all of it": lambda: 2.0 * (ActiveDims(Linear(1.3), (1,)) + 0.5 * Linear(1.0)),
}


@pytest.mark.parametrize("name", EXACT)
def test_exact_features_stay_exact(name):
    kernel, X = EXACT[name](), inputs(5, 3)
    phi = kernel.features(jax.random.key(0), 8, 3)(X)
    np.testing.assert_allclose(phi @ phi.T, kernel(X, X), rtol=1e-12)


@pytest.mark.exhaustive
def test_a_sum_with_a_stationary_kernel_draws_paths():
    """A linear trend and an RBF: the mean of the paths is the exact mean."""
    X = inputs(8, 1)
    posterior = GPPrior(Linear(2.0) + RBF(1.0, 0.5), X).condition(3 * X[:, 0], 0.01)
    paths = PathwiseSampler(posterior, 512).sample_paths(jax.random.key(0), 4000)
    draws, (mean, _) = paths(X + 1.0), posterior.predict(X + 1.0)
    # Six standard errors at eight points: a false alarm in 6e7 runs.
    z = (draws.mean(axis=0) - mean) / (draws.std(axis=0) / np.sqrt(4000))
    assert np.abs(z).max() < 6


def test_moving_the_origin_changes_no_covariance():
    X = inputs(5, 2)
    phi = (RBF() + Linear(1.0)).features(jax.random.key(0), 64, 2)
    moved = move_origin(phi, jnp.array([3.0, -2.0]))
    before, after = phi(X), moved(X)
    assert np.abs(before - after).max() > 0.01
    np.testing.assert_allclose(after @ after.T, before @ before.T, rtol=1e-10)


def test_a_map_in_coordinates_of_its_own_is_left_alone():
    phi = FourierFeatures(jnp.ones((2, 3)), jnp.ones(2))
    moved = move_origin(phi, jnp.zeros(2))
    assert np.array_equal(moved.origin, phi.origin)


@pytest.mark.exhaustive
def test_an_origin_near_the_data_keeps_float32_exact():
    """Years: at 2020 and lengthscale 0.3 an angle from zero has lost 10^-3."""
    X = (np.linspace(0, 2, 9)[:, None] + 2020).astype(np.float32)
    phi = RBF(1.0, 0.3).features(jax.random.key(0), 256, 1)
    exact = phi(jnp.asarray(X, jnp.float64))
    K = np.asarray(exact @ exact.T)
    far = np.asarray(phi(jnp.asarray(X)))
    near = np.asarray(move_origin(phi, jnp.array([2021.0]))(jnp.asarray(X)))
    assert near.dtype == far.dtype == np.float32
    assert np.abs(near @ near.T - K).max() < 1e-5 < np.abs(far @ far.T - K).max()
