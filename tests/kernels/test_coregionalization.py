"""A kernel of the number of an output: its matrix, its features, what it refuses, and
models of several outputs made with it, against dense NumPy."""

# Inputs may be NumPy's arrays and lists.
# pyright: reportArgumentType=false

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from _moments import strays, strict_float64
from _outputs import Dense, relative, shared
from helpers import few_of
from numpyro.infer import MCMC, NUTS

from pyrox.gp import (
    RBF,
    ActiveDims,
    Coregionalization,
    Derivatives,
    GPPrior,
    NaturalGuide,
    PathwiseSampler,
    SparseGPPrior,
    WhitenedGuide,
    check_kernel,
    gp_factor,
    init_inducing,
    optimal_guide,
    site_names,
)

pytestmark = pytest.mark.usefixtures("plainly_compiled")

N_PATHS, LARGEST_Z = 4096, 5.3


@pytest.fixture(autouse=True)
def _strict(request):
    if request.node.get_closest_marker("numpyro"):
        yield
        return
    with strict_float64():
        yield


def rows(n: int, seed: int, n_outputs: int = 3) -> np.ndarray:
    """Points in [0, 2], each of one output: they are seen at different places."""
    rng = np.random.default_rng(seed)
    return np.c_[rng.uniform(0, 2, n), rng.integers(0, n_outputs, n)]


MODELS = {
    "ICM": (shared(3, 2, 0.4),),
    "LMC": (shared(3, 1, 0.3), shared(3, 2, 0.8, seed=1)),
}


def dense(model: str) -> Dense:
    rng = np.random.default_rng(5)
    noise_var = np.array([0.05, 0.1, 0.2])[(X := rows(18, 1))[:, 1].astype(int)]
    return Dense(MODELS[model], X, rng.normal(size=18), noise_var)


def posterior(case: Dense):
    terms = [term.library(1, f"{i}") for i, term in enumerate(case.terms)]
    kernel = sum(terms[1:], start=terms[0])
    return GPPrior(kernel, case.X).condition(case.y, case.noise_var)


@pytest.mark.parametrize("model", few_of(MODELS, "LMC"))
def test_outputs_seen_at_different_places_are_those_of_dense_algebra(model):
    case = dense(model)
    found, X = posterior(case), rows(9, 2)
    mean, var = found.predict(X)
    assert relative(mean, case.mean(X)) < 1e-8
    assert relative(var, np.diag(case.cov(X))) < 1e-8
    assert relative(found.predict_cov(X), case.cov(X)) < 1e-8
    assert relative(found.log_marginal_likelihood(), case.log_density()) < 1e-8


@pytest.mark.parametrize("model", few_of(MODELS, "ICM"))
def test_paths_have_the_law_of_dense_algebra(model):
    # 45 entries of a covariance and 9 of a mean, twice: false alarms once in 8e4.
    case, X = dense(model), rows(9, 3)
    sampler = PathwiseSampler(posterior(case), 1024)
    values = sampler.sample_paths(jax.random.key(0), N_PATHS)(X)
    assert max(strays(values, case.mean(X), case.cov(X))) < LARGEST_Z
    # The twin: outputs that share nothing.
    term = case.terms[0]
    alone = Dense((type(term)(term.lengthscale, 0 * term.W, np.diag(term.B)),), X, X, X)
    other = case.cov(X) * (alone.prior(X, X) != 0)
    assert strays(values, case.mean(X), other)[1] > LARGEST_Z


def test_features_are_exact_and_few():
    term = shared(4, 2, 1.0)
    kernel = Coregionalization(2, 4, term.W, term.kappa)
    outputs = np.arange(4.0)[:, None]
    phi = jax.jit(lambda X: kernel.exact_features(64, 1)(X))(outputs)
    assert phi.shape == (4, 4)
    phi = np.asarray(phi)
    np.testing.assert_allclose(phi @ phi.T, term.B, rtol=0, atol=1e-14)


