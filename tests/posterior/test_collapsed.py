"""The optimal guide for Gaussian noise, and the collapsed bound."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import central_difference, few_of
from scipy import stats

from pyrox.gp import (
    RBF,
    DecoupledPathwiseSampler,
    GPPrior,
    Matern,
    SparseGPPrior,
    WhitenedGuide,
    optimal_guide,
)
from pyrox.gp._numerics.lapack import gram_root
from pyrox.gp._posterior.collapsed import collapsed

pytestmark = pytest.mark.usefixtures("plainly_compiled")

RNG = np.random.default_rng(0)
X = np.sort(RNG.uniform(-2, 2, (30, 1)), axis=0)
Y = np.sin(2 * X[:, 0]) + 0.3 * RNG.standard_normal(30)
Z = np.linspace(-1.8, 1.8, 5)[:, None]
NOISE = np.linspace(0.05, 0.2, 30)


def sparse(lengthscale=0.7, Z=Z):
    kernel = Matern(2.5, 1.4, lengthscale)
    return SparseGPPrior(kernel, Z, lambda X: 0.1 * X[:, 0])


def dense(noise_var):
    """The bound, and the moments of u, by whole matrices in NumPy."""
    prior = sparse()
    k = {
        name: np.asarray(prior.kernel(jnp.asarray(A), jnp.asarray(B)))
        for name, A, B in (("zz", Z, Z), ("zx", Z, X), ("xx", X, X))
    }
    Kzz = k["zz"] + 1.4e-6 * np.eye(5)
    Q = k["zx"].T @ np.linalg.solve(Kzz, k["zx"])
    noise = np.broadcast_to(noise_var, 30)
    law: Any = stats.multivariate_normal
    law = law(0.1 * X[:, 0], Q + np.diag(noise))
    bound = law.logpdf(Y) - 0.5 * np.sum((np.diagonal(k["xx"] - Q)) / noise)
    A = np.linalg.inv(Kzz + k["zx"] / noise @ k["zx"].T)
    residual = (Y - 0.1 * X[:, 0]) / noise
    mean = 0.1 * Z[:, 0] + Kzz @ A @ k["zx"] @ residual
    return bound, mean, Kzz @ A @ Kzz


@pytest.mark.parametrize(
    "noise_var",
    few_of([0.09, tuple(NOISE)], tuple(NOISE), whole=True),
    ids=["one", "each"],
)
def test_the_bound_and_the_guide_equal_those_of_numpy(noise_var, x64):
    noise_var = np.asarray(noise_var)
    bound, mean, cov = dense(noise_var)
    found = sparse().log_marginal_bound(X, Y, noise_var)
    np.testing.assert_allclose(found, bound, rtol=0, atol=1e-8)
    guide = optimal_guide(sparse(), X, Y, noise_var)
    elbo = guide.elbo(sparse(), X, Y, noise_var)
    np.testing.assert_allclose(elbo, bound, rtol=0, atol=1e-8)
    L = np.asarray(sparse().inducing().factor.lower)
    root = L @ guide.scale_tril
    np.testing.assert_allclose(root @ root.T, cov, rtol=0, atol=1e-9)
    np.testing.assert_allclose(0.1 * Z[:, 0] + L @ guide.mean, mean, atol=1e-9)
    assert np.array_equal(guide.scale_tril, np.tril(guide.scale_tril))
    moved = WhitenedGuide(guide.mean + 0.01, guide.scale_tril)
    assert moved.elbo(sparse(), X, Y, noise_var) < elbo - 1e-5


@pytest.mark.exhaustive
def test_with_all_inputs_inducing_the_bound_is_the_likelihood(x64):
    prior = GPPrior(Matern(2.5, 1.4, 0.7), X, lambda X: 0.1 * X[:, 0], jitter=1e-12)
    exact = prior.log_marginal_likelihood(Y, 0.09)
    whole = SparseGPPrior(prior.kernel, X, prior.mean_fn, jitter=1e-12)
    bound = whole.log_marginal_bound(X, Y, 0.09)
    np.testing.assert_allclose(bound, exact, rtol=1e-7)
    assert sparse().log_marginal_bound(X, Y, 0.09) < exact - 0.01


@pytest.mark.exhaustive
def test_the_gradient_of_the_bound(x64):
    @jax.jit
    def bound(at):
        return sparse(at[0], at[2:, None]).log_marginal_bound(X, Y, at[1])

    at = np.array([0.7, 0.09, *Z[:, 0]])
    by_steps = central_difference(bound, at)
    np.testing.assert_allclose(jax.grad(bound)(jnp.asarray(at)), by_steps, rtol=1e-5)


def test_float32_keeps_what_the_product_would_lose():
    """A signal of 3e8 times the noise: I + A A^T in float32 has lost I."""
    rng = np.random.default_rng(1)
    turn = np.linalg.qr(rng.standard_normal((4, 4)))[0]
    sizes = np.array([1, 0.3, 1e-2, 1e-4])[:, None]
    A = turn @ (sizes * rng.standard_normal((4, 300)))
    y = rng.standard_normal(4) @ A + 1e-3 * rng.standard_normal(300)
    parts = (A, np.full(300, 1e-7), y, np.float64(1e-6))
    roots, means = {}, {}
    for width in (32, 64):
        with jax.enable_x64(width == 64):
            cast = [jnp.asarray(part, f"float{width}") for part in parts]
            found = jax.jit(collapsed)(*cast)
        roots[width] = np.asarray(found.root, float)
        means[width] = np.asarray(found.mean, float)
    unit = np.linalg.inv(roots[64])  # in standard deviations of the answer

    def error(cov):
        return np.abs(unit @ cov @ unit.T - np.eye(4)).max()

    assert error(roots[32] @ roots[32].T) < 1e-2
    assert np.abs(unit @ (means[32] - means[64])).max() < 1e-2
    B = (A / 1e-3).astype("float32")
    assert error(np.linalg.inv(np.eye(4, dtype="float32") + B @ B.T)) > 0.1


@pytest.mark.exhaustive
def test_the_root_of_a_gram_matrix(x64):
    A = jnp.asarray(RNG.standard_normal((3, 7, 4)))
    L = jax.vmap(gram_root)(A)
    by_cholesky = np.linalg.cholesky(np.einsum("bni,bnj->bij", A, A))
    np.testing.assert_allclose(L, by_cholesky, rtol=1e-10, atol=1e-12)

    def total(A):
        return jnp.sum(jnp.sin(gram_root(A)))

    by_steps = central_difference(jax.jit(total), A[0])
    np.testing.assert_allclose(jax.grad(total)(A[0]), by_steps, atol=1e-7)


@pytest.mark.exhaustive
def test_paths_of_the_optimal_guide_have_its_law(x64):
    """Means and variances over 4000 draws at 4 points, within 5.3 standard errors:
    8 figures give less than a false alarm in a million runs."""
    _, u_mean, u_cov = dense(0.09)
    X_star = np.array([[-1.9], [-0.4], [0.5], [2.5]])
    prior, n = sparse(), 4000
    guide = optimal_guide(prior, X, Y, 0.09)
    sampler = DecoupledPathwiseSampler(prior, guide, 2048)
    paths = sampler.sample_paths(jax.random.key(0), n)
    draws = np.asarray(paths(X_star))
    k = np.asarray(prior.kernel(jnp.asarray(Z), jnp.asarray(X_star)))
    Kzz = np.asarray(prior.kernel(prior.Z, prior.Z)) + 1.4e-6 * np.eye(5)
    gain = np.linalg.solve(Kzz, k)
    mean = 0.1 * X_star[:, 0] + gain.T @ (u_mean - 0.1 * Z[:, 0])
    var = 1.4 - np.sum(k * gain, 0) + np.sum(gain * (u_cov @ gain), 0)

    def largest_z(mean, var):
        of_mean = (draws.mean(0) - mean) / np.sqrt(var / n)
        of_var = (draws.var(0) / var - 1) / np.sqrt(2 / n)
        return np.abs([of_mean, of_var]).max()

    assert largest_z(mean, var) < 5.3
    assert largest_z(mean + 0.2 * np.sqrt(var), var) > 5.3
    assert largest_z(mean, 1.3 * var) > 5.3


def test_unknown_noise_that_is_negative_has_no_bound():
    bound = jax.jit(lambda noise_var: sparse().log_marginal_bound(X, Y, noise_var))
    assert np.isfinite(bound(0.1)) and bound(-0.1) == -np.inf


def test_what_is_refused():
    with pytest.raises(ValueError, match=r"`optimal_guide\(noise_var=...\)`.*Got -1"):
        optimal_guide(sparse(), X, Y, -1.0)
    with pytest.raises(ValueError, match=r"log_marginal_bound\(y=...\)`.*\(30,\)"):
        sparse().log_marginal_bound(X, Y[:3], 0.1)
    twice = SparseGPPrior(RBF(1.0, 1e3), np.vstack([Z, Z]), jitter=0.0)
    with pytest.raises(ValueError, match="`SparseGPPrior`: the Gram matrix of 10"):
        optimal_guide(twice, X, Y, 0.1)
