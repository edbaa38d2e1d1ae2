"""Fitting hyperparameters and noise to data, differentiable in the data."""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple, overload

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, PRNGKeyArray, Real
from numpyro.distributions import Distribution

from .._hyper.checks import as_count, is_traced, require_ok
from .._hyper.unchecked import jit
from .._numerics.implicit import moving_minimum
from .._posterior.by_solver import as_solver
from .._posterior.derivatives import Derivatives
from .._posterior.exact import GPPrior
from .._posterior.missing import how_many
from .._solvers.solver import AbstractIterativeSolver, AbstractSolver, Cholesky
from .fit_input import as_problem, as_tolerance
from .fit_report import Fit, Starts, no_density, warn_if_not_converged
from .iterative_fit import IterativeFit, fit_by_solves
from .noise_alone import beside_noise
from .scored import read_score, total_score
from .search import (
    Runs,
    Task,
    begin_first,
    search_in_program,
    search_in_turn,
    with_second,
)
from .trained import NOISE, Problem, from_vector, log_prior, objective


@overload
def fit(
    prior: GPPrior,
    y: Real[ArrayLike, " N"],
    noise_var: Real[ArrayLike, "..."],
    derivatives: Derivatives | None = None,
    *,
    observed: Bool[ArrayLike, " N"] | None = None,
    fixed: Sequence[str] = (),
    noise_prior: Distribution | None = None,
    n_starts: int | None = None,
    key: PRNGKeyArray | None = None,
    max_steps: int = 200,
    tolerance: float | None = None,
    progress: bool = True,
    objective: Callable | None = None,
    solver: Cholesky | None = None,
    n_paths: int = 64,
    n_features: int = 1024,
) -> Fit: ...


@overload
def fit(
    prior: GPPrior,
    y: Real[ArrayLike, " N"],
    noise_var: Real[ArrayLike, "..."],
    derivatives: Derivatives | None = None,
    *,
    observed: Bool[ArrayLike, " N"] | None = None,
    fixed: Sequence[str] = (),
    noise_prior: Distribution | None = None,
    n_starts: int | None = None,
    key: PRNGKeyArray | None = None,
    max_steps: int = 200,
    tolerance: float | None = None,
    progress: bool = True,
    solver: AbstractIterativeSolver,
    n_paths: int = 64,
    n_features: int = 1024,
) -> IterativeFit: ...


