"""Cholesky factors: factor once, solve for all right-hand sides."""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from .._numerics.lapack import cholesky, solve_lower, solve_upper
from .inverse import AbstractInverseWithDensity


class AbstractFactor(AbstractInverseWithDensity):
    """A = L L^T, kept for everything that is asked of A later. A failed factor holds
    NaN."""

    @abc.abstractmethod
    def whiten(self, B: Float[Array, "N K"]) -> Float[Array, "N K"]:
        """L^-1 B, its rows in an order of the factor's own."""

    @abc.abstractmethod
    def unwhiten(self, B: Float[Array, "N K"]) -> Float[Array, "N K"]:
        """L^-T B, of what has the order of `whiten`."""

    @abc.abstractmethod
    def log_det(self) -> Float[Array, ""]:
        """log |A|."""

    def solve(self, B: Float[Array, "N K"]) -> Float[Array, "N K"]:
        return self.unwhiten(self.whiten(B))

    def solve_and_report(self, B: Float[Array, "N K"]) -> tuple[Array, None]:
        return self.solve(B), None

    def halves(self, B: Float[Array, "N K"]) -> tuple[Array, Array]:
        whitened = self.whiten(B)
        return whitened, whitened

    def left(self, B: Float[Array, "N K"]) -> Float[Array, "N K"]:
        return self.whiten(B)

    def log_density(
        self, x: Float[Array, " N"], n: int | Float[Array, ""] | None = None
    ) -> Float[Array, ""]:
        whitened = self.whiten(x[:, None])
        constant = (x.shape[0] if n is None else n) * jnp.log(2 * jnp.pi)
        return -0.5 * (jnp.sum(whitened**2) + self.log_det() + constant)


class CholeskyFactor(AbstractFactor):
    """The Cholesky factor.

    Cost: N^3 / 3 operations once, N^2 a right-hand side after that; N^2 memory.
    """

    lower: Float[Array, "N N"]

    def whiten(self, B: Float[Array, "N K"]) -> Float[Array, "N K"]:
        return solve_lower(self.lower, B)

    def unwhiten(self, B: Float[Array, "N K"]) -> Float[Array, "N K"]:
        return solve_upper(self.lower, B)

    def log_det(self) -> Float[Array, ""]:
        return 2 * jnp.sum(jnp.log(jnp.diagonal(self.lower)))

    def succeeded(self) -> Bool[Array, ""]:
        return jnp.all(jnp.isfinite(jnp.diagonal(self.lower)))

    def variances(self) -> Float[np.ndarray, " N"]:
        lower = np.asarray(self.lower)
        return np.einsum("ij,ij->i", lower, lower)


class ExtendedFactor(AbstractFactor):
    """A factor whose matrix has got more rows and columns, before the last `before`.

    With the new ones at the end L has the `root` as it was, and below it the transpose
    of `whitened`, L^-1 of the new columns, and the factor `own` of what the new block
    has beyond that (Golub & Van Loan 2013, section 4.2.9). The root is not copied: it
    may serve many at once.
    """

    root: CholeskyFactor
    whitened: Float[Array, "N Q"]
    own: CholeskyFactor
    before: int = eqx.field(static=True, default=0)

    def whiten(self, B: Float[Array, "V K"]) -> Float[Array, "V K"]:
        (n, q), last = self.whitened.shape, B.shape[0] - self.before
        new = B[last - q : last]
        old = jnp.concatenate([B[: last - q], B[last:]]) if self.before else B[:n]
        top = self.root.whiten(old)
        return jnp.concatenate([top, self.own.whiten(new - self.whitened.T @ top)])

    def unwhiten(self, B: Float[Array, "V K"]) -> Float[Array, "V K"]:
        n = self.whitened.shape[0]
        new = self.own.unwhiten(B[n:])
        old = self.root.unwhiten(B[:n] - self.whitened @ new)
        return insert(old, new, self.before)

    def log_det(self) -> Float[Array, ""]:
        return self.root.log_det() + self.own.log_det()

    def succeeded(self) -> Bool[Array, ""]:
        return self.root.succeeded() & self.own.succeeded()

    def variances(self) -> Float[np.ndarray, " V"]:
        whitened = np.asarray(self.whitened)
        new = np.einsum("ij,ij->j", whitened, whitened) + self.own.variances()
        old = self.root.variances()
        last = old.size - self.before
        return np.concatenate([old[:last], new, old[last:]])


def extended(
    old: AbstractFactor,
    whitened: Float[Array, "N Q"],
    own: CholeskyFactor,
    before: int = 0,
) -> ExtendedFactor:
    """The factor of a matrix with Q more rows and columns, inserted before its last
    `before`, the same number each time.

    `whitened` is `old.whiten` of the new columns, `own` the factor of the new block
    less whitened^T whitened.
    """
    if isinstance(old, ExtendedFactor):
        n = old.whitened.shape[0]
        kept = jnp.pad(old.own.lower, ((0, 0), (0, whitened.shape[1])))
        rows = jnp.concatenate([whitened[n:].T, own.lower], axis=1)
        own = CholeskyFactor(jnp.concatenate([kept, rows]))
        whitened = jnp.concatenate([old.whitened, whitened[:n]], axis=1)
    return ExtendedFactor(root_of(old), whitened, own, before)


def root_of(factor: AbstractFactor) -> CholeskyFactor:
    """What stays as it is where a factor is extended."""
    root = factor.root if isinstance(factor, ExtendedFactor) else factor
    assert isinstance(root, CholeskyFactor)
    return root


def insert(
    old: Float[Array, "U ..."], new: Float[Array, "Q ..."], before: int
) -> Float[Array, "V ..."]:
    """`new` before the last `before` rows of `old`."""
    last = old.shape[0] - before
    return jnp.concatenate([old[:last], new, old[last:]])


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
