"""Several objectives as one: the augmented Chebyshev function, its kink smoothed."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .._paths.formula import Formula
from .._paths.own_points import rounding_of
from .box import Box
from .merit import AbstractTarget, Scales, Values, at_all, at_own, some_of, stack

# Of the sum beside the maximum, so that what is only as good in the worst objective
# does not win (Knowles 2006).
_AUGMENTED = 0.05
# How round the kink is, in units of objectives. With the right shares its minimum is
# exact, so this decides how soon they are right: in eight rounds within 1e-6 of a dense
# reference, where 0.01 leaves 1 in 60 at 1e-3 and 0.03 leaves 1 in 20 at 1e-2.
_TEMPERATURE = 0.001
_LEAST_SHARE = -30.0  # in logarithms


class Units(eqx.Module):
    """Of each objective the value that is 0, and the one that is 1."""

    ideal: Float[Array, "S K"]
    nadir: Float[Array, "S K"]


class Chebyshev(AbstractTarget):
    """max_k w_k g_k + 0.05 sum_k w_k g_k, with R weightings of each drawn path; g_k is
    objective k from its ideal, 0, to its nadir, 1.

    Scalarisation `s R + r` is that of path s under its weighting r.

    Searches go down tau log sum_k p_k exp(w_k g_k / tau) in place of the maximum, with
    shares p_k of its own for each search, that add up to one. Those of a minimum are
    the weights of its terms in the gradient, and with the right shares the minimum is
    that of the maximum itself, at any tau: the exponential method of multipliers
    (Bertsekas 1982, section 5.1).
    """

    objectives: tuple[Formula, ...]
    constraints: tuple[Formula, ...]
    box: Box
    weights: Float[Array, "... S R K"]
    signs: tuple[float, ...] = eqx.field(static=True)
    each: Formula | tuple[Formula, ...] | None = None
    """The objectives, stacked if they can be: then one program serves all."""
    units: Units | None = None
    shares: Float[Array, "*Q K"] | None = None

    @property
    def functions(self) -> tuple[Formula, ...]:
        return *self.objectives, *self.constraints

    @property
    def n_weights(self) -> int:
        return self.weights.shape[-2]

    @property
    def n_paths(self) -> int:
        return self.weights.size // self.weights.shape[-1]

    @property
    def sign(self) -> float:
        return 1.0

    def some(self, rows: Int[Array, " B"]) -> "Chebyshev":
        n = len(self.objectives)
        every = [some_of(path, rows) for path in self.functions]
        own, others = tuple(every[:n]), tuple(every[n:])
        return Chebyshev(
            objectives=own,
            constraints=others,
            box=self.box,
            weights=self.weights[rows],
            signs=self.signs,
        )

    def seen(self, X: Float[Array, "C D"]) -> tuple[Units, Values]:
        """Ideal and nadir by the payoff table of the candidates that meet all
        constraints, or of all, where none does."""
        each = _stacked(self.objectives)
        signs = jnp.asarray(self.signs, X.dtype)[None, None]
        values = jnp.moveaxis(_of_each(lambda path: at_all(path, X), each), 0, -1)
        values = signs * values
        rest = [at_all(path, X) for path in self.constraints]
        above = stack(rest, X, values.shape[0])
        held = jnp.all(above <= 0, axis=0) & jnp.all(jnp.isfinite(values), axis=-1)
        held = held | ~jnp.any(held, axis=1, keepdims=True)
        own = _units(values, held)
        w = self.weights.reshape(values.shape[0], -1, values.shape[-1])
        scaled = (values - own.ideal[:, None]) / (own.nadir - own.ideal)[:, None]

        def scalarised(path):
            scaled, w = path
            return jax.lax.map(lambda one: _augmented(one[None] * scaled), w)

        found = jax.lax.map(scalarised, (scaled, w)).reshape(-1, X.shape[0])
        units = jax.tree.map(lambda x: jnp.repeat(x, self.n_weights, axis=0), own)
        return units, Values(found, jnp.repeat(above, self.n_weights, axis=1))

    def with_units(self, units: Units) -> "Chebyshev":
        k = len(self.objectives)
        shares = jnp.full((1, 1, k), -np.log(k), units.ideal.dtype)
        return eqx.tree_at(
            lambda t: (t.each, t.units, t.shares),
            self,
            (_stacked(self.objectives), units, shares),
            is_leaf=lambda x: x is None,
        )

    def at_own(self, X: Float[Array, "S Q D"]) -> Values:
        terms, _ = self._terms(X)
        rest = [at_own(path, X)[0] for path in self.constraints]
        return Values(_augmented(terms), stack(rest, X, self.n_paths))

    def slopes_at(
        self, X: Float[Array, "S Q D"]
    ) -> tuple[Float[Array, "S Q"], Float[Array, "S Q D"]]:
        terms, gradients = self._terms(X)
        heights = self._heights(terms)
        highest = _TEMPERATURE * jax.nn.logsumexp(heights, axis=-1)
        weights = jax.nn.softmax(heights, axis=-1) + _AUGMENTED
        value = highest + _AUGMENTED * jnp.sum(terms, axis=-1)
        return value, jnp.sum(weights[..., None] * gradients, axis=-2)

    def rounding(self, X: Float[Array, "C D"], scales: Scales) -> Float[Array, " S"]:
        size = self._size()
        each = _of_each(lambda path: rounding_of(path, X).reshape(-1), self.each)
        each = jnp.repeat(each.T, self.n_weights, axis=0)
        return jnp.max(size * each, axis=-1) / scales.of_path

    def shares_at(self, X: Float[Array, "S Q D"]) -> Float[Array, "S Q K"]:
        """Logarithms of what each term weighs in the gradient."""
        heights = self._heights(self._terms(X)[0])
        return jnp.maximum(jax.nn.log_softmax(heights, axis=-1), _LEAST_SHARE)

    def raw_at_own(self, X: Float[Array, "S Q D"]) -> Float[Array, "S Q K"]:
        """The objectives as they are."""
        values = _of_each(lambda path: at_own(path, X)[0], self.objectives)
        return jnp.moveaxis(values, 0, -1)

    def _size(self) -> Float[Array, "S K"]:
        assert self.units is not None
        weights = self.weights.reshape(-1, self.weights.shape[-1])
        return weights / (self.units.nadir - self.units.ideal)

    def _terms(self, X: Array) -> tuple[Array, Array]:
        """w_k g_k (S, Q, K), and the gradients (S, Q, K, D)."""
        assert self.units is not None
        size = self._size()[:, None]
        values, gradients = _of_each(lambda path: at_own(path, X), self.each)
        signs = jnp.asarray(self.signs, X.dtype)[None, None]
        values = signs * jnp.moveaxis(values, 0, -1)
        terms = size * (values - self.units.ideal[:, None])
        gradients = jnp.moveaxis(gradients, 0, -2)
        return terms, (signs * size)[..., None] * gradients

    def _heights(self, terms: Array) -> Array:
        assert self.shares is not None
        return terms / _TEMPERATURE + jnp.broadcast_to(self.shares, terms.shape)


def _stacked(objectives: tuple[Formula, ...]) -> Formula | tuple[Formula, ...]:
    """As one, if they differ in numbers alone."""
    kinds = [
        (jax.tree.structure(path), [(x.shape, x.dtype) for x in jax.tree.leaves(path)])
        for path in objectives
    ]
    if any(kind != kinds[0] for kind in kinds):
        return objectives
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *objectives)


def _of_each(
    f: Callable[[Formula], Any], objectives: Formula | tuple[Formula, ...] | None
) -> Any:
    """`f` of every objective, along a leading axis."""
    assert objectives is not None
    if isinstance(objectives, Formula):
        return jax.lax.map(f, objectives)
    found = [f(path) for path in objectives]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *found)


def _augmented(terms: Float[Array, "... K"]) -> Float[Array, "..."]:
    return jnp.max(terms, axis=-1) + _AUGMENTED * jnp.sum(terms, axis=-1)


def _units(values: Float[Array, "S C K"], held: Array) -> Units:
    """The lowest value of each objective, and its highest where another is lowest; at
    least a thousandth of its deviation more, for objectives that agree."""
    low = jnp.where(held[..., None], values, jnp.inf)
    best = jnp.argmin(low, axis=1)  # (S, K)
    table = jnp.take_along_axis(values, best[..., None], axis=1)  # row: which is best
    ideal = jnp.min(table, axis=1)
    spread = jnp.std(values, axis=1)
    usable = (spread > 0) & jnp.isfinite(spread)
    least = jnp.where(usable, 1e-3 * spread, 1)
    extent = jnp.max(table, axis=1) - ideal
    return Units(ideal, ideal + jnp.where(extent > least, extent, least))
