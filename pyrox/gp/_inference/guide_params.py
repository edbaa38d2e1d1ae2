"""The parameters of a guide as those of a NumPyro program."""

from typing import TypeVar

import jax.numpy as jnp
import numpyro

from .._hyper.parameters import (
    constraint_of,
    hyperparameter_fields,
    map_modules,
    replace,
    site,
)

Tree = TypeVar("Tree")


def as_params(guide: Tree) -> Tree:
    """`guide` with each of its parameters a NumPyro param."""

    def param(module, field):
        name, value = site(module, field.name), getattr(module, field.name)
        constraint = constraint_of(field)
        return jnp.asarray(numpyro.param(name, value, constraint=constraint))

    def register(module):
        fields = hyperparameter_fields(module)
        return replace(module, {f.name: param(module, f) for f in fields})

    return map_modules(register, guide)
