"""More values for what has been conditioned: the factor grows by their block.

With A the covariance of what was observed, B that of it with the new values and C that
of those, noise included, and S = C - B^T A^-1 B what is new in them,

    [A   B]^-1 [r]   [v - A^-1 B w]
    [B^T C]    [s] = [      w     ],   v = A^-1 r,   w = S^-1 (s - B^T v).

So nothing is asked of the old data but their weights v and their factor, and s - B^T v
is the new values less what was predicted of them (Rasmussen & Williams 2006, eqs. A.11
to A.13).
"""

from typing import NamedTuple

from jaxtyping import Array, ArrayLike, Bool, Float, Real

from .._hyper.checks import as_inputs, as_noise, as_values
from .._solvers.cholesky import (
    AbstractFactor,
    ExtendedFactor,
    checked_factor,
    extended,
    insert,
)


class NewData(NamedTuple):
    """Values of f at more inputs, y = f(X) + e, e ~ N(0, noise_var)."""

    X: Float[Array, "Q D"]
    y: Float[Array, " Q"]
    noise_var: Float[Array, "..."]


def as_new_data(
    call: str,
    X: Real[ArrayLike, "Q D"],
    y: Real[ArrayLike, " Q"],
    noise_var: Real[ArrayLike, "..."],
    in_size: int,
) -> NewData:
    """The data, their shapes and what is known of them checked."""
    X = as_inputs(f"{call}(X=...)", X, in_size, at_run_time=False)
    n = X.shape[0]
    y = as_values(f"{call}(y=...)", y, n, at_run_time=False)
    noise_var = as_noise(f"{call}(noise_var=...)", noise_var, n, at_run_time=False)
    return NewData(X, y, noise_var)


def extend(
    root: AbstractFactor,
    cross: Float[Array, "U Q"],
    block: tuple[Float[Array, "Q Q"], Float[Array, " Q"]],
    columns: tuple[Float[Array, "U K"], Float[Array, "Q K"]],
    before: int,
) -> tuple[ExtendedFactor, Float[Array, "V K"], Bool[Array, ""]]:
    """The factor and the weights with the new values inserted before the last `before`
    of the old observations, and whether there is a factor.

    `cross` is B, `block` C without noise and the noise, and `columns` are v and the new
    values less what was predicted of them, one column a draw.

    Cost: 2 N^2 Q operations for N old observations.
    """
    whitened, (weights, surprise) = root.whiten(cross), columns
    own, ok = checked_factor(block[0] - whitened.T @ whitened, block[1])
    new = own.solve(surprise)
    # The gain is one for all columns, and for all values that a `vmap` may ask with.
    old = weights - root.unwhiten(whitened) @ new
    return extended(root, whitened, own, before), insert(old, new, before), ok
