"""The certificate: how far what a sampler draws is from the exact posterior."""

import dataclasses
import functools
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray, Real

from .._hyper.checks import as_inputs, require_inside
from .._hyper.unchecked import jit
from .._posterior.derivatives import cross_gram, gram, observe
from .._posterior.mean import mean_at
from .._posterior.missing import only
from .._solvers.cholesky import factor
from .._solvers.iterative import IterativeInverse
from .._solvers.solver import ConjugateGradients
from .given import AnchorValues
from .path import OUTSIDE, PathwiseFunction
from .samplers import DecoupledPathwiseSampler, PathwiseSampler


@dataclasses.dataclass(frozen=True, eq=False)
class Diagnosis:
    """What `diagnose` found: two Gaussians over f at the test points, compared.

    Attributes:
        wasserstein: the 2-Wasserstein distance between them, in units of f: the root of
            the least possible sum of squared displacements over the points.
        relative: that distance over the root of the exact posterior's total variance.
        mean_error: the largest difference of a mean.
        cov_error: the largest difference of a covariance, variances included.
        basis: how the features were chosen: the name of the basis.
        n_features: how many they are.
        exact_sd: (N,), the posterior's standard deviations.
        implied_sd: (N,), those of the paths.
        solve_error: (S,), of paths by an iterative solver: how far each is from that of
            an exact solve, the root mean square over the points, in standard deviations
            of the posterior. None by Cholesky.
    """

    wasserstein: float
    relative: float
    mean_error: float
    cov_error: float
    basis: str
    n_features: int
    exact_sd: Float[np.ndarray, " N"] = dataclasses.field(repr=False)
    implied_sd: Float[np.ndarray, " N"] = dataclasses.field(repr=False)
    solve_error: Float[np.ndarray, " S"] | None = dataclasses.field(
        default=None, repr=False
    )


def diagnose(
    paths: PathwiseFunction | PathwiseSampler | DecoupledPathwiseSampler,
    X: Real[ArrayLike, "N D"],
    *,
    key: PRNGKeyArray | None = None,
) -> Diagnosis:
    """Compare the distribution that paths have with the exact posterior, at `X`.

    Given its features, a path is Gaussian with a mean and a covariance that are known:
    those of phi(X) w plus the update, at the precision of the path. No draws are
    counted. They are held against the posterior of the same kernel and data, or the
    sparse predictive of the same guide, in float64.

    What is left after conditioning is the finest detail of a kernel, so the number to
    look at is `relative`: 0.01 is hard to see in any plot, 0.3 is a wrong band.

    Paths by an iterative solver are off by what their residuals leave, too. That is
    solved for by conjugate gradients, whatever the solver was, and reported apart; the
    moments are then those of such solves, in the type of the data.

    Args:
        paths: paths, whose own features are examined; or a sampler, for which they are
            drawn.
        X: test points, some hundred where the paths will be used.
        key: for the features of a sampler; that of seed 0 if it is left out.

    Raises:
        ValueError: points that do not fit or lie outside the paths' domain; a part of
            a path, or paths that are stacked.

    Cost: O((N + M)^3 + (N + M) M F) for M anchors and F features, O((N + M)^2) memory;
        some seconds for two thousand of both. By an iterative solver one solve for N
        and one for the paths, and no matrix of M^2.

    Source: the figure of Wilson et al. 2020 (arXiv 2002.09309, fig. 3).

    Example:
        >>> import jax.numpy as jnp
        >>> from pyrox.gp import RBF, GPPrior, PathwiseSampler, diagnose
        >>> X = jnp.array([[0.0], [1.0]])
        >>> posterior = GPPrior(RBF(), X).condition(jnp.array([1.0, -1.0]), 0.01)
        >>> sampler = PathwiseSampler(posterior, 256)
        >>> found = diagnose(sampler, jnp.linspace(0, 1, 9)[:, None])
        >>> found.basis, found.relative < 1e-2
        ('FourierGrid', True)
    """
    if isinstance(paths, PathwiseSampler | DecoupledPathwiseSampler):
        paths = paths.sample_paths(jr.key(0) if key is None else key)
    given, X = _checked(paths, X)
    if isinstance(given.inverse, IterativeInverse):
        implied, exact, errors = _by_solves(paths[:1], given, given.inverse, X)
        off = _root_mean_square(np.asarray(errors), _sd(np.asarray(exact[1])))
    else:
        one, given, informed = _of_observed(paths[:1], given)
        implied = _implied(one, given, X, informed)
        exact, off = _exact(one, given, X, informed), None
    implied, exact = (
        (np.asarray(mean, np.float64), np.asarray(cov, np.float64))
        for mean, cov in (implied, exact)
    )
    distance = wasserstein(*implied, *exact)
    exact_sd, implied_sd = (_sd(cov) for _, cov in (exact, implied))
    return Diagnosis(
        wasserstein=distance,
        relative=distance / float(np.linalg.norm(exact_sd)),
        mean_error=float(np.abs(implied[0] - exact[0]).max()),
        cov_error=float(np.abs(implied[1] - exact[1]).max()),
        basis=type(paths.basis).__name__,
        n_features=paths.feature_weights.shape[1],
        solve_error=off,
        exact_sd=exact_sd,
        implied_sd=implied_sd,
    )


