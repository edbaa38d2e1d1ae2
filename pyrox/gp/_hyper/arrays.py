"""What users pass, as an array of numbers: containers, dates, types, resolution.

NumPy, JAX, nested lists, and whatever has `__array__`: pandas, polars, torch on a CPU.
What is not a real number, or is one only in appearance (a value under a mask), and what
the float type cannot hold apart gets a sentence.
"""

import datetime
from typing import Any, NoReturn, TypeVar

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, ArrayLike, Float

Tree = TypeVar("Tree")

# Rounding counts as visible above this part of the spacing, on average. Daily data in
# decimal years, near 2020 in float32, move by .011 and pass; hourly ones by .27.
_VISIBLE = 0.03
# Spacings are means over so many gaps: two random values may lie arbitrarily close.
_GAPS = 8
# Beyond so many values a kernel spans many of them, so that the scale to compare with
# is that many spacings, and for values at random at least this part of their range: of
# 10^6 points in one degree of latitude, float32 keeps all that matters.
_DENSE, _DENSE_SPACINGS, _FINEST = 1000, 12, 10_000
# Values as close as this many roundings of their own type are one, computed twice.
_ROUNDINGS = 16
# Pairs much closer than the rest are harmless, unless this part of all values merges.
_MERGED = 0.4


def is_traced(x: Any) -> bool:
    """Whether the value of `x` is unknown until the program runs."""
    return isinstance(x, jax.core.Tracer)


def as_numbers(x: Any, call: str = "") -> np.ndarray | Array:
    """`x` as an array of real numbers of the type they came in, NumPy's or JAX's."""
    array = _as_array(x, call)
    if isinstance(array, np.ndarray) and array.dtype.kind == "O":
        array = _numbers_of_objects(array, call)
    real = any(jnp.issubdtype(array.dtype, kind) for kind in _REAL)
    if real and array.dtype.kind != "m":  # a duration is an integer to NumPy
        return array
    _refuse(call, array.dtype)


_REAL = (jnp.floating, jnp.integer, jnp.bool_)


def as_float(x: ArrayLike, call: str = "") -> Float[Array, "..."]:
    """`x` as a floating array that keeps its width; integers become the default float.

    Python numbers become strong types: a weakly typed leaf would change its type, and
    so recompile every user, at the first update by an optimiser.
    """
    x = as_numbers(x, call)
    if getattr(x, "weak_type", False) and not is_traced(x):
        x = np.asarray(x)  # made strong
    floating = jnp.issubdtype(x.dtype, jnp.floating) and x.dtype.itemsize <= 8
    dtype = x.dtype.newbyteorder("=") if floating else jnp.result_type(float)
    dtype = jax.dtypes.canonicalize_dtype(dtype)
    if isinstance(x, np.ndarray):
        with np.errstate(over="ignore"):  # inf: below
            return placed(np.array(x, dtype))
    ready = x.dtype == dtype and not getattr(x, "weak_type", False)
    return x if ready else jnp.asarray(x, dtype=dtype)


def placed(x: np.ndarray | Array) -> Array:
    """`x`, which nobody changes later, as an array of JAX's, without the program a
    shape that `jnp.asarray` compiles. It stays known where a function is traced, and is
    checked at once there, too."""
    if not isinstance(x, np.ndarray):
        return x
    with jax.ensure_compile_time_eval():
        return jax.device_put(x)


def as_points(X: ArrayLike, call: str = "") -> Float[Array, "..."]:
    """`as_float` of inputs (..., D), whose rows the float type must tell apart."""
    given = as_numbers(X, call)
    points = as_float(given)
    require_resolved(call, given, points.dtype)
    return points


def cast_floats(tree: Tree, dtype: DTypeLike) -> Tree:
    """`tree` with its floating leaves of another type."""

    def cast(leaf):
        floating = jnp.issubdtype(leaf.dtype, jnp.floating)
        return leaf.astype(dtype) if floating and leaf.dtype != dtype else leaf

    return jax.tree.map(cast, tree)


