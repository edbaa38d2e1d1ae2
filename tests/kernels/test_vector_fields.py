"""Fields without divergence or curl: their covariances from closed forms, what data
make of them against dense NumPy, and that their paths keep the law."""

# Inputs may be NumPy's arrays and lists.
# pyright: reportArgumentType=false

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from _moments import strays, strict_float64
from _outputs import relative
from helpers import few_of

from pyrox.gp import (
    RBF,
    CurlFree,
    DivergenceFree,
    GPPrior,
    Landmarks,
    Linear,
    Matern,
    MultiOutputPrior,
    MultiOutputSampler,
    check_kernel,
    site_names,
)

pytestmark = pytest.mark.usefixtures("plainly_compiled")

V, ELL, NOISE, JITTER = 0.8, 0.6, 0.02, 1e-6
KINDS = [(DivergenceFree, 2), (DivergenceFree, 3), (CurlFree, 2), (CurlFree, 3)]
RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _strict():
    with strict_float64():
        yield


def rows(X: np.ndarray) -> np.ndarray:
    """All components at each point, one after the other."""
    n, d = X.shape
    return np.c_[np.tile(X, (d, 1)), np.repeat(np.arange(d), n)]


def bent(A: np.ndarray, C: np.ndarray) -> np.ndarray:
    """H, the second derivatives of V exp(-|r|^2 / 2 l^2) by one of each point."""
    gap = (A[:, None] - C[None]) / ELL**2
    k = V * np.exp(-((A[:, None] - C[None]) ** 2).sum(-1) / (2 * ELL**2))
    eye = np.eye(A.shape[1]) / ELL**2
    return k[..., None, None] * (eye - gap[..., :, None] * gap[..., None, :])


def gram(kind: type, A: np.ndarray, C: np.ndarray) -> np.ndarray:
    """Of a gradient H, of a curl tr(H) I - H."""
    H = bent(A[:, :-1], C[:, :-1])
    if kind is DivergenceFree:
        H = np.trace(H, axis1=2, axis2=3)[..., None, None] * np.eye(H.shape[-1]) - H
    i, j = A[:, -1].astype(int)[:, None], C[:, -1].astype(int)[None]
    return H[np.arange(len(A))[:, None], np.arange(len(C))[None], i, j]


def field(kind: type, d: int, dtype: str = "float64", n: int = 5):
    kernel = kind(RBF(np.asarray(V, dtype), np.asarray(ELL, dtype)))
    X = np.random.default_rng(d).uniform(0, 1, (n, d)).astype(dtype)
    Y = np.random.default_rng(9).normal(size=(n, d)).astype(dtype)
    return MultiOutputPrior(kernel, X, d, jitter=JITTER), Y


@pytest.mark.parametrize(("kind", "d"), few_of(KINDS, (DivergenceFree, 3)))
def test_covariances_are_those_of_closed_forms(kind, d):
    X, kernel = RNG.uniform(0, 1, (4, d)), kind(RBF(V, ELL))
    X = rows(X)
    part, variances = jax.jit(lambda X: (kernel(X, X[:3]), kernel.diag(X)))(X)
    assert relative(part, gram(kind, X, X[:3])) < 1e-12
    assert relative(variances, np.diag(gram(kind, X, X))) < 1e-12


@pytest.mark.parametrize(("kind", "d"), few_of(KINDS, (DivergenceFree, 2)))
def test_observed_vectors_are_those_of_dense_algebra(kind, d):
    prior, Y = field(kind, d)
    posterior = prior.condition(Y, NOISE)
    Q = RNG.uniform(0, 1, (3, d))
    X, Z, y = rows(np.asarray(prior.X)), rows(Q), Y.T.reshape(-1)
    K = gram(kind, X, X)
    A = K + (NOISE + JITTER * np.mean(np.diag(K))) * np.eye(len(K))
    gain = np.linalg.solve(A, gram(kind, X, Z)).T
    mean, cov = gain @ y, gram(kind, Z, Z) - gain @ gram(kind, X, Z)
    assert relative(posterior.predict_mean(Q), mean.reshape(d, -1).T) < 1e-8
    found = posterior.predict_cov(Q).transpose(1, 0, 3, 2).reshape(cov.shape)
    assert relative(found, cov) < 1e-8


