"""`paths.condition_on`: Matheron's rule for all data, with the draws of before."""

# Wrong arguments are passed on purpose.
# pyright: reportArgumentType=false

import copy
import inspect
import pickle
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _moments import (
    GUIDES,
    UnitVectors,
    eager_samplers,
    false_alarm,
    guide,
    problem,
    relative_error,
    strays,
    strict_float64,
    trend,
)
from helpers import central_difference, few_of, trees_equal

from pyrox.gp import (
    RBF,
    DecoupledPathwiseSampler,
    Derivatives,
    GPPrior,
    Matern,
    PathwiseSampler,
    diagnose,
    paths_over_draws,
)
from pyrox.gp._paths import samplers, told
from pyrox.gp._posterior import guide as q_of_u
from pyrox.gp._posterior.derivatives import cross_gram, gram, observe

pytestmark = pytest.mark.usefixtures("plainly_compiled")

N_OLD, N_NEW, N_FEATURES = 7, 3, 48
KEY = jax.random.key(5)
ROUNDING = 1e-9


@pytest.fixture(autouse=True)
def _strict():
    with strict_float64():
        yield


# --- Exact moments -------------------------------------------------------------------


@pytest.fixture
def eager(monkeypatch):
    eager_samplers(monkeypatch)
    monkeypatch.setattr(told, "told", inspect.unwrap(told.told))
    monkeypatch.setattr(told, "_told", inspect.unwrap(told._told))


def with_unit_noise(monkeypatch, draws: UnitVectors, scale: float = 1.0):
    """New noise from `draws`; a scale of zero is the mistake to forget it."""

    def unit(given, n, dtype):
        new = draws.normal(jax.random.key(99), (draws.n_draws, n), dtype)
        return given.key, scale * new

    monkeypatch.setattr(told, "fresh_noise", unit)


def small(kind: str = "Matern-3/2"):
    return problem(kind, N_OLD + N_NEW, 6, 2, jitter=0.05)


def new_data(case) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return case.X[N_OLD:], case.y[N_OLD:], case.noise_var[N_OLD:]


def old_posterior(case):
    old = GPPrior(case.kernel.library(), case.X[:N_OLD], case.mean_fn, case.jitter)
    return old.condition(case.y[:N_OLD], case.noise_var[:N_OLD])


def exact_errors(monkeypatch, case, scale: float = 1.0) -> list[float]:
    draws = UnitVectors(N_FEATURES + N_OLD, N_NEW)
    monkeypatch.setattr(samplers, "jr", draws)
    with_unit_noise(monkeypatch, draws, scale)
    sampler = PathwiseSampler(old_posterior(case), N_FEATURES)
    paths = sampler.sample_paths(KEY, draws.n_draws)
    paths = paths.condition_on(*new_data(case))
    mean, cov = draws.moments(paths(case.queries))
    process = case.exact()
    wanted = process.mean(case.queries), process.path_cov(case.queries, paths.features)
    return [relative_error(mean, wanted[0]), relative_error(cov, wanted[1])]


@pytest.mark.parametrize("kind", few_of(["RBF", "Matern-3/2"]))
def test_told_paths_have_the_moments_of_all_data(monkeypatch, eager, kind):
    assert max(exact_errors(monkeypatch, small(kind))) < ROUNDING


@pytest.mark.exhaustive
def test_without_new_noise_the_moments_are_others(monkeypatch, eager):
    assert max(exact_errors(monkeypatch, small(), scale=0.0)) > 1e-3


def prior_errors(monkeypatch, case) -> float:
    draws = UnitVectors(N_FEATURES + 1, len(case.y))
    monkeypatch.setattr(samplers, "jr", draws)
    with_unit_noise(monkeypatch, draws)
    prior = GPPrior(case.kernel.library(), case.X[:1], case.mean_fn, case.jitter)
    paths = PathwiseSampler(prior, N_FEATURES).sample_paths(KEY, draws.n_draws)
    paths = paths.condition_on(case.X, case.y, case.noise_var)
    mean, cov = draws.moments(paths(case.queries))
    process = case.exact()
    cov_wanted = process.path_cov(case.queries, paths.features)
    mean_error = relative_error(mean, process.mean(case.queries))
    return max(mean_error, relative_error(cov, cov_wanted))


@pytest.mark.exhaustive
def test_paths_of_a_prior_have_the_moments_of_a_posterior(monkeypatch, eager):
    assert prior_errors(monkeypatch, small()) < ROUNDING


