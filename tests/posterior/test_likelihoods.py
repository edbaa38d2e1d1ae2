"""Any likelihood: expected log densities, the bound, and what is refused."""

# Wrong arguments are passed on purpose.
# pyright: reportArgumentType=false

import math

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from helpers import central_difference, few_of
from jax.scipy.special import log_ndtr
from numpyro import handlers
from numpyro.infer.util import log_density
from scipy import integrate, special, stats

from pyrox.gp import (
    RBF,
    DeltaGuide,
    FullRankGuide,
    SparseGPPrior,
    WhitenedGuide,
    svgp_factor,
)
from pyrox.gp._posterior.likelihood import as_likelihood

pytestmark = [
    pytest.mark.usefixtures("plainly_compiled"),
    pytest.mark.numpyro,
]

MEAN = np.array([-1.3, 0.2, 0.9, 2.0])
VAR = np.array([0.02, 0.3, 0.7, 0.1])
COUNTS = np.array([0, 3, 1, 12])
LABELS = np.array([0, 1, 0, 1])


def poisson(f):
    return dist.Poisson(jnp.exp(f))


def probit(f):
    return dist.Bernoulli(logits=log_ndtr(f) - log_ndtr(-f))


def expected(likelihood, y, mean=MEAN, var=VAR, **kwargs):
    like = jax.ShapeDtypeStruct(mean.shape, jnp.asarray(mean).dtype)
    law, y = as_likelihood("expected", y, like, None, likelihood, **kwargs)
    compute = jax.jit(lambda law, *args: law.expected(*args))
    return np.asarray(compute(law, jnp.asarray(mean), jnp.asarray(var), y))


def of_poisson(y, mean, var):
    return y * mean - np.exp(mean + var / 2) - special.gammaln(y + 1)


def of_normal(y, mean, var, noise_var):
    log_density = stats.norm.logpdf(y, mean, np.sqrt(noise_var))
    return log_density - var / (2 * noise_var)


def integrated(log_density, mean, var):
    """By adaptive quadrature."""

    def value(m, v):
        def g(t):
            return log_density(m + v**0.5 * t) * math.exp(-t * t / 2)

        whole = integrate.quad(g, -12, 12, epsabs=1e-13, limit=200)[0]
        return whole / math.sqrt(2 * math.pi)

    return np.array([value(m, v) for m, v in zip(mean, var, strict=True)])


def test_the_quadrature_is_exact_where_log_densities_are_smooth(x64):
    found = expected(lambda f: dist.Normal(f, 0.3), MEAN + 1)
    np.testing.assert_allclose(found, of_normal(MEAN + 1, MEAN, VAR, 0.09), rtol=1e-12)
    np.testing.assert_allclose(
        expected(poisson, COUNTS), of_poisson(COUNTS, MEAN, VAR), rtol=0, atol=1e-8
    )
    signs = 2 * LABELS - 1
    each = [
        integrated(lambda f, s=s: special.log_ndtr(s * f), MEAN[[i]], VAR[[i]])[0]
        for i, s in enumerate(signs)
    ]
    by_scipy = np.array(each)
    np.testing.assert_allclose(expected(probit, LABELS), by_scipy, rtol=0, atol=1e-8)
    few = expected(probit, LABELS, n_points=4)
    assert np.abs(few - by_scipy).max() > 1e-6  # four points would be seen


@pytest.mark.exhaustive
def test_where_they_are_not_smooth_more_points_help(x64):
    """A Student-t much narrower than q(f): stated, not hidden."""

    def narrow(f):
        return dist.StudentT(4.0, f, 0.1)

    def log_density(f):
        return highest - 2.5 * math.log1p((f / 0.1) ** 2 / 4)

    y, highest = np.zeros(4), stats.t.logpdf(0, 4, 0, 0.1)
    exact = integrated(log_density, MEAN, VAR)
    errors = [
        np.abs(expected(narrow, y, n_points=n) - exact).max() for n in (10, 20, 80)
    ]
    assert errors[0] > errors[1] > 10 * errors[2]
    assert 1e-2 < errors[1] < 0.2


X = np.linspace(-1, 1, 9)[:, None]
Z = np.array([[-0.8], [0.1], [0.7]])
Y = np.array([0, 1, 1, 3, 2, 5, 4, 2, 0])


def sparse(lengthscale=0.6):
    return SparseGPPrior(RBF(1.3, lengthscale), Z, mean_fn=lambda X: 0.2 * X[:, 0])


def q():
    root = np.array([[0.7, 0.0, 0.0], [0.2, 0.6, 0.0], [-0.1, 0.3, 0.4]])
    return WhitenedGuide(np.array([0.4, 0.9, -0.3]), root)


def dense_bound(guide, y, n_total, expected):
    """The bound by NumPy, the moments by solves with whole matrices."""

    def k(A, B):
        return 1.3 * np.exp(-0.5 * (A - B.T) ** 2 / 0.36)

    L = np.linalg.cholesky(k(Z, Z) + 1.3e-6 * np.eye(3))
    m, S = np.asarray(guide.mean), np.asarray(guide.scale_tril)
    S = S @ S.T
    A = np.linalg.solve(L, k(Z, X))
    mean = 0.2 * X[:, 0] + A.T @ m
    var = 1.3 - np.sum(A**2, 0) + np.einsum("in,ij,jn->n", A, S, A)
    kl = 0.5 * (np.trace(S) + m @ m - 3 - np.linalg.slogdet(S)[1])
    return n_total / 9 * np.sum(expected(y, mean, var)) - kl


