"""gp_sample(name, prior, guide=guide): the q of a latent function in the guide."""

# NumPyro types its values as array-like or None, and its handlers as what they wrap.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportIndexIssue=false

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from helpers import few_of
from numpyro import handlers
from numpyro.infer import SVI, Predictive, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal
from numpyro.infer.util import log_density
from scipy import stats

from pyrox.gp import (
    RBF,
    DecoupledPathwiseSampler,
    DeltaGuide,
    FullRankGuide,
    GPPrior,
    MeanFieldGuide,
    NaturalGuide,
    SparseGPPrior,
    WhitenedGuide,
    gp_sample,
    optimal_guide,
    site_names,
    substitute,
)

pytestmark = [pytest.mark.numpyro, pytest.mark.usefixtures("plainly_compiled")]

RNG = np.random.default_rng(0)
N, NOISE = 7, 0.3
X = np.linspace(-1.5, 1.5, N)[:, None]
Y = np.sin(2 * X[:, 0]) + NOISE * RNG.normal(size=N)
MEAN = RNG.normal(size=N)
ROOT = np.tril(0.2 * RNG.normal(size=(N, N)), -1) + np.diag(RNG.uniform(0.3, 0.9, N))
GUIDES = {
    "FullRankGuide": lambda: FullRankGuide(MEAN, ROOT),
    "MeanFieldGuide": lambda: MeanFieldGuide(MEAN, np.diagonal(ROOT)),
    "WhitenedGuide": lambda: WhitenedGuide(MEAN, ROOT),
    "NaturalGuide": lambda: NaturalGuide(MEAN, ROOT @ ROOT.T + np.eye(N)),
    "DeltaGuide": lambda: DeltaGuide(MEAN),
}


def slope(X):
    return 0.3 * X[:, 0]


def prior():
    return GPPrior(RBF(1.3, 0.8), X, slope, jitter=1e-4)


def same_sparse():
    return SparseGPPrior(RBF(1.3, 0.8), X, slope, jitter=1e-4)


def model(whitened=True, kernel_prior=None):
    f = gp_sample("f", kernel_prior or prior(), whitened)
    numpyro.sample("y", dist.Normal(f, NOISE).to_event(1), obs=Y)


def guide_of(guide, whitened=True):
    return gp_sample("f", prior(), whitened, guide=guide)


def covariance():
    K = np.exp(-0.5 * ((X - X.T) / 0.8) ** 2) * 1.3
    return K + 1.3e-4 * np.eye(N)


def densities(guide, whitened, seed):
    """log p(y, f) and log q(f) at a draw of the guide, and f."""
    seeded = handlers.seed(guide_of, seed)
    trace = handlers.trace(seeded).get_trace(guide, whitened)
    site = "f_whitened" if whitened else "f"
    assert [name for name in trace if trace[name]["type"] == "sample"] == [site]
    drawn = trace[site]
    given = {site: drawn["value"]}
    joint, _ = log_density(model, (whitened,), {}, given)
    return joint, drawn["fn"].log_prob(drawn["value"]), trace["f"]["value"]


@pytest.mark.parametrize(
    ("name", "whitened"),
    few_of(
        [(name, whitened) for name in GUIDES for whitened in (True, False)],
        ("FullRankGuide", True),
        ("WhitenedGuide", False),
        ("DeltaGuide", True),
    ),
)
def test_the_density_ratio_is_that_of_the_guide(name, whitened, x64):
    """log p(y, f) - log q(f), draw by draw, against SciPy's p and `guide.log_prob`."""
    guide = GUIDES[name]()
    prior_law = stats.multivariate_normal(0.3 * X[:, 0], covariance())
    for seed in (0, 1):
        joint, log_q, f = densities(guide, whitened, seed)
        likelihood = stats.norm.logpdf(Y, f, NOISE).sum()
        expected = likelihood + prior_law.logpdf(f)
        if name != "DeltaGuide":  # a point mass has none, and counts as one
            expected = expected - guide.log_prob(f, same_sparse())
        np.testing.assert_allclose(joint - log_q, expected, rtol=1e-7)
    if name == "DeltaGuide":
        expected = likelihood - guide.kl(same_sparse())
        np.testing.assert_allclose(joint - log_q, expected, rtol=1e-7)


@pytest.mark.exhaustive
@pytest.mark.parametrize("whitened", [True, False])
def test_the_loss_of_svi_is_the_bound_on_average(whitened, x64):
    """4000 draws within 5 standard errors, one false alarm in a million; a bound that
    has the divergence twice, or has none, is further away."""
    guide = WhitenedGuide(0.3 * MEAN, 0.2 * ROOT)

    def run():
        model(whitened)

    def in_guide():
        guide_of(guide, whitened)

    svi = SVI(run, in_guide, optax.sgd(0.0), Trace_ELBO())
    params = svi.get_params(svi.init(jax.random.key(0)))
    keys = jax.random.split(jax.random.key(1), 4000)
    draw = jax.jit(jax.vmap(lambda key: svi.loss.loss(key, params, run, in_guide)))
    draws = -np.asarray(draw(keys))
    lower = np.linalg.cholesky(covariance())
    mean = 0.3 * X[:, 0] + lower @ np.asarray(guide.mean)
    var = ((lower @ guide.scale_tril) ** 2).sum(1)
    fit = stats.norm.logpdf(Y, mean, NOISE).sum() - var.sum() / (2 * NOISE**2)
    divergence = float(guide.kl(same_sparse()))
    error = draws.std() / np.sqrt(draws.size)
    assert abs(draws.mean() - (fit - divergence)) < 5 * error
    assert divergence > 10 * error
    # The marginals of a sparse process at its own inducing inputs, but for the jitter.
    bound = guide.elbo(same_sparse(), X, Y, NOISE**2)
    np.testing.assert_allclose(fit - divergence, bound, atol=0.05)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", ["WhitenedGuide", "FullRankGuide"])
