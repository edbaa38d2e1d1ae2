"""Paths over draws of latent values: their law is the mixture over the draws, and at
the data they are the values that were sampled, but for the jitter."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from helpers import few_of
from numpyro.infer import MCMC, NUTS

from pyrox.gp import (
    RBF,
    ConstantMean,
    GPPrior,
    Matern,
    SparseGPPrior,
    gp_sample,
    latent,
    optimize_paths,
    paths_over_draws,
    sample_hyperparameters,
    substitute,
)

pytestmark = pytest.mark.usefixtures("plainly_compiled")

KEY = jax.random.key(0)
N = 20
X = np.linspace(0.0, 1.0, N)[:, None]
FAR = np.linspace(-0.2, 1.2, 15)[:, None] + 0.013
LEVEL, JITTER = 0.3, 1e-6
_rng = np.random.default_rng(3)
WAVE = np.sin(6 * X[:, 0])
OBSERVED = {
    "Poisson": _rng.poisson(np.exp(1 + WAVE)),
    "Bernoulli": (_rng.uniform(size=N) < 1 / (1 + np.exp(-2 * WAVE))).astype(int),
    "Student-t": WAVE + 0.2 * _rng.standard_t(3, N),
    "ordinal": np.searchsorted([-0.7, 0.7], WAVE + _rng.logistic(0, 0.3, N)),
}


def likelihood(name, f):
    """With parameters of its own, which are sites among the draws."""
    if name == "Poisson":
        return dist.Poisson(jnp.exp(f))
    if name == "Bernoulli":
        return dist.Bernoulli(logits=f)
    if name == "Student-t":
        return dist.StudentT(3.0, f, numpyro.sample("scale", dist.HalfNormal(1.0)))
    base = dist.Normal(0.0, 2.0).expand([2]).to_event(1)
    ordered = dist.transforms.OrderedTransform()
    cuts = numpyro.sample("cuts", dist.TransformedDistribution(base, ordered))
    return dist.OrderedLogistic(f, cuts)


def prior():
    kernel = RBF(1.0, 1.0).with_priors(
        variance=dist.LogNormal(0.0, 0.3), lengthscale=dist.LogNormal(-1.2, 0.3)
    )
    return GPPrior(kernel, X, ConstantMean(LEVEL))


@functools.cache
def draws_of(name, whitened=True, n_draws=150):
    if name == "no data":
        return made_draws(n_draws)

    def model():
        f = gp_sample("f", prior(), whitened)
        numpyro.sample("y", likelihood(name, f).to_event(1), obs=OBSERVED[name])

    nuts = NUTS(model, max_tree_depth=5)
    mcmc = MCMC(nuts, num_warmup=100, num_samples=n_draws, progress_bar=False)
    # NumPyro's own code does not keep to the strict rules of the tests.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        mcmc.run(KEY)
    return {name: np.asarray(values) for name, values in mcmc.get_samples().items()}


def dense_moments(draws, noise=0.0):
    """Mean and deviation of every draw's posterior at FAR, in NumPy."""
    means, sds = [], []
    sites = (draws[n] for n in ("RBF.variance", "RBF.lengthscale", "f"))
    for variance, ell, u in zip(*sites, strict=True):

        def gram(A, B, variance=variance, ell=ell):
            return variance * np.exp(-0.5 * ((A - B.T) / ell) ** 2)

        A = gram(X, X) + (JITTER * variance + noise) * np.eye(N)
        gain = np.linalg.solve(A, gram(X, FAR))
        means.append(LEVEL + gain.T @ (u - LEVEL))
        var = variance - np.sum(gain * gram(X, FAR), axis=0)
        sds.append(np.sqrt(np.maximum(var, 0)))
    return np.stack(means), np.stack(sds)


