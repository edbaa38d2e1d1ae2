"""The covariance between outputs: a kernel of their numbers."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Real
from numpyro.distributions import constraints

from .._features.maps import AbstractFeatures
from .._hyper.checks import (
    as_count,
    as_float,
    as_numbers,
    as_points,
    common_dtype,
    is_traced,
    require_finite,
    require_single,
)
from .._hyper.parameters import POSITIVE, hyperparameter
from .._numerics.lapack import cholesky, solve_lower
from .kernel import AbstractKernel, Rule
from .output_index import Outputs, as_outputs, output_rule

_SHARED = 0.5  # of a variance of one, at the start


class Coregionalization(AbstractKernel):
    """k(p, q) = B_pq, of outputs numbered from 0, with B = W W^T + diag(kappa).

    Its input is one column, the number of an output. Times a kernel of the other
    columns it is a model of several outputs that share what they have in common: the
    intrinsic model of coregionalization, and a sum of such products is the linear
    model (Alvarez, Rosasco & Lawrence 2012, arXiv 1106.6251, sections 4.1 and 4.2).
    Each output is then a function of one Gaussian process, so outputs may be observed
    at different places. Its P features are exact. The derivative of its functions by
    the number of an output is zero.

    Args:
        rank: R, the columns of W, from 1 to P: how many functions outputs share.
        n_outputs: P.
        init_W: (P, R), weights in units of the output. The default shares half of a
            variance of one: equal weights, then waves over the outputs.
        init_kappa: (P,) or one for all, the variance of each output's own.
        name: the prefix of its NumPyro sites.

    Raises:
        ValueError: a rank above the number of outputs; weights or variances of another
            shape, not finite, or variances that are not positive; inputs that are no
            whole numbers from 0 to P - 1, which are NaN where they are traced and a
            kernel is called by itself.

    Cost: O(N M) for a Gram matrix.

    Example:
        >>> import jax.numpy as jnp
        >>> from pyrox.gp import RBF, ActiveDims, Coregionalization
        >>> outputs = Coregionalization(1, 2, init_W=[[1.0], [-1.0]], init_kappa=0.5)
        >>> kernel = ActiveDims(RBF(), (0,)) * ActiveDims(outputs, (1,))
        >>> X = jnp.array([[0.3, 0.0], [0.3, 1.0]])  # two outputs at 0.3
        >>> kernel(X, X)
        Array([[ 1.5, -1. ],
               [-1. ,  1.5]], dtype=float32)
    """

    W: Float[Array, "P R"] = hyperparameter(
        constraints.real,
        ndims=(2,),
        scale=lambda k, data: jnp.sqrt(data.variance) * _waves_like(k.W),
    )
    kappa: Float[Array, " P"] = hyperparameter(
        POSITIVE, ndims=(1,), scale=lambda _, data: (1 - _SHARED) * data.variance
    )

    def __init__(
        self,
        rank: int,
        n_outputs: int,
        init_W: ArrayLike | None = None,
        init_kappa: ArrayLike = 1 - _SHARED,
        name: str = "Coregionalization",
    ):
        call = "Coregionalization"
        rank = as_count(f"{call}(rank=...)", rank)
        n_outputs = as_count(f"{call}(n_outputs=...)", n_outputs)
        if rank > n_outputs:
            raise ValueError(
                f"`{call}(rank=...)` must be at most the number of outputs, "
                f"{n_outputs}. Got {rank}. With that many any B is possible."
            )
        shape = n_outputs, rank
        W = _waves(*shape) if init_W is None else init_W
        W = as_float(W, f"{call}(init_W=...)")
        kappa = as_float(init_kappa, f"{call}(init_kappa=...)")
        if W.shape != shape or kappa.shape not in ((), (n_outputs,)):
            raise ValueError(
                f"`{call}(rank={rank}, n_outputs={n_outputs})` must have W of shape "
                f"{shape} and kappa of shape () or ({n_outputs},). Got {W.shape} and "
                f"{kappa.shape}. Pass one row of weights for each output."
            )
        self._set(name, W=W, kappa=jnp.broadcast_to(kappa, (n_outputs,)))

    @staticmethod
    def of_covariance(
        B: Real[ArrayLike, "P P"], name: str = "Coregionalization"
    ) -> "Coregionalization":
        """The kernel with a given B, split into kappa, one number, and the rest.

        Raises:
            ValueError: a B that is no square matrix, not symmetric, not finite or not
                positive definite; where it is traced the kernel is NaN.

        Cost: O(P^3).

        Example:
            >>> import jax.numpy as jnp
            >>> from pyrox.gp import Coregionalization
            >>> B = jnp.array([[2.0, 1.0], [1.0, 3.0]])
            >>> kernel = Coregionalization.of_covariance(B)
            >>> bool(jnp.allclose(kernel.covariance, B)), kernel.W.shape
            (True, (2, 2))
        """
        B = _as_covariance("Coregionalization.of_covariance(B)", B)
        n_outputs = B.shape[0]
        identity = jnp.eye(n_outputs, dtype=B.dtype)
        # Half of what is below the least eigenvalue, and has a derivative everywhere.
        least = 1 / jnp.sum(solve_lower(cholesky(B), identity) ** 2)
        W = cholesky(B - least / 2 * identity)
        return Coregionalization(n_outputs, n_outputs, W, least / 2, name)

    @property
    def n_outputs(self) -> int:
        """P."""
        return self.W.shape[-2]

    @property
    def covariance(self) -> Float[Array, "P P"]:
        """B = W W^T + diag(kappa)."""
        shared = jnp.matmul(self.W, self.W.T, precision="highest")
        return shared + jnp.diag(self.kappa)

    def __call__(
        self, X1: Float[Array, "N 1"], X2: Float[Array, "M 1"]
    ) -> Float[Array, "N M"]:
        X1, X2 = as_points(X1), as_points(X2)
        left, right = self._outputs(X1), self._outputs(X2)
        B = self.covariance.astype(common_dtype(X1, X2))
        rows = left.only(B[left.numbers])
        return right.only(rows.T[right.numbers]).T

    def diag(self, X: Float[Array, "N 1"]) -> Float[Array, " N"]:
        X = as_points(X)
        outputs = self._outputs(X)
        variances = jnp.diagonal(self.covariance).astype(X.dtype)
        return outputs.only(variances[outputs.numbers])

    def rules(self, X: Any) -> tuple[Rule, ...]:
        return (output_rule(_KIND, _column(X), self.n_outputs),)

    def exact_features(self, n_features: int, in_size: int) -> "OutputFeatures":
        # B = [W, sqrt kappa] [W, sqrt kappa]^T: its factor without squaring W.
        wide = jnp.concatenate([self.W, jnp.diag(jnp.sqrt(self.kappa))], axis=1)
        upper = jnp.linalg.qr(wide.T, mode="r")
        signs = jnp.where(jnp.diagonal(upper) < 0, -1, 1).astype(upper.dtype)
        return OutputFeatures(upper.T * signs[None, :])

    def _outputs(self, X: Float[Array, "N 1"]) -> Outputs:
        return as_outputs(_KIND, _column(X), self.n_outputs)


_KIND = "Coregionalization"


class OutputFeatures(AbstractFeatures):
    """The rows of a root of B."""

    root: Float[Array, "P F"]

    def __call__(self, X: Float[Array, "N 1"]) -> Float[Array, "N F"]:
        outputs = as_outputs(_KIND, _column(X), self.root.shape[0])
        return outputs.only(self.root.astype(X.dtype)[outputs.numbers])


def _column(X: Any) -> Any:
    if X.shape[-1] != 1:
        raise ValueError(
            f"`{_KIND}` must see one column, the number of an output. Got inputs of "
            f"D={X.shape[-1]}. Choose it: `ActiveDims({_KIND}(...), ({X.shape[-1] - 1},"
            "))`, times a kernel of the others."
        )
    return X[..., 0]


def _waves(n_outputs: int, rank: int) -> Float[np.ndarray, "P R"]:
    """Weights that share the same part of each output's variance, on average, and
    whose columns differ, for columns that start alike would stay alike."""
    outputs, waves = np.arange(n_outputs)[:, None] + 0.5, np.arange(rank)[None, :]
    sizes = np.sqrt(np.where(waves > 0, 2, 1) * _SHARED / rank)
    return sizes * np.cos(np.pi * waves * outputs / n_outputs)


def _waves_like(W: Float[Array, "P R"]) -> Float[Array, "P R"]:
    return jnp.asarray(_waves(*W.shape), W.dtype)


def _as_covariance(call: str, B: ArrayLike) -> Float[Array, "P P"]:
    given = as_numbers(B, call)
    require_single(call, given)
    B = as_float(given, call)
    if B.ndim != 2 or B.shape[0] != B.shape[1] or B.shape[0] == 0:
        raise ValueError(
            f"`{call}` must have shape (P, P), one row and column for each output. Got "
            f"{B.shape}."
        )
    require_finite(B, call, at_run_time=False)
    if is_traced(B):
        return B
    known = np.asarray(B, np.float64)
    off, scale = np.abs(known - known.T).max(), np.abs(known).max()
    rounding = 10 * B.shape[0] * float(jnp.finfo(B.dtype).eps)
    if off > rounding * scale:
        raise ValueError(
            f"`{call}` must be symmetric. Got entries that differ by {off:.3g} from "
            "those across the diagonal. Pass `(B + B.T) / 2`, if that is meant."
        )
    least = np.linalg.eigvalsh(known)[0]
    if least <= rounding * scale:
        raise ValueError(
            f"`{call}` must be positive definite in {B.dtype}. Got a least eigenvalue "
            f"of {least:.3g}, the largest entry being {scale:.3g}. Add a variance of "
            "each output's own to the diagonal."
        )
    return B
