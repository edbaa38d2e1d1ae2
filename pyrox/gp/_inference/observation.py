"""What will be observed: p(y* | data) at new inputs, under any likelihood."""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray, Real, Shaped
from numpyro import distributions as dist

from .._hyper.checks import as_count, as_noise, common_dtype, require
from .._hyper.likelihood import as_numpyro_is
from .._hyper.unchecked import jit
from .._numerics.closure import Closure, read
from .._numerics.hermite import normal_expectation
from .._paths.path import PathwiseFunction
from .._posterior.exact import ConditionedGP
from .._posterior.guide import AbstractGuide
from .._posterior.likelihood import (
    AbstractLikelihood,
    as_likelihood,
    require_one_of,
    with_sites_made,
)
from .._posterior.sparse import SparseGPPrior
from .sparse_report import SparseFit

_N_POINTS = 64

Latent = (
    ConditionedGP
    | SparseFit
    | PathwiseFunction
    | tuple[SparseGPPrior, AbstractGuide]
    | Sequence[PathwiseFunction]
)


class Marginals(eqx.Module):
    """f at N inputs: each normal, of this mean and variance."""

    mean: Float[Array, " N"]
    var: Float[Array, " N"]

    @property
    def like(self) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(self.mean.shape, self.mean.dtype)

    def log_density(self, law: AbstractLikelihood, y: Array) -> Float[Array, " N"]:
        return law.log_expected(self.mean, self.var, y)

    def expectation(self, g: Callable, n_points: int) -> Float[Array, " N"]:
        return normal_expectation(g, self.mean, self.var, n_points)

    def draw(self, key: PRNGKeyArray, n: int) -> Float[Array, "S N"]:
        noise = jr.normal(key, (n, *self.mean.shape), self.mean.dtype)
        return self.mean[None] + jnp.sqrt(self.var)[None] * noise


class Drawn(eqx.Module):
    """f at N inputs: the values of S functions, or of S times several."""

    values: Float[Array, "S ... N"]

    @property
    def like(self) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(self.values.shape[1:], self.values.dtype)

    def log_density(self, law: AbstractLikelihood, y: Array) -> Float[Array, " N"]:
        each = jax.lax.map(law.log_density_of(y), self.values)
        return jax.nn.logsumexp(each, axis=0) - jnp.log(len(self.values))

    def expectation(self, g: Callable, n_points: int) -> Float[Array, " N"]:
        return jnp.mean(jax.vmap(g)(self.values), axis=0)

    def draw(self, key: PRNGKeyArray, n: int) -> Float[Array, "S ... N"]:
        return self.values[jnp.arange(n) % len(self.values)]


class Observation(eqx.Module):
    """The law of a value observed at each of N inputs.

    Attributes:
        mean: E[y*], without a meaning for classes that are no numbers.
        var: Var[y*], infinite or NaN where the likelihood has none.
    """

    mean: Float[Array, " N"]
    var: Float[Array, " N"]
    latent: Marginals | Drawn
    law: Closure

    def sample(self, key: PRNGKeyArray, n_samples: int = 1) -> Shaped[Array, "S N"]:
        """Draws of y*. Of paths each draw is along one of them, in their order; else
        the inputs have draws of their own.
        """
        call = "predict_observation(...).sample(n_samples=...)"
        return _sample(self, key, n_samples=as_count(call, n_samples))

    def quantile(
        self,
        key: PRNGKeyArray,
        probability: ArrayLike | Sequence[float],
        n_samples: int = 4000,
    ) -> Float[Array, "... N"]:
        """Quantiles of y* at each input, by draws."""
        wanted = require(
            jnp.asarray(probability, self.mean.dtype),
            lambda p: (p >= 0) & (p <= 1),
            "`predict_observation(...).quantile(probability)` must be from 0 to 1.",
        )
        draws = self.sample(key, n_samples).astype(self.mean.dtype)
        return jnp.quantile(draws, wanted, axis=0)


def log_predictive_density(
    f: Latent,
    X: Real[ArrayLike, "N D"],
    y: Real[ArrayLike, " N"],
    likelihood: Callable | None = None,
    *,
    noise_var: Real[ArrayLike, "..."] | None = None,
    n_points: int = _N_POINTS,
) -> Float[Array, " N"]:
    """log p(y_i | data) at each row of `X`, f integrated out: the score of held-out
    data.

    Args:
        f: a `ConditionedGP`, a `SparseFit`, a pair `(prior, guide)`, or paths, over
            which the density is averaged. Of P latent functions a list of P paths, by
            P keys and as many of each: the likelihood is given their values (P, N).
        X: inputs that were held out.
        y: their values.
        likelihood: a function from latent values (N,) to a NumPyro distribution of
            batch shape (N,); `found.likelihood` of a `SparseFit`.
        noise_var: of Gaussian noise, in closed form; instead of a likelihood.
        n_points: of the Gauss-Hermite quadrature over f. It is right where p(y | f) is
            not much narrower in f than the posterior is.

    Returns:
        One log density a row, not yet averaged.

    Raises:
        ValueError: what `guide.elbo` raises; an f of another kind.

    Example:
        >>> import jax.numpy as jnp
        >>> import numpyro.distributions as dist
        >>> from pyrox.gp import RBF, GPPrior, log_predictive_density
        >>> X, y = jnp.array([[0.0], [1.0]]), jnp.array([1.0, -1.0])
        >>> posterior = GPPrior(RBF(), X).condition(y, 0.1)
        >>> noisy = lambda f: dist.Normal(f, 0.1**0.5)
        >>> log_predictive_density(posterior, X, y, noisy).shape
        (2,)
    """
    call = "log_predictive_density"
    latent = latent_at(call, f, X)
    law, y = as_likelihood(call, y, latent.like, noise_var, likelihood, n_points)
    return _log_density(latent, law, y)


