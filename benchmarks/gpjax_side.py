"""The tasks in GPJax: `sample_approx`, jitted, which is its best."""

import warnings
from collections.abc import Callable

import gpjax as gpx
import jax
import jax.numpy as jnp

from .cases import JITTER, LENGTHSCALE, NOISE_VAR, Case, data


def prepare(case: Case) -> Callable[[], object]:
    X, y, X_query = map(jnp.asarray, data(case))
    posterior = _posterior(case, X, y)
    key = jax.random.key(0)

    def draw(key):
        return posterior.sample_approx(
            num_samples=case.n_paths, key=key, num_features=case.n_features // 2
        )

    if case.task == "draw":
        # A drawn function cannot leave `jit`; its value at one point can.
        drawn = jax.jit(lambda key: draw(key)(X_query[:1]))
        return lambda: drawn(key).block_until_ready()
    paths = draw(key)
    tasks = {
        "evaluate": paths,
        "gradient_sum": jax.grad(lambda X: paths(X).sum()),
        "gradient_each": jax.vmap(jax.jacfwd(lambda x: paths(x[None])[0])),
    }
    program = jax.jit(tasks[case.task])
    return lambda: program(X_query).block_until_ready()


def _kernel(in_size: int) -> gpx.kernels.Matern52:
    return gpx.kernels.Matern52(lengthscale=LENGTHSCALE, variance=1.0, n_dims=in_size)


def _posterior(case: Case, X: jax.Array, y: jax.Array):
    prior = gpx.gps.Prior(
        mean_function=gpx.mean_functions.Zero(),
        kernel=_kernel(case.in_size),
        jitter=JITTER,
    )
    noise = gpx.likelihoods.Gaussian(obs_stddev=jnp.asarray(NOISE_VAR**0.5, X.dtype))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it advises against float32
        return (prior * noise).condition(gpx.Dataset(X=X, y=y[:, None]))


def feature_error(case: Case) -> float:
    X = jnp.asarray(data(case)[0])[:500]
    kernel, m = _kernel(case.in_size), case.n_features // 2
    features = gpx.kernels.RFF(kernel, num_basis_fns=m, key=jax.random.key(0))
    phi = features.compute_features(X) / jnp.sqrt(m)
    exact = kernel.cross_covariance(X, X)
    return float(jnp.sqrt(jnp.mean((phi @ phi.T - exact) ** 2)))
