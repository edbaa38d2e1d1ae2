"""The inverse of B x K + S x I, for several outputs that are seen at the same inputs.

With V such that V^T B V = L, V^T S V = I, both L and S diagonal, it is

    (V x I) blockdiag_p((l_p K + I)^-1) (V^T x I)

so that one factor of a matrix as large as K is needed for each output, instead of one
of all of them together (Rakitsch, Lippert, Borgwardt & Stegle 2013, "It is all in the
noise", with a factor for each l_p in place of an eigendecomposition of K, which takes
longer than those of many outputs).
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from .._numerics.lapack import cholesky, eigh, solve_lower, solve_upper
from .inverse import AbstractInverseWithDensity


class Parts(eqx.Module):
    """What A = B x K + S x I is made of; S is diagonal."""

    B: Float[Array, "P P"]
    K: Float[Array, "N N"]
    noise_var: Float[Array, " P"]

    def __call__(self, X: Float[Array, "PN C"]) -> Float[Array, "PN C"]:
        """A X."""
        blocks = self._blocks(X)
        shared = jnp.einsum("nm,pmc->pnc", self.K, blocks)
        mixed = jnp.einsum("pq,qnc->pnc", self.B, shared)
        return (mixed + self.noise_var[:, None, None] * blocks).reshape(X.shape)

    def _blocks(self, X: Float[Array, "PN C"]) -> Float[Array, "P N C"]:
        return X.reshape(self.B.shape[0], self.K.shape[0], X.shape[1])


class Factors(eqx.Module):
    """V, l, and the factors of l_p K + I. Constants: derivatives by rules of their
    own, since those of eigenvectors are infinite where eigenvalues coincide."""

    V: Float[Array, "P P"]
    values: Float[Array, " P"]
    lowers: tuple[Float[Array, "N N"], ...]

    def solve(self, X: Float[Array, "PN C"]) -> Float[Array, "PN C"]:
        """A^-1 X."""
        n_outputs = len(self.lowers)
        blocks = X.reshape(n_outputs, -1, X.shape[1])
        mixed = jnp.einsum("qp,qnc->pnc", self.V, blocks)
        solved = [
            solve_upper(lower, solve_lower(lower, mixed[p]))
            for p, lower in enumerate(self.lowers)
        ]
        return jnp.einsum("pq,qnc->pnc", self.V, jnp.stack(solved)).reshape(X.shape)

    def succeeded(self) -> Bool[Array, ""]:
        # The last entry of a factor that failed is NaN.
        ends = [lower[-1, -1] for lower in self.lowers]
        return jnp.all(jnp.isfinite(jnp.stack(ends))) & jnp.all(jnp.isfinite(self.V))


def factors_of(parts: Parts) -> Factors:
    """Cost: P N^3 / 3 operations, memory of P N^2 numbers."""
    parts = jax.lax.stop_gradient(parts)
    root = jnp.sqrt(parts.noise_var)
    values, vectors = eigh(parts.B / root[:, None] / root[None, :])
    identity = jnp.eye(parts.K.shape[0], dtype=parts.K.dtype)
    lowers = tuple(cholesky(value * parts.K + identity) for value in values)
    return Factors(vectors / root[:, None], values, lowers)


class KroneckerInverse(AbstractInverseWithDensity):
    """A^-1 of A = B x K + S x I, output after output.

    Cost: P N^3 / 3 operations once and 2 P N^2 a right-hand side after that; memory of
    (P + 1) N^2 numbers.
    """

    parts: Parts
    factors: Factors

    def solve(self, B: Float[Array, "PN C"]) -> Float[Array, "PN C"]:
        # custom_linear_solve brings the derivatives: dX = A^-1 (dB - dA X).
        factors = jax.lax.stop_gradient(self.factors)
        with jax.default_matmul_precision("highest"):
            return jax.lax.custom_linear_solve(
                self.parts, B, lambda _, B: factors.solve(B), symmetric=True
            )

    def solve_and_report(self, B: Float[Array, "PN C"]) -> tuple[Array, None]:
        return self.solve(B), None

    def halves(self, B: Float[Array, "PN C"]) -> tuple[Array, Array]:
        return B, self.solve(B)

    def left(self, B: Float[Array, "PN C"]) -> Float[Array, "PN C"]:
        return B

    def succeeded(self) -> Bool[Array, ""]:
        return self.factors.succeeded()

    def variances(self) -> Float[np.ndarray, " PN"]:
        own = np.diagonal(np.asarray(self.parts.B))
        K, noise_var = np.asarray(self.parts.K), np.asarray(self.parts.noise_var)
        return (np.outer(own, np.diagonal(K)) + noise_var[:, None]).reshape(-1)

    def log_density(
        self, x: Float[Array, " PN"], n: int | Float[Array, ""] | None = None
    ) -> Float[Array, ""]:
        fit = x @ self.solve(x[:, None])[:, 0]
        log_det = _log_det(self.parts, jax.lax.stop_gradient(self.factors))
        constant = (x.shape[0] if n is None else n) * jnp.log(2 * jnp.pi)
        return -0.5 * (fit + log_det + constant)


def kronecker_inverse(
    B: Float[Array, "P P"], K: Float[Array, "N N"], noise_var: Float[Array, " P"]
) -> tuple[KroneckerInverse, Bool[Array, ""]]:
    """The inverse, and whether A was positive definite."""
    parts = Parts(B, K, noise_var)
    inverse = KroneckerInverse(parts, factors_of(parts))
    return inverse, inverse.succeeded()


def guarded_kronecker_inverse(
    B: Float[Array, "P P"], K: Float[Array, "N N"], noise_var: Float[Array, " P"]
) -> tuple[KroneckerInverse, Bool[Array, ""]]:
    """The same; where A was not, that of the identity, with zero gradient."""
    inverse, ok = kronecker_inverse(B, K, noise_var)
    parts, factors = inverse.parts, inverse.factors
    parts = Parts(
        jnp.where(ok, parts.B, 0), jnp.where(ok, K, 0), jnp.where(ok, noise_var, 1)
    )
    eyes = jnp.eye(B.shape[0], dtype=B.dtype), jnp.eye(K.shape[0], dtype=K.dtype)
    factors = Factors(
        jnp.where(ok, factors.V, eyes[0]),
        jnp.where(ok, factors.values, 0),
        tuple(jnp.where(ok, lower, eyes[1]) for lower in factors.lowers),
    )
    return KroneckerInverse(parts, factors), ok


@jax.custom_jvp
def _log_det(parts: Parts, factors: Factors) -> Float[Array, ""]:
    """log |A|."""
    diagonals = jnp.stack([jnp.diagonal(lower) for lower in factors.lowers])
    own = 2 * jnp.sum(jnp.log(diagonals))
    return own + parts.K.shape[0] * jnp.sum(jnp.log(parts.noise_var))


@_log_det.defjvp
def _log_det_jvp(primals, tangents):
    # tr(A^-1 dA): of A^-1 = sum_p v_p v_p^T x R_p only traces with dB, dK, dS remain.
    # (Autodiff would divide by differences of eigenvalues, which cancel here.)
    (parts, factors), (d_parts, _) = primals, tangents
    by_B, by_K, by_noise = _slopes(parts, factors)
    slope = jnp.sum(by_B * d_parts.B) + jnp.sum(by_K * d_parts.K)
    return _log_det(parts, factors), slope + jnp.sum(by_noise * d_parts.noise_var)


@jax.custom_jvp
def _slopes(parts: Parts, factors: Factors) -> tuple[Array, Array, Array]:
    """The derivatives of log |A| by B, K and S."""
    identity = jnp.eye(parts.K.shape[0], dtype=parts.K.dtype)
    by_K, of_K, of_noise = jnp.zeros_like(parts.K), [], []
    with jax.default_matmul_precision("highest"):
        for value, lower in zip(factors.values, factors.lowers, strict=True):
            R = solve_upper(lower, solve_lower(lower, identity))
            by_K = by_K + value * R
            of_K.append(jnp.sum(R * parts.K))
            of_noise.append(jnp.trace(R))
        V = factors.V
        by_B = (V * jnp.stack(of_K)[None, :]) @ V.T
        return by_B, by_K, (V**2) @ jnp.stack(of_noise)


@_slopes.defjvp
def _slopes_jvp(primals, tangents):
    raise ValueError(
        "`log_marginal_likelihood` of several outputs has first derivatives where it "
        "takes them apart. Got a second one asked for. Take that of what "
        "`condition(..., solver=Cholesky())` returns, or of `prior.stack(...)`."
    )
