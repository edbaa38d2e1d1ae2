"""Block conjugate gradients: one Krylov space for all right-hand sides.

With S columns every product with A opens S directions, and each column is solved in all
of them (O'Leary 1980). What makes it stable: directions are orthonormal, those that
have become dependent are left out, and the residual is computed anew every so often,
since that of the recurrence drifts.
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
_STALLED = 0.9  # of the residual that a cycle leaves, above which no other is begun


class _State(NamedTuple):
    """Solution, residual, the next directions, and how many products it took; `worst`
    is that of the last computed residual, `before` of the one before it."""

    X: Float[Array, "N S"]
    R: Float[Array, "N S"]
    P: Float[Array, "N S"]
    count: Int[Array, ""]
    worst: Float[Array, ""]
    before: Float[Array, ""]


def block_cg(
    A: _Apply,
    precondition: _Apply,
    B: Float[Array, "N S"],
    start: Float[Array, "N S"] | None,
    bounds: Float[Array, " S"],
    most: int,
    report: _Report,
) -> tuple[Float[Array, "N S"], Float[Array, "N S"], Int[Array, ""]]:
    """A^-1 B, the true residual B - A X, and the number of products with A.

    It begins at `start`, zero if there is none, and ends when the norm of each column's
    residual is within its bound, after `most` products, or where a cycle of them no
    longer helps, which is what rounding allows. After each product `report` is called
    with their number and the worst residual over its bound.
    """
    B = B / bounds

    def advance(state: _State) -> _State:
        X, R, P, count, *rest = state
        Q = A(P)
        inverse = _pseudo_inverse(P.T @ Q)
        gain = inverse @ (P.T @ R)
        X, R = X + P @ gain, R - Q @ gain
        Z = precondition(R)
        P = _orthonormal(Z - P @ (inverse @ (Q.T @ Z)))
        report(count + 1, _worst(R))
        return _State(X, R, P, count + 1, *rest)

    def cycle(state: _State) -> _State:
        until = jnp.minimum(state.count + _CYCLE, most)

        def unfinished(state: _State) -> Array:
            return (_worst(state.R) > _SAFE) & (state.count < until)

        ended = jax.lax.while_loop(unfinished, advance, state)
        R = B - A(ended.X)
        return _State(ended.X, R, ended.P, ended.count + 1, _worst(R), state.worst)

    def unsolved(state: _State) -> Array:
        helped = state.worst < _STALLED * state.before
        return (state.worst > 1) & (state.count < most) & helped

    X, count = jnp.zeros_like(B), jnp.zeros((), jnp.int32)
    R = B
    if start is not None:
        X, count = start / bounds, count + 1
        R = B - A(X)
    infinite = jnp.full((), jnp.inf, B.dtype)
    P = _orthonormal(precondition(R))
    begun = _State(X, R, P, count, _worst(R), infinite)
    found = jax.lax.while_loop(unsolved, cycle, begun)
    return found.X * bounds, found.R * bounds, found.count


def _worst(R: Float[Array, "N S"]) -> Float[Array, ""]:
    return jnp.max(jnp.linalg.norm(R, axis=0))


def _orthonormal(P: Float[Array, "N S"]) -> Float[Array, "N S"]:
    """An orthonormal basis of the columns' span, zero for what is dependent."""
    norms = jnp.linalg.norm(P, axis=0)
    P = P / jnp.where(norms > 0, norms, 1)
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
