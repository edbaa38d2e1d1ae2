"""The data of the workflow that pyrox is held to: 28 points, 120 draws, 200 queries.

Its rivals there are the loop that a notebook user writes, one draw at a time, and one
jitted `vmap` in plain JAX with XLA's own sine and cosine.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from pyrox.gp import RBF, GPPrior, PathwiseSampler

from .cases import Case

NOISE_VAR, N_DRAWS = 0.15**2, 120


def data() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    X = np.linspace(-1.5, 1.5, 28)[:, None]
    noise = 0.15 * np.random.default_rng(42).normal(size=28)
    y = np.sin(3 * X[:, 0]) + 0.3 * np.cos(11 * X[:, 0]) + noise
    return X, y, np.linspace(-2.0, 2.0, 200)[:, None]


def draws() -> dict[str, jax.Array]:
    """Hyperparameters with the moments that NUTS gives there."""
    rng = np.random.default_rng(1)
    return {
        "variance": jnp.asarray(rng.lognormal(0.0, 0.25, N_DRAWS)),
        "lengthscale": jnp.asarray(0.2245 * rng.lognormal(0.0, 0.1, N_DRAWS)),
    }


def loop(case: Case) -> Callable[[], object]:
    X, y, X_query = map(jnp.asarray, data())
    hyper, keys = draws(), jax.random.split(jax.random.key(2), N_DRAWS)

    def one(variance, lengthscale, key):
        kernel = RBF(float(variance), float(lengthscale))
        posterior = GPPrior(kernel, X, jitter=1e-6).condition(y, NOISE_VAR)
        sampler = PathwiseSampler(posterior, case.n_features)
        return sampler.sample_paths(key, case.n_paths)(X_query)

    def call():
        each = zip(hyper["variance"], hyper["lengthscale"], keys, strict=True)
        return jnp.stack([one(*draw) for draw in each])

    return lambda: call().block_until_ready()


def plain_vmap(case: Case) -> Callable[[], object]:
    X, y, X_query = map(jnp.asarray, data())
    hyper, keys = draws(), jax.random.split(jax.random.key(2), N_DRAWS)
    m = case.n_features // 2

    def one(variance, lengthscale, key):
        def gram(A, B):
            return variance * jnp.exp(-0.5 * ((A - B.T) / lengthscale) ** 2)

        def features(A):
            angles = A @ frequencies.T
            waves = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=1)
            return jnp.sqrt(variance / m) * waves

        key_frequencies, key_weights, key_noise = jax.random.split(key, 3)
        frequencies = jax.random.normal(key_frequencies, (m, 1)) / lengthscale
        weights = jax.random.normal(key_weights, (2 * m, case.n_paths))
        noise = jax.random.normal(key_noise, (X.shape[0], case.n_paths))
        total = NOISE_VAR + 1e-6
        factor = jnp.linalg.cholesky(gram(X, X) + total * jnp.eye(X.shape[0]))
        residual = y[:, None] - features(X) @ weights - jnp.sqrt(total) * noise
        update = jax.scipy.linalg.cho_solve((factor, True), residual)
        return (features(X_query) @ weights + gram(X_query, X) @ update).T

    program = jax.jit(jax.vmap(one))
    args = (hyper["variance"], hyper["lengthscale"], keys)
    return lambda: program(*args).block_until_ready()
