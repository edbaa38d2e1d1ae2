"""What every kernel promises, held over one list of kernels."""

import copy
import pickle

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import KERNELS, central_difference, few_of, inputs, kernels, trees_equal

pytestmark = pytest.mark.usefixtures("plainly_compiled")

QUICK = ["RBF", "Matern12", "Matern52-vector", "Sum", "Product-of-sums", "Scale"]
QUICK += ["ActiveDims", "with-priors"]
each_kernel = pytest.mark.parametrize("name", few_of(KERNELS, *QUICK))


@pytest.mark.parametrize("name", ["RBF", "Matern52", "with-priors"])
def test_leaves_are_exactly_the_hyperparameters(name):
    kernel = kernels(3)[name]
    leaves = jax.tree.leaves(kernel)
    assert len(leaves) == 2
    assert leaves[0] is kernel.variance and leaves[1] is kernel.lengthscale


@each_kernel
def test_copies_evaluate_equal(name):
    kernel, X = kernels(3)[name], inputs(4, 3)
    for twin in (
        jax.tree.map(lambda leaf: leaf, kernel),
        copy.deepcopy(kernel),
        pickle.loads(pickle.dumps(kernel)),
    ):
        assert trees_equal(twin, kernel)
        assert np.array_equal(twin(X, X), kernel(X, X))


@each_kernel
def test_one_trace_for_many_values(name):
    kernel, X, traces = kernels(2)[name], inputs(3, 2), []

    @jax.jit
    def gram(kernel):
        traces.append(1)
        return kernel(X, X)

    for factor in (1.0, 1.5, 2.0):
        scaled = jax.tree.map(lambda leaf, f=factor: leaf * f, kernel)
        # XLA fuses a jitted Gram differently: equal to rounding, not bit by bit.
        np.testing.assert_allclose(gram(scaled), scaled(X, X), rtol=1e-5)
    assert len(traces) == 1


@each_kernel
def test_stacked_and_mapped_equals_a_loop(name):
    kernel, X = kernels(2)[name], inputs(3, 2)
    variants = [jax.tree.map(lambda v, f=f: v * f, kernel) for f in (1.0, 1.5, 2.0)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *variants)
    mapped = jax.vmap(lambda k: k(X, X))(stacked)
    looped = jnp.stack([k(X, X) for k in variants])
    np.testing.assert_allclose(mapped, looped, rtol=1e-5)


@each_kernel
@pytest.mark.parametrize("in_size", [1, 3])
def test_gram_is_a_covariance(name, in_size, x64):
    kernel, X = kernels(in_size)[name], inputs(12, in_size)
    gram = kernel(X, X)
    assert np.array_equal(gram, gram.T)
    assert np.linalg.eigvalsh(gram).min() > -1e-10
    np.testing.assert_allclose(kernel.diag(X), jnp.diagonal(gram), rtol=1e-12)
    np.testing.assert_allclose(kernel(X[:5], X[5:]), gram[:5, 5:], rtol=1e-12)


def reference(name: str, r: np.ndarray) -> np.ndarray:
    """Rasmussen & Williams 2006, eqs. 4.9 and 4.17, in NumPy."""
    z = np.sqrt({"Matern12": 1, "Matern32": 3, "Matern52": 5}.get(name, 0)) * r
    return {
        "RBF": np.exp(-(r**2) / 2),
        "Matern12": np.exp(-z),
        "Matern32": (1 + z) * np.exp(-z),
        "Matern52": (1 + z + z**2 / 3) * np.exp(-z),
    }[name]


@pytest.mark.parametrize("name", ["RBF", "Matern12", "Matern32", "Matern52"])
@pytest.mark.parametrize("in_size", [1, 3, 40])
def test_gram_equals_the_formula(name, in_size, x64):
    kernel = kernels(in_size)[f"{name}-vector"]
    X1, X2 = np.asarray(inputs(6, in_size)), np.asarray(inputs(5, in_size, seed=1))
    gaps = (X1[:, None] - X2[None]) / np.asarray(kernel.lengthscale)
    expected = 1.3 * reference(name, np.sqrt((gaps**2).sum(-1)))
    np.testing.assert_allclose(kernel(X1, X2), expected, rtol=1e-12)


