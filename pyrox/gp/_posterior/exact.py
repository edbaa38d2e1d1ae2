"""The prior over functions at some inputs, and the same prior given data."""

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, PRNGKeyArray, Real

from .._hyper.checks import (
    as_count,
    as_noise,
    as_observed,
    as_values,
    require_finite,
)
from .._hyper.parameters import require_known_valid, require_valid, valid
from .._hyper.unchecked import jit, one_step
from .._kernels.given import as_inputs_of
from .._kernels.kernel import AbstractKernel
from .._solvers.cholesky import (
    CholeskyFactor,
    checked_factor,
    guarded_factor,
)
from .._solvers.convergence import Convergence, warn_if_not_converged
from .._solvers.inverse import AbstractInverse, AbstractInverseWithDensity
from .._solvers.joint_draw import draw
from .._solvers.solver import AbstractIterativeSolver, AbstractSolver, Cholesky
from . import assembly, moments
from .by_solver import as_solver, require_density, require_factor, require_memory
from .conditional import Conditional
from .derivatives import (
    Derivatives,
    checked,
    sites_of,
    with_derivatives,
)
from .mean import mean_at
from .missing import how_many, with_sites
from .must_hold import require_posterior
from .predictions import AbstractConditioned
from .process import as_process, resolved
from .rounding import warn_of_rounding
from .told import as_new_data, posterior_told

_CHOLESKY = Cholesky()