def largest_z(values, means, sds):
    """How far two moments of the paths are from those of the mixture, in standard
    errors, the most over all points. Paths of one draw share frequencies, which their
    mean does not feel; their variance feels it by the features' error alone."""
    values, n = np.asarray(values), values.shape[0] * values.shape[1]
    z_mean = (values.mean((0, 1)) - means.mean(0)) / np.sqrt((sds**2).mean(0) / n)
    spread = (2 * sds**4 + 4 * (sds * means) ** 2).mean(0) / n
    off = (values**2).mean((0, 1)) - (sds**2 + means**2).mean(0)
    return max(np.abs(z_mean).max(), np.abs(off / np.sqrt(spread)).max())


@pytest.mark.parametrize("name", few_of(["no data", *OBSERVED], "no data"))
def test_the_law_is_the_mixture_over_the_draws(name, x64):
    """Five standard errors of 30 moments: a false alarm in 60,000."""
    draws = draws_of(name)
    paths = paths_over_draws(KEY, draws, latent(prior(), "f"), 16, 512)
    both = np.asarray(paths(np.concatenate([FAR, X])))
    values, at_data = np.split(both, [len(FAR)], axis=2)
    assert largest_z(values, *dense_moments(draws)) < 5
    # The twin: noise about the latent values would be seen.
    assert largest_z(values, *dense_moments(draws, noise=0.1)) > 5
    # At the data: the values that were sampled, but for the jitter. Of 48,000 normal
    # values 3 lie beyond four deviations; 48 do for one seed in 1e30.
    jitter = np.sqrt(JITTER * draws["RBF.variance"])[:, None, None]
    missed = (at_data - draws["f"][:, None, :]) / jitter
    assert np.mean(np.abs(missed) > 4) < 1e-3 and np.abs(missed).max() < 5.5
    excess = np.mean(missed**2) - squared_misses(draws)
    assert abs(excess) < 5 * np.sqrt(2 / missed.size)


def squared_misses(draws):
    """What is expected of (f(X) - u)^2 over the jitter, given u, by the dense moments:
    with A = K + j I its mean is -j A^-1 (u - mean), its covariance j I - j^2 A^-1."""
    found = []
    sites = (draws[n] for n in ("RBF.variance", "RBF.lengthscale", "f"))
    for variance, ell, u in zip(*sites, strict=True):
        jitter = JITTER * variance
        K = variance * np.exp(-0.5 * ((X - X.T) / ell) ** 2)
        inverse = np.linalg.inv(K + jitter * np.eye(N))
        mean = jitter * inverse @ (u - LEVEL)
        found.append(np.mean(1 - jitter * np.diag(inverse) + mean**2 / jitter))
    return np.mean(found)


@pytest.mark.exhaustive
def test_values_sampled_without_whitening(x64):
    draws = draws_of("Bernoulli", whitened=False)
    assert "f_whitened" not in draws
    paths = paths_over_draws(KEY, draws, latent(prior(), "f"), 16, 512)
    assert largest_z(paths(FAR), *dense_moments(draws)) < 5


def made_draws(n_draws=3, plates=(), jitter=JITTER):
    """Draws of the prior and its hyperparameters, without a chain."""
    rng = np.random.default_rng(0)
    made = {"RBF.variance": np.exp(0.3 * rng.normal(size=n_draws))}
    made["RBF.lengthscale"] = np.exp(-1.2 + 0.2 * rng.normal(size=n_draws))
    made["f_whitened"] = rng.normal(size=(n_draws, *plates, N))
    values = []
    for variance, ell, z in zip(*made.values(), strict=True):
        K = variance * np.exp(-0.5 * ((X - X.T) / ell) ** 2)
        lower = np.linalg.cholesky(K + jitter * variance * np.eye(N))
        values.append(LEVEL + z @ lower.T)
    return {**made, "f": np.stack(values), "scale": rng.normal(size=(n_draws, 2, 5))}


def test_whitened_values_are_the_same_values(x64):
    draws = made_draws()
    whitened = {name: values for name, values in draws.items() if name != "f"}
    given = latent(prior(), "f")
    for i in range(2):
        one, other = (
            given({name: values[i] for name, values in sites.items()})
            for sites in (draws, whitened)
        )
        np.testing.assert_allclose(other.y, one.y, atol=1e-10)
        np.testing.assert_allclose(one.predict_mean(X), one.y, atol=1e-2)
        assert one.noise_var == 0 and one.jitter_var > 0


