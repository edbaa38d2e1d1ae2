"""Block conjugate gradients against NumPy's solve."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyrox.gp._solvers.conjugate import block_cg

pytestmark = pytest.mark.usefixtures("plainly_compiled")


def matrix(n: int, condition: float, seed: int = 0) -> np.ndarray:
    """Symmetric, its eigenvalues evenly spaced in the logarithm."""
    Q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(n, n)))
    return (Q * np.geomspace(1, condition, n)) @ Q.T


def solve(A, B, tolerance, *, start=None, most=1000, inverse=None, beside=None):
    """X, the residual, the number of products, and the residuals reported."""
    A, B = jnp.asarray(A), jnp.asarray(B)
    P = jnp.eye(len(A), dtype=A.dtype) if inverse is None else jnp.asarray(inverse)
    norms = jnp.linalg.norm(B, axis=0)
    bounds = tolerance * jnp.where(norms > 0, norms, 1)
    reported = []

    def report(count, worst):
        keep = lambda k, w: reported.append((int(k), float(w)))  # noqa: E731
        jax.debug.callback(keep, count, worst)

    start = None if start is None else jnp.asarray(start)
    beside = None if beside is None else jnp.asarray(beside)
    limits = bounds, most, report
    found = block_cg(lambda V: A @ V, lambda R: P @ R, B, start, *limits, beside)
    jax.effects_barrier()
    X, R, count = found
    return np.asarray(X), np.asarray(R), int(count), reported


def sides(n: int, columns: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, columns))


@pytest.mark.parametrize("columns", [1, 7])
def test_it_is_the_solution(x64, columns):
    A, B = matrix(60, 1e4), sides(60, columns)
    X, R, count, reported = solve(A, B, 1e-10)
    np.testing.assert_allclose(X, np.linalg.solve(A, B), rtol=0, atol=1e-9)
    np.testing.assert_allclose(R, B - A @ X, rtol=0, atol=2e-12)
    assert len(reported) < count and reported[-1][1] <= 0.9


def test_dependent_and_zero_columns_are_solved(x64):
    """Five columns of rank two, and one of zeros."""
    A, B = matrix(50, 1e3), sides(50, 2) @ sides(2, 5)
    B = np.concatenate([B, np.zeros((50, 1))], axis=1)
    X, *_ = solve(A, B, 1e-10)
    np.testing.assert_allclose(X, np.linalg.solve(A, B), rtol=0, atol=1e-9)
    assert not X[:, -1].any()


def test_columns_of_any_size_and_difficulty(x64):
    """One is an eigenvector, done at once; sizes are 1e-8 and 1e8."""
    A, B = matrix(50, 1e4), sides(50, 4)
    B[:, 1] = np.linalg.eigh(A)[1][:, 3]
    B = B * np.array([1e-8, 1.0, 1e8, 1.0])
    X, *_ = solve(A, B, 1e-9)
    want = np.linalg.solve(A, B)
    assert (
        np.linalg.norm(X - want, axis=0) <= 1e-5 * np.linalg.norm(want, axis=0)
    ).all()


def test_a_block_takes_fewer_products_than_its_columns_alone(x64):
    A, B = matrix(200, 1e4), sides(200, 16)
    together = solve(A, B, 1e-6)[2]
    alone = max(solve(A, B[:, [i]], 1e-6)[2] for i in range(3))
    assert together < alone / 2


def test_one_column_is_solved_with_others_beside_it():
    """In float32 one alone loses its orthogonality, and is no nearer after 200."""
    A, b = np.float32(matrix(600, 1e5)), np.float32(sides(600, 1))
    X, R, count, _ = solve(A, b, 1e-2, beside=np.float32(sides(600, 31, seed=2)))
    assert X.shape == R.shape == b.shape and count < 600
    assert np.linalg.norm(b - A @ X) < 1.1e-2 * np.linalg.norm(b)
    X, _, count, _ = solve(A, b, 1e-2)
    assert count > 200
    assert np.linalg.norm(b - A @ X) > 5e-2 * np.linalg.norm(b)


def test_a_preconditioner_and_a_start_save_products(x64):
    A, B = matrix(200, 1e4), sides(200, 4)
    values, vectors = np.linalg.eigh(A)
    near = (vectors / np.where(values > 10, values, 1)) @ vectors.T
    plain = solve(A, B, 1e-6)
    assert solve(A, B, 1e-6, inverse=near)[2] < plain[2] / 2
    assert solve(A, B, 1e-6, start=plain[0])[2] == 1


def test_float32_ends_where_rounding_does_and_says_so():
    """The residual of the recurrence goes on falling there; the true one does not."""
    A = matrix(100, 1e6).astype(np.float32)
    B = sides(100, 3).astype(np.float32)
    X, R, count, _ = solve(A, B, 1e-7)
    true = np.linalg.norm(B - A.astype(float) @ X, axis=0) / np.linalg.norm(B, axis=0)
    assert count < 1000 and true.max() > 1e-7
    reported = np.linalg.norm(R, axis=0) / np.linalg.norm(B, axis=0)
    np.testing.assert_allclose(reported, true, rtol=0.2)


def test_it_ends_after_the_most_products(x64):
    *_, count, _ = solve(matrix(200, 1e8), sides(200, 2), 1e-12, most=30)
    assert 30 <= count <= 32
