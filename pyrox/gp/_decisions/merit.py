"""What a search of paths goes down: a path in its own units, and its constraints."""

import abc
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, DTypeLike, Float, Int, Shaped

from .._hyper.arrays import cast_floats
from .._numerics.blocks import block_rows
from .._paths.formula import Formula, evaluate
from .._paths.own_points import rounding_of, values_and_gradients
from .box import Box

_PENALTY = 100.0  # of a squared violation, in units of spreads, while starts race


class Values(eqx.Module):
    """A path and its constraints at some points, as they are."""

    of_path: Float[Array, "S R"]
    of_constraints: Float[Array, "K S R"]

    @property
    def violation(self) -> Float[Array, "S R"]:
        """The largest of the constraints above zero, zero where all hold."""
        worst = jnp.max(self.of_constraints, axis=0, initial=0)
        return jnp.where(jnp.isnan(self.of_path), jnp.inf, worst)


class Scales(eqx.Module):
    """The deviation of each function over the box: its own unit."""

    of_path: Float[Array, " S"]
    of_constraints: Float[Array, "S K"]


T = TypeVar("T", bound="AbstractTarget")


class AbstractTarget(eqx.Module):
    """S functions to be brought low in a box, where others are at most zero."""

    constraints: eqx.AbstractVar[tuple[Formula, ...]]
    box: eqx.AbstractVar[Box]
    units: eqx.AbstractVar[Any]
    """What the candidates told of the function, with a leading axis of S; or None."""
    shares: eqx.AbstractVar[Any]
    """At a kink of the function, of what is below it; None where there are no kinks."""

    @property
    @abc.abstractmethod
    def functions(self) -> tuple[Formula, ...]:
        """All that is evaluated."""

    @property
    @abc.abstractmethod
    def n_paths(self) -> int:
        """S."""

    @property
    @abc.abstractmethod
    def sign(self) -> float:
        """-1 where the function is minus the user's."""

    @abc.abstractmethod
    def some(self: T, rows: Int[Array, " B"]) -> T:
        """Some of the paths; of an ensemble some of the draws."""

    @abc.abstractmethod
    def seen(self, X: Float[Array, "C D"]) -> tuple[Any, Values]:
        """Its units by these candidates, and its values at them."""

    @abc.abstractmethod
    def with_units(self: T, units: Any) -> T:
        """The target that knows its units."""

    @abc.abstractmethod
    def at_own(self, X: Float[Array, "S R D"]) -> Values:
        """Each function at points of its own."""

    @abc.abstractmethod
    def slopes_at(
        self, X: Float[Array, "S R D"]
    ) -> tuple[Float[Array, "S R"], Float[Array, "S R D"]]:
        """The function, any kinks smoothed, and its gradients."""

    @abc.abstractmethod
    def rounding(self, X: Float[Array, "C D"], scales: Scales) -> Float[Array, " S"]:
        """What rounding moves the merit by."""

    @abc.abstractmethod
    def shares_at(self, X: Float[Array, "S R D"]) -> Any:
        """Better shares, if these points are minima with those it has."""


class Target(AbstractTarget):
    """S paths to be brought low (or high) in a box, where others are at most zero."""

    paths: Formula
    constraints: tuple[Formula, ...]
    box: Box
    maximize: bool = eqx.field(static=True)
    units: None = None
    shares: None = None

    @property
    def functions(self) -> tuple[Formula, ...]:
        return self.paths, *self.constraints

    @property
    def n_paths(self) -> int:
        weights = self.paths.feature_weights
        return weights.size // weights.shape[-1]

    @property
    def sign(self) -> float:
        return -1.0 if self.maximize else 1.0

    def astype(self, dtype: DTypeLike) -> "Target":
        """The same in another width of float."""

        return cast_floats(self, dtype)

    def some(self, rows: Int[Array, " B"]) -> "Target":
        own, *others = (some_of(path, rows) for path in self.functions)
        return Target(
            paths=own,
            constraints=tuple(others),
            box=self.box,
            maximize=self.maximize,
        )

    def seen(self, X: Float[Array, "C D"]) -> tuple[None, Values]:
        return None, self.at_all(X)

    def with_units(self, units: None) -> "Target":
        return self

    def at_all(self, X: Float[Array, "C D"]) -> Values:
        """Every path at every point of the box."""
        return Values(
            self.sign * at_all(self.paths, X),
            stack([at_all(path, X) for path in self.constraints], X, self.n_paths),
        )

    def at_own(self, X: Float[Array, "S R D"]) -> Values:
        """Each path at points of its own."""
        values, _ = at_own(self.paths, X)
        rest = [at_own(path, X)[0] for path in self.constraints]
        return Values(self.sign * values, stack(rest, X, self.n_paths))

    def slopes_at(
        self, X: Float[Array, "S R D"]
    ) -> tuple[Float[Array, "S R"], Float[Array, "S R D"]]:
        values, gradients = at_own(self.paths, X)
        return self.sign * values, self.sign * gradients

    def rounding(self, X: Float[Array, "C D"], scales: Scales) -> Float[Array, " S"]:
        """What rounding moves the merit by."""
        return rounding_of(self.paths, X).reshape(-1) / scales.of_path

    def shares_at(self, X: Float[Array, "S R D"]) -> None:
        return None


class Slopes(NamedTuple):
    """Functions at points of the unit cube and their gradients, in units of their
    spreads."""

    path: Float[Array, "S R"]
    constraints: Float[Array, "K S R"]
    of_path: Float[Array, "S R D"]
    of_constraints: Float[Array, "K S R D"]


