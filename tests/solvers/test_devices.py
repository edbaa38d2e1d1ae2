"""Products whose rows several devices share, against those of one.

What needs eight devices is measured, in float32, by one process that has as many
simulated ones: this file, run as a script.
"""

import functools
import json
import os
import pickle
import re
import subprocess
import sys
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from pyrox.gp import (
    ConjugateGradients,
    GPPrior,
    Matern,
    PathwiseSampler,
    StochasticDualDescent,
)
from pyrox.gp._solvers import products
from pyrox.gp._solvers.products import NoisyGram

N, COLUMNS, DEVICES = 1003, 4, 8  # eight do not divide N
KERNEL = Matern(2.5, 1.3, np.array([0.5, 0.7], np.float32))
SEEN = np.arange(N) % 7 != 2
NEAR = (
    "product",
    "masked, in blocks",
    "rows",
    "mean",
    "paths",
    "gradient",
    "descent",
    "pickled",
)


def uniform(n: int, seed: int, low: float = 0.0):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.uniform(low, low + 2, (n, 2)), jnp.float32)


def multiplied(mesh: Mesh | None) -> dict:
    X, V = uniform(N, 0), jnp.asarray(uniform(N, 1) @ uniform(COLUMNS, 2).T)
    noise = jnp.full(N, 0.05, jnp.float32)
    A = NoisyGram(KERNEL, X, noise, mesh=mesh)
    masked = NoisyGram(KERNEL, X, noise, jnp.asarray(SEEN), mesh)
    compiled = jax.jit(lambda A, V: A(V)).lower(A, V).compile()
    memory = compiled.memory_analysis()
    assert memory is not None
    with mock.patch.object(products, "_BLOCK_BYTES", 4 * N * 20):
        several = masked(V)
    return {
        "product": compiled(A, V),
        "masked, in blocks": several,
        "pickled": pickle.loads(pickle.dumps(masked))(V),
        "rows": masked.rows_times(jnp.arange(0, 130, 10), V),
        "bytes": memory.temp_size_in_bytes,
    }


def answers(mesh: Mesh | None) -> dict:
    X, near, far = uniform(N, 0), uniform(50, 1), uniform(50, 1, low=0.7)
    y = jnp.sin(4 * X[:, 0]) + X[:, 1]

    def posterior(scales, solver):
        return GPPrior(Matern(2.5, 1.3, scales), X).condition(y, 0.1, solver=solver)

    solver = ConjugateGradients(3e-5, rank=64, mesh=mesh, progress=False)
    descent = StochasticDualDescent(0.05, mesh=mesh, progress=False)

    def loss(scales):
        # Beyond the data, where the lengthscales matter: within them its slope is
        # the rounding of float32, on one device, too.
        return jnp.sum(posterior(scales, solver).predict_mean(far) ** 2)

    scales = jnp.array([0.5, 0.7], jnp.float32)
    compiled = jax.jit(jax.grad(loss)).lower(scales).compile()
    shapes = re.findall(r"f32\[([\d,]+)\]", compiled.as_text() or "")
    given = posterior(scales, solver)
    paths = PathwiseSampler(given, 256).sample_paths(jax.random.key(0), COLUMNS)
    return {
        "mean": given.predict_mean(near),
        "paths": paths(near),
        "gradient": compiled(scales),
        "descent": posterior(scales, descent).predict_mean(near),
        "largest": max(map(size, shapes)),
    }


def size(dimensions: str) -> int:
    return int(np.prod([int(d) for d in dimensions.split(",")]))


def measure() -> None:
    """Every answer by eight devices, its distance from that by one, relative to the
    size of this; what is a number alone, from both."""
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    jax.config.update("jax_numpy_rank_promotion", "raise")
    mesh = jax.make_mesh((2, 4), ("nodes", "cards"))
    meshes = None, ConjugateGradients(mesh=mesh).mesh
    one, many = map(multiplied, meshes)
    # Many programs, each run once: what they compute is what counts here.
    jax.config.update("jax_disable_most_optimizations", True)
    for found, mesh in zip((one, many), meshes, strict=True):
        found |= answers(mesh)
    found: dict[str, Any] = {"devices": jax.device_count()}
    for name, want in one.items():
        if name in NEAR:
            off = np.asarray(many[name]) - np.asarray(want)
            found[name] = float(np.linalg.norm(off) / np.linalg.norm(want))
        else:
            found[name] = want, many[name]
    print(json.dumps(found))


@functools.cache
def measured() -> dict:
    flags = f"--xla_force_host_platform_device_count={DEVICES}"
    done = subprocess.run(
        [sys.executable, __file__],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", NEAR)
def test_eight_devices_say_what_one_does(name):
    assert measured()["devices"] == DEVICES
    assert measured()[name] <= 1e-4


@pytest.mark.exhaustive
def test_a_device_holds_its_rows_alone():
    """Of K in a product, by what the compiler says of its memory: an eighth, and what
    is as long as the data and as wide as the product. Of the gradient of a posterior
    no array is larger than a device's rows of K; on one device it is all of them."""
    rows, columns = -(-N // DEVICES), 4 * N * COLUMNS
    one, many = measured()["bytes"]
    assert one >= 4 * N * N and many <= 4 * N * rows + 4 * columns
    one, many = measured()["largest"]
    assert one >= N * N and many <= N * rows


@pytest.mark.exhaustive
def test_one_device_is_a_mesh_too_and_no_mesh_is_pickled(x64):
    X = jnp.linspace(0, 1, 30)[:, None]
    shared = ConjugateGradients(1e-8, mesh=jax.make_mesh((1, 1), ("a", "b")))
    pickled = pickle.loads(pickle.dumps(shared))
    assert shared.mesh is not None and pickled.mesh is None
    posteriors = [
        GPPrior(Matern(2.5), X).condition(jnp.sin(6 * X[:, 0]), 0.1, solver=solver)
        for solver in (ConjugateGradients(1e-8), shared, pickled)
    ]
    want, *found = (p.predict_mean(X[:5] + 0.01) for p in posteriors)
    for got in found:
        np.testing.assert_allclose(got, want, rtol=1e-6)


@pytest.mark.parametrize("solver", [ConjugateGradients, StochasticDualDescent])
@pytest.mark.parametrize("mesh", [8, jax.devices(), Mesh(np.array([]), ("a",))])
def test_what_is_no_mesh_is_a_sentence(solver, mesh):
    name = solver.__name__
    with pytest.raises(ValueError, match=rf"`{name}\(mesh=.*Got .*jax\.make_mesh"):
        solver(mesh=mesh)


if __name__ == "__main__":
    measure()
