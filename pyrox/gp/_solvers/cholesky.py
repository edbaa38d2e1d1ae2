"""The one door to linear algebra: factor once, solve for all right-hand sides."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from .._numerics.lapack import cholesky, solve_lower, solve_upper


class CholeskyFactor(eqx.Module):
    """A = L L^T, kept for everything that is asked of A later.

    Cost: N^3 / 3 operations once, N^2 a right-hand side after that; N^2 memory.
    """

    lower: Float[Array, "N N"]

    def whiten(self, B: Float[Array, "N K"]) -> Float[Array, "N K"]:
        """L^-1 B."""
        return solve_lower(self.lower, B)

    def solve(self, B: Float[Array, "N K"]) -> Float[Array, "N K"]:
        """A^-1 B."""
        return solve_upper(self.lower, self.whiten(B))

    def log_det(self) -> Float[Array, ""]:
        """log |A|."""
        return 2 * jnp.sum(jnp.log(jnp.diagonal(self.lower)))

    def log_density(
        self, x: Float[Array, " N"], n: int | Float[Array, ""] | None = None
    ) -> Float[Array, ""]:
        """log N(x; 0, A) (Rasmussen & Williams 2006, eq. 2.30), of `n` numbers if the
        others are zeros about which A says nothing, being an identity there."""
        whitened = self.whiten(x[:, None])
        constant = (x.shape[0] if n is None else n) * jnp.log(2 * jnp.pi)
        return -0.5 * (jnp.sum(whitened**2) + self.log_det() + constant)

    def succeeded(self) -> Bool[Array, ""]:
        """Whether A was positive definite; a failed factor is filled with NaN."""
        return jnp.all(jnp.isfinite(jnp.diagonal(self.lower)))


def factor(A: Float[Array, "N N"], diagonal: Float[Array, "..."]) -> CholeskyFactor:
    """The factor of A + diagonal I, `diagonal` of shape () or (N,)."""
    size = A.shape[0]
    shift = jnp.broadcast_to(diagonal, (size,)).astype(A.dtype)
    return CholeskyFactor(cholesky(A + jnp.diag(shift)))


def checked_factor(
    A: Float[Array, "N N"], diagonal: Float[Array, "..."]
) -> tuple[CholeskyFactor, Bool[Array, ""]]:
    """`factor`, and whether it exists."""
    root = factor(A, diagonal)
    return root, root.succeeded()


def guarded_factor(
    A: Float[Array, "N N"], diagonal: Float[Array, "..."]
) -> tuple[CholeskyFactor, Bool[Array, ""]]:
    """`factor`, and whether it exists; if not, the identity's, with zero gradient.

    For log-densities. The gradient of a failed factor is NaN, and NaN times zero is
    NaN: so look first, then differentiate a matrix that has a factor.
    """
    _, ok = checked_factor(*jax.lax.stop_gradient((A, diagonal)))
    return factor(jnp.where(ok, A, 0), jnp.where(ok, diagonal, 1)), ok


def positive_definite(call: str, jitter: float, X: Array) -> str:
    """The sentence for a Gram matrix that has no factor; the jitter is a part of it."""
    # The rounding error of an N x N Gram matrix is a few N eps of its variance.
    enough = 10 * X.shape[0] * float(jnp.finfo(X.dtype).eps)
    return (
        f"`{call}`: the Gram matrix of {X.shape[0]} inputs is not positive definite "
        f"in {X.dtype} with jitter={jitter:g}: some inputs coincide, or the "
        "lengthscale is long against their spacing. Pass "
        f"jitter={max(enough, 10 * jitter):.0e}, a part of the kernel's variance, or a "
        "larger noise_var."
    )
