"""Where a fit starts: the same optimum in whatever units, and a word where there is
nothing to find."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro.distributions as dist
import pytest
from helpers import few_of
from numpyro.distributions import constraints
from scipy import optimize, stats

from pyrox.gp import (
    RBF,
    AbstractKernel,
    ActiveDims,
    Cosine,
    GPPrior,
    Linear,
    Matern,
    Periodic,
    Polynomial,
    RationalQuadratic,
    SpectralMixture,
    hyperparameter,
)
from pyrox.gp import fit as public_fit
from pyrox.gp._hyper.scales import Scales, at_scales
from pyrox.gp._inference.fit_input import as_problem
from pyrox.gp._inference.noise_alone import beside_noise
from pyrox.gp._inference.starts import at_data, drawn_at_data
from pyrox.gp._inference.trained import from_vector, objective

pytestmark = pytest.mark.usefixtures("plainly_compiled")

RNG = np.random.default_rng(0)
N = 24
U = RNG.uniform(size=(N, 2))
Y = np.sin(9 * U[:, 0]) * (1 + U[:, 1]) + 0.1 * RNG.normal(size=N)
fit: Any = functools.partial(public_fit, progress=False)


class Own(AbstractKernel):
    """A user's kernel, around another one, that says of what size it is."""

    inner: AbstractKernel
    variance: Any = hyperparameter(constraints.positive, scale="output^2")
    width: Any = hyperparameter(
        "positive", scale=lambda k, data: 2 * data.inputs[0] + 0 * k.variance
    )

    def __call__(self, X1, X2):
        gap = (X1[:, None, 0] - X2[None, :, 0]) / self.width
        return self.variance / (1 + gap**2) + self.inner(X1, X2)

    def diag(self, X):
        return self.variance + self.inner.diag(X)


def kernels() -> dict:
    """At their defaults, whatever the inputs are."""
    ones = np.ones(2)
    return {
        "RBF": RBF(1.0, ones),
        "Matern": Matern(1.5, 1.0, ones),
        "sum": ActiveDims(RBF(), (0,)) + ActiveDims(Linear(), (1,)),
        "product": 2.0 * ActiveDims(RBF(name="a"), (0,)) * ActiveDims(RBF(), (1,)),
        "periodic": ActiveDims(Periodic(), (0,)) + ActiveDims(Cosine(), (1,)),
        "mixture": SpectralMixture(np.ones(2), np.ones((2, 2)), np.ones((2, 2))),
        "own": Own(Matern(2.5, 1.0, ones), 1.0, 1.0),
        "one offset": Polynomial(2),
        "one length": RBF() + RBF(name="other"),
    }


UNITS = {"large": (1e6, 1e6), "small": (1e-6, 1e-6), "both": (1e-6, 1e6)}
CASES = [
    (name, units)
    for name in kernels()
    for units in UNITS
    if units != "both" or not name.startswith("one ")
]
# Their densities have many optima, of which rounding or the first start picks one.
MANY_OPTIMA = "mixture", "one offset"
SURE = [case for case in CASES if case[0] not in MANY_OPTIMA]


@pytest.mark.parametrize(("name", "units"), few_of(SURE))
def test_units_of_the_inputs_do_not_matter(x64, name, units):
    """From values that are right for inputs in [0, 1], whatever the inputs, the optimum
    that the start at the data leads to there."""
    kernel, scales = kernels()[name], np.array(UNITS[units])
    options = {"tolerance": 1e-6, "max_steps": 400}
    both = fit(GPPrior(kernel, U), Y, 0.1, n_starts=2, key=jr.key(0), **options)
    found = fit(GPPrior(kernel, scales * U), Y, 0.1, **options)
    at_data = float(both.starts.log_density[1])
    assert abs(float(found.starts.log_density[1]) - at_data) < 1e-6 * N
    assert not found.only_noise and "BEYOND NOISE" not in str(found)
    assert float(found.log_density) > float(found.noise_log_density) + 5


@pytest.mark.exhaustive
@pytest.mark.parametrize("units", UNITS)
@pytest.mark.filterwarnings("ignore:`fit` has not converged")
def test_the_default_is_no_lower_than_the_trials(x64, units):
    """All that holds where there are many optima."""
    for name in MANY_OPTIMA:
        if (name, units) in CASES:
            prior = GPPrior(kernels()[name], np.array(UNITS[units]) * U)
            problem = as_problem(prior, Y, 0.1, None, (), None)
            trials = jax.lax.map(
                functools.partial(objective, problem), at_data(problem, None)
            )
            found = fit(prior, Y, 0.1)
            assert float(found.log_density) > -N * float(jnp.nanmin(trials))


