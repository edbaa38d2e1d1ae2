"""Rows that were not observed: every answer is that of the call without them."""

# Wrong arguments are passed on purpose.
# pyright: reportArgumentType=false

import dataclasses
import inspect
import itertools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import compilations, few_of
from numpyro.infer.util import log_density

from pyrox.gp import (
    RBF,
    Derivatives,
    GPPrior,
    Linear,
    Matern,
    Periodic,
    gp_factor,
)
from pyrox.gp._posterior import conditional, exact
from pyrox.gp._posterior.jitter import jitter_variance

pytestmark = pytest.mark.usefixtures("plainly_compiled")

RNG = np.random.default_rng(3)
N, D = 13, 2
X = RNG.uniform(0.1, 2, (N, D))
Y = np.sin(3 * X[:, 0]) + 0.1 * RNG.normal(size=N)
NOISES = RNG.uniform(0.05, 0.2, N)
QUERIES = np.concatenate([RNG.uniform(0, 2, (4, D)), X[:1]])
SITES, SLOPES = RNG.uniform(0, 2, (3, D)), np.array([1.0, -0.5, 0.3])
# Not in the middle, not at the end.
SEEN: Any = ~np.isin(np.arange(N), [2, 6, N - 2, N - 1])
KERNELS = {
    "RBF": lambda: RBF(1.3, 0.8),
    "Matern52": lambda: Matern(2.5, 1.3, 0.8),
    "Linear + RBF": lambda: Linear(0.7) + RBF(1.3, 0.8),  # a diagonal that varies
    "Periodic": lambda: Periodic(1.3, 0.9, 2.2),
}


def slope(X):
    return 0.3 * X[:, 0] + 0.1


def data(width: int, each_noise: bool, with_slopes: bool) -> Any:
    """What there is to condition on, alone and among rows that are not observed."""
    dtype = np.dtype(f"float{width}")
    far = X.copy()  # one like a row of the data, the others beyond what a kernel takes
    far[2], far[6:][~SEEN[6:]] = X[0], 1e200 if width == 64 else 1e30
    y, noises = (np.where(SEEN, a, np.nan) for a in (Y, NOISES))
    noise = (NOISES[SEEN], noises) if each_noise else (0.1, 0.1)
    slopes = None
    if with_slopes:
        parts = SITES.astype(dtype), [0, 1, 0], SLOPES.astype(dtype), dtype.type(0.2)
        slopes = Derivatives(*parts)
    cast: Any = [
        tuple(np.asarray(a, dtype) for a in row)
        for row in ((X[SEEN], Y[SEEN], noise[0]), (far, y, noise[1]))
    ]
    return *cast, slopes


def both(name: str, width: int, each_noise: bool, with_slopes: bool) -> Any:
    alone, among, slopes = data(width, each_noise, with_slopes)
    kernel: Any = KERNELS[name]()
    X, y, noise = alone
    one = GPPrior(kernel, X, slope).condition(y, noise, slopes)
    X, y, noise = among
    prior = GPPrior(kernel, X, slope)
    return one, prior.condition(y, noise, slopes, observed=SEEN)


@jax.jit
def answers(posterior):
    Q = jnp.asarray(QUERIES).astype(posterior.y.dtype)
    return {
        "mean": posterior.predict_mean(Q),
        "var": posterior.predict_var(Q),
        "cov": posterior.predict_cov(Q),
        "likelihood": posterior.log_marginal_likelihood(),
        "left out": jnp.sum(posterior.leave_one_out_log_density()),
    }


@jax.jit
def more_answers(posterior):
    Q = jnp.asarray(QUERIES).astype(posterior.y.dtype)
    return {
        "gradient": posterior.predict_value_and_gradient(Q),
        "derivatives": posterior.predict_derivatives(Q, 1),
        "sample": posterior.sample(jax.random.key(0), Q, 3),
    }


def assert_alike(found, wanted, atol: float):
    for what, value in wanted.items():
        pairs = zip(jax.tree.leaves(found[what]), jax.tree.leaves(value), strict=True)
        for got, want in pairs:
            np.testing.assert_allclose(got, want, rtol=0, atol=atol, err_msg=what)


def rows(values, observed: Any = SEEN):
    """A leaf for each row, those of the observed; the derivatives are behind them."""
    return np.concatenate([values[: observed.size][observed], values[observed.size :]])


