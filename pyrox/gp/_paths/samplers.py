"""Matheron's rule: samplers that turn a Gaussian process into callable draws."""

import dataclasses
import functools
from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, ArrayLike, Bool, Float, PRNGKeyArray, Real

from .._features.basis import AbstractBasis
from .._features.by_name import as_basis
from .._features.maps import (
    AbstractFeatures,
    FourierFeatures,
    combine,
    count_columns,
    move_origin,
)
from .._hyper.checks import as_count, is_traced, require_inside, require_ok
from .._hyper.parameters import require_valid
from .._hyper.unchecked import jit, one_step
from .._numerics.blocks import block_rows, map_rows
from .._posterior.derivatives import (
    DerivativeSites,
    observe,
    sites_of,
    with_derivatives,
)
from .._posterior.exact import ConditionedGP, GPPrior
from .._posterior.guide import AbstractGuide, as_guide
from .._posterior.jitter import no_factor
from .._posterior.mean import mean_at
from .._posterior.missing import in_use, only, with_sites
from .._posterior.process import resolved
from .._posterior.sparse import Inducing, SparseGPPrior
from .._solvers.convergence import Convergence, warn_if_not_converged
from .._solvers.inverse import AbstractInverse
from .finite import as_finite, holds_numbers
from .given import AnchorValues
from .path import PathwiseFunction


class PathwiseSampler(eqx.Module):
    """Draws functions from an exact posterior, or from a prior without data.

        f|y (.) = mean(.) + phi(.) w + k(., X) A^-1 (y - mean(X) - phi(X) w - e)

    with A = K + (jitter + noise) I, w ~ N(0, I), e ~ N(0, jitter + noise): a draw from
    the prior in random features, corrected at the data (Wilson et al. 2020, arXiv
    2002.09309, eq. 10). The mean over paths is exact; their covariance differs from the
    posterior's by the features' error, which falls with `n_features` and which
    `diagnose` states.

    All paths of one call share one set of frequencies, which makes many paths cheap:
    averages over them tend to the approximate kernel, not to the exact one, however
    many there are. Independent sets are a `jax.vmap` over keys away.

    Args:
        posterior: what `GPPrior.condition` returned, or a `GPPrior` for prior draws.
        n_features: F, the number of feature columns, even: F/2 frequencies, each with
            its sine and its cosine.
        basis: how features are chosen: `"grid"`, `"sobol"`, `"iid"`, `"orthogonal"`, or
            an object of theirs. The default is the most accurate one: a `FourierGrid`
            around the data for the terms that it is for, `Sobol` for the others.

    Raises:
        ValueError: an odd or too small `n_features`; a kernel without features; a
            basis that does not exist; a stated domain that does not hold the data.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from pyrox.gp import RBF, GPPrior, PathwiseSampler
        >>> X = jnp.array([[0.0], [1.0]])
        >>> posterior = GPPrior(RBF(), X).condition(jnp.array([1.0, -1.0]), 0.01)
        >>> paths = PathwiseSampler(posterior, 256).sample_paths(jax.random.key(0), 8)
        >>> paths(jnp.linspace(0, 1, 50)[:, None]).shape
        (8, 50)
    """

    posterior: ConditionedGP | GPPrior
    n_features: int = eqx.field(static=True)
    basis: AbstractBasis

    def __init__(
        self,
        posterior: ConditionedGP | GPPrior,
        n_features: int = 1024,
        basis: AbstractBasis | str = "grid",
    ):
        if not isinstance(posterior, ConditionedGP | GPPrior):
            raise ValueError(
                "`PathwiseSampler(posterior)` must be what `GPPrior.condition` "
                f"returned, or a GPPrior. Got a {type(posterior).__name__}. For a "
                "sparse prior use `DecoupledPathwiseSampler(prior, guide)`."
            )
        self.posterior = posterior
        self.n_features = _as_features("PathwiseSampler", n_features)
        self.basis = as_basis("PathwiseSampler(basis=...)", basis)

    def sample_paths(self, key: PRNGKeyArray, n_paths: int = 1) -> PathwiseFunction:
        """`n_paths` functions.

        Cost: O(S (N^2 + F N)) operations, after the factor of `condition`; memory of
        the result and of one block of features.
        """
        n_paths = as_count("sample_paths(n_paths=...)", n_paths)
        posterior = self.posterior
        if isinstance(posterior, GPPrior):  # a posterior is resolved already
            posterior = resolved(posterior, posterior.X)
        paths = _paths(key, posterior, self.basis, self.n_features, n_paths)
        warn_if_not_converged("PathwiseSampler.sample_paths", paths.convergence, 4)
        return paths

    def __call__(
        self, key: PRNGKeyArray, X: Real[ArrayLike, "N D"], n_paths: int = 1
    ) -> Float[Array, "S N"]:
        """The values at `X` of `n_paths` new functions."""
        return self.sample_paths(key, n_paths)(X)


