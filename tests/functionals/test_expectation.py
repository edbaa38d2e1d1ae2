"""Expectations over paths: against the same by hand, and closed forms."""

# Wrong arguments are passed on purpose.
# pyright: reportArgumentType=false

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyrox.gp import (
    RBF,
    ActiveDims,
    Coregionalization,
    GPPrior,
    MultiOutputPrior,
    MultiOutputSampler,
    PathwiseSampler,
    expectation,
    paths_over_draws,
    substitute,
)

pytestmark = pytest.mark.usefixtures("plainly_compiled")

X = np.array([[0.0], [0.5], [1.0]])
Y = np.array([1.0, -1.0, 0.5])
GRID = np.linspace(0, 1, 21)[:, None]


def posterior():
    return GPPrior(RBF(1.0, 0.3), X).condition(Y, 0.05)


def drawn(n=200, seed=0):
    return PathwiseSampler(posterior(), 64).sample_paths(jax.random.key(seed), n)


def test_a_functional_of_values_and_of_a_path_is_the_mean_over_paths(x64):
    paths = drawn()
    values = np.asarray(paths(GRID))
    highest = values.max(axis=1)
    by_values = expectation(paths, lambda f: f.max(), GRID)
    by_path = expectation(paths, lambda path: path(GRID)[0].max(), batch_size=7)
    for found in (by_values, by_path):
        np.testing.assert_allclose(found.samples, highest, atol=1e-12)
        np.testing.assert_allclose(found.value, highest.mean(), atol=1e-12)
        error = highest.std(ddof=1) / np.sqrt(200)
        np.testing.assert_allclose(found.standard_error, error, rtol=1e-12)


@pytest.mark.exhaustive
def test_a_functional_may_be_an_array_of_slopes(x64):
    paths = drawn()
    slopes = expectation(paths, lambda path: path.gradient(X)[0, :, 0])
    np.testing.assert_allclose(slopes.samples, paths.gradient(X)[..., 0], atol=1e-10)


def covers(n, seed, factor=1.0):
    """Whether the mean of a linear functional is within four standard errors of the
    closed one: a false alarm in 16,000."""
    paths = PathwiseSampler(posterior(), 512).sample_paths(jax.random.key(seed), n)
    found = expectation(paths, lambda f: f[0] - 2 * f[10], GRID)
    mean = posterior().predict_mean(GRID)
    closed = float(mean[0] - 2 * mean[10])
    gap = abs(float(found.value) - factor * closed)
    return gap < 4 * float(found.standard_error)


@pytest.mark.exhaustive
def test_the_standard_error_is_that_of_the_mean(x64):
    assert covers(4000, 0)
    assert not covers(4000, 0, factor=1.05)  # the twin that must fail


@pytest.mark.exhaustive
def test_of_an_ensemble_the_means_of_each_draw_are_averaged(x64):
    draws = {"RBF.lengthscale": jnp.array([0.2, 0.3, 0.5])}
    prior = GPPrior(RBF(1.0, 0.3), X)

    def condition(draw):
        return substitute(prior, draw).condition(Y, 0.05)

    paths = paths_over_draws(jax.random.key(0), draws, condition, 4, 64)
    values = np.asarray(paths(GRID)).max(axis=2)
    found = expectation(paths, lambda f: f.max(), GRID)
    np.testing.assert_allclose(found.samples, values.mean(axis=1), atol=1e-12)
    by_path = expectation(paths, lambda path: path(GRID).max())
    np.testing.assert_allclose(by_path.samples, found.samples, atol=1e-10)


@pytest.mark.exhaustive
def test_several_outputs():
    kernel = ActiveDims(RBF(), (0,)) * ActiveDims(Coregionalization(1, 2), (1,))
    prior = MultiOutputPrior(kernel, X, 2).condition(np.stack([Y, -Y], 1), 0.05)
    paths = MultiOutputSampler(prior, 64).sample_paths(jax.random.key(0), 5)
    found = expectation(paths, lambda f: f[:, 0] @ f[:, 1], GRID)
    by_path = expectation(paths, lambda p: p(GRID)[0, :, 0] @ p(GRID)[0, :, 1])
    values = np.asarray(paths(GRID))
    np.testing.assert_allclose(
        found.samples, (values[..., 0] * values[..., 1]).sum(1), rtol=2e-4
    )
    np.testing.assert_allclose(by_path.samples, found.samples, rtol=2e-3)


@pytest.mark.exhaustive
def test_derivatives_jit_and_dtype():
    paths = drawn(20)

    def value(shift):
        return expectation(paths, lambda path: path(X[:1] + shift)[0, 0]).value

    slope = jax.jit(jax.grad(value))(0.1)
    wanted = paths.gradient(X[:1] + 0.1).mean()
    np.testing.assert_allclose(slope, wanted, rtol=2e-3)
    small = drawn(20).astype(jnp.float32)
    assert expectation(small, lambda f: f.max(), jnp.float32(GRID)).value.dtype == (
        jnp.float32
    )


@pytest.mark.exhaustive
def test_wrong_arguments_get_a_sentence():
    with pytest.raises(ValueError, match="at least two draws"):
        expectation(drawn(1), lambda f: f.max(), GRID)
    with pytest.raises(ValueError, match="must be a PathwiseFunction"):
        expectation(posterior(), lambda f: f.max(), GRID)
    with pytest.raises(ValueError, match="must be a function"):
        expectation(drawn(2), 3.0)
    with pytest.raises(ValueError, match="number or an array"):
        expectation(drawn(2), lambda f: (f.max(), f.min()), GRID)
    with pytest.raises(ValueError, match="JAX can trace"):
        expectation(drawn(2), lambda f: np.asarray(f).max(), GRID)