def test_within_plates_each_element_has_functions_of_its_own(x64):
    draws = made_draws(plates=(2,))
    paths = paths_over_draws(KEY, draws, latent(prior(), "f"), 4, 64)
    values = paths(X)
    assert values.shape == (3, 2, 4, N) and len(paths) == 3 and paths.plates == (2,)
    missed = np.abs(np.asarray(values) - draws["f"][:, :, None, :])
    assert missed.max() < 5e-3
    np.testing.assert_allclose(paths[2, -1](X), values[2, 1], atol=1e-10)
    with pytest.raises(IndexError, match=r"has 2 numbers.*plates, \(2,\). Got 1"):
        paths[1]
    with pytest.raises(IndexError, match="there are 2 elements in plate 0"):
        paths[0, 2]


@pytest.mark.exhaustive
def test_chains_side_by_side(x64):
    draws = made_draws(6)
    chains = {name: v.reshape(2, 3, *v.shape[1:]) for name, v in draws.items()}
    paths = paths_over_draws(KEY, chains, latent(prior(), "f"), 4, 64, basis="iid")
    missed = np.asarray(paths(X)) - chains["f"][:, :, None, :]
    assert missed.shape == (2, 3, 4, N) and np.abs(missed).max() < 5e-3
    box = np.array([[0.0], [1.0]])
    found = optimize_paths(KEY, paths, box, n_candidates=8, n_starts=2)
    assert found.values.shape == (24,)  # paths of all draws of all chains


@pytest.mark.numpyro
@pytest.mark.exhaustive
def test_a_plate_of_a_model(x64):
    """From the sampler's own draws, whatever the layout of the sites."""

    def model():
        resolved = sample_hyperparameters(prior())
        with numpyro.plate("series", 2):
            f = gp_sample("f", resolved)
            y = dist.Poisson(jnp.exp(f)).to_event(1)
            numpyro.sample("y", y, obs=np.stack(2 * [OBSERVED["Poisson"]]))

    nuts = NUTS(model, max_tree_depth=4)
    mcmc = MCMC(nuts, num_warmup=20, num_samples=5, progress_bar=False)
    mcmc.run(KEY)
    draws = mcmc.get_samples()
    assert draws["f"].shape == (5, 2, N)
    values = paths_over_draws(KEY, draws, latent(prior(), "f"), 3, 64)(X)
    assert np.abs(values - draws["f"][:, :, None, :]).max() < 1e-2


@pytest.mark.exhaustive
def test_a_prior_that_the_model_builds_from_sites_of_its_own(x64):
    draws = made_draws()
    own = {"f": draws["f"], "s": draws["RBF.variance"], "ell": draws["RBF.lengthscale"]}

    def built(draw):
        return GPPrior(RBF(draw["s"], draw["ell"]), X, ConstantMean(LEVEL))

    sizes = 4, 64, 16, "iid"
    found = paths_over_draws(KEY, own, latent(built, "f"), *sizes)(FAR)
    wanted = paths_over_draws(KEY, draws, latent(prior(), "f"), *sizes)(FAR)
    np.testing.assert_allclose(found, wanted, atol=1e-7)


@pytest.mark.exhaustive
def test_single_precision_carries_its_own_jitter():
    """Draws of the prior miss their values by N(0, jitter) exactly; here 640."""
    fraction = 10 * N * float(np.finfo(np.float32).eps)
    draws = made_draws(4, jitter=fraction)
    single = {name: values.astype("float32") for name, values in draws.items()}
    process = GPPrior(prior().kernel, X.astype("float32"), ConstantMean(LEVEL))
    paths = paths_over_draws(KEY, single, latent(process, "f"), 8, 256)
    values = paths(X.astype("float32"))
    assert values.dtype == np.float32
    jitter = np.sqrt(fraction * draws["RBF.variance"])[:, None, None]
    missed = (np.asarray(values) - draws["f"][:, None]) / jitter
    assert abs(missed.std() - 1) < 0.15 and np.abs(missed).max() < 5


