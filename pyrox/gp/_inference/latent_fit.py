"""Laplace's approximation of a latent Gaussian process under any likelihood."""

import warnings
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Real

from .._hyper.checks import (
    as_count,
    is_traced,
    must_be_finite,
    require_all,
    require_finite,
)
from .._hyper.likelihood import (
    as_outcomes,
    log_prob,
    require_support,
    without_sites,
)
from .._hyper.parameters import must_be_valid, require_known_valid, valid
from .._hyper.unchecked import jit
from .._kernels.given import as_inputs_of
from .._numerics.closure import Closure, read
from .._numerics.gaussian_mode import (
    curvatures,
    find_mode,
    mixes,
    moving_mode,
    slopes,
    symmetric_form,
)
from .._posterior.exact import ConditionedGP, GPPrior, conditioned
from .._posterior.jitter import jitter_variance
from .._posterior.mean import mean_at
from .._posterior.process import resolved
from .fit_input import as_tolerance

# The trapezoidal rule between so many deviations either way, with so many points.
_REACH, _POINTS = 9.0, 128


class LatentFit(eqx.Module):
    """What `fit_latent` found: a Gaussian posterior of f, and the evidence.

    A pytree of arrays: it is returned from `jit`, stacked by `vmap`. What is computed
    from it may be differentiated by the hyperparameters, the inputs, the mean function
    and what the likelihood closes over, at converged fits, by the implicit function
    theorem.

    Attributes:
        posterior: the Gaussian that fits at the mode, (K^-1 + W)^-1 about it: that of
            pseudo-data mode + l'(f) / W with noise 1 / W, of which it also has the
            marginal likelihood. It predicts f, and `PathwiseSampler(found.posterior)`
            draws functions.
        mode: the most likely latent values at the data, f^, (N,).
        curvature: W, (N,), the negative second derivatives of log p(y_i | f_i) there,
            cut off below at rounding.
        log_evidence: log p(y) as Laplace approximates it.
        step_size: of the last Newton step, in deviations of the posterior, in the root
            mean square; the mode is about its square away.
        n_steps: how many steps it took.
        converged: whether `step_size` is within the tolerance.
    """

    posterior: ConditionedGP
    mode: Float[Array, "... N"]
    curvature: Float[Array, "... N"]
    log_evidence: Float[Array, "..."]
    step_size: Float[Array, "..."]
    n_steps: Int[Array, "..."]
    converged: Bool[Array, "..."]

    @property
    def prior(self) -> GPPrior:
        """The prior, with values for its hyperparameters."""
        return self.posterior.prior

    def predict_probability(
        self,
        X: Real[ArrayLike, "M D"],
        y: Real[ArrayLike, "..."],
        likelihood: Callable,
    ) -> Float[Array, " M"]:
        """p(y at X | data): of classes and counts the probability, else the density.

        The likelihood is averaged over f at each row, N(mean, variance) there, by the
        trapezoidal rule, whose error for smooth likelihoods falls faster than any power
        of its 128 points: below 1e-10 for logits of a deviation of up to 5.

        Args:
            X: where.
            y: one value for all rows, or one for each: `1` asks for the probability of
                class 1.
            likelihood: as `fit_latent` has it, for M latent values.

        Raises:
            ValueError: shapes that do not fit; values outside the likelihood's support.

        Cost: that of `posterior.predict`, and 128 densities a row.
        """
        call = "LatentFit.predict_probability"
        X = as_inputs_of(
            self.posterior.prior.kernel, f"{call}(X=...)", X, self.posterior.X.shape[1]
        )
        m = X.shape[0]
        if np.ndim(y) == 0:
            y = jnp.broadcast_to(y, (m,)) if is_traced(y) else np.full(m, y)
        mean, var = self.posterior.predict(X)
        y = _as_data(call, y, likelihood, mean)
        density = _read(call, likelihood, y, mean)
        return _averaged(density, mean, var)


