"""Gradients of posterior expectations: closed forms, a quadrature, NumPyro models."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from helpers import central_difference, compilations
from numpyro.infer.util import log_density

from pyrox.gp import (
    RBF,
    GPPrior,
    gp_factor,
    gp_sample,
    model_log_joint,
    sensitivity,
    substitute,
)

pytestmark = pytest.mark.usefixtures("plainly_compiled")

# A conjugate model: mu ~ N(prior_mean, 2), y_i ~ N(mu, noise_var).
PRIOR_VAR = 2.0
ETA = {"y": np.array([0.3, 1.4, 0.9]), "noise_var": 0.5, "prior_mean": -0.2}


def functional(theta, eta):
    shift = jnp.sin(eta["prior_mean"]) * theta["mu"]
    return eta["noise_var"] * theta["mu"] ** 2 + shift


def log_joint(theta, eta):
    misfit = jnp.sum((eta["y"] - theta["mu"]) ** 2) / eta["noise_var"]
    normaliser = eta["y"].shape[0] * jnp.log(eta["noise_var"])
    prior = (theta["mu"] - eta["prior_mean"]) ** 2 / PRIOR_VAR
    return -0.5 * (misfit + normaliser + prior)


def posterior(eta):
    var = 1 / (1 / PRIOR_VAR + eta["y"].shape[0] / eta["noise_var"])
    weighed = jnp.sum(eta["y"]) / eta["noise_var"] + eta["prior_mean"] / PRIOR_VAR
    return var * weighed, var


def closed_form(eta):
    mean, var = posterior(eta)
    return eta["noise_var"] * (mean**2 + var) + jnp.sin(eta["prior_mean"]) * mean


def independent(key):
    mean, var = posterior(ETA)
    return mean + jnp.sqrt(var) * jr.normal(key, (4000,))


def chain(key, rho=0.9):
    """An AR(1) chain that starts and stays in the posterior; 19 of its draws are worth
    one."""
    noise = jr.normal(key, (4000,))

    def step(x, e):
        x = rho * x + jnp.sqrt(1 - rho**2) * e
        return x, x

    _, rest = jax.lax.scan(step, noise[0], noise[1:])
    mean, var = posterior(ETA)
    return mean + jnp.sqrt(var) * jnp.append(noise[0], rest)


def shuffled(key):
    return jr.permutation(jr.key(0), chain(key))


SAMPLERS = {"independent": independent, "chain": chain, "shuffled": shuffled}


@jax.jit
@jax.vmap
def estimate(mu):
    return sensitivity(functional, log_joint, {"mu": mu}, ETA)


@functools.cache
def errors(sampler):
    """Of 200 seeds, for each component of eta: the estimate's distance from the closed
    form in its standard errors, that of the first term alone, and the value's. All
    entries of y have the same score but for a constant, so the first stands for all."""
    found = estimate(jax.vmap(SAMPLERS[sampler])(jr.split(jr.key(0), 200)))
    truth = jax.grad(closed_form)(jax.tree.map(jnp.asarray, ETA))

    def in_errors(estimates):
        gaps = jax.tree.map(
            lambda a, t, s: (np.asarray(a) - t) / np.asarray(s),
            estimates,
            jax.tree.map(np.asarray, truth),
            found.standard_error,
        )
        return np.stack([z if z.ndim == 1 else z[:, 0] for z in gaps.values()], axis=1)

    value = (found.value - closed_form(ETA)) / found.value_error
    return in_errors(found.gradient), in_errors(found.explicit), np.asarray(value)


@pytest.mark.exhaustive
def test_the_estimate_is_within_its_errors(x64):
    """Within four standard errors for 20 of 20 seeds and all components. By Student's t
    with 49 degrees of freedom one of 60 is outside with probability 1.3% at most. The
    first term alone is outside for every seed."""
    full, explicit, _ = errors("independent")
    assert (np.abs(full[:20]) < 4).all()
    assert (np.abs(explicit[:20]) > 4).any(axis=1).all()


@pytest.mark.exhaustive
def test_the_errors_are_calibrated(x64):
    """The standard deviation over 200 seeds of what should be Student's t with 49
    degrees of freedom, 1.02, has a standard error of 0.054: four of them to either
    bound, so a false alarm of 2e-4 for the four."""
    full, _, value = errors("independent")
    assert (np.abs(full.std(axis=0) - 1.02) < 0.22).all()
    assert abs(value.std() - 1.02) < 0.22


@pytest.mark.exhaustive
def test_the_errors_are_those_of_a_chain(x64):
    """Batches of 80 draws miss an eighth of the variance of a chain like this, and the
    influence of a draw on the gradient is skewed: over 100 other sets of 200 seeds the
    standard deviation was 1.15 with an error of 0.07, at most, and never above 1.41. To
    1.5 it is 4.8 errors: a false alarm under 1e-3. In an order without correlation the
    errors are far too small."""
    full, _, value = errors("chain")
    assert (0.8 < full.std(axis=0)).all() and (full.std(axis=0) < 1.5).all()
    assert 0.8 < value.std() < 1.5
    full, _, value = errors("shuffled")
    assert (full.std(axis=0) > 2.5).all() and value.std() > 2.5


def test_the_numbers_are_those_of_the_formula(x64):
    """47 draws in 6 batches, of 7 and of 8, against NumPy, one by one."""
    mu = np.random.default_rng(0).gamma(2.0, size=47)
    eta = np.array([0.7, 0.2])

    def f(theta, eta):
        return 100 + jnp.sum(eta**2) * theta["mu"] ** 2

    def log_p(theta, eta):
        return eta[0] * theta["mu"] ** 3 + jnp.exp(eta[1]) * theta["mu"] + 50 * eta[0]

    found = sensitivity(f, log_p, {"mu": mu}, eta, batch_size=3)
    values = 100 + (eta @ eta) * mu**2
    scores = np.stack([mu**3 + 50, np.exp(eta[1]) * mu])
    explicit = 2 * np.outer(eta, mu**2)
    assert np.allclose(found.value, values.mean(), rtol=1e-12)
    assert np.allclose(found.explicit, explicit.mean(axis=1), rtol=1e-12)
    covariances = [np.cov(values, s)[0, 1] for s in scores]
    gradient = explicit.mean(axis=1) + covariances
    assert np.allclose(found.gradient, gradient, rtol=1e-11)
    centred = (values - values.mean()) * (scores - scores.mean(axis=1)[:, None])
    for got, z in [
        (found.value_error, values),
        (found.standard_error[0], (explicit + centred)[0]),
        (found.standard_error[1], (explicit + centred)[1]),
    ]:
        batches = np.array_split(z, np.cumsum(np.diff(np.arange(7) * 47 // 6))[:-1])
        gaps = [len(b) * (b.mean() - z.mean()) ** 2 for b in batches]
        assert np.isclose(got, np.sqrt(sum(gaps) / 5 / 47), rtol=1e-10)
    assert found.n_draws == 47


def test_single_precision_does_not_cancel():
    """A covariance of 1 between values near 3000; sums of their products in float32
    have no digit of it."""
    mu = np.random.default_rng(1).normal(size=2000).astype(np.float32)

    def f(theta, eta):
        return 3000 + theta["mu"]

    def log_p(theta, eta):
        return eta * (3000 + theta["mu"])

    found = sensitivity(f, log_p, {"mu": mu}, np.float32(1.0))
    assert found.gradient.dtype == np.float32
    shifted = np.float32(3000) + mu
    exact = shifted.astype(float).var(ddof=1)
    assert abs(found.gradient - exact) < 1e-5
    assert abs(np.mean(shifted * shifted) - np.mean(shifted) ** 2 - exact) > 0.1


# Hyperparameters of a process, drawn from a grid of their posterior.
RNG = np.random.default_rng(3)
X = np.sort(RNG.uniform(0, 2, (12, 1)), axis=0)
DATA = {"X": X, "y": np.sin(3 * X[:, 0]) + 0.2 * RNG.normal(size=12), "noise": 0.05}
AT = np.array([[1.1]])
GRID = np.stack(
    np.meshgrid(np.exp(np.linspace(-2, 1.5, 30)), np.exp(np.linspace(-2.5, 3, 30))), -1
).reshape(-1, 2)
PRIOR = dist.LogNormal(0.0, 0.7)


def process(theta, eta):
    return substitute(GPPrior(RBF(), eta["X"]), theta)


def predicted(theta, eta):
    return process(theta, eta).condition(eta["y"], eta["noise"]).predict_mean(AT)[0]


def log_evidence(theta, eta):
    return process(theta, eta).log_marginal_likelihood(eta["y"], eta["noise"])


def on_the_grid(X, y, noise):
    """The posterior's weights on the grid, and the prediction at each of its points."""
    ell, var = GRID.T
    gram = (X[:, 0, None] - X[None, :, 0]) ** 2
    K = var[:, None, None] * np.exp(-0.5 * gram / ell[:, None, None] ** 2)
    K = K + (noise + 1e-6) * np.eye(len(y))
    solved = np.linalg.solve(K, np.broadcast_to(y[:, None], (len(K), len(y), 1)))
    log_p = -0.5 * (y @ solved[:, :, 0].T + np.linalg.slogdet(K)[1])
    # LogNormal(0, 0.7) on both; the grid is even in their logarithms.
    log_p = log_p - 0.5 * np.sum((np.log(GRID) / 0.7) ** 2, axis=1)
    cross = var[:, None] * np.exp(-0.5 * (AT - X[:, 0]) ** 2 / ell[:, None] ** 2)
    weights = np.exp(log_p - log_p.max())
    return weights / weights.sum(), np.sum(cross * solved[:, :, 0], axis=1)


