"""Posteriors and paths by iterative solvers against those by Cholesky."""

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import few_of, inputs

from pyrox.gp import (
    RBF,
    Cholesky,
    ConjugateGradients,
    Convergence,
    Derivatives,
    GPPrior,
    Matern,
    PathwiseSampler,
    StochasticDualDescent,
)
from pyrox.gp._posterior import by_solver
from pyrox.gp._solvers.solver import AbstractSolver

pytestmark = pytest.mark.usefixtures("plainly_compiled")

N = 120
NOISE = 0.02
TIGHT = ConjugateGradients(1e-9, rank=40)
SEEN = np.arange(N) % 5 != 1
KEY = jax.random.key(3)
ONE_POINT, ONE = np.zeros((1, 2)), np.zeros(1)


def prior(jitter=1e-6, lengthscale=(0.5, 0.7)):
    kernel = Matern(2.5, 1.3, jnp.array(lengthscale))
    return GPPrior(kernel, inputs(N, 2), lambda X: 0.3 * X[:, 0], jitter=jitter)


def values():
    X = inputs(N, 2)
    return jnp.sin(4 * X[:, 0]) + X[:, 1]


def posteriors(solver: AbstractSolver = TIGHT, observed=None):
    y = values()
    return [
        prior().condition(y, NOISE, observed=observed, solver=solver)
        for solver in (None, solver)
    ]


def came(found) -> Convergence:
    assert found.convergence is not None
    return found.convergence


def _any(x) -> Any:
    return x


ANSWERS = {
    "predict_mean": lambda p, X: p.predict_mean(X),
    "predict_var": lambda p, X: p.predict_var(X),
    "predict_var in blocks": lambda p, X: p.predict_var(X, block_size=3),
    "predict_cov": lambda p, X: p.predict_cov(X),
    "predict_cov of two": lambda p, X: p.predict_cov(X, X[:2]),
    "predict_gradient": lambda p, X: p.predict_gradient(X)[1],
    "predict_derivatives": lambda p, X: p.predict_derivatives(X, 1)[1],
    "sample": lambda p, X: p.sample(KEY, X, 2),
    "paths": lambda p, X: PathwiseSampler(p, 64).sample_paths(KEY, 3)(X),
}


@pytest.mark.parametrize("some", few_of([False, True]), ids=["all", "some"])
def test_every_answer_is_cholesky_s(x64, some):
    exact, iterative = posteriors(observed=SEEN if some else None)
    X = inputs(7, 2, seed=5)
    for name, ask in ANSWERS.items():
        got, want = ask(iterative, X), ask(exact, X)
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-6, err_msg=name)


def test_dual_descent_comes_to_the_same(x64):
    solver = StochasticDualDescent(1e-3, block_size=40, max_products=20_000)
    exact, iterative = posteriors(solver)
    X = inputs(7, 2, seed=5)
    assert bool(came(iterative).converged.all())
    got, want = iterative.predict_mean(X), exact.predict_mean(X)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-2)


def test_the_tolerance_bounds_the_error_at_the_data(x64):
    """A root mean square of at most ten times the tolerance in deviations of the
    noise, and a tolerance ten times larger has a larger one."""
    exact = posteriors()[0].predict_mean(prior().X)

    def error(tolerance):
        solver = ConjugateGradients(tolerance, preconditioner="none")
        found = prior().condition(values(), NOISE, solver=solver)
        off = found.predict_mean(prior().X) - exact
        return float(jnp.sqrt(jnp.mean(off**2) / NOISE))

    assert 0 < error(1e-3) <= 1e-2 < error(0.05) <= 0.5


@pytest.mark.parametrize("what", few_of(["hyperparameters", "data"]))
def test_derivatives_are_cholesky_s(x64, what):
    X = inputs(7, 2, seed=5)

    def loss(solver):
        def of(scales, y):
            given = prior(lengthscale=scales).condition(y, NOISE, solver=solver)
            paths = PathwiseSampler(given, 64, "sobol").sample_paths(KEY, 2)
            return jnp.sum(paths(X) ** 2) + jnp.sum(given.predict_mean(X))

        return of

    argument = 0 if what == "hyperparameters" else 1
    got, want = (
        jax.grad(loss(solver), argument)(jnp.array([0.5, 0.7]), values())
        for solver in (TIGHT, None)
    )
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.exhaustive
def test_it_is_compiled_mapped_and_differentiated_forward(x64):
    def mean(scale):
        given = prior(lengthscale=(scale, 0.7)).condition(values(), NOISE, solver=TIGHT)
        return given.predict_mean(inputs(3, 2, seed=5))

    scales = jnp.array([0.4, 0.6])
    mapped = jax.vmap(mean)(scales)
    np.testing.assert_allclose(mapped[1], jax.jit(mean)(scales[1]), atol=1e-7)
    forward, reverse = jax.jacfwd(mean)(0.5), jax.jacrev(mean)(0.5)
    np.testing.assert_allclose(forward, reverse, atol=1e-6)