def fit_latent(
    prior: GPPrior,
    y: Real[ArrayLike, " N"],
    likelihood: Callable,
    *,
    max_steps: int = 100,
    tolerance: float | None = None,
) -> LatentFit:
    """Laplace's approximation: the posterior of f under any likelihood, and log p(y).

    The normal density around the mode of p(y | f) N(f; mean, K + jitter I), which is
    the law of `gp_sample`, found by Newton's method with steps that are halved until
    the density rises. Hyperparameters stay as they are; to train them climb
    `log_evidence`, which is differentiable:

        def loss(log_kernel):
            kernel = RBF(*jnp.exp(log_kernel))
            return -fit_latent(GPPrior(kernel, X), y, likelihood).log_evidence

    For likelihoods that are log-concave in f (Bernoulli and binomial by logits or
    probits, Poisson by exp, ordered logits) the mode is the only one. Others, such as
    Student-t, may have several, of which this is one; where the second derivative of
    log p(y_i | f_i) is positive at the mode it counts as zero, in the posterior's
    variance and in the evidence, and the search takes more steps.

    Args:
        prior: the process at the inputs of the data. Priors on its hyperparameters
            become NumPyro sites here, as in `condition`.
        y: observed values, classes from 0, counts.
        likelihood: from N latent values to a NumPyro distribution of batch shape (N,),
            datum i by f[i] alone: `lambda f: dist.Poisson(jnp.exp(f))`. It may close
            over parameters.
        max_steps: of Newton's method.
        tolerance: on its last step, in deviations of the posterior, by default 1e-8 in
            float64 and 1e-3 in float32.

    Returns:
        A `LatentFit`. Unless converged it warns, but not inside `jit`.

    Raises:
        ValueError: shapes that do not fit; values outside the likelihood's support; a
            likelihood that returns no distribution, or one of another shape, that mixes
            latent values, or has no density where f is the mean of the prior. Under
            `jit` errors of value are raised when the program runs.

    Cost: N^3 / 3 operations a step, and as often once more; 2 N^3 / 3 for derivatives.

    Source: Rasmussen & Williams 2006, section 3.4, algorithms 3.1 and 5.1.

    Example:
        >>> import jax.numpy as jnp
        >>> import numpyro.distributions as dist
        >>> from pyrox.gp import RBF, GPPrior, fit_latent
        >>> X, y = jnp.linspace(0, 1, 6)[:, None], jnp.array([0, 0, 0, 1, 1, 1])
        >>> def likelihood(f):
        ...     return dist.Bernoulli(logits=f)
        >>> found = fit_latent(GPPrior(RBF(4.0, 0.3), X), y, likelihood)
        >>> probability = found.predict_probability(X[-1:], 1, likelihood)
        >>> bool(found.converged), f"{probability[0]:.2f}"
        (True, '0.76')
    """
    call = "fit_latent"
    if not isinstance(prior, GPPrior):
        raise ValueError(
            f"`{call}(prior, ...)` must be a GPPrior. Got a {type(prior).__name__}. "
            "Pass `GPPrior(kernel, X)`."
        )
    most_steps = as_count(f"{call}(max_steps=...)", max_steps)
    prior = resolved(prior, prior.X)
    require_known_valid(prior.kernel)
    require_finite(prior.X, "GPPrior(X=...)", at_run_time=False)
    dtype = prior.X.dtype
    bound = as_tolerance(tolerance, 1e-8 if dtype.itemsize == 8 else 1e-3, dtype)
    f = mean_at(prior.mean_fn, prior.X)
    y = _as_data(call, y, likelihood, f)
    density = _read(call, likelihood, y, f)
    found, holds = _laplace(prior, density, bound, np.int32(most_steps))
    sentences = _sentences(call, prior)
    found = require_all(found, holds, sentences)
    _warn_if_not_converged(found, most_steps, bound)
    return found


def _as_data(
    call: str, y: ArrayLike, likelihood: Callable, f: Float[Array, " N"]
) -> Array:
    """The values, which the likelihood at latent values like `f` must allow."""
    y = as_outcomes(f"{call}(y=...)", y, f.shape[0])
    law, other = (without_sites(call, likelihood, f + i) for i in (0, 1))
    return require_support(f"{call}(y=...)", law, y, other)


def _read(call: str, likelihood: Callable, y: Array, f: Float[Array, " N"]) -> Closure:
    """log p(y_i | f_i) as a function of f."""

    def densities(f):
        return log_prob(without_sites(call, likelihood, f), y, f.dtype)

    return read(f"{call}(likelihood=...)", densities, f)


