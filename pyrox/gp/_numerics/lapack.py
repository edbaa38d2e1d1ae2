"""Factorisations and triangular solves that do not hang under `vmap` on a small CPU.

JAX runs a batched factorisation on a CPU as tasks of its thread pool, and the thread
that asks waits for them. Two that do not depend on each other can so hold both threads
of a two-core machine for ever: in jaxlib 0.10.2 the workers wait in `ParallelBatchMap`
for tasks that no thread is left to run, and a pair of 16 matrices of 133 x 133 hung
within 33 calls. Any model that is mapped over draws of hyperparameters may meet it. So
here a `vmap` becomes a loop on a CPU, one matrix at a time, as fast (16 of 133 x
133: 0.54 ms against 0.53), and stays a batch elsewhere.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Float


def looped_on_cpu(f: Callable[..., Any]) -> Callable[..., Any]:
    """`f`, which under `vmap` on a CPU is run for one element after the other."""
    mapped = custom_vmap(f)

    @mapped.def_vmap
    def rule(axis_size, in_batched, *args):
        axes = tuple(0 if batched else None for batched in in_batched)

        def loop(*args):
            def one(i):
                pick = functools.partial(jax.lax.dynamic_index_in_dim, keepdims=False)
                rows = [
                    pick(a, i) if batched else a
                    for a, batched in zip(args, in_batched, strict=True)
                ]
                return mapped(*rows)

            return jax.lax.map(one, jnp.arange(axis_size))

        batch = jax.vmap(f, in_axes=axes)
        found = jax.lax.platform_dependent(*args, cpu=loop, default=batch)
        return found, jax.tree.map(lambda _: True, found)

    return mapped


@looped_on_cpu
def _eigh(A: Array) -> tuple[Array, Array]:
    values, vectors = jnp.linalg.eigh(A)
    return values, vectors


@looped_on_cpu
def _cholesky(A: Array) -> Array:
    return jax.lax.linalg.cholesky(A, symmetrize_input=False)


@looped_on_cpu
def _solve_lower(L: Array, B: Array) -> Array:
    # LAPACK reads by columns, and so reads L^T where L lies in memory. Passed as L it
    # would be copied first, which takes as long as the solve.
    return jax.lax.linalg.triangular_solve(L.T, B, left_side=True, transpose_a=True)


@looped_on_cpu
def _solve_upper(L: Array, B: Array) -> Array:
    return jax.lax.linalg.triangular_solve(L.T, B, left_side=True)


def solve_lower(L: Float[Array, "N N"], B: Float[Array, "N K"]) -> Float[Array, "N K"]:
    """L^-1 B for a lower-triangular L."""
    # custom_linear_solve brings the derivatives: its solves are not differentiated.
    return jax.lax.custom_linear_solve(
        lambda X: L @ X,
        B,
        solve=lambda _, B: _solve_lower(L, B),
        transpose_solve=lambda _, B: _solve_upper(L, B),
    )


def solve_upper(L: Float[Array, "N N"], B: Float[Array, "N K"]) -> Float[Array, "N K"]:
    """L^-T B for a lower-triangular L."""
    return jax.lax.custom_linear_solve(
        lambda X: L.T @ X,
        B,
        solve=lambda _, B: _solve_upper(L, B),
        transpose_solve=lambda _, B: _solve_lower(L, B),
    )


@jax.custom_jvp
def cholesky(A: Float[Array, "N N"]) -> Float[Array, "N N"]:
    """The lower-triangular L with L L^T = A, filled with NaN if there is none."""
    return _cholesky(A)


@cholesky.defjvp
def _cholesky_jvp(primals, tangents):
    # dL = L phi(L^-1 dA L^-T), phi the lower half with half of the diagonal
    # (Murray 2016, arXiv 1602.07527, eq. 8).
    (A,), (dA,) = primals, tangents
    L = cholesky(A)
    inner = solve_lower(L, solve_lower(L, dA).T)
    half = jnp.tril(inner) - jnp.diag(jnp.diagonal(inner)) / 2
    return L, L @ half


@looped_on_cpu
def _triangle(A: Array) -> Array:
    R = jnp.linalg.qr(A, mode="r")
    return (jnp.where(jnp.diagonal(R) < 0, -1, 1)[:, None] * R).T


@jax.custom_jvp
def gram_root(A: Float[Array, "N M"]) -> Float[Array, "M M"]:
    """The lower-triangular L with L L^T = A^T A, of a tall A of full rank.

    Without that product, whose condition number is the square of that of A.
    """
    return _triangle(A)


@gram_root.defjvp
def _gram_root_jvp(primals, tangents):
    # As for `cholesky`, with d(A^T A) = A^T dA + dA^T A and Q = A L^-T.
    (A,), (dA,) = primals, tangents
    L = gram_root(A)
    inner = solve_lower(L, dA.T @ solve_lower(L, A.T).T)
    inner = inner + inner.T
    half = jnp.tril(inner) - jnp.diag(jnp.diagonal(inner)) / 2
    return L, L @ half


@jax.custom_jvp
def eigh(A: Float[Array, "N N"]) -> tuple[Float[Array, " N"], Float[Array, "N N"]]:
    """Eigenvalues of a symmetric A, ascending, and its eigenvectors as columns.

    Without derivatives, for these are infinite where eigenvalues coincide: both are
    constants, for rules that bring the derivative of what is made of them.
    """
    return _eigh(A)


@eigh.defjvp
def _eigh_jvp(primals, tangents):
    found = eigh(*primals)
    return found, jax.tree.map(jnp.zeros_like, found)


@looped_on_cpu
def thin_svd(A: Array) -> tuple[Array, Array]:
    """Left singular vectors and singular values of a tall A, without derivatives.

    By the triangular factor: in float32 those of A^T A would lose all values below
    3e-4 of the largest.
    """
    Q, R = jnp.linalg.qr(A)
    left, values, _ = jnp.linalg.svd(R)
    return Q @ left, values
