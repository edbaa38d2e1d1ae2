"""Level sets: crossings, probabilities, Vorob'ev's set, volumes; by brute force."""

# Wrong arguments are passed on purpose.
# pyright: reportArgumentType=false

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import central_difference
from scipy import optimize, stats

from pyrox.gp import (
    RBF,
    GPPrior,
    PathwiseSampler,
    contour_uncertainty,
    crossings,
    excursion_probability,
    excursion_volume,
    vorobev_expectation,
)

pytestmark = pytest.mark.usefixtures("plainly_compiled")

X = np.linspace(0, 3, 6)[:, None]
Y = np.array([1.0, -1.0, 0.5, 0.4, -0.8, 0.3])
BOUNDS = np.array([[0.0], [3.0]])
GRID = np.linspace(0, 3, 31)[:, None]


def posterior(y=Y, dtype=float):
    return GPPrior(RBF(1.0, 0.3), X.astype(dtype)).condition(y, 0.05)


def drawn(n=6, y=Y):
    return PathwiseSampler(posterior(y), 128).sample_paths(jax.random.key(0), n)


def brute(paths, level, n=20_001):
    """Roots of each path by SciPy between neighbours of a fine grid."""
    x = np.linspace(0, 3, n)
    values = np.asarray(paths(x[:, None])) - level
    at = jax.jit(lambda t: paths(t[None, None])[:, 0])
    return [
        [
            optimize.brentq(
                lambda t, s=s: float(at(t)[s]) - level, x[i], x[i + 1], xtol=1e-15
            )
            for i in np.flatnonzero((f[1:] >= 0) != (f[:-1] >= 0))
        ]
        for s, f in enumerate(values)
    ]


@pytest.mark.exhaustive
def test_crossings_are_those_of_brentq(x64):
    paths = drawn()
    found = crossings(paths, 0.2, BOUNDS)
    assert not np.asarray(found.more).any()
    for i, wanted in enumerate(brute(paths, 0.2)):
        assert int(found.count[i]) == len(wanted) > 0
        own = np.asarray(found.X[i])
        first = own[: len(wanted)]
        np.testing.assert_allclose(first, np.array(wanted), rtol=0, atol=4e-15)
        assert np.isnan(own[len(wanted) :]).all()


@pytest.mark.exhaustive
def test_crossings_of_float32_are_within_its_rounding():
    paths = PathwiseSampler(posterior(dtype=np.float32), 128).sample_paths(
        jax.random.key(0), 6
    )
    found = crossings(paths, 0.2, jnp.asarray(BOUNDS, jnp.float32))
    assert found.X.dtype == jnp.float32
    kept = np.asarray(found.X)
    heights = np.asarray(paths.each(jnp.nan_to_num(found.X)[:, :, None])) - 0.2
    assert np.abs(heights[~np.isnan(kept)]).max() < 2e-5


@pytest.mark.exhaustive
def test_crossings_say_where_there_may_be_more(x64):
    paths = drawn()
    all_of_them = crossings(paths, 0.2, BOUNDS)
    few = crossings(paths, 0.2, BOUNDS, max_crossings=1)
    np.testing.assert_array_equal(few.count, all_of_them.count)
    np.testing.assert_array_equal(few.more, np.asarray(few.count) > 1)
    np.testing.assert_allclose(few.X[:, 0], all_of_them.X[:, 0], atol=4e-15)
    # A grid of cells as long as a hump does not see it, and says so.
    coarse = crossings(paths, 0.2, BOUNDS, n_grid=4)
    missed = np.asarray(coarse.count) < np.asarray(all_of_them.count)
    assert missed.any() and np.asarray(coarse.more)[missed].mean() > 0.5
    none = crossings(paths, 50.0, BOUNDS)
    assert int(none.count.sum()) == 0 and np.isnan(none.X).all()


@pytest.mark.exhaustive
def test_crossings_have_the_derivatives_of_the_implicit_function_theorem(x64):
    def first(level):
        return crossings(drawn(), level, BOUNDS).X[:, 0]

    x = np.asarray(first(0.2))
    slopes = np.diagonal(np.asarray(drawn().gradient(x[:, None]))[:, :, 0])
    forward = jax.jit(jax.jacfwd(first))(0.2)
    np.testing.assert_allclose(forward, 1 / slopes, rtol=1e-9)

    def by_data(scale):
        return crossings(drawn(y=scale * jnp.asarray(Y)), 0.2, BOUNDS).X[0, 0]

    slope = jax.grad(by_data)(1.0)
    np.testing.assert_allclose(slope, central_difference(by_data, 1.0), rtol=1e-6)
    many = jax.vmap(lambda level: crossings(drawn(), level, BOUNDS).X)(
        jnp.array([0.2, 0.3])
    )
    np.testing.assert_allclose(many[0][:, 0], x, atol=1e-14)


def agrees(share, chance, n, sds=4.5):
    """Shares of n paths against probabilities: with 31 places, each a false alarm in
    150,000, one in 5,000 in all."""
    error = np.sqrt(np.maximum(chance * (1 - chance), 1e-3) / n)
    return (np.abs(share - chance) < sds * error).all()


