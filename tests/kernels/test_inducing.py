"""init_inducing: which inputs are chosen."""

# pyright: reportArgumentType=false

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

from pyrox.gp import RBF, Linear, init_inducing

pytestmark = pytest.mark.usefixtures("plainly_compiled")

KEY = jax.random.key(3)
X = np.random.default_rng(0).uniform(0, 1, (60, 2)) ** 3


def left_of(rows, K):
    """The variance that the values at these rows leave, by a solve in NumPy."""
    some = K[np.ix_(rows, rows)] + 1e-12 * np.eye(len(rows))
    return np.diagonal(K) - np.sum(K[rows] * np.linalg.solve(some, K[rows]), 0)


def test_each_has_the_largest_variance_that_those_before_leave(x64):
    Z = np.asarray(init_inducing(KEY, X, 9, RBF(1.7, 0.3)))
    K = np.asarray(RBF(1.7, 0.3)(jnp.asarray(X), jnp.asarray(X)))
    rows = [int(np.flatnonzero((X == z).all(1))[0]) for z in Z]
    assert len(set(rows)) == 9
    for i in range(1, 9):
        left = left_of(rows[:i], K)
        assert left[rows[i]] > left.max() - 1e-9
    drawn = np.random.default_rng(1).choice(60, 9, replace=False)
    assert left_of(rows, K).sum() < 0.5 * left_of(drawn, K).sum()


@pytest.mark.parametrize("same", ["copies", "few columns"])
def test_rows_differ_where_nothing_is_left(same):
    """Of 5 places, or of a kernel of rank two, all 20 rows are asked for."""
    points = np.repeat(np.arange(5.0), 4)[:, None] + 1
    kernel = RBF() if same == "copies" else Linear(1.0)
    Z = np.asarray(init_inducing(KEY, points, 20, kernel))
    assert sorted(Z[:, 0]) == sorted(points[:, 0])
    assert set(np.asarray(init_inducing(KEY, points, 5, RBF(1.0, 0.5)))[:, 0]) == {
        1.0,
        2.0,
        3.0,
        4.0,
        5.0,
    }


def test_types_and_sentences():
    Z = init_inducing(KEY, X.astype("float32"), 4, RBF())
    assert Z.dtype == np.float32 and Z.shape == (4, 2)
    with pytest.raises(ValueError, match="at most the number.*Got 61 of 60. Pass 60"):
        init_inducing(KEY, X, 61, RBF())
    with pytest.raises(ValueError, match=r"must have shape \(N, D\)"):
        init_inducing(KEY, X[:, 0], 4, RBF())
    with pytest.raises(ValueError, match="have no values yet"):
        init_inducing(KEY, X, 4, RBF().with_priors(variance=dist.LogNormal(0.0, 1.0)))
