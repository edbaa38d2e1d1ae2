"""The variational families q(u): full rank, mean field, whitened, a point mass."""

from typing import TypeVar

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Real
from numpyro.distributions import constraints

from .._hyper.checks import as_count, as_float
from .._hyper.parameters import hyperparameter
from .guide import AbstractGaussianGuide, AbstractGuide
from .sparse import Inducing

Own = TypeVar("Own", bound="AbstractFullRankGuide")


class AbstractFullRankGuide(AbstractGaussianGuide):
    """A guide of a mean and a lower-triangular root of its covariance."""

    mean: Float[Array, " M"] = hyperparameter(constraints.real, ndims=(1,))
    scale_tril: Float[Array, "M M"] = hyperparameter(
        constraints.lower_cholesky, ndims=(2,)
    )

    def __init__(
        self,
        mean: Real[ArrayLike, " M"],
        scale_tril: Real[ArrayLike, "M M"],
        name: str = "",
    ):
        self.mean = as_float(mean)
        self.scale_tril = as_float(scale_tril)
        self.name = name or type(self).__name__

    def __check_init__(self):
        _same_size(self, self.scale_tril.shape)

    @classmethod
    def init(cls: type[Own], n_inducing: int, name: str = "") -> Own:
        """Mean zero and the identity as root: of u, or if whitened the prior itself."""
        return cls(*_standard(n_inducing), name=name)

    @property
    def size(self) -> int:
        return self.mean.shape[0]


class FullRankGuide(AbstractFullRankGuide):
    """q(u) = N(mean, scale_tril scale_tril^T), over the function values themselves.

    Args:
        mean: (M,), in units of the function, mean function included.
        scale_tril: (M, M), lower triangular with a positive diagonal.
        name: the prefix of its NumPyro parameters, its class's name if empty.

    Example:
        >>> from pyrox.gp import FullRankGuide
        >>> FullRankGuide.init(3).scale_tril.shape
        (3, 3)
    """

    # Named here, or type checkers would make one up from the fields.
    __init__ = AbstractFullRankGuide.__init__

    def whitened(
        self, inducing: Inducing
    ) -> tuple[Float[Array, " M"], Float[Array, "M M"]]:
        return _whitened_mean(self.mean, inducing), inducing.factor.whiten(
            self.scale_tril.astype(inducing.mean.dtype)
        )


class MeanFieldGuide(AbstractGaussianGuide):
    """q(u) = N(mean, diag(scale^2)), over the function values themselves.

    Args:
        mean: (M,), in units of the function, mean function included.
        scale: (M,), standard deviations in the same units.
        name: the prefix of its NumPyro parameters.

    Example:
        >>> from pyrox.gp import MeanFieldGuide
        >>> MeanFieldGuide.init(3).scale.shape
        (3,)
    """

    mean: Float[Array, " M"] = hyperparameter(constraints.real, ndims=(1,))
    scale: Float[Array, " M"] = hyperparameter(constraints.positive, ndims=(1,))

    def __init__(
        self,
        mean: Real[ArrayLike, " M"],
        scale: Real[ArrayLike, " M"],
        name: str = "MeanFieldGuide",
    ):
        self.mean = as_float(mean)
        self.scale = as_float(scale)
        self.name = name

    def __check_init__(self):
        _same_size(self, self.scale.shape)

    @classmethod
    def init(cls, n_inducing: int, name: str = "MeanFieldGuide") -> "MeanFieldGuide":
        """Zero mean, unit variances."""
        mean, root = _standard(n_inducing)
        return cls(mean, jnp.diagonal(root), name=name)

    @property
    def size(self) -> int:
        return self.mean.shape[0]

    def whitened(
        self, inducing: Inducing
    ) -> tuple[Float[Array, " M"], Float[Array, "M M"]]:
        root = jnp.diag(self.scale.astype(inducing.mean.dtype))
        return _whitened_mean(self.mean, inducing), inducing.factor.whiten(root)


class WhitenedGuide(AbstractFullRankGuide):
    """q(v) = N(mean, scale_tril scale_tril^T) for u = mean(Z) + L v, L L^T = Cov[u].

    Easier to train than `FullRankGuide`: its initial value is the prior, and it follows
    hyperparameters and Z as they move.

    Args:
        mean: (M,), in prior standard deviations.
        scale_tril: (M, M), lower triangular with a positive diagonal.
        name: the prefix of its NumPyro parameters, its class's name if empty.

    Example:
        >>> import jax.numpy as jnp
        >>> from pyrox.gp import RBF, SparseGPPrior, WhitenedGuide
        >>> prior = SparseGPPrior(RBF(), Z=jnp.array([[0.0], [1.0]]))
        >>> WhitenedGuide.init(2).kl(prior)
        Array(0., dtype=float32)
    """

    # Named here, or type checkers would make one up from the fields.
    __init__ = AbstractFullRankGuide.__init__

    def whitened(
        self, inducing: Inducing
    ) -> tuple[Float[Array, " M"], Float[Array, "M M"]]:
        dtype = inducing.mean.dtype
        return self.mean.astype(dtype), self.scale_tril.astype(dtype)


class DeltaGuide(AbstractGuide):
    """q(u) = a point mass at mean: a MAP estimate of the inducing values.

    Its divergence is taken as -log p(u): the entropy of a point mass, which is minus
    infinity and constant, is left out.

    Args:
        mean: (M,), in units of the function, mean function included.
        name: the prefix of its NumPyro parameters.

    Example:
        >>> from pyrox.gp import DeltaGuide
        >>> DeltaGuide.init(3).mean.shape
        (3,)
    """

    mean: Float[Array, " M"] = hyperparameter(constraints.real, ndims=(1,))

    def __init__(self, mean: Real[ArrayLike, " M"], name: str = "DeltaGuide"):
        self.mean = as_float(mean)
        self.name = name

    @classmethod
    def init(cls, n_inducing: int, name: str = "DeltaGuide") -> "DeltaGuide":
        """Zero."""
        return cls(_standard(n_inducing)[0], name=name)

    @property
    def size(self) -> int:
        return self.mean.shape[0]

    def whitened(
        self, inducing: Inducing
    ) -> tuple[Float[Array, " M"], Float[Array, "M M"]]:
        mean = _whitened_mean(self.mean, inducing)
        return mean, jnp.zeros((self.size, self.size), mean.dtype)

    def divergence(self, inducing: Inducing) -> Float[Array, ""]:
        mean, _ = self.whitened(inducing)
        constant = self.size * jnp.log(2 * jnp.pi)
        return 0.5 * (jnp.sum(mean**2) + inducing.factor.log_det() + constant)


def _same_size(guide: AbstractGuide, shape: tuple[int, ...]) -> None:
    if set(shape) != {guide.size}:
        raise ValueError(
            f"`{type(guide).__name__}` must have one mean and one scale for each "
            f"inducing value. Got a mean of shape {(guide.size,)} and a scale of shape "
            f"{shape}. Pass arrays for the same M."
        )


def _standard(n_inducing: int) -> tuple[Array, Array]:
    n_inducing = as_count("guide.init(n_inducing)", n_inducing)
    return jnp.zeros(n_inducing), jnp.eye(n_inducing)


def _whitened_mean(mean: Array, inducing: Inducing) -> Array:
    residual = mean.astype(inducing.mean.dtype) - inducing.mean
    return inducing.factor.whiten(residual[:, None])[:, 0]
