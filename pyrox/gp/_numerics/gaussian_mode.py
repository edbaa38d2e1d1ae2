"""The mode of a normal density times a function of each entry alone:

    log p(y | f) + log N(f; mean, K),   log p(y | f) = sum of l_i(f_i)

by Newton's method, in the form that needs no inverse of K (Rasmussen & Williams 2006,
section 3.4, algorithm 3.1), and its derivative by all that it depends on.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.scipy.linalg as jsl
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from .lapack import cholesky, looped_on_cpu, solve_lower, solve_upper
from .lbfgs import rounding_of

# Of what the slope promises a step must bring this part (Nocedal & Wright 2006, eq.
# 3.4); it is halved until it does, this often at most.
_DECREASE = 1e-4
_MOST_HALVINGS = 40

# Accelerators round what goes into a product to half the digits unless told not to, and
# then f is not mean + K a.
_product = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)

LogDensities = Callable[[Float[Array, " N"]], Float[Array, " N"]]


class Mode(NamedTuple):
    """Where a search ended.

    `size` is that of the last Newton step, in the root mean square over the entries,
    each direction in its own deviation of the normal density that fits at the mode: how
    far from the mode the step set out. It ended the square of that away.
    """

    f: Float[Array, " N"]
    size: Float[Array, ""]
    n_steps: Int[Array, ""]
    stuck: Bool[Array, ""]


def slopes(log_densities: LogDensities, f: Float[Array, " N"]) -> Float[Array, " N"]:
    """The derivative of each l_i."""
    return jax.grad(lambda f: jnp.sum(log_densities(_off_zero(f))))(f)


def curvatures(
    log_densities: LogDensities, f: Float[Array, " N"], K: Float[Array, "N N"]
) -> Float[Array, " N"]:
    """W, the negative second derivative of each l_i, cut off below.

    Where it is negative, as in the tails of a Student-t, or next to nothing, it is that
    of a normal density so wide that rounding hides it beside K: so the determinant and
    the inverse of K^-1 + W exist, and the datum adds nothing to what is known.
    """
    least = jnp.finfo(K.dtype).eps / jnp.mean(jnp.diagonal(K))
    return jnp.maximum(exact_curvatures(log_densities, f), jax.lax.stop_gradient(least))


def exact_curvatures(
    log_densities: LogDensities, f: Float[Array, " N"]
) -> Float[Array, " N"]:
    def of(f):
        return slopes(log_densities, f)

    return -jax.jvp(of, (f,), (jnp.ones_like(f),))[1]


def _off_zero(f: Float[Array, " N"]) -> Float[Array, " N"]:
    # Log densities of classes are written with |f|, whose second derivative at zero
    # itself comes out as none at all; next to it it is right.
    return f + jax.lax.stop_gradient(jnp.where(f == 0, 1e-20, 0).astype(f.dtype))


def mixes(log_densities: LogDensities, f: Float[Array, " N"]) -> Bool[Array, ""]:
    """Whether some l_i depends on an entry other than f_i: what is computed from
    second derivatives of each alone would be wrong."""
    moved = np.random.default_rng(0).integers(0, 2, f.shape[0]).astype(bool)
    moved[:1] = False
    _, change = jax.jvp(log_densities, (f,), (jnp.asarray(moved, f.dtype),))
    return jnp.any(~jnp.asarray(moved) & (change != 0))


def symmetric_form(
    K: Float[Array, "N N"], W: Float[Array, " N"]
) -> tuple[Float[Array, " N"], Float[Array, "N N"]]:
    """The root of W, and the Cholesky factor of I + W^1/2 K W^1/2, whose eigenvalues
    are at least one."""
    root = jnp.sqrt(W)
    B = root[:, None] * K * root[None, :]
    return root, cholesky(B + jnp.eye(W.shape[0], dtype=K.dtype))


class _State(NamedTuple):
    """`a` is K^-1 (f - mean)."""

    a: Float[Array, " N"]
    f: Float[Array, " N"]
    value: Float[Array, ""]
    size: Float[Array, ""]
    n_steps: Int[Array, ""]
    stuck: Bool[Array, ""]


def find_mode(
    log_densities: LogDensities,
    K: Float[Array, "N N"],
    mean: Float[Array, " N"],
    tolerance: Float[Array, ""],
    most_steps: Int[Array, ""],
) -> Mode:
    """Newton's steps from the mean, the last one from within `tolerance` of the mode.

    A step that does not increase the density enough is halved until it does; the
    direction is one of increase whatever the l_i, since their curvature is cut off.

    Cost: N^3 / 3 operations a step.
    """

    def density(a, f):
        return jnp.sum(log_densities(f)) - 0.5 * a @ (f - mean)

    def unfinished(s: _State) -> Array:
        return ~s.stuck & (s.n_steps < most_steps) & ~(s.size <= tolerance)

    def step(s: _State) -> _State:
        g, W = slopes(log_densities, s.f), curvatures(log_densities, s.f, K)
        root, lower = symmetric_form(K, W)
        # (I + W K)^-1 of the gradient: the algorithm's new `a` less the old, without
        # the difference, in which float32 has too few digits.
        gradient = g - s.a
        halved = solve_lower(lower, (root * _product(K, gradient))[:, None])
        direction = gradient - root * solve_upper(lower, halved)[:, 0]
        move = _product(K, direction)
        slope = gradient @ move
        length, found = _step_length(density, s, direction, move, slope)
        a = s.a + jnp.where(found, length, 0) * direction
        f = mean + _product(K, a)
        # In the metric K^-1 + W. In exact numbers the slope is its square, but that is
        # a difference, and next to nothing where all digits are lost.
        square = jnp.maximum(direction @ move, 0) + jnp.sum(W * move**2)
        size = jnp.where(found, jnp.sqrt(square / f.shape[0]), jnp.inf)
        return _State(a, f, density(a, f), size, s.n_steps + 1, ~found)

    zeros, infinite = jnp.zeros_like(mean), jnp.full((), jnp.inf, mean.dtype)
    count, stuck = jnp.zeros((), jnp.int32), jnp.asarray(False)
    start = _State(zeros, mean, density(zeros, mean), infinite, count, stuck)
    end = jax.lax.while_loop(unfinished, step, start)
    return Mode(end.f, end.size, end.n_steps, end.stuck)


def _step_length(
    density: Callable[[Array, Array], Array],
    s: _State,
    direction: Float[Array, " N"],
    move: Float[Array, " N"],
    slope: Float[Array, ""],
) -> tuple[Float[Array, ""], Bool[Array, ""]]:
    """The first of 1, 1/2, 1/4, ... that increases the density enough, but for
    rounding, and whether there is one."""
    slack = rounding_of(s.value) * jnp.maximum(1, jnp.abs(s.value))

    def enough(length):
        value = density(s.a + length * direction, s.f + length * move)
        wanted = s.value + _DECREASE * length * slope - slack
        return jnp.isfinite(value) & (value >= wanted)

    def go_on(trial):
        length, found = trial
        return ~found & (length > 0.5**_MOST_HALVINGS)

    def halve(trial):
        return trial[0] / 2, enough(trial[0] / 2)

    one = jnp.ones_like(s.value)
    return jax.lax.while_loop(go_on, halve, (one, enough(one)))


def moving_mode(
    log_densities: LogDensities,
    K: Float[Array, "N N"],
    mean: Float[Array, " N"],
    found: Float[Array, " N"],
) -> Float[Array, " N"]:
    """`found`, a mode, with its derivative by whatever K, the mean and the densities
    depend on: f - mean - K l'(f) vanishes at the mode, and keeps doing so.

    Source: the implicit function theorem, as in Blondel et al. 2022 (arXiv 2105.15183,
    section 2.1). Its Jacobian is I + K W, with the curvatures as they are.

    Cost: one factorisation, 2 N^3 / 3 operations; none if nothing is differentiated.
    """
    start = jax.lax.stop_gradient(found)

    def residual(f):
        return f - mean - _product(K, slopes(log_densities, f))

    def tangent(product, change):
        W = exact_curvatures(log_densities, start)
        J = jnp.eye(W.shape[0], dtype=K.dtype) + K * W[None, :]
        factors = _lu(jax.lax.stop_gradient(J))
        return jax.lax.custom_linear_solve(
            product,
            change,
            solve=lambda _, b: _lu_solve(*factors, b),
            transpose_solve=lambda _, b: _lu_solve_transposed(*factors, b),
        )

    return jax.lax.custom_root(residual, start, lambda _, point: point, tangent)


@looped_on_cpu
def _lu(A: Array) -> tuple[Array, Array]:
    return jsl.lu_factor(A)


@looped_on_cpu
def _lu_solve(lu: Array, pivots: Array, b: Array) -> Array:
    return jsl.lu_solve((lu, pivots), b)


@looped_on_cpu
def _lu_solve_transposed(lu: Array, pivots: Array, b: Array) -> Array:
    return jsl.lu_solve((lu, pivots), b, trans=1)