def test_svi_finds_the_exact_posterior(name, x64):
    guide = {"WhitenedGuide": WhitenedGuide, "FullRankGuide": FullRankGuide}[name]
    start = guide.init(N)

    def run():
        model(False)

    def in_guide():
        guide_of(start, False)

    adam = optax.adam(optax.cosine_decay_schedule(0.03, 3000))
    svi = SVI(run, in_guide, adam, Trace_ELBO(num_particles=4))
    result = svi.run(jax.random.key(0), 3000, progress_bar=False)
    names = site_names(start)
    trained = substitute(start, {name: result.params[name] for name in names})
    best = optimal_guide(same_sparse(), X, Y, NOISE**2)
    bounds = [q.elbo(same_sparse(), X, Y, NOISE**2) for q in (trained, best)]
    assert bounds[1] - 0.02 < bounds[0] <= bounds[1] + 1e-9
    mean, var = trained.predict(same_sparse(), X)
    exact = prior().condition(Y, NOISE**2)
    np.testing.assert_allclose(mean, exact.predict_mean(X), atol=0.05)
    np.testing.assert_allclose(var, exact.predict_var(X), rtol=0.15)
    # Its functions, and its draws by NumPyro's own way.
    sampler = DecoupledPathwiseSampler(same_sparse(), trained, 256)
    paths = sampler.sample_paths(jax.random.key(1), 500)
    assert np.abs(paths(X).mean(0) - mean).max() < 0.1
    draw = Predictive(in_guide, params=result.params, num_samples=500)
    drawn = draw(jax.random.key(2))["f"]
    assert drawn.shape == (500, N) and np.abs(drawn.mean(0) - mean).max() < 0.1


@pytest.mark.exhaustive
def test_a_short_run_of_svi_with_hyperparameters(x64):
    """An automatic guide for these, whose values go into the prior of the guide."""
    pending = prior()
    kernel = pending.kernel.with_priors(lengthscale=dist.LogNormal(0.0, 0.5))
    pending = GPPrior(kernel, X, slope, jitter=1e-4)

    def counts():
        f = gp_sample("f", pending)
        numpyro.sample("y", dist.Normal(f, NOISE), obs=Y)

    auto = AutoNormal(handlers.block(counts, hide=["f_whitened"]))
    start = WhitenedGuide.init(N)

    def in_guide():
        values = auto()
        gp_sample("f", substitute(pending, values), guide=start)

    svi = SVI(counts, in_guide, optax.adam(0.02), Trace_ELBO())
    result = svi.run(jax.random.key(0), 400, progress_bar=False)
    assert np.isfinite(result.losses).all()
    assert result.losses[-100:].mean() < result.losses[:20].mean() - 3
    assert {*site_names(start), "RBF.lengthscale_auto_loc"} <= set(result.params)


@pytest.mark.exhaustive
def test_within_a_plate_each_element_is_a_draw():
    def outputs():
        with numpyro.plate("outputs", 3):
            return guide_of(WhitenedGuide.init(N))

    f = handlers.seed(outputs, 0)()
    assert f.shape == (3, N) and np.abs(f[0] - f[1]).max() > 0.1


@pytest.mark.exhaustive
def test_single_precision():
    small = GPPrior(RBF(), X.astype("float32"))
    with handlers.seed(rng_seed=0):
        f = gp_sample("f", small, guide=WhitenedGuide.init(N))
    assert f.dtype == np.float32 and np.isfinite(f).all()


def test_where_there_is_no_factor_nothing_is_drawn():
    broken = GPPrior(RBF(), 0 * X, jitter=0.0)
    with handlers.seed(rng_seed=0), pytest.warns(RuntimeWarning, match="is NaN"):
        f = gp_sample("f", broken, guide=WhitenedGuide.init(N))
    assert np.isnan(f).all()


REFUSED = {
    "another size": (
        lambda: guide_of(WhitenedGuide.init(3)),
        "a value for each of the 7 rows of X. Got a guide of 3. "
        r"Pass `WhitenedGuide.init\(7\)`",
    ),
    "no guide": (lambda: guide_of("q"), "must be a guide. Got 'q'"),
    "a sparse prior": (
        lambda: gp_sample("f", same_sparse(), guide=WhitenedGuide.init(N)),
        "must be given the GPPrior of the model. Got a SparseGPPrior",
    ),
    "priors of the model": (
        lambda: gp_sample(
            "f",
            GPPrior(RBF().with_priors(variance=dist.LogNormal(0.0, 1.0)), X),
            guide=WhitenedGuide.init(N),
        ),
        r"values of the hyperparameters \['RBF.variance'\].*substitute\(prior, values",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name):
    call, sentence = REFUSED[name]
    with handlers.seed(rng_seed=0), pytest.raises(ValueError, match=sentence):
        call()