@pytest.mark.parametrize(
    ("change", "sentence"),
    few_of(
        [
            ("f", r"must hold 'f' or 'f_whitened'. Got draws of \['RBF.length"),
            (
                "RBF.variance",
                r"hyperparameters \['RBF.variance'\].*no draws. Got .*",
            ),
            ("short", r"\(\.\.\., 20\).* Got \(7,\)"),
            ("shape", r"'RBF.variance' has shape \(\) in the prior.* Got \(4,\)"),
            ("ahead", r"'RBF.variance' has shape \(\).*front, \(\). Got \(2,\)"),
        ],
        ("RBF.variance", r"hyperparameters \['RBF.variance'\].*no draws. Got .*"),
        ("f", r"must hold 'f' or 'f_whitened'. Got draws of \['RBF.length"),
        ("short", r"\(\.\.\., 20\).* Got \(7,\)"),
    ),
)
def test_draws_that_do_not_fit_are_named(change, sentence):
    draws = made_draws()
    del draws["f_whitened"]
    if change == "short":
        draws["f"] = draws["f"][:, :7]
    elif change == "shape":
        draws["RBF.variance"] = np.ones((3, 4))
    elif change == "ahead":
        draws["RBF.variance"] = np.ones((3, 2))
    else:
        del draws[change]
    with pytest.raises(ValueError, match=sentence):
        paths_over_draws(KEY, draws, latent(prior(), "f"), 2, 8)


def test_what_is_no_prior_is_named():
    with pytest.raises(ValueError, match=r"latent\(prior, name\).*Got a SparseGPPrior"):
        latent(SparseGPPrior(RBF(), X), "f")  # pyright: ignore
    draws = made_draws()
    with pytest.raises(ValueError, match=r"asks for draws of 'ell'. Got draws of"):
        latent(lambda draw: GPPrior(RBF(1.0, draw["ell"]), X), "f")(draws)
    with pytest.raises(ValueError, match="must return a GPPrior. Got a RBF"):
        latent(lambda draw: RBF(), "f")(draws)  # pyright: ignore


@pytest.mark.exhaustive
def test_what_cannot_be_conditioned_on_is_named(x64):
    f = np.zeros(3)
    given = latent(GPPrior(RBF(), np.zeros((3, 1)), jitter=0.0), "f")
    with pytest.raises(ValueError, match="3 inputs is not positive definite"):
        given({"f": f})
    with pytest.raises(ValueError, match=r"draws\['f'\]` must be finite"):
        latent(GPPrior(RBF(), X[:3]), "f")({"f": np.array([0.0, np.nan, 1.0])})
    # In a program whichever check comes first speaks.
    with pytest.raises(Exception, match="must be finite|finite functions"):
        draws = {"f": np.full((2, 3), np.nan)}
        paths_over_draws(KEY, draws, latent(GPPrior(RBF(), X[:3]), "f"), 2, 8)
    # Without a jitter, where there is a factor, the functions take the very values.
    exact = latent(GPPrior(Matern(0.5), X[:3], jitter=0.0), "f")
    paths = paths_over_draws(KEY, {"f": np.ones((2, 3))}, exact, 2, 64)
    np.testing.assert_allclose(paths(X[:3]), 1.0, atol=1e-8)


@pytest.mark.exhaustive
def test_a_kernel_without_its_priors_takes_the_draws_all_the_same(x64):
    draws = made_draws()
    bare = GPPrior(RBF(), X, ConstantMean(LEVEL))
    found, wanted = (
        paths_over_draws(KEY, draws, latent(process, "f"), 2, 64, basis="iid")(FAR)
        for process in (bare, prior())
    )
    np.testing.assert_allclose(found, wanted, atol=1e-10)
    fixed = substitute(prior(), {"RBF.variance": 1.0, "RBF.lengthscale": 0.3})
    one = latent(fixed, "f")({"f": draws["f"][0]})
    assert float(one.prior.kernel.lengthscale) == 0.3  # pyright: ignore
