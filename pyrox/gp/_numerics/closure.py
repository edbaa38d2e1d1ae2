"""What a function reads from outside its arguments.

`jax.jit` knows a function by its identity. Data that the function reads by name may
have been bound anew since, as happens in a notebook whose cells are run again, and the
compiled program would go on with the old ones. Here a function is known by what it
reads, too.
"""

import types
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from .._hyper.checks import is_traced


class Closure:
    """A function and what it reads: equal to another if none of it has changed.

    Arrays of JAX and objects count as changed if they are others, numbers, containers,
    pytrees and NumPy arrays if their contents are. Functions of the same module that it
    calls are looked into; what else an object hides is not seen.
    """

    def __init__(self, function: Callable):
        self.function = function
        leaves, self.structure = jax.tree.flatten(_reads(function, set()))
        self.traced = any(is_traced(leaf) for leaf in leaves)
        # NumPy arrays may be written to, so they are kept as they are now.
        self.leaves = [np.copy(x) if isinstance(x, np.ndarray) else x for x in leaves]

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Closure)
            and self.function is other.function
            and self.structure == other.structure
            and all(map(_same, self.leaves, other.leaves))
        )


class Programs:
    """The last few programs compiled for functions of the user's."""

    def __init__(self, build: Callable[[Callable], Callable], most: int = 8):
        self._build = build
        self._most = most
        self._kept: dict[int, tuple[Closure, Callable]] = {}

    def run(self, function: Callable, *args: Any) -> Any:
        """`build(function)(*args)`, with what was built last if nothing has changed."""
        now = Closure(function)
        if now.traced:  # a tracer must not stay behind in a cache
            return self._build(function)(*args)
        kept = self._kept.pop(id(function), None)
        program = kept[1] if kept and kept[0] == now else self._build(function)
        result = program(*args)
        # Looked at again: what the function itself changes, a counter say, is no news.
        self._kept[id(function)] = Closure(function), program
        while len(self._kept) > self._most:
            del self._kept[next(iter(self._kept))]
        return result


def _same(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, bool | int | float | complex | str | np.generic):
        return bool(a == b)
    return a is b


def _reads(function: Callable, seen: set[int]) -> Any:
    """The values that a function reads by name, those of its helpers included."""
    if not isinstance(function, types.FunctionType):
        return function  # a callable object: a pytree, or known by its identity
    seen.add(id(function))
    code, values = function.__code__, [function.__defaults__, function.__kwdefaults__]
    for cell in function.__closure__ or ():
        try:
            values.append(cell.cell_contents)
        except ValueError:  # a name that is not bound yet
            continue
    names = {name for name in _names(code) if name in function.__globals__}
    values += [function.__globals__[name] for name in sorted(names)]
    return [_look_into(value, function, seen) for value in values]


def _look_into(value: Any, reader: types.FunctionType, seen: set[int]) -> Any:
    helper = isinstance(value, types.FunctionType) and id(value) not in seen
    if helper and value.__globals__ is reader.__globals__:
        return [value, _reads(value, seen)]
    return value


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):  # a lambda or comprehension within
            yield from _names(constant)
