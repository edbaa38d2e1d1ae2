"""What must hold for a posterior to exist, and the sentences where it does not."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from .._hyper.checks import finite_positive, must_be_finite, must_be_variance
from .._hyper.parameters import must_be_valid, valid
from .._kernels.kernel import AbstractKernel
from .._solvers.cholesky import CholeskyFactor, checked_factor
from .jitter import no_factor


def what_holds(
    kernel: AbstractKernel,
    X: Float[Array, "N D"],
    y: Float[Array, " N"],
    noise_var: Float[Array, "..."],
    factor: Bool[Array, "2"],
    weights: Float[Array, " U"],
) -> Bool[Array, " K"]:
    """Of each sentence of `what_must_hold`, in its order, whether it holds."""
    y_ok, X_ok, weights_ok = (jnp.all(jnp.isfinite(a)) for a in (y, X, weights))
    noise_ok = jnp.all(finite_positive(noise_var))
    before = jnp.stack([y_ok, noise_ok, valid(kernel), X_ok])
    return jnp.concatenate([before, factor, weights_ok[None]])


def explained_factor(
    K: Float[Array, "N N"], diagonal: Float[Array, "..."]
) -> tuple[CholeskyFactor, Bool[Array, "2"]]:
    """The factor of K + diagonal I; whether K holds numbers, and whether it exists."""
    root, ok = checked_factor(K, diagonal)

    def holds_numbers(K):
        return jnp.all(jnp.isfinite(K))

    # Looked at only where it failed, since that takes its time.
    held = jax.lax.stop_gradient(K)
    numbers = jax.lax.cond(ok, lambda _: jnp.asarray(True), holds_numbers, held)
    return root, jnp.stack([numbers, ok])


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
        f"`{call}`: the Gram matrix must hold numbers. Got NaN or inf. Look at "
        "`kernel(X, X)` and the hyperparameters.",
        no_factor(call, jitter, X),
        weights,
    ]
