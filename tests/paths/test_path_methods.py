"""Each path at its own points, slopes, casts; and how many programs all of it takes."""

import dataclasses
import functools
from typing import cast

import equinox as eqx
import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import compilations, few_of

from pyrox.gp import (
    RBF,
    DecoupledPathwiseSampler,
    FourierFeatures,
    FullRankGuide,
    GPPrior,
    Matern,
    PathwiseFunction,
    PathwiseSampler,
    Sobol,
    SparseGPPrior,
)

pytestmark = pytest.mark.usefixtures("plainly_compiled")

N_PATHS = 3


class Line(eqx.Module):
    """A mean function with a trainable leaf and a column, an integer leaf."""

    slope: jax.Array
    column: jax.Array

    def __call__(self, X):
        return self.slope.astype(X.dtype) * jnp.take(X, self.column, axis=1)


def line(slope=0.3):
    return Line(jnp.asarray(slope), jnp.asarray(0, jnp.int32))


@functools.cache
def drawn(width: int, decoupled: bool = False) -> PathwiseFunction:
    """Three paths of three inputs with a mean function, anchored at seven points."""
    dtype = jnp.dtype(f"float{width}")
    X = jnp.asarray(np.random.default_rng(0).uniform(0, 2, (7, 3)), dtype)
    kernel, key = Matern(2.5, 1.0, 0.8), jax.random.key(0)
    if decoupled:
        mean, root = np.linspace(-1, 1, 7), 0.3 * np.eye(7)
        guide = FullRankGuide(jnp.asarray(mean, dtype), jnp.asarray(root, dtype))
        sampler = DecoupledPathwiseSampler(SparseGPPrior(kernel, X, line()), guide, 16)
    else:
        y = jnp.asarray(np.sin(3 * np.asarray(X[:, 0])), dtype)
        sampler = PathwiseSampler(GPPrior(kernel, X, line()).condition(y, 0.1), 16)
    return sampler.sample_paths(key, N_PATHS)


def own_points(seed: int):
    """Eleven points for each path, in the default float type."""
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.uniform(0, 2, (N_PATHS, 11, 3)))


def one_by_one(paths, X):
    """`paths.each(X)` by its definition."""
    return jnp.stack([paths[s](X[s])[0] for s in range(len(paths))])


# The number of points and the block size: all paths together, two of them, one after
# the other, and in parts.
@pytest.mark.parametrize(
    "n, size", few_of([(1, None), (5, 12), (5, 6), (11, 4)], (5, 6))
)
def test_each_is_every_path_at_its_own_points(n, size, width):
    paths, X = drawn(width), own_points(0)
    expected = one_by_one(paths, X)[:, :n]
    values = paths.each(X[:, :n], block_size=size)
    assert values.shape == (N_PATHS, n) and values.dtype == X.dtype
    eps = float(jnp.finfo(X.dtype).eps)
    np.testing.assert_allclose(values, expected, rtol=0, atol=50 * eps)


def test_each_under_jit_and_vmap(x64):
    paths = drawn(64)
    X = jnp.stack([own_points(0), own_points(1)])
    mapped = jax.jit(jax.vmap(lambda X: paths.each(X, block_size=7)))(X)
    for points, values in zip(X, mapped, strict=True):
        np.testing.assert_allclose(values, one_by_one(paths, points), atol=1e-12)