@pytest.mark.exhaustive
@pytest.mark.parametrize("scale", [1e6, 1e-6, 1e3, 1e-3])
def test_one_start_is_not_enough(x64, scale):
    """The twin: without the start at the data it is all noise, where the inputs are a
    million times too large or too small, and the report says so.

    The optimum itself is that of the inputs in [0, 1] from values that suit them."""
    column = U[:, :1]
    y = np.sin(9 * column[:, 0])
    expected = fit(GPPrior(RBF(1.0, 0.3), column), y, 0.1, tolerance=1e-7)
    prior = GPPrior(RBF(), scale * column)
    found = fit(prior, y, 0.1, tolerance=1e-7)
    assert abs(float(found.log_density - expected.log_density)) < 1e-6 * N
    ratio = found.prior.kernel.lengthscale / expected.prior.kernel.lengthscale
    np.testing.assert_allclose(ratio / scale, 1.0, rtol=1e-4)
    if scale in (1e6, 1e-6):
        alone = fit(prior, y, 0.1, n_starts=1)
        assert alone.log_density < expected.log_density - 10
        assert alone.only_noise and "NOTHING BEYOND NOISE" in str(alone)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", list(kernels()))
def test_starts_scale_with_the_data(x64, name):
    """Of scaled inputs and values the start is the same start, scaled: its covariance
    is that of the others times the square of the scale of y."""

    def start(units, size):
        prior = GPPrior(kernels()[name], units * U)
        problem = as_problem(prior, size * Y, 0.1, None, (), None)
        scaled, noise_var = from_vector(problem, drawn_at_data(problem, jr.key(3), 2))
        return scaled.kernel(scaled.X, scaled.X) / size**2, noise_var / size**2

    gram, noise_var = start(np.ones(2), 1.0)
    assert 0.01 < float(noise_var) < 10
    for units, size in [((1e6, 1e6), 1e6), ((1e-6, 1e-6), 1e-6), ((1e-6, 1e6), 1e3)]:
        if units[0] != units[1] and name.startswith("one "):
            continue
        again, again_noise = start(np.array(units), size)
        np.testing.assert_allclose(again, gram, rtol=1e-8, atol=1e-9)
        np.testing.assert_allclose(again_noise, noise_var, rtol=1e-9)


def test_a_kernel_at_the_scales_of_data():
    """By hand; what says nothing of its size stays, and terms do not start alike."""
    data = Scales(jnp.array([3.0, 4.0]), jnp.asarray(8.0))
    rbf = at_scales(RBF(), data)
    assert rbf.lengthscale == 5.0 and rbf.variance == 8.0
    each = at_scales(RBF(1.0, np.ones(2)), data).lengthscale
    np.testing.assert_allclose(each, np.sqrt(2) * np.array([3, 4]), rtol=1e-6)
    only: Any = at_scales(ActiveDims(RBF(), (1,)), data)
    assert only.kernel.lengthscale == 4.0
    scaled: Any = at_scales(3.0 * RBF(), data)
    assert scaled.factor == 8.0 and scaled.kernel.variance == 1.0
    total: Any = at_scales(RBF() + RBF() + RBF(), data)
    lengths = [total.left.left, total.left.right, total.right]
    assert len({float(kernel.lengthscale) for kernel in lengths}) == 3
    np.testing.assert_allclose(total.diag(jnp.zeros((1, 2))), 8.0, rtol=1e-6)
    bend: Any = at_scales(RationalQuadratic(1.0, 1.0, 0.7), data)
    assert bend.lengthscale == 5.0 and bend.alpha == np.float32(0.7)
    with pytest.raises(ValueError, match="must be one of .*'input'.* Got 'metres'"):
        hyperparameter("positive", scale="metres")


def noise_alone(residual, variance) -> float:
    return float(np.sum(stats.norm.logpdf(residual, scale=np.sqrt(variance))))


