"""The package: what importing it does, its names, the README's own programs."""

import ast
import importlib
import os
import pathlib
import re
import subprocess
import sys

import jax
import numpy as np
import pytest

import pyrox.gp

ROOT = pathlib.Path(__file__).parent.parent
SOURCES = sorted((ROOT / "pyrox").rglob("*.py"))


def test_importing_allocates_no_array_and_changes_no_setting():
    program = """
import jax
before = dict(jax.config.values)
import pyrox, pyrox.gp
for name in pyrox.gp.__all__:
    getattr(pyrox.gp, name)
assert dict(jax.config.values) == before, "a JAX setting changed"
assert not jax.live_arrays(), jax.live_arrays()
print(pyrox.__version__)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", done.stdout)


def test_paths_do_not_wait_for_numpyro():
    program = """
import sys
import jax.numpy as jnp
import jax
from pyrox.gp import RBF, FourierGrid, GPPrior, Matern, PathwiseSampler
X = jnp.arange(3.0)[:, None]
posterior = GPPrior(2.0 * Matern(1.5) + RBF(), X).condition(X[:, 0], 0.1)
PathwiseSampler(posterior, 16).sample_paths(jax.random.key(0))(X)
print([name for name in ("numpyro", "optax", "matplotlib") if name in sys.modules])
import pyrox.gp
pyrox.gp.gp_factor
print("numpyro" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\nTrue\n"


def test_a_name_first_used_inside_jit_traces_nothing(tmp_path, monkeypatch):
    """A room with a constant, as a library that it imports may have one."""
    (tmp_path / "_probe.py").write_text("import jax.numpy as jnp; probe = jnp.ones(3)")
    monkeypatch.setattr(pyrox.gp, "__path__", [str(tmp_path)])
    monkeypatch.setitem(getattr(pyrox.gp, "_ROOMS"), "probe", "._probe")  # noqa: B009
    jax.jit(lambda x: (getattr(pyrox.gp, "probe"), x)[1])(1.0)  # noqa: B009
    found = getattr(pyrox.gp, "probe")  # noqa: B009
    delattr(pyrox.gp, "probe")
    assert isinstance(found, jax.Array)
    np.testing.assert_array_equal(np.asarray(found), 1)  # a traced one has no values


def test_names_are_those_of_the_stub():
    stub = (ROOT / "pyrox" / "gp" / "__init__.pyi").read_text()
    imports = [n for n in ast.parse(stub).body if isinstance(n, ast.ImportFrom)]
    listed = [str(alias.asname) for node in imports for alias in node.names]
    assert sorted(listed) == dir(pyrox.gp)
    for node in imports:
        room = importlib.import_module(f"pyrox.gp.{node.module}")
        for alias in node.names:
            assert alias.asname == alias.name
            assert getattr(pyrox.gp, alias.name) is getattr(room, alias.name)
    with pytest.raises(AttributeError, match="has no attribute 'Rbf'"):
        getattr(pyrox.gp, "Rbf")  # noqa: B009


def test_no_text_tells_to_install_the_other_project():
    texts = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "Makefile"]
    for path in [*texts, *SOURCES, *(ROOT / "notebooks").glob("*.ipynb")]:
        assert not re.search(r"pip install pyrox(?!-gp)", path.read_text()), path


def readme_blocks() -> list[str]:
    text = (ROOT / "README.md").read_text()
    return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)


@pytest.mark.numpyro
def test_the_blocks_of_the_readme_run_and_give_the_shapes_they_state(plainly_compiled):
    blocks = readme_blocks()
    assert len(blocks) == 4
    namespace: dict = {}
    for block in blocks:
        exec(block, namespace)
        for line in block.splitlines():
            stated = re.match(
                r"(\w[\w, ]*?) = .*#\s(\(.*?\)(?:, \(.*?\))*)(?:$|:)", line
            )
            if not stated:
                continue
            names = stated[1].split(", ")
            shapes = ast.literal_eval(f"[{stated[2]}]")
            assert [namespace[n].shape for n in names] == shapes, line


