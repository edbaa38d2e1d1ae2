"""Derivatives as data and as predictions, against dense formulas in NumPy."""

# A hyperparameter field takes a list, and a wrong type is part of a test.
# pyright: reportArgumentType=false

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from _moments import strict_float64
from helpers import few_of
from jax.scipy.special import log_ndtr
from numpyro import factor, handlers
from numpyro.infer import MCMC, NUTS

from pyrox.gp import (
    RBF,
    ActiveDims,
    Derivatives,
    FourierGrid,
    GPPrior,
    Linear,
    Matern,
    PathwiseSampler,
    White,
    diagnose,
    gp_derivatives,
    gp_factor,
    paths_over_draws,
    substitute,
)

pytestmark = pytest.mark.usefixtures("plainly_compiled")

N, M, JITTER, NOISE, SLOPE_NOISE = 7, 6, 1e-6, 0.02, 0.05
ELLS = np.array([0.6, 0.9])


@pytest.fixture(autouse=True)
def _strict(request):
    if request.node.get_closest_marker("numpyro"):
        with jax.enable_x64(True):
            yield
        return
    with strict_float64():
        yield


# --- Kernels and their derivatives, by hand: f = (value, d/dx1_a, d/dx2_b, both) ---


def by_hand_rbf(gap, a, b, ells=ELLS, variance=1.3):
    k = variance * np.exp(-0.5 * ((gap / ells) ** 2).sum(-1))
    slope_a, slope_b = gap[..., a] / ells[a] ** 2, gap[..., b] / ells[b] ** 2
    return (
        k,
        -k * slope_a,
        k * slope_b,
        k * ((a == b) / ells[a] ** 2 - slope_a * slope_b),
    )


def by_hand_matern(gap, a, b, ells=1.2 * ELLS, variance=0.7):
    z = np.sqrt(5 * ((gap / ells) ** 2).sum(-1))
    slope_a, slope_b = gap[..., a] / ells[a] ** 2, gap[..., b] / ells[b] ** 2
    decay = variance * np.exp(-z)
    first = 5 / 3 * (1 + z) * decay
    both = 5 / 3 * decay * ((1 + z) * (a == b) / ells[a] ** 2 - 5 * slope_a * slope_b)
    return (1 + z + z**2 / 3) * decay, -first * slope_a, first * slope_b, both


def by_hand_sum(gap, a, b):
    pairs = zip(by_hand_rbf(gap, a, b), by_hand_matern(gap, a, b), strict=True)
    return tuple(map(sum, pairs))


def by_hand_product(gap, a, b):
    (k, k_a, k_b, k_ab), (h, h_a, h_b, h_ab) = (
        by_hand_rbf(gap, a, b),
        by_hand_matern(gap, a, b),
    )
    return (
        k * h,
        k_a * h + k * h_a,
        k_b * h + k * h_b,
        (k_ab * h + k_a * h_b + k_b * h_a + k * h_ab),
    )


def rbf():
    return RBF(1.3, ELLS)


def matern():
    return Matern(2.5, 0.7, 1.2 * ELLS)


CASES = {
    "RBF": (rbf, by_hand_rbf),
    "Matern52": (matern, by_hand_matern),
    "Sum": (lambda: rbf() + matern(), by_hand_sum),
    "Product": (lambda: rbf() * matern(), by_hand_product),
}
every_case = pytest.mark.parametrize("name", CASES)


def dense(by_hand, left, right):
    """The covariance of functionals: a point and an input each, None for a value."""
    K = np.empty((len(left), len(right)))
    for i, (x1, a) in enumerate(left):
        for j, (x2, b) in enumerate(right):
            parts = by_hand(x1 - x2, a or 0, b or 0)
            K[i, j] = parts[(a is not None) + 2 * (b is not None)]
    return K


def with_noise(K):
    """Of all that was observed, with its noise and the jitter: a part of the mean
    variance of the values, and of the derivatives by each input."""
    diagonal, groups = np.diag(K), [None] * N + list(Problem.dims)
    means = {
        g: np.mean([v for v, h in zip(diagonal, groups, strict=True) if h == g])
        for g in groups
    }
    return K + np.diag(Problem.noise + JITTER * np.array([means[g] for g in groups]))


