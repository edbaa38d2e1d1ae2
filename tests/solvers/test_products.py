"""Products with a Gram matrix that is not held, and its preconditioner, against dense
ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import inputs, kernels

from pyrox.gp import RBF, Matern
from pyrox.gp._solvers import products
from pyrox.gp._solvers.preconditioner import low_rank, pivoted_cholesky
from pyrox.gp._solvers.products import NoisyGram

pytestmark = pytest.mark.usefixtures("plainly_compiled")

N = 150
NOISE = np.linspace(0.1, 0.3, N)
SEEN = np.arange(N) % 7 != 2


def made(kernel, observed=None, noise=NOISE):
    X = inputs(N, 3)
    seen = None if observed is None else jnp.asarray(observed)
    return NoisyGram(kernel, X, jnp.asarray(noise, X.dtype), seen)


def dense(kernel, observed=None, noise=NOISE):
    X = inputs(N, 3)
    K = np.asarray(kernel(X, X))
    if observed is not None:
        K = K * np.outer(observed, observed)
    return K + np.diag(noise)


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(products, "_BLOCK_BYTES", 8 * N * 32)


@pytest.mark.parametrize("observed", [None, SEEN], ids=["all", "some"])
def test_a_product_in_blocks_is_the_dense_one(x64, small_blocks, observed):
    kernel = kernels(3)["Sum"]
    V = np.random.default_rng(0).normal(size=(N, 4))
    got = made(kernel, observed)(jnp.asarray(V))
    np.testing.assert_allclose(got, dense(kernel, observed) @ V, rtol=0, atol=1e-10)


def test_rows_and_columns_are_those_of_the_matrix(x64):
    kernel, index = RBF(1.3, 0.6), jnp.array([3, 2, 77])
    A, want = made(kernel, SEEN), dense(kernel, SEEN)
    got, V = A.block(index), np.random.default_rng(0).normal(size=(N, 4))
    np.testing.assert_allclose(got, want[index][:, index], atol=1e-12)
    got = A.rows_times(index, jnp.asarray(V))
    np.testing.assert_allclose(got, want[index] @ V, atol=1e-10)
    without = want - np.diag(NOISE)
    np.testing.assert_allclose(A.columns(index), without[:, index], atol=1e-12)


def test_derivatives_are_those_of_the_dense_product(x64, small_blocks):
    X, V = inputs(N, 3), jnp.asarray(np.random.default_rng(0).normal(size=(N, 2)))

    def of_blocks(kernel, X):
        return jnp.sum(jnp.sin(NoisyGram(kernel, X, jnp.asarray(NOISE))(V)))

    def of_matrix(kernel, X):
        return jnp.sum(jnp.sin(kernel(X, X) @ V + jnp.asarray(NOISE)[:, None] * V))

    kernel = Matern(2.5, 1.3, jnp.array([0.5, 0.7, 0.9]))
    got, want = (jax.grad(f, (0, 1))(kernel, X) for f in (of_blocks, of_matrix))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", kernels(3))
def test_the_quick_gram_matrix_is_near(name):
    kernel, X = kernels(3)[name], inputs(N, 3)
    if name.startswith("Matern12"):
        return  # below
    got, want = kernel.quick_gram(X, X), kernel(X, X)
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-6 * float(want.max()))


def test_where_digits_are_missing_the_quick_matrix_is_not_taken():
    """Matern-1/2 shows the root of what rounding adds to a distance; far from the
    others, or with hardly any noise, any kernel shows it."""
    assert bool(made(RBF(1.3, 0.6)).quick)
    assert not bool(made(Matern(0.5, 1.3, 0.01)).quick)
    assert not bool(made(RBF(1.3, 0.6), noise=np.full(N, 1e-8)).quick)
    far = NoisyGram(RBF(1.3, 1e-3), inputs(N, 3), jnp.full(N, 1e-3))
    assert not bool(far.quick)


@pytest.mark.parametrize("greedy", [False, True])
def test_pivoted_cholesky_stays_below_the_matrix_and_comes_near(x64, greedy):
    kernel = RBF(1.3, 0.6)
    A, K = made(kernel), dense(kernel) - np.diag(NOISE)
    variances = kernel.diag(A.X)
    F = np.asarray(pivoted_cholesky(jax.random.key(0), A, variances, 100, greedy))
    left = np.linalg.eigvalsh(K - F @ F.T)
    assert left.min() > -1e-9 and left.max() < 1e-3 * np.linalg.eigvalsh(K).max()


def test_the_preconditioner_is_its_dense_formula(x64):
    kernel = RBF(1.3, 0.6)
    A, variances = made(kernel), kernel.diag(made(kernel).X)
    P = low_rank(jax.random.key(0), A, variances, 64, False)
    F = np.asarray(pivoted_cholesky(jax.random.key(0), A, variances, 64, False))
    want, B = F @ F.T + np.diag(NOISE), np.random.default_rng(0).normal(size=(N, 3))
    np.testing.assert_allclose(P.solve(jnp.asarray(B)), np.linalg.solve(want, B))
    np.testing.assert_allclose(P.log_det(), np.linalg.slogdet(want)[1])
    whole = P.unwhiten(P.whiten(jnp.asarray(B)))
    np.testing.assert_allclose(whole, np.linalg.solve(want, B), rtol=1e-6)


def test_it_is_positive_definite_in_float32_with_hardly_any_noise():
    """As I + F^T D^-1 F is not: its least eigenvalue rounds below zero."""
    kernel, X = RBF(1.0, 2.0), inputs(N, 3)
    A = NoisyGram(kernel, X, jnp.full(N, 1e-7))
    P = low_rank(jax.random.key(0), A, kernel.diag(X), N, False)
    B = jnp.asarray(np.random.default_rng(0).normal(size=(N, 200)), jnp.float32)
    squares = jnp.sum(B * P.solve(B), axis=0)
    assert (np.asarray(squares) > 0).all()
