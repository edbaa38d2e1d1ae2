"""The prior over functions at some inputs, and the same prior given data."""

import dataclasses
import functools
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray, Real

from .._hyper.checks import (
    as_count,
    as_inputs,
    as_noise,
    as_values,
    common_dtype,
    require_finite,
)
from .._hyper.parameters import require_known_valid, require_valid, valid
from .._hyper.unchecked import jit, one_step
from .._kernels.kernel import AbstractKernel
from .._solvers.cholesky import (
    AbstractFactor,
    CholeskyFactor,
    ExtendedFactor,
    checked_factor,
    guarded_factor,
    insert,
    root_of,
)
from .._solvers.joint_draw import draw
from . import moments
from .conditional import Conditional, observed
from .derivatives import (
    Derivatives,
    checked,
    sites_of,
    with_derivatives,
)
from .mean import mean_at
from .must_hold import require_posterior, require_told
from .predictions import AbstractConditioned
from .process import as_process, resolved
from .rounding import warn_of_rounding
from .told import NewData, as_new_data, extend


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
        self.X = as_inputs("GPPrior(X=...)", X, at_run_time=False)

    def condition(
        self,
        y: Real[ArrayLike, " N"],
        noise_var: Real[ArrayLike, "..."],
        derivatives: Derivatives | None = None,
    ) -> "ConditionedGP":
        """The posterior given y = f(X) + e, e ~ N(0, noise_var).

        Priors on hyperparameters become NumPyro sites here, once.

        Args:
            y: observed values.
            noise_var: variance of the noise, one or one for each value.
            derivatives: observed partial derivatives, with noise of their own.

        Raises:
            ValueError: shapes that do not fit, NaN or inf, noise that is not positive,
                priors without values, derivatives of functions that have none, a Gram
                matrix that cannot be factored, a mean function that returns NaN. Under
                `jit` errors of value are raised when the program runs.

        Cost: N^3 / 3 operations and N^2 memory, once, derivatives counted in N.
        """
        call = "GPPrior.condition"
        prior = resolved(self, self.X)
        n = prior.X.shape[0]
        y = as_values(f"{call}(y=...)", y, n, at_run_time=False)
        noise_var = as_noise(f"{call}(noise_var=...)", noise_var, n, at_run_time=False)
        derivatives = checked(call, derivatives, prior.kernel, prior.X)
        require_known_valid(prior.kernel)
        require_finite(prior.X, "GPPrior(X=...)", at_run_time=False)
        posterior = _conditioned(prior, y, noise_var, derivatives)
        noise = with_derivatives(y, noise_var, derivatives)[1], posterior.jitter_var
        warn_of_rounding(call, prior.jitter, posterior.factor, posterior.weights, noise)
        return posterior

    def log_marginal_likelihood(
        self,
        y: Real[ArrayLike, " N"],
        noise_var: Real[ArrayLike, "..."],
        derivatives: Derivatives | None = None,
    ) -> Float[Array, ""]:
        """log N(y; mean(X), K + (noise_var + jitter) I), or `-inf` if not computable.

        With derivatives it is the density of all observations together.

        A log-density for samplers to walk on: traced hyperparameters or noise outside
        their domain, and a Gram matrix that has no factor, make it `-inf` instead of an
        error. Rasmussen & Williams 2006, eq. 2.30.

        Raises:
            ValueError: shapes that do not fit, NaN or inf in a concrete y.

        Cost: as `condition`, with a second factorisation that keeps gradients finite.
        """
        call, n = "GPPrior.log_marginal_likelihood", self.X.shape[0]
        y = as_values(f"{call}(y=...)", y, n, at_run_time=False)
        noise_var = as_noise(f"{call}(noise_var=...)", noise_var, n, at_run_time=False)
        prior = resolved(self, self.X)
        derivatives = checked(call, derivatives, prior.kernel, prior.X)
        return _log_density(prior, y, noise_var, derivatives)

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
    variance that the jitter added to that noise.

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
    factor: AbstractFactor
    weights: Float[Array, " U"]
    jitter_var: Float[Array, "..."]
    derivatives: Derivatives | None = None

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
        return _log_marginal(self)

    def leave_one_out_log_density(self) -> Float[Array, " N"]:
        """log p(y_i | all the others), noise included, for each value.

        Rasmussen & Williams 2006, eqs. 5.10 to 5.12. Cost: O(N^3).
        """
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
        data = as_new_data(call, X, y, noise_var, self.X.shape[1])
        told = _told(self, data)
        noise = with_derivatives(told.y, told.noise_var, told.derivatives)[1]
        noise = noise, told.jitter_var
        warn_of_rounding(call, told.prior.jitter, told.factor, told.weights, noise)
        return told

    def _conditional(self) -> Conditional:
        prior, where = self.prior, (self.X, sites_of(self.derivatives))
        return Conditional(
            prior.kernel, prior.mean_fn, *where, self.factor, self.weights
        )


@one_step
def _conditioned(
    prior: GPPrior, y: Array, noise_var: Array, derivatives: Derivatives | None
) -> ConditionedGP:
    posterior, ok = conditioned(prior, y, noise_var, derivatives)
    given = (prior.kernel, prior.X, prior.jitter), y, noise_var, ok
    weights = require_posterior("GPPrior.condition", *given, posterior.weights)
    return eqx.tree_at(lambda p: p.weights, posterior, weights)


