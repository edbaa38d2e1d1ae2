"""What is integrated over: boxes and normal distributions, and what is known of them.

Each answers as a distribution, with its mass beside it: the expectation of a squared
exponential, of a wave, and a quadrature rule for all else.
"""

import abc
import itertools
import math
from collections.abc import Sequence

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular
from jax.scipy.special import erf
from jaxtyping import Array, ArrayLike, Float, Real

from .._hyper.checks import (
    as_float,
    as_points,
    finite_positive,
    is_traced,
    require,
    require_finite,
    require_ok,
)

# Below this width an average over a box is taken by a rule of so many points, since the
# difference of two error functions over the width would lose digits.
_NARROW, _POINTS = 0.5, 10
# Of a normal distribution all but 2e-9 lies within so many standard deviations.
_DEVIATIONS = 6


class AbstractMeasure(eqx.Module):
    """What functions of D inputs are integrated over; `mean` is its centre."""

    mean: eqx.AbstractVar[Float[Array, " D"]]

    @property
    @abc.abstractmethod
    def mass(self) -> Float[Array, ""]:
        """The integral of one."""

    @property
    @abc.abstractmethod
    def extent(self) -> Float[Array, "2 D"]:
        """A box that holds all of it, or of a normal distribution six deviations."""

    @property
    @abc.abstractmethod
    def independent(self) -> bool:
        """Whether it is a product over the inputs."""

    @abc.abstractmethod
    def marginal(self, dims: Sequence[int]) -> "AbstractMeasure":
        """The same of some inputs; its mass is not asked for."""

    @abc.abstractmethod
    def of_squared_exponential(
        self, X: Float[Array, "N D"], scale: Float[Array, " D"]
    ) -> tuple[Float[Array, " N"], Float[Array, ""]]:
        """E[k(X_i, x)] and E[k(x, x')] for k(x, x') = exp(-|scale (x - x')|^2 / 2) and
        independent x, x'."""

    @abc.abstractmethod
    def of_waves(
        self, frequencies: Float[Array, "m D"], origin: Float[Array, " D"]
    ) -> tuple[Float[Array, " m"], Float[Array, " m"]]:
        """The expectations of cosine and sine of frequencies (x - origin)."""

    @abc.abstractmethod
    def nodes(self, n: int) -> tuple[Float[Array, "K D"], Float[Array, " K"]]:
        """The points and the weights, of sum one, of a Gauss rule with n points an
        input, K = n^D: exact for polynomials of degree 2n - 1 in each input."""

    @property
    def in_size(self) -> int:
        """D."""
        return self.mean.shape[0]


class LebesgueMeasure(AbstractMeasure):
    """The volume of a box: what the integral of f over it is taken in.

    Args:
        bounds: the lowest and the highest value of each of D inputs.

    Raises:
        ValueError: another shape, NaN or inf, a lower bound that is not below the upper
            one; of traced bounds when the program runs.

    Example:
        >>> import jax.numpy as jnp
        >>> from pyrox.gp import LebesgueMeasure
        >>> LebesgueMeasure(jnp.array([[0.0, -1.0], [2.0, 1.0]])).mass
        Array(4., dtype=float32)
    """

    bounds: Float[Array, "2 D"]

    def __init__(self, bounds: Real[ArrayLike, "2 D"]):
        call = "LebesgueMeasure(bounds)"
        given = as_points(bounds, call)
        if given.ndim != 2 or given.shape[0] != 2 or not given.shape[1]:
            raise ValueError(
                f"`{call}` must have shape (2, D): the lowest and the highest value of "
                f"each input. Got {given.shape}. Pass `jnp.array([lowest, highest])`, "
                "of one input `jnp.array([[low], [high]])`."
            )
        given = require_finite(given, call)
        sentence = f"`{call}` must have each lower bound below the upper one."
        if is_traced(given):
            self.bounds = require_ok(given, jnp.all(given[0] < given[1]), sentence)
            return
        low, high = np.asarray(given)
        for d in np.flatnonzero(~(low < high))[:1]:
            raise ValueError(f"{sentence} Got {low[d]} to {high[d]} for input {d}.")
        self.bounds = given

    @property
    def mass(self) -> Float[Array, ""]:
        return jnp.prod(self._width)

    @property
    def mean(self) -> Float[Array, " D"]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.bounds[0] + self._width / 2

    @property
    def extent(self) -> Float[Array, "2 D"]:
        return self.bounds

    @property
    def independent(self) -> bool:
        return True

    @property
    def _width(self) -> Float[Array, " D"]:
        return self.bounds[1] - self.bounds[0]

    def marginal(self, dims: Sequence[int]) -> "LebesgueMeasure":
        return eqx.tree_at(lambda m: m.bounds, self, self.bounds[:, tuple(dims)])

    def of_squared_exponential(
        self, X: Float[Array, "N D"], scale: Float[Array, " D"]
    ) -> tuple[Float[Array, " N"], Float[Array, ""]]:
        dtype = X.dtype
        low, high = self.bounds.astype(dtype)
        width = (high - low) * scale
        down = (low[None] - X) * scale[None]
        once = jnp.prod(_average(down, width[None]), axis=1)
        whole = width * math.sqrt(math.pi / 2) * erf(width / math.sqrt(2))
        twice = 2 * (whole + jnp.expm1(-(width**2) / 2)) / width**2
        return once, jnp.prod(twice)

    def of_waves(
        self, frequencies: Float[Array, "m D"], origin: Float[Array, " D"]
    ) -> tuple[Float[Array, " m"], Float[Array, " m"]]:
        dtype = frequencies.dtype
        half, centre = self._width.astype(dtype) / 2, self.mean.astype(dtype)
        left = jnp.prod(jnp.sinc(frequencies * half[None] / math.pi), axis=1)
        angles = frequencies @ (centre - origin.astype(dtype))
        return left * jnp.cos(angles), left * jnp.sin(angles)

    def nodes(self, n: int) -> tuple[Float[Array, "K D"], Float[Array, " K"]]:
        points, weights = np.polynomial.legendre.leggauss(n)
        places, shares = _tensor(points, weights, self.in_size, self.bounds.dtype)
        return self.mean[None] + places * (self._width / 2)[None], shares


