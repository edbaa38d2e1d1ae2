"""What must hold for a posterior to exist, and the sentences where it does not."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from .._hyper.checks import finite_positive, must_be_finite, must_be_variance
from .._hyper.parameters import must_be_valid, valid
from .._kernels.kernel import AbstractKernel
from .jitter import no_factor


def what_holds(
    kernel: AbstractKernel,
    X: Float[Array, "N D"],
    y: Float[Array, " N"],
    noise_var: Float[Array, "..."],
    has_factor: Bool[Array, ""],
    weights: Float[Array, " U"],
) -> Bool[Array, " K"]:
    """Of each sentence of `what_must_hold`, in its order, whether it holds."""
    y_ok, X_ok, weights_ok = (jnp.all(jnp.isfinite(a)) for a in (y, X, weights))
    noise_ok = jnp.all(finite_positive(noise_var))
    return jnp.stack([y_ok, noise_ok, valid(kernel), X_ok, has_factor, weights_ok])


def what_must_hold(
    call: str, kernel: AbstractKernel, jitter: float | None, X: Float[Array, "N D"]
) -> list[str]:
    """The sentences to raise where it does not. The first says the cause: what comes
    later may only follow from it."""
    weights = (
        f"`{call}` must find finite weights: `mean_fn(X)` or the kernel holds NaN or "
        "inf, or y over the noise is beyond the type. Look at `mean_fn(X)`, at "
        "`kernel(X, X)`, and at the units of y."
    )
    return [
        must_be_finite(f"{call}(y=...)"),
        must_be_variance(f"{call}(noise_var=...)"),
        must_be_valid(call, kernel),
        must_be_finite("GPPrior(X=...)"),
        no_factor(call, jitter, X),
        weights,
    ]
