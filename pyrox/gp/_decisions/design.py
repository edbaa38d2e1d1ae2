"""Design: where measurements tell most, about the function everywhere or about some of
it. All of it is to be maximised, and has derivatives by the points."""

import math

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray, Real

from .._hyper.checks import (
    as_float,
    as_inputs,
    as_noise,
    as_points,
    require,
    require_finite,
)
from .._hyper.unchecked import jit, unchecked
from .._numerics.lapack import cholesky, solve_lower
from .._paths.path import PathwiseFunction
from .._posterior.exact import ConditionedGP
from .asked import as_posterior, jitter_of

Points = Real[ArrayLike, "N D"] | Real[ArrayLike, "N q D"]


def integrated_variance_reduction(
    posterior: ConditionedGP,
    X: Points,
    over: Real[ArrayLike, "C D"],
    *,
    noise_var: Real[ArrayLike, ""],
    weights: Real[ArrayLike, " C"] | None = None,
) -> Float[Array, " N"]:
    """By how much observations at x lower the variance of f, on average over points; to
    be maximised.

        sum_c w_c (Var[f(z_c)] - Var[f(z_c) | y at x])

    The integrated mean squared error (IMSE) falls by as much, whatever the values turn
    out to be: active learning as Cohn's (ALC). With points of `over` spread evenly over
    a box it is the integral over that, divided by its volume.

    Args:
        posterior: what is known.
        X: points (N, D), or N batches (N, q, D), whose values are observed together.
        over: where f is to be known, some hundred points.
        noise_var: variance of the noise of each observation; the posterior's jitter is
            added, as to the data.
        weights: w, not negative; 1 / C each by default.

    Returns:
        One value for each point or batch, in the units of f squared.

    Raises:
        ValueError: another posterior, points of another D, noise that is not positive,
            weights of another shape or below zero; all that `posterior.predict_cov`
            raises.

    Cost: that of `posterior.predict_cov(X, over)`, and O(q^2 C) for each batch.

    Source: Cohn, Ghahramani & Jordan 1996 (JAIR 4), section 3; Seo et al. 2000; batches
        Gramacy & Lee 2009 (Technometrics 51).

    Example:
        >>> import jax.numpy as jnp
        >>> from pyrox.gp import RBF, GPPrior, integrated_variance_reduction
        >>> X, y = jnp.array([[0.0], [0.2], [1.0]]), jnp.array([1.0, -1.0, 0.5])
        >>> posterior = GPPrior(RBF(1.0, 0.2), X).condition(y, noise_var=0.01)
        >>> grid = jnp.linspace(0, 1, 101)[:, None]
        >>> gains = integrated_variance_reduction(posterior, grid, grid, noise_var=0.01)
        >>> bool(0.5 < grid[jnp.argmax(gains), 0] < 0.7)
        True
    """
    call = "integrated_variance_reduction"
    own, cross, over = _covariances(call, posterior, X, over, noise_var)
    w = _as_weights(call, weights, over.shape[0], cross.dtype)
    if weights is not None and w.ndim != 1:
        raise ValueError(
            f"`{call}(weights=...)` must have shape ({over.shape[0]},), one for each "
            f"point of `over`. Got {w.shape}."
        )
    w = require(
        w,
        lambda w: (w >= 0) & (w < float("inf")),
        f"`{call}(weights=...)` must be finite and not negative.",
    )
    return _reduction(own, cross, w)