class GaussianMeasure(AbstractMeasure):
    """A normal distribution: the integral against it is the expectation of f(x).

    Args:
        mean: of D inputs.
        cov: their variances (D,), if they are independent, or their covariance (D, D).

    Raises:
        ValueError: other shapes, NaN or inf, a variance that is not positive, a matrix
            that is not symmetric and positive definite; of traced values when the
            program runs.

    Example:
        >>> import jax.numpy as jnp
        >>> from pyrox.gp import GaussianMeasure
        >>> GaussianMeasure(jnp.zeros(2), jnp.array([1.0, 0.5])).mass
        Array(1., dtype=float32)
    """

    mean: Float[Array, " D"]
    cov: Float[Array, "..."]

    def __init__(self, mean: Real[ArrayLike, " D"], cov: Real[ArrayLike, "..."]):
        call = "GaussianMeasure"
        mean, cov = as_float(mean, f"{call}(mean)"), as_float(cov, f"{call}(cov)")
        if mean.ndim != 1 or not mean.shape[0]:
            raise ValueError(
                f"`{call}(mean)` must have shape (D,). Got {mean.shape}. For one input "
                "pass `jnp.array([mean])`."
            )
        d = mean.shape[0]
        if cov.shape not in ((d,), (d, d)):
            raise ValueError(
                f"`{call}(cov)` must have shape ({d},), variances, or ({d}, {d}). Got "
                f"{cov.shape}. For one standard deviation in all inputs pass "
                "`jnp.full(D, sd**2)`."
            )
        dtype = np.result_type(mean.dtype, cov.dtype)
        self.mean = require_finite(mean, f"{call}(mean)").astype(dtype)
        self.cov = _as_covariance(f"{call}(cov)", cov).astype(dtype)

    @property
    def mass(self) -> Float[Array, ""]:
        return jnp.ones((), self.mean.dtype)

    @property
    def extent(self) -> Float[Array, "2 D"]:
        variances = self.cov if self.independent else jnp.diagonal(self.cov)
        reach = _DEVIATIONS * jnp.sqrt(variances)
        return jnp.stack([self.mean - reach, self.mean + reach])

    @property
    def independent(self) -> bool:
        return self.cov.ndim == 1

    def marginal(self, dims: Sequence[int]) -> "GaussianMeasure":
        index = np.array(dims)
        chosen = index if self.independent else np.ix_(index, index)
        parts = self.mean[index], self.cov[chosen]
        return eqx.tree_at(lambda m: (m.mean, m.cov), self, parts)

    def of_squared_exponential(
        self, X: Float[Array, "N D"], scale: Float[Array, " D"]
    ) -> tuple[Float[Array, " N"], Float[Array, ""]]:
        mean, cov = self.mean.astype(X.dtype), self.cov.astype(X.dtype)
        apart = (X - mean[None]) * scale[None]
        if self.independent:
            spread = cov * scale**2
            distances = jnp.sum(apart**2 / (1 + spread)[None], axis=1)
            volume = jnp.prod(1 + spread)
            return _bell(distances, volume), jnp.prod(1 + 2 * spread) ** -0.5
        spread = cov * scale[:, None] * scale[None]
        eye = jnp.eye(cov.shape[0], dtype=X.dtype)
        root = jnp.linalg.cholesky(eye + spread)
        distances = jnp.sum(solve_triangular(root, apart.T, lower=True) ** 2, axis=0)
        volumes = [
            jnp.prod(jnp.diagonal(each)) ** 2
            for each in (root, jnp.linalg.cholesky(eye + 2 * spread))
        ]
        return _bell(distances, volumes[0]), volumes[1] ** -0.5

    def of_waves(
        self, frequencies: Float[Array, "m D"], origin: Float[Array, " D"]
    ) -> tuple[Float[Array, " m"], Float[Array, " m"]]:
        dtype = frequencies.dtype
        mean, cov = self.mean.astype(dtype), self.cov.astype(dtype)
        squares = frequencies**2 @ cov if self.independent else None
        if squares is None:
            squares = jnp.sum((frequencies @ cov) * frequencies, axis=1)
        left, angles = (
            jnp.exp(-squares / 2),
            frequencies @ (mean - origin.astype(dtype)),
        )
        return left * jnp.cos(angles), left * jnp.sin(angles)

    def nodes(self, n: int) -> tuple[Float[Array, "K D"], Float[Array, " K"]]:
        points, weights = np.polynomial.hermite_e.hermegauss(n)
        places, shares = _tensor(points, weights, self.in_size, self.mean.dtype)
        if self.independent:
            return self.mean[None] + places * jnp.sqrt(self.cov)[None], shares
        return self.mean[None] + places @ jnp.linalg.cholesky(self.cov).T, shares


