"""What a fit moves: hyperparameters, mean and noise, as one vector without bounds."""

from typing import Any, NamedTuple, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float
from numpyro import handlers
from numpyro.distributions import Distribution, biject_to, constraints

from .._hyper.parameters import constraint_of, hyperparameter_fields, modules, site
from .._hyper.priors import sample_hyperparameters
from .._numerics.closure import Closure
from .._posterior.derivatives import Derivatives
from .._posterior.exact import GPPrior
from .._posterior.mean import own_arrays
from .._posterior.missing import how_many
from .scored import total_score

NOISE, MEAN = "noise_var", "mean_fn"
Tree = TypeVar("Tree")
Prior = TypeVar("Prior")


class Problem(eqx.Module):
    """A log joint density to be maximised; with a `score` of leave-one-out predictions
    minus that stands in the place of the likelihood.

    `priors` are the distributions that were set, by the names of their sites; `fixed`
    are the names of what stays.
    """

    prior: GPPrior
    y: Float[Array, " N"]
    noise_var: Float[Array, "..."]
    derivatives: Derivatives | None
    priors: dict[str, Distribution]
    fixed: tuple[str, ...] = eqx.field(static=True)
    observed: Bool[Array, " N"] | None = None
    score: Closure | None = None

    @property
    def n_data(self) -> int | Float[Array, ""]:
        """How many numbers were observed, derivatives among them."""
        m = 0 if self.derivatives is None else self.derivatives.values.shape[0]
        return how_many(self.observed, self.y) + m


class Slot(NamedTuple):
    """One array that is trained: which leaf of (prior, noise_var), its domain, and
    whether the data say of what size it is."""

    name: str
    leaf: int
    constraint: constraints.Constraint
    has_scale: bool


def without_priors(prior: Prior) -> tuple[Prior, dict[str, Distribution]]:
    """`prior` with its current values alone, and the distributions that were set."""
    with handlers.block(), handlers.trace() as sites:
        with handlers.substitute(data=dict(named_values(prior))):
            bare = sample_hyperparameters(prior)
    return bare, {name: sites[name]["fn"] for name in sites}


def named_values(prior: Any) -> list[tuple[str, Array]]:
    """All hyperparameters with their names, of which two may be the same."""
    return [
        (site(m, field.name), getattr(m, field.name)) for m, field in _fields(prior)
    ]


def trainable_names(prior: GPPrior, noise_var: Array) -> tuple[str, ...]:
    """The names of what can be trained, `mean_fn` for all arrays of the mean."""
    every = _every_slot(prior, noise_var)
    return tuple(dict.fromkeys(slot.name for slot in every))


def to_vector(problem: Problem) -> Float[Array, " P"]:
    """The current values, each in its unconstrained space, one after the other."""
    leaves = jax.tree.leaves((problem.prior, problem.noise_var))
    return free_vector(leaves, slots(problem), problem.y.dtype)


def free_vector(
    leaves: list[Array], slots: "list[Slot]", dtype: np.dtype
) -> Float[Array, " P"]:
    """The leaves of these slots in their unconstrained spaces, end to end."""
    free = [unbounded(slot, leaves[slot.leaf], dtype) for slot in slots]
    return jnp.concatenate([jnp.zeros(0, dtype), *map(jnp.ravel, free)])


def from_vector(
    problem: Problem, vector: Float[Array, " P"]
) -> tuple[GPPrior, Float[Array, "..."]]:
    """The prior and the noise with these values in place."""
    return filled((problem.prior, problem.noise_var), slots(problem), vector)


def filled(tree: Tree, slots: "list[Slot]", vector: Float[Array, " P"]) -> Tree:
    """`tree` with the values of these slots in place."""
    leaves, structure = jax.tree.flatten(tree)
    start = 0
    for slot in slots:
        transform = biject_to(slot.constraint)
        shape = transform.inverse_shape(leaves[slot.leaf].shape)
        end = start + int(np.prod(shape))
        free = _bounded(slot, vector[start:end].reshape(shape))
        leaves[slot.leaf] = jnp.asarray(transform(free)).astype(vector.dtype)
        start = end
    return jax.tree.unflatten(structure, leaves)


def objective(problem: Problem, vector: Float[Array, " P"]) -> Float[Array, ""]:
    """What is minimised: the negative log joint density, a datum."""
    prior, noise_var = from_vector(problem, vector)
    data = problem.y, noise_var, problem.derivatives
    if problem.score is not None:
        likelihood = -total_score(problem.score, prior, data, problem.observed)
    else:
        likelihood = prior.log_marginal_likelihood(*data, observed=problem.observed)
    return -(likelihood + log_prior(problem, prior, noise_var)) / problem.n_data


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


def unbounded(slot: Slot, value: Array, dtype: np.dtype) -> Array:
    """`value` in its unconstrained space."""
    free = biject_to(slot.constraint).inv(value.astype(dtype))
    return jnp.asarray(free).astype(dtype)


def is_real(slot: Slot) -> bool:
    """Whether its values have no bounds, so that they are searched as they are."""
    domain: Any = slot.constraint
    return isinstance(
        getattr(domain, "base_constraint", domain), type(constraints.real)
    )


def _bounded(slot: Slot, free: Array) -> Array:
    """`free` cut off where its value would leave the range of its type.

    A lengthscale of an input without influence goes to infinity, where it would be
    refused, and the others could not move on. Past the cut, 1e15 in float32 and 1e20
    in float64 for a positive value, the function is flat instead.
    """
    if is_real(slot):
        return free
    reach = min(0.4 * float(np.log(jnp.finfo(free.dtype).max)), 46.0)
    return jnp.clip(free, -reach, reach)


def slots(problem: Problem) -> list[Slot]:
    """All that is trained. The support of a prior, where one is set, is the domain."""
    priors = problem.priors
    return [
        slot._replace(constraint=priors[slot.name].support)
        if slot.name in priors
        else slot
        for slot in _every_slot(problem.prior, problem.noise_var)
        if slot.name not in problem.fixed
    ]


def _every_slot(prior: GPPrior, noise_var: Array) -> list[Slot]:
    """What can be trained, by its place in the tree: names need not be unique."""
    leaves, structure = jax.tree.flatten((prior, noise_var))
    places = jax.tree.unflatten(structure, list(range(len(leaves))))
    found = prior_slots(places[0], leaves)
    if noise_var.ndim == 0:
        found.append(Slot(NOISE, places[1], constraints.positive, True))
    return found


def prior_slots(places: Any, leaves: list[Array]) -> list[Slot]:
    """The hyperparameters of a prior and the arrays of its mean; `places` is the prior
    with the place of each leaf among `leaves` in it."""
    found = [
        Slot(
            site(m, f.name),
            getattr(m, f.name),
            constraint_of(f),
            f.metadata["scale"] is not None,
        )
        for m, f in _fields(places)
    ]
    taken = {slot.leaf for slot in found}
    found += [
        Slot(MEAN, leaf, constraints.real, False)
        for leaf in jax.tree.leaves(own_arrays(places.mean_fn))
        if leaf not in taken and jnp.issubdtype(leaves[leaf].dtype, jnp.floating)
    ]
    return found


def _fields(prior: Any) -> list[tuple[Any, Any]]:
    return [(m, field) for m in modules(prior) for field in hyperparameter_fields(m)]
