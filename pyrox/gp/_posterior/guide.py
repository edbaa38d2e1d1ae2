"""q(u): what a guide over the values at inducing inputs answers."""

import abc
import functools
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray, Real

from .._hyper.checks import (
    as_count,
    as_inputs,
    as_noise,
    as_values,
    common_dtype,
    require_ok,
)
from .._hyper.parameters import AbstractParametrized, require_valid, valid
from .._hyper.unchecked import jit
from .._numerics.blocks import block_rows, map_rows
from .jitter import no_factor
from .mean import mean_at
from .process import resolved
from .sparse import Inducing, SparseGPPrior

Tree = TypeVar("Tree")


class AbstractGuide(AbstractParametrized):
    """A distribution q(u) over u = f(Z).

    A guide states its whitened moments: with p(u) = N(mean, L L^T), those of
    v = L^-1 (u - mean). Everything else follows and is here once.
    """

    @abc.abstractmethod
    def whitened(
        self, inducing: Inducing
    ) -> tuple[Float[Array, " M"], Float[Array, "M M"]]:
        """The mean of v, and a lower-triangular root of its covariance."""

    @abc.abstractmethod
    def divergence(self, inducing: Inducing) -> Float[Array, ""]:
        """KL(q(u) || p(u))."""

    @property
    @abc.abstractmethod
    def size(self) -> int:
        """M, the number of inducing values."""

    def draw(
        self, key: PRNGKeyArray, inducing: Inducing, n_samples: int
    ) -> Float[Array, "S M"]:
        """Draws of u, given p(u)."""
        mean, root = self.whitened(inducing)
        noise = jr.normal(key, (n_samples, self.size), mean.dtype)
        whitened = mean[None, :] + noise @ root.T
        return inducing.mean[None, :] + whitened @ inducing.factor.lower.T

    def sample(
        self, key: PRNGKeyArray, prior: SparseGPPrior, n_samples: int = 1
    ) -> Float[Array, "S M"]:
        """Draws of u ~ q(u), the values at the inducing inputs of `prior`."""
        n_samples = as_count("guide.sample(n_samples=...)", n_samples)
        prior = _ready("guide.sample", self, prior)
        return _checked(prior, _sample(self, key, prior, n_samples))

    def kl(self, prior: SparseGPPrior) -> Float[Array, ""]:
        """KL(q(u) || p(u)); for a point mass `-log p(u)`. Cost: O(M^3)."""
        prior = _ready("guide.kl", self, prior)
        return _checked(prior, _kl(self, prior))

    def predict(
        self,
        prior: SparseGPPrior,
        X: Real[ArrayLike, "N D"],
        *,
        block_size: int | None = None,
    ) -> tuple[Float[Array, " N"], Float[Array, " N"]]:
        """Mean and variance of f at each row of `X`, without observation noise.

        The marginals of q(f) = int p(f | u) q(u) du (Hensman et al. 2013, section 3.1).
        Cost: O(M^3 + N M^2) time; the memory of one block of rows, which `block_size`
        overrides.
        """
        call = "guide.predict"
        prior = _ready(call, self, prior)
        X = as_inputs(f"{call}(X)", X, prior.Z.shape[1])
        size = block_rows(call, block_size, self.size, X.dtype)
        return _checked(prior, _predict(self, prior, X, block_size=size))

    def elbo(
        self,
        prior: SparseGPPrior,
        X: Real[ArrayLike, "N D"],
        y: Real[ArrayLike, " N"],
        noise_var: Real[ArrayLike, "..."],
        n_total: int | None = None,
    ) -> Float[Array, ""]:
        """The evidence lower bound for y = f(X) + e, e ~ N(0, noise_var), closed form.

            n_total / N * sum_i E_q[log N(y_i; f_i, noise_var_i)] - KL(q(u) || p(u))

        Hensman et al. 2013, section 3.1. Like a log-density, it is `-inf` where traced
        hyperparameters or noise make it impossible to compute.

        Args:
            X: the inputs of these data, all of them or a minibatch.
            y: their values.
            noise_var: variance of the noise, () or (N,).
            n_total: the number of data that a minibatch stands for.

        Cost: O(M^3 + N M^2).
        """
        call = "guide.elbo"
        as_guide(call, self, prior)
        X = as_inputs(f"{call}(X=...)", X, prior.Z.shape[1], at_run_time=False)
        n = X.shape[0]
        y = as_values(f"{call}(y=...)", y, n, at_run_time=False)
        noise_var = as_noise(f"{call}(noise_var=...)", noise_var, n, at_run_time=False)
        total = n if n_total is None else as_count(f"{call}(n_total=...)", n_total, n)
        return _elbo(self, resolved(prior, prior.Z), X, y, noise_var, total)