@functools.cache
def draws_of_the_grid():
    weights, _ = on_the_grid(**DATA)
    chosen = GRID[np.random.default_rng(4).choice(len(GRID), 4000, p=weights)]
    return {"RBF.lengthscale": chosen[:, 0], "RBF.variance": chosen[:, 1]}


@functools.cache
def prediction():
    return sensitivity(predicted, log_evidence, draws_of_the_grid(), DATA)


@pytest.mark.exhaustive
def test_a_prediction_with_its_hyperparameters_integrated_out(x64):
    """Against differences of the sum over the grid. Within four standard errors for all
    of 25 components: a false alarm of 0.5% at most, by Student's t. Without the score
    most are outside."""
    found, explicit_misses = prediction(), 0
    for name, value in DATA.items():

        def F(changed, name=name):
            weights, means = on_the_grid(**{**DATA, name: changed})
            return weights @ means

        truth = central_difference(F, value, step=1e-5)
        errors = np.asarray(found.standard_error[name])
        assert (np.abs(found.gradient[name] - truth) < 4 * errors).all()
        explicit_misses += np.sum(np.abs(found.explicit[name] - truth) > 4 * errors)
    assert explicit_misses > 12
    weights, means = on_the_grid(**DATA)
    assert abs(found.value - weights @ means) < 4 * found.value_error


