"""Paths over the draws of hyperparameters: the functions with those integrated out."""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray, Real

from .._features.basis import AbstractBasis
from .._features.by_name import as_basis
from .._hyper.checks import as_count, common_dtype, require_inside
from .._hyper.unchecked import jit
from .._kernels.given import as_inputs_of
from .._numerics.blocks import block_rows, map_batches
from .._numerics.closure import Closure, one_of, read
from .._posterior.exact import ConditionedGP
from .formula import evaluate
from .path import OUTSIDE, PathwiseFunction, bare
from .samplers import PathwiseSampler


class PathwiseEnsemble(eqx.Module):
    """Functions of many posteriors, `n_paths` for each draw of the hyperparameters.

    `paths(X)` is (B, S, N) for B draws; `paths[b]` is the PathwiseFunction of draw b;
    `len(paths)` is B. Evaluated in batches of draws and blocks of rows, in flat memory.

    Where a draw has several posteriors, as of latent functions within plates of shape
    `plates`, `paths(X)` is (B, *plates, S, N), and `paths[b, i]` the PathwiseFunction
    of element i of one plate. To whatever takes an ensemble they are B times as many
    draws as the plates have elements.
    """

    paths: PathwiseFunction
    batch_size: int = eqx.field(static=True)
    plates: tuple[int, ...] = eqx.field(static=True, default=())

    def __call__(self, X: Real[ArrayLike, "N D"]) -> Float[Array, "B ... S N"]:
        """The values of every path of every draw at every row of `X`.

        Cost: B times that of a PathwiseFunction.
        """
        in_size = self.paths.anchors.shape[-1]
        X = as_inputs_of(self.paths.kernel, "paths(X)", X, in_size)
        X = require_inside(X, "paths(X)", self.paths.domain, OUTSIDE)
        values = _evaluate(self, X)
        return values.reshape(-1, *self.plates, *values.shape[1:])

    def __len__(self) -> int:
        return self.paths.feature_weights.shape[0] // math.prod(self.plates)

    def __getitem__(self, index: int | tuple[int, ...]) -> PathwiseFunction:
        given = index if isinstance(index, tuple) else (index,)
        sizes = len(self), *self.plates
        if len(given) != len(sizes):
            raise IndexError(
                f"`paths[{index}]`: a path has {len(sizes)} numbers, of its draw and "
                f"of its place in the plates, {self.plates}. Got {len(given)}."
            )
        for i, size, what in zip(given, sizes, _named(self.plates), strict=True):
            if not -size <= i < size:
                raise IndexError(f"`paths[{index}]`: there are {size} {what}, from 0.")
        wrapped = [i % size for i, size in zip(given, sizes, strict=True)]
        row = int(np.ravel_multi_index(wrapped, sizes))
        return jax.tree.map(lambda leaf: leaf[row], self.paths)

    __hash__ = object.__hash__
    __eq__ = object.__eq__


def _named(plates: tuple[int, ...]) -> list[str]:
    return ["draws", *(f"elements in plate {i}" for i in range(len(plates)))]


