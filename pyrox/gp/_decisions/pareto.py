"""Which of many points are the best trade-offs between several objectives."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Real

from .._hyper.checks import as_float
from .._hyper.unchecked import jit
from .._numerics.blocks import map_rows

_AT_ONCE = 2**22  # comparisons that are kept


def pareto_front(
    values: Real[ArrayLike, "N K"], *, maximize: bool | Sequence[bool] = False
) -> Bool[Array, " N"]:
    """Which rows no other row dominates: as low in all objectives, lower in one.

    Rows that are equal are on the front together. A row that holds NaN, a failed
    evaluation say, is never on it, and dominates none.

    Args:
        values: K objectives at N points.
        maximize: whether higher is better, of all objectives or one for each.

    Returns:
        True for the rows on the front. Under `jit` and `vmap` too: the front of each
        path is `jax.vmap(pareto_front)(values)`.

    Raises:
        ValueError: values of another shape; a `maximize` of another length.

    Cost: N^2 K comparisons, in blocks of 4 million; 20,000 rows take under a second.

    Example:
        >>> import jax.numpy as jnp
        >>> from pyrox.gp import pareto_front
        >>> pareto_front(jnp.array([[1.0, 3.0], [2.0, 2.0], [2.0, 3.0], [3.0, 1.0]]))
        Array([ True,  True, False,  True], dtype=bool)
    """
    call = "pareto_front"
    values = as_float(values, f"{call}(values)")
    if values.ndim != 2 or values.shape[1] == 0:
        raise ValueError(
            f"`{call}(values)` must have shape (N, K), a row for each point and a "
            f"column for each objective. Got {values.shape}. Stack the objectives: "
            "`jnp.stack([a, b], axis=-1)`. Map over more axes with `jax.vmap`."
        )
    signs = np.asarray(as_signs(call, maximize, values.shape[1]))
    if values.shape[0] == 0:
        return jnp.zeros(0, bool)
    return _front(values * jnp.asarray(signs[None], values.dtype))


def as_signs(
    call: str, maximize: bool | Sequence[bool], n_objectives: int
) -> tuple[float, ...]:
    """-1 for each objective of which higher is better, 1 for the others."""
    alone = isinstance(maximize, bool | np.bool_)
    each = [maximize] * n_objectives if alone else list(np.atleast_1d(maximize))
    known = all(isinstance(one, bool | np.bool_) for one in each)
    if not known or len(each) != n_objectives:
        raise ValueError(
            f"`{call}(maximize=...)` must be True or False, or one of these for each "
            f"of the {n_objectives} objectives. Got {maximize!r}."
        )
    return tuple(-1.0 if one else 1.0 for one in each)


@jit
def _front(values: Float[Array, "N K"]) -> Bool[Array, " N"]:
    n = values.shape[0]

    def undominated(rows):
        shape = rows.shape[0], n
        as_low, lower = jnp.ones(shape, bool), jnp.zeros(shape, bool)
        for k in range(values.shape[1]):  # no array of N^2 K
            other, own = values[None, :, k], rows[:, k, None]
            as_low, lower = as_low & (other <= own), lower | (other < own)
        return ~jnp.any(as_low & lower, axis=1) & ~jnp.any(jnp.isnan(rows), axis=1)

    return map_rows(undominated, values, max(1, _AT_ONCE // n), axis=0)
