"""Whether a posterior says more about its data than noise alone does."""

import functools
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from .._hyper.unchecked import jit
from .._posterior.derivatives import observe, sites_of, with_derivatives
from .._posterior.exact import ConditionedGP
from .._posterior.mean import mean_at
from .._posterior.missing import how_many, in_use, only, with_sites

# How much log density is nothing: a part of this for each datum, one for all of them.
_A_DATUM, _IN_ALL = 1e-3, 1.0
# Variances that are tried where one a datum is known: a sixth apart over 14 powers of
# e, then as many around the best. It is right to 1e-5 a datum.
_N_VARIANCES = 80


class Beside(NamedTuple):
    """The log densities of the data given the kernel and as noise about the mean, and
    whether the kernel explains nothing beyond noise."""

    likelihood: Float[Array, ""]
    alone: Float[Array, ""]
    is_noise: Bool[Array, ""]


@functools.partial(jit, static_argnames="is_fixed")
def beside_noise(posterior: ConditionedGP, is_fixed: bool) -> Beside:
    """The likelihood of a posterior beside that of noise alone, whose one variance
    `is_fixed` or may be of any size.

    It is nothing beyond noise if the data are no likelier than as noise, or if the
    function that was fitted does not move where the data are, by what would be seen in
    the noise: it is a level.
    """
    likelihood = posterior.log_marginal_likelihood()
    residual = _residual(posterior)
    alone = _log_density(posterior, residual, is_fixed)
    n, seen = posterior.y.shape[0], posterior.observed
    every = with_sites(seen, sites_of(posterior.derivatives))
    nothing = _nothing(how_many(every, residual))
    data = posterior.y, posterior.noise_var, posterior.derivatives
    added = with_derivatives(*data)[1] + posterior.jitter_var
    # K w, for (K + added) w = residual.
    fitted = residual - added * posterior.weights
    level = jnp.mean(fitted[:n], where=seen)
    moves = only(every, jnp.concatenate([fitted[:n] - level, fitted[n:]]))
    # Of a level that is far above the noise, the digits that are lost.
    lost = 8 * jnp.finfo(fitted.dtype).eps * jnp.max(jnp.abs(residual))
    moved = jnp.sum(jnp.where(jnp.abs(moves) <= lost, 0, moves) ** 2 / added) / 2
    is_noise = ~(likelihood > alone + nothing) | ~(moved > nothing)
    return Beside(likelihood, alone, is_noise)


def _nothing(n: int | Float[Array, ""]) -> float | Float[Array, ""]:
    """How much log density of `n` data is nothing."""
    least = min if isinstance(n, int) else jnp.minimum
    return least(_A_DATUM * n, _IN_ALL)


def _log_density(
    posterior: ConditionedGP, residual: Float[Array, " U"], is_fixed: bool
) -> Float[Array, ""]:
    """Of the best variance. Known noise may grow, by as much for all values, since a
    kernel can add that, but not shrink. The noise of derivatives is as given."""
    n, noise_var = posterior.y.shape[0], posterior.noise_var
    values, slopes, seen = residual[:n], residual[n:], posterior.observed
    square = jnp.mean(values**2, where=seen)
    if noise_var.ndim:
        best = _best_increase(values, noise_var, square, seen)
    else:
        least = noise_var if is_fixed else jnp.finfo(square.dtype).tiny
        best = jnp.sum(_log_normal(values, jnp.maximum(square, least)), where=seen)
    if posterior.derivatives is None:
        return best
    return best + jnp.sum(_log_normal(slopes, posterior.derivatives.noise_var))


def _best_increase(
    values: Float[Array, " N"],
    noise_var: Float[Array, " N"],
    square: Float[Array, ""],
    seen: Bool[Array, " N"] | None,
) -> Float[Array, ""]:
    """The highest log density, over what is added to all variances."""

    def densities(extra):
        variances = noise_var[None, :] + extra[:, None]
        return jnp.sum(only(seen, _log_normal(values[None, :], variances)), axis=1)

    steps, gap = np.linspace(-14, 0, _N_VARIANCES, retstep=True)
    extra = square * jnp.exp(jnp.asarray(steps, square.dtype))
    middle = extra[jnp.argmax(densities(extra))]
    near = np.linspace(-gap, gap, _N_VARIANCES)
    extra = middle * jnp.exp(jnp.asarray(near, square.dtype))
    return jnp.max(densities(jnp.append(extra, 0)))


def _residual(posterior: ConditionedGP) -> Float[Array, " U"]:
    """What was observed, less the mean."""
    prior, derivatives = posterior.prior, posterior.derivatives
    values, _ = with_derivatives(posterior.y, posterior.noise_var, derivatives)
    sites, X = sites_of(derivatives), in_use(prior.X, posterior.observed)
    residual = values - observe(lambda X: mean_at(prior.mean_fn, X), X, sites)
    return only(with_sites(posterior.observed, sites), residual)


def _log_normal(x: Array, variance: Array) -> Array:
    return -(x**2 / variance + jnp.log(2 * np.pi * variance)) / 2
