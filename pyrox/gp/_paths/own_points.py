"""Each path at points of its own, with its gradients there: what optimising takes."""

import functools
import operator

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._features.maps import AbstractFeatures, FourierFeatures, SumFeatures
from .._numerics.blocks import block_rows, map_batches
from .._posterior.derivatives import cross_gram
from .._posterior.mean import mean_at
from .formula import Formula


def values_and_gradients(
    path: Formula, X: Float[Array, "... S R D"]
) -> tuple[Float[Array, "... S R"], Float[Array, "... S R D"]]:
    """Path s at the rows of `X[s]`, and its derivative there; stacked paths, one draw
    after the other. Nothing is checked.

    Forwards and backwards at once over a block of paths: on the way back the sines and
    distances of the way there are used again, where a reverse derivative of
    `paths.each` would compute them twice.
    """
    if path.feature_weights.ndim > 2:
        return jax.lax.map(lambda both: values_and_gradients(*both), (path, X))
    n_columns = path.feature_weights.shape[-1] + path.update_weights.shape[-1]
    together = block_rows("paths", None, n_columns, X.dtype) // X.shape[1]

    def of_some(weights_and_points):
        feature_weights, update_weights, points = weights_and_points

        def values(points):
            return _values(path, feature_weights, update_weights, points)

        found, pull = jax.vjp(values, points)
        return found, pull(jnp.ones_like(found))[0]

    given = path.feature_weights, path.update_weights, X
    if together >= X.shape[0]:
        return of_some(given)
    # Groups of paths, since those of one group share a product.
    size = max(1, together)
    n_groups = -(-X.shape[0] // size)
    size = -(-X.shape[0] // n_groups)
    filled = jnp.minimum(jnp.arange(n_groups * size), X.shape[0] - 1)

    def group(leaf):
        return leaf[filled].reshape(n_groups, size, *leaf.shape[1:])

    found = jax.lax.map(of_some, jax.tree.map(group, given))
    n = X.shape[0]
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:n], found)


def rounding_of(path: Formula, X: Float[Array, "N D"]) -> Float[Array, "... S"]:
    """What rounding moves values of each path by: eps times the root of the squared
    terms that add up to one, on the average over the rows of `X`."""
    if path.feature_weights.ndim > 2:
        return map_batches(lambda one: rounding_of(one, X), path, 1)
    eps = jnp.finfo(X.dtype).eps
    columns = cross_gram(path.kernel, X, path.anchors, path.sites)
    squares = path.update_weights.astype(X.dtype) ** 2 @ jnp.mean(columns**2, axis=0)
    features = jnp.mean(path.features(X) ** 2, axis=0)
    squares = squares + path.feature_weights.astype(X.dtype) ** 2 @ features
    return 8 * eps * jnp.sqrt(squares)


def _values(
    path: Formula,
    feature_weights: Float[Array, "S F"],
    update_weights: Float[Array, "S U"],
    X: Float[Array, "S R D"],
) -> Float[Array, "S R"]:
    rows = X.reshape(-1, X.shape[-1])
    drawn = _combine(path.features, feature_weights, rows)
    columns = cross_gram(path.kernel, rows, path.anchors, path.sites)
    update = _weigh(update_weights.astype(X.dtype), columns)
    return drawn + update + mean_at(path.mean_fn, rows).reshape(X.shape[:2])


def _combine(
    phi: AbstractFeatures, weights: Float[Array, "S F"], rows: Float[Array, "SR D"]
) -> Float[Array, "S R"]:
    """Each function of the weights at R rows of its own, one function after another."""
    weights = weights.astype(rows.dtype)
    if isinstance(phi, SumFeatures):
        shares = phi.shares(weights, rows.shape[1])
        values = (_combine(own, share, rows) for own, share in shares)
        return functools.reduce(operator.add, values)
    if not isinstance(phi, FourierFeatures):
        return _weigh(weights, phi(rows))
    sine, cosine = phi.sincos(rows)
    amplitudes, m = phi.amplitudes(rows.dtype), phi.masses.shape[0]
    of_cosine, of_sine = amplitudes * weights[:, :m], amplitudes * weights[:, m:]
    return _weigh(of_cosine, cosine) + _weigh(of_sine, sine)


def _weigh(
    weights: Float[Array, "S F"], rows: Float[Array, "SR F"]
) -> Float[Array, "S R"]:
    blocks = rows.reshape(weights.shape[0], -1, rows.shape[1])
    return jnp.einsum("srf,sf->sr", blocks, weights)
