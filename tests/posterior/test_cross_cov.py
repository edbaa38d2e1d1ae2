"""`predict_cov(X, Z)`: a block of the joint covariance."""

# Wrong arguments are passed on purpose.
# pyright: reportArgumentType=false

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyrox.gp import Derivatives, GPPrior, Matern
from pyrox.gp._posterior import moments

_rng = np.random.default_rng(0)
X, Y = _rng.uniform(size=(12, 2)), _rng.normal(size=12)
A, B = _rng.uniform(size=(9, 2)), _rng.uniform(size=(4, 2))


def posterior():
    slopes = Derivatives(X[:2], [0, 1], np.array([0.1, -0.3]), 0.07)
    seen = np.arange(12) != 3
    return GPPrior(Matern(2.5, 1.3, 0.6), X).condition(Y, 0.05, slopes, observed=seen)


@pytest.mark.exhaustive
def test_it_is_a_block_of_the_joint_covariance(x64):
    f = posterior()
    joint = np.asarray(f.predict_cov(np.vstack([A, B])))
    np.testing.assert_allclose(f.predict_cov(A, B), joint[:9, 9:], atol=1e-12)
    np.testing.assert_allclose(f.predict_cov(A, A), f.predict_cov(A), atol=1e-12)
    points = jnp.asarray(A), jnp.asarray(B)
    in_blocks = moments.cross_cov(f._conditional(), *points, block_size=4)
    np.testing.assert_allclose(in_blocks, joint[:9, 9:], atol=1e-12)
    each = jax.vmap(lambda a: f.predict_cov(a[None], B)[0])(jnp.asarray(A))
    np.testing.assert_allclose(each, joint[:9, 9:], atol=1e-12)


def test_the_wider_type_wins(x64):
    cov = posterior().predict_cov(A.astype(np.float32), B)
    assert cov.dtype == jnp.float64 and cov.shape == (9, 4)


def test_bad_input_is_a_sentence():
    with pytest.raises(
        ValueError, match=r"predict_cov\(Z=...\)` must have shape \(N, 2"
    ):
        posterior().predict_cov(A, B[:, :1])
    with pytest.raises(
        ValueError, match=r"at least one row and one column. Got \(0, 2"
    ):
        posterior().predict_cov(A, B[:0])
