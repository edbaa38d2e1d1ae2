"""Tables of what objects are made of, and the `repr` of kernels."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro.distributions as dist
import pytest

from pyrox.gp import (
    RBF,
    ActiveDims,
    ConstantMean,
    Coregionalization,
    DecoupledPathwiseSampler,
    FullRankGuide,
    GPPrior,
    Matern,
    MultiOutputPrior,
    MultiOutputSampler,
    PathwiseSampler,
    Periodic,
    SparseGPPrior,
    fit,
    fit_sparse,
    paths_over_draws,
    substitute,
    summary,
)

pytestmark = pytest.mark.usefixtures("plainly_compiled")


def data():
    X = jnp.linspace(0, 1, 6)[:, None]
    return X, jnp.sin(5 * X[:, 0])


def test_repr_of_a_kernel_shows_its_numbers(width):
    kernel = RBF(1.0, jnp.array([0.3, 0.25]))
    assert repr(kernel) == "RBF(variance=1, lengthscale=[0.3 0.25])"
    kernel = RBF(1.5, name="trend") * Matern(1.5)
    text = "Product(\n  left=RBF(variance=1.5, lengthscale=1, name='trend'),\n  "
    text += "right=Matern(nu=1.5, variance=1, lengthscale=1)\n)"
    assert repr(kernel) == text == str(kernel)


def test_repr_shows_priors_as_the_calls_that_make_them():
    kernel = RBF(1.0, jnp.ones(2)).with_priors(
        variance=dist.LogNormal(0.0, 0.3),
        lengthscale=dist.InverseGamma(3.0, jnp.ones(1)).expand([2]).to_event(1),
    )
    text = " ".join(repr(kernel).split())
    assert "'variance': LogNormal(loc=0, scale=0.3)" in text
    inner = "InverseGamma(concentration=[3], rate=[1])"
    assert f"'lengthscale': {inner}.expand([2]).to_event(1)" in text


def test_repr_within_others_is_that_of_the_kernel():
    X, y = data()
    prior = GPPrior(2.0 * RBF(1.0, 0.3), X)
    for obj in (prior, prior.condition(y, 0.1)):
        text = " ".join(repr(obj).split())
        assert "RBF(variance=1, lengthscale=0.3), factor=2" in text
        assert "X=f32[6,1]" in text and "priors" not in text


def test_repr_never_fails():
    kernel = RBF(1.0, jnp.ones(3)) + Periodic()
    assert "f32[7]" in repr(jax.vmap(RBF)(jnp.ones(7)))
    assert "lengthscale=f32[3]" in repr(jax.eval_shape(lambda: kernel))
    assert "variance=None" in repr(jax.tree.map(lambda _: None, kernel))
    assert "variance=<object" in repr(jax.tree.map(lambda _: object(), kernel))
    assert "variance=2.0" in repr(jax.tree.map(lambda _: 2.0, RBF()))
    assert "f32[2,1]" in repr(Coregionalization(1, 2))
    assert "RBF(...)" in eqx.tree_pformat(
        kernel, truncate_leaf=lambda x: isinstance(x, RBF)
    )
    seen = []
    jax.jit(lambda k: seen.append(repr(k)))(kernel)
    jax.grad(lambda s: seen.append(repr(RBF(s))) or s)(1.0)
    assert "lengthscale=f32[3]" in seen[0] and "variance=f32[]" in seen[1]
    gone = RBF(jnp.ones(()) + 1)
    gone.variance.delete()
    assert "variance=f32[]" in repr(gone)


def test_the_table_of_a_kernel_with_priors():
    kernel = Matern(1.5, 2.0, jnp.array([0.5, 3.0]))
    kernel.set_prior("variance", dist.HalfNormal(1.0))
    found = summary(kernel)
    variance, lengthscale = found.rows
    assert variance.name == "Matern.variance" and variance.value == "2"
    assert variance.prior == "HalfNormal(scale=1)"
    assert variance.constraint == lengthscale.constraint == "positive"
    assert variance.units == "as y squared" and lengthscale.units == "as X"
    assert lengthscale.value == "0.5 3" and lengthscale.prior == ""
    lines = str(found).splitlines()
    assert lines[0] == "Matern" and len(lines) == 6
    # Columns begin where their heads do.
    assert lines[4].index("2") == lines[2].index("value")
    assert lines[5].index("as X") == lines[2].index("units")


def test_html_is_escaped():
    kernel = RBF(name="<b>")
    text = summary(kernel)._repr_html_()
    assert "&lt;b&gt;.variance" in text and "<b>" not in text
    assert text.count("<tr>") == 3


def process():
    X, y = data()
    return GPPrior(RBF(1.0, 0.3), X, ConstantMean(0.5)).condition(y, 0.01)


def of_several():
    kernel = ActiveDims(RBF(), (0,)) * ActiveDims(Coregionalization(1, 2), (1,))
    X, y = data()
    return MultiOutputPrior(kernel, X, 2).condition(jnp.stack([y, -y], 1), 0.1)


def ensemble():
    draws = {"RBF.lengthscale": jnp.array([0.25, 0.5])}
    X, y = data()
    prior = GPPrior(RBF(), X)
    return paths_over_draws(
        jr.key(0), draws, lambda d: substitute(prior, d).condition(y, 0.1), 3, 8
    )


def sparse():
    prior = SparseGPPrior(RBF(), data()[0][::2])
    return DecoupledPathwiseSampler(prior, FullRankGuide.init(3), 16)


OBJECTS = {
    "prior": (lambda: process().prior, "GPPrior at inputs (6, 1)", "mean 0.5"),
    "posterior": (process, "values (6,) at inputs (6, 1)", "noise_var 0.01"),
    "paths": (
        lambda: PathwiseSampler(process(), 16).sample_paths(jr.key(0), 3),
        "3 paths of 16 features",
        "RBF.lengthscale 0.3",
    ),
    "sampler": (lambda: PathwiseSampler(process(), 16), "of 16 features", "noise_var"),
    "sparse": (sparse, "inducing inputs (3, 1)", "mean 0"),
    "guide": (
        lambda: FullRankGuide.init(3),
        "FullRankGuide",
        "FullRankGuide.mean 0 0 0",
    ),
    "outputs": (of_several, "2 outputs", "Coregionalization.kappa 0.5 0.5"),
    "sampler of outputs": (
        lambda: MultiOutputSampler(of_several(), 16),
        "ConditionedGP",
        "Coregionalization.W 0.7",
    ),
    "ensemble": (
        ensemble,
        "2 draws, for each 3 paths",
        "RBF.lengthscale 0.25 to 0.5 (2)",
    ),
}


@pytest.mark.parametrize("made, title, line", OBJECTS.values(), ids=OBJECTS)
def test_tables_of_what_is_made_of_kernels(made, title, line):
    text = "\n".join(" ".join(row.split()) for row in str(summary(made())).splitlines())
    assert title in text and f"\n{line}" in text, text


@pytest.mark.exhaustive
@pytest.mark.numpyro
def test_tables_of_fits_say_what_was_fixed_and_how_it_ended():
    X, y = data()
    found = fit(GPPrior(RBF(), X), y, 0.01, fixed=["noise_var"], progress=False)
    table = summary(found)
    assert table.title.startswith("Fit, converged: ConditionedGP")
    (noise,) = [row for row in table.rows if row.name == "noise_var"]
    assert noise.prior == "(fixed)" and noise.value == "0.01"
    found = fit_sparse(SparseGPPrior(RBF(), X[::2]), X, y, 0.01, progress=False)
    assert "from 6 data" in summary(found).title


def test_traced_ones_are_told_by_shape_and_others_refused():
    seen = []
    jax.jit(lambda k: seen.append(str(summary(k))))(RBF(1.0, jnp.ones(3)))
    assert "f32[3]" in seen[0]
    with pytest.raises(ValueError, match="takes a kernel.*Got a ndarray"):
        summary(np.zeros(3))
