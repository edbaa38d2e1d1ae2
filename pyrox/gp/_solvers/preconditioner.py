"""What a Gram matrix is like, in few columns: preconditioners."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from .._numerics.lapack import eigh, thin_svd
from .products import NoisyGram

_BLOCK = 64  # columns that are chosen at once


class LowRank(eqx.Module):
    """P = F F^T + D for a diagonal D, by the singular values of D^-1/2 F.

    P^-1 = D^-1/2 (I - U diag(s^2 / (1 + s^2)) U^T) D^-1/2 with orthonormal U: positive
    definite whatever was rounded, which I + F^T D^-1 F in float32 is not.
    """

    vectors: Float[Array, "N R"]
    squares: Float[Array, " R"]
    noise_var: Float[Array, " N"]

    def solve(self, B: Float[Array, "N S"]) -> Float[Array, "N S"]:
        """P^-1 B."""
        root = jnp.sqrt(self.noise_var)[:, None]
        return self._less(B / root, self.squares / (1 + self.squares)) / root

    def whiten(self, B: Float[Array, "N S"]) -> Float[Array, "N S"]:
        """L^-1 B, for an L with L L^T = P."""
        return self._less(B / jnp.sqrt(self.noise_var)[:, None], self._shrink)

    def unwhiten(self, B: Float[Array, "N S"]) -> Float[Array, "N S"]:
        """L^-T B."""
        return self._less(B, self._shrink) / jnp.sqrt(self.noise_var)[:, None]

    def log_det(self) -> Float[Array, ""]:
        """log |P|."""
        return jnp.sum(jnp.log1p(self.squares)) + jnp.sum(jnp.log(self.noise_var))

    @property
    def _shrink(self) -> Float[Array, " R"]:
        return 1 - jax.lax.rsqrt(1 + self.squares)

    def _less(self, B: Array, shrink: Float[Array, " R"]) -> Array:
        return B - self.vectors @ (shrink[:, None] * (self.vectors.T @ B))


def low_rank(
    key: PRNGKeyArray,
    A: NoisyGram,
    variances: Float[Array, " N"],
    rank: int,
    greedy: bool,
) -> LowRank:
    """The preconditioner of `rank` columns of K, whose diagonal is `variances`; of none
    it is the noise alone.

    Cost: `rank` N kernel values and 4 N rank^2 operations.
    """
    with jax.default_matmul_precision("highest"):
        F = pivoted_cholesky(key, A, variances, rank, greedy)
        vectors, values = thin_svd(F / jnp.sqrt(A.noise_var)[:, None])
    return LowRank(vectors, values**2, A.noise_var)


def pivoted_cholesky(
    key: PRNGKeyArray,
    A: NoisyGram,
    variances: Float[Array, " N"],
    rank: int,
    greedy: bool,
) -> Float[Array, "N R"]:
    """F with F F^T near K, and not above it but for rounding.

    By pivots drawn, a block at a time, in proportion to what is left of the diagonal
    (Chen, Epperly, Tropp & Webber 2022, arXiv 2207.06503, algorithm 4), or by the
    largest ones. Of a block's columns, what is no more than rounding stays zero.
    """
    size = min(_BLOCK, rank)
    n_blocks = -(-rank // size)
    least = 10 * size * jnp.finfo(variances.dtype).eps * jnp.max(variances)

    def add(carry, block):
        F, left = carry
        key, start = block
        # The largest of log p + Gumbel noise are drawn without replacement.
        chances = jnp.log(left)
        if not greedy:
            chances = chances + jr.gumbel(key, left.shape, left.dtype)
        _, index = jax.lax.top_k(chances, size)
        G = A.columns(index) - F @ F[index].T
        values, vectors = eigh((G[index] + G[index].T) / 2)
        keep = values > least
        root = jnp.where(keep, jax.lax.rsqrt(jnp.where(keep, values, 1)), 0)
        new = G @ (vectors * root[None, :])
        left = jnp.maximum(left - jnp.sum(new**2, axis=1), 0).at[index].set(0)
        F = jax.lax.dynamic_update_slice(F, new, (0, start))
        return (F, left), None

    F = jnp.zeros((variances.shape[0], n_blocks * size), variances.dtype)
    blocks = jr.split(key, n_blocks), jnp.arange(n_blocks) * size
    (F, _), _ = jax.lax.scan(add, (F, variances), blocks)
    return F
