"""Errors are sentences: what came, what is wanted, what to do."""

# Wrong arguments are passed on purpose.
# pyright: reportArgumentType=false, reportIncompatibleMethodOverride=false

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from helpers import few_of
from hypothesis import given, settings
from hypothesis import strategies as st
from numpyro import handlers

from pyrox.gp import (
    IID,
    RBF,
    AbstractKernel,
    ActiveDims,
    DecoupledPathwiseSampler,
    DeltaGuide,
    FourierFeatures,
    FourierGrid,
    FullRankGuide,
    GPPrior,
    Matern,
    MeanFieldGuide,
    PathwiseSampler,
    Sobol,
    SparseGPPrior,
    gp_factor,
    hyperparameter,
    paths_over_draws,
    sample_hyperparameters,
    substitute,
    svgp_factor,
)

pytestmark = pytest.mark.usefixtures("plainly_compiled")

X = np.linspace(0, 1, 5)[:, None]
y = np.sin(3 * X[:, 0])
KEY = jax.random.key(0)
NAN = X.copy()
NAN[3, 0] = np.nan


def prior(**kwargs):
    return GPPrior(**{"kernel": RBF(), "X": X, **kwargs})


def posterior():
    return prior().condition(y, 0.1)


def paths():
    return PathwiseSampler(posterior(), 8).sample_paths(KEY, 2)


def sparse():
    return SparseGPPrior(RBF(), X)


def with_priors():
    return RBF().with_priors(lengthscale=dist.LogNormal(0.0, 1.0))


