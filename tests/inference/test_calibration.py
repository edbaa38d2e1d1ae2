"""Is the whole line calibrated? Simulation-based, and against a quadrature.

Hyperparameters are drawn from their priors and data from the process, in NumPy; NUTS
through `gp_factor` and `paths_over_draws` answer. Truth and answers are then draws of
one law, so the rank of a truth among its answers is uniform (Talts et al. 2018). Ranks
of hyperparameters and of values of f are uniform too where data are not looked at at
all; that of the misfit, which the data enter, is not (Modrak et al. 2023).

Answers of a chain are not independent, which spreads ranks towards their ends: their
variance grows by (1 / ESS - 1 / L) / 6 over 1 / 12. Of L = 99 draws, every fifth of a
chain, the effective sample size is 93 to 97, in the table: an excess of 1e-4 at most,
where the standard error over 512 data sets is 3e-3.
"""

# NumPyro types its values as array-like or None, and its handlers as what they wrap.
# pyright: reportArgumentType=false

import functools

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from _moments import Stationary
from numpyro.diagnostics import effective_sample_size
from numpyro.infer import MCMC, NUTS
from scipy.stats import binom

from pyrox.gp import GPPrior, gp_factor, paths_over_draws, site_names, substitute

pytestmark = pytest.mark.numpyro

RNG = np.random.default_rng(15)
X = np.concatenate([RNG.uniform(0.0, 0.35, 7), RNG.uniform(0.6, 1.0, 7)])[:, None]
POINTS = np.array([[0.2], [0.48], [1.3]])  # inside the data, between, outside
# The median and the deviation of the logarithm.
LOG_NORMAL = {
    "f.variance": (1.0, 0.5),
    "f.lengthscale": (0.3, 0.5),
    "noise": (0.3, 0.5),  # a deviation
}
QUANTITIES = (*LOG_NORMAL, "f inside", "f between", "f outside", "misfit")

N_DRAWS = 99  # ranks 0 to 99, so that each of the 20 cells below holds five
CUTS = np.arange(5, 100, 5)
BATCH, N_BATCHES, N_BATCHES_OF_TWINS = 64, 8, 2
FALSE_ALARM = 1e-3  # for all quantities of a case together
CASES = [("RBF", 64), ("Matern-3/2", 32)]


def hyperprior(name):
    median, spread = LOG_NORMAL[name]
    return dist.LogNormal(np.log(median), spread)


def gp_prior(kind, width):
    kernel = Stationary(kind, np.ones(())).library("f", f"float{width}")
    hypers = {field: hyperprior(f"f.{field}") for field in ("variance", "lengthscale")}
    return GPPrior(kernel.with_priors(**hypers), X.astype(f"float{width}"))


# --- The process in NumPy ----------------------------------------------------------


@functools.cache
def data_sets(kind, batch):
    """Hyperparameters, f at X and POINTS, and y."""
    rng = np.random.default_rng([batch, *kind.encode()])
    drawn = from_the_prior(rng, BATCH)
    at = np.concatenate([X, POINTS])
    f = np.empty((BATCH, len(at)))
    rows = zip(drawn["f.lengthscale"], drawn["f.variance"], strict=True)
    for i, (lengthscale, variance) in enumerate(rows):
        K = Stationary(kind, lengthscale, variance)(at, at)
        eigenvalues, vectors = np.linalg.eigh(K)
        root = vectors * np.sqrt(np.clip(eigenvalues, 0, None))
        f[i] = root @ rng.normal(size=len(at))
    noise = drawn["noise"][:, None] * rng.normal(size=(BATCH, len(X)))
    return drawn, f, f[:, : len(X)] + noise


def from_the_prior(rng, *shape):
    return {
        name: median * np.exp(spread * rng.normal(size=shape))
        for name, (median, spread) in LOG_NORMAL.items()
    }


# --- What is tested ----------------------------------------------------------------


@functools.cache
def program(kind, width, n_warmup=300, n_draws=N_DRAWS, thinning=5):
    """Posterior draws, a chain for each data set of a batch. The noise variance of the
    model is that of the draw times `factor`, which is 1 but in a twin."""

    def model(y, factor):
        noise = numpyro.sample("noise", hyperprior("noise"))
        gp_factor("y", gp_prior(kind, width), y, factor * noise**2)

    def run(key, y, factor):
        nuts = NUTS(model, target_accept_prob=0.9, max_tree_depth=6)
        lengths = {"num_warmup": n_warmup, "num_samples": thinning * n_draws}
        mcmc = MCMC(nuts, **lengths, thinning=thinning, progress_bar=False)
        mcmc.run(key, y, factor)
        return mcmc.get_samples()

    return jax.jit(jax.vmap(run, (0, 0, None)))