class GPPrior(eqx.Module):
    """A Gaussian-process prior f ~ GP(mean_fn, kernel), looked at in the inputs X.

    Args:
        kernel: the covariance function.
        X: inputs, one row a point; one input dimension is `X[:, None]`.
        mean_fn: any function (N, D) -> (N,), zero by default, read at each call that
            takes the prior. The arrays of an Equinox module are trainable leaves.
        jitter: added to the diagonal of the Gram matrix so that its factor exists in
            floating point, in parts of the process's variance: of the mean of
            `kernel.diag(X)`, and for derivatives as data of that of their variances.
            The draws carry it too. By default 1e-6 in float64; in float32, for N
            points, 10 N eps, from 1e-6 up to 1e-3 (1.2e-4 for a hundred points);
            `condition` warns where that hides the noise that was asked for.

    Raises:
        ValueError: an X that is not (N, D), is empty, or has NaN or inf.

    Example:
        >>> import jax.numpy as jnp
        >>> from pyrox.gp import RBF, GPPrior
        >>> prior = GPPrior(RBF(), X=jnp.array([[0.0], [1.0]]))
        >>> posterior = prior.condition(jnp.array([1.0, -1.0]), noise_var=0.01)
        >>> posterior.predict_mean(jnp.array([[0.5]])).shape
        (1,)
    """

    kernel: AbstractKernel
    X: Float[Array, "N D"]
    mean_fn: Callable
    jitter: float | None = eqx.field(static=True)

    def __init__(
        self,
        kernel: AbstractKernel,
        X: Real[ArrayLike, "N D"],
        mean_fn: Callable | None = None,
        jitter: float | None = None,
    ):
        parts = as_process("GPPrior", kernel, mean_fn, jitter)
        self.kernel, self.mean_fn, self.jitter = parts
        self.X = as_inputs_of(kernel, "GPPrior(X=...)", X, at_run_time=False)

    def condition(
        self,
        y: Real[ArrayLike, " N"],
        noise_var: Real[ArrayLike, "..."],
        derivatives: Derivatives | None = None,
        *,
        observed: Bool[ArrayLike, " N"] | None = None,
        solver: AbstractSolver | None = None,
    ) -> "ConditionedGP":
        """The posterior given y = f(X) + e, e ~ N(0, noise_var).

        Priors on hyperparameters become NumPyro sites here, once.

        Args:
            y: observed values.
            noise_var: variance of the noise, one or one for each value.
            derivatives: observed partial derivatives, with noise of their own.
            observed: which of the values were, booleans; all of them by default. The
                others' y and noise may be anything, NaN included, their inputs any
                finite ones: it is as if those rows were not there. Data that grow are
                so padded to one size, which compiles one program; see the example.
            solver: how the covariance is inverted, `Cholesky()` by default. For more
                than some ten thousand data `ConjugateGradients()`, whose answers are
                right to its tolerance.

        Raises:
            ValueError: shapes that do not fit, NaN or inf, noise that is not positive,
                priors without values, derivatives of functions that have none, a Gram
                matrix that cannot be factored, a mean function that returns NaN. Under
                `jit` errors of value are raised when the program runs.

        Cost: by Cholesky N^3 / 3 operations and N^2 memory, once, derivatives counted
            in N, and what was not observed, too.

        Example:
            >>> import jax.numpy as jnp
            >>> from pyrox.gp import RBF, GPPrior
            >>> X, y = jnp.zeros((8, 1)), jnp.full(8, jnp.nan)  # room for eight
            >>> X, y = X.at[:2, 0].set(jnp.arange(2.0)), y.at[:2].set(1.0)
            >>> padded = GPPrior(RBF(), X).condition(y, 0.1, observed=jnp.arange(8) < 2)
            >>> alone = GPPrior(RBF(), X[:2]).condition(y[:2], 0.1)
            >>> bool(jnp.allclose(padded.predict_var(X), alone.predict_var(X)))
            True
        """
        call = "GPPrior.condition"
        prior = resolved(self, self.X)
        y, noise_var, seen = _as_data(call, y, noise_var, observed, prior.X.shape[0])
        derivatives = checked(call, derivatives, prior.kernel, prior.X)
        require_known_valid(prior.kernel)
        require_finite(prior.X, "GPPrior(X=...)", at_run_time=False)
        solver = as_solver(call, solver, y, derivatives)
        posterior = _conditioned(prior, y, noise_var, derivatives, seen, solver)
        warn_if_not_converged(call, posterior.convergence, 4)
        noise = with_derivatives(y, noise_var, derivatives)[1], posterior.jitter_var
        found = posterior.inverse, posterior.weights, noise
        seen = with_sites(seen, sites_of(derivatives))
        warn_of_rounding(call, prior.jitter, *found, observed=seen)
        return posterior

    def log_marginal_likelihood(
        self,
        y: Real[ArrayLike, " N"],
        noise_var: Real[ArrayLike, "..."],
        derivatives: Derivatives | None = None,
        *,
        observed: Bool[ArrayLike, " N"] | None = None,
    ) -> Float[Array, ""]:
        """log N(y; mean(X), K + (noise_var + jitter) I), or `-inf` if not computable.

        With derivatives it is the density of all observations together, with `observed`
        (see `condition`) that of the values that were.

        A log-density for samplers to walk on: traced hyperparameters or noise outside
        their domain, and a Gram matrix that has no factor, make it `-inf` instead of an
        error. Rasmussen & Williams 2006, eq. 2.30.

        Raises:
            ValueError: shapes that do not fit, NaN or inf in a concrete y.

        Cost: as `condition`, with a second factorisation that keeps gradients finite.
        """
        call, n = "GPPrior.log_marginal_likelihood", self.X.shape[0]
        y, noise_var, seen = _as_data(call, y, noise_var, observed, n)
        prior = resolved(self, self.X)
        derivatives = checked(call, derivatives, prior.kernel, prior.X)
        require_memory(call, y, derivatives)
        return _log_density(prior, y, noise_var, derivatives, seen)

    def sample(self, key: PRNGKeyArray, n_samples: int = 1) -> Float[Array, "S N"]:
        """Joint draws of f(X) from the prior, exact.

        Cost: N^3 operations, N^2 memory. For draws that can be evaluated anywhere use
        `PathwiseSampler(prior)`.
        """
        n_samples = as_count("GPPrior.sample(n_samples=...)", n_samples)
        prior = resolved(self, self.X)
        X = require_valid("GPPrior.sample", prior.kernel, prior.X)
        return draw(key, mean_at(prior.mean_fn, X), prior.kernel(X, X), n_samples)


