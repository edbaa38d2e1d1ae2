"""Derivatives against central differences, and a kernel with a rule of its own.

`python -m benchmarks.gradients` holds all kernels to the same; here are one stationary
on a grid, one whose derivatives stop early, and a product of exact and other features.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import gradients
from pyrox.gp import RBF, AbstractKernel, GPPrior, PathwiseSampler, check_kernel

pytestmark = pytest.mark.usefixtures("x64", "plainly_compiled")


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "name, in_size", [("RBF", 1), ("Matern-3/2", 3), ("Linear x RBF", 1)]
)
def test_derivatives_are_those_of_central_differences(name, in_size):
    found = gradients.errors(gradients.KERNELS[name](in_size), in_size)
    assert max(found.values()) < gradients.LARGEST_ERROR
    assert len(found) == len(gradients.OUTPUTS) * len(gradients.INPUTS)


# --- A custom derivative rule ------------------------------------------------------


@jax.custom_jvp
def bump(gap):
    """exp(-gap^2 / 2), as if autodiff could not see through it."""
    return jax.lax.stop_gradient(jnp.exp(-(gap**2) / 2))


@bump.defjvp
def _bump_jvp(primals, tangents):
    (gap,), (d_gap,) = primals, tangents
    return bump(gap), -gap * bump(gap) * d_gap


@jax.custom_jvp
def wrong_bump(gap):
    return jnp.exp(-(gap**2) / 2)


@wrong_bump.defjvp
def _wrong_jvp(primals, tangents):
    (gap,), (d_gap,) = primals, tangents
    return wrong_bump(gap), -1.01 * gap * wrong_bump(gap) * d_gap


class Ruled(AbstractKernel):
    """An RBF of one input whose derivatives come from a rule of the user's."""

    def __call__(self, X1, X2):
        return bump(X1 - X2.T)

    def diag(self, X):
        return jnp.ones_like(X[:, 0])

    def sample_frequencies(self, draw, in_size):
        return RBF().sample_frequencies(draw, in_size)


class WronglyRuled(Ruled):
    def __call__(self, X1, X2):
        return wrong_bump(X1 - X2.T)


X = np.linspace(0, 3, 6)[:, None]


def posterior_of(kernel):
    return GPPrior(kernel, X).condition(np.sin(X[:, 0]), 0.01)


def everything(kernel):
    """What a rule takes part in."""
    posterior, query = posterior_of(kernel), np.array([[0.7], [1.2]])
    paths = PathwiseSampler(posterior, 64, basis="iid").sample_paths(jax.random.key(0))
    return {
        "mean": jax.jit(jax.grad(lambda X: posterior.predict_mean(X).sum()))(query),
        "gradient": posterior.predict_gradient(query)[0],
        "covariance": posterior.predict_gradient(query)[1],
        "paths": paths.gradient(query),
        "curvature": paths.hessian(query),
    }


@pytest.mark.exhaustive
def test_a_custom_derivative_rule_works_everywhere():
    check_kernel(Ruled(), X)
    ruled, plain = everything(Ruled()), everything(RBF())
    for name, value in plain.items():
        np.testing.assert_allclose(ruled[name], value, atol=1e-9, err_msg=name)


@pytest.mark.exhaustive
def test_a_wrong_rule_is_noticed():
    wrong, plain = everything(WronglyRuled()), everything(RBF())
    for name, value in plain.items():
        assert np.abs(wrong[name] - value).max() > 1e-4, name
