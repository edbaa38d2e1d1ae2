"""Minibatches of svgp_factor from NumPyro's plates."""

# NumPyro types its values as array-like or None, and its handlers as what they wrap.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportIndexIssue=false, reportCallIssue=false

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from helpers import few_of
from numpyro import handlers
from numpyro.distributions import constraints
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoDelta, AutoNormal
from numpyro.infer.util import log_density

from pyrox.gp import (
    RBF,
    GPPrior,
    SparseGPPrior,
    WhitenedGuide,
    gp_condition,
    gp_derivatives,
    gp_factor,
    site_names,
    substitute,
    svgp_factor,
)

pytestmark = [pytest.mark.numpyro, pytest.mark.usefixtures("plainly_compiled")]

RNG = np.random.default_rng(0)
N, B = 24, 6
X = RNG.uniform(-2, 2, (N, 1))
F = np.sin(2 * X[:, 0])
Y = F + 0.2 * RNG.normal(size=N)
COUNTS = RNG.poisson(np.exp(F))
EXPOSURE = RNG.uniform(0.5, 2.0, N)
BATCHES = RNG.permutation(N).reshape(-1, B)
MEAN, Z = 0.3 * RNG.normal(size=4), np.linspace(-1.5, 1.5, 4)[:, None]


def guide():
    return WhitenedGuide(MEAN, 0.7 * np.eye(4))


def prior_of(lengthscale=0.8):
    return SparseGPPrior(RBF(1.2, lengthscale), Z)


def noise(rows):
    return {"y": Y[rows], "noise_var": 0.04}


def noise_of_each(rows):
    return {"y": Y[rows], "noise_var": 0.04 * EXPOSURE[rows]}


def rates(rows):
    exposure = jnp.asarray(EXPOSURE)[rows]
    likelihood = lambda f: dist.Poisson(exposure * jnp.exp(f))  # noqa: E731
    return {"y": COUNTS[rows], "likelihood": likelihood}


DATA = {"noise": noise, "noise of each": noise_of_each, "rates": rates}


def model(data, size=B, n_total=None, prior=None):
    with numpyro.plate("data", N, subsample_size=size) as rows:
        rest = {**data(np.asarray(rows)), "n_total": n_total}
        data = guide(), X[np.asarray(rows)]
        svgp_factor("obs", prior or prior_of(), *data, **rest)


def bound(rows, data, n_total=None):
    """That of a model in which the plate has chosen these rows."""
    args = data, len(rows), n_total
    return log_density(model, args, {}, {"data": jnp.asarray(rows)})[0]


@pytest.mark.parametrize("name", few_of(DATA, "rates"))
def test_a_plate_says_what_a_minibatch_stands_for(name, x64):
    data = DATA[name]
    found = [float(bound(rows, data)) for rows in BATCHES]
    for rows, value in zip(BATCHES, found, strict=True):
        assert value == guide().elbo(prior_of(), X[rows], **data(rows), n_total=N)
        assert value == bound(rows, data, n_total=N)
    whole = guide().elbo(prior_of(), X, **data(np.arange(N)))
    np.testing.assert_allclose(np.mean(found), whole, rtol=1e-13)
    # The scale of NumPyro on top, or the divergence in its scale, would be seen.
    scaled = guide().elbo(prior_of(), X[BATCHES[0]], **data(BATCHES[0])) * N / B
    assert abs(scaled - found[0]) > 1 and abs(whole - found[0]) > 0.1


def test_a_plate_of_all_data_is_as_none(x64):
    whole = guide().elbo(prior_of(), X, Y, 0.04)
    for size in (None, N):
        found, trace = log_density(model, (noise, size), {}, {})
        assert found == whole
        assert trace["obs"]["fn"].batch_shape == ()


def test_sites_of_the_model_count_once(x64):
    """Those of hyperparameters and of the likelihood, also with plates of its own."""
    kernel = RBF(1.2, 0.8).with_priors(lengthscale=dist.LogNormal(0.0, 1.0))

    def likelihood(f):
        with numpyro.plate("pair", 2):
            scales = numpyro.sample("scale", dist.HalfNormal(1.0))
        df = numpyro.param("df", 4.0, constraint=constraints.positive)
        return dist.StudentT(df, f, scales.sum())

    def heavy(rows):
        return {"y": Y[rows], "likelihood": likelihood}

    values = {"RBF.lengthscale": 0.5, "scale": jnp.array([0.1, 0.2])}
    rows = BATCHES[0]
    at = {**values, "data": jnp.asarray(rows)}
    prior = SparseGPPrior(kernel, Z)
    found, trace = log_density(model, (heavy, B, None, prior), {}, at)
    assert trace["RBF.lengthscale"]["fn"].batch_shape == ()
    assert trace["scale"]["fn"].batch_shape == (2,)
    assert not trace["RBF.lengthscale"]["cond_indep_stack"]
    given = prior_of(0.5)
    expected = guide().elbo(
        given,
        X[rows],
        Y[rows],
        n_total=N,
        likelihood=lambda f: dist.StudentT(4.0, f, 0.3),
    )
    expected += dist.LogNormal(0.0, 1.0).log_prob(0.5)
    expected += dist.HalfNormal(1.0).log_prob(values["scale"]).sum()
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.exhaustive
def test_several_latent_functions(x64):
    """By the same key the bound is that of n_total."""
    guides = [WhitenedGuide(MEAN, 0.7 * np.eye(4), name=name) for name in ("f", "g")]
    rows = BATCHES[0]

    def spread(f):
        return dist.Normal(f[0], jnp.exp(f[1] - 1))

    def bound(plate, n_total):
        def one():
            data = [prior_of(), prior_of(0.5)], guides, X[rows], Y[rows], None, n_total
            svgp_factor("obs", *data, likelihood=spread)

        def within():
            with numpyro.plate("data", N, subsample_size=B):
                one()

        given = {"data": jnp.asarray(rows)}
        model = handlers.substitute(within, data=given) if plate else one
        return log_density(handlers.seed(model, 5), (), {}, {})[0]

    assert bound(True, None) == bound(False, N) != bound(False, None)


