"""Rows shared out over devices."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float


def as_mesh(call: str, mesh: Mesh | None) -> Mesh | None:
    """`mesh`, whose arrays the compiler may place."""
    if mesh is None:
        return None
    if not isinstance(mesh, Mesh) or mesh.empty:
        raise ValueError(
            f"`{call}(mesh=...)` must be a jax.sharding.Mesh of the devices that share "
            f"the work. Got {mesh!r}. Pass "
            "`jax.make_mesh((jax.device_count(),), ('rows',))`, or leave it out for "
            "one device."
        )
    # As `jax.make_mesh` makes them, its axes would be a part of the types of arrays.
    return Mesh(mesh.devices, mesh.axis_names)


def without_mesh(module: eqx.Module) -> dict[str, Any]:
    """What to pickle of a module with a mesh, which cannot be: its devices are those
    of one process."""
    return vars(module) | {"mesh": None}


def share_rows(
    f: Callable[..., Array], mesh: Mesh, X: Float[Array, "N D"], *whole: Any
) -> Float[Array, "N S"]:
    """`f(X, *whole)` for an `f` that treats each row of `X` alone: a device computes
    an equal part of the rows, has all of `whole`, and is then told of the others'."""
    n = X.shape[0]
    rows, everywhere = PartitionSpec(mesh.axis_names), PartitionSpec()
    # Where the parts would not be equal: copies, which have numbers as the others do.
    filled = jnp.pad(X, ((0, -n % mesh.size), (0, 0)), mode="edge")
    shared = jax.shard_map(
        f,
        mesh=mesh,
        in_specs=(rows, *(everywhere for _ in whole)),
        out_specs=rows,
        check_vma=False,  # loops in `f` begin with zeros that belong to no device
    )
    values = shared(filled, *whole)
    at_each = NamedSharding(mesh, everywhere)
    return jax.lax.with_sharding_constraint(values, at_each)[:n]
