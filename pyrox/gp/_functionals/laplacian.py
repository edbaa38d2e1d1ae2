"""The Laplacian of drawn functions."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Real

from .._hyper.checks import common_dtype, require_inside
from .._hyper.unchecked import jit
from .._kernels.given import as_inputs_of
from .._numerics.blocks import block_rows, map_rows
from .._paths.formula import Formula
from .._paths.path import OUTSIDE, PathwiseFunction, bare
from .._posterior.derivatives import require_derivatives
from .path_integrals import as_path


def laplacian(
    paths: PathwiseFunction, X: Real[ArrayLike, "N D"]
) -> Float[Array, "S N"]:
    """The sum of the unmixed second derivatives of every path at every row of `X`: what
    heat, waves and potentials are made of.

    The trace of `paths.hessian(X)` without the rest of it. Other operators are made by
    hand, of `paths.gradient`, `paths.hessian` and JAX's derivatives of `paths`.

    Args:
        paths: what `sample_paths` returns.
        X: points.

    Returns:
        (S, N), of the wider dtype of paths and points.

    Raises:
        ValueError: as `paths.hessian`.

    Cost: 3 D times that of `paths(X)`, in blocks of rows.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from pyrox.gp import RBF, GPPrior, PathwiseSampler, laplacian
        >>> prior = GPPrior(RBF(), X=jnp.zeros((1, 2)))
        >>> paths = PathwiseSampler(prior, 64).sample_paths(jax.random.key(0), 5)
        >>> laplacian(paths, jnp.ones((7, 2))).shape
        (5, 7)
    """
    call = "laplacian"
    paths = as_path(call, paths)
    in_size = paths.anchors.shape[-1]
    X = as_inputs_of(paths.kernel, f"{call}(paths, X)", X, in_size)
    X = require_inside(X, f"{call}(paths, X)", paths.domain, OUTSIDE)
    require_derivatives(call, paths.kernel, 2)
    X = X.astype(common_dtype(X, paths.feature_weights))
    n_columns = paths.feature_weights.shape[-1] + paths.update_weights.shape[-1]
    size = max(1, block_rows(call, None, n_columns, X.dtype) // 3)
    return _laplacian(bare(paths), X, block_size=size)


@functools.partial(jit, static_argnames="block_size")
def _laplacian(path: Formula, X: Array, block_size: int) -> Array:
    def of_rows(rows):
        def second(direction):
            along = jnp.broadcast_to(direction, rows.shape)

            def slope(points):
                return jax.jvp(lambda x: path(x), (points,), (along,))[1]

            return jax.jvp(slope, (rows,), (along,))[1]

        directions = jnp.eye(rows.shape[1], dtype=rows.dtype)
        return jnp.sum(jax.lax.map(second, directions), axis=0)

    return map_rows(of_rows, X, block_size)
