"""Work in blocks: the values and derivatives of one block, in memory that is flat."""

import functools
import inspect
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import few_of

from pyrox.gp import (
    RBF,
    DecoupledPathwiseSampler,
    FullRankGuide,
    GPPrior,
    Matern,
    PathwiseSampler,
    Sobol,
    SparseGPPrior,
)
from pyrox.gp._paths import formula, samplers
from pyrox.gp._paths.path import bare
from pyrox.gp._posterior import derivatives as observed
from pyrox.gp._posterior import moments

N = 23  # no block size below divides it: the last block overlaps the one before
_rng = np.random.default_rng(0)
X, Z, X_STAR = (_rng.uniform(0, 2, (n, 2)) for n in (20, 4, N))
X_OWN = _rng.uniform(0, 2, (2, N, 2))  # points of its own for each path
Y = np.sin(3 * X[:, 0])


class Things:
    """What is asked in blocks, made once for each width."""

    def __init__(self, dtype):
        X_, Z_, Y_ = (jnp.asarray(a, dtype) for a in (X, Z, Y))
        self.query, self.own = jnp.asarray(X_STAR, dtype), jnp.asarray(X_OWN, dtype)
        self.exact = GPPrior(Matern(2.5, 1.0, 0.7), X_).condition(Y_, 0.1)
        self.sparse = SparseGPPrior(RBF(1.0, 0.7), Z_)
        mean, root = np.linspace(-1, 1, 4), 0.3 * np.eye(4) + 0.1 * np.tri(4)
        self.guide = FullRankGuide(jnp.asarray(mean, dtype), jnp.asarray(root, dtype))
        self.paths = PathwiseSampler(self.exact, 32).sample_paths(jax.random.key(0), 2)
        sampler = DecoupledPathwiseSampler(self.sparse, self.guide, 16)
        self.decoupled = sampler.sample_paths(jax.random.key(1), 2)


@functools.cache
def made(width: int) -> Things:
    return Things(jnp.dtype(f"float{width}"))


METHODS = {
    "paths": lambda t, b: t.paths(t.query, block_size=b),
    "decoupled": lambda t, b: t.decoupled(t.query, block_size=b),
    "each": lambda t, b: t.paths.each(t.own, block_size=b),
    "gradient": lambda t, b: t.paths.gradient(t.query, block_size=b),
    "predict_mean": lambda t, b: t.exact.predict_mean(t.query, block_size=b),
    "predict_var": lambda t, b: t.exact.predict_var(t.query, block_size=b),
    "predict": lambda t, b: jnp.stack(t.exact.predict(t.query, block_size=b)),
    "guide.predict": lambda t, b: jnp.stack(
        t.guide.predict(t.sparse, t.query, block_size=b)
    ),
}
ALL_SIZES = (1, 3, 7, N - 1, N + 5, None)
FEW_SIZES = {32: (7,), 64: (1,)}


def assert_same(ours, whole):
    """Equal but for the order in which a product adds its terms."""
    scale = max(1.0, float(np.abs(whole).max()))
    assert ours.dtype == whole.dtype and ours.shape == whole.shape
    assert np.abs(ours - whole).max() <= 20 * jnp.finfo(whole.dtype).eps * scale


@pytest.mark.parametrize("method", few_of(METHODS, "guide.predict"))
def test_values_do_not_depend_on_the_block(method, x64):
    values_do_not_depend_on_the_block(method, 64)


@pytest.mark.parametrize("method", few_of(["paths", "each", "predict"]))
def test_values_in_float32_do_not_depend_on_the_block(method):
    values_do_not_depend_on_the_block(method, 32)


def values_do_not_depend_on_the_block(method: str, width: int):
    things = made(width)
    whole = METHODS[method](things, 2 * N if method == "each" else N)
    for size in ALL_SIZES if (method, width) == ("paths", 64) else FEW_SIZES[width]:
        assert_same(METHODS[method](things, size), whole)


@pytest.mark.exhaustive
def test_one_row_is_one_block(width):
    things = made(width)
    whole = things.paths(things.query, block_size=N)
    for size in (1, 7):
        assert_same(things.paths(things.query[4:5], block_size=size), whole[:, 4:5])


@functools.partial(jax.jit, static_argnums=2)
def derivatives(paths, X, size: int):
    """By every leaf of the path and by X, in reverse; by X, forward."""

    def loss(paths, X):
        return jnp.sum(formula.evaluate(bare(paths), X, block_size=size) ** 2)

    return jax.grad(loss, (0, 1))(paths, X), jax.jacfwd(loss, 1)(paths, X)


