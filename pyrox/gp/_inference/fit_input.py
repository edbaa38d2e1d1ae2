"""What a fit is given: checked, and stated as a problem."""

from collections.abc import Sequence
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike
from numpyro.distributions import Delta, Distribution

from .._hyper.checks import (
    as_noise,
    as_observed,
    as_values,
    common_dtype,
    is_traced,
    require_ok,
)
from .._hyper.parameters import describe, modules, raise_if_ambiguous, require_valid
from .._posterior.derivatives import Derivatives, checked
from .._posterior.exact import GPPrior
from .._posterior.mean import ReadMean
from .._posterior.process import with_mean_read
from .._posterior.sparse import SparseGPPrior
from .trained import NOISE, Problem, named_values, trainable_names, without_priors

Prior = TypeVar("Prior", GPPrior, SparseGPPrior)


def as_problem(
    prior: GPPrior,
    y: ArrayLike,
    noise_var: ArrayLike,
    derivatives: Derivatives | None,
    fixed: Sequence[str],
    noise_prior: Distribution | None,
    observed: ArrayLike | None = None,
) -> Problem:
    """The problem in the float type of the data, with its priors apart."""
    if not isinstance(prior, GPPrior):
        raise ValueError(
            f"`fit(prior, ...)` must be a GPPrior. Got a {type(prior).__name__}. Pass "
            "`GPPrior(kernel, X)`; `fit_sparse` takes a SparseGPPrior."
        )
    fixed = (fixed,) if isinstance(fixed, str) else tuple(fixed)
    n = prior.X.shape[0]
    seen = as_observed("fit(observed=...)", observed, n)
    y = as_values("fit(y=...)", y, n, observed=seen)
    noise_var = as_noise("fit(noise_var=...)", noise_var, n, observed=seen)
    y = _require_data(y, derivatives, seen)
    derivatives = checked("fit", derivatives, prior.kernel, prior.X)
    y = require_valid("fit", prior, y)
    prior, priors = without_priors(prior)
    if noise_prior is not None:
        priors[NOISE] = as_noise_prior(
            "fit(noise_prior=...)", noise_prior, noise_var.shape
        )
    _require_names(fixed, prior, noise_var)
    if noise_var.ndim and NOISE not in fixed:
        fixed = (*fixed, NOISE)
    if set(trainable_names(prior, noise_var)) <= set(fixed):
        raise ValueError(
            f"`fit(fixed={list(fixed)})` leaves nothing to train. Call "
            "`prior.condition(y, noise_var)`."
        )
    for name, value in [*named_values(prior), (NOISE, noise_var)]:
        if name in priors and name not in fixed:
            require_density(name, value, priors[name])
    dtype = common_dtype(prior.X, y)
    prior = eqx.tree_at(lambda p: p.X, prior, prior.X.astype(dtype))
    prior = with_mean_read(with_mean_of(dtype, prior), prior.X)
    y, noise_var = y.astype(dtype), noise_var.astype(dtype)
    derivatives = jax.tree.map(lambda leaf: leaf.astype(dtype), derivatives)
    return Problem(prior, y, noise_var, derivatives, priors, fixed, seen)


def _require_data(
    y: Array, derivatives: Derivatives | None, observed: Array | None
) -> Array:
    if observed is None or derivatives is not None:
        return y
    sentence = (
        "`fit(observed=...)` must be True somewhere: there is nothing to fit to. Got "
        "no value that was observed. Pass data, or keep the prior as it is."
    )
    known = observed if is_traced(observed) else np.asarray(observed)
    some: Any = known.any()
    return require_ok(y, some, sentence)


def with_mean_of(dtype: np.dtype, prior: Prior) -> Prior:
    """`prior` with the arrays of its mean function in the type that they are trained
    in, before it is read."""
    if isinstance(prior.mean_fn, ReadMean) or not jax.tree.leaves(prior.mean_fn):
        return prior

    def cast(leaf):
        floating = jnp.issubdtype(leaf.dtype, jnp.floating)
        return leaf.astype(dtype) if floating else leaf

    return eqx.tree_at(lambda p: p.mean_fn, prior, jax.tree.map(cast, prior.mean_fn))


def as_noise_prior(
    call: str, prior: Any, noise_shape: tuple[int, ...] = ()
) -> Distribution:
    """A distribution over one noise that is trained."""
    if noise_shape:
        raise ValueError(
            f"`{call}` is for one noise_var, which is trained. Got a noise_var of "
            f"shape {noise_shape}, which is known. Leave one of them out."
        )
    if not isinstance(prior, Distribution) or prior.batch_shape + prior.event_shape:
        raise ValueError(
            f"`{call}` must be a distribution over one number. Got {prior!r}. Pass "
            "one of numpyro.distributions, LogNormal(-4, 1), say."
        )
    support: Any = prior.support
    lower = getattr(support, "lower_bound", -np.inf)
    if not is_traced(lower) and not np.asarray(lower) >= 0:
        raise ValueError(
            f"`{call}`: the prior {type(prior).__name__} has support "
            f"{describe(support)}, and the noise must be positive. Pass LogNormal, "
            "Gamma or HalfNormal, say."
        )
    return prior


def as_tolerance(tolerance: float | None, default: float, dtype: np.dtype) -> Array:
    """The largest gradient a datum that counts as converged, in the type of the
    data."""
    tolerance = default if tolerance is None else tolerance
    if not is_traced(tolerance) and not 0 < float(tolerance) < np.inf:
        raise ValueError(
            "`fit(tolerance=...)` must be a positive number, the largest gradient a "
            f"datum that counts as converged. Got {tolerance!r}. Pass {default:g}, say."
        )
    return jnp.asarray(np.asarray(tolerance, dtype))


def _require_names(fixed: tuple[str, ...], prior: GPPrior, noise_var: Any) -> None:
    known = dict.fromkeys((*trainable_names(prior, noise_var), NOISE))
    unknown = sorted(set(fixed) - set(known))
    if unknown:
        raise ValueError(
            f"`fit(fixed=...)` got {unknown}, which the prior does not have. It has "
            f"{list(known)}."
        )
    raise_if_ambiguous(modules(prior), {name.rpartition(".")[0] for name in fixed})


def require_density(name: str, value: Any, prior: Distribution) -> None:
    """Raise if the start lies where its prior has no density."""
    base: Any = prior
    while hasattr(base, "base_dist"):
        base = base.base_dist
    if isinstance(base, Delta):
        raise ValueError(
            f"`fit`: the prior of {name} is a Delta, a value and not a density. Make "
            f"the kernel with that value, and pass `fixed=({name!r},)`."
        )
    support: Any = prior.support
    if any(is_traced(leaf) for leaf in jax.tree.leaves((value, prior))):
        return
    if not np.all(np.asarray(support(np.asarray(value)))):
        raise ValueError(
            f"`fit`: {name} is {np.asarray(value)}, outside the support of its prior, "
            f"{describe(support)}. The search starts from the current value: make the "
            "kernel with one inside."
        )
