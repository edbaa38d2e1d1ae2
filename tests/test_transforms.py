"""Every public object through jit, vmap, grad and copies; traces are counted."""

import copy
import gc
import pickle

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import central_difference, few_of, trees_equal

from pyrox.gp import (
    RBF,
    DecoupledPathwiseSampler,
    DeltaGuide,
    FullRankGuide,
    GPPrior,
    Matern,
    MeanFieldGuide,
    PathwiseSampler,
    Sobol,
    SparseGPPrior,
    WhitenedGuide,
    paths_over_draws,
    substitute,
)
from pyrox.gp._paths.formula import evaluate
from pyrox.gp._paths.path import bare
from pyrox.gp._paths.samplers import _draw_exact
from pyrox.gp._posterior import moments
from pyrox.gp._posterior.exact import conditioned

pytestmark = pytest.mark.usefixtures("plainly_compiled")


class Line(eqx.Module):
    """A mean function with trainable leaves."""

    slope: jax.Array

    def __call__(self, X):
        return self.slope * X[:, 0]


def offset(X):
    """A mean function that is a plain function."""
    return jnp.full(X.shape[0], 0.5, X.dtype)


_rng = np.random.default_rng(0)
X, Z, X_STAR = (_rng.uniform(0, 2, (n, 2)) for n in (6, 4, 5))
Y = np.sin(3 * X[:, 0])


def posterior(kernel=None, noise_var=0.01, X=X, y=Y, mean_fn=offset):
    prior = GPPrior(kernel or Matern(2.5, 1.0, 0.7), X, mean_fn)
    return prior.condition(y, noise_var)


def ensemble():
    prior = GPPrior(RBF(), X)
    draws = {"RBF.lengthscale": jnp.array([0.5, 0.6, 0.7])}

    def condition(draw):
        return substitute(prior, draw).condition(Y, 0.1)

    return paths_over_draws(jax.random.key(0), draws, condition, 2, 16, batch_size=2)


def guides():
    mean, root = np.linspace(-1.0, 1.0, 4), 0.3 * np.eye(4) + 0.1 * np.tri(4)
    return {
        "FullRankGuide": FullRankGuide(mean, root),
        "MeanFieldGuide": MeanFieldGuide(mean, np.diagonal(root)),
        "WhitenedGuide": WhitenedGuide(mean, root),
        "DeltaGuide": DeltaGuide(mean),
    }


def key():
    return jax.random.key(0)


def sparse():
    return SparseGPPrior(Matern(1.5), Z, offset)


def decoupled():
    return DecoupledPathwiseSampler(sparse(), guides()["WhitenedGuide"], 32)


def gram(kernel):
    return kernel(jnp.asarray(X_STAR), jnp.asarray(X_STAR))


def at_query(function):
    return function(X_STAR)


def predictive_variance(guide):
    return guide.predict(sparse(), X_STAR)[1]


# Each public object, and a function of it that gives an array.
OBJECTS = {
    "RBF": (RBF, gram),
    "Matern": (lambda: Matern(1.5), gram),
    "GPPrior": (
        lambda: GPPrior(RBF(), X, Line(jnp.array(0.3))),
        lambda p: p.log_marginal_likelihood(Y, 0.1),
    ),
    "GPPrior-plain-mean": (
        lambda: GPPrior(RBF(), X, offset),
        lambda p: p.sample(key(), 3),
    ),
    "ConditionedGP": (lambda: posterior(), lambda p: p.predict_mean(X_STAR)),
    "SparseGPPrior": (sparse, lambda p: guides()["DeltaGuide"].kl(p)),
    "PathwiseSampler": (
        lambda: PathwiseSampler(posterior(), 32),
        lambda s: s(key(), X_STAR, n_paths=2),
    ),
    "DecoupledPathwiseSampler": (decoupled, lambda s: s(key(), X_STAR, n_paths=2)),
    "PathwiseFunction": (lambda: decoupled().sample_paths(key(), 3), at_query),
    "FourierFeatures": (
        lambda: RBF().features(key(), 16, 2),
        lambda phi: phi(jnp.asarray(X_STAR)),
    ),
    "PathwiseEnsemble": (ensemble, at_query),
    **{
        name: (lambda name=name: guides()[name], predictive_variance)
        for name in guides()
    },
}
QUICK = "GPPrior-plain-mean", "ConditionedGP", "PathwiseFunction", "FullRankGuide"
each_object = pytest.mark.parametrize("name", few_of(OBJECTS, *QUICK))


