"""The best q(v) for Gaussian noise, and what it makes of the data (Titsias 2009)."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._numerics.lapack import gram_root, solve_lower, solve_upper


class Collapsed(eqx.Module):
    """q(v) = N(mean, root root^T), root lower triangular, and the bound at it."""

    mean: Float[Array, " M"]
    root: Float[Array, "M M"]
    log_bound: Float[Array, ""]


def collapsed(
    explained: Float[Array, "M N"],
    left: Float[Array, " N"],
    residual: Float[Array, " N"],
    noise_var: Float[Array, "..."],
) -> Collapsed:
    """The optimum for residuals explained^T v + r + e, r_i ~ N(0, left_i), e_i ~
    N(0, noise_var_i), v standard normal (Titsias 2009, eqs. 9 and 10).

    With A = explained / sqrt(noise_var) the precision of v is B = I + A A^T. Its factor
    is that of a QR decomposition of [I, A]^T, so that float32 holds it where the
    product, of N times signal over noise, would leave nothing of I.

    Cost: 2 (N + M) M^2 operations.
    """
    noise_var = jnp.broadcast_to(noise_var, left.shape)
    deviation = jnp.sqrt(noise_var)
    A, target = explained / deviation[None], residual / deviation
    m = A.shape[0]
    # The rows of v in reverse, since the reverse of an upper triangle is a lower one.
    C = gram_root(jnp.concatenate([jnp.eye(m, dtype=A.dtype), A[::-1].T]))

    def solve(x):
        return solve_upper(C, solve_lower(C, x[::-1, None]))[::-1, 0]

    mean = solve(A @ target)
    mean = mean + solve(A @ (target - mean @ A) - mean)  # what rounding has left
    misfit = jnp.sum((target - mean @ A) ** 2) + jnp.sum(mean**2)
    constant = jnp.sum(jnp.log(2 * jnp.pi * noise_var) + left / noise_var)
    log_det = 2 * jnp.sum(jnp.log(jnp.diagonal(C)))
    root = solve_upper(C, jnp.eye(m, dtype=A.dtype))[::-1, ::-1]
    return Collapsed(mean, root, -0.5 * (misfit + log_det + constant))
