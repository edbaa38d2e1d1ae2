"""What users pass as a kernel."""

from .kernel import AbstractKernel


def as_kernel(call: str, kernel: AbstractKernel) -> AbstractKernel:
    if not isinstance(kernel, AbstractKernel):
        raise ValueError(
            f"`{call}` must be a kernel. Got {kernel!r}. Pass `RBF()`, say, or a "
            "subclass of `AbstractKernel`."
        )
    return kernel
