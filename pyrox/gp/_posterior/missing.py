"""Rows whose value was not observed: there, so that shapes stay, and without a say.

Data that grow compile one program for each of their sizes; padded to one size they
compile one. A row that was not observed has a value of 0 about the mean, noise of
variance 1, and no covariance with anything. Then the factor of all is the factor of
what was observed beside an identity: solves, determinants and squares are those of the
observed alone, to rounding, and only what counts data must be told how many they are.

It could be said by an infinite noise, too, but then the determinant is infinite, and a
large noise rounds.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from .._hyper.checks import is_traced
from .._hyper.unchecked import jit
from .derivatives import DerivativeSites


def with_sites(
    observed: Bool[Array, " N"] | None, sites: DerivativeSites | None
) -> Bool[Array, " U"] | None:
    """Which of the values, then the derivatives, were observed: all of the latter."""
    if observed is None or sites is None:
        return observed
    return jnp.concatenate([observed, jnp.ones(len(sites.dims), bool)])


@jit
def _in_use(X: Array, observed: Array) -> Array:
    rows = observed.reshape(-1, *(1,) * (X.ndim - 1))
    return jnp.where(rows, X, X[jnp.argmax(observed)][None])


def in_use(
    X: Float[Array, "N ..."], observed: Bool[Array, " N"] | None
) -> Float[Array, "N ..."]:
    """`X` with a row that was observed in place of those that were not.

    So nothing is asked of a kernel, a mean or a basis beyond the inputs that count, and
    a box around `X` is one around these.
    """
    return X if observed is None else _in_use(X, observed)


def only(observed: Bool[Array, " U"] | None, x: Array) -> Array:
    """`x` with zero in the columns (of a vector, the entries) of what was not
    observed."""
    if observed is None:
        return x
    wide = observed.reshape((1,) * (x.ndim - 1) + observed.shape)
    return jnp.where(wide, x, jnp.zeros_like(x))


def how_many(
    observed: Bool[Array, " U"] | None, x: Float[Array, " U"]
) -> int | Float[Array, ""]:
    """How many of `x` were observed, in its type where it takes a mask to say so."""
    return x.shape[0] if observed is None else jnp.sum(observed).astype(x.dtype)


def kept(x: Any, observed: Bool[Array, " N"] | None) -> Any:
    """The rows of `x` that were observed, or all where that is not known; by NumPy,
    which compiles no program for their number."""
    if observed is None or is_traced(observed):
        return x
    return (x if is_traced(x) else np.asarray(x))[np.asarray(observed)]


def said(sentence: str, observed: Bool[Array, " N"] | None) -> str:
    """A sentence about all inputs, where only some count."""
    if not is_traced(observed):
        return sentence
    return f"{sentence} Of the inputs only those that were observed count."
