"""Where a function is above a level: probabilities, uncertainty, volumes."""

import jax.numpy as jnp
from jax.scipy.special import ndtr
from jaxtyping import Array, ArrayLike, Float, Real

from .._hyper.arrays import as_float
from .._hyper.checks import require
from .._hyper.unchecked import jit
from .._numerics.safe_sqrt import safe_sqrt
from .._paths.ensemble import PathwiseEnsemble
from .._paths.path import PathwiseFunction
from .._posterior.exact import ConditionedGP
from .crossings import as_level
from .expectation import Expectation, expectation

Field = ConditionedGP | PathwiseFunction | PathwiseEnsemble


def excursion_probability(
    f: Field,
    X: Real[ArrayLike, "N D"],
    level: Real[ArrayLike, ""],
    *,
    above: bool = True,
) -> Float[Array, " N"]:
    """P(f(x) > level) at each row of `X`: a map of where f is above.

    Args:
        f: a ConditionedGP, for the closed form; paths, for the share of them, whose
            derivative is zero.
        X: points.
        level: one number.
        above: False for P(f(x) < level).

    Returns:
        One probability for each row; without uncertainty it is 0 or 1.

    Raises:
        ValueError: another f, a level that is not one finite number; and what
            `f.predict(X)` or `f(X)` raises.

    Cost: that of `f.predict(X)`, or of `f(X)`.

    Source: Chevalier, Ginsbourger, Bect & Molchanov 2013, the coverage function.

    Example:
        >>> import jax.numpy as jnp
        >>> from pyrox.gp import RBF, GPPrior, excursion_probability
        >>> posterior = GPPrior(RBF(), jnp.zeros((1, 1))).condition(jnp.zeros(1), 0.01)
        >>> excursion_probability(posterior, jnp.array([[0.5]]), 0.0)
        Array([0.5], dtype=float32)
    """
    call = "excursion_probability"
    level = as_level(call, level)
    if not isinstance(above, bool):
        raise ValueError(f"`{call}(above=...)` must be True or False. Got {above!r}.")
    if isinstance(f, ConditionedGP):
        return _closed(*f.predict(X), level, above=above)
    if isinstance(f, PathwiseFunction | PathwiseEnsemble):
        values = f(X)
        values = values.reshape(-1, values.shape[-1])
        return jnp.mean(_beyond(values, level, above), axis=0)
    raise ValueError(
        f"`{call}(f, ...)` must be a ConditionedGP, a PathwiseFunction or a "
        f"PathwiseEnsemble. Got a {type(f).__name__}. Pass what `GPPrior.condition`, "
        "`sample_paths` or `paths_over_draws` returns."
    )


def contour_uncertainty(
    f: Field, X: Real[ArrayLike, "N D"], level: Real[ArrayLike, ""]
) -> Float[Array, " N"]:
    """p (1 - p) for p = P(f(x) > level): how unsure it is on which side x lies.

    The variance of the indicator, at most 1/4, which it is on the contour of the
    posterior median. Its integral is what stepwise uncertainty reduction brings down.

    Args:
        f, X, level: as in `excursion_probability`.

    Returns:
        One number for each row.

    Raises:
        ValueError: as `excursion_probability`.

    Source: Bect et al. 2012 (Statistics and Computing 22), section 3.

    Example:
        >>> import jax.numpy as jnp
        >>> from pyrox.gp import RBF, GPPrior, contour_uncertainty
        >>> posterior = GPPrior(RBF(), jnp.zeros((1, 1))).condition(jnp.zeros(1), 0.01)
        >>> contour_uncertainty(posterior, jnp.array([[0.5]]), 0.0)
        Array([0.25], dtype=float32)
    """
    chance = excursion_probability(f, X, level)
    return chance * (1 - chance)


def excursion_volume(
    paths: PathwiseFunction | PathwiseEnsemble,
    X: Real[ArrayLike, "N D"],
    level: Real[ArrayLike, ""],
    *,
    weights: Real[ArrayLike, "..."] | None = None,
    above: bool = True,
) -> Expectation:
    """The volume where f is above `level`, with its distribution over paths.

    Args:
        paths: what a sampler or `paths_over_draws` returns.
        X: points that fill the region, a regular grid or Sobol points, say.
        level: one number.
        weights: the volume that each point stands for, one or one for each; by default
            1 / N, so that it is a share of the region.
        above: False for where f is below.

    Returns:
        An `Expectation`, whose `samples` are the volume of each path.

    Raises:
        ValueError: as `expectation`; weights of another shape or below zero.

    Cost: that of `paths(X)`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from pyrox.gp import RBF, GPPrior, PathwiseSampler, excursion_volume
        >>> prior = GPPrior(RBF(), X=jnp.array([[0.0], [1.0]]))
        >>> paths = PathwiseSampler(prior, 64).sample_paths(jax.random.key(0), 500)
        >>> found = excursion_volume(paths, jnp.linspace(0, 1, 50)[:, None], 0.0)
        >>> bool(abs(found.value - 0.5) < 4 * found.standard_error)
        True
    """
    call = "excursion_volume"
    level = as_level(call, level)
    n = jnp.shape(X)[0] if jnp.ndim(X) else 1
    shares = as_weights(call, weights, n)

    def volume(values):
        return jnp.sum(shares.astype(values.dtype) * _beyond(values, level, above))

    return expectation(paths, volume, X)


def as_weights(call: str, weights: ArrayLike | None, n: int) -> Float[Array, " N"]:
    """The volume of each of n points."""
    if weights is None:
        return jnp.full(n, 1 / n)
    shares = as_float(weights, f"{call}(weights=...)")
    if shares.shape not in ((), (n,)):
        raise ValueError(
            f"`{call}(weights=...)` must have shape () or ({n},). Got {shares.shape}. "
            "Pass the volume that each row of X stands for."
        )
    sentence = f"`{call}(weights=...)` must be finite volumes, not below zero."
    return jnp.broadcast_to(
        require(shares, lambda x: (x >= 0) & (x < jnp.inf), sentence), (n,)
    )


def _beyond(values: Array, level: Array, above: bool) -> Array:
    level = level.astype(values.dtype)
    inside = values > level if above else values < level
    return inside.astype(values.dtype)


def _probability(mean: Array, var: Array, level: Array, above: bool) -> Array:
    gain = mean - level.astype(mean.dtype)
    gain, sd = (gain if above else -gain), safe_sqrt(var)
    certain = sd == 0
    chance = ndtr(gain / jnp.where(certain, 1, sd))
    return jnp.where(certain, (gain > 0).astype(mean.dtype), chance)


_closed = jit(_probability, static_argnames="above")