def test_paths_say_how_near_they_came_and_keep_it_when_chosen(x64):
    paths = PathwiseSampler(posteriors()[1], 64).sample_paths(KEY, 3)
    found = came(paths[1:])
    assert found.residuals.shape == (2,) and bool(found.converged.all())
    assert found.remainder.shape == (N, 2)
    assert "2 of 2 right-hand sides" in str(found)
    assert posteriors()[0].convergence is None
    assert PathwiseSampler(posteriors()[0], 64).sample_paths(KEY).convergence is None


def test_what_did_not_converge_warns(x64):
    solver = ConjugateGradients(1e-9, preconditioner="none", max_products=3)
    with pytest.warns(RuntimeWarning, match="after 4 products in float64") as caught:
        prior().condition(values(), NOISE, solver=solver)
    assert caught[0].filename == __file__
    posterior = posteriors()[1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        PathwiseSampler(posterior, 64).sample_paths(KEY)


SENTENCES = {
    "tolerance": (lambda: ConjugateGradients(0.0), "tolerance=.*between 0 and 1"),
    "rank": (lambda: ConjugateGradients(rank=0), "rank=.*at least 1"),
    "preconditioner": (
        lambda: ConjugateGradients(preconditioner=_any("jacobi")),
        "'random'",
    ),
    "products": (lambda: ConjugateGradients(max_products=0), "max_products"),
    "block": (lambda: StochasticDualDescent(block_size=0), "block_size"),
    "a rank above N": (
        lambda: prior().condition(values(), NOISE, solver=ConjugateGradients(rank=121)),
        "at most the number of data, 120",
    ),
    "no solver": (
        lambda: prior().condition(values(), NOISE, solver=_any("cg")),
        "must be a solver. Got a str",
    ),
    "derivatives": (
        lambda: prior().condition(
            values(), NOISE, Derivatives(ONE_POINT, [0], ONE, 0.1), solver=TIGHT
        ),
        "know values alone",
    ),
    "leave one out": (
        lambda: posteriors()[1].leave_one_out_log_density(),
        "needs a Cholesky factor",
    ),
    "density": (lambda: posteriors()[1].log_marginal_likelihood(), "Cholesky factor"),
    "told": (
        lambda: posteriors()[1].condition_on(ONE_POINT, ONE, 0.1),
        "needs a Cholesky factor",
    ),
    "path told": (
        lambda: (
            PathwiseSampler(posteriors()[1], 64)
            .sample_paths(KEY)
            .condition_on(ONE_POINT, ONE, 0.1)
        ),
        "needs a Cholesky factor",
    ),
}


@pytest.mark.parametrize("name", SENTENCES)
def test_what_it_cannot_do_is_a_sentence(x64, name):
    call, words = SENTENCES[name]
    with pytest.raises(ValueError, match=words):
        call()


def test_a_matrix_beyond_this_machine_is_not_begun(monkeypatch):
    X, y = jnp.zeros((200_000, 1)), jnp.zeros(200_000)
    with pytest.raises(ValueError, match="200000 data takes 480 GB.*ConjugateGradie"):
        GPPrior(RBF(), X).condition(y, 0.1)
    with pytest.raises(ValueError, match="takes 480 GB"):
        GPPrior(RBF(), X).condition(y, 0.1, solver=Cholesky())
    with pytest.raises(ValueError, match="log_marginal_likelihood`: a Cholesky"):
        GPPrior(RBF(), X).log_marginal_likelihood(y, 0.1)
    monkeypatch.setattr(by_solver, "_PART", 1e-12)
    with pytest.raises(ValueError, match="this machine has"):
        prior().condition(values(), NOISE)
    prior().condition(values(), NOISE, solver=ConjugateGradients())
