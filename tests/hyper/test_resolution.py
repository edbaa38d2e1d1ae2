"""Inputs and values that the float type cannot tell apart get a sentence."""

# Arrays of other widths are passed on purpose.
# pyright: reportArgumentType=false

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyrox.gp import (
    RBF,
    Derivatives,
    FourierGrid,
    GPPrior,
    Landmarks,
    Linear,
    PathwiseSampler,
    Periodic,
    SparseGPPrior,
    confidence_bound,
)

pytestmark = pytest.mark.usefixtures("plainly_compiled")

UNIX = 1_700_000_000
MINUTES = UNIX + 60 * np.arange(40)[:, None]
UNIT = np.linspace(0, 1, 5)[:, None]
APART = r"must be inputs that float32 tells apart.* Input 0, from 1700000000 to "


def posterior():
    return GPPrior(RBF(), UNIT).condition(np.sin(UNIT[:, 0]), 0.1)


def paths():
    return PathwiseSampler(posterior(), 8).sample_paths(jax.random.key(0), 2)


@pytest.mark.parametrize(
    "X",
    [
        MINUTES,
        MINUTES.astype(float),
        MINUTES.astype(np.int32),
        MINUTES.astype(np.uint32),
        MINUTES.astype(np.longdouble),
        MINUTES[::-1],
        MINUTES.tolist(),
        MINUTES.astype(object),
    ],
    ids=lambda X: str(getattr(X, "dtype", "list")),
)
def test_unix_times_a_minute_apart(X):
    sentence = APART + (
        r"1700002340, has values 60 apart, .* merges or moves visibly. Subtract an "
        r"origin, `X\[:, 0\] - X\[0, 0\]`, rescale, or .*jax_enable_x64"
    )
    with pytest.raises(ValueError, match=r"`GPPrior\(X=...\)` " + sentence):
        GPPrior(RBF(1.0, 300.0), X)


def test_integers_of_jax_lose_as_much():
    with pytest.raises(ValueError, match="from int32 merges"):
        GPPrior(RBF(), jnp.asarray(MINUTES, jnp.int32))


@pytest.mark.parametrize(
    "call",
    [
        lambda X: SparseGPPrior(RBF(), Z=X),
        lambda X: Derivatives(X, 0, np.zeros(40), 0.1),
        lambda X: Derivatives.of_gradients(X, np.zeros((40, 1)), 0.1),
        lambda X: Landmarks(X),
        lambda X: posterior().predict(X),
        lambda X: posterior().sample(jax.random.key(0), X),
        lambda X: paths()(X),
        lambda X: paths().gradient(X),
        lambda X: paths().each(np.stack([X, X])),
        lambda X: confidence_bound(posterior(), X),
        lambda X: confidence_bound(paths(), X[:, None, :]),
        lambda X: FourierGrid((X[0, 0], X[-1, 0] - 2200)),
        lambda X: FourierGrid((X[0], X[-1] - 2200)),
        lambda X: FourierGrid((UNIX, UNIX + 140)),
        lambda X: RBF()(X, X),
        lambda X: Linear().diag(X),
        lambda X: Periodic()(X, X),
        lambda X: (RBF() + Linear())(X, X),
        lambda X: jax.jit(lambda noise: posterior().predict_mean(X) + noise)(1.0),
    ],
)
def test_wherever_inputs_come_in(call):
    with pytest.raises(ValueError, match=APART):
        call(MINUTES)


def test_the_column_is_named():
    X = np.column_stack([np.arange(40), MINUTES[:, 0], np.zeros(40)])
    with pytest.raises(ValueError, match=r"Input 1, .* `X\[:, 1\] - X\[0, 1\]`"):
        GPPrior(RBF(), X)


def test_the_ways_out_give_what_float64_gives():
    y, query = np.sin(MINUTES[:, 0] / 200.0), MINUTES + 30

    def mean(X, query):
        return GPPrior(RBF(1.0, 300.0), X).condition(y, 0.01).predict_mean(query)

    with jax.enable_x64(True):
        right = np.asarray(mean(MINUTES, query))
    moved = mean(MINUTES - MINUTES[0], query - MINUTES[0])
    np.testing.assert_allclose(moved, right, rtol=0, atol=1e-4)
    scaled = GPPrior(RBF(1.0, 300.0 / 3600), (MINUTES - UNIX) / 3600)
    scaled = scaled.condition(y, 0.01).predict_mean((query - UNIX) / 3600)
    np.testing.assert_allclose(scaled, right, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "column",
    [
        UNIX + np.arange(300),  # seconds
        (UNIX + np.arange(40)) * 10**9,  # nanoseconds
        UNIX + 60 * np.arange(43200),  # a month
        UNIX + 60 * np.sort(np.random.default_rng(0).permutation(5000)[:3500]),
        UNIX + np.random.default_rng(0).uniform(0, 86400, 1000),
        np.concatenate([60 * np.arange(40), 10**9 + 60 * np.arange(40)]),
        2020 + np.arange(100) / 8766,  # hours
        1 + np.repeat(np.arange(20), 2) + np.tile([0, 1e-9], 20),  # pairs
        1e-50 * np.arange(9),
        1e50 * np.arange(9),
        np.array([1.0, 1.0 + 1e-8]),
        np.where(np.arange(41) == 7, np.nan, UNIX + 60.0 * np.arange(41)),
    ],
)
def test_what_float32_cannot_hold(column):
    with pytest.raises(ValueError, match="that float32 tells apart"):
        GPPrior(RBF(), column[:, None])


