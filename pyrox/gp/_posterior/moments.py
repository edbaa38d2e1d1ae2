"""The compiled programs of what a conditioned process is asked, in blocks of rows."""

import functools

import jax.numpy as jnp
from jaxtyping import Array

from .._hyper.unchecked import jit
from .._numerics.blocks import map_rows
from .conditional import Conditional
from .derivatives import DerivativeSites

_blocked = functools.partial(jit, static_argnames="block_size")


@_blocked
def mean(given: Conditional, X: Array, block_size: int) -> Array:
    return map_rows(lambda rows: given.mean(rows), X, block_size)


@_blocked
def var(given: Conditional, X: Array, block_size: int) -> Array:
    return map_rows(lambda rows: given.var(rows), X, block_size)


@jit
def cov(given: Conditional, X: Array) -> Array:
    return given.cov(X)


@_blocked
def cross_cov(given: Conditional, X: Array, Z: Array, block_size: int) -> Array:
    cov_with = given.cov_with(Z)
    return map_rows(cov_with, X, block_size, axis=0)


@jit
def derivatives(given: Conditional, sites: DerivativeSites) -> tuple[Array, Array]:
    return given.derivatives(sites)


@_blocked
def value_and_gradient(given: Conditional, X: Array, block_size: int) -> Array:
    """The mean over the covariance of value and gradient, (M, 2 + D, 1 + D)."""

    def mean_over_cov(rows):
        mean, cov = given.value_and_gradient(rows)
        return jnp.concatenate([mean[:, None], cov], axis=1)

    return map_rows(mean_over_cov, X, block_size, axis=0)


@jit
def leave_one_out(given: Conditional) -> tuple[Array, Array]:
    return given.leave_one_out()


@jit
def leave_one_out_log_density(given: Conditional) -> Array:
    return given.leave_one_out_log_density()
