"""The Fourier grid: its lattice, what it leaves to chance, and its domain."""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import few_of
from scipy.integrate import quad

from pyrox.gp import (
    RBF,
    ActiveDims,
    Constant,
    FourierGrid,
    GPPrior,
    Linear,
    Matern,
    PathwiseSampler,
    Periodic,
    RationalQuadratic,
    Sobol,
    paths_over_draws,
    substitute,
)
from pyrox.gp._features.lattice import _nearest, lattice_features

pytestmark = pytest.mark.usefixtures("plainly_compiled")
SMOOTH = [RBF, *(functools.partial(Matern, nu) for nu in (0.5, 1.5, 2.5, 3.5))]
NAMES = ["RBF", "Matern-1/2", "Matern-3/2", "Matern-5/2", "Matern-7/2"]


@pytest.fixture(autouse=True)
def double(x64):
    pass


def cube(n, in_size):
    return jnp.asarray(np.random.default_rng(in_size).random((n, in_size)))


def gram_error(basis, kernel, X, n_features):
    @jax.jit
    def gram(key):
        phi = basis.on(kernel, X).features(key, kernel, n_features, X.shape[1])(X)
        return phi @ phi.T

    return float(jnp.sqrt(jnp.mean((gram(jr.key(0)) - kernel(X, X)) ** 2)))


NEAR_EXACT = {
    "RBF": (RBF(1.0, 0.57), 1e-5),
    "Matern-5/2": (Matern(2.5, 1.0, 0.57), 5e-4),
    "Matern-3/2": (Matern(1.5, 1.0, 0.57), 3e-3),
}


@pytest.mark.parametrize("name", few_of(NEAR_EXACT, "Matern-5/2"))
def test_a_thousand_columns_are_near_exact_for_two_inputs(name):
    (kernel, most), X = NEAR_EXACT[name], cube(200, 2)
    assert gram_error(FourierGrid(), kernel, X, 1024) < most
    assert gram_error(Sobol(), kernel, X, 1024) > most


@pytest.mark.parametrize("kernel", SMOOTH, ids=NAMES)
@pytest.mark.parametrize("in_size", [1, 2, 3])
def test_the_density_is_that_of_the_kernel(kernel, in_size):
    """It integrates to one, in polar coordinates."""
    sphere, kernel = {1: 2.0, 2: 2 * np.pi, 3: 4 * np.pi}[in_size], kernel()

    def shell(r):
        log_density = kernel.log_density(jnp.asarray(r**2), in_size)
        return sphere * r ** (in_size - 1) * float(jnp.exp(log_density))

    total = quad(shell, 0, 5)[0] + quad(lambda t: shell(1 / t) / t**2, 1e-9, 0.2)[0]
    assert abs(total - 1) < 1e-6


@pytest.mark.parametrize("kernel", SMOOTH, ids=NAMES)
@pytest.mark.parametrize("inner", [0.0, 2.0])
def test_frequencies_beyond_a_ball_have_the_law_of_two_inputs(kernel, inner):
    kernel = kernel()

    def beyond(r2):  # the chance of more, for two inputs
        def area(t):
            r2 = 1 / t
            return np.pi * float(jnp.exp(kernel.log_density(jnp.asarray(r2), 2))) / t**2

        return quad(area, 1e-12, 1 / r2, limit=200)[0] if r2 else 1.0

    for chance in (0.9, 0.5, 0.1):
        r2 = float(kernel.farther(jnp.asarray(chance), jnp.asarray(inner)))
        assert r2 > inner
        assert abs(beyond(r2) / beyond(inner) - chance) < 1e-5


