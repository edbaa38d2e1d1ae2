"""Inside NumPyro: sites, handlers, NUTS, SVI, Predictive, chains."""

# NumPyro types its values as array-like or None, and its handlers as what they wrap.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportIndexIssue=false

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from helpers import few_of
from numpyro import handlers
from numpyro.infer import HMC, MCMC, NUTS, SVI, Predictive, Trace_ELBO
from numpyro.infer.autoguide import AutoDelta, AutoMultivariateNormal, AutoNormal
from numpyro.infer.util import log_density, potential_energy

from pyrox.gp import (
    RBF,
    DecoupledPathwiseSampler,
    DeltaGuide,
    FullRankGuide,
    GPPrior,
    Matern,
    MeanFieldGuide,
    SparseGPPrior,
    WhitenedGuide,
    gp_factor,
    gp_sample,
    paths_over_draws,
    sample_hyperparameters,
    site_names,
    substitute,
    svgp_factor,
)

pytestmark = [pytest.mark.numpyro, pytest.mark.usefixtures("plainly_compiled")]

RNG = np.random.default_rng(0)
X = np.linspace(-1.5, 1.5, 20)[:, None]
Y = np.sin(3 * X[:, 0]) + 0.15 * RNG.normal(size=20)
PRIORS = {
    "variance": dist.LogNormal(0.0, 0.5),
    "lengthscale": dist.LogNormal(-1.0, 0.5),
}
NAMES = {"RBF.variance", "RBF.lengthscale"}


def kernel():
    return RBF(1.0, 0.3).with_priors(**PRIORS)


def model(X=X, y=Y):
    noise = numpyro.sample("noise", dist.HalfNormal(0.3))
    gp_factor("obs", GPPrior(kernel(), X), y, noise**2)


def test_sites_and_values():
    trace = handlers.trace(handlers.seed(model, 0)).get_trace()
    assert list(trace) == ["noise", "RBF.variance", "RBF.lengthscale", "obs"]
    assert trace["obs"]["is_observed"]


def test_the_density_is_the_marginal_likelihood_and_the_priors(x64):
    values = {"noise": 0.2, "RBF.variance": 1.1, "RBF.lengthscale": 0.4}
    total, _ = log_density(model, (), {}, values)
    given = substitute(GPPrior(kernel(), X), {n: values[n] for n in NAMES})
    expected = (
        given.log_marginal_likelihood(Y, 0.04)
        + dist.HalfNormal(0.3).log_prob(0.2)
        + PRIORS["variance"].log_prob(1.1)
        + PRIORS["lengthscale"].log_prob(0.4)
    )
    np.testing.assert_allclose(total, expected, rtol=1e-10)


def test_gp_factor_returns_the_resolved_prior():
    with handlers.substitute(data={"RBF.variance": 2.0, "RBF.lengthscale": 0.5}):
        prior = gp_factor("obs", GPPrior(kernel(), X), Y, 0.1)
    assert prior.kernel.priors == ()
    assert (float(prior.kernel.variance), float(prior.kernel.lengthscale)) == (2.0, 0.5)


def test_a_number_is_a_number():
    def constants():
        gp_factor("obs", GPPrior(RBF(1.0, 0.3), X), Y, 0.1)

    assert list(handlers.trace(constants).get_trace()) == ["obs"]


@pytest.mark.parametrize("handler", ["seed", "substitute", "condition", "scope"])
def test_handlers(handler):
    values = {"noise": 0.2, "RBF.variance": 1.1, "RBF.lengthscale": 0.4}
    wrapped = {
        "seed": lambda m: handlers.seed(m, 1),
        "substitute": lambda m: handlers.substitute(m, data=values),
        "condition": lambda m: handlers.seed(handlers.condition(m, data=values), 0),
        "scope": lambda m: handlers.scope(handlers.seed(m, 0), prefix="site"),
    }[handler](model)
    trace = handlers.trace(wrapped).get_trace()
    prefix = "site/" if handler == "scope" else ""
    assert {f"{prefix}{n}" for n in (*NAMES, "noise", "obs")} == set(trace)
    assert trace[f"{prefix}RBF.variance"]["is_observed"] == (handler == "condition")
    if handler in ("substitute", "condition"):
        assert float(trace["RBF.lengthscale"]["value"]) == np.float32(0.4)


def test_the_posterior_is_resolved_once():
    """Two calls of one path give the same numbers, under a seed handler too."""
    with handlers.seed(rng_seed=0):
        exact = GPPrior(kernel(), X).condition(Y, 0.1)
        first, second = exact.predict_mean(X), exact.predict_mean(X)
        prior = SparseGPPrior(kernel(), X[::4])
        sampler = DecoupledPathwiseSampler(prior, WhitenedGuide.init(5), 16)
        paths = sampler.sample_paths(jax.random.key(0), 2)
        assert np.array_equal(paths(X), paths(X))
    assert np.array_equal(first, second)


