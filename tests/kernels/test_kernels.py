"""The kernels beyond RBF and Matern: formulas, features, and a contract to hold to."""

# A hyperparameter field takes a number and makes it an array.
# pyright: reportArgumentType=false

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from _moments import strict_float64
from helpers import central_difference, few_of, inputs
from numpyro.distributions import constraints
from scipy.special import gamma, ive, kv

from pyrox.gp import (
    IID,
    RBF,
    AbstractKernel,
    ActiveDims,
    Constant,
    Cosine,
    FourierFeatures,
    GPPrior,
    Linear,
    Matern,
    PathwiseSampler,
    Periodic,
    Polynomial,
    RationalQuadratic,
    Sobol,
    SpectralMixture,
    White,
    check_kernel,
    hyperparameter,
)

pytestmark = pytest.mark.usefixtures("plainly_compiled")


@pytest.fixture(autouse=True)
def _strict():
    with strict_float64():
        yield


def ells(in_size: int) -> np.ndarray:
    return np.linspace(0.5, 0.9, in_size)


def mixture(in_size: int) -> SpectralMixture:
    means = np.linspace(0, 1, 2 * in_size).reshape(2, in_size)
    return SpectralMixture(np.array([1.0, 0.5]), means, 0.3 + 0 * means)


def sines(A: np.ndarray, B: np.ndarray, period: float) -> np.ndarray:
    return np.sin(np.pi * (A[:, None] - B[None]) / period)


def radius(A: np.ndarray, B: np.ndarray) -> np.ndarray:
    scaled = (A[:, None] - B[None]) / ells(A.shape[1])
    return np.sqrt((scaled**2).sum(-1))


def general_matern(nu: float, r: np.ndarray) -> np.ndarray:
    """Rasmussen & Williams 2006, eq. 4.14, by SciPy's Bessel function."""
    z = np.sqrt(2 * nu) * np.where(r > 0, r, 1)

    value = 2 ** (1 - nu) / gamma(nu) * z**nu * kv(nu, z)
    return np.where(r > 0, value, 1)


def mixture_gram(A: np.ndarray, B: np.ndarray) -> np.ndarray:
    kernel, gap = mixture(A.shape[1]), A[:, None] - B[None]
    total = np.zeros(gap.shape[:2])
    for weight, mean, scale in zip(
        *map(np.asarray, jax.tree.leaves(kernel)), strict=True
    ):
        spread = np.exp(-2 * ((np.pi * scale * gap) ** 2).sum(-1))
        total += weight * spread * np.cos(2 * np.pi * gap @ mean)
    return total


FORMULAS = {
    "RationalQuadratic": (
        lambda d: RationalQuadratic(1.3, ells(d), 0.7),
        lambda A, B: 1.3 * (1 + radius(A, B) ** 2 / 1.4) ** -0.7,
    ),
    "Matern-7/2": (
        lambda d: Matern(3.5, 1.3, ells(d)),
        lambda A, B: 1.3 * general_matern(3.5, radius(A, B)),
    ),
    "Matern-11/2": (
        lambda d: Matern(5.5, 1.3, ells(d)),
        lambda A, B: 1.3 * general_matern(5.5, radius(A, B)),
    ),
    "Periodic": (
        lambda d: Periodic(1.3, ells(d), 1.1),
        lambda A, B: (
            1.3 * np.exp(-2 * ((sines(A, B, 1.1) / ells(A.shape[1])) ** 2).sum(-1))
        ),
    ),
    "Cosine": (
        lambda d: Cosine(1.3, 1.1),
        lambda A, B: 1.3 * np.cos(2 * np.pi * (A[:, None] - B[None]).sum(-1) / 1.1),
    ),
    "Linear": (lambda d: Linear(ells(d)), lambda A, B: (A * ells(A.shape[1])) @ B.T),
    "Polynomial": (
        lambda d: Polynomial(3, 0.5, 0.7),
        lambda A, B: 0.5 * (A @ B.T + 0.7) ** 3,
    ),
    "Constant": (lambda d: Constant(1.3), lambda A, B: 1.3 + 0 * A @ B.T),
    "White": (
        lambda d: White(1.3),
        lambda A, B: 1.3 * (A[:, None] == B[None]).all(-1),
    ),
    "SpectralMixture": (mixture, mixture_gram),
}
COMBINED = {
    "locally periodic": lambda d: Periodic(1.3, 0.8, 1.1) * Matern(2.5, 1.0, 2.0),
    "linear times RBF": lambda d: Linear(0.4) * RBF(1.0, 0.7),
    "sums multiplied": lambda d: (
        (Linear(0.4) + RBF(1.0, 0.7)) * (Periodic(1.0, 0.8, 1.1) + Constant(2.0))
    ),
    "columns of a sum": lambda d: ActiveDims(
        RationalQuadratic(1.0, 0.5, 2.0) * Cosine(1.0, 3.0) + Linear(1.0), (d - 1,)
    ),
    "scaled": lambda d: 2.0 * (Polynomial(2, 0.3) + mixture(d) * RBF()),
}
IN_SIZES = pytest.mark.parametrize("in_size", [1, 3])


