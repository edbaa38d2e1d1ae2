"""What a solver can do and cannot, said before anything is computed."""

import os

import jax
from jaxtyping import Array, Float

from .._solvers.cholesky import AbstractFactor
from .._solvers.inverse import AbstractInverse, AbstractInverseWithDensity
from .._solvers.solver import AbstractIterativeSolver, AbstractSolver, Cholesky
from .derivatives import Derivatives

_COPIES = 3  # of the matrix while it is factored
_PART = 0.8  # of the machine's memory that they may take


def as_solver(
    call: str,
    solver: AbstractSolver | None,
    y: Float[Array, " N"],
    derivatives: Derivatives | None,
) -> AbstractSolver:
    """`solver`, Cholesky if there is none, which must be able to do it."""
    solver = Cholesky() if solver is None else solver
    if not isinstance(solver, AbstractSolver):
        raise ValueError(
            f"`{call}(solver=...)` must be a solver. Got a {type(solver).__name__}. "
            "Pass `ConjugateGradients()`, say, or leave it out."
        )
    if isinstance(solver, AbstractIterativeSolver):
        if derivatives is not None:
            raise ValueError(
                f"`{call}(derivatives=..., solver={type(solver).__name__}(...))`: "
                "iterative solvers know values alone. Got derivatives. Leave "
                "the solver out, or the derivatives."
            )
        return solver
    require_memory(call, y, derivatives)
    return solver


def require_memory(
    call: str, y: Float[Array, " N"], derivatives: Derivatives | None
) -> None:
    """Raise if a factor has no room, on a CPU; elsewhere JAX says so by itself, and no
    process is killed."""
    if jax.default_backend() != "cpu":
        return
    n = y.shape[0] + (0 if derivatives is None else derivatives.values.shape[0])
    needed = _COPIES * n**2 * y.dtype.itemsize
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > _PART * there:
        raise ValueError(
            f"`{call}`: a Cholesky factor of {n} data takes {needed / 1e9:.0f} GB, and "
            f"this machine has {there / 1e9:.0f} GB. Pass "
            "`solver=ConjugateGradients()`, which takes memory of order N, or take a "
            "`SparseGPPrior`."
        )


def require_factor(call: str, inverse: AbstractInverse) -> AbstractFactor:
    """The factor, if it is one."""
    if not isinstance(inverse, AbstractFactor):
        raise ValueError(needs_factor(call))
    return inverse


def require_density(call: str, inverse: AbstractInverse) -> AbstractInverseWithDensity:
    """What knows the determinant, if it does."""
    if not isinstance(inverse, AbstractInverseWithDensity):
        raise ValueError(needs_factor(call))
    return inverse


def needs_factor(call: str) -> str:
    return (
        f"`{call}` needs a Cholesky factor. Got what an iterative solver made, which "
        "has products alone, or several outputs that were taken apart. Condition on "
        "all data at once, or with `solver=Cholesky()` on some of them."
    )