def test_a_scalar_prior_covers_a_vector_of_lengthscales():
    wide = RBF(1.0, np.ones(3)).with_priors(lengthscale=dist.LogNormal(0.0, 1.0))
    with handlers.seed(rng_seed=0), handlers.trace() as trace:
        drawn = sample_hyperparameters(wide)
    site = trace["RBF.lengthscale"]["fn"]
    assert (site.batch_shape, site.event_shape) == ((), (3,))
    assert drawn.lengthscale.shape == (3,) and len(set(drawn.lengthscale.tolist())) == 3


def test_a_prior_of_a_hierarchy_may_be_traced():
    def hierarchical(y):
        centre = numpyro.sample("centre", dist.Normal(0.0, 1.0))
        warm = RBF().with_priors(lengthscale=dist.LogNormal(centre, 0.3))
        gp_factor("obs", GPPrior(warm, X), y, 0.1)

    energy = jax.jit(
        lambda c: potential_energy(
            hierarchical, (Y,), {}, {"centre": c, "RBF.lengthscale": jnp.array(0.0)}
        )
    )
    assert float(energy(0.0)) != float(energy(1.0))
    assert np.isfinite(jax.grad(energy)(0.5))


@pytest.mark.exhaustive
def test_nuts_recovers_known_hyperparameters(x64):
    """120 points from a known process: the 99.9% intervals hold the truth."""
    rng = np.random.default_rng(3)
    inputs = rng.uniform(0, 10, (120, 1))
    gaps = inputs - inputs.T
    covariance = 2.0 * np.exp(-0.5 * (gaps / 0.7) ** 2) + 0.05 * np.eye(120)
    values = np.linalg.cholesky(covariance) @ rng.normal(size=120)
    mcmc = MCMC(NUTS(model), num_warmup=200, num_samples=300, progress_bar=False)
    mcmc.run(jax.random.key(0), inputs, values)
    draws = mcmc.get_samples()
    truth = {"RBF.variance": 2.0, "RBF.lengthscale": 0.7, "noise": 0.05**0.5}
    for name, true in truth.items():
        low, high = np.quantile(draws[name], [0.0005, 0.9995])
        assert low < true < high, (name, low, true, high)
    assert draws["RBF.lengthscale"].std() < 0.1  # the data say something


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_proposal_that_breaks_the_factor_is_minus_infinity(dtype):
    with jax.enable_x64(dtype == "float64"):
        data = np.repeat(X, 3, axis=0)

        @jax.jit
        def density(log_ell, log_noise):
            prior = GPPrior(RBF(1.0, jnp.exp(log_ell)), data, jitter=0.0)
            return prior.log_marginal_likelihood(np.repeat(Y, 3), jnp.exp(log_noise))

        for proposal in [(-200.0, 0.0), (200.0, 0.0), (800.0, 0.0), (0.0, 800.0)]:
            value = density(*proposal)
            assert value == -np.inf or np.isfinite(value), proposal
        value, slopes = jax.value_and_grad(density, (0, 1))(50.0, -200.0)
        assert value == -np.inf and slopes == (0.0, 0.0)
        assert np.isfinite(density(-1.0, -3.0))


@pytest.mark.exhaustive
def test_float32_nuts_on_five_points_finishes_on_every_seed():
    nuts = NUTS(lambda: model(X[::4], Y[::4]))
    mcmc = MCMC(nuts, num_warmup=100, num_samples=50, progress_bar=False)

    @jax.jit  # one compilation for all seeds
    def run(key):
        mcmc.run(key)
        return mcmc.get_samples()

    for seed in range(20):
        draws = run(jax.random.key(seed))
        assert all(v.dtype == jnp.float32 for v in draws.values())
        assert all(np.isfinite(v).all() for v in draws.values()), seed
        assert all(v.std() > 0 for v in draws.values()), seed  # the chain walked


@pytest.mark.exhaustive
def test_hmc_several_chains_and_predictive():
    mcmc = MCMC(
        HMC(model, num_steps=5, trajectory_length=None),
        num_warmup=50,
        num_samples=40,
        num_chains=2,
        chain_method="vectorized",
        progress_bar=False,
    )
    mcmc.run(jax.random.key(0))
    draws = mcmc.get_samples(group_by_chain=True)
    assert all(v.shape == (2, 40) for v in draws.values())

    def forecast():
        noise = numpyro.sample("noise", dist.HalfNormal(0.3))
        prior = gp_factor("obs", GPPrior(kernel(), X), Y, noise**2)
        numpyro.deterministic("mean", prior.condition(Y, noise**2).predict_mean(X))

    predicted = Predictive(forecast, mcmc.get_samples())(jax.random.key(1))["mean"]
    assert predicted.shape == (80, 20)
    assert np.abs(predicted.mean(0) - Y).max() < 0.5


