"""q(u): what a guide over the values at inducing inputs answers."""

import abc
import functools
from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray, Real, Shaped

from .._hyper.checks import (
    as_count,
    as_float,
    require_ok,
)
from .._hyper.parameters import AbstractParametrized, require_valid, valid
from .._hyper.unchecked import jit
from .._kernels.given import as_inputs_of
from .._numerics.blocks import block_rows, map_rows
from .._numerics.lapack import solve_lower
from .jitter import no_factor
from .likelihood import N_POINTS, AbstractLikelihood, as_likelihood
from .process import resolved
from .sparse import Inducing, SparseGPPrior, of_one_dtype

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
        return sparse_checked(prior, _sample(self, key, prior, n_samples))

    def kl(self, prior: SparseGPPrior) -> Float[Array, ""]:
        """KL(q(u) || p(u)); for a point mass `-log p(u)`. Cost: O(M^3)."""
        prior = _ready("guide.kl", self, prior)
        return sparse_checked(prior, _kl(self, prior))

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
        X = as_inputs_of(prior.kernel, f"{call}(X)", X, prior.Z.shape[1])
        size = block_rows(call, block_size, self.size, X.dtype)
        return sparse_checked(prior, _predict(self, prior, X, block_size=size))

    def elbo(
        self,
        prior: SparseGPPrior,
        X: Real[ArrayLike, "N D"],
        y: Real[ArrayLike, " N"],
        noise_var: Real[ArrayLike, "..."] | None = None,
        n_total: int | None = None,
        *,
        likelihood: Callable | None = None,
        n_points: int = N_POINTS,
    ) -> Float[Array, ""]:
        """The evidence lower bound for y_i ~ p(y_i | f(x_i)).

            n_total / N * sum_i E_q[log p(y_i | f_i)] - KL(q(u) || p(u))

        Hensman et al. 2013, section 3.1; Hensman et al. 2015 (arXiv 1411.2005). For
        Gaussian noise, y = f(X) + e, e ~ N(0, noise_var), in closed form; for any other
        likelihood the expectation is by Gauss-Hermite quadrature, whose error falls
        fast where log p is smooth on the scale of q(f): compare two `n_points`. Like a
        log-density, it is `-inf` where traced hyperparameters, noise or data make it
        impossible to compute.

        Args:
            X: the inputs of these data, all of them or a minibatch.
            y: their values.
            noise_var: variance of the noise, () or (N,); or pass a likelihood.
            n_total: the number of data that a minibatch stands for.
            likelihood: a function from latent values (N,) to a NumPyro distribution of
                batch shape (N,), `lambda f: dist.Poisson(jnp.exp(f))`.
            n_points: of the quadrature.

        Raises:
            ValueError: shapes that do not fit; both or neither of noise_var and
                likelihood; a likelihood that returns something else; values outside of
                its support.

        Cost: O(M^3 + N M^2), and `n_points` densities a datum.

        Example:
            >>> import jax.numpy as jnp
            >>> import numpyro.distributions as dist
            >>> from pyrox.gp import RBF, SparseGPPrior, WhitenedGuide
            >>> X, y = jnp.array([[0.0], [1.0]]), jnp.array([3, 0])
            >>> prior, guide = SparseGPPrior(RBF(), Z=X), WhitenedGuide.init(2)
            >>> rate = lambda f: dist.Poisson(jnp.exp(f))
            >>> print(f"{guide.elbo(prior, X, y, likelihood=rate):.2f}")
            -5.09
        """
        data = X, y, noise_var, likelihood
        return evidence_bound("guide.elbo", self, prior, *data, n_total, n_points)


class AbstractGaussianGuide(AbstractGuide):
    """A guide with a density: q(v) = N(mean, R R^T)."""

    def log_prob(
        self, u: Real[ArrayLike, "... M"], prior: SparseGPPrior
    ) -> Float[Array, "..."]:
        """log q(u), the density of values at the inducing inputs of `prior`, of one
        vector of them or many. Cost: O(M^3), and M^2 for each.
        """
        call = "guide.log_prob"
        prior = _ready(call, self, prior)
        u = as_float(u, f"{call}(u)")
        if u.shape[-1:] != (self.size,):
            raise ValueError(
                f"`{call}(u)` must have shape (..., {self.size}), one value for each "
                f"inducing input. Got {u.shape}. `guide.sample` draws such."
            )
        return sparse_checked(prior, _log_prob(self, prior, u))

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
    as_guide(call, guide, prior)
    return ready(call, prior, guide)


