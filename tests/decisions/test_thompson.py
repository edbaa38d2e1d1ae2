"""The loop of decisions: asked, told, kept, resumed."""

import io
import pickle

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from helpers import few_of

from pyrox.gp import RBF, ConstantMean, GPPrior, Matern, ThompsonSampling, fit

pytestmark = pytest.mark.usefixtures("plainly_compiled")

BOUNDS = np.array([[-1.0, 10.0], [1.0, 30.0]])
NOISE = dist.LogNormal(-4.0, 1.0)


def bowl(X):
    X = np.asarray(X)
    return 5 + 100 * ((X[:, 0] - 0.2) ** 2 + ((X[:, 1] - 17) / 10) ** 2)


def kernel():
    scales = dist.LogNormal(jnp.log(jnp.array([1.0, 10.0])), 1.0)
    made = Matern(2.5, init_lengthscale=jnp.array([1.0, 10.0]))
    return made.with_priors(lengthscale=scales)


def study_of(**changed):
    settings = {"noise_prior": NOISE, "batch_size": 2, "n_features": 256}
    settings |= {"n_candidates": 256, "n_starts": 8} | changed
    return ThompsonSampling(kernel(), BOUNDS, **settings)


# One for all tests, so that its programs are compiled once.
STUDY = study_of()


def first_data(seed=0, n=6):
    unit = np.random.default_rng(seed).random((n, 2))
    X = BOUNDS[0] + unit * (BOUNDS[1] - BOUNDS[0])
    X = X.astype(np.float32)
    return X, bowl(X).astype(np.float32)


def rounds(state, seed, n, study=STUDY, measure=bowl):
    for key in jax.random.split(jax.random.key(seed), n):
        X, state = study.ask(key, state)
        state = study.tell(state, X, measure(X))
    return state


def scale(state):
    assert isinstance(state.kernel, Matern)
    return state.kernel.lengthscale


def same(one, other):
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(np.array_equal(a, b, equal_nan=True) for a, b in pairs)


@pytest.mark.exhaustive
def test_a_loop_finds_the_optimum_and_keeps_its_log():
    X, y = first_data()
    state = rounds(STUDY.init(X, y), 0, 6)
    x, best = STUDY.best(state)
    assert float(best) < 5.5 < float(y.min())
    np.testing.assert_allclose(bowl(x[None])[0], best, rtol=1e-5)
    log = STUDY.history(state)
    assert list(log) == ["round", "x0", "x1", "y", "status", "best"]
    assert list(log["round"]) == [0] * 6 + [r for r in range(1, 7) for _ in range(2)]
    assert set(log["status"]) == {"told"}
    np.testing.assert_array_equal(log["best"], np.minimum.accumulate(log["y"]))
    inside = np.stack([log["x0"], log["x1"]], axis=1)
    assert ((inside >= BOUNDS[0]) & (inside <= BOUNDS[1])).all()


@pytest.mark.parametrize("how", few_of(["pickle", "leaves"]))
def test_a_stored_state_goes_on_as_the_uninterrupted_loop(how):
    X, y = first_data()
    state = rounds(STUDY.init(X, y), 0, 2)
    if how == "pickle":
        stored = pickle.loads(pickle.dumps(state))
    else:
        file = io.BytesIO()
        eqx.tree_serialise_leaves(file, state)
        file.seek(0)
        like = STUDY.empty(int(state.n_points))
        stored = eqx.tree_deserialise_leaves(file, like)
    assert same(stored, state)
    assert same(rounds(stored, 1, 2), rounds(state, 1, 2))


@pytest.mark.exhaustive
def test_maximising_is_minimising_the_negative():
    X, y = first_data()
    up = study_of(maximize=True)
    state = rounds(up.init(X, -y), 0, 6, up, lambda X: -bowl(X))
    x, best = up.best(state)
    assert float(best) > -5.5
    log = up.history(state)
    np.testing.assert_array_equal(log["best"], np.maximum.accumulate(log["y"]))


def test_neither_units_nor_origin_of_the_values_count():
    X, y = first_data()
    key = jax.random.key(3)
    one, _ = STUDY.ask(key, STUDY.init(X, y))
    other, _ = STUDY.ask(key, STUDY.init(X, 1024 * y))
    np.testing.assert_array_equal(one, other)
    moved, _ = STUDY.ask(key, STUDY.init(X, y.astype(float) - 4))
    np.testing.assert_allclose(one, moved, atol=0.02)


