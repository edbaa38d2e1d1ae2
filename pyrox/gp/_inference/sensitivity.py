"""How a posterior expectation changes with the data, from draws of the posterior.

With F(eta) = E[f(theta, eta)] over theta ~ p(theta | eta), eta the data:

    dF/deta = E[df/deta] + Cov[f, s],   s = dlog p(y, theta | eta)/deta,

since the draws themselves move with the data. Autodiff through draws that are held
fixed gives the first term only.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from .._hyper.checks import as_count, as_float, is_traced, require_ok
from .._numerics.closure import Closure, one_of, read
from .log_joint import ModelLogJoint

_FEWEST_DRAWS = 20
# With 49 degrees of freedom Student's t is close to a normal. More batches would be
# shorter, and so more correlated with each other.
_MOST_BATCHES = 50


class Sensitivity(eqx.Module):
    """A posterior expectation and its gradient in the data.

    Standard errors are those of Monte Carlo, by batch means: S draws are cut into
    sqrt(S), at most 50, batches of consecutive ones. So they hold for the correlated
    draws of a chain much longer than its correlation. Source: Flegal & Jones 2010
    (Annals of Statistics 38).

    Attributes:
        value: F, the mean of the functional over the draws.
        value_error: its standard error.
        gradient: dF/deta, with the structure of eta; None where that has no float.
        standard_error: of each entry of `gradient`.
        explicit: the mean of df/deta alone, what autodiff through fixed draws gives.
        n_draws: S.
    """

    value: Float[Array, ""]
    value_error: Float[Array, ""]
    gradient: Any
    standard_error: Any
    explicit: Any
    n_draws: int = eqx.field(static=True)


def sensitivity(
    functional: Callable[[dict[str, Array], Any], Any],
    log_joint: Callable[[dict[str, Array], Any], Any],
    draws: Mapping[str, ArrayLike],
    eta: Any,
    batch_size: int = 16,
) -> Sensitivity:
    """The gradient of a posterior expectation in the data, with standard errors.

    Values in the draws that were computed from eta, as a deterministic site may be,
    count as fixed: use `model_log_joint`, or compute them anew in both functions.

    Args:
        functional: f(theta, eta), theta a dict of one draw; differentiable in eta.
        log_joint: log p(y, theta | eta) up to terms without eta. The support of theta
            may not depend on eta. For a NumPyro model: `model_log_joint(model)`.
        draws: what `mcmc.get_samples()` returns: arrays with one leading axis of at
            least 20 draws, in their order, chains one after the other.
        eta: the data, a pytree; what is no float in it is held constant.
        batch_size: how many draws are worked on at once.

    Raises:
        ValueError: too few draws, leading axes that differ, an eta without floats, a
            function that gives no scalar, or NaN or inf at a draw.

    Cost: both functions and their gradients once a draw; memory of `batch_size` of
    those and of 150 times eta, however many draws. Functions defined once are compiled
    once while what they read stays the same, so pass data that change as eta.

    Source: Giordano, Broderick & Jordan 2018 (JMLR 19:51), theorem 1.

    Example: mu ~ N(0, 1), y ~ N(mu, 1) and f = y mu have F = y^2 / 2, so dF/dy = 1 at
    y = 1. Half of it comes from the draws, which plain autodiff holds fixed.

        >>> import jax
        >>> from pyrox.gp import sensitivity
        >>> noise = jax.random.normal(jax.random.key(0), (4000,))
        >>> draws = {"mu": 0.5 + 0.5**0.5 * noise}  # the posterior at y = 1
        >>> def log_joint(theta, y):
        ...     return -0.5 * theta["mu"] ** 2 - 0.5 * (y - theta["mu"]) ** 2
        >>> found = sensitivity(lambda theta, y: y * theta["mu"], log_joint, draws, 1.0)
        >>> print(f"{found.explicit:.1f} without, {found.gradient:.1f} with the score")
        0.5 without, 1.0 with the score
    """
    batch_size = as_count("sensitivity(batch_size=...)", batch_size)
    arrays = {name: jnp.asarray(values) for name, values in draws.items()}
    _check_draws(arrays)
    floats, constants = eqx.partition(eta, _is_float)
    floats = jax.tree.map(as_float, floats)
    if not jax.tree.leaves(floats):
        raise ValueError(
            "`sensitivity(eta=...)` must hold floats to differentiate by. Got "
            f"{eta!r}. Pass integers as floats: `jnp.asarray(y, float)`."
        )
    if isinstance(log_joint, ModelLogJoint):
        functional = _with_sites(functional, log_joint)

    def as_read(name, function):
        def value(theta, floats):
            return _scalar(name, function(theta, eqx.combine(floats, constants)))

        return read(f"sensitivity({name}=...)", value, one_of(arrays), floats)

    functions = as_read("functional", functional), as_read("log_joint", log_joint)
    return _require_finite(*_estimate(*functions, arrays, floats, batch_size))


def _with_sites(functional: Callable, joint: ModelLogJoint) -> Callable:
    """`functional` of draws whose deterministic sites are computed anew."""
    return lambda theta, eta: functional(joint.sites(theta, eta), eta)


def _is_float(leaf: Any) -> bool:
    dtype = getattr(leaf, "dtype", None)
    return isinstance(leaf, float) or (
        dtype is not None and jnp.issubdtype(dtype, jnp.floating)
    )


def _check_draws(draws: Mapping[str, Array]) -> None:
    shapes = {name: values.shape for name, values in draws.items()}
    counts = {shape[:1] for shape in shapes.values()}
    if len(counts) != 1 or counts == {()}:
        raise ValueError(
            "`sensitivity(draws=...)` must be arrays with one leading axis of draws. "
            f"Got {shapes}. Pass `mcmc.get_samples()`."
        )
    n_draws = counts.pop()[0]
    if n_draws < _FEWEST_DRAWS:
        raise ValueError(
            f"`sensitivity(draws=...)` must hold at least {_FEWEST_DRAWS} draws: a "
            "covariance needs two, and its standard error several batches of draws. "
            f"Got {n_draws}. Draw some hundreds."
        )


def _require_finite(found: Sensitivity, bad: Array) -> Sensitivity:
    """`found`, unless one of the functions gave NaN or inf at a draw; `bad` has the
    first such draw of each, the number of draws if there is none."""
    for i, name in enumerate(("functional", "log_joint")):
        sentence = (
            f"`sensitivity({name}=...)`: its value and its derivative in eta must be "
            "finite at every draw."
        )
        fix = "Evaluate it there; in float32, try eta and draws in float64."
        if is_traced(bad):
            ok = bad[i] >= found.n_draws
            found = require_ok(found, ok, f"{sentence} {fix}")
        elif (first := int(bad[i])) < found.n_draws:
            raise ValueError(f"{sentence} Got NaN or inf at draw {first}. {fix}")
    return found


class _Terms(NamedTuple):
    """What the functions say at one draw, and whether it is finite."""

    f: Array
    explicit: Any
    score: Any
    ok: Array


class _Sums(NamedTuple):
    """Sums over draws; f and the score are measured from those of the first draw, so
    that the covariance does not cancel."""

    f: Array
    explicit: Any
    score: Any
    product: Any


@functools.partial(jax.jit, static_argnames="batch_size")
def _estimate(
    functional: Closure, log_joint: Closure, draws: Any, floats: Any, batch_size: int
) -> tuple[Sensitivity, Array]:
    def differentiated(function, theta):
        value, gradient = jax.value_and_grad(function, 1)(theta, floats)
        finite = [jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(gradient)]
        return value, gradient, jnp.all(jnp.stack([jnp.isfinite(value), *finite]))

    def terms(theta):
        f, explicit, f_ok = differentiated(functional, theta)
        _, score, joint_ok = differentiated(log_joint, theta)
        return _Terms(f, explicit, score, jnp.stack([f_ok, joint_ok]))

    n_draws = jax.tree.leaves(draws)[0].shape[0]
    n_batches = min(_MOST_BATCHES, math.isqrt(n_draws))
    bounds = np.arange(n_batches + 1) * n_draws // n_batches
    first, sums, bad = _sum_batches(terms, draws, bounds, batch_size)
    return _estimates(first, sums, np.diff(bounds)), bad


def _scalar(name: str, value: Any) -> Array:
    if not eqx.is_array_like(value) or jnp.shape(value) != ():
        got = f"shape {jnp.shape(value)}" if eqx.is_array_like(value) else repr(value)
        raise ValueError(
            f"`sensitivity({name}=...)` must return a scalar. Got {got}. Sum over "
            "data, or pick one entry; a NumPyro model goes in by `model_log_joint`."
        )
    return as_float(value)


def _sum_batches(
    terms: Callable[[Any], _Terms], draws: Any, bounds: np.ndarray, size: int
) -> tuple[_Terms, _Sums, Array]:
    """One pass over the draws: the terms of the first of them, the sums of each batch,
    and the first draw that each function fails at."""
    longest = int(np.diff(bounds).max())
    n_chunks = -(-longest // size)
    size = -(-longest // n_chunks)  # equal chunks; batches differ by at most one draw
    offsets = jnp.arange(n_chunks * size, dtype=jnp.int32).reshape(n_chunks, size)
    n_draws = jnp.int32(bounds[-1])

    def chunk(bounds, carry, offsets):
        (start, end), (first, sums, bad) = bounds, carry
        inside = start + offsets < end
        rows = jnp.minimum(start + offsets, end - 1)
        here = jax.vmap(terms)(jax.tree.map(lambda leaf: leaf[rows], draws))
        first = jax.tree.map(lambda a, b: jnp.where(rows[0] == 0, a[0], b), here, first)
        new = jax.vmap(_contribution, in_axes=(0, 0, None))(here, inside, first)
        sums = jax.tree.map(lambda total, x: total + jnp.sum(x, axis=0), sums, new)
        failed = jnp.where(here.ok, n_draws, rows[:, None])
        return (first, sums, jnp.minimum(bad, jnp.min(failed, axis=0))), None

    def batch(carry, bounds):
        first, bad = carry
        step = functools.partial(chunk, bounds)
        (first, sums, bad), _ = jax.lax.scan(step, (first, empty, bad), offsets)
        return (first, bad), sums

    shapes = jax.eval_shape(terms, jax.tree.map(lambda leaf: leaf[0], draws))
    first = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    empty = _Sums(first.f, first.explicit, first.score, first.score)
    edges = jnp.asarray(bounds, jnp.int32)
    carry = first, jnp.full((2,), n_draws)
    (first, bad), sums = jax.lax.scan(batch, carry, (edges[:-1], edges[1:]))
    return first, sums, bad


def _contribution(one: _Terms, inside: Array, first: _Terms) -> _Sums:
    """What one draw adds to the sums; nothing if it is not `inside` the batch."""
    f = one.f - first.f
    score = jax.tree.map(jnp.subtract, one.score, first.score)
    product = jax.tree.map(lambda s: f.astype(s.dtype) * s, score)
    sums = _Sums(f, one.explicit, score, product)
    return jax.tree.map(lambda x: jnp.where(inside, x, 0), sums)


def _estimates(first: _Terms, sums: _Sums, sizes: np.ndarray) -> Sensitivity:
    """What is reported, from the sums over batches of these sizes."""
    f, counts = sums.f, jnp.asarray(sizes, sums.f.dtype)

    def of_leaf(*sums):
        dtype, shape = sums[0].dtype, sums[0].shape
        entry = functools.partial(
            _gradient, f=f.astype(dtype), counts=counts.astype(dtype)
        )
        flat = (x.reshape(shape[0], -1) for x in sums)
        found = jax.vmap(entry, in_axes=1)(*flat)
        return tuple(x.reshape(shape[1:]) for x in found)

    leaves = jax.tree.map(of_leaf, sums.explicit, sums.score, sums.product)
    outer, inner = jax.tree.structure(first.score), jax.tree.structure((0, 0, 0))
    gradient, error, explicit = jax.tree.transpose(outer, inner, leaves)
    value = first.f + jnp.sum(f) / jnp.sum(counts)
    value_error = _standard_error(f, counts)
    n_draws = int(sizes.sum())
    return Sensitivity(value, value_error, gradient, error, explicit, n_draws)


def _gradient(
    explicit: Array, score: Array, product: Array, f: Array, counts: Array
) -> tuple[Array, Array, Array]:
    """One entry of dF/deta, its standard error, and its first term."""
    n_draws = jnp.sum(counts)
    f_mean, score_mean = jnp.sum(f) / n_draws, jnp.sum(score) / n_draws
    # Sums of (f - mean f) (s - mean s) over each batch.
    covariance = (
        product - f_mean * score - score_mean * f + counts * f_mean * score_mean
    )
    first = jnp.sum(explicit) / n_draws
    # S - 1 makes it unbiased for independent draws. For those of a chain a bias stays
    # of the covariance over the effective number of draws, far below the error.
    gradient = first + jnp.sum(covariance) / (n_draws - 1)
    return gradient, _standard_error(explicit + covariance, counts), first


def _standard_error(sums: Array, counts: Array) -> Array:
    """Of a mean, by batch means: the variance between batches, each weighted by its
    length, over the number of draws."""
    n_draws = jnp.sum(counts)
    gaps = sums / counts - jnp.sum(sums) / n_draws
    between = jnp.sum(counts * gaps**2) / (counts.shape[0] - 1)
    return jnp.sqrt(between / n_draws)