class DecoupledPathwiseSampler(eqx.Module):
    """Draws functions from a sparse posterior: a guide q(u) at inducing inputs.

        f|u (.) = mean(.) + phi(.) w + k(., Z) A^-1 (u - mean(Z) - phi(Z) w - e)

    with A = K_ZZ + jitter I, u ~ q(u), e ~ N(0, jitter): the same rule as in
    `PathwiseSampler`, anchored at Z (Wilson et al. 2020, eq. 13).

    Args:
        prior: the process and its inducing inputs Z.
        guide: q(u), trained or set by hand.
        n_features: F, the number of feature columns, even.
        basis: how features are chosen: `"grid"`, `"sobol"`, `"iid"`, `"orthogonal"`, or
            an object of theirs. The default is the most accurate one: a `FourierGrid`
            around the data for the terms that it is for, `Sobol` for the others.

    Raises:
        ValueError: a guide of another size than Z; an odd or too small `n_features`; a
            kernel without features; a basis that does not exist; a stated domain that
            does not hold Z.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from pyrox.gp import (
        ...     RBF, DecoupledPathwiseSampler, FullRankGuide, SparseGPPrior
        ... )
        >>> prior = SparseGPPrior(RBF(), Z=jnp.linspace(0, 1, 4)[:, None])
        >>> sampler = DecoupledPathwiseSampler(prior, FullRankGuide.init(4), 256)
        >>> sampler.sample_paths(jax.random.key(0), 8)(jnp.zeros((3, 1))).shape
        (8, 3)
    """

    prior: SparseGPPrior
    guide: AbstractGuide
    n_features: int = eqx.field(static=True)
    basis: AbstractBasis

    def __init__(
        self,
        prior: SparseGPPrior,
        guide: AbstractGuide,
        n_features: int = 1024,
        basis: AbstractBasis | str = "grid",
    ):
        if not isinstance(prior, SparseGPPrior):
            raise ValueError(
                "`DecoupledPathwiseSampler(prior)` must be a SparseGPPrior. Got a "
                f"{type(prior).__name__}. For an exact posterior use "
                "`PathwiseSampler(posterior)`."
            )
        as_guide("DecoupledPathwiseSampler(guide)", guide, prior)
        self.prior = prior
        self.guide = guide
        self.n_features = _as_features("DecoupledPathwiseSampler", n_features)
        self.basis = as_basis("DecoupledPathwiseSampler(basis=...)", basis)

    def sample_paths(self, key: PRNGKeyArray, n_paths: int = 1) -> PathwiseFunction:
        """`n_paths` functions.

        Cost: O(M^3 + S (M^2 + F M)) operations for M inducing inputs.
        """
        n_paths = as_count("sample_paths(n_paths=...)", n_paths)
        prior = resolved(self.prior, self.prior.Z)
        Z = _in_domain("DecoupledPathwiseSampler", prior.Z, self.basis)
        Z = require_valid("DecoupledPathwiseSampler", (prior, self.guide), Z)
        prior = eqx.tree_at(lambda p: p.Z, prior, Z)
        sizes = self.n_features, n_paths
        paths, ok, finite = _draw_sparse(key, prior, self.guide, self.basis, *sizes)
        sentence = no_factor("DecoupledPathwiseSampler", prior.jitter, Z)
        weights = require_ok(paths.update_weights, ok, sentence)
        paths = eqx.tree_at(lambda p: p.update_weights, paths, weights)
        return as_finite("DecoupledPathwiseSampler", paths, finite)

    def __call__(
        self, key: PRNGKeyArray, X: Real[ArrayLike, "N D"], n_paths: int = 1
    ) -> Float[Array, "S N"]:
        """The values at `X` of `n_paths` new functions."""
        return self.sample_paths(key, n_paths)(X)


