"""Integrals of drawn functions: over boxes, normal distributions and along lines."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Real

from .._hyper.checks import as_count, as_inputs, common_dtype, require_ok
from .._hyper.unchecked import jit
from .._numerics.measures import AbstractMeasure
from .._numerics.safe_sqrt import safe_sqrt
from .._paths.formula import Formula
from .._paths.path import OUTSIDE, PathwiseFunction, bare
from .._posterior.derivatives import observe
from .quadrature import as_measure, integral_of_mean, nodes_for_mean


def integrate_paths(
    paths: PathwiseFunction, measure: AbstractMeasure, *, n_nodes: int | None = None
) -> Float[Array, " S"]:
    """The integral of every path over a box, or against a normal distribution.

    Of paths with Fourier features and a kernel that has integrals (see
    `bayesian_quadrature`) in closed form: each wave is integrated, and the update by
    the kernel's own integrals. With `n_nodes` by a Gauss rule of the values instead,
    which any path has. The integrals of paths of a posterior are draws of its integral.

    Args:
        paths: what `sample_paths` returns.
        measure: a `LebesgueMeasure(bounds)` or a `GaussianMeasure(mean, cov)`.
        n_nodes: points an input of a product Gauss rule. It must resolve the paths: ten
            points a lengthscale and input are plenty for smooth ones.

    Returns:
        One integral for each path, of the wider dtype of paths and measure.

    Raises:
        ValueError: other paths or another measure, a measure that reaches beyond the
            domain of the paths (a normal distribution: by six deviations, or by a node
            of the rule), features or a kernel without integrals.

    Cost: O((F + M) D) for F features and M anchors and O(S (F + M)); by a rule that of
        `paths(X)` at n_nodes^D points.

    Source: Wilson et al. 2021, arXiv 2011.04026, on paths; O'Hagan 1991 on integrals.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from pyrox.gp import RBF, GPPrior, LebesgueMeasure, PathwiseSampler
        >>> from pyrox.gp import integrate_paths
        >>> prior = GPPrior(RBF(), X=jnp.array([[0.0], [1.0]]))
        >>> paths = PathwiseSampler(prior, 64).sample_paths(jax.random.key(0), 5)
        >>> over = LebesgueMeasure(jnp.array([[0.0], [1.0]]))
        >>> closed = integrate_paths(paths, over)
        >>> bool(jnp.allclose(closed, integrate_paths(paths, over, n_nodes=16)))
        True
    """
    call = "integrate_paths"
    paths = as_path(call, paths)
    measure = as_measure(call, measure, paths.anchors.shape[-1])
    if n_nodes is not None:
        n_nodes = as_count(f"{call}(n_nodes=...)", n_nodes)
        points, weights = measure.nodes(n_nodes)
        values = paths(points)
        shares = (measure.mass * weights).astype(values.dtype)
        return values @ shares
    measure, path = _held(call, measure, paths), bare(paths)
    return _closed(path, measure, n_nodes=nodes_for_mean(call, path, None))


def line_integrals(
    paths: PathwiseFunction, vertices: Real[ArrayLike, "K D"], *, n_nodes: int = 16
) -> Float[Array, " S"]:
    """The integral of every path along the line through `vertices`, by arc length.

    A polygon, whose edges have a Gauss-Legendre rule each. A curve is a polygon of many
    short edges, right to the square of their length; two nodes an edge are enough then.

    Args:
        paths: what `sample_paths` returns.
        vertices: points in order; the first again at the end closes the line.
        n_nodes: points of the rule on each edge.

    Returns:
        One integral for each path.

    Raises:
        ValueError: other paths, fewer than two vertices, another D, points outside the
            domain of the paths.

    Cost: that of `paths(X)` at (K - 1) n_nodes points.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from pyrox.gp import RBF, GPPrior, PathwiseSampler, line_integrals
        >>> prior = GPPrior(RBF(), X=jnp.zeros((1, 2)))
        >>> paths = PathwiseSampler(prior, 64).sample_paths(jax.random.key(0), 5)
        >>> line_integrals(paths, jnp.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]])).shape
        (5,)
    """
    call = "line_integrals"
    paths = as_path(call, paths)
    ends = as_inputs(f"{call}(vertices)", vertices, paths.anchors.shape[-1])
    if ends.shape[0] < 2:
        raise ValueError(
            f"`{call}(vertices)` must have shape (K, D), K of at least two. Got "
            f"{ends.shape}. Pass where the line starts and ends."
        )
    n = as_count(f"{call}(n_nodes=...)", n_nodes)
    places, weights = (jnp.asarray(x, ends.dtype) for x in _on_unit_interval(n))
    edges = jnp.diff(ends, axis=0)
    lengths = safe_sqrt(jnp.sum(edges**2, axis=1))
    points = ends[:-1, None] + places[None, :, None] * edges[:, None]
    shares = (lengths[:, None] * weights[None]).reshape(-1)
    values = paths(points.reshape(-1, ends.shape[1]))
    return values @ shares.astype(values.dtype)


def as_path(call: str, paths: PathwiseFunction) -> PathwiseFunction:
    """`paths`, if they are the paths of one draw."""
    if not isinstance(paths, PathwiseFunction):
        raise ValueError(
            f"`{call}(paths, ...)` must be a PathwiseFunction. Got a "
            f"{type(paths).__name__}. Pass what `PathwiseSampler(...).sample_paths` "
            "returns; of an ensemble map over `ensemble.paths` with `jax.vmap`."
        )
    if paths.feature_weights.ndim != 2:
        raise ValueError(
            f"`{call}(paths, ...)`: these paths are stacked. Got leading axes "
            f"{paths.feature_weights.shape[:-2]}. Map over them with `jax.vmap`."
        )
    return paths


def _held(
    call: str, measure: AbstractMeasure, paths: PathwiseFunction
) -> AbstractMeasure:
    """`measure`, if the domain of the paths holds it."""
    domain, extent = paths.domain, measure.extent
    if domain is None:
        return measure
    dtype = common_dtype(domain, extent)
    domain, extent = domain.astype(dtype), extent.astype(dtype)
    inside = (domain[0] <= extent[0]) & (extent[1] <= domain[1])
    sentence = (
        f"`{call}(paths, measure)` must have a measure within the domain of the paths, "
        f"a normal distribution up to six standard deviations. {OUTSIDE}"
    )
    return require_ok(measure, jnp.all(inside), sentence)


def _on_unit_interval(n: int) -> tuple[np.ndarray, np.ndarray]:
    points, weights = np.polynomial.legendre.leggauss(n)
    return (points + 1) / 2, weights / 2


def _closed_form(path: Formula, measure: AbstractMeasure, n_nodes: int) -> Array:
    dtype = common_dtype(path.feature_weights, measure.mean)
    drawn = path.feature_weights.astype(dtype) @ path.features.integrals(measure)

    def embedded(X):
        return path.kernel.integrals(X.astype(dtype), measure).once

    own = observe(embedded, path.anchors, path.sites)
    update = path.update_weights.astype(dtype) @ own
    mean = integral_of_mean(path.mean_fn, measure, n_nodes, dtype)
    return measure.mass.astype(dtype) * (mean[None] + drawn.astype(dtype) + update)


_closed = jit(_closed_form, static_argnames="n_nodes")
