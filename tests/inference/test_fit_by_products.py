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
from pyrox.gp._inference.fit_by_products import (
    Sizes,
    Solutions,
    descend,
    step_at,
    surrogate,
)
from pyrox.gp._inference.fit_input import as_problem
from pyrox.gp._inference.trained import from_vector, objective, to_vector
from pyrox.gp._posterior.assembly import equations, of_one_type
from pyrox.gp._solvers import solver as solvers

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


def problem_of_everything():
    given, options = everything()
    return problem_of(given, **options)


PROBLEMS = {"plain": lambda: problem_of(prior()), "everything": problem_of_everything}


def standard_errors(problem, vector, solutions) -> np.ndarray:
    """Of each entry of the slope, from the terms z^T dA z' / 2 of its paths."""

    def covariance(vector):
        given, noise_var = from_vector(problem, vector)
        data = of_one_type(given, problem.y, noise_var, None, problem.observed)
        return equations(data, None)[0](jnp.eye(N))

    dA = np.asarray(jax.jacfwd(covariance)(vector))
    z = np.asarray(solutions.columns[:, :1] - solutions.columns[:, 1:])
    terms = np.einsum("is,ijp,js->sp", z, dA, solutions.probes, optimize=True) / 2
    return terms.std(axis=0) / np.sqrt(len(terms)) / float(problem.n_data)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", PROBLEMS)
def test_the_slope_is_that_of_the_log_density(x64, name):
    """Within 4.5 standard errors of Monte Carlo, by as few as 32 features: one false
    alarm in 18,000 runs of eight entries. The same check fails without the probes'
    term, and by probes that take the features for the kernel."""
    problem, n_paths = PROBLEMS[name](), 2000
    vector = to_vector(problem) - 0.3
    wanted = jax.grad(functools.partial(objective, problem))(vector)
    step = step_at(problem, vector, KEY, None, TIGHT, n_paths, 32)
    columns, probes = step.solutions
    # Entries of a mean have no error but the solver's.
    errors = np.maximum(standard_errors(problem, vector, step.solutions), 1e-7)
    off = np.abs(step.slope - wanted) / errors
    assert (off <= 4.5).all()
    for other in (jnp.zeros_like(probes), columns[:, :1] - columns[:, 1:]):
        wrong = functools.partial(surrogate, problem, Solutions(columns, other), None)
        off = np.abs(jax.grad(wrong)(vector) - wanted) / errors
        assert (off > 9).any()


@pytest.mark.exhaustive
def test_a_fit_by_solves_ends_at_the_exact_one_with_paths_of_its_posterior(x64):
    """Lower than the highest density by what five numbers lose to 64 paths, .04 in the
    mean and above .35 in one of a million keys; where it set out from it is lower by
    more than one."""
    given, how = everything()
    exact = fit(given, values(), 0.1, **how)
    found = fit(given, values(), 0.1, solver=TIGHT, key=KEY, **how)
    assert isinstance(found, IterativeFit) and bool(found.converged)
    assert found.n_steps == found.slopes.shape[0] == found.n_products.shape[0] < 150
    assert float(found.slopes[-1]) <= float(found.tolerance) == 1e-3
    problem = problem_of(given, **how)

    def density(given, noise_var):
        moved = as_problem(given, values(), noise_var, None, (), None, SEEN)
        own = -problem.n_data * objective(moved, to_vector(moved))
        variance = problem.priors["Matern.variance"].log_prob(given.kernel.variance)
        return float(own + variance + how["noise_prior"].log_prob(noise_var))

    best = density(exact.prior, exact.noise_var)
    assert abs(best - float(exact.log_density)) < 1e-6
    lost = best - density(found.prior, found.noise_var)
    assert 0 < lost < 0.35
    assert best - density(prior(mean_fn=ConstantMean(0.3)), jnp.asarray(0.1)) > 1

    points = inputs(20, 2, seed=7)
    again = found.prior.condition(
        values(), found.noise_var, observed=SEEN, solver=TIGHT
    )
    got, want = found.posterior.predict_mean(points), again.predict_mean(points)
    np.testing.assert_allclose(got, want, atol=1e-6)
    drawn = PathwiseSampler(again).sample_paths(KEY, 64)
    np.testing.assert_allclose(found.paths(points), drawn(points), atol=1e-5)
    convergence: Any = found.paths.convergence
    assert convergence.converged.shape == (64,) and convergence.converged.all()
    report = str(found)
    assert report.startswith(f"converged after {found.n_steps} steps: gradient ")
    assert "products with the covariance of 120 data" in report
    assert "; 64 paths\n" in report and "mean_fn" in report and "noise_var" in report


@pytest.mark.exhaustive
def test_what_is_fixed_stays_and_known_noise_is_kept():
    noise_var = jnp.linspace(0.05, 0.2, N)
    found = fit(
        prior(RBF(0.7, 1.0)),
        values(),
        noise_var,
        fixed=("RBF.variance",),
        solver=StochasticDualDescent(0.05, 64, progress=False),
        key=KEY,
        n_paths=8,
        n_features=64,
        tolerance=0.02,
    )
    assert found.prior.kernel.variance == np.float32(0.7) and found.converged
    assert found.prior.kernel.lengthscale != 1
    assert np.array_equal(found.noise_var, noise_var)
    assert found.fixed == ("RBF.variance", "noise_var") and "(fixed)" in str(found)
    assert found.slopes.dtype == jnp.float32 and found.paths.n_paths == 8