def expected_information_gain(
    posterior: ConditionedGP,
    X: Points,
    over: Real[ArrayLike, "C D"],
    weights: Real[ArrayLike, " C"] | Real[ArrayLike, "K C"] | None = None,
    *,
    noise_var: Real[ArrayLike, ""],
) -> Float[Array, " N"]:
    """What observations at x would tell of linear functionals of f, in nats; to be
    maximised.

    The mutual information of y at x and z = W f(over): an integral by the weights of a
    quadrature, a mean over a region, a difference of two values; without weights all
    values f(over). In closed form, as both are normal: half the log of how much the
    variance of y falls when z is known. For any functional see
    `nested_information_gain`.

    Args:
        posterior: what is known.
        X: points (N, D), or N batches (N, q, D), whose values are observed together.
        over: where the functionals look at f.
        weights: (C,) for one functional, (K, C) for K of them.
        noise_var: variance of the noise of each observation; the posterior's jitter is
            added, as to the data.

    Returns:
        One value for each point or batch.

    Raises:
        ValueError: as `integrated_variance_reduction`; functionals that are certain or
            tell nothing beyond each other, more of them than `float` can keep apart.

    Cost: that of `posterior.predict_cov(X, over)`, C^2 K + K^3 once, and O(q^2 K +
        q K C) for each batch.

    Source: Lindley 1956; MacKay 1992 (Neural Computation 4), section 4.

    Example:
        >>> import jax.numpy as jnp
        >>> from pyrox.gp import RBF, GPPrior, expected_information_gain
        >>> X, y = jnp.array([[0.0], [1.0]]), jnp.array([1.0, -1.0])
        >>> posterior = GPPrior(RBF(1.0, 0.3), X).condition(y, noise_var=0.01)
        >>> grid = jnp.linspace(0, 1, 101)[:, None]
        >>> mean = jnp.full(101, 1 / 101)  # the integral over the interval
        >>> gains = expected_information_gain(
        ...     posterior, grid, grid, mean, noise_var=0.01)
        >>> bool(0.4 < grid[jnp.argmax(gains), 0] < 0.6)
        True
    """
    call = "expected_information_gain"
    own, cross, over = _covariances(call, posterior, X, over, noise_var)
    prior_cov = posterior.predict_cov(over).astype(cross.dtype)
    if weights is not None:
        w = _as_weights(call, weights, over.shape[0], cross.dtype)
        w = jnp.atleast_2d(w)
        cross, prior_cov = cross @ w.T, w @ prior_cov @ w.T
    gain = _gain(own, cross, prior_cov)
    return require(
        gain,
        lambda g: g == g,  # NaN where there is no factor
        f"`{call}(over=..., weights=...)` must be functionals that are uncertain, each "
        f"beyond the others, in {cross.dtype}. Pass fewer of them, or float64 arrays.",
    )