def ready(
    call: str, prior: SparseGPPrior, guide: AbstractGuide | None = None
) -> SparseGPPrior:
    """`prior` with values for its hyperparameters; theirs and the guide's checked."""
    prior = resolved(prior, prior.Z)
    Z = require_valid(call, (prior.kernel, guide), prior.Z)
    return eqx.tree_at(lambda p: p.Z, prior, Z)


def sparse_checked(prior: SparseGPPrior, result: tuple[Tree, Array]) -> Tree:
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
def _log_prob(
    guide: AbstractGaussianGuide, prior: SparseGPPrior, u: Array
) -> tuple[Array, Array]:
    inducing = prior.inducing()
    mean, root = guide.whitened(inducing)
    residual = u.astype(mean.dtype).reshape(-1, guide.size) - inducing.mean[None]
    v = inducing.factor.whiten(residual.T)
    white = solve_lower(root, v - mean[:, None])
    log_det = jnp.sum(jnp.log(jnp.abs(jnp.diagonal(root))))
    constant = log_det + 0.5 * inducing.factor.log_det()
    constant = constant + 0.5 * guide.size * jnp.log(2 * jnp.pi)
    value = -0.5 * jnp.sum(white**2, axis=0) - constant
    return value.reshape(u.shape[:-1]), inducing.factor.succeeded()


@jit
def _kl(guide: AbstractGuide, prior: SparseGPPrior) -> tuple[Array, Array]:
    inducing = prior.inducing()
    return guide.divergence(inducing), inducing.factor.succeeded()


@functools.partial(jit, static_argnames="block_size")
def _predict(
    guide: AbstractGuide, prior: SparseGPPrior, X: Array, block_size: int
) -> tuple[tuple[Array, Array], Array]:
    prior, X = of_one_dtype(prior, X)
    inducing = prior.inducing()

    def moments(X):
        projection = prior.project(inducing, X)
        return jnp.stack(projection.marginals(*guide.whitened(inducing)))

    mean, var = map_rows(moments, X, block_size)
    return (mean, var), inducing.factor.succeeded()


def evidence_bound(
    call: str,
    guide: AbstractGuide,
    prior: SparseGPPrior,
    X: Real[ArrayLike, "N D"],
    y: Real[ArrayLike, " N"],
    noise_var: Real[ArrayLike, "..."] | None,
    likelihood: Callable | None,
    n_total: int | None,
    n_points: int,
    site: str = "",
) -> Float[Array, ""]:
    """`guide.elbo`, as `call`."""
    data = X, y, noise_var, likelihood
    checked = as_bound_data(call, guide, prior, *data, n_total, n_points, site)
    prior, X, law, values, total = checked
    return bound_of(guide, resolved(prior, prior.Z), law, X, values, total)


def as_bound_data(
    call: str,
    guide: AbstractGuide,
    prior: SparseGPPrior,
    X: Real[ArrayLike, "N D"],
    y: Real[ArrayLike, " N"],
    noise_var: Real[ArrayLike, "..."] | None,
    likelihood: Callable | None,
    n_total: int | None,
    n_points: int,
    site: str = "",
    *,
    at_run_time: bool = False,
) -> tuple[SparseGPPrior, Array, AbstractLikelihood, Array, int]:
    """What a bound is of, checked and of one type: the prior, the inputs, their
    likelihood and values, and the number of data that they stand for."""
    as_guide(call, guide, prior)
    in_size, where = prior.Z.shape[1], f"{call}(X=...)"
    X = as_inputs_of(prior.kernel, where, X, in_size, at_run_time=at_run_time)
    prior, X = of_one_dtype(prior, X)
    like = jax.ShapeDtypeStruct(X.shape[:1], X.dtype)
    law, y = as_likelihood(call, y, like, noise_var, likelihood, n_points, site)
    n = X.shape[0]
    total = n if n_total is None else as_count(f"{call}(n_total=...)", n_total, n)
    return prior, X, law, y, total


@functools.partial(jit, static_argnames="n_total")
def bound_of(
    guide: AbstractGuide,
    prior: SparseGPPrior,
    law: AbstractLikelihood,
    X: Float[Array, "N D"],
    y: Shaped[Array, " N"],
    n_total: int,
) -> Float[Array, ""]:
    """The evidence lower bound of what was checked, `-inf` where there is none."""
    inducing, ok = prior.guarded_inducing()
    ok = ok & valid((prior.kernel, guide)) & law.allows(y)
    mean, var = prior.project(inducing, X).marginals(*guide.whitened(inducing))
    expected = jnp.sum(law.expected(mean, var, y))
    value = n_total / X.shape[0] * expected - guide.divergence(inducing)
    return jnp.where(ok & jnp.isfinite(value), value, -jnp.inf)