@pytest.mark.parametrize(
    "guide", few_of([AutoNormal, AutoDelta, AutoMultivariateNormal])
)
def test_svi_of_the_hyperparameters(guide):
    auto = guide(model)
    svi = SVI(model, auto, optax.adam(0.05), Trace_ELBO())
    result = svi.run(jax.random.key(0), 400, progress_bar=False)
    assert np.isfinite(result.losses).all()
    assert result.losses[-50:].mean() < result.losses[0]
    median = auto.median(result.params)
    assert set(median) == {*NAMES, "noise"}
    assert 0.2 < median["RBF.lengthscale"] < 1.2


GUIDES = {
    "FullRankGuide": FullRankGuide,
    "MeanFieldGuide": MeanFieldGuide,
    "WhitenedGuide": WhitenedGuide,
    "DeltaGuide": DeltaGuide,
}


@pytest.mark.parametrize("name", few_of(GUIDES))
def test_svi_trains_the_guide_the_inputs_and_the_hyperparameters_together(name, x64):
    guide, Z = GUIDES[name].init(7), np.linspace(-1.2, 1.2, 7)[:, None]

    def sparse_model():
        # Without the spread of q(u) the best lengthscale is far too long.
        ell = jnp.array(0.4)
        if name != "DeltaGuide":
            ell = numpyro.param("ell", 0.8, constraint=dist.constraints.positive)
        wide = RBF(init_lengthscale=ell).with_priors(variance=PRIORS["variance"])
        prior = SparseGPPrior(wide, Z=numpyro.param("Z", Z))
        return svgp_factor("obs", prior, guide, X, Y, 0.15**2)

    # A rate that falls: at a fixed one, two inducing inputs that come near each other
    # still throw the values about at the last step, as rounding has it.
    adam = optax.adam(optax.cosine_decay_schedule(0.02, 1500))
    svi = SVI(sparse_model, AutoDelta(sparse_model), adam, Trace_ELBO())
    result = svi.run(jax.random.key(0), 1500, progress_bar=False)
    params = {"ell": 0.4, **result.params}
    assert not np.allclose(params["Z"], Z) and abs(params["ell"] - 0.8) > 0.01
    trained = substitute(guide, {n: params[n] for n in site_names(guide)})
    prior = SparseGPPrior(RBF(1.0, params["ell"]), params["Z"])
    mean, _ = trained.predict(prior, X)
    assert np.sqrt(np.mean((mean - np.sin(3 * X[:, 0])) ** 2)) < 0.15
    # The same trained objects by NumPyro's own way.
    given = {**result.params, "RBF.variance": jnp.array(1.0)}
    with handlers.substitute(data=given):
        same_prior, same_guide = sparse_model()
    assert np.array_equal(same_guide.mean, trained.mean)
    assert np.array_equal(same_prior.Z, params["Z"])
    sampler = DecoupledPathwiseSampler(same_prior, same_guide, 256)
    paths = sampler.sample_paths(jax.random.key(1), 256)
    assert np.abs(paths(X).mean(0) - mean).max() < 0.15


def test_two_guides_of_one_model_need_names():
    def two():
        prior = SparseGPPrior(RBF(), X[:3])
        for i in range(2):
            guide = DeltaGuide.init(3, name=f"q{i}")
            svgp_factor(f"obs{i}", prior, guide, X, Y, 0.1)

    trace = handlers.trace(two).get_trace()
    assert [n for n in trace if trace[n]["type"] == "param"] == ["q0.mean", "q1.mean"]


@pytest.mark.parametrize("whitened", [True, False])
def test_latent_functions_have_the_prior_law(whitened, x64):
    """Whitened or not, f is N(mean, K + jitter I): checked through its density."""
    prior = GPPrior(RBF(1.0, 0.7), X[:4], mean_fn=lambda X: X[:, 0], jitter=1e-3)

    def latent():
        return gp_sample("f", prior, whitened=whitened)

    with handlers.seed(rng_seed=0):
        f = latent()
    K = np.asarray(prior.kernel(prior.X, prior.X)) + 1e-3 * np.eye(4)
    law = dist.MultivariateNormal(X[:4, 0], K)
    if not whitened:
        total, _ = log_density(latent, (), {}, {"f": f})
        np.testing.assert_allclose(total, law.log_prob(f), rtol=1e-9)
        return
    z = np.linalg.solve(np.linalg.cholesky(K), f - X[:4, 0])
    total, trace = log_density(latent, (), {}, {"f_whitened": z})
    np.testing.assert_allclose(trace["f"]["value"], f, rtol=1e-9)
    volume = np.linalg.slogdet(K)[1] / 2
    np.testing.assert_allclose(total - volume, law.log_prob(f), rtol=1e-9)


