"""From an empty process to the first values of 64 posterior functions, in one library.

Section 1 of the workflow that pyrox is held to: condition, draw, evaluate, in float64.
Timed from outside, interpreter and imports included.
"""

import sys
from collections.abc import Callable


def in_pyrox() -> None:
    import jax

    jax.config.update("jax_enable_x64", True)
    import jax.numpy as jnp

    from pyrox.gp import RBF, GPPrior, PathwiseSampler

    X, y, X_query = _data()
    kernel = RBF(init_variance=1.0, init_lengthscale=0.3)
    posterior = GPPrior(kernel, X=jnp.asarray(X), jitter=1e-6).condition(y, 0.15**2)
    paths = PathwiseSampler(posterior, 1024).sample_paths(jax.random.key(0), 64)
    assert paths(X_query).block_until_ready().shape == (64, 200)


def in_gpjax() -> None:
    import jax

    jax.config.update("jax_enable_x64", True)
    import gpjax as gpx
    import jax.numpy as jnp

    X, y, X_query = map(jnp.asarray, _data())
    kernel = gpx.kernels.RBF(lengthscale=0.3, variance=1.0, n_dims=1)
    prior = gpx.gps.Prior(mean_function=gpx.mean_functions.Zero(), kernel=kernel)
    noise = gpx.likelihoods.Gaussian(obs_stddev=jnp.asarray(0.15))
    posterior = (prior * noise).condition(gpx.Dataset(X=X, y=y[:, None]))
    paths = posterior.sample_approx(64, jax.random.key(0), num_features=512)
    assert paths(X_query).block_until_ready().shape == (200, 64)


def in_botorch() -> None:
    import torch
    from botorch.models import SingleTaskGP
    from botorch.sampling.pathwise import draw_matheron_paths
    from gpytorch.kernels import RBFKernel

    X, y, X_query = map(torch.as_tensor, _data())
    noise = torch.full_like(y[:, None], 0.15**2)
    kernel = RBFKernel().to(X)
    kernel.lengthscale = 0.3
    model = SingleTaskGP(
        X, y[:, None], noise, covar_module=kernel, outcome_transform=None
    )
    paths = draw_matheron_paths(model.eval(), torch.Size([64]))
    with torch.no_grad():
        assert paths(X_query).shape == (64, 200)


def _data():
    import numpy as np

    X = np.linspace(-1.5, 1.5, 28)[:, None]
    noise = 0.15 * np.random.default_rng(42).normal(size=28)
    return X, np.sin(3 * X[:, 0]) + noise, np.linspace(-2, 2, 200)[:, None]


LIBRARIES: dict[str, Callable[[], None]] = {
    "pyrox": in_pyrox,
    "gpjax": in_gpjax,
    "botorch": in_botorch,
}

if __name__ == "__main__":
    LIBRARIES[sys.argv[1]]()
