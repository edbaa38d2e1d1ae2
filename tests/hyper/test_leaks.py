"""JAX's search for leaked tracers: ours are none, and others are still found."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from numpyro.infer.util import log_density

from pyrox.gp import RBF, GPPrior, gp_factor, paths_over_draws, substitute
from pyrox.gp._hyper.checks import require_numbers

pytestmark = pytest.mark.usefixtures("plainly_compiled")

X = jnp.linspace(0, 1, 5)[:, None]
Y = jnp.sin(X[:, 0])


def predicted(y):
    return GPPrior(RBF(), X).condition(y, 0.1).predict_mean(X)


def test_what_is_compiled_runs_and_still_checks_its_values():
    expected = predicted(Y)
    with jax.checking_leaks():
        compiled = jax.jit(predicted)
        np.testing.assert_allclose(compiled(Y), expected, rtol=1e-5)
        with pytest.raises(Exception, match="must be finite. Drop or impute"):
            compiled(Y.at[0].set(jnp.nan)).block_until_ready()


@pytest.mark.exhaustive
def test_a_leak_is_found():
    kept = []

    @jax.jit
    def leaky(y):
        kept.append(y + 1)
        return require_numbers(y, "y")

    # JAX 0.10 has an `IndexError` of its own for some of them.
    with jax.checking_leaks(), pytest.raises(Exception, match="[Ll]eaked|index"):
        leaky(Y)


@pytest.mark.exhaustive
@pytest.mark.numpyro
def test_models_and_paths_over_draws_leak_nothing():
    wide = dist.LogNormal(0.0, 1.0)
    prior = GPPrior(RBF().with_priors(lengthscale=wide), X)

    def condition(draw):
        return substitute(prior, draw).condition(Y, 0.1)

    draws = {"RBF.lengthscale": jnp.linspace(0.3, 0.6, 4)}

    def density(ell):
        values = {"RBF.lengthscale": ell}
        return log_density(lambda: gp_factor("y", prior, Y, 0.1), (), {}, values)[0]

    with jax.checking_leaks():
        paths = paths_over_draws(jax.random.key(0), draws, condition, 2, 64)
        assert np.isfinite(paths(X)).all()
        assert np.isfinite(jax.jit(jax.grad(density))(jnp.array(0.5)))
