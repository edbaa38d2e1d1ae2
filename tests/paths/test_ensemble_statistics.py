"""Paths over draws of hyperparameters and of the mean's, against the dense mixture."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _moments import Problem, Stationary, false_alarm
from helpers import few_of
from jaxtyping import Array

from pyrox.gp import GPPrior, paths_over_draws

N_DRAWS, N_PATHS, N_FEATURES = 200, 64, 256
LARGEST_Z = 5.0
RNG = np.random.default_rng(12)
X = np.sort(RNG.uniform(0, 1, (9, 1)), axis=0)
Y = 3 - 2 * X[:, 0] + np.sin(5 * X[:, 0]) + 0.2 * RNG.normal(size=9)
QUERIES = np.array([[0.1], [0.5], [0.9], [1.2], [1.3]])
DRAWS = {
    "a": RNG.normal(3.0, 1.0, N_DRAWS),
    "b": RNG.normal(-2.0, 1.5, N_DRAWS),
    "lengthscale": 0.4 * np.exp(0.3 * RNG.normal(size=N_DRAWS)),
    "noise_var": 0.04 * np.exp(0.3 * RNG.normal(size=N_DRAWS)),
}
JITTER = 1e-5


class Line(eqx.Module):
    a: Array
    b: Array

    def __call__(self, X):
        return self.a + self.b * X[:, 0]


def paths_at_queries(kind, width, under_jit, line=lambda draw: (draw["a"], draw["b"])):
    """The paths' values at QUERIES, (B, S, N), with the mean that `line` makes."""
    dtype = f"float{width}"
    draws = {name: values.astype(dtype) for name, values in DRAWS.items()}

    def values(draws, y, queries):
        def condition(draw):
            one = np.ones((), dtype)
            kernel = Stationary(kind, one).library(dtype=dtype)
            kernel = eqx.tree_at(lambda k: k.lengthscale, kernel, draw["lengthscale"])
            prior = GPPrior(
                kernel, X.astype(dtype), Line(*map(jnp.asarray, line(draw))), JITTER
            )
            return prior.condition(y, draw["noise_var"])

        key = jax.random.key(3)
        return paths_over_draws(key, draws, condition, N_PATHS, N_FEATURES)(queries)

    program = jax.jit(values) if under_jit else values
    return program(draws, Y.astype(dtype), QUERIES.astype(dtype))


def largest_z(kind, values):
    """Over means and covariances of all paths together, each standard error that of
    the draws as they are: a path is Gaussian given its draw."""
    means, covs = [], []
    for a, b, lengthscale, noise_var in zip(*DRAWS.values(), strict=True):
        kernel = Stationary(kind, np.asarray(lengthscale))
        line = lambda X, a=a, b=b: a + b * X[:, 0]  # noqa: E731
        case = Problem(kernel, X, Y, noise_var, QUERIES, JITTER, line).exact()
        means.append(case.mean(QUERIES))
        covs.append(case.cov(QUERIES))
    centre, C = np.mean(means, axis=0), np.stack(covs)
    gap = np.stack(means) - centre
    both = gap[:, :, None] * gap[:, None, :]
    error = np.asarray(values, np.float64) - centre
    v, g = np.einsum("bii->bi", C), gap**2
    outer = v[:, :, None] * (v + g)[:, None, :] + g[:, :, None] * v[:, None, :]
    spread = outer + C**2 + 2 * C * both  # of a product of two errors, given the draw
    product = np.einsum("bsi,bsj->ij", error, error) / (N_DRAWS * N_PATHS)
    se_of_mean = np.sqrt(v.mean(0) / (N_DRAWS * N_PATHS))
    se_of_product = np.sqrt(spread.mean(0) / (N_DRAWS * N_PATHS))
    mean_z = error.mean((0, 1)) / se_of_mean
    cov_z = (product - (C + both).mean(0)) / se_of_product
    return max(np.abs(mean_z).max(), np.abs(cov_z).max())


@pytest.mark.parametrize(
    "kind, width, under_jit",
    few_of(
        [
            ("RBF", 64, False),
            ("RBF", 32, True),
            ("Matern-3/2", 64, True),
            ("Matern-5/2", 32, False),
        ],
    ),
)
def test_a_mean_with_sampled_parameters(kind, width, under_jit):
    with jax.enable_x64(width == 64):
        z = largest_z(kind, paths_at_queries(kind, width, under_jit))
    print(f"\n{kind}, float{width}: {z:.2f} standard errors")
    assert z < LARGEST_Z


def test_the_limit_has_the_false_alarm_rate_that_is_stated():
    assert false_alarm(LARGEST_Z, 4 * (5 + 15)) < 1e-4


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "line",
    [
        lambda draw: (DRAWS["a"][0], draw["b"]),
        lambda draw: (draw["a"], DRAWS["b"].mean()),
        lambda draw: (0 * draw["a"], 0 * draw["b"]),
    ],
    ids=["one draw's level for all", "one slope for all", "no mean"],
)
def test_another_mean_is_noticed(line, x64):
    assert largest_z("RBF", paths_at_queries("RBF", 64, False, line)) > LARGEST_Z