def wasserstein(
    mean1: Float[np.ndarray, " N"],
    cov1: Float[np.ndarray, "N N"],
    mean2: Float[np.ndarray, " N"],
    cov2: Float[np.ndarray, "N N"],
) -> float:
    """The 2-Wasserstein distance of two Gaussians.

    The roots R1 and R2 of the covariances, turned to lie as near to each other as they
    can (Bhatia et al. 2019, arXiv 1712.01504), are as far apart as the Gaussians. So
    nothing cancels, and distances near rounding are right.

    Example:
        >>> import numpy as np
        >>> from pyrox.gp._paths.certificate import wasserstein
        >>> mean, cov = np.zeros(2), np.eye(2)
        >>> round(wasserstein(mean, cov, mean + 3, 4 * cov), 6)  # root of 18 + 2
        4.472136
    """
    root1, root2 = _root(cov1), _root(cov2)
    left, _, right = np.linalg.svd(root1.T @ root2)
    apart = np.linalg.norm(root1 @ left - root2 @ right.T)
    return float(np.hypot(apart, np.linalg.norm(mean1 - mean2)))


def _root(cov: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(cov)
    return vectors * np.sqrt(np.maximum(values, 0))[None, :]


def _sd(cov: np.ndarray) -> np.ndarray:
    return np.sqrt(np.maximum(np.diag(cov), 0))


def _checked(paths: Any, X: ArrayLike) -> tuple[AnchorValues, Array]:
    call = "diagnose(paths, X)"
    if not isinstance(paths, PathwiseFunction) or paths.feature_weights.ndim != 2:
        raise ValueError(
            f"`{call}` must be a PathwiseFunction that is not stacked, or a sampler. "
            f"Got a {type(paths).__name__}. Of `paths_over_draws` pass `paths[0]`."
        )
    if paths.given is None:
        raise ValueError(
            f"`{call}`: a part of a path has no posterior of its own to be compared "
            "with. Pass the whole path."
        )
    X = as_inputs(f"{call}", X, paths.anchors.shape[1])
    return paths.given, require_inside(X, call, paths.domain, OUTSIDE)


def _of_observed(
    path: PathwiseFunction, given: AnchorValues
) -> tuple[PathwiseFunction, AnchorValues, bool]:
    """`path` anchored at what was observed alone, and whether that is anything: a value
    that was not has infinite noise, and no weight in the path."""
    keep = np.isfinite(np.asarray(given.noise_var))
    if keep.all() or not keep.any():
        return path, given, bool(keep.all())
    n = path.anchors.shape[0]  # the derivatives behind them are all observed
    anchors, weights = path.anchors[keep[:n]], path.update_weights[:, keep]
    path = dataclasses.replace(path, anchors=anchors, update_weights=weights)
    return path, AnchorValues(given.mean[keep], given.noise_var[keep]), True


@functools.partial(jit, static_argnames="informed")
def _implied(
    path: PathwiseFunction, given: AnchorValues, X: Array, informed: bool
) -> tuple[Array, Array]:
    """Mean and covariance over the weights and the noise of a path."""
    X = X.astype(path.anchors.dtype)
    phi, mean = path.features(X), mean_at(path.mean_fn, X)
    if not informed:
        return mean, phi @ phi.T
    Z, sites, kernel = path.anchors, path.derivative_sites, path.kernel
    noise_var = jnp.broadcast_to(given.noise_var, given.mean.shape).astype(Z.dtype)
    root = factor(gram(kernel, Z, sites), noise_var)
    gain = root.solve(cross_gram(kernel, X, Z, sites).T).T
    left = phi - gain @ observe(path.features, Z, sites)
    noise = gain * jnp.sqrt(noise_var)[None, :]
    cov = left @ left.T + noise @ noise.T
    if given.root is not None:
        spread = gain @ given.root
        cov = cov + spread @ spread.T
    expected = observe(functools.partial(mean_at, path.mean_fn), Z, sites)
    return mean + gain @ (given.mean - expected), cov


def _exact(
    path: PathwiseFunction, given: AnchorValues, X: Array, informed: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The posterior's, in float64 and by NumPy."""
    mean_fn = functools.partial(mean_at, path.mean_fn)
    with jax.enable_x64(True):
        wide = functools.partial(jax.tree.map, _to_float64)
        Z, sites, X = wide((path.anchors, path.derivative_sites, X))
        K_xx = np.asarray(path.kernel(X, X))
        K_xz = np.asarray(cross_gram(path.kernel, X, Z, sites))
        K_zz = np.asarray(gram(path.kernel, Z, sites))
        mean_x, mean_z = np.asarray(mean_fn(X)), np.asarray(observe(mean_fn, Z, sites))
    if not informed:
        return mean_x, K_xx
    noise_var = np.broadcast_to(np.asarray(given.noise_var, np.float64), mean_z.shape)
    gain = np.linalg.solve(K_zz + np.diag(noise_var), K_xz.T).T
    cov = K_xx - gain @ K_xz.T
    if given.root is not None:
        spread = gain @ np.asarray(given.root, np.float64)
        cov = cov + spread @ spread.T
    residual = np.asarray(given.mean, np.float64) - mean_z
    return mean_x + gain @ residual, cov


# What is left of a residual in turn. A tenth would not do: of the directions that count
# for predictions some come last.
_JUDGE = ConjugateGradients(1e-2, progress=False)
_Moments: TypeAlias = tuple[Array, Array]


@jit
def _by_solves(
    path: PathwiseFunction, given: AnchorValues, inverse: IterativeInverse, X: Array
) -> tuple[_Moments, _Moments, Float[Array, "S M"]]:
    """Implied and exact moments by one set of solves, and what the paths' residuals
    leave at the points."""
    X, Z, kernel = X.astype(path.anchors.dtype), inverse.A.X, path.kernel
    seen = inverse.A.observed
    cross = only(seen, kernel(X, Z))
    judge = _JUDGE.prepare(inverse.A, inverse.prior_variances)
    gain = judge.solve(cross.T).T
    noise_var = jnp.broadcast_to(given.noise_var, given.mean.shape).astype(Z.dtype)
    if seen is not None:
        noise_var = jnp.where(seen, noise_var, 0)
    left = path.features(X) - gain @ path.features(Z)
    noise = gain * jnp.sqrt(noise_var)[None, :]
    residual = only(seen, given.mean - mean_at(path.mean_fn, Z))
    mean = mean_at(path.mean_fn, X) + gain @ residual
    implied = mean, left @ left.T + noise @ noise.T
    assert given.convergence is not None
    missing = judge.solve(given.convergence.remainder)
    return implied, (mean, kernel(X, X) - gain @ cross.T), (cross @ missing).T


def _root_mean_square(
    errors: Float[np.ndarray, "S M"], sd: Float[np.ndarray, " M"]
) -> Float[np.ndarray, " S"]:
    """Of each path, in deviations, at points that have one."""
    some = sd > 0
    return np.sqrt(np.mean((errors[:, some] / sd[some]) ** 2, axis=1))


def _to_float64(leaf: Array) -> Array:
    return jnp.asarray(np.asarray(leaf, np.float64))