@pytest.mark.parametrize("whitened", [True, False])
def test_a_plate_holds_one_latent_function_for_each_element(whitened):
    def outputs():
        with numpyro.plate("outputs", 3):
            return gp_sample("f", GPPrior(Matern(1.5), X), whitened=whitened)

    f = handlers.seed(outputs, 0)()
    assert f.shape == (3, 20)
    assert np.abs(f[0] - f[1]).max() > 0.1


@pytest.mark.exhaustive
def test_a_latent_function_under_another_likelihood():
    counts = np.random.default_rng(0).poisson(np.exp(1 + np.sin(3 * X[:, 0])))

    def poisson():
        f = gp_sample("f", GPPrior(kernel(), X, mean_fn=lambda X: 1.0 + 0 * X[:, 0]))
        numpyro.sample("y", dist.Poisson(jnp.exp(f)), obs=counts)

    mcmc = MCMC(NUTS(poisson), num_warmup=150, num_samples=100, progress_bar=False)
    mcmc.run(jax.random.key(0))
    f = mcmc.get_samples()["f"]
    assert f.shape == (100, 20)
    assert np.corrcoef(f.mean(0), np.sin(3 * X[:, 0]))[0, 1] > 0.7


def test_a_broken_latent_prior_is_minus_infinity():
    def latent(ell):
        gp_sample("f", GPPrior(RBF(1.0, ell), X * 0, jitter=0.0))

    values = {"f_whitened": jnp.zeros(20)}
    density = jax.jit(lambda ell: log_density(latent, (ell,), {}, values)[0])
    assert density(1.0) == -np.inf


def test_paths_over_draws_equal_a_loop(x64):
    from pyrox.gp import PathwiseSampler

    prior = GPPrior(kernel(), X)
    draws = {
        "RBF.variance": np.linspace(0.8, 1.2, 5),
        "RBF.lengthscale": np.linspace(0.3, 0.5, 5),
        "noise": np.linspace(0.1, 0.2, 5),
    }

    def condition(draw):
        given = {n: draw[n] for n in site_names(prior)}
        return substitute(prior, given).condition(Y, draw["noise"] ** 2)

    key = jax.random.key(0)
    paths = paths_over_draws(key, draws, condition, 3, 32, batch_size=2)
    values = paths(X)
    assert values.shape == (5, 3, 20) and len(paths) == 5
    for b, k in enumerate(jax.random.split(key, 5)):
        exact = condition({n: v[b] for n, v in draws.items()})
        alone = PathwiseSampler(exact, 32).sample_paths(k, 3)
        np.testing.assert_allclose(values[b], alone(X), rtol=1e-8, atol=1e-9)
        np.testing.assert_allclose(paths[b](X), alone(X), rtol=1e-8, atol=1e-9)


def test_paths_over_draws_see_new_data_of_the_same_function():
    """The rule closes over data that its author may change: nothing stale is found."""
    data = {"y": Y}

    def condition(draw):
        return GPPrior(RBF(1.0, draw["ell"]), X).condition(data["y"], 0.01)

    args = (jax.random.key(0), {"ell": np.array([0.3])}, condition, 4, 64)
    before = paths_over_draws(*args)(X)
    data["y"] = Y + 5
    after = paths_over_draws(*args)(X)
    assert np.abs(after - before).min() > 3


@pytest.mark.exhaustive
def test_memory_over_many_draws_is_flat():
    """2000 draws of N = 60 at once would hold 2000 Gram matrices of 60 x 60."""
    data = np.linspace(0, 1, 60)[:, None]
    draws = {"ell": jnp.linspace(0.1, 1.0, 2000)}

    def condition(draw):
        return GPPrior(RBF(1.0, draw["ell"]), data).condition(np.sin(data[:, 0]), 0.1)

    def program(draws):
        return paths_over_draws(jax.random.key(0), draws, condition, 1, 8, batch_size=4)

    stats = jax.jit(program).lower(draws).compile().memory_analysis()
    all_grams = 2000 * 60 * 60 * 4
    assert stats is not None
    assert stats.temp_size_in_bytes < all_grams / 10


def test_paths_over_draws_take_data_as_arguments_of_jit():
    traces = []

    @jax.jit
    def values(key, draws, y):
        traces.append(None)

        def condition(draw):
            return GPPrior(RBF(1.0, draw["ell"]), X).condition(y, 0.01)

        return paths_over_draws(key, draws, condition, 2, 64)(X)

    draws, key = {"ell": np.linspace(0.3, 0.5, 3)}, jax.random.key(0)
    before, after = values(key, draws, Y), values(key, draws, Y + 5)
    assert before.shape == (3, 2, 20) and len(traces) == 1
    assert np.abs(after - before - 5).max() < 0.5