@functools.cache
def program_of_paths(kind, width):
    """One path for each draw, at X and POINTS."""
    at = np.concatenate([X, POINTS]).astype(f"float{width}")

    def values(key, draws, y, factor):
        prior = gp_prior(kind, width)

        def condition(draw):
            given = {name: draw[name] for name in site_names(prior)}
            return substitute(prior, given).condition(y, factor * draw["noise"] ** 2)

        return paths_over_draws(key, draws, condition, n_paths=1, n_features=128)(at)

    return jax.jit(jax.vmap(values, (0, 0, 0, None)))


def keys_of(batch, step):
    return jax.random.split(jax.random.key(2 * batch + step), BATCH)


def as_type(array, width):
    return np.asarray(array, f"float{width}")


@functools.cache
def posterior_draws(case, batch, factor=1.0):
    kind, width = case
    _, _, y = data_sets(kind, batch)
    args = as_type(y, width), as_type(factor, width)
    return program(kind, width)(keys_of(batch, 0), *args)


def quantities(hyper, f, y):
    """What is ranked, the QUANTITIES last."""
    misfit = np.mean((y - f[..., : len(X)]) ** 2, axis=-1, keepdims=True)
    columns = [np.asarray(hyper[name])[..., None] for name in LOG_NORMAL]
    return np.concatenate([*columns, f[..., len(X) :], misfit], axis=-1)


def ranks(case, batch, draws, factor=1.0):
    """Ranks and effective sample sizes, (BATCH, 7) both."""
    kind, width = case
    drawn, f, y = data_sets(kind, batch)
    args = as_type(y, width), as_type(factor, width)
    paths = program_of_paths(kind, width)(keys_of(batch, 1), draws, *args)
    answers = quantities(draws, np.asarray(paths)[:, :, 0], y[:, None])
    assert np.isfinite(answers).all()
    found = np.sum(answers < quantities(drawn, f, y)[:, None], axis=1)
    return found, effective_sample_size(np.moveaxis(answers, 1, 0)[None])


# --- Uniformity --------------------------------------------------------------------


def chances(ranks):
    """For each quantity the chance, at most, that uniform ranks stray as far.

    The number of data sets with a rank below a cut is binomial. Twice the smaller tail
    at the worst cut, times the number of cuts: a band around the distribution function
    (Sailynoja et al. 2022), by the union bound instead of simulation.
    """
    n_sets = len(ranks)
    below = np.sum(ranks[:, :, None] < CUTS, axis=0)
    share = CUTS / (N_DRAWS + 1)
    tails = np.minimum(
        binom.cdf(below, n_sets, share), binom.sf(below - 1, n_sets, share)
    )
    return np.minimum(1, 2 * tails.min(axis=1) * len(CUTS))


def family_chance(ranks):
    return min(1, chances(ranks).min() * ranks.shape[1])


def table(title, ranks, sizes):
    lines = [
        f"\n{title}: {len(ranks)} data sets, {N_DRAWS} draws of each",
        f"{'':14s}mean rank  variance x 12    ESS   chance at most",
    ]
    unit = (ranks + 0.5) / (N_DRAWS + 1)
    rows = zip(
        QUANTITIES,
        unit.mean(0),
        12 * unit.var(0),
        sizes.mean(0),
        chances(ranks),
        strict=True,
    )
    lines += [f"{n:14s}{m:9.3f}{v:15.3f}{s:7.0f}{c:17.1e}" for n, m, v, s, c in rows]
    return "\n".join(lines)


def test_the_band_has_the_false_alarm_rate_that_is_stated():
    """Uniform ranks of seven independent quantities, 1000 times: three standard errors
    above one in twenty is 0.071."""
    rng = np.random.default_rng(0)
    alarms = [
        family_chance(rng.integers(0, N_DRAWS + 1, (128, 7))) < 0.05
        for _ in range(1000)
    ]
    assert 0 < np.mean(alarms) < 0.071


