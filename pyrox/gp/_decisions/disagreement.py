"""BALD: where the functions that the data allow disagree on what will be observed."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Real

from .._hyper.checks import as_count
from .._hyper.likelihood import as_distribution, as_numpyro_is
from .._hyper.unchecked import jit
from .._inference.observation import Drawn, Latent, Marginals, latent_at
from .._numerics.closure import Closure, read

_N_POINTS = 64


def bald(
    f: Latent,
    X: Real[Any, "N D"],
    likelihood: Callable,
    *,
    n_points: int = _N_POINTS,
) -> Float[Array, " N"]:
    """What a label at x would tell of f(x), in nats; to be maximised.

    The mutual information of the label and f(x), H[E p] - E[H[p]]: the entropy of the
    label less what is left of it where f is known. It is high where the functions are
    each sure and contradict each other, not where all of them say that chance decides.

    Args:
        f: the posterior: of `fit_latent` or `fit_sparse`, a pair `(prior, guide)`, or
            paths, over which it is averaged. Of P latent functions a list of P paths.
        X: points, one row each.
        likelihood: a function from latent values (N,), of several functions (P, N), to
            a NumPyro distribution over finitely many outcomes:
            `lambda f: dist.Bernoulli(logits=f)`,
            `lambda f: dist.Categorical(logits=f.T)`.
        n_points: of the Gauss-Hermite quadrature over f.

    Returns:
        One value for each point, from 0 to the log of the number of outcomes.

    Raises:
        ValueError: an f of another kind; a likelihood that returns something else, or
            has infinitely many outcomes; and all that `f.predict(X)` or `f(X)` raises.

    Cost: that of the predictions, and `n_points` or S probabilities of each outcome.

    Source: Houlsby, Huszar, Ghahramani & Lengyel 2011 (arXiv 1112.5745), eq. 2.

    Example:
        >>> import jax.numpy as jnp
        >>> import numpyro.distributions as dist
        >>> from pyrox.gp import RBF, GPPrior, bald, fit_latent
        >>> X, y = jnp.array([[0.0], [0.2], [1.0]]), jnp.array([0, 0, 1])
        >>> label = lambda f: dist.Bernoulli(logits=f)
        >>> found = fit_latent(GPPrior(RBF(4.0, 0.2), X), y, label)
        >>> grid = jnp.linspace(0, 1, 101)[:, None]
        >>> values = bald(found.posterior, grid, label)
        >>> bool(0.5 < grid[jnp.argmax(values), 0] < 0.8)
        True
    """
    call = "bald"
    latent = latent_at(call, f, X)
    n_points = as_count(f"{call}(n_points=...)", n_points, 2)
    law = as_distribution(call, likelihood, jnp.zeros_like(latent.like))
    if not law.has_enumerate_support:
        raise ValueError(
            f"`{call}(likelihood=...)` must return a distribution over finitely many "
            f"outcomes, a Bernoulli or a Categorical. Got a {type(law).__name__}. For "
            "values that are measured take `integrated_variance_reduction`."
        )
    where = f"{call}(likelihood=...)"
    return _bald(latent, read(where, _log_chances(likelihood), latent.like), n_points)


def _log_chances(likelihood: Callable) -> Callable:
    def log_chances(f):  # (K, N)
        with as_numpyro_is():
            law = likelihood(f)
            outcomes = law.enumerate_support(expand=False)
            chances = law.log_prob(outcomes)
            shape = outcomes.shape[0], f.shape[-1]
            return jnp.broadcast_to(chances, shape).astype(f.dtype)

    return log_chances


def _of_all(latent: Marginals | Drawn, log_chances: Closure, n_points: int) -> Array:
    n_outcomes = jax.eval_shape(log_chances, latent.like).shape[0]

    def chance(k):
        return lambda f: jnp.exp(log_chances(f)[k])

    def entropy(f):
        return jnp.sum(_part(jnp.exp(log_chances(f))), axis=0)

    every = [latent.expectation(chance(k), n_points) for k in range(n_outcomes)]
    left = latent.expectation(entropy, n_points)
    return jnp.sum(_part(jnp.stack(every)), axis=0) - left


def _part(p: Float[Array, "K N"]) -> Float[Array, "K N"]:
    """-p log p, zero where p is."""
    some = p > 0
    return jnp.where(some, -p * jnp.log(jnp.where(some, p, 1)), 0)


_bald = jit(_of_all, static_argnames="n_points")
