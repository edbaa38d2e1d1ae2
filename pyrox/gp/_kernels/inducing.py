"""Inducing inputs chosen from the data."""

import functools

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray, Real

from .._hyper.checks import as_count
from .._hyper.parameters import require_valid
from .._hyper.priors import sample_hyperparameters
from .._hyper.unchecked import jit
from .given import as_inputs_of, as_kernel
from .kernel import AbstractKernel


def init_inducing(
    key: PRNGKeyArray,
    X: Real[ArrayLike, "N D"],
    n_inducing: int,
    kernel: AbstractKernel,
) -> Float[Array, "M D"]:
    """M of the inputs, each where the ones before it leave most of the variance.

    The first is drawn at random. Regions of dense data get no more points than the
    kernel's lengthscale asks for. A good start for training, and good enough to stay.

    Args:
        key: for the first input, and for ties.
        X: the inputs of the data.
        n_inducing: M.
        kernel: at values near those that will be found: a shorter lengthscale spreads
            the points more evenly.

    Returns:
        Rows of `X`. Where fewer than M of them tell everything in its float type, the
        others are drawn from what is left.

    Raises:
        ValueError: M above N; an X that is not (N, D) or has NaN or inf.

    Cost: N M kernel values, N M^2 operations and N M numbers of memory.

    Source: Burt, Rasmussen & van der Wilk 2020 (arXiv 2008.00323): the greedy choice by
        conditional variance.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from pyrox.gp import RBF, init_inducing
        >>> X = jnp.linspace(0, 1, 101)[:, None] ** 3  # most of them near zero
        >>> Z = init_inducing(jax.random.key(0), X, 6, RBF(1.0, 0.2))
        >>> Z.shape, bool((Z > 0.4).sum() >= 3)
        ((6, 1), True)
    """
    call = "init_inducing"
    kernel = as_kernel(f"{call}(kernel)", kernel)
    X = as_inputs_of(kernel, f"{call}(X)", X)
    n_inducing = as_count(f"{call}(n_inducing)", n_inducing)
    if n_inducing > X.shape[0]:
        raise ValueError(
            f"`{call}(n_inducing)` must be at most the number of inputs, from which "
            f"they are chosen. Got {n_inducing} of {X.shape[0]}. Pass {X.shape[0]}, "
            "or condition a GPPrior, which is exact."
        )
    kernel = sample_hyperparameters(kernel)
    return X[_greedy(key, require_valid(call, kernel, X), n_inducing, kernel)]


@functools.partial(jit, static_argnames="n_inducing")
def _greedy(
    key: PRNGKeyArray, X: Array, n_inducing: int, kernel: AbstractKernel
) -> Array:
    """The rows, by a Cholesky factor of their Gram matrix with its largest pivots."""
    n = X.shape[0]
    variances = kernel.diag(X).astype(X.dtype)
    key, first = jr.split(key)
    # Ties, and what is no more than rounding, in an order of chance.
    order = jr.uniform(key, (n,), X.dtype)
    least = 10 * n_inducing * jnp.finfo(X.dtype).eps * jnp.max(variances)

    def choose(i, carry):
        columns, left, free, rows = carry
        best = jnp.argmax(jnp.where(free, left + least * order, -jnp.inf))
        row = jnp.where(i == 0, jr.randint(first, (), 0, n), best).astype(jnp.int32)
        column = kernel(X, X[row][None])[:, 0].astype(X.dtype)
        column = column - columns @ columns[row]
        pivot = left[row]
        scale = jnp.where(pivot > least, jax.lax.rsqrt(jnp.maximum(pivot, least)), 0)
        new = column * scale
        left = jnp.maximum(left - new**2, 0)
        return (
            columns.at[:, i].set(new),
            left,
            free.at[row].set(False),
            rows.at[i].set(row),
        )

    columns = jnp.zeros((n, n_inducing), X.dtype)
    rows = jnp.zeros(n_inducing, jnp.int32)
    begun = columns, variances, jnp.ones(n, bool), rows
    return jax.lax.fori_loop(0, n_inducing, choose, begun)[3]
