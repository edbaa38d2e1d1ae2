"""fit_sparse(held_out=...): how well it predicts data that it was not told."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportOptionalOperand=false, reportOptionalMemberAccess=false
# pyright: reportCallIssue=false, reportOperatorIssue=false

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from helpers import few_of
from numpyro.distributions import constraints
from scipy import stats

from pyrox.gp import RBF, SparseGPPrior, fit_sparse, log_predictive_density
from pyrox.gp._inference import held_out as module

pytestmark = [pytest.mark.usefixtures("plainly_compiled"), pytest.mark.numpyro]

RNG = np.random.default_rng(0)
N, K = 30, 11
X, AT = RNG.uniform(-2, 2, (N, 1)), RNG.uniform(-2, 2, (K, 1))
F, F_AT = np.sin(2 * X[:, 0]), np.sin(2 * AT[:, 0])
Y, Y_AT = F + 0.3 * RNG.normal(size=N), F_AT + 0.3 * RNG.normal(size=K)
COUNTS, COUNTS_AT = RNG.poisson(np.exp(F)), RNG.poisson(np.exp(F_AT))
EXPOSURE = RNG.uniform(0.5, 2.0, N)
PRIOR = SparseGPPrior(RBF(1.2, 0.8), np.linspace(-1.5, 1.5, 4)[:, None])
QUIET = {"progress": False, "fixed": "all"}
BATCHES = {"batch_size": 8, "key": jax.random.key(0), "max_steps": 20}


def rates(f):
    return dist.Poisson(jnp.exp(f))


def heavy(f):
    scale = numpyro.param("scale", 0.3, constraint=constraints.positive)
    return dist.StudentT(4.0, f, scale)


HOW = {
    "noise": ((Y, 0.1), {}, (AT, Y_AT)),
    "counts": ((COUNTS,), {"likelihood": rates}, (AT, COUNTS_AT)),
    "a parameter": ((Y,), {"likelihood": heavy}, (AT, Y_AT)),
}


@pytest.mark.parametrize(
    ("name", "batches"),
    few_of(
        [(name, batches) for name in HOW for batches in (False, True)],
        ("noise", False),
    ),
)
def test_the_score_is_that_of_the_data_held_out(name, batches, x64, monkeypatch):
    data, how, held = HOW[name]
    monkeypatch.setattr(module, "_BLOCK", 4)  # the last block has 3 of 11 rows
    how = {**QUIET, **how, **(BATCHES if batches else {})}
    if name == "a parameter":
        how["fixed"] = ["Z", "RBF.variance", "RBF.lengthscale"]
    found = fit_sparse(PRIOR, X, *data, **how, held_out=held)
    mean, var = found.predict(AT)
    if name == "noise":
        each = stats.norm.logpdf(Y_AT, mean, np.sqrt(var + found.noise_var))
    elif name == "counts":  # a sum over many more nodes than the library takes
        nodes, weights = np.polynomial.hermite_e.hermegauss(200)
        rate = np.exp(np.asarray(mean) + np.sqrt(var) * nodes[:, None])
        chances = stats.poisson.pmf(COUNTS_AT, rate)
        each = np.log(weights @ chances / weights.sum())
    else:
        each = log_predictive_density(found, *held, found.likelihood)
    np.testing.assert_allclose(found.held_out, np.mean(each), rtol=1e-9)
    assert f"log predictive density {found.held_out:.6g} a datum" in str(found)
    # The fit itself does not know of them.
    without = fit_sparse(PRIOR, X, *data, **how)
    assert without.held_out is None and "held out" not in str(without)
    assert without.elbo == found.elbo


@pytest.mark.exhaustive
def test_single_precision():
    small = SparseGPPrior(RBF(), PRIOR.Z.astype("float32"))
    held = AT.astype("float32"), COUNTS_AT
    data = X.astype("float32"), COUNTS
    found = fit_sparse(small, *data, likelihood=rates, **QUIET, held_out=held)
    assert found.held_out.dtype == np.float32 and np.isfinite(found.held_out)


def exposed(f):
    return dist.Poisson(EXPOSURE * jnp.exp(f))


def fitted(likelihood, y=COUNTS, **how):
    return fit_sparse(PRIOR, X, y, likelihood=likelihood, **QUIET, **how)


OTHERS = "must be the same for all rows.*it is asked for 11 that were held out"
REFUSED = {
    "held out": (
        lambda: fitted(exposed, held_out=(AT, COUNTS_AT)),
        f"{OTHERS}.*fails for 11 latent values.*pass `log_predictive_density` a",
    ),
    "as many held out": (
        lambda: fitted(exposed, held_out=(X[::-1], COUNTS[::-1])),
        "30 that were held out.*the same value at the same f",
    ),
    "no pair": (
        lambda: fitted(rates, held_out=AT),
        r"held_out=...\)` must be a pair \(X, y\).*Got a ndarray",
    ),
    "other columns": (
        lambda: fitted(rates, held_out=(np.ones((K, 2)), COUNTS_AT)),
        r"held_out=\(X, ...\)\)` must have shape \(N, 1\).*Got \(11, 2\)",
    ),
    "fewer values": (
        lambda: fitted(rates, held_out=(AT, COUNTS_AT[:3])),
        r"held_out=\(..., y\)\)` must have shape \(11,\). Got \(3,\)",
    ),
    "no count": (
        lambda: fitted(rates, held_out=(AT, COUNTS_AT - 9)),
        r"held_out=\(..., y\)\)` must lie in the support.*Got -",
    ),
    "NaN": (
        lambda: fit_sparse(PRIOR, X, Y, 0.1, held_out=(AT, np.nan * Y_AT)),
        r"held_out=\(..., y\)\)` must be finite",
    ),
    "noise of each": (
        lambda: fit_sparse(PRIOR, X, Y, np.full(N, 0.1), held_out=(AT, Y_AT)),
        r"needs one noise_var for all data. Got one for each, of shape \(30,\)",
    ),
    "traced": (
        lambda: jax.jit(
            lambda y: fit_sparse(PRIOR, X, Y, 0.1, held_out=(AT, y)).held_out
        )(Y_AT),
        "must be given values that are known",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name):
    call, sentence = REFUSED[name]
    with pytest.raises(ValueError, match=f"(?s){sentence}"):
        call()
