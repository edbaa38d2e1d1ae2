"""What `fit` is given: priors set apart, starts drawn, and what it cannot use."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro.distributions as dist
import pytest
from numpyro import handlers

from pyrox.gp import RBF, Derivatives, GPPrior, SparseGPPrior, fit
from pyrox.gp._inference.fit_input import as_problem
from pyrox.gp._inference.starts import at_data, drawn_at_data
from pyrox.gp._inference.trained import to_vector

GOOD: Any = GPPrior(RBF(), np.zeros((2, 1), np.float32))
ZEROS = np.zeros(2, np.float32)


@pytest.mark.exhaustive
def test_starts_are_drawn_from_priors():
    """The first is where the values are, whatever their priors; lengthscales of the
    others are the prior's, and variances near that of the data."""
    kernel = RBF().with_priors(lengthscale=dist.LogNormal(3.0, 1e-3))
    with handlers.trace() as sites:
        y = np.array([3e3, -3e3], np.float32)
        problem = as_problem(GPPrior(kernel, GOOD.X), y, 0.1, None, (), None)
    assert sites == {} and list(problem.priors) == ["RBF.lengthscale"]
    np.testing.assert_allclose(to_vector(problem), np.log([1, 1, 0.1]), atol=1e-6)
    best = at_data(problem, jr.key(0))[0]
    others = [best, drawn_at_data(problem, jr.key(0), 2)]
    for other in others:
        assert abs(other[1] - 3.0) < 0.01 and abs(other[0] - np.log(9e6)) < 4
    assert others[0][1] != others[1][1]


WRONG = {
    "derivatives": (GOOD, {"derivatives": ZEROS}, "must be a `Derivatives`. Got"),
    "columns": (
        GOOD,
        {"derivatives": Derivatives(np.zeros((1, 2)), 0, np.zeros(1), 0.1)},
        r"`fit\(derivatives=...\)` must have points of D=1",
    ),
    "sparse": (
        SparseGPPrior(RBF(), np.zeros((2, 1))),
        {},
        "must be a GPPrior. Got a Sp",
    ),
    "name": (
        GOOD,
        {"fixed": ["RBF.ell"]},
        r"got \['RBF.ell'\], .*'RBF.lengthscale', 'no",
    ),
    "mean": (GOOD, {"fixed": "mean_fn"}, r"got \['mean_fn'\]"),
    "key": (GOOD, {"n_starts": 2}, r"`fit\(n_starts=2\)` needs a key"),
    "starts": (GOOD, {"n_starts": 0}, "must be a whole number of at least 1"),
    "steps": (GOOD, {"max_steps": 2.5}, "must be a whole number of at least 1"),
    "tolerance": (GOOD, {"tolerance": 0.0}, "must be a positive number"),
    "noise": (GOOD, {"noise_var": -1.0}, r"`fit\(noise_var=...\)` must be a positive"),
    "noise prior": (GOOD, {"noise_prior": dist.Normal(0, 1)}, "has support real, and"),
    "not a prior": (GOOD, {"noise_prior": dist.Gamma(np.ones(3))}, "over one number"),
    "two": (
        GOOD,
        {"noise_prior": dist.Gamma(1.0), "noise_var": np.ones(2)},
        "is known",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_bad_input_says_so(case):
    prior, options, match = WRONG[case]
    options = {"noise_var": 0.1, **options}
    with pytest.raises(ValueError, match=match):
        fit(prior, ZEROS, **options)


def test_bad_values_say_so():
    with pytest.raises(ValueError, match=r"`fit\(y=...\)` must have shape \(2,\). Got"):
        fit(GOOD, ZEROS[:1], 0.1)
    kernel = RBF().with_priors(variance=dist.Uniform(2.0, 3.0))
    with pytest.raises(ValueError, match="RBF.variance is 1.0, outside the support"):
        fit(GPPrior(kernel, GOOD.X), ZEROS, 0.1)
    kernel = RBF().with_priors(variance=dist.Delta(1.0))
    with pytest.raises(ValueError, match="of RBF.variance is a Delta, a value and not"):
        fit(GPPrior(kernel, GOOD.X), ZEROS, 0.1)
    moved = eqx.tree_at(lambda p: p.kernel.lengthscale, GOOD, jnp.asarray(-1.0))
    with pytest.raises(ValueError, match="`RBF.lengthscale` must be finite and pos"):
        fit(moved, ZEROS, 0.1)
