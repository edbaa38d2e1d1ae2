"""A lattice of frequencies where the spectral mass is, and random ones for the rest.

A function of period P has the frequencies 2 pi k / P, and the sum of k's spectral
density over all of them is k itself plus its images at distance P (Poisson). The
lattice points nearest to zero in units of the lengthscale carry the most mass and are
taken as they are. What they leave out is not dropped, which would bias every kernel of
a rough function or a wide domain: the last columns draw from it. How many are drawn is
what makes the sum of squared random masses least: none for an RBF of long lengthscale,
nearly all when the lattice has too few points to matter. So the features have the
kernel as their expectation at any number of columns, to within the mass of one point
at the edge of the lattice.
"""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt32

from .._numerics.safe_sqrt import safe_sqrt
from .._numerics.sobol import centres, normal_quantiles
from .maps import FourierFeatures
from .spectrum import RadialSpectrum

REACH = 5  # lengthscales between a point and the images of the others, at least
_MOST_ANISOTROPIC = 4  # of the steps of the lattice, in lengthscales
_PROPOSALS = 4  # for each random frequency: some fall on points that are taken


def lattice_features(
    key: PRNGKeyArray,
    spectrum: RadialSpectrum,
    widths: Float[Array, " d"],
    n_pairs: int,
) -> FourierFeatures:
    """Frequencies of the functions on a box of these widths, most mass first.

    Cost: O(n log n) for n pairs of one input, some 3 and 10 times that for two and
    three.
    """
    dtype = np.promote_types(spectrum.lengthscale.dtype, np.float32)
    ells = spectrum.lengthscale.astype(dtype)
    periods = _periods(widths.astype(dtype), ells)
    steps = 2 * np.pi * ells / periods
    points, r2 = _nearest(n_pairs, steps)
    masses = _mass(spectrum, r2[:n_pairs], steps)
    before = _sum_before(masses)
    n_taken = _count_taken(r2, before)
    taken = jnp.arange(n_pairs) < n_taken
    limit = _halfway(r2)[n_taken]
    drawn, weights = _draw_beyond(key, spectrum, steps, limit, n_pairs)
    weights = jnp.where(taken, 0, weights)
    sure, random = before[n_taken], jnp.sum(weights)
    # What the lattice leaves goes to the random ones, if there are any.
    rest = jnp.where(random > 0, _left(sure), 0)
    whole = jnp.where(rest > 0, 1, sure)
    per_weight = rest / jnp.where(random > 0, random, 1)
    shares = jnp.where(taken, masses / whole, per_weight * weights)
    scaled = jnp.where(taken[:, None], points[:n_pairs] * steps[None, :], drawn)
    frequencies = scaled / ells[None, :]
    return FourierFeatures(frequencies, spectrum.variance.astype(dtype) * shares)


def _periods(
    widths: Float[Array, " d"], ells: Float[Array, " d"]
) -> Float[Array, " d"]:
    """Of the widths and room for the images; longer where the lattice would be so much
    finer in one input than in another that the table of its points does not do."""
    in_lengthscales = widths / ells + REACH
    least = jnp.max(in_lengthscales) / _MOST_ANISOTROPIC
    return jnp.maximum(in_lengthscales, least) * ells


def _nearest(
    n_pairs: int, steps: Float[Array, " d"]
) -> tuple[Float[Array, "m d"], Float[Array, " m"]]:
    """The points of one half of the lattice that are nearest to zero, one more than
    there are pairs, and their squared distances."""
    if steps.shape[0] == 1:
        line = jnp.arange(n_pairs + 1, dtype=steps.dtype)
        return line[:, None], (line * steps) ** 2
    table = jnp.asarray(_table(n_pairs, steps.shape[0]), steps.dtype)
    r2 = jnp.sum((table * steps[None, :]) ** 2, axis=1)
    negative, order = jax.lax.top_k(-r2, n_pairs + 1)
    return table[order], -negative


