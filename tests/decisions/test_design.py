"""Design against dense references in NumPy, quadrature, and each other."""

# Wrong arguments are passed on purpose.
# pyright: reportArgumentType=false

from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro.distributions as dist
import pytest
from helpers import central_difference
from scipy import integrate, special, stats

from pyrox.gp import (
    RBF,
    GPPrior,
    PathwiseSampler,
    bald,
    expected_information_gain,
    greedy_batch,
    integrated_variance_reduction,
    nested_information_gain,
    optimize_acquisition,
)

pytestmark = pytest.mark.usefixtures("plainly_compiled")

X = np.array([[0.0], [0.3], [0.5], [0.9]])
Y = np.array([0.6, -0.4, 0.2, 0.9])
NOISE, ELL, NEW = 0.05, 0.3, 0.02
OVER = np.linspace(0, 1, 6)[:, None]
QUERY = np.linspace(-0.2, 1.2, 5)[:, None]
PAIRS = np.array([[[0.1], [0.15]], [[0.7], [1.1]], [[0.2], [0.75]]])
MASSES = np.array([0.1, 0.2, 0.2, 0.2, 0.2, 0.1])


def posterior(noise_var: Any = NOISE):
    return GPPrior(RBF(1.0, ELL), X).condition(Y, noise_var)


def cov_of(points):
    """The posterior covariance, in NumPy."""

    def gram(A, B):
        return np.exp(-((A - B.T) ** 2) / (2 * ELL**2))

    inverse = np.linalg.inv(gram(X, X) + (NOISE + 1e-6) * np.eye(4))
    return gram(points, points) - gram(points, X) @ inverse @ gram(X, points)


def by_numpy(batch, W=None):
    """The reduction of the mean variance, and the information about W f(OVER)."""
    q = len(batch)
    cov = cov_of(np.vstack([batch, OVER]))
    own = cov[:q, :q] + (NEW + 1e-6) * np.eye(q)
    cross, of_z = cov[:q, q:], cov[q:, q:]
    fall = np.diag(cross.T @ np.linalg.solve(own, cross))
    W = np.eye(len(OVER)) if W is None else np.atleast_2d(W)
    cross, of_z = cross @ W.T, W @ of_z @ W.T
    both = np.block([[own, cross], [cross.T, of_z]])
    parts = [np.linalg.slogdet(a)[1] for a in (own, of_z, both)]
    return fall @ MASSES, (parts[0] + parts[1] - parts[2]) / 2


def test_closed_forms_are_those_of_numpy(x64):
    f = posterior()
    contrast = np.array([MASSES, [1, 0, 0, 0, 0, -1]])
    for batches in (QUERY, PAIRS):
        each = batches[:, None] if batches.ndim == 2 else batches
        got = integrated_variance_reduction(
            f, batches, OVER, noise_var=NEW, weights=MASSES
        )
        expected = [by_numpy(batch)[0] for batch in each]
        np.testing.assert_allclose(got, expected, rtol=1e-9)
        for W in (None, MASSES, contrast):
            got = expected_information_gain(f, batches, OVER, W, noise_var=NEW)
            expected = [by_numpy(batch, W)[1] for batch in each]
            np.testing.assert_allclose(got, expected, rtol=1e-6)
    # The twin: a batch is not its points one by one.
    alone = sum(by_numpy(x[None])[1] for x in PAIRS[0])
    assert alone > 1.2 * by_numpy(PAIRS[0])[1]


def test_the_variance_falls_by_what_is_said(x64):
    f = posterior()
    told = f.condition_on(PAIRS[1], np.zeros(2), NEW)
    fall = jnp.mean(f.predict_var(OVER) - told.predict_var(OVER))
    got = integrated_variance_reduction(f, PAIRS[1:2], OVER, noise_var=NEW)
    np.testing.assert_allclose(got, [fall], rtol=1e-9)


@pytest.mark.exhaustive
def test_slopes_are_those_of_differences(x64):
    f = posterior()
    paths = PathwiseSampler(f, 32).sample_paths(jr.key(0), 24)
    z = paths(OVER).max(axis=1)
    label = lambda f: dist.Bernoulli(logits=3 * f)  # noqa: E731
    designs = {
        "variance": lambda X: integrated_variance_reduction(f, X, OVER, noise_var=NEW),
        "information": lambda X: expected_information_gain(
            f, X, OVER, MASSES, noise_var=NEW
        ),
        "nested": lambda X: nested_information_gain(
            jr.key(1), paths, X, z, noise_var=NEW
        ),
        "bald": lambda X: bald(f, X[0], label),
        "bald of paths": lambda X: bald(paths, X[0], label),
    }
    for name, design in designs.items():
        total = jax.jit(lambda X, design=design: jnp.sum(design(X)))
        slope, expected = (
            jax.grad(total)(PAIRS[:1]),
            central_difference(total, PAIRS[:1]),
        )
        np.testing.assert_allclose(slope, expected, rtol=1e-5, atol=1e-7, err_msg=name)