@pytest.mark.exhaustive
def test_the_gradient_of_each_is_that_of_each_path(x64):
    paths, X = drawn(64), own_points(0)

    @jax.jit
    def gradient(X):
        return jax.grad(lambda X: jnp.sum(paths.each(X, block_size=7) ** 2))(X)

    @jax.jit
    def expected(X):
        return jax.grad(lambda X: jnp.sum(one_by_one(paths, X) ** 2))(X)

    np.testing.assert_allclose(gradient(X), expected(X), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(
    "shape, sentence",
    [
        ((5, 3), r"must have shape \(3, N, 3\).*Got \(5, 3\)"),
        ((2, 5, 3), r"must have shape \(3, N, 3\).*Got \(2, 5, 3\)"),
        ((1, 3, 5, 3), r"must have shape \(3, N, 3\)"),
        ((3, 5, 1), r"`paths.each\(X\)` must have shape"),
        ((3, 0, 3), r"N of at least one"),
        ((3, 5, 0), r"`paths.each\(X\)` must have shape"),
    ],
)
def test_each_wants_points_for_each_path(shape, sentence):
    with pytest.raises(ValueError, match=sentence):
        drawn(32).each(np.zeros(shape))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_each_wants_finite_points(bad):
    X = np.zeros((3, 5, 3))
    X[1, 2, 0] = bad
    with pytest.raises(ValueError, match=r"`paths.each\(X\)` must be finite"):
        drawn(32).each(X)


def by_points(paths, X):
    """`paths.gradient(X)` by its definition."""
    each = jax.vmap(jax.jacfwd(lambda x: paths(x[None, :])[:, 0]))
    return jnp.swapaxes(jax.jit(each)(X), 0, 1)


def by_differences(paths, X, step=1e-6):
    """Central differences, in all points at once."""
    slopes = []
    for d in range(X.shape[1]):
        move = step * np.eye(X.shape[1])[d][None, :]
        slopes.append((paths(X + move) - paths(X - move)) / (2 * step))
    return np.stack(slopes, axis=-1)


SMOOTH, ROUGH = RBF(1.0, 0.8, name="smooth"), Matern(1.5, 0.5, 0.9, name="rough")
KERNELS = {
    "RBF": SMOOTH,
    "Matern32": ROUGH,
    "Matern52": Matern(2.5),
    "Sum": SMOOTH + ROUGH,
    "Product": SMOOTH * ROUGH,
}


def with_kernel(name: str, in_size: int, decoupled: bool) -> PathwiseFunction:
    """The drawn paths with another kernel in their update, on the first inputs."""
    paths, kernel = drawn(64, decoupled), KERNELS[name]
    kernel = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), kernel)
    phi = cast(FourierFeatures, paths.features)
    phi = FourierFeatures(phi.frequencies[:, :in_size], phi.masses)
    anchors = paths.anchors[:, :in_size]
    return dataclasses.replace(
        paths, features=phi, anchors=anchors, kernel=kernel, basis=Sobol()
    )


@pytest.mark.parametrize(
    "name, in_size, decoupled",
    few_of(
        [
            ("RBF", 3, False),
            ("Matern32", 1, False),
            ("Matern52", 3, True),
            ("Sum", 3, False),
            ("Product", 1, True),
        ],
        ("Matern52", 3, True),
    ),
)
def test_gradient_is_the_derivative_at_every_point(name, in_size, decoupled, x64):
    paths = with_kernel(name, in_size, decoupled)
    elsewhere = jnp.asarray(np.random.default_rng(3).uniform(0, 2, (6, in_size)))
    X = jnp.concatenate([elsewhere, paths.anchors])
    slopes = paths.gradient(X)
    assert slopes.shape == (N_PATHS, 13, in_size)
    assert np.isfinite(slopes).all()
    np.testing.assert_allclose(slopes, by_points(paths, X), rtol=0, atol=1e-10)
    numeric = by_differences(paths, X)
    # At an anchor the slope of a Matern-3/2 path turns within the step.
    np.testing.assert_allclose(slopes, numeric, rtol=1e-6, atol=3e-5)
    np.testing.assert_allclose(slopes[:, :6], numeric[:, :6], rtol=1e-6, atol=1e-7)


def test_gradient_under_jit_and_vmap(x64):
    paths = drawn(64, True)
    X = jnp.asarray(np.random.default_rng(4).uniform(0, 2, (2, 5, 3)))
    mapped = jax.jit(jax.vmap(lambda X: paths.gradient(X, block_size=3)))(X)
    for points, slopes in zip(X, mapped, strict=True):
        np.testing.assert_allclose(slopes, paths.gradient(points), atol=1e-11)


def test_gradient_moves_with_the_mean_function(x64):
    paths = drawn(64)
    steeper = eqx.tree_at(lambda p: p.mean_fn, paths, line(1.3))
    change = steeper.gradient(paths.anchors) - paths.gradient(paths.anchors)
    expected = np.broadcast_to([1.0, 0.0, 0.0], change.shape)
    np.testing.assert_allclose(change, expected, rtol=0, atol=1e-12)


def floating(paths) -> list:
    leaves = jax.tree.leaves(paths)
    return [leaf for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating)]


@pytest.mark.parametrize("decoupled", [False, True])
def test_a_cast_keeps_the_function(decoupled, x64):
    paths = drawn(64, decoupled)
    X = jnp.asarray(np.random.default_rng(5).uniform(0, 2, (9, 3)))
    values = paths(X)
    short = paths.astype(jnp.float32)
    assert {leaf.dtype for leaf in floating(short)} == {jnp.dtype("float32")}
    assert {leaf.dtype for leaf in floating(paths)} == {jnp.dtype("float64")}
    np.testing.assert_array_equal(paths(X), values)

    of_short = short(X.astype(jnp.float32))
    assert of_short.dtype == jnp.float32
    np.testing.assert_allclose(of_short, values, rtol=0, atol=1e-4)
    of_long = short(X)
    assert of_long.dtype == jnp.float64
    np.testing.assert_allclose(of_long, values, rtol=0, atol=1e-4)