def sparse_errors(monkeypatch, kind: str, scale: float = 1.0) -> list[float]:
    """Of a path of q(f), told in two pieces, against conditioning q(f) densely."""
    case, jitter_var = small(), small().jitter_var
    extra = np.random.default_rng(8).random((N_NEW, 2))
    y, noise = np.array([0.4, -0.2, 0.9]), np.array([0.05, 0.1, 0.02])
    n = len(case.X)
    draws = UnitVectors(n, N_FEATURES + n, 1, N_NEW - 1)
    for module in (q_of_u, samplers):
        monkeypatch.setattr(module, "jr", draws)
    keys = iter([jax.random.key(98), jax.random.key(99)])

    def unit(given, q, dtype):
        new = draws.normal(next(keys), (draws.n_draws, q), dtype)
        return given.key, scale * new

    monkeypatch.setattr(told, "fresh_noise", unit)
    sampler = DecoupledPathwiseSampler(case.sparse_prior(), guide(kind, n), N_FEATURES)
    paths = sampler.sample_paths(KEY, draws.n_draws)
    features = paths.features
    paths = paths.condition_on(extra[:1], y[:1], noise[:1])
    paths = paths.condition_on(extra[1:], y[1:], noise[1:])
    mean, cov = draws.moments(paths(case.queries))
    q, points = case.sparse(kind), np.concatenate([case.queries, extra])
    m, (prior_mean, cov_paths) = (
        len(case.queries),
        (
            q.mean(points),
            q.path_cov(points, features),
        ),
    )
    S = q.cov(points)[m:, m:] + np.diag(noise + jitter_var)
    gain = np.linalg.solve(S, q.cov(points)[m:, :m]).T
    left = np.hstack([np.eye(m), -gain])
    cov_wanted = left @ cov_paths @ left.T + gain @ np.diag(noise + jitter_var) @ gain.T
    wanted = prior_mean[:m] + gain @ (y - prior_mean[m:]), cov_wanted
    # What is said of the anchors is the same posterior: mean and covariance by it.
    given: Any = paths.given
    anchors, noise_var = np.asarray(paths.anchors), np.asarray(given.noise_var)
    A = q.kernel(anchors, anchors) + np.diag(noise_var)
    B = np.linalg.solve(A, q.kernel(anchors, case.queries)).T
    said = trend(case.queries) + B @ (np.asarray(given.mean) - trend(anchors))
    root = B @ np.asarray(given.root)
    K = q.kernel(case.queries, case.queries)
    cov_said = K - B @ A @ B.T + root @ root.T
    exact = q.cov(points)[:m, :m] - gain @ q.cov(points)[m:, :m]
    return [
        relative_error(mean, wanted[0]),
        relative_error(cov, wanted[1]),
        relative_error(said, wanted[0]),
        relative_error(cov_said, exact),
    ]


@pytest.mark.parametrize("kind", few_of(GUIDES))
def test_decoupled_paths_are_conditioned_as_their_process(monkeypatch, eager, kind):
    assert max(sparse_errors(monkeypatch, kind)) < ROUNDING


@pytest.mark.exhaustive
def test_decoupled_paths_without_new_noise_are_noticed(monkeypatch, eager):
    assert max(sparse_errors(monkeypatch, "FullRankGuide", scale=0.0)) > 1e-3


@pytest.mark.exhaustive
@pytest.mark.parametrize("with_noise", [True, False])
def test_the_law_of_told_paths_by_counting(with_noise, monkeypatch):
    """40,000 paths, 6 means and 21 covariances, within 5.3 standard errors: a false
    alarm in 3e5 runs."""
    assert false_alarm(5.3, 27) < 1 / 3e5
    if not with_noise:
        kept = told.fresh_noise
        monkeypatch.setattr(told, "told", inspect.unwrap(told.told))
        monkeypatch.setattr(told, "_told", inspect.unwrap(told._told))

        def none(*args):
            key, noise = kept(*args)
            return key, 0 * noise

        monkeypatch.setattr(told, "fresh_noise", none)
        module = inspect.getmodule(type(plain()))
        monkeypatch.setattr(module, "told", told.told)
    case = small()
    paths = PathwiseSampler(old_posterior(case), N_FEATURES).sample_paths(KEY, 40_000)
    paths = paths.condition_on(*(part[:1] for part in new_data(case)))
    paths = paths.condition_on(*(part[1:] for part in new_data(case)))
    process = case.exact()
    cov = process.path_cov(case.queries, paths.features)
    found = strays(paths(case.queries), process.mean(case.queries), cov)
    assert (max(found) < 5.3) == with_noise


