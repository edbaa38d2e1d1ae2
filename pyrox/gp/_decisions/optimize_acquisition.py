"""The batch of points at which an acquisition function is highest."""

from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int, PRNGKeyArray, Real

from .._hyper.arrays import cast_floats
from .._hyper.checks import as_count, as_inputs, as_points, common_dtype, is_traced
from .._hyper.unchecked import unchecked
from .._numerics.closure import Closure, read
from .batches import Best, Values, moving_batch, search_batches
from .box import Box, as_box, checked_at_run_time
from .race import in_groups

_CALL = "optimize_acquisition"
_FINALISTS = 4


class BatchOptimum(eqx.Module):
    """The best batch of points; what `optimize_acquisition` returns.

    A pytree of arrays: it is returned from `jit` and stacked by `vmap`.
    """

    X: Float[Array, "q D"]
    """The points, one row each."""
    value: Float[Array, ""]
    """What the acquisition function says of them."""
    converged: Bool[Array, ""]
    """Whether the slope vanishes there, but for what a bound holds."""
    n_evaluations: Int[Array, ""]
    """At how many batches the function was evaluated."""


def optimize_acquisition(
    key: PRNGKeyArray,
    f: Callable[[Array], Array],
    bounds: Real[ArrayLike, "2 D"],
    q: int = 1,
    *,
    integers: Sequence[int] = (),
    include: Real[ArrayLike, "K D"] | None = None,
    n_candidates: int = 1024,
    n_starts: int = 64,
) -> BatchOptimum:
    """The batch of q points at which `f` is highest, all of them moved together.

    Scrambled Sobol batches are evaluated, and those that are included. The best start
    the race of `optimize_paths`, of which the last few are followed to their maxima: a
    search, not a proof. As there value and points have derivatives, in all that `f`
    closes over and in the bounds, by the implicit function theorem, where the optimum
    is regular; points at a bound stay there.

    `f` is read, by tracing it, at each call, and its program compares by content: a
    loop that makes a new function of new data of the same shapes compiles nothing. So
    `f` needs no `jax.jit`; a new one in every round would compile anew.

    Args:
        key: for the candidates.
        f: from N batches (N, q, D), or N points (N, D) where q is 1, to values (N,),
            each of its own batch alone: `lambda X: log_expected_improvement(paths, X,
            best)`.
        bounds: the lowest and the highest value of each input.
        q: points in the batch.
        integers: inputs that take whole numbers.
        include: points to start from, q of which in a row make a batch; those outside
            the bounds are moved to the nearest inside.
        n_candidates, n_starts: how hard to search.

    Returns:
        A `BatchOptimum`: `found.X` (q, D), `found.value`, whether it converged. Where
        `f` is NaN it is taken for `-inf`.

    Raises:
        ValueError: bounds that are reversed, equal or infinite; whole numbers without
            room; a q below one; points to include that are not whole batches; an `f`
            that is no function, does not give one value a batch, or needs NumPy; and
            what `f` raises at the corners of the box.

    Cost: about n_candidates + 5 n_starts evaluations of `f`, in groups of 32 at least.

    Source: Wilson, Hutter & Deisenroth 2018 (arXiv 1805.10196) on joint batches; the
        search is that of `optimize_paths`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from pyrox.gp import RBF, GPPrior
        >>> from pyrox.gp import log_expected_improvement, optimize_acquisition
        >>> X, y = jnp.array([[0.0], [0.5], [1.0]]), jnp.array([1.0, -1.0, 0.5])
        >>> posterior = GPPrior(RBF(1.0, 0.2), X).condition(y, noise_var=0.01)
        >>> def f(X):
        ...     return log_expected_improvement(posterior, X, y.min())
        >>> bounds = jnp.array([[0.0], [1.0]])
        >>> found = optimize_acquisition(jax.random.key(0), f, bounds)
        >>> f"next at {found.X[0, 0]:.2f}"
        'next at 0.63'
    """
    q = as_count(f"{_CALL}(q=...)", q)
    n_candidates = as_count(f"{_CALL}(n_candidates=...)", n_candidates)
    n_starts = as_count(f"{_CALL}(n_starts=...)", n_starts)
    box = _batch_box(bounds, q, integers)
    points = _included(include, q, box)
    # In the wider type of the bounds and of what `f` knows.
    dtype = common_dtype(box.lower, _corner_values(f, box, q))
    box, points = cast_floats((box, points), dtype)
    n_starts = min(n_starts, n_candidates + points.shape[0])
    _, n_group = in_groups(n_starts)
    sizes = n_group, min(_FINALISTS, n_group)
    group, few = (_reading(f, box, q, n) for n in sizes)
    arguments = (group, few), box, points, sizes, n_candidates, n_starts
    best, count = search_batches(key, *arguments)
    return _optimum(Values(group, few, *sizes), box, best, count, q)


