"""Laplace's approximation: against scikit-learn's classifier, SciPy's modes, dense
matrices, and itself where it is exact."""

import functools
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from helpers import central_difference, compilations, few_of
from scipy import integrate, optimize, special, stats

from pyrox.gp import (
    RBF,
    ConstantMean,
    GPPrior,
    Matern,
    PathwiseSampler,
    SparseGPPrior,
    fit_latent,
)

pytestmark = pytest.mark.usefixtures("plainly_compiled")

N = 24
_rng = np.random.default_rng(0)
X = np.sort(_rng.uniform(0, 3, N))[:, None]
QUERY = np.linspace(-0.5, 3.5, 9)[:, None]
WAVE = np.sin(2 * X[:, 0])
# Above it the classes are drawn, as below for scikit-learn.
CLASSES = (_rng.uniform(size=N) < special.expit(3 * WAVE)).astype(int)
COUNTS = _rng.poisson(np.exp(0.5 + WAVE))
HEAVY = WAVE + 0.2 * _rng.standard_t(2, N)
HEAVY[3] += 4.0  # far out in the tail, where the density is not log-concave


def bernoulli(f):
    return dist.Bernoulli(logits=f)


def poisson(f):
    return dist.Poisson(jnp.exp(f))


def student(f, scale: Any = 0.2):
    return dist.StudentT(4.0, f, scale)


LIKELIHOODS = {
    "Bernoulli": (bernoulli, CLASSES),
    "Poisson": (poisson, COUNTS),
    "Student-t": (student, HEAVY),
}


def log_densities(name, f, y):
    """log p(y_i | f_i) by SciPy."""
    if name == "Bernoulli":
        return stats.bernoulli.logpmf(y, special.expit(f))
    if name == "Poisson":
        return stats.poisson.logpmf(y, np.exp(f))
    return stats.t.logpdf(y, 4.0, f, 0.2)


def curvature(name, f, y):
    if name == "Bernoulli":
        return special.expit(f) * special.expit(-f)
    if name == "Poisson":
        return np.exp(f)
    square, width = (y - f) ** 2, 4.0 * 0.2**2
    return 5.0 * (width - square) / (width + square) ** 2


def gram(variance, ell, A, B):
    return variance * np.exp(-0.5 * ((A - B.T) / ell) ** 2)


# --- scikit-learn ---------------------------------------------------------------------

# scikit-learn 1.9.1 on these data (as CLASSES above, 0 1 0 0 0 1 1 1 1 1 0 1 0 ...):
#     classifier = GaussianProcessClassifier(2.0**2 * RBF(0.6), optimizer=None)
#     model = classifier.fit(X, y).base_estimator_
#     classifier.log_marginal_likelihood_value_                  EVIDENCE
#     pi = model._posterior_mode(model.kernel_(X), True)[1][0]
#     np.log(pi / (1 - pi))                                      MODE
#     model.latent_mean_and_variance(QUERY)                      MEAN, VAR
#     classifier.predict_proba(QUERY)[:, 1]                      PROBABILITY
#     sklearn.gaussian_process._gpc.LAMBDAS, COEFS
# fmt: off
EVIDENCE = -11.424698628755856
MODE = np.array([
    -0.76692409, -0.65536211, -0.55011684, -0.50036041, -0.42784939, 0.5373188,
    1.14772521, 1.89317372, 1.96429112, 1.28074009, -0.4316339, -0.46603461,
    -1.42920011, -1.83753773, -1.9631877, -2.2244694, -2.69508845, -2.69597467,
    -2.875829, -2.87276121, -2.76242057, -2.73877521, -2.46921353, -2.31738182,
])
MEAN = np.array([
    -1.07309211, -0.78753561, 1.04647525, 1.93108819, 0.22198194, -2.18308602,
    -2.83987623, -1.81988424, -0.66730569,
])
VAR = np.array([
    2.57314986, 0.7306864, 0.88817883, 1.28911594, 0.92961149, 0.88866856, 1.3222518,
    2.3108521, 3.60690082,
])
PROBABILITY = np.array([
    0.32311516, 0.33579398, 0.70809235, 0.82737118, 0.54625784, 0.13186784, 0.08735814,
    0.21329643, 0.39705772,
])
LAMBDAS = np.array([0.41, 0.4, 0.37, 0.44, 0.39])
COEFS = np.array([
    -1854.8214151, 3516.89893646, 221.29346712, 128.12323805, -2010.49422654,
])
# fmt: on


