"""pyrox turns Gaussian-process posteriors into functions."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import gp as gp

__version__ = version("pyrox-gp")


def __getattr__(name: str) -> Any:
    """`pyrox.gp`, imported when it is first used.

    So `python -m pyrox` can still choose how JAX's libraries start.
    """
    if name == "gp":
        return import_module(".gp", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
