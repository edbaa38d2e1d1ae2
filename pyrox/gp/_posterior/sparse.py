"""The prior at inducing inputs: p(u), u = f(Z), and how Z explains other points."""

from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Real

from .._hyper.checks import as_noise, as_values, common_dtype
from .._hyper.parameters import valid
from .._hyper.unchecked import jit
from .._kernels.given import as_inputs_of
from .._kernels.kernel import AbstractKernel
from .._solvers.cholesky import CholeskyFactor, factor, guarded_factor
from .collapsed import collapsed
from .jitter import jitter_variance
from .mean import mean_at
from .process import as_process, resolved


class Inducing(eqx.Module):
    """p(u) = N(mean, L L^T) with L L^T = K_ZZ + jitter_var I."""

    mean: Float[Array, " M"]
    factor: CholeskyFactor
    jitter_var: Float[Array, ""]


class Projection(eqx.Module):
    """f(X) given v = L^-1 (u - mean): f = mean + explained^T v + r, r_i ~ N(0, left_i).

    Points share no r here: these are the marginals.
    """

    mean: Float[Array, " N"]
    explained: Float[Array, "M N"]
    left: Float[Array, " N"]

    def marginals(
        self, mean: Float[Array, " M"], root: Float[Array, "M M"]
    ) -> tuple[Float[Array, " N"], Float[Array, " N"]]:
        """Mean and variance of each f for v ~ N(mean, root root^T)."""
        var = self.left + jnp.sum((root.T @ self.explained) ** 2, axis=0)
        return self.mean + mean @ self.explained, var


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

    def project(self, inducing: Inducing, X: Float[Array, "N D"]) -> Projection:
        """How u explains f at `X`. Cost: N M^2 operations."""
        explained = inducing.factor.whiten(self.kernel(self.Z, X))
        left = self.kernel.diag(X) - jnp.sum(explained**2, axis=0)
        return Projection(mean_at(self.mean_fn, X), explained, jnp.maximum(left, 0))

    def log_marginal_bound(
        self,
        X: Real[ArrayLike, "N D"],
        y: Real[ArrayLike, " N"],
        noise_var: Real[ArrayLike, "..."],
    ) -> Float[Array, ""]:
        """The highest evidence lower bound for y = f(X) + e, e ~ N(0, noise_var), over
        all q(u): that of `optimal_guide`.

        With Q the covariance of y that Z explains, it is log N(y; mean, Q + noise_var)
        less half of the variance left to each datum over its noise. It is at most
        log p(y | X), and equal where Z is X, but for the jitter. Where traced values
        make it impossible to compute it is `-inf`.

        Args:
            X: the inputs of all data.
            y: their values.
            noise_var: variance of the noise, () or (N,).

        Cost: O((N + M) M^2), and N M kernel values.

        Source: Titsias 2009, eq. 9.

        Example:
            >>> import jax.numpy as jnp
            >>> from pyrox.gp import RBF, SparseGPPrior
            >>> X, y = jnp.array([[0.0], [1.0]]), jnp.array([1.0, -1.0])
            >>> bound = SparseGPPrior(RBF(), Z=X).log_marginal_bound(X, y, 0.1)
            >>> print(f"{bound:.2f}")
            -3.78
        """
        call = "SparseGPPrior.log_marginal_bound"
        X = as_inputs_of(
            self.kernel, f"{call}(X=...)", X, self.Z.shape[1], at_run_time=False
        )
        n = X.shape[0]
        y = as_values(f"{call}(y=...)", y, n, at_run_time=False)
        noise = as_noise(f"{call}(noise_var=...)", noise_var, n, at_run_time=False)
        dtype = common_dtype(self.Z, X)
        return _log_bound(
            resolved(self, self.Z), X, y.astype(dtype), noise.astype(dtype)
        )

    def _covariance(self) -> tuple[Array, Array]:
        K = self.kernel(self.Z, self.Z)
        return K, jitter_variance(self.jitter, K)


def of_one_dtype(prior: SparseGPPrior, X: Array) -> tuple[SparseGPPrior, Array]:
    """Both in the wider type of the inducing inputs and the others."""
    dtype = common_dtype(prior.Z, X)
    return eqx.tree_at(lambda p: p.Z, prior, prior.Z.astype(dtype)), X.astype(dtype)


@jit
def _log_bound(prior: SparseGPPrior, X: Array, y: Array, noise_var: Array) -> Array:
    prior, X = of_one_dtype(prior, X)
    inducing, ok = prior.guarded_inducing()
    ok = ok & valid(prior.kernel) & jnp.all(noise_var > 0)
    noise_var = jnp.where(ok, noise_var, 1)
    p = prior.project(inducing, X)
    value = collapsed(p.explained, p.left, y - p.mean, noise_var).log_bound
    return jnp.where(ok & jnp.isfinite(value), value, -jnp.inf)
