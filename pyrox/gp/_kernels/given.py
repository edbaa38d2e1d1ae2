"""What users pass as a kernel, and as inputs to it."""

import numpy as np
from jaxtyping import Array, ArrayLike, Float

from .._hyper.arrays import placed
from .._hyper.checks import as_inputs, is_traced, require, require_ok
from .kernel import AbstractKernel


def as_kernel(call: str, kernel: AbstractKernel) -> AbstractKernel:
    if not isinstance(kernel, AbstractKernel):
        raise ValueError(
            f"`{call}` must be a kernel. Got {kernel!r}. Pass `RBF()`, say, or a "
            "subclass of `AbstractKernel`."
        )
    return kernel


def as_inputs_of(
    kernel: AbstractKernel,
    call: str,
    X: ArrayLike,
    in_size: int | None = None,
    *,
    at_run_time: bool = True,
) -> Float[Array, "N D"]:
    """`as_inputs`, of which every row keeps the rules of the kernel."""
    X = as_inputs(call, X, in_size, at_run_time=at_run_time)
    return keep_rules(kernel, call, X, at_run_time=at_run_time)


def keep_rules(
    kernel: AbstractKernel,
    call: str,
    X: Float[Array, "... D"],
    *,
    at_run_time: bool = True,
) -> Float[Array, "... D"]:
    """`X`, if every row keeps the rules of the kernel, else raise the first that is
    broken; where they are traced at run time or not at all, as in `require`."""
    for rule in kernel.rules(X if is_traced(X) else np.asarray(X)):
        sentence = f"`{call}` {rule.words}"
        if not is_traced(X):
            require(placed(rule.numbers), rule.holds, sentence)
        elif at_run_time:
            X = require_ok(X, rule.holds(rule.numbers), sentence)
    return X