class ConditionedGP(AbstractConditioned):
    """A Gaussian process given data, factored once; what `GPPrior.condition` returns.

    Predictions are of the function f, without observation noise. `jitter_var` is the
    variance that the jitter added to that noise. `observed` is what `condition` was
    given; in the rows of what was not, y is 0 and a noise one a datum is 1.
    `convergence` says how near an iterative solver came, None for Cholesky's.

    Example:
        >>> import jax.numpy as jnp
        >>> from pyrox.gp import RBF, GPPrior
        >>> X = jnp.array([[0.0], [1.0]])
        >>> posterior = GPPrior(RBF(), X).condition(jnp.array([1.0, -1.0]), 0.01)
        >>> mean, var = posterior.predict(jnp.array([[0.0], [9.0]]))
        >>> mean.shape, var.shape
        ((2,), (2,))
    """

    prior: GPPrior
    y: Float[Array, " N"]
    noise_var: Float[Array, "..."]
    inverse: AbstractInverse
    weights: Float[Array, " U"]
    jitter_var: Float[Array, "..."]
    derivatives: Derivatives | None = None
    observed: Bool[Array, " N"] | None = None
    convergence: Convergence | None = None

    @property
    def X(self) -> Float[Array, "N D"]:
        """The inputs that it was conditioned on."""
        return self.prior.X

    @property
    def kernel(self) -> AbstractKernel:
        """The covariance function of the prior."""
        return self.prior.kernel

    def log_marginal_likelihood(self) -> Float[Array, ""]:
        """log p(y | X), from the factor at hand."""
        call = "ConditionedGP.log_marginal_likelihood"
        return _log_marginal(self, require_density(call, self.inverse))

    def leave_one_out_log_density(self) -> Float[Array, " N"]:
        """log p(y_i | all the others), noise included, for each value; of one that was
        not observed 0, so that their sum is that of the observed.

        Rasmussen & Williams 2006, eqs. 5.10 to 5.12. Cost: O(N^3).
        """
        require_factor("ConditionedGP.leave_one_out_log_density", self.inverse)
        densities = moments.leave_one_out_log_density(self._conditional())
        return densities[: self.y.shape[0]]

    def condition_on(
        self,
        X: Real[ArrayLike, "Q D"],
        y: Real[ArrayLike, " Q"],
        noise_var: Real[ArrayLike, "..."],
    ) -> "ConditionedGP":
        """The posterior given more values, y = f(X) + e, e ~ N(0, noise_var), as well.

        The factor is extended by their block, not computed again, and what comes out is
        the posterior given all data at once. The new values carry the jitter variance
        of the old ones: `GPPrior.condition` would take it anew from the inputs of all
        (kernels whose variance is not constant), and in float32, by default, from how
        many there are; where it must be larger for many values, give `GPPrior` a
        jitter of your own.

        For fantasies, `jax.vmap(lambda y: posterior.condition_on(X, y, noise_var))(ys)`
        extends the factor once for all of them. Their posteriors have a copy each where
        they leave the `vmap`, so ask within it.

        Args:
            X: more inputs, old ones among them or not.
            y: their values.
            noise_var: variance of the noise, one or one for each value.

        Raises:
            ValueError: shapes that do not fit, NaN or inf, noise that is not positive,
                a block that cannot be factored; posteriors that are stacked. Under
                `jit` errors of value are raised when the program runs.

        Cost: 2 N^2 Q operations for N observations and Q more. The factor of the old
            ones is shared, not copied.

        Source: Rasmussen & Williams 2006, eqs. A.11 to A.13.

        Example:
            >>> import jax.numpy as jnp
            >>> from pyrox.gp import RBF, GPPrior
            >>> X = jnp.array([[0.0], [1.0]])
            >>> posterior = GPPrior(RBF(), X).condition(jnp.array([1.0, -1.0]), 0.01)
            >>> posterior = posterior.condition_on([[0.5]], [0.3], noise_var=0.01)
            >>> posterior.X.shape, bool(posterior.predict_var([[0.5]])[0] < 0.01)
            ((3, 1), True)
        """
        call = "ConditionedGP.condition_on"
        self._require_one("condition_on(X, y, noise_var)")
        require_factor(call, self.inverse)
        in_size, where = self.X.shape[1], f"{call}(X=...)"
        X = as_inputs_of(self.kernel, where, X, in_size, at_run_time=False)
        data = as_new_data(call, X, y, noise_var, in_size)
        told: ConditionedGP = posterior_told(self, data)
        noise = with_derivatives(told.y, told.noise_var, told.derivatives)[1]
        found = told.inverse, told.weights, (noise, told.jitter_var)
        seen = with_sites(told.observed, sites_of(told.derivatives))
        warn_of_rounding(call, told.prior.jitter, *found, observed=seen)
        return told

    def _conditional(self) -> Conditional:
        prior, where = self.prior, (self.X, sites_of(self.derivatives))
        found = self.inverse, self.weights, self.observed
        return Conditional(prior.kernel, prior.mean_fn, *where, *found)