def factor_model(X, y, noise):
    kernel = RBF().with_priors(variance=PRIOR, lengthscale=PRIOR)
    gp_factor("obs", GPPrior(kernel, X), y, noise)


def one_draw():
    return {"RBF.lengthscale": jnp.array(0.6), "RBF.variance": jnp.array(1.3)}


def close(left, right):
    return all(
        np.allclose(a, b, rtol=1e-10, atol=1e-12)
        for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)
    )


@pytest.mark.exhaustive
def test_a_numpyro_model_is_the_plain_function(x64):
    """The priors of the model's sites have no eta in them."""
    log_joint = model_log_joint(factor_model)
    assert close(
        sensitivity(predicted, log_joint, draws_of_the_grid(), DATA), prediction()
    )


def test_a_model_may_take_its_data_by_position(x64):
    log_joint, X, noise = model_log_joint(factor_model), DATA["X"], DATA["noise"]
    expected = log_joint(one_draw(), DATA)
    assert log_joint(one_draw(), (X, DATA["y"], noise)) == expected
    of_y = model_log_joint(lambda y: factor_model(X, y, noise))
    assert of_y(one_draw(), DATA["y"]) == expected


def sample_model(X, y, noise):
    f = gp_sample("f", GPPrior(RBF(1.3, 0.6), X))
    numpyro.sample("y", dist.Normal(f, jnp.sqrt(noise)).to_event(1), obs=y)