SHAPES = {
    "X (N,)": (
        lambda: prior(X=X[:, 0]),
        r"`GPPrior\(X=...\)` must have shape \(N, D\). Got \(5,\). .*`X\[:, None\]`",
    ),
    "X ()": (lambda: prior(X=1.0), r"must have shape \(N, D\). Got \(\).*jnp.array"),
    "X (1, N, D)": (lambda: prior(X=X[None]), r"Got \(1, 5, 1\).*jax.vmap"),
    "X empty": (lambda: prior(X=X[:0]), r"Got \(0, 1\). Pass at least one point"),
    "Z (M,)": (
        lambda: SparseGPPrior(RBF(), X[:, 0]),
        r"`SparseGPPrior\(Z=...\)` must have shape \(N, D\). Got \(5,\)",
    ),
    "y (N, 1)": (
        lambda: prior().condition(y[:, None], 0.1),
        r"`GPPrior.condition\(y=...\)` must have shape \(5,\). Got \(5, 1\). "
        r"Pass `y\[:, 0\]`",
    ),
    "y too short": (
        lambda: prior().condition(y[:3], 0.1),
        r"must have shape \(5,\). Got \(3,\). Pass one value for each of the 5 rows",
    ),
    "y (N, 1) in the density": (
        lambda: prior().log_marginal_likelihood(y[:, None], 0.1),
        r"`GPPrior.log_marginal_likelihood\(y=...\)` must have shape \(5,\)",
    ),
    "noise (3,)": (
        lambda: prior().condition(y, np.ones(3)),
        r"`GPPrior.condition\(noise_var=...\)` must have shape \(\) or \(5,\). "
        r"Got \(3,\)",
    ),
    "query of another D": (
        lambda: paths()(np.zeros((7, 2))),
        r"`paths\(X\)` must have shape \(N, 1\).*D=1. Got \(7, 2\)",
    ),
    "query (N,)": (lambda: paths()(X[:, 0]), r"`paths\(X\)` .*Got \(5,\)"),
    "mean query of another D": (
        lambda: posterior().predict_mean(np.zeros((7, 2))),
        r"`ConditionedGP.predict_mean\(X\)` must have shape \(N, 1\).*\(7, 2\)",
    ),
    "sparse query of another D": (
        lambda: FullRankGuide.init(5).predict(sparse(), np.zeros((7, 2))),
        r"`guide.predict\(X\)` must have shape \(N, 1\).*\(7, 2\)",
    ),
    "elbo y": (
        lambda: FullRankGuide.init(5).elbo(sparse(), X, y[:2], 0.1),
        r"`guide.elbo\(y=...\)` must have shape \(5,\). Got \(2,\)",
    ),
    "n_total below the batch": (
        lambda: FullRankGuide.init(5).elbo(sparse(), X, y, 0.1, n_total=3),
        r"`guide.elbo\(n_total=...\)` .* at least 5. Got 3",
    ),
    "guide of another size": (
        lambda: DecoupledPathwiseSampler(sparse(), FullRankGuide.init(4)),
        r"4 inducing values and Z has 5 rows. Pass `FullRankGuide.init\(5\)`",
    ),
    "guide of two sizes": (
        lambda: FullRankGuide(np.zeros(3), np.eye(4)),
        r"Got a mean of shape \(3,\) and a scale of shape \(4, 4\)",
    ),
    "variance (3,)": (
        lambda: RBF(init_variance=np.ones(3)),
        r"`RBF.variance` must have shape \(\). Got \(3,\).*jax.vmap",
    ),
    "lengthscale (1, 3)": (
        lambda: RBF(init_lengthscale=np.ones((1, 3))),
        r"`RBF.lengthscale` must have shape \(\) or \(D,\). Got \(1, 3\)",
    ),
    "lengthscale of another D": (
        lambda: prior(kernel=RBF(1.0, np.ones(3))).condition(y, 0.1),
        r"`RBF.lengthscale` has shape \(3,\) and the inputs have D=1",
    ),
    "mean function (N, 1)": (
        lambda: prior(mean_fn=lambda X: X).condition(y, 0.1),
        r"`mean_fn\(X\)` must have shape \(5,\).*Got \(5, 1\). Return `...\[:, 0\]`",
    ),
    "kernel of one-dimensional arrays": (
        lambda: RBF()(X[:, 0], X[:, 0]),
        r"`RBF\(X1, X2\)` must be given shapes.*Got \(5,\) and \(5,\)",
    ),
    "columns that are not there": (
        lambda: ActiveDims(RBF(), (2,))(X, X),
        r"`ActiveDims\(dims=\(2,\)\)`.*D=1",
    ),
    "repeated columns": (
        lambda: ActiveDims(RBF(), (0, 0)),
        r"`ActiveDims\(dims=...\)` must be columns from 0, each once. Got \(0, 0\)",
    ),
    "draws of two lengths": (
        lambda: paths_over_draws(KEY, {"a": np.ones(3), "b": np.ones(2)}, len),
        r"`paths_over_draws\(draws=...\)`.*'a': \(3,\), 'b': \(2,\)",
    ),
    "no draws": (
        lambda: paths_over_draws(KEY, {"a": np.ones(0)}, len),
        r"`paths_over_draws\(draws=...\)`.*at least one",
    ),
    "stacked paths": (
        lambda: jax.tree.map(lambda leaf: leaf[None], paths())(X),
        r"these paths are stacked, with leading axes \(1,\).*jax.vmap",
    ),
    "stacked posteriors": (
        lambda: jax.tree.map(lambda leaf: leaf[None], posterior()).predict(X),
        r"`ConditionedGP.predict\(X\)`: these posteriors are stacked.*jax.vmap",
    ),
    "condition that returns a prior": (
        lambda: paths_over_draws(KEY, {"a": np.ones(3)}, lambda d: prior()),
        r"must return what `GPPrior.condition` returns. Got a GPPrior",
    ),
}


@pytest.mark.parametrize("case", SHAPES)
def test_shapes(case):
    call, sentence = SHAPES[case]
    with pytest.raises(ValueError, match=sentence):
        call()


@pytest.mark.parametrize("case", [c for c in SHAPES if "(N" in c or "another" in c])
def test_shapes_raise_at_trace_time_under_jit_too(case):
    call, sentence = SHAPES[case]
    with pytest.raises(ValueError, match=sentence):
        jax.jit(lambda _: call())(0.0)