# --- The same draws ------------------------------------------------------------------

_rng = np.random.default_rng(2)
X, QUERIES = _rng.uniform(0, 2, (20, 2)), _rng.uniform(0, 2, (5, 2))
X[15] = X[2]  # an old row once more
Y = np.sin(3 * X[:, 0]) + 0.2 * _rng.normal(size=20)
NOISE = _rng.uniform(0.01, 0.1, 20)
N = 12
NEW = X[N:], Y[N:], NOISE[N:]


def slopes():
    return Derivatives(X[:4], [0, 1, 0, 1], np.array([0.1, -0.3, 0.5, 0.2]), 0.07)


def mean_fn(points):
    return 0.5 * points[:, 0] - 0.2


def plain(n_paths: int = 4, derivatives=None, key=KEY):
    prior = GPPrior(Matern(2.5, 1.3, 0.6), X[:N], mean_fn)
    posterior = prior.condition(Y[:N], NOISE[:N], derivatives)
    return PathwiseSampler(posterior, 64).sample_paths(key, n_paths)


def prior_draw(paths, points, sites=None):
    """The paths before data, at points and sites: (S, U)."""

    def values(rows):
        drawn = paths.features(rows) @ paths.feature_weights.T
        return jnp.broadcast_to(mean_fn(rows)[:, None], drawn.shape) + drawn

    return np.asarray(observe(values, jnp.asarray(points), sites).T)


def one_shot(paths, new, noise):
    """The update weights of Matheron's rule for all data at once, by dense solves, with
    the old residual noise that the paths have and this new one."""
    points, values, variances = new
    given, sites, before = paths.given, paths.derivative_sites, 0
    if sites is not None:
        before = len(sites.dims)
    n, q = paths.anchors.shape[0], len(points)
    old = np.asarray(gram(paths.kernel, paths.anchors, sites)) + np.diag(
        np.broadcast_to(given.noise_var, given.mean.shape)
    )
    drawn = prior_draw(paths, paths.anchors, sites)
    e_old = np.asarray(given.mean) - drawn - np.asarray(paths.update_weights) @ old
    order = np.r_[:n, n + before : n + before + q, n : n + before]  # values first
    every = jnp.concatenate([paths.anchors, jnp.asarray(points)])
    K = np.asarray(gram(paths.kernel, every, sites))
    diagonal = np.concatenate(
        [
            np.broadcast_to(given.noise_var, given.mean.shape),
            variances + float(given.jitter_var),
        ]
    )[order]
    deviations = np.sqrt(variances + float(given.jitter_var))
    e = np.concatenate([e_old, np.asarray(noise) * deviations], 1)
    target = np.concatenate([given.mean, values])[order]
    residual = target - prior_draw(paths, every, sites) - e[:, order]
    return np.linalg.solve(K + np.diag(diagonal), residual.T).T


@pytest.mark.exhaustive
@pytest.mark.parametrize("with_slopes", [False, True])
def test_it_is_the_rule_of_all_data_at_once(with_slopes):
    paths: Any = plain(derivatives=slopes() if with_slopes else None)
    _, noise = told.fresh_noise(paths.given, len(Y) - N, np.dtype("float64"))
    more = paths.condition_on(*NEW)
    weights = one_shot(paths, NEW, np.asarray(noise))
    assert more.update_weights.shape == weights.shape
    # A path is what its weights make at points: these cancel, where rows coincide.
    rows = cross_gram(
        more.kernel, jnp.asarray(QUERIES), more.anchors, paths.derivative_sites
    )
    wanted = prior_draw(paths, QUERIES) + weights @ np.asarray(rows).T
    np.testing.assert_allclose(more(QUERIES), wanted, rtol=0, atol=1e-10)
    np.testing.assert_allclose(
        more.update_weights, weights, rtol=0, atol=1e-10 * np.abs(weights).max()
    )
    assert more.feature_weights is paths.feature_weights


@pytest.mark.parametrize("n", few_of((3, 100)))
def test_many_updates_are_one(n, monkeypatch):
    """With the same noise, which differs otherwise: it is drawn for each update."""
    rng, paths = np.random.default_rng(n), plain()
    points, values = rng.uniform(0, 2, (n, 2)), rng.normal(size=n)
    one_by_one, noise = paths, []
    for point, value in zip(points, values, strict=True):
        given: Any = one_by_one.given
        noise.append(told.fresh_noise(given, 1, np.dtype("float64"))[1])
        one_by_one = one_by_one.condition_on(point[None], value[None], 0.02)
    noise = np.concatenate([np.asarray(e) for e in noise], axis=1)
    assert np.linalg.matrix_rank(noise) == min(n, len(paths))  # of its own each time
    weights = one_shot(paths, (points, values, np.full(n, 0.02)), noise)
    scale = np.abs(weights).max()
    np.testing.assert_allclose(
        one_by_one.update_weights, weights, rtol=0, atol=1e-8 * scale
    )


