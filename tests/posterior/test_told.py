"""`posterior.condition_on`: the posterior of all data at once, without its factor."""

# Wrong arguments are passed on purpose.
# pyright: reportArgumentType=false

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import KERNELS, central_difference, few_of, kernels, trees_equal

from pyrox.gp import RBF, Derivatives, GPPrior, Linear, Matern
from pyrox.gp._numerics.jaxprs import equations

pytestmark = pytest.mark.usefixtures("plainly_compiled")

_rng = np.random.default_rng(3)
X, QUERIES = _rng.uniform(0, 2, (20, 2)), _rng.uniform(0, 2, (5, 2))
X[15] = X[2]  # an old row once more
Y = np.sin(3 * X[:, 0]) + 0.2 * _rng.normal(size=20)
NOISE = _rng.uniform(0.01, 0.1, 20)
NAMES = [name for name in KERNELS if name != "with-priors"]
N, M = 12, 4  # the old values, and the derivatives


def slopes() -> Derivatives:
    return Derivatives(X[:M], [0, 1, 0, 1], np.array([0.1, -0.3, 0.5, 0.2]), 0.07)


def mean_fn(points):
    return 0.5 * points[:, 0] - 0.2


def process(kernel=None, n: int = 20) -> GPPrior:
    return GPPrior(Matern(2.5, 1.3, 0.6) if kernel is None else kernel, X[:n], mean_fn)


def told(posterior: Any, *cuts: int) -> Any:
    """It, told the rest in pieces that end at these rows."""
    for low, high in zip((N, *cuts[:-1]), cuts, strict=True):
        rows = slice(low, high)
        posterior = posterior.condition_on(X[rows], Y[rows], NOISE[rows])
    return posterior


def assert_same(ours, whole, rtol=1e-10, names=()):
    """Every answer of two posteriors is the same."""
    asked: dict[str, Callable[[Any], Any]] = {
        "mean": lambda p: p.predict_mean(QUERIES),
        "var": lambda p: p.predict_var(QUERIES),
        "cov": lambda p: p.predict_cov(QUERIES),
        "weights": lambda p: p.weights,
        "evidence": lambda p: p.log_marginal_likelihood(),
        "left out": lambda p: p.leave_one_out_log_density(),
        "noise": lambda p: jnp.broadcast_to(p.noise_var, p.y.shape) + 0 * p.y,
        "jitter": lambda p: p.jitter_var,
        "variances": lambda p: p.inverse.variances(),
    }
    for name in names or asked:
        ask = asked[name]
        got, want = np.asarray(ask(ours)), np.asarray(ask(whole))
        scale = np.abs(want).max()
        np.testing.assert_allclose(got, want, rtol=0, atol=rtol * scale, err_msg=name)


@pytest.mark.parametrize("name", few_of(NAMES, "Matern52-vector"))
def test_it_is_the_posterior_of_all_data(x64, name):
    kernel = kernels(2)[name]
    whole = process(kernel).condition(Y, NOISE)
    ours = told(process(kernel, N).condition(Y[:N], NOISE[:N]), 15, 20)
    assert_same(ours, whole)
    assert trees_equal(ours.prior.X, whole.prior.X) and trees_equal(ours.y, whole.y)


@pytest.mark.exhaustive
def test_every_answer_with_derivatives_is_that_of_all_data(x64):
    whole = process().condition(Y, NOISE, slopes())
    ours = told(process(n=N).condition(Y[:N], NOISE[:N], slopes()), 15, 20)
    assert_same(ours, whole)
    covariances = [p.predict_gradient(QUERIES)[1] for p in (ours, whole)]
    np.testing.assert_allclose(*covariances, rtol=0, atol=1e-10)


@pytest.mark.exhaustive
def test_derivatives_stay_behind_the_values(x64):
    whole = process().condition(Y, NOISE, slopes())
    ours = told(process(n=N).condition(Y[:N], NOISE[:N], slopes()), 15, 20)
    assert_same(ours, whole, names=("weights", "var", "variances", "jitter"))


@pytest.mark.parametrize("with_slopes", few_of([False, True], False))
def test_rows_not_observed_stay_out(x64, with_slopes):
    """The first of the old rows among them, which has no jitter."""
    seen, given = np.arange(N) % 4 != 0, slopes() if with_slopes else None
    y = np.where(seen, Y[:N], np.nan)
    among = process(n=N).condition(y, NOISE[:N], given, observed=seen)
    keep = np.concatenate([seen, np.ones(20 - N, bool)])
    alone = GPPrior(process().kernel, X[keep], mean_fn)
    alone = alone.condition(Y[keep], NOISE[keep], given)
    names = ("mean", "var", "cov", "evidence")
    assert_same(told(among, 16, 20), alone, names=names)


