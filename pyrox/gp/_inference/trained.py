"""What a fit moves: hyperparameters, mean and noise, as one vector without bounds."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray
from numpyro import handlers
from numpyro.distributions import Distribution, biject_to, constraints

from .._hyper.parameters import constraint_of, hyperparameter_fields, modules, site
from .._hyper.priors import sample_hyperparameters
from .._posterior.exact import GPPrior
from .._posterior.mean import own_arrays

NOISE, MEAN = "noise_var", "mean_fn"


class Problem(eqx.Module):
    """A log joint density to be maximised.

    `priors` are the distributions that were set, by the names of their sites; `fixed`
    are the names of what stays.
    """

    prior: GPPrior
    y: Float[Array, " N"]
    noise_var: Float[Array, "..."]
    priors: dict[str, Distribution]
    fixed: tuple[str, ...] = eqx.field(static=True)


class _Slot(NamedTuple):
    """One array that is trained: which leaf of (prior, noise_var), and its domain."""

    name: str
    leaf: int
    constraint: constraints.Constraint


def without_priors(prior: GPPrior) -> tuple[GPPrior, dict[str, Distribution]]:
    """`prior` with its current values alone, and the distributions that were set."""
    with handlers.block(), handlers.trace() as sites:
        with handlers.substitute(data=dict(named_values(prior))):
            bare = sample_hyperparameters(prior)
    return bare, {name: sites[name]["fn"] for name in sites}


def named_values(prior: GPPrior) -> list[tuple[str, Array]]:
    """All hyperparameters with their names, of which two may be the same."""
    return [
        (site(m, field.name), getattr(m, field.name)) for m, field in _fields(prior)
    ]


def trainable_names(prior: GPPrior, noise_var: Array) -> tuple[str, ...]:
    """The names of what can be trained, `mean_fn` for all arrays of the mean."""
    slots = _every_slot(prior, noise_var)
    return tuple(dict.fromkeys(slot.name for slot in slots))


def to_vector(problem: Problem) -> Float[Array, " P"]:
    """The current values, each in its unconstrained space, one after the other."""
    leaves = jax.tree.leaves((problem.prior, problem.noise_var))
    slots = _slots(problem)
    free = [_free(slot, leaves[slot.leaf], problem) for slot in slots]
    return jnp.concatenate([jnp.ravel(values) for values in free])


def from_vector(
    problem: Problem, vector: Float[Array, " P"]
) -> tuple[GPPrior, Float[Array, "..."]]:
    """The prior and the noise with these values in place."""
    leaves, structure = jax.tree.flatten((problem.prior, problem.noise_var))
    start = 0
    for slot in _slots(problem):
        transform = biject_to(slot.constraint)
        shape = transform.inverse_shape(leaves[slot.leaf].shape)
        end = start + int(np.prod(shape))
        free = _bounded(slot, vector[start:end].reshape(shape))
        leaves[slot.leaf] = jnp.asarray(transform(free)).astype(vector.dtype)
        start = end
    return jax.tree.unflatten(structure, leaves)


def drawn(problem: Problem, key: PRNGKeyArray) -> Float[Array, " P"]:
    """Another vector to start from: draws from the priors that are set, and normal
    steps of size one from the other current values."""
    leaves = jax.tree.leaves((problem.prior, problem.noise_var))
    parts = []
    for i, slot in enumerate(_slots(problem)):
        own = jr.fold_in(key, i)
        if slot.name in problem.priors:
            value = jnp.asarray(problem.priors[slot.name].sample(own))
            free = _free(slot, value, problem)
        else:
            free = _free(slot, leaves[slot.leaf], problem)
            free = free + jr.normal(own, free.shape, free.dtype)
        parts.append(jnp.ravel(free))
    return jnp.concatenate(parts)


def log_prior(
    problem: Problem, prior: GPPrior, noise_var: Float[Array, "..."]
) -> Float[Array, ""]:
    """The log densities of the values that have a prior: densities over the values
    themselves, whatever space is searched in."""
    values = {**dict(named_values(prior)), NOISE: noise_var}
    total = jnp.zeros((), problem.y.dtype)
    for name, distribution in problem.priors.items():
        density = jnp.asarray(distribution.log_prob(values[name]))
        total = total + density.astype(total.dtype)
    return total


def _free(slot: _Slot, value: Array, problem: Problem) -> Array:
    """`value` in its unconstrained space."""
    free = biject_to(slot.constraint).inv(value.astype(problem.y.dtype))
    return jnp.asarray(free).astype(problem.y.dtype)


def _bounded(slot: _Slot, free: Array) -> Array:
    """`free` cut off where its value would leave the range of its type.

    A lengthscale of an input without influence goes to infinity, where it would be
    refused, and the others could not move on. Past the cut, 1e15 in float32 and 1e20
    in float64 for a positive value, the function is flat instead.
    """
    domain: Any = slot.constraint
    if isinstance(getattr(domain, "base_constraint", domain), type(constraints.real)):
        return free
    reach = min(0.4 * float(np.log(jnp.finfo(free.dtype).max)), 46.0)
    return jnp.clip(free, -reach, reach)


def _slots(problem: Problem) -> list[_Slot]:
    """All that is trained. The support of a prior, where one is set, is the domain."""
    slots = _every_slot(problem.prior, problem.noise_var)
    priors = problem.priors
    return [
        slot._replace(constraint=priors[slot.name].support)
        if slot.name in priors
        else slot
        for slot in slots
        if slot.name not in problem.fixed
    ]


def _every_slot(prior: GPPrior, noise_var: Array) -> list[_Slot]:
    """What can be trained, by its place in the tree: names need not be unique."""
    leaves, structure = jax.tree.flatten((prior, noise_var))
    places = jax.tree.unflatten(structure, list(range(len(leaves))))
    slots = [
        _Slot(site(m, f.name), getattr(m, f.name), constraint_of(f))
        for m, f in _fields(places[0])
    ]
    taken = {slot.leaf for slot in slots}
    slots += [
        _Slot(MEAN, leaf, constraints.real)
        for leaf in jax.tree.leaves(own_arrays(places[0].mean_fn))
        if leaf not in taken and jnp.issubdtype(leaves[leaf].dtype, jnp.floating)
    ]
    if noise_var.ndim == 0:
        slots.append(_Slot(NOISE, places[1], constraints.positive))
    return slots


def _fields(prior: GPPrior) -> list[tuple[Any, Any]]:
    return [(m, field) for m in modules(prior) for field in hyperparameter_fields(m)]
