"""The answer does not depend on the units of y: for data, noise and kernel of another
scale everything scales. Nor does it depend on the units of the inputs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import few_of

from pyrox.gp import (
    RBF,
    ActiveDims,
    Constant,
    DecoupledPathwiseSampler,
    Derivatives,
    FullRankGuide,
    GPPrior,
    Linear,
    Matern,
    PathwiseSampler,
    Periodic,
    Polynomial,
    SparseGPPrior,
    WhitenedGuide,
    diagnose,
    fit,
    gp_sample,
)
from pyrox.gp._posterior import jitter
from pyrox.gp._posterior.rounding import rounding

N = 12
_rng = np.random.default_rng(0)
X, QUERY = _rng.uniform(0, 2, (N, 2)), _rng.uniform(0, 2, (5, 2))
Y, SLOPES = np.sin(2 * X).sum(axis=1), 2 * np.cos(2 * X[:4, 1])
NOISE = 1e-4
ROOT = 0.3 * np.eye(N) + 0.1 * np.tri(N)
KERNELS = {
    "RBF": lambda: RBF(1.3, np.array([0.5, 0.9])),
    "Matern-3/2": lambda: Matern(1.5, 0.7, 0.8),
    "sum": lambda: Linear(0.4) + Periodic(1.0, 0.8, 3.0) + Constant(2.0),
    "product": lambda: Polynomial(2, 0.5) * ActiveDims(Matern(2.5, 1.0, 0.7), (1,)),
}
SCALES = {32: 10.0 ** np.arange(-4, 5, 2), 64: 10.0 ** np.arange(-6, 7, 2)}
CLOSE = {32: 1e-3, 64: 1e-9}


def exact(kernel, s, y=Y):
    """What a posterior says of data in units 1 / s, in the units of Y."""
    slopes = None
    if kernel.smoothness >= 1:
        slopes = Derivatives(X[:4], 1, s * SLOPES, s**2 * 0.01)
    data = s * y, s**2 * NOISE, slopes
    prior = GPPrior(s**2 * kernel, X)
    posterior = prior.condition(*data)
    n = N if slopes is None else N + 4
    mean, var = posterior.predict(QUERY)
    paths = PathwiseSampler(posterior, 64, "sobol").sample_paths(jax.random.key(0), 2)
    assert paths.given is not None
    noise_var = paths.given.noise_var
    return {
        "mean": mean / s,
        "sd": jnp.sqrt(var) / s,
        "cov": posterior.predict_cov(QUERY) / s**2,
        "paths": paths(QUERY) / s,
        "residual noise": jnp.sqrt(noise_var) / s,
        "density": prior.log_marginal_likelihood(*data) + n * jnp.log(s),
        "leave one out": posterior.leave_one_out_log_density() + jnp.log(s),
    }


def sparse(kernel, s):
    prior = SparseGPPrior(s**2 * kernel, X)
    plain, whitened = FullRankGuide(s * Y, s * ROOT), WhitenedGuide(Y, ROOT)
    sampler = DecoupledPathwiseSampler(prior, plain, 64, "sobol")
    answers = {"paths": sampler(jax.random.key(0), QUERY, 2) / s}
    for name, guide in (("plain", plain), ("whitened", whitened)):
        mean, var = guide.predict(prior, QUERY)
        bound = guide.elbo(prior, X, s * Y, s**2 * NOISE)
        answers |= {
            f"{name} mean": mean / s,
            f"{name} sd": jnp.sqrt(var) / s,
            f"{name} kl": guide.kl(prior),
            f"{name} elbo": bound + N * jnp.log(s),
        }
    return answers


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", few_of(KERNELS, "sum"))
@pytest.mark.parametrize("kind", few_of([exact, sparse], exact))
def test_everything_scales_with_y(kind, name, width):
    scales = jnp.asarray(np.append(1.0, SCALES[width]))
    answers = jax.jit(jax.vmap(lambda s: kind(KERNELS[name](), s)))(scales)
    for answer, values in jax.tree.map(np.asarray, answers).items():
        size = np.abs(values[0]).max()
        assert size > 1e-6, answer
        assert np.abs(values - values[0]).max() < CLOSE[width] * size, answer


@pytest.mark.exhaustive
def test_an_absolute_jitter_would_be_seen(x64, monkeypatch):
    monkeypatch.setattr(
        "pyrox.gp._posterior.conditional.jitter_variance", lambda *_: 1e-6
    )
    jax.clear_caches()
    means = [exact(KERNELS["RBF"](), s)["mean"] for s in (1.0, 1e-3)]
    jax.clear_caches()
    assert np.abs(means[1] - means[0]).max() > 0.1


def test_the_example_of_small_units(x64):
    """Data of a thousandth: the mean was off by a third of the signal."""
    small = GPPrior(RBF(1e-6, 0.3), X).condition(1e-3 * Y, 1e-10).predict(QUERY)
    plain = GPPrior(RBF(1.0, 0.3), X).condition(Y, 1e-4).predict(QUERY)
    np.testing.assert_allclose(small[0], 1e-3 * plain[0], rtol=1e-9)
    np.testing.assert_allclose(small[1], 1e-6 * plain[1], rtol=1e-8)


def test_the_jitter_of_derivatives_follows_the_units_of_the_inputs(x64):
    """So does what rounding is said to take, which was a warning at 1e5."""

    def posterior(scale):
        values = SLOPES / scale, 1e-6 / scale**2
        slopes = Derivatives(scale * X[:4], (0, 1, 0, 1), *values)
        prior = GPPrior(RBF(1.3, 0.6 * scale), scale * X, jitter=1e-2)
        return prior.condition(Y, NOISE, slopes)

    near, far = posterior(1.0), posterior(1e5)
    for a, b in zip(near.predict(QUERY), far.predict(1e5 * QUERY), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-9)
    expected = 1.3e-2 / 0.6**2
    np.testing.assert_allclose(near.jitter_var[:N], 1.3e-2)
    np.testing.assert_allclose(near.jitter_var[N:], expected)
    lost = []
    for p, noise in ((near, 1e-6), (far, 1e-16)):
        each = jnp.asarray(np.repeat([NOISE, noise], [N, 4]))
        variances = p.inverse.variances()
        lost.append(rounding(variances, p.weights, each, p.jitter_var))
    np.testing.assert_allclose(lost[1], lost[0], rtol=1e-9)


def test_latent_values_scale(width):
    def latent(s):
        with handlers_of(np.linspace(-1, 1, N)):
            return gp_sample("f", GPPrior(s**2 * KERNELS["RBF"](), X)) / s

    scales = jnp.asarray(SCALES[width])
    values = np.asarray(jax.vmap(latent)(scales))
    assert np.abs(values - values[0]).max() < CLOSE[width] * np.abs(values).max()


def handlers_of(z):
    from numpyro import handlers

    return handlers.substitute(data={"f_whitened": jnp.asarray(z)})


@pytest.mark.exhaustive
def test_the_certificate_does_not_depend_on_units(x64):
    def relative(s):
        prior = GPPrior(RBF(s**2, 0.3), X)
        sampler = PathwiseSampler(prior.condition(s * Y, s**2 * NOISE), 64, "iid")
        return diagnose(sampler, QUERY).relative

    assert relative(1e-5) == pytest.approx(relative(1.0), rel=1e-6)


@pytest.mark.exhaustive
@pytest.mark.parametrize("s", [1e-4, 1e4])
def test_a_fit_is_that_of_other_units(s, x64):
    def best(s):
        prior = GPPrior(RBF(s**2, 0.5), X)
        found = fit(prior, s * Y, s**2 * 0.01, progress=False)
        return found.log_density + N * np.log(s)

    assert abs(best(s) - best(1.0)) < 1e-6 * N


@pytest.mark.parametrize(
    "n, dtype, fraction",
    [(100, "float32", 1.2e-4), (3, "float32", 3.6e-6), (10**5, "float32", 1e-3)]
    + [(1, "float64", 1e-6), (10**5, "float64", 1e-6)],
)
def test_the_default_follows_type_and_number(n, dtype, fraction):
    assert jitter.as_fraction(None, n, np.dtype(dtype)) == pytest.approx(fraction, 0.01)
    assert jitter.as_fraction(1e-7, n, np.dtype(dtype)) == 1e-7
