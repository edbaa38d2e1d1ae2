"""A fit among rows that were not observed is the fit of the data."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import compilations, few_of

from pyrox.gp import RBF, Derivatives, GPPrior
from pyrox.gp import fit as public_fit
from pyrox.gp._inference import starts
from pyrox.gp._inference.fit_input import as_problem
from pyrox.gp._inference.noise_alone import beside_noise

pytestmark = pytest.mark.usefixtures("plainly_compiled")

RNG = np.random.default_rng(0)
N = 16
X = RNG.uniform(0, 2, (N, 2))
Y = np.sin(3 * X[:, 0]) + 0.2 * RNG.normal(size=N)
NOISES = RNG.uniform(0.05, 0.1, N)
SEEN: Any = ~np.isin(np.arange(N), [2, 5, N - 2, N - 1])
FAR = np.where(SEEN[:, None], X, 1e200)
SITES = RNG.uniform(0, 2, (3, 2))
fit: Any = functools.partial(public_fit, progress=False)


@pytest.fixture(autouse=True)
def _wide(x64):
    yield


def slopes_of(any_at_all: bool) -> Any:
    values = np.array([1.0, -0.5, 0.3])
    return Derivatives(SITES, [0, 1, 0], values, 0.1) if any_at_all else None


def noises(each: bool) -> Any:
    """Alone, and among rows in which it may be anything."""
    return (NOISES[SEEN], np.where(SEEN, NOISES, np.nan)) if each else (0.1, 0.1)


SETTINGS = [(each, slopes) for each in (False, True) for slopes in (False, True)]


@pytest.mark.exhaustive
@pytest.mark.parametrize(("each", "with_slopes"), list(SETTINGS))
def test_the_fit_is_that_without_the_rows(each, with_slopes):
    (noise, among), slopes = noises(each), slopes_of(with_slopes)
    how = {"tolerance": 1e-8}
    wanted = fit(GPPrior(RBF(), X[SEEN]), Y[SEEN], noise, slopes, **how)
    y = np.where(SEEN, Y, np.nan)
    found = fit(GPPrior(RBF(), FAR), y, among, slopes, observed=SEEN, **how)
    assert found.converged and found.only_noise == wanted.only_noise
    for got, want in (
        (found.prior.kernel.variance, wanted.prior.kernel.variance),
        (found.prior.kernel.lengthscale, wanted.prior.kernel.lengthscale),
        (found.log_density, wanted.log_density),
        (found.log_marginal_likelihood, wanted.log_marginal_likelihood),
        (found.noise_log_density, wanted.noise_log_density),
    ):
        np.testing.assert_allclose(got, want, rtol=1e-6)
    noise = found.noise_var[SEEN] if each else found.noise_var
    np.testing.assert_allclose(noise, wanted.noise_var, rtol=1e-6)
    # The report counts and names what was observed; steps may differ by rounding.
    lines, others = str(found).splitlines()[1:], str(wanted).splitlines()[1:]
    assert lines == others and f"of {SEEN.sum()} data" in lines[0]
    # What was found keeps the inputs, for other rows to be observed.
    np.testing.assert_array_equal(found.prior.X, FAR)


@pytest.mark.exhaustive
@pytest.mark.parametrize("with_slopes", [False, True])
def test_starts_and_the_density_are_those_without_the_rows(with_slopes):
    slopes, kernel = slopes_of(with_slopes), RBF(1.0, np.ones(2))
    y = np.where(SEEN, Y, np.nan)
    alone = as_problem(GPPrior(kernel, X[SEEN]), Y[SEEN], 0.1, slopes, (), None)
    among = as_problem(GPPrior(kernel, FAR), y, 0.1, slopes, (), None, SEEN)
    at = [jax.jit(lambda p: starts.at_data(p, None))(p) for p in (alone, among)]
    np.testing.assert_allclose(at[0], at[1], rtol=1e-12)
    assert float(among.n_data) == float(alone.n_data) == SEEN.sum() + 3 * with_slopes
    # Rows that count for the scales would be noticed.
    everything = as_problem(GPPrior(kernel, X), Y, 0.1, slopes, (), None)
    other = jax.jit(lambda p: starts.at_data(p, None))(everything)
    assert np.abs(other - at[0]).max() > 1e-3


@pytest.mark.parametrize("each", few_of([False, True], True))
def test_what_is_noise_alone(each):
    noise, among = noises(each)
    wanted = GPPrior(RBF(0.5, 0.7), X[SEEN]).condition(Y[SEEN], noise)
    found = GPPrior(RBF(0.5, 0.7), FAR).condition(Y, among, observed=SEEN)
    pairs = zip(beside_noise(found, False), beside_noise(wanted, False), strict=True)
    for got, want in pairs:
        np.testing.assert_allclose(got, want, atol=1e-10)


def test_nothing_to_fit_to_is_a_sentence():
    none = np.zeros(N, bool)
    with pytest.raises(ValueError, match="True somewhere: there is nothing to fit to"):
        fit(GPPrior(RBF(), X), Y, 0.1, observed=none)
    with pytest.raises(ValueError, match=r"`fit\(observed=...\)` must be booleans"):
        fit(GPPrior(RBF(), X), Y, 0.1, observed=SEEN.astype(int))
    with pytest.raises(ValueError, match=r"`fit\(y=...\)` must be finite"):
        fit(GPPrior(RBF(), X), np.where(SEEN, np.nan, Y), 0.1, observed=SEEN)


@pytest.mark.exhaustive
def test_fits_to_data_of_all_sizes_are_one_program():
    masks = np.stack([SEEN & (np.arange(N) < n) for n in (8, 12, N)])
    y = np.where(SEEN, Y, np.nan)

    def one(y, observed):
        found = fit(GPPrior(RBF(), FAR), y, 0.1, observed=observed, tolerance=1e-8)
        return found.posterior.predict_mean(SITES), found.log_density

    one_program = jax.jit(one)
    mapped = jax.jit(jax.vmap(one, in_axes=(None, 0)))(y, masks)
    one_program(y, masks[0])
    with compilations() as programs:
        looped = [one_program(y, mask) for mask in masks]
    assert not programs
    for i, mask in enumerate(masks):
        found = fit(GPPrior(RBF(), X[mask]), Y[mask], 0.1, tolerance=1e-8)
        for got, value in ((mapped[1][i], found.log_density), (looped[i][1],) * 2):
            np.testing.assert_allclose(got, value, rtol=1e-7)
        mean = found.posterior.predict_mean(SITES)
        for got in (mapped[0][i], looped[i][0]):
            np.testing.assert_allclose(got, mean, atol=1e-6)


@pytest.mark.exhaustive
def test_a_refit_is_differentiated_in_the_observed_alone():
    def answer(X, y, observed=None):
        prior = GPPrior(RBF(), X)
        found = fit(prior, y, 0.1, observed=observed, tolerance=1e-9)
        return jnp.sum(found.posterior.predict_mean(SITES))

    of = jax.jit(jax.grad(answer, argnums=1))
    found = of(FAR, np.where(SEEN, Y, np.nan), SEEN)
    np.testing.assert_allclose(found[SEEN], of(X[SEEN], Y[SEEN]), atol=1e-6)
    assert not np.any(found[~SEEN])


@pytest.mark.exhaustive
def test_fits_in_a_loop_that_grows_compile_nothing_new():
    y = np.where(SEEN, Y, np.nan)

    def one(n):
        observed = SEEN & (np.arange(N) < n)
        return fit(GPPrior(RBF(0.5, 0.7), FAR), y, 0.1, observed=observed)

    one(N)
    with compilations() as programs:
        for n in (8, 10, 12):
            one(n)
    assert not programs
