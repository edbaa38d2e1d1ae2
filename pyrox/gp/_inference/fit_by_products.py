"""Fitting hyperparameters to data that have no matrix: by solves alone.

With v = A^-1 (y - mean) and z = A^-1 g for g ~ N(0, A), whose covariance is A^-1, the
slope of log p(y) is

    v^T dA v / 2 - E[z^T dA z] / 2 + v^T dmean

(Lin et al. 2024, arXiv 2405.18457, the pathwise estimator). A path's update is v - z
for its own prior draw g. So one solve gives the slope and the paths, its right-hand
sides move little from step to step, and each begins where the last one ended.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, PRNGKeyArray
from tqdm.auto import tqdm

from .._features.basis import AbstractBasis
from .._features.grid import FourierGrid
from .._hyper.unchecked import jit
from .._paths.given import AnchorValues
from .._paths.path import PathwiseFunction
from .._paths.samplers import matheron
from .._posterior.assembly import Assembled, equations, of_one_type, system
from .._posterior.exact import ConditionedGP, posterior_of
from .._solvers.convergence import Convergence
from .._solvers.solver import AbstractIterativeSolver
from .trained import Problem, from_vector, log_prior, to_vector

_LEARNING_RATE = 0.1
_HALVED_EVERY = 50  # steps, the learning rate, once there were as many


class Step(NamedTuple):
    """At one point: the slope a datum of what is minimised, the solutions for the mean
    and the paths, and what they make."""

    slope: Float[Array, " P"]
    columns: Float[Array, "N 1+S"]
    posterior: ConditionedGP
    paths: PathwiseFunction


class Descent(NamedTuple):
    """Where a fit ended, and how it went there: of each step the largest slope and the
    number of products."""

    posterior: ConditionedGP
    paths: PathwiseFunction
    slopes: Float[np.ndarray, " T"]
    n_products: Int[np.ndarray, " T"]


def descend(
    problem: Problem,
    key: PRNGKeyArray,
    solver: AbstractIterativeSolver,
    n_paths: int,
    n_features: int,
    tolerance: float,
    most_steps: int,
    warm: bool,
    progress: bool,
) -> Descent:
    """Adam, until the largest slope a datum is within the tolerance."""
    schedule = optax.exponential_decay(
        _LEARNING_RATE, _HALVED_EVERY, 0.5, transition_begin=_HALVED_EVERY
    )
    adam = optax.adam(schedule)
    vector = to_vector(problem)
    state = adam.init(vector)
    start, slopes, counts = None, [], []
    with tqdm(total=most_steps, desc="fit", disable=not progress) as bar:
        while True:
            step = _step(problem, vector, key, start, solver, n_paths, n_features)
            slopes.append(float(jnp.max(jnp.abs(step.slope))))
            found = step.posterior.convergence
            assert found is not None
            counts.append(int(found.n_products))
            bar.set_postfix_str(f"slope {slopes[-1]:.1e}, {counts[-1]} products")
            bar.update()
            if not slopes[-1] > tolerance or len(slopes) >= most_steps:
                break
            updates, state = adam.update(step.slope, state)
            vector = optax.apply_updates(vector, updates)
            start = step.columns if warm else None
    return Descent(step.posterior, step.paths, np.array(slopes), np.array(counts))


@functools.partial(jit, static_argnames=("solver", "n_paths", "n_features"))
def _step(
    problem: Problem,
    vector: Float[Array, " P"],
    key: PRNGKeyArray,
    start: Float[Array, "N 1+S"] | None,
    solver: AbstractIterativeSolver,
    n_paths: int,
    n_features: int,
) -> Step:
    prior, noise_var = from_vector(problem, vector)
    data = of_one_type(prior, problem.y, noise_var, None, problem.observed)
    inverse, residual, jitter_var = system(data, solver)
    solved: list[tuple[Array, Convergence]] = []

    def solve(B: Float[Array, "N S"]) -> tuple[Array, Convergence]:
        sides = jnp.concatenate([residual[:, None], B], axis=1)
        columns, convergence = inverse.solve_and_report(sides, start)
        solved.append((columns, convergence))
        return columns[:, 1:], convergence.chosen(slice(1, None))

    X, y = data.prior.X, data.y
    given = AnchorValues(y, data.noise_var + jitter_var, jitter_var=jitter_var)
    values = jnp.broadcast_to(y[None, :], (n_paths, y.shape[0]))
    basis: AbstractBasis = FourierGrid()
    paths = matheron(key, data.prior, X, given, values, solve, basis, n_features)
    ((columns, convergence),) = solved
    parts = Assembled(inverse, columns[:, 0], jitter_var, convergence.chosen(slice(1)))
    posterior, _ = posterior_of(data, parts, inverse.succeeded())
    surrogate = functools.partial(_surrogate, problem, columns, solver.mesh)
    slope = jax.grad(surrogate)(vector)
    return Step(slope, columns, posterior, paths)


def _surrogate(
    problem: Problem,
    columns: Float[Array, "N 1+S"],
    mesh: Mesh | None,
    vector: Float[Array, " P"],
) -> Float[Array, ""]:
    """What has the slope of the negative log density a datum, at one point."""
    prior, noise_var = from_vector(problem, vector)
    data = of_one_type(prior, problem.y, noise_var, None, problem.observed)
    A, _, residual, _ = equations(data, mesh)
    v, z = columns[:, :1], columns[:, :1] - columns[:, 1:]
    both = jnp.concatenate([v, z], axis=1)
    squares = jnp.sum(both * A(both), axis=0)
    value = (squares[0] - jnp.mean(squares[1:])) / 2 - v[:, 0] @ residual
    return -(value + log_prior(problem, prior, noise_var)) / problem.n_data
