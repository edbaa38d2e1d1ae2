"""Products with a Gram matrix that is never held: a block of its rows at a time."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from .._numerics.blocks import map_rows
from .._numerics.lapack import eigh

# Bytes of kernel rows in one block: what stays in cache from the pass that writes them
# to the product that reads them.
_BLOCK_BYTES = 2**23
_TRIED = 64  # rows by which the quick Gram matrix is judged
# Of the least noise: by how much the quick matrix may differ, in its spectral norm.
_SEEN = 0.1


class NoisyGram(eqx.Module):
    """A = K + diag(noise_var) of the inputs X, by products alone.

    What was not observed is alone in A, with its noise on the diagonal. Where `quick`,
    products are with `kernel.quick_gram`.

    Cost: of a product with S columns N^2 kernel values and 2 N^2 S operations, and the
        memory of one block of rows; so of its derivatives.
    """

    kernel: Any
    X: Float[Array, "N D"]
    noise_var: Float[Array, " N"]
    observed: Bool[Array, " N"] | None
    quick: Bool[Array, ""]

    def __init__(
        self,
        kernel: Any,
        X: Float[Array, "N D"],
        noise_var: Float[Array, " N"],
        observed: Bool[Array, " N"] | None = None,
    ):
        self.kernel, self.X, self.noise_var = kernel, X, noise_var
        self.observed = observed
        self.quick = _is_near(*jax.lax.stop_gradient((kernel, X, noise_var)))

    @property
    def size(self) -> int:
        """N."""
        return self.X.shape[0]

    def __call__(self, V: Float[Array, "N S"]) -> Float[Array, "N S"]:
        """A V."""
        seen = self._seen(V)
        ways = self._times(self.kernel.quick_gram), self._times(self.kernel)
        K_V = self._seen(jax.lax.cond(self.quick, *ways, seen))
        return K_V + self.noise_var[:, None] * V

    def columns(self, index: Array) -> Float[Array, "N B"]:
        """Columns of K, without noise."""
        found = self._seen(self.kernel(self.X, self.X[index]))
        return (
            found
            if self.observed is None
            else jnp.where(self.observed[index][None, :], found, 0)
        )

    def rows(self, index: Array) -> Float[Array, "B N"]:
        """Rows of A, noise included."""
        found = jax.lax.cond(
            self.quick,
            lambda some: self.kernel.quick_gram(self.X, some),
            lambda some: self.kernel(self.X, some),
            self.X[index],
        )
        found = self._seen(found).T
        if self.observed is not None:
            found = jnp.where(self.observed[index][:, None], found, 0)
        at = jnp.arange(index.shape[0]), index
        return found.at[at].add(self.noise_var[index])

    def _times(self, gram: Callable[..., Array]) -> Callable[[Array], Array]:
        size = max(1, _BLOCK_BYTES // (self.size * self.X.dtype.itemsize))

        def product(V: Float[Array, "N S"]) -> Float[Array, "N S"]:
            def of_rows(rows):
                return gram(rows, self.X) @ V

            return map_rows(of_rows, self.X, size, axis=0)

        return product

    def _seen(self, V: Float[Array, "N S"]) -> Float[Array, "N S"]:
        return V if self.observed is None else jnp.where(self.observed[:, None], V, 0)


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