@pytest.mark.exhaustive
def test_features_of_an_almost_singular_matrix_in_single_precision():
    # The root does not square the weights.
    one = Coregionalization(1, 3, np.full((3, 1), 2, np.float32), np.float32(1e-9))
    root = one.exact_features(64, 1)(jnp.zeros((1, 1), jnp.float32))
    np.testing.assert_allclose(root, [[2, 0, 0]], rtol=1e-6, atol=1e-4)


@pytest.mark.exhaustive
def test_the_contract_of_a_kernel(x64):
    kernel = MODELS["ICM"][0].library(1)
    assert check_kernel(kernel, rows(10, 4), basis="sobol")["feature_z"] < 7


@pytest.mark.exhaustive
def test_it_answers_in_the_type_of_its_inputs(width):
    kernel, X = Coregionalization(2, 3), jnp.arange(3.0)[:, None]
    dtype = f"float{width}"
    found = kernel(X, X), kernel.diag(X), kernel.exact_features(8, 1)(X)
    assert {array.dtype.name for array in found} == {dtype}
    np.testing.assert_allclose(np.trace(found[0]), 3, rtol=1e-6)
    assert np.linalg.matrix_rank(kernel.W) == 2


def test_a_given_covariance_is_split():
    B = shared(3, 3, 1.0).B
    kernel = Coregionalization.of_covariance(B, name="B")
    assert relative(kernel.covariance, B) < 1e-14
    assert kernel.name == "B"


@pytest.mark.exhaustive
def test_a_covariance_that_is_traced():
    B = shared(3, 3, 1.0).B
    traced = jax.jit(lambda B: Coregionalization.of_covariance(B).covariance)
    assert relative(traced(B), B) < 1e-14
    assert np.isnan(traced(jnp.asarray(B - 9 * np.eye(3)))).any()
    weights = jnp.arange(9.0).reshape(3, 3)
    by_B = jax.grad(lambda B: jnp.sum(weights * traced((B + B.T) / 2)))(jnp.asarray(B))
    np.testing.assert_allclose(by_B, (weights + weights.T) / 2, atol=1e-8)


KERNEL = ActiveDims(RBF(), (0,)) * ActiveDims(Coregionalization(2, 3), (1,))
GOOD = np.array([[0.0, 0.0], [1.0, 2.0]])
BAD = np.array([[0.0, 0.0], [1.0, 0.5]])
Y = np.zeros(2)


def conditioned():
    return GPPrior(KERNEL, GOOD).condition(Y, 0.1)


def paths():
    return PathwiseSampler(conditioned(), 64).sample_paths(jax.random.key(0), 2)


def sparse():
    return SparseGPPrior(KERNEL, GOOD)


def slopes_at(X):
    return Derivatives(X, (0, 0), np.zeros(2), 0.1)


@pytest.mark.parametrize("bad", few_of([0.5, -1.0, 3.0], 0.5))
@pytest.mark.parametrize(
    "call",
    [
        lambda X: KERNEL(X, GOOD),
        lambda X: KERNEL.diag(X),
        lambda X: GPPrior(KERNEL, X),
        lambda X: SparseGPPrior(KERNEL, X),
        lambda X: conditioned().predict(X),
        lambda X: conditioned().predict_cov(GOOD, X),
        lambda X: conditioned().condition_on(X, Y, 0.1),
        lambda X: paths()(X),
        lambda X: paths().each(np.stack([GOOD, X])),
        lambda X: paths().condition_on(X, Y, 0.1),
        lambda X: GPPrior(KERNEL, GOOD).condition(Y, 0.1, slopes_at(X)),
        lambda X: WhitenedGuide.init(2).predict(sparse(), X),
        lambda X: WhitenedGuide.init(2).elbo(sparse(), X, Y, 0.1),
        lambda X: NaturalGuide.init(2).natural_update(sparse(), X, Y, 0.1),
        lambda X: sparse().log_marginal_bound(X, Y, 0.1),
        lambda X: optimal_guide(sparse(), X, Y, 0.1),
        lambda X: init_inducing(jax.random.key(0), X, 1, KERNEL),
    ],
)
def test_an_index_that_is_no_output_is_refused(call, bad):
    X = BAD.copy()
    X[1, 1] = bad
    wanted = rf"whole number from 0 to 2, in the column.*Got {bad} at index"
    with pytest.raises(ValueError, match=wanted):
        call(X)


