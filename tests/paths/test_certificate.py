"""The certificate, parts of a path, landmarks: against dense algebra and draws."""

from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy.linalg import sqrtm

from pyrox.gp import (
    RBF,
    AbstractKernel,
    DecoupledPathwiseSampler,
    FullRankGuide,
    GPPrior,
    Landmarks,
    Linear,
    Matern,
    PathwiseSampler,
    Periodic,
    SparseGPPrior,
    diagnose,
)
from pyrox.gp._paths.certificate import _implied, wasserstein

RNG = np.random.default_rng(0)
X, TEST = RNG.random((12, 1)), np.linspace(0, 1, 9)[:, None]
Y = np.sin(6 * X[:, 0])


def posterior(kernel: Any, y=Y, noise_var: Any = 0.05) -> Any:
    return GPPrior(kernel, X).condition(y, noise_var)


def sparse_sampler(n_features=64, basis="grid"):
    prior = SparseGPPrior(Matern(1.5, 1.0, 0.3), np.linspace(0, 1, 5)[:, None])
    root = np.tril(RNG.normal(size=(5, 5))) * 0.2 + np.eye(5) * 0.5
    guide = FullRankGuide(np.arange(5.0), root)
    return DecoupledPathwiseSampler(prior, guide, n_features, basis)


def covariance(rank):
    root = RNG.normal(size=(6, rank))
    return root @ root.T


@pytest.mark.parametrize("rank", [6, 3])
def test_the_distance_is_that_of_its_formula(rank):
    cov1, cov2, mean = covariance(6), covariance(rank), RNG.normal(size=6)
    root = np.real(sqrtm(cov1))
    cross = np.real(np.trace(sqrtm(root @ cov2 @ root)))
    squared = mean @ mean + np.trace(cov1) + np.trace(cov2) - 2 * cross
    got = wasserstein(mean, cov1, 0 * mean, cov2)
    assert abs(got - np.sqrt(squared)) < 1e-6
    assert abs(wasserstein(mean, cov1, 0 * mean, cov1) - np.linalg.norm(mean)) < 1e-9


def test_the_distance_does_not_cancel():
    """Of covariances that differ by 1e-9: the formula with traces has no digit left."""
    cov = np.diag([1.0, 2.0, 3.0])
    near = np.diag((np.sqrt([1.0, 2.0, 3.0]) + [0, 0, 1e-9]) ** 2)
    assert wasserstein(np.zeros(3), cov, np.zeros(3), near) == pytest.approx(1e-9, 1e-3)


SAMPLERS = {
    "exact": lambda: PathwiseSampler(posterior(Matern(2.5, 1.0, 0.2)), 16, "iid"),
    "noise for each": lambda: PathwiseSampler(
        posterior(RBF(1.0, 0.2), noise_var=np.linspace(0.01, 0.5, 12)), 16, "sobol"
    ),
    "sum": lambda: PathwiseSampler(posterior(RBF(1.0, 0.2) + Linear()), 16, "iid"),
    "prior": lambda: PathwiseSampler(GPPrior(RBF(1.0, 0.2), X), 8, "iid"),
    "sparse": lambda: sparse_sampler(16, "iid"),
}


@pytest.mark.exhaustive
@pytest.mark.parametrize("case", list(SAMPLERS), ids=str)
def test_what_is_compared_is_what_paths_have(case, x64):
    """Covariances of 40,000 paths of one set of features, each within six standard
    errors: a false alarm in 1e6 runs of other seeds. With 16 features they are not the
    posterior's, by far more."""
    paths = SAMPLERS[case]().sample_paths(jr.key(1), 40_000)
    informed = case != "prior"
    _, implied = _implied(paths[:1], paths.given, jnp.asarray(TEST), informed)
    variances = np.diag(implied)
    error = np.sqrt((np.outer(variances, variances) + implied**2) / 40_000)
    gap = np.abs(np.cov(np.asarray(paths(TEST)).T) - implied)
    assert (gap < 6 * error + 1e-6).all()
    found = diagnose(paths, TEST)
    assert found.cov_error > 3 * gap.max()
    assert np.allclose(found.implied_sd**2, variances)


@pytest.mark.exhaustive
def test_the_exact_side_is_the_posterior(x64):
    found = diagnose(SAMPLERS["noise for each"](), TEST)
    exact = posterior(RBF(1.0, 0.2), noise_var=np.linspace(0.01, 0.5, 12))
    assert np.allclose(found.exact_sd**2, exact.predict_var(TEST), atol=1e-10)
    sampler = sparse_sampler()
    found = diagnose(sampler, TEST)
    _, var = sampler.guide.predict(sampler.prior, TEST)
    assert np.allclose(found.exact_sd**2, var, atol=1e-10)
    assert found.mean_error < 1e-10


@pytest.mark.exhaustive
def test_better_features_are_nearer(x64):
    sampler = PathwiseSampler(posterior(RBF(1.0, 0.2)), 256)
    grid = diagnose(sampler, TEST)
    iid = diagnose(PathwiseSampler(posterior(RBF(1.0, 0.2)), 256, "iid"), TEST)
    assert grid.wasserstein < 1e-6 < 1e-2 < iid.wasserstein
    assert grid.cov_error < 1e-10 and grid.relative < 1e-6
    assert (grid.basis, grid.n_features, iid.basis) == ("FourierGrid", 256, "IID")


@pytest.mark.exhaustive
def test_single_precision_is_held_against_double():
    found = diagnose(PathwiseSampler(posterior(RBF(1.0, 0.2)), 256), TEST)
    assert 1e-8 < found.mean_error < 1e-3
    assert found.exact_sd.dtype == np.float64


