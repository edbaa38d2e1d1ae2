"""Fitting: optima against SciPy's, gradients of the refit against its differences."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.monitoring
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro.distributions as dist
import pytest
from helpers import compilations
from numpyro.distributions import constraints
from scipy import optimize, stats

from pyrox.gp import (
    RBF,
    AbstractKernel,
    Fit,
    GPPrior,
    PathwiseSampler,
    expected_improvement,
    hyperparameter,
)
from pyrox.gp import fit as public_fit

pytestmark = pytest.mark.usefixtures("plainly_compiled")

RNG = np.random.default_rng(0)
N = 15
X = np.sort(RNG.uniform(0, 3, N))[:, None]
Y = np.sin(3 * X[:, 0]) + 0.2 * RNG.normal(size=N)
fit: Any = functools.partial(public_fit, progress=False)


def gram(variance, lengthscale, X=X):
    difference = (X[:, None] - X[None]) / lengthscale
    return variance * np.exp(-0.5 * np.sum(difference**2, axis=2))


def log_normal(covariance, residual):
    """The log density of a normal vector, in NumPy."""
    sign, log_det = np.linalg.slogdet(covariance)
    misfit = residual @ np.linalg.solve(covariance, residual)
    return -0.5 * (misfit + log_det + len(residual) * np.log(2 * np.pi))


def likelihood(variance, lengthscale, noise_var, y=Y, X=X) -> float:
    noise = np.diag(np.broadcast_to(noise_var + 1e-6 * variance, len(y)))
    return log_normal(gram(variance, lengthscale, X) + noise, y)


def maximised(log_density: Callable, start) -> tuple[np.ndarray, float]:
    """The positive numbers of the highest density, from SciPy."""
    found = optimize.minimize(
        lambda u: -log_density(*np.exp(u)),
        np.log(start),
        method="Nelder-Mead",
        options={"xatol": 1e-10, "fatol": 1e-13, "maxiter": 5000, "maxfev": 5000},
    )
    return np.exp(found.x), -found.fun


def numbers(found) -> np.ndarray:
    """Variance, lengthscale and noise of a fit with one kernel."""
    kernel = found.prior.kernel
    return np.array([kernel.variance, kernel.lengthscale, found.noise_var])


def test_the_optimum_is_that_of_scipy(x64):
    with compilations() as programs:
        found = fit(GPPrior(RBF(), X), Y, 0.1, tolerance=1e-9)
    assert len(programs) < 14
    with compilations() as programs:
        jax.jit(lambda x: 3 * x)(Y)
    assert len(programs) == 1
    with compilations() as programs:
        fit(GPPrior(RBF(2.0), X + 1), np.cos(Y), 0.2, tolerance=1e-3, max_steps=50)
    assert programs == []
    best, density = maximised(likelihood, [1.0, 1.0, 0.1])
    np.testing.assert_allclose(numbers(found), best, rtol=1e-6)
    assert abs(float(found.log_density) - density) < 1e-9
    assert float(found.log_marginal_likelihood) == float(found.log_density)
    assert isinstance(found, Fit) and found.converged
    assert found.gradient_norm <= 1e-9 and found.n_steps < 50
    assert found.fixed == () and found.starts.n_steps.shape == (1,)
    again = found.prior.condition(Y, found.noise_var)
    np.testing.assert_allclose(found.posterior.weights, again.weights)
    # A point beside it is lower: the same check fails where it is not the optimum.
    assert likelihood(*(best * 1.01)) < density - 1e-6


def penalised(variance, lengthscale, noise_var):
    """The log joint density under the priors of `with_priors`, from SciPy."""
    return (
        likelihood(variance, lengthscale, noise_var)
        + stats.lognorm.logpdf(lengthscale, 0.3, scale=np.exp(0.2))
        + stats.halfnorm.logpdf(noise_var, scale=0.02)
    )


def with_priors(loc: Any = 0.2) -> RBF:
    loc = jnp.asarray(loc, jnp.result_type(float))  # one program for all of them
    return RBF().with_priors(lengthscale=dist.LogNormal(loc, 0.3))


def test_priors_are_densities_of_the_values(x64):
    """MAP as SciPy finds it, with no Jacobian; neither the optimum without priors nor
    the one with the Jacobian of the logarithm would pass."""
    options = {"noise_prior": dist.HalfNormal(0.02), "tolerance": 1e-9}
    found = fit(GPPrior(with_priors(), X), Y, 0.1, **options)
    best, density = maximised(penalised, [1.0, 1.0, 0.1])
    np.testing.assert_allclose(numbers(found), best, rtol=1e-6)
    assert abs(float(found.log_density) - density) < 1e-9
    assert abs(float(found.log_marginal_likelihood) - likelihood(*best)) < 1e-6
    assert found.prior.kernel.priors == ()
    with compilations() as programs:
        fit(GPPrior(with_priors(0.3), X), Y, 0.2, noise_prior=dist.HalfNormal(0.03))
    assert programs == []
    jacobian, _ = maximised(
        lambda *t: penalised(*t) + np.log(t[1] * t[2]), [1.0, 1.0, 0.1]
    )
    for other in (jacobian, maximised(likelihood, [1.0, 1.0, 0.1])[0]):
        assert np.abs(other / best - 1).max() > 0.01


def test_values_stay_in_their_domains(x64):
    """The best variance lies above the support of its prior, and the second input has
    no influence, so its best lengthscale is infinite."""
    inputs = np.concatenate([X, np.zeros_like(X)], axis=1)
    kernel = RBF(0.55, np.ones(2)).with_priors(variance=dist.Uniform(0.5, 0.6))
    found = fit(GPPrior(kernel, inputs), Y, 0.1)
    assert found.converged and 0.599 < float(found.prior.kernel.variance) < 0.6
    first, second = np.asarray(found.prior.kernel.lengthscale)
    assert 0.1 < first < 1 and second == 1.0
    inputs[:, 1] = np.linspace(0, 1, N) ** 2
    found = fit(GPPrior(kernel, inputs), Y, 0.1, tolerance=1e-8)
    assert (
        found.converged
        and np.isfinite(np.asarray(found.prior.kernel.lengthscale)).all()
    )


def test_what_is_fixed_stays(x64):
    noise_var = np.linspace(0.01, 0.2, N)
    options = {"fixed": ("RBF.variance",), "tolerance": 1e-9}
    found = fit(GPPrior(RBF(0.7, 0.5), X), Y, noise_var, **options)
    best: Any = optimize.minimize_scalar(
        lambda u: -likelihood(0.7, np.exp(u), noise_var), tol=1e-12
    )
    assert found.prior.kernel.variance == 0.7
    assert np.array_equal(found.noise_var, noise_var)
    assert found.fixed == ("RBF.variance", "noise_var") and " ... " in str(found)
    assert np.isclose(found.prior.kernel.lengthscale, np.exp(best.x), rtol=1e-6)


class Line(eqx.Module):
    """A mean function with floats that are trained and an integer that is not."""

    slope: jax.Array
    level: jax.Array
    column: jax.Array

    def __call__(self, X):
        return self.level + self.slope * jnp.take(X, self.column, axis=1)


def line(level: float) -> Line:
    return Line(*(jnp.asarray(np.asarray(v)) for v in (0.1, level, np.int32(0))))


def test_the_arrays_of_a_mean_are_trained(x64):
    """At fixed covariance the best line is that of generalised least squares."""
    prior = GPPrior(RBF(0.7, 0.5), X, line(400.0))
    y = Y + 3.0 + 2.0 * X[:, 0]
    everything = ("RBF.variance", "RBF.lengthscale", "noise_var")
    found = fit(prior, y, 0.1, fixed=everything, tolerance=1e-10)
    weight = np.linalg.inv(gram(0.7, 0.5) + (0.1 + 0.7e-6) * np.eye(N))
    design = np.concatenate([X, np.ones_like(X)], axis=1)
    best = np.linalg.solve(design.T @ weight @ design, design.T @ weight @ y)
    mean: Any = found.prior.mean_fn
    np.testing.assert_allclose([mean.slope, mean.level], best, rtol=1e-6)
    assert mean.column.dtype == np.int32 and np.array_equal(found.prior.X, X)
    report = str(dataclasses.replace(found, fixed=("mean_fn",)))
    assert f"  mean_fn          {best[0]:.4g} {best[1]:.4g} 0  (fixed)" in report
    with pytest.raises(ValueError, match="leaves nothing to train"):
        fit(prior, y, 0.1, fixed=(*everything, "mean_fn"))


# Seven points after the example of Rasmussen & Williams 2006, figure 5.5: either a
# short lengthscale and little noise, or all is noise about a slow trend.
FEW_X = np.array([-4.9, -3.7, -2.9, -2.4, 1.2, 2.7, 3.8])[:, None]
FEW_Y = np.array([1.4, 0.7, -0.5, -0.2, 0.8, 0.3, -1.0])


@pytest.mark.exhaustive
def test_more_starts_find_the_better_optimum(x64):
    prior = GPPrior(RBF(1.0, 12.0), FEW_X)
    options = {"fixed": "RBF.variance", "tolerance": 1e-8}

    def density(lengthscale, noise_var):
        return likelihood(1.0, lengthscale, noise_var, FEW_Y, FEW_X)

    optima = [maximised(density, start)[1] for start in ([1.3, 0.1], [12.0, 0.6])]
    assert optima[0] > optima[1] + 1
    alone = fit(prior, FEW_Y, 0.6, n_starts=1, **options)
    assert abs(float(alone.log_density) - optima[1]) < 1e-6
    found = fit(prior, FEW_Y, 0.6, n_starts=5, key=jr.key(1), **options)
    assert abs(float(found.log_density) - optima[0]) < 1e-6
    densities = np.asarray(found.starts.log_density)
    assert np.argmax(densities) > 0 and np.isclose(densities[0], optima[1])
    assert found.n_steps == found.starts.n_steps[np.argmax(densities)]
    again = fit(prior, FEW_Y, 0.6, n_starts=5, key=jr.key(1), **options)
    assert np.array_equal(again.starts.log_density, densities)
    report = str(found)
    assert report.startswith("converged after ") and "1e-08 a datum" in report
    assert "RBF.variance     1  (fixed)" in report and "noise_var" in report
    # Seven points say little, but not nothing: noise alone has a density of .25 less.
    gain = found.log_marginal_likelihood - found.noise_log_density
    assert 0.2 < gain < 0.3 and not found.only_noise and "NOISE" not in report
    assert len(report.splitlines()) == 5 + 1 + 5


def test_not_converging_is_said_and_loses_nothing(x64):
    prior = GPPrior(RBF(), X)
    with pytest.warns(UserWarning, match="stopped at max_steps=2, where the gradient"):
        found = fit(prior, Y, 0.1, max_steps=2)
    assert not found.converged and found.n_steps == 2
    assert found.log_density > likelihood(1.0, 1.0, 0.1)
    assert str(found).startswith("NOT CONVERGED after 2 steps")
    with pytest.warns(UserWarning, match="no higher density in float64 after"):
        found = fit(prior, Y, 0.1, tolerance=1e-300)
    assert not found.converged and found.gradient_norm < 1e-9


@pytest.mark.exhaustive
def test_single_precision(capfd):
    found: Any = public_fit(GPPrior(RBF(), X), Y, 0.1)
    best, _ = maximised(likelihood, [1.0, 1.0, 0.1])
    assert found.converged and found.prior.kernel.variance.dtype == jnp.float32
    np.testing.assert_allclose(numbers(found), best, rtol=0.01)
    assert "log density" in capfd.readouterr().err  # of the bar
    with pytest.warns(UserWarning, match="Pass float64 arrays"):
        fit(GPPrior(RBF(), X), Y, 0.1, tolerance=1e-30)


def test_float32_data_under_double_precision(x64):
    prior = GPPrior(RBF(), X.astype(np.float32))
    found = jax.eval_shape(lambda y: fit(prior, y, 0.1), Y.astype(np.float32))
    leaves = jax.tree.leaves((found.noise_var, found.prior, found.log_density))
    assert {leaf.dtype for leaf in leaves} == {np.dtype("float32")}


def test_a_float32_kernel_of_float64_data(x64):
    """Under strict promotion, too, which the tests have."""
    kernel = RBF(np.float32(1.0), np.float32(0.3))
    found = jax.eval_shape(lambda y: fit(GPPrior(kernel, X), y, 0.1), Y)
    assert found.noise_var.dtype == jnp.float64


class Walled(AbstractKernel):
    """An RBF that is not positive definite beyond a lengthscale of 0.48, just short of
    the best one."""

    lengthscale: Any = hyperparameter(constraints.positive)

    def __call__(self, X1, X2):
        sign = jnp.where(self.lengthscale < 0.48, 1.0, -1.0)
        return sign * RBF(1.0, self.lengthscale)(X1, X2)

    def diag(self, X):
        return jnp.ones(X.shape[0])


@pytest.mark.exhaustive
def test_a_search_steps_back_from_where_there_is_no_density(x64):
    with pytest.warns(UserWarning, match="no higher density"):
        found = fit(GPPrior(Walled(0.2), X), Y, 0.05, fixed=["noise_var"])
    assert 0.4799 < float(found.prior.kernel.lengthscale) < 0.48
    with pytest.raises(ValueError, match="-inf at 1 of 1 starts.*positive definite"):
        fit(GPPrior(Walled(0.9), X), Y, 0.05, fixed=["noise_var"])


NEW = np.array([[1.234, 1.0]])


def downstream(posterior) -> jax.Array:
    """A mean, a path and an expected improvement at a new point."""
    paths = PathwiseSampler(posterior, 32, "iid").sample_paths(jr.key(7), 1)
    improvement = expected_improvement(posterior, NEW, 0.5)
    return jnp.concatenate([posterior.predict_mean(NEW), paths(NEW)[0], improvement])


def with_a_flat_input(column) -> jax.Array:
    """Inputs of which the second is the same for all: its lengthscale has no influence,
    and the Hessian a row of zeros."""
    return jnp.stack([jnp.asarray(column), jnp.ones(N)], axis=1)


def refitted(y, column, noise_var):
    """All of it from the data, known noise included, and the prior that was found. Its
    mean is trained, too."""
    prior = GPPrior(RBF(1.0, np.ones(2)), with_a_flat_input(column), line(0.2))
    found = fit(prior, y, noise_var, fixed=("noise_var",), tolerance=1e-10)
    assert str(found).startswith("a fit that is being traced")
    values = downstream(found.posterior)
    return values, (values, found.prior)


def differences(f, at: tuple, argnum: int) -> np.ndarray:
    """The derivatives of all outputs by one argument, by central differences."""

    def f_of(x):
        return np.asarray(f(*at[:argnum], x, *at[argnum + 1 :]))

    x = np.asarray(at[argnum], float)
    steps = 1e-5 * np.eye(x.size).reshape(x.size, *x.shape)
    slopes = [(f_of(x + step) - f_of(x - step)) / 2e-5 for step in steps]
    return np.stack(slopes, axis=-1).reshape(-1, *x.shape)


def errors(gradients, f, at) -> list[float]:
    """Relative to the largest derivative of each output, for each argument."""
    found = []
    for argnum, gradient in enumerate(gradients):
        expected = differences(f, at, argnum)
        axes = tuple(range(1, expected.ndim))
        gap = np.abs(np.reshape(gradient, expected.shape) - expected).max(axis=axes)
        found.append(float((gap / np.abs(expected).max(axis=axes)).max()))
    return found


@pytest.mark.exhaustive
def test_the_gradient_is_that_of_the_whole_refit(x64):
    """Against central differences of all of it: optimum, posterior, path. The same
    check fails against what does not refit, with hyperparameters held at the optimum.
    """
    at = Y, X[:, 0], np.asarray(0.05)
    both = jax.jit(jax.jacrev(refitted, argnums=(0, 1, 2), has_aux=True))
    gradients, (_, found) = both(*at)
    assert max(errors(gradients, lambda *at: both(*at)[1][0], at)) < 1e-4

    @jax.jit
    def held(y, column, noise_var):
        inputs = with_a_flat_input(column)
        prior = GPPrior(found.kernel, inputs, found.mean_fn)
        return downstream(prior.condition(y, noise_var))

    assert min(errors(gradients, held, at)) > 0.05


@pytest.mark.exhaustive
def test_many_data_sets_at_once(x64):
    """`vmap` over data, of a MAP with more starts: each fit is what it is alone, each
    gradient that of the refit, a prior's parameter included; and nothing moves with the
    values that the search sets out from."""

    def run(y, loc, noise_var, **options):
        prior = GPPrior(with_priors(loc), X)
        options = {"noise_prior": dist.HalfNormal(0.02), "tolerance": 1e-9, **options}
        found = fit(prior, y, noise_var, **options)
        return found.posterior.predict_mean(X[:1])[0], found

    several = functools.partial(run, n_starts=2, key=jr.key(0))
    one = jax.value_and_grad(several, argnums=(0, 1, 2), has_aux=True)
    all_at_once = jax.jit(jax.vmap(one, in_axes=(0, None, None)))
    at = np.asarray(0.2), np.asarray(0.1)
    (_, fits), gradients = all_at_once(np.stack([Y, Y + 0.3, -Y]), *at)
    assert "3 fits, 3 converged" in str(fits) and fits.starts.n_steps.shape == (3, 2)
    for y, density in zip([Y, Y + 0.3, -Y], fits.log_density, strict=True):
        assert np.isclose(run(y, *at)[1].log_density, density, rtol=1e-9)
    *moved, nothing = (gradient[0] for gradient in gradients)
    assert max(errors(moved, lambda *at: run(*at)[0], (Y, *at))) < 1e-4
    assert nothing == 0


@pytest.mark.exhaustive
def test_names_in_sums_and_products(x64):
    """Two kernels of one name are trained by their places; only `fixed` needs names."""
    kernel: Any = RBF(1.0, 2.0, name="trend") * RBF(1.0, 5.0) + RBF(0.5, 0.3)
    found = fit(GPPrior(kernel, X), Y, 0.1, fixed=("trend.variance",))
    assert found.converged and found.log_density > likelihood(1.0, 1.0, 0.1)
    product, own = found.prior.kernel.left, found.prior.kernel.right
    assert product.left.variance == 1.0 and product.left.lengthscale != 2.0
    assert product.right.lengthscale != own.lengthscale != 0.3
    report = str(found)
    assert "trend.variance     1  (fixed)" in report
    assert report.count("  RBF.variance ") == 2
    with pytest.raises(ValueError, match="Two modules are named 'RBF'"):
        fit(GPPrior(kernel, X), Y, 0.1, fixed=("RBF.variance",))
