"""The bound of several latent functions: against NumPy, and what is refused.

Averages over 200 keys lie within 5 standard errors, each a false alarm in 800,000; what
is nearly right does not.
"""

# Wrong arguments are passed on purpose.
# pyright: reportArgumentType=false

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from helpers import central_difference, few_of
from scipy import special

from pyrox.gp import (
    RBF,
    DeltaGuide,
    FullRankGuide,
    GPPrior,
    MeanFieldGuide,
    SparseGPPrior,
    WhitenedGuide,
    elbo_of_several,
)
from pyrox.gp._hyper.likelihood import require_columns
from pyrox.gp._numerics.sobol import sobol_normals_for_each

pytestmark = [
    pytest.mark.usefixtures("plainly_compiled"),
    pytest.mark.numpyro,
]

N, N_KEYS = 9, 200
X = np.linspace(-1, 1, N)[:, None]
Y = np.array([0.1, -0.4, 0.3, 0.8, 0.2, 1.3, 0.6, -0.9, 0.0])
CLASSES = np.array([0, 1, 1, 2, 0, 2, 2, 1, 0])
SIZES, ELLS = (3, 4, 2), (0.6, 0.9, 0.4)
KEYS = jax.random.split(jax.random.key(0), N_KEYS)


def normal(f):
    return dist.Normal(f[0], jnp.exp(f[1]))


def softmax(f):
    return dist.Categorical(logits=f.T)


def rising(X):
    return 0.2 * X[:, 0]


def priors(n=3, ells=ELLS):
    kernels = [RBF(1.3, ell, name=f"k{p}") for p, ell in enumerate(ells)]
    places = [np.linspace(-0.9, 0.8, m)[:, None] for m in SIZES]
    each = zip(kernels[:n], places[:n], strict=True)
    return [SparseGPPrior(kernel, Z, mean_fn=rising) for kernel, Z in each]


def moments(p):
    """Mean and root of the guide of function p."""
    m, rng = SIZES[p], np.random.default_rng(p)
    root = np.tril(0.1 * rng.normal(size=(m, m)))
    np.fill_diagonal(root, rng.uniform(0.1, 0.4, m))
    return rng.normal(size=m), root


def guides(n=3):
    return [WhitenedGuide(*moments(p), name=f"q{p}") for p in range(n)]


def bound(key, n=3, X=X, y=CLASSES, likelihood=softmax, **kwargs):
    of = priors(n), guides(n), X, y
    return elbo_of_several(key, *of, likelihood=likelihood, **kwargs)


def dense(p):
    """Mean and variance of q(f_p) at X and the divergence, by NumPy."""

    def k(A, B):
        return 1.3 * np.exp(-0.5 * (A - B.T) ** 2 / ELLS[p] ** 2)

    Z, (m, S) = np.linspace(-0.9, 0.8, SIZES[p])[:, None], moments(p)
    L, S = np.linalg.cholesky(k(Z, Z) + 1.3e-6 * np.eye(len(m))), S @ S.T
    A = np.linalg.solve(L, k(Z, X))
    mean = 0.2 * X[:, 0] + A.T @ m
    var = 1.3 - np.sum(A**2, 0) + np.einsum("in,ij,jn->n", A, S, A)
    kl = 0.5 * (np.trace(S) + m @ m - len(m) - np.linalg.slogdet(S)[1])
    return mean, var, kl


def dense_bound(n, expected, n_total=N):
    """The bound by NumPy, and the sum of the expectations in it."""
    mean, var, kl = (np.array(part) for part in zip(*map(dense, range(n)), strict=True))
    total = np.sum(expected(mean, var))
    return n_total / N * total - kl.sum(), total


def of_normal(mean, var):
    """E[log N(y; f, exp(g)^2)] for normal f and g."""
    misfit = ((Y - mean[0]) ** 2 + var[0]) * np.exp(2 * (var[1] - mean[1]))
    return -0.5 * np.log(2 * np.pi) - mean[1] - 0.5 * misfit


def of_softmax(mean, var, power=1):
    """E[(log softmax(f)_y)^power] by sums over a grid, exact to 1e-10."""
    nodes = np.linspace(-7, 7, 29)
    weights = np.exp(-0.5 * nodes**2) / np.exp(-0.5 * nodes**2).sum()
    grid = np.array(list(itertools.product(range(29), repeat=len(mean))))
    f = mean[:, None] + np.sqrt(var)[:, None] * nodes[grid].T[..., None]
    own = np.take_along_axis(f, CLASSES[None, None] % len(mean), axis=0)[0]
    mass = np.prod(weights[grid], axis=1)
    return mass @ (own - special.logsumexp(f, axis=0)) ** power


