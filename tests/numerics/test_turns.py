"""Angles far from their origin: Gram matrices and slopes in float32 as in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import few_of

from pyrox.gp import AbstractKernel, Cosine, Periodic, SpectralMixture

pytestmark = pytest.mark.usefixtures("x64", "plainly_compiled")

KERNELS = {
    "SpectralMixture": lambda D: SpectralMixture(
        np.ones(1), np.full((1, D), 0.37), np.full((1, D), 0.01)
    ),
    "Periodic": lambda D: Periodic(1.0, 1.0, 2.7),
    "Cosine": lambda D: Cosine(1.0, 2.7),
}


def near_pairs(span: float, in_size: int) -> np.ndarray:
    """Points all over the span after 2000, each with a neighbour."""
    rng = np.random.default_rng(0)
    points = 2000 + rng.uniform(0, span, (20, in_size))
    near = points + rng.normal(size=points.shape)
    return np.concatenate([points, near]).astype(np.float32)


@jax.jit
def answers(kernel: AbstractKernel, X, Z, weights):
    def total(kernel, X, Z):
        return jnp.sum(weights * kernel(X, Z))

    slopes = jax.grad(total, (0, 1, 2))(kernel, X, Z)
    return kernel(X, Z), jax.tree.leaves(slopes)


@pytest.mark.parametrize("name", few_of(KERNELS, "SpectralMixture"))
@pytest.mark.parametrize("in_size", few_of([1, 3], 1))
def test_angles_keep_their_digits_over_any_span(name, in_size):
    single = jax.tree.map(lambda a: a.astype("f4"), KERNELS[name](in_size))
    double = jax.tree.map(lambda a: a.astype("f8"), single)
    weights = np.random.default_rng(1).normal(size=(40, 40))
    for span in (10, 1e3, 1e5):
        X = near_pairs(span, in_size)
        (ours, slopes), (exact, exact_slopes) = (
            answers(kernel, *(jnp.asarray(a, t) for a in (X, X[::-1], weights)))
            for kernel, t in ((single, "f4"), (double, "f8"))
        )
        assert ours.dtype == jnp.float32
        assert np.abs(np.float64(ours) - exact).max() < 5e-6
        for slope, right in zip(slopes, exact_slopes, strict=True):
            error = np.abs(np.float64(slope) - right).max()
            assert error <= 1e-3 * np.abs(right).max()


@pytest.mark.parametrize("name", few_of(KERNELS))
def test_slopes_are_those_of_differences(name):
    """Of a sum over all pairs, by everything together, in float64."""
    rng = np.random.default_rng(2)
    X, Z, W = (jnp.asarray(rng.normal(size=s)) for s in ((4, 2), (3, 2), (4, 3)))
    kernel = KERNELS[name](2)
    at = jax.tree.map(lambda a: a.astype("f8"), (kernel, X, Z))
    moves = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape)), at)

    def total(step):
        kernel, X, Z = jax.tree.map(lambda a, m: a + step * m, at, moves)
        return jnp.sum(W * kernel(X, Z))

    step = 1e-6
    found = jax.jit(jax.grad(total))(0.0)
    expected = (total(step) - total(-step)) / (2 * step)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    curved = jax.jit(jax.grad(jax.grad(total)))(0.0)
    slope = jax.jit(jax.grad(total))
    np.testing.assert_allclose(
        curved, (slope(step) - slope(-step)) / (2 * step), rtol=1e-5
    )
