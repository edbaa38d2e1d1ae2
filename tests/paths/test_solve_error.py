"""What `diagnose` says of the residuals of a solver, against exact paths of the same
draws."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import few_of, inputs

from pyrox.gp import (
    ConjugateGradients,
    GPPrior,
    Matern,
    PathwiseSampler,
    StochasticDualDescent,
    diagnose,
)

pytestmark = pytest.mark.usefixtures("plainly_compiled")

N, NOISE = 300, 0.02
KEY = jax.random.key(0)
SEEN = np.arange(N) % 4 != 0
SOLVERS = {
    "conjugate gradients": ConjugateGradients(0.05, preconditioner="none"),
    "dual descent": StochasticDualDescent(0.05, block_size=60, max_products=30),
}


def drawn(solver=None, observed=None, n_paths=6):
    X = inputs(N, 2)
    prior = GPPrior(Matern(1.5, 1.0, jnp.array([0.3, 0.5])), X, jitter=1e-6)
    y = jnp.sin(6 * X[:, 0]) + X[:, 1]
    posterior = prior.condition(y, NOISE, observed=observed, solver=solver)
    return posterior, PathwiseSampler(posterior, 128).sample_paths(KEY, n_paths)


@pytest.mark.filterwarnings("ignore:.*the solver was left with a residual")
@pytest.mark.parametrize("some", few_of([False, True], True), ids=["all", "some"])
@pytest.mark.parametrize("name", few_of(SOLVERS, "conjugate gradients"))
def test_it_covers_what_exact_paths_show(x64, name, some):
    """Of each path within a tenth, and the moments are those that Cholesky has."""
    observed = SEEN if some else None
    exact, wanted = drawn(observed=observed)
    posterior, paths = drawn(SOLVERS[name], observed)
    if name == "conjugate gradients":  # the mean alone would take 11 or 12
        convergence: Any = posterior.convergence
        assert convergence.n_products <= 5
    points = inputs(100, 2, seed=7)
    found = diagnose(paths, points)
    off = (paths(points) - wanted(points)) / exact.predict_std(points)[None, :]
    true = np.sqrt(np.mean(np.asarray(off) ** 2, axis=1))
    assert found.solve_error is not None and true.min() > 0.01
    np.testing.assert_allclose(found.solve_error, true, rtol=0.1)
    plain = diagnose(wanted, points)
    assert plain.solve_error is None
    np.testing.assert_allclose(found.relative, plain.relative, rtol=0.02)
    np.testing.assert_allclose(found.exact_sd, plain.exact_sd, rtol=0.05)


@pytest.mark.exhaustive
def test_solves_to_the_last_digit_leave_nothing(x64):
    _, paths = drawn(ConjugateGradients(1e-9))
    found = diagnose(paths[2:4], inputs(20, 2, seed=7))
    assert found.solve_error is not None
    assert found.solve_error.shape == (2,) and found.solve_error.max() < 1e-5
