"""A mean function is read by the call that is given it, and kept by what it returns."""

import copy
import pickle
import sys
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import central_difference, compilations, few_of
from numpyro import handlers

from pyrox.gp import (
    RBF,
    ConstantMean,
    DecoupledPathwiseSampler,
    FullRankGuide,
    GPPrior,
    PathwiseSampler,
    SparseGPPrior,
    diagnose,
    fit,
    gp_derivatives,
    gp_factor,
    gp_sample,
    svgp_factor,
)

pytestmark = pytest.mark.usefixtures("plainly_compiled")

X = np.linspace(0.0, 1.0, 5)[:, None]
Y = np.zeros(5)
FAR = np.array([[9.0]])
NOISE = 0.1
KEY = jax.random.key(0)

c = 0.0
table = {"level": [0.0]}
written = np.zeros(1)


class Level:
    shared = 0.0

    def __init__(self, value=0.0):
        self.value = value

    def __call__(self, X):
        return jnp.full(X.shape[0], self.value, X.dtype)

    def refitted(self, X):
        return jnp.full(X.shape[0], self.value, X.dtype)

    def by_class(self, X):
        return jnp.full(X.shape[0], self.shared, X.dtype)


class Line(eqx.Module):
    slope: Any

    def __call__(self, X):
        return c + self.slope * X[:, 0]


level = Level()


def constant(X):
    return jnp.full(X.shape[0], c, X.dtype)


def from_a_list(X):
    return jnp.full(X.shape[0], table["level"][0], X.dtype)


def from_an_array(X):
    return jnp.full(X.shape[0], 1.0, X.dtype) * jnp.asarray(written, X.dtype)


def on_the_host(X):
    shape = jax.ShapeDtypeStruct(X.shape[:1], X.dtype)
    return jax.pure_callback(lambda X: np.asarray(constant(X)), shape, X) + c


MEANS = {
    "global": constant,
    "list": from_a_list,
    "array written to": from_an_array,
    "callable object": level,
    "bound method": level.refitted,
    "class attribute": level.by_class,
    "module": Line(np.asarray(0.0)),
}


@pytest.fixture
def raised(monkeypatch):
    """Makes all that a mean function may read say 100."""

    def raise_all():
        monkeypatch.setitem(globals(), "c", 100.0)
        monkeypatch.setitem(table, "level", [100.0])
        monkeypatch.setattr(level, "value", 100.0)
        monkeypatch.setattr(Level, "shared", 100.0)
        written[:] = 100.0

    yield raise_all
    written[:] = 0.0


def prior(mean_fn, X: Any = X):
    return GPPrior(RBF(np.array(1.0), np.array(0.3)), X, mean_fn)


def sparse(mean_fn):
    return SparseGPPrior(RBF(np.array(1.0), np.array(0.3)), X, mean_fn)


def guide():
    """q(u) = N(0, I) at the inducing inputs."""
    return FullRankGuide(np.zeros(5), np.eye(5))


def fitted(mean_fn):
    fixed = ("RBF.variance", "RBF.lengthscale")
    y = Y + 1.0
    found = fit(prior(mean_fn), y, NOISE, fixed=fixed, tolerance=1e9, progress=False)
    return found.log_marginal_likelihood


# What each public call answers that is given a prior, from which a mean of 100 is seen.
CALLS = {
    "condition": lambda m: prior(m).condition(Y, NOISE).predict_mean(FAR),
    "log density": lambda m: prior(m).log_marginal_likelihood(Y, NOISE),
    "posterior's": lambda m: prior(m).condition(Y, NOISE).log_marginal_likelihood(),
    "sample": lambda m: prior(m).sample(KEY),
    "prior paths": lambda m: PathwiseSampler(prior(m), 8, "iid").sample_paths(KEY)(FAR),
    "guide": lambda m: guide().predict(sparse(m), FAR)[0],
    "elbo": lambda m: guide().elbo(sparse(m), X, Y, NOISE),
    "kl": lambda m: guide().kl(sparse(m)),
    "sparse paths": lambda m: DecoupledPathwiseSampler(sparse(m), guide(), 8, "iid")(
        KEY, FAR
    ),
}


