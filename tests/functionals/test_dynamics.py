"""Roll-outs: against loops, linear systems in closed form, and moment matching."""

# Wrong arguments are passed on purpose.
# pyright: reportArgumentType=false

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import central_difference
from scipy import stats

from pyrox.gp import (
    RBF,
    ActiveDims,
    Coregionalization,
    GPPrior,
    Linear,
    MultiOutputPrior,
    MultiOutputSampler,
    PathwiseSampler,
    policy_value,
    roll_out,
)

pytestmark = pytest.mark.usefixtures("plainly_compiled")

RNG = np.random.default_rng(5)
X2 = RNG.uniform(-2, 2, (12, 2))
T = 4


def worlds(n=5, features=64):
    """Two coordinates of the state, each with paths of its own."""
    sampled = []
    for k, y in enumerate([0.7 * X2[:, 0] + 0.2 * X2[:, 1], np.sin(X2[:, 0])]):
        posterior = GPPrior(RBF(1.0, 1.0), X2).condition(y, 0.01)
        sampler = PathwiseSampler(posterior, features, "sobol")
        sampled.append(sampler.sample_paths(jax.random.key(k), n))
    return sampled


def scalar(kernel=None, n=5, slope=0.8):
    X = np.linspace(-2, 2, 9)[:, None]
    kernel = RBF(1.0, 1.0) if kernel is None else kernel
    posterior = GPPrior(kernel, X).condition(slope * X[:, 0], 0.05)
    sampler = PathwiseSampler(posterior, 64, "sobol")
    return sampler.sample_paths(jax.random.key(0), n), posterior


def by_loop(paths, x0, n_steps, policy=None, dt=None):
    """Path by path and step by step."""
    found = []
    for s in range(len(paths[0])):
        x, states = np.array(x0, float), [np.array(x0, float)]
        for _ in range(n_steps):
            z = x if policy is None else np.r_[x, np.atleast_1d(policy(x))]
            f = np.array([float(path[s](z[None])[0, 0]) for path in paths])
            x = f if dt is None else x + dt * f
            states.append(x)
        found.append(states)
    return np.array(found)


def test_each_path_is_followed_through_itself(x64):
    paths = worlds()
    x0 = np.array([0.5, -0.3])
    found = roll_out(paths, x0, T)
    assert found.controls is None
    np.testing.assert_allclose(found.states, by_loop(paths, x0, T), atol=1e-10)


@pytest.mark.exhaustive
def test_steps_of_a_velocity_and_starts_of_each_path(x64):
    paths = worlds()
    x0 = np.array([0.5, -0.3])
    euler = roll_out(paths, x0, T, dt=0.1).states
    np.testing.assert_allclose(euler, by_loop(paths, x0, T, dt=0.1), atol=1e-10)
    own = np.linspace(-1, 1, 10).reshape(5, 2)
    each = roll_out(paths, own, 1).states
    np.testing.assert_allclose(
        each[:, 1, 0], np.asarray(paths[0].each(own[:, None]))[:, 0], atol=1e-12
    )


def test_a_policy_gives_the_other_inputs(x64):
    path = worlds()[1]

    def policy(x):
        return -0.5 * x[0]

    found = roll_out(path, [0.5], T, policy=policy)
    wanted = by_loop([path], [0.5], T, policy=lambda x: -0.5 * x)
    np.testing.assert_allclose(found.states, wanted, atol=1e-10)
    np.testing.assert_allclose(np.asarray(found.controls), -0.5 * wanted, atol=1e-10)


@pytest.mark.exhaustive
def test_several_outputs_are_the_state(x64):
    kernel = ActiveDims(RBF(), (0, 1)) * ActiveDims(Coregionalization(1, 2), (2,))
    Y = np.stack([0.7 * X2[:, 0], 0.5 * X2[:, 1]], axis=1)
    posterior = MultiOutputPrior(kernel, X2, 2).condition(Y, 0.01)
    paths = MultiOutputSampler(posterior, 64, "sobol").sample_paths(
        jax.random.key(0), 3
    )
    x = jnp.broadcast_to(jnp.array([0.5, -0.3]), (3, 1, 2))
    wanted = [x[:, 0]]
    for _ in range(T):
        x = paths.each(x)
        wanted.append(x[:, 0])
    found = roll_out(paths, [0.5, -0.3], T).states
    np.testing.assert_allclose(found, jnp.stack(wanted, 1), atol=1e-10)


def linear_moments(mean, var, n):
    """E and Var of a^n of a normal a, by quadrature."""
    a, w = np.polynomial.hermite_e.hermegauss(60)
    powers = (mean + np.sqrt(var) * a) ** n
    w = w / w.sum()
    return w @ powers, w @ powers**2 - (w @ powers) ** 2


def matched_moments(mean, var, n):
    """Moment matching, exact for a linear map drawn anew at each step."""
    m, v = 1.0, 0.0
    for _ in range(n):
        m, v = mean * m, (mean**2 + var) * v + var * m**2
    return m, v


def agrees(samples, mean, var, kurtosis, sds=4.0):
    """Mean and variance of draws: a false alarm in 8,000 at four deviations."""
    n = len(samples)
    near = abs(samples.mean() - mean) < sds * np.sqrt(var / n)
    error = var * np.sqrt((kurtosis - 1) / n)
    return near and abs(samples.var() - var) < sds * error