def _as_array(x: Any, call: str) -> np.ndarray | Array:
    if isinstance(x, jax.Array):
        return x
    if hasattr(x, "__jax_array__"):
        return jnp.asarray(x)
    leaves = jax.tree.leaves(x) if isinstance(x, list | tuple) else [x]
    masked = sum(int(np.ma.getmaskarray(leaf).sum()) for leaf in leaves if _masks(leaf))
    if masked:
        raise ValueError(
            f"{_this(call)} must have a value everywhere. Got {masked} masked. Drop "
            "those rows from all data first: `keep = ~np.ma.getmaskarray(y)`, then "
            "`X[keep]`, `y[keep].data`."
        )
    if any(isinstance(leaf, jax.Array) for leaf in leaves):
        return jnp.asarray(x)
    try:
        return np.asarray(x)
    except Exception as error:  # of any library: ragged rows, a tensor on a device
        raise ValueError(
            f"{_this(call)} must be an array of numbers. Got a {type(x).__name__} that "
            f"NumPy cannot read: {error} Pass what `np.asarray` takes."
        ) from error


def _masks(leaf: Any) -> bool:
    return isinstance(leaf, np.ma.MaskedArray)


def _numbers_of_objects(array: np.ndarray, call: str) -> np.ndarray:
    """Columns of several types, and pandas' nullable ones, come as objects."""
    for element in array.flat:
        name = type(element).__name__
        if isinstance(element, _DATES):
            _refuse(call, np.dtype("m8" if hasattr(element, "days") else "M8"))
        if isinstance(element, np.datetime64 | np.timedelta64):
            _refuse(call, element.dtype)
        if element is None or name == "NAType":
            raise ValueError(
                f"{_this(call)} must have a value everywhere. Got {element!r}. Drop "
                "the rows where one is missing from all data first, or impute it."
            )
        if isinstance(element, complex | np.complexfloating):
            _refuse(call, np.dtype(complex))
        if isinstance(element, str | bytes) or not hasattr(element, "__float__"):
            _refuse(call, np.dtype(object), f"{element!r}, a {name}")
    try:
        return array.astype(np.float64)
    except (TypeError, ValueError):  # arrays in an array
        _refuse(call, np.dtype(object))


_DATES = (datetime.date, datetime.timedelta)


def _refuse(call: str, dtype: Any, got: str = "") -> NoReturn:
    """The sentence of numbers that are none."""
    kind = dtype.kind if isinstance(dtype, np.dtype) else ""
    fix = "Pass an array of floats or integers."
    if kind == "M":
        got = "dates"
        fix = 'Count in a unit, days say: `(t - t[0]) / np.timedelta64(1, "D")`.'
    elif kind == "m":
        got, fix = "durations", 'Divide by a unit: `t / np.timedelta64(1, "D")`, say.'
    elif kind == "c":
        fix = "Pass real and imaginary parts as two functions."
    raise ValueError(f"{_this(call)} must be real numbers. Got {got or dtype}. {fix}")


def _this(call: str) -> str:
    return f"`{call}`" if call else "An array"


def require_single(call: str, given: np.ndarray | Array) -> None:
    """Raise if these numbers come in half precision, in which nothing is factored."""
    if jnp.issubdtype(given.dtype, jnp.floating) and given.dtype.itemsize < 4:
        raise ValueError(
            f"`{call}` must be at least float32, in which a covariance matrix can be "
            f"factored. Got {given.dtype}. Pass `x.astype(np.float32)`."
        )


def require_resolved(call: str, given: np.ndarray | Array, dtype: Any) -> None:
    """Raise if the rows of (..., D) inputs come too close to each other for `dtype`.

    Rows that differ must not become one, nor move by a visible part of their spacing.
    Read in NumPy, and only where a cast loses something.

    Cost: a pass over the inputs, and a sort of each column that may lose.
    """
    if not _loses(given, dtype):
        return
    for d, column in enumerate(np.asarray(given).reshape(-1, given.shape[-1]).T):
        values = _exact(column)
        spacing = _lost_spacing(values, dtype)
        if spacing > 0:
            low, high = values.min(), values.max()
            raise ValueError(
                f"{_this(call)} must be inputs that {np.dtype(dtype)} tells apart. "
                f"Input {d}, from {low:.10g} to {high:.10g}, has values "
                f"{spacing:.3g} apart, which the cast from {given.dtype} merges or "
                f"moves visibly. Subtract an origin, `X[:, {d}] - X[0, {d}]`, rescale, "
                'or call `jax.config.update("jax_enable_x64", True)` first.'
            )