@each_object
def test_round_trips(name, tmp_path):
    make, use = OBJECTS[name]
    thing = make()
    expected = use(thing)
    eqx.tree_serialise_leaves(tmp_path / "it.eqx", thing)
    empty = jax.tree.map(jnp.zeros_like, thing)
    leaf = jax.tree.leaves(thing)[0]
    for twin in (
        jax.tree.unflatten(*jax.tree.flatten(thing)[::-1]),
        copy.deepcopy(thing),
        pickle.loads(pickle.dumps(thing)),
        eqx.tree_deserialise_leaves(tmp_path / "it.eqx", empty),
        eqx.tree_at(lambda t: jax.tree.leaves(t)[0], thing, leaf),
    ):
        assert trees_equal(twin, thing)
        assert np.array_equal(use(twin), expected)


@each_object
def test_into_and_out_of_jit(name):
    make, use = OBJECTS[name]
    thing = make()
    np.testing.assert_allclose(jax.jit(use)(thing), use(thing), rtol=2e-4, atol=2e-5)
    returned = jax.jit(lambda t: jax.tree.map(lambda leaf: leaf, t))(thing)
    assert np.array_equal(use(returned), use(thing))


@each_object
def test_stacked_by_vmap_and_mapped_over(name):
    make, use = OBJECTS[name]
    thing = make()
    stacked = jax.vmap(lambda _: thing)(jnp.arange(3))
    mapped = jax.vmap(use)(stacked)
    np.testing.assert_allclose(mapped[1], use(thing), rtol=2e-4, atol=2e-5)


@pytest.mark.exhaustive
def test_sampling_returns_from_jit_and_vmap():
    @jax.jit
    def draw(lengthscale, key):
        exact = posterior(RBF(1.0, lengthscale))
        return PathwiseSampler(exact, 16).sample_paths(key, 2)

    ells, keys = jnp.array([0.4, 0.8]), jax.random.split(jax.random.key(0), 2)
    batched = jax.vmap(draw)(ells, keys)
    values = jax.vmap(lambda path: path(jnp.asarray(X_STAR)))(batched)
    for ell, key, row in zip(ells, keys, values, strict=True):
        np.testing.assert_allclose(draw(ell, key)(X_STAR), row, rtol=1e-4, atol=1e-4)


@pytest.mark.exhaustive
def test_five_hundred_draws_give_one_batched_path():
    def draw(lengthscale, key):
        exact = posterior(RBF(1.0, lengthscale))
        return PathwiseSampler(exact, 16).sample_paths(key, 2)

    ells = jnp.linspace(0.3, 1.0, 500)
    batched = jax.vmap(draw)(ells, jax.random.split(jax.random.key(0), 500))
    assert type(batched).__name__ == "PathwiseFunction"
    assert batched.feature_weights.shape == (500, 2, 16)
    values = jax.vmap(lambda path: path(jnp.asarray(X_STAR)))(batched)
    assert values.shape == (500, 2, 5)


def test_fresh_draws_are_one_trace():
    traces = []

    @jax.jit
    def evaluate(paths, X):
        traces.append(1)
        return paths(X)

    sampler = PathwiseSampler(posterior(), 16)
    for seed in range(4):
        evaluate(sampler.sample_paths(jax.random.key(seed), 2), jnp.asarray(X_STAR))
    assert len(traces) == 1


def test_a_new_prior_is_a_new_program_and_an_equal_one_is_not():
    import numpyro.distributions as dist

    traces = []

    @jax.jit
    def variance(kernel):
        traces.append(1)
        return kernel.variance

    for scale in (0.3, 0.3, 0.4):
        variance(RBF().with_priors(variance=dist.LogNormal(0.0, scale)))
    assert len(traces) == 2


def test_jit_of_a_path_itself():
    paths = PathwiseSampler(posterior(), 16).sample_paths(jax.random.key(0), 3)
    X_star = jnp.asarray(X_STAR)
    np.testing.assert_allclose(jax.jit(paths)(X_star), paths(X_star), rtol=1e-5)
    assert paths == paths and paths != copy.deepcopy(paths)
    assert len({paths, paths}) == 1


VALUES = {
    "lengthscale": np.array([0.7, 0.9]),
    "variance": np.array(1.2),
    "noise_var": np.linspace(0.01, 0.05, 6),
    "X": X,
    "y": Y,
    "slope": np.array(0.3),
}


def summaries(exact) -> dict:
    """Scalars of a posterior that people differentiate."""
    X_star = jnp.asarray(X_STAR)
    paths = PathwiseSampler(exact, 16).sample_paths(jax.random.key(0), 2)
    return {
        "mean": jnp.sum(exact.predict_mean(X_star) ** 2),
        "var": jnp.sum(exact.predict_var(X_star)),
        "lml": exact.log_marginal_likelihood(),
        "loo": jnp.sum(exact.leave_one_out_log_density()),
        "paths": jnp.sum(paths(X_star) ** 2),
    }


