"""The q of a latent function in the guide of SVI, with the sites of `gp_sample`."""

from typing import Any

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array, Float

from .._hyper.parameters import valid
from .._hyper.priors import site_names
from .._hyper.unchecked import jit
from .._posterior.exact import GPPrior
from .._posterior.families import DeltaGuide
from .._posterior.guide import AbstractGuide, as_guide
from .._posterior.process import with_mean_read
from .._posterior.sparse import Inducing, SparseGPPrior
from .draws_or_nan import Joint
from .guide_params import as_params


def sample_guide(
    name: str, prior: GPPrior, guide: AbstractGuide, whitened: bool
) -> tuple[Float[Array, "... N"], Array]:
    """f, drawn from `guide` by the site that the model has, and whether p(f) has a
    factor; if not, f is NaN."""
    values = _as_values_at(prior, guide)
    inducing, mean, root, ok = _moments(as_params(guide), values)
    lower = inducing.factor.lower
    if not whitened:
        mean, root = inducing.mean + lower @ mean, lower @ root
    if isinstance(guide, DeltaGuide):
        # Of density one at u: at v that is the volume of L, as `guide.kl` has it.
        volume = 0.5 * inducing.factor.log_det() if whitened else 0.0
        q = dist.Delta(mean, volume, event_dim=1)
    else:
        q = Joint(mean, root, ok)
    f = jnp.asarray(numpyro.sample(f"{name}_whitened" if whitened else name, q))
    if whitened:
        f = inducing.mean + jnp.einsum("ij,...j->...i", lower, f)
    f = jnp.where(ok, f, jnp.nan)
    return jnp.asarray(numpyro.deterministic(name, f)) if whitened else f, ok


def _as_values_at(prior: Any, guide: Any) -> SparseGPPrior:
    """The process with the inputs of the data as inducing inputs, whose values `guide`
    is a distribution of."""
    call = "gp_sample(..., guide=...)"
    if not isinstance(prior, GPPrior):
        raise ValueError(
            f"`{call}` must be given the GPPrior of the model. Got a "
            f"{type(prior).__name__}. For values at inducing inputs pass "
            "`GPPrior(kernel, Z)`, there and here."
        )
    pending = list(site_names(prior))
    if pending:
        raise ValueError(
            f"`{call}` needs values of the hyperparameters {pending}, whose priors are "
            "the model's. Sample these sites in the guide too, from a q of their own, "
            "and pass `substitute(prior, values)`."
        )
    n = prior.X.shape[0]
    if isinstance(guide, AbstractGuide) and guide.size != n:
        raise ValueError(
            f"`{call}` must have a value for each of the {n} rows of X. Got a guide of "
            f"{guide.size}. Pass `{type(guide).__name__}.init({n})`."
        )
    at = SparseGPPrior(prior.kernel, prior.X, prior.mean_fn, prior.jitter)
    as_guide(call, guide, at)
    return with_mean_read(at, prior.X)


@jit
def _moments(
    guide: AbstractGuide, prior: SparseGPPrior
) -> tuple[Inducing, Array, Array, Array]:
    """p(u), the whitened mean and root of q, and whether p(u) has a factor."""
    inducing, ok = prior.guarded_inducing()
    mean, root = guide.whitened(inducing)
    return inducing, mean, jnp.tril(root), ok & valid(prior.kernel)