def _as_data(
    call: str, y: ArrayLike, noise_var: ArrayLike, observed: ArrayLike | None, n: int
) -> tuple[Array, Array, Array | None]:
    """The values, their noise and which were observed, as far as they are known."""
    seen = as_observed(f"{call}(observed=...)", observed, n)
    how: Any = {"observed": seen, "at_run_time": False}
    y = as_values(f"{call}(y=...)", y, n, **how)
    return y, as_noise(f"{call}(noise_var=...)", noise_var, n, **how), seen


@functools.partial(one_step, static_argnames="solver")
def _conditioned(
    prior: GPPrior,
    y: Array,
    noise_var: Array,
    derivatives: Derivatives | None,
    observed: Array | None,
    solver: AbstractSolver,
) -> ConditionedGP:
    posterior, ok = conditioned(prior, y, noise_var, derivatives, observed, solver)
    given = (prior.kernel, prior.X, prior.jitter), y, noise_var, ok
    found = posterior.weights, observed
    weights = require_posterior("GPPrior.condition", *given, *found)
    return eqx.tree_at(lambda p: p.weights, posterior, weights)


@functools.partial(jit, static_argnames="solver")
def conditioned(
    prior: GPPrior,
    y: Array,
    noise_var: Array,
    derivatives: Derivatives | None,
    observed: Array | None = None,
    solver: AbstractSolver = _CHOLESKY,
) -> tuple[ConditionedGP, Array]:
    """`prior.condition` without checks, and whether there is a factor."""
    given = prior, y, noise_var, derivatives
    if not isinstance(solver, AbstractIterativeSolver):
        return assemble(*given, checked_factor, observed)
    data = assembly.of_one_type(*given, observed)
    return posterior_of(data, *assembly.without_matrix(data, solver))


def assemble(
    prior: GPPrior,
    y: Array,
    noise_var: Array,
    derivatives: Derivatives | None,
    factored: Callable[[Array, Array], tuple[CholeskyFactor, Array]],
    observed: Array | None = None,
) -> tuple[ConditionedGP, Array]:
    """The posterior by a way to factor, and what that says of its success."""
    data = assembly.of_one_type(prior, y, noise_var, derivatives, observed)
    return posterior_of(data, *assembly.with_matrix(data, factored))


def posterior_of(
    data: assembly.Data, parts: assembly.Assembled, ok: Array
) -> tuple[ConditionedGP, Array]:
    prior, y, noise_var, derivatives, seen = data
    inverse, weights, jitter_var, convergence = parts
    found = inverse, weights, jitter_var, derivatives, seen, convergence
    return ConditionedGP(prior, y, noise_var, *found), ok


@jit
def _log_density(
    prior: GPPrior,
    y: Array,
    noise_var: Array,
    derivatives: Derivatives | None,
    observed: Array | None = None,
) -> Array:
    data = assembly.of_one_type(prior, y, noise_var, derivatives, observed)
    K, variances, jitter_var, residual = assembly.observations(data)
    root, ok = guarded_factor(K, jitter_var + variances)
    ok = ok & valid(prior.kernel) & jnp.all(variances > 0)
    seen = with_sites(observed, sites_of(derivatives))
    value = root.log_density(residual, how_many(seen, residual))
    return jnp.where(ok & jnp.isfinite(value), value, -jnp.inf)


@jit
def _log_marginal(posterior: ConditionedGP, root: AbstractInverseWithDensity) -> Array:
    given = posterior.y, posterior.noise_var, posterior.derivatives
    data = assembly.of_one_type(posterior.prior, *given, posterior.observed)
    residual = assembly.observations(data)[-1]
    seen = with_sites(posterior.observed, sites_of(posterior.derivatives))
    return root.log_density(residual, how_many(seen, residual))
