"""Each path at points of its own, with its gradients there: what optimising takes."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._features.maps import combine, weigh_own
from .._numerics.blocks import block_rows, map_batches, map_groups
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

    # Groups of paths, since those of one group share a product.
    given = path.feature_weights, path.update_weights, X
    return map_groups(of_some, given, max(1, together))


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
    drawn = combine(path.features, feature_weights, rows, weigh_own)
    columns = cross_gram(path.kernel, rows, path.anchors, path.sites)
    update = weigh_own(update_weights.astype(X.dtype), columns)
    return drawn + update + mean_at(path.mean_fn, rows).reshape(X.shape[:2])
