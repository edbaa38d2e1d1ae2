"""Several outputs: tables in and out, taken apart or together, against dense NumPy."""

# Inputs may be NumPy's arrays and lists.
# pyright: reportArgumentType=false

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _moments import strays, strict_float64
from _outputs import Dense, Shared, relative, shared
from helpers import few_of

from pyrox.gp import (
    RBF,
    ActiveDims,
    Cholesky,
    ConjugateGradients,
    Coregionalization,
    DivergenceFree,
    MultiOutputPrior,
    MultiOutputSampler,
    PathwiseSampler,
    substitute,
)
from pyrox.gp._posterior.by_outputs import separated
from pyrox.gp._solvers.kronecker import KroneckerInverse

pytestmark = pytest.mark.usefixtures("plainly_compiled")


@pytest.fixture(autouse=True)
def _strict():
    with strict_float64():
        yield


P, N = 3, 9
RNG = np.random.default_rng(0)
X, Q = RNG.uniform(0, 2, (N, 1)), RNG.uniform(0, 2, (4, 1))
Y, NOISE = RNG.normal(size=(N, P)), np.array([0.05, 0.1, 0.2])
HOLES = np.where(RNG.uniform(size=Y.shape) < 0.6, Y, np.nan)
ICM = shared(P, 2, 0.4)
# Outputs that are alike: B and the noise have eigenvalues that coincide.
ALIKE = Shared(0.4, np.full((P, 1), 0.6), np.full(P, 0.3))


_EVERY_TERM = [pytest.param(t, marks=pytest.mark.exhaustive) for t in (ICM, ALIKE)]


def stacked(X: np.ndarray) -> np.ndarray:
    return np.c_[np.tile(X, (P, 1)), np.repeat(np.arange(P), len(X))]


def dense(term: Shared, Y: np.ndarray, noise=NOISE) -> Dense:
    seen, y = ~np.isnan(Y).T.reshape(-1), Y.T.reshape(-1)
    return Dense((term,), stacked(X)[seen], y[seen], np.repeat(noise, N)[seen])


def table(values: np.ndarray) -> np.ndarray:
    return values.reshape(P, -1).T


def prior_of(term: Shared) -> MultiOutputPrior:
    return MultiOutputPrior(term.library(1), X, P)


def is_apart(posterior) -> bool:
    return isinstance(posterior.stacked.inverse, KroneckerInverse)


@pytest.mark.parametrize("apart", few_of([True, False], True))
def test_answers_are_those_of_dense_algebra(apart):
    case, rows = dense(ICM, Y), stacked(Q)
    solver = None if apart else Cholesky()
    posterior = prior_of(ICM).condition(Y, NOISE, solver=solver)
    assert is_apart(posterior) == apart
    mean, var = posterior.predict(Q)
    assert relative(mean, table(case.mean(rows))) < 1e-8
    assert relative(var, table(np.diag(case.cov(rows)))) < 1e-8
    cov = case.cov(rows).reshape(P, 4, P, 4).transpose(1, 0, 3, 2)
    assert relative(posterior.predict_cov(Q), cov) < 1e-8
    assert relative(posterior.log_marginal_likelihood(), case.log_density()) < 1e-8
    assert relative(prior_of(ICM).log_marginal_likelihood(Y, NOISE), -1) > 1


@pytest.mark.parametrize("term", [_EVERY_TERM[0], ALIKE], ids=["ICM", "alike"])
def test_the_density_and_its_slope_by_all_that_it_is_made_of(term):
    noise = NOISE if term is ICM else np.full(P, 0.1)
    prior = prior_of(term)

    def density(prior, Y, noise):
        return prior.log_marginal_likelihood(Y, noise)

    slopes = jax.value_and_grad(density, (0, 1, 2))
    given = prior, jnp.asarray(Y), jnp.asarray(noise)
    value, (by_prior, by_Y, by_noise) = slopes(*given)
    assert relative(value, dense(term, Y, noise).log_density()) < 1e-8

    def difference(field, at):
        step = np.zeros_like(at)
        step.flat[1] = 1e-6
        up, down = (
            dense(dataclasses.replace(term, **{field: at + s}), Y, noise).log_density()
            for s in (step, -step)
        )
        return (up - down) / 2e-6

    of_outputs = by_prior.kernel.right.kernel
    by_l = by_prior.kernel.left.kernel.lengthscale
    ends = [
        dense(dataclasses.replace(term, lengthscale=0.4 + s), Y, noise).log_density()
        for s in (1e-6, -1e-6)
    ]
    assert relative(by_l, (ends[0] - ends[1]) / 2e-6) < 1e-6
    assert relative(of_outputs.W.reshape(-1)[1], difference("W", term.W)) < 1e-6
    assert relative(of_outputs.kappa[1], difference("kappa", term.kappa)) < 1e-6
    up, down = (dense(term, Y, noise + s) for s in (1e-6, -1e-6))
    slope = (up.log_density() - down.log_density()) / 2e-6
    assert relative(np.sum(by_noise), slope) < 1e-6
    case = dense(term, Y, noise)
    assert relative(by_Y, -table(np.linalg.solve(case.of_data, case.y))) < 1e-8


