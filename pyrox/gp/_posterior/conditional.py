"""The moments of a Gaussian process given observations: algebra, nothing checked."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from .._kernels.kernel import AbstractKernel
from .._solvers.inverse import AbstractInverse
from .derivatives import (
    Derivatives,
    DerivativeSites,
    along,
    by_each_input,
    cross_gram,
    gram,
    observe,
    sites_of,
    with_derivatives,
)
from .jitter import jitter_variance
from .mean import mean_at
from .missing import in_use, only, with_sites


class Conditional(eqx.Module):
    """f given what was observed of it: values at X, derivatives at the sites.

    `inverse` is that of the observations' covariance, noise included; `weights` are it
    times what was observed, less the mean (Rasmussen & Williams 2006, eqs. 2.25
    and 2.26). `observed` says which of the values were, None that all were.
    """

    kernel: AbstractKernel
    mean_fn: Callable
    X: Float[Array, "N D"]
    sites: DerivativeSites | None
    inverse: AbstractInverse
    weights: Float[Array, " U"]
    observed: Bool[Array, " N"] | None = None

    def cross(self, X: Float[Array, "M D"]) -> Float[Array, "M U"]:
        """Cov of f(X) with everything that was observed, zero for what was not."""
        data = in_use(self.X, self.observed)
        rows = cross_gram(self.kernel, X, data, self.sites)
        return only(with_sites(self.observed, self.sites), rows)

    def mean(self, X: Float[Array, "M D"]) -> Float[Array, " M"]:
        return mean_at(self.mean_fn, X) + self.cross(X) @ self.weights

    def var(self, X: Float[Array, "M D"]) -> Float[Array, " M"]:
        left, right = self.inverse.halves(self.cross(X).T)
        return jnp.maximum(self.kernel.diag(X) - jnp.sum(left * right, axis=0), 0)

    def cov(self, X: Float[Array, "M D"]) -> Float[Array, "M M"]:
        left, right = self.inverse.halves(self.cross(X).T)
        return self.kernel(X, X) - left.T @ right

    def cov_with(
        self, Z: Float[Array, "K D"]
    ) -> Callable[[Float[Array, "M D"]], Float[Array, "M K"]]:
        """Cov[f(X), f(Z)] as a function of X."""
        _, of_Z = self.inverse.halves(self.cross(Z).T)

        def covariance(X):
            return self.kernel(X, Z) - self.inverse.left(self.cross(X).T).T @ of_Z

        return covariance

    def leave_one_out(self) -> tuple[Float[Array, " U"], Float[Array, " U"]]:
        """By how much each observation differs from what the others say of it, and the
        variance of that, noise included."""
        precision = self._precision()
        # With weights a = K^-1 (y - mean): y_i - mu_-i = a_i / precision_i.
        return self.weights / precision, 1 / precision

    def _precision(self) -> Float[Array, " U"]:
        identity = jnp.eye(self.weights.shape[0], dtype=self.weights.dtype)
        left, right = self.inverse.halves(identity)
        return jnp.sum(left * right, axis=0)

    def leave_one_out_log_density(self) -> Float[Array, " U"]:
        precision = self._precision()
        misfit = self.weights**2 / precision
        densities = -0.5 * (misfit - jnp.log(precision) + jnp.log(2 * jnp.pi))
        return only(with_sites(self.observed, self.sites), densities)

    def derivatives(
        self, sites: DerivativeSites
    ) -> tuple[Float[Array, " S"], Float[Array, "S S"]]:
        """Mean and covariance of the derivatives at other sites, jointly."""
        left, right = self.inverse.halves(along(self.cross, sites).T)
        prior = along(lambda X: along(lambda Z: self.kernel(X, Z).T, sites).T, sites)
        return along(self.mean, sites), prior - left.T @ right

    def value_and_gradient(
        self, X: Float[Array, "M D"]
    ) -> tuple[Float[Array, "M 1+D"], Float[Array, "M 1+D 1+D"]]:
        """Mean and covariance of (f, its gradient) at each row alone."""
        n, width = X.shape[0], 1 + X.shape[1]
        columns = jnp.moveaxis(_with_gradient(self.cross, X), 1, 0)
        halves = self.inverse.halves(columns.reshape(-1, n * width))
        left, right = (half.reshape(-1, n, width) for half in halves)
        cov = jax.vmap(self._prior_covariance)(X)
        cov = cov - jnp.einsum("und,une->nde", left, right)
        # What rounding took below zero is cut off, as in `var`.
        own = jnp.eye(width, dtype=bool)[None]
        cov = jnp.where(own, jnp.maximum(cov, 0), cov)
        return _with_gradient(self.mean, X), cov

    def _prior_covariance(self, x: Float[Array, " D"]) -> Float[Array, "1+D 1+D"]:
        """Of the value and the gradient at one point, before data."""

        def with_gradient(f):
            value, gradient = f(x), jax.jacfwd(f)(x)
            return jnp.concatenate([value[..., None], gradient], axis=-1)

        def row(a):
            return with_gradient(lambda b: self.kernel(a[None], b[None])[0, 0])

        return with_gradient(row)


def _with_gradient(
    f: Callable[[Array], Array], X: Float[Array, "M D"]
) -> Float[Array, "M ... 1+D"]:
    """`f(X)` and its derivative by each input along a new last axis, for an `f` that
    treats rows alone."""

    slopes = by_each_input(f)(X)
    return jnp.concatenate([f(X)[..., None], slopes], axis=-1)


def observed(
    kernel: AbstractKernel,
    mean_fn: Callable,
    jitter: float | None,
    X: Float[Array, "N D"],
    y: Float[Array, " N"],
    noise_var: Float[Array, "..."],
    derivatives: Derivatives | None,
    seen: Bool[Array, " N"] | None = None,
) -> tuple[
    Float[Array, "U U"], Float[Array, "..."], Float[Array, "..."], Float[Array, " U"]
]:
    """Of all that was observed: the covariance without noise, the variances of the
    noise and of the jitter, and the difference from the mean. Where `seen` says that a
    value was not, it is 0 about the mean, alone, with noise of variance 1."""
    X = in_use(X, seen)
    values, variances = with_derivatives(y, noise_var, derivatives)
    sites = sites_of(derivatives)
    mean = observe(lambda X: mean_at(mean_fn, X), X, sites)
    K = gram(kernel, X, sites).astype(y.dtype)
    seen = with_sites(seen, sites)
    jitter_var, residual = jitter_variance(jitter, K, sites, seen), values - mean
    if seen is not None:
        variances = jnp.where(seen, variances, 1)
        K = only(seen, only(seen, K).T).T
    return K, variances, jitter_var, only(seen, residual)
