"""Mean functions: any callable (N, D) -> (N,), carried as a pytree."""

import copy
import pickle
import re
import sys
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Real

from .._hyper.checks import as_float, is_traced, require_finite
from .._numerics.closure import Closure, read
from .._numerics.jaxprs import equations


class ZeroMean(eqx.Module):
    """The mean function that is zero everywhere."""

    def __call__(self, X: Float[Array, "N D"]) -> Float[Array, " N"]:
        return jnp.zeros(X.shape[0], X.dtype)


class ConstantMean(eqx.Module):
    """The mean function with one value everywhere, which `fit` trains.

    Args:
        value: a number, in units of the outputs.

    Raises:
        ValueError: a value of another shape, or not finite.

    Example:
        >>> import jax.numpy as jnp
        >>> from pyrox.gp import RBF, ConstantMean, GPPrior, fit
        >>> X = jnp.linspace(0, 1, 10)[:, None]
        >>> y = 7 + jnp.sin(9 * X[:, 0])
        >>> prior = GPPrior(RBF(), X, ConstantMean())
        >>> found = fit(prior, y, 0.01, fixed=["noise_var"], progress=False)
        >>> bool(abs(found.prior.mean_fn.value - 7) < 0.5)
        True
    """

    value: Float[Array, ""]

    def __init__(self, value: Real[ArrayLike, ""] = 0.0):
        call = "ConstantMean(value)"
        self.value = require_finite(as_float(value, call), call)
        if self.value.shape:
            raise ValueError(
                f"`{call}` must be one number. Got shape {self.value.shape}. Pass a "
                "function (N, D) -> (N,) for a mean that varies."
            )

    def __call__(self, X: Float[Array, "N D"]) -> Float[Array, " N"]:
        return jnp.full(X.shape[0], self.value)


class WrappedMean(eqx.Module):
    """A callable with its arrays as leaves, and all else (a plain function) static.

    So a prior with any mean function may be passed into `jit`.
    """

    arrays: Any
    rest: Any = eqx.field(static=True)

    def __call__(self, X: Float[Array, "N D"]) -> Float[Array, " N"]:
        return eqx.combine(self.arrays, self.rest)(X)

    def __getstate__(self) -> dict[str, Any]:
        _require_pickle(self.rest)
        return vars(self)

    def __deepcopy__(self, memo: dict) -> "WrappedMean":
        # Not by the state for pickle: any function can be copied.
        return WrappedMean(*copy.deepcopy((self.arrays, self.rest), memo))


class ReadMean(eqx.Module):
    """A mean function as it was when a public call read it, for any number of rows.

    N is not known then, so it is read at one row and mapped over rows, once for each
    width of float that may be asked for.
    """

    module: Any  # what the user passed, if that is a pytree of arrays
    readings: tuple[Closure, ...]
    one_by_one: bool = eqx.field(static=True)
    source: "_Source" = eqx.field(static=True)

    def __call__(self, X: Float[Array, "N D"]) -> Float[Array, " N"]:
        own = X.dtype.itemsize
        wide = [r for r in self.readings if _row(r).dtype.itemsize >= own]
        reading = wide[0] if wide else self.readings[-1]
        leaves = jax.tree.leaves(self.module)

        def value(x):
            return reading(leaves, x)

        rows = X.astype(_row(reading).dtype)
        return jax.lax.map(value, rows) if self.one_by_one else jax.vmap(value)(rows)

    def __getattr__(self, name: str) -> Any:
        """The user's own fields."""
        if name == "module" or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.module, name)

    def __reduce__(self) -> tuple:
        """A program has no lasting form, so the function goes by its name, to be read
        where it is loaded; what it closed over goes as it is."""
        texts = [_text(reading) for reading in self.readings]
        consts = [reading.consts for reading in self.readings]
        rows = [_row(reading) for reading in self.readings]
        return _unpickled, (self.source.like(), self.module, rows, consts, texts)

    def __deepcopy__(self, memo: dict) -> "ReadMean":
        return jax.tree.map(lambda leaf: copy.deepcopy(leaf, memo), self)


class _Source:
    """The function that was read, for pickle; no part of what is compared."""

    def __init__(self, mean_fn: Callable | None):
        self.mean_fn = mean_fn

    def like(self) -> Callable:
        if self.mean_fn is None:
            raise pickle.PicklingError(
                "A mean function that closed over values traced by `jit`, `vmap` or "
                "`grad` cannot be pickled. Pass an Equinox module with those values "
                "as its fields."
            )
        return self.mean_fn

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Source)

    def __hash__(self) -> int:
        return 0


def read_mean(mean_fn: Callable, X: Float[Array, "N D"]) -> Callable:
    """`mean_fn` as it is now, for any inputs like `X`. Once read it stays as it is."""
    if isinstance(mean_fn, ZeroMean | ConstantMean | ReadMean):
        return mean_fn
    shapes = jax.tree.map(_shape, mean_fn)
    leaves, structure = jax.tree.flatten(shapes)

    def all_rows(leaves, X):
        return mean_at(jax.tree.unflatten(structure, leaves), X)

    whole = read("mean_fn", all_rows, leaves, _shape(X))
    widths = {X.dtype, np.dtype("float32"), np.dtype(jnp.result_type(float))}
    readings = []
    for dtype in sorted(widths, key=lambda dtype: dtype.itemsize):
        try:
            readings.append(_read_row(shapes, X.shape[1], dtype))
        except Exception:
            # A function of one width only: others are brought to that.
            if dtype == X.dtype:
                raise
    traced = any(reading.traced for reading in readings)
    own = mean_fn.arrays if isinstance(mean_fn, WrappedMean) else mean_fn
    mean = ReadMean(
        module=jax.tree.map(_kept, own),
        readings=tuple(readings),
        one_by_one=_only_one_by_one(readings[0], leaves),
        # One that closed over a tracer may not outlive it in the cache of a `jit`.
        source=_Source(None if traced else shapes),
    )
    if not any(map(is_traced, (X, *jax.tree.leaves((whole, mean))))):
        _require_of_points(whole, mean, X)
    return mean


