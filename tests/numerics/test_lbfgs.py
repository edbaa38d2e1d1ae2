"""The search by itself, on functions of which the minimum is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyrox.gp._numerics.lbfgs import advance, begin

pytestmark = pytest.mark.usefixtures("plainly_compiled")


def test_a_curved_valley(x64):
    """Rosenbrock's function of six inputs, refused where the first is above 1.5."""

    def valley(u):
        value = jnp.sum(100 * (u[1:] - u[:-1] ** 2) ** 2 + (1 - u[:-1]) ** 2)
        return jnp.where(u[0] < 1.5, value, jnp.inf)

    go = jax.jit(lambda s, n: advance(valley, s, jnp.asarray(1e-9), n))
    start = begin(jnp.full(6, -1.2))
    done = go(start, jnp.asarray(500))
    assert np.allclose(done.point, 1, atol=1e-6) and not done.stuck
    assert 0 < done.n_steps < 100
    # Stopped and resumed it is the same search.
    resumed = go(go(start, jnp.asarray(20)), jnp.asarray(500))
    assert np.array_equal(resumed.point, done.point)
    nowhere = go(begin(jnp.full(6, 2.0)), jnp.asarray(500))
    assert nowhere.stuck and nowhere.n_steps == -1


def test_values_that_are_not_numbers_are_stepped_back_from(x64):
    seen = []

    def barrier(u):  # its minimum is at 1; below 0 it is NaN
        value = u[0] - jnp.log(u[0])
        jax.debug.callback(lambda x: seen.append(float(x)), value)
        return value

    start, tolerance, most = begin(jnp.full(1, 50.0)), jnp.asarray(1e-9), 100
    done = jax.jit(lambda s: advance(barrier, s, tolerance, jnp.asarray(most)))(start)
    jax.effects_barrier()
    assert abs(done.point[0] - 1) < 1e-8 and not done.stuck
    assert np.isnan(seen).any() and len(seen) < 60
