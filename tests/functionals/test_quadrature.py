"""Integrals of posteriors and paths: against adaptive quadrature and each other."""

# Wrong arguments are passed on purpose.
# pyright: reportArgumentType=false

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import central_difference, few_of
from scipy import integrate, stats

from pyrox.gp import (
    RBF,
    ActiveDims,
    Constant,
    ConstantMean,
    Derivatives,
    GaussianMeasure,
    GPPrior,
    LebesgueMeasure,
    Linear,
    Matern,
    PathwiseSampler,
    Periodic,
    White,
    bayesian_quadrature,
    integrate_paths,
    laplacian,
    line_integrals,
)

pytestmark = pytest.mark.usefixtures("plainly_compiled")

ONE = {
    "RBF": RBF(1.3, 0.4),
    "Matern12": Matern(0.5, 1.3, 0.6),
    "Matern32": Matern(1.5, 1.3, 0.6),
    "Matern52": Matern(2.5, 1.3, 0.6),
    "sum": 2.0 * RBF(0.5, 0.3) + Matern(1.5) + Linear(0.3) + Constant(0.4),
}
TWO = {
    "RBF": RBF(1.3, jnp.array([0.4, 0.9])),
    "Matern12": Matern(0.5, 1.3, 0.6),
    "Matern52": Matern(2.5, 1.3, jnp.array([0.6, 0.9])),
    "product": ActiveDims(Matern(0.5, 1.1, 0.7), (0,)) * ActiveDims(RBF(1.3), (1,))
    + 0.5 * ActiveDims(Matern(2.5, 1.3, 0.5), (1,)),
}
BOX1, BOX2 = np.array([[-0.3], [1.7]]), np.array([[-0.2, 0.1], [1.0, 0.8]])


def double(kernel):
    return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf, np.float64)), kernel)


def posterior(kernel, in_size=1, mean_fn=None, n=7, **options):
    X = np.random.default_rng(3).uniform(-0.2, 1.6, (n, in_size))
    y = np.sin(3 * X[:, 0]) + X[:, -1]
    return GPPrior(kernel, X, mean_fn).condition(y, 1e-2, **options)


def measures(in_size):
    if in_size == 1:
        return {"box": LebesgueMeasure(BOX1), "normal": GaussianMeasure([0.6], [0.16])}
    return {
        "box": LebesgueMeasure(BOX2),
        "normal": GaussianMeasure([0.6, 0.3], [0.16, 0.09]),
        "full": GaussianMeasure([0.6, 0.3], np.array([[0.16, 0.08], [0.08, 0.09]])),
    }


def by_rule(f, measure, cuts, n=60):
    """The integral of f (K, D) -> (K,) by Gauss-Legendre between `cuts`, where a kernel
    has kinks, of a box or of a normal density on eight deviations; in NumPy."""
    low, high = np.asarray(measure.extent)
    gaussian = isinstance(measure, GaussianMeasure)
    if gaussian:
        middle = (low + high) / 2
        low, high = middle + (low - middle) * 8 / 6, middle + (high - middle) * 8 / 6
    points, weights = np.polynomial.legendre.leggauss(n)
    axes = []
    for d in range(len(low)):
        inner = cuts[:, d][(cuts[:, d] > low[d]) & (cuts[:, d] < high[d])]
        if gaussian:
            inner = np.r_[inner, np.linspace(low[d], high[d], 5)[1:-1]]
        edges = np.sort(np.r_[low[d], inner, high[d]])
        half = np.diff(edges)[:, None] / 2
        axes.append(
            ((edges[:-1, None] + half * (points + 1)).ravel(), (half * weights).ravel())
        )
    grid = np.stack(np.meshgrid(*[a for a, _ in axes], indexing="ij"), -1)
    X = grid.reshape(-1, len(low))
    w = np.ones(())
    for _, each in axes:
        w = np.multiply.outer(w, each)
    w = w.ravel()
    if gaussian:
        cov = np.asarray(measure.cov)
        cov = np.diag(cov) if cov.ndim == 1 else cov
        w = w * stats.multivariate_normal(np.asarray(measure.mean), cov).pdf(X)
    return w @ f(X)


