"""Minima in the unit box: closed forms, SciPy's L-BFGS-B, what must not matter."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize, rosen, rosen_der

from pyrox.gp._numerics import boxed


def descended(objective, points, tolerance=1e-8, most=200, rounding=1e-15):
    points = jnp.asarray(points)
    search = boxed.begin(points, jnp.full(len(points), rounding, points.dtype))
    return boxed.descend(objective, search, tolerance, most)


def quadratics(n=40, d=5, seed=0):
    """Convex, some of their minima far outside of the box."""
    rng = np.random.default_rng(seed)
    roots = rng.normal(size=(n, d, d))
    A = np.einsum("nij,nkj->nik", roots, roots) + 0.1 * np.eye(d)
    return A, rng.normal(0.5, 1.0, size=(n, d))


def of_quadratics(A, centres):
    def objective(x):
        gap = x - centres
        slope = jnp.einsum("nij,nj->ni", A, gap)
        return 0.5 * jnp.sum(gap * slope, axis=1), slope

    return objective


def test_quadratics_are_minimised_as_by_scipy(x64):
    A, centres = quadratics()
    found = descended(of_quadratics(A, centres), np.full(centres.shape, 0.3))
    assert (found.point >= 0).all() and (found.point <= 1).all()
    assert found.converged(1e-8).all()
    for a, c, x in zip(A, centres, np.asarray(found.point), strict=True):
        expected = minimize(
            lambda x, a=a, c=c: (0.5 * (x - c) @ a @ (x - c), a @ (x - c)),
            np.full(5, 0.3),
            jac=True,
            bounds=[(0, 1)] * 5,
            options={"ftol": 1e-15, "gtol": 1e-12},
        )
        assert np.allclose(x, expected.x, atol=1e-5)


@pytest.mark.exhaustive
def test_a_curved_valley(x64):
    """Rosenbrock's, in four inputs from -2 to 2."""

    def objective(unit):
        values = jax.vmap(lambda u: _rosenbrock(4 * u - 2))
        return values(unit), jax.vmap(jax.grad(lambda u: _rosenbrock(4 * u - 2)))(unit)

    starts = np.random.default_rng(1).uniform(size=(30, 4))
    found = descended(objective, starts, most=500)
    ends = np.asarray(4 * found.point - 2)
    slopes = np.array([rosen_der(x) for x in ends])
    left = np.clip(ends - slopes, -2, 2) - ends
    assert np.abs(left).max() < 1e-5
    assert min(rosen(x) for x in ends) < 1e-12


def _rosenbrock(x):
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


@pytest.mark.exhaustive
def test_a_search_does_not_depend_on_its_companions(x64):
    A, centres = quadratics()
    together = descended(of_quadratics(A, centres), np.full(centres.shape, 0.3))
    some = slice(3, 9)
    alone = descended(of_quadratics(A[some], centres[some]), np.full((6, 5), 0.3))
    assert np.allclose(alone.point, together.point[some], atol=1e-13)


@pytest.mark.exhaustive
def test_what_is_not_finite_is_stepped_back_from(x64):
    """A function that is NaN beyond .6, its lowest finite value at the edge."""

    def objective(x):
        value = jnp.where(x[:, 0] > 0.6, jnp.nan, -x[:, 0] + 0 * x[:, 0])
        return value, jnp.where(x > 0.6, jnp.nan, -jnp.ones_like(x))

    found = descended(objective, [[0.1], [0.9]], most=100)
    assert 0.5 < found.point[0, 0] <= 0.6
    assert found.stuck[1] and not found.converged(1e-8)[1]


@pytest.mark.exhaustive
def test_a_level_function_has_converged_where_it_began(x64):
    found = descended(lambda x: (jnp.ones(2), jnp.zeros_like(x)), np.full((2, 3), 0.4))
    assert found.converged(1e-8).all() and np.allclose(found.point, 0.4)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.exhaustive
def test_rounding_ends_a_search(x64, dtype):
    """Slopes that are noise: it stops, and says that it has converged."""
    noise = 1e-3

    def objective(x):
        wiggle = noise * jnp.sin(1e5 * x)
        value = jnp.sum((x - 0.5) ** 2 + 1e-3 * wiggle, axis=1)
        return value, 2 * (x - 0.5) + wiggle

    starts = np.linspace(0.1, 0.9, 8).reshape(4, 2).astype(dtype)
    found = descended(objective, starts, 1e-9, 200, 1e-5)
    assert np.abs(found.point - 0.5).max() < 1e-2
    assert found.converged(1e-9).all() and found.n_turns < 200
    assert found.point.dtype == dtype
