"""Objects as JSON and arrays, and back, without a line of the file being run.

A value that is not null, a truth, a number or a string is an object of one key, which
says what it is: {"array": 3} is the fourth array, {"object": ["RBF", {...}]} one of the
classes of `known`, with its fields.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.sharding import Mesh

from .._hyper.checks import is_traced
from .._hyper.priors import PriorSpec
from .._kernels.kernel import AbstractKernel
from .._posterior.mean import ReadMean, WrappedMean
from .archive import DTYPES, damaged
from .known import class_of, fits, name_of
from .written_priors import distribution_node, read_distribution

_KEYS = "threefry2x32", "rbg", "unsafe_rbg"
_NUMBERS = "nan", "inf", "-inf"


class Writer:
    """Takes objects apart; `arrays` are those it met, each once."""

    def __init__(self):
        self.arrays: list[np.ndarray] = []
        self._seen: dict[int, tuple[int, Any]] = {}

    def node(self, value: Any, where: str = "obj") -> Any:
        if value is None or isinstance(value, bool | str | Mesh):
            return None if isinstance(value, Mesh) else value
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, int):
            return int(value)
        if isinstance(value, float):
            special = value != value or value in (np.inf, -np.inf)
            return {"number": str(value)} if special else float(value)
        if isinstance(value, jax.Array | np.ndarray):
            return self._array(value, where)
        if isinstance(value, PriorSpec):
            return {"prior": distribution_node(self, value, where)}
        if type(value) in (tuple, list):
            nodes = [self.node(v, f"{where}[{i}]") for i, v in enumerate(value)]
            return {type(value).__name__: nodes}
        if type(value) is dict and all(type(k) is str for k in value):
            nodes = {k: self.node(v, f"{where}[{k!r}]") for k, v in value.items()}
            return {"dict": nodes}
        return self._object(value, where)

    def _array(self, value: Any, where: str) -> dict[str, Any]:
        if is_traced(value):
            _refuse(where, "is being traced", "Call `save` outside of `jit` and `vmap`")
        if isinstance(value, jax.Array):
            if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
                data = self._array(jr.key_data(value), where)["array"]
                return {"key": [str(jr.key_impl(value)), data]}
            if not value.is_fully_addressable:
                what = "is spread over several processes"
                _refuse(where, what, "Gather it first")
        if value.dtype.name not in DTYPES:
            what = f"is an array of {value.dtype}"
            _refuse(where, what, "Make it an array of numbers")
        kind = "array" if isinstance(value, jax.Array) else "numpy"
        if id(value) not in self._seen:
            self._seen[id(value)] = len(self.arrays), value  # kept, and so its id
            self.arrays.append(np.asarray(value, order="C"))
        return {kind: self._seen[id(value)][0]}

    def _object(self, value: Any, where: str) -> dict[str, Any]:
        name = name_of(type(value))
        if name is None:
            _refuse_object(value, where)
        nodes = {}
        for field in dataclasses.fields(value):
            if field.name not in vars(value):
                continue
            own = getattr(value, field.name)
            # First what is in it, which may be refused for a reason of its own.
            nodes[field.name] = self.node(own, f"{where}.{field.name}")
            if not fits(own, field.type):
                what = f"is {type(own).__name__}, and not what a {name} holds"
                _refuse(f"{where}.{field.name}", what, "Save it as it was made")
        return {"object": [name, nodes]}

    def listed(self) -> list[Any]:
        """Types and shapes, in order."""
        return [[array.dtype.name, list(array.shape)] for array in self.arrays]


def _refuse_object(value: Any, where: str) -> NoReturn:
    name = type(value).__name__
    if isinstance(value, ReadMean | WrappedMean):
        what = "is a mean function of your own, which is code"
        fix = "Take `ConstantMean`, or condition on y less the mean"
    elif isinstance(value, AbstractKernel):
        what = f"is a {name}, a kernel class of your own, which is code"
        fix = (
            "Save its numbers, `save(path, {'variance': kernel.variance})`, and make "
            "kernel and posterior anew where they are loaded"
        )
    elif callable(value) and not dataclasses.is_dataclass(value):
        what = f"is {getattr(value, '__name__', name)}, which is code"
        fix = "Save what it returns"
    else:
        what = f"is a {name}"
        fix = (
            "It saves kernels, priors, posteriors, samplers, paths, fits, arrays, "
            "numbers and strings, and dicts, lists and tuples of them"
        )
    _refuse(where, what, fix)


def _refuse(where: str, what: str, fix: str) -> NoReturn:
    raise ValueError(f"`save(path, obj)` writes no code. `{where}` {what}. {fix}.")


class Reader:
    """Puts objects together from what `Writer` made."""

    def __init__(self, call: str, arrays: list[np.ndarray]):
        self.call, self._arrays = call, arrays
        self._on_device: dict[int, jax.Array] = {}

    def value(self, node: Any) -> Any:
        if node is None or isinstance(node, bool | int | float | str):
            return node
        if not (isinstance(node, dict) and len(node) == 1):
            damaged(self.call, f"there is no value {str(node)[:60]}")
        ((kind, content),) = node.items()
        match kind, content:
            case "array", int(number):
                return self._jax(number)
            case "numpy", int(number):
                return self._number(number).copy()
            case "key", [str(impl), int(number)] if impl in _KEYS:
                return self._key(impl, number)
            case "number", str(text) if text in _NUMBERS:
                return float(text)
            case "tuple", list(nodes):
                return tuple(map(self.value, nodes))
            case "list", list(nodes):
                return list(map(self.value, nodes))
            case "dict", dict(nodes):
                return {name: self.value(own) for name, own in nodes.items()}
            case "prior", content:
                return PriorSpec(read_distribution(self, content))
            case "object", [str(name), dict(nodes)]:
                return self._object(name, nodes)
        damaged(self.call, f"there is no value of the kind {kind[:40]!r}")

    def _object(self, name: str, nodes: Mapping[str, Any]) -> Any:
        kind = class_of(name)
        if kind is None:
            damaged(self.call, f"this pyrox saves no class {name[:40]!r}")
        fields = {field.name: field for field in dataclasses.fields(kind)}
        for missing in fields.keys() - nodes.keys():
            if not hasattr(kind, missing):
                damaged(self.call, f"a {name} has no {missing}")
        # As JAX rebuilds a pytree: no `__init__`, nothing of the user's.
        made = object.__new__(kind)
        for own, node in nodes.items():
            value = self.value(node)
            if own not in fields or not fits(value, fields[own].type):
                damaged(self.call, f"a {name} has no such {own[:40]!r}")
            object.__setattr__(made, own, value)
        return made

    def _number(self, number: int) -> np.ndarray:
        if not 0 <= number < len(self._arrays):
            damaged(self.call, f"there is no array {number}")
        return self._arrays[number]

    def _jax(self, number: int) -> jax.Array:
        values = self._number(number)
        if jax.dtypes.canonicalize_dtype(values.dtype) != values.dtype:
            raise ValueError(
                f"`{self.call}`: the file has {values.dtype} arrays, and JAX would cut "
                "them to 32 bits. Call "
                '`jax.config.update("jax_enable_x64", True)` first.'
            )
        if number not in self._on_device:
            with jax.ensure_compile_time_eval():
                self._on_device[number] = jax.device_put(values)
        return self._on_device[number]

    def _key(self, impl: str, number: int) -> jax.Array:
        data = self._jax(number)
        try:
            return jr.wrap_key_data(data, impl=impl)
        except (TypeError, ValueError):
            damaged(self.call, "it has a PRNG key that is none")