@pytest.mark.parametrize("over", ["box", "normal"])
@pytest.mark.parametrize("name", few_of(ONE, "RBF", "Matern12", "Matern52"))
def test_the_mean_is_that_of_adaptive_quadrature(name, over, x64):
    f = posterior(double(ONE[name]))
    measure = measures(1)[over]
    found = bayesian_quadrature(f, measure)
    low, high = np.asarray(measure.extent).ravel()
    if over == "normal":
        low, high = low - 1.2, high + 1.2
    edges = np.sort(np.r_[low, np.linspace(low, high, 6)[1:-1], f.X[:, 0], high])
    edges = edges[(edges >= low) & (edges <= high)]
    mean = jax.jit(lambda x: f.predict_mean(x[None, None])[0])

    def density(x):
        return 1.0 if over == "box" else stats.norm.pdf(x, 0.6, 0.4)

    total = sum(
        integrate.quad(lambda x: float(mean(x)) * density(x), a, b, epsabs=1e-11)[0]
        for a, b in zip(edges, edges[1:], strict=False)
    )
    assert abs(float(found.mean) - total) < 1e-8


@pytest.mark.parametrize("over", ["box", "normal"])
@pytest.mark.parametrize("name", few_of(ONE, "RBF", "Matern12"))
def test_the_variance_is_the_double_integral_of_the_covariance(name, over, x64):
    """Of the prior in closed dimension one: k of one argument is integrated between the
    kinks at the other; the data enter by the same embedding."""
    kernel, measure = double(ONE[name]), measures(1)[over]
    gram = jax.jit(lambda x, X: kernel(x, X))

    def embedded(X):
        def one(x):
            return by_rule(
                lambda Z: np.asarray(gram(x[None], jnp.asarray(Z)))[0],
                measure,
                x[None],
            )

        return np.array([one(x) for x in np.asarray(X)])

    f = posterior(kernel)
    once = embedded(f.X)
    K = np.asarray(kernel(f.X, f.X)) + (1e-2 + float(f.jitter_var)) * np.eye(7)
    twice = by_rule(embedded, measure, np.zeros((0, 1)), 40)
    wanted = twice - once @ np.linalg.solve(K, once)
    found = bayesian_quadrature(f, measure)
    # The double integral has a kink of its own for Matern-1/2 at the corners only.
    np.testing.assert_allclose(float(found.var), wanted, rtol=0, atol=1e-9)
    np.testing.assert_allclose(float(found.std) ** 2, wanted, rtol=0, atol=1e-9)


def test_a_matern_of_one_input_over_a_box_is_its_closed_form(x64):
    """exp(-r): the two integrals by hand."""
    kernel, width = Matern(0.5, 1.0, 1.0), 2.0
    measure = LebesgueMeasure([[0.0], [width]])
    X = jnp.linspace(-1, 3, 9)[:, None]
    once, twice = kernel.integrals(X, measure)
    x = np.asarray(X[:, 0])
    signed = [np.sign(t) * -np.expm1(-abs(t)) for t in (width - x, -x)]
    np.testing.assert_allclose(once * width, signed[0] - signed[1], atol=1e-14)
    np.testing.assert_allclose(twice, 2 * (width + np.expm1(-width)) / width**2, 1e-13)


@pytest.mark.parametrize("over", ["box", "normal", "full"])
@pytest.mark.parametrize("name", few_of(TWO, "RBF", "Matern52"))
def test_two_inputs_against_a_product_rule(name, over, x64):
    kernel = double(TWO[name])
    if name == "product" and over == "full":
        with pytest.raises(ValueError, match="inputs are independent"):
            bayesian_quadrature(posterior(kernel, 2), measures(2)[over])
        return
    f, measure = posterior(kernel, 2, n=4), measures(2)[over]
    found = bayesian_quadrature(f, measure)
    wanted = by_rule(
        lambda X: np.asarray(f.predict_mean(X)), measure, np.asarray(f.X), 40
    )
    # A radial Matern has a kink at a point, where a product rule is slow.
    rough = {"Matern12": 2e-4, "Matern52": 1e-8}.get(name, 1e-9)
    assert abs(float(found.mean) - wanted) < rough


@pytest.mark.parametrize("name", ["mean", "module", "constant"])
def test_the_prior_mean_counts(name, x64):
    mean_fn = {
        "mean": lambda X: jnp.cos(X[:, 0]),
        "module": ConstantMean(2.0),
        "constant": None,
    }[name]
    f = posterior(double(ONE["RBF"]), mean_fn=mean_fn)
    found = bayesian_quadrature(f, LebesgueMeasure(BOX1))
    low, high = BOX1[:, 0]
    wanted, _ = integrate.quad(lambda x: float(f.predict_mean([[x]])[0]), low, high)
    assert abs(float(found.mean) - wanted) < 1e-8