def _as_covariance(call: str, cov: Array) -> Array:
    cov = require_finite(cov, call)
    if cov.ndim == 1:
        return require(cov, finite_positive, f"`{call}` must be positive variances.")
    sentence = f"`{call}` must be a symmetric, positive definite matrix."
    if is_traced(cov):
        symmetric = jnp.max(jnp.abs(cov - cov.T)) <= 1e-4 * jnp.max(jnp.abs(cov))
        ok = symmetric & jnp.all(jnp.isfinite(jnp.linalg.cholesky(cov)))
        return require_ok(cov, ok, sentence)
    known = np.asarray(cov, float)
    least = np.linalg.eigvalsh(known)[0]
    if not np.allclose(known, known.T, rtol=1e-4, atol=0) or least <= 0:
        raise ValueError(f"{sentence} Got {known.tolist()}.")
    return cov


def _average(down: Float[Array, "N D"], width: Float[Array, "1 D"]) -> Array:
    """The mean of exp(-u^2 / 2) over u from `down` to `down + width`."""
    root = math.sqrt(2)
    narrow = width < _NARROW
    wide = jnp.where(narrow, 1, width)
    apart = erf((down + wide) / root) - erf(down / root)
    points, weights = np.polynomial.legendre.leggauss(_POINTS)
    part = jnp.where(narrow, width, 0)
    rule = sum(
        float(w) / 2 * jnp.exp(-((down + part * float(1 + p) / 2) ** 2) / 2)
        for p, w in zip(points, weights, strict=True)
    )
    return jnp.where(narrow, rule, math.sqrt(math.pi / 2) * apart / wide)


def _bell(distances: Float[Array, " N"], volume: Float[Array, ""]) -> Array:
    return jnp.exp(-distances / 2) * volume**-0.5


def _tensor(
    points: np.ndarray, weights: np.ndarray, in_size: int, dtype: np.dtype
) -> tuple[Float[Array, "K D"], Float[Array, " K"]]:
    """The product rule of D inputs, of total weight one."""
    places = np.array(list(itertools.product(points, repeat=in_size)))
    shares = np.array(list(itertools.product(weights, repeat=in_size))).prod(axis=1)
    return jnp.asarray(places, dtype), jnp.asarray(shares / shares.sum(), dtype)
