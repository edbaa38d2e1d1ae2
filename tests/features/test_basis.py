"""Bases: Sobol points, orthogonal rows, and what they gain over chance."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import few_of
from scipy.stats import kstest, norm, qmc

from pyrox.gp import (
    IID,
    RBF,
    GPPrior,
    Matern,
    Orthogonal,
    PathwiseSampler,
    Periodic,
    Sobol,
)
from pyrox.gp._kernels import matern
from pyrox.gp._numerics import sobol
from pyrox.gp._numerics.sobol import sobol_normals

pytestmark = pytest.mark.usefixtures("plainly_compiled")


@pytest.fixture(autouse=True)
def double(x64):
    pass


@pytest.mark.parametrize("n_points, n_columns", [(8, 3), (512, 20), (1000, 5), (1, 2)])
def test_unscrambled_points_are_scipys(n_points, n_columns):
    directions = jnp.asarray(sobol._directions(n_points, 0, n_columns))
    points = np.asarray(sobol._points(n_points, directions)) / 2.0**32
    whole = 2 ** max(0, (n_points - 1).bit_length())
    theirs = qmc.Sobol(n_columns, scramble=False, bits=32).random(whole)
    assert set(map(tuple, points)) <= set(map(tuple, theirs))
    assert len(set(map(tuple, points))) == n_points


def scrambled(key, n_points, n_columns):
    directions = jnp.asarray(sobol._directions(n_points, 0, n_columns))
    return sobol._points(n_points, sobol._scramble(key, directions))


def test_the_table_is_scipys():
    """In its Gray-code order the point before number 2^(b + 1) is digit b alone."""
    sequence = qmc.Sobol(1024, scramble=False, bits=32)
    for digit in range(14):
        sequence.fast_forward(2 ** (digit + 1) - 1 - sequence.num_generated)
        theirs = sequence.random(1)[0] * 2.0**32
        assert np.array_equal(sobol._table()[digit], theirs)


def test_a_scramble_keeps_the_even_spread():
    points = np.asarray(scrambled(jr.key(1), 1024, 6))
    for column in points.T:
        assert len(set(column >> 22)) == 1024  # one point in each of 1024 intervals
    # Any two columns: the first two have one point in each of 32 x 32 squares.
    squares = {(a >> 27, b >> 27) for a, b in points[:, :2]}
    assert len(squares) == 1024


def test_each_point_is_uniform_by_itself():
    """Over scrambles. Kolmogorov-Smirnov at 1e-6 for each of twelve: a false alarm in
    80,000 runs of other seeds; and it sees a shift left out."""
    keys = jr.split(jr.key(0), 2000)
    draw = jax.jit(jax.vmap(lambda key: scrambled(key, 4, 3)))
    points = np.asarray(draw(keys)) / 2.0**32
    values = points.reshape(2000, -1).T
    assert min(kstest(v, "uniform").pvalue for v in values) > 1e-6
    unshifted = points[:, :1] * 0 + 0.0
    assert kstest(unshifted[:, 0, 0], "uniform").pvalue < 1e-6


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_normals_are_the_quantiles_of_the_points(dtype):
    key = jr.key(3)
    got = sobol_normals(key, 64, 0, 3, np.dtype(dtype))
    assert got.dtype == dtype
    points = np.asarray(scrambled(jr.split(key)[0], 64, 3)).astype(float)
    exact = norm.ppf((points + 0.5) / 2.0**32)
    bound = {"float16": 5e-3, "float32": 2e-5, "float64": 1e-12}[dtype]
    assert np.abs(np.asarray(got, float) - exact).max() < bound


def test_normals_are_finite_at_the_corners():
    corners = jnp.array([[0, 2**32 - 1]], jnp.uint32)
    for dtype in (np.float16, np.float32, np.float64):
        low, high = np.asarray(sobol.normal_quantiles(corners, np.dtype(dtype)))[0]
        assert np.isfinite(high) and low == -high and high > 5


def test_later_columns_belong_to_the_same_sequence():
    """Two calls fill the plane together, each of 32 x 32 squares once: the second has
    directions of its own."""

    def squares(column):
        drawn = [
            sobol_normals(key, 1024, first, 1, np.dtype(float))
            for key, first in ((jr.key(0), 0), (jr.key(1), column))
        ]
        plane = np.floor(32 * norm.cdf(np.hstack(drawn)))
        return len(np.unique(plane, axis=0))

    assert squares(column=1) == 1024 > squares(column=0)


def test_columns_beyond_the_table_are_independent_normals(monkeypatch):
    two = sobol._table()[:, :2]
    monkeypatch.setattr(sobol, "_table", lambda: two)
    columns = np.asarray(sobol_normals(jr.key(0), 256, 0, 4, np.dtype(float)))
    assert columns.shape == (256, 4)
    spread = [len(set((norm.cdf(c) * 256).astype(int))) for c in columns.T]
    assert spread[:2] == [256, 256] and max(spread[2:]) < 200


def test_orthogonal_rows():
    rows = np.asarray(Orthogonal().normals(jr.key(0), 10, 0, 4, np.dtype(float)))
    assert rows.shape == (10, 4)
    for block in (rows[:4], rows[4:8]):
        gram = block @ block.T
        assert np.abs(gram - np.diag(np.diag(gram))).max() < 1e-12
    # Lengths of normal vectors: a chi-square sum; five standard errors.
    many = np.asarray(Orthogonal().normals(jr.key(1), 4000, 0, 4, np.dtype(float)))
    assert abs((many**2).sum() - 16000) < 5 * np.sqrt(2 * 16000)


@functools.cache
def gram_error(kernel_name, basis_name, in_size):
    """RMS of phi phi^T - K over eight draws of 512 columns."""
    make = {"RBF": RBF, "Matern": functools.partial(Matern, 2.5)}[kernel_name]
    kernel = make(1.0, 0.4 * in_size**0.5)
    basis = {"iid": IID(), "sobol": Sobol(), "orthogonal": Orthogonal()}[basis_name]
    X = jnp.asarray(np.random.default_rng(in_size).random((60, in_size)))

    def square(key):
        phi = basis.features(key, kernel, 512, in_size)(X)
        return jnp.mean((phi @ phi.T - kernel(X, X)) ** 2)

    squares = jax.jit(lambda keys: jax.lax.map(square, keys))(jr.split(jr.key(0), 8))
    return float(jnp.sqrt(jnp.mean(squares)))


# Less than `python -m benchmarks.gram` shows, since there are fewer draws and columns.
GAINS = [("RBF", 2, 6), ("RBF", 8, 2), ("Matern", 2, 2), ("Matern", 8, 1.3)]


@pytest.mark.parametrize("kernel, in_size, gain", few_of(GAINS, ("Matern", 2, 2)))
def test_sobol_gains_over_chance(kernel, in_size, gain):
    iid = gram_error(kernel, "iid", in_size)
    assert gram_error(kernel, "sobol", in_size) < iid / gain


def test_orthogonal_gains_for_many_inputs():
    assert gram_error("RBF", "orthogonal", 8) < gram_error("RBF", "iid", 8) / 1.3


@pytest.mark.exhaustive
def test_a_mixing_variable_of_its_own_loses_the_gain(monkeypatch):
    """What BoTorch does: the gamma variable drawn apart from the sequence."""
    X = jnp.linspace(0, 1, 60)[:, None]
    kernel, fixed = Matern(2.5, 1.0, 0.4), matern.fixed_gamma

    def error(key):
        phi = Sobol().features(key, kernel, 512, 1)(X)
        return jnp.mean((phi @ phi.T - kernel(X, X)) ** 2)

    keys = jr.split(jr.key(0), 8)
    joint = np.mean([error(key) for key in keys])

    def apart(nu, z):
        return fixed(nu, jr.normal(jr.key(1), z.shape))

    monkeypatch.setattr(matern, "fixed_gamma", apart)
    assert np.mean([error(key) for key in keys]) > 4 * joint


@pytest.mark.exhaustive
@pytest.mark.parametrize("basis", ["sobol", "iid", "orthogonal", Sobol()])
def test_samplers_take_a_basis(basis):
    """The mean of many paths is the posterior's, whatever the basis; six standard
    errors at five points: a false alarm in 1e8 runs."""
    X = jnp.linspace(0, 1, 6)[:, None]
    posterior = GPPrior(Matern(1.5), X).condition(jnp.sin(6 * X[:, 0]), 0.05)
    sampler = PathwiseSampler(posterior, 64, basis)
    draws = sampler.sample_paths(jr.key(1), 2000)(X[:5] + 0.3)
    mean, _ = posterior.predict(X[:5] + 0.3)
    z = (draws.mean(axis=0) - mean) / (draws.std(axis=0) / np.sqrt(2000))
    assert np.abs(z).max() < 6


@pytest.mark.exhaustive
def test_a_basis_maps_over_keys_and_kernels():
    X = jnp.linspace(0, 1, 4)[:, None]

    def gram(key, scale):
        kernel = Matern(1.5, 1.0, scale) * Periodic(1.0, scale) + RBF()
        phi = Sobol().features(key, kernel, 64, 1)(X)
        return phi @ phi.T

    keys, scales = jr.split(jr.key(0), 3), jnp.array([0.5, 0.7, 0.9])
    mapped = jax.jit(jax.vmap(gram))(keys, scales)
    alone = jax.jit(gram)
    looped = [alone(key, scale) for key, scale in zip(keys, scales, strict=True)]
    np.testing.assert_allclose(mapped, jnp.stack(looped), atol=1e-12)


def test_columns_go_to_the_terms_in_equal_shares():
    three = RBF() + Matern(0.5) + RBF(name="other")
    phi: Any = IID().features(jr.key(0), three, 16, 1)
    masses = np.concatenate([part.masses for part in phi.maps])
    np.testing.assert_allclose(masses, [1 / 2] * 2 + [1 / 3] * 6)
