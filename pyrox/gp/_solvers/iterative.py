"""The inverse of a Gram matrix that is never held: what iterative solvers share."""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from .convergence import Convergence
from .inverse import AbstractInverse
from .products import NoisyGram

_NOISE = 10  # deviations of the noise that count as one of the right-hand side


class AbstractIterations(eqx.Module):
    """A way to solve A X = B by products, for one A."""

    tolerance: eqx.AbstractVar[float]

    @abc.abstractmethod
    def run(
        self,
        A: NoisyGram,
        B: Float[Array, "N S"],
        start: Float[Array, "N S"] | None,
        bounds: Float[Array, " S"],
    ) -> tuple[Float[Array, "N S"], Float[Array, "N S"], Int[Array, ""]]:
        """X, searched from `start` until the norm of each column of B - A X is within
        its bound, B - A X itself, and how many products it took."""


class IterativeInverse(AbstractInverse):
    """A^-1 by iterations, each time it is asked.

    Derivatives are those of the exact solve, by one more of it: dX = A^-1 (dB - dA X).
    """

    A: NoisyGram
    prior_variances: Float[Array, " N"]
    iterations: AbstractIterations

    def solve(self, B: Float[Array, "N K"]) -> Float[Array, "N K"]:
        return self.solve_and_report(B)[0]

    def solve_and_report(
        self, B: Float[Array, "N K"], start: Float[Array, "N K"] | None = None
    ) -> tuple[Float[Array, "N K"], Convergence]:
        iterations = jax.lax.stop_gradient(self.iterations)
        still, start = jax.lax.stop_gradient((self.A, start))
        bounds = self._bounds(jax.lax.stop_gradient(B))

        def by_iterations(_, B):
            X, remainder, count = iterations.run(still, B, start, bounds)
            return X, (remainder, count)

        # An accelerator's default keeps ten bits of a product, by which it never ends.
        with jax.default_matmul_precision("highest"):
            X, (remainder, count) = jax.lax.custom_linear_solve(
                self.A, B, by_iterations, symmetric=True, has_aux=True
            )
        residuals = jnp.linalg.norm(remainder, axis=0) / bounds
        return X, Convergence(residuals, count, remainder)

    def _bounds(self, B: Float[Array, "N K"]) -> Float[Array, " K"]:
        """Of the residual of each column."""
        noise = jax.lax.stop_gradient(self.A.noise_var)
        sizes = jnp.linalg.norm(B, axis=0)
        least = jnp.minimum(sizes, _NOISE * jnp.sqrt(jnp.sum(noise)))
        return self.iterations.tolerance * jnp.where(sizes > 0, least, 1)

    def halves(self, B: Float[Array, "N K"]) -> tuple[Array, Array]:
        return B, self.solve(B)

    def left(self, B: Float[Array, "N K"]) -> Float[Array, "N K"]:
        return B

    def succeeded(self) -> Bool[Array, ""]:
        return jnp.all(jnp.isfinite(self.prior_variances))

    def variances(self) -> Float[np.ndarray, " N"]:
        return np.asarray(self.prior_variances) + np.asarray(self.A.noise_var)