def test_it_is_the_formula(x64):
    """In NumPy: one dense solve of all data, with the jitter of the old ones."""
    kernel, jitter = RBF(1.3, 0.6), 1e-6 * 1.3
    posterior = GPPrior(kernel, X[:N], jitter=1e-6).condition(Y[:N], 0.05)
    posterior = posterior.condition_on(X[N:], Y[N:], NOISE[N:])

    def gram(A, B):
        return 1.3 * np.exp(-((A[:, None] - B[None]) ** 2).sum(-1) / (2 * 0.6**2))

    noise = np.concatenate([np.full(N, 0.05), NOISE[N:]])
    gain = np.linalg.solve(gram(X, X) + np.diag(noise + jitter), gram(X, QUERIES)).T
    mean, cov = gain @ Y, gram(QUERIES, QUERIES) - gain @ gram(X, QUERIES)
    np.testing.assert_allclose(posterior.predict_mean(QUERIES), mean, atol=1e-10)
    np.testing.assert_allclose(posterior.predict_cov(QUERIES), cov, atol=1e-10)


def test_the_old_factor_is_not_copied(x64):
    posterior: Any = process(n=N).condition(Y[:N], NOISE[:N])
    extended = told(posterior, 15, 20).inverse
    assert extended.root.lower.unsafe_buffer_pointer() == (
        posterior.inverse.lower.unsafe_buffer_pointer()
    )


MANY = [(4, False), (4, True), (100, False), (100, True)]


@pytest.mark.parametrize(("n", "with_slopes"), few_of(MANY))
def test_many_updates_do_not_drift(x64, n, with_slopes):
    rng = np.random.default_rng(n)
    points, values = rng.uniform(0, 2, (n, 2)), rng.normal(size=n)
    given = slopes() if with_slopes else None
    start = process(n=N).condition(Y[:N], NOISE[:N], given)
    whole = start.condition_on(points, values, 0.02)
    one_by_one = start
    for point, value in zip(points, values, strict=True):
        one_by_one = one_by_one.condition_on(point[None], value[None], 0.02)
    assert_same(one_by_one, whole, rtol=1e-8)


def test_a_linear_kernel_keeps_the_jitter_of_the_old_values(x64):
    posterior = GPPrior(Linear(), X[:N], jitter=1e-3).condition(Y[:N], 0.1)
    more = posterior.condition_on(X[N:], Y[N:], 0.1)
    assert more.jitter_var == posterior.jitter_var
    noise = 0.1 + float(posterior.jitter_var)
    covariance = X @ X.T + noise * np.eye(20)
    mean = QUERIES @ X.T @ np.linalg.solve(covariance, Y)
    np.testing.assert_allclose(more.predict_mean(QUERIES), mean, atol=1e-10)


# --- Transforms ----------------------------------------------------------------------


@pytest.mark.exhaustive
def test_fantasies_share_one_factor(x64):
    posterior = process(n=N).condition(Y[:N], NOISE[:N])
    ys = np.random.default_rng(0).normal(size=(7, 8))

    def fantasy(y):
        return posterior.condition_on(X[N:], y, 0.05).predict_mean(QUERIES)

    found = jax.vmap(fantasy)(ys)
    np.testing.assert_allclose(found, np.stack([fantasy(y) for y in ys]), atol=1e-12)
    program = jax.make_jaxpr(jax.vmap(fantasy))(ys)
    outputs = [v for eqn in equations(program.jaxpr) for v in eqn.outvars]
    shapes = [getattr(v.aval, "shape", ()) for v in outputs]
    assert (7, 8) in shapes  # the values are mapped over,
    matrices = [s for s in shapes if len(s) == 3 and s[0] == 7 and min(s[1:]) > 1]
    assert not matrices  # and no matrix is


def answer(X_new, y, noise_var, given=None):
    posterior = process(n=N).condition(Y[:N], NOISE[:N], given)
    posterior = posterior.condition_on(X_new, y, noise_var)
    mean, var = posterior.predict(QUERIES)
    return jnp.sum(jnp.sin(mean)) + jnp.sum(var**2) * 10


@pytest.mark.exhaustive
@pytest.mark.parametrize("with_slopes", [False, True])
def test_derivatives_are_those_of_differences(x64, with_slopes):
    f = functools.partial(answer, given=slopes() if with_slopes else None)
    at = X[N:15], Y[N:15], NOISE[N:15]
    gradients = jax.jit(jax.grad(f, (0, 1, 2)))(*map(jnp.asarray, at))
    g = jax.jit(f)
    for i, gradient in enumerate(gradients):

        def moved(x, i=i):
            return g(*at[:i], x, *at[i + 1 :])

        difference = central_difference(moved, at[i])
        np.testing.assert_allclose(gradient, difference, rtol=1e-6, atol=1e-8)


