"""The whole line, end to end, as a NumPyro author writes it."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.infer import MCMC, NUTS

from pyrox.gp import (
    RBF,
    DecoupledPathwiseSampler,
    FullRankGuide,
    GPPrior,
    PathwiseSampler,
    SparseGPPrior,
    gp_factor,
)

pytestmark = [pytest.mark.numpyro, pytest.mark.exhaustive]

N, NOISE = 24, 0.12**2
GRID = np.linspace(-2, 2, 60)[:, None]


@pytest.fixture(autouse=True)
def double(x64):
    """All of it in double precision."""


@pytest.fixture
def data():
    X = jnp.linspace(-1.5, 1.5, N)[:, None]
    noise = 0.12 * np.random.default_rng(5).normal(size=N)
    return X, jnp.cos(2 * X[:, 0]) + noise


def condition(data, variance, lengthscale):
    kernel = RBF(init_variance=variance, init_lengthscale=lengthscale)
    return GPPrior(kernel=kernel, X=data[0], jitter=1e-6).condition(data[1], NOISE)


def test_fixed_hyperparameters(data):
    posterior = condition(data, 1.0, 0.4)
    paths = PathwiseSampler(posterior, n_features=1024).sample_paths(
        jax.random.PRNGKey(0), n_paths=4000
    )
    draws = np.asarray(paths(GRID))
    assert draws.shape == (4000, 60)
    halves = np.concatenate([paths(GRID[:23]), paths(GRID[23:])], axis=1)
    np.testing.assert_allclose(draws, halves, atol=1e-10)
    # The mean over paths is exact whatever the features: 6 standard errors, a false
    # alarm in 10^7 runs.
    mean, var = posterior.predict(GRID)
    z = (draws.mean(0) - mean) / np.sqrt(draws.var(0) / 4000)
    assert np.abs(z).max() < 6
    assert np.abs(draws.std(0) - np.sqrt(var)).max() < 0.1


def test_unknown_hyperparameters(data):
    def model(X, y, noise_var):
        kernel = RBF(init_variance=1.0, init_lengthscale=0.3)
        kernel.set_prior("variance", dist.LogNormal(0.0, 0.3))
        kernel.set_prior("lengthscale", dist.LogNormal(jnp.log(0.5), 0.3))
        gp_factor("obs", GPPrior(kernel=kernel, X=X, jitter=1e-4), y, noise_var)

    nuts = NUTS(model, target_accept_prob=0.95)
    mcmc = MCMC(nuts, num_warmup=100, num_samples=20, progress_bar=False)
    mcmc.run(jax.random.PRNGKey(1), *data, NOISE)
    hyper = mcmc.get_samples()
    assert {n: v.shape for n, v in hyper.items()} == {
        "RBF.variance": (20,),
        "RBF.lengthscale": (20,),
    }
    keys = jax.random.split(jax.random.PRNGKey(2), 20)

    def draw_paths(variance, lengthscale, key):
        posterior = condition(data, variance, lengthscale)
        return PathwiseSampler(posterior, n_features=64).sample_paths(key, n_paths=3)(
            GRID
        )

    batched = jax.jit(jax.vmap(draw_paths))(*hyper.values(), keys)
    assert batched.shape == (20, 3, 60)
    rows = zip(*hyper.values(), keys, strict=True)
    for row, (variance, lengthscale, key) in zip(batched[:3], rows, strict=False):
        by_hand = draw_paths(float(variance), float(lengthscale), key)
        np.testing.assert_allclose(row, by_hand, atol=1e-6)


def test_sparse_posterior_with_the_closed_form_guide(data):
    X, y = data
    Z, kernel = jnp.linspace(-1.8, 1.8, 10)[:, None], RBF(1.0, 0.4)
    K_xx = kernel(X, X) + NOISE * jnp.eye(N)
    K_zx, K_zz = kernel(Z, X), kernel(Z, Z) + 1e-6 * jnp.eye(10)
    mean = K_zx @ jnp.linalg.solve(K_xx, y)
    cov = K_zz - K_zx @ jnp.linalg.solve(K_xx, K_zx.T)
    guide = FullRankGuide(mean=mean, scale_tril=jnp.linalg.cholesky(cov))
    with handlers.seed(rng_seed=7):
        paths = DecoupledPathwiseSampler(
            SparseGPPrior(kernel=kernel, Z=Z, jitter=1e-6), guide, n_features=1024
        ).sample_paths(jax.random.PRNGKey(5), n_paths=4000)
    draws = np.asarray(paths(GRID[::4]))
    expected = kernel(jnp.asarray(GRID[::4]), Z) @ jnp.linalg.solve(K_zz, mean)
    z = (draws.mean(0) - expected) / np.sqrt(draws.var(0) / 4000)
    assert np.abs(z).max() < 6


def test_what_callable_draws_are_for(data):
    paths = PathwiseSampler(condition(data, 1.0, 0.4), 64).sample_paths(
        jax.random.PRNGKey(0), n_paths=16
    )
    best = jnp.min(data[1])

    def improvement(x):
        values = paths(x[None, :]).squeeze(-1)
        return jnp.mean(jnp.clip(best - values, min=0.0))

    x, step = jnp.array([1.55]), 1e-5
    difference = (improvement(x + step) - improvement(x - step)) / (2 * step)
    np.testing.assert_allclose(jax.grad(improvement)(x)[0], difference, rtol=1e-4)
    at_data = jax.grad(lambda x: paths(x[None, :]).sum())(data[0][3])
    assert np.isfinite(at_data).all()