@pytest.mark.exhaustive
def test_gradient_of_everything_with_respect_to_everything(x64):
    @jax.jit
    def f(values):
        kernel = Matern(2.5, values["variance"], values["lengthscale"])
        data = values["noise_var"], values["X"], values["y"]
        made = summaries(posterior(kernel, *data, mean_fn=Line(values["slope"])))
        return jnp.stack(list(made.values()))

    jacobians = jax.jit(jax.jacrev(f))(VALUES)
    for name, jacobian in jacobians.items():
        for i, row in enumerate(jacobian):

            def moved(value, i=i, name=name):
                return f({**VALUES, name: value})[i]

            numeric = central_difference(moved, VALUES[name])
            np.testing.assert_allclose(row, numeric, rtol=2e-6, atol=1e-6)


@pytest.mark.exhaustive
@pytest.mark.parametrize("at_data", [False, True])
def test_gradient_at_the_query(at_data, x64):
    exact = posterior()
    paths = PathwiseSampler(exact, 16).sample_paths(jax.random.key(0), 2)
    x = X[2] if at_data else X_STAR[0]

    def f(x):
        row = jnp.asarray(x)[None, :]
        mean, var = exact.predict(row)
        return paths(row).sum() + mean[0] + 3 * var[0]

    numeric = central_difference(f, x)
    np.testing.assert_allclose(jax.grad(f)(x), numeric, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("guide", few_of(guides(), "FullRankGuide"))
def test_gradient_of_the_elbo(guide, x64):
    def elbo(ell, Z, noise_var):
        prior = SparseGPPrior(RBF(1.0, ell), Z, offset)
        return guides()[guide].elbo(prior, X, Y, noise_var, n_total=60)

    args = (np.array([0.7, 0.9]), Z, np.array(0.05))
    gradients, compiled = jax.grad(elbo, (0, 1, 2))(*args), jax.jit(elbo)
    for i, gradient in enumerate(gradients):

        def moved(value, i=i):
            return compiled(*args[:i], value, *args[i + 1 :])

        numeric = central_difference(moved, args[i])
        np.testing.assert_allclose(gradient, numeric, rtol=1e-5, atol=1e-5)


def test_an_unjitted_vmap_over_query_points():
    paths = PathwiseSampler(posterior(), 16).sample_paths(jax.random.key(0), 3)
    X_star = jnp.asarray(X_STAR)
    mapped = jax.vmap(lambda x: paths(x[None, :])[:, 0])(X_star)
    np.testing.assert_allclose(mapped.T, paths(X_star), rtol=1e-4, atol=1e-5)


@pytest.fixture
def little_garbage():
    """The search for leaks collects garbage after every trace. All objects that other
    tests have left would be gone through each time: they are kept out of it."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def test_no_tracer_is_left_behind(little_garbage):
    # Behind the doors: an error_if keeps the stack of its call, with its tracers.
    @jax.jit
    def line(exact, X):
        moved = jax.tree.map(lambda leaf: 1.1 * leaf, exact.prior)
        again, _ = conditioned(moved, exact.y, exact.noise_var, None)
        paths = _draw_exact(key(), again, Sobol(), 8, 2)
        values = evaluate(bare(paths), X, block_size=64)
        return values, moments.var(again._conditional(), X, block_size=64)

    exact = posterior()
    with jax.check_tracer_leaks():
        values, _ = line(exact, jnp.asarray(X_STAR))
        assert values.shape == (2, 5)
        kept = []
        with pytest.raises(Exception, match="Leaked|list index"):
            jax.jit(lambda x: kept.append(2 * x))(1.0)


@pytest.mark.parametrize(
    "index", [1, -1, np.int64(2), slice(1, 3), np.array([2, 0]), [True, False, True]]
)
def test_selection_keeps_the_leading_axis(index):
    paths = decoupled().sample_paths(key(), 3)
    chosen = np.asarray(paths(X_STAR))[index].reshape(-1, 5)
    if isinstance(index, list):
        index = np.asarray(index)
    np.testing.assert_allclose(paths[index](X_STAR), chosen, rtol=1e-5, atol=1e-6)
    assert len(paths[index]) == len(chosen)


def test_selection_under_jit_and_iteration():
    paths = decoupled().sample_paths(key(), 3)
    values = np.asarray(paths(X_STAR))
    one = jax.jit(lambda i: paths[i](jnp.asarray(X_STAR)))(2)
    np.testing.assert_allclose(one, values[2:], rtol=1e-4, atol=1e-5)
    assert [path(X_STAR).shape for path in paths] == [(1, 5)] * 3