@pytest.mark.parametrize(
    "column",
    [
        2000 + 0.5 * np.arange(42),  # 2020.5
        2000 + np.arange(240) / 12,
        2020 + np.arange(1500) / 365.25,
        UNIX + 86400 * np.arange(50),
        738_000 + np.arange(50) / 4,  # ordinal days
        np.array([0, 1, 1 + 1e-9]),
        np.concatenate([np.arange(30) * 0.1, np.linspace(0, 2.9, 30)]),
        np.full(5, 0.1) + 1e-17,
        np.array([0.1 * 3, 0.3]),
        np.arange(5),
        np.array([True, False]),
        np.array([1.7e9]),
        np.linspace(1, 2, 100_000),
        45 + np.round(np.random.default_rng(0).uniform(0, 1, 100_000), 5),
    ],
)
def test_what_float32_resolves(column):
    GPPrior(RBF(), column[:, None])


def ordinary(rng, n):
    """Columns as they come, none of them within 10^-5 of its own offset."""
    yield rng.normal(size=n)
    yield rng.normal(100, 1, size=n)
    yield rng.uniform(45, 46, size=n)
    yield rng.uniform(-180, 180, size=n)
    yield rng.standard_cauchy(size=n)
    yield np.exp(3 * rng.normal(size=n))
    yield 10 ** rng.uniform(-10, 10, size=n)
    yield np.cumsum(rng.exponential(size=n))
    yield rng.normal(size=5)[rng.integers(5, size=n)] + 1e-3 * rng.normal(size=n)


@pytest.mark.parametrize("n, n_sets", [(2, 100), (10, 100), (1000, 10), (10**5, 1)])
def test_no_alarm_on_ordinary_data(n, n_sets):
    rng = np.random.default_rng(2026)
    for _ in range(n_sets):
        GPPrior(RBF(), np.column_stack(list(ordinary(rng, n))))


def test_in_float64_only_what_that_cannot_hold(x64):
    GPPrior(RBF(), MINUTES)
    GPPrior(RBF(), UNIX * 10**9 + 10**6 * np.arange(40)[:, None])  # milliseconds
    with pytest.raises(ValueError, match="that float64 tells apart"):
        GPPrior(RBF(), UNIX * 10**9 + 100 * np.arange(40)[:, None])


def test_arrays_of_the_type_are_not_looked_at(monkeypatch):
    def never(*_):
        raise AssertionError

    monkeypatch.setattr("pyrox.gp._hyper.arrays._lost_spacing", never)
    X = jnp.linspace(0, 1, 5)[:, None]
    jax.jit(jax.vmap(lambda X: GPPrior(RBF(), X).X))(jnp.stack([X, X]))
    for given in (X, np.asarray(X), np.arange(4.0)[:, None], [[0], [1]]):
        GPPrior(RBF(), given)


@pytest.mark.parametrize(
    "y",
    [
        1e9 + np.sin(UNIT[:, 0]),
        UNIX + np.arange(5),
        1e-50 * np.arange(5),
        -1e7 + 1e-3 * np.arange(5),
    ],
)
def test_values_whose_differences_are_lost(y):
    prior = GPPrior(RBF(), UNIT)
    sentence = r"must be values that float32 tells apart.* Subtract their mean"
    with pytest.raises(ValueError, match=r"`GPPrior.condition\(y=...\)` " + sentence):
        prior.condition(y, 0.1)
    with pytest.raises(ValueError, match=sentence):
        prior.log_marginal_likelihood(y, 0.1)
    with pytest.raises(ValueError, match=sentence):
        Derivatives(UNIT, 0, y, 0.1)
    with pytest.raises(ValueError, match=sentence):
        Derivatives.of_gradients(UNIT, y[:, None], 0.1)


@pytest.mark.parametrize(
    "y",
    [
        101_325 + np.arange(5.0),  # pascals
        np.full(5, 1e9 + 0.3),
        np.full(5, 0.1) + 1e-17 * np.arange(5),
        np.array([0, 0, 0, 0, 1e9 + 1]),
    ],
)
def test_values_that_float32_holds(y):
    # A variance of their own size, or the posterior itself would be beyond the type.
    scale = float(np.abs(y).max()) ** 2
    GPPrior(RBF(scale), UNIT).condition(y, 0.1 * scale)
