"""Stochastic dual descent: blocks of rows of A X = B, drawn at random."""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int, PRNGKeyArray

from .._numerics.lapack import eigh
from .products import NoisyGram

_Report: TypeAlias = Callable[[Array, Array], None]
_MOMENTUM = 0.9
_AVERAGED = 0.25  # of a pass over the data, the memory of the average
_BLOCKS_TRIED = 4
_STEP = 0.5  # over the largest eigenvalue of a block
_WORSE = 2.0  # times the best residual so far: divergence
_STALLED = 1e-6  # of the first step, below which no step helps


class _Descent(NamedTuple):
    """Within a pass: weights, their velocity and their average."""

    X: Float[Array, "N S"]
    velocity: Float[Array, "N S"]
    average: Float[Array, "N S"]


class _State(NamedTuple):
    """After passes over the data; the best average so far and its residual."""

    key: PRNGKeyArray
    descent: _Descent
    best: Float[Array, "N S"]
    remainder: Float[Array, "N S"]
    step: Float[Array, ""]
    count: Int[Array, ""]


def dual_descent(
    key: PRNGKeyArray,
    A: NoisyGram,
    B: Float[Array, "N S"],
    tolerance: float,
    most: int,
    block_size: int,
    report: _Report,
) -> tuple[Float[Array, "N S"], Float[Array, "N S"], Int[Array, ""]]:
    """A^-1 B, the residual B - A X, and the number of products, each pass one.

    Between passes the residual of the average is computed; if that has grown, the step
    is halved and the descent goes on from the best.
    """
    norms = jnp.linalg.norm(B, axis=0)
    units = jnp.where(norms > 0, norms, 1)
    B = B / units
    size = min(block_size, A.size)
    key_step, key_passes = jr.split(key)
    first_step = _STEP / _largest_eigenvalue(key_step, A, size)

    def unsolved(state: _State) -> Array:
        bad = _worst(state.remainder) > tolerance
        return bad & (state.count < most) & (state.step > _STALLED * first_step)

    def go_on(state: _State) -> _State:
        key, key_pass = jr.split(state.key)
        descent = _one_pass(key_pass, A, B, state.descent, state.step, size)
        remainder = B - A(descent.average)
        now, before = _worst(remainder), _worst(state.remainder)
        report(state.count + 2, jnp.minimum(now, before))
        diverged = ~(now <= _WORSE * before)
        better = now < before
        best = jnp.where(better, descent.average, state.best)
        remainder = jnp.where(better, remainder, state.remainder)
        again = _Descent(best, jnp.zeros_like(best), best)
        descent = jax.tree.map(
            lambda old, new: jnp.where(diverged, old, new), again, descent
        )
        step = jnp.where(diverged, state.step / 2, state.step)
        return _State(key, descent, best, remainder, step, state.count + 2)

    nothing = jnp.zeros_like(B)
    start = _Descent(nothing, nothing, nothing)
    state = _State(key_passes, start, nothing, B, first_step, jnp.zeros((), jnp.int32))
    found = jax.lax.while_loop(unsolved, go_on, state)
    return found.best * units, found.remainder * units, found.count


def _one_pass(
    key: PRNGKeyArray,
    A: NoisyGram,
    B: Float[Array, "N S"],
    descent: _Descent,
    step: Float[Array, ""],
    size: int,
) -> _Descent:
    """As many random blocks of rows as there are in A (Lin et al. 2024, algorithm 1)."""
    n_steps = -(-A.size // size)
    share = min(1.0, 1 / (_AVERAGED * n_steps))

    def move(descent: _Descent, key: PRNGKeyArray) -> tuple[_Descent, None]:
        X, velocity, average = descent
        index = jr.choice(key, A.size, (size,), replace=False)
        ahead = X + _MOMENTUM * velocity
        gradient = A.rows_of(index) @ ahead - B[index]
        velocity = (_MOMENTUM * velocity).at[index].add(-step * gradient)
        X = X + velocity
        return _Descent(X, velocity, average + share * (X - average)), None

    return jax.lax.scan(move, descent, jr.split(key, n_steps))[0]


def _largest_eigenvalue(key: PRNGKeyArray, A: NoisyGram, size: int) -> Float[Array, ""]:
    """Of some random blocks of A, the largest."""

    def of_block(key: PRNGKeyArray) -> Array:
        index = jr.choice(key, A.size, (size,), replace=False)
        return eigh(A.rows_of(index)[:, index])[0][-1]

    return jnp.max(jax.lax.map(of_block, jr.split(key, _BLOCKS_TRIED)))


def _worst(R: Float[Array, "N S"]) -> Float[Array, ""]:
    return jnp.max(jnp.linalg.norm(R, axis=0))
