"""What a loop of decisions knows: points asked for, and what was told of them."""

from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float, Int

from .._hyper.arrays import placed
from .._kernels.kernel import AbstractKernel
from .trust_region import TrustRegion

# Of a row: nothing yet, asked for, told, told as failed.
EMPTY, PENDING, TOLD, FAILED = range(4)
WORDS = np.array(["", "pending", "told", "failed"])
_FEWEST, _COARSE = 64, 1024


class ThompsonState(eqx.Module):
    """A loop so far; what `ThompsonSampling` returns and takes.

    A pytree of arrays: `pickle` keeps it, and `eqx.tree_serialise_leaves`, to be read
    with `like=study.empty(n)`, n being the rows in use. It has more rows than are in
    use, so that shapes stay as data grow. Read it by `study.history(state)`.
    """

    X: Float[Array, "C D"]
    """Points, in the order in which they were asked for or told."""
    y: Float[Array, " C"]
    """Their values, NaN where there is none."""
    status: Int[Array, " C"]
    """0 for a row not in use, 1 for pending, 2 for told, 3 for failed."""
    round: Int[Array, " C"]
    """In which call of `ask` it was asked for; zero where it was not."""
    n_points: Int[Array, ""]
    """How many rows are in use."""
    n_rounds: Int[Array, ""]
    """How often was asked."""
    kernel: AbstractKernel
    """With the hyperparameters of the last round, from which the next fit starts."""
    mean: Float[Array, ""]
    """The same of the prior's mean, a constant, of standardised outputs."""
    noise_var: Float[Array, ""]
    """The same of the noise; as the kernel's variance, of standardised outputs."""
    region: TrustRegion | None
    """The trust region, if there is one."""
    since: Int[Array, ""]
    """The first row of this trust region."""


def capacity_for(n: int) -> int:
    """Rows for n points: few sizes, so that few programs are compiled, and at most half
    as many again where rows are dear."""
    if n > _COARSE:
        return -(-n // _COARSE) * _COARSE
    return max(_FEWEST, 1 << max(n - 1, 0).bit_length())


def with_room(state: ThompsonState, n: int) -> ThompsonState:
    """`state` with at least n rows; by NumPy, which compiles nothing."""
    more = capacity_for(n) - state.X.shape[0]
    if more <= 0:
        return state

    def wider(x: Array, fill: Any) -> Array:
        rows = np.full((more, *x.shape[1:]), fill, x.dtype)
        return placed(np.concatenate([np.asarray(x), rows]))

    columns = state.X, state.y, state.status, state.round
    fills = 0, np.nan, EMPTY, 0
    return _with_columns(state, tuple(map(wider, columns, fills)), state.n_points)


def with_asked(state: ThompsonState, X: np.ndarray) -> ThompsonState:
    """`state` with these points pending, as a new round."""
    n, n_rounds = int(state.n_points), int(state.n_rounds) + 1
    y = np.full(len(X), np.nan)
    state = _appended(state, X, y, np.full(len(X), PENDING), n, n_rounds)
    return eqx.tree_at(
        lambda s: s.n_rounds, state, placed(np.array(n_rounds, np.int32))
    )


def with_told(state: ThompsonState, X: np.ndarray, y: np.ndarray) -> ThompsonState:
    """`state` with these values: in the rows where they were pending, else in new ones.

    Of two pending points that are equal the earlier is told first.
    """
    status = np.where(np.isnan(y), FAILED, TOLD)
    X_known, y_known, now = (np.array(x) for x in (state.X, state.y, state.status))
    is_new = np.ones(len(X), bool)
    for i, x in enumerate(X):
        (rows,) = np.nonzero((now == PENDING) & (X_known == x).all(axis=1))
        if len(rows):
            y_known[rows[0]], now[rows[0]], is_new[i] = y[i], status[i], False
    columns = state.X, placed(y_known), placed(now), state.round
    state = _with_columns(state, columns, state.n_points)
    new = X[is_new], y[is_new], status[is_new]
    return _appended(state, *new, int(state.n_points), 0)


def _appended(
    state: ThompsonState,
    X: np.ndarray,
    y: np.ndarray,
    status: np.ndarray,
    n: int,
    n_rounds: int,
) -> ThompsonState:
    state = with_room(state, n + len(X))
    columns = state.X, state.y, state.status, state.round
    rows = X, y, status, np.full(len(X), n_rounds)

    def put(column: Array, values: np.ndarray) -> Array:
        filled = np.array(column)
        filled[n : n + len(X)] = values
        return placed(filled)

    return _with_columns(state, tuple(map(put, columns, rows)), n + len(X))


def _with_columns(state: ThompsonState, columns: Any, n: Any) -> ThompsonState:
    return eqx.tree_at(
        lambda s: (s.X, s.y, s.status, s.round, s.n_points),
        state,
        (*columns, placed(np.array(n, np.int32))),
    )


def told_values(state: ThompsonState) -> np.ndarray:
    """The values that were told, in float64, in the order of their rows."""
    return np.asarray(state.y, float)[np.asarray(state.status) == TOLD]


def index_of_best(state: ThompsonState, maximize: bool, since: int = 0) -> int | None:
    """The row of the best value from row `since` on, if there is one."""
    rows = np.arange(state.y.shape[0])
    counts = (np.asarray(state.status) == TOLD) & (rows >= since)
    if not counts.any():
        return None
    y = np.asarray(state.y, float) * (-1 if maximize else 1)
    return int(np.argmin(np.where(counts, y, np.inf)))


def table_of(state: ThompsonState, maximize: bool) -> dict[str, np.ndarray]:
    """A column a name, a row a point."""
    n = int(state.n_points)
    X, y, status, rounds = (
        np.asarray(x)[:n] for x in (state.X, state.y, state.status, state.round)
    )
    sign = -1 if maximize else 1
    least = np.minimum.accumulate(np.where(status == TOLD, sign * y, np.inf))
    best = np.where(np.isinf(least), np.nan, sign * least)
    inputs = {f"x{d}": X[:, d] for d in range(X.shape[1])}
    return {"round": rounds, **inputs, "y": y, "status": WORDS[status], "best": best}
