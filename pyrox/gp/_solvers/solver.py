"""Solvers: how a posterior inverts the covariance of its data."""

import abc
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from .._hyper.checks import as_count
from .._numerics.devices import as_mesh, without_mesh
from .conjugate import block_cg
from .dual_descent import dual_descent
from .iterative import AbstractIterations, IterativeInverse
from .preconditioner import LowRank, low_rank
from .products import NoisyGram
from .progress import reporter

_PRECONDITIONERS = "random", "greedy", "none"
_LEAST_RANK, _MOST_RANK = 128, 1024
_PART = 8  # of the data are pivots, by default
_WIDTH = 32  # columns of a block of conjugate gradients, at least
_BYTES = 2**29  # that the preconditioner may take, by default


class AbstractSolver(eqx.Module):
    """A way to invert K + noise: `Cholesky()`, `ConjugateGradients()`,
    `StochasticDualDescent()`."""


class Cholesky(AbstractSolver):
    """By a Cholesky factor: exact to rounding.

    Cost: N^3 / 3 operations, N^2 numbers of memory.

    Example:
        >>> import jax.numpy as jnp
        >>> from pyrox.gp import RBF, Cholesky, GPPrior
        >>> prior = GPPrior(RBF(), X=jnp.array([[0.0], [1.0]]))
        >>> posterior = prior.condition(jnp.array([1.0, -1.0]), 0.1, solver=Cholesky())
        >>> posterior.convergence is None
        True
    """


class AbstractIterativeSolver(AbstractSolver):
    """A way to invert K + noise by products, in memory of order N, on the devices of a
    mesh if there is one."""

    mesh: eqx.AbstractVar[Mesh | None]

    @abc.abstractmethod
    def prepare(self, A: NoisyGram, variances: Float[Array, " N"]) -> IterativeInverse:
        """What can be set up before there is a right-hand side; `variances` are the
        diagonal of K."""

    def __getstate__(self) -> dict[str, Any]:
        return without_mesh(self)


