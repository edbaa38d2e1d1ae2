"""A posterior inside a NumPyro model; where there is none, the density says so."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Real

from .._hyper.checks import as_noise, as_values
from .._hyper.parameters import valid
from .._hyper.unchecked import jit
from .._posterior.derivatives import Derivatives, checked
from .._posterior.exact import ConditionedGP, GPPrior, assemble
from .._posterior.process import resolved
from .._solvers.cholesky import guarded_factor
from .factors import add_factor


def gp_condition(
    name: str,
    prior: GPPrior,
    y: Real[ArrayLike, " N"],
    noise_var: Real[ArrayLike, "..."],
    derivatives: Derivatives | None = None,
) -> ConditionedGP:
    """`prior.condition(y, noise_var)` inside a NumPyro model that samples on.

    For posteriors that enter a likelihood: a latent function given its values at a few
    inputs, say. Where the values of this evaluation have no posterior, `condition`
    raises, which ends a chain at its first wild proposal. Here the site `name` adds
    `-inf` to the model's log density instead, and what is returned stays finite. It
    adds nothing else: the density of y is the model's affair.

    Args:
        name: the name of the site.
        prior: the process at the inputs of the data.
        y: values, observed or sampled by the model.
        noise_var: variance of their noise, () or (N,).
        derivatives: partial derivatives, with noise of their own.

    Returns:
        The posterior, of `prior` with values for its hyperparameters.

    Raises:
        ValueError: shapes that do not fit; a plate around it.

    Cost: that of `GPPrior.condition` and a second factor, at each evaluation.

    Example:
        >>> import jax.numpy as jnp
        >>> import numpyro
        >>> import numpyro.distributions as dist
        >>> from numpyro import handlers
        >>> from pyrox.gp import RBF, GPPrior, gp_condition, gp_sample
        >>> Z, X = jnp.linspace(0, 1, 4)[:, None], jnp.linspace(0, 1, 30)[:, None]
        >>> def model(counts=None):
        ...     prior = GPPrior(RBF(), Z)
        ...     u = gp_sample("u", prior)
        ...     rate = jnp.exp(gp_condition("f", prior, u, 1e-4).predict_mean(X))
        ...     numpyro.sample("counts", dist.Poisson(rate), obs=counts)
        >>> handlers.trace(handlers.seed(model, 0)).get_trace()["counts"]["value"].shape
        (30,)
    """
    call, n = "gp_condition", prior.X.shape[0]
    prior = resolved(prior, prior.X)
    y = as_values(f"{call}(y=...)", y, n, at_run_time=False)
    noise_var = as_noise(f"{call}(noise_var=...)", noise_var, n, at_run_time=False)
    derivatives = checked(call, derivatives, prior.kernel, prior.X)
    posterior, ok = _guarded(prior, y, noise_var, derivatives)
    add_factor(name, jnp.where(ok, jnp.zeros((), prior.X.dtype), -jnp.inf))
    return posterior


@jit
def _guarded(
    prior: GPPrior, y: Array, noise_var: Array, derivatives: Derivatives | None
) -> tuple[ConditionedGP, Array]:
    """The posterior, and whether it exists. If not, it is another one whose answers are
    finite, so that their gradients are, too."""
    exists = valid(prior.kernel) & jnp.all(noise_var > 0) & jnp.all(jnp.isfinite(y))
    kernel = jax.tree.map(lambda leaf: jnp.where(exists, leaf, 1), prior.kernel)
    prior = eqx.tree_at(lambda p: p.kernel, prior, kernel)
    y, noise_var = jnp.where(exists, y, 0), jnp.where(exists, noise_var, 1)
    posterior, ok = assemble(prior, y, noise_var, derivatives, guarded_factor)
    return posterior, exists & ok
