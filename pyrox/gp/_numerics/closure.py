"""A user's function as it is now: what it computes, and what it closed over.

The law: a function of the user's is read, by tracing it, at each public call that is
given it; what was made by such a call keeps the function as it was. So nothing that the
function reads (a name, an attribute, an array that is written to, a model that is
fitted again) can be out of date or change under a result, and a function that computes
the same as before compiles nothing, whichever object it is.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jaxtyping import Array, PyTree

from .._hyper.checks import is_traced
from .jaxprs import Program


class Closure(eqx.Module):
    """A function that was read. What it closed over are its leaves: arrays, values
    that are traced further out, copies of NumPy's arrays."""

    consts: list[Array]
    program: Program = eqx.field(static=True)
    structure: Any = eqx.field(static=True)

    def __call__(self, *args: PyTree) -> Any:
        """The function at arguments of the shapes that it was read at.

        A float of another width is brought to that of the trace: the leaves of a path
        may have been cast since.
        """
        jaxpr = self.program.jaxpr
        consts = map(_as_traced, self.consts, jaxpr.constvars)
        leaves = map(_as_traced, jax.tree.leaves(args), jaxpr.invars)
        found = self.program(list(consts), list(leaves))
        return jax.tree.unflatten(self.structure, found)

    @property
    def traced(self) -> bool:
        """Whether it closed over a value that is unknown until a program runs."""
        return any(map(is_traced, self.consts))


def read(call: str, function: Callable, *args: PyTree) -> Closure:
    """`function` as it is now, at arguments like `args`, arrays or their shapes.

    Raises:
        ValueError: a function that needs the numbers of its arguments.
    """
    closed, shapes = _trace(call, function, *args)
    pairs = zip(closed.consts, closed.jaxpr.constvars, strict=True)
    consts = [_kept(const, variable) for const, variable in pairs]
    return Closure(consts, Program(closed.jaxpr), jax.tree.structure(shapes))


def one_of(stacked: PyTree) -> PyTree:
    """The shapes of one of what is stacked along leading axes."""

    def one(leaf):
        return jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype)

    return jax.tree.map(one, stacked)


def _trace(
    call: str, function: Callable, *args: PyTree
) -> tuple[core.ClosedJaxpr, PyTree]:
    """The jaxpr of `function`, and the shapes that it returns."""

    def fresh(*args):  # JAX keeps the trace of a function that it has seen
        return function(*args)

    try:
        return jax.make_jaxpr(fresh, return_shape=True)(*args)
    except (
        jax.errors.ConcretizationTypeError,
        jax.errors.TracerArrayConversionError,
        jax.errors.TracerIntegerConversionError,
    ) as error:
        raise ValueError(
            f"`{call}` must be a function that JAX can trace. Got one that asks for "
            "the numbers of its arguments, as NumPy and scikit-learn do. Write it in "
            "jax.numpy, or wrap what is not in `jax.pure_callback`."
        ) from error


def _kept(const: Any, variable: core.Var) -> Array:
    """`const` as an array that nobody writes to."""
    if isinstance(const, jax.Array):  # tracers too
        return const
    aval: Any = variable.aval
    return jax.device_put(np.array(const, aval.dtype))


def _as_traced(x: Any, variable: core.Var) -> Array:
    aval: Any = variable.aval
    x = jnp.asarray(x)
    return x if x.dtype == aval.dtype else x.astype(aval.dtype)
