"""Block conjugate gradients: one Krylov space for all right-hand sides.

With S columns every product with A opens S directions, and each column is solved in all
of them (O'Leary 1980). What makes it stable: directions are orthonormal, those that
have become dependent are left out, and the residual is computed anew every so often,
since that of the recurrence drifts. A few columns alone lose their orthogonality in
float32, and wander: columns beside them keep the space wide, at hardly any cost, since
what a product takes is the kernel's values.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from .._numerics.lapack import eigh

_Apply: TypeAlias = Callable[[Array], Array]
_Report: TypeAlias = Callable[[Array, Array], None]
_CYCLE = 20  # products until the residual is computed anew
_SAFE = 0.9  # of its bound, at which the residual of the recurrence is believed
_BETTER = 0.9  # of the best residual so far: what a cycle is for
_IDLE = 10  # cycles that were not better, after which no other is begun


class _Sides(NamedTuple):
    """A solution of every right-hand side, and what it leaves of them."""

    X: Float[Array, "N S"]
    R: Float[Array, "N S"]


class _State(NamedTuple):
    """Where the iterations are, the next directions, the number of products, the best
    computed residuals so far, and for how many cycles there were none better."""

    now: _Sides
    P: Float[Array, "N S"]
    n_products: Int[Array, ""]
    best: _Sides
    idle: Int[Array, ""]


def block_cg(
    A: _Apply,
    precondition: _Apply,
    B: Float[Array, "N S"],
    start: Float[Array, "N S"] | None,
    bounds: Float[Array, " S"],
    most: int,
    report: _Report,
    beside: Float[Array, "N K"] | None = None,
) -> tuple[Float[Array, "N S"], Float[Array, "N S"], Int[Array, ""]]:
    """A^-1 B, the true residual B - A X, and the number of products with A.

    It begins at `start`, zero if there is none, and ends when the norm of each column's
    residual is within its bound, after `most` products, or where cycles of them no
    longer help, which is what rounding allows. After each product `report` is called
    with their number and the worst residual over its bound. Columns `beside` lend their
    directions, and need not be solved.
    """
    scale, n_sides = bounds[None, :], B.shape[1]
    B = B / scale
    if beside is not None:
        B = jnp.concatenate([B, beside], axis=1)

    def worst(R: Array) -> Array:
        return jnp.max(jnp.linalg.norm(R[:, :n_sides], axis=0))

    def advance(state: _State) -> _State:
        (X, R), P = state.now, state.P
        Q = A(P)
        inverse = _pseudo_inverse(P.T @ Q)
        gain = inverse @ (P.T @ R)
        X, R = X + P @ gain, R - Q @ gain
        Z = precondition(R)
        P = _orthonormal(Z - P @ (inverse @ (Q.T @ Z)))
        count = state.n_products + 1
        report(count, worst(R))
        return state._replace(now=_Sides(X, R), P=P, n_products=count)

    def cycle(state: _State) -> _State:
        until = jnp.minimum(state.n_products + _CYCLE, most)

        def unfinished(state: _State) -> Array:
            return (worst(state.now.R) > _SAFE) & (state.n_products < until)

        ended = jax.lax.while_loop(unfinished, advance, state)
        now = _Sides(ended.now.X, B - A(ended.now.X))
        left, least = worst(now.R), worst(state.best.R)
        best = jax.tree.map(
            lambda new, old: jnp.where(left < least, new, old), now, state.best
        )
        idle = jnp.where(left < _BETTER * least, 0, state.idle + 1)
        return _State(now, ended.P, ended.n_products + 1, best, idle)

    def unsolved(state: _State) -> Array:
        far = worst(state.best.R) > 1
        return far & (state.n_products < most) & (state.idle < _IDLE)

    none = jnp.zeros((), jnp.int32)
    begun, count = _Sides(jnp.zeros_like(B), B), none
    if start is not None:
        still = jnp.zeros_like(B[:, n_sides:])
        X, count = jnp.concatenate([start / scale, still], axis=1), none + 1
        begun = _Sides(X, B - A(X))
    P = _orthonormal(precondition(begun.R))
    state = _State(begun, P, count, begun, none)
    found = jax.lax.while_loop(unsolved, cycle, state)
    X, R = jax.tree.map(lambda own: own[:, :n_sides] * scale, found.best)
    return X, R, found.n_products


def _orthonormal(P: Float[Array, "N S"]) -> Float[Array, "N S"]:
    """An orthonormal basis of the columns' span, zero for what is dependent."""
    norms = jnp.linalg.norm(P, axis=0)
    P = P / jnp.where(norms > 0, norms, 1)[None, :]
    values, vectors = eigh(P.T @ P)
    least = 10 * P.shape[1] * jnp.finfo(P.dtype).eps
    return P @ (vectors * _inverse_where(jnp.sqrt(values), values > least)[None, :])


def _pseudo_inverse(G: Float[Array, "S S"]) -> Float[Array, "S S"]:
    """The inverse of P^T A P, whose zero rows belong to directions left out."""
    values, vectors = eigh((G + G.T) / 2)
    least = jnp.finfo(G.dtype).eps * jnp.max(values)
    return (vectors * _inverse_where(values, values > least)[None, :]) @ vectors.T


def _inverse_where(x: Array, keep: Array) -> Array:
    return jnp.where(keep, 1 / jnp.where(keep, x, 1), 0)
