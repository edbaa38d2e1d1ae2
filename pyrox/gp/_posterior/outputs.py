"""The door to several outputs: tables in, tables out."""

from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray, Real

from .._hyper.arrays import as_numbers, is_traced, placed
from .._hyper.checks import as_count, as_inputs, as_noise, as_values
from .._hyper.parameters import require_known_valid
from .._kernels.given import keep_rules
from .._kernels.kernel import AbstractKernel
from .._solvers.solver import AbstractSolver
from .by_outputs import (
    conditioned_apart,
    log_density_apart,
    separated,
    stack_inputs,
)
from .exact import ConditionedGP, GPPrior
from .process import as_process, resolved
from .rounding import warn_of_rounding


class MultiOutputPrior(eqx.Module):
    """A Gaussian-process prior over functions of P outputs, looked at in the inputs X.

    Several outputs are one process of inputs with one more column at the end, the
    number of an output from 0. This is a door to it that takes and gives tables, a
    column for each output. The kernel is one of D + 1 columns: a kernel of inputs times
    a `Coregionalization` (the example), a sum of such products, or `DivergenceFree`,
    `CurlFree` for vector fields. Outputs that share nothing are quicker one by one.

    Args:
        kernel: the covariance function, of D + 1 columns.
        X: inputs, one row a point.
        n_outputs: P.
        mean_fn: any function (N, D + 1) -> (N,), zero by default.
        jitter: as in `GPPrior`.

    Raises:
        ValueError: an X that is not (N, D), is empty, or has NaN or inf; a kernel of
            fewer outputs.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from pyrox.gp import (
        ...     RBF, ActiveDims, Coregionalization, MultiOutputPrior, MultiOutputSampler
        ... )
        >>> kernel = ActiveDims(RBF(), (0,)) * ActiveDims(Coregionalization(1, 2), (1,))
        >>> X = jnp.array([[0.0], [0.5], [1.0]])
        >>> Y = jnp.array([[1.0, 0.9], [jnp.nan, 0.2], [-1.0, jnp.nan]])  # not seen
        >>> prior = MultiOutputPrior(kernel, X, n_outputs=2)
        >>> posterior = prior.condition(Y, noise_var=jnp.array([0.01, 0.02]))
        >>> mean, var = posterior.predict(jnp.linspace(0, 1, 5)[:, None])
        >>> mean.shape, var.shape
        ((5, 2), (5, 2))
        >>> paths = MultiOutputSampler(posterior).sample_paths(jax.random.key(0), 8)
        >>> paths(jnp.linspace(0, 1, 5)[:, None]).shape
        (8, 5, 2)
    """

    kernel: AbstractKernel
    X: Float[Array, "N D"]
    mean_fn: Callable
    n_outputs: int = eqx.field(static=True)
    jitter: float | None = eqx.field(static=True)

    def __init__(
        self,
        kernel: AbstractKernel,
        X: Real[ArrayLike, "N D"],
        n_outputs: int,
        mean_fn: Callable | None = None,
        jitter: float | None = None,
    ):
        call = "MultiOutputPrior"
        parts = as_process(call, kernel, mean_fn, jitter)
        self.kernel, self.mean_fn, self.jitter = parts
        self.n_outputs = as_count(f"{call}(n_outputs=...)", n_outputs)
        self.X = as_inputs(f"{call}(X=...)", X, at_run_time=False)
        where = f"{call}(n_outputs={n_outputs})"
        stacked = stack_inputs(self.X, self.n_outputs)
        keep_rules(self.kernel, where, stacked, at_run_time=False)

    @property
    def stacked(self) -> GPPrior:
        """The one process: a row for each input of each output, output by output."""
        X = stack_inputs(self.X, self.n_outputs)
        return GPPrior(self.kernel, X, self.mean_fn, self.jitter)

    def stack(
        self, Y: Real[ArrayLike, "N P"], noise_var: Real[ArrayLike, "..."]
    ) -> tuple[GPPrior, Float[Array, " U"], Float[Array, "..."]]:
        """The one process at the inputs of what was observed, the values, and their
        noise: what `gp_factor("obs", *prior.stack(Y, noise_var))`, `fit` and all else
        takes that is for one output.

        Args:
            Y: a column for each output, NaN where it was not observed. Where it is
                traced that cannot be seen, and all of it counts.
            noise_var: variance of the noise, one or one for each output.

        Raises:
            ValueError: a shape that does not fit, inf, an output without data, noise
                that is not positive.
        """
        return self._stack("MultiOutputPrior.stack", Y, noise_var)

    def condition(
        self,
        Y: Real[ArrayLike, "N P"],
        noise_var: Real[ArrayLike, "..."],
        *,
        solver: AbstractSolver | None = None,
    ) -> "MultiOutputGP":
        """The posterior given Y = f(X) + e, of what is not NaN.

        Where all outputs were observed at all inputs, and the kernel is one of inputs
        times one of outputs, one factor of N x N is made for each output instead of one
        of P N x P N for all. Answers are the same to rounding.

        Args:
            Y: a column for each output, NaN where it was not observed. Where it is
                traced that cannot be seen, and all of it counts.
            noise_var: variance of the noise, one or one for each output.
            solver: as in `GPPrior.condition`; `Cholesky()` takes all outputs together,
                always, and then `posterior.stacked.condition_on` is there.

        Raises:
            ValueError: as `GPPrior.condition`; an output without data.

        Cost: P N^3 / 3 operations and P N^2 memory where outputs are taken apart, else
            those of `GPPrior.condition` for as many data as there are.
        """
        call = "MultiOutputPrior.condition"
        prior, y, noise_var = self._stack(call, Y, noise_var)
        if solver is not None or not self._comes_apart(y):
            posterior = prior.condition(y, noise_var, solver=solver)
            return MultiOutputGP(posterior, self.n_outputs)
        prior = resolved(prior, prior.X)
        require_known_valid(prior.kernel)
        own_noise = self._own_noise(noise_var)
        posterior = conditioned_apart(prior, y, own_noise, n_outputs=self.n_outputs)
        noise = posterior.noise_var, posterior.jitter_var
        found = posterior.inverse, posterior.weights, noise
        warn_of_rounding(call, prior.jitter, *found)
        return MultiOutputGP(posterior, self.n_outputs)

    def log_marginal_likelihood(
        self, Y: Real[ArrayLike, "N P"], noise_var: Real[ArrayLike, "..."]
    ) -> Float[Array, ""]:
        """log p(Y), of what is not NaN, or `-inf` if not computable: for samplers to
        walk on, as `GPPrior.log_marginal_likelihood`.

        Second derivatives by the kernel or the noise are those of `prior.stack(Y,
        noise_var)`: where outputs are taken apart they raise.

        Cost: as `condition`; where outputs are taken apart a derivative by the kernel
            takes 2 P N^3 operations more.

        Example:
            >>> import jax.numpy as jnp, numpyro
            >>> from pyrox.gp import RBF, ActiveDims, Coregionalization
            >>> from pyrox.gp import MultiOutputPrior
            >>> kernel = ActiveDims(RBF(), (0,))
            >>> kernel = kernel * ActiveDims(Coregionalization(1, 2), (1,))
            >>> prior = MultiOutputPrior(kernel, jnp.array([[0.0], [1.0]]), 2)
            >>> def model(Y):
            ...     numpyro.factor("Y", prior.log_marginal_likelihood(Y, 0.1))
            >>> bool(prior.log_marginal_likelihood(jnp.zeros((2, 2)), 0.1) < 0)
            True
        """
        call = "MultiOutputPrior.log_marginal_likelihood"
        prior, y, noise_var = self._stack(call, Y, noise_var)
        if not self._comes_apart(y):
            return prior.log_marginal_likelihood(y, noise_var)
        prior, own_noise = resolved(prior, prior.X), self._own_noise(noise_var)
        return log_density_apart(prior, y, own_noise, n_outputs=self.n_outputs)

    def _comes_apart(self, y: Float[Array, " U"]) -> bool:
        n_data, in_size = self.X.shape
        complete = y.shape[0] == n_data * self.n_outputs
        return complete and separated(self.kernel, in_size + 1) is not None

    def _own_noise(self, noise_var: Float[Array, "..."]) -> Float[Array, " P"]:
        """One for each output, from one for all or for each of all values."""
        if noise_var.ndim == 0:
            return jnp.broadcast_to(noise_var, (self.n_outputs,))
        return noise_var[:: self.X.shape[0]]

    def _stack(
        self, call: str, Y: ArrayLike, noise_var: ArrayLike
    ) -> tuple[GPPrior, Array, Array]:
        (n_data, _), n_outputs = self.X.shape, self.n_outputs
        noise = as_noise(
            f"{call}(noise_var=...)", noise_var, n_outputs, at_run_time=False
        )
        values, rows = _observed(f"{call}(Y=...)", Y, n_data, n_outputs)
        prior = self.stacked
        if rows is not None:
            X = prior.X if is_traced(prior.X) else np.asarray(prior.X)
            prior = eqx.tree_at(lambda p: p.X, prior, placed(X[rows]))
        y = as_values(f"{call}(Y=...)", values, prior.X.shape[0], at_run_time=False)
        if noise.ndim:
            each = jnp.repeat(noise, n_data)
            noise = each if rows is None else each[rows]
        return prior, y, noise


