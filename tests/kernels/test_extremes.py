"""Scales at both ends of the type: where the density is a number, its slopes are."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import few_of

from pyrox.gp import (
    RBF,
    Cosine,
    GPPrior,
    Matern,
    Periodic,
    RationalQuadratic,
    SpectralMixture,
)

pytestmark = pytest.mark.usefixtures("plainly_compiled")

KERNELS = {
    "RBF": RBF,
    "Matern-1/2": lambda v, ell: Matern(0.5, v, ell),
    "Matern-5/2": lambda v, ell: Matern(2.5, v, ell),
    "Matern-7/2": lambda v, ell: Matern(3.5, v, ell),
    "RationalQuadratic": lambda v, ell: RationalQuadratic(v, ell, 0.1 * v),
    "Periodic": lambda v, ell: Periodic(v, ell, 1.0),
    "Periodic, by period": lambda v, period: Periodic(v, 1.0, period),
    "Cosine": Cosine,
    "SpectralMixture": lambda v, scale: SpectralMixture(
        v[None], jnp.full((1, 1), 3.0), scale[None, None]
    ),
}
X = np.array([[0.0], [0.5], [0.5], [0.7], [1.4]])


@functools.cache
def program(name):
    def density(variance, scale, X):
        prior = GPPrior(KERNELS[name](variance, scale), X)
        return prior.log_marginal_likelihood(np.cos(np.arange(5)), 0.1)

    one = jax.value_and_grad(density, (0, 1, 2))
    return jax.jit(jax.vmap(one, (None, 0, None)))


def slopes(name, X, exponents):
    """Of the density, at all powers of ten in one program: by the variance, the scale
    and the inputs."""
    X = jnp.asarray(X)
    scales = jnp.asarray(10.0 ** np.array(exponents)).astype(X.dtype)
    return program(name)(jnp.ones((), X.dtype), scales, X)


@pytest.mark.parametrize("name", few_of(KERNELS, "Matern-5/2"))
def test_slopes_are_finite_where_the_density_is(name, width):
    most = {32: 37, 64: 300}[width]
    exponents = np.linspace(-most, most, 75)
    value, by = slopes(name, X, exponents)
    there = np.isfinite(value)
    assert there.all() or (name == "Cosine" and there[38:].all())
    for slope in by:
        assert np.isfinite(np.asarray(slope)[there]).all()
    if name in ("RBF", "Matern-5/2", "Periodic"):
        dead = exponents < -6
        assert (np.asarray(by[1])[dead] == 0).all()
        # Two of the inputs coincide; all else is independent.
        np.testing.assert_allclose(value[dead], value[0], rtol=1e-6)


def test_inputs_in_tiny_units_have_the_slopes_of_others():
    """Inputs and lengthscale near 1e-30, where the lengthscale's square is zero."""
    (value, by), (small, small_by) = (
        slopes("Matern-5/2", X * unit, [np.log10(unit)]) for unit in (1.0, 1e-30)
    )
    np.testing.assert_allclose(small, value, rtol=1e-5)
    np.testing.assert_allclose(small_by[1] * np.float32(1e-30), by[1], rtol=1e-3)
    np.testing.assert_allclose(
        small_by[2] * np.float32(1e-30), by[2], rtol=1e-3, atol=1e-4
    )
