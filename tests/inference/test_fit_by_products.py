"""Fits by iterative solvers: their gradient, where they end, and the paths they make.

With P trained numbers and S paths the log density at the end of a fit is lower than the
highest by chi-squared of P degrees of freedom over 2 S, beside what the tolerance and
the features make of it.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro.distributions as dist
import pytest
from helpers import inputs

from pyrox.gp import (
    RBF,
    Cholesky,
    ConjugateGradients,
    ConstantMean,
    Derivatives,
    Fit,
    GPPrior,
    IterativeFit,
    Matern,
    PathwiseSampler,
    StochasticDualDescent,
)
from pyrox.gp import fit as public_fit
from pyrox.gp._inference.fit_by_products import Sizes, descend, step_at, surrogate
from pyrox.gp._inference.fit_input import as_problem
from pyrox.gp._inference.trained import from_vector, objective, to_vector
from pyrox.gp._posterior.assembly import equations, of_one_type

pytestmark = pytest.mark.usefixtures("plainly_compiled")

N = 150
KEY = jr.key(5)
SEEN: Any = np.arange(N) % 5 != 1
TIGHT = ConjugateGradients(1e-8, rank=40, progress=False)
fit: Any = functools.partial(public_fit, progress=False)


def values(n: int = N, seed: int = 0):
    X = inputs(n, 2, seed)
    noise = np.random.default_rng(seed).normal(size=n)
    return jnp.sin(4 * X[:, 0]) + X[:, 1] + 0.2 * jnp.asarray(noise)


def prior(kernel=None, mean_fn=None, n: int = N, seed: int = 0) -> GPPrior:
    kernel = Matern(2.5, 1.0, jnp.ones(2)) if kernel is None else kernel
    return GPPrior(kernel, inputs(n, 2, seed), mean_fn, jitter=1e-6)


def everything() -> tuple[GPPrior, dict]:
    """Priors, a mean that is trained, values that were not observed."""
    kernel = Matern(2.5, 1.0, jnp.ones(2)).with_priors(
        variance=dist.LogNormal(0.0, 1.0)
    )
    options = {"observed": SEEN, "noise_prior": dist.HalfNormal(0.5)}
    return prior(kernel, ConstantMean(0.3)), options


def problem_of(prior, observed=None, noise_prior=None):
    return as_problem(prior, values(), 0.1, None, (), noise_prior, observed)


PROBLEMS = {"plain": lambda: problem_of(prior()), "everything": lambda: _all_of_it()}


def _all_of_it():
    given, options = everything()
    return problem_of(given, **options)


def standard_errors(problem, vector, n_paths: int) -> np.ndarray:
    """Of each entry of the slope: z^T dA z / 2 has the variance tr((A^-1 dA)^2) / 2
    for z ~ N(0, A^-1)."""

    def covariance(vector):
        given, noise_var = from_vector(problem, vector)
        data = of_one_type(given, problem.y, noise_var, None, problem.observed)
        return equations(data)[0](jnp.eye(N))

    A, dA = np.asarray(covariance(vector)), np.asarray(jax.jacfwd(covariance)(vector))
    parts = np.linalg.solve(A, dA.transpose(2, 0, 1))
    variances = np.einsum("pij,pji->p", parts, parts) / 2
    return np.sqrt(variances / n_paths) / float(problem.n_data)


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_slope_is_that_of_the_log_density(x64, name):
    """Within 4.5 standard errors of Monte Carlo: false alarms one in 20,000 runs of
    seven entries. The same check fails without the probes' term."""
    problem, n_paths = PROBLEMS[name](), 1000
    vector = to_vector(problem) - 0.3
    wanted = jax.grad(functools.partial(objective, problem))(vector)
    step = step_at(problem, vector, KEY, None, TIGHT, n_paths, 2000)
    errors = standard_errors(problem, vector, n_paths)
    # Entries of a mean have none, but for the solver's tolerance.
    errors = np.maximum(errors, 1e-7)
    print(np.abs(step.slope - wanted) / errors, wanted, step.slope, errors)
    assert (np.abs(step.slope - wanted) <= 4.5 * errors).all()
    alone = jnp.broadcast_to(step.columns[:, :1], step.columns.shape)
    without = jax.grad(functools.partial(surrogate, problem, alone))(vector)
    assert (np.abs(without - wanted) > 4.5 * errors).any()