class MultiOutputGP(eqx.Module):
    """Functions of P outputs given data; what `MultiOutputPrior.condition` returns.

    `stacked` is the one process of inputs with the number of an output as the last
    column, for all that is not said here.

    Example:
        >>> import jax.numpy as jnp
        >>> from pyrox.gp import RBF, ActiveDims, Coregionalization, MultiOutputPrior
        >>> kernel = ActiveDims(RBF(), (0,)) * ActiveDims(Coregionalization(1, 2), (1,))
        >>> X = jnp.array([[0.0], [1.0]])
        >>> posterior = MultiOutputPrior(kernel, X, 2).condition(jnp.ones((2, 2)), 0.01)
        >>> posterior.predict_cov(jnp.array([[0.5]])).shape
        (1, 2, 1, 2)
    """

    stacked: ConditionedGP
    n_outputs: int = eqx.field(static=True)

    def predict_mean(
        self, X: Real[ArrayLike, "M D"], *, block_size: int | None = None
    ) -> Float[Array, "M P"]:
        """E[f(X) | Y]."""
        X = self._rows("predict_mean", X)
        return self._table(self.stacked.predict_mean(X, block_size=block_size))

    def predict_var(
        self, X: Real[ArrayLike, "M D"], *, block_size: int | None = None
    ) -> Float[Array, "M P"]:
        """Var[f_p(x) | Y] at each row, of each output."""
        X = self._rows("predict_var", X)
        return self._table(self.stacked.predict_var(X, block_size=block_size))

    def predict(
        self, X: Real[ArrayLike, "M D"], *, block_size: int | None = None
    ) -> tuple[Float[Array, "M P"], Float[Array, "M P"]]:
        """`predict_mean` and `predict_var`."""
        X = self._rows("predict", X)
        mean, var = self.stacked.predict(X, block_size=block_size)
        return self._table(mean), self._table(var)

    def predict_cov(self, X: Real[ArrayLike, "M D"]) -> Float[Array, "M P M P"]:
        """Cov[f_p(x), f_q(x') | Y], at [x, p, x', q]."""
        X = self._rows("predict_cov", X)
        n_points = X.shape[0] // self.n_outputs
        sides = (self.n_outputs, n_points) * 2
        cov = self.stacked.predict_cov(X).reshape(sides)
        return cov.transpose(1, 0, 3, 2)

    def sample(
        self, key: PRNGKeyArray, X: Real[ArrayLike, "M D"], n_samples: int = 1
    ) -> Float[Array, "S M P"]:
        """Joint draws of f(X) | Y, exact; `MultiOutputSampler` gives functions."""
        X = self._rows("sample", X)
        return self._table(self.stacked.sample(key, X, n_samples))

    def log_marginal_likelihood(self) -> Float[Array, ""]:
        """log p(Y | X), of what was observed, from the factors at hand."""
        return self.stacked.log_marginal_likelihood()

    def _rows(self, method: str, X: ArrayLike) -> Float[Array, "PM C"]:
        call, in_size = f"MultiOutputGP.{method}(X)", self.stacked.X.shape[-1] - 1
        return stack_inputs(as_inputs(call, X, in_size), self.n_outputs)

    def _table(self, values: Float[Array, "... PM"]) -> Float[Array, "... M P"]:
        return as_table(values, self.n_outputs)