def test_probabilities_are_normal_tails_and_shares_of_paths(x64):
    f = posterior()
    mean, var = f.predict(GRID)
    wanted = stats.norm.sf(0.2, mean, np.sqrt(var))
    found = excursion_probability(f, GRID, 0.2)
    np.testing.assert_allclose(found, wanted, atol=1e-14)
    below = excursion_probability(f, GRID, 0.2, above=False)
    np.testing.assert_allclose(found + below, 1, atol=1e-14)
    np.testing.assert_allclose(
        contour_uncertainty(f, GRID, 0.2), wanted * (1 - wanted), atol=1e-14
    )
    paths = PathwiseSampler(f, 512).sample_paths(jax.random.key(1), 4000)
    share = np.asarray(excursion_probability(paths, GRID, 0.2))
    assert agrees(share, wanted, 4000)
    assert not agrees(np.asarray(excursion_probability(paths, GRID, 0.3)), wanted, 4000)
    slope = jax.jit(jax.grad(lambda t: excursion_probability(f, GRID, t).sum()))(0.2)
    density = -stats.norm.pdf(0.2, mean, np.sqrt(var)).sum()
    np.testing.assert_allclose(slope, density, rtol=1e-10)


def test_the_set_of_vorobev_is_the_best_of_its_volume(x64):
    """Of all 2^10 sets of ten points with as many points."""
    points = GRID[::3][:10]
    paths = PathwiseSampler(posterior(), 256).sample_paths(jax.random.key(1), 200)
    found = vorobev_expectation(paths, points, 0.1)
    above = np.asarray(paths(points)) > 0.1
    np.testing.assert_allclose(found.probability, above.mean(0), atol=1e-14)
    np.testing.assert_allclose(found.expected_volume, above.mean(), atol=1e-14)
    inside = np.asarray(found.inside)

    def deviation(chosen):
        return (above ^ chosen).mean()  # of the weight 1 / 10 each

    np.testing.assert_allclose(found.deviation, deviation(inside), atol=1e-14)
    sets = np.array(list(itertools.product([False, True], repeat=10)))
    sets = sets[sets.sum(1) == inside.sum()]
    least = min(deviation(chosen) for chosen in sets)
    np.testing.assert_allclose(found.deviation, least, atol=1e-14)
    # The least volume of its kind that is not below the mean volume.
    assert found.volume >= found.expected_volume - 1e-12
    smaller = np.asarray(found.probability) > float(found.threshold)
    assert smaller.mean() < float(found.expected_volume)
    np.testing.assert_allclose(found.volume, inside.mean(), atol=1e-14)


@pytest.mark.exhaustive
def test_weights_are_volumes(x64):
    weights = np.linspace(0.5, 1.5, 31)
    f = posterior()
    found = vorobev_expectation(f, GRID, 0.1, weights=weights)
    chance = np.asarray(excursion_probability(f, GRID, 0.1))
    np.testing.assert_allclose(found.expected_volume, weights @ chance, rtol=1e-13)
    inside = np.asarray(found.inside)
    wanted = weights @ np.where(inside, 1 - chance, chance)
    np.testing.assert_allclose(found.deviation, wanted, rtol=1e-13)
    paths = drawn(300)
    volume = excursion_volume(paths, GRID, 0.1, weights=weights)
    by_hand = (np.asarray(paths(GRID)) > 0.1) @ weights
    np.testing.assert_allclose(volume.samples, by_hand, rtol=1e-13)
    below = excursion_volume(paths, GRID, 0.1, weights=weights, above=False)
    np.testing.assert_allclose(below.value + volume.value, weights.sum(), rtol=1e-12)
    share = jax.jit(lambda t: excursion_volume(paths, GRID, t).value)(0.1)
    np.testing.assert_allclose(share, (np.asarray(paths(GRID)) > 0.1).mean(), 1e-12)


def test_a_certain_function_is_above_or_not():
    f = GPPrior(RBF(1.0, 0.3), jnp.zeros((1, 1))).condition(jnp.ones(1), 1e-3)
    far = excursion_probability(f, jnp.zeros((1, 1)), -5.0)
    assert far.dtype == jnp.float32 and float(far[0]) == 1


@pytest.mark.exhaustive
def test_wrong_arguments_get_a_sentence_of_level_sets():
    flat = GPPrior(RBF(), np.zeros((1, 2)))
    two = PathwiseSampler(flat, 64).sample_paths(jax.random.key(0), 2)
    with pytest.raises(ValueError, match="functions of one input"):
        crossings(two, 0.0, BOUNDS)
    with pytest.raises(ValueError, match="must be one number"):
        crossings(drawn(), [0.0, 1.0], BOUNDS)
    with pytest.raises(ValueError, match="inside the domain"):
        crossings(drawn(), 0.0, [[-99.0], [99.0]])
    with pytest.raises(ValueError, match="must be finite"):
        excursion_probability(posterior(), GRID, np.nan)
    with pytest.raises(ValueError, match="must be a ConditionedGP"):
        excursion_probability(RBF(), GRID, 0.0)
    with pytest.raises(ValueError, match="not below zero"):
        excursion_volume(drawn(), GRID, 0.0, weights=-1.0)
    with pytest.raises(ValueError, match="must have shape"):
        vorobev_expectation(posterior(), GRID, 0.0, weights=[1.0, 2.0])