def _as_features(call: str, n_features: int) -> int:
    return as_count(f"{call}(n_features=...)", n_features, 2, even=True)


def matheron(
    key: PRNGKeyArray,
    prior: GPPrior | SparseGPPrior,
    anchors: Float[Array, "M D"],
    given: AnchorValues,
    values: Float[Array, "S U"],
    solve: Callable[[Array], tuple[Array, Convergence | None]],
    basis: AbstractBasis,
    n_features: int,
    sites: DerivativeSites | None = None,
) -> PathwiseFunction:
    """S functions of `prior` that take the noisy `values`, draws of what is `given`, at
    the `anchors`, and as derivatives at the sites.

    `solve` applies the inverse of K + noise_var I, and says how near it came. The
    residual draw carries the whole of that diagonal, jitter included, so the paths have
    the covariance that the conditioned process reports.
    """
    key_features, key_normal = jr.split(key)
    dtype, (n_paths, n_values) = anchors.dtype, values.shape
    points = anchors if sites is None else jnp.concatenate([anchors, sites.X])
    basis = basis.on(prior.kernel, points)
    phi = basis.features(key_features, prior.kernel, n_features, anchors.shape[1])
    phi = move_origin(phi, jnp.mean(anchors, axis=0))
    # One draw for both, and flat: compiling a generator takes longer than running it,
    # and one of two axes takes half as long again, for the same numbers.
    n_columns = count_columns(phi, anchors.shape[1])
    n_normal = n_columns + n_values
    normal = jr.normal(key_normal, (n_paths * n_normal,), dtype)
    normal = normal.reshape(n_paths, n_normal)
    weights, noise = normal[:, :n_columns], normal[:, n_columns:]
    scale = jnp.broadcast_to(jnp.sqrt(given.noise_var), (n_values,)).astype(dtype)
    size = block_rows("sample_paths", None, n_columns, dtype)
    drawn = observe(_prior_draw(prior.mean_fn, phi, weights, size), anchors, sites).T
    columns, convergence = solve((values - drawn - scale[None, :] * noise).T)
    parts = phi, weights, anchors, columns.T, prior.kernel, prior.mean_fn
    given = given.seeded(key).numbered(n_paths)
    given = dataclasses.replace(given, convergence=convergence)
    return PathwiseFunction(*parts, given, basis, derivative_sites=sites)


def _prior_draw(
    mean_fn: Callable,
    phi: AbstractFeatures,
    weights: Float[Array, "S F"],
    block_size: int,
) -> Callable[[Array], Array]:
    """The functions mean + phi w, (N, D) -> (N, S), in blocks of rows that stay in
    cache. (The features of 2000 points side by side take four times as long in float64,
    and N F numbers of memory.)"""

    def values(X):
        waves = map_rows(lambda rows: combine(phi, weights, rows), X, block_size)
        return (mean_at(mean_fn, X)[None, :] + waves).T

    return values


@functools.partial(one_step, static_argnames=("n_features", "n_paths"))
def _paths(
    key: PRNGKeyArray,
    process: ConditionedGP | GPPrior,
    basis: AbstractBasis,
    n_features: int,
    n_paths: int,
) -> PathwiseFunction:
    """The paths, with the checks that they need."""
    call, sizes = "PathwiseSampler", (n_features, n_paths)
    X = process.X
    if isinstance(process, ConditionedGP):  # the anchors, and a domain around them
        X = in_use(X, process.observed)
    X = _in_domain(call, X, basis)
    if isinstance(process, GPPrior):
        X = require_valid(call, process.kernel, X)
        prior = eqx.tree_at(lambda p: p.X, process, X)
        return as_finite(call, *_draw_prior(key, prior, basis, *sizes))
    posterior = eqx.tree_at(lambda p: p.prior.X, process, X)
    if posterior.derivatives is not None:
        where = _in_domain(call, posterior.derivatives.sites.X, basis)
        posterior = eqx.tree_at(lambda p: p.derivatives.sites.X, posterior, where)
    paths = _draw_exact(key, posterior, basis, *sizes)
    paths = as_finite(call, paths, holds_numbers(paths))
    return with_inverse(paths, posterior.inverse)


def with_inverse(paths: PathwiseFunction, inverse: AbstractInverse) -> PathwiseFunction:
    """The paths with the posterior's inverse, to be told more with: a reference, which
    takes nothing. Where something is traced it would be a copy for each key."""
    if paths.given is None or is_traced(paths.update_weights):
        return paths
    given = dataclasses.replace(paths.given, inverse=inverse)
    return dataclasses.replace(paths, given=given)