def test_the_bound_equals_that_of_numpy(x64):
    found = q().elbo(sparse(), X, Y, n_total=27, likelihood=poisson)
    np.testing.assert_allclose(found, dense_bound(q(), Y, 27, of_poisson), atol=1e-8)
    exact = q().elbo(sparse(), X, 1.0 * Y, 0.3)
    same = q().elbo(sparse(), X, Y, likelihood=lambda f: dist.Normal(f, 0.3**0.5))
    np.testing.assert_allclose(same, exact, rtol=1e-12)


@pytest.mark.parametrize("guide", few_of([FullRankGuide, DeltaGuide], FullRankGuide))
def test_every_guide_takes_a_likelihood_in_its_own_type(guide, width):
    X32 = X.astype(f"float{width}")
    prior = SparseGPPrior(RBF(), X32[::4])
    bound = guide.init(3).elbo(prior, X32, Y, likelihood=poisson)
    assert np.isfinite(bound) and bound.dtype == X32.dtype


def test_gradients_flow_to_what_the_likelihood_holds(x64):
    y = np.sin(3 * X[:, 0])

    @jax.jit
    def bound(log_scale, lengthscale):
        def heavy(f):
            return dist.StudentT(4.0, f, jnp.exp(log_scale))

        return q().elbo(sparse(lengthscale), X, y, likelihood=heavy)

    found = jax.grad(bound, (0, 1))(jnp.array(-1.0), jnp.array(0.6))
    by_steps = central_difference(lambda at: bound(*at), np.array([-1.0, 0.6]))
    np.testing.assert_allclose(found, by_steps, rtol=1e-6)


def test_sites_of_a_likelihood_count_once(x64):
    def model():
        def heavy(f):
            df = numpyro.sample("df", dist.Gamma(2.0, 0.1))
            scale = numpyro.param("scale", 0.5)
            return dist.StudentT(df, f, scale)

        svgp_factor("obs", sparse(), q(), X, 1.0 * Y, likelihood=heavy)

    given = {"df": jnp.array(5.0), "scale": jnp.array(0.7)}
    total, trace = log_density(model, (), {}, given)
    assert list(trace)[-3:] == ["df", "scale", "obs"]
    bound = q().elbo(
        sparse(), X, 1.0 * Y, likelihood=lambda f: dist.StudentT(5.0, f, 0.7)
    )
    prior = dist.Gamma(2.0, 0.1).log_prob(5.0)
    np.testing.assert_allclose(total, bound + prior, rtol=1e-10)


def test_unknown_values_without_a_density_give_no_error_but_no_density():
    def bound(y):
        return q().elbo(sparse(), X, y, likelihood=poisson)

    assert np.isfinite(jax.jit(bound)(jnp.asarray(Y)))
    assert jax.jit(bound)(jnp.asarray(Y).at[2].set(-1)) == -np.inf


REFUSED = {
    "neither": ({}, Y, "Got neither. Pass `noise_var=0.1`"),
    "both": ({"noise_var": 0.1, "likelihood": poisson}, Y, "Got both"),
    "negative count": (
        {"likelihood": poisson},
        np.where(Y == 5, -2, Y),
        r"support of the likelihood.*Poisson: integer nonnegative.*Got -2 at index",
    ),
    "half a count": ({"likelihood": poisson}, Y + 0.5, "Got 0.5 at index"),
    "class 5 of 2": (
        {"likelihood": lambda f: dist.Bernoulli(logits=f)},
        Y,
        "Bernoulli.*Got 3 at index",
    ),
    "NaN": ({"likelihood": poisson}, np.where(Y == 5, np.nan, Y), "must be finite"),
    "y of another size": ({"likelihood": poisson}, Y[:3], r"must have shape \(9,\)"),
    "no distribution": (
        {"likelihood": lambda f: jnp.exp(f)},
        Y,
        "must return a NumPyro distribution. Got a",
    ),
    "no function": ({"likelihood": "poisson"}, Y, "must be a function.*'poisson'"),
    "a distribution": ({"likelihood": dist.Poisson(1.0)}, Y, "must be a function"),
    "an event": (
        {"likelihood": lambda f: dist.Normal(f, 1.0).to_event(1)},
        1.0 * Y,
        r"event shape \(9,\). Leave out `to_event`",
    ),
    "one for all": (
        {"likelihood": lambda f: dist.Normal(f.sum(), 1.0)},
        1.0 * Y,
        r"batch shape \(9,\), that of.*Got \(\)",
    ),
    "one point": ({"likelihood": poisson, "n_points": 1}, Y, "n_points=.*at least 2"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_told_in_a_sentence(name):
    kwargs, y, sentence = REFUSED[name]
    with pytest.raises(ValueError, match=sentence):
        q().elbo(sparse(), X, y, **kwargs)


def test_the_sentence_names_the_site():
    with pytest.raises(ValueError, match="at site 'counts'.*Got -1"):
        with handlers.seed(rng_seed=0):
            svgp_factor("counts", sparse(), q(), X, Y - 1, likelihood=poisson)