SETTINGS = list(itertools.product(KERNELS, (False, True), (False, True), (32, 64)))
QUICK = ("Linear + RBF", True, True, 64), ("Matern52", False, False, 32)


@pytest.mark.parametrize(
    ("name", "each_noise", "with_slopes", "width"), few_of(SETTINGS, *QUICK)
)
def test_every_answer_is_that_without_the_rows(name, each_noise, with_slopes, width):
    with jax.enable_x64(width == 64):
        alone, among = both(name, width, each_noise, with_slopes)
        compare_every_answer(alone, among, width)


def compare_every_answer(alone, among, width):
    atol = 1e-10 if width == 64 else 2e-4
    assert_alike(answers(among), answers(alone), atol)
    left_out, wanted = (p.leave_one_out_log_density() for p in (among, alone))
    np.testing.assert_allclose(rows(left_out), wanted, rtol=0, atol=atol)
    assert not np.any(left_out[~SEEN]) and not np.any(among.weights[:N][~SEEN])
    np.testing.assert_allclose(rows(among.weights), alone.weights, rtol=0, atol=atol)
    # The jitter is of the observed: of their number in float32, and of their mean.
    wanted = np.broadcast_to(alone.jitter_var, alone.weights.shape)
    np.testing.assert_allclose(rows(among.jitter_var), wanted, rtol=1e-5)
    assert among.observed is not None and not np.any(among.y[~SEEN])


@pytest.mark.exhaustive
@pytest.mark.parametrize("with_slopes", [False, True])
@pytest.mark.parametrize("name", KERNELS)
def test_slopes_and_joint_draws_are_those_without_the_rows(name, with_slopes, width):
    alone, among = both(name, width, True, with_slopes)
    atol = 1e-8 if width == 64 else 2e-3
    assert_alike(more_answers(among), more_answers(alone), atol)


@pytest.mark.parametrize(
    ("name", "with_slopes"),
    few_of(
        [(name, slopes) for name in KERNELS for slopes in (False, True)],
        ("RBF", False),
    ),
)
def test_the_log_density_and_its_gradients(x64, name, with_slopes):
    alone, among, slopes = data(64, True, with_slopes)

    def density(kernel, X, y, noise, observed=None):
        prior = GPPrior(kernel, X, slope)
        return prior.log_marginal_likelihood(y, noise, slopes, observed=observed)

    both_of = jax.jit(jax.value_and_grad(density, argnums=(0, 1, 2, 3)))
    value, (by_kernel, *by_data) = both_of(KERNELS[name](), *among, SEEN)
    wanted, (kernel, *wanted_data) = both_of(KERNELS[name](), *alone)
    np.testing.assert_allclose(value, wanted, atol=1e-10)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-9), by_kernel, kernel
    )
    for got, want in zip(by_data, wanted_data, strict=True):
        np.testing.assert_allclose(got[SEEN], want, atol=1e-9)
        assert not np.any(got[~SEEN])  # nor NaN


@pytest.mark.exhaustive
def test_one_program_for_data_of_all_sizes(x64):
    far, y, _ = data(64, False, False)[1]
    y = np.where(SEEN, y, 0.0)

    def one(observed):
        posterior = GPPrior(RBF(1.3, 0.8), far).condition(y, 0.1, observed=observed)
        mean, var = posterior.predict(QUERIES)
        return mean, var, posterior.log_marginal_likelihood()

    masks = np.stack([SEEN & (np.arange(N) < n) for n in (1, 5, 9, N)])
    program, mapped = jax.jit(one), jax.jit(jax.vmap(one))
    found = mapped(masks)
    program(masks[0])
    with compilations() as programs:
        looped = [program(mask) for mask in masks]
        mapped(masks[::-1].copy())
    assert not programs
    for i, mask in enumerate(masks):
        alone = GPPrior(RBF(1.3, 0.8), X[mask]).condition(Y[mask], 0.1)
        wanted = *alone.predict(QUERIES), alone.log_marginal_likelihood()
        for got, again, want in zip(found, looped[i], wanted, strict=True):
            np.testing.assert_allclose(got[i], want, atol=1e-10)
            np.testing.assert_allclose(again, want, atol=1e-10)