def require_varying(call: str, given: np.ndarray | Array, dtype: Any) -> None:
    """Raise if values differ by so little that their differences are lost in `dtype`.

    Cost: a few passes over the values.
    """
    if not _loses(given, dtype):
        return
    values = _exact(np.asarray(given).reshape(-1))
    if not values.size or np.ptp(values) <= _roundings(values):
        return
    centre = values.mean()
    spread = np.abs(values - centre).mean()
    if np.abs(_cast(values, dtype) - values).mean() > _VISIBLE * spread:
        raise ValueError(
            f"`{call}` must be values that {np.dtype(dtype)} tells apart. They are "
            f"{spread:.3g} from their mean {centre:.10g} on average, which the cast "
            f"from {given.dtype} loses. Subtract their mean, rescale, or call "
            '`jax.config.update("jax_enable_x64", True)` first.'
        )


def _loses(given: np.ndarray | Array, dtype: Any) -> bool:
    """Whether a cast changes any of these numbers; unknown ones count as kept."""
    if is_traced(given) or given.dtype == dtype:
        return False
    values = _widened(np.asarray(given))
    return not np.array_equal(_cast(values, dtype), values)


def _cast(values: np.ndarray, dtype: Any) -> np.ndarray:
    with np.errstate(over="ignore"):
        return values.astype(dtype)


def _widened(values: np.ndarray) -> np.ndarray:
    """`values` in a type of NumPy's that holds them all."""
    wide = np.promote_types(values.dtype, np.float64)
    if values.dtype.kind in "iu" and values.dtype.itemsize == 8:
        large = np.abs(values.astype(wide)).max(initial=0) >= 2**53
        wide = np.dtype(np.longdouble) if large else wide
    return values.astype(wide, copy=False)


def _exact(values: np.ndarray) -> np.ndarray:
    """The finite ones, widened. NaN and inf have a sentence of their own."""
    values = _widened(values)
    return values[np.isfinite(values)]


def _roundings(values: np.ndarray) -> Any:
    """The difference of two values that only their own rounding may have made."""
    return _ROUNDINGS * np.finfo(values.dtype).eps * np.abs(values).max()


def _lost_spacing(values: np.ndarray, dtype: Any) -> Any:
    """The spacing of a column that a cast loses, or zero."""
    n = values.size
    if n < 2:
        return 0
    if n > 10 * _DENSE:  # spare the sort
        scale = _DENSE_SPACINGS * np.ptp(values) / n
        if np.abs(_cast(values, dtype) - values).max() <= _VISIBLE * scale:
            return 0
    values = np.sort(values)
    values = values[np.diff(values, prepend=-np.inf) > _roundings(values)]
    if values.size < 2:
        return 0
    cast, gaps = _cast(values, dtype), np.diff(values)
    dense = values.size > _DENSE
    n_gaps = min(_GAPS, gaps.size)
    spacings = (values[n_gaps:] - values[:-n_gaps]) / n_gaps
    scales = _scales(spacings, gaps) if dense else spacings
    window = np.full(n_gaps + 1, 1 / (n_gaps + 1))
    moved = np.convolve(np.abs(cast - values), window, "valid") > _VISIBLE * scales
    if moved.sum() >= moved.size / 10:
        return np.median(spacings[moved])
    merged = np.diff(cast) <= 0
    if not dense and merged.sum() >= _MERGED * values.size:
        return np.median(gaps[merged])
    return 0


def _scales(spacings: np.ndarray, gaps: np.ndarray) -> np.ndarray:
    """What a kernel resolves at the least in a column of many values: some spacings,
    and where they lie at random, not on a grid, a part of the whole range."""
    lower, upper = np.quantile(gaps, (0.25, 0.75))
    floor = 0 if lower >= 0.5 * upper else gaps.sum() / _FINEST
    return np.maximum(_DENSE_SPACINGS * spacings, floor)
