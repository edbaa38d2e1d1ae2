"""The number of an output as a column of the input."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from .._hyper.checks import is_traced, require
from .kernel import Rule


class Outputs(NamedTuple):
    """Numbers of outputs, and which of them there are; those that are not stand as
    zero."""

    numbers: Int[Array, " N"]
    exist: Bool[Array, " N"]

    def only(self, values: Float[Array, "N ..."]) -> Float[Array, "N ..."]:
        """`values`, NaN in the rows of outputs that do not exist: what was not looked
        at before, as it is traced, is no number afterwards."""
        rows = self.exist.reshape(-1, *(1,) * (values.ndim - 1))
        return jnp.where(rows, values, jnp.full_like(values, jnp.nan))


def output_rule(kind: str, column: Any, n_outputs: int) -> Rule:
    """That a column holds numbers of outputs, for a kernel of this kind."""
    last = n_outputs - 1
    words = (
        f"must hold the number of an output, a whole number from 0 to {last}, in the "
        f"column that `{kind}` sees."
    )

    def holds(x):
        return (x >= 0) & (x <= last) & (x % 1 == 0)

    return Rule(column, holds, words)


def as_outputs(kind: str, column: Float[Array, " N"], n_outputs: int) -> Outputs:
    """A column as numbers of outputs; raises where it is known and holds others."""
    rule = output_rule(kind, column, n_outputs)
    if not is_traced(column):
        require(column, rule.holds, f"`{kind}(X)`: X {rule.words}")
    exist = jnp.asarray(rule.holds(column))
    numbers = jnp.where(exist, column, jnp.zeros_like(column)).astype(jnp.int32)
    return Outputs(numbers, exist)
