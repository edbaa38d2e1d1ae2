"""What is kept of a matrix in order to be asked of its inverse."""

import abc

import equinox as eqx
import numpy as np
from jaxtyping import Array, Bool, Float

from .convergence import Convergence


class AbstractInverse(eqx.Module):
    """A^-1 of a symmetric, positive definite A, set up once."""

    @abc.abstractmethod
    def solve(self, B: Float[Array, "N K"]) -> Float[Array, "N K"]:
        """A^-1 B."""

    @abc.abstractmethod
    def solve_and_report(
        self, B: Float[Array, "N K"]
    ) -> tuple[Float[Array, "N K"], Convergence | None]:
        """A^-1 B, and how near it is where it is not exact to rounding."""

    @abc.abstractmethod
    def halves(
        self, B: Float[Array, "N K"]
    ) -> tuple[Float[Array, "N K"], Float[Array, "N K"]]:
        """The factors of B^T A^-1 B = left^T right; the left one of other columns with
        the right one of these is the product of both."""

    @abc.abstractmethod
    def left(self, B: Float[Array, "N K"]) -> Float[Array, "N K"]:
        """The left one alone."""

    @abc.abstractmethod
    def succeeded(self) -> Bool[Array, ""]:
        """Whether A was positive definite."""

    @abc.abstractmethod
    def variances(self) -> Float[np.ndarray, " N"]:
        """The diagonal of A, by NumPy: of known values, and compiles nothing."""


class AbstractInverseWithDensity(AbstractInverse):
    """One that knows the determinant of A, too."""

    @abc.abstractmethod
    def log_density(
        self, x: Float[Array, " N"], n: int | Float[Array, ""] | None = None
    ) -> Float[Array, ""]:
        """log N(x; 0, A) (Rasmussen & Williams 2006, eq. 2.30), of `n` numbers if the
        others are zeros about which A says nothing, being an identity there."""
