"""1 / x for scales: finite, and with a derivative that can be multiplied by zero."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def largest(dtype: np.dtype) -> float:
    """What a type holds with room for a sum of a thousand."""
    return float(jnp.finfo(dtype).max) / 1024


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def reciprocal(x: Float[Array, "..."], dtype: np.dtype) -> Float[Array, "..."]:
    """1 / x in `dtype`, at most what the type holds.

    The derivative -1 / x^2 overflows from 1e-19 down in float32, and times the zero of
    a correlation that has died out it is NaN. As two factors, in reverse, zero stays.
    """
    limit = largest(dtype)
    return jnp.clip((1 / x).astype(dtype), -limit, limit)


@reciprocal.defjvp
def _reciprocal_jvp(dtype, primals, tangents):
    (x,), (dx,) = primals, tangents
    inverse = reciprocal(x, dtype)
    return inverse, -(dx.astype(dtype) * inverse) * inverse