def by_error_functions(mean, var):
    """scikit-learn's average of the logistic function: it is fitted by error functions
    (Williams & Barber 1998), whose averages have a closed form."""
    mean, var = mean[None, :], var[None, :]
    alpha = 1 / (2 * var)
    gamma = LAMBDAS[:, None] * mean
    integrals = np.sqrt(np.pi / alpha) * special.erf(
        gamma * np.sqrt(alpha / (alpha + LAMBDAS[:, None] ** 2))
    )
    integrals = integrals / (2 * np.sqrt(var * 2 * np.pi))
    return (COEFS[:, None] * integrals).sum(axis=0) + 0.5 * COEFS.sum()


@pytest.mark.parametrize("jitter", few_of([0.0, None], 0.0))
def test_classes_are_those_of_scikit_learn(jitter, x64):
    """Which has no jitter; 1e-6 of the variance moves nothing by 1e-5."""
    prior = GPPrior(RBF(4.0, 0.6), X, jitter=jitter)
    found = fit_latent(prior, CLASSES, bernoulli)
    assert found.converged and found.n_steps < 10
    near = {"atol": 1e-5 if jitter is None else 2e-8, "rtol": 0}
    np.testing.assert_allclose(found.log_evidence, EVIDENCE, **near)
    np.testing.assert_allclose(found.mode, MODE, **near)
    mean, var = map(np.asarray, found.posterior.predict(QUERY))
    np.testing.assert_allclose(mean, MEAN, **near)
    np.testing.assert_allclose(var, VAR, **near)
    np.testing.assert_allclose(
        by_error_functions(mean, var), PROBABILITY, rtol=0, atol=1e-5
    )
    # By quadrature, which has no error to speak of; theirs has one of 6e-5 here.
    found = np.asarray(found.predict_probability(QUERY, 1, bernoulli))
    for row in range(len(QUERY)):
        normal: Any = stats.norm(mean[row], np.sqrt(var[row]))
        exact = integrate.quad(
            lambda f, normal=normal: special.expit(f) * normal.pdf(f),
            *normal.interval(1 - 1e-14),
            epsabs=1e-12,
        )[0]
        assert abs(found[row] - exact) < 1e-9
    assert 1e-5 < np.abs(found - PROBABILITY).max() < 1e-4


@pytest.mark.exhaustive
def test_trained_hyperparameters_are_those_of_scikit_learn(x64):
    """Variance and lengthscale by L-BFGS-B from the same start, with its own gradient;
    scikit-learn found 22.28733438 and .66165796, of evidence -10.658839044090346, from
    slopes by the logarithms of .92953277 and -.6195123."""

    @jax.jit
    @jax.value_and_grad
    def loss(logs):
        prior = GPPrior(RBF(*jnp.exp(logs)), X, jitter=0.0)
        return -fit_latent(prior, CLASSES, bernoulli).log_evidence

    start = np.log([4.0, 0.6])
    np.testing.assert_allclose(-loss(start)[1], [0.92953277, -0.6195123], atol=1e-7)
    how = {"jac": True, "method": "L-BFGS-B", "options": {"ftol": 1e-14, "gtol": 1e-7}}
    found = optimize.minimize(loss, start, **how)
    np.testing.assert_allclose(np.exp(found.x), [22.28733438, 0.66165796], rtol=1e-5)
    np.testing.assert_allclose(-found.fun, -10.658839044090346, atol=1e-7)


