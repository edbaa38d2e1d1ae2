"""The basis of few inputs: a regular grid of frequencies on a domain."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from .._hyper.arrays import as_float, as_numbers, is_traced, require_resolved
from .._hyper.checks import common_dtype
from .basis import AbstractTermBasis, Expandable, Factor, Sobol, split_factors
from .lattice import lattice_features
from .maps import FourierFeatures, fourier_columns
from .spectrum import RadialSpectrum

_MARGIN = 2  # lengthscales beyond the data, at least
_FEWEST = 16  # columns that a grid is worth while for


class FourierGrid(AbstractTermBasis):
    """Frequencies on a regular grid, near exact for few inputs, inside a domain.

    A term of a kernel that has a spectral density (`RBF`, `Matern`, scaled or on some
    columns) and sees at most three inputs (two for Matern-1/2) takes the frequencies of
    a lattice that carry the most mass, and random ones for what is left. For smooth
    kernels of one or two inputs the error of the paths' covariance is that of rounding.
    All other terms have scrambled `Sobol` frequencies, right everywhere.

    The price is a domain, since a function with such frequencies repeats. Points
    outside raise an error, under `jit` when the program runs: a function continued into
    its own copy would look right and be wrong, and a NaN would reach a mean or an
    optimiser unnoticed.

    Args:
        domain: the lowest and the highest input, a pair of numbers or of one number for
            each input. By default the box of the data (of the inducing inputs, for a
            sparse posterior), wider by half on both sides, or by two lengthscales if
            that is more. A wider domain spreads the same frequencies thinner. The
            default follows the outermost data, and the frequencies follow it: state a
            domain for functions to be differentiated by those data.

    Raises:
        ValueError: a domain that is empty, has another number of inputs than the data,
            or does not hold them; a point outside when a path is called.

    Source: Poisson's summation, as in Wood & Chan 1994 and Solin & Sarkka 2020
    (arXiv 1401.5508); the random rest keeps the expectation right at any number of
    columns.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from pyrox.gp import RBF, FourierGrid, GPPrior, PathwiseSampler
        >>> prior = GPPrior(RBF(), X=jnp.zeros((1, 1)))
        >>> sampler = PathwiseSampler(prior, 128, basis=FourierGrid((-10.0, 10.0)))
        >>> paths = sampler.sample_paths(jax.random.key(0), 5)
        >>> paths(jnp.array([[9.9]])).shape, paths.basis.domain.shape
        ((5, 1), (2, 1))
    """

    domain: Float[Array, "2 D"] | None

    def __init__(self, domain: Any = None):
        self.domain = None if domain is None else _as_domain(domain)

    def on(self, kernel: Expandable, X: Float[Array, "N D"]) -> AbstractTermBasis:
        """With the default domain around `X`, if the grid is for this kernel; else the
        random basis that takes its place."""
        spectra = _spectra(kernel, X.shape[1])
        if not spectra:
            return Sobol()
        stated = self.domain_in("FourierGrid(domain=...)", X.shape[1])
        box = _box(spectra, X) if stated is None else stated
        return FourierGrid(_unbounded_elsewhere(box, spectra))

    def domain_in(self, call: str, in_size: int) -> Float[Array, "... 2 D"] | None:
        if self.domain is None:
            return None
        if self.domain.shape[-1] not in (1, in_size):
            raise ValueError(
                f"`{call}` must have one number or {in_size} for each side, as the "
                f"inputs have D={in_size}. Got {self.domain.shape[-1]}. Pass one "
                "number for each input."
            )
        if self.domain.shape[-1] == in_size:
            return self.domain
        return jnp.repeat(self.domain, in_size, axis=-1)

    def waves(
        self,
        key: PRNGKeyArray,
        factors: Sequence[Factor],
        n_features: int,
        in_size: int,
    ) -> FourierFeatures:
        spectrum = _spectrum(factors, in_size)
        if spectrum is None or n_features < _FEWEST:
            return Sobol().waves(key, factors, n_features, in_size)
        domain = self.domain_in("FourierGrid(domain=...)", in_size)
        if domain is None:
            raise ValueError(
                "`FourierGrid().features` must be given a domain, which a sampler "
                "takes from its data. Pass `FourierGrid((lower, upper))`, or call "
                "`basis.on(kernel, X)` first."
            )
        lower, upper = domain
        widths = jnp.stack([upper[d] - lower[d] for d in spectrum.dims])
        phi = lattice_features(key, spectrum, widths, n_features // 2)
        return fourier_columns(phi, spectrum.dims, in_size)


def _as_domain(domain: Any) -> Array:
    call = "FourierGrid(domain=...)"
    given = [as_numbers(side, call) for side in domain]
    sides = [jnp.atleast_1d(as_float(side)) for side in given]
    shapes = {side.shape for side in sides if side.shape != (1,)}
    if len(sides) != 2 or len(shapes) > 1 or any(len(shape) != 1 for shape in shapes):
        raise ValueError(
            "`FourierGrid(domain=...)` must be the lowest and the highest input, each "
            f"a number or (D,). Got {domain!r}. Pass `(0.0, 1.0)`, say."
        )
    dtype = common_dtype(*sides)
    if not any(map(is_traced, given)):
        box = np.stack(np.broadcast_arrays(*(np.atleast_1d(side) for side in given)))
        require_resolved(call, box, dtype)
    lower, upper = jnp.broadcast_arrays(*(side.astype(dtype) for side in sides))
    known = not is_traced(lower) and not is_traced(upper)
    if known and not (np.asarray(lower) < np.asarray(upper)).all():
        raise ValueError(
            "`FourierGrid(domain=...)` must have its lowest input below its highest. "
            f"Got {domain!r}. Pass `(0.0, 1.0)`, say."
        )
    return jnp.stack([lower, upper])


def _spectrum(factors: Sequence[Factor], in_size: int) -> RadialSpectrum | None:
    """Of the one factor that has frequencies, if a grid is good for it."""
    if len(factors) != 1:
        return None
    spectrum = factors[0].spectrum(in_size)
    if spectrum is None or len(spectrum.dims) > spectrum.most_inputs:
        return None
    return spectrum


def _spectra(kernel: Expandable, in_size: int) -> list[RadialSpectrum]:
    """Of all terms that a grid is good for."""
    found = []
    for term in kernel.terms():
        waves, others = split_factors(term, in_size)
        found.append(_spectrum(waves, in_size))
        lifted = filter(None, (factor.lifted(in_size) for factor in others))
        found += [s for inner in lifted for s in _spectra(inner.kernel, in_size)]
    return [spectrum for spectrum in found if spectrum is not None]


def _box(
    spectra: Sequence[RadialSpectrum], X: Float[Array, "N D"]
) -> Float[Array, "2 D"]:
    lower, upper = jnp.min(X, axis=0), jnp.max(X, axis=0)
    margin = (upper - lower) / 2
    for spectrum in spectra:
        least = _MARGIN * spectrum.lengthscale.astype(X.dtype)
        margin = jnp.maximum(margin, _to_columns(least, spectrum, X.shape[1]))
    return jnp.stack([lower - margin, upper + margin])


def _unbounded_elsewhere(
    box: Float[Array, "2 D"], spectra: Sequence[RadialSpectrum]
) -> Float[Array, "2 D"]:
    """Columns that no grid sees have no bounds."""
    seen = {d for spectrum in spectra for d in spectrum.dims}
    unseen = np.array([d not in seen for d in range(box.shape[1])])
    endless = jnp.array([[-np.inf], [np.inf]], box.dtype)
    return jnp.where(unseen[None, :], endless, box) if unseen.any() else box


def _to_columns(
    values: Float[Array, " d"], spectrum: RadialSpectrum, in_size: int
) -> Float[Array, " D"]:
    """Zero for the columns that the kernel does not see."""
    if spectrum.dims == tuple(range(in_size)):
        return values
    full = jnp.zeros((in_size,), values.dtype)
    return full.at[np.array(spectrum.dims)].set(values)
