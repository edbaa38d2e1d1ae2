"""The symmetric square root of a covariance, differentiable where others are not.

Eigenvectors turn freely where eigenvalues coincide, and those of a smooth kernel on
many points crowd together at the level of rounding: a root made of them has no
derivative there. The symmetric root is a smooth function of the matrix alone.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .lapack import eigh


def symmetric_sqrt(A: Float[Array, "N N"]) -> Float[Array, "N N"]:
    """The symmetric S with S S = A; what rounding took below zero is cut off.

    Where A has no full rank, S has a derivative only along changes that leave the null
    space be, and a kink across it, as |t| = sqrt(t^2) has at zero. Along directions
    that both lie in that space, to rounding, the derivative is given as zero, the
    middle of the two sides: two draws at one point then move as one.

    Cost: about 10 N^3 operations for the eigenvectors; a derivative of any order takes
        the same ones.
    """
    values, vectors = jax.lax.stop_gradient(eigh(A))
    return _root(A, jnp.sqrt(jnp.maximum(values, 0)), vectors)


@jax.custom_jvp
def _root(A: Array, roots: Array, vectors: Array) -> Array:
    return (vectors * roots[None, :]) @ vectors.T


@_root.defjvp
def _root_jvp(primals, tangents):
    A, roots, vectors = primals
    S = _root(A, roots, vectors)
    return S, _sylvester(S, tangents[0], roots, vectors)


def _sylvester(S: Array, C: Array, roots: Array, vectors: Array) -> Array:
    """The symmetric X with S X + X S = C, in the eigenvectors of S.

    (Higham 2008, Functions of Matrices, section 6.1: the derivative of S S = A.)
    """
    sums = roots[:, None] + roots[None, :]
    # Eigenvalues of A are known to within rounding, so their roots to its root.
    size, eps = roots.shape[0], float(jnp.finfo(roots.dtype).eps)
    known = sums > 2 * (size * eps) ** 0.5 * jnp.max(roots)
    inverse = jnp.where(known, 1 / jnp.where(known, sums, 1), 0)

    def solve(_, C):
        C = (C + C.T) / 2
        return vectors @ (inverse * (vectors.T @ C @ vectors)) @ vectors.T

    # Brings the derivatives by S and C, whose own solves are these again.
    return jax.lax.custom_linear_solve(
        lambda X: S @ X + X @ S, C, solve, symmetric=True
    )
