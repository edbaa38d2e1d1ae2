"""Functions that data allow, with hyperparameters found, drawn or given: one step of a
loop as one program."""

import functools
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro
from jaxtyping import Array, Bool, Float, PRNGKeyArray
from numpyro.distributions import Distribution
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

_WARM_UP, _APART = 200, 10  # steps of NUTS: to begin with, and from draw to draw
_NOISE = "noise_var"


class Model(NamedTuple):
    """Hyperparameters, with the priors that the kernel has, and that of the noise."""

    kernel: AbstractKernel
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
    noise_var: Float[Array, ""]


@functools.partial(jit, static_argnames=("how", "n_paths", "n_features"))
def draw(
    key: PRNGKeyArray, model: Model, data: Data, how: str, n_paths: int, n_features: int
) -> Drawn:
    """`n_paths` functions; of hyperparameters that are a `"fit"`, or `"fixed"`, or one
    function for each of their draws by `"nuts"`."""
    if how == "nuts":
        return _sampled(key, model, data, n_paths, n_features)
    prior, noise_var = GPPrior(model.kernel, data.X), model.noise_var
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
    kernel = _with_values(model.kernel, posterior.prior.kernel)
    paths = sampler.sample_paths(key, n_paths)
    return Drawn(paths, kernel, noise_var.astype(model.noise_var.dtype))


def _with_values(kernel: AbstractKernel, found: AbstractKernel) -> AbstractKernel:
    """`kernel`, its priors too, with the hyperparameters of `found`."""
    pairs = zip(jax.tree.leaves(kernel), jax.tree.leaves(found), strict=True)
    leaves = [new.astype(old.dtype) for old, new in pairs]
    return jax.tree.unflatten(jax.tree.structure(kernel), leaves)


def _sampled(
    key: PRNGKeyArray, model: Model, data: Data, n_paths: int, n_features: int
) -> Drawn:
    prior, noise_prior = GPPrior(model.kernel, data.X), model.noise_prior
    assert noise_prior is not None  # the study saw to it

    def joint():
        noise_var = numpyro.sample(_NOISE, noise_prior)
        gp_factor("y", prior, data.y, noise_var, observed=data.observed)

    key_mcmc, key_paths = jax.random.split(key)
    start = {**dict(named_values(prior)), _NOISE: model.noise_var}
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
        data_of = data.y, draw[_NOISE]
        hyper = {name: value for name, value in draw.items() if name != _NOISE}
        return substitute(prior, hyper).condition(*data_of, observed=data.observed)

    paths = paths_over_draws(
        key_paths, draws, condition, 1, n_features, basis=data.basis
    )
    last = {name: jnp.asarray(values)[-1] for name, values in draws.items()}
    noise_var = last.pop(_NOISE)
    kernel = _with_values(model.kernel, substitute(prior, last).kernel)
    return Drawn(paths, kernel, noise_var.astype(model.noise_var.dtype))
