"""Predictions, densities and bounds against dense NumPy and SciPy in float64.

Nothing here is an estimate: the limit is rounding. Each comparison has a twin that is
given one wrong ingredient and must fail.
"""

import dataclasses
import functools
import inspect
import itertools
from typing import Any

import jax
import numpy as np
import numpyro.distributions as dist
import pytest
from _moments import (
    GUIDES,
    KINDS,
    Problem,
    Process,
    UnitVectors,
    guide,
    no_trend,
    problem,
    relative_error,
    strict_float64,
)
from helpers import few_of
from numpy.polynomial.hermite_e import hermegauss
from scipy.stats import multivariate_normal, norm

from pyrox.gp import FullRankGuide, WhitenedGuide
from pyrox.gp._posterior import exact, predictions
from pyrox.gp._posterior import guide as q_of_u
from pyrox.gp._solvers import joint_draw

ROUNDING = 1e-8
N_DATA = 9


@pytest.fixture(autouse=True)
def _strict():
    with strict_float64():
        yield


def _problem(kind: str, one_noise: bool = False) -> Problem:
    # A jitter that a result must not forget, nor count twice.
    return problem(kind, N_DATA, 6, 2, jitter=0.03, one_noise=one_noise)


def _flat(*parts) -> np.ndarray:
    return np.concatenate([np.ravel(part) for part in parts])


def _log_density(y: Any, mean: Any, cov: Any) -> float:
    return float(multivariate_normal.logpdf(y, mean, cov))


# --- The exact posterior -----------------------------------------------------------

SETTINGS = [*((kind, False) for kind in KINDS), ("Matern-3/2", True)]


@functools.cache
def _answers(kind: str, one_noise: bool) -> dict[str, np.ndarray]:
    """What the library says."""
    case = _problem(kind, one_noise)
    prior, posterior, X = case.prior(), case.posterior(), case.queries
    answers = {
        "predict_mean": posterior.predict_mean(X),
        "predict_var": posterior.predict_var(X),
        "predict": _flat(*posterior.predict(X)),
        "predict_cov": posterior.predict_cov(X),
        "prior log density": prior.log_marginal_likelihood(case.y, case.noise_var),
        "posterior log density": posterior.log_marginal_likelihood(),
        "leave one out": posterior.leave_one_out_log_density(),
    }
    return {name: np.asarray(answer) for name, answer in answers.items()}


def _references(case: Problem) -> dict[str, np.ndarray]:
    process, X = case.exact(), case.queries
    mean, cov = process.mean(X), process.cov(X)
    density = _log_density(case.y, case.mean_fn(case.X), process.gram)
    return {
        "predict_mean": mean,
        "predict_var": np.diag(cov),
        "predict": _flat(mean, np.diag(cov)),
        "predict_cov": cov,
        "prior log density": np.asarray(density),
        "posterior log density": np.asarray(density),
        "leave one out": np.array([_left_out(case, i) for i in range(N_DATA)]),
    }


def _left_out(case: Problem, i: int) -> float:
    """log p(y_i | the others), by conditioning on the others."""
    others = np.delete(np.arange(N_DATA), i)
    noise_var = np.broadcast_to(case.noise_var, N_DATA)
    rest = dataclasses.replace(
        case, X=case.X[others], y=case.y[others], noise_var=noise_var[others]
    ).exact()
    point = case.X[i : i + 1]
    var = rest.cov(point)[0, 0] + case.jitter_var + noise_var[i]
    return float(norm.logpdf(case.y[i], rest.mean(point)[0], np.sqrt(var)))


ANSWERS = (
    *("predict_mean", "predict_var", "predict", "predict_cov"),
    *("prior log density", "posterior log density", "leave one out"),
)


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize(("kind", "one_noise"), SETTINGS)
def test_the_exact_posterior_is_the_dense_one(kind, one_noise, answer):
    wanted = _references(_problem(kind, one_noise))[answer]
    got = _answers(kind, one_noise)[answer]
    assert got.shape == wanted.shape
    assert relative_error(got, wanted) < ROUNDING


