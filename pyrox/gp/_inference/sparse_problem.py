"""What `fit_sparse` moves beside q(u), and the bound as a function of it."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Shaped
from numpyro import handlers
from numpyro.distributions import Distribution, constraints
from numpyro.infer import init_to_median

from .._hyper.arrays import placed
from .._hyper.checks import common_dtype, is_traced
from .._hyper.likelihood import as_numpyro_is
from .._hyper.parameters import modules, raise_if_ambiguous, require_valid
from .._kernels.given import as_inputs_of
from .._numerics.closure import Closure, read
from .._posterior.families import WhitenedGuide
from .._posterior.guide import bound_of
from .._posterior.likelihood import (
    AbstractLikelihood,
    ReadLikelihood,
    as_likelihood,
    given_sites,
    read_likelihood,
    read_with_sites,
    require_one_of,
)
from .._posterior.natural import Ascent, Sites, Whitened, ascend
from .._posterior.process import with_mean_read
from .._posterior.sparse import SparseGPPrior
from .any_rows import law_of_any_rows
from .fit_input import as_noise_prior, with_mean_of
from .trained import (
    NOISE,
    Slot,
    filled,
    free_vector,
    named_values,
    prior_slots,
    without_priors,
)

INDUCING = "Z"
_MOST_TRIALS = 100


class SparseProblem(eqx.Module):
    """A bound to be maximised.

    `scale` is how far each column of the inputs spreads, the unit in which Z moves.
    `priors` are those set on hyperparameters, by name; `domains` those of the
    parameters of the likelihood, and `log_prior` the density of those with a prior.
    """

    prior: SparseGPPrior
    law: AbstractLikelihood
    X: Float[Array, "N D"]
    y: Shaped[Array, " N"]
    scale: Float[Array, " D"]
    priors: dict[str, Distribution]
    domains: dict[str, Any]
    log_prior: Closure | None
    fixed: tuple[str, ...] = eqx.field(static=True)

    @property
    def n_data(self) -> int:
        return self.X.shape[0]


def as_sparse_problem(
    prior: SparseGPPrior,
    X: ArrayLike,
    y: ArrayLike,
    noise_var: ArrayLike | None,
    likelihood: Callable | None,
    n_points: int,
    fixed: Sequence[str] | str,
    noise_prior: Distribution | None,
    batch_size: int | None = None,
) -> SparseProblem:
    """The problem in the float type of the inputs, with its priors apart; its
    likelihood is read for a batch, if there are such."""
    call = "fit_sparse"
    if not isinstance(prior, SparseGPPrior):
        raise ValueError(
            f"`{call}(prior, ...)` must be a SparseGPPrior. Got a "
            f"{type(prior).__name__}. Pass `SparseGPPrior(kernel, Z)`; `fit` takes a "
            "GPPrior."
        )
    require_known(prior, X, y, noise_var)
    X = as_inputs_of(prior.kernel, f"{call}(X=...)", X, prior.Z.shape[1])
    X = require_valid(call, prior, X)
    prior, priors = without_priors(prior)
    dtype = common_dtype(prior.Z, X)
    X = X.astype(dtype)
    prior = eqx.tree_at(lambda p: p.Z, prior, prior.Z.astype(dtype))
    prior = with_mean_read(with_mean_of(dtype, prior), prior.Z)
    like = jax.ShapeDtypeStruct(X.shape[:1], dtype)
    require_one_of(call, noise_var, likelihood)
    domains, log_prior = {NOISE: constraints.positive}, None
    if likelihood is None:
        law, y = as_likelihood(call, y, like, noise_var, None)
        if noise_prior is not None:
            shape = law.given()[NOISE].shape
            checked = as_noise_prior(f"{call}(noise_prior=...)", noise_prior, shape)
            priors[NOISE] = checked
    else:
        start = _started(likelihood)
        law, y, sites = read_with_sites(call, y, like, likelihood, n_points, start)
        domains = {name: _domain(call, name, site) for name, site in sites.items()}
        if batch_size is not None:
            law = _of_batch(call, likelihood, law, y[:batch_size], like)
        if any(site["type"] == "sample" for site in sites.values()):
            log_prior = _read_log_prior(call, likelihood, like, law.parameters())
    spread = np.std(np.asarray(X), axis=0)
    scale = placed(np.where(spread > 0, spread, 1).astype(dtype))
    problem = SparseProblem(prior, law, X, y, scale, priors, domains, log_prior, ())
    return dataclasses.replace(problem, fixed=_as_fixed(fixed, problem))


def require_known(*values: Any) -> None:
    """Raise if any of these is traced."""
    if any(map(is_traced, jax.tree.leaves(values))):
        raise ValueError(
            "`fit_sparse` must be given values that are known: it looks at its search "
            "between programs. Got values that are being traced, within `jit`, `vmap` "
            "or `grad`. Call it outside of these; inside use `guide.elbo`."
        )


def _started(likelihood: Callable) -> Callable:
    """`likelihood` with its sites at the values that a fit starts from: a param at its
    own, a sample at the median of its prior."""
    seeded = handlers.seed(likelihood, 0)
    return handlers.substitute(seeded, substitute_fn=init_to_median())


def _of_batch(
    call: str,
    likelihood: Callable,
    law: ReadLikelihood,
    y: Shaped[Array, " B"],
    like: jax.ShapeDtypeStruct,
) -> ReadLikelihood:
    some, values = jax.ShapeDtypeStruct(y.shape, like.dtype), law.values
    law_of_any_rows(
        call,
        given_sites(likelihood, values),
        some,
        np.asarray(y)[0],
        f"a minibatch gives it {y.shape[0]} of the {like.shape[0]} latent values, in "
        "any order",
        "Leave batch_size out; or train by NumPyro's SVI, where `svgp_factor` within "
        "`numpyro.plate('data', N, subsample_size=B) as rows` takes a likelihood that "
        "closes over `array[rows]`.",
    )
    return read_likelihood(call, likelihood, some, y, values, law.n_points)


def _domain(call: str, name: str, site: dict[str, Any]) -> Any:
    if site["type"] == "param":
        return site["kwargs"].get("constraint", constraints.real)
    domain = site["fn"].support
    if site["is_observed"] or domain.is_discrete:
        raise ValueError(
            f"`{call}(likelihood=...)` makes the site {name!r}, which is observed or "
            "discrete, so that it cannot be trained. Return the distribution of the "
            "data and pass these as y; sum out what is discrete."
        )
    return domain


def _read_log_prior(
    call: str,
    likelihood: Callable,
    like: jax.ShapeDtypeStruct,
    values: dict[str, Array],
) -> Closure:
    def log_prior(values):
        given = handlers.substitute(likelihood, data=values)
        with handlers.block(), handlers.trace() as sites, as_numpyro_is():
            given(jnp.zeros(like.shape, like.dtype))
            made = [site for site in sites.values() if site["type"] == "sample"]
            densities = [jnp.sum(s["fn"].log_prob(s["value"])) for s in made]
            return jnp.sum(jnp.stack(densities)).astype(like.dtype)

    return read(f"{call}(likelihood=...)", log_prior, values)


def _as_fixed(fixed: Sequence[str] | str, problem: SparseProblem) -> tuple[str, ...]:
    known = tuple(dict.fromkeys(slot.name for slot in _every_slot(problem)))
    if fixed == "all":
        return known
    fixed = (fixed,) if isinstance(fixed, str) else tuple(fixed)
    unknown = sorted(set(fixed) - {*known, NOISE})
    if unknown:
        raise ValueError(
            f"`fit_sparse(fixed=...)` got {unknown}, which are not there. There are "
            f"{list(known)}, and 'all' for all of them."
        )
    raise_if_ambiguous(
        modules(problem.prior), {name.rpartition(".")[0] for name in fixed}
    )
    known_noise = set(problem.law.given()) - set(problem.law.parameters())
    return tuple(dict.fromkeys((*fixed, *known_noise)))


def _every_slot(problem: SparseProblem) -> list[Slot]:
    leaves, structure = jax.tree.flatten((problem.prior, problem.law))
    prior, law = jax.tree.unflatten(structure, list(range(len(leaves))))
    found = [*prior_slots(prior, leaves)]
    found.append(Slot(INDUCING, prior.Z, constraints.real, True))
    # In the order in which JAX hands on a dictionary, and others do not.
    for name in sorted(problem.law.parameters()):
        place = law.noise_var if name == NOISE else law.values[name]
        found.append(Slot(name, place, problem.domains[name], False))
    return found


def slots(problem: SparseProblem) -> list[Slot]:
    """All that is trained. The support of a prior, where one is set, is the domain."""
    priors = problem.priors
    return [
        slot._replace(constraint=priors[slot.name].support)
        if slot.name in priors
        else slot
        for slot in _every_slot(problem)
        if slot.name not in problem.fixed
    ]


def to_vector(problem: SparseProblem) -> Float[Array, " P"]:
    """The current values, each in its unconstrained space, one after the other."""
    tree = _in_units(problem, (problem.prior, problem.law), 1 / problem.scale)
    return free_vector(jax.tree.leaves(tree), slots(problem), problem.X.dtype)


def from_vector(
    problem: SparseProblem, vector: Float[Array, " P"]
) -> tuple[SparseGPPrior, AbstractLikelihood]:
    """The prior and the likelihood with these values in place."""
    tree = _in_units(problem, (problem.prior, problem.law), 1 / problem.scale)
    return _in_units(problem, filled(tree, slots(problem), vector), problem.scale)


def _in_units(problem: SparseProblem, tree: Any, scale: Float[Array, " D"]) -> Any:
    if INDUCING in problem.fixed:
        return tree
    return eqx.tree_at(lambda t: t[0].Z, tree, tree[0].Z * scale[None])


def log_prior(
    problem: SparseProblem, prior: SparseGPPrior, law: AbstractLikelihood
) -> Float[Array, ""]:
    """The log densities of the values that have a prior."""
    values = {**dict(named_values(prior)), **law.parameters()}
    total = jnp.zeros((), problem.X.dtype)
    for name, distribution in problem.priors.items():
        density = jnp.sum(jnp.asarray(distribution.log_prob(values[name])))
        total = total + density.astype(total.dtype)
    if problem.log_prior is not None:
        total = total + problem.log_prior(law.parameters())
    return total


def best_q(
    problem: SparseProblem, prior: SparseGPPrior, law: AbstractLikelihood, sites: Sites
) -> Ascent:
    """The q(v) of the highest bound at these hyperparameters, from `sites`."""
    inducing, _ = prior.guarded_inducing()
    projection = prior.project(inducing, problem.X)
    return ascend(law, projection, problem.y, sites, _MOST_TRIALS)


def as_guide(q: Whitened) -> WhitenedGuide:
    return WhitenedGuide(q.mean, jnp.tril(q.root))


def objective(
    problem: SparseProblem, sites: Sites, vector: Float[Array, " P"]
) -> Float[Array, ""]:
    """What is minimised: minus the bound at the best q(v), and the priors, a datum.

    By q(v) the bound has no slope there, so its derivative is that of a q(v) held
    fixed, in whitened space. `sites` are where the search for it begins.
    """
    prior, law = from_vector(problem, vector)
    held = jax.lax.stop_gradient((problem, prior, law, sites))
    q = jax.lax.stop_gradient(best_q(*held).q)
    bound = bound_of(as_guide(q), prior, law, problem.X, problem.y, problem.n_data)
    return -(bound + log_prior(problem, prior, law)) / problem.n_data
