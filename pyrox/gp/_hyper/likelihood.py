"""A likelihood: a function from latent values f to a NumPyro distribution of the data,
one datum for each entry of f. What it must be, and what its data must be."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Shaped

from .arrays import as_numbers, is_traced, placed, require_single
from .checks import require, require_finite, require_ok
from .parameters import describe


@contextlib.contextmanager
def as_numpyro_is() -> Iterator[None]:
    """NumPyro mixes types and ranks, whatever the user has set."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def as_distribution(call: str, likelihood: Callable, f: Float[Array, " N"]) -> Any:
    """`likelihood(f)`, if it is a distribution of one number for each entry of f. It is
    called more than once, so it may not make sites of a NumPyro model."""
    from numpyro import handlers
    from numpyro.distributions import Distribution

    call = f"{call}(likelihood=...)"
    if isinstance(likelihood, Distribution) or not callable(likelihood):
        raise ValueError(
            f"`{call}` must be a function from latent values to a NumPyro "
            f"distribution. Got a {type(likelihood).__name__}. Pass "
            "`lambda f: dist.Bernoulli(logits=f)`, say."
        )
    apart = handlers.block(), handlers.trace(), handlers.seed(rng_seed=0)
    with as_numpyro_is(), apart[0], apart[1] as sites, apart[2]:
        law = likelihood(f)
    if sites:
        raise ValueError(
            f"`{call}` must be a function of latent values alone. Got one that makes "
            f"NumPyro sites, {sorted(sites)}. Sample them before, and close over their "
            "values."
        )
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
    if law.batch_shape != f.shape:
        raise ValueError(
            f"`{call}` must return a distribution of batch shape {f.shape}, that of "
            f"the latent values it is given. Got {law.batch_shape}. Compute its "
            "parameters from f, entry by entry."
        )
    return law


def as_outcomes(call: str, y: ArrayLike, n_data: int) -> Shaped[Array, " N"]:
    """`y` as N finite numbers; whole ones by type stay so, for distributions that count
    by them."""
    given = as_numbers(y, call)
    if given.shape != (n_data,):
        fix = (
            "Pass `y[:, 0]`."
            if given.shape == (n_data, 1)
            else f"Pass one value for each of the {n_data} rows of X."
        )
        raise ValueError(
            f"`{call}` must have shape ({n_data},). Got {given.shape}. {fix}"
        )
    if not jnp.issubdtype(given.dtype, jnp.floating):
        return placed(given).astype(jnp.int32)
    require_single(call, given)
    return require_finite(placed(given), call)


def require_support(
    call: str, law: Any, y: Shaped[Array, " N"], other: Any
) -> Shaped[Array, " N"]:
    """`y`, if the distribution `law` can take these values, else raise the first that
    it cannot. `other` is the same of other latent values: where the support differs,
    nothing can be said before these are known."""
    with as_numpyro_is():
        bounds = zip(*(jax.tree.leaves(d.support) for d in (law, other)), strict=True)
        fixed: Any = all(is_traced(a) or np.array_equal(a, b) for a, b in bounds)
        if not fixed:
            return y
        known = y if is_traced(y) else np.asarray(y)  # by NumPy: compiles nothing
        inside: Any = law.support(known)
    sentence = (
        f"`{call}` must lie in the support of the likelihood, a {type(law).__name__}: "
        f"{describe(law.support)}. Pass such values, or a likelihood for these."
    )
    if is_traced(inside):
        return require_ok(y, inside, sentence)
    return require(y, lambda _: np.asarray(inside), sentence)


def log_prob(law: Any, y: Shaped[Array, " N"], dtype: Any) -> Float[Array, " N"]:
    """log p(y_i | f_i) in this type, of whole numbers if `law` is over such."""
    with as_numpyro_is():
        values = y.astype(jnp.int32) if law.support.is_discrete else y.astype(dtype)
        return law.log_prob(values).astype(dtype)
