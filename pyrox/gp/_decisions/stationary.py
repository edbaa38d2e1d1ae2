"""The derivative of an optimum by what its path depends on."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._numerics.implicit import moving_root
from .._paths.formula import Formula
from .merit import Target, slopes
from .search import Found


def moving(target: Target, found: Found) -> Float[Array, "S D"]:
    """The points found, in the unit cube, as functions of the paths and the bounds.

    By the implicit function theorem, on the conditions of Karush, Kuhn and Tucker:
    inputs that a bound holds, or that are whole numbers, stay; constraints with a
    multiplier stay at zero; the slope of the Lagrangian along the rest stays zero.
    """
    best, scales, *_ = jax.lax.stop_gradient(found)
    unit, known = best.unit, best.multipliers
    active = known > 0
    out = ((unit <= 0) & (best.slope > 0)) | ((unit >= 1) & (best.slope < 0))
    held = out | target.box.is_whole(out)
    d = unit.shape[1]

    def of_one(i, start, held, active):
        def residual(z):
            x = jnp.where(held, start[:d], z[:d])
            multipliers = jnp.where(active, z[d:], 0)
            one = _one(target, i)
            own = jax.tree.map(lambda leaf: leaf[i][None], scales)
            slope, above = _lagrangian(one, own, x[None], multipliers[None])
            return jnp.concatenate(
                [
                    jnp.where(held, z[:d] - start[:d], slope[0]),
                    jnp.where(active, above[0], z[d:] - start[d:]),
                ]
            )

        return moving_root(residual, start)[:d]

    start = jnp.concatenate([unit, known], axis=1)
    return jax.vmap(of_one)(jnp.arange(unit.shape[0]), start, held, active)


def _lagrangian(target: Target, scales, unit: Array, multipliers: Array):
    """Its slopes (S, D), and the constraints (S, K)."""
    here = slopes(target, scales, unit[:, None])
    pull = jnp.einsum("sk,ksd->sd", multipliers, here.of_constraints[:, :, 0])
    return here.of_path[:, 0] + pull, here.constraints[:, :, 0].T


def _one(target: Target, i: Array) -> Target:
    """Path `i` alone, of all draws counted through."""
    constraints = tuple(_path(path, i) for path in target.constraints)
    return Target(
        paths=_path(target.paths, i),
        constraints=constraints,
        box=target.box,
        maximize=target.maximize,
    )


def _path(paths: Formula, i: Array) -> Formula:
    if paths.feature_weights.ndim > 2:
        n = paths.feature_weights.shape[-2]
        paths, i = jax.tree.map(lambda leaf: leaf[i // n], paths), i % n
    return paths.chosen(i[None])
