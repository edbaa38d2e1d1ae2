"""Several latent functions in NumPyro models: sites, and whole trainings by SVI."""

# pyright: reportArgumentType=false

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from numpyro import handlers
from numpyro.infer import SVI, Trace_ELBO

from pyrox import datasets
from pyrox.gp import (
    RBF,
    DecoupledPathwiseSampler,
    Matern,
    SparseGPPrior,
    WhitenedGuide,
    elbo_of_several,
    log_predictive_density,
    predict_observation,
    sample_hyperparameters,
    site_names,
    substitute,
    svgp_factor,
)

pytestmark = [
    pytest.mark.numpyro,
    pytest.mark.usefixtures("plainly_compiled"),
]

X = np.linspace(-1, 1, 8)[:, None]
Y = np.array([0, 1, 1, 2, 0, 2, 2, 1])
Z = X[::3]


def softmax(f):
    return dist.Categorical(logits=f.T)


def noisy(f):
    return dist.Normal(f[0], jnp.exp(f[1]))


def named(n, m):
    return [WhitenedGuide.init(m, name=f"q{p}") for p in range(n)]


def nothing():
    pass


def test_sites_and_values_of_a_model(x64):
    def model():
        def warm(f):
            return softmax(f / numpyro.param("temperature", 2.0))

        wide = RBF(name="k0").with_priors(variance=dist.LogNormal())
        priors = [SparseGPPrior(kernel, Z) for kernel in (wide, RBF(2.0), RBF(3.0))]
        return svgp_factor("obs", priors, named(3, 3), X, Y, likelihood=warm)

    moved = {"q1.mean": jnp.array([0.3, 0.5, -1.0]), "k0.variance": jnp.array(1.5)}
    given: Any = handlers.substitute(handlers.seed(model, 7), data=moved)
    trace = handlers.trace(given).get_trace()
    parts = [f"q{p}.{part}" for p in range(3) for part in ("mean", "scale_tril")]
    assert list(trace) == ["k0.variance", *parts, "temperature", "obs"]
    with handlers.substitute(data=moved), handlers.seed(rng_seed=7):
        numpyro.sample("k0.variance", dist.LogNormal())
        key = numpyro.prng_key()
    guides = substitute(named(3, 3), {"q1.mean": moved["q1.mean"]})
    priors = [SparseGPPrior(RBF(variance), Z) for variance in (1.5, 2.0, 3.0)]
    wanted = elbo_of_several(
        key, priors, guides, X, Y, likelihood=lambda f: softmax(f / 2)
    )
    np.testing.assert_allclose(trace["obs"]["fn"].log_factor, wanted, rtol=1e-12)
    back = given()
    assert [len(part) for part in back] == [3, 3]
    assert back[0][0].kernel.variance == 1.5
    assert np.array_equal(back[1][1].mean, moved["q1.mean"])


def test_one_kernel_for_all(x64):
    kernel = RBF().with_priors(lengthscale=dist.LogNormal())
    prior = SparseGPPrior(kernel, Z)

    def apart():
        svgp_factor("obs", [prior] * 3, named(3, 3), X, Y, likelihood=softmax)

    def shared():
        one = sample_hyperparameters(prior)
        return svgp_factor("obs", [one] * 3, named(3, 3), X, Y, likelihood=softmax)

    with pytest.raises(ValueError, match="'RBF.lengthscale'.*prior = sample_hyper"):
        handlers.seed(apart, 0)()
    seeded: Any = handlers.seed(shared, 0)
    found, _ = seeded()
    assert len({float(one.kernel.lengthscale) for one in found}) == 1


def of(**changes):
    parts = {"prior": [SparseGPPrior(RBF(), Z)] * 3, "guide": named(3, 3)}
    return {"X": X, "y": Y, "likelihood": softmax, **parts, **changes}


