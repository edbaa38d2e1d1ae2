"""Gaussian-process posteriors as functions.

`__init__.pyi` beside this file lists the names, in the order in which one uses them. A
name is imported when it is first used: who draws from a posterior does not wait for
NumPyro and the optimisers.
"""

import re
from importlib import import_module
from pathlib import Path
from typing import Any

import jax

_STUB = Path(__file__).with_suffix(".pyi").read_text()
_ROOMS = {
    name: room
    for room, names in re.findall(
        r"^from (\S+) import (\([^)]*|.+)", _STUB, re.MULTILINE
    )
    for name in re.findall(r"as (\w+)", names)
}

__all__ = list(_ROOMS)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Also when first used inside `jit`: constants of a library are not traced.
    with jax.ensure_compile_time_eval():
        value = getattr(import_module(_ROOMS[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