@pytest.mark.exhaustive
def test_derivatives_of_paths_are_those_of_one_block(x64):
    t = made(64)
    (of_paths, of_X), forward = derivatives(t.paths, t.query, 5)
    (whole_paths, whole_X), whole_forward = derivatives(t.paths, t.query, N)
    np.testing.assert_allclose(of_X, whole_X, rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(forward, whole_forward, rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(forward, of_X, rtol=1e-11, atol=1e-11)
    assert np.abs(of_paths.kernel.lengthscale) > 1e-3
    leaves, whole_leaves = jax.tree.leaves(of_paths), jax.tree.leaves(whole_paths)
    for leaf, whole in zip(leaves, whole_leaves, strict=True):
        np.testing.assert_allclose(leaf, whole, rtol=1e-11, atol=1e-11)


def of_lengthscale(things, X, ell):
    """A scalar of the mean and the variance at X, in blocks of a given size."""

    def loss(X, ell, size):
        exact = eqx.tree_at(lambda e: e.prior.kernel.lengthscale, things.exact, ell)
        mean = moments.mean(exact._conditional(), X, block_size=size)
        return jnp.sum(mean**2) + jnp.sum(
            moments.var(exact._conditional(), X, block_size=size)
        )

    return lambda size: jax.jit(jax.grad(loss, (0, 1)), static_argnums=2)(X, ell, size)


@pytest.mark.exhaustive
def test_derivatives_of_predictions_are_those_of_one_block(x64):
    t = made(64)
    gradients = of_lengthscale(t, t.query, jnp.asarray(0.7))
    for ours, whole in zip(gradients(5), gradients(N), strict=True):
        assert np.abs(whole).max() > 1e-2
        np.testing.assert_allclose(ours, whole, rtol=1e-11, atol=1e-11)


@pytest.mark.exhaustive
def test_derivatives_of_each_are_those_of_one_block(x64):
    t = made(64)

    def loss(X, size):
        return jnp.sum(formula.evaluate_each(bare(t.paths), X, block_size=size) ** 2)

    gradient = jax.jit(jax.grad(loss), static_argnums=1)
    whole = gradient(t.own, 2 * N)
    np.testing.assert_allclose(gradient(t.own, 5), whole, rtol=1e-11, atol=1e-11)


def loss_of_values(paths, X, size):
    return jnp.sum(formula.evaluate(bare(paths), X, block_size=size) ** 2)


def prior_of(paths, X, size: int | None):
    """What the paths were before the data, as a draw computes it."""
    parts = paths.mean_fn, paths.features, paths.feature_weights
    if size is None:
        return (parts[2] @ parts[1](X).T).T
    return samplers._prior_draw(*parts, size)(X)


def test_the_prior_part_of_a_draw_does_not_depend_on_the_block(width):
    t = made(width)
    whole = np.asarray(prior_of(t.paths, t.query, None))
    for size in (1, 7, N - 1, N):
        assert_same(np.asarray(prior_of(t.paths, t.query, size)), whole)


@pytest.mark.exhaustive
def test_derivatives_of_the_prior_part_of_a_draw_are_those_of_one_block(x64):
    t = made(64)
    sites = observed.DerivativeSites("sites", t.query, 1)

    def slopes(size):
        return observed.along(lambda X: prior_of(t.paths, X, size), sites)

    def of_scale(size):
        def loss(scale):
            phi: Any = t.paths.features
            scaled = phi.frequencies * scale[None, :]
            paths = eqx.tree_at(lambda p: p.features.frequencies, t.paths, scaled)
            return jnp.sum(prior_of(paths, t.query, size) ** 2)

        return jax.grad(loss)(jnp.ones(2))

    for f in (slopes, of_scale):
        whole = np.asarray(f(None))
        assert np.abs(whole).max() > 1e-2
        np.testing.assert_allclose(f(5), whole, rtol=1e-11, atol=1e-11)


# Each a program of float32 queries, (N, D) or for two paths (S, N, D), that is compiled
# and not run.
PROGRAMS = {
    "paths": lambda t, X, b: formula.evaluate(bare(t.paths), X, block_size=b),
    "gradient by X": lambda t, X, b: jax.grad(loss_of_values, 1)(t.paths, X, b),
    "paths.gradient": lambda t, X, b: formula.gradient(bare(t.paths), X, block_size=b),
    "paths.each": lambda t, X, b: formula.evaluate_each(bare(t.paths), X, block_size=b),
    "predict_var": lambda t, X, b: moments.var(t.exact._conditional(), X, block_size=b),
    "the prior part of a draw": lambda t, X, b: prior_of(t.paths, X, b),
}
FEW, MANY = 20_000, 80_000


def memory_of(f, *shapes):
    """What a program of float32 arrays of these shapes asks for; it is not run."""
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    memory = jax.jit(f).lower(*arrays).compile().memory_analysis()
    assert memory is not None
    return memory


def bytes_of(name: str, n: int, size: int) -> tuple[int, int]:
    """Bytes of a program's temporary memory, and of what goes in and comes out."""
    shape = (2, n, 2) if name == "paths.each" else (n, 2)
    memory = memory_of(lambda X: PROGRAMS[name](made(32), X, size), shape)
    at_ends = memory.argument_size_in_bytes + memory.output_size_in_bytes
    return memory.temp_size_in_bytes, at_ends


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", list(PROGRAMS))
def test_memory_grows_with_the_query_and_the_result_only(name):
    few, few_at_ends = bytes_of(name, FEW, 500)
    many, many_at_ends = bytes_of(name, MANY, 500)
    # A copy of the points, block by block, and for derivatives the values' cotangents.
    # The features alone would be 16 times the points.
    bound = 2 * (many_at_ends - few_at_ends)
    assert many - few <= bound
    # All rows as one block do not pass: the bound sees the features.
    whole = bytes_of(name, MANY, MANY)[0]
    assert whole - few > bound


@pytest.mark.exhaustive
def test_a_draw_never_holds_the_features_of_all_data(monkeypatch):
    """The size of a block that Matheron's rule hands on, by what its program asks for:
    no number depends on it. 40,000 data are described, not made, and nothing runs."""
    n, n_features = 40_000, 1024
    small = GPPrior(Matern(2.5), np.zeros((2, 1))).condition(np.zeros(2), 0.1)

    def of_size_n(leaf):
        shape = tuple(n if size == 2 else size for size in leaf.shape)
        return jax.ShapeDtypeStruct(shape, leaf.dtype)

    posterior = jax.tree.map(of_size_n, small)
    # The posterior's own arrays are arguments; a draw adds to them.
    draw = inspect.unwrap(samplers._draw_exact)

    def temporary():
        fresh = jax.jit(lambda p: draw(jax.random.key(0), p, Sobol(), n_features, 2))
        memory = fresh.lower(posterior).compile().memory_analysis()
        assert memory is not None
        return memory.temp_size_in_bytes

    features = 4 * n * n_features
    assert temporary() < features / 4
    monkeypatch.setattr(samplers, "block_rows", lambda *_: n)
    assert temporary() > features  # in one piece it would be seen


def distances(A, B):
    """Squared distances the plain way, with an array of (N, M, D)."""
    return ((A[:, None, :] - B[None, :, :]) ** 2).sum(axis=2)


def many_columns(in_size: int, dtype: str):
    """Two sets of points, and lengthscales that keep the Gram matrix off zero."""
    rng = np.random.default_rng(in_size)
    A, B = (rng.uniform(0, 2, (n, in_size)).astype(dtype) for n in (7, 5))
    ells = np.linspace(2, 6, in_size).astype(dtype)
    return A, B, ells


@pytest.mark.parametrize("in_size", [32, 33, 40, 48])
def test_the_gram_matrix_of_many_columns(in_size, x64):
    A, B, ells = many_columns(in_size, "float32" if in_size == 48 else "float64")
    ours = jax.jit(lambda A, B: RBF(1.3, ells)(A, B))(A, B)
    A, B, ells = (a.astype(float) for a in (A, B, ells))
    expected = 1.3 * np.exp(-distances(A / ells, B / ells) / 2)
    np.testing.assert_allclose(
        ours, expected, rtol=5 * float(jnp.finfo(ours.dtype).eps)
    )


@pytest.mark.exhaustive
@pytest.mark.parametrize("in_size", [33, 40])
def test_gradients_of_the_gram_matrix_of_many_columns(in_size, x64):
    A, B, ells = many_columns(in_size, "float64")
    direction = jnp.asarray(np.random.default_rng(0).normal(size=(7, 5)))

    def ours(A, B, ells):
        return jnp.sum(direction * RBF(1.3, ells)(A, B))

    def plain(A, B, ells):
        scaled = (A[:, None, :] - B[None, :, :]) / ells[None, None, :]
        return jnp.sum(direction * 1.3 * jnp.exp(-jnp.sum(scaled**2, axis=2) / 2))

    pairs = [jax.jit(jax.grad(f, (0, 1, 2)))(A, B, ells) for f in (ours, plain)]
    for gradient, expected in zip(*pairs, strict=True):
        np.testing.assert_allclose(gradient, expected, rtol=1e-11, atol=1e-13)


def test_no_array_of_every_difference():
    n, m, in_size = 600, 500, 40

    def temporary(f):
        return memory_of(f, (n, in_size), (m, in_size)).temp_size_in_bytes

    def differences(A, B):
        # A sort cannot be fused with what makes its operand.
        every = jnp.sort(A[:, None, :] - B[None, :, :], axis=2)
        return jnp.sum(every**2, axis=2)

    def gram(A, B):
        return RBF()(A, B)

    one_gram = 4 * n * m
    assert temporary(gram) <= one_gram
    gradient = jax.grad(lambda A, B: jnp.sum(gram(A, B) ** 2))
    assert temporary(gradient) <= 3 * one_gram
    assert temporary(differences) >= in_size * one_gram  # one would be seen


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [0, -1, 2.5, "a"])
def test_a_block_is_a_whole_number_of_rows(method, size):
    with pytest.raises(ValueError, match=r"block_size=.*whole number of at least 1"):
        METHODS[method](made(32), size)
