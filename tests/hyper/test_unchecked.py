"""Programs without run-time checks: they export, and checks come back."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from pyrox.gp import (
    RBF,
    AbstractKernel,
    FourierGrid,
    FullRankGuide,
    GPPrior,
    Landmarks,
    Matern,
    PathwiseSampler,
    SparseGPPrior,
    expected_improvement,
    gp_condition,
    knowledge_gradient,
    optimize_acquisition,
    paths_over_draws,
    sensitivity,
    unchecked,
)

pytestmark = pytest.mark.usefixtures("plainly_compiled")

KEY = jax.random.key(0)


def inputs(n: int = 5):
    return jnp.linspace(0, 1, n)[:, None]


def posterior(X=None, y=None, **kwargs):
    X = inputs() if X is None else X
    y = jnp.sin(3 * inputs()[:, 0]) if y is None else y
    return GPPrior(RBF(1.0, 0.3), X, **kwargs).condition(y, 0.1)


def paths(**kwargs):
    return PathwiseSampler(posterior(**kwargs), 16).sample_paths(KEY, 2)


def n_checks(f, *args) -> int:
    """How often a function calls back into Python, programs within it included."""
    return str(jax.make_jaxpr(lambda *args: f(*args))(*args)).count("callback[")


def exported(f, *args):
    with unchecked():
        return export.export(jax.jit(lambda *args: f(*args)))(*args)


def test_paths_are_exported(width):
    f, X = paths(), inputs(7)
    with pytest.raises(NotImplementedError, match="callback"):
        export.export(jax.jit(lambda X: f(X)))(X)
    program = exported(f, X)
    assert program.call(X).dtype == f"float{width}"
    bound = {32: 1e-6, 64: 1e-13}[width]
    np.testing.assert_allclose(program.call(X), f(X), rtol=0, atol=bound)


def test_an_export_is_read_back(width):
    f, X = paths(), inputs(7)
    program = export.deserialize(exported(f, X).serialize())
    np.testing.assert_allclose(program.call(X), f(X), rtol=0, atol=1e-6)


@pytest.mark.exhaustive
def test_an_exported_gradient():
    f, X = paths(), inputs(4)

    def slopes(X):
        return jax.grad(lambda X: f(X).sum())(X), f.gradient(X), jax.vmap(f)(X[None])

    for ours, direct in zip(exported(slopes, X).call(X), slopes(X), strict=True):
        np.testing.assert_allclose(ours, direct, rtol=0, atol=1e-5)


def test_compiled_ahead_of_time():
    f, X = paths(), inputs(7)
    with unchecked():
        program = jax.jit(lambda X: f(X)).lower(X).compile()
    np.testing.assert_allclose(program(X), f(X), rtol=0, atol=1e-6)
    assert np.isnan(program(X.at[2, 0].set(jnp.nan))[:, 2]).all()


def guide_values(X):
    prior = SparseGPPrior(RBF(), X)
    return FullRankGuide.init(X.shape[0]).predict(prior, X)


def over_draws(draws, X):
    return paths_over_draws(
        KEY, {"y": draws}, lambda draw: posterior(y=draw["y"]), 2, n_features=8
    )(X)


def of_draws(draws, y):
    def log_joint(theta, y):
        return -((theta["f"] - y) ** 2)

    def functional(theta, y):
        return posterior(y=jnp.full(5, y)).predict_mean(inputs(1))[0] * theta["f"]

    return sensitivity(functional, log_joint, {"f": draws}, y)


def with_landmarks(y):
    sampler = PathwiseSampler(posterior(y=y), 16, Landmarks(inputs()))
    return sampler.sample_paths(KEY, 2)(inputs())


def with_a_checked_mean(y):
    trend = posterior(y=y)
    return posterior(y=y, mean_fn=trend.predict_mean).predict_mean(inputs())


class Checked(AbstractKernel):
    """Of one input, by a mean function, which looks at its inputs."""

    def __call__(self, X1, X2):
        left, right = (posterior().predict_mean(X) for X in (X1, X2))
        return left[:, None] * right[None, :]

    def diag(self, X):
        return posterior().predict_mean(X) ** 2


def in_a_model(y):
    return gp_condition("f", GPPrior(Checked(), inputs()), y, 0.1).weights


def on_a_domain(X):
    sampler = PathwiseSampler(posterior(), 16, FourierGrid((0.0, 2.0)))
    return sampler.sample_paths(KEY, 2)(X)


PROGRAMS = {
    "condition": (lambda X, y: posterior(X, y).predict(X), (inputs(), jnp.ones(5))),
    "sampler": (
        lambda y: PathwiseSampler(posterior(y=y), 8)(KEY, inputs()),
        (jnp.ones(5),),
    ),
    "knowledge": (
        lambda X: knowledge_gradient(posterior(), X, inputs(), noise_var=0.1),
        (inputs(),),
    ),
    "batch": (
        lambda best: optimize_acquisition(
            KEY, lambda X: expected_improvement(posterior(), X, best), inputs(2)
        ),
        (jnp.float32(0.5),),
    ),
    "acquisition": (lambda X: expected_improvement(posterior(), X, 0.5), (inputs(),)),
    "guide": (guide_values, (inputs(),)),
    "landmarks": (with_landmarks, (jnp.ones(5),)),
    "draws": (over_draws, (jnp.ones((3, 5)), inputs())),
    "sensitivity": (of_draws, (jnp.linspace(0.0, 1.0, 100), jnp.float32(0.5))),
    "domain": (on_a_domain, (inputs(),)),
    "mean": (with_a_checked_mean, (jnp.ones(5),)),
    "model": (in_a_model, (jnp.ones(5),)),
    "hyperparameters": (
        lambda ell: GPPrior(Matern(1.5, 1.0, ell), inputs()).sample(KEY),
        (jnp.float32(0.5),),
    ),
}


@pytest.mark.parametrize("program, args", PROGRAMS.values(), ids=PROGRAMS.keys())
def test_no_program_keeps_a_check_or_loses_one(program, args):
    """In whichever order programs are traced, those within others included."""
    before = n_checks(program, *args)
    assert before > 0
    with unchecked():
        assert n_checks(program, *args) == 0
    assert n_checks(program, *args) == before
    jax.clear_caches()
    with unchecked():
        assert n_checks(program, *args) == 0
    assert n_checks(program, *args) == before


@pytest.mark.exhaustive
def test_checks_are_back_afterwards():
    f, bad = paths(), inputs().at[2, 0].set(jnp.nan)
    with pytest.raises(KeyError):
        with unchecked():
            values = jax.jit(lambda X: f(X))(bad)
            assert np.isnan(values[:, 2]).all() and np.isfinite(values[:, :2]).all()
            raise KeyError
    with pytest.raises(Exception, match=r"`paths\(X\)` must be finite"):
        jax.block_until_ready(jax.jit(lambda X: f(X))(bad))


def test_what_is_known_is_still_checked():
    with unchecked():
        with pytest.raises(ValueError, match="must be finite"):
            paths()(inputs().at[0, 0].set(jnp.nan))
        with pytest.raises(ValueError, match=r"must have shape \(N, 1\)"):
            jax.jit(lambda X: paths()(X))(jnp.ones((3, 2)))
        with pytest.raises(ValueError, match="must be finite and positive"):
            RBF(-1.0)


def test_blocks_nest():
    f = paths()
    with unchecked():
        with unchecked():
            pass
        assert n_checks(f, inputs()) == 0
    assert n_checks(f, inputs()) > 0


def test_another_thread_keeps_its_checks():
    f, found = paths(), []
    with unchecked():
        other = threading.Thread(target=lambda: found.append(n_checks(f, inputs())))
        other.start()
        other.join()
        assert n_checks(f, inputs()) == 0
    assert found[0] > 0