def test_what_noise_alone_says(x64):
    """Against SciPy: noise of any size, noise that stays, and noise that is known but
    may grow. A kernel without width is noise, one without end is a level."""
    noise = RNG.normal(size=N)
    known = np.linspace(0.1, 0.3, N)
    best: Any = optimize.minimize_scalar(
        lambda extra: -noise_alone(noise, known + extra), (0.0, 1.0), tol=1e-12
    )
    square = np.mean(noise**2)
    for kernel, noise_var, is_fixed, expected in [
        (RBF(1e-3, 1e-3), square, False, noise_alone(noise, square)),
        (RBF(1e-3, 1e-3), 3.0, True, noise_alone(noise, 3.0)),
        (RBF(best.x, 1e-3), known, True, -best.fun),
    ]:
        found = beside_noise(GPPrior(kernel, U).condition(noise, noise_var), is_fixed)
        assert found.is_noise and abs(float(found.alone) - expected) < 1e-4 * N
    level = GPPrior(RBF(2500.0, 1e6), U)
    found = beside_noise(level.condition(50 + noise, 1.0), False)
    assert found.is_noise and found.likelihood > found.alone + 50
    # The twin: half the noise's deviation, but a function.
    wave = noise + np.sin(9 * U[:, 0])
    assert not beside_noise(GPPrior(RBF(1.0, 0.2), U).condition(wave, 1.0), True)[2]


COLUMN = U[:, :1]
CORNERS = {
    "constant": (COLUMN, np.full(N, 5.0)),
    "zero": (COLUMN, np.zeros(N)),
    "one datum": (COLUMN[:1], np.ones(1)),
    "same inputs": (np.full((N, 1), 0.1), Y),
}


@pytest.mark.exhaustive
@pytest.mark.parametrize("case", list(CORNERS))
@pytest.mark.filterwarnings("ignore:`fit` has not converged")
def test_nothing_varies(x64, case):
    """A start all the same, finite hyperparameters, and the sentence."""
    inputs, y = CORNERS[case]
    problem = as_problem(GPPrior(RBF(), inputs), y, 0.1, None, (), None)
    assert np.isfinite(at_data(problem, None)).all()
    found = fit(GPPrior(RBF(), inputs), y, 0.1)
    assert found.only_noise and "NOTHING BEYOND NOISE" in str(found)
    assert np.isfinite(found.log_density)


@pytest.mark.exhaustive
def test_a_column_that_does_not_vary(x64):
    """It adds little to a length of all inputs, and one of its own is finite."""
    inputs = np.stack([1e-6 * U[:, 0], np.full(N, 0.1)], axis=1)
    for kernel in (RBF(), RBF(1.0, np.ones(2))):
        problem = as_problem(GPPrior(kernel, inputs), Y, 0.1, None, (), None)
        lengths = np.exp(at_data(problem, None)[:, 1:-1])
        assert np.all((1e-8 < lengths) & (lengths < 1e-5))


@pytest.mark.exhaustive
def test_priors_and_single_precision():
    """Starts at the data in float32; a prior says where its own value starts."""
    kernel = RBF(1.0, np.ones(2, np.float32))
    kernel = kernel.with_priors(variance=dist.LogNormal(0.0, 0.5))
    inputs = (np.array([1e-6, 1e6]) * U).astype(np.float32)
    found = fit(GPPrior(kernel, inputs), Y.astype(np.float32), 0.1, tolerance=1e-3)
    assert not found.only_noise and found.log_density.dtype == np.float32
    assert 0.2 < float(found.prior.kernel.variance) < 5
    assert 1e-7 < float(found.prior.kernel.lengthscale[0]) < 1e-5


@pytest.mark.exhaustive
def test_in_a_program_the_default_is_the_same(x64):
    """Of three data sets under `vmap` those whose first start leaves all to noise get a
    second one, and the gradient is that of the refit."""

    def run(scale, y):
        found = fit(GPPrior(RBF(), scale * U[:, :1]), y, 0.1, tolerance=1e-9)
        return found.posterior.predict_mean(jnp.full((1, 1), scale / 2))[0], found

    y = np.sin(9 * U[:, 0])
    scales = np.array([1.0, 1e6, 1e-6])
    slopes = jax.jit(
        jax.vmap(jax.value_and_grad(run, argnums=1, has_aux=True), (0, None))
    )
    (values, fits), gradients = slopes(scales, y)
    np.testing.assert_allclose(values, values[0], rtol=1e-5)
    np.testing.assert_allclose(gradients[1:], gradients[:1].repeat(2, 0), atol=1e-4)
    assert np.array_equal(fits.starts.n_steps[:, 1] > 0, [False, True, True])
    alone = run(1e6, y)[1]
    np.testing.assert_allclose(fits.log_density[1], alone.log_density, rtol=1e-9)
    step = 1e-5 * np.eye(N)[3]
    difference = (run(1e6, y + step)[0] - run(1e6, y - step)[0]) / 2e-5
    np.testing.assert_allclose(gradients[1][3], difference, rtol=1e-4)
    first = jax.tree.map(lambda leaf: leaf[0], fits)
    assert "  start  log density" not in str(first)