def _wrong(case: Problem) -> dict[str, Problem]:
    turned = dataclasses.replace(
        case.kernel, lengthscale=case.kernel.lengthscale[::-1].copy()
    )
    return {
        "no jitter": dataclasses.replace(case, jitter=0.0),
        "jitter twice": dataclasses.replace(case, jitter=2 * case.jitter),
        "one noise": dataclasses.replace(case, noise_var=np.mean(case.noise_var)),
        "lengthscales of the other columns": dataclasses.replace(case, kernel=turned),
        "no mean function": dataclasses.replace(case, mean_fn=no_trend),
    }


WRONG = tuple(_wrong(_problem("RBF")))
# A variance does not depend on the mean function: no mistake there to notice.
TWINS = [
    (answer, mistake)
    for answer, mistake in itertools.product(ANSWERS, WRONG)
    if mistake != "no mean function" or answer not in ("predict_var", "predict_cov")
]


@pytest.mark.parametrize(("answer", "mistake"), TWINS)
def test_a_wrong_ingredient_of_the_posterior_is_noticed(answer, mistake):
    wrong = _references(_wrong(_problem("Matern-3/2"))[mistake])[answer]
    assert relative_error(_answers("Matern-3/2", False)[answer], wrong) > 1e-4


# --- Joint draws -------------------------------------------------------------------


def _chosen_draws(monkeypatch, width: int) -> UnitVectors:
    draws = UnitVectors(width)
    monkeypatch.setattr(joint_draw, "jr", draws)
    for room in (exact, predictions):
        monkeypatch.setattr(room, "draw", inspect.unwrap(room.draw))
    return draws


def _posterior_draws(monkeypatch, case: Problem):
    """Mean and covariance of `ConditionedGP.sample`, exactly."""
    draws, posterior = _chosen_draws(monkeypatch, len(case.queries)), case.posterior()
    sample = posterior.sample(jax.random.key(0), case.queries, draws.n_draws)
    return draws.moments(sample)


def _prior_draws(monkeypatch, case: Problem):
    """Mean and covariance of `GPPrior.sample`, exactly."""
    draws = _chosen_draws(monkeypatch, N_DATA)
    return draws.moments(case.prior().sample(jax.random.key(0), draws.n_draws))


@pytest.mark.parametrize("kind", KINDS)
def test_posterior_draws_have_the_moments_predicted(monkeypatch, kind):
    case = _problem(kind)
    mean, cov = _posterior_draws(monkeypatch, case)
    assert relative_error(mean, case.exact().mean(case.queries)) < ROUNDING
    assert relative_error(cov, case.exact().cov(case.queries)) < ROUNDING


@pytest.mark.parametrize("kind", KINDS)
def test_prior_draws_have_the_moments_of_the_prior(monkeypatch, kind):
    case = _problem(kind)
    mean, cov = _prior_draws(monkeypatch, case)
    assert relative_error(mean, case.mean_fn(case.X)) < ROUNDING
    assert relative_error(cov, case.kernel(case.X, case.X)) < ROUNDING


def test_draws_of_another_posterior_are_noticed(monkeypatch):
    case = _problem("Matern-3/2")
    mean, cov = _posterior_draws(monkeypatch, case)
    other = _wrong(case)["no jitter"].exact()
    assert relative_error(mean, other.mean(case.queries)) > 1e-4
    assert relative_error(cov, other.cov(case.queries)) > 1e-4


def test_draws_of_another_prior_are_noticed(monkeypatch):
    case = _problem("Matern-3/2")
    mean, cov = _prior_draws(monkeypatch, _wrong(case)["no mean function"])
    assert relative_error(mean, case.mean_fn(case.X)) > 1e-4
    # Function values carry no jitter: it belongs to the data and to inducing values.
    assert relative_error(cov, _inducing(case)[1]) > 1e-4


# --- Guides ------------------------------------------------------------------------