@pytest.mark.exhaustive
def test_a_path_is_told_as_it_is_among_others():
    paths = plain()
    more = paths.condition_on(*NEW)
    for index in (2, slice(1, 3), np.array([3, 0])):
        alone = paths[index].condition_on(*NEW)
        np.testing.assert_allclose(alone(QUERIES), more[index](QUERIES), atol=1e-12)
    again = paths.condition_on(*NEW)
    assert trees_equal(again, more)
    other = paths.condition_on(*NEW, key=jax.random.key(17))
    assert np.abs(other(QUERIES) - more(QUERIES)).max() > 1e-3
    # Told the same once more the noise is another.
    twice: Any = more.condition_on(*NEW)
    noise = [
        told.fresh_noise(p.given, 3, np.dtype("float64"))[1]
        for p in (paths, more, twice, other)
    ]
    assert np.linalg.matrix_rank(np.concatenate(noise)) == 3
    assert len({np.asarray(e).tobytes() for e in noise}) == 4


@pytest.mark.exhaustive
def test_what_is_told_is_what_a_certificate_compares_with():
    paths = plain(derivatives=slopes()).condition_on(*NEW)
    found = diagnose(paths, QUERIES)
    assert found.mean_error < 1e-9
    whole = GPPrior(Matern(2.5, 1.3, 0.6), X, mean_fn).condition(Y, NOISE, slopes())
    at_once = diagnose(PathwiseSampler(whole, 64, paths.basis), QUERIES, key=KEY)
    np.testing.assert_allclose(found.exact_sd, at_once.exact_sd, rtol=1e-6)
    np.testing.assert_allclose(found.relative, at_once.relative, rtol=0.5)


@pytest.mark.exhaustive
def test_parts_of_told_paths_add_up():
    prior = GPPrior(RBF(name="long") + Matern(1.5), X[:N], mean_fn)
    sampler = PathwiseSampler(prior.condition(Y[:N], NOISE[:N]), 64)
    paths = sampler.sample_paths(KEY, 2).condition_on(*NEW)
    total = sum(part(QUERIES) for part in paths.parts()) + mean_fn(QUERIES)[None]
    np.testing.assert_allclose(paths(QUERIES), total, atol=1e-12)


# --- Transforms ----------------------------------------------------------------------


@pytest.mark.exhaustive
def test_fantasies_and_jit():
    paths = plain(2)
    ys = np.random.default_rng(0).normal(size=(3, 8))

    def fantasy(y):
        return paths.condition_on(NEW[0], y, 0.05)(QUERIES)

    one_by_one = np.stack([fantasy(y) for y in ys])
    np.testing.assert_allclose(jax.vmap(fantasy)(ys), one_by_one, atol=1e-11)
    np.testing.assert_allclose(jax.jit(fantasy)(ys[0]), one_by_one[0], atol=1e-11)


def test_paths_without_a_factor_make_it():
    prior = GPPrior(Matern(2.5, 1.3, 0.6), X[:N], mean_fn)
    sampler = PathwiseSampler(prior.condition(Y[:N], NOISE[:N]), 64)
    eager: Any = sampler.sample_paths(KEY, 4)
    traced: Any = jax.jit(lambda key: sampler.sample_paths(key, 4))(KEY)
    assert traced.given.inverse is None and eager.given.inverse is not None
    want = eager.condition_on(*NEW)(QUERIES)
    got = traced.condition_on(*NEW)
    np.testing.assert_allclose(got(QUERIES), want, atol=1e-10)
    assert got.given.inverse is not None


@pytest.mark.exhaustive
def test_paths_over_draws_are_told_one_by_one():
    prior = GPPrior(RBF(), X[:N])

    def condition(draw):
        moved = eqx.tree_at(lambda p: p.kernel.lengthscale, prior, draw["ell"])
        return moved.condition(Y[:N], NOISE[:N])

    draws = {"ell": np.array([0.5, 0.8])}
    paths = paths_over_draws(KEY, draws, condition, 2, 64, basis="sobol")
    told_paths = paths[1].condition_on(X[N:], Y[N:], np.full(8, 1e-4))
    distinct = np.delete(np.arange(N, 20), 15 - N)
    assert np.abs(np.asarray(told_paths(X[distinct])) - Y[distinct]).max() < 0.15