def predict_observation(
    f: Latent,
    X: Real[ArrayLike, "N D"],
    likelihood: Callable | None = None,
    *,
    noise_var: Real[ArrayLike, "..."] | None = None,
    n_points: int = _N_POINTS,
) -> Observation:
    """What will be observed at each row of `X`: mean, variance, draws and quantiles.

    Args:
        f: a `ConditionedGP`, a `SparseFit`, a pair `(prior, guide)`, or paths; of P
            latent functions a list of P paths, as for `log_predictive_density`.
        X: the inputs.
        likelihood: a function from latent values (N,) to a NumPyro distribution of
            batch shape (N,); `found.likelihood` of a `SparseFit`.
        noise_var: of Gaussian noise, instead of a likelihood.
        n_points: of the Gauss-Hermite quadrature over f.

    Raises:
        ValueError: a likelihood that returns something else; both or neither of
            noise_var and likelihood; an f of another kind.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import numpyro.distributions as dist
        >>> from pyrox.gp import RBF, GPPrior, predict_observation
        >>> X, y = jnp.array([[0.0], [1.0]]), jnp.array([1.0, -1.0])
        >>> posterior = GPPrior(RBF(), X).condition(y, 0.1)
        >>> found = predict_observation(posterior, X, lambda f: dist.Laplace(f, 0.1))
        >>> found.mean.shape, found.sample(jax.random.key(0), 5).shape
        ((2,), (5, 2))
    """
    call = "predict_observation"
    latent = latent_at(call, f, X)
    several = len(latent.like.shape) > 1
    require_one_of(call, noise_var, likelihood, several=several)
    n_points = as_count(f"{call}(n_points=...)", n_points, 2)
    if likelihood is None:
        known: Any = noise_var
        noise = as_noise(f"{call}(noise_var=...)", known, latent.like.shape[0])
        noise = noise.astype(latent.like.dtype)
        likelihood = _normal(jnp.sqrt(noise))
    with_sites_made(call, likelihood, latent.like)
    shapes, key = latent.like, jr.key(0)
    moments = read(f"{call}(likelihood=...)", _moments_of(likelihood), shapes)
    law = read(f"{call}(likelihood=...)", _draw_of(likelihood), key, shapes)
    mean, var = _moments(latent, moments, n_points=n_points)
    return Observation(mean, var, latent, law)


def latent_at(call: str, f: Any, X: ArrayLike) -> Marginals | Drawn:
    """f at the rows of `X`."""
    if isinstance(f, PathwiseFunction):
        return Drawn(f(X))
    if isinstance(f, list | tuple) and _are_paths(f):
        return Drawn(_together(call, [paths(X) for paths in f]))
    if isinstance(f, tuple) and len(f) == 2 and isinstance(f[1], AbstractGuide):
        return Marginals(*f[1].predict(f[0], X))
    if isinstance(f, ConditionedGP | SparseFit):
        return Marginals(*f.predict(X))
    raise ValueError(
        f"`{call}(f, ...)` must be a ConditionedGP, a SparseFit, paths, a list of "
        f"paths, or a pair (prior, guide). Got a {type(f).__name__}. Pass "
        "`prior.condition(y, noise_var)`, say."
    )


def _are_paths(f: Sequence[Any]) -> bool:
    return len(f) > 0 and all(isinstance(one, PathwiseFunction) for one in f)


def _together(call: str, values: list[Float[Array, "_ N"]]) -> Float[Array, "S P N"]:
    """The values of P latent functions side by side, draw by draw."""
    counts = [len(one) for one in values]
    if len(set(counts)) > 1:
        raise ValueError(
            f"`{call}(f, ...)` must have as many paths of each latent function. Got "
            f"{counts}. Draw them with one `n_paths`."
        )
    dtype = common_dtype(*values)
    return jnp.stack([one.astype(dtype) for one in values], axis=1)


def _normal(scale: Float[Array, "..."]) -> Callable:
    return lambda f: dist.Normal(f, scale)


def _moments_of(likelihood: Callable) -> Callable:
    def moments(f):
        with as_numpyro_is():
            law = likelihood(f)
            parts = law.mean, law.variance
            shape, dtype = f.shape[-1:], f.dtype
            mean, var = (jnp.broadcast_to(p, shape).astype(dtype) for p in parts)
        return mean, var

    return moments


def _draw_of(likelihood: Callable) -> Callable:
    def draw(key, f):
        with as_numpyro_is():
            return likelihood(f).sample(key)

    return draw


@jit
def _log_density(
    latent: Marginals | Drawn, law: AbstractLikelihood, y: Array
) -> Float[Array, " N"]:
    return latent.log_density(law, y)


def _both_moments(
    latent: Marginals | Drawn, moments: Closure, n_points: int
) -> tuple[Float[Array, " N"], Float[Array, " N"]]:
    def centre(f):
        return moments(f)[0]

    mean = latent.expectation(centre, n_points)

    def spread(f):  # about the mean, where no digits cancel
        own, var = moments(f)
        return var + (own - mean) ** 2

    return mean, latent.expectation(spread, n_points)


_moments = jit(_both_moments, static_argnames="n_points")


def _drawn(
    found: Observation, key: PRNGKeyArray, n_samples: int
) -> Shaped[Array, "S N"]:
    of_f, of_y = jr.split(key)
    f = found.latent.draw(of_f, n_samples)
    return jax.vmap(found.law)(jr.split(of_y, n_samples), f)


_sample = jit(_drawn, static_argnames="n_samples")
