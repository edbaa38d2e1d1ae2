"""How well a fit predicts data that were held out."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from .._hyper.checks import as_values
from .._hyper.likelihood import as_outcomes, require_support
from .._kernels.given import as_inputs_of
from .._posterior.likelihood import given_sites
from .any_rows import law_of_any_rows
from .observation import log_predictive_density
from .sparse_problem import SparseProblem, require_known
from .sparse_report import SparseFit
from .trained import NOISE

_BLOCK = 2**14  # rows at a time: the quadrature holds 64 numbers of each


class HeldOut(NamedTuple):
    """Data that a fit is not told."""

    X: Float[Array, "N D"]
    y: Shaped[Array, " N"]


def as_held_out(
    held_out: Any, problem: SparseProblem, likelihood: Callable | None
) -> HeldOut | None:
    """The data held out, checked before the fit takes its time."""
    if held_out is None:
        return None
    call = "fit_sparse"
    if not isinstance(held_out, tuple | list) or len(held_out) != 2:
        raise ValueError(
            f"`{call}(held_out=...)` must be a pair (X, y) of data held out. Got a "
            f"{type(held_out).__name__}. Pass `held_out=(X_test, y_test)`."
        )
    require_known(held_out)
    of_X, of_y = f"{call}(held_out=(X, ...))", f"{call}(held_out=(..., y))"
    in_size = problem.X.shape[1]
    X = as_inputs_of(problem.prior.kernel, of_X, held_out[0], in_size)
    n, given = X.shape[0], problem.law.given()
    if likelihood is None:
        if given[NOISE].ndim:
            raise ValueError(
                f"`{call}(held_out=...)` needs one noise_var for all data. Got one for "
                f"each, of shape {given[NOISE].shape}. Leave held_out out, and pass "
                "`log_predictive_density` the noise of the data held out."
            )
        return HeldOut(X, as_values(of_y, held_out[1], n))
    y = as_outcomes(of_y, held_out[1], n)
    law = law_of_any_rows(
        call,
        given_sites(likelihood, given),
        jax.ShapeDtypeStruct((n,), problem.X.dtype),
        np.asarray(y)[0],
        f"it is asked for {n} that were held out",
        "Leave held_out out, and pass `log_predictive_density` a likelihood of these.",
    )
    require_support(of_y, law, y)
    return HeldOut(X, y)


def mean_log_density(found: SparseFit, held: HeldOut) -> Float[Array, ""]:
    """The mean of log p(y_i | data), a block of rows at a time."""
    law = found.likelihood
    noise_var = found.noise_var if law is None else None
    total, n = 0.0, held.X.shape[0]
    for start in range(0, n, _BLOCK):
        rows = slice(start, start + _BLOCK)
        data = found, held.X[rows], held.y[rows], law
        densities = log_predictive_density(*data, noise_var=noise_var)
        total += float(np.sum(np.asarray(densities, float)))
    return jnp.asarray(total / n, found.elbo.dtype)
