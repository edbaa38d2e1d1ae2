"""Paths hold numbers: of hard kernels they are finite, else making them raises."""

# A hyperparameter field takes a number and makes it an array.
# pyright: reportArgumentType=false

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import few_of

from pyrox.gp import (
    RBF,
    AbstractFeatures,
    DecoupledPathwiseSampler,
    FourierFeatures,
    GPPrior,
    Matern,
    PathwiseSampler,
    RationalQuadratic,
    SparseGPPrior,
    WhitenedGuide,
    paths_over_draws,
)

pytestmark = pytest.mark.usefixtures("plainly_compiled")
KEY = jax.random.key(3)
X = np.linspace(0, 1, 7)[:, None]
Y = np.sin(4 * X[:, 0])
ROWS = np.linspace(0, 1, 12)[:, None]


def rational(alpha):
    return RationalQuadratic(1.0, 0.3, alpha)


HARD = {
    "alpha 0.05": rational(0.05),
    "alpha 0.01": rational(0.01),
    "alpha 1e-6": rational(1e-6),
    "alpha of 1e5": rational(1e5),
    "times an RBF": rational(0.05) * RBF(1.0, 0.5),
    "plus a Matern": rational(0.02) + Matern(2.5),
    "Matern-1/2": Matern(0.5, 1.0, 0.3),
    "two of small alpha": rational(0.01) * rational(0.03),
}


def samplers(kernel, basis):
    """One of each kind of process."""
    prior, sparse = GPPrior(kernel, X), SparseGPPrior(kernel, X[::2], jitter=1e-4)
    return (
        PathwiseSampler(prior, 128, basis),
        PathwiseSampler(prior.condition(Y, 0.01), 128, basis),
        DecoupledPathwiseSampler(sparse, WhitenedGuide.init(4), 128, basis),
    )


CASES = [
    (name, bits, basis, i)
    for name in HARD
    for bits in (32, 64)
    for basis, i in (("grid", 0), ("grid", 1), ("grid", 2), ("sobol", 1), ("iid", 1))
]


@pytest.mark.parametrize(
    "name, bits, basis, i", few_of(CASES, ("alpha 0.05", 32, "grid", 1))
)
def test_paths_of_hard_kernels_are_finite(name, bits, basis, i):
    with jax.enable_x64(bits == 64):
        kernel = jax.tree.map(lambda leaf: leaf.astype(f"float{bits}"), HARD[name])
        paths = samplers(kernel, basis)[i].sample_paths(KEY, 3)
        assert paths.update_weights.dtype == f"float{bits}"
        assert np.isfinite(paths(ROWS)).all()


def test_the_variance_of_small_alpha_is_exact():
    rows = jnp.asarray(ROWS)
    features = jax.jit(lambda alpha: rational(alpha).features(KEY, 64, 1)(rows))
    for alpha in (1e-6, 0.01, 0.05):
        variance = jnp.sum(features(alpha) ** 2, axis=1)
        np.testing.assert_allclose(variance, 1, rtol=1e-6)


@pytest.mark.exhaustive
def test_the_derivative_of_a_path_by_a_small_alpha(x64):
    def f(alpha):
        posterior = GPPrior(rational(alpha), X).condition(Y, 0.01)
        return jnp.sum(PathwiseSampler(posterior, 128)(KEY, ROWS, 2) ** 2)

    f, slope = jax.jit(f), jax.jit(jax.grad(f))
    for alpha in (0.001, 0.01, 0.05):
        step = 1e-4 * alpha
        numeric = (f(alpha + step) - f(alpha - step)) / (2 * step)
        np.testing.assert_allclose(slope(alpha), numeric, rtol=1e-4)


# --- What is no number raises ------------------------------------------------------


class BrokenFeatures(AbstractFeatures):
    """NaN, without a leaf that says so."""

    def __call__(self, X):
        return jnp.log(-1 - X[:, :1] ** 2) * jnp.ones((1, 4), X.dtype)


class OwnFeatures(RBF):
    """A user's kernel whose map of its own returns NaN."""

    # As any kernel that is not stationary answers.
    def sample_frequencies(self, draw, in_size):  # pyright: ignore[reportIncompatibleMethodOverride]
        return None

    def features(self, key, n_features, in_size):
        return BrokenFeatures()


class OwnFrequencies(RBF):
    """One whose frequencies are NaN."""

    def sample_frequencies(self, draw, in_size):
        phi = RBF.sample_frequencies(self, draw, in_size)
        return FourierFeatures(phi.frequencies.at[0, 0].set(jnp.nan), phi.masses)


