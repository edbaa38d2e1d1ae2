"""The searches of a fit, each from a start of its own: one after the other, or all in
one program."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, PRNGKeyArray
from tqdm.auto import tqdm

from .._hyper.unchecked import jit
from .._numerics.lbfgs import Search, advance, begin
from .._posterior.exact import conditioned
from .noise_alone import beside_noise
from .starts import at_data, can_start_at_data, drawn_at_data, is_at_data
from .trained import NOISE, Problem, from_vector, objective, to_vector

_STEPS_A_CALL = 10


class Task(NamedTuple):
    """What is to be searched, from where and how far. `as_needed` stands for a second
    start that is made only where the first will not do."""

    problem: Problem
    key: PRNGKeyArray | None
    tolerance: Array
    most_steps: int
    n_starts: int
    as_needed: bool


class Runs(NamedTuple):
    """Where each start has led."""

    point: Array
    value: Array
    gradient_norm: Array
    n_steps: Array


@jit
def begin_first(problem: Problem) -> tuple[Search, Bool[Array, ""]]:
    """The search from the given values, and whether these are of the data's size."""
    return begin(to_vector(problem)), is_at_data(problem)


@jit
def _begin_at_data(problem: Problem, key: PRNGKeyArray | None) -> Search:
    return jax.vmap(begin)(at_data(problem, key))


@jit
def _begin_around(
    problem: Problem, key: PRNGKeyArray | None, start: ArrayLike
) -> Search:
    return begin(drawn_at_data(problem, key, start))


@jit
def _advance(
    problem: Problem, search: Search, tolerance: Array, most_steps: ArrayLike
) -> tuple[Search, Runs]:
    density = functools.partial(objective, problem)
    s = advance(density, search, tolerance, jnp.asarray(most_steps))
    return s, Runs(s.point, s.value, s.gradient_norm, jnp.maximum(s.n_steps, 0))


def search_in_turn(
    task: Task, begun: tuple[Search, Bool[Array, ""]], progress: bool
) -> Runs:
    """One start after the other, some steps a call of the same program, so that a bar
    can move. A second as needed is made if the first is off the data's scales, or has
    no density, and ends below where the second begins."""
    search, is_sized = begun
    first = _search(task, search, 0, progress)
    runs = _stacked([first])
    if task.n_starts > 1:
        is_asked = not task.as_needed
        if is_asked or not is_sized or not np.isfinite(first.value):
            runs = with_second(task, runs, progress, only_if_higher=not is_asked)
    for start in range(2, task.n_starts):
        search = _begin_around(task.problem, task.key, np.int32(start))
        runs = _stacked([runs, _search(task, search, start, progress)])
    return runs


def with_second(
    task: Task, runs: Runs, progress: bool, *, only_if_higher: bool = False
) -> Runs:
    """`runs` and the search from the best trial at the scales of the data."""
    if task.as_needed and not can_start_at_data(task.problem):
        return runs
    # Evaluated by the program of the searches, so that no other need be compiled.
    searches = jax.tree.map(np.asarray, _begin_at_data(task.problem, task.key))
    begun = []
    for i in range(searches.value.shape[0]):
        search = Search(*jax.tree.map(lambda leaf, i=i: leaf[i], tuple(searches)))
        begun.append(_advance(task.problem, search, task.tolerance, np.int32(0))[0])
    best = min(begun, key=lambda search: float(search.value))
    if only_if_higher and not float(best.value) < float(runs.value[0]):
        return runs
    return _stacked([runs, _search(task, best, 1, progress)])


def _stacked(runs: list[Runs]) -> Runs:
    """Of one row for each search, by NumPy, which compiles nothing."""
    rows = [(np.atleast_2d(run[0]), *map(np.atleast_1d, run[1:])) for run in runs]
    columns: Any = map(np.concatenate, zip(*rows, strict=True))
    return Runs(*columns)


def _is_noise(problem: Problem, vector: Array) -> Bool[Array, ""]:
    """Whether the hyperparameters in `vector` explain nothing beyond noise; so they do
    where they have no density."""
    prior, noise_var = from_vector(problem, vector)
    data = problem.y, noise_var, problem.derivatives, problem.observed
    posterior, _ = conditioned(prior, *data)
    return beside_noise(posterior, NOISE in problem.fixed).is_noise