def test_combinations_follow_their_parts(x64):
    made, X = kernels(3), inputs(6, 3)
    total = made["Sum"]
    left, right = total.left(X, X), total.right(X, X)
    np.testing.assert_allclose(total(X, X), left + right, rtol=1e-14)
    np.testing.assert_allclose(made["Product"](X, X), left * right, rtol=1e-14)
    np.testing.assert_allclose(made["Scale"](X, X), 2.5 * right, rtol=1e-14)
    active = made["ActiveDims"]
    expected = active.kernel(X[:, 2:], X[:, 2:])
    np.testing.assert_allclose(active(X, X), expected, rtol=1e-14)
    for scaled in (
        2.0 * made["RBF"],
        made["RBF"] * np.float64(2),
        jnp.array(2) * total,
    ):
        inner = scaled.kernel(X, X)
        np.testing.assert_allclose(scaled(X, X), 2 * inner, rtol=1e-14)


@pytest.mark.parametrize("name", [n for n in KERNELS if n != "with-priors"])
def test_gram_is_exact_far_from_the_origin(name):
    # Steps of 1/64 are exact in float32 near 2020 and near 0 alike.
    kernel = kernels(2)[name]
    near = jnp.asarray(np.random.default_rng(0).integers(0, 128, (20, 2)) / 64)
    far = near + 2020
    assert near.dtype == far.dtype == jnp.float32
    assert np.array_equal(kernel(far, far), kernel(near, near))


def test_the_expanded_square_fails_far_from_the_origin():
    X = jnp.asarray(np.random.default_rng(0).integers(0, 128, (20, 2)) / 64) + 2020
    norms = jnp.sum(X**2, axis=1)
    expanded = norms[:, None] + norms[None, :] - 2 * X @ X.T
    assert np.abs(np.exp(-expanded / 2) - RBF_unit(X)).max() > 0.1


def RBF_unit(X):
    return kernels(2)["RBF"].correlation(jnp.sum((X[:, None] - X[None]) ** 2, axis=-1))


@each_kernel
def test_float32_gram_is_exact_to_rounding(name):
    kernel, X = kernels(3)[name], inputs(30, 3)
    single = np.asarray(kernel(X, X), np.float64)
    with jax.enable_x64(True):
        widened = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), kernel)
        X64 = jnp.asarray(np.asarray(X, np.float64))
        double = np.asarray(widened(X64, X64))
    assert np.abs(single - double).max() < 8 * np.finfo(np.float32).eps * double.max()


@each_kernel
@pytest.mark.parametrize("in_size", few_of([1, 3], 3))
def test_gradient_of_hyperparameters(name, in_size, x64):
    kernel, X = kernels(in_size)[name], inputs(4, in_size)
    X = jnp.concatenate([X, X[:1]])  # two points coincide
    weights = jnp.asarray(np.random.default_rng(1).normal(size=(5, 5)))

    def total(kernel):
        return jnp.sum(weights * kernel(X, X))

    leaves, tree = jax.tree.flatten(kernel)
    gradients = jax.tree.leaves(jax.grad(total)(kernel))
    for i, (leaf, gradient) in enumerate(zip(leaves, gradients, strict=True)):

        def moved(value, i=i):
            new = [*leaves[:i], jnp.asarray(value), *leaves[i + 1 :]]
            return total(jax.tree.unflatten(tree, new))

        numeric = central_difference(moved, leaf)
        np.testing.assert_allclose(gradient, numeric, rtol=1e-6, atol=1e-8)


SMOOTH = [n for n in KERNELS if "12" not in n]