def test_nested_monte_carlo_is_the_closed_form(x64):
    """About a linear functional, by 1500 paths: over keys it is low by up to 0.03 and
    deviates by up to 0.016, so five of these are within 0.11, a false alarm in a
    million; about another functional it is not. The gains are 0 to 0.46."""
    f = posterior()
    paths = PathwiseSampler(f, 256).sample_paths(jr.key(0), 1500)
    batches = np.concatenate([PAIRS, np.stack([QUERY[1:3]])])
    W = np.array([0, 0, 0, 0, 0.5, 0.5])
    exact = expected_information_gain(f, batches, OVER, W, noise_var=NEW)
    nested = jax.jit(nested_information_gain)
    got = nested(jr.key(1), paths, batches, paths(OVER) @ W, noise_var=NEW)
    np.testing.assert_allclose(got, exact, atol=0.11)
    other = nested(jr.key(1), paths, batches, paths(OVER)[:, 1], noise_var=NEW)
    assert np.abs(np.asarray(other - exact)).max() > 0.3


def test_nested_monte_carlo_of_whole_numbers_is_by_quadrature(x64):
    """Whether f(0.7) is above a level, by a value at 0.7: an integral over it. It
    deviates by 0.015 over keys, of which five."""
    f, x = posterior(), np.array([[0.7]])
    mean, var = (float(part[0]) for part in f.predict(x))
    level, total = mean + 0.3 * var**0.5, var + NEW
    paths = PathwiseSampler(f, 256).sample_paths(jr.key(0), 1500)
    above = (paths(x)[:, 0] > level).astype(int)
    got = nested_information_gain(jr.key(1), paths, x, above, noise_var=NEW)

    def entropy(p):
        return special.entr(p) + special.entr(1 - p)

    def left(y):  # of the answer, given y
        at = mean + var / total * (y - mean)
        p = stats.norm.sf(level, at, np.sqrt(var * NEW / total))
        return stats.norm.pdf(y, mean, np.sqrt(total)) * entropy(p)

    ends = mean - 8 * total**0.5, mean + 8 * total**0.5
    known = integrate.quad(left, *ends, limit=200)[0]
    expected = entropy(stats.norm.sf(0.3)) - known
    np.testing.assert_allclose(got, [expected], atol=0.08)


def test_bald_is_by_quadrature(x64):
    f = posterior()
    paths = PathwiseSampler(f, 256).sample_paths(jr.key(0), 2000)

    def label(f):
        return dist.Bernoulli(logits=3 * f)

    def entropy(p):
        return special.entr(p) + special.entr(1 - p)

    expected = []
    for mean, var in zip(*f.predict(QUERY), strict=True):
        z = np.linspace(-9, 9, 4001)
        masses = stats.norm.pdf(z) * (z[1] - z[0])
        p = special.expit(3 * (float(mean) + float(var) ** 0.5 * z))
        expected.append(entropy(masses @ p) - masses @ entropy(p))
    np.testing.assert_allclose(bald(f, QUERY, label), expected, atol=1e-6)
    np.testing.assert_allclose(bald(paths, QUERY, label), expected, atol=0.03)
    two = [paths, PathwiseSampler(f, 256).sample_paths(jr.key(1), 2000)]
    classes = bald(two, QUERY, lambda f: dist.Categorical(logits=3 * f.T))
    # Softmax of two is the logistic of their difference, of twice the variance.
    assert classes.shape == (5,) and (classes > 0).all()
    noise = bald(f, QUERY, lambda f: dist.Bernoulli(logits=0 * f))
    np.testing.assert_allclose(noise, 0, atol=1e-12)


@pytest.mark.exhaustive
def test_greedy_is_best_beside_what_it_has(x64):
    """Among choices by brute force, in a box by the search."""
    f, pool = posterior(), np.linspace(-0.5, 1.5, 9)[:, None]

    @jax.jit
    def gain(X):
        return integrated_variance_reduction(f, X, OVER, noise_var=NEW)

    found = greedy_batch(jr.key(0), gain, q=3, choices=pool)
    kept: list = []
    values = np.zeros(0)
    for _ in range(3):
        rest = [i for i in range(len(pool)) if i not in kept]
        values = np.asarray(gain(np.stack([pool[[*kept, i]] for i in rest])))
        kept.append(rest[int(np.argmax(values))])
    np.testing.assert_array_equal(found.X, pool[kept])
    np.testing.assert_allclose(found.value, values.max())


