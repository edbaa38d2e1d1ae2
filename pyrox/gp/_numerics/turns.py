"""How far round a circle: whole turns come off before anything is rounded.

So an angle is right to the last digits however far from its origin it is, where
x times a frequency loses what the turns take. It is of each point alone, unlike that of
a pair's difference, so matrices of its cosines stay positive definite.
"""

import functools
import operator

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float


@jax.custom_jvp
def turns_between(
    X1: Float[Array, "N D"], X2: Float[Array, "M D"], frequency: Float[Array, " D"]
) -> Float[Array, "N M"]:
    """sum_d (x_d - x'_d) frequency_d but for whole turns."""
    left, right = (_turns_at_frequency(X, frequency) for X in (X1, X2))
    return left[:, None] - right[None, :]


@functools.partial(turns_between.defjvp, symbolic_zeros=True)
def _turns_between_jvp(primals, tangents):
    X1, X2, frequency = primals
    rows, columns = (
        None if isinstance(dX, SymbolicZero) else dX @ frequency for dX in tangents[:2]
    )
    slope = jnp.zeros((len(X1), len(X2)), X1.dtype)
    slope = slope if rows is None else slope + rows[:, None]
    slope = slope if columns is None else slope - columns[None, :]
    if not isinstance(tangents[2], SymbolicZero):
        # By differences: products would lose those of near points over a wide span.
        moved = [
            (X1[:, d][:, None] - X2[:, d][None, :]) * tangents[2][d]
            for d in range(X1.shape[1])
        ]
        slope = slope + functools.reduce(operator.add, moved)
    return turns_between(*primals), slope


def _turns_at_frequency(X: Array, frequency: Array) -> Array:
    """(N,). A product of numbers is that of their halves, four that are exact."""
    parts = [x * f[None, :] for x in _halves(X) for f in _halves(frequency)]
    return jnp.sum(sum(part - jnp.round(part) for part in parts), axis=1)


def _halves(x: Array) -> tuple[Array, Array]:
    """x as a sum of two numbers with half as many digits each."""
    info = jnp.finfo(x.dtype)
    whole = jnp.dtype(f"uint{info.bits}")
    low = jnp.array(2 ** (info.nmant // 2 + 1) - 1, whole)
    bits = jax.lax.bitcast_convert_type(x, whole)
    high = jax.lax.bitcast_convert_type(bits & ~low, x.dtype)
    return high, x - high


@jax.custom_jvp
def turns_of_period(
    X: Float[Array, "N D"], origin: Float[Array, "1 D"], period: Float[Array, " D"]
) -> Float[Array, "N D"]:
    """x_d / period_d but for whole turns, with derivatives as from `origin`."""
    period = jnp.broadcast_to(period[None, :], X.shape)
    return jax.lax.rem(X, period) / period


@turns_of_period.defjvp
def _turns_of_period_jvp(primals, tangents):
    (X, origin, period), (dX, _, d_period) = primals, tangents
    count = (X - origin) / period[None, :]
    # In this order nothing overflows in reverse before the derivative itself does.
    moved = dX / period[None, :] - count * (d_period / period)[None, :]
    return turns_of_period(*primals), moved