def trace(jacobian) -> np.ndarray:
    return np.trace(np.asarray(jacobian), axis1=2, axis2=3)


def twist(jacobian) -> np.ndarray:
    jacobian = np.asarray(jacobian)
    return jacobian - np.swapaxes(jacobian, 2, 3)


LIMITS = {"float32": 1e-5, "float64": 1e-10}
FEW = [(*kind, dtype, 5) for kind in KINDS for dtype in LIMITS]
# Noise of a hundredth of the variance, and vectors that are noise altogether: weights
# are as large as they get, and so is what rounding makes of their sums.
MANY = [(*kind, dtype, 50) for kind in KINDS for dtype in LIMITS]


@pytest.mark.parametrize(
    ("kind", "d", "dtype", "n"),
    few_of(FEW + MANY, (DivergenceFree, 2, "float32", 50)),
)
def test_paths_keep_the_law(kind, d, dtype, n):
    prior, Y = field(kind, d, dtype, n)
    sampler = MultiOutputSampler(prior.condition(Y, np.asarray(NOISE, dtype)), 256)
    paths = sampler.sample_paths(jax.random.key(0), 4)
    Q = RNG.uniform(0, 1, (20, d)).astype(dtype)
    jacobian, size = paths.gradient(Q), float(jnp.abs(paths(Q)).max())
    kept, broken = (trace, twist) if kind is DivergenceFree else (twist, trace)
    assert jacobian.dtype == dtype
    assert np.abs(kept(jacobian)).max() < LIMITS[dtype] * size
    assert np.abs(broken(jacobian)).max() > 0.1 * size
    # Slopes alone break it where weights are large.
    if (dtype, n) == ("float32", 50):
        assert np.abs(kept(plain_slopes(paths, Q))).max() > LIMITS[dtype] * size


def plain_slopes(paths, Q) -> np.ndarray:
    """Of all components, each differentiated on its own."""
    slopes = np.asarray(paths.stacked.gradient(rows(Q).astype(Q.dtype)))[..., :-1]
    return slopes.reshape(len(paths), Q.shape[1], *Q.shape).swapaxes(1, 2)


@pytest.mark.exhaustive
@pytest.mark.parametrize(("kind", "d"), KINDS)
def test_to_keep_the_law_brings_slopes_nearer_to_the_truth(kind, d):
    """That of the same functions in float64, by JAX alone: it is these that keep it."""
    prior, Y = field(kind, d, "float32", 50)
    sampler = MultiOutputSampler(prior.condition(Y, np.float32(NOISE)), 256)
    paths = sampler.sample_paths(jax.random.key(0), 4)
    Q = np.float32(RNG.uniform(0, 1, (20, d)))
    wide = jax.tree.map(lambda leaf: jnp.asarray(leaf, "float64"), paths)
    exact = derivatives(wide, np.float64(Q))
    kept = trace if kind is DivergenceFree else twist
    assert np.abs(kept(exact)).max() < 1e-10 * np.abs(exact).max()
    found = paths.gradient(Q), plain_slopes(paths, Q)
    off, before = (np.linalg.norm(np.asarray(J) - exact) for J in found)
    assert off < before < 1e-3 * np.linalg.norm(exact)


def derivatives(paths, Q):
    """Point by point."""
    jacobian = jax.vmap(jax.jacfwd(lambda x: paths(x[None])[:, 0]))
    return np.swapaxes(np.asarray(jax.jit(jacobian)(jnp.asarray(Q))), 0, 1)