def z_of(values, wanted):
    values = np.asarray(values)
    return abs(values.mean() - wanted) / (values.std(ddof=1) / len(values) ** 0.5)


def test_noise_that_varies_equals_its_closed_form(x64):
    def one(key):
        return bound(key, 2, y=Y, likelihood=normal, n_total=27)

    values = jax.vmap(one)(KEYS)
    wanted, expected = dense_bound(2, of_normal, 27)
    assert z_of(values, wanted) < 5
    # One divergence is 1 to 2, a datum a thirtieth of the rest: these would be seen.
    assert z_of(values, wanted + dense(1)[2]) > 5
    assert z_of(values, wanted + expected / N) > 5


@pytest.mark.parametrize("n", few_of([2, 3], 3))
def test_softmax_equals_sums_over_a_grid(n, x64):
    values = jax.vmap(lambda key: bound(key, n, y=CLASSES % n))(KEYS)
    wanted, expected = dense_bound(n, of_softmax)
    assert z_of(values, wanted) < 5
    assert z_of(values, wanted + 0.01 * expected) > 5
    # Independent draws would have ten times the variance.
    mean, var, _ = (np.array(part) for part in zip(*map(dense, range(n)), strict=True))
    spread = of_softmax(mean, var, 2) - of_softmax(mean, var) ** 2
    assert 10 * np.var(values) < spread.sum() / 16


@pytest.mark.exhaustive
def test_of_one_function_it_is_the_bound_by_quadrature(x64):
    y = np.array([0, 1, 1, 3, 2, 5, 4, 2, 0])

    def one(key):
        return bound(key, 1, y=y, likelihood=lambda f: dist.Poisson(jnp.exp(f[0])))

    (prior,), (guide,) = priors(1), guides(1)
    wanted = guide.elbo(prior, X, y, likelihood=lambda f: dist.Poisson(jnp.exp(f)))
    values = jax.vmap(one)(KEYS)
    assert z_of(values, float(wanted)) < 5 < z_of(values, float(wanted) + 0.5)


def test_a_minibatch_stands_for_all_data(x64):
    """Of random rows, on average: not the bound of each, but their average."""

    def one(key):
        rows = jax.random.choice(key, N, (3,), replace=False)
        data = jnp.asarray(X)[rows], jnp.asarray(Y)[rows]
        return bound(key, 2, *data, normal, n_total=N, n_draws=4)

    values = jax.vmap(one)(KEYS)
    assert z_of(values, dense_bound(2, of_normal)[0]) < 5
    assert z_of(values, dense_bound(2, of_normal, 3)[0]) > 5  # of these rows alone


@pytest.mark.parametrize("n", few_of([1, 2]))
def test_gradients_equal_differences_for_one_key(n, x64):
    def value(ells, log_scale, mean):
        def louder(f):
            return dist.Normal(f[0], jnp.exp(f[-1] + log_scale))

        given = priors(n, ells), guides(n)
        given[1][-1] = WhitenedGuide(mean, moments(n - 1)[1])
        return elbo_of_several(KEYS[0], *given, X, Y, likelihood=louder)

    both = jax.jit(jax.value_and_grad(value, (0, 1, 2)))
    at = jnp.array(ELLS[:n]), jnp.array(-0.3), jnp.asarray(moments(n - 1)[0])
    for i, gradient in enumerate(both(*at)[1]):

        def moved(x, i=i):
            return both(*at[:i], jnp.asarray(x), *at[i + 1 :])[0]

        by_steps = central_difference(moved, at[i])
        np.testing.assert_allclose(gradient, by_steps, rtol=1e-6, atol=1e-8)


KINDS = [(FullRankGuide, DeltaGuide), (MeanFieldGuide, WhitenedGuide)]


@pytest.mark.parametrize("kinds", few_of(KINDS, KINDS[0], whole=True))
@pytest.mark.parametrize("width", few_of([32, 64], 32))
def test_every_guide_in_its_own_type(width, kinds):
    with jax.enable_x64(width == 64):
        rows = X.astype(f"float{width}")
        given = [SparseGPPrior(RBF(), rows[::4])] * 2, [k.init(3) for k in kinds]

        def value(X):
            return elbo_of_several(KEYS[0], *given, X, CLASSES % 2, likelihood=softmax)

        found, slope = jax.jit(jax.value_and_grad(value))(jnp.asarray(rows))
    assert np.isfinite(found) and found.dtype == slope.dtype == rows.dtype
    assert np.all(np.isfinite(slope))


