"""What a path was given: values at its anchors, and what it is told more with."""

import dataclasses

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray, UInt32

from .._solvers.convergence import Convergence
from .._solvers.inverse import AbstractInverse

_BYTE, _BYTES = 256, 4  # of 32 bits


class AnchorValues(eqx.Module):
    """What a posterior says of its anchors: values ~ N(mean, root root^T), seen with
    independent noise of variance `noise_var`, jitter included. Data have no root; a
    prior has infinite noise, and so has a value that was not observed. A part of a path
    has none of its own.

    The rest is for values to come. They carry the variance `jitter_var`; for those of a
    prior it is not known yet, and will be the part `jitter` of their own. `inverse`
    is that of the anchors' covariance, where it was at hand, and `convergence` how near
    a solver by iterations came. `key` and `draws`, the number
    of each path in its draw, say what noise they will have: bytes, as floats that every
    type holds, so that paths can be differentiated by all their leaves.
    """

    mean: Float[Array, " M"]
    noise_var: Float[Array, "..."]
    root: Float[Array, "M R"] | None = None
    jitter_var: Float[Array, ""] | None = None
    jitter: float | None = eqx.field(static=True, default=None)
    inverse: AbstractInverse | None = None
    key: Float[Array, " 8"] | None = None
    draws: Float[Array, "S 4"] | None = None
    convergence: Convergence | None = None

    @property
    def of_prior(self) -> bool:
        """Whether nothing was told yet."""
        return self.jitter_var is None

    def chosen(self, index: slice | Array) -> "AnchorValues":
        """That of some of the paths."""
        draws, convergence = self.draws, self.convergence
        return dataclasses.replace(
            self,
            draws=None if draws is None else draws[index],
            convergence=None if convergence is None else convergence.chosen(index),
        )

    def seeded(self, key: PRNGKeyArray) -> "AnchorValues":
        """With this key for noise to come."""
        # Two words, whatever the generator: half of a key of four is one of two.
        words = jr.key_data(key)[:2]
        return dataclasses.replace(self, key=as_bytes(words, self.mean.dtype))

    def numbered(self, n_paths: int) -> "AnchorValues":
        """As one draw of so many paths."""
        numbers = np.arange(n_paths, dtype=np.uint32)[:, None]
        return dataclasses.replace(self, draws=as_bytes(numbers, self.mean.dtype))


def as_bytes(
    words: UInt32[Array | np.ndarray, "... K"], dtype: DTypeLike
) -> Float[Array, "... 4*K"]:
    """Words of 32 bits as their bytes, floats from 0 to 255."""
    powers = np.array([_BYTE**i for i in range(_BYTES)], np.uint32)
    found = words[..., None] // powers.reshape((1,) * words.ndim + (_BYTES,))
    found = found % np.uint32(_BYTE)
    return jnp.asarray(found.reshape(*words.shape[:-1], -1)).astype(dtype)


def as_words(values: Float[Array, "... 4*K"]) -> UInt32[Array, "... K"]:
    """What `as_bytes` was given."""
    found = values.astype(jnp.uint32).reshape(*values.shape[:-1], -1, _BYTES)
    powers = np.array([_BYTE**i for i in range(_BYTES)], np.uint32)
    scaled = found * powers.reshape((1,) * (found.ndim - 1) + (_BYTES,))
    return jnp.sum(scaled, axis=-1, dtype=jnp.uint32)