@pytest.mark.parametrize("in_size, n", [(2, 50), (2, 700), (3, 60), (3, 500)])
def test_the_table_holds_the_nearest_points(in_size, n):
    """Against all points of a cube, for steps that differ as much as they may."""
    ticks = range(-60, 61) if in_size == 2 else range(-20, 21)
    lattice = np.array(list(itertools.product(ticks, repeat=in_size)))
    for steps in np.exp(np.random.default_rng(0).uniform(0, np.log(4), (8, in_size))):
        all_r2 = np.sort(((lattice * steps) ** 2).sum(axis=1))
        points, r2 = _nearest(n, jnp.asarray(steps))
        # One of each opposite two; zero has none.
        assert np.allclose(r2, np.concatenate([all_r2[:1], all_r2[1::2]])[: n + 1])
        both = {tuple(p) for p in np.concatenate([points, -points]).astype(int)}
        assert len(both) == 2 * n + 1


CASES = {  # made inside a test, in its precision
    "many columns": lambda: (Matern(1.5, 2.0, jnp.array([0.3, 0.5])), 2, 128),
    "few columns": lambda: (Matern(0.5, 2.0, 0.05), 1, 16),
    "hardly any": lambda: (RBF(2.0, 0.1), 2, 16),
    "two columns": lambda: (RBF(2.0, 0.3), 1, 2),
    "three inputs": lambda: (Matern(1.5, 2.0, 0.4), 3, 64),
    "a long input": lambda: (Matern(2.5, 2.0, jnp.array([0.05, 9.0])), 2, 64),
}


def mean_gap(kernel, in_size, n_features, draw):
    """The largest gap of the mean Gram matrix of 400 draws, in standard errors; what
    repeats with the period is below 1e-2 of one."""
    X = cube(12, in_size)

    def gram(key):
        phi = draw(key, X, kernel, n_features)(X)
        return phi @ phi.T

    grams = np.asarray(
        jax.jit(lambda keys: jax.lax.map(gram, keys))(jr.split(jr.key(7), 400))
    )
    error = grams.std(axis=0) / 20 + 2e-4
    return np.abs((grams.mean(axis=0) - kernel(X, X)) / error).max()


def drawn(key, X, kernel, n_features) -> Any:
    return FourierGrid().on(kernel, X).features(key, kernel, n_features, X.shape[1])


@pytest.mark.parametrize("case", few_of(CASES, "few columns", "three inputs"), ids=str)
def test_the_kernel_is_the_mean_at_any_number_of_columns(case):
    """Six standard errors in 78 entries: a false alarm in 1e7 runs of other seeds."""
    kernel, in_size, n_features = CASES[case]()
    assert mean_gap(kernel, in_size, n_features, drawn) < 6


@pytest.mark.parametrize("case", ["few columns", "three inputs"])
def test_the_lattice_alone_is_biased(case):
    """What the test above would see if the rest were dropped, not drawn."""

    def lattice_only(key, X, kernel, n_features):
        phi, m = drawn(key, X, kernel, n_features), n_features // 4
        masses = phi.masses[:m] * (kernel.variance / jnp.sum(phi.masses[:m]))
        return type(phi)(phi.frequencies[:m], masses)

    kernel, in_size, n_features = CASES[case]()
    assert mean_gap(kernel, in_size, n_features, lattice_only) > 12


@pytest.mark.exhaustive
@pytest.mark.parametrize("case", ["few columns", "three inputs"])
def test_variance_is_exact_and_so_are_shapes(case):
    kernel, in_size, n_features = CASES[case]()
    X = cube(9, in_size)
    phi = drawn(jr.key(0), X, kernel, n_features)(X)
    assert phi.shape == (9, n_features)
    assert jnp.allclose(jnp.sum(phi**2, axis=1), 2.0, rtol=1e-9)


@pytest.mark.exhaustive
def test_lengthscales_may_be_mapped_over():
    X, ells = cube(9, 2), jnp.array([0.1, 0.3, 1.0])

    def gram(ell):
        kernel = Matern(1.5, 1.0, ell)
        phi = drawn(jr.key(0), X, kernel, 64)(X)
        return phi @ phi.T

    together = jax.jit(jax.vmap(gram))(ells)
    for ell, one in zip(ells, together, strict=True):
        assert jnp.allclose(one, gram(ell), atol=1e-9)


