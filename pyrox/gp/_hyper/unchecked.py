"""Programs without run-time checks: what may leave the process.

A check of a traced value is a call back into Python, which a program cannot take along
when it is exported. So checks can be left out while a program is traced.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar

import jax

from .arrays import is_traced

P = ParamSpec("P")
R = TypeVar("R")

# A context variable: other threads, which trace programs of their own, keep theirs.
_checked: ContextVar[bool] = ContextVar("pyrox_checked", default=True)


@contextlib.contextmanager
def unchecked() -> Iterator[None]:
    """Leaves run-time checks out of the programs that are traced within.

    For `jax.export`, which refuses the callbacks that checks are, and for the last
    microseconds. Shapes, types and concrete values are checked as ever. What is known
    only when the program runs no longer is: NaN or inf in inputs and data, a point
    outside the domain of a path, hyperparameters and noise outside theirs, and a matrix
    that has no factor. There the program answers NaN, or an ordinary number far off the
    grid that a path was drawn for, without a word.

    A function keeps what it was traced with: give `jax.jit` a new function within,
    `jax.jit(lambda X: paths(X))`, not one that ran with checks before. After the block
    checks are back. Another thread is not concerned.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jax import export
        >>> from pyrox.gp import RBF, GPPrior, PathwiseSampler, unchecked
        >>> prior = GPPrior(RBF(), X=jnp.zeros((1, 1)))
        >>> paths = PathwiseSampler(prior, 64).sample_paths(jax.random.key(0), 5)
        >>> with unchecked():
        ...     program = export.export(jax.jit(lambda X: paths(X)))(jnp.zeros((3, 1)))
        >>> program.call(jnp.zeros((3, 1))).shape
        (5, 3)
    """
    token = _checked.set(False)
    try:
        yield
    finally:
        _checked.reset(token)


def is_checked() -> bool:
    """Whether what is traced now has run-time checks."""
    return _checked.get()


def jit(
    fn: Callable[P, R], by: Callable[..., Any] = jax.jit, **options: Any
) -> Callable[P, R]:
    """`jax.jit`, or `by`, for what may call users' functions, bases or kernels.

    These may hold checks. JAX knows a function by its identity, and a program traced
    within `unchecked` must not answer for one with checks: so here are two.
    """

    @functools.wraps(fn)
    def twin(*args: P.args, **kwargs: P.kwargs) -> R:
        return fn(*args, **kwargs)

    checked, bare = by(fn, **options), by(twin, **options)

    @functools.wraps(fn)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        return (checked if is_checked() else bare)(*args, **kwargs)

    return run


def one_step(fn: Callable[P, R], **options: Any) -> Callable[P, R]:
    """`fn`, as one compiled program where an argument is traced.

    A call within a user's function costs its trace; of a program JAX keeps the trace,
    checks included. `fn` on known values looks at them outside its programs.
    """
    compiled = jit(fn, **options)

    @functools.wraps(fn)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        known = not any(map(is_traced, jax.tree.leaves((args, kwargs))))
        return (fn if known else compiled)(*args, **kwargs)

    return run
