"""The best of finitely many points for every path, by comparing all of them."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._hyper.unchecked import jit
from .merit import Target, at_index, index_of_best, is_better
from .optima import PathOptima

_AT_ONCE = 4096  # choices whose values are kept before the best are told apart


@jit
def best_choices(target: Target, choices: Float[Array, "C D"]) -> PathOptima:
    """Among the rows of `choices`, in blocks, in the memory of one."""
    n = choices.shape[0]
    n_blocks = -(-n // _AT_ONCE)
    size = -(-n // n_blocks)
    # The last block overlaps the one before it: a row twice changes no comparison.
    starts = jnp.minimum(jnp.arange(n_blocks) * size, n - size)

    def block(best, start):
        X = jax.lax.dynamic_slice_in_dim(choices, start, size)
        values = jax.lax.stop_gradient(target).at_all(X)
        row = index_of_best(values.of_path, values.violation)
        here = [at_index(x, row) for x in (values.violation, values.of_path)]
        here.append((start + row).astype(jnp.int32))
        gains = is_better(*((x[0], x[1]) for x in (here, best)))
        return [jnp.where(gains, a, b) for a, b in zip(here, best, strict=True)], None

    infinite = jnp.full(target.n_paths, jnp.inf, choices.dtype)
    begun = [infinite, infinite, jnp.zeros(target.n_paths, jnp.int32)]
    (_, _, row), _ = jax.lax.scan(block, begun, starts)
    X = choices[row]
    values = target.at_own(X[:, None])
    return PathOptima(
        X=X,
        values=target.sign * values.of_path[:, 0],
        converged=jnp.ones(target.n_paths, bool),
        at_bound=jnp.zeros(X.shape, bool),
        violation=values.violation[:, 0],
        choice=row,
        n_evaluations=jnp.asarray(n, jnp.int32),
    )