VALUES = {
    "X NaN": (lambda: prior(X=NAN), r"`GPPrior\(X=...\)` must be finite.*nan at.*3"),
    "X inf": (lambda: prior(X=np.where(np.isnan(NAN), np.inf, X)), r"finite.*Got inf"),
    "Z NaN": (lambda: SparseGPPrior(RBF(), NAN), r"Z=...\)` must be finite.*Got nan"),
    "y NaN": (
        lambda: prior().condition(NAN[:, 0], 0.1),
        r"`GPPrior.condition\(y=...\)` must be finite.*Got nan at index \(3,\)",
    ),
    "y inf in the density": (
        lambda: prior().log_marginal_likelihood(y / 0, 0.1),
        r"log_marginal_likelihood\(y=...\)` must be finite",
    ),
    "query NaN": (lambda: paths()(NAN), r"`paths\(X\)` must be finite.*Got nan"),
    "predict NaN": (lambda: posterior().predict_var(NAN), r"finite.*Got nan"),
    "variance -1": (lambda: RBF(-1.0), r"`RBF.variance` must be .*positive. Got -1"),
    "variance 0": (lambda: Matern(1.5, 0.0), r"`Matern.variance` .*positive. Got 0"),
    "variance NaN": (lambda: RBF(np.nan), r"`RBF.variance` must be finite.*Got nan"),
    "lengthscale -0.3": (
        lambda: RBF(1.0, -0.3),
        r"`RBF.lengthscale` must be finite and positive. Got -0.3",
    ),
    "one lengthscale 0": (
        lambda: RBF(1.0, np.array([0.5, 0.0]), name="trend"),
        r"`trend.lengthscale` must be finite and positive. Got \[0.5 0. *\]",
    ),
    "noise -1": (lambda: prior().condition(y, -1.0), r"positive finite.*Got -1"),
    "noise 0": (
        lambda: prior().condition(y, 0.0),
        r"`GPPrior.condition\(noise_var=...\)` must be a positive finite variance.*"
        r"such as 1e-6 times the variance of y, or 1e-3 in float32. Got 0.0",
    ),
    "one noise 0": (lambda: prior().condition(y, y * 0 + [1, 1, 0, 1, 1]), "index"),
    "noise inf": (lambda: prior().condition(y, np.inf), r"positive finite.*Got inf"),
    "jitter -1": (lambda: prior(jitter=-1.0), r"`GPPrior\(jitter=...\)`.*Got -1.0"),
    "nu 2.0": (
        lambda: Matern(nu=2.0),
        r"`Matern\(nu=...\)` must be 0.5, 1.5, 2.5, ..., a plain number. Got 2.0",
    ),
    "n_features odd": (
        lambda: PathwiseSampler(posterior(), 7),
        r"`PathwiseSampler\(n_features=...\)` must be an even .*Got 7. Pass 8",
    ),
    "n_features 0": (lambda: PathwiseSampler(posterior(), 0), r"at least 2. Got 0"),
    "n_features 2.5": (lambda: PathwiseSampler(posterior(), 2.5), r"Got 2.5"),
    "sum with two features": (
        lambda: (RBF() + Matern()).features(KEY, 2, 1),
        r"`features\(n_features\)` .*at least 4. Got 2. Pass 4",
    ),
    "odd features": (
        lambda: Sobol().features(KEY, RBF(), 7, 1),
        r"`features\(n_features\)` .*one sine and one cosine. Got 7. Pass 8",
    ),
    "too few features beside a linear kernel": (
        lambda: IID().features(KEY, Featured(1.0) * RBF(), 2, 3),
        r"`features\(n_features\)` .*at least 6. Got 2. Pass 6",
    ),
    "basis that does not exist": (
        lambda: PathwiseSampler(posterior(), basis="halton"),
        r"`PathwiseSampler\(basis=...\)` must be one of 'grid', 'sobol', 'iid', "
        r".*Got 'halton'. Leave it out",
    ),
    "basis by number": (
        lambda: DecoupledPathwiseSampler(sparse(), FullRankGuide.init(5), basis=3),
        r"`DecoupledPathwiseSampler\(basis=...\)` must be one of .*Got 3",
    ),
    "n_paths 0": (
        lambda: PathwiseSampler(posterior(), 8).sample_paths(KEY, 0),
        r"`sample_paths\(n_paths=...\)` must be .*at least 1. Got 0",
    ),
    "n_samples 0": (lambda: posterior().sample(KEY, X, 0), r"at least 1. Got 0"),
    "guide scale": (lambda: MeanFieldGuide(y, -(y**2)), r"MeanFieldGuide.scale` must"),
    "guide scale_tril": (
        lambda: FullRankGuide(np.zeros(2), np.ones((2, 2))),
        r"`FullRankGuide.scale_tril` must be finite and lower cholesky",
    ),
    "not a kernel": (lambda: prior(kernel="RBF"), r"`GPPrior\(kernel=...\)`.*'RBF'"),
    "not a mean": (lambda: prior(mean_fn=1.0), r"`GPPrior\(mean_fn=...\)`.*Got 1.0"),
    "not a guide": (
        lambda: DecoupledPathwiseSampler(sparse(), "q"),
        r"must be a guide. Got 'q'",
    ),
    "sparse prior in the exact sampler": (
        lambda: PathwiseSampler(sparse()),
        r"Got a SparseGPPrior.*DecoupledPathwiseSampler\(prior, guide\)",
    ),
    "exact posterior in the sparse sampler": (
        lambda: DecoupledPathwiseSampler(posterior(), DeltaGuide.init(5)),
        r"Got a ConditionedGP.*PathwiseSampler\(posterior\)",
    ),
    "product without features": (
        lambda: (Linear(1.0) * RBF()).features(KEY, 8, 1),
        r"`Linear` has no features.*predict and sample at points work",
    ),
    "constraint by a name": (
        lambda: hyperparameter("interval"),
        r"Got 'interval'. Pass `numpyro.distributions.constraints.interval`",
    ),
}