@pytest.mark.exhaustive
def test_paths_and_a_key_choose_the_features():
    sampler = PathwiseSampler(posterior(RBF(1.0, 0.2)), 16, "iid")
    paths = sampler.sample_paths(jr.key(5), 3)
    assert diagnose(paths, TEST).cov_error == diagnose(paths[1], TEST).cov_error
    errors = {diagnose(sampler, TEST, key=jr.key(i)).cov_error for i in range(2)}
    assert len(errors) == 2


@pytest.mark.exhaustive
def test_what_cannot_be_diagnosed():
    sampler = PathwiseSampler(posterior(RBF(1.0, 0.2) + Linear()), 16)
    keys = jr.split(jr.key(0), 2)
    stacked = jax.vmap(lambda key: sampler.sample_paths(key, 2))(keys)
    wrongs: list[Any] = [stacked, posterior(RBF())]
    for wrong in wrongs:
        with pytest.raises(ValueError, match=r"must be a PathwiseFunction .* sampler"):
            diagnose(wrong, TEST)
    part = sampler.sample_paths(jr.key(0)).parts()[0]
    with pytest.raises(ValueError, match="a part of a path has no posterior"):
        diagnose(part, TEST)
    with pytest.raises(ValueError, match="inside the domain, input 0"):
        diagnose(sampler, TEST + 10)


@pytest.mark.exhaustive
def test_parts_add_up(x64):
    kernel = (RBF() + Periodic()) * Linear(2.0) + 0.5 * Matern(1.5) + Linear()
    prior = GPPrior(kernel, X, mean_fn=lambda X: 3 + X[:, 0])
    paths = PathwiseSampler(prior.condition(Y, 0.05), 64).sample_paths(jr.key(0), 4)
    parts = paths.parts()
    assert len(parts) == 4 and type(parts[2].kernel).__name__ == "Scale"
    total = sum(np.asarray(part(TEST)) for part in parts)
    assert np.allclose(total + 3 + TEST[:, 0], paths(TEST), atol=1e-10)
    (alone,) = PathwiseSampler(posterior(RBF()), 16).sample_paths(jr.key(0), 4).parts()
    assert alone(TEST).shape == (4, 9)


@pytest.mark.exhaustive
def test_a_part_has_the_posterior_of_its_term(x64):
    """Mean and variance of 20,000 draws of one term given the sum, within five standard
    errors; features are exact enough, and the sum's are far off."""
    parts_of = RBF(1.0, 0.3), Linear(2.0)
    paths = PathwiseSampler(posterior(sum_of(*parts_of)), 128).sample_paths(
        jr.key(2), 20_000
    )
    part = paths.parts()[0]
    kernel: Any = parts_of[0]
    gain = kernel(TEST, X) @ np.linalg.inv(
        sum_of(*parts_of)(X, X) + (0.05 + 1e-6) * np.eye(12)
    )
    mean = gain @ Y
    sd = np.sqrt(np.diag(kernel(TEST, TEST) - gain @ kernel(X, TEST)))
    drawn = np.asarray(part(TEST))
    assert (np.abs(drawn.mean(axis=0) - mean) < 5 * sd / np.sqrt(20_000)).all()
    assert (np.abs(drawn.std(axis=0) - sd) < 5 * sd / np.sqrt(40_000)).all()
    assert (np.abs(paths(TEST).mean(axis=0) - mean) > 0.01).any()


def sum_of(left, right) -> Any:
    return left + right


class Brownian(AbstractKernel):
    """A kernel that is not stationary and has no features of its own."""

    def __call__(self, X1, X2):
        return jnp.minimum(X1, X2.T)

    def diag(self, X):
        return X[:, 0]


@pytest.mark.exhaustive
def test_landmarks_give_paths_to_any_kernel(x64):
    basis = Landmarks(np.linspace(0.005, 1, 200)[:, None])
    sampler = PathwiseSampler(posterior(Brownian()), basis=basis)
    found = diagnose(sampler, TEST[1:])
    assert found.relative < 0.05 and found.basis == "Landmarks"
    sparse = Landmarks(np.linspace(0.1, 1, 4)[:, None])
    assert (
        diagnose(
            PathwiseSampler(posterior(Brownian()), basis=sparse), TEST[1:]
        ).relative
        > 0.3
    )
    paths = PathwiseSampler(posterior(Brownian() + Linear()), basis=basis).sample_paths(
        jr.key(0), 3
    )
    assert paths.feature_weights.shape == (3, 201) and len(paths.parts()) == 2
    assert jnp.isfinite(paths.gradient(TEST[1:])).all()


@pytest.mark.exhaustive
def test_landmarks_in_single_precision():
    basis = Landmarks(np.linspace(0.0, 1, 200, dtype=np.float32)[:, None])
    sampler = PathwiseSampler(posterior(RBF(1.0, 0.3)), basis=basis)
    assert diagnose(sampler, TEST).relative < 0.2


def test_bad_landmarks_say_so():
    with pytest.raises(ValueError, match=r"`Landmarks\(Z=...\)` must be finite"):
        Landmarks(np.array([[np.nan]]))
    sampler = PathwiseSampler(posterior(RBF()), basis=Landmarks(np.zeros((3, 2))))
    with pytest.raises(
        ValueError, match=r"`Landmarks\(Z=...\)` must have shape \(N, 1"
    ):
        sampler.sample_paths(jr.key(0))
    twice = Landmarks(np.zeros((3, 1)), jitter=0.0)
    with pytest.raises(Exception, match="`Landmarks`: the Gram matrix of 3 inputs"):
        jax.block_until_ready(
            PathwiseSampler(posterior(RBF()), basis=twice).sample_paths(jr.key(0))
        )
    with pytest.raises(ValueError, match=r"basis=Landmarks\(Z\)"):
        PathwiseSampler(posterior(Brownian())).sample_paths(jr.key(0))
