"""The derivative of a minimiser by all that the function depends on."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .lapack import looped_on_cpu
from .lbfgs import rounding_of


def moving_minimum(
    objective: Callable[[Float[Array, " P"]], Float[Array, ""]],
    found: Float[Array, " P"],
) -> Float[Array, " P"]:
    """`found`, the minimum of `objective`, with its derivative by whatever `objective`
    closes over.

    At a minimum u the gradient g(u, eta) vanishes, and keeps doing so when eta moves:
    du = -H^-1 dg, with the Hessian H. How it was found does not matter.

    Source: the implicit function theorem, as in Blondel et al. 2022 (arXiv 2105.15183,
    section 2.1).

    Cost: P products with the Hessian, one after the other so that memory does not grow
        with P; none of it if nothing is differentiated.
    """
    return moving_root(jax.grad(objective), found)


def moving_root(
    residual: Callable[[Float[Array, " P"]], Float[Array, " P"]],
    found: Float[Array, " P"],
) -> Float[Array, " P"]:
    """`found`, where the `residual` vanishes, with its derivative by whatever that
    closes over; its Jacobian must be symmetric, as that of a gradient is."""
    start = jax.lax.stop_gradient(found)
    return jax.lax.custom_root(residual, start, lambda _, point: point, _tangent)


def _tangent(
    product: Callable[[Array], Array], tangent: Float[Array, " P"]
) -> Float[Array, " P"]:
    identity = jnp.eye(tangent.shape[0], dtype=tangent.dtype)
    # Made by products with tangents of their own, it does not depend on `tangent`.
    rows = jax.lax.map(product, identity)
    hessian = (rows + rows.T) / 2
    inverse = _pseudo_inverse(jax.lax.stop_gradient(hessian))
    return jax.lax.custom_linear_solve(
        lambda x: hessian @ x, tangent, lambda _, b: inverse @ b, symmetric=True
    )


@looped_on_cpu
def _pseudo_inverse(A: Float[Array, "P P"]) -> Float[Array, "P P"]:
    """A^-1 of a symmetric A without the directions in which it is flat.

    Along those, the lengthscale of an input without influence, say, the minimum is
    nowhere, and nothing else depends on where.
    """
    values, vectors = jnp.linalg.eigh(A)
    flat = jnp.abs(values) <= rounding_of(values) * jnp.max(jnp.abs(values))
    inverse = jnp.where(flat, 0, 1 / jnp.where(flat, 1, values))
    return (vectors * inverse[None, :]) @ vectors.T