class Linear(AbstractKernel):
    """A user's kernel: Gram and diagonal, no features."""

    variance: jax.Array = hyperparameter(dist.constraints.positive)

    def __call__(self, X1, X2):
        return self.variance.astype(X1.dtype) * X1 @ X2.T

    def diag(self, X):
        return self.variance.astype(X.dtype) * jnp.sum(X**2, axis=1)


class Featured(Linear):
    """One whose features are no Fourier features."""

    def features(self, key, n_features, in_size):
        return lambda X: jnp.sqrt(self.variance) * X


@pytest.mark.parametrize("case", VALUES)
def test_values(case):
    call, sentence = VALUES[case]
    with pytest.raises(ValueError, match=f"(?s){sentence}"):
        with np.errstate(divide="ignore", invalid="ignore"):
            call()


def jitted_condition(ell=1.0, noise=0.1, X=X, y=y, jitter=1e-6):
    made = GPPrior(RBF(1.0, ell), X, jitter=jitter).condition(y, noise)
    return made.weights


AT_RUN_TIME = {
    "X": (lambda X: jitted_condition(X=X), NAN, r"`GPPrior\(X=...\)` must be finite"),
    "y": (lambda y: jitted_condition(y=y), NAN[:, 0], r"y=...\)` must be finite"),
    "noise": (lambda v: jitted_condition(noise=v), 0.0, "positive finite variance"),
    "lengthscale": (
        lambda ell: jitted_condition(ell),
        -1.0,
        "needs finite hyperparameters in their domains: RBF.variance positive",
    ),
    "prior path": (
        lambda ell: PathwiseSampler(prior(kernel=RBF(1.0, ell)), 8)(KEY, X),
        -1.0,
        "`PathwiseSampler` needs finite hyperparameters",
    ),
    "sparse path": (
        lambda ell: DecoupledPathwiseSampler(
            SparseGPPrior(RBF(1.0, ell), X), DeltaGuide.init(5), 8
        )(KEY, X),
        np.nan,
        "`DecoupledPathwiseSampler` needs finite hyperparameters",
    ),
    "query": (lambda X: paths()(X), NAN, r"`paths\(X\)` must be finite"),
    "factor": (
        lambda v: jitted_condition(noise=v, X=X * 0, jitter=0.0),
        1e-30,
        r"not positive definite in float32 with jitter=0.*Pass jitter=6e-06, a part",
    ),
}


