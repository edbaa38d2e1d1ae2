"""Where paths are lowest, or highest: what a search of them found."""

import equinox as eqx
from jaxtyping import Array, Bool, Float, Int


class PathOptima(eqx.Module):
    """The optimum of every path, and how sure it is; what `optimize_paths` returns.

    Draws of the optimum: the points are distributed as the minimiser is, given the
    data, and the values as the minimum.

    A pytree of arrays: it is returned from `jit` and stacked by `vmap`.
    """

    X: Float[Array, "S D"]
    """The optimum's place, one row a path."""
    values: Float[Array, " S"]
    """The value of each path there."""
    converged: Bool[Array, " S"]
    """Whether the slope vanishes there, but for what a bound holds; among choices all
    are compared, so it is True."""
    at_bound: Bool[Array, "S D"]
    """Which inputs are at a bound; among choices none is."""
    violation: Float[Array, " S"]
    """By how much the worst constraint is above zero: zero where all hold, and where
    there are none."""
    choice: Int[Array, " S"] | None
    """Among choices, which row."""
    n_evaluations: Int[Array, ""]
    """At how many points each path was evaluated."""

    @property
    def feasible(self) -> Bool[Array, " S"]:
        """Whether all constraints hold."""
        return self.violation <= 0

    def __len__(self) -> int:
        return self.values.shape[0]