@pytest.mark.parametrize("case", few_of(["many columns", "three inputs"]))
def test_derivatives_by_the_lengthscale_have_the_right_mean(case):
    """To a twentieth of the largest and four standard errors of 400 draws: cells that
    change sides at the edge of the lattice have no part in it. The twin is the
    derivative of twice the kernel."""
    kernel, in_size, n_features = CASES[case]()
    X = cube(6, in_size)

    def slope(ell, gram):
        return jax.jvp(gram, (ell,), (jnp.ones_like(ell),))[1]

    def with_ell(ell):
        return substitute(kernel, {"Matern.lengthscale": ell})

    def features_slope(key):
        def gram(ell):
            phi = drawn(key, X, with_ell(ell), n_features)(X)
            return phi @ phi.T

        return slope(kernel.lengthscale, gram)

    keys = jr.split(jr.key(3), 400)
    slopes = np.asarray(jax.jit(lambda keys: jax.lax.map(features_slope, keys))(keys))
    exact = slope(kernel.lengthscale, lambda ell: with_ell(ell)(X, X))
    error = slopes.std(axis=0) / 5 + 5e-2 * np.abs(exact).max()
    mean = slopes.mean(axis=0)
    assert (np.abs(mean - exact) < error).all()
    assert (np.abs(mean - 2 * exact) > 2 * error).any()


def sampler(kernel, X, basis: Any = "grid", n_features=64):
    posterior = GPPrior(kernel, X).condition(jnp.sin(X[:, 0]), 0.1)
    return PathwiseSampler(posterior, n_features, basis)


BASES = {
    "RBF": (RBF(), 1, "FourierGrid"),
    "sum": (2.0 * RBF() + Linear(), 3, "FourierGrid"),
    "four inputs": (RBF(), 4, "Sobol"),
    "rough": (Matern(0.5), 2, "FourierGrid"),
    "rough, three inputs": (Matern(0.5), 3, "Sobol"),
    "columns": (ActiveDims(Matern(0.5), (1, 4)), 5, "FourierGrid"),
    "product": (Linear() * Matern(), 2, "FourierGrid"),
    "locally periodic": (Periodic() * Matern(), 1, "Sobol"),
    "no spectrum": (RationalQuadratic() + Constant(), 1, "Sobol"),
    "half a spectrum": (RationalQuadratic() + RBF(), 1, "FourierGrid"),
}


@pytest.mark.parametrize("name", few_of(BASES, "sum", "rough, three inputs"))
def test_the_path_says_which_basis_it_has(name):
    kernel, in_size, kind = BASES[name]
    paths = sampler(kernel, cube(4, in_size)).sample_paths(jr.key(0), 1)
    assert type(paths.basis).__name__ == kind
    assert (paths.domain is None) == (kind == "Sobol")


@pytest.mark.exhaustive
def test_the_default_domain_holds_the_data_with_a_margin():
    X = jnp.array([[0.0, 5.0], [4.0, 5.0]])
    wide: Any = sampler(RBF(1.0, 0.5), X).sample_paths(jr.key(0)).domain
    assert jnp.allclose(wide, jnp.array([[-2.0, 4.0], [6.0, 6.0]]))
    some = ActiveDims(RBF(1.0, 3.0), (0,)) + Linear()
    wide = sampler(some, X).sample_paths(jr.key(0)).domain
    assert jnp.allclose(wide[:, 0], jnp.array([-6.0, 10.0]))
    assert bool(jnp.isinf(wide[:, 1]).all())


OUTSIDE = np.array([[0.5, 0.5], [0.5, 2.5]])
INSIDE = np.array([[0.5, 0.5], [0.5, 1.1]])