@jit
def conditioned(
    prior: GPPrior, y: Array, noise_var: Array, derivatives: Derivatives | None
) -> tuple[ConditionedGP, Array]:
    """`prior.condition` without checks, and whether there is a factor."""
    return assemble(prior, y, noise_var, derivatives, checked_factor)


def assemble(
    prior: GPPrior,
    y: Array,
    noise_var: Array,
    derivatives: Derivatives | None,
    factored: Callable[[Array, Array], tuple[CholeskyFactor, Array]],
) -> tuple[ConditionedGP, Array]:
    """The posterior by a way to factor, and what that says of its success."""
    prior, y, noise_var, derivatives = _of_one_type(prior, y, noise_var, derivatives)
    K, variances, jitter_var, residual = _observed(prior, y, noise_var, derivatives)
    root, ok = factored(K, jitter_var + variances)
    weights = root.solve(residual[:, None])[:, 0]
    parts = prior, y, noise_var, root, weights, jitter_var, derivatives
    return ConditionedGP(*parts), ok


@one_step
def _told(posterior: ConditionedGP, data: NewData) -> ConditionedGP:
    call = "ConditionedGP.condition_on"
    dtype = common_dtype(posterior.weights, data.X, data.y)
    root = root_of(posterior.factor)
    if root.lower.dtype != dtype:
        root = CholeskyFactor(root.lower.astype(dtype))
    told, (whitened, own), ok = _extended(posterior, data)
    # The root stays outside of the program, which would copy it.
    extended = ExtendedFactor(root, whitened, own, told.weights.size - told.y.size)
    weights = require_told(call, data, ok, told.weights)
    return dataclasses.replace(told, factor=extended, weights=weights)


@jit
def _extended(
    posterior: ConditionedGP, data: NewData
) -> tuple[ConditionedGP, tuple[Array, CholeskyFactor], Array]:
    """The posterior given more data, what its factor got, and whether there is one."""
    dtype = common_dtype(posterior.weights, data.X, data.y)
    cast = functools.partial(jax.tree.map, lambda leaf: leaf.astype(dtype))
    given, old, (X, y, noise_var) = posterior._conditional(), posterior, cast(data)
    old_X, root, weights = cast((old.X, given.factor, old.weights))
    jitter_var = cast(old.jitter_var)
    (n,), (q,) = old.y.shape, y.shape
    before = weights.shape[0] - n
    own_jitter = jnp.broadcast_to(jitter_var.reshape(-1)[:1], (q,))
    noise_var = jnp.broadcast_to(noise_var, (q,))
    cross = given.cross(X).astype(dtype).T
    surprise = y - mean_at(given.mean_fn, X) - cross.T @ weights
    block = given.kernel(X, X).astype(dtype), noise_var + own_jitter
    columns = weights[:, None], surprise[:, None]
    root, columns, ok = extend(root, cross, block, columns, before)
    old_noise = cast(jnp.broadcast_to(old.noise_var, (n,)))
    told = dataclasses.replace(
        old,
        prior=eqx.tree_at(lambda p: p.X, old.prior, jnp.concatenate([old_X, X])),
        y=jnp.concatenate([cast(old.y), y]),
        noise_var=jnp.concatenate([old_noise, noise_var]),
        factor=None,
        weights=columns[:, 0],
        jitter_var=insert(jitter_var, own_jitter, before) if before else jitter_var,
        derivatives=cast(old.derivatives),
    )
    return told, (root.whitened, root.own), ok


@jit
def _log_density(
    prior: GPPrior, y: Array, noise_var: Array, derivatives: Derivatives | None
) -> Array:
    data = _of_one_type(prior, y, noise_var, derivatives)
    K, variances, jitter_var, residual = _observed(*data)
    root, ok = guarded_factor(K, jitter_var + variances)
    ok = ok & valid(prior.kernel) & jnp.all(variances > 0)
    value = root.log_density(residual)
    return jnp.where(ok & jnp.isfinite(value), value, -jnp.inf)


@jit
def _log_marginal(posterior: ConditionedGP) -> Array:
    parts = posterior.prior, posterior.y, posterior.noise_var, posterior.derivatives
    return posterior.factor.log_density(_observed(*parts)[-1])


def _of_one_type(
    prior: GPPrior, y: Array, noise_var: Array, derivatives: Derivatives | None
) -> tuple[GPPrior, Array, Array, Derivatives | None]:
    dtype = common_dtype(prior.X, y)
    cast = functools.partial(jax.tree.map, lambda leaf: leaf.astype(dtype))
    prior = eqx.tree_at(lambda p: p.X, prior, cast(prior.X))
    return prior, cast(y), cast(noise_var), cast(derivatives)


def _observed(
    prior: GPPrior, y: Array, noise_var: Array, derivatives: Derivatives | None
) -> tuple[Array, Array, Array, Array]:
    process = prior.kernel, prior.mean_fn, prior.jitter
    return observed(*process, prior.X, y, noise_var, derivatives)