class Problem:
    """Values and derivatives, some at the same points, and where to predict."""

    rng = np.random.default_rng(3)
    X = rng.uniform(0, 2, (N, 2))
    X_slopes = np.concatenate([X[:2], X[:2], rng.uniform(0, 2, (M - 4, 2))])
    dims = (0, 0, 1, 1, 0, 1)
    query = np.concatenate([X[:1], X_slopes[-1:], rng.uniform(0, 2, (3, 2))])
    y, slopes = np.sin(2 * X).sum(1), 2 * np.cos(2 * X_slopes[range(M), dims])
    noise = np.r_[np.full(N, NOISE), np.full(M, SLOPE_NOISE)]
    observed = [(x, None) for x in X] + list(zip(X_slopes, dims, strict=True))

    @classmethod
    def derivatives(cls):
        return Derivatives(cls.X_slopes, cls.dims, cls.slopes, SLOPE_NOISE)


def mean_fn(X):
    return 0.3 * X[:, 0] ** 2


@functools.cache
def conditioned(name):
    prior = GPPrior(CASES[name][0](), Problem.X, mean_fn, JITTER)
    return prior.condition(Problem.y, NOISE, Problem.derivatives())


def residual():
    slopes = Problem.slopes - np.where(
        np.array(Problem.dims) == 0, 0.6 * Problem.X_slopes[:, 0], 0
    )
    return np.r_[Problem.y - 0.3 * Problem.X[:, 0] ** 2, slopes]


def by_dense(name, functionals):
    """Mean and covariance of functionals given everything that was observed."""
    by_hand = CASES[name][1]
    A = with_noise(dense(by_hand, Problem.observed, Problem.observed))
    C = dense(by_hand, functionals, Problem.observed)
    prior_mean = [
        {None: 0.3 * x[0] ** 2, 0: 0.6 * x[0], 1: 0}[d] for x, d in functionals
    ]
    cov = dense(by_hand, functionals, functionals) - C @ np.linalg.solve(A, C.T)
    return prior_mean + C @ np.linalg.solve(A, residual()), cov


# --- Against the dense posterior ---------------------------------------------------


@pytest.mark.parametrize("name", few_of(CASES, "RBF"))
def test_values_given_derivatives(name):
    posterior, query = conditioned(name), Problem.query
    mean, cov = by_dense(name, [(x, None) for x in query])
    np.testing.assert_allclose(posterior.predict_mean(query), mean, atol=1e-9)
    np.testing.assert_allclose(posterior.predict_cov(query), cov, atol=1e-9)
    np.testing.assert_allclose(posterior.predict_var(query), np.diag(cov), atol=1e-9)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", list(CASES))
def test_values_and_gradients_given_derivatives(name):
    posterior, query = conditioned(name), Problem.query
    mean, cov = posterior.predict_value_and_gradient(query)
    for i, x in enumerate(query):
        expected = by_dense(name, [(x, None), (x, 0), (x, 1)])
        np.testing.assert_allclose(mean[i], expected[0], atol=1e-9)
        np.testing.assert_allclose(cov[i], expected[1], atol=1e-9)
    alone = posterior.predict_gradient(query, block_size=2)
    np.testing.assert_allclose(alone[0], mean[:, 1:], atol=1e-12)
    np.testing.assert_allclose(alone[1], cov[:, 1:, 1:], atol=1e-12)


@pytest.mark.parametrize("name", few_of(CASES, "RBF"))
def test_derivatives_jointly(name):
    query, dims = Problem.query, (0, 1, 1, 0, 1)
    mean, cov = conditioned(name).predict_derivatives(query, dims)
    expected = by_dense(name, list(zip(query, dims, strict=True)))
    np.testing.assert_allclose(mean, expected[0], atol=1e-9)
    np.testing.assert_allclose(cov, expected[1], atol=1e-9)