@pytest.mark.numpyro
def test_the_score_sees_through_a_deterministic_site(x64):
    """The draw has the site `f`, computed at some X, and one of the name of the data.
    NumPyro's own substitution holds both fixed."""
    z = np.random.default_rng(6).normal(size=12)
    draw = {"f_whitened": z, "f": z, "y": z}

    def by_hand(X):
        K = RBF(1.3, 0.6)(X, X) + 1.3e-6 * jnp.eye(12)
        gaps = DATA["y"] - jnp.linalg.cholesky(K) @ z
        return -0.5 * jnp.sum(gaps**2) / DATA["noise"]

    def ours(X):
        return model_log_joint(sample_model)(draw, {**DATA, "X": X})

    def frozen(X):
        return log_density(sample_model, (), {**DATA, "X": X}, draw)[0]

    got, expected, without = (jax.jit(jax.grad(f))(X) for f in (ours, by_hand, frozen))
    assert np.allclose(got, expected, rtol=1e-9) and np.abs(got).max() > 1
    assert not np.any(without)


@pytest.mark.exhaustive
def test_the_functional_sees_through_a_deterministic_site(x64):
    """Draws of `f` that are not even those of this eta are computed anew."""

    def model(x):
        z = numpyro.sample("z", dist.Normal(0.0, 1.0))
        f = numpyro.deterministic("f", x * z**2)
        numpyro.sample("obs", dist.Normal(f, 1.0), obs=0.5)

    def log_p(theta, x):
        return -0.5 * (0.5 - x * theta["z"] ** 2) ** 2

    z = np.random.default_rng(7).normal(size=50)
    draws, log_joint = {"z": z, "f": z}, model_log_joint(model)
    read = sensitivity(lambda theta, x: theta["f"], log_joint, draws, 0.8)
    plain = sensitivity(lambda theta, x: x * theta["z"] ** 2, log_p, {"z": z}, 0.8)
    assert close(read, plain)
    assert np.isclose(read.explicit, np.mean(z**2))


def test_a_param_in_the_draws_keeps_its_value(x64):
    def model(y):
        scale = numpyro.param("scale", 1.0)
        numpyro.sample("y", dist.Normal(0.0, scale), obs=y)

    log_joint = model_log_joint(model)
    expected = dist.Normal(0.0, 2.0).log_prob(1.5)
    assert np.isclose(log_joint({"scale": 2.0}, {"y": 1.5}), expected)


def test_draws_without_a_site_of_the_model_say_so(x64):
    draws = {"RBF.lengthscale": np.ones(30)}
    match = r"latent site 'RBF.variance'.* Got draws of \['RBF.lengthscale'\]"
    log_joint = model_log_joint(factor_model)
    with pytest.raises(ValueError, match=match):
        sensitivity(lambda theta, eta: 1.0, log_joint, draws, DATA)


noise_of_the_model = 0.5


def reads_a_name(y):
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    numpyro.sample("obs", dist.Normal(mu, noise_of_the_model), obs=y)