def fit(
    prior: GPPrior,
    y: Real[ArrayLike, " N"],
    noise_var: Real[ArrayLike, "..."],
    derivatives: Derivatives | None = None,
    *,
    observed: Bool[ArrayLike, " N"] | None = None,
    fixed: Sequence[str] = (),
    noise_prior: Distribution | None = None,
    n_starts: int | None = None,
    key: PRNGKeyArray | None = None,
    max_steps: int = 200,
    tolerance: float | None = None,
    progress: bool = True,
    objective: Callable | None = None,
    solver: AbstractSolver | None = None,
    n_paths: int = 64,
    n_features: int = 1024,
) -> Fit | IterativeFit:
    """The hyperparameters and the noise of the highest density given the data.

    Type-II maximum likelihood, or MAP where priors are set: L-BFGS on log p(y | X) plus
    the priors as densities of the values themselves, as in NumPyro's `AutoDelta`. The
    arrays of the mean function are trained, too; X is not. float64 is advised.

    With an iterative solver, for more data than Cholesky's, there is no density, and
    the gradient is estimated by paths of the posterior, which come with what is
    returned: see `IterativeFit`. Adam goes down that from the values as they are, and
    each solve begins from the last ones.

    Args:
        prior: the hyperparameters to start from, and the inputs.
        y: observed values.
        noise_var: variance of the noise, trained if it is one; one a datum is known.
        derivatives: observed partial derivatives, with known noise of their own.
        observed: which of the values were; it is as if the others were not there. See
            `GPPrior.condition`.
        fixed: names of what stays: `"RBF.variance"`, `"noise_var"`, `"mean_fn"`.
        noise_prior: a distribution over `noise_var`.
        n_starts: how many; the highest density wins. The first is from the values as
            they are, the second from the scales of the data, the others from a standard
            normal step around these in the unconstrained space; in all but the first
            what has a prior is drawn from it. By default the second is made only if
            the first explains nothing beyond noise, or if it set out from ten times or
            a tenth of the data's scales and ends below where the second begins.
        key: for what is drawn.
        max_steps: of one start.
        tolerance: on the largest entry of the gradient a datum in the unconstrained
            space. By default 1e-5 in float64 and 1e-4 in float32; with an iterative
            solver 1e-3.
        progress: whether to show a bar; inside `jit` and `vmap` there is none.
        objective: a proper score that is minimised in place of the log marginal
            likelihood, of each value given all the others: `crps`, or `log_score` for
            the leave-one-out pseudo-likelihood. Any function of a pair (mean, var), X
            and y to scores (N,), summed over the data. Priors count as ever: their log
            densities are added to minus the score, so that its units matter.
        solver: `ConjugateGradients()`, say, which needs a key; by default `Cholesky()`.
        n_paths: S, that an iterative solver's gradient is made of.
        n_features: of these paths, even, as in `PathwiseSampler`.

    Returns:
        A `Fit`, of an iterative solver an `IterativeFit`; `print` it. Unless converged
        it warns, but not inside `jit`.

    Raises:
        ValueError: what `GPPrior.condition` raises; names that are not there; a start
            outside the support of its prior; no start that has a density; nothing that
            was observed; an iterative solver without a key, with more starts, with
            derivatives, with an objective, or inside `jit`, `vmap` or `grad`; an
            objective that is no such function.

    Cost: 1.1 to 1.3 times log p(y | X) and its gradient for each step; by an iterative
        solver the setup of `condition`, a few products of S + 1 columns and one
        gradient of such a product, and memory of N times `n_features` numbers.

    Source: Rasmussen & Williams 2006, section 5.4.1, and 5.4.2 for the
        pseudo-likelihood; by scores Gneiting & Raftery 2007, section 9; for iterative
        solvers Lin et al. 2024 (arXiv 2405.18457).

    Example:
        >>> import jax.numpy as jnp
        >>> from pyrox.gp import RBF, GPPrior, fit
        >>> X = jnp.linspace(0, 1, 20)[:, None]
        >>> y = jnp.sin(9 * X[:, 0]) + 0.1 * jnp.cos(50 * X[:, 0])
        >>> found = fit(GPPrior(RBF(), X), y, noise_var=0.1, progress=False)
        >>> bool(found.converged), f"{found.prior.kernel.lengthscale:.2f}"
        (True, '0.20')
        >>> import jax
        >>> from pyrox.gp import ConjugateGradients
        >>> how = {"solver": ConjugateGradients(), "key": jax.random.key(0)}
        >>> how |= {"n_paths": 8, "n_features": 64, "progress": False}
        >>> found = fit(GPPrior(RBF(), X), y, noise_var=0.1, **how)
        >>> bool(found.converged), found.paths(X).shape
        (True, (8, 20))
    """
    data = y, noise_var, derivatives
    problem = as_problem(prior, *data, fixed, noise_prior, observed)
    solver = as_solver("fit", solver, problem.y, problem.derivatives)
    if objective is not None:
        problem = _scored(problem, objective, solver)
    if isinstance(solver, AbstractIterativeSolver):
        ends, sizes = (n_starts, max_steps, tolerance), (n_paths, n_features)
        return fit_by_solves(problem, solver, key, *ends, *sizes, progress)
    task = _as_task(problem, n_starts, key, max_steps, tolerance)
    begun = begin_first(problem)
    # Unknown until a program runs: a value, or all that is computed here.
    if any(is_traced(leaf) for leaf in jax.tree.leaves((task, begun))):
        return _result(task, search_in_program(*task), differentiable=True)
    runs = search_in_turn(task, begun, progress)
    found = _result(task, runs, differentiable=False)
    if task.as_needed and found.only_noise and runs.value.shape[0] < task.n_starts:
        runs = with_second(task, runs, progress)
        found = _result(task, runs, differentiable=False)
    warn_if_not_converged(found, task.most_steps)
    return found