def svi_model():
    with numpyro.plate("data", N, subsample_size=B) as rows:
        kernel = RBF(1.2, 0.8).with_priors(lengthscale=dist.LogNormal(0.0, 1.0))
        prior = SparseGPPrior(kernel, Z)
        svgp_factor(
            "obs", prior, guide(), jnp.asarray(X)[rows], jnp.asarray(Y)[rows], 1
        )


@pytest.mark.exhaustive
def test_the_loss_of_svi_is_that_of_the_rows_it_drew(x64):
    """The rows are those that the model draws with the key that SVI gives it."""

    def in_guide():
        ell = numpyro.param("ell", 0.8, constraint=constraints.positive)
        numpyro.sample("RBF.lengthscale", dist.Delta(ell))

    svi = SVI(svi_model, in_guide, optax.sgd(0.0), Trace_ELBO())
    state = svi.init(jax.random.key(0))
    of_loss = jax.random.key(3)
    params = svi.get_params(state)
    loss = svi.loss.loss(of_loss, params, svi_model, in_guide)
    key, _ = jax.random.split(of_loss)
    seeded = handlers.seed(handlers.substitute(svi_model, data=params), key)
    rows = handlers.trace(seeded).get_trace()["data"]["value"]
    assert len(set(rows.tolist())) == B
    prior = prior_of()
    expected = guide().elbo(prior, X[rows], Y[rows], 1, n_total=N)
    expected += dist.LogNormal(0.0, 1.0).log_prob(0.8)
    np.testing.assert_allclose(-np.asarray(loss), expected, rtol=1e-12)


@pytest.mark.exhaustive
@pytest.mark.parametrize("auto", [AutoDelta, AutoNormal])
def test_svi_by_minibatches_comes_to_the_bound_of_all_data(auto, x64):
    def trained():
        with numpyro.plate("data", N, subsample_size=B) as rows:
            kernel = RBF(1.2, 0.8).with_priors(lengthscale=dist.LogNormal(0.0, 0.1))
            data = jnp.asarray(X)[rows], jnp.asarray(Y)[rows], 0.04
            svgp_factor("obs", SparseGPPrior(kernel, Z), guide(), *data)

    of_kernel = auto(trained)
    adam = optax.adam(optax.cosine_decay_schedule(0.03, 1200))
    result = SVI(trained, of_kernel, adam, Trace_ELBO()).run(
        jax.random.key(0), 1200, progress_bar=False
    )
    names = site_names(guide())
    found = substitute(guide(), {name: result.params[name] for name in names})
    ell = of_kernel.median(result.params)["RBF.lengthscale"]
    prior = prior_of(ell)
    best = prior.log_marginal_bound(X, Y, 0.04)
    assert best - 1 < found.elbo(prior, X, Y, 0.04) <= best
    assert guide().elbo(prior, X, Y, 0.04) < best - 30


def within(*plates, X=X, y=Y, **rest):
    with contextlib.ExitStack() as stack:
        for plate in plates:
            stack.enter_context(plate)
        svgp_factor("obs", prior_of(), guide(), X, y, 0.1, **rest)


REFUSED = {
    "rows of no batch": (
        lambda: within(numpyro.plate("data", N, subsample_size=B)),
        r"svgp_factor\(X=...\)` must have the 6 rows of `numpyro.plate\('data', 24, "
        r"subsample_size=6\)` around it. Got 24. Pass `X\[rows\]`",
    ),
    "outputs": (
        lambda: within(numpyro.plate("outputs", 3)),
        r"the 3 rows of `numpyro.plate\('outputs', 3\)` around it. Got 24.*Move it out",
    ),
    "another total": (
        lambda: within(
            numpyro.plate("data", N, subsample_size=B), X=X[:B], y=Y[:B], n_total=100
        ),
        "n_total=...*must be 24, the size of the plate 'data' around it. Got 100.",
    ),
    "no number": (
        lambda: within(numpyro.plate("data", N), n_total=24.5),
        "n_total=...*must be a whole number.*Got 24.5",
    ),
    "two plates": (
        lambda: within(
            numpyro.plate("outputs", 3, dim=-2), numpyro.plate("data", N, dim=-1)
        ),
        r"from one `numpyro.plate`. Got it within 2 of them, \['outputs', 'data'\]",
    ),
    "no matrix": (
        lambda: within(numpyro.plate("data", N), X=X[:, 0]),
        r"svgp_factor\(X=...\)` must have shape \(N, D\). Got \(24,\)",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name):
    call, sentence = REFUSED[name]
    with pytest.raises(ValueError, match=f"(?s){sentence}"), handlers.seed(rng_seed=0):
        call()


@pytest.mark.parametrize(
    "name", few_of(["gp_factor", "gp_condition", "gp_derivatives"], "gp_condition")
)
def test_a_density_of_all_data_is_refused_in_any_plate(name):
    prior = GPPrior(RBF(), X)

    def whole():
        with numpyro.plate("data", N):
            if name == "gp_derivatives":
                return gp_derivatives("obs", prior, Y, 0.1, X[:N], 0)
            call = {"gp_factor": gp_factor, "gp_condition": gp_condition}[name]
            return call("obs", prior, Y, 0.1)

    with pytest.raises(ValueError, match="Move it out of the plate"):
        handlers.seed(whole, 0)()