def test_the_draws_of_each_datum_fill_the_space_and_are_its_own(x64):
    @jax.jit
    @jax.vmap
    def draws(key):
        return sobol_normals_for_each(key, 16, 2, 3, np.dtype(float))

    points = special.ndtr(np.asarray(draws(KEYS)))
    strata = np.sort(np.floor(16 * points), axis=1)
    assert np.all(strata == np.arange(16.0)[None, :, None, None])
    # Of their averages, those of one datum tell nothing of another's.
    averages = np.mean(points, axis=1).reshape(N_KEYS, 6)
    correlations = np.corrcoef(averages.T)[np.triu_indices(6, 1)]
    assert np.abs(correlations).max() < 5 / N_KEYS**0.5
    assert np.all(np.abs(averages.mean(0) - 0.5) < 5 * averages.std(0) / N_KEYS**0.5)


def test_values_unknown_and_without_a_density_have_none():
    value, y = jax.jit(lambda y: bound(KEYS[0], 2, y=y)), jnp.asarray(CLASSES % 2)
    assert np.isfinite(value(y))
    assert value(y.at[2].set(2)) == -np.inf


def of(**changes):
    parts = {"priors": priors(), "guides": guides(), "X": X, "y": CLASSES}
    return {"likelihood": softmax, **parts, **changes}


WIDE = SparseGPPrior(RBF(), np.zeros((3, 2)))
NAMED = [
    SparseGPPrior(RBF(name=name).with_priors(variance=dist.LogNormal()), X[:m])
    for name, m in zip(("k0", "k1", "k1"), SIZES, strict=True)
]
REFUSED = {
    "one guide too few": (
        {"guides": guides(2)},
        "one guide for each prior. Got 3 priors and 2 guides",
    ),
    "one prior": ({"priors": priors()[0]}, r"\(priors\)` must be a sequence.*Got Spar"),
    "none": ({"guides": []}, r"\(guides\)` must be a sequence.*Got an empty one"),
    "another prior": (
        {"priors": [*priors(2), GPPrior(RBF(), X)]},
        r"\(priors\[2\]\)` must be a SparseGPPrior. Got a GPPrior",
    ),
    "no guide": (
        {"guides": [*guides(2), WhitenedGuide]},
        r"\(guides\[2\]\)` must be a guide",
    ),
    "a guide of another size": (
        {"guides": guides()[::-1]},
        r"\(guides\[0\]\)`: the guide has 2 inducing values and Z has 3",
    ),
    "other inputs": (
        {"priors": [WIDE, *priors()[1:]]},
        r"over the same inputs. Got Z with \[2, 1, 1\] columns",
    ),
    "X of other inputs": ({"X": np.zeros((N, 2))}, r"must have shape \(N, 1\)"),
    "one site twice": (
        {"priors": NAMED},
        "the NumPyro site 'k1.variance'. Give each kernel a name",
    ),
    "class 3 of 3": (
        {"y": np.where(X[:, 0] > 0.9, 3, CLASSES)},
        r"support of the likelihood, a Categorical.*\(0, 2\).*Got 3 at index \(8,\)",
    ),
    "half a class": ({"y": CLASSES + 0.5}, "Got 0.5 at index"),
    "rows for columns": (
        {"likelihood": lambda f: dist.Categorical(logits=f)},
        r"batch shape \(9,\), one for each column.*\(3, 9\).*Got \(3,\).*logits=f.T",
    ),
    "rows for columns of a square": (
        {
            "likelihood": lambda f: dist.Categorical(logits=f),
            "X": X[:3],
            "y": CLASSES[:3],
        },
        r"batch shape \(3,\), one for each column.*Got \(4,\)",
    ),
    "each value a datum": (
        {"likelihood": lambda f: dist.Normal(f, 1.0)},
        r"batch shape \(9,\).*Got \(3, 9\)",
    ),
    "no likelihood": ({"likelihood": None}, "Got no likelihood. Pass `likelihood="),
    "a distribution": ({"likelihood": dist.Normal()}, "must be a function from"),
    "no draws": ({"n_draws": 0}, "n_draws=.*at least 1. Got 0"),
    "fewer than these": ({"n_total": 5}, "n_total=.*at least 9"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_told_in_a_sentence(name):
    changes, sentence = REFUSED[name]
    with pytest.raises(ValueError, match=sentence):
        elbo_of_several(KEYS[0], **of(**changes))


def test_as_many_data_as_functions_are_no_offence():
    def mixed(f):
        level, log_scale, log_df = f
        return dist.StudentT(jnp.exp(log_df), level, jnp.exp(log_scale))

    for likelihood in (mixed, softmax):
        like = jax.ShapeDtypeStruct((3, 3), np.float32)
        require_columns("call", likelihood, like)
