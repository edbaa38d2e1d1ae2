"""Gaussian processes inside NumPyro models: factors and latent functions."""

import functools
import warnings
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array, ArrayLike, Bool, Float, Real

from .._hyper.checks import as_noise, as_values, common_dtype, is_traced
from .._hyper.parameters import valid
from .._hyper.unchecked import jit
from .._posterior.derivatives import (
    Derivatives,
    DerivativeSites,
    gram,
    observe,
    require_derivatives,
)
from .._posterior.exact import GPPrior
from .._posterior.guide import AbstractGuide
from .._posterior.jitter import jitter_variance, no_factor
from .._posterior.latent import latent_moments
from .._posterior.mean import mean_at
from .._posterior.process import resolved
from .._solvers.cholesky import CholeskyFactor, guarded_factor
from .draws_or_nan import Joint, Standard
from .latent_guide import sample_guide


class _Whole(dist.Unit):
    """A log-density that counts once: a plate may not repeat it."""

    def expand(self, batch_shape):
        raise ValueError(
            "A `gp_factor` is one log-density of all the data. Got a `numpyro.plate` "
            f"of shape {tuple(batch_shape)} around it, which would count it once for "
            "every element. Move it out of the plate; for several outputs loop over "
            "them, each factor with a name of its own. `svgp_factor` takes minibatches."
        )


def add_factor(name: str, log_density: Float[Array, ""]) -> None:
    # As `numpyro.factor` does it, but for the plate.
    unit, infer = _Whole(log_density), {"is_auxiliary": True}
    numpyro.sample(name, unit, obs=unit.sample(None), infer=infer)


def gp_factor(
    name: str,
    prior: GPPrior,
    y: Real[ArrayLike, " N"],
    noise_var: Real[ArrayLike, "..."],
    derivatives: Derivatives | None = None,
    *,
    observed: Bool[ArrayLike, " N"] | None = None,
) -> GPPrior:
    """Adds log p(y | X) with the function integrated out to a NumPyro model.

    Priors set on the kernel become sample sites; a hyperparameter without one is a
    constant. To train one by SVI pass `RBF(init_lengthscale=numpyro.param(...))`.

    Outputs that are no normal variables may be an increasing function g of some: for
    y = g(f + e) the process is that of z = g^-1(y), and log dz/dy is a factor of its
    own, without which it is no density of y (Snelson, Rasmussen & Ghahramani 2004). The
    example takes the inverse from Jones & Pewsey 2009, whose parameters are sites.
    Paths go through g, and so do their quantiles; means do not.

    Args:
        name: the name of the factor's site.
        prior: the process at the inputs of the data.
        y: observed values.
        noise_var: variance of the noise, () or (N,); a number or a sampled value.
        derivatives: observed partial derivatives, with noise of their own.
        observed: which of the values were, see `GPPrior.condition`.

    Returns:
        `prior` with values for its hyperparameters, ready for `condition`.

    Raises:
        ValueError: shapes that do not fit; a plate around it. Values that make the
            density impossible to compute give `-inf`, so that a sampler walks on.

    Cost: that of `GPPrior.log_marginal_likelihood`, at each evaluation of the model.

    Example:
        >>> import jax.numpy as jnp
        >>> import numpyro.distributions as dist
        >>> from numpyro import handlers
        >>> from pyrox.gp import RBF, GPPrior, gp_factor
        >>> def model(X, y):
        ...     kernel = RBF().with_priors(lengthscale=dist.LogNormal(0.0, 1.0))
        ...     gp_factor("obs", GPPrior(kernel, X), y, noise_var=0.1)
        >>> X, y = jnp.array([[0.0], [1.0]]), jnp.array([1.0, -1.0])
        >>> with handlers.seed(rng_seed=0):
        ...     sites = handlers.trace(model).get_trace(X, y)
        >>> list(sites)
        ['RBF.lengthscale', 'obs']

        Warped outputs, from the model to functions:

        >>> import jax, numpyro
        >>> from pyrox.gp import paths_over_draws
        >>> def warp(y, skew, tail):  # the inverse of g
        ...     return jnp.sinh(tail * jnp.arcsinh(y) - skew)
        >>> def g(z, skew, tail):
        ...     return jnp.sinh((jnp.arcsinh(z) + skew) / tail)
        >>> def warped(X, y):
        ...     skew = numpyro.sample("skew", dist.Normal(0.0, 1.0))
        ...     tail = numpyro.sample("tail", dist.LogNormal(0.0, 0.5))
        ...     gp_factor("obs", GPPrior(RBF(), X), warp(y, skew, tail), noise_var=0.1)
        ...     slopes = jax.vmap(jax.grad(warp), (0, None, None))(y, skew, tail)
        ...     numpyro.factor("slopes", jnp.sum(jnp.log(slopes)))
        >>> draws = {"skew": jnp.array([0.1, 0.2]), "tail": jnp.array([0.9, 1.1])}
        >>> def condition(draw):  # draws are those of `mcmc.get_samples()`
        ...     return GPPrior(RBF(), X).condition(warp(y, **draw), noise_var=0.1)
        >>> f = paths_over_draws(jax.random.key(0), draws, condition, n_paths=4)(X)
        >>> jax.vmap(g)(f, **draws).shape
        (2, 4, 2)
    """
    if y is None:
        raise ValueError(
            f"`gp_factor({name!r}, prior, y=...)` must be given data: it is their "
            "density. Got None. To draw from the model before data use `gp_sample` "
            "and a likelihood with `obs=y`, which may be None."
        )
    prior = resolved(prior, prior.X)
    data = y, noise_var, derivatives
    add_factor(name, prior.log_marginal_likelihood(*data, observed=observed))
    return prior