@pytest.mark.exhaustive
def test_derivatives_and_rows_not_observed_count(x64):
    kernel = double(ONE["RBF"])
    slopes = Derivatives(np.array([[0.4], [1.2]]), 0, np.array([1.0, -1.0]), 0.1)
    f = posterior(kernel, derivatives=slopes, observed=np.arange(7) != 2)
    found = bayesian_quadrature(f, LebesgueMeasure(BOX1))
    wanted = by_rule(
        lambda X: np.asarray(f.predict_mean(X)), LebesgueMeasure(BOX1), np.zeros((0, 1))
    )
    assert abs(float(found.mean) - wanted) < 1e-10
    points, weights = LebesgueMeasure(BOX1).nodes(40)
    var = 4 * weights @ f.predict_cov(points) @ weights
    assert abs(float(found.var) - float(var)) < 1e-10


def test_narrow_boxes_keep_their_digits():
    """In float32, a thousandth of a lengthscale wide: the mean over the box is the
    kernel at its centre."""
    X = jnp.linspace(-2, 2, 9)[:, None]
    measure = LebesgueMeasure(jnp.array([[0.5], [0.5005]]))
    for kernel in (RBF(1.0, 1.0), Matern(2.5, 1.0, 1.0)):
        once, twice = kernel.integrals(X, measure)
        assert once.dtype == jnp.float32
        centre = kernel(X, jnp.array([[0.50025]]))[:, 0]
        np.testing.assert_allclose(once, centre, atol=3e-6)
        np.testing.assert_allclose(twice, 1, atol=3e-6)


@pytest.mark.parametrize("over", ["box", "normal"])
@pytest.mark.parametrize("name", few_of(["RBF", "Matern12", "sum"], "RBF"))
def test_paths_have_the_integrals_of_their_values(name, over, x64):
    f = posterior(double(ONE[name]), mean_fn=lambda X: X[:, 0] ** 2)
    kernel = f.kernel if name != "sum" else 2.0 * RBF(0.5, 0.3) + Matern(1.5)
    f = posterior(double(kernel), mean_fn=lambda X: X[:, 0] ** 2)
    paths = PathwiseSampler(f, 64, "sobol").sample_paths(jax.random.key(0), 3)
    measure = measures(1)[over]
    wanted = by_rule(lambda X: np.asarray(paths(X)).T, measure, np.asarray(f.X), 100)
    np.testing.assert_allclose(integrate_paths(paths, measure), wanted, atol=1e-9)
    if name == "RBF":
        near = integrate_paths(paths, measure, n_nodes=48)
        np.testing.assert_allclose(near, wanted, atol=1e-8)


def within(samples, found, sds=4.0):
    """Whether mean and variance of normal samples are those found, by this many
    standard errors: a false alarm in 8,000 for each at four."""
    n = len(samples)
    mean_z = abs(samples.mean() - float(found.mean)) / np.sqrt(float(found.var) / n)
    ratio = samples.var(ddof=1) / float(found.var)
    return mean_z < sds, abs(ratio - 1) < sds * np.sqrt(2 / (n - 1))


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", few_of(["RBF", "Matern32"], "RBF"))
def test_path_integrals_spread_as_the_closed_variance_says(name, x64):
    f, measure = posterior(double(ONE[name]), n=3), LebesgueMeasure(BOX1)
    found = bayesian_quadrature(f, measure)
    paths = PathwiseSampler(f, 1024).sample_paths(jax.random.key(1), 4000)
    samples = np.asarray(integrate_paths(paths, measure))
    assert all(within(samples, found))
    # The twin that must fail: the prior's variance, and a mean that is off by a tenth.
    assert not within(1.1 * (samples - samples.mean()), found)[1]
    assert not within(samples + 0.1 * float(found.std), found)[0]


