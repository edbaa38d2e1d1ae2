"""Linear algebra under vmap on a CPU: no batched LAPACK call, right derivatives."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import few_of

from pyrox.gp import (
    RBF,
    GPPrior,
    Matern,
    PathwiseSampler,
    SparseGPPrior,
    WhitenedGuide,
    paths_over_draws,
)
from pyrox.gp._numerics.lapack import cholesky, solve_lower, solve_upper

X = np.linspace(0, 1, 7)[:, None]
Y = np.sin(3 * X[:, 0])


@pytest.fixture(autouse=True)
def double(x64):
    """Compared with NumPy in float64."""


def batched_calls(program, *args) -> set[str]:
    """LAPACK calls of the compiled program whose first operand is a stack of matrices.

    Two of these that do not depend on each other can hang a two-core machine.
    """
    text = jax.jit(program).lower(*args).as_text()
    calls = re.findall(r"@lapack_(\w+?)_ffi.*?: \((tensor<[^>]*>)", text)
    calls += re.findall(r"@blas_(\w+?)_ffi.*?: \((tensor<[^>]*>)", text)
    assert calls, "the program calls LAPACK, or this test sees nothing"
    return {name for name, operand in calls if operand.count("x") > 2}


def predict(ell):
    posterior = GPPrior(RBF(1.0, ell), X).condition(Y, 0.1)
    return posterior.predict(X), posterior.predict_cov(X), posterior.weights


def draw(ell):
    posterior = GPPrior(Matern(1.5, 1.0, ell), X).condition(Y, 0.1)
    return PathwiseSampler(posterior, 8)(jax.random.key(0), X, n_paths=2)


def joint_draw(ell):
    return GPPrior(RBF(1.0, ell), X).condition(Y, 0.1).sample(jax.random.key(0), X)


def density(ell):
    return GPPrior(RBF(1.0, ell), X).log_marginal_likelihood(Y, 0.1)


def elbo(ell):
    prior = SparseGPPrior(RBF(1.0, ell), X[::3])
    return WhitenedGuide.init(3).elbo(prior, X, Y, 0.1)


PROGRAMS = {
    "predict": predict,
    "draw": draw,
    "joint draw": joint_draw,
    "gradient of a joint draw": jax.grad(lambda ell: jnp.sum(joint_draw(ell))),
    "gradient of the density": jax.grad(density),
    "gradient of the elbo": jax.grad(elbo),
    "Hessian of the density": jax.hessian(density),
}
QUICK = "draw", "joint draw", "gradient of the density"


@pytest.mark.parametrize("name", few_of(PROGRAMS, *QUICK))
def test_no_batched_call_under_vmap(name):
    assert batched_calls(jax.vmap(PROGRAMS[name]), jnp.linspace(0.3, 0.9, 4)) == set()


def test_no_batched_call_over_draws():
    def program(ells):
        def condition(draw):
            return GPPrior(RBF(1.0, draw["ell"]), X).condition(Y, 0.1)

        return paths_over_draws(jax.random.key(0), {"ell": ells}, condition, 2, 8, 3)(X)

    assert batched_calls(program, jnp.linspace(0.3, 0.9, 7)) == set()


def test_a_batched_call_would_be_seen():
    stack = jnp.broadcast_to(jnp.eye(3), (4, 3, 3))
    assert batched_calls(jax.vmap(jnp.linalg.cholesky), stack) == {"dpotrf"}


def quadratic(t):
    """A scalar of a factor and both solves, of a parameter of the matrix."""
    A = jnp.exp(-t * (X - X.T) ** 2) + 0.1 * t * jnp.eye(7)
    L = cholesky(A)
    solved = solve_upper(L, solve_lower(L, t * jnp.asarray(X)))
    return jnp.sum(solved**2) + jnp.sum(jnp.log(jnp.diagonal(L)))


def reference(t):
    """The same with JAX's own operations."""
    A = jnp.exp(-t * (X - X.T) ** 2) + 0.1 * t * jnp.eye(7)
    solved = jnp.linalg.solve(A, t * jnp.asarray(X))
    return jnp.sum(solved**2) + jnp.linalg.slogdet(A)[1] / 2


ORDERS = {
    "value": lambda f: f,
    "reverse": jax.grad,
    "forward": jax.jacfwd,
    "reverse over reverse": lambda f: jax.grad(jax.grad(f)),
    "forward over reverse": lambda f: jax.jacfwd(jax.grad(f)),
}


@pytest.mark.parametrize("order", few_of(ORDERS, "value", "reverse"))
def test_derivatives_mapped_and_not(order):
    ours, theirs = ORDERS[order](quadratic), jax.jit(ORDERS[order](reference))
    t = jnp.array([0.6, 0.9, 1.3])
    expected = jnp.stack([theirs(s) for s in t])
    np.testing.assert_allclose(jax.jit(ours)(t[0]), expected[0], rtol=1e-8)
    twice = jax.jit(jax.vmap(jax.vmap(ours)))(jnp.stack([t, t]))
    np.testing.assert_allclose(twice, jnp.stack([expected, expected]), rtol=1e-8)


def test_gradient_of_a_mapped_program():
    t = jnp.array([0.6, 0.9, 1.3])
    ours = jax.jit(jax.grad(lambda t: jnp.sum(jax.vmap(quadratic)(t))))(t)
    theirs = jax.jit(jax.grad(reference))
    np.testing.assert_allclose(ours, [theirs(s) for s in t], rtol=1e-8)


def test_one_side_mapped():
    L = jnp.linalg.cholesky(jnp.eye(3) + 0.1)
    B = jnp.arange(24.0).reshape(4, 3, 2)
    mapped = jax.vmap(solve_lower, in_axes=(None, 0))(L, B)
    np.testing.assert_allclose(mapped, np.linalg.solve(np.asarray(L), B), rtol=1e-12)
    factors = jnp.stack([L, 2 * L])
    mapped = jax.vmap(solve_upper, in_axes=(0, None))(factors, B[0])
    expected = np.linalg.solve(np.asarray(factors).transpose(0, 2, 1), B[0])
    np.testing.assert_allclose(mapped, expected, rtol=1e-12)


def test_a_failed_factor_is_nan_in_its_own_row():
    stack = jnp.stack([jnp.eye(3), -jnp.eye(3), 2 * jnp.eye(3)])
    finite = np.isfinite(jax.vmap(cholesky)(stack)).all(axis=(1, 2))
    assert finite.tolist() == [True, False, True]


def test_a_solve_copies_no_matrix():
    n = 200
    L, B = (jax.ShapeDtypeStruct((n, k), jnp.float64) for k in (n, 2))

    def temporary(solve) -> int:
        memory = jax.jit(solve).lower(L, B).compile().memory_analysis()
        assert memory is not None
        return memory.temp_size_in_bytes

    def by_rows(L, B):
        return jax.lax.linalg.triangular_solve(L, B, left_side=True, lower=True)

    matrix = 8 * n * n
    assert temporary(by_rows) >= matrix  # one would be seen
    assert temporary(solve_lower) < matrix / 2
    assert temporary(solve_upper) < matrix / 2