def paths_over_draws(
    key: PRNGKeyArray,
    draws: Mapping[str, ArrayLike],
    condition: Callable[[dict[str, Array]], ConditionedGP],
    n_paths: int = 8,
    n_features: int = 1024,
    batch_size: int = 16,
    basis: AbstractBasis | str = "grid",
) -> PathwiseEnsemble:
    """Posterior functions with the hyperparameters integrated out.

    For each draw of the hyperparameters `n_paths` functions of the posterior at that
    draw, each draw with frequencies of its own. All of it is one compiled program,
    which serves any draws, and any arrays that `condition` reads, of the same shapes.
    `condition` is read at each call. With evaluation in one program, too:

        jax.jit(lambda key, draws, y: paths_over_draws(
            key, draws, lambda draw: substitute(prior, draw).condition(y, 0.1))(X))

    For draws of a latent function's own values, of any likelihood, `condition` is
    `latent(prior, "f")`.

    Args:
        key: a PRNG key.
        draws: what `mcmc.get_samples()` returns: arrays with one leading axis of draws.
        condition: from one draw, a dict of values, to what `GPPrior.condition` returns,
            or to a stack of such, as `jax.vmap` over them makes.
        n_paths: S, functions for each draw.
        n_features: F, feature columns, even.
        batch_size: how many draws are worked on at once. Memory grows with it, not with
            the number of draws; what is kept for a draw is S (N + F) numbers.
        basis: how features are chosen, as in `PathwiseSampler`. On a grid `paths(X)`
            raises for points outside the domain of any draw.

    Returns:
        A callable: `paths(X)` is (B, S, N) for B draws, (B, P, S, N) if each has a
        stack of P posteriors.

    Raises:
        ValueError: no draws, or leading axes that differ; a `condition` that returns
            something else; and all that `condition` raises.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from pyrox.gp import RBF, GPPrior, paths_over_draws, substitute
        >>> X, y = jnp.array([[0.0], [1.0]]), jnp.array([1.0, -1.0])
        >>> prior = GPPrior(RBF(), X)
        >>> draws = {"RBF.lengthscale": jnp.array([0.5, 0.7, 0.9])}
        >>> def condition(draw):
        ...     return substitute(prior, draw).condition(y, noise_var=0.1)
        >>> paths = paths_over_draws(jax.random.key(0), draws, condition)
        >>> paths(jnp.linspace(0, 1, 20)[:, None]).shape
        (3, 8, 20)
    """
    n_paths = as_count("paths_over_draws(n_paths=...)", n_paths)
    batch_size = as_count("paths_over_draws(batch_size=...)", batch_size)
    arrays = {name: jnp.asarray(values) for name, values in draws.items()}
    n_draws = _count_draws(arrays)

    keys = jr.split(key, n_draws)
    basis = as_basis("paths_over_draws(basis=...)", basis)

    def draw_paths(key, draw):
        return of_each(key, _as_posterior(condition(draw)))

    def of_each(key, posterior):
        stack = posterior.weights.shape[:-1]
        if stack:
            return jax.vmap(of_each)(jr.split(key, stack[0]), posterior)
        sampler = PathwiseSampler(posterior, n_features, basis)
        return sampler.sample_paths(key, n_paths)

    first = one_of((keys, arrays))
    of_one_draw = read("paths_over_draws(condition=...)", draw_paths, *first)
    paths, plates = _of_all_draws(of_one_draw, (keys, arrays), batch_size)
    return PathwiseEnsemble(paths, batch_size, plates)


def _of_all_draws(
    of_one_draw: Closure, keys_and_draws: tuple[Array, Any], batch_size: int
) -> tuple[PathwiseFunction, tuple[int, ...]]:
    """The paths along one leading axis, and the shape of what each draw has."""
    found = _mapped(of_one_draw, keys_and_draws, batch_size)
    plates = found.feature_weights.shape[1:-2]
    if not plates:
        return found, ()
    n = 1 + len(plates)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[n:]), found), plates


@functools.partial(jax.jit, static_argnames="batch_size")
def _mapped(
    of_one_draw: Closure, keys_and_draws: tuple[Array, Any], batch_size: int
) -> PathwiseFunction:
    return map_batches(lambda one: of_one_draw(*one), keys_and_draws, batch_size)


def _count_draws(draws: Mapping[str, Array]) -> int:
    shapes = {name: values.shape for name, values in draws.items()}
    counts = {shape[:1] for shape in shapes.values()}
    if len(counts) != 1 or counts <= {(), (0,)}:
        raise ValueError(
            "`paths_over_draws(draws=...)` must be arrays with one leading axis "
            f"of draws, at least one. Got {shapes}. Pass `mcmc.get_samples()`."
        )
    return counts.pop()[0]


def _as_posterior(posterior: Any) -> ConditionedGP:
    if not isinstance(posterior, ConditionedGP):
        raise ValueError(
            "`paths_over_draws(condition=...)` must return what `GPPrior.condition` "
            f"returns. Got a {type(posterior).__name__}. Pass "
            "`lambda draw: substitute(prior, draw).condition(y, noise_var)`, say."
        )
    return posterior


@jit
def _evaluate(ensemble: PathwiseEnsemble, X: Array) -> Array:
    weights = ensemble.paths.feature_weights, ensemble.paths.update_weights
    X = X.astype(common_dtype(X, *weights))
    n_columns = sum(w.shape[-1] for w in weights)
    rows = block_rows("paths", None, n_columns, X.dtype)
    together = max(1, min(ensemble.batch_size, rows // X.shape[0]))
    one = functools.partial(evaluate, X=X, block_size=rows)
    return map_batches(one, bare(ensemble.paths), together)