@pytest.mark.parametrize("term", _EVERY_TERM, ids=["ICM", "alike"])
def test_derivatives_of_predictions_are_those_of_outputs_taken_together(term):
    def answer(prior, Y, noise, solver):
        mean, var = prior.condition(Y, noise, solver=solver).predict(Q)
        return jnp.sum(jnp.sin(mean)) + jnp.sum(jnp.log(var))

    given = prior_of(term), jnp.asarray(Y), jnp.full(P, 0.1)
    apart, together = (
        jax.grad(answer, (0, 1, 2))(*given, solver) for solver in (None, Cholesky())
    )
    for own, other in zip(*map(jax.tree.leaves, (apart, together)), strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-8, atol=1e-9)
    again = (jax.jacfwd(jax.grad(answer, 2), 2)(*given, s) for s in (None, Cholesky()))
    np.testing.assert_allclose(*again, rtol=1e-7)


def test_a_second_derivative_of_the_density_is_no_wrong_number():
    def density(noise):
        return prior_of(ICM).log_marginal_likelihood(Y, noise)

    with pytest.raises(ValueError, match="first derivatives.*second one"):
        jax.hessian(density)(jnp.asarray(NOISE))


@pytest.mark.exhaustive
def test_what_is_no_density_is_minus_infinity_with_zero_slope():
    def density(scale):
        return prior_of(ICM).log_marginal_likelihood(Y, NOISE * scale)

    value, slope = jax.jit(jax.value_and_grad(density))(-1.0)
    assert (value, slope) == (-np.inf, 0)


@pytest.mark.parametrize("one_noise", few_of([False, True], False))
def test_outputs_seen_at_different_places(one_noise):
    noise = 0.1 if one_noise else NOISE
    case, rows = dense(ICM, HOLES, np.broadcast_to(noise, (P,))), stacked(Q)
    prior = prior_of(ICM)
    posterior = prior.condition(HOLES, noise)
    assert not is_apart(posterior)
    mean, var = posterior.predict(Q)
    assert relative(mean, table(case.mean(rows))) < 1e-8
    assert relative(var, table(np.diag(case.cov(rows)))) < 1e-8
    density = prior.log_marginal_likelihood(HOLES, noise)
    assert relative(density, case.log_density()) < 1e-8
    one, y, each = prior.stack(HOLES, noise)
    np.testing.assert_array_equal(one.X, case.X)
    np.testing.assert_array_equal(y, case.y)
    assert each.shape == (() if one_noise else y.shape)


def test_what_comes_apart():
    x, outputs = ActiveDims(RBF(), (0, 1)), ActiveDims(Coregionalization(1, 3), (2,))
    assert separated(x * outputs, 3) is not None
    assert separated(2.0 * (outputs * x * ActiveDims(RBF(name="b"), (1,))), 3)
    for kernel in (x, outputs, x + outputs, x * outputs + x, RBF() * outputs):
        assert separated(kernel, 3) is None
    assert separated(DivergenceFree(RBF()), 3) is None


def test_paths_are_functions_of_tables():
    posterior = prior_of(ICM).condition(Y, NOISE)
    paths = MultiOutputSampler(posterior, 128).sample_paths(jax.random.key(1), 3)
    values = paths(Q)
    assert values.shape == (3, 4, P)
    rows = paths.stacked(stacked(Q)).reshape(3, P, 4)
    np.testing.assert_array_equal(values, rows.swapaxes(1, 2))
    np.testing.assert_array_equal(paths[1:](Q), values[1:])
    assert len(paths) == 3 and len(paths[0]) == 1


@pytest.mark.exhaustive
def test_paths_can_be_transformed_and_do_not_depend_on_the_way_to_solve():
    key, prior = jax.random.key(1), prior_of(ICM)
    posteriors = [prior.condition(Y, NOISE, solver=s) for s in (None, Cholesky())]
    apart, together = (
        MultiOutputSampler(posterior, 128).sample_paths(key, 3)
        for posterior in posteriors
    )
    values = apart(Q)
    np.testing.assert_allclose(values, together(Q), rtol=0, atol=1e-9)
    jitted = jax.jit(lambda paths, X: paths(X))(apart, Q)
    np.testing.assert_allclose(jitted, values, rtol=0, atol=1e-12)
    np.testing.assert_allclose(jax.jit(apart)(Q), values, rtol=0, atol=1e-12)
    slopes = apart.gradient(Q)
    assert slopes.shape == (3, 4, P, 1)
    alone = jax.jacfwd(lambda x: apart(x[None])[:, 0])(jnp.asarray(Q[2]))
    np.testing.assert_allclose(slopes[:, 2], alone, atol=1e-10)
    mapped = jax.vmap(lambda x: apart(x[None])[:, 0])(jnp.asarray(Q))
    np.testing.assert_allclose(mapped.swapaxes(0, 1), values, atol=1e-12)


