"""Hyperparameters as people read them: numbers where they are few, shapes elsewhere."""

from typing import Any

import jax
import numpy as np
import wadler_lindig as wl

from .checks import is_traced

_FEW = 6  # numbers that are shown one by one


def array_text(x: Any) -> str:
    """One number or a few as they are, more by type and shape. Never raises."""
    if not (hasattr(x, "shape") and hasattr(x, "dtype")):
        return repr(x)
    shape = wl.array_summary(tuple(x.shape), str(x.dtype), kind=None).text
    few = len(x.shape) < 2 and np.prod(x.shape, dtype=int) <= _FEW
    if is_traced(x) or not few or not isinstance(x, jax.Array | np.ndarray):
        return shape
    try:
        values = np.asarray(x)
        if values.ndim == 0:
            return number_text(values[()])
        return f"[{' '.join(map(number_text, values))}]"
    except Exception:  # the shape of an array, elsewhere, deleted or a key
        return shape


def number_text(x: Any) -> str:
    """Six digits."""
    return f"{float(x):.6g}" if np.asarray(x).dtype.kind == "f" else str(x)


def distribution_text(d: Any) -> str:
    """A distribution of NumPyro as the call that makes it. Never raises."""
    name = type(d).__name__
    inner = getattr(d, "base_dist", None)
    if name == "ExpandedDistribution":
        return f"{distribution_text(inner)}.expand({list(d.batch_shape)})"
    if name == "Independent":
        return f"{distribution_text(inner)}.to_event({d.reinterpreted_batch_ndims})"
    try:
        arguments = {a: getattr(d, a) for a in d.arg_constraints if hasattr(d, a)}
        texts = [f"{a}={_argument(value)}" for a, value in arguments.items()]
    except Exception:  # a distribution of one's own may have what it likes
        return name
    return f"{name}({', '.join(texts)})"


def _argument(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, int | float) else array_text(value)
