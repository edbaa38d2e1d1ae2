"""Functions that data allow, with hyperparameters found, drawn or given: one step of a
loop as one program."""

import dataclasses
import functools
from typing import NamedTuple, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro
from jaxtyping import Array, Bool, Float, PRNGKeyArray
from numpyro.distributions import Distribution, Normal
from numpyro.infer import MCMC, NUTS, init_to_value

from .._features.grid import FourierGrid
from .._hyper.priors import substitute
from .._hyper.unchecked import jit
from .._inference.factors import gp_factor
from .._inference.fit import fit
from .._inference.trained import named_values, without_priors
from .._kernels.kernel import AbstractKernel
from .._paths.ensemble import PathwiseEnsemble, paths_over_draws
from .._paths.path import PathwiseFunction
from .._paths.samplers import PathwiseSampler
from .._posterior.exact import GPPrior
from .._posterior.mean import ConstantMean

_WARM_UP, _APART = 200, 10  # steps of NUTS: to begin with, and from draw to draw
_NOISE, _MEAN = "noise_var", "mean"


class Model(NamedTuple):
    """Hyperparameters, with the priors that the kernel has, and that of the noise."""

    kernel: AbstractKernel
    mean: Float[Array, ""]
    noise_var: Float[Array, ""]
    noise_prior: Distribution | None


class Data(eqx.Module):
    """Rows, of which some were observed, and the box that all inputs are in."""

    X: Float[Array, "C D"]
    y: Float[Array, " C"]
    observed: Bool[Array, " C"]
    bounds: Float[Array, "2 D"]

    @property
    def basis(self) -> FourierGrid:
        """On the bounds, not around the data: a path of one key keeps its prior part
        while data come in."""
        return FourierGrid((self.bounds[0], self.bounds[1]))


class Drawn(NamedTuple):
    """Functions, and the hyperparameters to go on from."""

    paths: PathwiseFunction | PathwiseEnsemble
    kernel: AbstractKernel
    mean: Float[Array, ""]
    noise_var: Float[Array, ""]


@functools.partial(jit, static_argnames=("how", "n_paths", "n_averaged", "n_features"))
def draw(
    key: PRNGKeyArray,
    model: Model,
    data: Data,
    how: str,
    n_paths: int,
    n_averaged: int,
    n_features: int,
) -> Drawn:
    """`n_paths` functions, each the mean of so many; of hyperparameters that are a
    `"fit"`, or `"fixed"`, or one function for each of their draws by `"nuts"`."""
    if how == "nuts":
        return _sampled(key, model, data, n_paths, n_features)
    prior, noise_var = _prior(model, data), model.noise_var
    if how == "fit":
        found = fit(
            prior,
            data.y,
            noise_var,
            observed=data.observed,
            noise_prior=model.noise_prior,
            progress=False,
        )
        posterior, noise_var = found.posterior, found.noise_var
    else:
        known, _ = without_priors(prior)
        posterior = known.condition(data.y, noise_var, observed=data.observed)
    sampler = PathwiseSampler(posterior, n_features, data.basis)
    paths = _averaged(sampler.sample_paths(key, n_paths * n_averaged), n_averaged)
    return Drawn(paths, *_found(model, posterior.prior, noise_var))


def _averaged(paths: PathwiseFunction, n: int) -> PathwiseFunction:
    """The mean of each `n` paths, as a path: a path is linear in its weights."""
    if n == 1:
        return paths
    own = paths.feature_weights, paths.update_weights
    of_features, of_update = (
        jnp.mean(weights.reshape(-1, n, weights.shape[1]), axis=1) for weights in own
    )
    return dataclasses.replace(
        paths, feature_weights=of_features, update_weights=of_update, given=None
    )


def _prior(model: Model, data: Data) -> GPPrior:
    return GPPrior(model.kernel, data.X, ConstantMean(model.mean))


def _found(
    model: Model, prior: GPPrior, noise_var: Array
) -> tuple[AbstractKernel, Array, Array]:
    """Kernel, mean and noise, as `model` has them."""
    mean = cast("ConstantMean", prior.mean_fn).value.astype(model.mean.dtype)
    kernel = _with_values(model.kernel, prior.kernel)
    return kernel, mean, noise_var.astype(model.noise_var.dtype)


def _with_values(kernel: AbstractKernel, found: AbstractKernel) -> AbstractKernel:
    """`kernel`, its priors too, with the hyperparameters of `found`."""
    pairs = zip(jax.tree.leaves(kernel), jax.tree.leaves(found), strict=True)
    leaves = [new.astype(old.dtype) for old, new in pairs]
    return jax.tree.unflatten(jax.tree.structure(kernel), leaves)


def _sampled(
    key: PRNGKeyArray, model: Model, data: Data, n_paths: int, n_features: int
) -> Drawn:
    prior, noise_prior = _prior(model, data), model.noise_prior
    assert noise_prior is not None  # the study saw to it

    def joint():
        noise_var = numpyro.sample(_NOISE, noise_prior)
        mean = jnp.asarray(numpyro.sample(_MEAN, Normal(0.0, 1.0)))
        own = _with_mean(prior, mean)
        gp_factor("y", own, data.y, noise_var, observed=data.observed)

    key_mcmc, key_paths = jax.random.split(key)
    start = {**dict(named_values(prior)), _MEAN: model.mean, _NOISE: model.noise_var}
    mcmc = MCMC(
        NUTS(joint, init_strategy=init_to_value(values=start)),
        num_warmup=_WARM_UP,
        num_samples=_APART * n_paths,
        thinning=_APART,
        progress_bar=False,
    )
    mcmc.run(key_mcmc)
    draws = mcmc.get_samples()

    def condition(draw):
        own, noise_var = _at(prior, draw)
        return own.condition(data.y, noise_var, observed=data.observed)

    paths = paths_over_draws(
        key_paths, draws, condition, 1, n_features, basis=data.basis
    )
    last = {name: jnp.asarray(values)[-1] for name, values in draws.items()}
    return Drawn(paths, *_found(model, *_at(prior, last)))


def _with_mean(prior: GPPrior, value: Array) -> GPPrior:
    return eqx.tree_at(lambda p: p.mean_fn, prior, ConstantMean(value))


def _at(prior: GPPrior, draw: dict[str, Array]) -> tuple[GPPrior, Array]:
    """The prior with the hyperparameters of a draw, and its noise."""
    own = _with_mean(prior, draw[_MEAN])
    values = {name: x for name, x in draw.items() if name not in (_NOISE, _MEAN)}
    return substitute(own, values), draw[_NOISE]
