"""A hyperparameter's prior as a NumPyro site: whether it fits, and its draw."""

from typing import Any

import numpy as np
import numpyro
from numpyro.distributions import Delta, Distribution, constraints

from .checks import is_traced
from .parameters import (
    AbstractParametrized,
    as_hyperparameter,
    constraint_of,
    describe,
    display_name,
    hyperparameter_fields,
    site,
)


def check_prior(module: AbstractParametrized, field: str, prior: Distribution) -> None:
    """Raise if `prior` is not one of this hyperparameter."""
    call = f"{display_name(module)}.set_prior({field!r}, ...)"
    fields = {f.name: f for f in hyperparameter_fields(module)}
    if field not in fields:
        raise ValueError(
            f"`{call}`: no such hyperparameter. {display_name(module)} has "
            f"{list(fields) or 'none of its own; set priors on its parts'}."
        )
    if not isinstance(prior, Distribution):
        raise ValueError(
            f"`{call}` must be given a distribution. Got {prior!r}. "
            "Pass one of numpyro.distributions."
        )
    constraint = constraint_of(fields[field])
    if not _within(prior, constraint):
        raise ValueError(
            f"`{call}`: the prior {type(prior).__name__} has support "
            f"{describe(_support(prior))}, and the hyperparameter must be "
            f"{describe(constraint)}. Pass LogNormal, Gamma or HalfNormal, say."
        )
    _shaped(call, prior, getattr(module, field).shape)


def _support(prior: Distribution) -> constraints.Constraint:
    """Where one entry of a draw lies."""
    support = prior.support or constraints.real
    return getattr(support, "base_constraint", support)


def _bounds(constraint: constraints.Constraint) -> tuple[Any, Any]:
    lower = getattr(constraint, "lower_bound", -np.inf)
    upper = getattr(constraint, "upper_bound", np.inf)
    return lower, upper


def _within(prior: Distribution, constraint: constraints.Constraint) -> bool:
    """Whether the support of `prior` lies in an interval `constraint`."""
    support = _support(prior)
    if support.is_discrete:
        return False
    bounds = (prior.v, prior.v) if isinstance(prior, Delta) else _bounds(support)
    if any(is_traced(b) for b in bounds):
        return True  # unknown until the program runs; then the value itself is checked
    low, high = _bounds(constraint)
    return bool(np.all(np.asarray(bounds[0]) >= low)) and bool(
        np.all(np.asarray(bounds[1]) <= high)
    )


def _shaped(call: str, prior: Distribution, shape: tuple[int, ...]) -> Distribution:
    """`prior` as one event of the shape of its field."""
    got = prior.batch_shape + prior.event_shape
    if got not in ((), shape):
        raise ValueError(
            f"`{call}`: the prior has shape {got} and the hyperparameter {shape}. Pass "
            "a scalar prior, or make the hyperparameter with the prior's shape."
        )
    if got == shape:
        return prior.to_event(len(prior.batch_shape))
    return prior.expand(shape).to_event(len(shape))


def sample_site(
    module: AbstractParametrized, field: str, prior: Distribution, pending: list[str]
) -> Any:
    """A value of this hyperparameter: a NumPyro sample site, one of those `pending`."""
    name, shape = site(module, field), getattr(module, field).shape
    try:
        value = numpyro.sample(name, _shaped(name, prior, shape))
    except (AssertionError, TypeError) as error:
        # NumPyro's answer to a site without a key is a bare assertion.
        raise ValueError(
            f"The priors on {', '.join(pending)} have no values yet, and no handler "
            "gives any. Call this inside a NumPyro model or `handlers.seed`, or put "
            "draws in first with `substitute(prior, samples)`."
        ) from error
    return as_hyperparameter(name, value, shape)
