"""Sparse variational inference for any likelihood: q(u) by natural gradients, and
hyperparameters."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray, Real
from numpyro.distributions import Distribution
from tqdm.auto import tqdm

from .._hyper.checks import as_count, require_ok
from .._hyper.unchecked import jit
from .._numerics.lbfgs import Search, advance, begin
from .._posterior.guide import bound_of
from .._posterior.likelihood import N_POINTS, AbstractLikelihood
from .._posterior.natural import Ascent, Sites, no_sites
from .._posterior.sparse import SparseGPPrior
from .fit_input import as_tolerance
from .held_out import HeldOut, as_held_out, mean_log_density
from .sparse_batches import Rates, blocks_of, bound_by_blocks, run_batches
from .sparse_problem import (
    SparseProblem,
    as_guide,
    as_sparse_problem,
    best_q,
    from_vector,
    log_prior,
    objective,
    slots,
    to_vector,
)
from .sparse_report import SparseFit, warn_if_not_found

_STEPS_A_CALL = 10


def fit_sparse(
    prior: SparseGPPrior,
    X: Real[ArrayLike, "N D"],
    y: Real[ArrayLike, " N"],
    noise_var: Real[ArrayLike, "..."] | None = None,
    *,
    likelihood: Callable | None = None,
    n_points: int = N_POINTS,
    fixed: Sequence[str] | str = (),
    noise_prior: Distribution | None = None,
    batch_size: int | None = None,
    key: PRNGKeyArray | None = None,
    learning_rate: float = 0.01,
    natural_rate: float = 0.1,
    max_steps: int | None = None,
    tolerance: float | None = None,
    held_out: tuple[Real[ArrayLike, "K D"], Real[ArrayLike, " K"]] | None = None,
    progress: bool = True,
) -> SparseFit:
    """The q(u) of the highest evidence lower bound, with hyperparameters, inducing
    inputs, noise and parameters of the likelihood; MAP where priors are set.

    q(u) by natural gradients, from the data and not from a guide: for Gaussian noise
    the first step is the optimum, for log-concave likelihoods four to eight come within
    .001. Steps that would lower the bound, or lead to no Gaussian, are halved, so that
    heavy tails converge, too. All else by L-BFGS on the bound at the best q(u), which
    is sought anew at each evaluation. float64 is advised.

    By minibatches, for many data, with rates that fall to a hundredth: of each batch a
    natural-gradient step for q(u), which leads to a Gaussian whatever the likelihood,
    and one of Adam for the rest.

    Args:
        prior: the hyperparameters and the inducing inputs to start from.
        X: inputs of all data.
        y: their values.
        noise_var: variance of the noise, trained if it is one; or pass a likelihood.
        likelihood: a function from latent values (N,) to a NumPyro distribution of
            batch shape (N,). For minibatches or data held out it is asked for other
            rows, and cannot close over an array of the data, a value for each: that is
            refused. Parameters that are to be trained are sites in it:
            `numpyro.param("scale", 1.0, constraint=constraints.positive)`, or
            `numpyro.sample("scale", dist.HalfNormal(1.0))` for MAP, which starts at the
            median of its prior.
        n_points: of the quadrature, as in `guide.elbo`.
        fixed: names of what stays: `"RBF.variance"`, `"Z"`, `"mean_fn"`, `"noise_var"`,
            `"scale"`; `"all"` for q(u) alone.
        noise_prior: a distribution over `noise_var`.
        batch_size: rows of a minibatch; all data by default.
        key: for the choice of these.
        learning_rate: of Adam, in the unconstrained space, to begin with.
        natural_rate: of the natural-gradient steps of minibatches, to begin with.
        max_steps: of L-BFGS, by default 200; of minibatches, by default 2000.
        tolerance: on the largest entry of the gradient a datum in the unconstrained
            space, inducing inputs in standard deviations of their columns. By default
            1e-5 in float64 and 1e-4 in float32.
        held_out: data (X, y) that the fit is not told. The mean of their
            `log_predictive_density` is then `found.held_out`.
        progress: whether to show a bar.

    Returns:
        A `SparseFit`; `print` it. Unless converged it warns; minibatches stop after
        `max_steps`, and whether they have converged is not known.

    Raises:
        ValueError: what `guide.elbo` raises; names that are not there; a start without
            a bound; values that are being traced; batches without a key, or larger than
            the data; data held out that are none of this model.

    Cost: at each step of L-BFGS some natural-gradient steps, of 3 N M^2 + M^3
        operations each, and one gradient of the bound. The same of a minibatch, B for
        N, and memory that does not grow with N but by the data themselves.

    Source: Hensman et al. 2015 (arXiv 1411.2005); Khan & Lin 2017 (arXiv 1703.04265);
        Salimbeni et al. 2018 (arXiv 1803.09151).

    Example:
        >>> import jax.numpy as jnp
        >>> import numpyro.distributions as dist
        >>> from pyrox.gp import RBF, SparseGPPrior, fit_sparse
        >>> X = jnp.linspace(0, 6, 40)[:, None]
        >>> y = (jnp.sin(X[:, 0]) > 0).astype(int)
        >>> def likelihood(f):
        ...     return dist.Bernoulli(logits=f)
        >>> prior = SparseGPPrior(RBF(4.0), Z=X[::8])
        >>> how = {"fixed": "all", "progress": False}
        >>> found = fit_sparse(prior, X, y, likelihood=likelihood, **how)
        >>> bool(found.converged), f"{found.elbo:.1f}"
        (True, '-12.6')
        >>> how = {"likelihood": likelihood, "held_out": (X[1::2], y[1::2]), **how}
        >>> found = fit_sparse(prior, X[::2], y[::2], **how)
        >>> print(f"{found.held_out:.2f}")
        -0.21
    """
    call = "fit_sparse"
    data = prior, X, y, noise_var, likelihood, n_points
    if batch_size is not None:
        batch_size = as_count(f"{call}(batch_size=...)", batch_size)
    problem = as_sparse_problem(*data, fixed, noise_prior, batch_size)
    held = as_held_out(held_out, problem, likelihood)
    default = 200 if batch_size is None else 2000
    most_steps = as_count(f"{call}(max_steps=...)", max_steps or default)
    dtype = problem.X.dtype
    bound = as_tolerance(tolerance, 1e-5 if dtype.itemsize == 8 else 1e-4, dtype)
    if batch_size is not None:
        rates = _rates(natural_rate, learning_rate, most_steps, dtype)
        args = key, rates, batch_size, progress, likelihood, bound
        return _with_score(_by_batches(problem, *args), held)
    sites = no_sites(problem.X[:, 0])
    if slots(problem):
        end = _search(problem, sites, bound, most_steps, progress)
    else:
        end = None, _at(problem, None, sites)
    found = _with_score(_result(problem, *end, bound, likelihood), held)
    warn_if_not_found(found, most_steps)
    return found


def _with_score(found: SparseFit, held: HeldOut | None) -> SparseFit:
    if held is None:
        return found
    return dataclasses.replace(found, held_out=mean_log_density(found, held))


class _Found(NamedTuple):
    """What a point of the search stands for."""

    prior: SparseGPPrior
    law: AbstractLikelihood
    ascent: Ascent
    bound: Float[Array, ""]
    log_prior: Float[Array, ""]


@jit
def _begin(problem: SparseProblem) -> Search:
    return begin(to_vector(problem))


@jit
def _advance(
    problem: SparseProblem,
    search: Search,
    sites: Sites,
    tolerance: Array,
    most_steps: ArrayLike,
) -> Search:
    function = functools.partial(objective, problem, sites)
    return advance(function, search, tolerance, jnp.asarray(most_steps))


def _search(
    problem: SparseProblem,
    sites: Sites,
    tolerance: Array,
    most_steps: int,
    progress: bool,
) -> tuple[Search, _Found]:
    search, limit, n = _begin(problem), 0, problem.n_data
    # Each evaluation seeks q(u) from here: a fifth of the time less than from nothing.
    sites = _at(problem, search.point, sites).ascent.sites
    with tqdm(total=most_steps, desc="fit_sparse", disable=not progress) as bar:
        while True:
            before, limit = limit, min(limit + _STEPS_A_CALL, most_steps)
            search = _advance(problem, search, sites, tolerance, np.int32(limit))
            found = _at(problem, search.point, sites)
            sites = found.ascent.sites  # where the next searches for q begin
            bar.set_postfix_str(f"bound {-n * float(search.value):.6g}")
            bar.update(max(int(search.n_steps), 0) - before)
            converged = float(search.gradient_norm) <= float(tolerance)
            if converged or int(search.n_steps) < limit or limit == most_steps:
                return search, found


@jit
def _at(problem: SparseProblem, point: Array | None, sites: Sites) -> _Found:
    prior, law = problem.prior, problem.law
    if point is not None:
        prior, law = from_vector(problem, point)
    ascent = best_q(problem, prior, law, sites)
    data = law, problem.X, problem.y, problem.n_data
    bound = bound_of(as_guide(ascent.q), prior, *data)
    return _Found(prior, law, ascent, bound, log_prior(problem, prior, law))


def _result(
    problem: SparseProblem,
    search: Search | None,
    found: _Found,
    tolerance: Array,
    likelihood: Callable | None,
) -> SparseFit:
    norm, n_steps = jnp.zeros_like(found.bound), jnp.zeros((), jnp.int32)
    if search is not None:
        norm, n_steps = search.gradient_norm, search.n_steps
    return SparseFit(
        prior=found.prior,
        guide=as_guide(found.ascent.q),
        parameters=found.law.given(),
        elbo=_require_bound(problem, found.bound, found.log_prior),
        log_prior=found.log_prior,
        gradient_norm=norm,
        n_steps=n_steps,
        n_natural_steps=found.ascent.n_steps,
        converged=found.ascent.done & (norm <= tolerance),
        tolerance=tolerance,
        n_data=problem.n_data,
        fixed=problem.fixed,
        batch_size=None,
        given=likelihood,
    )


def _require_bound(problem: SparseProblem, bound: Array, log_prior: Array) -> Array:
    sentence = (
        "`fit_sparse`: there is no bound at the values to start from: the covariance "
        f"of Z is not positive definite in {problem.X.dtype}, or a prior or the "
        "likelihood has no density there. Pass other values, a larger jitter, or "
        "float64 arrays."
    )
    return require_ok(bound, jnp.isfinite(bound) & jnp.isfinite(log_prior), sentence)


def _rates(natural: float, adam: float, n_steps: int, dtype: np.dtype) -> Rates:
    for name, rate in (("natural_rate", natural), ("learning_rate", adam)):
        most = 1 if name == "natural_rate" else np.inf
        if not 0 < float(rate) <= most or not np.isfinite(rate):
            wanted = "a number above 0" + (" and at most 1" if most == 1 else "")
            raise ValueError(
                f"`fit_sparse({name}=...)` must be {wanted}. Got {rate!r}. Leave it "
                "out, or pass 0.1, say."
            )
    numbers = (jnp.asarray(np.asarray(rate, dtype)) for rate in (natural, adam))
    return Rates(next(numbers), next(numbers), jnp.asarray(np.int32(n_steps)))


def _by_batches(
    problem: SparseProblem,
    key: PRNGKeyArray | None,
    rates: Rates,
    batch_size: int,
    progress: bool,
    likelihood: Callable | None,
    tolerance: Array,
) -> SparseFit:
    n = problem.n_data
    if key is None or batch_size > n:
        got = "key=None" if key is None else f"{batch_size} rows of {n}"
        raise ValueError(
            "`fit_sparse(batch_size=...)` takes so many of the data at a time, and a "
            f"key to choose them. Got {got}. Pass `key=jax.random.key(0)` and at most "
            f"batch_size={n}; leave both out to use all data at once."
        )
    run = run_batches(problem, key, rates, batch_size, progress)
    prior, law = from_vector(problem, run.point)
    bound = bound_by_blocks(problem, prior, law, run.q, *blocks_of(n, batch_size))
    of_priors = log_prior(problem, prior, law)
    return SparseFit(
        prior=prior,
        guide=as_guide(run.q),
        parameters=law.given(),
        elbo=_require_bound(problem, bound, of_priors),
        log_prior=of_priors,
        gradient_norm=jnp.full_like(bound, jnp.nan),
        n_steps=run.step,
        n_natural_steps=run.step,
        converged=jnp.asarray(False),
        tolerance=tolerance,
        n_data=n,
        fixed=problem.fixed,
        batch_size=batch_size,
        given=likelihood,
    )