@pytest.mark.parametrize("variance", [1e-60, 1e60])
def test_a_cast_says_what_the_type_cannot_hold(variance, x64):
    paths = PathwiseSampler(GPPrior(RBF(variance), jnp.zeros((1, 1))), 4)
    path = paths.sample_paths(jax.random.key(0), 1)
    with pytest.raises(ValueError, match=r"astype\(float32\).*hyperparameters. Got 1e"):
        path.astype("float32")
    (kept, _) = jax.tree.leaves(path.astype("float64").kernel)
    assert kept == variance


def test_a_cast_keeps_all_that_is_not_a_float(x64):
    paths = drawn(64)
    short = paths.astype("float32")
    mean_fn = cast(Line, short.mean_fn)
    assert mean_fn.column.dtype == jnp.int32 and mean_fn.slope.dtype == jnp.float32
    assert len(short) == N_PATHS and len(short[1:]) == 2
    X = jnp.asarray(np.random.default_rng(5).uniform(0, 2, (9, 3)), jnp.float32)
    chosen = short[jnp.array([2, 0])](X)
    np.testing.assert_allclose(chosen, short(X)[jnp.array([2, 0])], rtol=0, atol=1e-5)
    assert jax.tree.structure(short) == jax.tree.structure(paths)


def test_there_and_back_is_a_cast_to_float32_of_each_leaf(x64):
    paths = drawn(64)
    back = paths.astype(jnp.float32).astype(jnp.float64)
    for ours, leaf in zip(floating(back), floating(paths), strict=True):
        assert ours.dtype == jnp.float64
        np.testing.assert_array_equal(ours, np.asarray(leaf, np.float32))


def test_a_cast_of_a_cast_changes_nothing_more(x64):
    short = drawn(64).astype(jnp.float32)
    again = short.astype(jnp.float64).astype(jnp.float32)
    for ours, leaf in zip(floating(again), floating(short), strict=True):
        np.testing.assert_array_equal(ours, leaf)


@pytest.mark.parametrize("dtype", [jnp.int32, "int64", bool, jnp.complex64])
def test_a_cast_to_what_is_not_a_float_is_refused(dtype):
    with pytest.raises(ValueError, match=r"`paths.astype\(dtype\)` must be a floating"):
        drawn(32).astype(dtype)


def data(seed: int):
    """Data of sizes that no other test has, as arrays that need no program."""
    rng = np.random.default_rng(seed)
    X, X_star = (jnp.asarray(rng.uniform(0, 2, (n, 2))) for n in (13, 17))
    return X, jnp.asarray(rng.normal(size=13)), X_star


def steps(seed: int, kernel, noise_var) -> list[int]:
    """How many programs conditioning, drawing and evaluation compile."""
    X, y, X_star = data(seed)
    key = jax.random.key(seed)
    counts = []
    with compilations() as programs:
        posterior = GPPrior(kernel, X).condition(y, noise_var)
    counts.append(len(programs))
    with compilations() as programs:
        paths = PathwiseSampler(posterior, 22).sample_paths(key, 3)
    counts.append(len(programs))
    with compilations() as programs:
        paths(X_star)
    counts.append(len(programs))
    return counts


@pytest.mark.exhaustive
def test_each_step_is_one_program_once(x64):
    noise_var, other = (jnp.asarray(np.array(v)) for v in (0.1, 0.2))
    assert steps(1, Matern(2.5, 1.0, 0.7), noise_var) == [1, 1, 1]
    # Other data, other hyperparameters; a Python number, and a weakly typed one.
    assert steps(2, Matern(2.5, 1.3, 0.4), other) == [0, 0, 0]
    assert steps(3, Matern(2.5, 0.8, 0.5), 0.3) == [0, 0, 0]
    weak = jnp.array(0.1)
    assert weak.weak_type
    assert steps(4, Matern(2.5, 0.8, 0.5), weak) == [0, 0, 0]


def test_slopes_and_points_of_their_own_compile_once(x64):
    own = jnp.asarray(np.random.default_rng(0).uniform(0, 2, (N_PATHS, 17, 3)))
    paths, others = drawn(64), drawn(64, True)
    query = jnp.asarray(np.asarray(own[0]))
    with compilations() as programs:
        paths.gradient(query)
    assert len(programs) == 1
    paths.each(own)
    with compilations() as programs:
        others.gradient(query)
        others.each(own)
    assert programs == []


def test_a_compilation_is_seen_and_its_listener_taken_off(width):
    zeros = jnp.asarray(np.zeros(19))
    with compilations() as programs:
        jax.jit(lambda x: 3 * x)(zeros)
    assert len(programs) == 1
    jax.jit(lambda x: 4 * x)(zeros)
    assert len(programs) == 1
