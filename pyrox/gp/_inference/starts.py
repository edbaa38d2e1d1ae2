"""Where a fit starts: at the scales of the data, and around them."""

import itertools
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, PRNGKeyArray

from .._hyper.scales import Scales, at_scales
from .._posterior.derivatives import sites_of
from .._posterior.exact import GPPrior
from .._posterior.mean import mean_at
from .._posterior.missing import in_use, only, with_sites
from .trained import NOISE, Problem, is_real, slots, unbounded

# Functions from straight to as rough as a sixteenth of the inputs' spread, and noise
# from little to most of the values: a search leads on from the best of these.
_LENGTHS = (2.0, 1.0, 1 / 2, 1 / 4, 1 / 8, 1 / 16)
_NOISES = (0.05, 0.5)
_MIDDLE = 1 / 2, 0.2
# Within this factor of the middle a start is of the size of the data. From lengths that
# were ten times the spread a third of 24 fits missed the optimum, from those a third or
# a tenth of it one in twelve (40 data, RBF of one and two inputs).
_NEAR = 10.0


def can_start_at_data(problem: Problem) -> bool:
    """Whether anything that is trained has a scale or a prior to start from."""
    return any(s.has_scale or s.name in problem.priors for s in slots(problem))


def is_at_data(problem: Problem) -> Bool[Array, ""]:
    """Whether what it sets out from is of the size of the data's, the noise and what
    has a prior aside, of which the user knows more."""
    there = jax.tree.leaves(_sized(problem, *_MIDDLE))
    here = jax.tree.leaves((problem.prior, problem.noise_var))
    near = [
        jnp.all(jnp.abs(jnp.log(here[slot.leaf] / there[slot.leaf])) < math.log(_NEAR))
        for slot in slots(problem)
        if slot.has_scale and slot.name not in (NOISE, *problem.priors)
        if not is_real(slot)
    ]
    return jnp.all(jnp.asarray(near))


def at_data(problem: Problem, key: PRNGKeyArray | None) -> Float[Array, "K P"]:
    """The vectors at the scales of the data, of which a start leads on from the best:
    some lengths and sizes of the noise."""
    grid = np.array(list(itertools.product(_LENGTHS, _NOISES)), problem.y.dtype)
    each = jax.vmap(lambda row: _at_data(problem, key, row[0], row[1], 0.0))
    return each(jnp.asarray(grid))


def drawn_at_data(
    problem: Problem, key: PRNGKeyArray | None, start: ArrayLike
) -> Float[Array, " P"]:
    """A vector around the middle of those, by normal steps of size one."""
    own = jr.fold_in(_key(key), start)
    return _at_data(problem, own, *_MIDDLE, 1.0)


def _key(key: PRNGKeyArray | None) -> PRNGKeyArray:
    """Always the same, where none was asked for."""
    return jr.key(0) if key is None else key


def _at_data(
    problem: Problem, key: PRNGKeyArray | None, length: Any, noise: Any, step: float
) -> Float[Array, " P"]:
    """Lengths and noise in parts of the data's, and normal steps from there; but what
    has a prior is drawn from it."""
    leaves = jax.tree.leaves(_sized(problem, length, noise))
    parts = []
    for i, slot in enumerate(slots(problem)):
        own = jr.fold_in(_key(key), i)
        if slot.name in problem.priors:
            value = jnp.asarray(problem.priors[slot.name].sample(own))
            free = unbounded(slot, value, problem.y.dtype)
        else:
            free = unbounded(slot, leaves[slot.leaf], problem.y.dtype)
            # A logarithm moves by one in any unit, a number without bounds by its size.
            size = jnp.abs(free) if slot.has_scale and is_real(slot) else 1
            free = free + step * size * jr.normal(own, free.shape, free.dtype)
        parts.append(jnp.ravel(free))
    return jnp.concatenate(parts)


def _sized(problem: Problem, length: Any, noise: Any) -> tuple[GPPrior, Array]:
    """The prior and the noise at the scales of the data, in parts of these."""
    scales, noise_var = _scales(problem)
    kernel = at_scales(problem.prior.kernel, scales.times(length, 1))
    prior = eqx.tree_at(lambda p: p.kernel, problem.prior, kernel)
    return prior, noise * noise_var


def _scales(problem: Problem) -> tuple[Scales, Float[Array, ""]]:
    """The scales of the data, and the variance of the values about their level.

    A column that does not vary is as long as the shortest of the others, so that it
    adds little to a length of all; where nothing varies all scales are one.
    """
    prior, derivatives = problem.prior, problem.derivatives
    seen, sites = problem.observed, sites_of(derivatives)
    X = in_use(prior.X, seen)
    residual = only(seen, problem.y - mean_at(prior.mean_fn, X))
    sizes, every = residual, with_sites(seen, sites)
    if derivatives is not None:
        X = jnp.concatenate([X, derivatives.sites.X])
    spread = jax.vmap(lambda x: _deviation(x, every), in_axes=1)(X)
    varies = spread > 0
    least = jnp.min(jnp.where(varies, spread, jnp.inf))
    spread = jnp.where(varies, spread, jnp.where(jnp.any(varies), least, 1))
    if derivatives is not None:
        # A slope that holds over the spread of its input.
        reach = spread[np.array(derivatives.sites.dims)]
        sizes = jnp.concatenate([sizes, reach * derivatives.values])
    square = jnp.mean(sizes**2, where=every)
    square = jnp.where(square > 0, square, 1)
    noise_var = _deviation(residual, seen) ** 2
    return Scales(spread, square), jnp.where(noise_var > 0, noise_var, square)


def _deviation(
    x: Float[Array, " N"], observed: Bool[Array, " N"] | None
) -> Float[Array, ""]:
    """The standard deviation; exactly zero for a constant, where a mean may round."""
    x = in_use(x, observed)
    span = jnp.max(x) - jnp.min(x)
    parts = (x - jnp.min(x)) / jnp.where(span > 0, span, 1)
    return span * jnp.std(parts, where=observed)
