"""A fit by an iterative solver: what it is given, what it found, how it says so."""

import warnings
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from .._hyper.checks import as_count, is_traced
from .._paths.path import PathwiseFunction
from .._paths.samplers import with_inverse
from .._posterior.exact import ConditionedGP, GPPrior
from .._posterior.missing import how_many
from .._posterior.rounding import warn_of_rounding
from .._solvers.convergence import warn_if_not_converged
from .._solvers.solver import AbstractIterativeSolver
from .fit_by_products import Descent, Sizes, descend
from .fit_input import as_tolerance
from .fit_report import value_lines
from .trained import Problem

_TOLERANCE = 1e-3
_CALLER = 4  # frames above a warning: here, `fit_by_solves`, `fit`, and who called it


class IterativeFit(eqx.Module):
    """What `fit(solver=ConjugateGradients(), ...)` found: a posterior, and functions
    drawn from it.

    The slope of the log density is estimated by S paths, whose random numbers are the
    same at each step. So it vanishes near the maximum, not at it: for P trained numbers
    the density there is lower by about P / (2 S), as the error of the slope has the
    covariance of the Fisher information over S. It has no bias by the features of the
    paths, however few. The default tolerance leaves values that the data know little
    of short of their best, by a few units of log density; 2e-4 comes nearer. `print`
    it for a report.

    Attributes:
        posterior: the prior with the hyperparameters found, given the data, by the
            solver; `posterior.convergence` says how near the last solve came.
        paths: S functions of that posterior, from the last solve: what
            `PathwiseSampler(posterior, n_features).sample_paths(key, S)` draws with the
            key of the fit, to the tolerance of the solver.
        slopes: of each step the largest entry, in size, of the gradient a datum in the
            unconstrained space.
        n_products: of each step how many products with the covariance it took.
        converged: whether the last of `slopes` is within the tolerance.
        tolerance: what it was held against.
        fixed: the names of what was not trained.
    """

    posterior: ConditionedGP
    paths: PathwiseFunction
    slopes: Float[Array, " T"]
    n_products: Int[Array, " T"]
    converged: Bool[Array, ""]
    tolerance: Float[Array, ""]
    fixed: tuple[str, ...] = eqx.field(static=True)

    @property
    def prior(self) -> GPPrior:
        """The prior with the hyperparameters that were found, as values."""
        return self.posterior.prior

    @property
    def noise_var(self) -> Float[Array, "..."]:
        """The variance of the noise that was found, or was given."""
        return self.posterior.noise_var

    @property
    def n_steps(self) -> int:
        """How many gradients were taken."""
        return self.slopes.shape[0]

    def __str__(self) -> str:
        if any(is_traced(leaf) for leaf in jax.tree.leaves(self)):
            return "a fit that is being traced: its values are known when it runs"
        slope, tolerance = float(self.slopes[-1]), float(self.tolerance)
        n = int(how_many(self.posterior.observed, self.posterior.y))
        lines = [
            f"{'converged' if self.converged else 'NOT CONVERGED'} after "
            f"{self.n_steps} steps: gradient {slope:.1e} "
            f"{'<=' if self.converged else '>'} {tolerance:.0e} a datum",
            f"{int(jnp.sum(self.n_products))} products with the covariance of {n} "
            f"data, the first {int(self.n_products[0])}, the last "
            f"{int(self.n_products[-1])}; {self.paths.n_paths} paths",
        ]
        return "\n".join([*lines, *value_lines(self.posterior, self.fixed)])


def fit_by_solves(
    problem: Problem,
    solver: AbstractIterativeSolver,
    key: PRNGKeyArray | None,
    n_starts: int | None,
    max_steps: int,
    tolerance: float | None,
    n_paths: int,
    n_features: int,
    progress: bool,
) -> IterativeFit:
    """The fit, with the checks of what it cannot do."""
    key = _require_possible(problem, solver, key, n_starts, tolerance)
    bound = as_tolerance(tolerance, _TOLERANCE, problem.y.dtype)
    most_steps = as_count("fit(max_steps=...)", max_steps)
    sizes = Sizes(
        solver,
        as_count("fit(n_paths=...)", n_paths),
        as_count("fit(n_features=...)", n_features, 2, even=True),
    )
    ended = descend(problem, key, sizes, float(bound), most_steps, progress)
    _require_slope(ended, problem)
    found = _result(problem, ended, bound)
    _warn(found, ended, most_steps)
    return found


def _require_possible(
    problem: Problem,
    solver: AbstractIterativeSolver,
    key: PRNGKeyArray | None,
    n_starts: int | None,
    tolerance: Any,
) -> PRNGKeyArray:
    call = f"`fit(solver={type(solver).__name__}(...))`"
    if n_starts is not None and n_starts != 1:
        raise ValueError(
            f"{call} searches from the given values alone. Got n_starts={n_starts!r}. "
            "Leave n_starts out, and pass a prior of other values for another start."
        )
    if key is None:
        raise ValueError(
            f"{call} needs a key for the paths that its gradient is made of. Got "
            "key=None. Pass `key=jax.random.key(0)`."
        )
    if any(map(is_traced, jax.tree.leaves((problem, key, tolerance)))):
        raise ValueError(
            f"{call} must be given values that are known: it looks at its gradient "
            "between programs. Got values that are being traced, within `jit`, `vmap` "
            "or `grad`. Call it outside of these, or leave the solver out."
        )
    return key


def _require_slope(ended: Descent, problem: Problem) -> None:
    if not np.isfinite(ended.slopes[-1]):
        raise ValueError(
            f"`fit(solver=...)`: the gradient at step {ended.slopes.size} must be "
            f"finite. Got {ended.slopes[-1]}: the covariance is not positive definite "
            f"in {problem.y.dtype}, or a prior gives the values no density. Pass a "
            "larger noise_var, other values to start from, or float64 arrays."
        )


def _result(problem: Problem, ended: Descent, tolerance: Array) -> IterativeFit:
    posterior = ended.last.posterior
    slopes = jnp.asarray(ended.slopes.astype(problem.y.dtype))
    return IterativeFit(
        posterior=posterior,
        paths=with_inverse(ended.last.paths, posterior.inverse),
        slopes=slopes,
        n_products=jnp.asarray(ended.n_products),
        converged=slopes[-1] <= tolerance,
        tolerance=tolerance,
        fixed=problem.fixed,
    )


def _warn(found: IterativeFit, ended: Descent, most_steps: int) -> None:
    """Say in words what did not converge, and what was rounded."""
    if not found.converged:
        warnings.warn(
            f"`fit` has not converged: it stopped at max_steps={most_steps}, where the "
            f"gradient per datum is {float(found.slopes[-1]):.1e}, above tolerance="
            f"{float(found.tolerance):.0e}. Pass max_steps={4 * most_steps}, say, or a "
            "larger tolerance. The values of the last step are returned.",
            stacklevel=_CALLER,
        )
    warn_if_not_converged("fit(solver=...)", ended.last.convergence, _CALLER + 1)
    posterior = found.posterior
    noise = posterior.noise_var, posterior.jitter_var
    given = posterior.inverse, posterior.weights, noise, posterior.observed
    warn_of_rounding("fit(solver=...)", posterior.prior.jitter, *given)
