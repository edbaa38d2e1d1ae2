"""The best q(u) for any likelihood, by natural gradients.

In whitened space, u = mean + L v, the optimum has the form N(v) times one Gaussian site
a datum: precision P = I + sum_i b_i a_i a_i^T and P m = sum_i l_i a_i, with a_i the
column of `explained` at datum i. A natural-gradient step of length r moves each site by
that part of the way to

    b_i = -2 dE_i / dvar_i,   l_i = dE_i / dmean_i + b_i a_i^T m

(Khan & Lin 2017, arXiv 1703.04265, section 4; Salimbeni, Eleftheriadis & Hensman 2018,
arXiv 1803.09151). For a log-concave likelihood all b_i are positive and whole steps
converge in a few. For others P may lose its positive definiteness and the bound may
fall: then the step is halved, which ends since the direction is one of ascent.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from .._numerics.lapack import solve_lower, solve_upper
from .._numerics.lbfgs import rounding_of
from .._solvers.cholesky import guarded_factor
from .likelihood import AbstractLikelihood
from .sparse import Projection

_SHORTEST = 1e-6  # of a step, below which nothing is gained any more


class Sites(NamedTuple):
    """What the data say of v: exp(sum_i l_i a_i^T v - b_i (a_i^T v)^2 / 2)."""

    linear: Float[Array, " N"]
    precision: Float[Array, " N"]


class Whitened(NamedTuple):
    """q(v) = N(mean, root root^T), root lower triangular, and KL(q(v) || N(0, I))."""

    mean: Float[Array, " M"]
    root: Float[Array, "M M"]
    divergence: Float[Array, ""]


class Ascent(NamedTuple):
    """Where natural gradients stand: the best q so far with its bound, where the next
    whole step would lead, the length to try, and whether the last trial was a step."""

    sites: Sites
    target: Sites
    q: Whitened
    bound: Float[Array, ""]
    length: Float[Array, ""]
    rose: Bool[Array, ""]
    n_steps: Int[Array, ""]
    n_trials: Int[Array, ""]
    done: Bool[Array, ""]


def no_sites(like: Float[Array, " N"]) -> Sites:
    """Those of the prior, of the shape and the type of latent values."""
    return Sites(jnp.zeros_like(like), jnp.zeros_like(like))


def ascend(
    law: AbstractLikelihood,
    projection: Projection,
    y: Shaped[Array, " N"],
    sites: Sites,
    most_trials: int,
) -> Ascent:
    """Natural-gradient steps from `sites` until a step gains no more than rounding.

    Cost: 3 N M^2 + M^3 operations a trial.
    """
    m, dtype = projection.explained.shape[0], projection.mean.dtype
    zero = jnp.zeros((), dtype)
    # Sites of other hyperparameters may here be those of no Gaussian, if negative.
    start = Sites(sites.linear, jnp.maximum(sites.precision, 0))
    begun = Ascent(
        sites=start,
        target=start,
        q=Whitened(jnp.zeros(m, dtype), jnp.eye(m, dtype=dtype), zero),
        bound=-jnp.inf + zero,
        length=1 + zero,
        rose=jnp.asarray(True),
        n_steps=jnp.full((), -1, jnp.int32),  # the start itself is no step
        n_trials=jnp.full((), -1, jnp.int32),
        done=jnp.asarray(False),
    )

    def unfinished(s: Ascent) -> Array:
        return ~s.done & (s.n_trials < most_trials)

    return jax.lax.while_loop(
        unfinished, lambda s: _trial(law, projection, y, s), begun
    )


def _trial(
    law: AbstractLikelihood, projection: Projection, y: Array, s: Ascent
) -> Ascent:
    tried = jax.tree.map(lambda a, b: a + s.length * (b - a), s.sites, s.target)
    q, ok = from_sites(tried, projection.explained)
    bound, target = bound_and_target(law, projection, y, q)
    rounding = rounding_of(bound) * jnp.maximum(1, jnp.abs(bound))
    rises = ok & jnp.isfinite(bound) & (bound >= s.bound - rounding)
    new = s._replace(sites=tried, target=target, q=q, bound=bound)
    chosen = jax.tree.map(lambda a, b: jnp.where(rises, a, b), new, s)
    longer = jnp.where(s.rose, jnp.minimum(2 * s.length, 1), s.length)
    length = jnp.where(rises, longer, s.length / 2)
    gain = bound - s.bound
    return chosen._replace(
        length=length,
        rose=rises,
        n_steps=s.n_steps + rises.astype(jnp.int32),
        n_trials=s.n_trials + 1,
        # A whole step that gains nothing, or a short one that gains less.
        done=(rises & (gain <= s.length * rounding)) | (length < _SHORTEST),
    )


def from_sites(
    sites: Sites, explained: Float[Array, "M N"]
) -> tuple[Whitened, Bool[Array, ""]]:
    """The q(v) of these sites, and whether there is one."""
    A = explained
    precision = (A * sites.precision[None]) @ A.T
    return from_precision(precision, A @ sites.linear)


def from_precision(
    excess: Float[Array, "M M"], linear: Float[Array, " M"]
) -> tuple[Whitened, Bool[Array, ""]]:
    """q(v) of precision I + excess and of mean precision^-1 linear."""
    m, dtype = linear.shape[0], linear.dtype
    # In reverse order, since the reverse of an upper triangle is a lower one.
    factor, ok = guarded_factor(excess[::-1, ::-1], jnp.ones((), dtype))
    root = solve_upper(factor.lower, jnp.eye(m, dtype=dtype))[::-1, ::-1]
    half = solve_lower(factor.lower, linear[::-1, None])
    mean = solve_upper(factor.lower, half)[::-1, 0]
    quadratic = jnp.sum(root**2) + jnp.sum(mean**2) - m
    return Whitened(mean, root, 0.5 * (quadratic + factor.log_det())), ok


def bound_and_target(
    law: AbstractLikelihood, projection: Projection, y: Array, q: Whitened
) -> tuple[Float[Array, ""], Sites]:
    """The evidence lower bound at q, and the sites that a whole step leads to."""

    def total(mean, var):
        return jnp.sum(law.expected(mean, var, y))

    mean, var = projection.marginals(q.mean, q.root)
    expected, (by_mean, by_var) = jax.value_and_grad(total, (0, 1))(mean, var)
    precision = -2 * by_var
    linear = by_mean + precision * (mean - projection.mean)
    return expected - q.divergence, Sites(linear, precision)
