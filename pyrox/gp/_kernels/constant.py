"""The two plainest kernels: one constant for all points, one noise for each."""

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from .._features.basis import Draw
from .._features.maps import AbstractFeatures, FourierFeatures
from .._hyper.checks import as_points, common_dtype
from .._hyper.parameters import POSITIVE, hyperparameter
from .._numerics.measures import AbstractMeasure
from .integrals import Integrals
from .kernel import AbstractConstantVariance


class Constant(AbstractConstantVariance):
    """k(x, x') = variance: an unknown level.

    In a sum it adds a level, in a product it scales. Its feature is exact.

    Args:
        init_variance: in squared units of the function.
        name: the prefix of its NumPyro sites.

    Example:
        >>> import jax.numpy as jnp
        >>> from pyrox.gp import RBF, Constant
        >>> (RBF() + Constant(4.0)).diag(jnp.zeros((1, 1)))
        Array([5.], dtype=float32)
    """

    variance: Float[Array, ""] = hyperparameter(POSITIVE, scale="output^2")

    def __init__(self, init_variance: ArrayLike = 1.0, name: str = "Constant"):
        self._set(name, variance=init_variance)

    def __call__(
        self, X1: Float[Array, "N D"], X2: Float[Array, "M D"]
    ) -> Float[Array, "N M"]:
        X1, X2 = as_points(X1), as_points(X2)
        variance = self.variance.astype(common_dtype(X1, X2))
        return jnp.broadcast_to(variance, (X1.shape[0], X2.shape[0]))

    def integrals(self, X: Float[Array, "N D"], over: AbstractMeasure) -> Integrals:
        return Integrals(jnp.ones_like(X[:, 0]), jnp.ones((), X.dtype)).scaled(
            self.variance
        )

    def exact_features(self, n_features: int, in_size: int) -> FourierFeatures:
        return self._still(1, in_size)

    def sample_frequencies(self, draw: Draw, in_size: int) -> FourierFeatures:
        (nothing,) = draw(self.variance.dtype, 0)
        return self._still(nothing.shape[0], in_size)

    def _still(self, n: int, in_size: int) -> FourierFeatures:
        """A wave of frequency zero."""
        dtype = self.variance.dtype
        masses = jnp.broadcast_to(self.variance / n, (n,))
        return FourierFeatures(jnp.zeros((n, in_size), dtype), masses)


class White(AbstractConstantVariance):
    """k(x, x') = variance where x = x' in every digit, and zero elsewhere.

    Noise that belongs to the point: two observations at one input share it, and a
    prediction there includes it. Noise of the measurement, new each time, is what
    `noise_var` is for. It conditions and predicts; a function that jumps at every point
    has no features, so a sum that contains it draws no paths.

    Args:
        init_variance: in squared units of the function.
        name: the prefix of its NumPyro sites.

    Example:
        >>> import jax.numpy as jnp
        >>> from pyrox.gp import White
        >>> White(0.5)(jnp.array([[0.0], [1.0]]), jnp.array([[1.0]]))
        Array([[0. ],
               [0.5]], dtype=float32)
    """

    variance: Float[Array, ""] = hyperparameter(POSITIVE, scale="output^2")

    def __init__(self, init_variance: ArrayLike = 1.0, name: str = "White"):
        self._set(name, variance=init_variance)

    def __call__(
        self, X1: Float[Array, "N D"], X2: Float[Array, "M D"]
    ) -> Float[Array, "N M"]:
        X1, X2 = as_points(X1), as_points(X2)
        same = jnp.all(X1[:, None, :] == X2[None, :, :], axis=2)
        dtype = common_dtype(X1, X2)
        return self.variance.astype(dtype) * same.astype(dtype)

    def integrals(self, X: Float[Array, "N D"], over: AbstractMeasure) -> Integrals:
        return Integrals(jnp.zeros_like(X[:, 0]), jnp.zeros((), X.dtype))

    @property
    def smoothness(self) -> float:
        return 0

    def features(
        self, key: PRNGKeyArray, n_features: int, in_size: int
    ) -> AbstractFeatures:
        raise ValueError(
            "`White` has no features: white noise is no function that could be "
            "evaluated. Leave it out of the kernel and pass it to `condition` as "
            "`noise_var`; `predict_var` plus that noise is the variance of new data."
        )