def _batch_box(bounds: ArrayLike, q: int, integers: Sequence[int]) -> Box:
    """The box of all q points side by side."""
    bounds = as_points(bounds, f"{_CALL}(bounds=...)")
    if bounds.ndim != 2 or bounds.shape[0] != 2 or not bounds.shape[1]:
        raise ValueError(
            f"`{_CALL}(bounds=...)` must have shape (2, D): the lowest and the highest "
            f"value of each of the D inputs. Got {bounds.shape}. Pass "
            "`jnp.array([lowest, highest])`."
        )
    one = as_box(_CALL, bounds, bounds.shape[1], integers)
    one, d = checked_at_run_time(_CALL, one), one.in_size
    whole = tuple(k * d + i for k in range(q) for i in one.integers)
    return Box(jnp.tile(one.lower, q), jnp.tile(one.upper, q), whole)


def _included(include: ArrayLike | None, q: int, box: Box) -> Float[Array, "K E"]:
    """The batches that the caller adds."""
    if include is None:
        return jnp.zeros((0, box.in_size), box.lower.dtype)
    X = as_inputs(f"{_CALL}(include=...)", include, box.in_size // q)
    if X.shape[0] % q:
        raise ValueError(
            f"`{_CALL}(include=...)` must be whole batches of q={q} points, one after "
            f"the other. Got {X.shape[0]} points. Pass a multiple of {q}."
        )
    return X.reshape(-1, box.in_size).astype(box.lower.dtype)


def _shaped(rows: Float[Array, "N E"], q: int) -> Array:
    """Batches as the user's function gets them."""
    return rows if q == 1 else rows.reshape(rows.shape[0], q, -1)


def _corner_values(f: Callable, box: Box, q: int) -> Array:
    """`f` at two corners of the box, where it may raise what it finds wrong, if it
    gives values."""
    if not callable(f):
        raise ValueError(
            f"`{_CALL}(f=...)` must be a function of points. Got a "
            f"{type(f).__name__}. Pass `lambda X: log_expected_improvement(paths, X, "
            "best)`, say."
        )
    corners = jnp.stack([box.lower, box.upper])
    values = f(_shaped(corners, q))
    shape, dtype = jnp.shape(values), jnp.result_type(values)
    if shape != (2,) or not jnp.issubdtype(dtype, jnp.floating):
        wanted = "points (N, D)" if q == 1 else f"batches (N, {q}, D)"
        raise ValueError(
            f"`{_CALL}(f=...)` must map {wanted} to N floats, (N,). Got shape {shape} "
            f"of {dtype} for N=2. Return one value for each."
        )
    return jnp.asarray(values)


def _reading(f: Callable, box: Box, q: int, n: int) -> Closure:
    """`f` at n batches, of points that are known to be in the box."""
    rows = jax.ShapeDtypeStruct((n, box.in_size), box.lower.dtype)
    with unchecked():
        return read(f"{_CALL}(f=...)", lambda rows: f(_shaped(rows, q)), rows)


def _optimum(
    values: Values, box: Box, best: Best, count: Int[Array, ""], q: int
) -> BatchOptimum:
    """What the user gets; with derivatives where something may be differentiated."""
    X, value = box.inside(best.unit[None]), best.value
    if any(map(is_traced, jax.tree.leaves((values[:2], box, best)))):
        X = box.inside(moving_batch(values, box, best)[None])
        value = values.at_few(X)[0]
    return BatchOptimum(X.reshape(q, -1), value, best.converged, count)
