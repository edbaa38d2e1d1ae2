"""What the posterior would say of each value, had it not been told it."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from . import moments
from .by_solver import require_factor
from .exact import ConditionedGP


def leave_one_out(
    posterior: ConditionedGP,
) -> tuple[Float[Array, " N"], Float[Array, " N"]]:
    """Mean and variance of each value given all the others, noise included.

    For scores and calibration where nothing is held out: `pit(leave_one_out(posterior),
    None, y)`, and the same of `crps`. From the factor at hand, for all values together.
    Of a value that was not observed both are NaN.

    Raises:
        ValueError: another posterior; one by an iterative solver, or stacked.

    Cost: O(N^3).

    Source: Rasmussen & Williams 2006, eq. 5.12.

    Example:
        >>> import jax.numpy as jnp
        >>> from pyrox.gp import RBF, GPPrior, leave_one_out, pit
        >>> X, y = jnp.linspace(0, 1, 9)[:, None], jnp.sin(jnp.linspace(0, 6, 9))
        >>> posterior = GPPrior(RBF(1.0, 0.2), X).condition(y, noise_var=0.01)
        >>> pit(leave_one_out(posterior), None, y).shape
        (9,)
    """
    call = "leave_one_out"
    if not isinstance(posterior, ConditionedGP) or posterior.weights.ndim != 1:
        raise ValueError(
            f"`{call}(posterior)` must be one ConditionedGP. Got a "
            f"{type(posterior).__name__}, perhaps stacked. Pass what "
            "`GPPrior.condition` returns; map over stacked ones with `jax.vmap`."
        )
    require_factor(call, posterior.inverse)
    y, seen = posterior.y, posterior.observed
    residual, var = moments.leave_one_out(posterior._conditional())
    mean, var = y - residual[: y.shape[0]], var[: y.shape[0]]
    if seen is None:
        return mean, var
    return jnp.where(seen, mean, jnp.nan), jnp.where(seen, var, jnp.nan)