@IN_SIZES
@pytest.mark.parametrize("name", FORMULAS)
def test_gram_equals_the_formula(name, in_size):
    make, formula = FORMULAS[name]
    A, B = (np.array(inputs(n, in_size, seed=n)) for n in (6, 5))
    B[0] = A[0]
    got = make(in_size)(jnp.asarray(A), jnp.asarray(B))
    np.testing.assert_allclose(got, formula(A, B), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("name", few_of([*FORMULAS, *COMBINED], "Periodic", "White"))
def test_the_contract(name):
    """By `check_kernel`, whose 7 standard errors are passed by chance once in 5e8; on
    the default basis, which is Sobol for all that no grid is for."""
    make = COMBINED.get(name) or FORMULAS[name][0]
    basis = None if name == "White" else "grid"
    found = check_kernel(make(2), inputs(9, 2), basis=basis, n_features=128)
    assert found["asymmetry"] == 0


@pytest.mark.parametrize("name", ["Periodic", "Cosine", "SpectralMixture"])
def test_gram_is_exact_far_from_the_origin(name):
    kernel = FORMULAS[name][0](2)
    near = jnp.asarray(np.random.default_rng(0).integers(0, 128, (9, 2)) / 64)
    single = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), kernel)
    far = jnp.asarray(near + 2020, jnp.float32)
    got = np.asarray(single(far, far), np.float64)
    assert np.abs(got - np.asarray(kernel(near, near))).max() < 2e-5


SMOOTH = [name for name in FORMULAS if name != "White"]


@pytest.mark.parametrize("name", SMOOTH)
def test_derivatives(name):
    kernel, X = FORMULAS[name][0](2), inputs(4, 2)
    weights = jnp.asarray(np.random.default_rng(0).normal(size=(4, 4)))
    leaves, tree = jax.tree.flatten(kernel)

    @jax.jit
    def total(leaves, X1):
        return jnp.sum(weights * jax.tree.unflatten(tree, leaves)(X1, X))

    by_leaves, by_input = jax.grad(total, (0, 1))(leaves, X)
    for i, (leaf, gradient) in enumerate(zip(leaves, by_leaves, strict=True)):

        def moved(value, i=i):
            return total([*leaves[:i], jnp.asarray(value), *leaves[i + 1 :]], X)

        numeric = central_difference(moved, leaf)
        np.testing.assert_allclose(gradient, numeric, rtol=1e-6, atol=1e-7)
    numeric = central_difference(lambda X1: total(leaves, jnp.asarray(X1)), X)
    np.testing.assert_allclose(by_input, numeric, rtol=1e-6, atol=1e-7)


# --- Features that are exact ---------------------------------------------------------