@pytest.mark.exhaustive
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-float{case[1]}")
def test_ranks_are_uniform(case):
    with jax.enable_x64(case[1] == 64):
        batches = [ranks(case, b, posterior_draws(case, b)) for b in range(N_BATCHES)]
    found, sizes = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    print(table(f"{case[0]}, float{case[1]}", found, sizes))
    assert family_chance(found) > FALSE_ALARM
    assert sizes.mean(0).min() > 0.8 * N_DRAWS


def noise_of_the_model(batch):
    case, factor = CASES[0], 2.0
    return ranks(case, batch, posterior_draws(case, batch, factor), factor)


def noise_of_the_paths(batch):
    case, factor = CASES[0], 4.0
    return ranks(case, batch, posterior_draws(case, batch), factor)


def prior_for_posterior(batch):
    """Paths told data with a noise that drowns them are draws of the prior."""
    draws = from_the_prior(np.random.default_rng(batch), BATCH, N_DRAWS)
    return ranks(CASES[0], batch, draws, factor=1e8)


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "twin", [noise_of_the_model, noise_of_the_paths, prior_for_posterior]
)
def test_a_mistake_is_noticed_in_a_quarter_of_the_data_sets(twin, x64):
    batches = [twin(batch) for batch in range(N_BATCHES_OF_TWINS)]
    found, sizes = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    print(table(twin.__name__.replace("_", " "), found, sizes))
    assert family_chance(found) < FALSE_ALARM
    if twin is prior_for_posterior:
        assert family_chance(found[:, :-1]) > FALSE_ALARM  # only the misfit sees it


# --- One data set against a quadrature ---------------------------------------------


def moments_by_quadrature(y, factor=1.0, n_points=24):
    """Mean and covariance of the logarithms of variance, lengthscale and noise, by a
    sum over a grid that is even in them, over 4.5 deviations of their priors."""
    z = np.linspace(-4.5, 4.5, n_points)
    axes = [np.log(median) + spread * z for median, spread in LOG_NORMAL.values()]
    signal = np.exp(axes[0])[:, None, None]
    noise = factor * np.exp(2 * axes[2])[:, None]
    log_p = -0.5 * np.sum(np.square(np.meshgrid(z, z, z, indexing="ij")), axis=0)
    for j, log_lengthscale in enumerate(axes[1]):
        R = Stationary("RBF", np.exp(log_lengthscale))(X, X)
        eigenvalues, vectors = np.linalg.eigh(R)
        spectrum = signal * np.clip(eigenvalues, 0, None) + noise
        terms = (vectors.T @ y) ** 2 / spectrum + np.log(spectrum)
        log_p[:, j] -= 0.5 * terms.sum(-1)
    weights = np.exp(log_p - log_p.max()).ravel()
    logs = np.stack([a.ravel() for a in np.meshgrid(*axes, indexing="ij")])
    return np.average(logs, 1, weights), np.cov(logs, aweights=weights, ddof=0)


def largest_t(chains, mean, cov):
    """How many standard errors the moments of the chains are off, at most."""
    z, pairs = chains - mean, np.triu_indices(3)
    products = (z[..., :, None] * z[..., None, :])[..., *pairs]
    errors = np.concatenate([z, products - cov[pairs]], axis=-1).mean(axis=1)
    t = errors.mean(axis=0) / errors.std(axis=0, ddof=1) * np.sqrt(len(chains))
    return np.abs(t).max()


@pytest.mark.exhaustive
def test_nuts_has_the_moments_of_a_quadrature(x64, plainly_compiled):
    """Three means and six covariances, from sixteen chains: within 6.5 standard errors
    by Student's t of fifteen degrees, a false alarm of 1e-4 at most."""
    y = np.sin(6 * X[:, 0]) + 0.3 * np.random.default_rng(5).normal(size=len(X))
    keys, many = jax.random.split(jax.random.key(1), 16), np.broadcast_to(y, (16, 14))
    run = program("RBF", 64, n_warmup=150, n_draws=150, thinning=1)
    draws = run(keys, many, np.ones(()))
    chains = np.stack([np.log(draws[name]) for name in LOG_NORMAL], axis=-1)
    assert largest_t(chains, *moments_by_quadrature(y)) < 6.5
    for factor in (0.8, 1.25):
        assert largest_t(chains, *moments_by_quadrature(y, factor)) > 6.5
