"""Trade-offs between several objectives, one for each drawn path: random weights."""

import functools
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int, PRNGKeyArray, Real

from .._hyper.arrays import cast_floats
from .._hyper.checks import as_count, as_float, common_dtype, require, require_ok
from .._hyper.unchecked import jit
from .._paths.formula import Formula
from .box import as_box, checked_at_run_time
from .chebyshev import Chebyshev
from .optimize_paths import (
    Paths,
    as_constraints,
    as_paths,
    as_sizes,
    box_inside,
    included,
    search_all,
)
from .pareto import as_signs
from .search import Found

_FEW_CANDIDATES, _FEW_STARTS = 2048, 32  # for one or two inputs


class TradeOffs(eqx.Module):
    """A point of each path where no objective can be lower unless another is higher;
    what `optimize_trade_offs` returns.

    With `n_weights=R` there is an axis of R after that of the paths, S.

    A pytree of arrays: it is returned from `jit` and stacked by `vmap`.
    """

    X: Float[Array, "S *R D"]
    """The places, one a path and weighting."""
    values: Float[Array, "S *R K"]
    """The objectives of that path there, in their own units."""
    weights: Float[Array, "S *R K"]
    """How much each objective counted, in all 1."""
    ideal: Float[Array, "S K"]
    """The lowest value of each objective at the candidates (the highest, where that is
    better): 0 in scaled units."""
    nadir: Float[Array, "S K"]
    """The worst value of each objective where another one is at its best: 1."""
    converged: Bool[Array, " S *R"]
    """Whether the slope vanishes there, the objectives that tie weighed by their
    shares, but for what a bound holds."""
    at_bound: Bool[Array, "S *R D"]
    """Which inputs are at a bound."""
    violation: Float[Array, " S *R"]
    """By how much the worst constraint is above zero."""
    n_evaluations: Int[Array, ""]
    """At how many points each path was evaluated."""

    @property
    def feasible(self) -> Bool[Array, " S *R"]:
        """Whether all constraints hold."""
        return self.violation <= 0

    def __len__(self) -> int:
        return self.values.shape[0]


def optimize_trade_offs(
    key: PRNGKeyArray,
    objectives: Sequence[Paths],
    bounds: Real[ArrayLike, "2 D"],
    *,
    weights: Real[ArrayLike, "S *R K"] | None = None,
    n_weights: int | None = None,
    maximize: bool | Sequence[bool] = False,
    constraints: Sequence[Paths] = (),
    integers: Sequence[int] = (),
    include: Real[ArrayLike, "N D"] | None = None,
    n_candidates: int | None = None,
    n_starts: int | None = None,
    progress: bool = True,
) -> TradeOffs:
    """The best trade-off of every path between several objectives, at random weights.

    Path s of all objectives is one drawn world. In it the point is sought where

        max_k w_k g_k(x) + 0.05 sum_k w_k g_k(x)

    is lowest, the augmented Chebyshev function. g_k is objective k from its ideal, 0,
    to its nadir, 1: the lowest value at the candidates, and the worst at those where
    another objective is lowest (where the objectives agree a thousandth of its
    deviation stands for that range). Each point of a Pareto front is the minimum under
    some weights, unless a trade-off is steeper than 1 to 20 there. So S paths under
    random weights are a batch of Thompson sampling for all of the front.

    The search is that of `optimize_paths`. The kink where objectives tie is smoothed,
    and their shares in the slope there are learnt, until it is that of the maximum.

    Args:
        key: for the candidates and the weights.
        objectives: two or more, each a PathwiseFunction or an ensemble, of as many
            paths, drawn from posteriors of their own.
        bounds: the lowest and the highest value of each input.
        weights: not negative, not all zero; only their ratios count. By default uniform
            on the simplex, from the key. (S, K), or (S, R, K) for R of each path.
        n_weights: R, so many random weights of each path; results have an axis more.
        maximize: whether higher is better, of all objectives or one for each.
        constraints, integers, include, n_candidates, n_starts, progress: as in
            `optimize_paths`; by default 2048 candidates and 32 starts for one or two
            inputs without constraints.

    Returns:
        `TradeOffs`: `found.X` (S, D), `found.values` (S, K), `found.weights` (S, K), or
        with R weights (S, R, D), (S, R, K). The Pareto front of each path is
        `jax.vmap(pareto_front)(found.values)`. The points are constants to `jax.grad`;
        values have the derivative of the paths at fixed points.

    Raises:
        ValueError: fewer than two objectives, or of other numbers of paths; weights of
            another shape, negative, not finite or all zero; both `weights` and
            `n_weights`; and all that `optimize_paths` raises.

    Cost: of two objectives four to six times that of `optimize_paths`, for each path
        and weighting; the candidates are evaluated once for all weights of a path.

    Source: Knowles 2006 (ParEGO); Paria, Kandasamy & Poczos 2019, arXiv 1805.12168.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from pyrox.gp import RBF, GPPrior, PathwiseSampler
        >>> from pyrox.gp import optimize_trade_offs, pareto_front
        >>> X = jnp.linspace(0, 1, 6)[:, None]
        >>> prior = GPPrior(RBF(1.0, 0.5), X)
        >>> def drawn(y):
        ...     sampler = PathwiseSampler(prior.condition(y, noise_var=1e-3), 128)
        ...     return sampler.sample_paths(jax.random.key(0), 4)
        >>> paths = [drawn((X[:, 0] - 0.2) ** 2), drawn((X[:, 0] - 0.7) ** 2)]
        >>> box = jnp.array([[0.0], [1.0]])
        >>> found = optimize_trade_offs(jax.random.key(1), paths, box, n_weights=8)
        >>> found.X.shape, found.values.shape
        ((4, 8, 1), (4, 8, 2))
        >>> jax.vmap(pareto_front)(found.values).shape
        (4, 8)
    """
    call = "optimize_trade_offs"
    own = _as_objectives(call, objectives)
    others = as_constraints(f"{call}(constraints=...)", constraints, own[0])
    functions = *objectives, *constraints
    box = as_box(call, bounds, own[0].anchors.shape[-1], integers)
    box = checked_at_run_time(call, box)
    box = box_inside(f"{call}(bounds=...)", functions, box)
    signs = as_signs(call, maximize, len(own))
    formulas = *own, *others
    dtype = common_dtype(box.lower, *(path.feature_weights for path in formulas))
    key, key_weights = jax.random.split(key)
    w = _as_weights(call, key_weights, own, weights, n_weights, dtype)
    target = Chebyshev(
        objectives=own, constraints=others, box=box, weights=w, signs=signs
    )
    target = cast_floats(target, dtype)
    known = [included(call, path, None, target.box) for path in own[1:]]
    points = jnp.concatenate([included(call, own[0], include, target.box), *known])
    if box.in_size <= 2 and not others:  # more basins than one path has
        n_candidates = _FEW_CANDIDATES if n_candidates is None else n_candidates
        n_starts = min(_FEW_STARTS, n_candidates) if n_starts is None else n_starts
    sizes = as_sizes(call, n_candidates, n_starts, target)
    found = search_all(key, target, points, sizes, progress)
    several = n_weights is not None or (weights is not None and jnp.ndim(weights) == 3)
    return _trade_offs(target, found, target.n_weights if several else None)