@pytest.mark.parametrize("case", AT_RUN_TIME)
def test_values_under_jit_raise_when_the_program_runs(case):
    call, bad, sentence = AT_RUN_TIME[case]
    with pytest.raises(eqx.EquinoxRuntimeError, match=sentence):
        jax.block_until_ready(eqx.filter_jit(call)(jnp.asarray(bad)))


class Torn(AbstractKernel):
    """Of what is not a number between some pairs."""

    def __call__(self, X1, X2):
        return jnp.where(X1 * X2.T < 0, jnp.nan, RBF()(X1, X2))

    def diag(self, X):
        return jnp.ones_like(X[:, 0])


def test_a_gram_matrix_without_numbers_is_called_that():
    points = jnp.array([[1.0], [2.0], [-1.0]])
    sentence = r"`GPPrior.condition`: the Gram matrix must hold numbers.*at \[0, 2\]"
    with pytest.raises(ValueError, match=sentence):
        GPPrior(Torn(), points).condition(jnp.ones(3), 0.1)
    with pytest.raises(RuntimeError, match="Or the kernel returns NaN"):
        jax.jit(lambda y: GPPrior(Torn(), points).condition(y, 0.1))(jnp.ones(3))
    with pytest.raises(ValueError, match="not positive definite"):
        GPPrior(RBF(), points * 0, jitter=0.0).condition(jnp.ones(3), 1e-30)


def test_a_value_moved_out_of_its_domain_is_found_at_the_door():
    kernel = eqx.tree_at(lambda k: k.lengthscale, RBF(), jnp.array(-0.3))
    sentence = "`RBF.lengthscale` must be finite and positive. Got -0.3"
    for call in (
        lambda: prior(kernel=kernel).condition(y, 0.1),
        lambda: prior(kernel=kernel).sample(KEY),
        lambda: PathwiseSampler(prior(kernel=kernel)).sample_paths(KEY),
        lambda: DeltaGuide.init(5).predict(SparseGPPrior(kernel, X), X),
    ):
        with pytest.raises(ValueError, match=sentence):
            call()


def test_plain_jit_raises_the_sentence_too():
    call, bad, sentence = AT_RUN_TIME["query"]
    with pytest.raises(jax.errors.JaxRuntimeError, match=sentence):
        jax.block_until_ready(jax.jit(call)(jnp.asarray(bad)))


@pytest.mark.filterwarnings("ignore:.*that of a larger noise:RuntimeWarning")
@pytest.mark.parametrize("ell", [1e-8, 1e8])
@pytest.mark.parametrize("n", few_of([1, 2, 20], 2))
@pytest.mark.parametrize("duplicated", [False, True])
@pytest.mark.parametrize("noise_var", [1e-30, 1e-2])
def test_degenerate_data_give_finite_numbers_or_the_jitter(
    ell, n, duplicated, noise_var, width
):
    data = np.zeros((n, 1)) if duplicated else np.linspace(0, 1, n)[:, None]
    made = GPPrior(RBF(1.0, ell), data)
    try:
        exact = made.condition(np.ones(n), noise_var)
    except ValueError as error:
        # The jitter that the sentence names must do.
        named = str(error).partition("Pass jitter=")[2].split()[0]
        made = GPPrior(RBF(1.0, ell), data, jitter=float(named))
        exact = made.condition(np.ones(n), noise_var)
    basis = FourierGrid((-0.1, 1.5))  # the default one is as narrow as the data
    drawn = PathwiseSampler(exact, 16, basis).sample_paths(KEY, 3)
    for values in (
        *exact.predict(data),
        exact.predict_cov(data),
        exact.sample(KEY, data, 2),
        exact.log_marginal_likelihood(),
        exact.leave_one_out_log_density(),
        drawn(data),
        drawn(data + 0.3),
    ):
        assert np.isfinite(values).all()


