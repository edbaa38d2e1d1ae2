"""A batch of points, one after the other, each the best beside those before it."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, PRNGKeyArray, Real

from .._hyper.checks import as_count, as_inputs
from .optimize_acquisition import BatchOptimum, optimize_acquisition

_CALL = "greedy_batch"


def greedy_batch(
    key: PRNGKeyArray,
    f: Callable[[Array], Array],
    bounds: Real[ArrayLike, "2 D"] | None = None,
    q: int = 2,
    *,
    choices: Real[ArrayLike, "C D"] | None = None,
    integers: Sequence[int] = (),
    n_candidates: int = 1024,
    n_starts: int = 64,
) -> BatchOptimum:
    """A batch of q points for which `f` is high, found point by point.

    The first is the best alone, the next the best beside it, and so on: q searches in D
    dimensions, where `optimize_acquisition` makes one in q D. If `f` is monotone and
    submodular (what is learnt more by a point is less, the more is known), as the
    information of noisy values about f, the batch is worth at least 1 - 1/e of the best
    one.

    Args:
        key: for the candidates.
        f: from N batches (N, k, D) of k points, for k from 1 to q, to values (N,), as
            `lambda X: expected_information_gain(posterior, X, over, noise_var=0.1)`.
        bounds: the lowest and the highest value of each input.
        q: points in the batch.
        choices: in place of bounds, the points that may be chosen, each once.
        integers, n_candidates, n_starts: as in `optimize_acquisition`; of bounds only.

    Returns:
        A `BatchOptimum`: `found.X` (q, D), in the order in which they were found, and
        `found.value`, what `f` says of all of them.

    Raises:
        ValueError: both or neither of bounds and choices; fewer choices than q; what
            `optimize_acquisition` raises.

    Cost: q times that of `optimize_acquisition`, a program for each; of C choices q C
        evaluations of `f`.

    Source: Nemhauser, Wolsey & Fisher 1978; Krause, Singh & Guestrin 2008 (JMLR 9).

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from pyrox.gp import RBF, GPPrior, greedy_batch
        >>> from pyrox.gp import integrated_variance_reduction
        >>> posterior = GPPrior(RBF(1.0, 0.2), jnp.zeros((1, 1))).condition([0.0], 0.01)
        >>> grid = jnp.linspace(0, 1, 21)[:, None]
        >>> def f(X):
        ...     return integrated_variance_reduction(posterior, X, grid, noise_var=0.01)
        >>> greedy_batch(jax.random.key(0), f, q=3, choices=grid).X.shape
        (3, 1)
    """
    q = as_count(f"{_CALL}(q=...)", q)
    if (bounds is None) == (choices is None):
        raise ValueError(
            f"`{_CALL}` needs `bounds`, the box to search, or `choices`, the points to "
            f"choose from. Got {'neither' if bounds is None else 'both'}. Pass "
            "`jnp.array([lowest, highest])`, say."
        )
    if choices is not None:
        return _among(f, as_inputs(f"{_CALL}(choices=...)", choices), q)
    assert bounds is not None
    batch, found, count = None, None, 0
    for one in jax.random.split(key, q):
        how = {"integers": integers, "n_candidates": n_candidates, "n_starts": n_starts}
        found = optimize_acquisition(one, _beside(f, batch), bounds, **how)
        batch = found.X if batch is None else jnp.concatenate([batch, found.X])
        count = count + found.n_evaluations
    assert batch is not None and found is not None
    return BatchOptimum(batch, found.value, found.converged, jnp.asarray(count))


def _beside(f: Callable, batch: Array | None) -> Callable[[Array], Array]:
    """`f` of one point more, (N, D)."""

    def of_one(X):
        own = X[:, None]
        if batch is None:
            return f(own)
        known = batch.astype(X.dtype)[None]
        known = jnp.broadcast_to(known, (X.shape[0], *batch.shape))
        return f(jnp.concatenate([known, own], axis=1))

    return of_one


def _among(f: Callable, choices: Array, q: int) -> BatchOptimum:
    n = choices.shape[0]
    if n < q:
        raise ValueError(
            f"`{_CALL}(q={q}, choices=...)` must have {q} choices or more. Got {n}. "
            "Pass a smaller q."
        )
    batch, value, free = None, jnp.zeros(()), jnp.ones(n, bool)
    for _ in range(q):
        values = _beside(f, batch)(choices)
        if jnp.shape(values) != (n,):
            raise ValueError(
                f"`{_CALL}(f=...)` must map batches (N, k, D) to N floats, (N,). Got "
                f"shape {jnp.shape(values)} for N={n}. Return one value for each."
            )
        best = jnp.argmax(jnp.where(free & ~jnp.isnan(values), values, -jnp.inf))
        value, free = values[best], free.at[best].set(False)
        one = choices[best][None]
        batch = one if batch is None else jnp.concatenate([batch, one])
    assert batch is not None
    return BatchOptimum(batch, value, jnp.asarray(True), jnp.asarray(q * n))
