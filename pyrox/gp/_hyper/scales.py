"""The scales of data, and hyperparameters set to values of that size."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .parameters import AbstractParametrized, hyperparameter_fields, replace

Module = TypeVar("Module", bound=AbstractParametrized)


class Scales(NamedTuple):
    """How far the inputs of a function spread, column by column, and how much it
    varies."""

    inputs: Float[Array, " D"]
    variance: Float[Array, ""]

    @property
    def length(self) -> Float[Array, ""]:
        """How far the inputs spread, all columns together."""
        most = jnp.max(self.inputs)  # apart, since its square may overflow
        return most * jnp.sqrt(jnp.sum((self.inputs / most) ** 2))

    @property
    def lengths(self) -> Float[Array, " D"]:
        """One length for each input: at these, all columns together weigh as much as
        one of them does alone."""
        return len(self.inputs) ** 0.5 * self.inputs

    def times(self, length: Any, variance: Any) -> "Scales":
        return Scales(length * self.inputs, variance * self.variance)

    def of_unit_variance(self) -> "Scales":
        return Scales(self.inputs, jnp.ones_like(self.variance))


def part(scales: Callable[[Any, Scales], Scales]) -> Any:
    """A field of a module that holds another, which sees data of other scales.

    Args:
        scales: of the outer module and the scales of its data, those of the inner.
    """
    return eqx.field(metadata={"part": scales})


def at_scales(module: Module, scales: Scales) -> Module:
    """`module` with each hyperparameter that has a `scale` at its size for such data;
    the others keep their values. Modules within it are set, too."""
    own = {
        f.name: _value(module, f, scales)
        for f in hyperparameter_fields(module)
        if f.metadata["scale"] is not None
    }
    module = replace(module, own)
    fields = {f.name: f for f in dataclasses.fields(module)}

    def visit(path, node):
        if not isinstance(node, AbstractParametrized):
            return node
        rule = fields[path[0].name].metadata.get("part")
        return at_scales(node, scales if rule is None else rule(module, scales))

    return jax.tree_util.tree_map_with_path(
        visit,
        module,
        is_leaf=lambda x: x is not module and isinstance(x, AbstractParametrized),
    )


def _value(
    module: AbstractParametrized, field: dataclasses.Field, scales: Scales
) -> Array:
    current, scale = getattr(module, field.name), field.metadata["scale"]
    if callable(scale):
        value = jnp.asarray(scale(module, scales))
    else:
        per_input = current.shape[-1:] == scales.inputs.shape
        length = scales.lengths if per_input else scales.length
        value = {
            "input": length,
            "input^2": length**2,
            "1/input": 1 / length,
            "output^2": scales.variance,
            "output^2/input^2": scales.variance / length**2,
        }[scale]
    return jnp.broadcast_to(value, current.shape).astype(current.dtype)
