"""Gradients of joint draws: against differences with the same key, and finite."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import central_difference, few_of

from pyrox.gp import RBF, GPPrior, Matern, Periodic, RationalQuadratic

pytestmark = pytest.mark.usefixtures("plainly_compiled")
KEY = jax.random.key(5)
X = np.linspace(0, 1, 6)[:, None]
Y = np.sin(5 * X[:, 0])
QUERIES = np.linspace(0.02, 1.03, 20)[:, None]
KERNELS = {
    "RBF": RBF,
    "Matern-1/2": lambda v, ell: Matern(0.5, v, ell),
    "Matern-5/2": lambda v, ell: Matern(2.5, v, ell),
    "RationalQuadratic": RationalQuadratic,
    "sum": lambda v, ell: RBF(v, ell) + Matern(1.5, 0.5, 2 * ell),
    "product": lambda v, ell: RBF(v, ell) * Periodic(1.0, 0.9, 0.7),
}
ARGUMENTS = {
    "variance": np.asarray(1.3),
    "lengthscale": np.asarray(0.3),
    "X": X,
    "y": Y,
    "noise_var": np.asarray(0.05),
    "queries": QUERIES,
}


def weighted(draws):
    """A scalar of them."""
    weights = np.cos(1 + np.arange(draws.size)).reshape(draws.shape)
    return jnp.sum(jnp.asarray(weights, draws.dtype) * draws)


def posterior_draw(
    kernel, variance=1.3, lengthscale=0.3, X=X, y=Y, noise_var=0.05, queries=QUERIES
):
    posterior = GPPrior(kernel(variance, lengthscale), X).condition(y, noise_var)
    draws = posterior.sample(KEY, queries, 2)
    return weighted(draws)


def prior_draw(kernel, variance=1.3, lengthscale=0.3, X=QUERIES):
    draws = GPPrior(kernel(variance, lengthscale), X).sample(KEY, 2)
    return weighted(draws)


def differences(f, x, step=2e-3):
    """Central ones at two steps: an error of the fourth order."""
    wide, narrow = (central_difference(f, x, h) for h in (step, step / 2))
    return (4 * narrow - wide) / 3


def close(got, want):
    scale = np.max(np.abs(want))
    assert scale > 0.01
    np.testing.assert_allclose(got, want, atol=2e-4 * scale, rtol=0)


POSTERIOR_CASES = [
    *(("RBF", argument) for argument in ARGUMENTS),
    *((name, "lengthscale") for name in KERNELS if name != "RBF"),
    ("Matern-5/2", "queries"),
]


@pytest.mark.parametrize(
    "name, argument",
    few_of(POSTERIOR_CASES, ("RBF", "queries"), ("Matern-5/2", "lengthscale")),
)
def test_a_posteriors_draw_against_differences(x64, name, argument):
    def f(value):
        return posterior_draw(KERNELS[name], **{argument: value})

    value = ARGUMENTS[argument]
    close(jax.jit(jax.grad(f))(jnp.asarray(value)), differences(jax.jit(f), value))


PRIOR_CASES = [
    *((name, "lengthscale") for name in KERNELS),
    *(("RBF", argument) for argument in ("variance", "X")),
]


@pytest.mark.parametrize("name, argument", few_of(PRIOR_CASES, ("RBF", "lengthscale")))
def test_a_priors_draw_against_differences(x64, name, argument):
    def f(value):
        return prior_draw(KERNELS[name], **{argument: value})

    value = QUERIES if argument == "X" else ARGUMENTS[argument]
    close(jax.jit(jax.grad(f))(jnp.asarray(value)), differences(jax.jit(f), value))


@pytest.mark.parametrize("name", few_of(KERNELS, "RBF"))
def test_finite_where_points_coincide(width, name):
    """Repeated queries, queries at data, and a whole cluster within rounding."""
    cluster = 0.5 + 1e-9 * np.arange(4)[:, None]
    rows = jnp.asarray(np.concatenate([X, X[:2], QUERIES, QUERIES[:3], cluster]))
    one = jnp.asarray(0.3)
    for f in (
        lambda ell, rows: posterior_draw(KERNELS[name], 1.3, ell, queries=rows),
        lambda ell, rows: prior_draw(KERNELS[name], 1.3, ell, rows),
    ):
        for gradient in jax.jit(jax.grad(f, (0, 1)))(one, rows):
            assert np.isfinite(gradient).all()


def test_draws_at_one_point_are_one(width):
    """To the root of the rounding of a variance of one, which is what a root keeps."""
    rows = jnp.asarray(np.concatenate([QUERIES, QUERIES]))
    first, second = np.split(np.asarray(GPPrior(RBF(1.0, 0.3), rows).sample(KEY)), 2, 1)
    root_of_rounding = float(jnp.finfo(rows.dtype).eps) ** 0.5
    np.testing.assert_allclose(first, second, atol=20 * root_of_rounding)


@pytest.mark.exhaustive
def test_mapped_and_differentiated(x64):
    """Per lengthscale as by itself, and in both orders of `vmap` and `grad`."""
    ells = jnp.array([0.2, 0.3, 0.5])

    def f(ell):
        return posterior_draw(RBF, lengthscale=ell)

    alone = jax.jit(jax.grad(f))
    expected = [alone(ell) for ell in ells]
    mapped = jax.jit(jax.vmap(jax.grad(f)))(ells)
    np.testing.assert_allclose(mapped, expected, rtol=1e-5)
    total = jax.jit(jax.grad(lambda ells: jnp.sum(jax.vmap(f)(ells))))(ells)
    np.testing.assert_allclose(total, expected, rtol=1e-5)
