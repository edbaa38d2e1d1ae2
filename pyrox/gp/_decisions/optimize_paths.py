"""The optimum of every path: over a box, or among choices."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, PRNGKeyArray, Real
from tqdm.auto import tqdm

from .._hyper.arrays import placed
from .._hyper.checks import (
    as_count,
    as_inputs,
    common_dtype,
    is_traced,
    require_inside,
)
from .._paths.ensemble import PathwiseEnsemble
from .._paths.formula import Formula
from .._paths.path import OUTSIDE, PathwiseFunction, bare
from .box import Box, as_box, checked_at_run_time
from .choices import best_choices
from .merit import AbstractTarget, Target
from .optima import PathOptima
from .search import Found, Sizes, search
from .stationary import moving

_TOGETHER = 64  # paths in one program, which share its candidates
_BAR_AFTER = 2.0  # seconds
# Widths from zero at which float32 no longer resolves a box.
_FARTHEST = 1e3
_MOST_INPUTS = 16  # that the number of candidates grows with
# For one or two inputs, where candidates are dense and cost less than starts do.
_FEW_CANDIDATES, _FEW_STARTS = 2048, 16

Paths = PathwiseFunction | PathwiseEnsemble


def optimize_paths(
    key: PRNGKeyArray,
    paths: Paths,
    bounds: Real[ArrayLike, "2 D"] | None = None,
    *,
    maximize: bool = False,
    choices: Real[ArrayLike, "C D"] | None = None,
    constraints: Sequence[Paths] = (),
    integers: Sequence[int] = (),
    include: Real[ArrayLike, "K D"] | None = None,
    n_candidates: int | None = None,
    n_starts: int | None = None,
    progress: bool = True,
) -> PathOptima:
    """The lowest point of every path in a box, or among choices.

    Each path is evaluated at scrambled Sobol candidates, at the data and at the points
    that are included. Its best candidates start a projected quasi-Newton race, in which
    the poor are dropped early; the last few are followed to their minima. A search, not
    a proof: `benchmarks.thompson` has its hit rates.

    With x64 on, candidates and race are in float32 where bounds and kernel allow it,
    the finish in float64. Under `jit` and `vmap` it is one program. Values have a
    derivative in all that the paths depend on, and so have the points, by the implicit
    function theorem, where the optimum is regular; inputs at a bound stay there.

    Args:
        key: for the candidates.
        paths: a PathwiseFunction, or an ensemble of `paths_over_draws`, whose draws are
            counted through: path `b S + s` is path s of draw b.
        bounds: the lowest and the highest value of each input.
        maximize: whether to look for the highest point.
        choices: in place of bounds, all points that may be chosen. They are compared
            exactly, in blocks, and may be many.
        constraints: paths, as many as `paths` has, that are to be at most zero; path s
            of each belongs to path s.
        integers: inputs that take whole numbers.
        include: points to start from, such as the best data; those outside the bounds
            are moved to the nearest inside.
        n_candidates, n_starts: how hard to search. By default 512 candidates an input,
            at most 8192, and 256 starts; 8192 candidates with constraints; without them
            2048 candidates and 16 starts for one or two inputs.
        progress: whether to show a bar, which appears after two seconds.

    Returns:
        A `PathOptima`: `found.X` (S, D), `found.values` (S,), whether each converged,
        which inputs are at a bound. Where no point is found that meets all constraints
        it has the least violation, `found.violation`, in the units of that constraint.

    Raises:
        ValueError: bounds that are reversed, equal, infinite or of another D, or that
            the domain of the paths does not hold; whole numbers without room; neither
            bounds nor choices; no choices; constraints of another number of paths.

    Cost: about (n_candidates + 6 n_starts) evaluations of each path, with constraints
        another thousand of each of them, and the memory of 64 paths at their
        candidates.

    Source: TuRBO's and TS-roots' ways to start (Eriksson et al. 2019, arXiv 1910.01739;
        Adebiyi et al. 2024, arXiv 2410.22322); Bertsekas 1982 for bounds.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from pyrox.gp import RBF, GPPrior, PathwiseSampler, optimize_paths
        >>> X, y = jnp.array([[0.0], [0.5], [1.0]]), jnp.array([1.0, -1.0, 0.5])
        >>> posterior = GPPrior(RBF(1.0, 0.3), X).condition(y, noise_var=1e-3)
        >>> paths = PathwiseSampler(posterior, 128).sample_paths(jax.random.key(0), 4)
        >>> found = optimize_paths(jax.random.key(1), paths, jnp.array([[0.0], [1.0]]))
        >>> found.X.shape, found.values.shape, bool(found.converged.all())
        ((4, 1), (4,), True)
    """
    call = "optimize_paths"
    if (bounds is None) == (choices is None):
        raise ValueError(
            f"`{call}` needs `bounds`, the box to search, or `choices`, the points to "
            f"choose from. Got {'neither' if bounds is None else 'both'}."
        )
    own = as_paths(f"{call}(paths)", paths)
    others = as_constraints(f"{call}(constraints=...)", constraints, own)
    functions = paths, *constraints
    if choices is not None:
        points = as_inputs(f"{call}(choices=...)", choices, own.anchors.shape[-1])
        points = inside(f"{call}(choices=...)", functions, points)
        target = _as_target(call, (own, *others), _around(points), maximize)
        return best_choices(target, points.astype(target.box.lower.dtype))
    assert bounds is not None
    box = as_box(call, bounds, own.anchors.shape[-1], integers)
    box = checked_at_run_time(call, box)
    box = box_inside(f"{call}(bounds=...)", functions, box)
    target = _as_target(call, (own, *others), box, maximize)
    points = included(call, own, include, target.box)
    sizes = as_sizes(call, n_candidates, n_starts, target)
    found = search_all(key, target, points, sizes, progress)
    return _optima(target, found)


def as_paths(call: str, paths: Paths) -> Formula:
    """The paths, perhaps stacked, without what only tells where they come from."""
    if isinstance(paths, PathwiseEnsemble):
        return bare(paths.paths)
    if not isinstance(paths, PathwiseFunction):
        raise ValueError(
            f"`{call}` must be a PathwiseFunction or a PathwiseEnsemble. Got a "
            f"{type(paths).__name__}. Pass what `sample_paths` or `paths_over_draws` "
            "returns."
        )
    if paths.feature_weights.ndim != 2:
        raise ValueError(
            f"`{call}`: these paths are stacked, with leading axes "
            f"{paths.feature_weights.shape[:-2]}. Map over them: "
            "`jax.vmap(lambda path: optimize_paths(key, path, bounds))(paths)`."
        )
    return bare(paths)


def as_constraints(
    call: str, constraints: Sequence[Paths], own: Formula
) -> tuple[Formula, ...]:
    found = []
    for constraint in constraints:
        path = as_paths(call, constraint)
        wanted = *own.feature_weights.shape[:-1], own.anchors.shape[-1]
        came = *path.feature_weights.shape[:-1], path.anchors.shape[-1]
        if came != wanted:
            raise ValueError(
                f"`{call}` must be paths, each as many as `paths` has, and of the same "
                f"inputs: {wanted[:-1]} of D={wanted[-1]}. Got {came[:-1]} of "
                f"D={came[-1]}. Draw the same number of each."
            )
        found.append(path)
    return tuple(found)


def inside(call: str, functions: Sequence[Paths], X: Array) -> Array:
    """`X`, which the domains of all paths must hold."""
    for paths in functions:
        X = require_inside(X, call, _domain(paths), OUTSIDE)
    return X


def _domain(paths: Paths) -> Float[Array, "... 2 D"] | None:
    return paths.paths.domain if isinstance(paths, PathwiseEnsemble) else paths.domain


def box_inside(call: str, functions: Sequence[Paths], box: Box) -> Box:
    """`box`, which the domains of all paths must hold; if known, by NumPy."""
    if all(_domain(paths) is None for paths in functions):
        return box
    if not is_traced(box.lower):
        inside(call, functions, placed(np.stack([box.lower, box.upper])))
        return box
    ends = inside(call, functions, jnp.stack([box.lower, box.upper]))
    return Box(ends[0], ends[1], box.integers)


def _around(X: Float[Array, "N D"]) -> Box:
    return Box(jnp.min(X, axis=0), jnp.max(X, axis=0))


def _as_target(
    call: str, functions: Sequence[Formula], box: Box, maximize: bool
) -> Target:
    """All in one width of float, the widest that came."""
    if not isinstance(maximize, bool):
        raise ValueError(
            f"`{call}(maximize=...)` must be True or False. Got {maximize!r}."
        )
    own, *others = functions
    others = tuple(others)
    target = Target(paths=own, constraints=others, box=box, maximize=maximize)
    weights = [path.feature_weights for path in functions]
    return target.astype(common_dtype(box.lower, *weights))


def included(
    call: str, paths: Formula, include: ArrayLike | None, box: Box
) -> Float[Array, "N D"]:
    """The data, which a path knows, and what the caller adds."""
    anchors = paths.anchors if paths.anchors.ndim == 2 else paths.anchors[0]
    points = [anchors.astype(box.lower.dtype)]
    if include is not None:
        X = as_inputs(f"{call}(include=...)", include, box.in_size)
        points.append(X.astype(box.lower.dtype))
    return jnp.concatenate(points)


def as_sizes(
    call: str, n_candidates: int | None, n_starts: int | None, target: AbstractTarget
) -> Sizes:
    few = target.box.in_size <= 2 and not target.constraints
    if n_candidates is None:
        n_inputs = _MOST_INPUTS if target.constraints else target.box.in_size
        n_candidates = _FEW_CANDIDATES if few else 512 * min(n_inputs, _MOST_INPUTS)
    if n_starts is None:
        n_starts = min(_FEW_STARTS if few else 256, n_candidates)
    n_candidates = as_count(f"{call}(n_candidates=...)", n_candidates)
    n_starts = as_count(f"{call}(n_starts=...)", n_starts)
    if n_starts > n_candidates:
        raise ValueError(
            f"`{call}(n_starts=...)` must be at most the number of candidates, "
            f"{n_candidates}. Got {n_starts}. Pass more candidates."
        )
    return Sizes(n_candidates, n_starts, _single_will_do(target))


def _single_will_do(target: AbstractTarget) -> bool:
    """Whether float32 tells points of the box apart, and holds the kernel: then the
    search may be in it, which is before the finish and decides on no digit."""
    box = target.box
    if box.lower.dtype == jnp.float32 or is_traced(box.lower) or is_traced(box.upper):
        return False
    # By NumPy: JAX would trace the width of a known box inside `jit`.
    ends = np.stack([box.lower, box.upper])
    if (np.abs(ends) > _FARTHEST * (ends[1] - ends[0])).any():
        return False
    kernels = jax.tree.leaves([path.kernel for path in target.functions])
    sizes = [np.abs(np.asarray(leaf)) for leaf in kernels if not is_traced(leaf)]
    return all(((v == 0) | ((v > 1e-18) & (v < 1e18))).all() for v in sizes)


def search_all(
    key: PRNGKeyArray,
    target: AbstractTarget,
    included: Float[Array, "N D"],
    sizes: Sizes,
    progress: bool,
) -> Found:
    """Some paths at a time by one program, in which no path depends on the others; the
    last few filled up."""
    n = target.functions[0].feature_weights.shape[0]
    a_row = target.n_paths // n  # one, or the paths of one draw
    size = max(1, _TOGETHER // a_row)
    if n <= size:
        return search(key, target, included, sizes)
    n_parts = -(-n // size)
    size = -(-n // n_parts)
    rows = np.minimum(np.arange(n_parts * size), n - 1).reshape(n_parts, size)
    if any(map(is_traced, jax.tree.leaves((key, target, included)))):
        parts = jax.lax.map(
            lambda some: search(key, target.some(some), included, sizes),
            jnp.asarray(rows),
        )
        return _joined(parts, n * a_row)
    parts = []
    with tqdm(
        total=target.n_paths, desc="paths", delay=_BAR_AFTER, disable=not progress
    ) as bar:
        for some in rows:
            part = search(key, target.some(jnp.asarray(some)), included, sizes)
            parts.append(jax.tree.map(np.asarray, part))
            bar.update(min(size * a_row, target.n_paths - bar.n))
    stacked = jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *parts)
    return _joined(stacked, n * a_row)


def _joined(parts: Found, n: int) -> Found:
    """Parts along the first axis as one, without what they were filled up with."""

    def rows(leaf):
        return leaf.reshape(leaf.shape[0] * leaf.shape[1], *leaf.shape[2:])[:n]

    best, scales, units = jax.tree.map(rows, (parts.best, parts.scales, parts.units))
    return Found(best, scales, jnp.max(parts.n_evaluations), units)


def _optima(target: Target, found: Found) -> PathOptima:
    """What the user gets; with derivatives where something may be differentiated."""
    box, best = target.box, found.best
    unit, values = best.unit, best.value
    if any(map(is_traced, jax.tree.leaves((target, found)))):
        unit = moving(target, found)
        moved = target.at_own(box.inside(unit)[:, None])
        values = target.sign * moved.of_path[:, 0]
    X, at_bound = _in_units_of(box, unit, best.unit)
    return PathOptima(
        X=X,
        values=values,
        converged=best.converged,
        at_bound=at_bound,
        violation=best.violation,
        choice=None,
        n_evaluations=found.n_evaluations,
    )


@jax.jit  # one program: each operation by itself costs as much as all
def _in_units_of(
    box: Box, unit: Float[Array, "S D"], ends: Float[Array, "S D"]
) -> tuple[Float[Array, "S D"], Bool[Array, "S D"]]:
    """Points of the box, and which of their inputs a bound holds where they were
    found."""
    held = (ends <= 0) | (ends >= 1)
    return box.inside(unit), held & ~box.is_whole(held)
