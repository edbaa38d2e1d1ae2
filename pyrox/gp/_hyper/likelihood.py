"""A likelihood: a function from latent values f to a NumPyro distribution of the data,
one datum for each entry of f, or each column of the values of several latent functions.
What it must be, and what its data must be."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Shaped

from .arrays import as_numbers, is_traced, placed
from .checks import as_values, require, require_ok
from .parameters import describe


@contextlib.contextmanager
def as_numpyro_is() -> Iterator[None]:
    """NumPyro mixes types and ranks, whatever the user has set."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def as_distribution(
    call: str, likelihood: Callable, f: Float[Array | np.ndarray, "... N"]
) -> Any:
    """`likelihood(f)`, if it is a distribution of one number for each entry of f, (N,),
    or each column of f, (P, N)."""
    from numpyro.distributions import Distribution

    call = f"{call}(likelihood=...)"
    if isinstance(likelihood, Distribution) or not callable(likelihood):
        raise ValueError(
            f"`{call}` must be a function from latent values to a NumPyro "
            f"distribution. Got a {type(likelihood).__name__}. Pass "
            "`lambda f: dist.Bernoulli(logits=f)`, say."
        )
    with as_numpyro_is():
        law = likelihood(f)
    if not isinstance(law, Distribution):
        raise ValueError(
            f"`{call}` must return a NumPyro distribution. Got a {type(law).__name__}. "
            "Return one, `dist.Bernoulli(logits=f)` say, and leave the data to y."
        )
    if law.event_shape:
        raise ValueError(
            f"`{call}` must return a distribution of one number for each latent value. "
            f"Got event shape {law.event_shape}. Leave out `to_event`."
        )
    if law.batch_shape != f.shape[-1:]:
        raise ValueError(_must_be_of_data(call, f.shape, law.batch_shape))
    return law


def _must_be_of_data(call: str, given: tuple[int, ...], got: tuple[int, ...]) -> str:
    if len(given) == 1:
        return (
            f"`{call}` must return a distribution of batch shape {given}, that of the "
            f"latent values it is given. Got {got}. Compute its parameters from f, "
            "entry by entry."
        )
    return (
        f"`{call}` must return a distribution of batch shape {given[-1:]}, one for "
        f"each column of the values it is given, {given}: a row for each latent "
        f"function, a column for each datum. Got {got}. Return "
        "`dist.Categorical(logits=f.T)` or `dist.Normal(f[0], jnp.exp(f[1]))`, say."
    )


def require_columns(
    call: str, likelihood: Callable, like: jax.ShapeDtypeStruct
) -> None:
    """Raise if a likelihood takes the rows of f, (P, N), for data where P = N, so that
    no shape tells: of one row more it then makes one datum more."""
    if len(like.shape) == 1 or like.shape[0] != like.shape[1]:
        return
    n = like.shape[1]
    try:
        with as_numpyro_is():
            law = likelihood(np.zeros((n + 1, n), like.dtype))
    except Exception:  # it takes P rows and no others, so it knows them by name
        return
    if law.batch_shape != (n,):
        raise ValueError(_must_be_of_data(call, like.shape, law.batch_shape))


def without_sites(
    call: str, likelihood: Callable, f: Float[Array | np.ndarray, " N"]
) -> Any:
    """The same of a likelihood that is called more than once, so it may not make sites
    of a NumPyro model."""
    from numpyro import handlers

    apart = handlers.block(), handlers.trace(), handlers.seed(rng_seed=0)
    with apart[0], apart[1] as sites, apart[2]:
        law = as_distribution(call, likelihood, f)
    if sites:
        raise ValueError(
            f"`{call}(likelihood=...)` must be a function of latent values alone. Got "
            f"one that makes NumPyro sites, {sorted(sites)}. Sample them before, and "
            "close over their values."
        )
    return law


def as_outcomes(
    call: str, y: ArrayLike, n_data: int, *, at_run_time: bool = True
) -> Shaped[Array, " N"]:
    """`y` as N finite numbers; whole ones by type stay so, for distributions that count
    by them."""
    values = as_values(call, y, n_data, at_run_time=at_run_time)
    given = as_numbers(y, call)
    if jnp.issubdtype(given.dtype, jnp.floating):
        return values
    return placed(given).astype(jnp.int32)


def require_support(
    call: str,
    law: Any,
    y: Shaped[Array, " N"],
    other: Any = None,
    *,
    site: str = "",
    at_run_time: bool = True,
) -> Shaped[Array, " N"]:
    """`y`, if the distribution `law` can take these values, else raise the first that
    it cannot. `other` is the same of other latent values: where the support differs,
    nothing can be said before these are known."""
    with as_numpyro_is():
        both = jax.tree.leaves(law.support), jax.tree.leaves((other or law).support)
        bounds = zip(*both, strict=True)
        fixed: Any = all(is_traced(a) or np.array_equal(a, b) for a, b in bounds)
        if not fixed:
            return y
        known = y if is_traced(y) else np.asarray(y)  # by NumPy: compiles nothing
        inside: Any = law.support(known)
    of = f" at site {site!r}" if site else ""
    sentence = (
        f"`{call}` must lie in the support of the likelihood{of}, a "
        f"{type(law).__name__}: {describe(law.support)}. Pass such values, or a "
        "likelihood for these."
    )
    if not is_traced(inside):
        return require(y, lambda _: np.asarray(inside), sentence)
    return require_ok(y, inside, sentence) if at_run_time else y


def log_prob(law: Any, y: Shaped[Array, " N"], dtype: Any) -> Float[Array, " N"]:
    """log p(y_i | f_i) in this type, of whole numbers if `law` is over such."""
    with as_numpyro_is():
        values = y.astype(jnp.int32) if law.support.is_discrete else y.astype(dtype)
        return law.log_prob(values).astype(dtype)
