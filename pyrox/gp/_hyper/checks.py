"""Shapes, finiteness, positivity: the public edge, and the one form of its sentences.

A sentence names the call, says what is wanted, what came and what to do. Static facts
(rank, sizes) raise `ValueError` at trace time. A value is checked at once where it is
concrete; where it is traced it is checked at run time through `eqx.error_if`.
"""

import operator
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float

from .arrays import (
    as_float,
    as_numbers,
    as_points,
    is_traced,
    placed,
    require_single,
    require_varying,
)
from .unchecked import is_checked

Tree = TypeVar("Tree")


def common_dtype(*arrays: Array) -> np.dtype:
    """The widest float type among `arrays`; NumPy's rule, so that JAX's strict
    promotion mode does not forbid a float32 query of a float64 posterior."""
    return np.result_type(*(a.dtype for a in arrays))


def require(
    x: Array, holds: Callable[[Any], Any], sentence: str, *, at_run_time: bool = True
) -> Array:
    """Return `x` if every entry `holds`, else raise `sentence` and the first bad value.

    `holds` maps an array, NumPy's or JAX's, to booleans. A concrete value is read
    through NumPy, which compiles nothing. A traced one is checked when the program
    runs, or not at all if `at_run_time` is false: a log-density answers `-inf` instead.
    """
    if is_traced(x):
        return require_ok(x, holds(x), sentence) if at_run_time else x
    values = np.asarray(x)
    bad = ~np.asarray(holds(values))
    if bad.any():
        raise ValueError(f"{sentence} Got {_first(values, bad)}.")
    return x


def require_ok(x: Tree, ok: Array | bool, sentence: str) -> Tree:
    """Return `x` if all booleans `ok`, else raise `sentence`.

    If they are traced that is when the program runs, and never within `unchecked`.
    """
    if is_traced(ok):
        return _at_run_time(x, jnp.all(ok), 0, [sentence])
    if not np.asarray(ok).all():
        raise ValueError(sentence)
    return x


def require_all(x: Tree, holds: Bool[Array, " K"], sentences: Sequence[str]) -> Tree:
    """Return `x` if all of `holds`, else raise the sentence of the first that does not.

    One check for many, since each takes its time where a program is traced.
    """
    if is_traced(holds):
        return _at_run_time(x, jnp.all(holds), jnp.argmin(holds), sentences)
    for ok, sentence in zip(np.asarray(holds), sentences, strict=True):
        if not ok:
            raise ValueError(sentence)
    return x


def _at_run_time(x: Tree, ok: Array, which: Any, sentences: Sequence[str]) -> Tree:
    if not is_checked():
        return x
    # Equinox looks at the variables of every frame of the stack, and Python keeps what
    # it saw: to a search for leaks these are tracers that outlive their trace.
    if jax.config.jax_check_tracer_leaks:  # pyright: ignore
        return _raised_by_callback(x, ok, which, sentences)
    return eqx.branched_error_if(x, ~ok, which, sentences)


def _raised_by_callback(
    x: Tree, ok: Array, which: Any, sentences: Sequence[str]
) -> Tree:
    """What Equinox does, with a call at every run, also where all is well."""

    def look(ok, which):
        if not np.all(ok):
            raise RuntimeError(sentences[int(np.ravel(which)[np.argmin(ok)])])
        return ok

    shape, which = jax.ShapeDtypeStruct(ok.shape, ok.dtype), jnp.asarray(which)
    seen = jax.pure_callback(look, shape, ok, which, vmap_method="broadcast_all")
    # Nothing else is ever returned; without a choice the call would be left out.
    return jax.tree.map(lambda leaf: jnp.where(seen, leaf, jnp.zeros_like(leaf)), x)


def without_nan(tree: Any) -> Any:
    """Whether no floating leaf of `tree` holds a NaN; by NumPy, which compiles nothing,
    if all of it is known."""
    leaves = list(filter(_is_floating, jax.tree.leaves(tree)))
    if not any(map(is_traced, leaves)):
        return all(not np.isnan(np.asarray(leaf)).any() for leaf in leaves)
    return jnp.all(jnp.stack([~jnp.any(jnp.isnan(leaf)) for leaf in leaves]))


def require_numbers(tree: Tree, call: str) -> Tree:
    """`tree` if no floating leaf holds a NaN, else raise; at run time if traced."""
    leaves, structure = jax.tree.flatten(tree)
    sentence = f"`{call}` must hold numbers. Got NaN. Look at the hyperparameters."
    floating = [i for i, leaf in enumerate(leaves) if _is_floating(leaf)]
    if any(is_traced(leaf) for leaf in leaves):
        ok = without_nan(tree)
        leaves[floating[0]] = require_ok(leaves[floating[0]], ok, sentence)
        return jax.tree.unflatten(structure, leaves)
    for i in floating:
        require(leaves[i], lambda x: ~np.isnan(x), sentence)
    return tree