def as_table(values: Float[Array, "... PM"], n_outputs: int) -> Float[Array, "... M P"]:
    """A column for each output, of values one output after the other."""
    columns = values.reshape(*values.shape[:-1], n_outputs, -1)
    return jnp.swapaxes(columns, -1, -2)


def _observed(
    call: str, Y: ArrayLike, n_data: int, n_outputs: int
) -> tuple[np.ndarray | Array, np.ndarray | None]:
    """The values one output after the other, and which of all they are, None for all
    of them."""
    Y = as_numbers(Y, call)
    if Y.shape != (n_data, n_outputs):
        raise ValueError(
            f"`{call}` must have shape ({n_data}, {n_outputs}), a row for each input "
            f"and a column for each output. Got {Y.shape}. Put NaN where an output was "
            "not observed."
        )
    if is_traced(Y):
        return Y.T.reshape(-1), None
    values = np.asarray(Y).T
    seen = ~np.isnan(values)
    if not seen.any(axis=1).all():
        empty = int(np.argmin(seen.any(axis=1)))
        raise ValueError(
            f"`{call}` must have data of every output. Got none of output {empty}. "
            "Leave that output out, of the kernel too."
        )
    if seen.all():
        return values.reshape(-1), None
    return values[seen], np.flatnonzero(seen)
