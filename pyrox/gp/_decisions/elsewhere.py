"""Points away from others, for a function whose optimum lies where a point failed."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from .box import Box

_NEAR = 1e-2  # of the diagonal of the bounds
_N_CHOICES = 4096


def is_near(
    X: Float[np.ndarray, "N D"],
    others: Float[np.ndarray, "M D"],
    bounds: Float[np.ndarray, "2 D"],
) -> Bool[np.ndarray, " N"]:
    """Which points lie within a hundredth of the bounds' diagonal of another, all
    inputs counted in widths of the bounds."""
    return _distances(X, others, bounds) <= _NEAR


def points_away(
    key: PRNGKeyArray,
    box: Box,
    others: Float[np.ndarray, "M D"],
    bounds: Float[np.ndarray, "2 D"],
) -> Float[Array, "C D"]:
    """Sobol points of `box`, always as many, none of them near another; where all are
    near, the one that is farthest."""
    X = np.asarray(box.inside(box.sobol(key, _N_CHOICES)))
    far = _distances(X, others, bounds)
    near = far <= _NEAR
    return jnp.asarray(np.where(near[:, None], X[np.argmax(far)], X))


def _distances(X: np.ndarray, others: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """To the nearest of the others, infinite without any; the diagonal is one."""
    width = bounds[1] - bounds[0]
    least = np.full(len(X), np.inf)
    for other in others:
        steps = (X - other) / width
        least = np.minimum(least, np.sqrt(np.mean(steps**2, axis=1)))
    return least