def test_the_comments_of_the_readme_state_shapes():
    stated = [line for b in readme_blocks() for line in b.splitlines() if "# (" in line]
    assert len(stated) >= 7


TYPED_PROGRAM = """
from jaxtyping import install_import_hook
with install_import_hook("pyrox", "beartype.beartype"):
    import pyrox.gp as gp
    import numpyro.distributions as dist
    for name in gp.__all__:  # imported when first used
        getattr(gp, name)
    kernel = gp.RBF().with_priors(variance=dist.LogNormal(0.0, 1.0))
import jax, jax.numpy as jnp, numpy as np, numpyro
from numpyro import handlers
resolved = handlers.seed(gp.sample_hyperparameters, 0)(kernel)
resolved.set_prior("variance", dist.Gamma(2.0))
key = jax.random.key(0)
X, y = np.linspace(0, 1, 6)[:, None], np.linspace(0, 1, 6)
ells = jnp.array([0.3, 0.5])
for kernel in (gp.RBF() + gp.Matern(0.5), 2.0 * gp.RBF() * gp.Matern(1.5),
               gp.ActiveDims(gp.Matern(2.5), (0,))):
    posterior = gp.GPPrior(kernel, X, lambda X: X[:, 0]).condition(y, 0.1 + 0 * y)
    posterior.predict(X), posterior.predict_cov(X), posterior.sample(key, X, 2)
    posterior.log_marginal_likelihood(), posterior.leave_one_out_log_density()
    paths = gp.PathwiseSampler(posterior, 16).sample_paths(key, 3)
    paths(X), paths[1](X), jax.jit(paths)(jnp.asarray(X)), list(paths)
few = dict(n_candidates=16, n_starts=4)
both = gp.optimize_trade_offs(key, [paths, paths], X[[0, -1]], n_weights=2, **few)
jax.vmap(gp.pareto_front)(both.values)
prior = gp.SparseGPPrior(gp.RBF(), X[::2])
for guide in (gp.FullRankGuide, gp.MeanFieldGuide, gp.WhitenedGuide, gp.DeltaGuide):
    q = guide.init(3)
    q.sample(key, prior, 2), q.kl(prior), q.predict(prior, X), q.elbo(prior, X, y, 0.1)
    gp.DecoupledPathwiseSampler(prior, q, 16)(key, X, n_paths=2)
    handlers.seed(gp.svgp_factor, 0)("obs", prior, q, X, y, 0.1, 60)
several = [prior] * 2, [gp.WhitenedGuide.init(3, name) for name in "ab"]
noisy = lambda f: dist.Normal(f[0], jnp.exp(f[1]))
gp.elbo_of_several(key, *several, X, y, likelihood=noisy)
handlers.seed(gp.svgp_factor, 0)("obs", *several, X, y, likelihood=noisy)
gp.log_predictive_density([paths, paths], X, y, noisy)
gp.gp_factor("obs", gp.GPPrior(gp.RBF(), X), y, 0.1)
handlers.seed(gp.gp_sample, 0)("f", gp.GPPrior(gp.RBF(), X))
condition = lambda d: gp.GPPrior(gp.RBF(1.0, d["ell"]), X).condition(y, 0.1)
gp.paths_over_draws(key, {"ell": ells}, condition, 2, 8)(X)
few = {"f": np.ones((2, 3, 6)), "RBF.variance": np.ones(2)}
over = gp.paths_over_draws(key, few, gp.latent(gp.GPPrior(gp.RBF(), X), "f"), 2, 8)
over(X), over[1, 2](X)
tails = lambda f: dist.StudentT(4.0, f, 0.3)
laplace = lambda s: gp.fit_latent(gp.GPPrior(gp.RBF(s), X), y, tails)
laplace(1.0).predict_probability(X, y, tails)
jax.vmap(laplace)(ells), jax.grad(lambda s: laplace(s).log_evidence)(1.0)
box = np.array([[0.0], [1.0]])
found = gp.optimize_paths(key, paths, box, n_candidates=8, n_starts=4)
gp.max_value_entropy(posterior, X, found), posterior.predict_cov(X, X[:2])
gp.joint_entropy(posterior, X, found, noise_var=0.1)
f = lambda X_: gp.knowledge_gradient(posterior, X_, X, noise_var=0.1)
gp.optimize_acquisition(key, f, box, n_candidates=8, n_starts=4)
few = dict(n_features=16, n_candidates=8, n_starts=4, trust_region=True)
over = gp.LebesgueMeasure(box), gp.GaussianMeasure(np.ones(1), 0.01 * np.ones(1))
for kernel in (gp.RBF() + gp.Linear(), gp.ActiveDims(gp.Matern(0.5), (0,))):
    given = gp.GPPrior(kernel, X, lambda X: X[:, 0]).condition(y, 0.1)
    [gp.bayesian_quadrature(given, measure).std for measure in over]
given = gp.GPPrior(gp.RBF(), X).condition(y, 0.1)
f = gp.PathwiseSampler(given, 16).sample_paths(key, 3)
gp.integrate_paths(f, over[0]), gp.integrate_paths(f, over[0], n_nodes=4)
gp.line_integrals(f, X), gp.laplacian(f, X), gp.crossings(f, 0.3, box)
gp.expectation(f, lambda one: one(X).max()), gp.expectation(f, lambda v: v.max(), X)
gp.vorobev_expectation(f, X, 0.3), gp.excursion_volume(f, X, 0.3)
gp.contour_uncertainty(posterior, X, 0.3)
settings = dict(noise_var=0.01, key=key, dt=0.1)
gp.roll_out(f, np.ones(1), 3), gp.roll_out([f], np.ones(1), 3, **settings)
gp.policy_value(f, np.ones(1), 3, lambda x: x[0])
study = gp.ThompsonSampling(gp.RBF(), box, noise_prior=dist.LogNormal(), **few)
for state in (study.init(), study.init(X, y)):
    asked, state = study.ask(key, state)
    state = study.tell(state, asked, np.array([np.nan]))
    asked, state = study.ask(key, study.tell(state, asked, np.array([1.0])))
    study.best(state), study.history(state)
icm = gp.ActiveDims(gp.RBF(), (0,)) * gp.ActiveDims(gp.Coregionalization(1, 2), (1,))
field = gp.DivergenceFree(gp.RBF())
for kernel, Z in ((icm, X), (field, np.array([[0.0, 1.0], [1.0, 3.0]]))):
    given = gp.MultiOutputPrior(kernel, Z, 2)
    Y = np.ones((len(Z), 2))
    posterior = given.condition(Y, 0.1)
    posterior.predict(Z), posterior.predict_cov(Z), posterior.sample(key, Z, 2)
    posterior.log_marginal_likelihood(), given.log_marginal_likelihood(Y, 0.1)
    given.stack(np.where(np.eye(len(Z), 2), np.nan, Y), np.array([0.1, 0.2]))
    paths = gp.MultiOutputSampler(posterior, 16).sample_paths(key, 3)
    paths(Z), paths.gradient(Z), paths[1:]
try:
    gp.RBF().diag(jnp.zeros(3))
except Exception as error:
    print(type(error).__name__)
"""


@pytest.mark.exhaustive
def test_shapes_of_every_signature_hold():
    """Runs the library with its jaxtyping annotations enforced by beartype."""
    done = subprocess.run(
        [sys.executable, "-c", TYPED_PROGRAM],
        capture_output=True,
        text=True,
        # Only shapes and dtypes are asked for: XLA need not optimise.
        env={**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    # The hook is alive: an argument of the wrong rank is refused.
    assert done.stdout.strip() == "TypeCheckError"


def test_the_suite_runs_under_strict_promotion():
    with pytest.raises(ValueError, match="rank_promotion"):
        jax.numpy.add(jax.numpy.ones(3), jax.numpy.ones((2, 3)))