@pytest.mark.exhaustive
def test_designs_are_maximised_as_any_acquisition(x64):
    f, box = posterior(), np.array([[-0.5], [1.5]])

    def gain(X):
        X = X[:, None] if X.ndim == 2 else X
        return expected_information_gain(f, X, OVER, MASSES, noise_var=NEW)

    few = {"n_candidates": 128, "n_starts": 8}
    grid = np.linspace(-0.5, 1.5, 401)[:, None]
    found = optimize_acquisition(jr.key(0), gain, box, **few)
    assert found.value >= gain(grid).max() - 1e-6 and found.converged
    greedy = greedy_batch(jr.key(0), gain, box, 2, **few)
    joint = optimize_acquisition(jr.key(0), gain, box, 2, **few)
    assert (1 - np.exp(-1)) * joint.value < greedy.value < joint.value + 1e-6
    assert greedy.X.shape == (2, 1) and greedy.value > found.value


@pytest.mark.exhaustive
def test_the_type_is_that_of_the_posterior():
    f = posterior()
    paths = PathwiseSampler(f, 32).sample_paths(jr.key(0), 24)
    gains = [
        integrated_variance_reduction(f, PAIRS, OVER, noise_var=NEW),
        expected_information_gain(f, PAIRS, OVER, MASSES, noise_var=NEW),
        nested_information_gain(
            jr.key(0), paths, PAIRS, paths(OVER)[:, 2], noise_var=NEW
        ),
        bald(f, QUERY, lambda f: dist.Bernoulli(logits=f)),
    ]
    assert all(gain.dtype == jnp.float32 for gain in gains)
    exact = [by_numpy(batch)[0] for batch in PAIRS]
    weighted = integrated_variance_reduction(
        f, PAIRS, OVER, noise_var=NEW, weights=MASSES
    )
    np.testing.assert_allclose(weighted, exact, rtol=2e-3)


def bad(call, *args, sentence, **how):
    return pytest.param(call, args, how, sentence, id=sentence[:30])


def poisson(f):
    return dist.Poisson(jnp.exp(f))


NOISY = {"noise_var": NEW}


@pytest.mark.parametrize(
    "call, args, how, sentence",
    [
        bad(integrated_variance_reduction, None, QUERY, OVER, **NOISY, sentence="Cond"),
        bad(
            integrated_variance_reduction,
            *("f", QUERY[:, 0], OVER),
            **NOISY,
            sentence=r"\(N, q, D\) for batches",
        ),
        bad(
            integrated_variance_reduction,
            *("f", QUERY, OVER),
            noise_var=-1.0,
            sentence="positive finite variance",
        ),
        bad(
            integrated_variance_reduction,
            *("f", QUERY, OVER),
            **NOISY,
            weights=-MASSES,
            sentence="finite and not negative",
        ),
        bad(
            expected_information_gain,
            *("f", QUERY, OVER, np.zeros(6)),
            **NOISY,
            sentence="functionals that are uncertain",
        ),
        bad(
            expected_information_gain,
            *("f", QUERY, OVER, np.zeros(5)),
            **NOISY,
            sentence=r"shape \(6,\), one for each",
        ),
        bad(
            nested_information_gain,
            *(jr.key(0), "f", QUERY, np.zeros(4)),
            **NOISY,
            sentence="must be three paths or more",
        ),
        bad(
            nested_information_gain,
            *(jr.key(0), "paths", QUERY, np.zeros(3)),
            **NOISY,
            sentence="a row for each path",
        ),
        bad(
            nested_information_gain,
            *(jr.key(0), "paths", QUERY, np.zeros(4)),
            **NOISY,
            sentence="must differ between paths",
        ),
        bad(
            nested_information_gain,
            *(jr.key(0), "paths", QUERY, np.arange(4)),
            **NOISY,
            sentence="shared by two paths",
        ),
        bad(bald, "f", QUERY, poisson, sentence="finitely many outcomes.*Poisson"),
        bad(bald, None, QUERY, poisson, sentence="Got a NoneType"),
        bad(greedy_batch, jr.key(0), len, sentence="Got neither"),
        bad(greedy_batch, jr.key(0), len, q=9, choices=X, sentence="9 choices or more"),
        bad(
            greedy_batch,
            *(jr.key(0), lambda X: jnp.zeros(2)),
            choices=X,
            sentence=r"to N floats, \(N,\). Got shape \(2,\)",
        ),
    ],
)
def test_bad_input_is_told_in_a_sentence(call, args, how, sentence):
    made: dict = {"f": posterior()}
    made["paths"] = PathwiseSampler(made["f"], 8).sample_paths(jr.key(0), 4)
    args = [made[a] if isinstance(a, str) else a for a in args]
    with pytest.raises(ValueError, match=sentence):
        call(*args, **how)
