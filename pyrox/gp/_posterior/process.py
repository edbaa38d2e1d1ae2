"""What states a Gaussian process, whatever inputs it is looked at in."""

from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
from jaxtyping import Array, Float

from .._hyper.checks import as_jitter
from .._hyper.priors import sample_hyperparameters
from .._kernels.given import as_kernel
from .._kernels.kernel import AbstractKernel
from .mean import as_mean_fn, read_mean

Prior = TypeVar("Prior")


def as_process(
    call: str, kernel: AbstractKernel, mean_fn: Callable | None, jitter: float | None
) -> tuple[AbstractKernel, Callable, float | None]:
    """The kernel, the mean function and the jitter of `call`, each checked; no jitter
    stands for what suits the type."""
    return (
        as_kernel(f"{call}(kernel=...)", kernel),
        as_mean_fn(f"{call}(mean_fn=...)", mean_fn),
        None if jitter is None else as_jitter(f"{call}(jitter=...)", jitter),
    )


def resolved(prior: Prior, X: Float[Array, "N D"]) -> Prior:
    """`prior` as a public call goes on with it: with values for its hyperparameters and
    the mean function as it is now, for inputs like `X`."""
    prior = sample_hyperparameters(prior)
    return with_mean_read(prior, X)


def with_mean_read(prior: Any, X: Float[Array, "N D"]) -> Any:
    """`prior` with its mean function as it is now."""
    mean_fn = read_mean(prior.mean_fn, X)
    if mean_fn is prior.mean_fn:
        return prior
    return eqx.tree_at(lambda p: p.mean_fn, prior, mean_fn)