def test_unresolved_priors_name_the_sites_and_the_two_ways_out():
    kernel = with_priors()
    sentence = (
        r"The priors on RBF.lengthscale have no values.*`handlers.seed`.*"
        r"`substitute\(prior, samples\)`"
    )
    for call in (
        lambda: sample_hyperparameters(kernel),
        lambda: prior(kernel=kernel).condition(y, 0.1),
        lambda: prior(kernel=kernel).log_marginal_likelihood(y, 0.1),
        lambda: prior(kernel=kernel).sample(KEY),
        lambda: PathwiseSampler(prior(kernel=kernel)).sample_paths(KEY),
        lambda: DecoupledPathwiseSampler(
            SparseGPPrior(kernel, X), DeltaGuide.init(5)
        ).sample_paths(KEY),
        lambda: FullRankGuide.init(5).kl(SparseGPPrior(kernel, X)),
        lambda: gp_factor("obs", prior(kernel=kernel), y, 0.1),
    ):
        with pytest.raises(ValueError, match=sentence):
            call()


PRIORS = {
    "missing field": (
        lambda: RBF().set_prior("lenghtscale", dist.LogNormal(0.0, 1.0)),
        r"`RBF.set_prior\('lenghtscale', ...\)`: no such hyperparameter. RBF has "
        r"\['variance', 'lengthscale'\]",
    ),
    "prior on a sum": (
        lambda: (RBF() + Matern()).set_prior("variance", dist.LogNormal(0.0, 1.0)),
        "Sum has none of its own; set priors on its parts",
    ),
    "wrong support": (
        lambda: RBF().set_prior("variance", dist.Normal(0.0, 1.0)),
        r"the prior Normal has support real, and the hyperparameter must be positive",
    ),
    "support that reaches below zero": (
        lambda: RBF().set_prior("variance", dist.Uniform(-1.0, 1.0)),
        r"support interval\(-1.0, 1.0\), and",
    ),
    "discrete": (
        lambda: RBF().set_prior("variance", dist.Poisson(1.0)),
        "support integer nonnegative",
    ),
    "negative delta": (
        lambda: RBF().set_prior("variance", dist.Delta(-1.0)),
        "the prior Delta",
    ),
    "not a distribution": (
        lambda: RBF().set_prior("variance", 1.0),
        "must be given a distribution. Got 1.0",
    ),
    "wrong shape": (
        lambda: RBF().set_prior("lengthscale", dist.LogNormal(0.0, np.ones(3))),
        r"the prior has shape \(3,\) and the hyperparameter \(\)",
    ),
    "two of one name": (
        lambda: handlers.seed(sample_hyperparameters, 0)(with_priors() + RBF()),
        r"Two modules are named 'RBF' \(a RBF and a RBF\).*`RBF\(name=\"trend\"\)`",
    ),
    "substitute into two of one name": (
        lambda: substitute(RBF() * RBF(), {"RBF.variance": 1.0}),
        r"Two modules are named 'RBF'",
    ),
    "substitute an unknown name": (
        lambda: substitute(RBF(), {"RBF.lenghtscale": 1.0}),
        r"`substitute` got \['RBF.lenghtscale'\].*\['RBF.variance', "
        r"'RBF.lengthscale'\].*site_names",
    ),
    "substitute all draws at once": (
        lambda: substitute(RBF(), {"RBF.lengthscale": np.ones(120)}),
        r"`RBF.lengthscale` has shape \(\) and was given \(120,\).*jax.vmap",
    ),
    "substitute a negative value": (
        lambda: substitute(RBF(), {"RBF.lengthscale": -1.0}),
        r"`RBF.lengthscale` must be finite and positive. Got -1.0",
    ),
}


@pytest.mark.parametrize("case", PRIORS)
def test_priors(case):
    call, sentence = PRIORS[case]
    with pytest.raises(ValueError, match=f"(?s){sentence}"):
        call()


