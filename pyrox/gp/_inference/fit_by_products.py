"""Fitting hyperparameters to data that have no matrix: by solves alone.

With v = A^-1 (y - mean) and z = A^-1 g for g ~ N(0, A), whose covariance is A^-1, the
slope of log p(y) is

    v^T dA v / 2 - E[z^T dA z] / 2 + v^T dmean

(Lin et al. 2024, arXiv 2405.18457, the pathwise estimator). A path's update is v - z
for its own prior draw g. So one solve gives the slope and the paths, and its solutions
move little from step to step: each solve begins on the line through the last two.

Draws by F features phi have the covariance B = phi phi^T + D for noise D, not A, and
what they lack is not small: on 18 inputs it moves the slope by ten of its standard
errors. So of the two z one is z' = B^-1 g instead: E[z z'^T] = A^-1 B B^-1 = A^-1,
whatever the features are. Products with B take no kernel values.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, PRNGKeyArray
from tqdm.auto import tqdm

from .._features.grid import FourierGrid
from .._hyper.unchecked import jit
from .._paths.path import PathwiseFunction
from .._paths.samplers import draw_exact
from .._posterior.assembly import Assembled, equations, of_one_type, system
from .._posterior.exact import ConditionedGP, posterior_of
from .._posterior.missing import in_use, only
from .._solvers.conjugate import block_cg
from .._solvers.convergence import Convergence
from .._solvers.iterative import IterativeInverse
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


class Solutions(NamedTuple):
    """A^-1 of the right-hand sides of the mean and the paths, and B^-1 of the draws."""

    columns: Float[Array, "N 1+S"]
    probes: Float[Array, "N S"]


class Step(NamedTuple):
    """At one point: the slope a datum of what is minimised, its largest entry, the
    solutions that it is made of, how near they came, and what they make."""

    slope: Float[Array, " P"]
    largest: Float[Array, ""]
    solutions: Solutions
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
                start = _ahead(step.solutions, before)
                before = step.solutions


@jax.jit
def _ahead(last: Solutions, before: Solutions | None) -> Solutions:
    """Where solutions are going."""
    if before is None:
        return last
    return jax.tree.map(lambda new, old: 2 * new - old, last, before)


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
    start: Solutions | None,
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
    solved: list[tuple[Array, Array, Convergence]] = []

    def solve(B: Float[Array, "N S"]) -> tuple[Array, Convergence]:
        sides = jnp.concatenate([residual[:, None], B], axis=1)
        begin = None if start is None else start.columns
        columns, convergence = inverse.solve_and_report(sides, begin)
        solved.append((residual[:, None] - B, columns, convergence))
        return columns[:, 1:], convergence.chosen(slice(1, None))

    X = in_use(prior.X, problem.observed)
    anchored = eqx.tree_at(lambda p: p.prior.X, posterior, X)
    paths = draw_exact(key, anchored, FourierGrid(), n_features, n_paths, solve)
    ((draws, columns, convergence),) = solved
    posterior = dataclasses.replace(
        posterior, weights=columns[:, 0], convergence=convergence.chosen(slice(1))
    )
    phi = only(problem.observed, paths.features(X).T).T
    begin = None if start is None else start.probes
    solutions = Solutions(columns, _probes(inverse, phi, draws, begin))
    objective = functools.partial(surrogate, problem, solutions, solver.mesh)
    slope = jax.grad(objective)(vector)
    largest = jnp.max(jnp.abs(slope))
    return Step(slope, largest, solutions, convergence, posterior, paths)


def _probes(
    inverse: IterativeInverse,
    phi: Float[Array, "N F"],
    draws: Float[Array, "N S"],
    start: Float[Array, "N S"] | None,
) -> Float[Array, "N S"]:
    """B^-1 of draws from N(0, B), B = phi phi^T + D, to a tenth of what the solver
    leaves of a path.

    Block conjugate gradients end after about F / S products, as D^-1 B is the identity
    but for F directions.
    """
    noise = inverse.A.noise_var
    bound = inverse.iterations.tolerance * jnp.sqrt(jnp.sum(noise))
    bounds = jnp.full(draws.shape[1], bound)

    def times(V: Float[Array, "N S"]) -> Float[Array, "N S"]:
        return phi @ (phi.T @ V) + noise[:, None] * V

    def precondition(V: Float[Array, "N S"]) -> Float[Array, "N S"]:
        return V / noise[:, None]

    most = 2 * phi.shape[1]
    limits = bounds, most, lambda count, worst: None
    return block_cg(times, precondition, draws, start, *limits)[0]


def surrogate(
    problem: Problem,
    solutions: Solutions,
    mesh: Mesh | None,
    vector: Float[Array, " P"],
) -> Float[Array, ""]:
    """What has the slope of the negative log density a datum, at one point."""
    prior, noise_var = from_vector(problem, vector)
    data = of_one_type(prior, problem.y, noise_var, None, problem.observed)
    A, _, residual, _ = equations(data, mesh)
    v, z = jnp.split(solutions.columns, [1], axis=1)
    left = jnp.concatenate([v, v - z], axis=1)
    right = jnp.concatenate([v, solutions.probes], axis=1)
    products = jnp.sum(left * A(right), axis=0)
    value = (products[0] - jnp.mean(products[1:])) / 2 - v[:, 0] @ residual
    return -(value + log_prior(problem, prior, noise_var)) / problem.n_data