class ConjugateGradients(AbstractIterativeSolver):
    """By preconditioned block conjugate gradients: for N above some ten thousand.

    The Gram matrix is never held: its rows are computed in blocks for each product, so
    that memory is of order N. All right-hand sides share one Krylov space, and randomly
    pivoted Cholesky of a part of the columns stands in for the matrix.

    Answers are right to the tolerance: `posterior.convergence` and `paths.convergence`
    say how near they came, and where that is not within it a warning does, too.

    Args:
        tolerance: the largest norm of a residual, over that of its right-hand side, or
            over that of ten deviations of the noise where this is less. So functions
            are off, at the data and as a root mean square, by at most ten times the
            tolerance in deviations of the noise.
        rank: columns of the preconditioner; by default an eighth of the data, at least
            128, at most 1024, and no more than half a gigabyte.
        preconditioner: `"random"` pivots, `"greedy"` ones, the largest, or `"none"`.
        max_products: after which it ends.
        seed: of the random pivots.
        progress: whether to show a bar, which appears after two seconds.
        mesh: devices that share the rows of each product: a `jax.sharding.Mesh`, of one
            process or many, of any axes, none of which need divide N. A product is the
            one of a single device to rounding, an answer to what the tolerance allows.
            Each device holds all that is N long: data, solutions, the preconditioner.
            What is pickled leaves its mesh behind.

    Raises:
        ValueError: a tolerance that is not positive, or not below one; a rank or number
            of products below one; another preconditioner; a mesh that is none.

    Cost: N rank kernel values and 4 N rank^2 operations to set up, N^2 kernel values
        and 2 N^2 S operations a product of S columns, shared out over the devices;
        memory of N (rank + 8 S) numbers, on each device. S is 32 at least: fewer
        right-hand sides get random ones beside them, which saves products.

    Source: Gardner et al. 2018 (arXiv 1809.11165) for the use, O'Leary 1980 for blocks,
        Chen, Epperly, Tropp & Webber 2022 (arXiv 2207.06503) for the pivots.

    Example:
        >>> import jax.numpy as jnp
        >>> from pyrox.gp import RBF, ConjugateGradients, GPPrior
        >>> X = jnp.linspace(0, 1, 500)[:, None]
        >>> prior = GPPrior(RBF(init_lengthscale=0.2), X)
        >>> solver = ConjugateGradients(tolerance=1e-3)
        >>> posterior = prior.condition(jnp.sin(6 * X[:, 0]), 0.01, solver=solver)
        >>> bool(posterior.convergence.converged.all())
        True
    """

    tolerance: float = eqx.field(static=True)
    rank: int | None = eqx.field(static=True)
    preconditioner: str = eqx.field(static=True)
    max_products: int = eqx.field(static=True)
    seed: int = eqx.field(static=True)
    progress: bool = eqx.field(static=True)
    mesh: Mesh | None = eqx.field(static=True)

    def __init__(
        self,
        tolerance: float = 1e-2,
        rank: int | None = None,
        preconditioner: Literal["random", "greedy", "none"] = "random",
        max_products: int = 1000,
        seed: int = 0,
        progress: bool = True,
        mesh: Mesh | None = None,
    ):
        call = "ConjugateGradients"
        if preconditioner not in _PRECONDITIONERS:
            raise ValueError(
                f"`{call}(preconditioner=...)` must be one of "
                f"{', '.join(map(repr, _PRECONDITIONERS))}. Got {preconditioner!r}."
            )
        self.tolerance = as_tolerance(call, tolerance)
        self.rank = None if rank is None else as_count(f"{call}(rank=...)", rank)
        self.preconditioner = preconditioner
        self.max_products = as_count(f"{call}(max_products=...)", max_products)
        self.seed = int(seed)
        self.progress = progress
        self.mesh = as_mesh(call, mesh)

    def prepare(self, A: NoisyGram, variances: Float[Array, " N"]) -> IterativeInverse:
        steps = _Conjugate(
            self.tolerance,
            self._low_rank(*jax.lax.stop_gradient((A, variances))),
            self.max_products,
            self.progress,
        )
        return IterativeInverse(A, variances, steps)

    def _low_rank(self, A: NoisyGram, variances: Float[Array, " N"]) -> LowRank:
        n = A.size
        if self.preconditioner == "none":
            nothing = jnp.zeros((n, 0), variances.dtype)
            return LowRank(nothing, nothing[0], A.noise_var)
        rank = self.rank
        if rank is None:
            most = min(_MOST_RANK, _BYTES // (n * variances.dtype.itemsize))
            rank = min(n, max(_LEAST_RANK, min(n // _PART, most)))
        if rank > n:
            raise ValueError(
                f"`ConjugateGradients(rank=...)` must be at most the number of data, "
                f"{n}. Got {rank}. Leave it out for an eighth of them."
            )
        greedy = self.preconditioner == "greedy"
        return low_rank(jr.key(self.seed), A, variances, rank, greedy)


class _Conjugate(AbstractIterations):
    """Conjugate gradients for one matrix."""

    tolerance: float = eqx.field(static=True)
    preconditioner: LowRank
    most: int = eqx.field(static=True)
    progress: bool = eqx.field(static=True)

    def run(
        self,
        A: NoisyGram,
        B: Float[Array, "N S"],
        start: Float[Array, "N S"] | None,
        bounds: Float[Array, " S"],
    ) -> tuple[Float[Array, "N S"], Float[Array, "N S"], Int[Array, ""]]:
        name = f"conjugate gradients to {self.tolerance:g}"
        report = reporter(name, self.most, self.progress)
        limits = bounds, self.most, report
        beside = A.seen(_columns_beside(B))
        return block_cg(A, self.preconditioner.solve, B, start, *limits, beside)


def _columns_beside(B: Float[Array, "N S"]) -> Float[Array, "N K"]:
    """Random columns that make a block of `_WIDTH` of it, where N has room for it."""
    n, n_sides = B.shape
    n_beside = max(min(_WIDTH, n) - n_sides, 0)
    return jr.normal(jr.key(0), (n, n_beside), B.dtype)


class StochasticDualDescent(AbstractIterativeSolver):
    """By random blocks of rows: for N at which one product with the matrix is long.

    Its cost falls with each pass over the data, not with each product, and it needs no
    preconditioner; where a few hundred products can be had, `ConjugateGradients` comes
    nearer in the same time. The step is chosen by the largest eigenvalue of some
    blocks, and halved where it diverges.

    Args:
        tolerance: as in `ConjugateGradients`.
        block_size: rows of a step.
        max_products: passes over the data after which it ends.
        seed: of the blocks.
        progress: whether to show a bar, which appears after two seconds.
        mesh: as in `ConjugateGradients`: its devices share the rows of a step.

    Raises:
        ValueError: a tolerance that is not positive, or not below one; a block or
            number of products below one; a mesh that is none.

    Cost: N block_size kernel values and 2 N block_size S operations a step of S
        columns, shared out over the devices; memory of 6 N S numbers and one block of
        these rows, on each device.

    Source: Lin et al. 2024 (arXiv 2310.20581).

    Example:
        >>> import jax.numpy as jnp
        >>> from pyrox.gp import RBF, GPPrior, StochasticDualDescent
        >>> X = jnp.linspace(0, 1, 500)[:, None]
        >>> prior = GPPrior(RBF(init_lengthscale=0.2), X)
        >>> solver = StochasticDualDescent(tolerance=0.1)
        >>> posterior = prior.condition(jnp.sin(6 * X[:, 0]), 0.1, solver=solver)
        >>> bool(posterior.convergence.converged.all())
        True
    """

    tolerance: float = eqx.field(static=True)
    block_size: int = eqx.field(static=True)
    max_products: int = eqx.field(static=True)
    seed: int = eqx.field(static=True)
    progress: bool = eqx.field(static=True)
    mesh: Mesh | None = eqx.field(static=True)

    def __init__(
        self,
        tolerance: float = 1e-2,
        block_size: int = 512,
        max_products: int = 1000,
        seed: int = 0,
        progress: bool = True,
        mesh: Mesh | None = None,
    ):
        call = "StochasticDualDescent"
        self.tolerance = as_tolerance(call, tolerance)
        self.block_size = as_count(f"{call}(block_size=...)", block_size)
        self.max_products = as_count(f"{call}(max_products=...)", max_products)
        self.seed = int(seed)
        self.progress = progress
        self.mesh = as_mesh(call, mesh)

    def prepare(self, A: NoisyGram, variances: Float[Array, " N"]) -> IterativeInverse:
        sizes = self.max_products, self.block_size
        steps = _Descent(self.tolerance, *sizes, self.seed, self.progress)
        return IterativeInverse(A, variances, steps)


class _Descent(AbstractIterations):
    """Dual descent, for any matrix."""

    tolerance: float = eqx.field(static=True)
    most: int = eqx.field(static=True)
    block_size: int = eqx.field(static=True)
    seed: int = eqx.field(static=True)
    progress: bool = eqx.field(static=True)

    def run(
        self,
        A: NoisyGram,
        B: Float[Array, "N S"],
        start: Float[Array, "N S"] | None,
        bounds: Float[Array, " S"],
    ) -> tuple[Float[Array, "N S"], Float[Array, "N S"], Int[Array, ""]]:
        report = reporter("dual descent", self.most, self.progress)
        sizes = self.most, self.block_size
        key = jr.key(self.seed)
        return dual_descent(key, A, B, start, bounds, *sizes, report)


def as_tolerance(call: str, tolerance: float) -> float:
    if not isinstance(tolerance, int | float) or not 0 < tolerance < 1:
        raise ValueError(
            f"`{call}(tolerance=...)` must be a number between 0 and 1, the norm of "
            "the residual over that of its right-hand side. Got "
            f"{tolerance!r}. Pass 1e-2."
        )
    return float(tolerance)