REFUSED = {
    "noise_var": ({"noise_var": 0.1}, "and nothing beside it. Got noise_var"),
    "noise_var alone": ({"noise_var": 0.1, "likelihood": None}, "Got noise_var"),
    "guides of one name": (
        {"guide": [WhitenedGuide.init(3)] * 3},
        "Two modules are named 'WhitenedGuide'.*share NumPyro sites",
    ),
    "one prior": ({"prior": SparseGPPrior(RBF(), Z)}, r"\(priors\)` must be a seq"),
    "one guide": ({"guide": named(1, 3)[0]}, r"\(guides\)` must be a sequence"),
    "the site": ({"y": Y + 1}, r"support.*at site 'kinds'.*Got 3 at index \(3,\)"),
    "points of several": ({"n_points": 40}, "for one latent function.*`n_draws`"),
    "draws of one": (
        {"prior": SparseGPPrior(RBF(), Z), "guide": named(1, 3)[0], "n_draws": 8},
        "n_draws=.*is for several latent functions",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_model_refuses(name):
    changes, sentence = REFUSED[name]
    with handlers.seed(rng_seed=0), pytest.raises(ValueError, match=sentence):
        svgp_factor("kinds", **of(**changes))


@pytest.mark.parametrize("handler", [handlers.block, handlers.trace])
def test_draws_need_a_key(handler):
    for call in (svgp_factor, handler(svgp_factor)):
        with pytest.raises(ValueError, match="needs a key.*handlers.seed"):
            call("obs", **of())


def trained(model, steps, rate):
    svi = SVI(model, nothing, optax.adam(rate), Trace_ELBO())
    result = svi.run(jax.random.key(0), steps, progress_bar=False)
    return result.params, np.asarray(result.losses)


@pytest.mark.exhaustive
def test_three_classes_are_learnt():
    """Held-out classes by the average softmax of paths, by minibatches, in float32."""
    rng = np.random.default_rng(0)
    points = rng.uniform(-1, 1, (500, 2)).astype("float32")
    corners = np.array([[0.8, 0.0], [-0.6, 0.7], [-0.6, -0.7]])
    logits = -6 * np.sum((points[:, None] - corners[None]) ** 2, axis=-1)
    classes = np.argmax(logits + rng.gumbel(size=(500, 3)), axis=1)
    train, test = slice(300), slice(300, None)
    inducing = points[:20]

    def model():
        data = jnp.asarray(points[train]), jnp.asarray(classes[train])
        rows = jax.random.choice(numpyro.prng_key(), 300, (100,), replace=False)
        batch = [part[rows] for part in data]
        ell = numpyro.param("ell", 1.0, constraint=dist.constraints.positive)
        prior = SparseGPPrior(RBF(9.0, ell), inducing)
        how = {"likelihood": softmax, "n_total": 300}
        return svgp_factor("obs", [prior] * 3, named(3, 20), *batch, **how)

    params, losses = trained(model, 600, 0.03)
    assert losses.dtype == np.float32
    # A loss of 300 log 3 = 330 is chance.
    assert losses[-50:].mean() < 0.75 * losses[:20].mean() < 0.75 * 400
    guides = named(3, 20)
    guides = substitute(guides, {n: params[n] for n in site_names(guides)})
    prior = SparseGPPrior(RBF(9.0, params["ell"]), inducing)
    keys = jax.random.split(jax.random.key(1), 3)
    paths = [
        DecoupledPathwiseSampler(prior, guide, 512).sample_paths(key, 128)
        for guide, key in zip(guides, keys, strict=True)
    ]
    values = np.stack([f(points[test]) for f in paths])
    chance = np.asarray(jax.nn.softmax(values, axis=0)).mean(axis=1)
    best = logits[test].argmax(axis=1) == classes[test]  # no one can do better
    right = chance.argmax(axis=0) == classes[test]
    assert best.mean() > 0.75 and right.mean() > best.mean() - 0.08
    density = log_predictive_density(paths, points[test], classes[test], softmax)
    own = np.take_along_axis(chance, classes[test][None], axis=0)[0]
    np.testing.assert_allclose(density, np.log(own), rtol=1e-3)
    exact = logits[test] - np.log(np.exp(logits[test]).sum(1, keepdims=True))
    exact = np.take_along_axis(exact, classes[test][:, None], axis=1).mean()
    assert exact - 0.15 < np.mean(density) < exact + 0.05


@pytest.mark.exhaustive
def test_the_noise_of_the_motorcycle_data_varies(x64):
    times, y = datasets.motorcycle()
    y = (y - y.mean()) / y.std()
    inducing = np.linspace(2, 58, 20)[:, None]

    def priors():
        level = SparseGPPrior(Matern(2.5, 1.0, 8.0), inducing)
        low = SparseGPPrior(Matern(2.5, 1.0, 12.0), inducing, lambda X: 0 * X[:, 0] - 1)
        return [level, low]

    # From the prior itself, whose exp(f) is wild, a descent takes far longer.
    narrow = np.zeros(20), 0.1 * np.eye(20)
    start = [WhitenedGuide(*narrow, name=f"q{p}") for p in range(2)]

    def model():
        svgp_factor("obs", priors(), start, times, y, likelihood=noisy)

    rate = optax.cosine_decay_schedule(0.03, 1500)
    params, losses = trained(model, 1500, rate)
    guides = substitute(start, params)

    def closed(params):
        """The bound, whose expectation has a closed form here."""
        both = zip(priors(), substitute(start, params), strict=True)
        each = [
            (*guide.predict(prior, times), guide.kl(prior)) for prior, guide in both
        ]
        (m, v, kl), (a, b, kl_of_noise) = each
        misfit = ((y - m) ** 2 + v) * jnp.exp(2 * (b - a))
        expected = -0.5 * jnp.log(2 * jnp.pi) - a - 0.5 * misfit
        return jnp.sum(expected) - kl - kl_of_noise

    found = float(closed(params))
    assert abs(found + losses[-100:].mean()) < 0.5

    def without_draws():
        domain = dist.constraints
        domains = {"mean": domain.real, "scale_tril": domain.lower_cholesky}
        moved = {
            name: numpyro.param(name, value, constraint=domains[name.split(".")[1]])
            for name, value in params.items()
        }
        numpyro.factor("obs", closed(moved))

    # From the end that the draws led to there is hardly anything left to gain.
    best, _ = trained(without_draws, 500, optax.cosine_decay_schedule(0.01, 500))
    assert found < closed(best) < found + 0.2
    # Noise that is the same everywhere explains the data worse, at its best.
    flat = [
        priors()[0].log_marginal_bound(times, y, noise_var)
        for noise_var in np.linspace(0.1, 0.4, 13)
    ]
    assert found > max(flat) + 20
    keys = jax.random.split(jax.random.key(2), 2)
    f, g = (
        DecoupledPathwiseSampler(prior, guide, 1024).sample_paths(key, 400)
        for prior, guide, key in zip(priors(), guides, keys, strict=True)
    )
    quiet, loud = np.exp(np.asarray(g(np.array([[8.0], [32.0]])))).mean(axis=0)
    assert 4 * quiet < loud
    seen = predict_observation([f, g], times, noisy)
    low, high = np.asarray(seen.quantile(jax.random.key(3), [0.05, 0.95], 2000))
    inside = (low < y) & (y < high)
    assert 0.84 < inside.mean() < 0.97
    assert inside[times[:, 0] < 12].mean() > 0.8
    assert (high - low)[times[:, 0] < 12].mean() < 0.25 * (high - low).mean()