@jit
def _laplace(
    prior: GPPrior, density: Closure, tolerance: Array, most_steps: ArrayLike
) -> tuple[LatentFit, Bool[Array, " 6"]]:
    """The fit, and what must hold for it to be one."""
    mean = mean_at(prior.mean_fn, prior.X)
    K = prior.kernel(prior.X, prior.X)
    K = K + jitter_variance(prior.jitter, K) * jnp.eye(mean.shape[0], dtype=K.dtype)
    given = jax.lax.stop_gradient((density, K, mean))
    found = find_mode(*given, tolerance, jnp.asarray(most_steps))
    mode = moving_mode(density, K, mean, found.f)
    slope, W = slopes(density, mode), curvatures(density, mode, K)
    _, lower = symmetric_form(K, W)
    # Rasmussen & Williams 2006, eq. 3.32, with K^-1 (mode - mean) the slope.
    evidence = jnp.sum(density(mode)) - 0.5 * slope @ (mode - mean)
    evidence = evidence - jnp.sum(jnp.log(jnp.diagonal(lower)))
    # The law of f given y_i to second order in f_i is that given a datum of noise 1/W.
    posterior, ok = conditioned(prior, mode + slope / W, 1 / W, None)
    result = LatentFit(
        posterior=posterior,
        mode=mode,
        curvature=W,
        log_evidence=evidence,
        step_size=found.size,
        n_steps=found.n_steps,
        converged=found.size <= tolerance,
    )
    holds = [
        jnp.all(jnp.isfinite(prior.X)),
        valid(prior.kernel),
        jnp.isfinite(jnp.sum(density(mean))),
        ~mixes(density, mean),
        jnp.isfinite(evidence) & ok,
        jnp.all(jnp.isfinite(posterior.weights)),
    ]
    return result, jnp.stack(holds)


def _sentences(call: str, prior: GPPrior) -> list[str]:
    return [
        must_be_finite("GPPrior(X=...)"),
        must_be_valid(call, prior.kernel),
        f"`{call}`: log p(y | f) must be finite where f is the mean of the prior, from "
        "which the search sets out. Got NaN or inf: from the likelihood, `mean_fn(X)`, "
        "or the kernel. Look at `likelihood(f).log_prob(y)` there.",
        f"`{call}(likelihood=...)` must give the distribution of datum i by f[i] "
        "alone. Got one that takes other latent values into it. Write it entry by "
        "entry; for sums or products of f sample by NUTS, with `gp_sample`.",
        f"`{call}`: at the mode there is no normal density in {prior.X.dtype}: log "
        "p(y | f) has no finite derivatives there, or it is so curved, against the "
        "variance of the kernel, that the type has no digits left. Pass float64 "
        "arrays, a larger jitter of `GPPrior`, or data in other units.",
        f"`{call}` must find finite weights: look at the derivatives of "
        "`likelihood(f).log_prob(y)` by f.",
    ]


def _warn_if_not_converged(
    found: LatentFit, most_steps: int, tolerance: Float[Array, ""]
) -> None:
    if is_traced(found.converged) or found.converged:
        return
    n_steps, precision = int(found.n_steps), found.mode.dtype
    if n_steps >= most_steps:
        what, fix = f"stopped at max_steps={most_steps}", f"max_steps={4 * most_steps}"
    else:
        what = f"found no higher density in {precision} after {n_steps} steps"
        fix = "float64 arrays" if precision.itemsize < 8 else "a larger jitter"
    warnings.warn(
        f"`fit_latent` has not converged: it {what}, where a step was "
        f"{float(found.step_size):.1e} deviations of the posterior, above tolerance="
        f"{float(tolerance):.0e}. Pass {fix}, or a larger tolerance. The best mode "
        "found is returned, whose evidence and derivatives are not those of a mode.",
        RuntimeWarning,
        stacklevel=3,
    )


@jit
def _averaged(
    density: Closure, mean: Float[Array, " M"], var: Float[Array, " M"]
) -> Float[Array, " M"]:
    nodes = np.linspace(-_REACH, _REACH, _POINTS)
    weights = np.exp(-0.5 * nodes**2)
    weights = weights / weights.sum()
    sd = jnp.sqrt(var)

    def add(total, row):
        node, weight = row
        return total + weight * jnp.exp(density(mean + node * sd)), None

    rows = tuple(jnp.asarray(x, mean.dtype) for x in (nodes, weights))
    return jax.lax.scan(add, jnp.zeros_like(mean), rows)[0]