def test_a_program_is_compiled_once_and_notices_what_changed(x64, monkeypatch):
    mu = np.random.default_rng(7).normal(size=30)

    def gradient(y):
        log_joint = model_log_joint(reads_a_name)
        found = sensitivity(lambda t, eta: t["mu"], log_joint, {"mu": mu}, {"y": y})
        return found.gradient["y"]

    before = gradient(0.3)
    with compilations() as programs:
        assert gradient(0.4) == pytest.approx(before)
    assert not programs
    monkeypatch.setattr(f"{__name__}.noise_of_the_model", 1.0)
    assert gradient(0.3) == pytest.approx(before / 4)


class Scaled:
    scale = 1.0

    def functional(self, theta, eta):
        return self.scale * theta["mu"]

    def log_joint(self, theta, eta):
        return -0.5 * self.scale * (eta - theta["mu"]) ** 2


def test_what_an_object_or_its_class_holds_is_read(x64, monkeypatch):
    """The gradient is the covariance of f and the score: both have the factor."""
    mu, model = np.random.default_rng(7).normal(size=30), Scaled()

    def gradient():
        draws = {"mu": mu}
        return sensitivity(model.functional, model.log_joint, draws, 0.5).gradient

    before = gradient()
    monkeypatch.setattr(model, "scale", 2.0, raising=False)
    assert gradient() == pytest.approx(4 * before)
    monkeypatch.undo()
    monkeypatch.setattr(Scaled, "scale", 3.0)
    assert gradient() == pytest.approx(9 * before)


@pytest.mark.exhaustive
def test_what_the_functions_close_over_may_be_traced(x64):
    mu = np.random.default_rng(7).normal(size=30)

    def gradient(scale):
        def log_joint(theta, eta):
            return -0.5 * scale * (eta - theta["mu"]) ** 2

        draws = {"mu": mu}
        return sensitivity(lambda t, _: t["mu"], log_joint, draws, 0.5).gradient

    variance = mu.var(ddof=1)
    assert jax.jit(gradient)(2.0) == pytest.approx(2 * variance)
    mapped = jax.vmap(gradient)(np.array([1.0, 3.0]))
    np.testing.assert_allclose(mapped, variance * np.array([1.0, 3.0]))
    assert jax.grad(gradient)(2.0) == pytest.approx(variance)


def test_inside_jit(x64):
    mu = independent(jr.key(8))[:50]
    direct = sensitivity(functional, log_joint, {"mu": mu}, ETA)

    @jax.jit
    def traced(mu, eta):
        return sensitivity(functional, lambda t, e: log_joint(t, e), {"mu": mu}, eta)

    @jax.jit
    def closed_over(mu, y):
        def log_p(theta, eta):
            return log_joint(theta, {**eta, "y": y})

        rest = {name: ETA[name] for name in ("noise_var", "prior_mean")}
        return sensitivity(functional, log_p, {"mu": mu}, rest)

    assert close(traced(mu, ETA), direct)
    found = closed_over(mu, ETA["y"])
    assert np.isclose(found.gradient["noise_var"], direct.gradient["noise_var"])


def test_what_is_no_float_is_held_constant(x64):
    eta = {"y": np.array([1.0, 2.0]), "group": np.array([1, 0]), "kind": "sum", "n": 2}

    def f(theta, eta):
        total = jnp.sum(eta["y"]) if eta["kind"] == "sum" else 0.0
        return theta["mu"] * total * jnp.ones(eta["n"])[0]

    def log_p(theta, eta):
        return jnp.sum(eta["y"][eta["group"]] * jnp.array([1.0, 0.0]) * theta["mu"])

    mu = np.random.default_rng(9).normal(size=40)
    found = sensitivity(f, log_p, {"mu": mu}, eta)
    expected = mu.mean() + np.array([0.0, 3 * mu.var(ddof=1)])
    assert np.allclose(found.gradient["y"], expected)
    constant = ("group", "kind", "n")
    assert all(found.gradient[n] is None is found.explicit[n] for n in constant)