def test_the_density_of_all_observations():
    posterior = conditioned("RBF")
    K = with_noise(dense(by_hand_rbf, Problem.observed, Problem.observed))
    misfit = residual() @ np.linalg.solve(K, residual())
    expected = -0.5 * (misfit + np.linalg.slogdet(2 * np.pi * K)[1])
    args = Problem.y, NOISE, Problem.derivatives()
    prior = posterior.prior
    np.testing.assert_allclose(posterior.log_marginal_likelihood(), expected, 1e-10)
    np.testing.assert_allclose(prior.log_marginal_likelihood(*args), expected, 1e-10)
    with handlers.seed(rng_seed=0):
        trace = handlers.trace(lambda: gp_factor("all", prior, *args)).get_trace()
    np.testing.assert_allclose(trace["all"]["fn"].log_factor, expected, 1e-10)
    left_out = posterior.leave_one_out_log_density()
    assert left_out.shape == (N,)
    rest = np.arange(1, N + M)
    gain = np.linalg.solve(K[np.ix_(rest, rest)], K[rest, 0])
    mean, var = gain @ residual()[1:], K[0, 0] - gain @ K[rest, 0]
    expected = -0.5 * ((residual()[0] - mean) ** 2 / var + np.log(2 * np.pi * var))
    np.testing.assert_allclose(left_out[0], expected, 1e-9)


def test_forgetting_that_they_are_derivatives_is_noticed():
    as_values = [(x, None) for x, _ in Problem.observed]
    A = with_noise(dense(by_hand_rbf, as_values, as_values))
    C = dense(by_hand_rbf, [(x, None) for x in Problem.query], as_values)
    wrong = 0.3 * Problem.query[:, 0] ** 2 + C @ np.linalg.solve(A, residual())
    mean = conditioned("RBF").predict_mean(Problem.query)
    assert np.abs(mean - wrong).max() > 0.1


def test_whole_gradients():
    X, slopes = Problem.X[:3], np.cos(Problem.X[:3])
    whole = Derivatives.of_gradients(X, slopes, 0.1)
    assert whole.sites.dims == (0, 1) * 3
    np.testing.assert_array_equal(whole.sites.X, np.repeat(X, 2, axis=0))
    np.testing.assert_array_equal(whole.values, slopes.reshape(-1))


@pytest.mark.exhaustive
def test_other_dtypes_follow_the_data():
    X = jnp.asarray(Problem.X, jnp.float32)
    prior = GPPrior(RBF(), X, jitter=1e-4)
    posterior = prior.condition(jnp.zeros(N, jnp.float32), 0.1, Problem.derivatives())
    mean, cov = posterior.predict_gradient(X)
    assert mean.dtype == cov.dtype == posterior.predict_mean(X).dtype == jnp.float32


# --- Paths -------------------------------------------------------------------------


@pytest.mark.parametrize("name", few_of(["RBF", "Matern52"]))
def test_what_paths_imply_is_the_posterior(name):
    """By the certificate, which counts no draws; Matern-5/2 to its features' error."""
    paths = PathwiseSampler(conditioned(name), 1024).sample_paths(jax.random.key(0))
    found = diagnose(paths, Problem.query)
    assert found.mean_error < 1e-9
    assert found.relative < {"RBF": 1e-6, "Matern52": 1e-2}[name]
    mean, cov = by_dense(name, [(x, None) for x in Problem.query])
    np.testing.assert_allclose(found.exact_sd**2, np.diag(cov), atol=1e-9)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", ["RBF", "Matern52"])
def test_the_gradients_of_paths_have_the_covariance_predicted(name):
    """16,384 paths. Of the prior's scale a covariance errs by 0.011 at most in the mean
    of draws alone (its standard error), so 20 entries pass 0.04 by chance once in 500
    seeds, less after the data have shrunk them. Twin: the prior's own covariance."""
    sampler, query = PathwiseSampler(conditioned(name), 2048), Problem.query
    slopes = sampler.sample_paths(jax.random.key(1), 16384).gradient(query)
    mean, cov = conditioned(name).predict_gradient(query)
    kernel = CASES[name][0]()
    before = GPPrior(kernel, np.full((1, 2), 50.0)).condition(np.zeros(1), 1.0)
    prior = np.asarray(before.predict_gradient(query)[1])
    sd = np.sqrt(np.einsum("ndd->nd", prior))
    scale = sd[:, :, None] * sd[:, None, :]
    gaps = slopes - mean[None]
    drawn = np.einsum("snd,sne->nde", gaps, gaps) / len(slopes)
    assert np.abs((drawn - cov) / scale).max() < 0.04
    assert np.abs((drawn - prior) / scale).max() > 0.2
    assert np.abs(slopes.mean(0) - mean).max() / sd.max() < 0.04