@pytest.mark.parametrize("jitted", few_of([False, True], False))
@pytest.mark.parametrize(
    "call",
    few_of(["values", "gradient", "each", "ensemble", "grad"], "values", "ensemble"),
)
def test_points_outside_raise(call, jitted):
    X = cube(6, 2)
    paths: Any = sampler(Matern(1.5, 1.0, 0.2), X).sample_paths(jr.key(0), 2)
    if call == "ensemble":
        prior = GPPrior(Matern(1.5, 1.0, 0.2), X)
        draws = {"Matern.variance": jnp.array([1.0, 2.0])}
        paths = paths_over_draws(
            jr.key(0), draws, lambda d: substitute(prior, d).condition(X[:, 0], 0.1)
        )
    calls = {
        "values": lambda X: paths(X),
        "gradient": lambda X: paths.gradient(X),
        "each": lambda X: paths.each(jnp.stack([X, X])),
        "ensemble": lambda X: paths(X),
        "grad": jax.grad(lambda X: jnp.sum(paths(X))),
    }
    f = jax.jit(calls[call]) if jitted else calls[call]
    assert jnp.isfinite(f(jnp.asarray(INSIDE))).all()
    with pytest.raises(Exception, match="must lie inside the domain"):
        jax.block_until_ready(f(jnp.asarray(OUTSIDE)))


@pytest.mark.exhaustive
def test_the_sentence_names_the_input_and_what_to_do():
    paths = sampler(RBF(1.0, 0.2), cube(6, 2)).sample_paths(jr.key(0), 2)
    with pytest.raises(
        ValueError,
        match=r"`paths\(X\)` must lie inside the domain, input 1 from -0.\d+ to 1.\d+. "
        r"Got 2.5 at index \(1, 1\). Draw .*FourierGrid\(\(lowest, highest\)\).*sobol",
    ):
        paths(OUTSIDE)
    stated = sampler(RBF(1.0, 0.2), cube(6, 2), FourierGrid((-1.0, [2.0, 3.0])))
    assert stated.sample_paths(jr.key(0), 2)(OUTSIDE).shape == (2, 2)
    assert (
        sampler(RBF(), cube(6, 2), "sobol").sample_paths(jr.key(0))(OUTSIDE + 99).shape
    )


@pytest.mark.exhaustive
def test_astype_and_stacks_keep_the_domain():
    kernel, X = RBF(1.0, 0.2), cube(6, 2)
    paths = sampler(kernel, X).sample_paths(jr.key(0), 2).astype(jnp.float32)
    with pytest.raises(ValueError, match="inside the domain"):
        paths(OUTSIDE)
    keys = jr.split(jr.key(0), 3)
    stacked = jax.vmap(lambda key: sampler(kernel, X).sample_paths(key, 2))(keys)
    inside = jax.vmap(lambda path: path(X))(stacked)
    assert inside.shape == (3, 2, 6)
    with pytest.raises(Exception, match="inside the domain"):
        jax.block_until_ready(jax.vmap(lambda path: path(OUTSIDE))(stacked))


@pytest.mark.parametrize(
    "domain, sentence",
    [
        ((0.4, 2.0), r"the data` must lie inside the domain, input \d from 0.4 to 2"),
        ((2.0, 0.4), r"lowest input below its highest"),
        ((0.0, 1.0, 2.0), r"the lowest and the highest input, each a number"),
        (([0.0, 0.0], [1.0, 1.0, 1.0]), r"each a number or \(D,\)"),
        (([0.0] * 3, [1.0] * 3), r"one number or 2 for each side.* D=2. Got 3"),
    ],
)
def test_a_bad_domain_says_so(domain, sentence):
    with pytest.raises(ValueError, match=sentence):
        sampler(RBF(), cube(6, 2), FourierGrid(domain)).sample_paths(jr.key(0))


def test_a_grid_without_a_domain_says_where_it_comes_from():
    with pytest.raises(ValueError, match=r"a domain, which a sampler takes from its"):
        FourierGrid().features(jr.key(0), RBF(), 64, 1)


@pytest.mark.exhaustive
def test_half_precision_hyperparameters_are_computed_in_single():
    spectrum: Any = RBF(jnp.float16(1.0), jnp.float16(0.5)).spectrum(1)
    phi = lattice_features(jr.key(0), spectrum, jnp.ones(1, jnp.float32), 16)
    assert phi.frequencies.dtype == jnp.float32
