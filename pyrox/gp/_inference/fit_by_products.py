"""Fitting hyperparameters to data that have no matrix: by solves alone.

With v = A^-1 (y - mean) and z = A^-1 g for g ~ N(0, A), whose covariance is A^-1, the
slope of log p(y) is

    v^T dA v / 2 - E[z^T dA z] / 2 + v^T dmean

(Lin et al. 2024, arXiv 2405.18457, the pathwise estimator). A path's update is v - z
for its own prior draw g. So one solve gives the slope and the paths, and its solutions
move little from step to step: each solve begins on the line through the last two.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray
from tqdm.auto import tqdm

from .._features.grid import FourierGrid
from .._hyper.unchecked import jit
from .._paths.path import PathwiseFunction
from .._paths.samplers import draw_exact
from .._posterior.assembly import Assembled, equations, of_one_type, system
from .._posterior.exact import ConditionedGP, posterior_of
from .._posterior.missing import in_use
from .._solvers.convergence import Convergence
from .._solvers.solver import AbstractIterativeSolver
from .trained import Problem, from_vector, log_prior, to_vector

_LEARNING_RATE = 0.1
_HALVED_EVERY = 50  # steps, the learning rate, once there were as many
# Of Adam's mean of squared slopes: ten steps. That of 0.999 remembers how steep it was
# where the search began, and creeps along the valley in which it ends.
_SQUARES = 0.9


class Sizes(NamedTuple):
    """How a step is made: by which solver, with how many paths of how many features."""

    solver: AbstractIterativeSolver
    n_paths: int
    n_features: int


class Step(NamedTuple):
    """At one point: the slope a datum of what is minimised, its largest entry, the
    solutions for the mean and the paths, how near they came, and what they make."""

    slope: Float[Array, " P"]
    largest: Float[Array, ""]
    columns: Float[Array, "N 1+S"]
    convergence: Convergence
    posterior: ConditionedGP
    paths: PathwiseFunction


class Descent(NamedTuple):
    """Where a fit ended, and how it came there: of each step the largest slope and the
    number of products."""

    last: Step
    slopes: Float[np.ndarray, " T"]
    n_products: Int[np.ndarray, " T"]


def descend(
    problem: Problem,
    key: PRNGKeyArray,
    sizes: Sizes,
    tolerance: float,
    most_steps: int,
    progress: bool,
    *,
    warm: bool = True,
) -> Descent:
    """Adam, until the largest slope a datum is within the tolerance, or is no number.

    All steps draw by the same key, so that only hyperparameters move the slope, and
    there is a point where it vanishes. Unless `warm` solves begin at zero.
    """
    vector, state = to_vector(problem), None
    start, before = None, None
    slopes, counts = [], []
    with tqdm(total=most_steps, desc="fit", disable=not progress) as bar:
        while True:
            step = step_at(problem, vector, key, start, *sizes)
            slopes.append(float(step.largest))
            counts.append(int(step.convergence.n_products))
            bar.set_postfix_str(f"slope {slopes[-1]:.1e}, {counts[-1]} products")
            bar.update()
            if not slopes[-1] > tolerance or len(slopes) >= most_steps:
                return Descent(step, np.array(slopes), np.array(counts))
            vector, state = _moved(vector, state, step.slope)
            if warm:
                start = _ahead(step.columns, before)
                before = step.columns


@jax.jit
def _ahead(last: Array, before: Array | None) -> Array:
    """Where solutions are going."""
    return last if before is None else 2 * last - before


@jit
def _moved(
    vector: Float[Array, " P"], state: Any, slope: Float[Array, " P"]
) -> tuple[Float[Array, " P"], Any]:
    """One step of Adam, the first where there is no state yet."""
    import optax  # takes a tenth of a second, which only those who fit should wait

    schedule = optax.exponential_decay(
        _LEARNING_RATE, _HALVED_EVERY, 0.5, transition_begin=_HALVED_EVERY
    )
    adam = optax.adam(schedule, b2=_SQUARES)
    with jax.numpy_dtype_promotion("standard"):  # optax mixes widths of integers
        state = adam.init(vector) if state is None else state
        updates, state = adam.update(slope, state)
    return jnp.asarray(optax.apply_updates(vector, updates)), state


@functools.partial(jit, static_argnames=("solver", "n_paths", "n_features"))
def step_at(
    problem: Problem,
    vector: Float[Array, " P"],
    key: PRNGKeyArray,
    start: Float[Array, "N 1+S"] | None,
    solver: AbstractIterativeSolver,
    n_paths: int,
    n_features: int,
) -> Step:
    """The slope at `vector`, by solves that begin at `start`."""
    prior, noise_var = from_vector(problem, vector)
    data = of_one_type(prior, problem.y, noise_var, None, problem.observed)
    inverse, residual, jitter_var = system(data, solver)
    parts = Assembled(inverse, jnp.zeros_like(residual), jitter_var, None)
    posterior, _ = posterior_of(data, parts, inverse.succeeded())
    solved: list[tuple[Array, Convergence]] = []

    def solve(B: Float[Array, "N S"]) -> tuple[Array, Convergence]:
        sides = jnp.concatenate([residual[:, None], B], axis=1)
        columns, convergence = inverse.solve_and_report(sides, start)
        solved.append((columns, convergence))
        return columns[:, 1:], convergence.chosen(slice(1, None))

    X = in_use(prior.X, problem.observed)
    anchored = eqx.tree_at(lambda p: p.prior.X, posterior, X)
    sizes = FourierGrid(), n_features, n_paths
    paths = draw_exact(key, anchored, *sizes, solve)
    ((columns, convergence),) = solved
    posterior = dataclasses.replace(
        posterior, weights=columns[:, 0], convergence=convergence.chosen(slice(1))
    )
    slope = jax.grad(functools.partial(surrogate, problem, columns))(vector)
    largest = jnp.max(jnp.abs(slope))
    return Step(slope, largest, columns, convergence, posterior, paths)


def surrogate(
    problem: Problem, columns: Float[Array, "N 1+S"], vector: Float[Array, " P"]
) -> Float[Array, ""]:
    """What has the slope of the negative log density a datum, at one point."""
    prior, noise_var = from_vector(problem, vector)
    data = of_one_type(prior, problem.y, noise_var, None, problem.observed)
    A, _, residual, _ = equations(data)
    v, z = columns[:, :1], columns[:, :1] - columns[:, 1:]
    both = jnp.concatenate([v, z], axis=1)
    squares = jnp.sum(both * A(both), axis=0)
    value = (squares[0] - jnp.mean(squares[1:])) / 2 - v[:, 0] @ residual
    return -(value + log_prior(problem, prior, noise_var)) / problem.n_data