def test_where_it_is_traced_it_raises_or_is_no_number():
    known, given = paths(), conditioned()
    for f in (lambda X: known(X), lambda X: given.predict_mean(X)):
        with pytest.raises(Exception, match="whole number from 0 to 2"):
            jax.block_until_ready(jax.jit(f)(BAD))
    gram = jax.jit(lambda X: KERNEL(X, X))(BAD)
    np.testing.assert_array_equal(np.isnan(gram), [[False, True], [True, True]])
    density = jax.jit(lambda X: GPPrior(KERNEL, X).log_marginal_likelihood(Y, 0.1))
    assert density(BAD) == -np.inf
    assert np.isfinite(density(GOOD))


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: Coregionalization(4, 3), r"at most the number of outputs, 3. Got 4"),
        (lambda: Coregionalization(0, 3), r"rank=...\)` must be a whole number"),
        (
            lambda: Coregionalization(1, 3, np.ones((2, 1))),
            r"must have W of shape \(3, 1\).*Got \(2, 1\)",
        ),
        (
            lambda: Coregionalization(1, 2, init_kappa=[0.1, 0.0]),
            r"Coregionalization.kappa` must be finite and positive",
        ),
        (
            lambda: Coregionalization.of_covariance([[1.0, 2.0], [2.0, 1.0]]),
            r"positive definite in float64. Got a least eigenvalue of -1",
        ),
        (
            lambda: Coregionalization.of_covariance([[2.0, 1.0], [0.0, 2.0]]),
            r"must be symmetric. Got entries that differ by 1",
        ),
        (
            lambda: Coregionalization.of_covariance(np.ones((2, 3))),
            r"must have shape \(P, P\)",
        ),
        (
            lambda: Coregionalization.of_covariance([[np.nan]]),
            r"of_covariance\(B\)` must be finite",
        ),
        (lambda: Coregionalization(1, 2)(GOOD, GOOD), r"must see one column"),
    ],
)
def test_what_is_no_covariance_of_outputs(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


@pytest.mark.exhaustive
@pytest.mark.numpyro
def test_priors_on_weights_and_variances_under_nuts():
    rng = np.random.default_rng(0)
    X = np.c_[np.linspace(0, 2, 12), np.arange(12) % 2]
    y = (np.sin(3 * X[:, 0]) + 0.1 * rng.normal(size=12)).astype(np.float32)
    priors = {"W": dist.Normal(0, 1), "kappa": dist.LogNormal(-2, 0.5)}
    outputs = Coregionalization(1, 2).with_priors(**priors)
    kernel = ActiveDims(RBF(1.0, 0.5), (0,)) * ActiveDims(outputs, (1,))
    names = ("Coregionalization.W", "Coregionalization.kappa")
    assert site_names(kernel) == names

    def model():
        gp_factor("obs", GPPrior(kernel, X.astype(np.float32)), y, 0.01)

    mcmc = MCMC(NUTS(model), num_warmup=100, num_samples=100, progress_bar=False)
    mcmc.run(jax.random.key(0))
    draws = mcmc.get_samples()
    assert draws[names[0]].shape == (100, 2, 1)
    # One function stands behind both outputs: the weights agree in sign.
    assert (np.prod(draws[names[0]][:, :, 0], axis=1) > 0).mean() > 0.95
    assert draws[names[1]].mean() < 0.3
