"""Latent functions in NumPyro models: draws of their prior or nothing, and chains that
go on after a wild proposal."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from helpers import few_of
from numpyro import handlers
from numpyro.infer import MCMC, NUTS, Predictive
from numpyro.infer.util import log_density

from pyrox.gp import (
    RBF,
    Cosine,
    GPPrior,
    Linear,
    Matern,
    Periodic,
    Polynomial,
    RationalQuadratic,
    SpectralMixture,
    gp_condition,
    gp_derivatives,
    gp_factor,
    gp_sample,
    sample_hyperparameters,
)
from pyrox.gp._posterior.jitter import jitter_variance

pytestmark = [pytest.mark.numpyro, pytest.mark.usefixtures("plainly_compiled")]

SMOOTH = {
    "RBF": lambda: RBF(25.0, 0.3),
    "RBF, long": lambda: RBF(0.01, 1.0),
    "RationalQuadratic": lambda: RationalQuadratic(1.0, 0.3, 2.0),
    "Periodic": lambda: Periodic(4.0, 1.0, 1.0),
    "Matern-7/2": lambda: Matern(3.5, 1.0, 0.5),
    "Matern-5/2": lambda: Matern(2.5, 1.0, 0.5),
    "Cosine": lambda: Cosine(1.0, 1.5),
    "SpectralMixture": lambda: SpectralMixture(
        np.ones(1), np.ones((1, 1)), np.full((1, 1), 0.5)
    ),
    "Linear": lambda: Linear(2.0),
    "Polynomial": lambda: Polynomial(3),
    "Sum": lambda: RBF(25.0, 0.5) + Linear(),
    "Product": lambda: Matern(2.5, 4.0, 1.0) * Periodic(1.0, 1.0, 1.0),
}


def roughness(kernel, X) -> float:
    """The size of the steps between neighbours over that of the values, of draws on
    these points: the square root of 2 for white noise."""
    drawn = Predictive(lambda: gp_sample("f", GPPrior(kernel, X)), num_samples=200)
    f = np.asarray(drawn(jax.random.key(0))["f"], float)
    return np.sqrt(np.mean(np.diff(f, axis=1) ** 2) / np.mean(f**2))


def roughness_by_the_kernel(kernel, X) -> float:
    """In float64, with the default jitter."""
    with jax.enable_x64(True):
        kernel = jax.tree.map(lambda leaf: leaf.astype("f8"), kernel)
        K = np.asarray(kernel(X.astype("f8"), X.astype("f8")))
    steps = np.diff(np.diff(K, axis=0), axis=1)
    jitter = float(jitter_variance(None, jnp.asarray(K, X.dtype)))
    return np.sqrt((np.diag(steps).mean() + 2 * jitter) / np.diag(K).mean())


@pytest.mark.parametrize("name", few_of(SMOOTH, "RBF"))
@pytest.mark.parametrize("n", few_of([20, 100, 200], 100))
def test_draws_of_a_smooth_prior_are_smooth(name, n, width):
    kernel, X = SMOOTH[name](), jnp.linspace(0, 1, n)[:, None]
    found, expected = roughness(kernel, X), roughness_by_the_kernel(kernel, X)
    assert 0.85 * expected < found < 1.15 * expected and expected < 0.5


BROKEN = jnp.array([[0.0], [0.0], [1.0]])


@pytest.mark.exhaustive
@pytest.mark.filterwarnings("ignore:`gp_sample`")
@pytest.mark.parametrize("whitened", [True, False])
def test_a_draw_from_a_prior_that_does_not_exist_is_nan(whitened):
    """And its density is minus infinity, with a gradient that is finite."""

    def model(variance):
        prior = GPPrior(RBF(variance, 0.5), BROKEN, jitter=0.0)
        f = gp_sample("f", prior, whitened)
        numpyro.sample("y", dist.Normal(f, 1.0).to_event(1), obs=jnp.zeros(3))

    drawn = Predictive(model, num_samples=4)(jax.random.key(0), jnp.array(1.0))
    values = [v for name, v in drawn.items() if name.startswith("f")]
    assert all(np.isnan(v).all() for v in values if v.ndim == 2)
    site = "f_whitened" if whitened else "f"

    def density(variance):
        return log_density(model, (variance,), {}, {site: jnp.ones(3)})[0]

    value, slope = jax.value_and_grad(density)(jnp.array(1.0))
    assert value == -jnp.inf and np.isfinite(slope)


def straight_slopes(variance):
    """Of a function that is straight to the last digit: all of them are one."""
    X = jnp.linspace(0.0, 1.0, 20)[:, None]
    prior = GPPrior(RBF(variance, 1e3), X[:2], jitter=0.0)
    gp_derivatives("slope", prior, jnp.zeros(2), 0.1, X, 0)


@pytest.mark.exhaustive
@pytest.mark.filterwarnings("ignore:`gp_derivatives`")
def test_slopes_of_a_prior_that_does_not_exist_are_nan():
    drawn = Predictive(straight_slopes, num_samples=4)
    assert np.isnan(drawn(jax.random.key(0), jnp.array(1.0))["slope"]).all()

    def density(variance):
        z = {"slope_whitened": jnp.ones(20)}
        return log_density(straight_slopes, (variance,), {}, z)[0]

    value, slope = jax.value_and_grad(density)(jnp.array(1.0))
    assert value == -jnp.inf and np.isfinite(slope)


@pytest.mark.exhaustive
def test_what_cannot_be_drawn_is_said():
    def values():
        return gp_sample("f", GPPrior(RBF(1.0, 0.5), BROKEN, jitter=0.0))

    def slopes():
        return straight_slopes(jnp.array(1.0))

    for model in (values, slopes):
        sentence = "not positive definite.*What is drawn is NaN"
        with pytest.warns(RuntimeWarning, match=sentence) as told:
            handlers.trace(handlers.seed(model, 0)).get_trace()
        assert len(told) == 1 and told[0].filename == __file__


@pytest.mark.exhaustive
def test_condition_in_a_model_names_what_goes_on():
    def model():
        noise_var = numpyro.sample("noise_var", dist.Normal(-1.0, 0.1))
        X = jnp.linspace(0, 1, 3)[:, None]
        mean = GPPrior(RBF(), X).condition(jnp.ones(3), noise_var).predict_mean(X)
        numpyro.sample("y", dist.Normal(mean, 1.0).to_event(1), obs=jnp.ones(3))

    def density(z):
        return log_density(model, (), {}, {"noise_var": z})[0]

    with pytest.raises(Exception, match="In a NumPyro model `gp_condition` makes it"):
        jax.jit(density)(jnp.array(-1.0)).block_until_ready()


def test_a_posterior_in_a_model_is_that_of_condition(x64):
    X, y = jnp.linspace(0, 1, 6)[:, None], jnp.sin(jnp.arange(6.0))
    kernel = RBF().with_priors(lengthscale=dist.LogNormal(0.0, 1.0))

    def model(noise):
        return gp_condition("post", GPPrior(kernel, X), y, noise)

    values = {"RBF.lengthscale": jnp.array(0.4)}
    seeded: Any = handlers.substitute(model, values)
    trace = handlers.trace(seeded).get_trace(0.1)
    assert list(trace) == ["RBF.lengthscale", "post"]
    assert trace["post"]["fn"].log_factor == 0
    direct = GPPrior(RBF(1.0, 0.4), X).condition(y, 0.1)
    np.testing.assert_allclose(
        seeded(0.1).predict_mean(X), direct.predict_mean(X), rtol=1e-12
    )


@pytest.mark.parametrize(
    "ell", few_of([1e30, 1e-38, np.inf, "nan", -1.0], 1e-38, "nan")
)
def test_a_wild_proposal_is_minus_infinity_or_finite_and_raises_nothing(ell):
    X, u = jnp.linspace(0, 1, 8)[:, None], jnp.ones(8)

    def density(ell):
        with handlers.trace() as trace:
            prior = GPPrior(RBF(1.0, ell), X, jitter=0.0)
            posterior = gp_condition("f", prior, u, jnp.abs(ell) * 1e-40)
        return trace["f"]["fn"].log_factor, jnp.sum(posterior.predict_mean(X + 0.1))

    found, mean = jax.jit(density)(jnp.float32(float(ell)))
    assert found in (0, -jnp.inf) and np.isfinite(mean)
    slope = jax.jit(jax.grad(lambda ell: density(ell)[1]))(jnp.float32(float(ell)))
    assert np.isfinite(slope) or found == 0


def test_a_factor_without_data_says_what_to_do():
    with pytest.raises(ValueError, match=r"gp_factor\('obs'.*Got None.*gp_sample"):
        gp_factor("obs", GPPrior(RBF(), BROKEN), None, 0.1)  # pyright: ignore


def test_latent_slopes_of_single_precision_are_finite():
    X = jnp.linspace(0, 1, 30)[:, None]
    prior = GPPrior(RBF(25.0, 0.3), X)
    with handlers.seed(rng_seed=0), handlers.trace() as trace:
        _, slopes = gp_derivatives("slope", prior, jnp.sin(3 * X[:, 0]), 0.01, X, 0)
    assert np.isfinite(slopes).all()
    assert np.isfinite(trace["slope_data"]["fn"].log_factor)


# --- Chains -------------------------------------------------------------------------


def poisson_model(X, Z, counts):
    """A latent process at inducing inputs, whose conditional mean is the rate."""
    wide = dist.LogNormal(0.0, 1.0)
    kernel = RBF().with_priors(variance=wide, lengthscale=wide)
    prior = sample_hyperparameters(GPPrior(kernel, Z))
    u = gp_sample("u", prior)
    rate = jnp.exp(gp_condition("f", prior, u, 1e-6).predict_mean(X))
    numpyro.sample("counts", dist.Poisson(rate).to_event(1), obs=counts)


@pytest.mark.exhaustive
def test_no_chain_is_killed_by_a_wild_proposal():
    X, Z = (np.linspace(0, 1, n, dtype=np.float32)[:, None] for n in (40, 8))
    counts = np.random.default_rng(1).poisson(np.exp(1 + np.sin(6 * X[:, 0])))
    mcmc = MCMC(
        NUTS(poisson_model, max_tree_depth=6),
        num_warmup=50,
        num_samples=20,
        progress_bar=False,
    )
    for seed in range(20):
        mcmc.run(jax.random.key(seed), X, Z, counts)
        draws = mcmc.get_samples()
        assert all(np.isfinite(values).all() for values in draws.values())
        assert np.ptp(draws["RBF.lengthscale"]) > 0


def by_quadrature(X, y):
    """Mean and deviation of the lengthscale, with f integrated out, in float64."""
    grid = np.exp(np.linspace(-4, 3, 300))
    gaps = (X - X.T).astype(float)
    logs = []
    for ell in grid:
        K = np.exp(-0.5 * (gaps / ell) ** 2) + 0.09 * np.eye(len(y))
        L = np.linalg.cholesky(K)
        white = np.linalg.solve(L, y.astype(float))
        log_prior = -0.5 * (np.log(ell) + 1) ** 2  # on the grid of log ell
        logs.append(-0.5 * white @ white - np.log(np.diag(L)).sum() + log_prior)
    weights = np.exp(np.array(logs) - max(logs))
    weights /= weights.sum()
    mean = weights @ grid
    return mean, np.sqrt(weights @ grid**2 - mean**2)


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("rate", "data", "n_seeds", "n_draws"), [(6, 0, 5, 400), (3, 3, 2, 800)]
)
def test_latent_values_in_single_precision_do_not_freeze_the_chain(
    rate, data, n_seeds, n_draws
):
    """100 latent values: with a jitter below what the type resolves the chain stood
    still, at a wrong lengthscale. Within .02 of quadrature, which is .269 and .045 for
    the first data, .495 and .122 for the second; of 200 to 400 effective draws the
    error is .007 at most."""
    X = np.linspace(0, 1, 100, dtype=np.float32)[:, None]
    noise = 0.3 * np.random.default_rng(data).normal(size=100)
    y = (np.sin(rate * X[:, 0]) + noise).astype(np.float32)

    def model():
        kernel = RBF().with_priors(lengthscale=dist.LogNormal(-1.0, 1.0))
        f = gp_sample("f", GPPrior(kernel, X))
        numpyro.sample("y", dist.Normal(f, 0.3).to_event(1), obs=y)

    expected = by_quadrature(X, y)
    mcmc = MCMC(NUTS(model), num_warmup=200, num_samples=n_draws, progress_bar=False)
    for seed in range(n_seeds):
        mcmc.run(jax.random.key(seed))
        ell = np.asarray(mcmc.get_samples()["RBF.lengthscale"], float)
        assert abs(ell.mean() - expected[0]) < 0.02
        assert abs(ell.std() - expected[1]) < 0.02


def test_values_noted_without_noise_are_predicted_in_single_precision():
    X = np.linspace(0, 1, 50, dtype=np.float32)[:, None]
    f = np.sin(6 * X[:, 0])
    query = X[:-1] + 0.5 * (X[1] - X[0])
    with pytest.warns(RuntimeWarning, match="noise_var=6e-05 at least, also for"):
        posterior = GPPrior(RBF(1.0, 0.3), X).condition(f, 1e-6)
    mean = posterior.predict_mean(query)
    assert np.abs(mean - np.sin(6 * query[:, 0])).max() < 0.01