@pytest.mark.parametrize("name", SMOOTH)
@pytest.mark.parametrize("in_size", few_of([1, 3], 3))
def test_gradient_of_inputs_also_where_points_coincide(name, in_size, x64):
    kernel, X2 = kernels(in_size)[name], inputs(4, in_size)
    weights = jnp.asarray(np.random.default_rng(1).normal(size=(1, 4)))

    def total(x):
        return jnp.sum(weights * kernel(jnp.asarray(x)[None, :], X2))

    for x in (X2[0], X2[0] + 0.3):
        numeric = central_difference(total, x, step=1e-6)
        np.testing.assert_allclose(jax.grad(total)(x), numeric, rtol=1e-6, atol=1e-6)


TWICE = ["RBF", "Matern52", "RBF-vector", "Matern52-vector", "Matern32", "Scale", "Sum"]


@pytest.mark.parametrize("name", TWICE)
def test_covariance_of_the_derivative_where_points_coincide(name, x64):
    """d^2 k(x, x') / dx dx' at x = x' is the prior variance of the gradient."""
    kernel = kernels(2)[name]
    x = jnp.array([0.4, 1.1])

    def k(a, b):
        return kernel(a[None, :], b[None, :])[0, 0]

    mixed, own = jax.jit(
        lambda a, b: (jax.jacfwd(jax.grad(k, 0), 1)(a, b), jax.hessian(k)(a, b))
    )(x, x)
    expected = gradient_variance(kernel)
    np.testing.assert_allclose(mixed, expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(own, -expected, rtol=1e-9, atol=1e-12)


def gradient_variance(kernel) -> np.ndarray:
    """Rasmussen & Williams 2006, eq. 9.1: variance / l^2 times 1, 3 or 5/3."""
    if hasattr(kernel, "left"):
        return gradient_variance(kernel.left) + gradient_variance(kernel.right)
    if hasattr(kernel, "factor"):
        return float(kernel.factor) * gradient_variance(kernel.kernel)
    curvature = {1.5: 3.0, 2.5: 5 / 3}.get(getattr(kernel, "nu", 0.0), 1.0)
    ells = np.broadcast_to(np.asarray(kernel.lengthscale), (2,))
    return np.diag(float(kernel.variance) * curvature / ells**2)


@pytest.mark.exhaustive
def test_matern12_has_finite_derivatives_at_its_kink(x64):
    kernel = kernels(2)["Matern12"]
    x = jnp.array([0.4, 1.1])

    def k(a):
        return kernel(a[None, :], x[None, :])[0, 0]

    assert np.array_equal(jax.grad(k)(x), jnp.zeros(2))
    assert np.isfinite(jax.hessian(k)(x)).all()


@pytest.mark.parametrize("name", few_of(KERNELS, "Matern52", "Product-of-sums"))
def test_dtype_follows_the_inputs(name, x64):
    kernel = kernels(2)[name]
    for dtype in (jnp.float32, jnp.float64):
        X = inputs(3, 2).astype(dtype)
        phi = kernel.features(jax.random.key(0), 8, 2)
        assert kernel(X, X).dtype == kernel.diag(X).dtype == phi(X).dtype == dtype


@pytest.mark.parametrize("name", few_of(KERNELS, "RBF-vector"))
def test_features_have_the_asked_shape(name, getkey):
    kernel, X = kernels(2)[name], inputs(5, 2)
    for n_features in (6, 12, 64):
        assert kernel.features(getkey(), n_features, 2)(X).shape == (5, n_features)


def test_serialised_leaves_come_back(tmp_path):
    kernel = kernels(2)["Sum"]
    eqx.tree_serialise_leaves(tmp_path / "kernel.eqx", kernel)
    like = jax.tree.map(jnp.zeros_like, kernel)
    assert trees_equal(
        eqx.tree_deserialise_leaves(tmp_path / "kernel.eqx", like), kernel
    )