@pytest.mark.exhaustive
@pytest.mark.parametrize("mean", list(MEANS))
def test_the_mean_of_now_and_one_for_each_posterior(mean, raised, x64):
    """For queries of one row and of two, which are different programs."""
    given = prior(MEANS[mean])
    before = given.condition(Y, NOISE)
    paths = PathwiseSampler(before, 8, "iid").sample_paths(KEY, 2)
    assert before.predict_mean(FAR) == 0
    values = paths(FAR)
    raised()
    after = given.condition(Y, NOISE)
    for posterior, wanted in ((before, 0.0), (after, 100.0)):
        for n in (1, 2):
            found = posterior.predict_mean(np.repeat(FAR, n, axis=0))
            np.testing.assert_allclose(found, np.full(n, wanted), atol=1e-9)
    assert np.array_equal(paths(FAR), values)
    np.testing.assert_allclose(paths(np.repeat(FAR, 3, axis=0))[:, 2:], values)
    moved = PathwiseSampler(after, 8, "iid").sample_paths(KEY, 2)(FAR)
    np.testing.assert_allclose(moved, values + 100, rtol=1e-9)


@pytest.mark.parametrize("call", few_of(CALLS, "log density", "elbo", "sample"))
def test_each_call_reads(call, raised, x64):
    def reads(X):
        return constant(X)

    def right(X):
        return jnp.full(X.shape[0], 100.0, X.dtype)

    answer = CALLS[call]
    before = answer(reads)
    raised()
    np.testing.assert_allclose(answer(reads), answer(right), rtol=1e-12)
    assert np.all(np.abs(np.asarray(answer(reads)) - np.asarray(before)) > 1)


@pytest.mark.exhaustive
@pytest.mark.numpyro
def test_the_factors_of_a_model_read(raised, x64):
    def answers(mean_fn):
        with handlers.seed(rng_seed=0), handlers.trace() as sites:
            returned = gp_factor("obs", prior(mean_fn), Y, NOISE)
            gp_sample("f", prior(mean_fn))
            gp_derivatives("slope", prior(mean_fn), Y, NOISE, X, 0)
            svgp_factor("elbo", sparse(mean_fn), guide(), X, Y, NOISE)
        names = "obs", "slope_data", "elbo"
        factors = [sites[n]["fn"].log_prob(sites[n]["value"]) for n in names]
        mean = returned.condition(Y, NOISE).predict_mean(FAR)[0]
        return np.array([*factors, sites["f"]["value"].mean(), mean])

    before = answers(constant)
    raised()
    found = answers(constant)
    np.testing.assert_allclose(found, answers(Level(100.0)), rtol=1e-12)
    assert np.all(np.abs(found - before) > 1)


@pytest.mark.exhaustive
def test_fit_reads(raised, x64):
    before = fitted(constant)
    raised()
    assert abs(fitted(constant) - before) > 1
    found = fit(prior(Line(np.array(0.5))), Y + 100.0, NOISE, progress=False)
    mean: Any = found.prior.mean_fn  # trains the slope alone, not what is read
    assert mean.slope.shape == () and abs(float(mean.slope)) < 1.0


@pytest.mark.exhaustive
def test_diagnose_takes_the_mean_of_the_path(raised, x64):
    paths = PathwiseSampler(prior(constant).condition(Y, NOISE)).sample_paths(KEY)
    raised()
    assert diagnose(paths, X).mean_error < 1e-6


@pytest.mark.exhaustive
def test_what_has_not_changed_compiles_nothing(x64):
    def use(c):
        given = prior(lambda X: jax.nn.relu(c * X[:, 0]) + jnp.asarray(Y)[0])
        posterior = given.condition(Y, NOISE)
        paths = PathwiseSampler(posterior, 8, "iid").sample_paths(KEY, 2)
        given.log_marginal_likelihood(Y, NOISE)
        guide().predict(sparse(given.mean_fn), X)
        return np.asarray(paths(X)), np.asarray(posterior.predict_mean(X))

    first = use(0.5)
    with compilations() as programs:
        second = use(0.5)
    assert not programs and np.array_equal(first[0], second[0])
    with compilations() as programs:
        use(0.25)
    assert programs


