"""Products with a Gram matrix that is never held: a block of its rows at a time."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float

from .._numerics.blocks import map_rows
from .._numerics.devices import share_rows, without_mesh
from .._numerics.lapack import eigh

# Bytes of kernel rows in one block: what stays in cache from the pass that writes them
# to the product that reads them.
_BLOCK_BYTES = 2**22
_TRIED = 64  # rows by which the quick Gram matrix is judged
# Of the least noise: by how much the quick matrix may differ, in its spectral norm.
_SEEN = 0.1


class NoisyGram(eqx.Module):
    """A = K + diag(noise_var) of the inputs X, by products alone.

    What was not observed is alone in A, with its noise on the diagonal. Where `quick`,
    products are with `kernel.quick_gram`. The rows of a product are shared out over the
    devices of a `mesh`.

    Cost: of a product with S columns N^2 kernel values and 2 N^2 S operations, and the
        memory of one block of rows; so of its derivatives. Of several devices each does
        its part of the operations, in blocks of its own.
    """

    kernel: Any
    X: Float[Array, "N D"]
    noise_var: Float[Array, " N"]
    observed: Bool[Array, " N"] | None
    quick: Bool[Array, ""]
    mesh: Mesh | None = eqx.field(static=True)

    def __init__(
        self,
        kernel: Any,
        X: Float[Array, "N D"],
        noise_var: Float[Array, " N"],
        observed: Bool[Array, " N"] | None = None,
        mesh: Mesh | None = None,
    ):
        self.kernel, self.X, self.noise_var = kernel, X, noise_var
        self.observed, self.mesh = observed, mesh
        self.quick = _is_near(*jax.lax.stop_gradient((kernel, X, noise_var)))

    def __getstate__(self) -> dict[str, Any]:
        return without_mesh(self)

    @property
    def size(self) -> int:
        """N."""
        return self.X.shape[0]

    def __call__(self, V: Float[Array, "N S"]) -> Float[Array, "N S"]:
        """A V."""
        K_V = self.seen(self._times(self.X, self.seen(V)))
        return K_V + self.noise_var[:, None] * V

    def rows_times(self, index: Array, V: Float[Array, "N S"]) -> Float[Array, "B S"]:
        """Rows of A V."""
        K_V = self._times(self.X[index], self.seen(V))
        if self.observed is not None:
            K_V = jnp.where(self.observed[index][:, None], K_V, 0)
        return K_V + self.noise_var[index][:, None] * V[index]

    def columns(self, index: Array) -> Float[Array, "N B"]:
        """Columns of K, without noise."""
        found = self.seen(self.kernel(self.X, self.X[index]))
        return (
            found
            if self.observed is None
            else jnp.where(self.observed[index][None, :], found, 0)
        )

    def block(self, index: Array) -> Float[Array, "B B"]:
        """Rows and columns of A, noise included."""
        found = self.kernel(self.X[index], self.X[index])
        if self.observed is not None:
            seen = self.observed[index]
            found = jnp.where(seen[:, None] & seen[None, :], found, 0)
        return found + jnp.diag(self.noise_var[index])

    def _times(
        self, rows: Float[Array, "B D"], V: Float[Array, "N S"]
    ) -> Float[Array, "B S"]:
        """k(rows, X) V."""
        given = self.quick, self.kernel, self.X, V
        if self.mesh is None:
            return _in_blocks(rows, *given)
        return share_rows(_in_blocks, self.mesh, rows, *given)

    def seen(self, V: Float[Array, "N S"]) -> Float[Array, "N S"]:
        """`V`, zero in the rows of what was not observed."""
        return V if self.observed is None else jnp.where(self.observed[:, None], V, 0)


def _in_blocks(
    rows: Float[Array, "B D"],
    quick: Bool[Array, ""],
    kernel: Any,
    X: Float[Array, "N D"],
    V: Float[Array, "N S"],
) -> Float[Array, "B S"]:
    size = max(1, _BLOCK_BYTES // (X.shape[0] * X.dtype.itemsize))

    def by(gram: Callable[[Array, Array], Array]) -> Callable[[Array], Array]:
        return lambda V: map_rows(lambda some: gram(some, X) @ V, rows, size, axis=0)

    return jax.lax.cond(quick, by(kernel.quick_gram), by(kernel), V)


def _is_near(
    kernel: Any, X: Float[Array, "N D"], noise_var: Float[Array, " N"]
) -> Bool[Array, ""]:
    """Whether the quick Gram matrix is as good as the other: on some rows they differ
    by so little that, if all rows are like these, the noise hides it."""
    n = X.shape[0]
    some = X[:: -(-n // _TRIED)]
    apart = kernel.quick_gram(some, X) - kernel(some, X)
    square = eigh(apart @ apart.T)[0][-1]
    return jnp.sqrt(square * n / some.shape[0]) <= _SEEN * jnp.min(noise_var)