def test_data_that_grow_compile_nothing_new(x64):
    """Outside of programs, too."""
    far, y, noise = data(64, False, False)[1]

    def one(n):
        observed = SEEN & (np.arange(N) < n)
        posterior = GPPrior(RBF(1.3, 0.8), far).condition(y, noise, observed=observed)
        return posterior.predict(QUERIES), posterior.log_marginal_likelihood()

    one(2)
    with compilations() as programs:
        for n in (4, 6, 8):  # numbers of rows that no other test has compiled for
            one(n)
    assert not programs


def test_nothing_observed_is_the_prior(x64):
    none = np.zeros(N, bool)
    prior = GPPrior(RBF(1.3, 0.8), X, slope)
    posterior = prior.condition(np.full(N, np.nan), 0.1, observed=none)
    np.testing.assert_allclose(posterior.predict_mean(QUERIES), slope(QUERIES))
    np.testing.assert_allclose(posterior.predict_var(QUERIES), 1.3)
    assert posterior.log_marginal_likelihood() == 0


@pytest.mark.exhaustive
def test_slopes_are_observed_where_no_value_is(x64):
    prior, none = GPPrior(RBF(1.3, 0.8), X, slope), np.zeros(N, bool)
    slopes = data(64, False, True)[2]
    among = prior.condition(Y, 0.1, slopes, observed=none)
    alone = GPPrior(RBF(1.3, 0.8), X[:1] + 1e6, slope).condition(Y[:1], 0.1, slopes)
    mean = alone.predict_mean(QUERIES)
    np.testing.assert_allclose(among.predict_mean(QUERIES), mean, atol=1e-9)


def test_the_factor_of_a_numpyro_model(x64):
    far, y, noise = data(64, True, False)[1]

    def model(X, y, noise, observed=None):
        gp_factor("obs", GPPrior(RBF(1.3, 0.8), X), y, noise, observed=observed)

    found, _ = log_density(model, (far, y, noise, SEEN), {}, {})
    wanted, _ = log_density(model, (X[SEEN], Y[SEEN], NOISES[SEEN]), {}, {})
    np.testing.assert_allclose(found, wanted, atol=1e-10)


# --- Sentences ---------------------------------------------------------------------

BAD = {
    "ones and zeros": (
        SEEN.astype(int),
        r"`GPPrior.condition\(observed=...\)` must be booleans, .* Got int64. "
        r"Pass `observed == 1` of ones and zeros, `np.isin\(np.arange\(13\), rows\)`",
    ),
    "floats": (SEEN.astype(float), "must be booleans.*Got float64"),
    "too short": (SEEN[:5], r"must have shape \(13,\). Got \(5,\). Pass one boolean"),
    "one": (np.asarray(True), r"must have shape \(13,\). Got \(\)"),
    "a column": (SEEN[:, None], r"must have shape \(13,\). Got \(13, 1\)"),
    "missing": ([None, *SEEN[1:]], "must have a value everywhere"),
}


@pytest.mark.parametrize("what", BAD)
def test_what_says_which_were_observed_is_checked(x64, what):
    observed, sentence = BAD[what]
    with pytest.raises(ValueError, match=sentence):
        GPPrior(RBF(), X).condition(Y, 0.1, observed=observed)


def test_what_was_observed_is_checked_as_ever(x64):
    y, noise = np.where(SEEN, Y, np.nan), np.where(SEEN, NOISES, -1.0)
    y[3] = np.nan
    prior = GPPrior(RBF(), X)
    with pytest.raises(ValueError, match=r"finite.*Got nan at index \(3,\)"):
        prior.condition(y, 0.1, observed=SEEN)
    with pytest.raises(ValueError, match=r"finite.*Got nan at index \(3,\)"):
        prior.log_marginal_likelihood(y, 0.1, observed=SEEN)
    noise[4] = 0.0
    with pytest.raises(ValueError, match=r"positive.*Got 0.0 at index \(4,\)"):
        prior.condition(Y, noise, observed=SEEN)

    @jax.jit
    def mean(y, noise, observed):
        return prior.condition(y, noise, observed=observed).predict_mean(QUERIES)

    with pytest.raises(RuntimeError, match=r"condition\(y=...\)` must be finite"):
        mean(y, NOISES, SEEN)
    with pytest.raises(RuntimeError, match="must be a positive finite variance"):
        mean(Y, noise, SEEN)
    y[3], noise[4] = 0.0, 0.1
    assert np.isfinite(mean(y, noise, SEEN)).all()