@pytest.mark.exhaustive
def test_derivatives_are_those_of_differences():
    paths = plain(2)

    def answer(points, y, noise_var):
        return jnp.sum(jnp.sin(paths.condition_on(points, y, noise_var)(QUERIES)))

    at = tuple(part[:3] for part in NEW)
    gradients = jax.grad(answer, (0, 1, 2))(*map(jnp.asarray, at))
    compiled = jax.jit(answer)
    for i, gradient in enumerate(gradients):

        def moved(x, i=i):
            return compiled(*at[:i], x, *at[i + 1 :])

        difference = central_difference(moved, at[i])
        np.testing.assert_allclose(gradient, difference, rtol=1e-6, atol=1e-7)


@pytest.mark.exhaustive
def test_paths_can_be_differentiated_by_all_their_leaves():
    paths = plain(2)
    gradient: Any = jax.grad(lambda p: jnp.sum(p.condition_on(*NEW)(QUERIES)))(paths)
    assert np.abs(gradient.given.inverse.lower).max() > 0
    assert not gradient.given.key.any()


@pytest.mark.exhaustive
def test_copies_are_told_the_same(tmp_path):
    paths = plain(2)
    want = paths.condition_on(*NEW)
    eqx.tree_serialise_leaves(tmp_path / "it.eqx", want)
    back = eqx.tree_deserialise_leaves(tmp_path / "it.eqx", want)
    assert trees_equal(back, want)
    for again in (copy.deepcopy(paths), pickle.loads(pickle.dumps(paths))):
        assert trees_equal(again.condition_on(*NEW).update_weights, want.update_weights)


@pytest.mark.exhaustive
def test_narrow_paths_are_told_in_the_wider_type():
    paths = plain(2)
    want = paths.condition_on(*NEW)(QUERIES)
    for dtype, error in (("float32", 1e-3), ("float16", 0.3)):
        wide = paths.astype(dtype).condition_on(*NEW)
        assert wide.update_weights.dtype == wide.anchors.dtype == "float64"
        assert np.abs(wide(QUERIES) - want).max() < error
    narrow = paths.astype("float32")
    single = narrow.condition_on(*(part.astype("float32") for part in NEW))
    assert single.update_weights.dtype == "float32"
    # Its new noise is drawn in that type: other numbers, of the same law.
    misfit = np.asarray(single(X[N:].astype("float32"))) - Y[N:]
    assert (np.abs(misfit) < 5 * np.sqrt(NOISE[N:])).all()


# --- Sentences -----------------------------------------------------------------------

CALL = r"`paths.condition_on"
BAD = {
    "X (Q,)": ((X[N:, 0], Y[N:], 0.1), CALL + r"\(X=...\)` must have shape \(N, D\)"),
    "X with NaN": ((X[N:] * np.nan, Y[N:], 0.1), CALL + r"\(X=...\)` must be finite"),
    "X outside": ((X[N:] + 9, Y[N:], 0.1), CALL + r"\(X=...\)` must lie inside"),
    "y (3,)": ((X[N:], Y[:3], 0.1), CALL + r"\(y=...\)` must have shape \(8,\)"),
    "y with NaN": ((X[N:], Y[N:] * np.nan, 0.1), CALL + r"\(y=...\)` must be finite"),
    "noise below": ((X[N:], Y[N:], -0.1), CALL + r"\(noise_var=...\)` must be a posit"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_does_not_fit_is_a_sentence(case):
    arguments, sentence = BAD[case]
    with pytest.raises(ValueError, match=sentence):
        plain(1).condition_on(*arguments)


@pytest.mark.parametrize("case", ["X outside", "y with NaN", "noise below"])
def test_values_are_looked_at_when_the_program_runs(case):
    (points, y, noise_var), sentence = BAD[case]
    paths = plain(1)
    run = jax.jit(lambda *new: paths.condition_on(*new)(QUERIES))
    with pytest.raises(Exception, match=sentence):
        run(points, y, noise_var).block_until_ready()


def test_a_part_and_a_stack_cannot_be_told():
    with pytest.raises(ValueError, match="a part of a path.*Tell the whole path"):
        plain(1).parts()[0].condition_on(*NEW)
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), plain(1))
    with pytest.raises(ValueError, match="stacked"):
        stacked.condition_on(*NEW)