def _as_objectives(call: str, objectives: Sequence[Paths]) -> tuple[Formula, ...]:
    if not isinstance(objectives, list | tuple) or len(objectives) < 2:
        got = (
            f"{len(objectives)}" if isinstance(objectives, list | tuple) else "no list"
        )
        raise ValueError(
            f"`{call}(objectives)` must be a list of two or more, each the paths of "
            f"one objective. Got {got}. For one objective use `optimize_paths`."
        )
    name = f"{call}(objectives)"
    first, *others = found = [as_paths(name, paths) for paths in objectives]
    for path in others:
        wanted, came = (
            (*f.feature_weights.shape[:-1], f.anchors.shape[-1]) for f in (first, path)
        )
        if came != wanted:
            raise ValueError(
                f"`{name}` must be paths, each as many as the first, and of the same "
                f"inputs: {wanted[:-1]} of D={wanted[-1]}. Got {came[:-1]} of "
                f"D={came[-1]}. Draw the same number of each: path s of all belongs "
                "together."
            )
    return tuple(found)


def _as_weights(
    call: str,
    key: PRNGKeyArray,
    objectives: tuple[Formula, ...],
    weights: ArrayLike | None,
    n_weights: int | None,
    dtype: np.dtype,
) -> Float[Array, "... S R K"]:
    """On the simplex, with the paths' leading axes."""
    lead, k = objectives[0].feature_weights.shape[:-1], len(objectives)
    n = int(np.prod(lead))
    if weights is None:
        count = (
            1 if n_weights is None else as_count(f"{call}(n_weights=...)", n_weights)
        )
        w = jax.random.exponential(key, (n, count, k), dtype)
        return (w / jnp.sum(w, axis=-1, keepdims=True)).reshape(*lead, count, k)
    if n_weights is not None:
        raise ValueError(
            f"`{call}` takes `weights`, or `n_weights` of them at random. Got both. "
            "Leave one of them out."
        )
    name = f"{call}(weights=...)"
    w = as_float(weights, name)
    if w.ndim not in (2, 3) or (w.shape[0], w.shape[-1]) != (n, k) or w.size == 0:
        raise ValueError(
            f"`{name}` must have shape ({n}, {k}), one row for each path and one "
            f"column for each objective, or ({n}, R, {k}). Got {w.shape}. For the same "
            f"weights in every path pass `jnp.broadcast_to(w, ({n}, {k}))`."
        )
    sentence = f"`{name}` must be finite and not negative."
    w = require(w, lambda w: (w >= 0) & (w < np.inf), sentence).astype(dtype)
    largest = jnp.max(w, axis=-1, keepdims=True)
    sentence = (
        f"`{name}` must not be all zero: then no objective counts. Pass a positive "
        "weight for one of them, in each row."
    )
    w = require_ok(w, largest > 0, sentence) / largest
    return (w / jnp.sum(w, axis=-1, keepdims=True)).reshape(*lead, -1, k)


@functools.partial(jit, static_argnames="n_weights")
def _trade_offs(target: Chebyshev, found: Found, n_weights: int | None) -> TradeOffs:
    """What the user gets, with an axis of weights if there are many."""
    box, best, units = target.box, found.best, found.units
    X = box.inside(best.unit)
    held = ((best.unit <= 0) | (best.unit >= 1)) & ~box.is_whole(best.unit)
    signs = jnp.asarray(target.signs, X.dtype)[None]
    lead = (-1,) if n_weights is None else (len(X) // n_weights, n_weights)

    def shaped(x):
        return x.reshape(*lead, *x.shape[1:])

    return TradeOffs(
        X=shaped(X),
        values=shaped(target.raw_at_own(X[:, None])[:, 0]),
        weights=shaped(target.weights.reshape(-1, target.weights.shape[-1])),
        ideal=signs * units.ideal[:: target.n_weights],
        nadir=signs * units.nadir[:: target.n_weights],
        converged=shaped(best.converged),
        at_bound=shaped(held),
        violation=shaped(best.violation),
        n_evaluations=found.n_evaluations,
    )
