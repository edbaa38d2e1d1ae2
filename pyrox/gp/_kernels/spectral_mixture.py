"""The spectral mixture kernel: a stationary kernel by the modes of its spectrum."""

import operator
from functools import reduce

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float
from numpyro.distributions import constraints

from .._features.basis import Draw
from .._features.maps import FourierFeatures
from .._hyper.checks import as_points, common_dtype
from .._hyper.parameters import POSITIVE, hyperparameter, site
from .._hyper.scales import Scales
from .._numerics.distances import squared_distances
from .._numerics.turns import turns_between
from .kernel import AbstractKernel


class SpectralMixture(AbstractKernel):
    """sum_q weights_q exp(-2 pi^2 |scales_q (x - x')|^2) cos(2 pi means_q . (x - x')).

    Any stationary kernel is a limit of these: its spectrum as a mixture of Q normals
    (Wilson & Adams 2013, arXiv 1302.4245, with the phase of all inputs in one cosine).
    Its features are frequencies of each mode, an equal share of the columns.

    Args:
        init_weights: (Q,), the variance of each mode.
        init_means: (Q, D), its frequency in cycles per input unit.
        init_scales: (Q, D), the spread of its frequencies, in the same units.
        name: the prefix of its NumPyro sites.

    Raises:
        ValueError: shapes that differ in Q or D; weights or scales not positive.

    Cost: O(Q N M D) time, O(N M) memory for a Gram matrix.

    Example:
        >>> import jax.numpy as jnp
        >>> from pyrox.gp import SpectralMixture
        >>> means, scales = jnp.array([[0.0], [2.0]]), jnp.array([[0.1], [0.2]])
        >>> kernel = SpectralMixture(jnp.array([1.0, 0.5]), means, scales)
        >>> kernel.diag(jnp.zeros((2, 1)))
        Array([1.5, 1.5], dtype=float32)
    """

    weights: Float[Array, " Q"] = hyperparameter(
        POSITIVE, ndims=(1,), scale=lambda k, data: data.variance / k.weights.size
    )
    means: Float[Array, "Q D"] = hyperparameter(
        constraints.real, ndims=(2,), scale=lambda k, data: k._frequencies(data)
    )
    scales: Float[Array, "Q D"] = hyperparameter(
        POSITIVE, ndims=(2,), scale=lambda _, data: 1 / (2 * np.pi * data.lengths[None])
    )

    def __init__(
        self,
        init_weights: ArrayLike,
        init_means: ArrayLike,
        init_scales: ArrayLike,
        name: str = "SpectralMixture",
    ):
        self._set(name, weights=init_weights, means=init_means, scales=init_scales)
        if not self.weights.shape[:1] == self.means.shape[:1] == self.scales.shape[:1]:
            raise ValueError(
                "`SpectralMixture` must be given as many weights as rows of means and "
                f"scales. Got shapes {self.weights.shape}, {self.means.shape} and "
                f"{self.scales.shape}. Pass (Q,), (Q, D) and (Q, D)."
            )

    def __call__(
        self, X1: Float[Array, "N D"], X2: Float[Array, "M D"]
    ) -> Float[Array, "N M"]:
        X1, X2 = as_points(X1), as_points(X2)
        self._check(X1.shape[1])
        dtype = common_dtype(X1, X2)
        X1, X2 = X1.astype(dtype), X2.astype(dtype)
        leaves = (self.weights, self.means, 2 * np.pi * self.scales)
        modes = zip(*(leaf.astype(dtype) for leaf in leaves), strict=True)

        def gram(weight, mean, scale):
            spread = jnp.exp(-squared_distances(X1, X2, scale) / 2)
            angle = 2 * np.pi * turns_between(X1, X2, mean)
            return weight * spread * jnp.cos(angle)

        return reduce(operator.add, (gram(*mode) for mode in modes))

    def diag(self, X: Float[Array, "N D"]) -> Float[Array, " N"]:
        X = as_points(X)
        return jnp.broadcast_to(jnp.sum(self.weights).astype(X.dtype), X.shape[:1])

    def terms(self) -> tuple[tuple[AbstractKernel, ...], ...]:
        n_modes = self.weights.shape[0]
        if n_modes == 1:
            return ((self,),)
        modes = (
            SpectralMixture(
                self.weights[q, None], self.means[q, None], self.scales[q, None]
            )
            for q in range(n_modes)
        )
        return tuple((mode,) for mode in modes)

    def _frequencies(self, data: Scales) -> Float[Array, "Q D"]:
        """A mean for each mode, none like another: equal modes would stay equal."""
        odd = 2 * np.arange(self.weights.size)[:, None] + 1
        odd = jnp.asarray(odd.astype(data.inputs.dtype))
        return odd / (4 * data.lengths[None])

    def sample_frequencies(self, draw: Draw, in_size: int) -> FourierFeatures | None:
        self._check(in_size)
        if self.weights.shape[0] > 1:
            return None  # a basis asks the terms
        (normal,) = draw(self.means.dtype, in_size)
        m = normal.shape[0]
        cycles = self.means + self.scales * normal
        return FourierFeatures(
            2 * np.pi * cycles, jnp.broadcast_to(self.weights / m, (m,))
        )

    def _check(self, in_size: int) -> None:
        for field in ("means", "scales"):
            shape = getattr(self, field).shape
            if shape[1] != in_size:
                raise ValueError(
                    f"`{site(self, field)}` has shape {shape} and the inputs have "
                    f"D={in_size}. Pass one column for each input."
                )
