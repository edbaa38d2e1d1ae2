"""Work in blocks: what makes long queries fast, and keeps their memory flat.

The features and the Gram rows of a million points do not fit in memory, those of a
thousand stay in cache between the pass that writes them and the product that reads
them.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from .._hyper.checks import as_count

# Bytes of features and Gram rows in one block, by measurement on two cores: at 8 MiB
# evaluation takes a fifth longer in float32 (threads wait for each other), at 32 MiB a
# tenth longer in float64 (out of cache).
_BLOCK_BYTES = 2**24
_FEWEST_ROWS = 64


def block_rows(
    call: str, block_size: int | None, n_columns: int, dtype: np.dtype
) -> int:
    """Rows to work on at once: the user's number, or by `n_columns` values in each."""
    if block_size is not None:
        return as_count(f"{call}(block_size=...)", block_size)
    return max(_FEWEST_ROWS, _BLOCK_BYTES // (n_columns * dtype.itemsize))


def map_rows(
    f: Callable[[Array], Array], X: Float[Array, "N D"], size: int, axis: int = -1
) -> Shaped[Array, "..."]:
    """`f(X)` for an `f` that treats each row alone, its output's rows along `axis`.

    At most `size` rows at a time, one block after the other, written in place. Up to
    `size` rows it is just `f(X)`. Reverse derivatives compute a block's intermediate
    values again instead of storing them, so their memory is flat too.
    """
    n = X.shape[0]
    if n <= size:
        return f(X)
    n_blocks = -(-n // size)
    size = -(-n // n_blocks)  # equal blocks; the last one overlaps the one before it
    starts = jnp.minimum(jnp.arange(n_blocks) * size, n - size)
    # As scanned inputs each block has a gradient of its own; one array sliced within
    # the loop would have its whole gradient added to at every step.
    full = X[: (n_blocks - 1) * size].reshape(n_blocks - 1, size, X.shape[1])
    blocks = jnp.concatenate([full, X[None, n - size :]])
    compute = jax.checkpoint(f, prevent_cse=False)

    def step(values, block):
        start, rows = block
        new = compute(rows)
        return jax.lax.dynamic_update_slice_in_dim(values, new, start, axis), None

    one = jax.eval_shape(f, blocks[0])
    shape = list(one.shape)
    shape[axis] = n
    return jax.lax.scan(step, jnp.zeros(shape, one.dtype), (starts, blocks))[0]


def map_batches(f: Callable[[Any], Any], xs: Any, batch_size: int) -> Any:
    """`f` over the leading axis of `xs`, at most `batch_size` elements at once.

    Unlike `jax.lax.map`, which compiles `f` a second time for the remainder and lets
    that run beside the first batch.
    """
    return map_groups(jax.checkpoint(jax.vmap(f), prevent_cse=False), xs, batch_size)


def map_groups(f: Callable[[Any], Any], xs: Any, size: int) -> Any:
    """`f` of groups of the leading axis of `xs`, one after the other, at most `size`
    together; all have one size, the last one filled up with copies."""
    n = jax.tree.leaves(xs)[0].shape[0]
    n_groups = -(-n // size)
    size = -(-n // n_groups)
    filled = jnp.minimum(jnp.arange(n_groups * size), n - 1)

    def cut(leaf):
        full = leaf if n == n_groups * size else leaf[filled]
        return full.reshape(n_groups, size, *leaf.shape[1:])

    ys = jax.lax.map(f, jax.tree.map(cut, xs))
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:n], ys)