def test_the_state_keeps_what_was_fitted_to_the_standardised_values():
    X, y = first_data()
    _, state = STUDY.ask(jax.random.key(0), STUDY.init(X, y))
    prior, z = GPPrior(kernel(), X, ConstantMean()), (y - y.mean()) / y.std()
    found = fit(prior, z, 0.01, noise_prior=NOISE, progress=False)
    assert isinstance(found.prior.kernel, Matern)
    assert isinstance(found.prior.mean_fn, ConstantMean)
    lengthscale, noise_var = found.prior.kernel.lengthscale, found.noise_var
    np.testing.assert_allclose(state.mean, found.prior.mean_fn.value, rtol=0.02)
    np.testing.assert_allclose(scale(state), lengthscale, rtol=0.01)
    np.testing.assert_allclose(state.noise_var, noise_var, rtol=0.01)
    assert (np.abs(np.log(scale(state) / scale(STUDY))) > 0.05).all()  # it moved


def test_pending_points_stay_until_they_are_told_in_any_order():
    X, y = first_data()
    begun = STUDY.init(X, y)
    first, state = STUDY.ask(jax.random.key(0), begun)
    second, state = STUDY.ask(jax.random.key(1), state)
    assert not np.array_equal(first, second)
    asked = np.concatenate([first, second])
    status = STUDY.history(state)["status"]
    assert list(status[6:]) == ["pending"] * 4
    # The last of them, then one that was never asked for, then the others.
    state = STUDY.tell(state, asked[3:], bowl(asked[3:]))
    state = STUDY.tell(state, X[:1], y[:1] + 1)
    log = STUDY.history(state)
    assert list(log["status"][6:]) == ["pending"] * 3 + ["told"] * 2
    assert list(log["round"][6:]) == [1, 1, 2, 2, 0]
    state = STUDY.tell(state, asked[[2, 0, 1]], bowl(asked[[2, 0, 1]]))
    log = STUDY.history(state)
    np.testing.assert_allclose(log["y"][6:10], bowl(asked), rtol=1e-6)
    assert int(state.n_points) == 11
    # Without new values, the same key asks for the same.
    again, _ = STUDY.ask(jax.random.key(0), begun)
    np.testing.assert_array_equal(again, first)


def test_what_failed_is_kept_and_neither_modelled_nor_asked_again():
    X, y = first_data()
    key = jax.random.key(0)
    begun = STUDY.init(X, y)
    asked, state = STUDY.ask(key, begun)
    failed = STUDY.tell(state, asked, np.full(2, np.nan))
    assert list(STUDY.history(failed)["status"][6:]) == ["failed"] * 2
    assert STUDY.best(failed)[1] == y.min()
    # The same functions: their optima are where it failed, so the points are others,
    # and the hyperparameters are those without them.
    again, after = STUDY.ask(key, failed)
    width = BOUNDS[1] - BOUNDS[0]
    for point in np.asarray(again):
        steps = (point - np.asarray(asked)) / width
        assert (np.sqrt((steps**2).mean(axis=1)) > 1e-2).all()
    _, without = STUDY.ask(key, state)
    np.testing.assert_array_equal(scale(after), scale(without))


def test_without_a_value_it_asks_for_sobol_points():
    state = STUDY.init()
    first, state = STUDY.ask(jax.random.key(0), state)
    second, state = STUDY.ask(jax.random.key(1), state)
    points = np.concatenate([first, second])
    assert ((points >= BOUNDS[0]) & (points <= BOUNDS[1])).all()
    assert len(np.unique(points, axis=0)) == 4
    state = STUDY.tell(state, first, np.full(2, np.nan))
    third, _ = STUDY.ask(jax.random.key(2), state)
    assert np.isfinite(third).all()
    with pytest.raises(ValueError, match="needs a value"):
        STUDY.best(state)


@pytest.mark.parametrize("values", [[3.0], [3.0, 3.0, 3.0]])
def test_one_value_or_equal_ones_are_enough(values):
    X, _ = first_data(n=len(values))
    asked, state = STUDY.ask(jax.random.key(0), STUDY.init(X, np.float32(values)))
    assert np.isfinite(asked).all()
    assert np.isfinite(scale(state)).all()


@pytest.mark.exhaustive
def test_on_a_plateau_it_goes_on_looking():
    # Without priors a fit to equal values made all outputs certain, and each round
    # asked for the same corner.
    bare = Matern(2.5, init_lengthscale=jnp.array([1.0, 10.0]))
    study = ThompsonSampling(bare, BOUNDS, n_features=256, n_candidates=256, n_starts=8)
    X, y = first_data(n=3)
    state = rounds(study.init(X, 0 * y), 4, 6, study, lambda X: np.full(len(X), 0.0))
    asked = np.asarray(state.X)[3:9] / (BOUNDS[1] - BOUNDS[0])
    apart = np.linalg.norm(asked[:, None] - asked, axis=-1)
    assert np.sort(apart[np.triu_indices(6, 1)])[:3].min() > 0.01


