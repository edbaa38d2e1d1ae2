"""What states a Gaussian process, whatever inputs it is looked at in."""

from collections.abc import Callable

from .._hyper.checks import as_jitter
from .._kernels.kernel import AbstractKernel, as_kernel
from .mean import as_mean_fn


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