@pytest.mark.exhaustive
def test_lines_and_the_laplacian_of_paths(x64):
    f = posterior(double(TWO["RBF"]), 2)
    paths = PathwiseSampler(f, 64, "sobol").sample_paths(jax.random.key(0), 2)
    vertices = np.array([[0.0, 0.0], [1.0, 0.5], [0.2, 0.9]])

    def edge(a, b):
        def speed(t):
            return np.asarray(paths((a + t * (b - a))[None]))[:, 0]

        return integrate.quad_vec(speed, 0, 1)[0] * np.linalg.norm(b - a)

    wanted = edge(vertices[0], vertices[1]) + edge(vertices[1], vertices[2])
    np.testing.assert_allclose(line_integrals(paths, vertices), wanted, atol=1e-10)
    trace = jnp.trace(paths.hessian(vertices), axis1=2, axis2=3)
    np.testing.assert_allclose(laplacian(paths, vertices), trace, rtol=1e-9, atol=1e-9)


@pytest.mark.exhaustive
def test_derivatives_by_the_bounds_and_under_transforms(x64):
    f = posterior(double(ONE["Matern32"]))

    def value(bounds):
        return bayesian_quadrature(f, LebesgueMeasure(bounds)).mean

    gradient = jax.jit(jax.grad(value))(jnp.asarray(BOX1))
    ends = np.asarray(f.predict_mean(BOX1))
    np.testing.assert_allclose(gradient[:, 0], [-ends[0], ends[1]], atol=1e-9)
    many = jax.vmap(value)(jnp.stack([BOX1, BOX1 + 0.1]))
    np.testing.assert_allclose(many[0], value(BOX1), atol=1e-12)

    def of_lengthscale(ell):
        g = posterior(Matern(1.5, 1.3, ell))
        return bayesian_quadrature(g, LebesgueMeasure(BOX1)).var

    slope = jax.grad(of_lengthscale)(0.6)
    np.testing.assert_allclose(slope, central_difference(of_lengthscale, 0.6), 1e-5)


@pytest.mark.exhaustive
def test_float32_in_float32_out():
    f = posterior(RBF(1.3, 0.4))
    f = GPPrior(RBF(1.3, 0.4), f.X.astype(jnp.float32)).condition(f.y, 1e-2)
    measure = LebesgueMeasure(jnp.asarray(BOX1, jnp.float32))
    found = bayesian_quadrature(f, measure)
    paths = PathwiseSampler(f, 64).sample_paths(jax.random.key(0), 3)
    assert found.mean.dtype == found.var.dtype == jnp.float32
    assert integrate_paths(paths, measure).dtype == jnp.float32
    # Noise gives nothing to an integral.
    with_white = GPPrior(f.kernel + White(0.1), f.X).condition(f.y, 1e-2)
    alike = GPPrior(f.kernel, f.X).condition(f.y, 0.11)
    gap = bayesian_quadrature(with_white, measure).mean
    np.testing.assert_allclose(gap, bayesian_quadrature(alike, measure).mean, atol=1e-4)


@pytest.mark.exhaustive
def test_what_has_no_closed_form_says_so():
    over = LebesgueMeasure(BOX1)
    with pytest.raises(ValueError, match="`Periodic` has no integrals"):
        bayesian_quadrature(posterior(Periodic()), over)
    with pytest.raises(ValueError, match="see the same inputs"):
        bayesian_quadrature(posterior(RBF() * Matern()), over)
    with pytest.raises(ValueError, match="must be a ConditionedGP"):
        bayesian_quadrature(RBF(), over)
    with pytest.raises(ValueError, match="must be of D=1 inputs"):
        bayesian_quadrature(posterior(RBF()), LebesgueMeasure(BOX2))
    with pytest.raises(ValueError, match="must be a measure"):
        bayesian_quadrature(posterior(RBF()), BOX1)
    with pytest.raises(ValueError, match="below the upper one"):
        LebesgueMeasure(BOX1[::-1])
    with pytest.raises(ValueError, match="positive definite"):
        GaussianMeasure([0.0, 0.0], [[1.0, 2.0], [2.0, 1.0]])
    with pytest.raises(ValueError, match="positive variances"):
        GaussianMeasure([0.0], [-1.0])
    paths = PathwiseSampler(posterior(RBF()), 64).sample_paths(jax.random.key(0), 2)
    with pytest.raises(ValueError, match="within the domain"):
        integrate_paths(paths, LebesgueMeasure([[-99.0], [99.0]]))
    with pytest.raises(ValueError, match="K of at least two"):
        line_integrals(paths, [[0.0]])
