"""An emulator in the place of a costly function inside a NumPyro model, with what it
does not know.

The emulator is one function that nobody knows, drawn once. So the model has one index
of a path, sampled as any other unknown or summed over, and the likelihood of all data
is of one path at a time. A path drawn anew at each evaluation of the likelihood is no
density of anything: a chain stays where a lucky draw has led it.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array, ArrayLike, Float, Real

from .._hyper.checks import as_noise, as_values, common_dtype
from .._hyper.unchecked import jit
from .._paths.path import PathwiseFunction
from .._posterior.exact import ConditionedGP
from .._posterior.likelihood import AbstractLikelihood, as_likelihood
from .._solvers.cholesky import guarded_factor
from .factors import add_factor


def surrogate_sample(
    name: str, f: PathwiseFunction | ConditionedGP, X: Real[ArrayLike, "M D"]
) -> Float[Array, "... M"]:
    """The emulator's values at X inside a NumPyro model, along one function.

    Of paths the site `name` is the index of one of them, uniform over all, and what
    comes back are the values of that path: whatever the model asks of the emulator by
    this index is one function. Of a posterior the site `f"{name}_whitened"` is standard
    normal, and the values are mean + L z, which are a function within this call alone:
    ask for all of X at once.

    The index is discrete: for `DiscreteHMCGibbs(NUTS(model))`, for NumPyro's
    enumeration, or given, `handlers.substitute(model, {name: i})`. NUTS by itself takes
    `surrogate_factor`, where it is summed over. A chain for each given index, all of
    them together, is the cut posterior, in which the data do not judge the paths.

    Args:
        name: of the site.
        f: paths of the emulator's posterior, some tens or hundreds, drawn before the
            model is; or the posterior itself.
        X: where the model asks, which depends on its parameters.

    Returns:
        f(X), (M,); under enumeration (S, 1, ..., M).

    Raises:
        ValueError: an f of another kind; what `f(X)` raises.

    Cost: that of all paths at X, at each evaluation; of a posterior M N^2 + M^3.

    Source: Kennedy & O'Hagan 2001, section 4; the cut Plummer 2015 (Statistics and
        Computing 25).

    Example:
        >>> import jax, jax.numpy as jnp, numpyro
        >>> import numpyro.distributions as dist
        >>> from numpyro import handlers
        >>> from pyrox.gp import RBF, GPPrior, PathwiseSampler, surrogate_sample
        >>> runs = jnp.linspace(-2, 2, 5)[:, None]
        >>> emulator = GPPrior(RBF(), runs).condition(jnp.sin(runs[:, 0]), 1e-4)
        >>> paths = PathwiseSampler(emulator, 64).sample_paths(jax.random.key(0), 50)
        >>> def model(y=None):
        ...     theta = numpyro.sample("theta", dist.Normal(0.0, 1.0))
        ...     f = surrogate_sample("path", paths, jnp.clip(theta, -2, 2)[None, None])
        ...     numpyro.sample("y", dist.Normal(f[..., 0], 0.1), obs=y)
        >>> list(handlers.trace(handlers.seed(model, 0)).get_trace())
        ['theta', 'path', 'y']
    """
    call = "surrogate_sample"
    if isinstance(f, PathwiseFunction):
        values = f(X)
        uniform: Any = dist.Categorical(logits=jnp.zeros(len(f), values.dtype))
        index: Any = numpyro.sample(name, uniform)
        return values[jnp.asarray(index)]
    mean, cov = _moments(call, f, X)
    root, _ = guarded_factor(cov, _rounding(cov))
    zeros = jnp.zeros_like(mean)
    normal = dist.Normal(zeros, jnp.ones_like(mean)).to_event(1)
    z = jnp.asarray(numpyro.sample(f"{name}_whitened", normal))
    return mean + root.lower @ z.astype(mean.dtype)


def surrogate_factor(
    name: str,
    f: PathwiseFunction | ConditionedGP,
    X: Real[ArrayLike, "M D"],
    y: Real[ArrayLike, " M"],
    noise_var: Real[ArrayLike, "..."] | None = None,
    *,
    likelihood: Callable | None = None,
) -> None:
    """Adds the log likelihood of y = f(X) + e to a NumPyro model, the emulator f summed
    over: what NUTS takes.

    Of paths it is log of the mean over paths of prod_i p(y_i | f_s(x_i)), all data
    along one path at a time; of a posterior, by its moments, log N(y; mean, cov + noise
    I), joint over the data. So what the emulator does not know widens the posterior of
    the parameters, and errors that are common to all data stay common.

    Args:
        name: of the factor's site.
        f: paths of the emulator's posterior, some hundred, drawn before the model is;
            or the posterior itself, with noise_var.
        X: where y was observed, in the emulator's inputs: a row for each datum, of
            what is known of it and the parameters of the model.
        y: observed values.
        noise_var: variance of their noise, () or (M,); a number or a sampled value.
        likelihood: in its place, of paths: a function from latent values (M,) to a
            NumPyro distribution of batch shape (M,).

    Raises:
        ValueError: an f of another kind; both or neither of noise_var and likelihood;
            a likelihood of a posterior; shapes that do not fit; a plate around it.
            Values that make it impossible to compute give `-inf`.

    Cost: that of all paths at X, at each evaluation; of a posterior M N^2 + M^3.

    Source: Kennedy & O'Hagan 2001; Bilionis & Zabaras 2016 on the sum over surrogates.

    Example:
        >>> import jax, jax.numpy as jnp, numpyro
        >>> import numpyro.distributions as dist
        >>> from numpyro import handlers
        >>> from pyrox.gp import RBF, GPPrior, PathwiseSampler, surrogate_factor
        >>> runs = jnp.linspace(-2, 2, 5)[:, None]
        >>> emulator = GPPrior(RBF(), runs).condition(jnp.sin(runs[:, 0]), 1e-4)
        >>> paths = PathwiseSampler(emulator, 64).sample_paths(jax.random.key(0), 50)
        >>> y = jnp.array([0.8])
        >>> def model():
        ...     theta = numpyro.sample("theta", dist.Uniform(-2.0, 2.0))
        ...     surrogate_factor("y", paths, theta[None, None], y, noise_var=0.01)
        >>> list(handlers.trace(handlers.seed(model, 0)).get_trace())
        ['theta', 'y']
    """
    call = "surrogate_factor"
    if isinstance(f, PathwiseFunction):
        values = f(X)
        like = jax.ShapeDtypeStruct(values.shape[1:], values.dtype)
        law, y = as_likelihood(call, y, like, noise_var, likelihood)
        add_factor(name, _summed_over(law, y, values))
        return
    mean, cov = _moments(call, f, X)
    if likelihood is not None or noise_var is None:
        raise ValueError(
            f"`{call}` of a posterior is by its moments, with Gaussian noise. Got "
            f"{'a likelihood' if likelihood is not None else 'no noise_var'}. Pass "
            "noise_var, or paths of it: `PathwiseSampler(f).sample_paths(key, 256)`."
        )
    n = mean.shape[0]
    y = as_values(f"{call}(y=...)", y, n, at_run_time=False).astype(mean.dtype)
    noise = as_noise(f"{call}(noise_var=...)", noise_var, n, at_run_time=False)
    add_factor(name, _by_moments(mean, cov, y, noise.astype(mean.dtype)))


def _moments(
    call: str, f: Any, X: ArrayLike
) -> tuple[Float[Array, " M"], Float[Array, "M M"]]:
    if not isinstance(f, ConditionedGP):
        raise ValueError(
            f"`{call}(f=...)` must be paths or a ConditionedGP, drawn or conditioned "
            f"before the model. Got a {type(f).__name__}. Pass "
            "`PathwiseSampler(posterior).sample_paths(key, 256)`, say."
        )
    mean, cov = f.predict_mean(X), f.predict_cov(X)
    dtype = common_dtype(mean, cov)
    return mean.astype(dtype), cov.astype(dtype)


def _rounding(cov: Float[Array, "M M"]) -> Float[Array, ""]:
    """What is added to the diagonal so that rounding leaves a factor."""
    eps = float(jnp.finfo(cov.dtype).eps)
    tiny = float(jnp.finfo(cov.dtype).tiny)
    return 10 * cov.shape[0] * eps * jnp.mean(jnp.diagonal(cov)) + tiny


@jit
def _summed_over(
    law: AbstractLikelihood, y: Array, values: Float[Array, "S M"]
) -> Float[Array, ""]:
    each = jnp.sum(jax.vmap(law.log_density_of(y))(values), axis=1)
    total = jax.nn.logsumexp(each) - jnp.log(len(values)).astype(each.dtype)
    ok = law.allows(y) & jnp.isfinite(total)
    return jnp.where(ok, total, -jnp.inf)


@jit
def _by_moments(mean: Array, cov: Array, y: Array, noise_var: Array) -> Array:
    root, ok = guarded_factor(cov, noise_var)
    value = root.log_density(y - mean)
    ok = ok & jnp.all(noise_var > 0) & jnp.isfinite(value)
    return jnp.where(ok, value, -jnp.inf)
