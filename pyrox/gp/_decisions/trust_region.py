"""A box around the best point, of a size that success and failure decide."""

import math

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Real

from .._hyper.checks import as_count, as_float, require, require_finite
from .box import as_box

_FIRST, _LEAST, _MOST = 0.8, 0.5**7, 1.6
_SUCCESSES = 3


class TrustRegion(eqx.Module):
    """Where to look next, in problems of many inputs: near the best point.

    A side is `length` of the width of the bounds at first. After three rounds in a row
    that improve it doubles, up to 1.6; after max(4, D) / batch_size rounds in a row
    that do not it halves. Below 2^-7 it is `exhausted`: start a new one elsewhere.

    A small pytree, of which `told` returns the next: `jit`, `vmap` and `pickle` work.

    Args:
        in_size: D.
        batch_size: points a round.

    Source: Eriksson et al. 2019 (arXiv 1910.01739), section 2 and its supplement.

    Example:
        >>> import jax.numpy as jnp
        >>> from pyrox.gp import TrustRegion
        >>> region = TrustRegion(in_size=2)
        >>> box = region.bounds(jnp.array([0.9, 0.5]), jnp.array([[0.0, 0.0], [1, 1]]))
        >>> [[round(float(side), 2) for side in row] for row in box]
        [[0.5, 0.1], [1.0, 0.9]]
        >>> for improved in (False, False, False, False):
        ...     region = region.told(improved)
        >>> f"{region.length:.1f}"
        '0.4'
    """

    length: Float[Array, ""]
    n_successes: Int[Array, ""]
    n_failures: Int[Array, ""]
    most_failures: int = eqx.field(static=True)

    def __init__(self, in_size: int, batch_size: int = 1):
        in_size = as_count("TrustRegion(in_size=...)", in_size)
        batch_size = as_count("TrustRegion(batch_size=...)", batch_size)
        self.length = jnp.asarray(_FIRST)
        self.n_successes = self.n_failures = jnp.zeros((), jnp.int32)
        self.most_failures = math.ceil(max(4, in_size) / batch_size)

    @property
    def exhausted(self) -> Bool[Array, ""]:
        """Whether it has shrunk below what is worth a search."""
        return self.length < _LEAST

    def bounds(
        self,
        centre: Real[ArrayLike, " D"],
        bounds: Real[ArrayLike, "2 D"],
        lengthscale: Real[ArrayLike, "..."] = 1.0,
    ) -> Float[Array, "2 D"]:
        """The box around `centre`, within `bounds`, that `optimize_paths` takes.

        Args:
            centre: the best point so far, within the bounds.
            bounds: those of the whole problem.
            lengthscale: the kernel's, in units of the inputs, one or one for each: a
                side is longer along an input of slower change, at the same volume.

        Raises:
            ValueError: as `optimize_paths` of the bounds; a centre of another D, or not
                finite; a lengthscale that is not positive.
        """
        call = "TrustRegion.bounds"
        centre = as_float(centre, f"{call}(centre=...)")
        if centre.ndim != 1:
            raise ValueError(
                f"`{call}(centre=...)` must have shape (D,), one point. Got "
                f"{centre.shape}. Pass `X[jnp.argmin(y)]`, say."
            )
        centre = require_finite(centre, f"{call}(centre=...)")
        box = as_box(call, bounds, centre.shape[0])
        scale = as_float(lengthscale, f"{call}(lengthscale=...)")
        sentence = f"`{call}(lengthscale=...)` must be positive and finite."
        scale = require(scale, lambda x: (x > 0) & (x < np.inf), sentence)
        relative = jnp.broadcast_to(scale, box.width.shape).astype(box.width.dtype)
        relative = relative / (box.width if scale.ndim else 1)
        relative = relative / jnp.exp(jnp.mean(jnp.log(relative)))
        half = self.length.astype(relative.dtype) / 2 * relative * box.width
        middle = jnp.clip(centre.astype(half.dtype), box.lower, box.upper)
        lower = jnp.maximum(middle - half, box.lower)
        return jnp.stack([lower, jnp.minimum(middle + half, box.upper)])

    def told(self, improved: Bool[ArrayLike, ""]) -> "TrustRegion":
        """The region after a round that improved on the best value, or did not."""
        improved = jnp.asarray(improved, bool)
        one = jnp.ones((), jnp.int32)
        successes = jnp.where(improved, self.n_successes + one, 0)
        failures = jnp.where(improved, 0, self.n_failures + one)
        grows, shrinks = successes >= _SUCCESSES, failures >= self.most_failures
        length = jnp.where(grows, jnp.minimum(2 * self.length, _MOST), self.length)
        length = jnp.where(shrinks, self.length / 2, length)
        turned = grows | shrinks
        return eqx.tree_at(
            lambda r: (r.length, r.n_successes, r.n_failures),
            self,
            (length, jnp.where(turned, 0, successes), jnp.where(turned, 0, failures)),
        )