@pytest.mark.exhaustive
def test_float32_is_near_float64():
    def answers(dtype):
        X_, y, noise = (a.astype(dtype) for a in (X, Y, NOISE))
        prior = GPPrior(Matern(2.5, 1.3, 0.6), X_[:N], jitter=1e-5)
        posterior = prior.condition(y[:N], noise[:N])
        posterior = posterior.condition_on(X_[N:], y[N:], noise[N:])
        found = posterior.predict(QUERIES.astype(dtype))
        assert {a.dtype for a in jax.tree.leaves((found, posterior))} == {dtype}
        return found

    single = answers(np.dtype("float32"))
    with jax.enable_x64(True):
        prior = GPPrior(Matern(2.5, 1.3, 0.6), X[:N], jitter=1e-5)
        double = prior.condition(Y[:N], NOISE[:N])
        double = double.condition_on(X[N:], Y[N:], NOISE[N:]).predict(QUERIES)
    for ours, wanted in zip(single, double, strict=True):
        np.testing.assert_allclose(ours, wanted, rtol=1e-3, atol=1e-4)


def test_wider_data_widen_the_posterior(x64):
    narrow = GPPrior(RBF(), X[:N].astype("float32"), jitter=1e-4)
    posterior = narrow.condition(Y[:N].astype("float32"), np.float32(0.1))
    more: Any = posterior.condition_on(X[N:], Y[N:], 0.1)
    assert more.weights.dtype == more.inverse.root.lower.dtype == "float64"
    whole = GPPrior(RBF(), X, jitter=1e-4).condition(Y, 0.1)
    ours, wanted = more.predict_mean(QUERIES), whole.predict_mean(QUERIES)
    np.testing.assert_allclose(ours, wanted, atol=1e-4)


# --- Sentences -----------------------------------------------------------------------

CALL = r"`ConditionedGP.condition_on\("
BAD = {
    "X (Q,)": ((X[N:, 0], Y[N:], 0.1), CALL + r"X=...\)` must have shape \(N, D\)"),
    "X of other columns": ((X[N:, :1], Y[N:], 0.1), CALL + r"X=...\)` must have shape"),
    "X with NaN": ((X[N:] * np.nan, Y[N:], 0.1), CALL + r"X=...\)` must be finite"),
    "no rows": ((X[:0], Y[:0], 0.1), "at least one row"),
    "y (Q, 1)": ((X[N:], Y[N:, None], 0.1), CALL + r"y=...\)` must have .*`y\[:, 0\]`"),
    "y with inf": ((X[N:], Y[N:] * np.inf, 0.1), CALL + r"y=...\)` must be finite"),
    "noise zero": ((X[N:], Y[N:], 0.0), CALL + r"noise_var=...\)` must be a positive"),
    "noise (3,)": ((X[N:], Y[N:], NOISE[:3]), r"must have shape \(\) or \(8,\)"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_does_not_fit_is_a_sentence(case):
    arguments, sentence = BAD[case]
    with pytest.raises(ValueError, match=sentence):
        process(n=N).condition(Y[:N], 0.1).condition_on(*arguments)


@pytest.mark.parametrize("case", ["X with NaN", "y with inf", "noise zero"])
def test_values_are_looked_at_when_the_program_runs(case):
    arguments, sentence = BAD[case]
    posterior = process(n=N).condition(Y[:N], 0.1)

    @jax.jit
    def mean(X, y, noise_var):
        return posterior.condition_on(X, y, noise_var).predict_mean(QUERIES)

    with pytest.raises(Exception, match=sentence):
        mean(*map(jnp.asarray, arguments)).block_until_ready()


def test_a_block_without_a_factor_is_a_sentence():
    posterior = GPPrior(RBF(1.0, 9.0), X[:N], jitter=0.0).condition(Y[:N], 1.0)
    twice = np.repeat(QUERIES, 8, axis=0)
    with pytest.raises(ValueError, match="given the old ones, .* a larger noise_var"):
        posterior.condition_on(twice, np.zeros(40), 1e-12)


def test_stacked_posteriors_are_mapped_over():
    prior = process(n=N)
    stacked = eqx.filter_vmap(lambda y: prior.condition(y, 0.1))(np.stack([Y[:N]] * 2))
    with pytest.raises(ValueError, match="stacked.*Map over them: `jax.vmap"):
        stacked.condition_on(X[N:], Y[N:], 0.1)


def test_it_warns_where_the_type_loses_the_mean():
    long = GPPrior(RBF(1.0, 30.0), X[:N], jitter=1e-7)
    posterior = long.condition(Y[:N], 1.0)
    with pytest.warns(
        RuntimeWarning, match="ConditionedGP.condition_on`: float32"
    ) as w:
        posterior.condition_on(X[N:], 100 * Y[N:], 1e-4)
    assert w[0].filename == __file__