def nested_information_gain(
    key: PRNGKeyArray,
    paths: PathwiseFunction,
    X: Points,
    values: Real[ArrayLike, " S"] | Real[ArrayLike, "S K"],
    *,
    noise_var: Real[ArrayLike, ""],
    bandwidth: float = 1.0,
) -> Float[Array, " N"]:
    """What observations at x would tell of any functional of f, in nats, by nested
    Monte Carlo over paths; to be maximised.

    z_s is what the functional says of path s: its maximum, where that is, an integral
    of its exponential, whether it crosses a level. The average over paths of
    log p(y | z_s) - log p(y), with y drawn along path s: p(y) is the mixture over the
    other paths, and p(y | z_s) that over those of similar z. Whole numbers are alike if
    they are equal. For others a normal kernel in z weighs the paths, moved to z_s along
    the linear regression of f(x) on z, so that the width of the kernel does not matter
    where f and z are jointly normal.

    Args:
        key: for the noise of y, the same at all points, so that the result is a smooth
            function of them.
        paths: some hundred to thousand draws of the posterior.
        X: points (N, D), or N batches (N, q, D), whose values are observed together.
        values: z, one row for each path: `found.values` of `optimize_paths`, say, or
            `paths(grid).max(axis=1)`; integers for a functional of finitely many
            values.
        noise_var: variance of the noise of each observation.
        bandwidth: of the kernel, in parts of Silverman's rule.

    Returns:
        One value for each point or batch. Its error is of the order of S^-1/2, and no
        gain above about log S is seen.

    Raises:
        ValueError: no paths; values that are not one row for each path, not finite, all
            equal, or whole numbers of which one is alone; noise that is not positive.

    Cost: that of `paths(X)`, and S^2 q for each batch.

    Source: nested Monte Carlo Ryan 2003; Rainforth et al. 2018 (arXiv 1709.06181); the
        regression of nearby draws Beaumont, Zhang & Balding 2002 (Genetics 162).

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from pyrox.gp import RBF, GPPrior, PathwiseSampler, nested_information_gain
        >>> X, y = jnp.array([[0.0], [1.0]]), jnp.array([1.0, -1.0])
        >>> posterior = GPPrior(RBF(1.0, 0.3), X).condition(y, noise_var=0.01)
        >>> paths = PathwiseSampler(posterior, 64).sample_paths(jax.random.key(0), 200)
        >>> grid = jnp.linspace(0, 1, 21)[:, None]
        >>> lowest = paths(grid).min(axis=1)
        >>> gains = nested_information_gain(
        ...     jax.random.key(1), paths, grid, lowest, noise_var=0.01)
        >>> bool(0.5 < grid[jnp.argmax(gains), 0] < 1.0)
        True
    """
    call = "nested_information_gain"
    if not isinstance(paths, PathwiseFunction) or len(paths) < 3:
        raise ValueError(
            f"`{call}(paths=...)` must be three paths or more. Got "
            f"{type(paths).__name__}. Pass `PathwiseSampler(posterior).sample_paths("
            "key, 512)`."
        )
    X, (n, q) = _as_batches(call, X)
    f = paths(X.reshape(n * q, -1)).reshape(len(paths), n, q)
    noise = as_noise(f"{call}(noise_var=...)", noise_var, 1).reshape(-1)[0]
    z, alike = _as_functional(call, values, len(paths), f.dtype, bandwidth)
    noise = noise.astype(f.dtype)
    e = jr.normal(key, (len(paths), q), f.dtype)
    return _nested(f, z, alike, noise, e)


def _covariances(
    call: str,
    posterior: ConditionedGP,
    X: Points,
    over: ArrayLike,
    noise_var: ArrayLike,
) -> tuple[Float[Array, "N q q"], Float[Array, "N q C"], Float[Array, "C D"]]:
    """The covariance of the observations of each batch, noise included, and that with f
    at `over`."""
    posterior = as_posterior(call, posterior)
    X, (n, q) = _as_batches(call, X)
    over = as_inputs(f"{call}(over=...)", over, posterior.X.shape[1])
    noise = as_noise(f"{call}(noise_var=...)", noise_var, 1).reshape(-1)[0]
    cross = posterior.predict_cov(X.reshape(n * q, -1), over)
    with unchecked():  # of what has just been looked at
        own = jax.vmap(posterior.predict_cov)(X).astype(cross.dtype)
    noise = noise.astype(cross.dtype) + jitter_of(posterior).astype(cross.dtype)
    own = own + noise * jnp.eye(q, dtype=cross.dtype)[None]
    return own, cross.reshape(n, q, -1), over


def _as_batches(call: str, X: ArrayLike) -> tuple[Array, tuple[int, int]]:
    """Batches (N, q, D), and (N, q)."""
    X = as_points(X, f"{call}(X=...)")
    if X.ndim not in (2, 3) or 0 in X.shape:
        raise ValueError(
            f"`{call}(X=...)` must have shape (N, D), or (N, q, D) for batches of q "
            f"points, with no axis empty. Got {X.shape}. For one input dimension pass "
            "`X[:, None]`, for one batch `X[None]`."
        )
    X = X[:, None] if X.ndim == 2 else X
    return X, (X.shape[0], X.shape[1])


def _as_weights(call: str, weights: ArrayLike | None, n: int, dtype) -> Array:
    if weights is None:
        return jnp.full(n, 1 / n, dtype)
    where = f"{call}(weights=...)"
    w = as_float(weights, where)
    if w.ndim not in (1, 2) or w.shape[-1] != n or not w.shape[0]:
        raise ValueError(
            f"`{where}` must have shape ({n},), one for each point of `over`, or "
            f"(K, {n}) for K functionals. Got {w.shape}."
        )
    return require_finite(w, where).astype(dtype)


