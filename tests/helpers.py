"""The kernels that every contract is held to, and small tools for tests."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

from pyrox.gp import RBF, ActiveDims, Matern


def kernels(in_size: int) -> dict:
    """One of each base kernel and of each way to combine them, on `in_size` inputs."""
    ells = jnp.linspace(0.5, 0.9, in_size)
    long = RBF(0.8, 1.5 * ells, name="long")
    rough = Matern(1.5, 0.6, 0.7, name="rough")
    prior = dist.LogNormal(0.0, 0.3)
    return {
        "RBF": RBF(1.3, 0.6),
        "Matern12": Matern(0.5, 1.3, 0.6),
        "Matern32": Matern(1.5, 1.3, 0.6),
        "Matern52": Matern(2.5, 1.3, 0.6),
        "RBF-vector": RBF(1.3, ells),
        "Matern12-vector": Matern(0.5, 1.3, ells),
        "Matern32-vector": Matern(1.5, 1.3, ells),
        "Matern52-vector": Matern(2.5, 1.3, ells),
        "Sum": long + rough,
        "Product": long * rough,
        "Product-of-sums": (long + rough) * Matern(2.5, 1.0, 2.0, name="envelope"),
        "Scale": 2.5 * rough,
        "ActiveDims": ActiveDims(RBF(1.3, 0.6), (in_size - 1,)),
        "with-priors": RBF(1.3, 0.6).with_priors(variance=prior, lengthscale=prior),
    }


KERNELS = tuple(kernels(1))


def few_of(values, *quick, whole=False):
    """`values` as parameters of a test, of which `make test` takes the `quick` ones and
    `make test-all` takes all. A tuple is one value for each name, or `whole` one."""
    values = list(values)
    assert set(quick) <= set(values)

    def param(value):
        parts = value if isinstance(value, tuple) and not whole else (value,)
        return pytest.param(*parts, marks=() if value in quick else _EXHAUSTIVE)

    return [param(value) for value in values]


_EXHAUSTIVE = pytest.mark.exhaustive


def inputs(n: int, in_size: int, seed: int = 0, low: float = 0.0, high: float = 2.0):
    """Points of a fixed seed, uniform in a box, in the default float type."""
    return jnp.asarray(np.random.default_rng(seed).uniform(low, high, (n, in_size)))


def trees_equal(left, right) -> bool:
    """Whether two pytrees have the same structure and equal leaves."""
    if jax.tree.structure(left) != jax.tree.structure(right):
        return False
    pairs = zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


def central_difference(f, x, step: float = 1e-6):
    """The gradient of a scalar function at an array, one entry at a time, in NumPy."""
    x = np.asarray(x, float)
    gradient = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[index] += step
        down[index] -= step
        gradient[index] = (float(f(up)) - float(f(down))) / (2 * step)
    return gradient


@contextlib.contextmanager
def compilations():
    """A list that gains an entry for each program that XLA compiles meanwhile."""
    programs, listening = [], True

    def listen(event: str, duration_secs: float, **_: str | int):
        if listening and "backend_compile" in event:
            programs.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield programs
    finally:
        listening = False
        # JAX has had a way to take a listener off again for some versions only.
        remove = getattr(jax.monitoring, "unregister_event_duration_listener", None)
        if remove is not None:
            remove(listen)