# --- References -----------------------------------------------------------------------


@functools.cache
def reference(name, variance=1.5, ell=0.5):
    """The mode by SciPy, and the moments at QUERY and the evidence there by dense
    matrices."""
    y, K = LIKELIHOODS[name][1], gram(variance, ell, X, X)
    K = K + 1e-6 * variance * np.eye(N)
    lower = np.linalg.cholesky(K)

    def negative(z):
        return 0.5 * z @ z - log_densities(name, lower @ z, y).sum()

    # In whitened values, and polished by steps of Newton's with the true Hessian.
    z = optimize.minimize(negative, np.zeros(N), method="BFGS", tol=1e-10).x
    for _ in range(20):
        f = lower @ z
        bend = np.eye(N) + lower.T @ (curvature(name, f, y)[:, None] * lower)
        step = 1e-4
        up, down = (log_densities(name, f + s, y) for s in (step, -step))
        slope = (8 * (up - down)) / (12 * step)
        up, down = (log_densities(name, f + s, y) for s in (2 * step, -2 * step))
        slope = slope - (up - down) / (12 * step)
        z = z - np.linalg.solve(bend, z - lower.T @ slope)
    f = lower @ z
    W = np.maximum(curvature(name, f, y), 0)
    B = np.eye(N) + np.sqrt(W)[:, None] * K * np.sqrt(W)
    evidence = -negative(z) - 0.5 * np.linalg.slogdet(B)[1]
    cross = gram(variance, ell, X, QUERY)
    mean = cross.T @ np.linalg.solve(K, f)
    inner = np.sqrt(W)[:, None] * np.linalg.solve(B, np.sqrt(W)[:, None] * cross)
    cov = gram(variance, ell, QUERY, QUERY) - cross.T @ inner
    return f, W, evidence, mean, cov


def fitted(name, **how):
    likelihood, y = LIKELIHOODS[name]
    return fit_latent(GPPrior(RBF(1.5, 0.5), X), y, likelihood, **how)