def _as_functional(
    call: str, values: ArrayLike, n: int, dtype, bandwidth: float
) -> tuple[Float[Array, "S K"], Float[Array, "S S"]]:
    """z standardised, zero for whole numbers, and the log weights of paths for each
    other, -inf for oneself."""
    where = f"{call}(values=...)"
    given = jnp.asarray(values)
    z = require_finite(as_float(values, where), where).astype(dtype)
    if z.ndim not in (1, 2) or z.shape[0] != n or 0 in z.shape:
        raise ValueError(
            f"`{where}` must have shape ({n},) or ({n}, K), a row for each path. Got "
            f"{z.shape}. Pass `paths(grid).max(axis=1)`, say."
        )
    z = z.reshape(n, -1)
    oneself = jnp.eye(n, dtype=bool)
    if not jnp.issubdtype(given.dtype, jnp.floating):
        same = jnp.all(z[:, None] == z[None], axis=2) & ~oneself
        z = require(
            z,
            lambda _: jnp.any(same, axis=1)[:, None],
            f"`{where}` that are whole numbers must be shared by two paths or more "
            "each, to say what paths of that value are like. Pass more paths.",
        )
        return jnp.zeros_like(z), jnp.where(same, 0.0, -jnp.inf).astype(dtype)
    sd = jnp.std(z, axis=0)
    sd = require(sd, lambda s: s > 0, f"`{where}` must differ between paths.")
    z = (z - jnp.mean(z, axis=0)[None]) / sd[None]
    k = z.shape[1]
    width = bandwidth * (4 / ((k + 2) * n)) ** (1 / (k + 4))
    distance = jnp.sum((z[:, None] - z[None]) ** 2, axis=2) / width**2
    return z, jnp.where(oneself, -jnp.inf, -0.5 * distance)


@jit
def _reduction(own: Array, cross: Array, weights: Array) -> Array:
    def one(own, cross):
        return jnp.sum(solve_lower(cholesky(own), cross) ** 2, axis=0) @ weights

    return jax.vmap(one)(own, cross)


@jit
def _gain(own: Array, cross: Array, of_z: Array) -> Array:
    root = cholesky(of_z)

    def one(own, cross):
        told = solve_lower(root, cross.T)
        left = cholesky(own - told.T @ told)
        return _half_log_det(cholesky(own)) - _half_log_det(left)

    return jax.vmap(one)(own, cross)


def _half_log_det(root: Float[Array, "q q"]) -> Float[Array, ""]:
    return jnp.sum(jnp.log(jnp.diagonal(root)))


@jit
def _nested(f: Array, z: Array, alike: Array, noise: Array, e: Array) -> Array:
    n = f.shape[0]
    oneself = jnp.eye(n, dtype=bool)
    log_weights = jax.nn.log_softmax(alike, axis=1)

    def one(f):  # (S, q)
        y = f + jnp.sqrt(noise) * e
        slope = z.T @ (f - jnp.mean(f, axis=0)[None])
        slope = jnp.linalg.pinv(z.T @ z) @ slope
        level = f - z @ slope  # what z does not say, and what it says at z_s
        near = y - z @ slope
        given = _log_mixture(near, level, noise, log_weights)
        others = jnp.where(oneself, -jnp.inf, -math.log(n - 1))
        return jnp.mean(given - _log_mixture(y, f, noise, others.astype(f.dtype)))

    return jax.lax.map(one, jnp.moveaxis(f, 1, 0))


def _log_mixture(
    y: Float[Array, "S q"],
    means: Float[Array, "S q"],
    noise: Float[Array, ""],
    log_weights: Float[Array, "S S"],
) -> Float[Array, " S"]:
    """log sum_t w_st N(y_s; mean_t, noise), but for a constant."""
    square = jnp.sum((y[:, None] - means[None]) ** 2, axis=2)
    return jax.nn.logsumexp(log_weights - 0.5 * square / noise, axis=1)