def gp_sample(
    name: str,
    prior: GPPrior,
    whitened: bool = True,
    *,
    guide: AbstractGuide | None = None,
) -> Float[Array, "... N"]:
    """Samples the latent values f(X) of a NumPyro model, for any likelihood.

    Whitened, the site is `f"{name}_whitened"`, standard normal, and f = mean + L z is a
    deterministic site `name`: what NUTS and SVI prefer. Otherwise the site `name` is
    multivariate normal. Within plates one function is drawn for each element. Where the
    prior has no factor its density is `-inf`, and a draw from it is NaN.

    In the guide of SVI, which is a function too, the same site is drawn from q(f), a
    guide over the values at X, whose parameters become NumPyro params. The loss of
    `Trace_ELBO` then holds KL(q(f) || p(f)) as it should:

        def model():
            f = gp_sample("f", prior)
            numpyro.sample("y", dist.Poisson(jnp.exp(f)), obs=counts)

        def guide():
            gp_sample("f", prior, guide=q)  # q = WhitenedGuide.init(N)

    The trained q comes back by `substitute`, as in `svgp_factor`; it is one of
    `SparseGPPrior(kernel, X)`, for functions and predictions. Hyperparameters that the
    model samples the guide must sample, too, and put in: `substitute(prior, values)`.

    Args:
        name: the name of the latent function.
        prior: the process at the inputs of the data.
        whitened: how it is parametrised, in the model and in the guide alike.
        guide: q(f), in the guide; within plates of each element. None in the model,
            where q would stand in the prior's place.

    Returns:
        f(X), of shape (N,), plates in front.

    Raises:
        ValueError: with a guide, one of another size than X, or hyperparameters that
            have priors and no values.

    Cost: O(N^3) at each evaluation of the model.

    Example:
        >>> import jax.numpy as jnp
        >>> from numpyro import handlers
        >>> from pyrox.gp import RBF, GPPrior, WhitenedGuide, gp_sample
        >>> prior = GPPrior(RBF(), X=jnp.array([[0.0], [1.0], [2.0]]))
        >>> with handlers.seed(rng_seed=0):
        ...     gp_sample("f", prior).shape
        (3,)
        >>> def guide():
        ...     gp_sample("f", prior, guide=WhitenedGuide.init(3))
        >>> list(handlers.trace(handlers.seed(guide, 0)).get_trace())
        ['WhitenedGuide.mean', 'WhitenedGuide.scale_tril', 'f_whitened', 'f']
    """
    if guide is not None:
        f, ok = sample_guide(name, prior, guide, whitened)
        _warn_of_no_draw("gp_sample", prior, ok)
        return f
    prior = resolved(prior, prior.X)
    mean, lower, ok = latent_moments(prior)
    _warn_of_no_draw("gp_sample", prior, ok)
    numpyro.factor(f"{name}_valid", jnp.where(ok, 0.0, -jnp.inf))
    if not whitened:
        joint = Joint(mean, lower, ok)
        return jnp.asarray(numpyro.sample(name, joint))
    standard = Standard(jnp.zeros_like(mean), ok).to_event(1)
    z = jnp.asarray(numpyro.sample(f"{name}_whitened", standard))
    f = mean + jnp.einsum("ij,...j->...i", lower, z)
    return jnp.asarray(numpyro.deterministic(name, f))