def _inducing(case: Problem) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of p(u), u = f(Z) with the jitter as noise."""
    K = case.kernel(case.X, case.X) + case.jitter_var * np.eye(len(case.X))
    return case.mean_fn(case.X), K


def _divergence(case: Problem, kind: str, *, reverse: bool = False) -> float:
    """KL(q || p), by NumPyro; -log p at the point of a point mass."""
    q, p = case.sparse(kind), _inducing(case)
    if kind == "DeltaGuide":
        return -_log_density(q.values_mean, *p)
    pair = [
        dist.MultivariateNormal(m, C) for m, C in [(q.values_mean, q.values_cov), p]
    ]
    return float(dist.kl_divergence(*(pair[::-1] if reverse else pair)))


@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", GUIDES)
def test_kl_is_numpyros(kind):
    case = _problem("Matern-5/2")
    got = guide(kind, N_DATA).kl(case.sparse_prior())
    assert relative_error(got, _divergence(case, kind)) < ROUNDING


# A whitened guide moves with its prior, so its divergence does not tell the two apart.
@pytest.mark.parametrize("kind", [k for k in GUIDES if k != "WhitenedGuide"])
@pytest.mark.parametrize("mistake", ["no jitter", "no mean function"])
def test_kl_to_another_process_is_noticed(kind, mistake):
    case = _problem("Matern-5/2")
    got = guide(kind, N_DATA).kl(case.sparse_prior())
    assert relative_error(got, _divergence(_wrong(case)[mistake], kind)) > 1e-4


@pytest.mark.parametrize("kind", [k for k in GUIDES if k != "DeltaGuide"])
def test_kl_the_other_way_round_is_noticed(kind):
    case = _problem("Matern-5/2")
    got = guide(kind, N_DATA).kl(case.sparse_prior())
    assert relative_error(got, _divergence(case, kind, reverse=True)) > 1e-4


def _marginals(process: Process, X: np.ndarray) -> np.ndarray:
    return _flat(process.mean(X), np.diag(process.cov(X)))


@pytest.mark.parametrize("kind", GUIDES)
def test_guides_predict_the_dense_marginals(kind):
    case = _problem("Matern-5/2")
    got = _flat(*guide(kind, N_DATA).predict(case.sparse_prior(), case.queries))
    wanted = _marginals(case.sparse(kind), case.queries)
    assert relative_error(got, wanted) < ROUNDING


@pytest.mark.parametrize("kind", GUIDES)
@pytest.mark.parametrize("mistake", [m for m in WRONG if m != "one noise"])
def test_a_wrong_ingredient_of_a_guide_is_noticed(kind, mistake):
    case = _problem("Matern-5/2")
    got = _flat(*guide(kind, N_DATA).predict(case.sparse_prior(), case.queries))
    wrong = _marginals(_wrong(case)[mistake].sparse(kind), case.queries)
    assert relative_error(got, wrong) > 1e-4


def _guide_draws(monkeypatch, case: Problem, kind: str):
    draws = UnitVectors(N_DATA)
    monkeypatch.setattr(q_of_u, "jr", draws)
    monkeypatch.setattr(q_of_u, "_sample", inspect.unwrap(q_of_u._sample))
    q, prior = guide(kind, N_DATA), case.sparse_prior()
    return draws.moments(q.sample(jax.random.key(0), prior, draws.n_draws))


@pytest.mark.parametrize("kind", GUIDES)
def test_guides_draw_from_q(monkeypatch, kind):
    case = _problem("Matern-5/2")
    mean, cov = _guide_draws(monkeypatch, case, kind)
    q = case.sparse(kind)
    assert relative_error(mean, q.values_mean) < ROUNDING
    # A point mass has no covariance to compare with, hence the identity on both sides.
    eye = np.eye(N_DATA)
    assert relative_error(cov + eye, q.values_cov + eye) < ROUNDING


def test_draws_of_another_guide_are_noticed(monkeypatch):
    case = _problem("Matern-5/2")
    mean, cov = _guide_draws(monkeypatch, case, "WhitenedGuide")
    plain = case.sparse("FullRankGuide")
    assert relative_error(mean, plain.values_mean) > 1e-4
    assert relative_error(cov, plain.values_cov) > 1e-4


# --- The evidence lower bound ------------------------------------------------------


def _data(n: int = 6) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Inputs, values and noise that are not those of the inducing inputs."""
    rng = np.random.default_rng(4)
    return rng.random((n, 2)), rng.normal(size=n), rng.uniform(0.05, 0.2, n)


