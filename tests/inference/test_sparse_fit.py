"""fit_sparse: natural gradients for q(u), and what is trained beside it."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportFunctionMemberAccess=false, reportOptionalCall=false

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from helpers import central_difference, few_of
from numpyro.distributions import constraints

from pyrox import datasets
from pyrox.gp import (
    RBF,
    ConstantMean,
    DecoupledPathwiseSampler,
    GPPrior,
    Matern,
    SparseGPPrior,
    WhitenedGuide,
    fit_sparse,
)
from pyrox.gp._inference.sparse_batches import (
    Rates,
    Run,
    _step,
    blocks_of,
    bound_by_blocks,
)
from pyrox.gp._inference.sparse_problem import (
    as_sparse_problem,
    best_q,
    from_vector,
    objective,
    to_vector,
)
from pyrox.gp._posterior.natural import (
    Whitened,
    ascend,
    bound_and_target,
    from_sites,
    no_sites,
)

pytestmark = [
    pytest.mark.usefixtures("plainly_compiled"),
    pytest.mark.numpyro,
]
QUIET = {"progress": False}


def bernoulli(f):
    return dist.Bernoulli(logits=f)


def poisson(f):
    return dist.Poisson(jnp.exp(f))


def heavy(f):
    return dist.StudentT(4.0, f, 0.3)


def two_classes():
    rng = np.random.default_rng(0)
    X = rng.uniform(-2, 2, (400, 2))
    f = 2 * np.sin(2 * X[:, 0]) * np.cos(1.5 * X[:, 1]) + X[:, 0]
    y = (rng.uniform(size=400) < 1 / (1 + np.exp(-2 * f))).astype(int)
    Z = X[rng.choice(400, 32, replace=False)]
    return SparseGPPrior(RBF(4.0, 0.9), Z), X, y, bernoulli


def counts():
    """Of 112 years, of a rate that falls, as the accidents in coal mines did."""
    rng, years = np.random.default_rng(1), np.arange(1851, 1963.0)
    rate = np.where(years < 1890, 3.1, np.where(years < 1947, 0.9, 0.5))
    X = ((years - 1906) / 30)[:, None]
    Z = np.linspace(X.min(), X.max(), 20)[:, None]
    return SparseGPPrior(Matern(2.5, 1.0, 0.6), Z), X, rng.poisson(rate), poisson


def motorcycle():
    X, y = datasets.motorcycle()
    X, y = (X - X.mean()) / X.std(), (y - y.mean()) / y.std()
    Z = np.linspace(X.min(), X.max(), 20)[:, None]
    return SparseGPPrior(Matern(2.5, 1.0, 0.5), Z), X, y, heavy


SETS = {"classes": two_classes, "counts": counts, "motorcycle": motorcycle}
MOST = {"classes": 10, "counts": 6, "motorcycle": 15}


def problem_of(prior, X, y, likelihood, fixed=()):
    return as_sparse_problem(prior, X, y, None, likelihood, 20, fixed, None)


def slopes(found, X, y, likelihood):
    """By autodiff of the public bound: none in the mean or the root of q."""

    def bound(mean, root):
        guide = WhitenedGuide(mean, jnp.tril(root))
        return guide.elbo(found.prior, X, y, likelihood=likelihood)

    at = found.guide.mean, found.guide.scale_tril
    return jax.tree.leaves(jax.grad(bound, (0, 1))(*at))


@pytest.mark.parametrize("name", few_of(SETS, "motorcycle"))
def test_natural_gradients_are_at_the_optimum_in_a_few_evaluations(name, x64):
    prior, X, y, likelihood = SETS[name]()
    found = fit_sparse(prior, X, y, likelihood=likelihood, fixed="all", **QUIET)
    assert found.converged and found.n_steps == 0
    assert max(np.abs(slope).max() for slope in slopes(found, X, y, likelihood)) < 1e-3
    problem = problem_of(prior, X, y, likelihood)
    projection = problem.prior.project(problem.prior.inducing(), problem.X)
    run = jax.jit(ascend, static_argnums=4)
    start = no_sites(projection.mean)
    # Every evaluation of the bound counts, those of steps that are halved too.
    early = run(problem.law, projection, problem.y, start, MOST[name])
    assert found.elbo - 1e-3 < early.bound <= found.elbo + 1e-9
    assert early.n_steps >= 3


def test_whole_steps_would_diverge_where_tails_are_heavy(x64):
    prior, X, y, likelihood = motorcycle()
    problem = problem_of(prior, X, y, likelihood)
    projection = problem.prior.project(problem.prior.inducing(), problem.X)

    @jax.jit
    def whole_step(sites):
        q, ok = from_sites(sites, projection.explained)
        bound, target = bound_and_target(problem.law, projection, problem.y, q)
        return target, bound, ok

    sites, bounds = no_sites(projection.mean), []
    for _ in range(20):
        sites, bound, ok = whole_step(sites)
        bounds.append(float(bound) if ok else -np.inf)
    assert max(bounds) < -110  # the optimum is -106.3


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", SETS)
def test_three_thousand_steps_of_adam_find_no_more(name, x64):
    prior, X, y, likelihood = SETS[name]()
    found = fit_sparse(prior, X, y, likelihood=likelihood, fixed="all", **QUIET)
    m = prior.Z.shape[0]

    def bound(free):
        mean, root = free
        root = jnp.tril(root, -1) + jnp.diag(jnp.exp(jnp.diagonal(root)))
        return WhitenedGuide(mean, root).elbo(prior, X, y, likelihood=likelihood)

    adam = optax.adam(optax.cosine_decay_schedule(0.05, 3000))
    free = jnp.zeros(m), jnp.zeros((m, m))

    def step(carry, _):
        free, state = carry
        value, slope = jax.value_and_grad(lambda f: -bound(f))(free)
        moves, state = adam.update(slope, state)
        return (optax.apply_updates(free, moves), state), -value

    _, bounds = jax.jit(lambda c: jax.lax.scan(step, c, None, 3000))(
        (free, adam.init(free))
    )
    assert abs(float(bounds.max()) - float(found.elbo)) < 1e-3


@pytest.mark.exhaustive
def test_gaussian_noise_takes_one_step_and_trains_the_collapsed_bound(x64):
    prior, X, y, _ = motorcycle()
    prior = SparseGPPrior(prior.kernel, prior.Z[::3], ConstantMean(0.1))
    found = fit_sparse(prior, X, y, 0.1, **QUIET)
    assert found.converged and found.likelihood is None
    bound = found.prior.log_marginal_bound(X, y, found.noise_var)
    np.testing.assert_allclose(found.elbo, bound, rtol=1e-9)

    @jax.jit
    def at(values):
        kernel = Matern(2.5, values[0], values[1])
        moved = SparseGPPrior(kernel, values[4:, None], ConstantMean(values[3]))
        return moved.log_marginal_bound(X, y, values[2])

    kernel = found.prior.kernel
    values = [kernel.variance, kernel.lengthscale, found.noise_var]
    values = jnp.stack([*values, found.prior.mean_fn.value, *found.prior.Z[:, 0]])
    np.testing.assert_allclose(at(values), bound, rtol=1e-12)
    assert np.abs(jax.grad(at)(values)).max() < 133 * 1e-4
    text = str(found)
    assert text.startswith("converged after") and "7 inducing inputs" in text
    assert all(name in text for name in ("Matern.variance", "noise_var", "mean_fn"))


def trained(f):
    scale = numpyro.param("scale", 0.3, constraint=constraints.positive)
    df = numpyro.sample("df", dist.Gamma(2.0, 0.1))
    return dist.StudentT(df, f, scale)


@pytest.mark.exhaustive
def test_the_slope_of_the_best_bound(x64):
    """That of a q(u) held fixed is that of the bound at the best q(u)."""
    prior, X, y, _ = motorcycle()
    prior = SparseGPPrior(prior.kernel, prior.Z[::4])
    problem = problem_of(prior, X[::4], y[::4], trained)
    sites, vector = no_sites(problem.X[:, 0]), to_vector(problem)
    assert vector.size == 2 + 5 + 2
    value = jax.jit(lambda v: objective(problem, sites, v))
    found = jax.jit(jax.grad(lambda v: objective(problem, sites, v)))(vector)
    np.testing.assert_allclose(found, central_difference(value, vector), atol=2e-6)
    # What is minimised is the bound and the prior of df.
    q = best_q(problem, problem.prior, problem.law, sites).q
    df = problem.law.values["df"]
    bound = WhitenedGuide(q.mean, q.root).elbo(
        prior, X[::4], y[::4], likelihood=lambda f: dist.StudentT(df, f, 0.3)
    )
    total = bound + dist.Gamma(2.0, 0.1).log_prob(df)
    np.testing.assert_allclose(value(vector), -total / problem.n_data, rtol=1e-9)


@pytest.mark.exhaustive
def test_parameters_of_the_likelihood_are_trained(x64):
    prior, X, y, _ = motorcycle()
    prior = SparseGPPrior(prior.kernel, prior.Z[::4])
    names = ["Z", "Matern.variance"]
    found = fit_sparse(prior, X[::2], y[::2], likelihood=trained, fixed=names, **QUIET)
    assert found.converged and found.noise_var is None
    assert set(found.parameters) == {"df", "scale"}
    assert np.array_equal(found.prior.Z, prior.Z)
    assert found.prior.kernel.lengthscale != 0.5

    def total(df, scale):
        def likelihood(f):
            return dist.StudentT(df, f, scale)

        bound = found.guide.elbo(found.prior, X[::2], y[::2], likelihood=likelihood)
        return bound + dist.Gamma(2.0, 0.1).log_prob(df)

    at = found.parameters["df"], found.parameters["scale"]
    np.testing.assert_allclose(total(*at), found.elbo + found.log_prior, rtol=1e-9)
    assert np.abs(jax.grad(total, (0, 1))(*at)).max() < 67 * 1e-4
    assert float(found.likelihood(jnp.zeros(())).df) == float(at[0])
    assert "log density of the priors" in str(found)


@pytest.mark.exhaustive
def test_single_precision_and_paths():
    prior, X, y, likelihood = counts()
    X = X[::4].astype("float32")
    prior = SparseGPPrior(
        Matern(2.5).with_priors(lengthscale=dist.LogNormal(0.0, 0.5)),
        X[::5],
    )
    found = fit_sparse(prior, X, y[::4], likelihood=likelihood, **QUIET)
    assert {leaf.dtype for leaf in (found.elbo, found.guide.mean, found.prior.Z)} == {
        np.dtype("float32")
    }
    sampler = DecoupledPathwiseSampler(found.prior, found.guide, 256)
    rate = np.exp(sampler.sample_paths(jax.random.key(0), 64)(X)).mean(0)
    assert rate[:5].mean() > 1.5 * rate[-10:].mean()


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", ["classes", "motorcycle"])
def test_minibatches_come_near_the_optimum_of_all_data(name, x64):
    """The rates end at a hundredth, so that some noise of the batches is left."""
    prior, X, y, likelihood = SETS[name]()
    how = {"likelihood": likelihood, "fixed": "all", **QUIET}
    best = fit_sparse(prior, X, y, **how)
    batches = {"batch_size": 50, "key": jax.random.key(0)}
    found = fit_sparse(prior, X, y, **how, **batches)
    assert best.elbo - 0.2 < found.elbo < best.elbo
    few = fit_sparse(prior, X, y, **how, **batches, max_steps=20)
    assert few.elbo < best.elbo - 1
    np.testing.assert_allclose(
        found.elbo,
        found.guide.elbo(found.prior, X, y, likelihood=likelihood),
        rtol=1e-9,
    )
    assert str(found).startswith("2000 minibatches of 50\n")


def test_parameters_keep_their_names_in_and_out_of_programs(x64):
    problem = problem_of(PRIOR, *DATA, trained)
    inside, outside = jax.jit(to_vector)(problem), to_vector(problem)
    np.testing.assert_allclose(inside, outside, rtol=1e-12)
    for unpack in (from_vector, jax.jit(from_vector)):
        values = unpack(problem, inside)[1].parameters()
        np.testing.assert_allclose(values["scale"], 0.3)
        assert values["df"] > 1


@pytest.mark.exhaustive
def test_minibatches_train_the_rest_too(x64):
    prior, X, y, _ = motorcycle()
    how = {"batch_size": 66, "key": jax.random.key(1), "max_steps": 3000}
    best = fit_sparse(prior, X, y, likelihood=trained, **QUIET)
    found = fit_sparse(prior, X, y, likelihood=trained, **how, **QUIET)
    reached = found.elbo + found.log_prior - best.elbo - best.log_prior
    assert -0.6 < reached < 1e-3
    assert abs(found.parameters["scale"] - 0.3) > 0.01
    noise = fit_sparse(prior, X, y, np.full(y.size, 0.2), **how, **QUIET)
    bound = noise.prior.log_marginal_bound(X, y, np.full(y.size, 0.2))
    assert bound - 0.3 < noise.elbo <= bound + 1e-9


@pytest.mark.exhaustive
def test_a_whole_batch_at_the_optimum_moves_nothing(x64):
    prior, X, y, likelihood = motorcycle()
    prior = SparseGPPrior(prior.kernel, prior.Z[::4])
    problem = problem_of(prior, X, y, likelihood, "all")
    projection = problem.prior.project(problem.prior.inducing(), problem.X)
    sites = no_sites(problem.X[:, 0])
    best = jax.jit(ascend, static_argnums=4)(
        problem.law, projection, problem.y, sites, 100
    )
    covariance = best.q.root @ best.q.root.T
    precision = jnp.linalg.inv(covariance)
    one, half = jnp.ones(()), jnp.full((), 0.5)
    point, step = jnp.zeros(0), jnp.zeros((), jnp.int32)
    rates = Rates(half, half, jnp.asarray(10, jnp.int32))
    adam = optax.scale_by_adam().init(point)
    rows = jnp.arange(y.size)
    move = jax.jit(_step)
    there = Run(best.q, precision, point, adam, one, step)
    moved = move(problem, there, rates, rows)
    np.testing.assert_allclose(moved.q.mean, best.q.mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(moved.q.divergence, best.q.divergence, rtol=1e-5)
    # From far and sure it moves to a Gaussian, although a plain step leads to none.
    sure = Whitened(jnp.full(5, 4.0), 0.01 * jnp.eye(5), jnp.zeros(()))
    far = there._replace(q=sure, precision=1e4 * jnp.eye(5))
    whole = Rates(jnp.ones(()), half, jnp.asarray(10, jnp.int32))
    moved = move(problem, far, whole, rows)
    _, target = bound_and_target(problem.law, projection, problem.y, sure)
    A = np.asarray(projection.explained)
    assert np.linalg.eigvalsh(np.eye(5) + (A * target.precision) @ A.T).min() < 0
    assert np.linalg.eigvalsh(moved.precision).min() > 0
    assert np.abs(moved.q.mean - 4).max() > 0.1
    root = np.asarray(moved.q.root)
    np.testing.assert_allclose(root @ root.T @ moved.precision, np.eye(5), atol=1e-8)
    for K in (40, 133):
        law = as_sparse_problem(prior, X, y, None, likelihood, 20, "all", None, K).law
        rest = law, best.q, *blocks_of(y.size, K)
        blocks = bound_by_blocks(problem, problem.prior, *rest)
        np.testing.assert_allclose(blocks, best.bound, rtol=1e-9)


REFUSED = {
    "batches without a key": (
        lambda: fit_sparse(PRIOR, *DATA, 0.1, batch_size=2),
        "a key to choose them. Got key=None",
    ),
    "a batch of more": (
        lambda: fit_sparse(PRIOR, *DATA, 0.1, batch_size=6, key=jax.random.key(0)),
        "Got 6 rows of 5.*at most batch_size=5",
    ),
    "a rate above one": (
        lambda: fit_sparse(PRIOR, *DATA, 0.1, batch_size=2, natural_rate=2.0),
        "natural_rate=...*above 0 and at most 1. Got 2.0",
    ),
    "an exact prior": (
        lambda: fit_sparse(GPPrior(RBF(), np.zeros((1, 1))), *DATA, 0.1),
        "must be a SparseGPPrior. Got a GPPrior",
    ),
    "neither": (lambda: fit_sparse(PRIOR, *DATA), "Got neither"),
    "an unknown name": (
        lambda: fit_sparse(PRIOR, *DATA, 0.1, fixed=["RBF.nu"]),
        r"\['RBF.nu'\], which are not there.*'RBF.variance'.*'Z'.*'noise_var'",
    ),
    "no count": (
        lambda: fit_sparse(PRIOR, DATA[0], DATA[1] - 9, likelihood=poisson),
        "support.*Got -9",
    ),
    "a discrete site": (
        lambda: fit_sparse(
            PRIOR,
            *DATA,
            likelihood=lambda f: dist.Normal(
                f, 1.0 + numpyro.sample("k", dist.Poisson(3.0))
            ),
        ),
        "makes the site 'k', which is observed or discrete",
    ),
    "traced": (
        lambda: jax.jit(lambda y: fit_sparse(PRIOR, DATA[0], y, 0.1).elbo)(DATA[1]),
        "must be given values that are known",
    ),
}
PRIOR = SparseGPPrior(RBF(), np.zeros((1, 1)))
DATA = np.linspace(0, 1, 5)[:, None], np.arange(5)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name):
    call, sentence = REFUSED[name]
    with pytest.raises(ValueError, match=sentence):
        call()


@pytest.mark.exhaustive
def test_a_fit_that_stops_early_says_so(x64):
    with pytest.warns(UserWarning, match="stopped at max_steps=1.*max_steps=4"):
        found = fit_sparse(PRIOR, *DATA, 0.1, max_steps=1, **QUIET)
    assert str(found).startswith("NOT CONVERGED after 1 steps")
