"""How far a solve by iterations came, and the sentence where that is not far enough."""

import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from .._hyper.checks import is_traced


class Convergence(eqx.Module):
    """How near a solve of A X = B came to its end.

    Attributes:
        residuals: of each column, the norm of B - A X over the largest that is allowed,
            computed from X at the end, not from what the iterations believed: at most
            one if it converged.
        n_products: how many products with A it took.
        remainder: B - A X itself, one column a right-hand side.
    """

    residuals: Float[Array, " S"]
    n_products: Int[Array, ""]
    remainder: Float[Array, "N S"]

    @property
    def converged(self) -> Bool[Array, " S"]:
        """Whether each column's residual is within what is allowed."""
        return self.residuals <= 1

    def chosen(self, index: slice | Array) -> "Convergence":
        """That of some of the columns."""
        remainder = self.remainder[:, index]
        return Convergence(self.residuals[index], self.n_products, remainder)

    def __str__(self) -> str:
        if any(is_traced(leaf) for leaf in jax.tree.leaves(self)):
            return "a solve that is being traced: its residuals are known when it runs"
        done = int(jnp.sum(self.converged))
        return (
            f"{done} of {self.residuals.size} right-hand sides solved by "
            f"{int(self.n_products)} products; the largest residual is "
            f"{float(jnp.max(self.residuals)):.2g} of what the tolerance allows"
        )


def warn_if_not_converged(
    call: str, found: Convergence | None, stacklevel: int
) -> None:
    """Say so if a solve ended above its tolerance. What is traced cannot be looked
    at."""
    if found is None or is_traced(found.residuals):
        return
    worst = float(np.max(np.asarray(found.residuals)))
    if not worst <= 1:
        dtype = found.residuals.dtype
        wider = (
            'float64 data under `jax.config.update("jax_enable_x64", True)`, '
            if dtype == np.float32
            else ""
        )
        warnings.warn(
            f"`{call}`: after {int(found.n_products)} products in {dtype} the solver "
            f"was left with a residual {worst:.2g} times what its tolerance allows. "
            f"Pass {2 * worst:.2g} times the tolerance, {wider}a larger noise_var, or "
            "let it work longer, with a larger rank or max_products.",
            RuntimeWarning,
            stacklevel=stacklevel,
        )