@pytest.mark.exhaustive
def test_warm_starts_save_products(x64, monkeypatch):
    """A quarter of them at least, of narrow blocks: wide ones need few of 120 data.
    They end at the same place."""
    monkeypatch.setattr(solvers, "_WIDTH", 1)
    jax.clear_caches()
    by = ConjugateGradients(1e-2, preconditioner="none", progress=False)
    how = problem_of(prior()), KEY, Sizes(by, 2, 64), 2e-3, 30, False
    warm, cold = (descend(*how, warm=warm) for warm in (True, False))
    assert warm.n_products[0] == cold.n_products[0]
    assert warm.n_products.sum() <= 0.75 * cold.n_products.sum()
    assert warm.last.convergence.converged.all()
    ends = [step.last.posterior.noise_var for step in (warm, cold)]
    np.testing.assert_allclose(*ends, rtol=0.05)
    jax.clear_caches()  # no later test meets these programs


@pytest.mark.exhaustive
def test_many_data_in_float32_come_to_the_exact_fit_in_float64():
    """Log marginal likelihoods within .5%, of 600 data with six lengthscales, of which
    three matter; eight numbers lose .06 in the mean to 64 paths."""
    X = np.random.default_rng(1).uniform(0, 2, (600, 6)).astype(np.float32)
    noise = np.random.default_rng(2).normal(size=600)
    y = np.sin(3 * X[:, 0]) * X[:, 1] + X[:, 2] ** 2 + 0.3 * noise
    y = (y - y.mean()).astype(np.float32)

    def unit(X):
        return GPPrior(Matern(1.5, 1.0, np.ones(6, X.dtype)), X)

    solver = ConjugateGradients(progress=False)
    how = {"solver": solver, "key": KEY, "tolerance": 2e-4, "max_steps": 400}
    found = fit(unit(X), y, 1.0, **how)
    assert found.converged and found.noise_var.dtype == np.float32
    with jax.enable_x64(True):
        X, y = X.astype(float), y.astype(float)
        exact = fit(unit(X), y, 1.0)
        kernel, noise_var = jax.tree.map(
            lambda leaf: np.asarray(leaf, float), (found.prior.kernel, found.noise_var)
        )
        density = float(GPPrior(kernel, X).log_marginal_likelihood(y, noise_var))
        begun = float(unit(X).log_marginal_likelihood(y, 1.0))
        best = float(exact.log_density)
    near = 0.005 * abs(best)
    assert abs(density - best) < near and begun < best - 20 * near


def test_cholesky_as_a_solver_is_the_default():
    how = {"max_steps": 30, "tolerance": 1e-2}
    found, wanted = (
        fit(prior(), values(), 0.1, solver=solver, **how)
        for solver in (Cholesky(), None)
    )
    assert isinstance(found, Fit) and found.log_density == wanted.log_density


@pytest.mark.exhaustive
def test_not_converging_is_said():
    solver = ConjugateGradients(
        1e-4, preconditioner="none", max_products=2, progress=False
    )
    how = {"solver": solver, "key": KEY, "n_paths": 4, "n_features": 64}
    with (
        pytest.warns(UserWarning, match="stopped at max_steps=2, where the") as steps,
        pytest.warns(RuntimeWarning, match="left with a residual") as solves,
    ):
        found = fit(prior(), values(), 0.1, max_steps=2, **how)
    assert {steps[0].filename, solves[0].filename} == {__file__}
    assert not found.converged and found.n_steps == 2
    assert str(found).startswith("NOT CONVERGED after 2 steps")


SLOPES = Derivatives(np.zeros((1, 2)), [0], np.zeros(1), 0.1)
WRONG = {
    "key": ({"key": None}, r"`fit\(solver=ConjugateGradients\(...\)\)` needs a key"),
    "starts": ({"n_starts": 3}, "from the given values alone. Got n_starts=3"),
    "derivatives": ({"derivatives": SLOPES}, "iterative solvers know values alone"),
    "solver": ({"solver": "cg"}, r"`fit\(solver=...\)` must be a solver. Got a str"),
    "paths": ({"n_paths": 0}, r"`fit\(n_paths=...\)` must be a whole number"),
    "features": ({"n_features": 7}, r"`fit\(n_features=...\)`"),
    "tolerance": ({"tolerance": -1.0}, "positive number, .* Pass 0.001, say"),
    "steps": ({"max_steps": 0}, r"`fit\(max_steps=...\)` must be"),
}


@pytest.mark.parametrize("case", WRONG)
def test_bad_input_says_so(case):
    wrong, match = WRONG[case]
    options = {"solver": TIGHT, "key": KEY, **wrong}
    with pytest.raises(ValueError, match=match):
        fit(prior(), values(), 0.1, **options)


def test_it_cannot_be_traced_and_says_so():
    def loss(y):
        return fit(prior(), y, 0.1, solver=TIGHT, key=KEY).noise_var

    for transformed in (jax.jit(loss), jax.grad(loss)):
        with pytest.raises(ValueError, match="being traced, within `jit`, `vmap`"):
            transformed(values())
