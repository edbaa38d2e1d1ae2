"""From a prior and its data to an inverse and the weights of the mean, nothing
checked: with the matrix at hand, or without it."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float

from .._hyper.checks import common_dtype
from .._solvers.cholesky import CholeskyFactor
from .._solvers.convergence import Convergence
from .._solvers.inverse import AbstractInverse
from .._solvers.iterative import IterativeInverse
from .._solvers.products import NoisyGram
from .._solvers.solver import AbstractIterativeSolver
from .conditional import observed
from .derivatives import Derivatives
from .jitter import jitter_variance_of_values
from .mean import mean_at
from .missing import in_use


class Data(NamedTuple):
    """What a prior is given, in one type of float."""

    prior: Any
    y: Float[Array, " N"]
    noise_var: Float[Array, "..."]
    derivatives: Derivatives | None
    observed: Bool[Array, " N"] | None


class Assembled(NamedTuple):
    """What a posterior is made of beside its data."""

    inverse: AbstractInverse
    weights: Float[Array, " U"]
    jitter_var: Float[Array, "..."]
    convergence: Convergence | None


def of_one_type(
    prior: Any,
    y: Array,
    noise_var: Array,
    derivatives: Derivatives | None,
    observed: Array | None,
) -> Data:
    dtype = common_dtype(prior.X, y)
    cast = functools.partial(jax.tree.map, lambda leaf: leaf.astype(dtype))
    prior = eqx.tree_at(lambda p: p.X, prior, cast(prior.X))
    return Data(prior, cast(y), cast(noise_var), cast(derivatives), observed)


def observations(data: Data) -> tuple[Array, Array, Array, Array]:
    """Covariance, variances of noise and jitter, difference from the mean."""
    prior, y, noise_var, derivatives, seen = data
    process = prior.kernel, prior.mean_fn, prior.jitter
    return observed(*process, prior.X, y, noise_var, derivatives, seen)


def with_matrix(
    data: Data, factored: Callable[[Array, Array], tuple[CholeskyFactor, Array]]
) -> tuple[Assembled, Bool[Array, ""]]:
    """By a way to factor the covariance, and what that says of its success."""
    K, variances, jitter_var, residual = observations(data)
    root, ok = factored(K, jitter_var + variances)
    weights = root.solve(residual[:, None])[:, 0]
    return Assembled(root, weights, jitter_var, None), ok


class System(NamedTuple):
    """A X = B before it is solved: the inverse of A, the difference of the values from
    the mean, and the variance of the jitter in A."""

    inverse: IterativeInverse
    residual: Float[Array, " N"]
    jitter_var: Float[Array, ""]


def without_matrix(
    data: Data, solver: AbstractIterativeSolver
) -> tuple[Assembled, Bool[Array, ""]]:
    """By products with the covariance of the values, and whether it has numbers."""
    inverse, residual, jitter_var = system(data, solver)
    weights, convergence = inverse.solve_and_report(residual[:, None])
    parts = Assembled(inverse, weights[:, 0], jitter_var, convergence)
    return parts, inverse.succeeded()


def system(data: Data, solver: AbstractIterativeSolver) -> System:
    """What is to be solved, set up."""
    A, variances, residual, jitter_var = equations(data, solver.mesh)
    return System(solver.prepare(A, variances), residual, jitter_var)


def equations(data: Data, mesh: Mesh | None) -> tuple[NoisyGram, Array, Array, Array]:
    """A, its rows shared out over a mesh, the diagonal of K, the difference of the
    values from the mean, and the variance of the jitter."""
    prior, y, noise_var, _, seen = data
    X = in_use(prior.X, seen)
    variances = prior.kernel.diag(X).astype(y.dtype)
    jitter_var = jitter_variance_of_values(prior.jitter, variances, seen)
    residual = y - mean_at(prior.mean_fn, X)
    noise_var = jnp.broadcast_to(noise_var + jitter_var, y.shape)
    if seen is not None:
        noise_var = jnp.where(seen, noise_var, 1)
        variances = jnp.where(seen, variances, 0)
        residual = jnp.where(seen, residual, 0)
    A = NoisyGram(prior.kernel, X, noise_var, seen, mesh)
    return A, variances, residual, jitter_var
