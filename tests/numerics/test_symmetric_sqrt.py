"""The symmetric root: values, derivatives of two orders, where rank is lacking."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyrox.gp._numerics.symmetric_sqrt import symmetric_sqrt


def smooth(t):
    """A Gram matrix of 20 points, whose rank in floating point is about 12."""
    gaps = jnp.linspace(0, 1, 20)[:, None] - jnp.linspace(0, 1, 20)[None, :]
    return jnp.exp(-0.5 * (gaps / t) ** 2)


def distinct(t):
    """Of full rank, with two equal eigenvalues, whose vectors turn with t."""
    A = jnp.diag(jnp.array([1.0, 1.0, 4.0, 0.25]))
    turn = jnp.array([[0, 1, 2, 3], [1, 0, 1, 2], [2, 1, 0, 1], [3, 2, 1, 0]], A.dtype)
    return A + (t - 0.3) * turn / 10 + (t - 0.3) ** 2 * turn @ turn


def of_rank_two(t):
    columns = jnp.stack([jnp.arange(5.0) + t, jnp.cos(t * jnp.arange(5.0))], axis=1)
    return columns @ columns.T


MATRICES = {"smooth": smooth, "two equal eigenvalues": distinct}


def richardson(f, t, step):
    """The derivative by central differences at two steps: an error of step^4."""

    def central(h):
        return (np.asarray(f(t + h)) - np.asarray(f(t - h))) / (2 * h)

    return (4 * central(step / 2) - central(step)) / 3


@pytest.mark.parametrize("matrix", [smooth, distinct, of_rank_two])
def test_it_is_a_symmetric_root(width, matrix):
    A = matrix(jnp.asarray(0.3))
    S = np.asarray(symmetric_sqrt(A), np.float64)
    bound = 50 * float(jnp.finfo(A.dtype).eps) * float(jnp.linalg.norm(A))
    np.testing.assert_allclose(S @ S, A, atol=bound, rtol=0)
    assert np.linalg.eigvalsh(S)[0] > -bound


@pytest.mark.parametrize("name", MATRICES)
def test_two_derivatives(x64, name):
    f = jax.jit(lambda t: symmetric_sqrt(MATRICES[name](t)))
    slope = jax.jit(jax.jacfwd(f))
    t = jnp.asarray(0.3)
    want = richardson(f, 0.3, 4e-3)
    np.testing.assert_allclose(slope(t), want, atol=2e-5)
    by_reverse = jax.jit(jax.jacrev(f))(t)
    np.testing.assert_allclose(by_reverse, slope(t), atol=1e-7)
    if name != "smooth":  # whose rounding, divided by roots twice, is not small
        second = jax.jit(jax.jacrev(slope))(t)
        np.testing.assert_allclose(second, richardson(slope, 0.3, 1e-3), atol=1e-6)


def test_the_derivative_in_single_precision(x64):
    slope = jax.jacfwd(lambda t: symmetric_sqrt(smooth(t)))
    want = np.asarray(jax.jit(slope)(0.3))
    with jax.enable_x64(False):
        got = jax.jit(slope)(0.3)
        assert got.dtype == jnp.float32
        np.testing.assert_allclose(got, want, atol=2e-2)  # the root: to 3e-4


def test_along_the_range_of_a_matrix_without_full_rank(x64):
    """Scaling leaves the null space be, so the derivative is exact: S / 2."""
    A = of_rank_two(jnp.asarray(0.3))
    S, dS = jax.jvp(symmetric_sqrt, (A,), (A,))
    np.testing.assert_allclose(dS, S / 2, atol=1e-7)


@pytest.mark.parametrize("matrix", [jnp.zeros((3, 3)), jnp.ones((3, 3))])
def test_no_rank_has_a_finite_derivative(matrix):
    out, back = jax.vjp(symmetric_sqrt, matrix)
    assert np.isfinite(back(jnp.ones_like(out))[0]).all()


def test_nothing_is_hidden():
    assert np.isnan(symmetric_sqrt(jnp.full((3, 3), jnp.nan))).all()