@pytest.mark.exhaustive
def test_a_parameter_of_the_model_by_jit_vmap_and_grad(x64):
    """A mean that closes over a traced value is the module with that value."""

    def answers(slope, mean_fn):
        posterior = prior(mean_fn(slope)).condition(Y + 1.0, NOISE)
        paths = PathwiseSampler(posterior, 8, "iid").sample_paths(KEY, 1)
        density = prior(mean_fn(slope)).log_marginal_likelihood(Y + 1.0, NOISE)
        return jnp.concatenate(
            [paths(FAR)[0], posterior.predict_mean(FAR), density[None]]
        )

    def closed(slope):
        return lambda X: slope * X[:, 0]

    slopes = np.array([0.5, 2.0])
    expected = np.stack([answers(jnp.asarray(s), Line) for s in slopes])
    by_jit = jax.jit(lambda s: answers(s, closed))
    np.testing.assert_allclose([by_jit(s) for s in slopes], expected, rtol=1e-9)
    by_vmap = jax.vmap(lambda s: answers(s, closed))(slopes)
    np.testing.assert_allclose(by_vmap, expected, rtol=1e-9)
    jacobian = jax.jacrev(lambda s: answers(s, closed))(slopes[0])
    for i, slope in enumerate(jacobian):
        right = central_difference(lambda s, i=i: by_jit(s)[i], slopes[0])
        np.testing.assert_allclose(slope, right, rtol=1e-6)


@pytest.mark.exhaustive
def test_paths_and_posteriors_leave_a_program_with_their_mean(x64):
    @jax.jit
    def draw(slope):
        posterior = prior(lambda X: slope * X[:, 0]).condition(Y, NOISE)
        return posterior, PathwiseSampler(posterior, 8, "iid").sample_paths(KEY, 2)

    posterior, paths = draw(2.0)
    np.testing.assert_allclose(posterior.predict_mean(FAR), [18.0], rtol=1e-6)
    assert np.abs(paths(FAR) - 18.0).max() < 5
    stacked = jax.vmap(lambda s: draw(s)[0])(np.array([1.0, 2.0]))
    found = jax.vmap(lambda p: p.predict_mean(jnp.asarray(FAR)))(stacked)
    np.testing.assert_allclose(found[:, 0], [9.0, 18.0], rtol=1e-6)


@pytest.mark.exhaustive
def test_no_tracer_is_left_behind():
    def density(slope):
        given = GPPrior(RBF(), np.float32(X), lambda X: jax.nn.relu(slope * X[:, 0]))
        return given.log_marginal_likelihood(np.float32(Y), 0.1)

    with jax.checking_leaks():
        jax.jit(density)(1.0)
        jax.grad(density)(1.0)


@pytest.mark.exhaustive
def test_a_query_of_either_width(x64):
    """float32 data, a float64 query: the mean is that of the query's width."""
    given = prior(lambda X: 1e4 * X[:, 0], np.float32(X))
    posterior = given.condition(np.float32(1e4 * X[:, 0]), np.float32(NOISE))
    far = np.array([[9.123456789]])
    with jax.numpy_dtype_promotion("standard"):
        assert abs(posterior.predict_mean(far)[0] - 91234.56789) < 1e-6
    found = posterior.predict_mean(np.float32(far))
    assert found.dtype == np.float32 and abs(found[0] - 91234.56789) < 1e-2
    paths = PathwiseSampler(prior(lambda X: X[:, 0]), 8, "iid").sample_paths(KEY)
    short = paths.astype(np.float32)(np.float32(X))
    assert short.dtype == np.float32
    np.testing.assert_allclose(short, paths(X), atol=1e-5)


