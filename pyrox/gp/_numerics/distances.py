"""Squared distances between the rows of two arrays: what a stationary kernel is of."""

import functools
import operator

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jax.custom_derivatives import SymbolicZero
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

    Where they overflow a derivative that comes back as zero stays zero.
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


def quick_squared_distances(
    X1: Float[Array, "N D"], X2: Float[Array, "M D"], scale: Float[Array, " D"]
) -> Float[Array, "N M"]:
    """The same as |x|^2 + |x'|^2 - 2 x.x', about the mean of X2: one matrix product.

    At 26 columns a product K V so takes .16 s in place of .75 (N = 13,500, 65 columns),
    and an entry is off by eps times the squared distance from the mean.
    """
    origin = jax.lax.stop_gradient(jnp.mean(X2, axis=0))
    A, B = ((X - origin[None, :]) * scale[None, :] for X in (X1, X2))
    squares = jnp.sum(A**2, axis=1)[:, None] + jnp.sum(B**2, axis=1)[None, :]
    cross = jnp.matmul(A, B.T, precision=jax.lax.Precision.HIGHEST)
    return jnp.maximum(squares - 2 * cross, 0)


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


@functools.partial(squared_distances.defjvp, symbolic_zeros=True)
def _squared_distances_jvp(primals, tangents):
    # What stands still is left out, since XLA does not see zeros within a `cond`.
    moving = tuple(None if isinstance(t, SymbolicZero) else t for t in tangents)
    rules = _by_products, _by_differences
    left, right, cross = jax.lax.cond(_is_narrow(*primals), *rules, primals, moving)
    slope = 2 * (left[:, None] + right[None, :] - cross)
    return squared_distances(*primals), slope


def _is_narrow(X1: Array, X2: Array, scale: Array) -> Array:
    """Whether the products, which lose eps times the squared span, lose little.

    Up to 6.7 in float32 and 1000 in float64, where Matern-1/2, whose slope is steepest
    between near points, still has three digits.
    """
    X1, X2, scale = jax.lax.stop_gradient((X1, X2, scale))
    from_origin = [(X - X1[:1]) * scale[None, :] for X in (X1, X2)]
    squared_span = jnp.max(jnp.sum(jnp.concatenate(from_origin) ** 2, axis=1))
    return _largest(squared_span) <= jnp.finfo(scale.dtype).eps ** -0.5 / 64


@custom_vmap
def _largest(x: Array) -> Array:
    """x, and under `vmap` one number for the batch, so that a `cond` stays a choice:
    left to itself, `vmap` would turn it into both branches for everyone."""
    return x


@_largest.def_vmap
def _largest_vmap(axis_size, in_batched, x):
    return _largest(jnp.max(x, axis=0)), False


def _by_products(primals, tangents):
    """Half of d |a - b|^2 = 2 (a - b).(da - db), for the scaled a and b, as a term of
    each row, one of each column, and a matrix that is taken off.

    Several times faster than the differences, which make a pass over (N, M) for each
    column. Points are measured from a row of X1.
    """
    (X1, X2, scale), (dX1, dX2, dscale) = primals, tangents
    origin = jax.lax.stop_gradient(X1[:1])
    product = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)

    def scaled(X, dX):
        X = X - origin
        moved = None if dX is None else dX * scale[None, :]
        stretched = None if dscale is None else X * dscale[None, :]
        return X * scale[None, :], _sum(moved, stretched)

    def own(A, dA):
        return jnp.zeros(len(A), A.dtype) if dA is None else jnp.sum(A * dA, axis=1)

    (A, dA), (B, dB) = scaled(X1, dX1), scaled(X2, dX2)
    from_right = None if dB is None else product(A, dB.T)
    from_left = None if dA is None else product(dA, B.T)
    return own(A, dA), own(B, dB), _sum(from_right, from_left)


# Reverse derivatives compute the differences again: stored, they are (N, M, D).
@functools.partial(jax.checkpoint, prevent_cse=False)
def _by_differences(primals, tangents):
    """What `_by_products` gives, all in the matrix, and rounded like the distances
    themselves: over any span near points lose nothing."""
    X1, X2, _ = primals

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def add(total, column):
        (a, b, scale), (da, db, dscale) = column
        gap = a[:, None] - b[None, :]
        from_left = None if da is None else scale * da[:, None]
        from_right = None if db is None else -scale * db[None, :]
        stretched = None if dscale is None else dscale * gap
        moved = _sum(from_left, from_right, stretched)
        # In this order: what comes back is zero where distances overflow, and large
        # where points coincide, and times `scale * gap` or `scale` it would be NaN.
        return total if moved is None else total - gap * (scale * moved), None

    total = jnp.zeros((len(X1), len(X2)), X1.dtype)
    columns = jax.tree.map(jnp.transpose, (primals, tangents))
    cross, _ = jax.lax.scan(add, total, columns)
    return jnp.zeros(len(X1), X1.dtype), jnp.zeros(len(X2), X1.dtype), cross


def _sum(*terms: Array | None) -> Array | None:
    """The sum of those that are there."""
    there = [term for term in terms if term is not None]
    return functools.reduce(operator.add, there) if there else None
