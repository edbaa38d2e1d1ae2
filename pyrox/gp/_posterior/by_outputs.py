"""Several outputs: stacked into one process, and taken apart again where they are seen
at the same inputs and the kernel is one of inputs times one of outputs."""

import functools
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._hyper.arrays import is_traced, placed
from .._hyper.parameters import valid
from .._hyper.unchecked import jit, one_step
from .._kernels.kernel import AbstractKernel, product_of
from .._solvers.kronecker import guarded_kronecker_inverse, kronecker_inverse
from .assembly import Assembled, Data, of_one_type
from .exact import ConditionedGP, GPPrior, posterior_of
from .jitter import as_fraction
from .mean import mean_at
from .must_hold import require_posterior


def stack_inputs(X: Float[Array, "N D"], n_outputs: int) -> Float[Array, "PN D+1"]:
    """All inputs for each output, one output after the other, whose number is the last
    column; by NumPy, so that they stay known, if they are."""
    xp: Any = jnp if is_traced(X) else np
    rows = xp.tile(xp.asarray(X), (n_outputs, 1))
    index = xp.repeat(xp.arange(n_outputs, dtype=X.dtype), X.shape[0])
    return placed(xp.concatenate([rows, index[:, None]], axis=1))


def separated(
    kernel: AbstractKernel, in_size: int
) -> tuple[AbstractKernel, AbstractKernel] | None:
    """The kernel as one of the outputs, numbered in the last column, times one of the
    others, if it is that."""
    (term, *more), last = kernel.terms(), in_size - 1
    sees = [(factor, factor.columns(in_size)) for factor in term]
    of_outputs = [factor for factor, seen in sees if seen == {last}]
    of_inputs = [factor for factor, seen in sees if last not in seen]
    whole = len(of_outputs) + len(of_inputs) == len(term)
    if more or not whole or not of_outputs or not of_inputs:
        return None
    return product_of(of_outputs), product_of(of_inputs)


@functools.partial(one_step, static_argnames="n_outputs")
def conditioned_apart(
    prior: GPPrior, y: Array, noise_var: Array, n_outputs: int
) -> ConditionedGP:
    """The posterior of all outputs at all inputs, with the checks that it needs; one
    variance of noise for each of them."""
    posterior, ok = _conditioned(prior, y, noise_var, n_outputs)
    given = (prior.kernel, prior.X, prior.jitter), y, noise_var, ok
    call = "MultiOutputPrior.condition"
    weights = require_posterior(call, *given, posterior.weights)
    return eqx.tree_at(lambda p: p.weights, posterior, weights)


_static = functools.partial(jit, static_argnames="n_outputs")


@_static
def _conditioned(
    prior: GPPrior, y: Array, noise_var: Array, n_outputs: int
) -> tuple[ConditionedGP, Array]:
    each = jnp.repeat(noise_var, y.shape[0] // n_outputs)
    data = of_one_type(prior, y, each, None, None)
    parts, jitter_var, residual = _system(data, n_outputs)
    inverse, ok = kronecker_inverse(*parts)
    weights = inverse.solve(residual[:, None])[:, 0]
    return posterior_of(data, Assembled(inverse, weights, jitter_var, None), ok)


@_static
def log_density_apart(
    prior: GPPrior, y: Array, noise_var: Array, n_outputs: int
) -> Float[Array, ""]:
    """log p(y) of all outputs at all inputs, `-inf` if not computable."""
    each = jnp.repeat(noise_var, y.shape[0] // n_outputs)
    data = of_one_type(prior, y, each, None, None)
    parts, _, residual = _system(data, n_outputs)
    inverse, ok = guarded_kronecker_inverse(*parts)
    value = inverse.log_density(residual)
    ok = ok & valid(prior.kernel) & jnp.all(noise_var > 0)
    return jnp.where(ok & jnp.isfinite(value), value, -jnp.inf)


def _system(
    data: Data, n_outputs: int
) -> tuple[tuple[Array, Array, Array], Array, Array]:
    """B, K and the variance of each output's noise, jitter included; the variance of
    the jitter; the difference from the mean."""
    prior, y, noise_var, _, _ = data
    factors = separated(prior.kernel, prior.X.shape[1])
    assert factors is not None
    n_data = y.shape[0] // n_outputs
    outputs, inputs = prior.X[::n_data], prior.X[:n_data]
    B, K = (k(Z, Z) for k, Z in zip(factors, (outputs, inputs), strict=True))
    fraction = as_fraction(prior.jitter, y.shape[0], y.dtype)
    jitter_var = fraction * jnp.mean(jnp.diagonal(B)) * jnp.mean(jnp.diagonal(K))
    parts = B.astype(y.dtype), K.astype(y.dtype), noise_var[::n_data] + jitter_var
    return parts, jitter_var, y - mean_at(prior.mean_fn, prior.X)
