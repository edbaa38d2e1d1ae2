"""Likelihoods that are asked for other rows than they were read with: minibatches."""

# pyright: reportArgumentType=false, reportOptionalOperand=false

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from helpers import few_of
from numpyro.distributions import constraints

from pyrox.gp import RBF, SparseGPPrior, fit_sparse

pytestmark = [pytest.mark.usefixtures("plainly_compiled"), pytest.mark.numpyro]

RNG = np.random.default_rng(0)
N = 30
X = RNG.uniform(-2, 2, (N, 1))
F = np.sin(2 * X[:, 0])
Y, COUNTS = F + 0.3 * RNG.normal(size=N), RNG.poisson(np.exp(F))
EXPOSURE = RNG.uniform(0.5, 2.0, N)
TOTALS = 9 - np.arange(N) % 9
PRIOR = SparseGPPrior(RBF(1.2, 0.8), np.linspace(-1.5, 1.5, 4)[:, None])
QUIET = {"progress": False, "fixed": "all"}
BATCHES = {"batch_size": 8, "key": jax.random.key(0), "max_steps": 20}


def exposed(f):
    return dist.Poisson(EXPOSURE * jnp.exp(f))


def sliced(f):
    return dist.Poisson(EXPOSURE[: f.shape[0]] * jnp.exp(f))


def trained_and_exposed(f):
    scale = numpyro.param("scale", 0.3, constraint=constraints.positive)
    return dist.Normal(f, scale * jnp.asarray(EXPOSURE))


def out_of_totals(f):
    return dist.Binomial(TOTALS, logits=f)


def heavy(f):
    scale = numpyro.param("scale", 0.3, constraint=constraints.positive)
    return dist.StudentT(4.0, f, scale)


def fitted(likelihood, y=COUNTS, **how):
    return fit_sparse(PRIOR, X, y, likelihood=likelihood, **QUIET, **how)


BATCH = r"must be the same for all rows.*a minibatch gives it 8 of the 30 latent values"
WAY_OUT = r"Leave batch_size out; or.*`numpyro.plate\('data', N, subsample_size=B\)"
REFUSED = {
    "an array of the data": (
        lambda: fitted(exposed, **BATCHES),
        f"{BATCH}.*fails for 8 latent values.*{WAY_OUT}",
    ),
    "one row": (
        lambda: fitted(exposed, **{**BATCHES, "batch_size": 1}),
        "fails for 1 latent values",
    ),
    "as many rows as there are": (
        lambda: fitted(exposed, **{**BATCHES, "batch_size": N}),
        f"of the 30 latent.*the same value at the same f a log density of.*{WAY_OUT}",
    ),
    "the first rows": (
        lambda: fitted(sliced, **BATCHES),
        f"{BATCH}.*the same value at the same f a log density of .* in row 0 and",
    ),
    "values that some rows cannot take": (
        lambda: fitted(out_of_totals, TOTALS, **{**BATCHES, "batch_size": N}),
        "the same value at the same f a log density of",
    ),
    "an array and a parameter": (
        lambda: fitted(trained_and_exposed, Y, **{**BATCHES, "batch_size": N}),
        "the same value at the same f",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name):
    call, sentence = REFUSED[name]
    with pytest.raises(ValueError, match=f"(?s){sentence}"):
        call()


@pytest.mark.parametrize(
    "likelihood",
    few_of([heavy, lambda f: dist.Normal(f, np.array([0.3]))], heavy),
)
def test_what_holds_for_all_rows_is_taken(likelihood, x64):
    """Sites of its own, or a value for all rows, of shape (1,) too."""
    found = fitted(likelihood, Y, **BATCHES)
    assert np.isfinite(found.elbo)


def test_a_total_for_each_datum(x64):
    """All data at once may close over arrays; a count above its total is named."""
    found = fitted(out_of_totals, np.minimum(COUNTS, TOTALS))
    assert found.converged
    y = np.minimum(COUNTS, TOTALS)
    y[4] = TOTALS[4] + 1
    sentence = r"integer interval\(0, 1 to 9\)\..*Got 6 at index"
    with pytest.raises(ValueError, match=f"(?s){sentence}"):
        fitted(out_of_totals, y)