@functools.lru_cache(maxsize=32)
def _table(n_pairs: int, n_inputs: int) -> np.ndarray:
    """All lattice points, one of each opposite two, that may be among the nearest.

    In an ellipsoid that holds 2 n points, with the axes a_d, no point has a product of
    max(|k_d|, min a) above that of the axes.
    """
    ball = math.pi ** (n_inputs / 2) / math.gamma(n_inputs / 2 + 1)
    product = 1.5 * (2 * n_pairs + 8) / ball
    shortest = (product / _MOST_ANISOTROPIC ** (n_inputs - 1)) ** (1 / n_inputs)
    longest = _MOST_ANISOTROPIC ** (1 - 1 / n_inputs) * product ** (1 / n_inputs)
    ticks = np.arange(-math.ceil(longest), math.ceil(longest) + 1)
    lattice = np.array(list(itertools.product(ticks, repeat=n_inputs)), np.int32)
    half = lattice[len(lattice) // 2 :]
    sizes = np.prod(np.maximum(np.abs(half), shortest), axis=1)
    return half[sizes <= product * (1 + 1e-9)]


def _mass(
    spectrum: RadialSpectrum, r2: Float[Array, " m"], steps: Float[Array, " d"]
) -> Float[Array, " m"]:
    """Of a lattice point at this squared distance and its opposite together."""
    opposites = np.full(r2.shape, 2.0)
    opposites[0] = 1  # zero is the first
    density = jnp.exp(spectrum.log_density(r2, steps.shape[0]))
    return jnp.asarray(opposites, r2.dtype) * density * jnp.prod(steps)


def _count_taken(r2: Float[Array, " m"], before: Float[Array, " n"]) -> Int[Array, ""]:
    """How many points to take, whole shells of equal distance: so many that the squares
    of the random masses, what is left shared by the other columns, sum to the least."""
    n = before.shape[0]
    others = jnp.asarray(np.arange(n, 0, -1), before.dtype)
    squares = _left(before) ** 2 / others
    # The first is a shell of its own.
    same_shell = r2[1:n] <= 1.0001 * r2[: n - 1]
    same_shell = jnp.concatenate([jnp.zeros_like(same_shell[:1]), same_shell])
    return jnp.argmin(jnp.where(same_shell, jnp.inf, squares))


def _halfway(r2: Float[Array, " m"]) -> Float[Array, " n"]:
    """Where the points before each end: halfway to it from the last one; zero if there
    are none before."""
    distances = safe_sqrt(r2)
    between = (distances[1:-1] + distances[:-2]) / 2
    return jnp.concatenate([jnp.zeros_like(between[:1]), between])


def _left(mass: Float[Array, "..."]) -> Float[Array, "..."]:
    """What is missing to one; nothing if that is rounding, whose root would be noise of
    half the digits in every path."""
    left = 1 - mass
    return jnp.where(left > 32 * jnp.finfo(mass.dtype).eps, left, 0)


def _sum_before(x: Float[Array, " n"]) -> Float[Array, " n"]:
    """The sums of all earlier entries, as two small products: they compile in a sixth
    of the time of `jnp.cumsum`, in half of that of a scan."""
    n = x.shape[0]
    size = math.isqrt(n - 1) + 1
    rows = jnp.pad(x, (0, size**2 - n)).reshape(size, size)
    earlier = jnp.asarray(np.triu(np.ones((size, size)), 1), x.dtype)
    highest = jax.lax.Precision.HIGHEST
    within = jnp.matmul(rows, earlier, precision=highest)
    above = jnp.matmul(jnp.sum(rows, axis=1), earlier, precision=highest)
    return (above[:, None] + within).reshape(-1)[:n]


def _draw_beyond(
    key: PRNGKeyArray,
    spectrum: RadialSpectrum,
    steps: Float[Array, " d"],
    limit: Float[Array, ""],
    n: int,
) -> tuple[Float[Array, "n d"], Float[Array, " n"]]:
    """Random frequencies outside the cells of the points nearer than `limit`, and
    their weights.

    They are drawn outside a ball that all taken cells cover, their radius as if there
    were two inputs; weights make up for the other number.
    """
    d = steps.shape[0]
    if d == 1:  # a cell ends halfway to the next point
        inner, proposals = limit**2, _spread_out(key, n, 1)
        directions = jnp.ones((n, 1), steps.dtype)
    else:
        cell = jnp.sqrt(jnp.sum(steps**2)) / 2
        inner = jnp.maximum(limit - cell, 0) ** 2
        proposals = _spread_out(key, _PROPOSALS * n, d + 1)
        directions = normal_quantiles(proposals[:, 1:], steps.dtype)
        directions /= jnp.linalg.norm(directions, axis=1, keepdims=True)
    chance = (1 + centres(proposals[:, 0], steps.dtype)) / 2
    r2 = spectrum.farther(chance, inner)
    drawn = jnp.sqrt(r2)[:, None] * directions
    ratio = spectrum.log_density(r2, d) - spectrum.log_density(r2, 2)
    weights = jnp.exp(ratio - (1 - d / 2) * jnp.log(r2))
    if d == 1:
        return drawn, weights
    cells = jnp.round(drawn / steps[None, :]) * steps[None, :]
    free = jnp.sum(cells**2, axis=1) >= limit**2
    chosen = jnp.argsort(free, stable=True)[-n:]  # free ones last, where they are used
    return drawn[chosen], jnp.where(free[chosen], weights[chosen], 0)


def _spread_out(key: PRNGKeyArray, n: int, d: int) -> UInt32[Array, "n d"]:
    """A Kronecker sequence with a random shift: each point uniform, all of them even.

    Multiples of the powers of 1/g, where g^(d + 1) = g + 1 (Roberts 2018), as binary
    fractions of one.
    """
    g = 2.0
    for _ in range(64):
        g = (1 + g) ** (1 / (d + 1))
    multiples = np.round(2.0**32 * g ** -np.arange(1.0, d + 1)).astype(np.uint32)
    shift = jr.bits(key, (1, d), np.uint32)
    return jnp.arange(n, dtype=np.uint32)[:, None] * multiples[None, :] + shift
