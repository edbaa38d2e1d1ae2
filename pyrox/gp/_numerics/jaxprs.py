"""Programs of JAX that compare by what they compute."""

import types
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.extend import core


class Program:
    """A jaxpr that compares and hashes by its content.

    JAX knows a jaxpr by its identity, and a function traced anew gives a new one. As a
    static field this one shares the compiled program of all that are equal to it:
    operations, types, and numbers to their last digit. Functions inside, of callbacks
    and of custom derivatives, are equal if their code and what they close over is.
    """

    def __init__(self, jaxpr: core.Jaxpr):
        self.jaxpr = jaxpr
        self._content = _content(jaxpr)

    def __call__(self, consts: list[Any], args: list[Any]) -> list[Any]:
        return core.jaxpr_as_fun(core.ClosedJaxpr(self.jaxpr, consts))(*args)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Program) and self._content == other._content

    def __hash__(self) -> int:
        return hash(self._content)


class _Content:
    """A key with its hash, which would be computed at every look into a cache."""

    def __init__(self, key: tuple):
        self.key = key
        self.hash = hash(key)

    def __eq__(self, other: object) -> bool:
        return self is other or (
            isinstance(other, _Content)
            and self.hash == other.hash
            and self.key == other.key
        )

    def __hash__(self) -> int:
        return self.hash


class _Same:
    """An object that is equal to itself alone; being kept, its id is not used again."""

    def __init__(self, value: Any):
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


def equations(jaxpr: core.Jaxpr) -> Iterator[core.JaxprEqn]:
    """All equations of a jaxpr, those of its parts included."""
    for eqn in jaxpr.eqns:
        yield eqn
        for part in jax.tree.leaves(list(eqn.params.values()), is_leaf=_is_jaxpr):
            if _is_jaxpr(part):
                yield from equations(getattr(part, "jaxpr", part))


def _is_jaxpr(value: Any) -> bool:
    return isinstance(value, core.Jaxpr | core.ClosedJaxpr)


# Functions under `jit` bring the same jaxpr at each trace of what calls them.
_known: weakref.WeakKeyDictionary[core.Jaxpr, _Content] = weakref.WeakKeyDictionary()


def _content(jaxpr: core.Jaxpr) -> _Content:
    found = _known.get(jaxpr)
    if found is None:
        found = _known[jaxpr] = _Content(_jaxpr_key(jaxpr))
    return found


def _jaxpr_key(jaxpr: core.Jaxpr) -> tuple:
    """The equations, with each variable known by the order in which it appears."""
    numbers: dict[Any, int] = {}

    def atom(x):
        if isinstance(x, core.Literal):
            return x.aval, _bits(x.val)
        return x.aval, numbers.setdefault(x, len(numbers))

    heads = tuple(map(atom, (*jaxpr.constvars, *jaxpr.invars)))
    eqns = tuple(
        (
            eqn.primitive,
            tuple(map(atom, eqn.invars)),
            tuple((name, _key(value)) for name, value in sorted(eqn.params.items())),
            tuple(map(atom, eqn.outvars)),
        )
        for eqn in jaxpr.eqns
    )
    return heads, eqns, tuple(map(atom, jaxpr.outvars))


def _bits(value: Any) -> tuple:
    value = np.asarray(value)
    return value.dtype, value.shape, value.tobytes()


def _key(value: Any) -> Any:
    """Something hashable that is equal for equal parts of programs only."""
    if isinstance(value, core.Jaxpr):
        return _content(value)
    if isinstance(value, core.ClosedJaxpr):
        return _content(value.jaxpr), tuple(map(_key, value.consts))
    if isinstance(value, tuple | list):
        return type(value), tuple(map(_key, value))
    if isinstance(value, dict):
        return tuple((_key(k), _key(v)) for k, v in value.items())
    if isinstance(value, jax.Array):
        return _Same(value)  # nobody writes to it
    if isinstance(value, float | complex | np.ndarray | np.generic):
        return type(value), _bits(value)  # -0.0 is not 0.0
    if isinstance(value, types.FunctionType) or _is_wrapped(value):
        return tuple(_function_key(f) for f in _users(value, set()))
    if hasattr(value, "callback_func"):  # JAX's wrapper of a host callback
        return _key(value.callback_func), value.in_tree
    try:
        hash(value)
    except TypeError:
        return _Same(value)
    return type(value), value


def _is_wrapped(value: Any) -> bool:
    """Whether it is a function in the wrapping that JAX gives to custom rules."""
    return hasattr(value, "f") and hasattr(value, "transforms")


def _users(function: Any, seen: set[int]) -> Iterator[Callable]:
    """The functions that JAX's wrappers, made anew at each trace, are made around."""
    if isinstance(function, tuple):
        for part in function:
            yield from _users(part, seen)
    elif _is_wrapped(function):
        yield from _users(function.f, seen)
        for _, parameters in function.transforms:
            yield from _users(parameters, seen)
    elif isinstance(function, types.FunctionType) and id(function) not in seen:
        seen.add(id(function))
        module = function.__module__ or ""
        if not (module.startswith("jax.") and "<locals>" in function.__qualname__):
            yield function
            return
        for cell in function.__closure__ or ():
            yield from _users(cell.cell_contents, seen)


def _function_key(function: Callable) -> Any:
    if not isinstance(function, types.FunctionType):
        return _Same(function)
    cells = tuple(_cell_key(cell) for cell in function.__closure__ or ())
    defaults = function.__defaults__, function.__kwdefaults__
    return function.__code__, _Same(function.__globals__), _key(defaults), cells


def _cell_key(cell: types.CellType) -> Any:
    try:
        value = cell.cell_contents
    except ValueError:  # a name that is not bound yet
        return _Same(cell)
    if isinstance(value, bool | int | float | complex | str | bytes | None):
        return _key(value)
    return _Same(value)
