"""The prior at inducing inputs: p(u), u = f(Z), and how Z explains other points."""

from collections.abc import Callable

import equinox as eqx
from jaxtyping import Array, ArrayLike, Bool, Float, Real

from .._kernels.given import as_inputs_of
from .._kernels.kernel import AbstractKernel
from .._solvers.cholesky import CholeskyFactor, factor, guarded_factor
from .jitter import jitter_variance
from .mean import mean_at
from .process import as_process


class Inducing(eqx.Module):
    """p(u) = N(mean, L L^T) with L L^T = K_ZZ + jitter_var I."""

    mean: Float[Array, " M"]
    factor: CholeskyFactor
    jitter_var: Float[Array, ""]


class SparseGPPrior(eqx.Module):
    """A Gaussian-process prior f ~ GP(mean_fn, kernel) seen through inducing inputs Z.

    With a guide q(u), u = f(Z), it is a sparse variational posterior (Titsias 2009;
    Hensman et al. 2013, arXiv 1309.6835): `guide.predict(prior, X)`,
    `guide.elbo(prior, X, y, noise_var)`, `DecoupledPathwiseSampler(prior, guide)`.

    Args:
        kernel: the covariance function.
        Z: inducing inputs, one row a point. To train them pass
            `numpyro.param("Z", Z)`.
        mean_fn: any callable (N, D) -> (N,), zero by default.
        jitter: added to the diagonal of K_ZZ, in parts of its mean; u is f(Z) with
            that noise. By default what the type needs, see `GPPrior`.

    Raises:
        ValueError: a Z that is not (M, D), is empty, or has NaN or inf.

    Example:
        >>> import jax.numpy as jnp
        >>> from pyrox.gp import RBF, FullRankGuide, SparseGPPrior
        >>> prior = SparseGPPrior(RBF(), Z=jnp.array([[0.0], [1.0]]))
        >>> mean, var = FullRankGuide.init(2).predict(prior, jnp.zeros((3, 1)))
        >>> mean.shape, var.shape
        ((3,), (3,))
    """

    kernel: AbstractKernel
    Z: Float[Array, "M D"]
    mean_fn: Callable
    jitter: float | None = eqx.field(static=True)

    def __init__(
        self,
        kernel: AbstractKernel,
        Z: Real[ArrayLike, "M D"],
        mean_fn: Callable | None = None,
        jitter: float | None = None,
    ):
        parts = as_process("SparseGPPrior", kernel, mean_fn, jitter)
        self.kernel, self.mean_fn, self.jitter = parts
        call = "SparseGPPrior(Z=...)"
        self.Z = as_inputs_of(kernel, call, Z, at_run_time=False)

    def inducing(self) -> Inducing:
        """p(u), with the factor of its covariance. Cost: M^3 / 3 operations."""
        K, jitter_var = self._covariance()
        root = factor(K, jitter_var)
        return Inducing(mean_at(self.mean_fn, self.Z), root, jitter_var)

    def guarded_inducing(self) -> tuple[Inducing, Bool[Array, ""]]:
        """p(u) and whether its covariance has a factor; see `guarded_factor`."""
        K, jitter_var = self._covariance()
        root, ok = guarded_factor(K, jitter_var)
        return Inducing(mean_at(self.mean_fn, self.Z), root, jitter_var), ok

    def _covariance(self) -> tuple[Array, Array]:
        K = self.kernel(self.Z, self.Z)
        return K, jitter_variance(self.jitter, K)