def test_values_that_the_type_merges_are_looked_for_among_the_observed():
    y = np.where(SEEN, Y, 1e300)
    GPPrior(RBF(), X).condition(y, 0.1, observed=SEEN)
    with pytest.raises(ValueError, match="must be values that float32 tells apart"):
        y = np.where(SEEN, 1e9 + Y, 0.0)
        GPPrior(RBF(), X).condition(y, 0.1, observed=SEEN)


def raised(prior, *values, **how) -> str:
    with pytest.raises(ValueError) as caught:
        prior.condition(*values, **how)
    return str(caught.value)


def test_the_sentence_of_no_factor_counts_the_observed(x64):
    same = np.where(SEEN[:, None], 1.0, X)
    alone = raised(GPPrior(RBF(), same[SEEN], jitter=0.0), Y[SEEN], 1e-30)
    prior = GPPrior(RBF(), same, jitter=0.0)
    assert raised(prior, Y, 1e-30, observed=SEEN) == alone
    assert f"of {SEEN.sum()} inputs" in alone
    with pytest.raises(RuntimeError, match="only those that were observed count"):
        jax.jit(lambda seen: prior.condition(Y, 1e-30, observed=seen).weights)(SEEN)


NUMBERS = re.compile(r"[\d.]+(?:e-?\d+)?")


@pytest.mark.parametrize("lengthscale", [0.05, 0.1])
def test_the_warning_of_rounding_is_that_without_the_rows(lengthscale):
    """Of both kinds: digits that are lost, and a jitter above the noise."""
    where = np.linspace(0, 1, 40)[:, None].astype(np.float32)
    y, noise = np.sin(60 * where[:, 0]), 3e-6
    seen, kernel = np.arange(40) % 3 < 2, RBF(1.0, lengthscale)
    prior = GPPrior(kernel, where)
    with pytest.warns(RuntimeWarning) as among:
        prior.condition(np.where(seen, y, np.nan), noise, observed=seen)
    with pytest.warns(RuntimeWarning) as alone:
        GPPrior(kernel, where[seen]).condition(y[seen], noise)
    got, wanted = (str(told[0].message) for told in (among, alone))
    assert NUMBERS.sub("", got) == NUMBERS.sub("", wanted)
    pairs = zip(NUMBERS.findall(got), NUMBERS.findall(wanted), strict=True)
    assert all(a == b or abs(float(a) / float(b) - 1) < 0.2 for a, b in pairs)
    assert among[0].filename == __file__


# --- Mistakes that must be noticed -------------------------------------------------


def errors() -> tuple[float, float]:
    """How far the variance and the log density are off, by programs of their own."""
    density = inspect.unwrap(exact._log_marginal)

    @jax.jit
    def compare(alone, among):
        given, wanted = (p._conditional().var(QUERIES) for p in (among, alone))
        densities = density(among, among.inverse) - density(alone, alone.inverse)
        return jnp.max(jnp.abs(given - wanted)), densities

    variance, density_error = compare(*both("RBF", 64, False, False))
    return float(variance), abs(float(density_error))


def test_without_a_mistake_there_is_no_error(x64):
    assert max(errors()) < 1e-10


def test_a_cross_covariance_that_is_left_is_noticed(x64, monkeypatch):
    cross = conditional.Conditional.cross

    def unmasked(self, X):
        return cross(dataclasses.replace(self, observed=None), X)

    monkeypatch.setattr(conditional.Conditional, "cross", unmasked)
    assert errors()[0] > 1e-3


def test_a_constant_of_all_rows_is_noticed(x64, monkeypatch):
    monkeypatch.setattr(exact, "how_many", lambda observed, x: x.shape[0])
    assert errors()[1] > 1


@pytest.mark.exhaustive
def test_a_jitter_of_all_rows_is_noticed(x64):
    K, seen = KERNELS["Linear + RBF"]()(X, X), jnp.asarray(SEEN)
    wanted = jitter_variance(0.1, K[SEEN][:, SEEN])
    right, wrong = (jitter_variance(0.1, K, None, s) for s in (seen, None))
    np.testing.assert_allclose(right[SEEN], wanted, rtol=1e-14)
    assert abs(wrong - wanted) > 1e-3 * wanted