def swirl(X):
    """Of a field with divergence and curl, a component."""
    return jnp.sin(2 * X[:, 0]) + (1 + X[:, 2]) * X[:, 0] * X[:, 1]


FIELDS = {
    "divergence-free": (2.0 * DivergenceFree(RBF()) + DivergenceFree(RBF(1.0, 0.3))),
    "both": DivergenceFree(RBF()) + CurlFree(RBF(1.0, 0.5)),
}


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("kernel", "mean_fn"),
    [("divergence-free", None), ("both", None), ("divergence-free", swirl)],
)
def test_only_what_the_law_forbids_is_taken_out(kernel, mean_fn):
    """Sums keep what all of their terms keep, and a mean function keeps nothing."""
    prior = MultiOutputPrior(FIELDS[kernel], RNG.uniform(0, 1, (4, 2)), 2, mean_fn)
    posterior = prior.condition(RNG.normal(size=(4, 2)), NOISE)
    paths = MultiOutputSampler(posterior, 64).sample_paths(jax.random.key(0), 2)
    Q = RNG.uniform(0, 1, (5, 2))
    jacobian, exact = np.asarray(paths.gradient(Q)), derivatives(paths, Q)
    np.testing.assert_allclose(jacobian, exact, atol=1e-9)
    left = trace(exact)
    if mean_fn is not None:
        assert np.abs(left).max() > 0.1
        left = left - (2 * np.cos(2 * Q[:, 0]) + Q[:, 1] + 2 * Q[:, 0])
    assert (np.abs(left).max() > 0.1) == (kernel == "both")


@pytest.mark.exhaustive
def test_each_path_at_points_of_its_own():
    prior, Y = field(DivergenceFree, 2)
    sampler = MultiOutputSampler(prior.condition(Y, NOISE), 64)
    paths, own = (
        sampler.sample_paths(jax.random.key(0), 3),
        RNG.uniform(0, 1, (3, 4, 2)),
    )
    alone = [paths[s](own[s])[0] for s in range(3)]
    np.testing.assert_allclose(paths.each(own), np.stack(alone), atol=1e-12)
    for X in (own[:2], own[0], own[:, :0], own[..., :1]):
        with pytest.raises(ValueError, match=r"`paths.each\(X\)`.*shape \(3, N, 2\)"):
            paths.each(X)


def test_the_breach_of_a_law_is_a_projection():
    J, eye = jnp.asarray(RNG.normal(size=(3, 2, 2))), np.eye(2)
    flow, force = DivergenceFree(RBF()), CurlFree(RBF())
    spread = np.trace(J, axis1=1, axis2=2)[:, None, None] * eye / 2
    np.testing.assert_allclose(flow.breach(J), spread, atol=1e-15)
    np.testing.assert_allclose(force.breach(J), (J - J.swapaxes(1, 2)) / 2)
    for kernel in (flow, force, 3.0 * flow, flow + 2.0 * flow):
        once = kernel.breach(J)
        np.testing.assert_allclose(kernel.breach(once), once, atol=1e-15)
        assert np.abs(once).max() > 0.1
    for kernel in (flow + force, force + flow, flow + RBF(), flow * RBF()):
        np.testing.assert_allclose(kernel.breach(J), 0 * J, atol=1e-15)
    for kernel in (flow, force):  # of one component alone
        np.testing.assert_array_equal(kernel.breach(J[:, :1]), 0 * J[:, :1])