@pytest.mark.parametrize("made", [lambda: RBF() + 2.0, lambda: 2.0 + RBF()])
def test_a_kernel_adds_to_a_kernel(made):
    with pytest.raises(TypeError, match=r"takes a kernel. Got 2.0. Multiply to scale"):
        made()


def test_a_kernel_multiplies_with_a_kernel_or_a_positive_number():
    with pytest.raises(TypeError, match="takes a kernel or a positive number. Got 'a'"):
        _ = RBF() * "a"
    with pytest.raises(ValueError, match="`Scale.factor` must be finite and positive"):
        _ = -2.0 * RBF()


def test_a_factor_in_a_plate_would_count_many_times():
    import numpyro

    def model():
        with numpyro.plate("data", 5):
            gp_factor("obs", prior(), y, 0.1)

    with pytest.raises(ValueError, match="plate.*would count it once for every"):
        handlers.seed(model, 0)()

    def sparse_model():
        with numpyro.plate("outputs", 3):
            svgp_factor("obs", sparse(), FullRankGuide.init(5), X, y, 0.1)

    with pytest.raises(ValueError, match="Move it out of a plate"):
        handlers.seed(sparse_model, 0)()


def test_a_hyperparameter_in_a_plate_names_the_way_out():
    import numpyro

    def model():
        with numpyro.plate("outputs", 3):
            sample_hyperparameters(with_priors())

    with pytest.raises(ValueError, match="outside any `numpyro.plate`"):
        handlers.seed(model, 0)()


def test_index_out_of_range():
    with pytest.raises(IndexError, match=r"`paths\[2\]`: there are 2 paths"):
        paths()[2]
    with pytest.raises(IndexError, match="there are 2 paths"):
        paths()[np.array([0, -3])]


def test_a_kernel_without_features_still_predicts():
    exact = GPPrior(Linear(1.0), X).condition(y, 0.1)
    assert np.isfinite(exact.predict_mean(X)).all()
    with pytest.raises(ValueError, match="`Linear` has no features"):
        PathwiseSampler(exact, 8).sample_paths(KEY)


def test_features_of_a_users_own():
    class Cosine(AbstractKernel):
        frequency: jax.Array = hyperparameter(dist.constraints.positive)

        def __call__(self, X1, X2):
            gaps = X1[:, None, 0] - X2[None, :, 0]
            return jnp.cos(self.frequency * gaps)

        def diag(self, X):
            return jnp.ones(X.shape[0])

        def features(self, key, n_features, in_size):
            return FourierFeatures(self.frequency[None, None], jnp.ones(1))

    kernel = Cosine(2.0)
    phi = kernel.features(KEY, 2, 1)(jnp.asarray(X))
    np.testing.assert_allclose(phi @ phi.T, kernel(jnp.asarray(X), X), atol=1e-6)
    drawn = PathwiseSampler(GPPrior(kernel, X).condition(y, 0.1), 2)(KEY, X, 3)
    assert drawn.shape == (3, 5)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.lists(st.integers(0, 4), max_size=3).map(tuple),
    dtype=st.sampled_from([np.float32, np.float64, np.int32, np.bool_]),
)
def test_a_query_of_any_shape_gives_values_or_a_sentence(shape, dtype):
    query = np.zeros(shape, dtype)
    well_formed = len(shape) == 2 and shape[0] > 0 and shape[1] == 1
    if well_formed:
        assert PATHS(query).shape == (2, shape[0])
        return
    with pytest.raises(ValueError, match=r"`paths\(X\)` must have shape"):
        PATHS(query)


@settings(max_examples=60, deadline=None)
@given(value=st.floats(width=32))
def test_any_lengthscale_is_taken_or_refused(value):
    if value > 0 and np.isfinite(value) and np.float32(value) > 0:
        assert float(RBF(1.0, value).lengthscale) == np.float32(value)
        return
    with pytest.raises(ValueError, match="`RBF.lengthscale` must be finite and posit"):
        RBF(1.0, value)


PATHS = paths()
