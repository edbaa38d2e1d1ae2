"""The evidence lower bound of sparse processes inside NumPyro models, for SVI."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpyro
from jaxtyping import ArrayLike, PRNGKeyArray, Real

from .._hyper.parameters import display_name, modules, raise_if_ambiguous
from .._posterior.guide import AbstractGuide, as_guide, evidence_bound
from .._posterior.likelihood import N_POINTS
from .._posterior.process import resolved
from .._posterior.several import (
    N_DRAWS,
    as_several,
    bound_of_several,
    resolved_each,
)
from .._posterior.sparse import SparseGPPrior
from .factors import add_factor
from .guide_params import as_params
from .plates import minibatch

Prior = TypeVar("Prior", SparseGPPrior, Sequence[SparseGPPrior])
Guide = TypeVar("Guide", AbstractGuide, Sequence[AbstractGuide])


def svgp_factor(
    name: str,
    prior: Prior,
    guide: Guide,
    X: Real[ArrayLike, "N D"],
    y: Real[ArrayLike, " N"],
    noise_var: Real[ArrayLike, "..."] | None = None,
    n_total: int | None = None,
    *,
    likelihood: Callable | None = None,
    n_points: int = N_POINTS,
    n_draws: int | None = None,
) -> tuple[Prior, Guide]:
    """Adds the evidence lower bound of a sparse process to a NumPyro model, for SVI.

    The guide's parameters become NumPyro params (`"FullRankGuide.mean"`), so SVI trains
    q(u) together with whatever else the model makes a param: `Z=numpyro.param("Z", Z)`,
    the noise, hyperparameters. Sites with priors go to the SVI guide as ever.

    Minibatches come from a plate that takes a part of the data, or from elsewhere with
    `n_total`. Either way the expectation is scaled up to all data, and KL(q(u) || p(u))
    and the sites of hyperparameters count once:

        with numpyro.plate("data", len(y), subsample_size=100) as rows:
            svgp_factor("obs", prior, guide, X[rows], y[rows], noise_var)

    The trained q(u) comes back by `substitute(guide, {n: params[n] for n in
    site_names(guide)})`.

    Of several latent functions pass a sequence of priors and one of guides, each guide
    with a name of its own: `[WhitenedGuide.init(M, name=f"q{p}") for p in range(3)]`.
    The way back is the same, with `guides` in place of `guide`. The bound is that of
    `elbo_of_several`, by draws, with a key of the model.

    Args:
        name: the name of the factor's site.
        prior: the process and its inducing inputs; or P of them.
        guide: q(u); its values start the training; or P of them.
        X: inputs of all data or of a minibatch.
        y: their values.
        noise_var: variance of the noise, () or (N,); or pass a likelihood.
        n_total: the number of data that a minibatch stands for; of a plate its size.
        likelihood: a function from latent values (N,) to a NumPyro distribution of
            batch shape (N,), as in `guide.elbo`. It may hold values of the model, and
            make sample and param sites of its own, which count once. Of P latent
            functions it is given their values (P, N).
        n_points: of its quadrature.
        n_draws: of several latent functions, in place of the quadrature; 16 by default.

    Returns:
        `prior` and `guide` with the values of this evaluation of the model.

    Raises:
        ValueError: shapes that do not fit; a guide of another size than Z; a plate
            around it of which X has not the rows, or several; what `guide.elbo` raises
            of the likelihood. Of several: guides of one name, a model without a key,
            what `elbo_of_several` raises.

    Example:
        >>> import jax.numpy as jnp
        >>> from numpyro import handlers
        >>> from pyrox.gp import RBF, SparseGPPrior, WhitenedGuide, svgp_factor
        >>> X, y = jnp.array([[0.0], [1.0]]), jnp.array([1.0, -1.0])
        >>> def model():
        ...     prior = SparseGPPrior(RBF(), Z=X)
        ...     svgp_factor("obs", prior, WhitenedGuide.init(2), X, y, 0.1)
        >>> list(handlers.trace(handlers.seed(model, 0)).get_trace())
        ['WhitenedGuide.mean', 'WhitenedGuide.scale_tril', 'obs']
    """
    data, call = (X, y, noise_var, likelihood), "svgp_factor"
    if isinstance(prior, Sequence) or isinstance(guide, Sequence):
        if n_points != N_POINTS:
            raise ValueError(
                "`svgp_factor(n_points=...)` is for one latent function. Got several. "
                "Pass `n_draws`: their expectation is by draws, not by quadrature."
            )
        with minibatch(call, X, n_total) as total:
            return _of_several(name, prior, guide, data, total, n_draws)
    if n_draws is not None:
        raise ValueError(
            "`svgp_factor(n_draws=...)` is for several latent functions. Got one prior "
            "and one guide. Leave it out: the expectation is by quadrature of n_points."
        )
    as_guide(f"{call}(guide=...)", guide, prior)
    with minibatch(call, X, n_total) as total:
        prior, guide = resolved(prior, prior.Z), as_params(guide)
        bound = evidence_bound(call, guide, prior, *data, total, n_points, name)
        add_factor(name, bound)
    return prior, guide


def _of_several(
    name: str,
    priors: Any,
    guides: Any,
    data: tuple[Any, Any, Any, Any],
    n_total: int | None,
    n_draws: int | None,
) -> tuple[Any, Any]:
    call = "svgp_factor"
    priors, guides = as_several(call, priors, guides)
    found = modules(guides)
    raise_if_ambiguous(found, {display_name(module) for module in found})
    priors, guides = resolved_each(call, priors), as_params(guides)
    sizes = n_total, N_DRAWS if n_draws is None else n_draws
    key = _key_of_model(call)
    bound = bound_of_several(call, key, priors, guides, *data, *sizes, site=name)
    add_factor(name, bound)
    return priors, guides


def _key_of_model(call: str) -> PRNGKeyArray:
    """A key of the NumPyro model that this is called in."""
    with warnings.catch_warnings():  # NumPyro's own, where there is no model
        warnings.simplefilter("ignore")
        key = numpyro.prng_key()
    if key is None:
        raise ValueError(
            f"`{call}` of several latent functions needs a key for its draws, and no "
            "handler gives one. Run the model by `SVI`, or within `handlers.seed`."
        )
    return key