EXACT = {
    "Linear": (lambda d: Linear(ells(d)), {1: 1, 3: 3}),
    "Polynomial": (lambda d: Polynomial(3, 0.5, 0.7), {1: 4, 3: 20}),
    "Constant": (lambda d: Constant(1.3), {1: 2, 3: 2}),
    "Cosine": (lambda d: Cosine(1.3, 1.1), {1: 2, 3: 2}),
    "their sum": (lambda d: Linear(0.3) + Constant(1.0), {1: 3, 3: 5}),
    "their product": (lambda d: Linear(0.3) * Polynomial(2), {1: 3, 3: 30}),
    "Periodic": (lambda d: ActiveDims(Periodic(1.3, 0.8, 1.1), (0,)), {1: 128, 3: 128}),
}


@pytest.mark.exhaustive
@IN_SIZES
@pytest.mark.parametrize("name", EXACT)
def test_exact_features(name, in_size):
    make, columns = EXACT[name]
    kernel, X = make(in_size), inputs(7, in_size)
    phi = Sobol().features(jr.key(0), kernel, 128, in_size)(X)
    assert phi.shape == (7, columns[in_size])
    np.testing.assert_allclose(phi @ phi.T, kernel(X, X), rtol=1e-12, atol=1e-13)


@pytest.mark.exhaustive
def test_two_periodic_inputs_are_exact_too():
    kernel, X = Periodic(1.3, np.array([0.6, 0.8]), 1.1), inputs(7, 2)
    phi = Sobol().features(jr.key(0), kernel, 1024, 2)(X)
    assert phi.shape[1] == 962
    np.testing.assert_allclose(phi @ phi.T, kernel(X, X), atol=1e-9)


@pytest.mark.exhaustive
def test_harmonics_have_bessel_masses():
    phi = Periodic(2.0, 0.7, 3.0).exact_features(130, 1)
    assert isinstance(phi, FourierFeatures)
    order = np.arange(len(phi.masses))
    expected = 2.0 * np.where(order > 0, 2, 1) * ive(order, 1 / 0.49)
    np.testing.assert_allclose(phi.masses, expected, atol=1e-14)
    np.testing.assert_allclose(phi.frequencies[:, 0], 2 * np.pi * order / 3)


@pytest.mark.exhaustive
def test_a_product_with_an_exact_map_uses_the_rest():
    phi = IID().features(jr.key(0), Linear(1.0) * RBF(), 60, 3)
    assert phi(inputs(2, 3)).shape == (2, 60)  # 3 x 20


@pytest.mark.exhaustive
def test_drawn_harmonics_have_a_derivative_by_the_lengthscale():
    """Their masses carry it: the mean over draws is the kernel's own derivative; five
    standard errors."""
    X = jnp.array([[0.0], [0.21]])

    def kernel(ell):
        return Periodic(1.0, ell, 1.0) * RBF()

    def value(ell, key):
        phi = IID().features(key, kernel(ell), 256, 1)(X)
        return phi[0] @ phi[1]

    @jax.jit
    def slopes(ell):
        drawn = jax.vmap(jax.grad(value), (None, 0))(ell, jr.split(jr.key(0), 200))
        return drawn, jax.grad(lambda ell: kernel(ell)(X, X)[0, 1])(ell)

    drawn, exact = slopes(jnp.array(0.7))
    assert abs(drawn.mean() - exact) < 5 * drawn.std() / np.sqrt(200)
    assert abs(exact) > 10 * drawn.std() / np.sqrt(200)


@pytest.mark.exhaustive
def test_drawn_harmonics_stay_while_their_masses_move():
    ell, step, X = 0.7, 1e-5, jnp.array([[0.0], [0.21]])

    def features(ell):
        kernel = Periodic(1.0, ell, 1.0) * RBF()
        phi = Sobol().features(jr.key(0), kernel, 256, 1)
        assert isinstance(phi, FourierFeatures)
        return phi

    def value(ell):
        phi = features(ell)(X)
        return phi[0] @ phi[1]

    difference = (value(ell + step) - value(ell - step)) / (2 * step)
    np.testing.assert_allclose(jax.grad(value)(ell), difference, rtol=1e-7)
    masses = features(0.7001).masses
    np.testing.assert_allclose(jnp.sum(masses), 1)
    assert np.ptp(masses) > 1e-5  # they follow the lengthscale