class AbstractGaussianGuide(AbstractGuide):
    """A guide with a density: q(v) = N(mean, R R^T)."""

    def divergence(self, inducing: Inducing) -> Float[Array, ""]:
        mean, root = self.whitened(inducing)
        quadratic = jnp.sum(root**2) + jnp.sum(mean**2) - self.size
        return 0.5 * quadratic - jnp.sum(jnp.log(jnp.abs(jnp.diagonal(root))))


def as_guide(call: str, guide: Any, prior: SparseGPPrior) -> AbstractGuide:
    """`guide`, checked against the inducing inputs of `prior`."""
    if not isinstance(guide, AbstractGuide):
        raise ValueError(
            f"`{call}` must be a guide. Got {guide!r}. "
            "Pass `FullRankGuide.init(M)`, say."
        )
    n_inducing = prior.Z.shape[0]
    if guide.size != n_inducing:
        kind = type(guide).__name__
        raise ValueError(
            f"`{call}`: the guide has {guide.size} inducing values and Z has "
            f"{n_inducing} rows. Pass `{kind}.init({n_inducing})`."
        )
    return guide


def _ready(call: str, guide: AbstractGuide, prior: SparseGPPrior) -> SparseGPPrior:
    """`prior` with values for its hyperparameters; theirs and the guide's checked."""
    as_guide(call, guide, prior)
    prior = resolved(prior, prior.Z)
    Z = require_valid(call, (prior.kernel, guide), prior.Z)
    return eqx.tree_at(lambda p: p.Z, prior, Z)


def _checked(prior: SparseGPPrior, result: tuple[Tree, Array]) -> Tree:
    """The first of a result and its success, or the sentence of a failed factor."""
    value, ok = result
    sentence = no_factor("SparseGPPrior", prior.jitter, prior.Z)
    return jax.tree.map(lambda x: require_ok(x, ok, sentence), value)


@functools.partial(jit, static_argnames="n_samples")
def _sample(
    guide: AbstractGuide, key: PRNGKeyArray, prior: SparseGPPrior, n_samples: int
) -> tuple[Array, Array]:
    inducing = prior.inducing()
    return guide.draw(key, inducing, n_samples), inducing.factor.succeeded()


@jit
def _kl(guide: AbstractGuide, prior: SparseGPPrior) -> tuple[Array, Array]:
    inducing = prior.inducing()
    return guide.divergence(inducing), inducing.factor.succeeded()


@functools.partial(jit, static_argnames="block_size")
def _predict(
    guide: AbstractGuide, prior: SparseGPPrior, X: Array, block_size: int
) -> tuple[tuple[Array, Array], Array]:
    prior, X = _one_dtype(prior, X)
    inducing = prior.inducing()

    def moments(X):
        return jnp.stack(_marginals(guide, prior, inducing, X))

    mean, var = map_rows(moments, X, block_size)
    return (mean, var), inducing.factor.succeeded()


def _one_dtype(prior: SparseGPPrior, X: Array) -> tuple[SparseGPPrior, Array]:
    dtype = common_dtype(prior.Z, X)
    return eqx.tree_at(lambda p: p.Z, prior, prior.Z.astype(dtype)), X.astype(dtype)


def _marginals(
    guide: AbstractGuide, prior: SparseGPPrior, inducing: Inducing, X: Array
) -> tuple[Array, Array]:
    mean, root = guide.whitened(inducing)
    explained = inducing.factor.whiten(prior.kernel(prior.Z, X))
    left = prior.kernel.diag(X) - jnp.sum(explained**2, axis=0)
    var = jnp.maximum(left, 0) + jnp.sum((root.T @ explained) ** 2, axis=0)
    return mean_at(prior.mean_fn, X) + mean @ explained, var


@functools.partial(jit, static_argnames="n_total")
def _elbo(
    guide: AbstractGuide,
    prior: SparseGPPrior,
    X: Array,
    y: Array,
    noise_var: Array,
    n_total: int,
) -> Array:
    prior, X = _one_dtype(prior, X)
    y, noise_var = y.astype(X.dtype), noise_var.astype(X.dtype)
    inducing, ok = prior.guarded_inducing()
    ok = ok & valid((prior.kernel, guide)) & jnp.all(noise_var > 0)
    noise_var = jnp.where(ok, noise_var, 1)
    mean, var = _marginals(guide, prior, inducing, X)
    misfit = ((y - mean) ** 2 + var) / noise_var
    expected = -0.5 * (misfit + jnp.log(2 * jnp.pi * noise_var))
    value = n_total / X.shape[0] * jnp.sum(expected) - guide.divergence(inducing)
    return jnp.where(ok & jnp.isfinite(value), value, -jnp.inf)
