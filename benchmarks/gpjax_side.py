"""The tasks in GPJax: `sample_approx`, jitted, which is its best."""

import functools
import math
import time
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

import equinox as eqx
import gpjax as gpx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from .cases import JITTER, LENGTHSCALE, NOISE_VAR, Case, data

if TYPE_CHECKING:  # a worker that times GPJax loads nothing of ours
    from .accuracy_problem import Problem


def prepare(case: Case) -> Callable[[], object]:
    X, y, X_query = map(jnp.asarray, data(case))
    posterior = _posterior(_kernel(case.in_size), X, y, NOISE_VAR, JITTER)
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


def _posterior(
    kernel: gpx.kernels.AbstractKernel,
    X: jax.Array,
    y: jax.Array,
    noise_var: float,
    jitter: float,
):
    prior = gpx.gps.Prior(
        mean_function=gpx.mean_functions.Zero(), kernel=kernel, jitter=jitter
    )
    noise = gpx.likelihoods.Gaussian(obs_stddev=jnp.asarray(noise_var**0.5, X.dtype))
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


def _kernel_of(problem: "Problem") -> gpx.kernels.AbstractKernel:
    kernels = gpx.kernels
    by_nu = {2.5: kernels.Matern52, 1.5: kernels.Matern32, 0.5: kernels.Matern12}
    kind = kernels.RBF if problem.nu is None else by_nu[problem.nu]
    sizes = {"lengthscale": problem.lengthscale, "n_dims": problem.in_size}
    return kind(variance=1.0, **sizes)


@functools.partial(jax.jit, static_argnames=("problem", "n_columns"))
def _features(
    key: jax.Array, inputs: jax.Array, problem: "Problem", n_columns: int
) -> jax.Array:
    m = n_columns // 2
    rff = gpx.kernels.RFF(_kernel_of(problem), num_basis_fns=m, key=key)
    return rff.compute_features(inputs) / m**0.5


def features(problem: "Problem", n_columns: int, seed: int) -> np.ndarray:
    """What `sample_approx` multiplies with its weights."""
    inputs = jnp.asarray(problem.inputs)
    return np.asarray(_features(jax.random.key(seed), inputs, problem, n_columns))


def paths(
    problem: "Problem", n_columns: int, n_paths: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """The features of drawn functions, by the key that they come from, and their values
    at the test points."""
    inputs, y = jnp.asarray(problem.inputs), jnp.asarray(problem.y)
    X, X_test = inputs[: problem.n], inputs[problem.n :]
    model = _kernel_of(problem), X, y, problem.noise_var, 0.0
    key = jax.random.key(seed)
    drawn = _posterior(*model).sample_approx(
        num_samples=n_paths, key=key, num_features=n_columns // 2
    )
    phi = _features(jax.random.split(key, 3)[0], inputs, problem, n_columns)
    return np.asarray(phi), np.asarray(drawn(X_test)).T


def fitted(
    X: np.ndarray,
    y: np.ndarray,
    start: dict[str, np.ndarray],
    jitter: float,
    method: str,
    seconds: float,
) -> tuple[dict[str, np.ndarray], dict]:
    """The hyperparameters that a fit reaches in at least `seconds`, unless it stops by
    itself, and how long it took."""
    data = gpx.Dataset(X=jnp.asarray(X), y=jnp.asarray(y)[:, None])
    kernel = gpx.kernels.RBF(
        lengthscale=jnp.asarray(start["lengthscale"]),
        variance=jnp.asarray(start["variance"]),
        n_dims=X.shape[1],
    )
    zero = gpx.mean_functions.Zero()
    noise = gpx.likelihoods.Gaussian(obs_stddev=jnp.sqrt(start["noise_var"]))
    model = gpx.gps.Prior(mean_function=zero, kernel=kernel, jitter=jitter) * noise

    def loss(model, data):
        return -gpx.objectives.conjugate_mll(model, data)

    task = {"model": model, "objective": loss, "train_data": data}
    fits = {
        "adam": lambda n: gpx.fit(
            **task, optim=optax.adam(0.1), num_iters=n, verbose=False
        ),
        "lbfgs": lambda n: gpx.fit_lbfgs(**task, max_iters=n),
        "scipy": lambda n: gpx.fit_scipy(**task, max_iters=n, verbose=False),
    }
    gradient = eqx.filter_jit(eqx.filter_grad(loss))
    jax.block_until_ready(gradient(model, data))
    began = time.perf_counter()
    jax.block_until_ready(gradient(model, data))
    a_step = (time.perf_counter() - began) * (2 if method == "scipy" else 1)
    for _ in range(3):  # an estimate first, then what it took
        n_steps = math.ceil(1.1 * seconds / a_step)
        began = time.perf_counter()
        found, history = jax.block_until_ready(fits[method](n_steps))
        took = time.perf_counter() - began
        stopped = method == "scipy" and len(history) <= n_steps
        if took >= seconds or stopped:
            break
        a_step = took / n_steps
    if method == "scipy":
        n_steps = len(history) - 1
    values = {
        "variance": np.asarray(found.prior.kernel.variance.unwrap()),
        "lengthscale": np.asarray(found.prior.kernel.lengthscale.unwrap()),
        "noise_var": np.asarray(found.likelihood.obs_stddev.unwrap()) ** 2,
    }
    return values, {"seconds": took, "n_steps": n_steps}