def _require_of_points(whole: Closure, mean: ReadMean, X: Float[Array, "N D"]) -> None:
    """Raise if the value at a row depends on the others: then there is no function."""
    with jax.ensure_compile_time_eval():
        together, alone = _two_ways(whole, mean, X)
    together, alone = np.asarray(together), np.asarray(alone)
    with np.errstate(invalid="ignore"):  # NaN and inf have a sentence of their own
        apart, size = np.max(np.abs(together - alone)), np.max(np.abs(together))
    if apart > np.sqrt(np.finfo(alone.dtype).eps) * size:
        raise ValueError(
            "`mean_fn(X)` must give each row the value that it gives that row alone. "
            f"Got {together[:3]} for the first rows of {X.shape[0]} together, and "
            f"{alone[:3]} one by one. Take means and scales from fixed data, not from "
            "the X that it is asked for."
        )


@jax.jit
def _two_ways(
    whole: Closure, mean: ReadMean, X: Float[Array, "N D"]
) -> tuple[Array, Array]:
    return whole(jax.tree.leaves(mean.module), X), mean_at(mean, X)


def own_arrays(mean_fn: Callable) -> Any:
    """The user's own arrays, those that a fit trains: not what it closed over."""
    return mean_fn.module if isinstance(mean_fn, ReadMean) else mean_fn


def _kept(leaf: Any) -> Array:
    """`leaf` as an array that nobody writes to."""
    return leaf if isinstance(leaf, jax.Array) else jax.device_put(np.array(leaf))


def _shape(x: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype)


def _read_row(like: Callable, in_size: int, dtype: Any) -> Closure:
    """The function of one row of the mean function with these shapes of arrays."""
    leaves, structure = jax.tree.flatten(like)

    def value(leaves, x):
        mean_fn = jax.tree.unflatten(structure, leaves)
        values = jnp.asarray(mean_fn(x[None]))
        if values.ndim == 0:  # `X.squeeze()` of one row
            return values.astype(x.dtype)
        return mean_at(lambda _: values, x[None])[0]

    return read("mean_fn", value, leaves, jax.ShapeDtypeStruct((in_size,), dtype))


def _row(reading: Closure) -> jax.ShapeDtypeStruct:
    """The shape and the type of the row that a reading is of."""
    return _shape(reading.program.jaxpr.invars[-1].aval)


def _only_one_by_one(reading: Closure, leaves: list[Any]) -> bool:
    """Whether it calls the host in a way that cannot be mapped."""
    names = (eqn.primitive.name for eqn in equations(reading.program.jaxpr))
    if not any(name.endswith("callback") for name in names):
        return False
    row = _row(reading)
    rows = jax.ShapeDtypeStruct((2, *row.shape), row.dtype)
    try:
        jax.eval_shape(jax.vmap(reading, (None, 0)), leaves, rows)
    except (NotImplementedError, ValueError):
        return True
    return False


def _text(reading: Closure) -> str:
    return re.sub(r"0x[0-9a-f]+", "", str(reading.program.jaxpr))


def _unpickled(
    like: Callable, module: Any, rows: list[Any], consts: list[Any], texts: list[str]
) -> ReadMean:
    readings = [_read_row(like, row.shape[0], row.dtype) for row in rows]
    if [_text(reading) for reading in readings] != texts:
        raise pickle.UnpicklingError(
            "The mean function of what was pickled computes something else now. Pickle "
            "it anew, or load it with the code that it was made with."
        )
    pairs = zip(readings, consts, strict=True)
    kept = [Closure(own, r.program, r.structure) for r, own in pairs]
    one_by_one = _only_one_by_one(kept[0], jax.tree.leaves(like))
    return ReadMean(module, tuple(kept), one_by_one, _Source(like))


def _require_pickle(function: Any) -> None:
    """Raise if pickle cannot write `function` and no pickler that can is loaded."""
    try:
        pickle.dumps(function)
    except Exception as error:
        if any(name.endswith(("cloudpickle", "dill")) for name in sys.modules):
            return
        raise pickle.PicklingError(
            f"A mean function must be found by its name to be pickled. Got {function}. "
            "Define it by `def` at the top of a module, or as an Equinox module."
        ) from error


def as_mean_fn(call: str, mean_fn: Callable | None) -> Callable:
    """`mean_fn` as a pytree of arrays: a module of arrays stays what it is."""
    if mean_fn is None:
        return ZeroMean()
    if not callable(mean_fn):
        raise ValueError(
            f"`{call}` must be a callable (N, D) -> (N,). Got {mean_fn!r}. For a "
            "constant pass `ConstantMean(value)`."
        )
    if all(_is_array(leaf) for leaf in jax.tree.leaves(mean_fn)):
        return mean_fn
    return WrappedMean(*eqx.partition(mean_fn, _is_array))


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray)


def mean_at(mean_fn: Callable, X: Float[Array, "N D"]) -> Float[Array, " N"]:
    """The mean function's values at `X`, of the dtype of `X`."""
    values = jnp.asarray(mean_fn(X))
    if values.shape != X.shape[:1]:
        fix = "Return `...[:, 0]`." if values.ndim == 2 else "Return one value a row."
        raise ValueError(
            f"`mean_fn(X)` must have shape ({X.shape[0]},) for X of shape {X.shape}. "
            f"Got {values.shape}. {fix}"
        )
    return values.astype(X.dtype)
