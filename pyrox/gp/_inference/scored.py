"""A proper score of leave-one-out predictions, as what a fit minimises."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._hyper.parameters import valid
from .._hyper.unchecked import unchecked
from .._numerics.closure import Closure, read
from .._posterior.derivatives import Derivatives
from .._posterior.exact import GPPrior, assemble
from .._posterior.missing import only
from .._solvers.cholesky import guarded_factor


def read_score(
    objective: Callable, X: Float[Array, "N D"], y: Float[Array, " N"]
) -> Closure:
    """The user's `objective` as it is now, of moments, inputs and values like these."""
    call = "fit(objective=...)"
    if not callable(objective):
        raise ValueError(
            f"`{call}` must be a score of leave-one-out predictions. Got "
            f"{objective!r}. Pass `crps` or `log_score`, or `lambda f, X, y: "
            "crps(f, X, y)`, where f is a pair (mean, var)."
        )
    like = jax.ShapeDtypeStruct(y.shape, y.dtype)
    inputs = jax.ShapeDtypeStruct(X.shape, y.dtype)
    # Trials of a search may be anything; what fails is no optimum.
    with unchecked():
        score = read(call, objective, (like, like), inputs, like)
    shape = jax.eval_shape(score, (like, like), inputs, like)
    if getattr(shape, "shape", None) != y.shape or shape.dtype != y.dtype:
        raise ValueError(
            f"`{call}` must return a score for each value, {y.shape} of {y.dtype}. Got "
            f"{shape}. Do not average over them."
        )
    return score


def total_score(
    score: Closure,
    prior: GPPrior,
    data: tuple[Array, Array, Derivatives | None],
    observed: Array | None,
) -> Float[Array, ""]:
    """The sum over the values that were observed, inf where there is none."""
    y, noise_var, derivatives = data
    posterior, ok = assemble(prior, y, noise_var, derivatives, guarded_factor, observed)
    n = y.shape[0]
    residual, var = posterior._conditional().leave_one_out()
    each = score((y - residual[:n], var[:n]), prior.X, y)
    total = jnp.sum(only(observed, each))
    ok = ok & valid(prior.kernel) & jnp.all(noise_var > 0) & jnp.isfinite(total)
    return jnp.where(ok, total, jnp.inf)