def test_a_linear_world_has_the_moments_of_powers_not_of_moment_matching(x64):
    """f(x) = a x with a normal: x_T = a^T x_0 along a path. A map that is drawn anew at
    each step, or moments that are matched, have less variance: the twin that fails."""
    paths, posterior = scalar(Linear(1.0), n=4000, slope=1.0)
    one = np.ones((1, 1))
    mean, var = (float(m[0]) for m in posterior.predict(one))
    states = np.asarray(roll_out(paths, [1.0], 8).states)[:, :, 0]
    slopes = np.asarray(paths(one))[:, 0]
    np.testing.assert_allclose(states, slopes[:, None] ** np.arange(9), rtol=1e-9)
    kurtosis = stats.kurtosis(slopes**8, fisher=False)
    assert agrees(states[:, -1], *linear_moments(mean, var, 8), kurtosis)
    assert not agrees(states[:, -1], *matched_moments(mean, var, 8), kurtosis)


def test_noise_of_a_known_linear_system_has_its_closed_covariance(x64):
    X = np.linspace(-2, 2, 9)[:, None]
    posterior = GPPrior(Linear(1.0), X, jitter=0.0).condition(0.8 * X[:, 0], 1e-9)
    paths = PathwiseSampler(posterior, 64).sample_paths(jax.random.key(0), 4000)
    settings = {"noise_var": 0.04, "key": jax.random.key(3)}
    final = np.asarray(roll_out(paths, [1.5], 6, **settings).states)[:, -1, 0]
    var = 0.04 * sum(0.8 ** (2 * i) for i in range(6))
    assert agrees(final, 1.5 * 0.8**6, var, 3.0)
    # Without the noise of one step it is another variance.
    assert not agrees(final, 1.5 * 0.8**6, var - 0.04 * 0.8**2, 3.0)


@pytest.mark.exhaustive
def test_the_value_of_a_policy_and_its_derivative(x64):
    path = worlds(n=8)[1]

    def reward(x, u):
        return -jnp.sum(x**2) - 0.1 * jnp.sum(u**2)

    def value(gain):
        def policy(x):
            return -gain * x

        return policy_value(path, [0.5], T, reward, discount=0.9, policy=policy)

    found = value(0.3)
    states = by_loop([path], [0.5], T, policy=lambda x: -0.3 * x)[:, :, 0]
    rewards = -(states**2) - 0.1 * (0.3 * states) ** 2
    wanted = rewards @ 0.9 ** np.arange(T + 1)
    np.testing.assert_allclose(found.samples, wanted, atol=1e-10)
    error = wanted.std(ddof=1) / np.sqrt(8)
    np.testing.assert_allclose(found.standard_error, error, rtol=1e-9)
    slope = jax.jit(jax.grad(lambda gain: value(gain).value))(0.3)
    numeric = central_difference(lambda gain: value(gain).value, 0.3)
    np.testing.assert_allclose(slope, numeric, rtol=1e-6)


@pytest.mark.exhaustive
def test_float32_vmap_and_one_program():
    X = np.linspace(-2, 2, 9, dtype=np.float32)[:, None]
    posterior = GPPrior(RBF(1.0, 1.0), X).condition(0.8 * X[:, 0], 0.05)
    paths = PathwiseSampler(posterior, 64).sample_paths(jax.random.key(0), 3)
    starts = jnp.array([[0.5], [1.0]], jnp.float32)
    many = jax.jit(jax.vmap(lambda x: roll_out(paths, x, 3).states))(starts)
    assert many.dtype == jnp.float32 and many.shape == (2, 3, 4, 1)
    np.testing.assert_allclose(many[1], roll_out(paths, starts[1], 3).states, atol=1e-4)
    # A state that leaves the domain of a grid is an error, under jit too.
    with pytest.raises(ValueError, match="inside the domain"):
        roll_out(paths, [3.0], 3, dt=50.0)
    with pytest.raises(RuntimeError, match="inside the domain"):
        jax.jit(lambda x: roll_out(paths, x, 3, dt=50.0).states)(3 * starts[1])


@pytest.mark.exhaustive
def test_wrong_arguments_get_a_sentence_of_dynamics():
    two, (one, posterior) = worlds(), scalar()
    with pytest.raises(ValueError, match="must have 1 inputs"):
        roll_out(two[0], [0.5], T)
    with pytest.raises(ValueError, match="must have 2 inputs"):
        roll_out(one, [0.5], T, policy=lambda x: x)
    with pytest.raises(ValueError, match="must have shape"):
        roll_out(two, [0.5], T)
    with pytest.raises(ValueError, match="as many draws"):
        roll_out([two[0], two[1][:2]], [0.5, 0.5], T)
    with pytest.raises(ValueError, match="needs a key"):
        roll_out(one, [0.5], T, noise_var=0.1)
    with pytest.raises(ValueError, match="must be a PathwiseFunction"):
        roll_out(posterior, [0.5], T)
    with pytest.raises(ValueError, match="not zero"):
        roll_out(one, [0.5], T, dt=0.0)
    with pytest.raises(ValueError, match="one number for a state"):
        policy_value(one, [0.5], T, lambda x: x)
    with pytest.raises(ValueError, match="must be one number"):
        policy_value(one, [0.5], T, lambda x: x[0], discount=[1.0, 0.9])