def _is_floating(leaf: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(leaf), jnp.floating)


def _first(values: np.ndarray, bad: np.ndarray) -> str:
    if values.ndim == 0:
        return f"{values}"
    index = tuple(int(i) for i in np.argwhere(bad)[0])
    return f"{values[index]} at index {index}"


def _finite(x: Any) -> Any:
    return np.isfinite(x) if isinstance(x, np.ndarray) else jnp.isfinite(x)


def finite_positive(x: Any) -> Any:
    return _finite(x) & (x > 0)


def require_finite(x: Array, call: str, *, at_run_time: bool = True) -> Array:
    return require(x, _finite, must_be_finite(call), at_run_time=at_run_time)


def must_be_finite(call: str) -> str:
    return f"`{call}` must be finite. Drop or impute NaN and inf first."


def must_be_variance(call: str) -> str:
    return (
        f"`{call}` must be a positive finite variance. For noise-free values pass a "
        "small one, such as 1e-6 times the variance of y, or 1e-3 in float32."
    )


def require_held(call: str, kernel: Any, dtype: Any) -> None:
    """Raise if a type has no number for a known hyperparameter of this kernel."""
    for value in (v for v in jax.tree.leaves(kernel) if not is_traced(v)):
        held = np.abs(np.asarray(value.astype(dtype), float))
        limits = jnp.finfo(dtype)
        bad = (held > float(limits.max)) | (held < float(limits.tiny))
        if (bad & (np.asarray(value) != 0)).any():
            raise ValueError(
                f"`{call}({jnp.dtype(dtype)})` must hold the kernel's "
                f"hyperparameters. Got {value}. Rescale y or the inputs first."
            )


def require_inside(
    X: Float[Array, "... N D"],
    call: str,
    domain: Float[Array, "... 2 D"] | None,
    fix: str,
) -> Array:
    """`X` if all of it lies in `domain`, in all of them if there are several; None
    holds everything. The sentence names the first input that lies outside."""
    if domain is None:
        return X
    if is_traced(X) or is_traced(domain):
        bounds = domain.reshape(-1, 2, X.shape[-1])
        sides = jnp.max(bounds[:, 0], axis=0), jnp.min(bounds[:, 1], axis=0)
        dtype = common_dtype(X, domain)
        lower, upper = (jnp.broadcast_to(s.astype(dtype), X.shape) for s in sides)
        points = X.astype(dtype)
        inside = jnp.all((lower <= points) & (points <= upper))
        return require_ok(X, inside, f"`{call}` must lie inside the domain. {fix}")
    points, bounds = np.asarray(X), np.asarray(domain).reshape(-1, 2, X.shape[-1])
    lower, upper = bounds[:, 0].max(axis=0), bounds[:, 1].min(axis=0)
    outside = ~((lower <= points) & (points <= upper))
    if outside.any():
        d = int(np.argwhere(outside)[0][-1])
        raise ValueError(
            f"`{call}` must lie inside the domain, input {d} from {lower[d]:.6g} to "
            f"{upper[d]:.6g}. Got {_first(points, outside)}. {fix}"
        )
    return X


def as_inputs(
    call: str, X: ArrayLike, in_size: int | None = None, *, at_run_time: bool = True
) -> Float[Array, "N D"]:
    """`X` as finite floats of shape (N, D), N of at least one, with D = `in_size`.

    Without `in_size` they are inputs that others are held to, and a matrix is factored
    at them: not in half precision. Those that follow are read in the wider type.
    """
    X = as_points(X, call)
    if X.ndim != 2:
        fix = {
            0: "For one point of one dimension pass `jnp.array([[x]])`.",
            1: "For one input dimension pass `X[:, None]`, for one point `x[None, :]`.",
        }.get(X.ndim, "Map over leading axes with `jax.vmap`.")
        raise ValueError(f"`{call}` must have shape (N, D). Got {X.shape}. {fix}")
    if X.shape[0] == 0 or X.shape[1] == 0:
        raise ValueError(
            f"`{call}` must have shape (N, D) with at least one row and one column. "
            f"Got {X.shape}. Pass at least one point."
        )
    if in_size is not None and X.shape[1] != in_size:
        raise ValueError(
            f"`{call}` must have shape (N, {in_size}), as the inputs before it have "
            f"D={in_size}. Got {X.shape}. Pass the same columns in the same order."
        )
    if in_size is None:
        require_single(call, X)
    return require_finite(X, call, at_run_time=at_run_time)


