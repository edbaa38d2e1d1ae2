"""The formula of a drawn function, and the compiled programs that evaluate it."""

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
from jaxtyping import Array, Float

from .._features.maps import AbstractFeatures, combine, weigh
from .._hyper.unchecked import jit
from .._kernels.kernel import AbstractKernel
from .._numerics.blocks import map_batches, map_rows
from .._posterior.derivatives import DerivativeSites, by_each_input, cross_gram
from .._posterior.mean import mean_at


class Formula(eqx.Module):
    """mean(x) + phi(x) w_s + k(x, anchors) v_s, and nothing of where it comes from: so
    that paths of all samplers and bases share their compiled programs."""

    features: AbstractFeatures
    feature_weights: Float[Array, "... S F"]
    anchors: Float[Array, "... M D"]
    update_weights: Float[Array, "... S U"]
    kernel: AbstractKernel
    mean_fn: Callable
    sites: DerivativeSites | None

    def __call__(self, X: Float[Array, "N D"]) -> Float[Array, "S N"]:
        """The values at all rows at once."""
        drawn = combine(self.features, self.feature_weights, X)
        rows = cross_gram(self.kernel, X, self.anchors, self.sites)
        update = weigh(self.update_weights.astype(X.dtype), rows)
        return mean_at(self.mean_fn, X)[None, :] + drawn + update

    def chosen(self, index: Array) -> "Formula":
        """Some of the functions."""
        return eqx.tree_at(_weights, self, [w[index] for w in _weights(self)])


_blocked = functools.partial(jit, static_argnames="block_size")


@_blocked
def evaluate(path: Formula, X: Array, block_size: int) -> Array:
    """`path(X)` in blocks of rows."""
    return map_rows(lambda rows: path(rows), X, block_size)


@_blocked
def evaluate_each(path: Formula, X: Array, block_size: int) -> Array:
    """Each path at points of its own."""

    def one(weights_and_points):
        *weights, points = weights_and_points
        alone = eqx.tree_at(_weights, path, [w[None, :] for w in weights])
        return map_rows(lambda rows: alone(rows), points, block_size)[0]

    together = max(1, block_size // X.shape[1])
    return map_batches(one, (*_weights(path), X), together)


@_blocked
def gradient(path: Formula, X: Array, block_size: int) -> Array:
    slopes = by_each_input(lambda rows: path(rows))
    return map_rows(slopes, X, block_size, axis=-2)


@_blocked
def hessian(path: Formula, X: Array, block_size: int) -> Array:
    slopes = by_each_input(lambda rows: path(rows))
    return map_rows(by_each_input(slopes), X, block_size, axis=-3)


def _weights(path: Formula) -> list[Any]:  # not arrays while `tree_at` looks
    return [path.feature_weights, path.update_weights]
