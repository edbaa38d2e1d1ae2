"""The spectral density of a kernel: where a grid of frequencies finds its mass."""

from collections.abc import Callable

import equinox as eqx
from jaxtyping import Array, Float


class RadialSpectrum(eqx.Module):
    """variance * a density of |lengthscale * frequency|, over some columns.

    Args:
        log_density: from squared scaled frequencies and the number of inputs to the
            logarithm of a density over them that integrates to one.
        farther: from a chance and a square, the squared scaled frequency of two inputs
            that a random one beyond that square exceeds with this chance.
        lengthscale: one for each input that the kernel sees.
        variance: k(x, x).
        dims: the columns that these are.
        most_inputs: up to how many inputs a grid gains on random frequencies.
    """

    log_density: Callable[[Array, int], Array]
    farther: Callable[[Array, Array], Array]
    lengthscale: Float[Array, " d"]
    variance: Float[Array, ""]
    dims: tuple[int, ...] = eqx.field(static=True)
    most_inputs: int = eqx.field(static=True)