def as_observed(
    call: str, observed: ArrayLike | None, n_data: int
) -> Bool[Array, " N"] | None:
    """Which of N values were observed, as booleans of shape (N,); None is all."""
    if observed is None:
        return None
    mask = as_numbers(observed, call)
    mask = mask.copy() if isinstance(mask, np.ndarray) else mask
    if mask.dtype != bool:
        raise ValueError(
            f"`{call}` must be booleans, True where a value was observed. Got "
            f"{mask.dtype}. Pass `observed == 1` of ones and zeros, "
            f"`np.isin(np.arange({n_data}), rows)` of the numbers of rows."
        )
    if mask.shape != (n_data,):
        raise ValueError(
            f"`{call}` must have shape ({n_data},). Got {mask.shape}. Pass one boolean "
            f"for each of the {n_data} rows of X."
        )
    return placed(mask)


def where_observed(
    observed: Bool[Array, " N"] | None, x: Any, other: float
) -> np.ndarray | Array:
    """`x` with `other` in the rows that were not observed, whatever is there; by NumPy,
    which compiles nothing, if all of it is known."""
    if observed is None or x.shape != observed.shape:
        return x
    if is_traced(x) or is_traced(observed):
        return jnp.where(observed, x, jnp.full_like(x, other))
    return np.where(np.asarray(observed), x, np.asarray(other, x.dtype))


def as_values(
    call: str,
    y: ArrayLike,
    n_data: int,
    *,
    observed: Bool[Array, " N"] | None = None,
    at_run_time: bool = True,
) -> Float[Array, " N"]:
    """`y` as finite floats of shape (N,), zero where it was not observed."""
    given = where_observed(observed, as_numbers(y, call), 0.0)
    y = as_float(given, call)
    if y.shape != (n_data,):
        fix = (
            "Pass `y[:, 0]`."
            if y.shape == (n_data, 1)
            else f"Pass one value for each of the {n_data} rows of X."
        )
        raise ValueError(f"`{call}` must have shape ({n_data},). Got {y.shape}. {fix}")
    require_single(call, given)
    if observed is None:
        require_varying(call, given, y.dtype)
    elif not is_traced(given):  # which is known only if the rows are
        require_varying(call, given[np.asarray(observed)], y.dtype)
    return require_finite(y, call, at_run_time=at_run_time)


def as_noise(
    call: str,
    noise_var: ArrayLike,
    n_data: int,
    *,
    observed: Bool[Array, " N"] | None = None,
    at_run_time: bool = True,
) -> Float[Array, "..."]:
    """`noise_var` as positive finite variances of shape () or (N,), one where no value
    was observed."""
    noise_var = where_observed(observed, as_numbers(noise_var, call), 1.0)
    noise_var = as_float(noise_var, call)
    require_single(call, noise_var)
    if noise_var.shape not in ((), (n_data,)):
        raise ValueError(
            f"`{call}` must have shape () or ({n_data},). Got {noise_var.shape}. "
            "Pass one variance for all points, or one for each."
        )
    sentence = must_be_variance(call)
    return require(noise_var, finite_positive, sentence, at_run_time=at_run_time)


def as_jitter(call: str, jitter: float) -> float:
    """`jitter` as a static non-negative number."""
    if is_traced(jitter):
        raise ValueError(
            f"`{call}` must be a fixed number. Got a traced value. Pass what is to be "
            "learnt as `noise_var`."
        )
    value = float(jitter)
    if not (np.isfinite(value) and value >= 0):
        raise ValueError(
            f"`{call}` must be a non-negative finite part of the kernel's variance. "
            f"Got {value}. Leave it out, or pass 1e-6, say."
        )
    return value


def as_count(call: str, n: int, least: int = 1, *, even: bool = False) -> int:
    """`n` as a static count."""
    wanted = f"{'an even' if even else 'a'} whole number of at least {least}"
    try:
        count = operator.index(n)
    except TypeError:  # a float, a string, or a value traced by jit
        raise ValueError(
            f"`{call}` must be {wanted}, known before tracing. Got {n!r}."
        ) from None
    if count < least:
        raise ValueError(f"`{call}` must be {wanted}. Got {count}. Pass {least}.")
    if even and count % 2:
        raise ValueError(
            f"`{call}` must be {wanted}: each frequency gives one sine and one cosine. "
            f"Got {count}. Pass {count + 1}."
        )
    return count