_static = functools.partial(jit, static_argnames=("n_features", "n_paths"))


def draw_exact(
    key: PRNGKeyArray,
    posterior: ConditionedGP,
    basis: AbstractBasis,
    n_features: int,
    n_paths: int,
    solve: Callable[[Array], tuple[Array, Convergence | None]] | None = None,
) -> PathwiseFunction:
    """Paths of a posterior whose X are `in_use`, nothing checked, by its inverse or
    another way to apply that."""
    prior, derivatives = posterior.prior, posterior.derivatives
    data = with_derivatives(posterior.y, posterior.noise_var, derivatives)
    noise_var, jitter_var = posterior.jitter_var + data[1], posterior.jitter_var
    # Values are first, and what was not observed has none.
    own_jitter = jnp.max(jitter_var.reshape(-1)[: posterior.y.shape[0]])
    sites, solve = sites_of(derivatives), solve or posterior.inverse.solve_and_report
    seen = with_sites(posterior.observed, sites)
    if seen is not None:
        noise_var = jnp.where(seen, noise_var, jnp.inf)
        solve = functools.partial(_solve_of_observed, solve, seen)
    given = AnchorValues(data[0], noise_var, jitter_var=own_jitter)
    values = jnp.broadcast_to(given.mean[None, :], (n_paths, given.mean.shape[0]))
    sizes = basis, n_features, sites
    return matheron(key, prior, prior.X, given, values, solve, *sizes)


_draw_exact = _static(draw_exact)


def _solve_of_observed(
    solve: Callable, seen: Bool[Array, " U"], B: Float[Array, "U S"]
) -> tuple[Float[Array, "U S"], Convergence | None]:
    """Weights that are zero where nothing was observed, whose noise is infinite."""
    return solve(only(seen, B.T).T)


@_static
def _draw_prior(
    key: PRNGKeyArray,
    prior: GPPrior,
    basis: AbstractBasis,
    n_features: int,
    n_paths: int,
) -> tuple[PathwiseFunction, Array]:
    # No data, no update: zero weights. They stay anchored at the inputs, so that the
    # path has the shape of a conditioned one.
    X = prior.X

    def solve(B):
        return jnp.zeros_like(B), None

    values = jnp.zeros((n_paths, X.shape[0]), X.dtype)
    no_data = jnp.full((), jnp.inf, X.dtype)
    given = AnchorValues(values[0], no_data, jitter=prior.jitter)
    paths = matheron(key, prior, X, given, values, solve, basis, n_features)
    ok = holds_numbers(paths)
    if not isinstance(paths.features, FourierFeatures):
        # Without an update nothing was evaluated: one point tells of a map unknown.
        drawn = combine(paths.features, paths.feature_weights, X[:1])
        ok = ok & jnp.all(jnp.isfinite(drawn))
    return paths, ok


@_static
def _draw_sparse(
    key: PRNGKeyArray,
    prior: SparseGPPrior,
    guide: AbstractGuide,
    basis: AbstractBasis,
    n_features: int,
    n_paths: int,
) -> tuple[PathwiseFunction, Array, Array]:
    key_values, key_path = jr.split(key)
    inducing, Z = prior.inducing(), prior.Z
    given = _given(guide, inducing)
    values = guide.draw(key_values, inducing, n_paths)
    solve = inducing.factor.solve_and_report
    paths = matheron(key_path, prior, Z, given, values, solve, basis, n_features)
    return paths, inducing.factor.succeeded(), holds_numbers(paths)


def _given(guide: AbstractGuide, inducing: Inducing) -> AnchorValues:
    mean, root = guide.whitened(inducing)
    lower = inducing.factor.lower
    values = inducing.mean + lower @ mean
    jitter_var = inducing.jitter_var
    return AnchorValues(values, jitter_var, lower @ root, jitter_var)


def _in_domain(call: str, X: Float[Array, "M D"], basis: AbstractBasis) -> Array:
    """`X`, checked to lie where a basis of stated domain is right."""
    call = f"{call}(basis=...)"
    domain = basis.domain_in(call, X.shape[1])
    sentence = "State a domain with all data and all points of interest in it."
    return require_inside(X, f"{call}: the data", domain, sentence)
