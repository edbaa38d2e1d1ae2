"""The set that stands for a random set: Vorob'ev's expectation and deviation."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Real

from .._hyper.unchecked import jit
from .excursion import Field, as_weights, excursion_probability


class VorobevSet(eqx.Module):
    """An estimate of where f is above a level; what `vorobev_expectation` returns."""

    inside: Bool[Array, " N"]
    """Which points belong to it."""
    threshold: Float[Array, ""]
    """They are those that are above at least with this probability."""
    probability: Float[Array, " N"]
    """P(f(x) > level) at each point."""
    volume: Float[Array, ""]
    """Its volume."""
    expected_volume: Float[Array, ""]
    """The mean volume of the random set."""
    deviation: Float[Array, ""]
    """Vorob'ev's: the mean volume of what it has too much and too little."""


def vorobev_expectation(
    f: Field,
    X: Real[ArrayLike, "N D"],
    level: Real[ArrayLike, ""],
    *,
    weights: Real[ArrayLike, "..."] | None = None,
    above: bool = True,
) -> VorobevSet:
    """The set estimate of {x: f(x) > level} that has the mean volume, and how far the
    truth is from it.

    Points are taken in the order of their probability until their volume is the mean
    volume of the random set; among all sets of that volume the mean symmetric
    difference from the random set is then the least. Sets are of the given points, so
    the volume is met to the weight of those with equal probability.

    Args:
        f: a ConditionedGP, or paths.
        X: points that fill the region.
        level: one number.
        weights: the volume that each point stands for, one or one for each; by default
            1 / N.
        above: False for where f is below.

    Returns:
        A `VorobevSet`.

    Raises:
        ValueError: as `excursion_probability` and `excursion_volume`.

    Cost: that of `excursion_probability`, and sorting.

    Source: Molchanov 2005, "Theory of Random Sets", section 2.2.2; Chevalier,
        Ginsbourger, Bect & Molchanov 2013, "Estimating and quantifying uncertainties on
        level sets using the Vorob'ev expectation and deviation with Gaussian process
        models".

    Example:
        >>> import jax.numpy as jnp
        >>> from pyrox.gp import RBF, GPPrior, vorobev_expectation
        >>> X = jnp.linspace(0, 1, 5)[:, None]
        >>> y = jnp.array([-2.0, -1.0, 0.1, 1.0, 2.0])
        >>> posterior = GPPrior(RBF(), X).condition(y, noise_var=0.01)
        >>> vorobev_expectation(posterior, X, 0.5).inside
        Array([False, False, False,  True,  True], dtype=bool)
    """
    chance = excursion_probability(f, X, level, above=above)
    shares = as_weights("vorobev_expectation", weights, chance.shape[0])
    return _set_of(chance, shares.astype(chance.dtype))


@jit
def _set_of(chance: Float[Array, " N"], shares: Float[Array, " N"]) -> VorobevSet:
    expected = jnp.sum(shares * chance)
    order = jnp.argsort(-chance)
    filled = jnp.cumsum(shares[order])
    # Rounding of the sums must not add a point where they are equal.
    slack = 8 * jnp.finfo(chance.dtype).eps * filled[-1]
    last = jnp.minimum(jnp.sum(filled < expected - slack), chance.shape[0] - 1)
    threshold = chance[order[last]]
    inside = chance >= threshold
    wrong = jnp.where(inside, 1 - chance, chance)
    volume = jnp.sum(jnp.where(inside, shares, 0))
    parts = threshold, chance, volume, expected
    return VorobevSet(inside, *parts, jnp.sum(shares * wrong))
