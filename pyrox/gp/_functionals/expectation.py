"""The expectation of any functional, by Monte Carlo over paths."""

import functools
import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Real

from .._hyper.checks import as_count
from .._hyper.unchecked import jit
from .._numerics.blocks import map_batches
from .._numerics.closure import Closure, read
from .._paths.ensemble import PathwiseEnsemble
from .._paths.outputs import MultiOutputPaths
from .._paths.path import PathwiseFunction

Paths = PathwiseFunction | MultiOutputPaths | PathwiseEnsemble


class Expectation(eqx.Module):
    """A mean over draws, and how far it may be off; what `expectation` returns."""

    value: Float[Array, "..."]
    """The mean."""
    standard_error: Float[Array, "..."]
    """The standard deviation of the mean."""
    samples: Float[Array, "S ..."]
    """What was averaged, one for each draw: the law of the functional."""


def expectation(
    paths: Paths,
    functional: Callable[[Any], Any],
    X: Real[ArrayLike, "N D"] | None = None,
    *,
    batch_size: int = 64,
) -> Expectation:
    """The mean over paths of any functional of a function, with its standard error.

    Without `X` the functional is given one path, a `PathwiseFunction` of length one,
    and may do with it whatever paths can: `lambda path: path.gradient(grid).max()`.
    With `X` it is given the values (N,) of one path at those points, all of which are
    computed at once: `lambda values: values.max()`.

    Of an ensemble over draws of hyperparameters what is averaged are the means of each
    draw, since paths of one draw are not independent; so the standard error is that of
    both.

    The error is that of so many paths, in the features that they share: their number is
    another question, which `diagnose` answers.

    Args:
        paths: what a sampler or `paths_over_draws` returns, two draws at least.
        functional: to a number or an array. It is read, by tracing it, at each call.
        X: points for a functional of values.
        batch_size: how many paths are given to the functional at once.

    Returns:
        An `Expectation`: `value`, `standard_error` and `samples` (S, ...).

    Raises:
        ValueError: other paths, fewer than two draws, a functional that needs NumPy or
            does not return a real array; and what `paths(X)` raises.

    Cost: that of S functionals.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from pyrox.gp import RBF, GPPrior, PathwiseSampler, expectation
        >>> prior = GPPrior(RBF(), X=jnp.array([[0.0], [1.0]]))
        >>> paths = PathwiseSampler(prior, 64).sample_paths(jax.random.key(0), 200)
        >>> grid = jnp.linspace(0, 1, 50)[:, None]
        >>> highest = expectation(paths, lambda values: values.max(), grid)
        >>> bool(highest.value > 4 * highest.standard_error), highest.samples.shape
        (True, (200,))
    """
    call = "expectation"
    if not isinstance(paths, PathwiseFunction | MultiOutputPaths | PathwiseEnsemble):
        raise ValueError(
            f"`{call}(paths, ...)` must be a PathwiseFunction, MultiOutputPaths or a "
            f"PathwiseEnsemble. Got a {type(paths).__name__}. Pass what a sampler or "
            "`paths_over_draws` returns."
        )
    size = as_count(f"{call}(batch_size=...)", batch_size)
    over_draws = isinstance(paths, PathwiseEnsemble)
    things: Any = paths.paths if isinstance(paths, PathwiseEnsemble) else paths
    if X is not None:
        things = paths(X)
    n_axes = _leading(things, paths, X is not None)
    one = read(
        f"{call}(functional)", _as_array_of(call, functional), _one(things, n_axes)
    )
    samples = _mapped(one, things, n_axes=n_axes, batch_size=size)
    # The mean of each draw of hyperparameters.
    extra = tuple(range(1, n_axes))
    samples = jnp.mean(samples, axis=extra) if over_draws else samples
    return mean_of(call, samples)


def mean_of(call: str, samples: Float[Array, "S ..."]) -> Expectation:
    """The mean of independent draws."""
    n = samples.shape[0]
    if n < 2:
        raise ValueError(
            f"`{call}(paths, ...)` must have at least two draws, for a standard error. "
            f"Got {n}. Draw more: `sample_paths(key, 256)`."
        )
    mean = jnp.mean(samples, axis=0)
    square = jnp.sum((samples - mean[None]) ** 2, axis=0) / (n - 1)
    some = square > 0
    error = jnp.where(some, jnp.sqrt(jnp.where(some, square, 1)), 0) / math.sqrt(n)
    return Expectation(mean, error, samples)


def _as_array_of(call: str, functional: Callable) -> Callable[[Any], Array]:
    if not callable(functional):
        raise ValueError(
            f"`{call}(paths, functional)` must be a function. Got {functional!r}. Pass "
            "`lambda path: path(X).max()`, say."
        )

    def value(one):
        found = functional(one)
        if not hasattr(found, "shape") and not isinstance(found, int | float):
            raise ValueError(
                f"`{call}(paths, functional)` must return a number or an array. Got a "
                f"{type(found).__name__}. Stack several numbers with `jnp.stack`."
            )
        found = jnp.asarray(found)
        real = jnp.issubdtype(found.dtype, jnp.floating)
        return found if real else found.astype(jnp.result_type(float))

    return value


def _leading(things: Any, paths: Paths, of_values: bool) -> int:
    """How many leading axes count draws and paths."""
    if of_values:
        outputs = isinstance(paths, MultiOutputPaths)
        return things.ndim - (2 if outputs else 1)
    return 2 if isinstance(paths, PathwiseEnsemble) else 1


def _one(things: Any, n_axes: int) -> Any:
    """The shapes of what the functional is given."""
    return jax.eval_shape(lambda x: _chosen(x, n_axes), things)


def _chosen(things: Any, n_axes: int) -> Any:
    if isinstance(things, jax.Array):
        return things[(0,) * n_axes]
    if n_axes == 2:
        things = jax.tree.map(lambda leaf: leaf[0], things)
    return things[jnp.zeros(1, int)]


@functools.partial(jit, static_argnames=("n_axes", "batch_size"))
def _mapped(one: Closure, things: Any, n_axes: int, batch_size: int) -> Array:
    if isinstance(things, jax.Array):
        shape = things.shape[:n_axes]
        flat = things.reshape(-1, *things.shape[n_axes:])
        found = map_batches(one, flat, batch_size)
        return found.reshape(*shape, *found.shape[1:])
    if n_axes == 2:
        return jax.lax.map(lambda draw: _mapped(one, draw, 1, batch_size), things)
    index = jnp.arange(len(things))[:, None]
    return map_batches(lambda i: one(things[i]), index, batch_size)
