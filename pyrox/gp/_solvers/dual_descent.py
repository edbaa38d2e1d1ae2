"""Stochastic dual descent: blocks of rows of A X = B, drawn at random.

The dual objective is X^T A X / 2 - X^T B, and its gradient in some rows needs only
these rows of A. Steps are with Nesterov's momentum, and what counts is a geometric
average of where they lead (Lin et al. 2024, arXiv 2310.20581, algorithm 1).
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int, PRNGKeyArray

from .._numerics.lapack import eigh
from .products import NoisyGram

_Report: TypeAlias = Callable[[Array, Array], None]
_MOMENTUM = 0.9
_PASSES = 10  # between residuals
_AVERAGED = 0.1  # of these passes: the memory of the average
_BLOCKS_TRIED = 4
_STEP = 1.0  # over the largest eigenvalue of a block
_WORSE = 2.0  # times the best residual so far: divergence
_SMALLEST = 1e-6  # step over the first one, below which none helps


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
    n_products: Int[Array, ""]


def dual_descent(
    key: PRNGKeyArray,
    A: NoisyGram,
    B: Float[Array, "N S"],
    start: Float[Array, "N S"] | None,
    bounds: Float[Array, " S"],
    most: int,
    block_size: int,
    report: _Report,
) -> tuple[Float[Array, "N S"], Float[Array, "N S"], Int[Array, ""]]:
    """A^-1 B, the residual B - A X, and the number of products with A, of which a pass
    over the data is one.

    Now and then the residual of the average is computed, which is one, too. If that has
    grown, the step is halved and the descent goes on from the best.
    """
    scale = bounds[None, :]
    B = B / scale
    size = min(block_size, A.size)
    key_step, key_passes = jr.split(key)
    first_step = _STEP / _largest_eigenvalue(key_step, A, size)

    def unsolved(state: _State) -> Array:
        far = _worst(state.remainder) > 1
        return far & (state.n_products < most) & (state.step > _SMALLEST * first_step)

    def go_on(state: _State) -> _State:
        key, key_pass = jr.split(state.key)
        descent = _passes(key_pass, A, B, state.descent, state.step, size)
        count, remainder = state.n_products + _PASSES + 1, B - A(descent.average)
        now, before = _worst(remainder), _worst(state.remainder)
        diverged = ~(now <= _WORSE * before)
        report(count, jnp.where(now < before, now, before))
        best, remainder = _either(
            now < before, (descent.average, remainder), (state.best, state.remainder)
        )
        anew = _Descent(best, jnp.zeros_like(best), best)
        descent = _either(diverged, anew, descent)
        step = jnp.where(diverged, state.step / 2, state.step)
        return _State(key, descent, best, remainder, step, count)

    nothing, count = jnp.zeros_like(B), jnp.zeros((), jnp.int32)
    X, remainder = nothing, B
    if start is not None:
        X, count = start / scale, count + 1
        remainder = B - A(X)
    begun = _Descent(X, nothing, X)
    state = _State(key_passes, begun, X, remainder, first_step, count)
    found = jax.lax.while_loop(unsolved, go_on, state)
    return found.best * scale, found.remainder * scale, found.n_products


def _either(first: Array, one: Any, other: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(first, a, b), one, other)


def _passes(
    key: PRNGKeyArray,
    A: NoisyGram,
    B: Float[Array, "N S"],
    descent: _Descent,
    step: Float[Array, ""],
    size: int,
) -> _Descent:
    """As many random blocks of rows as there are in some passes over the data."""
    n_steps = -(-_PASSES * A.size // size)
    share = min(1.0, 1 / (_AVERAGED * n_steps))

    def move(descent: _Descent, key: PRNGKeyArray) -> tuple[_Descent, None]:
        X, velocity, average = descent
        index = jr.choice(key, A.size, (size,), replace=False)
        ahead = X + _MOMENTUM * velocity
        gradient = A.rows_times(index, ahead) - B[index]
        velocity = (_MOMENTUM * velocity).at[index].add(-step * gradient)
        X = X + velocity
        return _Descent(X, velocity, average + share * (X - average)), None

    return jax.lax.scan(move, descent, jr.split(key, n_steps))[0]


def _largest_eigenvalue(key: PRNGKeyArray, A: NoisyGram, size: int) -> Float[Array, ""]:
    """Of some random blocks of A, the largest."""

    def of_block(key: PRNGKeyArray) -> Array:
        index = jr.choice(key, A.size, (size,), replace=False)
        return eigh(A.block(index))[0][-1]

    return jnp.max(jax.lax.map(of_block, jr.split(key, _BLOCKS_TRIED)))


def _worst(R: Float[Array, "N S"]) -> Float[Array, ""]:
    return jnp.max(jnp.linalg.norm(R, axis=0))