def _expected_log_density(process: Process, X, y, noise_var) -> np.ndarray:
    """E_q[log N(y_i; f_i, noise_i)] by quadrature, exact for a polynomial."""
    nodes, weights = hermegauss(8)
    sd = np.sqrt(np.diag(process.cov(X)))
    f = process.mean(X)[:, None] + sd[:, None] * nodes
    density = norm.logpdf(y[:, None], f, np.sqrt(noise_var)[:, None])
    return density @ weights / weights.sum()


def _elbo(kind: str, *data, n_total: int | None = None) -> np.ndarray:
    case = _problem("Matern-5/2")
    q = guide(kind, N_DATA)
    return np.asarray(q.elbo(case.sparse_prior(), *data, n_total=n_total))


@pytest.mark.parametrize("kind", GUIDES)
def test_the_elbo_is_its_definition(kind):
    case = _problem("Matern-5/2")
    expected = _expected_log_density(case.sparse(kind), *_data()).sum()
    divergence = _divergence(case, kind)
    got = _elbo(kind, *_data())
    assert relative_error(got, expected - divergence) < ROUNDING
    assert relative_error(got, expected) > 1e-4
    assert relative_error(got, expected + divergence) > 1e-4


@pytest.mark.parametrize("kind", GUIDES)
def test_the_elbo_of_another_noise_is_noticed(kind):
    X, y, noise_var = _data()
    same = np.full_like(noise_var, noise_var.mean())
    assert relative_error(_elbo(kind, X, y, noise_var), _elbo(kind, X, y, same)) > 1e-4


def _mean_over_minibatches(kind: str, n_total: int | None) -> float:
    """The mean of the bound over all minibatches of three of the six data."""
    case, data = _problem("Matern-5/2"), _data()
    q, prior = guide(kind, N_DATA), case.sparse_prior()
    rows = np.array(list(itertools.combinations(range(6), 3)))
    batches = [a[rows] for a in data]
    bounds = jax.vmap(lambda X, y, v: q.elbo(prior, X, y, v, n_total=n_total))
    return float(np.mean(np.asarray(bounds(*batches))))


@pytest.mark.parametrize("kind", few_of(GUIDES, "WhitenedGuide"))
def test_minibatches_are_unbiased(kind):
    whole = _elbo(kind, *_data())
    assert relative_error(_mean_over_minibatches(kind, 6), whole) < ROUNDING
    assert relative_error(_mean_over_minibatches(kind, None), whole) > 1e-4


def _optimal(case: Problem, X, y, noise_var) -> tuple[np.ndarray, np.ndarray]:
    """The best q(u) (Titsias 2009, eq. 10), and its covariance."""
    (prior_mean, A), C = _inducing(case), case.kernel(case.X, X)
    inner = A @ np.linalg.inv(A + C / noise_var @ C.T)
    mean = inner @ (C @ ((y - case.mean_fn(X)) / noise_var))
    cov = inner @ A
    return prior_mean + mean, (cov + cov.T) / 2


def _optimal_guides(case: Problem, data) -> dict[str, FullRankGuide | WhitenedGuide]:
    (mean, cov), (prior_mean, A) = _optimal(case, *data), _inducing(case)
    L, R = np.linalg.cholesky(A), np.linalg.cholesky(cov)
    whitened = np.linalg.solve(L, mean - prior_mean), np.linalg.solve(L, R)
    return {
        "FullRankGuide": FullRankGuide(mean, R),
        "WhitenedGuide": WhitenedGuide(whitened[0], np.tril(whitened[1])),
    }


