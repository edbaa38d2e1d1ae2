"""The searches of a fit, each from a start of its own: one after the other, or all in
one program."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, PRNGKeyArray
from tqdm.auto import tqdm

from .._hyper.checks import is_traced
from .._hyper.unchecked import jit
from .._numerics.lbfgs import Search, advance, begin
from .._posterior.exact import conditioned
from .noise_alone import beside_noise
from .starts import at_data, drawn_at_data, is_at_data
from .trained import NOISE, Problem, from_vector, objective, to_vector

_STEPS_A_CALL = 10
_from_vector = jit(from_vector)


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
def _begin(problem: Problem) -> tuple[Search, Array]:
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


def is_traced_task(task: Task) -> bool:
    """Whether a value is unknown until a program runs, or all that is computed here."""
    computed = _begin(task.problem)
    return any(is_traced(leaf) for leaf in jax.tree.leaves((task, computed)))


def search_in_turn(task: Task, progress: bool) -> Runs:
    """One start after the other, some steps a call of the same program, so that a bar
    can move."""
    search, is_sized = _begin(task.problem)
    runs = [_search(task, search, 0, progress)]
    if task.n_starts > 1:
        second = _second(task, runs[0], bool(is_sized))
        if second is not None:
            runs.append(_search(task, second, 1, progress))
    for start in range(2, task.n_starts):
        search = _begin_around(task.problem, task.key, np.int32(start))
        runs.append(_search(task, search, start, progress))
    return Runs(*(jnp.asarray(np.stack(column)) for column in zip(*runs, strict=True)))


def _second(task: Task, first: Runs, is_sized: bool) -> Search | None:
    """The search from the best at the scales of the data, None if it is not needed."""
    is_noise = task.as_needed and bool(_is_noise(task.problem, first.point))
    if task.as_needed and is_sized and not is_noise:
        return None
    # Evaluated by the program of the searches, so that no other need be compiled.
    searches = jax.tree.map(np.asarray, _begin_at_data(task.problem, task.key))
    begun = []
    for i in range(searches.value.shape[0]):
        search = Search(*jax.tree.map(lambda leaf, i=i: leaf[i], tuple(searches)))
        begun.append(_advance(task.problem, search, task.tolerance, np.int32(0))[0])
    best = min(begun, key=lambda search: float(search.value))
    is_higher = float(best.value) < float(first.value)
    return best if is_higher or is_noise or not task.as_needed else None


def _is_noise(problem: Problem, vector: Array) -> Bool[Array, ""]:
    """Whether the hyperparameters in `vector` explain nothing beyond noise; so they do
    where they have no density."""
    prior, noise_var = _from_vector(problem, vector)
    posterior, _ = conditioned(prior, problem.y, noise_var, problem.derivatives)
    return beside_noise(posterior, NOISE in problem.fixed).is_noise


def _search(task: Task, search: Search, start: int, progress: bool) -> Runs:
    problem, _, tolerance, most_steps, n_starts, as_needed = task
    many = n_starts > 1 and not as_needed
    name = f"fit {start + 1} of {n_starts}" if many else "fit"
    n, limit = problem.n_data, 0
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