@pytest.mark.exhaustive
def test_the_hessian_of_paths_is_the_slope_of_their_gradient():
    paths = PathwiseSampler(conditioned("RBF"), 64).sample_paths(jax.random.key(0), 3)
    query = jnp.asarray(Problem.query)
    hessian = paths.hessian(query, block_size=4)
    step = 1e-5 * np.eye(2)
    for d in range(2):
        up, down = paths.gradient(query + step[[d]]), paths.gradient(query - step[[d]])
        np.testing.assert_allclose(hessian[:, :, :, d], (up - down) / 2e-5, atol=1e-6)
    np.testing.assert_allclose(hessian, np.swapaxes(hessian, 2, 3), atol=1e-10)


@pytest.mark.exhaustive
def test_the_domain_holds_the_derivatives_too():
    far = Derivatives(np.array([[9.0, 1.0]]), 0, [0.0], 0.1)
    posterior = GPPrior(rbf(), Problem.X).condition(Problem.y, NOISE, far)
    paths = PathwiseSampler(posterior, 64).sample_paths(jax.random.key(0))
    assert paths.domain is not None and paths.domain[1, 0] > 9
    with pytest.raises(ValueError, match="the data` must lie inside"):
        sampler = PathwiseSampler(posterior, 64, basis=FourierGrid((-3.0, 5.0)))
        sampler.sample_paths(jax.random.key(0))


@pytest.mark.exhaustive
def test_the_parts_of_a_path_keep_its_derivatives():
    paths = PathwiseSampler(conditioned("Sum"), 128).sample_paths(jax.random.key(0), 2)
    whole = sum(part(Problem.query) for part in paths.parts())
    whole = whole + mean_fn(Problem.query)[None]
    np.testing.assert_allclose(whole, paths(Problem.query), atol=1e-10)


# --- In NumPyro models -------------------------------------------------------------


def derivatives_given(z):
    prior = GPPrior(rbf(), Problem.X, mean_fn, JITTER)
    with handlers.substitute(data={"slope_whitened": z}):
        with handlers.trace() as trace:
            args = Problem.query, (0, 1, 1, 0, 1)
            _, slopes = gp_derivatives("slope", prior, Problem.y, NOISE, *args)
    return slopes, trace["slope_data"]["fn"].log_factor


def test_latent_derivatives_have_the_moments_predicted():
    posterior = GPPrior(rbf(), Problem.X, mean_fn, JITTER).condition(Problem.y, NOISE)
    mean, cov = posterior.predict_derivatives(Problem.query, (0, 1, 1, 0, 1))
    centre, density = derivatives_given(jnp.zeros(5))
    root = np.stack([derivatives_given(e)[0] - centre for e in jnp.eye(5)], axis=1)
    np.testing.assert_allclose(centre, mean, atol=1e-9)
    # The jitter of slopes: a part of their prior variance by each input.
    jitter = np.diag(JITTER * 1.3 / ELLS[[0, 1, 1, 0, 1]] ** 2)
    np.testing.assert_allclose(root @ root.T, cov + jitter, atol=1e-9)
    np.testing.assert_allclose(density, posterior.log_marginal_likelihood(), 1e-9)