@pytest.mark.exhaustive
@pytest.mark.parametrize(("kind", "d"), KINDS)
def test_paths_have_the_law_of_their_features_and_these_are_near_the_kernel(kind, d):
    # Six means and 21 covariances at most a case: false alarms once in 8e4.
    prior, Y = field(kind, d)
    sampler = MultiOutputSampler(prior.condition(Y, NOISE), 4096)
    paths = sampler.sample_paths(jax.random.key(1), 4096)
    Q = RNG.uniform(0, 1, (2, d))
    X, Z, y = rows(np.asarray(prior.X)), rows(Q), Y.T.reshape(-1)
    K = gram(kind, X, X)
    noise = NOISE + JITTER * np.mean(np.diag(K))
    gain = np.linalg.solve(K + noise * np.eye(len(K)), gram(kind, X, Z)).T
    phi = paths.stacked.features
    left = np.asarray(phi(jnp.asarray(Z))) - gain @ np.asarray(phi(jnp.asarray(X)))
    implied = left @ left.T + noise * gain @ gain.T
    values = np.swapaxes(paths(Q), 1, 2).reshape(len(paths), -1)
    assert max(strays(values, gain @ y, implied)) < 5.3
    # The twin: components in another order.
    assert max(strays(values[:, ::-1], gain @ y, implied)) > 5.3
    exact = gram(kind, Z, Z) - gain @ gram(kind, X, Z)
    # In two inputs frequencies are those of a grid, near exact.
    assert relative(implied, exact) < (1e-6 if d == 2 else 0.05)


@pytest.mark.exhaustive
@pytest.mark.parametrize(("kind", "d"), KINDS)
def test_the_contract_of_a_kernel(kind, d):
    X = rows(RNG.uniform(0, 1, (4, d)))
    found = check_kernel(kind(Matern(2.5) + 0.5 * RBF()), X, basis="sobol")
    assert found["feature_z"] < 7


@pytest.mark.exhaustive
def test_far_from_zero_in_single_precision():
    prior, Y = field(DivergenceFree, 2, "float32")
    Q, far = np.float32(RNG.uniform(0, 1, (5, 2))), np.float32(2048)
    moved = MultiOutputPrior(prior.kernel, prior.X + far, 2, jitter=JITTER)
    near, other = (
        MultiOutputSampler(p.condition(Y, np.float32(NOISE)), 256).sample_paths(
            jax.random.key(0), 4
        )
        for p in (prior, moved)
    )
    np.testing.assert_allclose(other(Q + far), near(Q), atol=5e-3)


def test_priors_are_those_of_the_potential():
    prior = dist.LogNormal(0.0, 1.0)
    kernel = DivergenceFree(RBF().with_priors(lengthscale=prior, variance=prior))
    assert set(site_names(kernel)) == {"RBF.lengthscale", "RBF.variance"}
    assert DivergenceFree(RBF()).smoothness == np.inf
    assert CurlFree(Matern(2.5)).smoothness == 1


HERE = np.zeros((2, 2))


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: DivergenceFree(Matern(0.5)), "potential that has slopes"),
        (lambda: CurlFree(3.0), r"`CurlFree\(kernel\)` must be a kernel"),
        (
            lambda: DivergenceFree(RBF())(np.zeros((2, 5)), np.zeros((2, 5))),
            "two or three inputs.*Got 4",
        ),
        (
            lambda: GPPrior(DivergenceFree(RBF()), np.full((2, 3), 0.5)),
            "whole number from 0 to 1, in the column that `DivergenceFree` sees",
        ),
        (lambda: MultiOutputPrior(CurlFree(RBF()), HERE, 3), "number from 0 to 1"),
    ],
)
def test_bad_input(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


@pytest.mark.exhaustive
def test_other_features_of_the_potential():
    """Exact ones stay exact; landmarks are for the field itself."""
    X = rows(RNG.uniform(0, 1, (3, 2)))
    kernel = CurlFree(Linear())
    phi = kernel.features(jax.random.key(0), 64, 3)(jnp.asarray(X))
    np.testing.assert_allclose(phi @ phi.T, kernel(X, X), atol=1e-12)
    basis = Landmarks(rows(RNG.uniform(0, 1, (9, 2))))
    sampler = MultiOutputSampler(field(CurlFree, 2)[0], 64, basis)
    assert sampler.sample_paths(jax.random.key(0), 2)(HERE).shape == (2, 2, 2)
