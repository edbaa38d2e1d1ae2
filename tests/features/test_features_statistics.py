"""Random features against the kernel, and nothing else.

A set of m frequencies estimates k(d) with a known error, so the gap between
phi phi^T and K must be of that size: no larger, however the kernel is made.
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from _moments import KINDS, NU, Stationary, fourier, strict_float64
from helpers import few_of

from pyrox.gp import (
    AbstractFeatures,
    AbstractKernel,
    ActiveDims,
    FourierFeatures,
    Matern,
    Periodic,
    Product,
    RationalQuadratic,
    Scale,
    SpectralMixture,
)
from pyrox.gp._features.maps import move_origin

FALSE_ALARM = 1e-6  # of this file, with frequencies that are right
LARGEST_RATIO = 1.5  # RMS error over RMS of its standard error
N_FEATURES = 8192
N_PAIRS = N_FEATURES // 2  # m, one frequency each
N_POINTS = 12
# One set of frequencies has few degrees of freedom (a smooth kernel's error at one
# displacement tells its error at the next), so squares are averaged over some sets:
# their number for each D that is tried.
N_SETS = {1: 72, 2: 64, 3: 32, 8: 24}
N_FEW = 4

Displacement = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Case:
    """A kernel and the sampling error of its features.

    Args:
        kernel: the library's.
        terms: stationary functions of the displacement that sum to it, in NumPy, each
            estimated by an equal share of the frequencies.
    """

    kernel: AbstractKernel
    terms: Sequence[Displacement]

    def of(self, d: np.ndarray) -> np.ndarray:
        return np.sum([term(d) for term in self.terms], axis=0)

    def error_cov(self, d: np.ndarray) -> np.ndarray:
        """The covariance of the errors at displacements `d`.

        cos(w d) cos(w d') = [cos(w (d + d')) + cos(w (d - d'))] / 2, so one frequency
        of a term k has the covariance k(0) [k(d + d') + k(d - d')] / 2 - k(d) k(d').
        """
        share = N_PAIRS / len(self.terms)
        total = np.zeros((len(d), len(d)))
        for k in self.terms:
            both = k(d[:, None] + d[None, :]) + k(d[:, None] - d[None, :])
            at_zero = k(np.zeros(d.shape[1]))
            total = total + (0.5 * at_zero * both - np.outer(k(d), k(d))) / share
        return total


def base(kind: str, in_size: int, variance: float = 1.3) -> Stationary:
    uneven = np.linspace(0.7, 1.3, in_size) if in_size > 1 else np.ones(1)
    return Stationary(kind, 0.4 * np.sqrt(in_size) * uneven, variance)


def other(kind: str, in_size: int) -> Stationary:
    """A second kernel, its lengthscales in the other order."""
    first = base(kind, in_size, 0.6)
    return dataclasses.replace(first, lengthscale=1.5 * first.lengthscale[::-1])


def stationary(kind: str) -> Callable[[int], Case]:
    def case(in_size):
        k = base(kind, in_size)
        return Case(k.library(), [k.of])

    return case


def sum_(in_size: int) -> Case:
    k1, k2 = base("Matern-3/2", in_size), other("RBF", in_size)
    return Case(k1.library() + k2.library(), [k1.of, k2.of])


def product(in_size: int) -> Case:
    k1, k2 = base("Matern-3/2", in_size), other("RBF", in_size)
    return Case(k1.library() * k2.library(), [lambda d: k1.of(d) * k2.of(d)])


def product_of_sums(in_size: int) -> Case:
    """(k1 + k2) (k3 + k4) is four products, each with a fourth of the frequencies."""
    left = base("Matern-5/2", in_size), other("RBF", in_size)
    right = other("Matern-1/2", in_size), base("Matern-3/2", in_size)
    terms = [lambda d, a=a, b=b: a.of(d) * b.of(d) for a in left for b in right]
    (a, b), (c, d) = ([k.library() for k in pair] for pair in (left, right))
    return Case((a + b) * (c + d), terms)


def scale(in_size: int) -> Case:
    k = base("Matern-5/2", in_size)
    factor = np.asarray(2.5)
    return Case(factor * k.library(), [lambda d: 2.5 * k.of(d)])


def active_dims(in_size: int) -> Case:
    seen = {1: (0,), 2: (1,), 3: (2, 0), 8: (7, 2, 4)}[in_size]
    k = base("Matern-3/2", len(seen))
    return Case(ActiveDims(k.library(), seen), [lambda d: k.of(d[..., seen])])


CASES = {kind: stationary(kind) for kind in KINDS} | {
    "Sum": sum_,
    "Product": product,
    "Product of sums": product_of_sums,
    "Scale": scale,
    "ActiveDims": active_dims,
}
IN_SIZES = tuple(N_SETS)
ALL: list[tuple[str, int]] = list(itertools.product(CASES, IN_SIZES))


def rational(in_size: int) -> Case:
    ells = base("RBF", in_size).lengthscale

    def of(d):
        return 1.3 * (1 + np.sum((d / ells) ** 2, -1) / 1.4) ** -0.7

    return Case(RationalQuadratic(1.3, ells, 0.7), [of])


def mostly_constant(in_size: int) -> Case:
    """Of small alpha: half of the mixing variables are below 1e-17."""
    ells = base("RBF", in_size).lengthscale

    def of(d):
        return 1.3 * (1 + np.sum((d / ells) ** 2, -1) / 0.04) ** -0.02

    return Case(RationalQuadratic(1.3, ells, 0.02), [of])


def smoother(in_size: int) -> Case:
    ells = base("RBF", in_size).lengthscale

    def of(d):
        z = np.sqrt(7 * np.sum((d / ells) ** 2, -1))
        return 1.3 * (1 + z + 0.4 * z**2 + z**3 / 15) * np.exp(-z)

    return Case(Matern(3.5, 1.3, ells), [of])


def mixture(in_size: int) -> Case:
    means = np.linspace(0, 1, 2 * in_size).reshape(2, in_size)
    scales = np.full((2, in_size), 0.3)

    def mode(weight, mean, scale):
        def of(d):
            spread = np.exp(-2 * np.pi**2 * np.sum((scale * d) ** 2, -1))
            return weight * spread * np.cos(2 * np.pi * d @ mean)

        return of

    terms = [mode(*m) for m in zip((1.0, 0.5), means, scales, strict=True)]
    return Case(SpectralMixture(np.array([1.0, 0.5]), means, scales), terms)


def locally_periodic(in_size: int) -> Case:
    k = base("Matern-5/2", in_size)

    def of(d):
        waves = np.sum(np.sin(np.pi * d / 0.7) ** 2, -1)
        return k.of(d) * np.exp(-2 * waves / 0.8**2)

    return Case(k.library() * Periodic(1.0, 0.8, 0.7), [of])


MORE = {
    "RationalQuadratic": rational,
    "Matern-7/2": smoother,
    "SpectralMixture": mixture,
    "Locally periodic": locally_periodic,
}
CASES |= MORE
ALL += itertools.product(MORE, (1, 3))
CASES["RationalQuadratic of small alpha"] = mostly_constant
ALL.append(("RationalQuadratic of small alpha", 1))
EVERY_IN_SIZE = pytest.mark.parametrize("in_size", IN_SIZES)


@pytest.fixture(autouse=True)
def _strict():
    with strict_float64():
        yield


@dataclasses.dataclass(frozen=True)
class Draw:
    """A case and independent sets of its features, stacked."""

    name: str
    in_size: int
    case: Case
    features: AbstractFeatures


def draw(name: str, in_size: int) -> Draw:
    case = CASES[name](in_size)
    keys = jr.split(jr.key(ALL.index((name, in_size))), N_SETS[in_size])
    # Not under one jit: the cases share the compiled steps of an uncompiled call.
    features = jax.vmap(lambda key: case.kernel.features(key, N_FEATURES, in_size))
    return Draw(name, in_size, case, features(keys))


@pytest.fixture(
    scope="module",
    params=few_of(ALL, ("RBF", 1), ("Matern-3/2", 3), whole=True),
    ids=lambda param: "{}-{}".format(*param),
)
def drawn(request):
    with strict_float64():
        return draw(*request.param)


@pytest.fixture(scope="module")
def figures():
    """The ratios, printed at the end as a table by `pytest -s`."""
    ratios: dict[tuple[str, int], float] = {}
    yield ratios
    print("\nRMS of phi phi^T - K over its standard error, 8192 features")
    print(f"{'D':16s}" + "".join(f"{d:7d}" for d in IN_SIZES))
    for name in CASES:
        row = "".join(f"{ratios.get((name, d), np.nan):7.3f}" for d in IN_SIZES)
        print(f"{name:16s}{row}")


def points(in_size: int) -> np.ndarray:
    return np.random.default_rng(in_size).random((N_POINTS, in_size))


def displacements(X: np.ndarray) -> np.ndarray:
    i, j = np.triu_indices(len(X), 1)
    return X[i] - X[j]


@jax.jit
def _grams(features: AbstractFeatures, X: jax.Array) -> jax.Array:
    def gram(phi):
        return phi(X) @ phi(X).T

    return jax.lax.map(gram, features)


def ratio(features: AbstractFeatures, case: Case, in_size: int) -> float:
    """RMS error of the features' Gram matrices, in units of its standard error."""
    X = points(in_size)
    i, j = np.triu_indices(N_POINTS, 1)
    gaps = np.asarray(_grams(features, jnp.asarray(X)))[:, i, j]
    gaps = gaps - case.of(displacements(X))
    expected = np.mean(np.diag(case.error_cov(displacements(X))))
    return float(np.sqrt(np.mean(gaps**2) / expected))


def test_features_reproduce_the_kernel(drawn, figures):
    found = ratio(drawn.features, drawn.case, drawn.in_size)
    figures[drawn.name, drawn.in_size] = found
    assert found < LARGEST_RATIO


def few(features: AbstractFeatures) -> AbstractFeatures:
    """Some of the sets: a twin that is wrong shows in any."""
    return jax.tree.map(lambda leaf: leaf[:N_FEW], features)


def chance_above(limit: float, cov: np.ndarray, n_sets: int) -> float:
    """A bound on the chance that right features have a ratio above `limit`.

    With eigenvalues l of the errors' covariance, normalised to sum to one, the squared
    ratio is the mean over the sets of sum(l z^2), z ~ N(0, I). Chernoff: the chance is
    at most [exp(-s limit^2) prod (1 - 2 s l)^(-1/2)]^n_sets for each s.
    """
    spectrum = np.maximum(np.linalg.eigvalsh(cov / np.trace(cov)), 0)
    s = np.linspace(0.01, 0.99, 99)[:, None] / (2 * spectrum.max())
    exponent = -s[:, 0] * limit**2 - 0.5 * np.log1p(-2 * s * spectrum).sum(axis=1)
    return float(np.exp(n_sets * exponent.min()))


def test_the_limit_has_the_false_alarm_rate_that_is_stated():
    chances = [
        chance_above(LARGEST_RATIO, CASES[name](d).error_cov(gaps), N_SETS[d])
        for name, d in ALL
        for gaps in [displacements(points(d))]
    ]
    print(f"\nfalse alarms, all {len(chances)} cases: at most {sum(chances):.1e}")
    assert sum(chances) < FALSE_ALARM


def test_a_lengthscale_off_by_a_fifth_is_noticed(drawn):
    def stretched(phi):
        return FourierFeatures(1.2 * phi.frequencies, phi.masses, phi.origin)

    wrong = jax.tree.map(
        stretched,
        few(drawn.features),
        is_leaf=lambda node: isinstance(node, FourierFeatures),
    )
    assert ratio(wrong, drawn.case, drawn.in_size) > LARGEST_RATIO


def coordinatewise(k: Stationary, in_size: int, n_sets: int) -> FourierFeatures:
    """The Matern mistake: a Student-t for each coordinate of a frequency by itself."""
    rng, shape = np.random.default_rng(5), (n_sets, N_PAIRS, in_size)
    mixing = rng.gamma(NU[k.kind], 1 / NU[k.kind], shape)
    return FourierFeatures(
        jnp.asarray(rng.normal(size=shape) / np.sqrt(mixing) / k.lengthscale),
        jnp.full((n_sets, N_PAIRS), k.variance / N_PAIRS),
        jnp.zeros((n_sets, in_size)),
    )


@pytest.mark.parametrize("in_size", [d for d in IN_SIZES if d > 1])
@pytest.mark.parametrize("kind", NU)
def test_coordinatewise_student_t_is_noticed(kind, in_size):
    case = CASES[kind](in_size)
    wrong = coordinatewise(base(kind, in_size), in_size, N_FEW)
    assert ratio(wrong, case, in_size) > LARGEST_RATIO


@pytest.mark.parametrize("kind", NU)
def test_coordinatewise_student_t_is_the_same_in_one_dimension(kind):
    # The control: what fails above is the dependence between coordinates only.
    same = coordinatewise(base(kind, 1), 1, N_SETS[1])
    assert ratio(same, CASES[kind](1), 1) < LARGEST_RATIO


@pytest.mark.parametrize("in_size", few_of(IN_SIZES))
def test_a_product_without_its_cross_terms_is_noticed(in_size, monkeypatch):
    def side_by_side(self):
        pairs = zip(self.left.terms(), self.right.terms(), strict=True)
        return tuple((Scale(a, 2.0), b) for (a,), (b,) in pairs)

    monkeypatch.setattr(Product, "terms", side_by_side)
    wrong = draw("Product of sums", in_size)
    assert ratio(few(wrong.features), wrong.case, in_size) > LARGEST_RATIO


ROUNDING = 1e-12


def variance_error(phi: np.ndarray, variance: float) -> float:
    return float(np.abs(np.sum(phi**2, axis=1) / variance - 1).max())


@EVERY_IN_SIZE
@pytest.mark.parametrize("kind", KINDS)
def test_the_variance_is_exact_at_every_point(kind, in_size):
    k, X = base(kind, in_size), points(in_size)
    phi = k.library().features(jr.key(2), 64, in_size)
    assert variance_error(np.asarray(phi(jnp.asarray(X))), k.variance) < ROUNDING


@EVERY_IN_SIZE
@pytest.mark.parametrize("kind", KINDS)
def test_a_cosine_with_a_random_phase_is_noticed(kind, in_size):
    k, X = base(kind, in_size), points(in_size)
    phi = k.library().features(jr.key(2), 64, in_size)
    phase = np.random.default_rng(0).uniform(0, 2 * np.pi, 32)
    assert isinstance(phi, FourierFeatures)
    angles = X @ np.asarray(phi.frequencies).T + phase
    cosines = np.sqrt(2 * k.variance / 32) * np.cos(angles)
    assert variance_error(cosines, k.variance) > ROUNDING


def test_the_numpy_features_are_the_librarys():
    # The references of the other files are built from drawn fields by `fourier`.
    phi = base("Matern-3/2", 3).library().features(jr.key(2), 64, 3)
    moved = move_origin(phi, jnp.full((3,), 0.4))
    X = points(3)
    for features in (phi, moved):
        np.testing.assert_allclose(
            np.asarray(features(jnp.asarray(X))), fourier(features, X), atol=1e-13
        )