@pytest.mark.exhaustive
@pytest.mark.numpyro
def test_monotone_functions():
    """Sampled slopes that must be positive give paths that rise at their points; the
    same paths without them fall somewhere."""
    rng = np.random.default_rng(1)
    X = np.sort(rng.uniform(0, 1, (8, 1)), axis=0)
    y = X[:, 0] ** 3 + 0.1 * rng.normal(size=8)
    sites = np.linspace(0, 1, 8)[:, None]
    bare = GPPrior(RBF(0.5, 0.3), X)

    def model():
        prior = bare.kernel.with_priors(lengthscale=dist.LogNormal(-1.2, 0.3))
        args = GPPrior(prior, X), y, 0.01, sites, 0
        _, slopes = gp_derivatives("slope", *args)
        factor("rises", jnp.sum(log_ndtr(slopes / 1e-2)))

    mcmc = MCMC(NUTS(model), num_warmup=100, num_samples=40, progress_bar=False)
    mcmc.run(jax.random.key(0))
    draws = {k: mcmc.get_samples()[k] for k in ("RBF.lengthscale", "slope")}
    assert (draws["slope"] > -0.05).all()

    def condition(draw, known=True):
        slopes = Derivatives(sites, 0, draw["slope"], 1e-6) if known else None
        prior = substitute(bare, {"RBF.lengthscale": draw["RBF.lengthscale"]})
        return prior.condition(y, 0.01, slopes)

    def steepest_fall(known):
        paths = paths_over_draws(
            jax.random.key(1), draws, lambda d: condition(d, known), 2, 256
        )
        return min(float(paths[b].gradient(sites).min()) for b in (0, 20, 39))

    assert steepest_fall(True) > -0.1
    assert steepest_fall(False) < -0.5


# --- Sentences ---------------------------------------------------------------------


def condition_with(derivatives, kernel=None):
    return GPPrior(kernel or rbf(), Problem.X).condition(Problem.y, NOISE, derivatives)


@pytest.mark.parametrize(
    "make, sentence",
    [
        (lambda: Derivatives(Problem.X, 2, Problem.y, 0.1), "from 0 to 1.*Got 2"),
        (lambda: Derivatives(Problem.X, -1, Problem.y, 0.1), "from 0 to 1.*Got -1"),
        (lambda: Derivatives(Problem.X, (0, 1), Problem.y, 0.1), "each of the 7 rows"),
        (lambda: Derivatives(Problem.X, 0.0, Problem.y, 0.1), "number of an input"),
        (lambda: Derivatives(Problem.X, 0, Problem.y[:2], 0.1), "values=.*(7,)"),
        (lambda: Derivatives(Problem.X, 0, Problem.y, -1.0), "noise_var=.*positive"),
        (lambda: Derivatives.of_gradients(Problem.X, Problem.y, 1), r"\(7, 2\)"),
        (lambda: condition_with(Problem.y), "must be a `Derivatives`"),
        (
            lambda: condition_with(Derivatives(Problem.X[:, :1], 0, Problem.y, 0.1)),
            "points of D=2.*Got D=1",
        ),
    ],
)
def test_bad_derivatives(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()


ROUGH = {
    "Matern12": (Matern(0.5), 0, r"Matern\(nu=0.5\)"),
    "Matern32": (Matern(1.5), 1, r"Matern\(nu=1.5\)"),
    "Product": (RBF() * ActiveDims(Matern(0.5), (1,)), 0, "ActiveDims"),
    "Sum": (2.0 * (RBF() + Matern(1.5)), 1, "Scale"),
    "White": (Linear() + White(), 0, "White"),
}


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", list(ROUGH))
def test_functions_without_derivatives(name):
    kernel, n_derivatives, names = ROUGH[name]
    assert kernel.smoothness == n_derivatives
    have = ("have no derivative", "have one derivative")[n_derivatives]
    posterior = GPPrior(kernel, Problem.X).condition(Problem.y, NOISE)
    if n_derivatives == 0:
        with pytest.raises(ValueError, match=f"derivatives=.*{have}: {names}"):
            condition_with(Problem.derivatives(), kernel)
        for ask in (posterior.predict_gradient, posterior.predict_value_and_gradient):
            with pytest.raises(ValueError, match=f"predict_.*{have}: {names}"):
                ask(Problem.query)
        with pytest.raises(ValueError, match="gp_derivatives"):
            with handlers.seed(rng_seed=0):
                args = posterior.prior, Problem.y, NOISE, Problem.query, 0
                gp_derivatives("slope", *args)
    if name == "White":
        return
    paths = PathwiseSampler(posterior, 32).sample_paths(jax.random.key(0))
    with pytest.raises(ValueError, match=rf"hessian.*{have}: {names}"):
        paths.hessian(Problem.query)
    if n_derivatives == 0:
        with pytest.raises(ValueError, match=rf"paths.gradient.*{have}: {names}"):
            paths.gradient(Problem.query)
    else:
        assert paths.gradient(Problem.query).shape == (1, 5, 2)
