"""`optimize_paths` against dense search, closed forms and SciPy; its derivatives."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import few_of
from scipy.optimize import minimize

from pyrox.gp import (
    RBF,
    FourierGrid,
    GPPrior,
    Linear,
    Matern,
    PathwiseSampler,
    Periodic,
    optimize_paths,
    paths_over_draws,
    substitute,
)
from pyrox.gp._decisions.box import as_box
from pyrox.gp._decisions.constrained import settle
from pyrox.gp._decisions.merit import Target, spreads
from pyrox.gp._decisions.race import in_groups
from pyrox.gp._paths.path import bare

# What is computed, not how fast: and most of the time here is XLA's.
pytestmark = pytest.mark.usefixtures("plainly_compiled")

KEY = jax.random.key(0)
HARD: dict[str, Any] = {"n_candidates": 512, "n_starts": 32}


def data(d, n=30, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.uniform(size=(n, d))
    return X, np.sin(5 * X).sum(axis=1)


def drawn(kernel, d, n_paths=6, seed=0, basis: Any = "sobol", values=lambda y: y):
    X, y = data(d, seed=seed)
    y = values(y)
    posterior = GPPrior(kernel, X).condition(y, 1e-3)
    sampler = PathwiseSampler(posterior, 128, basis)
    return sampler.sample_paths(jax.random.key(seed), n_paths)


def unit(d):
    return np.array([np.zeros(d), np.ones(d)])


def grid_of(side):
    return np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)


KERNELS = {
    "RBF": lambda: RBF(1.0, 0.3),
    "Matern-5/2": lambda: Matern(2.5, 1.0, 0.4),
    "Matern-3/2": lambda: Matern(1.5, 1.0, 0.4),
    "sum": lambda: RBF(1.0, 0.3) + 0.5 * Linear(),
    "product": lambda: RBF(1.0, 0.5) * Periodic(1.0, 1.0, 0.7),
}


@pytest.mark.parametrize("name", few_of(KERNELS))
def test_no_point_of_a_dense_grid_is_better(x64, name):
    paths = drawn(KERNELS[name](), 2)
    values = np.asarray(paths(grid_of(np.linspace(0, 1, 101))))
    for maximize in (False, True):
        sign = -1 if maximize else 1
        found = optimize_paths(KEY, paths, unit(2), maximize=maximize, **HARD)
        assert (sign * found.values <= (sign * values).min(axis=1) + 1e-9).all()
        assert found.converged.all() and found.feasible.all()
        own = paths.each(np.asarray(found.X)[:, None])[:, 0]
        assert np.allclose(found.values, own, atol=1e-9)


@pytest.mark.exhaustive
def test_slopes_vanish_inside_and_lead_out_at_a_bound(x64):
    paths = drawn(KERNELS["RBF"](), 2, n_paths=16)
    found = optimize_paths(KEY, paths, unit(2), **HARD)
    X = np.asarray(found.X)
    slopes = np.stack([paths.gradient(x[None])[s, 0] for s, x in enumerate(X)])
    held = np.asarray(found.at_bound)
    assert held.any() and not held.all()
    assert np.abs(slopes[~held]).max() < 1e-5
    assert (X[held] == np.round(X[held])).all()
    assert (slopes[held] * (1 - 2 * X[held]) > -1e-5).all()


def test_every_start_has_a_group_and_every_group_a_place_in_the_pool():
    for n_starts in range(1, 3000):
        n_groups, size = in_groups(n_starts)
        assert n_groups * size >= n_starts and 1 <= n_groups <= size <= n_starts


@pytest.mark.exhaustive
def test_units_of_inputs_and_values_do_not_matter(x64):
    X, y = data(2)
    scale = np.array([1e6, 1e-6])
    results = []
    for a, s, shift in ((np.ones(2), 1.0, 0.0), (scale, 1e5, 1e3)):
        prior = GPPrior(RBF(s**2, 0.3 * a), (X + shift) * a)
        posterior = prior.condition(s * y, 1e-3 * s**2)
        paths = PathwiseSampler(posterior, 64, "iid").sample_paths(KEY, 4)
        found = optimize_paths(KEY, paths, (unit(2) + shift) * a, **HARD)
        results.append((np.asarray(found.X) / a - shift, found.values / s))
    assert np.allclose(results[0][0], results[1][0], atol=1e-5)
    assert np.allclose(results[0][1], results[1][1], atol=1e-6)


@pytest.mark.exhaustive
def test_float32_is_near_float64():
    X, y = data(2)
    found = {}
    with jax.enable_x64(True):
        posterior = GPPrior(RBF(1.0, 0.3), X).condition(y, 1e-2)
        paths = PathwiseSampler(posterior, 128, "iid").sample_paths(KEY, 4)
        found[64] = optimize_paths(KEY, paths, unit(2), **HARD)
    narrow = paths.astype(jnp.float32)
    box = jnp.asarray(unit(2), jnp.float32)
    found[32] = optimize_paths(KEY, narrow, box, **HARD)
    assert found[32].X.dtype == jnp.float32 and found[64].X.dtype == jnp.float64
    assert found[32].converged.all()
    assert np.allclose(found[32].values, found[64].values, atol=1e-3)


@pytest.mark.exhaustive
def test_a_path_does_not_depend_on_the_others(x64):
    paths = drawn(KERNELS["Matern-5/2"](), 2, n_paths=70)
    box = unit(2)
    whole = optimize_paths(KEY, paths, box, progress=False, **HARD)
    for i in (0, 33, 69):
        alone = optimize_paths(KEY, paths[i], box, **HARD)
        assert np.allclose(alone.values[0], whole.values[i], atol=1e-8)
        assert np.allclose(alone.X[0], whole.X[i], atol=1e-5)


@pytest.mark.exhaustive
def test_the_data_and_points_included_are_starts(x64):
    """A dip too narrow for candidates, at a datum, and one that the caller knows."""
    X = np.array([[0.3, 0.7], [0.8, 0.2]])
    posterior = GPPrior(RBF(1.0, 0.01), X).condition(np.array([-50.0, -80.0]), 1e-4)
    paths = PathwiseSampler(posterior, 64, "iid").sample_paths(KEY, 3)
    found = optimize_paths(KEY, paths, unit(2), n_candidates=8, n_starts=8)
    assert np.allclose(found.X, X[1], atol=1e-2) and (found.values < -79).all()
    there = np.array([[0.6, 0.6]])
    dip = GPPrior(RBF(1.0, 0.01), X, mean_fn=_dip).condition(np.zeros(2), 1e-4)
    paths = PathwiseSampler(dip, 64, "iid").sample_paths(KEY, 3)
    few: dict[str, Any] = {"n_candidates": 8, "n_starts": 8}
    assert (optimize_paths(KEY, paths, unit(2), **few).values > -20).all()
    told = optimize_paths(KEY, paths, unit(2), include=there, **few)
    assert (told.values < -90).all()


def _dip(X):
    return -100 * jnp.exp(-1e6 * jnp.sum((X - 0.6) ** 2, axis=1))


@pytest.mark.exhaustive
def test_jit_and_vmap_give_the_same(x64):
    paths, box = drawn(KERNELS["RBF"](), 2, n_paths=4), unit(2)
    found = optimize_paths(KEY, paths, box, **HARD)
    traced = jax.jit(lambda p, b: optimize_paths(KEY, p, b, **HARD))(paths, box)
    assert np.allclose(found.values, traced.values, atol=1e-8)
    assert np.allclose(found.X, traced.X, atol=1e-5)
    stacked = jax.tree.map(lambda *x: jnp.stack(x), paths[:2], paths[2:])
    both = jax.vmap(lambda p: optimize_paths(KEY, p, box, **HARD))(stacked)
    assert np.allclose(both.values.reshape(-1), found.values, atol=1e-8)


@pytest.mark.exhaustive
def test_an_ensemble_is_its_paths_one_draw_after_the_other(x64):
    X, y = data(2)
    prior = GPPrior(RBF(1.0, 0.3), X)
    draws = {"RBF.lengthscale": jnp.array([0.25, 0.3, 0.4])}

    def condition(draw):
        return substitute(prior, draw).condition(y, 1e-2)

    paths = paths_over_draws(KEY, draws, condition, 2, 64)
    found = optimize_paths(KEY, paths, unit(2), **HARD)
    alone = optimize_paths(KEY, paths[1], unit(2), **HARD)
    assert found.X.shape == (6, 2)
    assert np.allclose(found.values[2:4], alone.values, atol=1e-8)


# --- Derivatives --------------------------------------------------------------------


def _optimum(y, lengthscale, which):
    X, _ = data(2, n=12)
    posterior = GPPrior(RBF(1.0, lengthscale), X).condition(y, 1e-2)
    sampler = PathwiseSampler(posterior, 64, FourierGrid((-1.0, 2.0)))
    paths = sampler.sample_paths(KEY, 3)
    found = optimize_paths(KEY, paths, unit(2), **HARD)
    weights = jnp.arange(1.0, 4.0)
    return jnp.sum(weights @ getattr(found, which))


@pytest.mark.parametrize("which", ["values", "X"])
@pytest.mark.exhaustive
def test_derivatives_are_those_of_differences(x64, which):
    y = data(2, n=12)[1]
    at = jnp.asarray(y), jnp.asarray(0.35)
    slopes = jax.grad(_optimum, (0, 1))(*at, which)
    assert all(np.isfinite(slope).all() for slope in slopes)
    rng, h = np.random.default_rng(0), 1e-4
    way = jnp.asarray(rng.normal(size=12)), jnp.asarray(rng.normal())
    ends = [
        _optimum(at[0] + t * way[0], at[1] + t * 0.1 * way[1], which) for t in (h, -h)
    ]
    expected = (ends[0] - ends[1]) / (2 * h)
    ours = slopes[0] @ way[0] + slopes[1] * 0.1 * way[1]
    assert np.allclose(ours, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.exhaustive
def test_derivatives_where_a_constraint_holds_the_optimum(x64):
    """Optimum and constraint both move with the data that they were drawn with."""
    X, y = data(2, n=12)

    def optimum(y, which):
        prior = GPPrior(RBF(1.0, 0.35), X)
        paths, other = (
            PathwiseSampler(prior.condition(v, 1e-2), 64, "iid").sample_paths(KEY, 2)
            for v in (y, 0.3 - 0.5 * y)
        )
        found = optimize_paths(KEY, paths, unit(2), constraints=[other], **HARD)
        above = other.each(found.X[:, None])[:, 0]
        return jnp.sum(jnp.arange(1.0, 3.0) @ getattr(found, which)), (found, above)

    y = jnp.asarray(y)
    (_, (found, above)), slope = jax.value_and_grad(optimum, has_aux=True)(y, "values")
    assert (abs(above) < 1e-4).any() and found.feasible.all()
    way = jnp.asarray(np.random.default_rng(0).normal(size=12))
    for which in ("values", "X"):
        slope = jax.grad(optimum, has_aux=True)(y, which)[0]
        ends = [optimum(y + h * way, which)[0] for h in (1e-4, -1e-4)]
        assert np.allclose(
            slope @ way, (ends[0] - ends[1]) / 2e-4, rtol=2e-2, atol=1e-3
        )


# --- Constraints --------------------------------------------------------------------


@pytest.mark.exhaustive
def test_the_constrained_optimum_is_that_of_scipy(x64):
    """Of a constraint that is above zero where the path is low, so that it counts."""
    paths = drawn(KERNELS["RBF"](), 2, 12)
    other = drawn(KERNELS["Matern-5/2"](), 2, 12, values=lambda y: -0.2 - y)
    hard: dict[str, Any] = {"n_candidates": 1024, "n_starts": 64}
    found = optimize_paths(KEY, paths, unit(2), constraints=[other], **hard)
    above = np.asarray(other.each(np.asarray(found.X)[:, None])[:, 0])
    assert found.feasible.all() and (above <= 0).all() and found.converged.all()
    assert (above > -1e-4).mean() > 0.5
    grid = grid_of(np.linspace(0, 1, 101))
    values, held = np.asarray(paths(grid)), np.asarray(other(grid)) <= 0
    for s in range(len(paths)):
        best = np.where(held[s], values[s], np.inf).min()
        assert found.values[s] <= best + 1e-6
        start = np.asarray(found.X[s])
        local = minimize(
            lambda x, s=s: float(paths[s](x[None])[0, 0]),
            start,
            jac=lambda x, s=s: np.asarray(paths[s].gradient(x[None])[0, 0]),
            bounds=[(0, 1)] * 2,
            constraints={
                "type": "ineq",
                "fun": lambda x, s=s: -float(other[s](x[None])[0, 0]),
                "jac": lambda x, s=s: -np.asarray(other[s].gradient(x[None])[0, 0]),
            },
            method="SLSQP",
        )
        assert found.values[s] <= local.fun + 1e-4


@pytest.mark.exhaustive
def test_what_settles_is_where_the_constraint_holds(x64):
    """To the last digit, wherever it is within reach."""
    paths = drawn(KERNELS["RBF"](), 2, 12)
    other = drawn(KERNELS["Matern-5/2"](), 2, 12, values=lambda y: -0.2 - y)
    box = as_box("settle", unit(2), 2)
    target = Target(
        paths=bare(paths), constraints=(bare(other),), box=box, maximize=False
    )
    scales = spreads(target.at_all(jnp.asarray(grid_of(np.linspace(0, 1, 11)))))
    starts = jnp.asarray(np.random.default_rng(0).uniform(size=(12, 8, 2)))
    _, _, values = settle(target, scales, starts, 1e-7, jnp.zeros(12))
    near = values.violation < 1e-4
    assert near.mean() > 0.8 and (values.violation[near] == 0).all()


@pytest.mark.exhaustive
def test_without_slopes_it_is_the_best_candidate(x64):
    def no_slope(X):
        return jnp.sqrt(0 * X[:, 0]) + jnp.sum((X - 0.5) ** 2, axis=1)

    prior = GPPrior(RBF(1e-12, 0.3), np.zeros((1, 2)), mean_fn=no_slope)
    paths = PathwiseSampler(prior, 16, "iid").sample_paths(KEY, 2)
    found = optimize_paths(KEY, paths, unit(2), **HARD)
    assert not found.converged.any() and (found.values < 5e-3).all()


@pytest.mark.exhaustive
def test_no_feasible_point_gives_the_least_violation(x64):
    paths, other = drawn(KERNELS["RBF"](), 1), drawn(KERNELS["RBF"](), 1, seed=1)
    X, _ = data(1)
    level = GPPrior(RBF(1.0, 0.3), X, mean_fn=lambda X: 100 + 5 * X[:, 0])
    other = PathwiseSampler(level, 64, "iid").sample_paths(KEY, 6)
    found = optimize_paths(KEY, paths, unit(1), constraints=[other], **HARD)
    grid = np.linspace(0, 1, 2001)[:, None]
    least = np.asarray(other(grid)).min(axis=1)
    assert not found.feasible.any()
    assert np.allclose(found.violation, least, rtol=1e-3)


# --- Choices and whole numbers --------------------------------------------------------


def test_choices_are_compared_exactly(x64):
    paths, other = drawn(KERNELS["RBF"](), 2), drawn(KERNELS["RBF"](), 2, seed=1)
    choices = np.random.default_rng(3).uniform(size=(10_001, 2))
    found = optimize_paths(KEY, paths, choices=choices)
    rows = np.asarray(found.choice)
    values = np.asarray(paths(choices))
    assert (rows == values.argmin(axis=1)).all()
    assert np.allclose(found.values, values.min(axis=1), atol=1e-10)
    held = np.asarray(other(choices)) <= 0
    found = optimize_paths(KEY, paths, choices=choices, constraints=[other])
    rows = np.asarray(found.choice)
    assert (rows == np.where(held, values, np.inf).argmin(axis=1)).all()


@pytest.mark.exhaustive
def test_whole_numbers_are_searched_as_such(x64):
    X, y = data(2)
    X = X * np.array([10.0, 1.0])
    posterior = GPPrior(RBF(1.0, np.array([2.0, 0.3])), X).condition(y, 1e-3)
    paths = PathwiseSampler(posterior, 128, "iid").sample_paths(KEY, 6)
    box = np.array([[0.4, 0.0], [9.7, 1.0]])
    found = optimize_paths(KEY, paths, box, integers=(0,), **HARD)
    whole = np.asarray(found.X[:, 0])
    assert (
        (whole == np.round(whole)).all() and (1 <= whole).all() and (whole <= 9).all()
    )
    fine = np.linspace(0, 1, 501)
    for s in range(6):
        grid = np.array([[k, x] for k in range(1, 10) for x in fine])
        assert found.values[s] <= np.asarray(paths[s](grid)).min() + 1e-9


@pytest.mark.exhaustive
def test_whole_numbers_move_to_better_neighbours(x64):
    """From one candidate, wherever it is, down a bowl."""

    def bowl(X):
        return jnp.sum((X - jnp.array([[13.0, 0.3]])) ** 2, axis=1)

    prior = GPPrior(RBF(1e-6, 1.0), np.zeros((1, 2)), mean_fn=bowl)
    paths = PathwiseSampler(prior, 16, "iid").sample_paths(KEY, 2)
    box = np.array([[0.0, 0.0], [30.0, 1.0]])
    found = optimize_paths(KEY, paths, box, integers=(0,), n_candidates=1, n_starts=1)
    assert np.allclose(found.X, [13.0, 0.3], atol=1e-2)


# --- Bad input ------------------------------------------------------------------------

WRONG: dict[str, Any] = {"maximize": 1}
BAD = {
    "must have shape (2, 2)": lambda p: optimize_paths(KEY, p, unit(3)),
    "below the upper": lambda p: optimize_paths(KEY, p, unit(2)[::-1]),
    "Got 0.5 to 0.5": lambda p: optimize_paths(
        KEY, p, np.array([[0.0, 0.5], [1.0, 0.5]])
    ),
    "must be finite": lambda p: optimize_paths(
        KEY, p, np.array([[0.0, 0.0], [1.0, np.inf]])
    ),
    "to choose from. Got neither": lambda p: optimize_paths(KEY, p),
    "Got both": lambda p: optimize_paths(KEY, p, unit(2), choices=unit(2)),
    "at least one row": lambda p: optimize_paths(KEY, p, choices=np.zeros((0, 2))),
    "hold a whole number": lambda p: optimize_paths(
        KEY, p, np.array([[0.2, 0.0], [0.8, 1.0]]), integers=(0,)
    ),
    "numbers of inputs": lambda p: optimize_paths(KEY, p, unit(2), integers=(2,)),
    "must be True or False": lambda p: optimize_paths(KEY, p, unit(2), **WRONG),
    "must be a PathwiseFunction": lambda p: optimize_paths(KEY, p.kernel, unit(2)),
    "each as many as": lambda p: optimize_paths(KEY, p, unit(2), constraints=[p[:2]]),
    "at most the number of candidates": lambda p: optimize_paths(
        KEY, p, unit(2), n_candidates=4, n_starts=5
    ),
    "must have shape (N, 2)": lambda p: optimize_paths(
        KEY, p, unit(2), include=np.zeros((3, 1))
    ),
}


@pytest.mark.parametrize("sentence", BAD)
def test_bad_input_is_a_sentence(sentence):
    paths = drawn(KERNELS["RBF"](), 2)
    with pytest.raises(ValueError) as error:
        BAD[sentence](paths)
    assert sentence in str(error.value)


def test_bounds_beyond_the_domain_of_the_paths_are_a_sentence():
    paths = drawn(KERNELS["RBF"](), 2, basis=FourierGrid((-0.5, 1.5)))
    with pytest.raises(ValueError, match="bounds=.*inside the domain"):
        optimize_paths(KEY, paths, 2 * unit(2))


@pytest.mark.exhaustive
def test_traced_bounds_are_checked_when_the_program_runs():
    paths = drawn(KERNELS["RBF"](), 1)
    run = jax.jit(lambda b: optimize_paths(KEY, paths, b, **HARD).values)
    with pytest.raises(Exception, match="below the upper"):
        run(unit(1)[::-1]).block_until_ready()