def _collapsed(case: Problem, X, y, noise_var) -> float:
    """The bound at the best q(u) (Titsias 2009, eq. 9)."""
    (_, A), C = _inducing(case), case.kernel(case.X, X)
    Q = C.T @ np.linalg.solve(A, C)
    unexplained = np.diag(case.kernel(X, X) - Q)
    density = _log_density(y, case.mean_fn(X), Q + np.diag(noise_var))
    return float(density - 0.5 * np.sum(unexplained / noise_var))


def _log_marginal(case: Problem, X, y, noise_var) -> float:
    # Without jitter: in a sparse process it belongs to u, not to the data.
    K = case.kernel(X, X) + np.diag(noise_var)
    return _log_density(y, case.mean_fn(X), K)


@pytest.mark.parametrize("kind", ["FullRankGuide", "WhitenedGuide"])
def test_the_best_guide_attains_the_collapsed_bound(kind):
    case, data = _problem("Matern-3/2"), _data()
    best = _optimal_guides(case, data)[kind]
    bound, wanted = best.elbo(case.sparse_prior(), *data), _collapsed(case, *data)
    assert relative_error(bound, wanted) < ROUNDING
    wider = type(best)(best.mean, 1.02 * best.scale_tril)
    assert relative_error(wider.elbo(case.sparse_prior(), *data), wanted) > 1e-6


@pytest.mark.parametrize("kind", [k for k in GUIDES if k != "DeltaGuide"])
def test_the_elbo_is_below_the_log_marginal_likelihood(kind):
    case, data = _problem("Matern-3/2"), _data()
    q = guide(kind, N_DATA)
    bound = float(q.elbo(case.sparse_prior(), *data))
    assert bound < _log_marginal(case, *data)


@pytest.mark.parametrize("kind", ["FullRankGuide", "WhitenedGuide"])
def test_without_its_divergence_the_bound_breaks(kind):
    case, data = _problem("Matern-3/2"), _data()
    best, prior = _optimal_guides(case, data)[kind], case.sparse_prior()
    bound = float(best.elbo(prior, *data))
    assert bound < _log_marginal(case, *data) < bound + float(best.kl(prior))


def _gap_limit(case: Problem, noise_var: np.ndarray) -> float:
    """How far below log p(y) the best bound with Z = X may lie (Burt et al. 2019).

    With t = tr(N^-1/2 (K - Q) N^-1/2) it is at most t (1 + |N^-1/2 (y - mean)|^2) / 2,
    and K - Q = j I - j^2 (K + j I)^-1 has no diagonal entry above the jitter j.
    """
    residual = case.y - case.mean_fn(case.X)
    trace = np.sum(case.jitter_var / noise_var)
    return float(trace * (1 + np.sum(residual**2 / noise_var)) / 2)


def _gap(kind: str, jitter: float, *, widen: float = 1.0) -> tuple[float, float, float]:
    """log p(y) less the bound at the best q(u) with Z = X; its limits."""
    case = dataclasses.replace(_problem("Matern-3/2"), jitter=jitter)
    data = (case.X, case.y, case.noise_var)
    best, whole = _optimal_guides(case, data)[kind], _log_marginal(case, *data)
    q = type(best)(best.mean, widen * best.scale_tril)
    rounding = ROUNDING * abs(whole)
    gap = whole - float(q.elbo(case.sparse_prior(), *data))
    return gap, -rounding, _gap_limit(case, case.noise_var) + rounding


@pytest.mark.parametrize("kind", ["FullRankGuide", "WhitenedGuide"])
@pytest.mark.parametrize("jitter", [1e-4, 1e-10])
def test_with_all_inputs_inducing_the_bound_is_tight(kind, jitter):
    gap, low, high = _gap(kind, jitter)
    assert low < gap < high


@pytest.mark.parametrize("kind", ["FullRankGuide", "WhitenedGuide"])
def test_a_guide_two_percent_too_wide_leaves_a_gap(kind):
    gap, _, high = _gap(kind, 1e-10, widen=1.02)
    assert gap > high