@pytest.mark.parametrize("name", few_of(LIKELIHOODS, "Student-t"))
def test_modes_moments_and_evidence_by_dense_matrices(name, x64):
    f, W, evidence, mean, cov = reference(name)
    found = fitted(name)
    assert found.converged
    assert (W == 0).any() == (name == "Student-t")
    np.testing.assert_allclose(found.mode, f, atol=1e-7)
    np.testing.assert_allclose(found.curvature, W, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(found.log_evidence, evidence, atol=1e-7)
    np.testing.assert_allclose(found.posterior.predict_mean(QUERY), mean, atol=1e-6)
    np.testing.assert_allclose(found.posterior.predict_cov(QUERY), cov, atol=1e-6)


def test_of_gaussian_data_it_is_exact(x64):
    """Also of noise from next to nothing to more than everything: where W is 1e-12 of
    the largest the pseudo-data lose no digits."""
    noise_var = np.logspace(-4, 8, N)
    prior = GPPrior(Matern(2.5, 1.5, 0.5), X, ConstantMean(0.3))
    found = fit_latent(prior, HEAVY, lambda f: dist.Normal(f, np.sqrt(noise_var)))
    exact = prior.condition(HEAVY, noise_var)
    assert found.n_steps <= 2
    evidence = exact.log_marginal_likelihood()
    np.testing.assert_allclose(found.log_evidence, evidence, rtol=1e-10)
    for one, other in zip(
        found.posterior.predict(QUERY), exact.predict(QUERY), strict=True
    ):
        np.testing.assert_allclose(one, other, atol=1e-9)


@pytest.mark.exhaustive
def test_classes_far_from_the_border(width):
    """Logits of 40 and more: W underflows, and is cut off where rounding hides it."""
    kernel, dtype = RBF(4e4, 0.6), f"float{width}"
    y = (WAVE > 0).astype(int)
    found = fit_latent(GPPrior(kernel, X.astype(dtype)), y, bernoulli)
    W = np.asarray(found.curvature)
    assert W.dtype == dtype and found.converged and W.min() < 1e-4 * W.max()
    mean, var = found.posterior.predict(X.astype(dtype))
    near = {"rtol": 1e-3 if width == 32 else 1e-5}
    scale = float(np.abs(found.mode).max())
    np.testing.assert_allclose(mean, found.mode, atol=near["rtol"] * scale)
    assert np.isfinite(var).all() and found.log_evidence < 0
    paths = PathwiseSampler(found.posterior, 64).sample_paths(jax.random.key(0), 4)
    assert np.isfinite(paths(X.astype(dtype))).all()
    one = found.predict_probability(X.astype(dtype), 1, bernoulli)
    assert np.all((np.asarray(one) > 0.5) == (y == 1))


@pytest.mark.exhaustive
def test_a_mode_of_zero_has_its_curvature(x64):
    """The density of classes is written with |f|, which has no derivative at zero."""
    found = fit_latent(
        GPPrior(RBF(), X[:1]), np.array([1]), lambda f: dist.Binomial(2, logits=f)
    )
    np.testing.assert_allclose(found.curvature, 0.5, rtol=1e-12)
    assert found.mode == 0


# --- Derivatives ----------------------------------------------------------------------


@pytest.mark.parametrize("what", few_of(["evidence", "prediction"], "evidence"))
@pytest.mark.parametrize("name", few_of(LIKELIHOODS, "Student-t"))
def test_what_is_found_is_differentiable(name, what, x64):
    """By the kernel, the mean, and the likelihood's own parameters."""
    likelihood, y = LIKELIHOODS[name]

    def found(parameters):
        kernel = RBF(jnp.exp(parameters[0]), jnp.exp(parameters[1]))
        prior = GPPrior(kernel, X, ConstantMean(parameters[2]))

        def own(f):
            if name == "Student-t":
                return student(f, jnp.exp(parameters[3]))
            return likelihood(parameters[3] + f)

        return fit_latent(prior, y, own)

    def f(parameters):
        if what == "evidence":
            return found(parameters).log_evidence
        return found(parameters).posterior.predict_mean(QUERY)[4]

    start = np.array([0.4, -0.7, 0.2, -1.6 if name == "Student-t" else 0.1])
    value_and_slope = jax.jit(jax.value_and_grad(f))
    slope = value_and_slope(start)[1]
    expected = central_difference(lambda p: value_and_slope(p)[0], start, 1e-5)
    np.testing.assert_allclose(slope, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.exhaustive
def test_second_derivatives(x64):
    def evidence(u):
        prior = GPPrior(RBF(jnp.exp(u[0]), jnp.exp(u[1])), X)
        return fit_latent(prior, COUNTS, poisson).log_evidence

    start, step = jnp.array([0.4, -0.7]), 1e-4
    bend = jax.hessian(evidence)(start)
    slope = jax.jit(jax.grad(evidence))
    for i in range(2):
        move = step * jnp.eye(2)[i]
        expected = (slope(start + move) - slope(start - move)) / (2 * step)
        np.testing.assert_allclose(bend[i], expected, rtol=1e-6, atol=1e-7)


# --- Paths ----------------------------------------------------------------------------


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", LIKELIHOODS)
def test_paths_have_the_law_of_the_posterior(name, x64):
    """5.3 standard errors of 9 means and 45 covariances: a false alarm in 1e5."""
    *_, mean, cov = reference(name)
    n = 4000
    sampler = PathwiseSampler(fitted(name).posterior, 1024)
    values = np.asarray(sampler.sample_paths(jax.random.key(1), n)(QUERY))

    def largest(mean, cov):
        sd = np.sqrt(np.diag(cov))
        z_mean = (values.mean(0) - mean) / sd * np.sqrt(n)
        apart = values - mean
        found = apart.T @ apart / n
        spread = np.sqrt((cov**2 + np.outer(sd, sd) ** 2) / n)
        return max(np.abs(z_mean).max(), np.abs((found - cov) / spread).max())

    assert largest(mean, cov) < 5.3
    # The twin: without the data's curvature.
    assert largest(mean, gram(1.5, 0.5, QUERY, QUERY)) > 5.3


# --- Programs -------------------------------------------------------------------------


@pytest.mark.exhaustive
def test_under_vmap_it_is_the_same(x64):
    def evidence(ell):
        prior = GPPrior(RBF(1.5, ell), X)
        return fit_latent(prior, COUNTS, poisson).log_evidence

    ells = jnp.array([0.2, 0.5, 2.0])
    alone = [evidence(ell) for ell in ells]
    np.testing.assert_allclose(jax.vmap(evidence)(ells), alone, rtol=1e-12)
    slopes = [jax.grad(evidence)(ell) for ell in ells]
    together = jax.vmap(jax.grad(evidence))(ells)
    np.testing.assert_allclose(together, slopes, rtol=1e-9)


def test_other_data_of_a_size_compile_nothing():
    def run(y, level):
        prior = GPPrior(RBF(level, 0.5), X)
        found = fit_latent(prior, y, lambda f: dist.Poisson(level * jnp.exp(f)))
        return float(found.log_evidence)

    run(COUNTS, jnp.array(1.5))
    other = jnp.array(2.0)
    with compilations() as programs:
        assert run(COUNTS[::-1].copy(), other) != run(COUNTS, other)
    assert not programs


@pytest.mark.exhaustive
def test_single_precision_is_near(x64):
    found = fitted("Poisson")
    with jax.enable_x64(False):
        prior = GPPrior(RBF(1.5, 0.5), X.astype("float32"), jitter=1e-6)
        single = fit_latent(prior, COUNTS, poisson)
    assert single.mode.dtype == np.float32 and single.converged
    np.testing.assert_allclose(single.mode, found.mode, atol=1e-3)
    np.testing.assert_allclose(single.log_evidence, found.log_evidence, atol=1e-3)


# --- Bad input ------------------------------------------------------------------------

PRIOR = GPPrior(RBF(1.5, 0.5), X)


def with_a_site(f):
    return student(f, numpyro.sample("scale", dist.HalfNormal(1.0)))


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("y", "likelihood", "sentence"),
    [
        (-COUNTS, poisson, r"y=.* a Poisson: integer nonnegative.* Got -\d+ at"),
        (COUNTS + 0.5, poisson, r"a Poisson: .* Got \d\.5 at index \(0,\)"),
        (2 * CLASSES, bernoulli, r"a BernoulliLogits: boolean.* Got 2 at index"),
        (COUNTS[:5], poisson, r"must have shape \(24,\). Got \(5,\)"),
        (COUNTS * np.nan, student, r"y=.*must be finite.*Got nan at index \(0,\)"),
        (COUNTS, jnp.exp, "must return a NumPyro distribution. Got a Jit|Array"),
        (COUNTS, dist.Poisson(1.0), "must be a function.*Got a Poisson"),
        (COUNTS, lambda f: poisson(f).to_event(1), r"Got event shape \(24,\)"),
        (COUNTS, lambda f: poisson(f[0]), r"batch shape \(24,\).* Got \(\)"),
        (COUNTS, lambda f: poisson(f - f.mean()), "takes other latent values"),
        (HEAVY + 1e30, student, "must be finite where f is the mean"),
    ],
)
def test_what_does_not_fit_is_named(y, likelihood, sentence):
    with pytest.raises(ValueError, match=sentence):
        fit_latent(PRIOR, y, likelihood)


def test_counts_below_zero_are_named():
    with pytest.raises(ValueError, match=r"a Poisson: integer nonneg.* Got -1 at inde"):
        fit_latent(PRIOR, np.where(np.arange(N) == 3, -1, COUNTS), poisson)
    with pytest.raises(ValueError, match=r"event shape \(24,\). Leave out `to_event`"):
        fit_latent(PRIOR, COUNTS, lambda f: poisson(f).to_event(1))
    with pytest.raises(ValueError, match="a GPPrior. Got a SparseGPPrior"):
        fit_latent(SparseGPPrior(RBF(), X), COUNTS, poisson)  # pyright: ignore


@pytest.mark.exhaustive
def test_traced_values_are_looked_at_when_the_program_runs():
    run = jax.jit(lambda y: fit_latent(PRIOR, y, poisson).log_evidence)
    assert np.isfinite(run(COUNTS))
    with pytest.raises(Exception, match="must lie in the support of the likelihood"):
        run(-COUNTS).block_until_ready()


@pytest.mark.exhaustive
def test_a_support_that_depends_on_f_is_not_judged_before(x64):
    """y = 2 has no density at f = 0, but at the mean, where the search begins."""
    prior = GPPrior(RBF(), X[:1], ConstantMean(2.0))

    def likelihood(f):
        return dist.Uniform(0.0 * f, jnp.exp(f))

    found = fit_latent(prior, np.array([2.0]), likelihood)
    np.testing.assert_allclose(found.mode, 1.0, atol=1e-5)  # 2 - K, the slope is -1


@pytest.mark.exhaustive
def test_a_search_that_ends_early_says_so():
    with pytest.warns(RuntimeWarning, match="not converged: it stopped at max_steps=1"):
        found = fitted("Poisson", max_steps=1)
    assert not found.converged
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fitted("Poisson").converged


@pytest.mark.exhaustive
def test_data_sets_under_vmap(x64):
    stacked = np.stack([COUNTS, COUNTS[::-1]])
    found = jax.vmap(lambda y: fit_latent(GPPrior(RBF(1.5, 0.5), X), y, poisson))(
        stacked
    )
    alone = [
        fit_latent(GPPrior(RBF(1.5, 0.5), X), y.copy(), poisson).log_evidence
        for y in stacked
    ]
    np.testing.assert_allclose(found.log_evidence, alone, rtol=1e-12)
    one = jax.jit(lambda k: fitted("Poisson").predict_probability(QUERY, k, poisson))
    same = fitted("Poisson").predict_probability(QUERY, 1, poisson)
    np.testing.assert_allclose(one(1), same, rtol=1e-12)


@pytest.mark.exhaustive
@pytest.mark.parametrize("deviation", [0.1, 1.0, 5.0])
def test_the_quadrature_is_as_exact_as_it_says(deviation, x64):
    """The far query has the prior's law, and the likelihood moves its logit."""
    found = fit_latent(GPPrior(RBF(deviation**2, 0.1), X), CLASSES, bernoulli)
    far = np.array([[50.0]])

    def moved(f):
        return dist.Bernoulli(logits=f + 1.3)

    nodes = np.linspace(-12, 12, 200_001)
    weights = stats.norm.pdf(nodes)
    exact = special.expit(deviation * nodes + 1.3) @ weights / weights.sum()
    one = found.predict_probability(far, 1, moved)
    np.testing.assert_allclose(one, exact, rtol=0, atol=1e-10)


@pytest.mark.exhaustive
def test_probabilities_of_what_does_not_fit(x64):
    found = fitted("Poisson")
    each = [found.predict_probability(QUERY, k, poisson) for k in range(60)]
    total = np.sum(each, axis=0)
    np.testing.assert_allclose(total[1:-1], 1.0, atol=1e-6)
    counts = np.arange(9)
    each = found.predict_probability(QUERY, counts, poisson)
    for k in (0, 8):
        one = found.predict_probability(QUERY, k, poisson)
        np.testing.assert_allclose(each[k], one[k], rtol=1e-12)
    with pytest.raises(ValueError, match=r"must have shape \(9,\). Got \(3,\)"):
        found.predict_probability(QUERY, counts[:3], poisson)
    with pytest.raises(ValueError, match="must lie in the support.*Got -1"):
        found.predict_probability(QUERY, -1, poisson)