def slopes(
    target: AbstractTarget, scales: Scales, unit: Float[Array, "S R D"]
) -> Slopes:
    """Of the path and its constraints, at points of each path's own."""
    box = target.box
    X = box.inside(unit)
    # Whole numbers stay where they are.
    width = jnp.where(box.is_whole(box.width), 0, box.width)[None, None]

    def scaled(found, scale):
        values, gradients = found
        scale = scale[:, None]
        return values / scale, gradients * width / scale[..., None]

    value, gradient = scaled(target.slopes_at(X), scales.of_path)
    pairs = zip(target.constraints, scales.of_constraints.T, strict=True)
    rest = [scaled(at_own(path, X), scale) for path, scale in pairs]
    none = jnp.zeros((0, *value.shape), unit.dtype)
    above = jnp.stack([c for c, _ in rest]) if rest else none
    none = jnp.zeros((0, *gradient.shape), unit.dtype)
    return Slopes(
        value, above, gradient, jnp.stack([g for _, g in rest]) if rest else none
    )


def merit(
    target: AbstractTarget,
    scales: Scales,
    multipliers: Float[Array, "K S R"] | None = None,
    penalty: Float[Array, "S R"] | float = _PENALTY,
) -> Callable[[Array], tuple[Array, Array]]:
    """The function of points of the unit cube, (S, R, D), that a search goes down: the
    path plus the augmented Lagrangian's terms of its constraints, with its gradients
    (Nocedal & Wright 2006, section 17.3)."""

    def function(unit):
        here = slopes(target, scales, unit)
        above = here.constraints
        known = jnp.zeros_like(above) if multipliers is None else multipliers
        weight = jnp.broadcast_to(penalty, above.shape[1:]).astype(above.dtype)
        push = jnp.maximum(known + weight[None] * above, 0)
        held = jnp.sum(push**2 - known**2, axis=0) / (2 * weight)
        pull = jnp.sum(push[..., None] * here.of_constraints, axis=0)
        return here.path + held, here.of_path + pull

    return function


def with_shares(target: T, shares: Any) -> T:
    """The target with other shares."""
    return eqx.tree_at(lambda t: t.shares, target, shares, is_leaf=lambda x: x is None)


def spreads(values: Values) -> Scales:
    """The deviation over candidates; one where a function is level."""

    def spread(x):
        deviation = jnp.std(x, axis=-1)
        usable = (deviation > 0) & jnp.isfinite(deviation)
        return jnp.where(usable, deviation, 1)

    return Scales(spread(values.of_path), spread(values.of_constraints).T)


def ranked(values: Values, scales: Scales) -> Float[Array, "S R"]:
    """A number that is lower the better a point is to start from: the path where the
    constraints hold, and above that the violation."""
    low = values.of_path / scales.of_path[:, None]
    above = values.of_constraints / scales.of_constraints.T[..., None]
    excess = jnp.sum(jnp.maximum(above, 0), axis=0)
    rank = low + _PENALTY * excess
    rank = jnp.where(jnp.isnan(rank), jnp.inf, rank)
    # XLA picks the first few of float32 ten times faster than of float64.
    above_best = rank - jnp.min(rank, axis=1, keepdims=True)
    return above_best.astype(jnp.float32)


def is_better(
    one: tuple[Array, Array], other: tuple[Array, Array]
) -> Bool[Array, "..."]:
    """Of two (violation, value): less violation first, then the lower value."""
    return (one[0] < other[0]) | ((one[0] == other[0]) & (one[1] < other[1]))


def index_of_best(
    value: Float[Array, "S R"], violation: Float[Array, "S R"]
) -> Int[Array, " S"]:
    """Of several points of each path that of the least violation, then value."""
    least = jnp.min(violation, axis=1, keepdims=True)
    return jnp.argmin(jnp.where(violation == least, value, jnp.inf), axis=1)


def at_index(
    x: Shaped[Array, "S R ..."], index: Int[Array, " S"]
) -> Shaped[Array, "S ..."]:
    """Of several of each path the one of that number."""
    wide = index.reshape(-1, *(1,) * (x.ndim - 1))
    return jnp.squeeze(jnp.take_along_axis(x, wide, axis=1), axis=1)


def stack(rows: list[Array], X: Array, n_paths: int) -> Array:
    """Values of constraints, of which there may be none."""
    empty = jnp.zeros((0, n_paths, X.shape[-2]), X.dtype)
    return jnp.stack(rows) if rows else empty


def at_all(path: Formula, X: Float[Array, "C D"]) -> Float[Array, "S C"]:
    """Every path at every point, in blocks."""
    if path.feature_weights.ndim > 2:  # of many draws, one after the other
        values = jax.lax.map(lambda one: at_all(one, X), path)
        return values.reshape(-1, X.shape[0])
    n_columns = path.feature_weights.shape[-1] + path.update_weights.shape[-1]
    size = block_rows("optimize_paths", None, n_columns, X.dtype)
    return evaluate(path, X, block_size=size)


def at_own(path: Formula, X: Float[Array, "S R D"]) -> tuple[Array, Array]:
    """Each path at points of its own, and its gradients; a path may have several rows
    of points, one after the other."""
    lead = path.feature_weights.shape[:-1]
    values, gradients = values_and_gradients(path, X.reshape(*lead, -1, X.shape[-1]))
    return values.reshape(X.shape[:-1]), gradients.reshape(X.shape)


def some_of(path: Formula, rows: Int[Array, " B"]) -> Formula:
    """Some of the paths, or of the draws."""
    if path.feature_weights.ndim > 2:
        return jax.tree.map(lambda leaf: leaf[rows], path)
    return path.chosen(rows)