@pytest.mark.exhaustive
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_harmonics_of_the_farthest_ranks_have_mass(dtype):
    def draw(_, n):
        return (jnp.array([[-9.0], [-5.0], [0.0], [5.0], [9.0]], dtype),)

    def drawn_for(ell):
        one = jnp.ones((), dtype)
        return Periodic(one, ell, one).sample_frequencies(draw, 1)

    drawn = jax.vmap(drawn_for)(jnp.linspace(0.3, 3, 50, dtype=dtype))
    assert (drawn.masses > 0).all()
    assert np.isfinite(drawn.masses).all()


# --- Paths, and kernels of the user's own -------------------------------------------


@pytest.mark.exhaustive
def test_paths_of_a_sum_of_all_kinds():
    """A trend, a season and a rest. The mean of the paths is the exact one: six
    standard errors at eight points, a false alarm in 6e7 runs."""
    X = inputs(8, 1)
    kernel = Linear(2.0) + Periodic(1.0, 0.8, 0.5) * Matern(2.5) + RationalQuadratic()
    posterior = GPPrior(kernel, X).condition(3 * X[:, 0], 0.01)
    draws = PathwiseSampler(posterior, 512).sample_paths(jr.key(0), 4000)(X + 1.0)
    mean, _ = posterior.predict(X + 1.0)
    z = (draws.mean(axis=0) - mean) / (draws.std(axis=0) / np.sqrt(4000))
    assert np.abs(z).max() < 6


class Laplace(AbstractKernel):
    """A user's stationary kernel: exp(-|x - x'|), one input, Cauchy frequencies."""

    def __call__(self, X1, X2):
        return jnp.exp(-jnp.sum(jnp.abs(X1[:, None] - X2[None]), axis=-1))

    def diag(self, X):
        return jnp.ones_like(X[:, 0])

    def sample_frequencies(self, draw, in_size):
        top, bottom = draw(jnp.dtype(float), in_size, in_size)
        m = top.shape[0]
        return FourierFeatures(top / bottom, jnp.full(m, 1 / m))


def test_a_users_stationary_kernel_passes_and_multiplies():
    X = inputs(8, 1)
    check_kernel(Laplace(), X)
    check_kernel(Laplace() * RBF() + Linear(1.0), X, basis="orthogonal")


class Crooked(Laplace):
    """One that breaks a promise."""

    fault: str = eqx.field(static=True)
    scale: jax.Array = hyperparameter(constraints.positive)

    def __call__(self, X1, X2):
        gram = super().__call__(X1, X2)
        faulty = {
            "asymmetry": gram * (1 + 0.01 * X1[:, :1]),
            "negative eigenvalue": gram - 0.9,
            "derivatives by inputs": jnp.exp(
                -jnp.sqrt(jnp.sum((X1[:, None] - X2[None]) ** 2, axis=-1))
            ),
            "derivatives by hyperparameters": gram * jnp.where(self.scale > 0, 1.0, 1.0)
            + 0 * jnp.sqrt(self.scale - self.scale),
            "values are": gram.astype(jnp.float32),
            "finite": gram / 0.0,
        }
        return faulty.get(self.fault, gram)

    def diag(self, X):
        return (1.1 if "diag" in self.fault else 1.0) * super().diag(X)

    def sample_frequencies(self, draw, in_size):
        phi = super().sample_frequencies(draw, in_size)
        stretch = 1.3 if "features" in self.fault else 1.0
        return FourierFeatures(stretch * phi.frequencies, phi.masses)


FAULTS = (
    "asymmetry",
    "negative eigenvalue",
    "diag",
    "derivatives by inputs",
    "derivatives by hyperparameters",
    "values are",
    "finite",
    "features",
)


@pytest.mark.exhaustive
def test_a_kept_promise_is_not():
    check_kernel(Crooked("none", 1.0), inputs(8, 1))


@pytest.mark.parametrize("fault", few_of(FAULTS, "diag", "features"))
def test_a_broken_promise_is_noticed(fault):
    with pytest.raises(ValueError, match=f"(?s)`Crooked` must give .*{fault}"):
        check_kernel(Crooked(fault, 1.0), inputs(8, 1))
