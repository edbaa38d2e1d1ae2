"""What must hold for a posterior to exist, and the sentences where it does not."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from .._hyper.checks import (
    finite_positive,
    is_traced,
    must_be_finite,
    must_be_variance,
    require_all,
    require_ok,
)
from .._hyper.parameters import must_be_valid, valid
from .._kernels.kernel import AbstractKernel
from .jitter import no_factor
from .missing import kept, said


def require_posterior(
    call: str,
    process: tuple[AbstractKernel, Float[Array, "N D"], float | None],
    y: Float[Array, " N"],
    noise_var: Float[Array, "..."],
    has_factor: Bool[Array, ""],
    weights: Float[Array, " U"],
    observed: Bool[Array, " N"] | None = None,
) -> Float[Array, " U"]:
    """The weights, if they are those of a posterior of this process, its kernel, inputs
    and jitter, else raise the reason. What is known was looked at before there were
    weights; what is traced is looked at here, with one check for all of it."""
    kernel, X, jitter = process
    singular = said(no_factor(call, jitter, kept(X, observed)), observed)
    no_numbers = _no_numbers(call)
    if not is_traced(weights):
        if not has_factor:
            _require_numbers(call, kernel, X, observed)
        require_ok(weights, has_factor, singular)
        finite = bool(np.isfinite(np.asarray(weights)).all())
        return require_ok(weights, finite, no_numbers)
    # In this order: what comes later may only follow from what comes first.
    wanted = {
        must_be_finite(f"{call}(y=...)"): jnp.all(jnp.isfinite(y)),
        must_be_variance(f"{call}(noise_var=...)"): jnp.all(finite_positive(noise_var)),
        must_be_valid(call, kernel): valid(kernel),
        must_be_finite("GPPrior(X=...)"): jnp.all(jnp.isfinite(X)),
        singular + " Or the kernel returns NaN.": has_factor,
        no_numbers: jnp.all(jnp.isfinite(weights)),
    }
    in_a_model = " In a NumPyro model `gp_condition` makes it a density of -inf."
    sentences = [sentence + in_a_model for sentence in wanted]
    return require_all(weights, jnp.stack(list(wanted.values())), sentences)


def _no_numbers(call: str) -> str:
    return (
        f"`{call}` must find finite weights: `mean_fn(X)` or the kernel holds NaN or "
        "inf, or y over the noise is beyond the type. Look at `mean_fn(X)`, at "
        "`kernel(X, X)`, and at the units of y."
    )


def require_told(
    call: str,
    data: tuple[Float[Array, "Q D"], Float[Array, " Q"], Float[Array, "..."]],
    has_factor: Bool[Array, ""],
    weights: Float[Array, "..."],
) -> Float[Array, "..."]:
    """The weights, if they are those of what was told more `data`, inputs, values and
    the variances of their noise, else raise the reason."""
    X, y, noise_var = data
    no_factor = (
        f"`{call}`: the covariance of the {X.shape[0]} new values, given the old ones, "
        f"is not positive definite in {weights.dtype}: inputs coincide, or nearly, and "
        "noise_var and the jitter of the posterior are less than rounding. Pass a "
        "larger noise_var, or condition on all data at once, with a larger jitter of "
        "`GPPrior`."
    )
    if not is_traced(weights):
        require_ok(weights, has_factor, no_factor)
        finite = bool(np.isfinite(np.asarray(weights)).all())
        return require_ok(weights, finite, _no_numbers(call))
    wanted = {
        must_be_finite(f"{call}(X=...)"): jnp.all(jnp.isfinite(X)),
        must_be_finite(f"{call}(y=...)"): jnp.all(jnp.isfinite(y)),
        must_be_variance(f"{call}(noise_var=...)"): jnp.all(finite_positive(noise_var)),
        no_factor: has_factor,
        _no_numbers(call): jnp.all(jnp.isfinite(weights)),
    }
    return require_all(weights, jnp.stack(list(wanted.values())), list(wanted))


def _require_numbers(
    call: str,
    kernel: AbstractKernel,
    X: Float[Array, "N D"],
    observed: Bool[Array, " N"] | None,
) -> None:
    """Raise if the Gram matrix, computed again, does not hold numbers."""
    rows: Any = kept(np.arange(X.shape[0]), observed)
    bad = ~np.isfinite(np.asarray(kernel(X[rows], X[rows])))
    if bad.any():
        row, column = rows[np.argwhere(bad)[0]]
        raise ValueError(
            f"`{call}`: the Gram matrix must hold numbers. Got NaN or inf at "
            f"[{row}, {column}]. Look at `kernel(X, X)` and the hyperparameters."
        )