def gp_derivatives(
    name: str,
    prior: GPPrior,
    y: Real[ArrayLike, " N"],
    noise_var: Real[ArrayLike, "..."],
    X: Real[ArrayLike, "M D"],
    dims: int | Sequence[int],
) -> tuple[GPPrior, Float[Array, " M"]]:
    """Samples derivatives of f given y in a NumPyro model, and adds log p(y | X).

    For what is known of derivatives beside values of them: that they are positive, or
    bounded. What is known is a likelihood that the model adds, a probit for each sign
    (Riihimaki & Vehtari 2010, eq. 6):

        numpyro.factor("increasing", log_ndtr(slopes / 1e-3).sum())

    The site `f"{name}_whitened"` is standard normal, which NUTS likes, and the
    derivatives are a deterministic site `name`. Functions that keep to a draw of them
    are those of `prior.condition(y, noise_var, Derivatives(X, dims, draw, 1e-6))`.

    Args:
        name: the name of the derivatives' site.
        prior: the process at the inputs of the data.
        y: observed values.
        noise_var: variance of their noise, () or (N,).
        X: where derivatives are taken, one row each.
        dims: the input that each is taken by, from 0; one number stands for all.

    Returns:
        `prior` with values for its hyperparameters, and the derivatives, (M,).

    Raises:
        ValueError: shapes that do not fit; a kernel whose functions have no derivative;
            a plate around it.

    Cost: O((N + M)^3) at each evaluation of the model.

    Example:
        >>> import jax.numpy as jnp
        >>> from numpyro import handlers
        >>> from pyrox.gp import RBF, GPPrior, gp_derivatives
        >>> X, y = jnp.array([[0.0], [1.0]]), jnp.array([1.0, -1.0])
        >>> Z = jnp.linspace(0, 1, 5)[:, None]
        >>> with handlers.seed(rng_seed=0):
        ...     prior, slopes = gp_derivatives("slope", GPPrior(RBF(), X), y, 0.1, Z, 0)
        >>> slopes.shape
        (5,)
    """
    call, n = "gp_derivatives", prior.X.shape[0]
    prior = resolved(prior, prior.X)
    require_derivatives(call, prior.kernel, 1)
    y = as_values(f"{call}(y=...)", y, n, at_run_time=False)
    noise_var = as_noise(f"{call}(noise_var=...)", noise_var, n, at_run_time=False)
    sites = DerivativeSites(call, X, dims)
    mean, lower, log_density, ok = _derivatives_given(prior, y, noise_var, sites)
    _warn_of_no_draw(call, prior, ok)
    standard = Standard(jnp.zeros_like(mean), ok).to_event(1)
    z = jnp.asarray(numpyro.sample(f"{name}_whitened", standard))
    slopes = mean + lower @ z.astype(mean.dtype)
    add_factor(f"{name}_data", log_density)
    return prior, jnp.asarray(numpyro.deterministic(name, slopes))


@jit
def _derivatives_given(
    prior: GPPrior, y: Array, noise_var: Array, sites: DerivativeSites
) -> tuple[Array, Array, Array, Array]:
    """Mean and root of the derivatives given y, log p(y), and whether there are any:
    from one factor of the covariance of both, y first."""
    dtype, n = common_dtype(prior.X, y), y.shape[0]
    X, sites, y, noise_var = jax.tree.map(
        lambda leaf: leaf.astype(dtype), (prior.X, sites, y, noise_var)
    )
    none = jnp.zeros(len(sites.dims), dtype)
    noise = [jnp.broadcast_to(noise_var, (n,)), none]
    K = gram(prior.kernel, X, sites).astype(dtype)
    jitter_var = jitter_variance(prior.jitter, K, sites)
    root, ok = guarded_factor(K, jitter_var + jnp.concatenate(noise))
    ok = ok & valid(prior.kernel) & jnp.all(noise_var > 0)
    mean = observe(functools.partial(mean_at, prior.mean_fn), X, sites)
    data, lower = CholeskyFactor(root.lower[:n, :n]), root.lower[n:]
    residual = y - mean[:n]
    value = data.log_density(residual)
    value = jnp.where(ok & jnp.isfinite(value), value, -jnp.inf)
    given = lower[:, :n] @ data.whiten(residual[:, None])[:, 0]
    return mean[n:] + given, lower[:, n:], value, ok


def _warn_of_no_draw(call: str, prior: GPPrior, ok: Array) -> None:
    """Say that a draw is NaN, where that is known. Within a chain it is a proposal of
    no density, which is nothing to be told of."""
    if is_traced(ok) or ok:
        return
    sentence = no_factor(call, prior.jitter, prior.X)
    warnings.warn(
        f"{sentence} What is drawn is NaN, and the density -inf.",
        RuntimeWarning,
        stacklevel=3,
    )
