"""Mean functions: any callable (N, D) -> (N,), carried as a pytree."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


class ZeroMean(eqx.Module):
    """The mean function that is zero everywhere."""

    def __call__(self, X: Float[Array, "N D"]) -> Float[Array, " N"]:
        return jnp.zeros(X.shape[0], X.dtype)


class WrappedMean(eqx.Module):
    """A callable with its arrays as leaves, and all else (a plain function) static.

    So a prior with any mean function may be passed into `jit`.
    """

    arrays: Any
    rest: Any = eqx.field(static=True)

    def __call__(self, X: Float[Array, "N D"]) -> Float[Array, " N"]:
        return eqx.combine(self.arrays, self.rest)(X)


def as_mean_fn(call: str, mean_fn: Callable | None) -> Callable:
    """`mean_fn` as a pytree of arrays: a module of arrays stays what it is."""
    if mean_fn is None:
        return ZeroMean()
    if not callable(mean_fn):
        raise ValueError(
            f"`{call}` must be a callable (N, D) -> (N,). Got {mean_fn!r}. For a "
            "constant pass `lambda X: jnp.full(X.shape[0], value)`."
        )
    if all(_is_array(leaf) for leaf in jax.tree.leaves(mean_fn)):
        return mean_fn
    return WrappedMean(*eqx.partition(mean_fn, _is_array))


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray)


def mean_at(mean_fn: Callable, X: Float[Array, "N D"]) -> Float[Array, " N"]:
    """The mean function's values at `X`, of the dtype of `X`."""
    values = jnp.asarray(mean_fn(X))
    if values.shape != X.shape[:1]:
        fix = "Return `...[:, 0]`." if values.ndim == 2 else "Return one value a row."
        raise ValueError(
            f"`mean_fn(X)` must have shape ({X.shape[0]},) for X of shape {X.shape}. "
            f"Got {values.shape}. {fix}"
        )
    return values.astype(X.dtype)
