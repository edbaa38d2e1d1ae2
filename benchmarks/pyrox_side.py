"""The tasks in pyrox. Each function returns a call to time, and the feature error."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from pyrox.gp import (
    RBF,
    GPPrior,
    Matern,
    PathwiseFunction,
    PathwiseSampler,
    Sobol,
    paths_over_draws,
)

from . import contract
from .cases import JITTER, LENGTHSCALE, NOISE_VAR, Case, data


def prepare(case: Case) -> Callable[[], object]:
    if case.task == "draws":
        return _draws(case)
    X, y, X_query = map(jnp.asarray, data(case))
    posterior = GPPrior(_kernel(), X, jitter=JITTER).condition(y, NOISE_VAR)
    sampler = PathwiseSampler(posterior, case.n_features)
    key = jax.random.key(0)

    def draw() -> PathwiseFunction:
        return sampler.sample_paths(key, case.n_paths)

    if case.task == "draw":
        return lambda: jax.block_until_ready(draw())
    paths = draw()
    if case.task == "evaluate":
        return lambda: paths(X_query).block_until_ready()
    if case.task == "gradient_each":
        return lambda: paths.gradient(X_query).block_until_ready()
    slope = jax.jit(jax.grad(lambda X, paths: paths(X).sum()))
    return lambda: slope(X_query, paths).block_until_ready()


def _kernel() -> Matern:
    return Matern(2.5, 1.0, LENGTHSCALE)


def _draws(case: Case) -> Callable[[], object]:
    X, y, X_query = map(jnp.asarray, contract.data())
    draws = contract.draws()
    key = jax.random.key(2)

    def condition(draw):
        kernel = RBF(draw["variance"], draw["lengthscale"])
        return GPPrior(kernel, X, jitter=1e-6).condition(y, contract.NOISE_VAR)

    def call():
        size = case.n_paths, case.n_features
        return paths_over_draws(key, draws, condition, *size)(X_query)

    return lambda: call().block_until_ready()


def feature_error(case: Case) -> float:
    X = jnp.asarray(data(case)[0])[:500]
    key, sizes = jax.random.key(0), (case.n_features, case.in_size)
    phi = Sobol().features(key, _kernel(), *sizes)(X)  # the default of the sampler
    return float(jnp.sqrt(jnp.mean((phi @ phi.T - _kernel()(X, X)) ** 2)))