def test_rows_are_added_when_they_are_full():
    X, y = first_data(n=64)
    state = STUDY.init(X, y)
    assert state.X.shape[0] == 64 == STUDY.empty(64).X.shape[0]
    told = STUDY.tell(state, X[:1], y[:1])
    assert told.X.shape[0] == 128 == STUDY.empty(65).X.shape[0]
    np.testing.assert_array_equal(told.X[:64], state.X)
    np.testing.assert_array_equal(STUDY.history(told)["y"], [*y, y[0]])
    assert STUDY.empty(1025).X.shape[0] == 2048
    assert STUDY.empty(2049).X.shape[0] == 3072


X2, Y2 = first_data(n=2)
BAD_STUDIES = {
    "reversed": (dict(bounds=BOUNDS[::-1]), "below the upper"),
    "equal": (dict(bounds=[[0.0, 1.0], [0.0, 2.0]]), "below the upper"),
    "infinite": (dict(bounds=[[0.0, 1.0], [np.inf, 2.0]]), "finite"),
    "bounds of words": (dict(bounds="box"), "bounds"),
    "a row": (dict(bounds=[0.0, 1.0]), "shape"),
    "batch": (dict(batch_size=0), "batch_size"),
    "kernel": (dict(kernel=3.0), "must be a kernel"),
    "way": (dict(hyperparameters="mle"), "one of 'fit'"),
    "noise": (dict(noise_var=-1.0), "noise_var"),
    "noise prior": (dict(noise_prior=0.1), "distribution"),
    "nuts": (dict(hyperparameters="nuts"), "prior on the noise"),
    "integers": (dict(bounds=[[0.2], [0.8]], integers=(0,)), "whole number"),
    "maximize": (dict(maximize=1), "True or False"),
    "features": (dict(n_features=31), "even"),
    "candidates": (dict(n_candidates=0), "n_candidates"),
}


@pytest.mark.parametrize("case", BAD_STUDIES)
def test_a_study_says_what_is_wrong_with_it(case):
    changed, words = BAD_STUDIES[case]
    with pytest.raises((ValueError, TypeError), match=words):
        ThompsonSampling(**({"kernel": kernel(), "bounds": BOUNDS} | changed))


BAD_DATA = {
    "another D": (X2[:, :1], Y2, "shape"),
    "another N": (X2, Y2[:1], r"shape \(2,\)"),
    "outside": (X2 + 5, Y2, "within the bounds"),
    "a point of NaN": (X2 * np.nan, Y2, "finite"),
    "inf": (X2, Y2 * np.inf, "NaN where a point failed"),
    "no values": (X2, None, "no values"),
}


@pytest.mark.parametrize("case", BAD_DATA)
def test_after_an_error_the_state_is_as_it_was(case):
    X, y, words = BAD_DATA[case]
    state = STUDY.init(*first_data())
    kept = jax.tree.map(np.array, state)
    with pytest.raises(ValueError, match=words):
        STUDY.tell(state, X, y)
    assert same(kept, state)
    with pytest.raises(ValueError, match="state of this study"):
        STUDY.tell(None, X2, Y2)  # pyright: ignore[reportArgumentType]
    other = ThompsonSampling(kernel(), np.array([[0.0], [1.0]])).init()
    with pytest.raises(ValueError, match="D=1"):
        STUDY.ask(jax.random.key(0), other)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (study_of(trust_region=True), "trust region"),
        (eqx.tree_at(lambda s: s.kernel, STUDY, RBF()), "another kernel"),
    ],
)
def test_a_state_in_which_a_setting_would_be_ignored_is_refused(other, words):
    state = STUDY.init(*first_data())
    with pytest.raises(ValueError, match=words):
        other.ask(jax.random.key(0), state)


def test_each_function_may_be_the_mean_of_several():
    """Of the same key: means of neighbours among more functions, in a state that is
    fitted and in one that is not; the first few by themselves are others."""
    X, y = first_data(n=12)
    for how in ("fit", "fixed"):
        many, few = (
            study_of(hyperparameters=how, batch_size=q, n_averaged=n)
            for q, n in ((8, 1), (2, 4))
        )
        state = few.init(X, (y - y.mean()) / y.std())
        drawn, means = (s._drawn(jax.random.key(0), state) for s in (many, few))
        values, found = drawn.paths(X), means.paths(X)
        expected = values.reshape(2, 4, -1).mean(axis=1)
        np.testing.assert_allclose(found, expected, atol=2e-5)
        assert np.abs(found - values[:2]).max() > 1e-3


def test_the_mean_of_functions_is_of_one_kernel():
    with pytest.raises(ValueError, match="draws others for each"):
        study_of(hyperparameters="nuts", n_averaged=2)
    with pytest.raises(ValueError, match="n_averaged"):
        study_of(n_averaged=0)