@pytest.mark.exhaustive
def test_a_probability_is_an_expectation(x64):
    """P(mu > 0.5) of the conjugate model: an indicator has no derivative of its own."""
    draws = {"mu": independent(jr.key(10))}
    found = sensitivity(lambda t, eta: t["mu"] > 0.5, log_joint, draws, ETA)

    def tail(eta):
        mean, var = posterior(eta)
        return jax.scipy.stats.norm.cdf((mean - 0.5) / jnp.sqrt(var))

    truth = jax.grad(tail)(jax.tree.map(jnp.asarray, ETA))
    assert not any(np.any(x) for x in jax.tree.leaves(found.explicit))
    for name in ETA:
        gap = np.abs(found.gradient[name] - truth[name])
        assert (gap < 4 * found.standard_error[name]).all()
        assert (gap < 0.1 * np.abs(truth[name])).all()


@pytest.mark.exhaustive
def test_memory_does_not_grow_with_the_draws(x64):
    """Temporaries of the compiled program, for ten times the draws: a number for each
    of the 36,000 more would take 288 kB, their scores 11 MB."""

    def estimate(draws, y):
        return sensitivity(functional, log_joint, draws, {**ETA, "y": y})

    def temporaries(n_draws):
        shapes = (jax.ShapeDtypeStruct((n,), "float64") for n in (n_draws, 40))
        compiled = jax.jit(lambda mu, y: estimate({"mu": mu}, y)).lower(*shapes)
        sizes: Any = compiled.compile().memory_analysis()
        return sizes.temp_size_in_bytes

    assert temporaries(40_000) < temporaries(4000) + 36_000


def scalar(theta, eta):
    return theta["mu"] * eta["noise_var"]


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"draws": {"mu": np.ones(1)}}, r"at least 20 draws: a covariance .* Got 1\."),
        ({"draws": {"mu": np.ones(19)}}, r"Got 19\. Draw some hundreds"),
        ({"draws": {"mu": np.ones(30), "v": np.ones(20)}}, "one leading axis"),
        ({"draws": {"mu": np.float64(1.0)}}, r"one leading axis.* Got {'mu': \(\)}"),
        ({"draws": {}}, r"one leading axis of draws\. Got {}"),
        ({"eta": {"y": np.arange(3), "n": 3}}, "must hold floats to differentiate by"),
        ({"functional": lambda t, e: e["y"]}, r"return a scalar\. Got shape \(3,\)"),
        ({"log_joint": lambda t, e: e["y"][:1]}, r"log_joint=...\)` must return a sc"),
        ({"log_joint": lambda t, e: None}, "Got None.* by `model_log_joint`"),
        ({"batch_size": 0}, r"batch_size=...\)` must be a whole number of at least 1"),
    ],
)
def test_what_is_wrong_is_said(arguments, match, x64):
    good = {
        "functional": scalar,
        "log_joint": log_joint,
        "draws": {"mu": np.ones(30)},
        "eta": ETA,
    }
    with pytest.raises(ValueError, match=match):
        sensitivity(**{**good, **arguments})


@pytest.mark.exhaustive
def test_a_draw_without_a_finite_score_is_named(x64):
    mu = np.linspace(0.5, 1.5, 30)
    mu[[17, 23]] = 0.0

    def root(theta, eta):  # finite at zero, but not its derivative
        return jnp.sum(jnp.sqrt(theta["mu"] * eta["y"]))

    match = r"log_joint=...\)`: its value and its derivative .* inf at draw 17\."
    with pytest.raises(ValueError, match=match):
        sensitivity(scalar, root, {"mu": mu}, ETA)
    with pytest.raises(ValueError, match=r"functional=...\)`: .* inf at draw 17\."):
        sensitivity(root, log_joint, {"mu": mu}, ETA)
    traced = jax.jit(lambda mu: sensitivity(scalar, root, {"mu": mu}, ETA).gradient)
    with pytest.raises(Exception, match="its value and its derivative in eta must be"):
        jax.block_until_ready(traced(mu))
    with pytest.raises(ValueError, match="at draw 0"):  # a density of zero
        sensitivity(scalar, lambda t, e: 0 * scalar(t, e) - jnp.inf, {"mu": mu}, ETA)
