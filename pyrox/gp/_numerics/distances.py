"""Squared distances between the rows of two arrays: what a stationary kernel is of."""

import functools
import operator

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@jax.custom_jvp
@jax.jit
def squared_distances(
    X1: Float[Array, "N D"], X2: Float[Array, "M D"], scale: Float[Array, " D"]
) -> Float[Array, "N M"]:
    """Squared distances between rows, each column's difference times its `scale`.

    Differences are taken before anything else, so years near 2020 in float32 lose
    nothing. |x|^2 + |x'|^2 - 2 x.x' would be one matrix product, but it loses half of
    the digits of small distances, which a Matern kernel's root then shows, and with a
    product after it is hardly faster at 26 columns and slower at four.
    """
    rows, columns = X1.T, _contiguous_columns(X2)
    n_groups, size = _groups(X1.shape[1])
    if n_groups == 1:
        return _unrolled_distances(rows, columns, scale)
    fill = n_groups * size - X1.shape[1]
    groups = [
        jnp.pad(x, ((0, fill), (0, 0))).reshape(n_groups, size, x.shape[1])
        for x in (rows, columns, scale[:, None])
    ]

    def add(total, group):
        left, right, scale = group
        return total + _unrolled_distances(left, right, scale[:, 0]), None

    total = jnp.zeros((X1.shape[0], X2.shape[0]), X1.dtype)
    return jax.lax.scan(add, total, tuple(groups))[0]


def _groups(in_size: int) -> tuple[int, int]:
    """How many groups of columns are added in turn, and the columns in each.

    Up to four columns are one fused pass. More in one pass XLA would fuse with the
    products of a derivative, in reverse, to a program of twice the time; a loop keeps
    them apart, and compiles in constant time.
    """
    if in_size <= 4:
        return 1, in_size
    n_groups = max(2, -(-in_size // 16))
    return n_groups, -(-in_size // n_groups)


def _unrolled_distances(left: Array, right: Array, scale: Array) -> Array:
    """(D, N) and (D, M): one term a column, which XLA fuses into one pass."""
    terms = [
        ((left[d][:, None] - right[d][None, :]) * scale[d]) ** 2
        for d in range(scale.shape[0])
    ]
    return functools.reduce(operator.add, terms)


def _contiguous_columns(X: Array) -> Array:
    """X^T with each column contiguous in memory, exactly.

    As a product with the identity, since XLA undoes a plain transpose, and the fused
    pass over strided columns is not vectorised: 2.6 times slower at four columns.
    """
    if X.shape[1] == 1:
        return X.T
    identity = jnp.eye(X.shape[1], dtype=X.dtype)
    return jnp.matmul(identity, X.T, precision=jax.lax.Precision.HIGHEST)


@squared_distances.defjvp
def _squared_distances_jvp(primals, tangents):
    # d |a - b|^2 = 2 (a - b).(da - db) for the scaled a and b, as matrix products:
    # several times faster than differentiating the sum, which makes a pass over (N, M)
    # for each column. Measured from a row of X1, they round like the differences do.
    (X1, X2, scale), (dX1, dX2, dscale) = primals, tangents
    origin = jax.lax.stop_gradient(X1[:1])
    A, B = (X1 - origin), (X2 - origin)
    dA = dX1 * scale[None, :] + A * dscale[None, :]
    dB = dX2 * scale[None, :] + B * dscale[None, :]
    A, B = A * scale[None, :], B * scale[None, :]
    own = jnp.sum(A * dA, axis=1)[:, None] + jnp.sum(B * dB, axis=1)[None, :]
    return squared_distances(X1, X2, scale), 2 * (own - A @ dB.T - dA @ B.T)