def _search(task: Task, search: Search, start: int, progress: bool) -> Runs:
    problem, _, tolerance, most_steps, n_starts, as_needed = task
    many = n_starts > 1 and not as_needed
    name = f"fit {start + 1} of {n_starts}" if many else "fit"
    n, limit = float(problem.n_data), 0
    with tqdm(total=most_steps, desc=name, disable=not progress) as bar:
        while True:
            before = limit
            limit = most_steps if bar.disable else before + _STEPS_A_CALL
            limit = min(limit, most_steps)
            search, run = _advance(problem, search, tolerance, np.int32(limit))
            bar.set_postfix_str(f"log density {-n * float(run.value):.6g}")
            bar.update(int(run.n_steps) - before)
            converged = float(run.gradient_norm) <= float(tolerance)
            if converged or int(run.n_steps) < limit or limit == most_steps:
                return run


_FIRST, _TRIAL, _SECOND, _OTHER = range(4)


class _State(NamedTuple):
    """What later starts know of earlier ones: the best trial at the data's scales, and
    what the first has come to."""

    point: Array
    value: Array
    first: Array
    is_noise: Array


@functools.partial(jit, static_argnames=("n_starts", "as_needed"))
def search_in_program(
    problem: Problem,
    key: PRNGKeyArray | None,
    tolerance: Array,
    most_steps: ArrayLike,
    n_starts: int,
    as_needed: bool,
) -> Runs:
    """All starts in one program, which is not differentiated. Trials at the data's
    scales are searches of no step, so that the density is compiled once."""
    problem, tolerance = jax.lax.stop_gradient((problem, tolerance))
    if as_needed and not can_start_at_data(problem):
        n_starts = 1
    points, kinds = _all_starts(problem, key, n_starts)
    is_sized = is_at_data(problem)

    def one(state, row):
        point, kind = row
        point = jnp.where(kind == _SECOND, state.point, point)
        limit = jnp.where(kind == _TRIAL, 0, most_steps)
        if as_needed:
            tries = (kind == _TRIAL) & ~is_sized
            higher = (kind == _SECOND) & (state.value < state.first)
            needed = (kind == _FIRST) | tries | higher | state.is_noise
            limit = jnp.where(needed, limit, -1)
        run = _advance(problem, begin(point), tolerance, limit)[1]
        return _learned(problem, state, kind, run, as_needed), run

    infinite = jnp.full((), jnp.inf, points.dtype)
    state = _State(points[-1], infinite, infinite, jnp.asarray(False))
    runs = jax.lax.scan(one, state, (points, jnp.asarray(kinds)))[1]
    return jax.tree.map(lambda column: column[kinds != _TRIAL], runs)


def _all_starts(
    problem: Problem, key: PRNGKeyArray | None, n_starts: int
) -> tuple[Array, np.ndarray]:
    """The points of all searches with their kinds; that of the second is not known."""
    points, kinds = [to_vector(problem)[None]], [_FIRST]
    if n_starts > 1:
        trials = at_data(problem, key)
        points += [trials, trials[:1]]
        kinds += [_TRIAL] * trials.shape[0] + [_SECOND]
    for start in range(2, n_starts):
        points.append(drawn_at_data(problem, key, start)[None])
        kinds.append(_OTHER)
    return jnp.concatenate(points), np.array(kinds)


def _learned(
    problem: Problem, state: _State, kind: Array, run: Runs, as_needed: bool
) -> _State:
    better = (kind == _TRIAL) & (run.value < state.value)
    state = state._replace(
        point=jnp.where(better, run.point, state.point),
        value=jnp.where(better, run.value, state.value),
        first=jnp.where(kind == _FIRST, run.value, state.first),
    )
    if not as_needed:
        return state
    is_noise = jax.lax.cond(
        kind == _FIRST,
        lambda point: _is_noise(problem, point),
        lambda _: state.is_noise,
        run.point,
    )
    return state._replace(is_noise=is_noise)
