"""Acquisition functions: where to evaluate next, in Bayesian optimisation.

All of them are to be maximised, whether the objective is minimised (the default) or
maximised. A posterior has closed forms. On paths the same expectations are averages
over functions, so a batch of points is judged jointly.

One idea makes averages smooth: each improvement is seen with logistic noise of scale
tau. Its expected positive part is tau softplus(gain / tau), its chance to be positive
sigmoid(gain / tau), and neither vanishes where no path improves.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp, ndtr
from jaxtyping import Array, ArrayLike, Float, Real

from .._hyper.checks import as_float, as_points, require, require_finite
from .._numerics.normal_tails import log_h
from .._numerics.safe_sqrt import safe_sqrt
from .._paths.ensemble import PathwiseEnsemble
from .._paths.path import PathwiseFunction
from .._posterior.exact import ConditionedGP
from .asked import sign_of

Posterior = ConditionedGP | PathwiseFunction | PathwiseEnsemble
Points = Real[ArrayLike, "N D"] | Real[ArrayLike, "N q D"]


def expected_improvement(
    f: Posterior, X: Points, best: Real[ArrayLike, ""], *, maximize: bool = False
) -> Float[Array, " N"]:
    """E[max(best - f(x), 0)], by how much x is expected to improve; to be maximised.

    With `maximize` it is E[max(f(x) - best, 0)]. The noise of observations is left out.
    Far from any improvement it underflows to zero, and its gradient with it: optimise
    `log_expected_improvement` instead.

    Args:
        f: a ConditionedGP, for the closed form; paths, also of `paths_over_draws`, for
            the average over all of them.
        X: points (N, D); of paths also N batches of q points (N, q, D), each worth the
            improvement of its best point.
        best: the value to improve on.
        maximize: whether a larger f is better.

    Returns:
        One value for each point or batch, in the units of f. Without uncertainty it is
        the improvement of the mean.

    Raises:
        ValueError: another f, batches for a closed form, a `best` that is not one
            finite number; and all that `f.predict(X)` or `f(X)` raises.

    Cost: that of `f.predict(X)`, or of `f(X)` and S values for each point.

    Source: Jones, Schonlau & Welch 1998, eq. 15; Wilson et al. 2017, arXiv 1712.00424.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from pyrox.gp import RBF, GPPrior, PathwiseSampler, expected_improvement
        >>> X, y = jnp.array([[0.0], [0.5], [1.0]]), jnp.array([1.0, -1.0, 0.5])
        >>> posterior = GPPrior(RBF(1.0, 0.2), X).condition(y, noise_var=0.01)
        >>> grid = jnp.linspace(0, 1, 101)[:, None]
        >>> values = expected_improvement(posterior, grid, y.min())
        >>> f"next at {grid[jnp.argmax(values), 0]:.2f}"
        'next at 0.63'
        >>> paths = PathwiseSampler(posterior, 128).sample_paths(jax.random.key(0), 256)
        >>> batches = grid[:100].reshape(50, 2, 1)
        >>> expected_improvement(paths, batches, y.min()).shape
        (50,)
    """
    gain, sd = _gain("expected_improvement", f, X, best, maximize)
    return _mean_relu(gain) if sd is None else _ei(gain, sd)


def log_expected_improvement(
    f: Posterior,
    X: Points,
    best: Real[ArrayLike, ""],
    *,
    maximize: bool = False,
    smoothing: Real[ArrayLike, ""] = 0.1,
) -> Float[Array, " N"]:
    """log of `expected_improvement`, with gradients everywhere; to be maximised.

    The closed form keeps its digits however far x is from improving. Of paths it is the
    log of the average of tau softplus(gain / tau), finite where no path improves. That
    exceeds the positive part of the gain by at most tau log 2; tau is `smoothing` times
    the standard deviation of the gain over the paths. For Gaussian f of standard
    deviation s the expected improvement grows by 1.65 smoothing^2 s pdf(gain / s), no
    more than 0.007 s at the default: as if s were larger by 1.6%.

    Args:
        f, X, best, maximize: as in `expected_improvement`.
        smoothing: tau over the standard deviation of the gain. Of paths only; zero
            gives the plain average.

    Returns:
        One value for each point or batch. Without improvement it is `-inf`, with the
        gradient zero, if there is no uncertainty (one path has none) or no smoothing.

    Raises:
        ValueError: as in `expected_improvement`; a smoothing below zero or infinite.

    Cost: as `expected_improvement`.

    Source: Ament et al. 2023, arXiv 2310.20708, eq. 9 and section 4.

    Example:
        >>> import jax.numpy as jnp
        >>> from pyrox.gp import RBF, GPPrior, log_expected_improvement
        >>> X, y = jnp.array([[0.0], [1.0]]), jnp.array([-5.0, 5.0])
        >>> posterior = GPPrior(RBF(1.0, 0.2), X).condition(y, noise_var=1e-4)
        >>> values = log_expected_improvement(posterior, jnp.array([[0.99]]), y.min())
        >>> bool(values[0] < -1000), bool(jnp.isfinite(values[0]))
        (True, True)
    """
    call = "log_expected_improvement"
    smoothing = _as_non_negative(f"{call}(smoothing=...)", smoothing)
    gain, sd = _gain(call, f, X, best, maximize)
    return _log_mean_softplus(gain, smoothing) if sd is None else _log_ei(gain, sd)


def probability_of_improvement(
    f: Posterior,
    X: Points,
    best: Real[ArrayLike, ""],
    *,
    maximize: bool = False,
    smoothing: Real[ArrayLike, ""] = 0.1,
) -> Float[Array, " N"]:
    """P(f(x) < best), the chance that x improves at all; to be maximised.

    With `maximize` it is P(f(x) > best). The share of paths that improve is a
    staircase, without a gradient to follow. So each path counts sigmoid(gain / tau),
    tau being `smoothing` times the standard deviation of the gain over the paths: a
    width that fits any units. For Gaussian f that changes the probability by at most
    0.4 smoothing^2, 0.004 at the default: less than the error of 10,000 paths.

    Args:
        f, X, best, maximize: as in `expected_improvement`. A batch improves if one of
            its points does.
        smoothing: tau over the standard deviation of the gain. Of paths only; zero
            gives the share of paths that improve, whose gradient is zero.

    Returns:
        One value for each point or batch; without uncertainty it is 0 or 1.

    Raises:
        ValueError: as in `log_expected_improvement`.

    Cost: as `expected_improvement`.

    Source: Kushner 1964; over paths Wilson et al. 2017, arXiv 1712.00424.

    Example:
        >>> import jax.numpy as jnp
        >>> from pyrox.gp import RBF, GPPrior, probability_of_improvement
        >>> posterior = GPPrior(RBF(), jnp.zeros((1, 1))).condition(jnp.zeros(1), 0.01)
        >>> probability_of_improvement(posterior, jnp.array([[0.5]]), best=0.0)
        Array([0.5], dtype=float32)
    """
    call = "probability_of_improvement"
    smoothing = _as_non_negative(f"{call}(smoothing=...)", smoothing)
    gain, sd = _gain(call, f, X, best, maximize)
    return _mean_sigmoid(gain, smoothing) if sd is None else _pi(gain, sd)


def confidence_bound(
    f: Posterior, X: Points, beta: Real[ArrayLike, ""] = 2.0, *, maximize: bool = False
) -> Float[Array, " N"]:
    """beta sd(x) - mean(x), minus the lower confidence bound of f; to be maximised.

    With `maximize` it is the upper bound, mean(x) + beta sd(x). Of paths it is the
    average of mean + beta sqrt(pi / 2) |f - mean|, whose expectation is the same for
    Gaussian f; the mean is that of the paths.

    Args:
        f, X, maximize: as in `expected_improvement`. Of a batch each path counts its
            largest bound.
        beta: how many standard deviations; not their square.

    Returns:
        One value for each point or batch, in the units of f.

    Raises:
        ValueError: as in `expected_improvement`; a beta below zero or infinite.

    Cost: as `expected_improvement`.

    Source: Cox & John 1992; over paths Wilson et al. 2017, arXiv 1712.00424.

    Example:
        >>> import jax.numpy as jnp
        >>> from pyrox.gp import RBF, GPPrior, confidence_bound
        >>> posterior = GPPrior(RBF(), jnp.zeros((1, 1))).condition(jnp.ones(1), 1e-4)
        >>> X = jnp.array([[0.0], [9.0]])
        >>> [round(float(bound), 2) for bound in confidence_bound(posterior, X)]
        [-0.98, 2.0]
    """
    call = "confidence_bound"
    beta = _as_non_negative(f"{call}(beta=...)", beta)
    values, sd = _values(call, f, X, maximize)
    beta = beta.astype(values.dtype)
    return _drawn_bound(values, beta) if sd is None else values + beta * sd


def _gain(
    call: str, f: Posterior, X: ArrayLike, best: ArrayLike, maximize: bool
) -> tuple[Array, Array | None]:
    """The improvement: its mean and standard deviation (N,), or draws (S, N), None."""
    call_best = f"{call}(best=...)"
    fix = f"Pass `y.{'max' if maximize is True else 'min'}()`, say."
    best = require_finite(_as_scalar(call_best, best, fix), call_best)
    values, sd = _values(call, f, X, maximize)
    best = best.astype(values.dtype)
    gain = values - (best if maximize else -best)
    return (_best(gain), None) if sd is None else (gain, sd)


def _values(
    call: str, f: Posterior, X: ArrayLike, maximize: bool
) -> tuple[Array, Array | None]:
    """f, or -f where it is minimised: its mean and standard deviation, (N,) each, or
    its draws (S, N, q) and None."""
    sign = sign_of(call, maximize)
    X, (n, q) = _as_points(call, X)
    if isinstance(f, ConditionedGP):
        if q > 1:
            raise ValueError(
                f"`{call}(f, X)` of a ConditionedGP has a closed form for single "
                f"points. Got batches of q={q}. Pass paths, which judge a batch "
                "jointly: `PathwiseSampler(f).sample_paths(key, 256)`."
            )
        mean, var = f.predict(X)
        return sign * mean, safe_sqrt(var)
    if isinstance(f, PathwiseFunction | PathwiseEnsemble):
        return sign * f(X).reshape(-1, n, q), None
    raise ValueError(
        f"`{call}(f=...)` must be a ConditionedGP, a PathwiseFunction or a "
        f"PathwiseEnsemble. Got a {type(f).__name__}. Pass what `GPPrior.condition`, "
        "`sample_paths` or `paths_over_draws` returns."
    )


def _as_points(call: str, X: ArrayLike) -> tuple[Array, tuple[int, int]]:
    """The points (N q, D), which `f` checks, and (N, q)."""
    X = as_points(X, f"{call}(f, X)")
    if X.ndim not in (2, 3) or 0 in X.shape:
        raise ValueError(
            f"`{call}(f, X)` must have shape (N, D), or (N, q, D) for batches of q "
            f"points, with no axis empty. Got {X.shape}. For one input dimension pass "
            "`X[:, None]`, for one point `x[None, :]`."
        )
    q = X.shape[1] if X.ndim == 3 else 1
    return X.reshape(-1, X.shape[-1]), (X.shape[0], q)


def _as_scalar(call: str, x: ArrayLike, fix: str) -> Array:
    x = as_float(x, call)
    if x.shape != ():
        raise ValueError(f"`{call}` must be one number. Got shape {x.shape}. {fix}")
    return x


def _as_non_negative(call: str, x: ArrayLike) -> Array:
    x = _as_scalar(call, x, "Map over many with `jax.vmap`.")
    sentence = f"`{call}` must be finite and not negative."
    return require(x, lambda x: (x >= 0) & (x < np.inf), sentence)


def _log_relu(x: Array) -> Array:
    """log max(x, 0), with the gradient zero where it is -inf."""
    return jnp.where(x > 0, jnp.log(jnp.where(x > 0, x, 1)), -jnp.inf)


def _over(gain: Array, scale: Array) -> tuple[Array, Array, Array]:
    """Where the scale is zero, a scale without zeros, and the gain over that."""
    none = scale == 0
    scale = jnp.where(none, 1, scale)
    return none, scale, gain / scale


@jax.jit
def _ei(gain: Array, sd: Array) -> Array:
    certain, sd, u = _over(gain, sd)
    return jnp.where(certain, jax.nn.relu(gain), sd * jnp.exp(log_h(u)))


@jax.jit
def _log_ei(gain: Array, sd: Array) -> Array:
    certain, sd, u = _over(gain, sd)
    return jnp.where(certain, _log_relu(gain), jnp.log(sd) + log_h(u))


@jax.jit
def _pi(gain: Array, sd: Array) -> Array:
    certain, _, u = _over(gain, sd)
    return jnp.where(certain, _is_positive(gain), ndtr(u))


def _is_positive(gain: Array) -> Array:
    return (gain > 0).astype(gain.dtype)


@jax.jit
def _mean_relu(gain: Array) -> Array:
    return jnp.mean(jax.nn.relu(gain), axis=0)


@jax.jit
def _log_mean_softplus(gain: Array, smoothing: Array) -> Array:
    sharp, tau, v = _over(gain, _tau(gain, smoothing))
    smooth = logsumexp(_log_softplus(v), axis=0) - math.log(gain.shape[0])
    plain = _log_relu(_mean_relu(gain))
    return jnp.where(sharp[0], plain, jnp.log(tau[0]) + smooth)


@jax.jit
def _mean_sigmoid(gain: Array, smoothing: Array) -> Array:
    sharp, _, v = _over(gain, _tau(gain, smoothing))
    shares = jnp.where(sharp, _is_positive(gain), jax.nn.sigmoid(v))
    return jnp.mean(shares, axis=0)


def _tau(gain: Array, smoothing: Array) -> Array:
    """The scale of the smoothing, (1, N), of draws of the gain (S, N)."""
    deviation = gain - gain[:1]  # no rounding where all are equal
    spread = safe_sqrt(jnp.var(deviation, axis=0, keepdims=True))
    return smoothing.astype(gain.dtype) * spread


def _log_softplus(v: Array) -> Array:
    """log log(1 + e^v), with e^v in two terms where it would vanish in 1 + e^v."""
    far = v < -15
    near, tail = jnp.where(far, 0, v), jnp.where(far, v, -15)
    near, tail = jnp.log(jax.nn.softplus(near)), tail - 0.5 * jnp.exp(tail)
    return jnp.where(far, tail, near)


@jax.jit
def _drawn_bound(values: Array, beta: Array) -> Array:
    mean = jnp.mean(values, axis=0, keepdims=True)
    bounds = mean + beta * math.sqrt(math.pi / 2) * jnp.abs(values - mean)
    return jnp.mean(_best(bounds), axis=0)


def _best(values: Array) -> Array:
    """The largest of each batch, (S, N), by its index. The gradient of `jnp.max` is NaN
    where XLA rounds the values that it compares with their maximum in another way."""
    index = jnp.argmax(values, axis=2, keepdims=True)
    return jnp.take_along_axis(values, index, axis=2)[:, :, 0]