@pytest.mark.parametrize(
    "mean_fn",
    [
        lambda X: X.squeeze(),
        lambda X: jnp.sum(X, axis=1),
        lambda X: jnp.full(X.shape[0], 0.5) * X[:, 0],
        lambda X: jax.vmap(lambda x: jnp.sin(x[0]) * x @ x)(X),
        lambda X: jnp.concatenate([X, X**2], axis=1) @ jnp.asarray([1.0, 2.0]),
        on_the_host,
    ],
)
def test_a_mean_written_for_rows_is_mapped_over_them(mean_fn, x64):
    posterior = prior(mean_fn).condition(Y, NOISE)
    far = 9.0 + np.arange(3.0)[:, None]
    found = posterior.predict_mean(far)
    np.testing.assert_allclose(found, mean_fn(jnp.asarray(far)), rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize(
    ("mean_fn", "match"),
    [
        (lambda X: X, r"shape \(5,\) for X of shape \(5, 1\). Got \(5, 1\)"),
        (lambda X: X[0], r"shape \(5,\).* Got \(1,\)"),
        (lambda X: jnp.sum(X), r"shape \(5,\).* Got \(\)"),
        (lambda X: jnp.asarray(Y), r"shape \(1,\).* Got \(5,\)"),
        (lambda X: X[:, 0] - jnp.mean(X), "each row the value that it gives that row"),
        (lambda X: np.sin(X[:, 0]), "`mean_fn` must be .*jax.numpy.*pure_callback"),
    ],
)
def test_what_is_no_mean_function_is_said(mean_fn, match, x64):
    with pytest.raises(ValueError, match=match):
        prior(mean_fn).condition(Y, NOISE)


def test_a_lambda_cannot_be_pickled_and_says_so(x64, monkeypatch):
    # JAX loads cloudpickle where it is installed, which can.
    for name in [*sys.modules]:
        if name.endswith(("cloudpickle", "dill")):
            monkeypatch.delitem(sys.modules, name)
    given = prior(lambda X: X[:, 0])
    for thing in (given, given.condition(Y, NOISE)):
        with pytest.raises(pickle.PicklingError, match="Define it by `def`"):
            pickle.dumps(thing)
        assert jax.tree.leaves(copy.deepcopy(thing).kernel)[0] == 1.0
    traced = jax.jit(lambda s: prior(lambda X: s * X[:, 0]).condition(Y, NOISE))(1.0)
    with pytest.raises(pickle.PicklingError, match="Equinox module"):
        pickle.dumps(traced)


def test_a_pickled_posterior_has_the_mean_that_it_was_made_with(raised, x64):
    kept = prior(from_an_array).condition(Y, NOISE)
    lost = prior(constant).condition(Y, NOISE)
    texts = pickle.dumps(kept), pickle.dumps(lost)
    raised()
    assert abs(pickle.loads(texts[0]).predict_mean(FAR)[0]) < 1e-9
    with pytest.raises(pickle.UnpicklingError, match="something else now"):
        pickle.loads(texts[1])


def test_a_constant_mean_shifts_what_is_known():
    y = np.sin(5 * X[:, 0])
    shifted = GPPrior(RBF(), X, ConstantMean(7.0)).condition(y + 7.0, NOISE)
    plain = GPPrior(RBF(), X).condition(y, NOISE)
    mean = shifted.predict_mean(FAR)
    np.testing.assert_allclose(mean, plain.predict_mean(FAR) + 7.0, rtol=1e-6)
    assert float(mean[0]) > 6.9  # far from all data
    paths = PathwiseSampler(shifted, 64).sample_paths(KEY, 3)
    same = PathwiseSampler(plain, 64).sample_paths(KEY, 3)
    np.testing.assert_allclose(paths(X), same(X) + 7.0, rtol=1e-5)


def test_a_constant_mean_is_fitted_as_by_generalised_least_squares():
    y = 40.0 + 3 * np.sin(5 * X[:, 0])
    prior = GPPrior(RBF(2.0, 0.3), X, ConstantMean(39.0))
    kept = ["RBF.variance", "RBF.lengthscale", "noise_var"]
    found = fit(prior, y, NOISE, fixed=kept, progress=False)
    mean_fn = found.prior.mean_fn
    assert isinstance(mean_fn, ConstantMean)
    gram = 2.0 * np.exp(-((X - X.T) ** 2) / (2 * 0.3**2)) + NOISE * np.eye(len(X))
    weights = np.linalg.solve(gram, np.ones(len(X)))
    expected = weights @ y / weights.sum()
    np.testing.assert_allclose(mean_fn.value, expected, rtol=1e-4)
    assert abs(expected - y.mean()) > 0.1  # rows count by what they add


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (np.zeros(2), r"must be one number. Got shape \(2,\)"),
        (np.nan, r"`ConstantMean\(value\)`"),
        ("7", r"`ConstantMean\(value\)`"),
    ],
)
def test_a_constant_mean_is_one_finite_number(value, said):
    with pytest.raises(ValueError, match=said):
        ConstantMean(value)
