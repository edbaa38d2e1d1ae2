"""What the demonstration computes of many rows: a sparse process and its functions."""

import warnings

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import PRNGKeyArray

from ..gp import (
    DecoupledPathwiseSampler,
    FourierGrid,
    SparseFit,
    SparseGPPrior,
    fit_sparse,
    init_inducing,
    substitute,
)
from .demo import LENGTHSCALE, VARIANCE, Functions, Problem, build_prior

N_INDUCING = 400
NOISE_VAR = 0.25  # to start from, of standardised values


def fit_many(key: PRNGKeyArray, problem: Problem) -> tuple[SparseFit, str]:
    """The best hyperparameters, with the priors of the exact model, and a sentence if
    they have not converged."""
    exact = build_prior(problem)
    kernel, X = exact.kernel, exact.X
    short = {LENGTHSCALE: 0.3 * jnp.ones(X.shape[1]), VARIANCE: 1.0}
    Z = init_inducing(key, X, N_INDUCING, substitute(kernel, short))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = fit_sparse(
            SparseGPPrior(kernel, Z),
            X,
            problem.targets(),
            NOISE_VAR,
            fixed=["Z"],
            noise_prior=dist.LogNormal(-2.0, 2.0),
            tolerance=1e-4,
            progress=False,
        )
    return jax.block_until_ready(found), " ".join(str(w.message) for w in told)


def draw_of_fit(
    key: PRNGKeyArray, problem: Problem, found: SparseFit, n_paths: int
) -> Functions:
    """`n_paths` functions of the fit, right in the box of the data."""
    X = problem.inputs(problem.X)
    basis = FourierGrid((X.min(axis=0), X.max(axis=0)))
    sampler = DecoupledPathwiseSampler(found.prior, found.guide, basis=basis)
    paths = sampler.sample_paths(key, n_paths)
    jax.block_until_ready(paths.update_weights)
    return Functions(problem, paths, n_paths, 1)