def _scored(problem: Problem, objective: Callable, solver: AbstractSolver) -> Problem:
    if isinstance(solver, AbstractIterativeSolver):
        raise ValueError(
            f"`fit(objective=..., solver={type(solver).__name__}(...))`: leave-one-out "
            "predictions need a Cholesky factor. Got an iterative solver. Leave one of "
            "them out."
        )
    score = read_score(objective, problem.prior.X, problem.y)
    return eqx.tree_at(lambda p: p.score, problem, score, is_leaf=lambda x: x is None)


class _Best(NamedTuple):
    """The start that won, and what it leads to."""

    prior: GPPrior
    noise_var: Array
    log_prior: Array
    gradient_norm: Array
    n_steps: Array
    converged: Array
    has_density: Array


@functools.partial(jit, static_argnames="differentiable")
def _best(
    problem: Problem, runs: Runs, tolerance: Array, differentiable: bool
) -> tuple[_Best, Starts]:
    n = problem.n_data
    converged = runs.gradient_norm <= tolerance
    starts = Starts(-n * runs.value, runs.n_steps, converged)
    winner = jnp.argmin(runs.value)
    run = jax.tree.map(lambda column: column[winner], runs)
    vector = run.point
    if differentiable:
        vector = moving_minimum(functools.partial(objective, problem), vector)
    prior, noise_var = from_vector(problem, vector)
    best = _Best(
        prior,
        noise_var,
        log_prior(problem, prior, noise_var),
        run.gradient_norm,
        run.n_steps,
        converged[winner],
        jnp.isfinite(run.value),
    )
    return best, starts


def _result(task: Task, runs: Runs, *, differentiable: bool) -> Fit:
    problem, tolerance = task.problem, task.tolerance
    best, starts = _best(problem, runs, tolerance, differentiable)
    sentence = no_density(runs.value.shape[0], problem.y.dtype)
    noise_var = require_ok(best.noise_var, best.has_density, sentence)
    posterior = best.prior.condition(
        problem.y, noise_var, problem.derivatives, observed=problem.observed
    )
    likelihood, alone, only_noise = beside_noise(posterior, NOISE in problem.fixed)
    return Fit(
        posterior=posterior,
        log_density=likelihood + best.log_prior,
        score=_score(problem, best),
        log_marginal_likelihood=likelihood,
        noise_log_density=alone,
        only_noise=only_noise,
        gradient_norm=best.gradient_norm,
        n_steps=best.n_steps,
        converged=best.converged,
        tolerance=tolerance,
        starts=starts,
        fixed=problem.fixed,
    )


@jit
def _score(problem: Problem, best: _Best) -> Array | None:
    """The mean score that was minimised, if there is one."""
    if problem.score is None:
        return None
    data = problem.y, best.noise_var, problem.derivatives
    total = total_score(problem.score, best.prior, data, problem.observed)
    return total / how_many(problem.observed, problem.y)


def _as_task(
    problem: Problem,
    n_starts: int | None,
    key: PRNGKeyArray | None,
    max_steps: int,
    tolerance: float | None,
) -> Task:
    as_needed = n_starts is None
    if n_starts is None:
        n_starts = 2
    n_starts = as_count("fit(n_starts=...)", n_starts)
    most_steps = as_count("fit(max_steps=...)", max_steps)
    if n_starts > 1 and key is None and not as_needed:
        raise ValueError(
            f"`fit(n_starts={n_starts})` needs a key to draw the other starts. Got "
            "key=None. Pass `key=jax.random.key(0)`."
        )
    dtype = problem.y.dtype
    bound = as_tolerance(tolerance, 1e-5 if dtype.itemsize == 8 else 1e-4, dtype)
    return Task(problem, key, bound, most_steps, n_starts, as_needed)