@pytest.mark.exhaustive
def test_paths_have_the_law_of_the_posterior():
    # 12 means and 78 covariances: false alarms once in 9e4.
    posterior, case = prior_of(ICM).condition(Y, NOISE), dense(ICM, Y)
    sampler = MultiOutputSampler(posterior, 1024)
    values = sampler.sample_paths(jax.random.key(0), 4096)(Q)
    draws = posterior.sample(jax.random.key(1), Q, 4096)
    law = case.mean(stacked(Q)), case.cov(stacked(Q))
    for found in (values, draws):
        assert found.shape == (4096, 4, P)
        rows = np.swapaxes(found, 1, 2).reshape(4096, -1)
        assert max(strays(rows, *law)) < 5.3
        # The twin: a table whose columns are in another order.
        other = np.swapaxes(np.asarray(found)[..., ::-1], 1, 2).reshape(4096, -1)
        assert max(strays(other, *law)) > 5.3


@pytest.mark.exhaustive
def test_prior_paths_and_single_precision():
    term = shared(2, 1, 0.5)
    x = np.linspace(0, 1, 4, dtype=np.float32)[:, None]
    kernel = jax.tree.map(lambda leaf: leaf.astype(np.float32), term.library(1))
    prior = MultiOutputPrior(kernel, x, 2)
    drawn = MultiOutputSampler(prior, 64).sample_paths(jax.random.key(0), 2)(x)
    posterior = prior.condition(np.ones((4, 2), np.float32), np.float32(0.1))
    found = drawn, *posterior.predict(x), posterior.log_marginal_likelihood()
    assert {array.dtype.name for array in found} == {"float32"}
    assert is_apart(posterior)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda p: p.condition(np.where([1, 0, 1], Y, np.nan), NOISE),
            "data of every output. Got none of output 1",
        ),
        (lambda p: p.condition(Y.T, NOISE), r"must have shape \(9, 3\).*Got \(3, 9\)"),
        (lambda p: p.condition(Y + np.inf, NOISE), r"Y=...\)` must be finite"),
        (lambda p: p.condition(Y, [0.1, 0.1]), r"must have shape \(\) or \(3,\)"),
        (lambda p: p.condition(Y, -NOISE), "positive finite variance"),
        (lambda p: p.stack(Y, 0.0), "stack.noise_var=...\\)` must be a positive"),
        (lambda p: MultiOutputPrior(p.kernel, X, 4), "whole number from 0 to 2"),
        (lambda p: MultiOutputPrior(p.kernel, X, 0), "n_outputs=...\\)` must be a who"),
        (lambda p: p.condition(Y, NOISE).predict(stacked(Q)), r"shape \(N, 1\)"),
        (
            lambda p: p.condition(Y, NOISE).stacked.condition_on(X, X[:, 0], 0.1),
            "outputs that were taken apart",
        ),
        (
            lambda p: MultiOutputSampler(p.condition(Y, NOISE).stacked),
            "Got a ConditionedGP. For one output use `PathwiseSampler`",
        ),
        (lambda p: PathwiseSampler(p), "Got a MultiOutputPrior"),
    ],
)
def test_bad_input(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call(prior_of(ICM))


@pytest.mark.exhaustive
def test_values_under_jit_raise_when_the_program_runs():
    with pytest.raises(Exception, match=r"y=...\)` must be finite"):
        predict = jax.jit(lambda Y: prior_of(ICM).condition(Y, NOISE).predict_mean(Q))
        jax.block_until_ready(predict(HOLES))


@pytest.mark.exhaustive
def test_an_iterative_solver_takes_all_outputs_together():
    posterior = prior_of(ICM).condition(Y, NOISE, solver=ConjugateGradients(1e-6))
    exact = prior_of(ICM).condition(Y, NOISE).predict_mean(Q)
    np.testing.assert_allclose(posterior.predict_mean(Q), exact, atol=1e-4)


@pytest.mark.exhaustive
def test_over_draws_of_hyperparameters():
    prior, scales = prior_of(ICM), np.array([1.0, 0.5])
    draws = {"RBF.lengthscale": 0.4 * scales}

    def mean_and_paths(draw):
        posterior = substitute(prior, draw).condition(Y, NOISE)
        sampler = MultiOutputSampler(posterior, 64)
        paths = sampler.sample_paths(jax.random.key(0), 2)
        return posterior.predict_mean(Q), paths(Q)

    means, values = jax.vmap(mean_and_paths)(draws)
    assert values.shape == (2, 2, 4, P)
    for mean, scale in zip(means, scales, strict=True):
        term = dataclasses.replace(ICM, lengthscale=0.4 * scale)
        assert relative(mean, table(dense(term, Y).mean(stacked(Q)))) < 1e-8