class OwnMasses(RBF):
    """One whose masses are, which their square root would hide."""

    def sample_frequencies(self, draw, in_size):
        phi = RBF.sample_frequencies(self, draw, in_size)
        return FourierFeatures(phi.frequencies, phi.masses * jnp.nan)


SENTENCE = "sample_paths` must draw finite functions. Got NaN or inf in float32"
BROKEN = {kind.__name__: kind for kind in (OwnFeatures, OwnFrequencies, OwnMasses)}
KIND_CASES = [(kind, i) for kind in BROKEN for i in range(3)]


@pytest.mark.parametrize(
    "kind, i", few_of(KIND_CASES, ("OwnFeatures", 0), ("OwnFrequencies", 1))
)
def test_paths_of_a_broken_kernel_raise(kind, i):
    sampler = samplers(BROKEN[kind](1.0, 0.3), "sobol")[i]
    with pytest.raises(ValueError, match=SENTENCE):
        sampler.sample_paths(KEY, 2)
    with pytest.raises(jax.errors.JaxRuntimeError, match=SENTENCE):
        jax.block_until_ready(jax.jit(lambda s: s.sample_paths(KEY, 2))(sampler))


def mean_from(lowest):
    return lambda X: jnp.log(X[:, 0] - lowest)


def test_a_mean_function_of_nan_raises():
    sentence = "`GPPrior.condition` must find finite weights: `mean_fn\\(X\\)` or"
    prior = GPPrior(RBF(1.0, 0.3), X, mean_from(0.5))
    with pytest.raises(ValueError, match=sentence):
        prior.condition(Y, 0.1)
    with pytest.raises(jax.errors.JaxRuntimeError, match=sentence):
        jax.block_until_ready(jax.jit(lambda y: prior.condition(y, 0.1))(Y))


def test_a_posterior_that_overflows_raises():
    prior = GPPrior(RBF(1.0, 0.3), X)
    with pytest.raises(ValueError, match="must find finite weights"):
        prior.condition(Y * 1e38, 1e-6)


@pytest.mark.exhaustive
def test_one_broken_of_a_mapped_batch_raises():
    posterior = GPPrior(RBF(1.0, 0.3), X).condition(Y, 0.1)
    broken = eqx.tree_at(lambda p: p.y, posterior, posterior.y.at[2].set(jnp.nan))
    stack = jax.tree.map(lambda a, b: jnp.stack([a, b]), posterior, broken)

    def draw(posterior):
        return PathwiseSampler(posterior, 64).sample_paths(KEY, 2)

    with pytest.raises(jax.errors.JaxRuntimeError, match=SENTENCE):
        jax.block_until_ready(jax.jit(jax.vmap(draw))(stack))
    fine = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), posterior)
    assert np.isfinite(jax.jit(jax.vmap(draw))(fine).update_weights).all()


@pytest.mark.exhaustive
def test_one_broken_of_many_draws_raises():
    posterior = GPPrior(RBF(1.0, 0.3), X).condition(Y, 0.1)

    def condition(draw):
        return eqx.tree_at(lambda p: p.y, posterior, posterior.y * draw["scale"])

    scales = {"scale": jnp.array([1.0, jnp.nan, 2.0])}
    with pytest.raises(jax.errors.JaxRuntimeError, match=SENTENCE):
        jax.block_until_ready(paths_over_draws(KEY, scales, condition, 2, 64))


@pytest.mark.parametrize("kind", ["OwnFrequencies", "OwnMasses"])
def test_a_feature_map_of_nan_raises(kind):
    kernel, sentence = BROKEN[kind](1.0, 0.3), rf"`{kind}.features\(...\)` must hold"
    with pytest.raises(ValueError, match=sentence):
        kernel.features(KEY, 64, 1)
    with pytest.raises(jax.errors.JaxRuntimeError, match=sentence):
        jax.block_until_ready(jax.jit(lambda k: k.features(KEY, 64, 1))(kernel))


def test_what_is_fine_is_left_alone():
    """The same numbers under `jit`, where they are checked as the program runs."""
    kernel = RBF(1.0, 0.3)
    phi = kernel.features(KEY, 64, 1)
    checked = jax.jit(lambda k: k.features(KEY, 64, 1))(kernel)
    for got, want in zip(*map(jax.tree.leaves, (checked, phi)), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6)
