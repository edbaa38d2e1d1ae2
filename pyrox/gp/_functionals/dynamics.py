"""Dynamics along paths: each in a world of its own, and what a policy is worth."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray, Real

from .._hyper.checks import (
    as_count,
    as_float,
    as_noise,
    common_dtype,
    require,
    require_finite,
    require_inside,
)
from .._hyper.unchecked import jit
from .._numerics.closure import Closure, read
from .._paths.formula import Formula, evaluate_each
from .._paths.outputs import MultiOutputPaths
from .._paths.path import OUTSIDE, PathwiseFunction, bare
from .._posterior.by_outputs import stack_inputs
from .._posterior.outputs import as_table
from .expectation import Expectation, mean_of

Worlds = PathwiseFunction | MultiOutputPaths | Sequence[PathwiseFunction]
_ROWS = 1024  # of a block


class RollOut(eqx.Module):
    """States along paths; what `roll_out` returns."""

    states: Float[Array, "S times D"]
    """The states of each path, from the first on."""
    controls: Float[Array, "S times U"] | None
    """What the policy says at each of them, None without one."""


class _Transition(eqx.Module):
    """One step of every path from a state of its own."""

    formulas: tuple[Formula, ...]
    n_outputs: int | None = eqx.field(static=True)
    dt: Float[Array, ""] | None

    def __call__(self, x: Float[Array, "S D"], u: Array | None) -> Float[Array, "S D"]:
        inputs = x if u is None else jnp.concatenate([x, u], axis=1)
        rows = inputs[:, None, :]
        if self.n_outputs is None:
            each = [evaluate_each(f, rows, block_size=_ROWS) for f in self.formulas]
            f = jnp.concatenate(each, axis=1)
        else:
            n = self.n_outputs
            rows = jax.vmap(lambda own: stack_inputs(own, n))(rows)
            stacked = evaluate_each(self.formulas[0], rows, block_size=_ROWS)
            f = as_table(stacked, n)[:, 0]
        f = f.astype(x.dtype)
        return f if self.dt is None else x + self.dt * f


def roll_out(
    paths: Worlds,
    x0: Real[ArrayLike, "..."],
    n_steps: int,
    *,
    policy: Callable[[Array], Array] | None = None,
    dt: Real[ArrayLike, ""] | None = None,
    noise_var: Real[ArrayLike, "..."] | None = None,
    key: PRNGKeyArray | None = None,
) -> RollOut:
    """States x_{t+1} = f(x_t, u_t) along every path, u_t = policy(x_t).

    Each path is one consistent world: wherever its state returns to, the function there
    is the same. (Drawing f anew at each step, or propagating moments, takes what is
    uncertain about f for noise, which averages out.) By `jax.lax.scan`; states have
    derivatives in whatever the paths, the policy and x0 depend on.

    Args:
        paths: the transition: `MultiOutputPaths` of D outputs; a sequence of D paths,
            one for each coordinate, of as many draws each; one `PathwiseFunction` where
            D is 1. Their inputs are the state, then the control.
        x0: the first state, (D,) for all or (S, D); `jax.vmap` over many.
        n_steps: T.
        policy: from a state (D,) to a control (U,) or (). Read, by tracing it, at each
            call.
        dt: with it x_{t+1} = x_t + dt f(x_t, u_t): paths of changes (dt = 1), or of a
            velocity, by Euler's rule.
        noise_var: variance of noise added to each new state, () or (D,); it needs
            `key`. Drawn for each path and step.
        key: a PRNG key.

    Returns:
        A `RollOut`: `states` (S, T + 1, D) and `controls` (S, T + 1, U), that at the
        last state too. Of the wider dtype of paths and x0.

    Raises:
        ValueError: paths whose numbers, inputs or draws do not fit; noise without a
            key; a state that left the domain of the paths, where a grid repeats itself.

    Cost: T times that of `paths.each` at one point a path.

    Source: Wilson et al. 2021, arXiv 2011.04026, section 7.3.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from pyrox.gp import RBF, GPPrior, PathwiseSampler, roll_out
        >>> X = jnp.linspace(-2, 2, 9)[:, None]
        >>> posterior = GPPrior(RBF(), X).condition(0.8 * X[:, 0], noise_var=1e-3)
        >>> paths = PathwiseSampler(posterior, 64).sample_paths(jax.random.key(0), 50)
        >>> states = roll_out(paths, jnp.array([1.5]), n_steps=10).states
        >>> states.shape, bool(abs(states[:, -1].mean() - 1.5 * 0.8**10) < 0.2)
        ((50, 11, 1), True)
    """
    call = "roll_out"
    n_steps = as_count(f"{call}(n_steps)", n_steps)
    worlds, n_outputs, size = _as_worlds(call, paths)
    first = worlds[0]
    dtype = common_dtype(*(path.feature_weights for path in worlds))
    n_paths = first.n_paths
    x0 = _as_start(call, x0, n_paths, size)
    dtype = np.result_type(dtype, x0.dtype)
    x0 = jnp.broadcast_to(x0.astype(dtype), (n_paths, size))
    acts = _as_policy(call, policy, jax.ShapeDtypeStruct((size,), dtype))
    n_inputs = first.anchors.shape[-1] - (n_outputs is not None)
    _require_inputs(call, n_inputs, size, acts, x0)
    noise = _noise(call, noise_var, key, (n_steps, n_paths, size), dtype)
    formulas = tuple(bare(path) for path in worlds)
    step = _Transition(formulas, n_outputs, _as_dt(call, dt, dtype))
    found = _rolled(step, acts, x0, noise, n_steps=n_steps)
    return _inside(call, found, worlds, n_outputs)


def policy_value(
    paths: Worlds,
    x0: Real[ArrayLike, "..."],
    n_steps: int,
    reward: Callable[..., Any],
    *,
    discount: Real[ArrayLike, ""] = 1.0,
    policy: Callable[[Array], Array] | None = None,
    dt: Real[ArrayLike, ""] | None = None,
    noise_var: Real[ArrayLike, "..."] | None = None,
    key: PRNGKeyArray | None = None,
) -> Expectation:
    """The value of a policy: the mean over paths of sum_t discount^t reward(x_t, u_t),
    t from 0 to n_steps, with its distribution over what is not known of the world.

    Args:
        paths, x0, n_steps, policy, dt, noise_var, key: as in `roll_out`.
        reward: of a state (D,) and a control (U,), or without a policy of a state, to a
            number.
        discount: one number.

    Returns:
        An `Expectation`, whose `samples` are the return of each path. To improve a
        policy take `jax.grad` of its value, for one key, by the policy's parameters.

    Raises:
        ValueError: as `roll_out`; a reward that is not one number, fewer than two
            paths.

    Cost: that of `roll_out`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from pyrox.gp import RBF, GPPrior, PathwiseSampler, policy_value
        >>> X = jax.random.uniform(jax.random.key(1), (40, 2), minval=-2, maxval=2)
        >>> posterior = GPPrior(RBF(), X).condition(X[:, 0] + 0.5 * X[:, 1], 1e-3)
        >>> paths = PathwiseSampler(posterior, 64, "sobol").sample_paths(
        ...     jax.random.key(0), 50)
        >>> def value(gain):
        ...     def reward(x, u):
        ...         return -jnp.sum(x**2)
        ...     return policy_value(paths, jnp.array([1.0]), 5, reward,
        ...                         policy=lambda x: -gain * x).value
        >>> bool(value(1.0) > value(0.0))
        True
    """
    call = "policy_value"
    discount = require_finite(as_float(discount, f"{call}(discount=...)"), call)
    if discount.shape:
        raise ValueError(
            f"`{call}(discount=...)` must be one number. Got shape {discount.shape}. "
            "Map over many with `jax.vmap`."
        )
    settings: dict[str, Any] = {"policy": policy, "dt": dt}
    found = roll_out(paths, x0, n_steps, noise_var=noise_var, key=key, **settings)
    along = (found.states,)
    along = along if found.controls is None else (*along, found.controls)

    def number(*of_one):
        value = jnp.asarray(reward(*of_one))
        if value.shape:
            raise ValueError(
                f"`{call}(reward)` must give one number for a state. Got shape "
                f"{value.shape}. Sum over coordinates: `-jnp.sum(x**2)`."
            )
        return value.astype(found.states.dtype)

    one = [jax.ShapeDtypeStruct(x.shape[2:], x.dtype) for x in along]
    rewards = jax.vmap(jax.vmap(read(f"{call}(reward)", number, *one)))(*along)
    powers = discount.astype(rewards.dtype) ** jnp.arange(
        rewards.shape[1], dtype=rewards.dtype
    )
    return mean_of(call, rewards @ powers)


@functools.partial(jit, static_argnames="n_steps")
def _rolled(
    step: _Transition,
    policy: Closure | None,
    x0: Float[Array, "S D"],
    noise: Float[Array, "T S D"] | None,
    n_steps: int,
) -> RollOut:
    def act(x):
        return None if policy is None else jax.vmap(policy)(x)

    def advance(x, added):
        after = step(x, act(x))
        after = after if added is None else after + added
        return after, after

    _, later = jax.lax.scan(advance, x0, noise, length=n_steps)
    states = jnp.concatenate([x0[None], later])
    controls = None if policy is None else jax.vmap(act)(states)
    swap = functools.partial(jnp.swapaxes, axis1=0, axis2=1)
    return RollOut(swap(states), None if controls is None else swap(controls))


def _as_worlds(
    call: str, paths: Worlds
) -> tuple[tuple[PathwiseFunction, ...], int | None, int]:
    """The paths, the number of outputs if these are stacked, and D."""
    if isinstance(paths, MultiOutputPaths):
        return (paths.stacked,), paths.n_outputs, paths.n_outputs
    several: Any = paths if isinstance(paths, list | tuple) and paths else (paths,)
    each = tuple(several)
    if not all(isinstance(path, PathwiseFunction) for path in each):
        raise ValueError(
            f"`{call}(paths, ...)` must be a PathwiseFunction, MultiOutputPaths, or a "
            f"list of a PathwiseFunction for each coordinate of the state. Got "
            f"{[type(path).__name__ for path in each]}."
        )
    shapes = {
        (*path.feature_weights.shape[:-1], path.anchors.shape[-1]) for path in each
    }
    if len(shapes) > 1 or len(next(iter(shapes))) != 2:
        raise ValueError(
            f"`{call}(paths, ...)` must have as many draws and as many inputs each, "
            f"and not be stacked. Got (draws, inputs) of {sorted(shapes)}."
        )
    return each, None, len(each)


def _as_start(call: str, x0: ArrayLike, n_paths: int, size: int) -> Array:
    x0 = as_float(x0, f"{call}(x0)")
    if x0.shape not in ((size,), (n_paths, size)):
        raise ValueError(
            f"`{call}(x0)` must have shape ({size},), or ({n_paths}, {size}) for a "
            f"state of each path. Got {x0.shape}. Map over many with `jax.vmap`."
        )
    x0 = require_finite(x0, f"{call}(x0)")
    return x0[None] if x0.ndim == 1 else x0


def _as_policy(
    call: str, policy: Callable | None, state: jax.ShapeDtypeStruct
) -> Closure | None:
    if policy is None:
        return None

    def control(x):
        u = jnp.asarray(policy(x))
        if u.ndim > 1:
            raise ValueError(
                f"`{call}(policy=...)` must give a control of shape (U,). Got "
                f"{u.shape} for one state of shape {x.shape}."
            )
        return jnp.atleast_1d(u).astype(x.dtype)

    return read(f"{call}(policy=...)", control, state)


def _require_inputs(
    call: str, n_inputs: int, size: int, policy: Closure | None, x0: Array
) -> None:
    n_controls = 0
    if policy is not None:
        n_controls = jax.eval_shape(policy, x0[0]).shape[0]
    if n_inputs != size + n_controls:
        raise ValueError(
            f"`{call}(paths, ...)` must have {size + n_controls} inputs: a state of "
            f"D={size} and a control of U={n_controls}. Got {n_inputs}. Pass one path "
            "for each coordinate of the state, and a `policy` for the other inputs."
        )


def _noise(
    call: str,
    noise_var: ArrayLike | None,
    key: PRNGKeyArray | None,
    shape: tuple[int, int, int],
    dtype: np.dtype,
) -> Array | None:
    if noise_var is None:
        return None
    if key is None:
        raise ValueError(
            f"`{call}(noise_var=...)` needs a key to draw noise with. Got none. Pass "
            "`key=jax.random.key(0)`."
        )
    variances = as_noise(f"{call}(noise_var=...)", noise_var, shape[-1])
    spread = jnp.broadcast_to(jnp.sqrt(variances.astype(dtype)), shape[-1:])
    return jr.normal(key, shape, dtype) * spread[None, None]


def _as_dt(call: str, dt: ArrayLike | None, dtype: np.dtype) -> Array | None:
    if dt is None:
        return None
    step = as_float(dt, f"{call}(dt=...)")
    if step.shape:
        raise ValueError(f"`{call}(dt=...)` must be one number. Got {step.shape}.")
    sentence = f"`{call}(dt=...)` must be a finite step that is not zero."
    held = require(step, lambda x: (x != 0) & (abs(x) < np.inf), sentence)
    return held.astype(dtype)


def _inside(
    call: str,
    found: RollOut,
    worlds: tuple[PathwiseFunction, ...],
    n_outputs: int | None,
) -> RollOut:
    """Raise if a state, but the last, lies outside the domain of the paths."""
    if all(path.domain is None for path in worlds):
        return found
    states, controls = found.states[:, :-1], found.controls
    X = states
    if controls is not None:
        X = jnp.concatenate([X, controls[:, :-1]], axis=2)
    X = X.reshape(-1, X.shape[-1])
    n, size = X.shape[0], states.shape[-1]
    if n_outputs is not None:
        X = stack_inputs(X, n_outputs)
    for path in worlds:
        X = require_inside(X, f"{call}: the states", path.domain, OUTSIDE)
    # What was checked goes on, so that `jit` cannot leave the check out.
    checked = X[:n, :size].reshape(states.shape)
    states = jnp.concatenate([checked, found.states[:, -1:]], axis=1)
    return eqx.tree_at(lambda r: r.states, found, states)
