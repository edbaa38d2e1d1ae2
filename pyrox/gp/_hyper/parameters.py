"""Hyperparameters of a module: which fields they are, their constraints, their names.

A hyperparameter is a field made by `hyperparameter(constraint)`: an array leaf with a
constraint of NumPyro's. Its name is `f"{module.name}.{field}"`, which is also its
NumPyro site. NumPyro itself is imported where there are priors to sample or parameters
to train, not here: it takes an eighth of the time that the first paths wait for.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import wadler_lindig as wl
from jaxtyping import Array, ArrayLike, Float

from .checks import as_float, is_traced, require_ok
from .shown import array_text

if TYPE_CHECKING:
    from numpyro.distributions.constraints import Constraint

Tree = TypeVar("Tree")

POSITIVE = "positive"


SCALES = ("input", "input^2", "1/input", "output^2", "output^2/input^2")


def hyperparameter(
    constraint: "Constraint | str",
    *,
    ndims: tuple[int, ...] = (0,),
    scale: "str | Callable[[Any, Any], Any] | None" = None,
) -> Any:
    """A field of a module that holds a hyperparameter.

    Args:
        constraint: where its values lie, one of `numpyro.distributions.constraints`, or
            `"positive"`, which is one of them and needs no import.
        ndims: the ranks it may have; `(0, 1)` for one value or one per input.
        scale: of what size it is for given data, so that `fit` can start there: a
            lengthscale is an `"input"`, a frequency a `"1/input"`, a variance an
            `"output^2"`; others are `"input^2"` and `"output^2/input^2"`. Or a function
            of the module and scales, of which `inputs`, (D,), are those of the columns
            and `variance` is that of the values. None if the data say nothing.

    Example:
        >>> import jax.numpy as jnp
        >>> from pyrox.gp import AbstractKernel, hyperparameter
        >>> class Linear(AbstractKernel):
        ...     variance: jnp.ndarray = hyperparameter(
        ...         "positive", scale="output^2/input^2"
        ...     )
        ...
        ...     def __call__(self, X1, X2):
        ...         return self.variance * X1 @ X2.T
        ...
        ...     def diag(self, X):
        ...         return self.variance * jnp.sum(X**2, axis=1)
        >>> Linear(2.0).diag(jnp.array([[3.0]]))
        Array([18.], dtype=float32)
    """
    if isinstance(constraint, str) and constraint != POSITIVE:
        raise ValueError(
            f"`hyperparameter(constraint)` must be one of NumPyro's constraints, or "
            f"{POSITIVE!r}. Got {constraint!r}. Pass "
            f"`numpyro.distributions.constraints.{constraint}`, if that exists."
        )
    if not (scale is None or callable(scale) or scale in SCALES):
        raise ValueError(
            f"`hyperparameter(scale=...)` must be one of {SCALES}, or a function of "
            f"the module and the scales of the data. Got {scale!r}. Leave it out if "
            "the data say nothing about its size."
        )
    metadata = {"constraint": constraint, "ndims": ndims, "scale": scale}
    return eqx.field(converter=as_float, metadata=metadata)


def constraint_of(field: dataclasses.Field) -> "Constraint":
    """Where the values of a field lie, as NumPyro says it."""
    from numpyro.distributions import constraints

    constraint = field.metadata["constraint"]
    return constraints.positive if constraint == POSITIVE else constraint


class AbstractParametrized(eqx.Module):
    """A module with hyperparameters. An empty `name` stands for the class's name."""

    name: str = eqx.field(static=True, kw_only=True, default="")

    def __pdoc__(self, **kwargs: Any) -> wl.AbstractDoc:
        """What `repr` shows, of whatever holds this module too: hyperparameters as
        numbers, a name and priors only where there are some."""
        plain = {"name": ("", type(self).__name__), "priors": ((), None)}
        docs = []
        for field in sorted(dataclasses.fields(self), key=lambda f: f.name in plain):
            value = vars(self).get(field.name)
            if value in plain.get(field.name, ()):
                continue
            if "constraint" in field.metadata:
                shown: Any = wl.TextDoc(array_text(value))
            elif field.name == "priors":
                shown = wl.pdoc(dict(value), **kwargs)  # pyright: ignore
            else:
                shown = wl.pdoc(value, **kwargs)
            docs.append(wl.TextDoc(f"{field.name}=") + shown)
        begin, end = wl.TextDoc(f"{type(self).__name__}("), wl.TextDoc(")")
        return wl.bracketed(begin, docs, wl.comma, end, kwargs.get("indent", 2))

    def __check_init__(self):
        for field in hyperparameter_fields(self):
            _check_shape(self, field)
            check_value(site(self, field.name), getattr(self, field.name), field)


def hyperparameter_fields(module: AbstractParametrized) -> list[dataclasses.Field]:
    """The fields of `module` that are hyperparameters, in their order."""
    return [f for f in dataclasses.fields(module) if "constraint" in f.metadata]


def display_name(module: AbstractParametrized) -> str:
    return module.name or type(module).__name__


def site(module: AbstractParametrized, field: str) -> str:
    """The name of a hyperparameter, as NumPyro sees it."""
    return f"{display_name(module)}.{field}"


def per_input(
    module: AbstractParametrized, field: str, in_size: int
) -> Float[Array, " D"]:
    """A hyperparameter of shape () or (D,), as one value for each input."""
    value = getattr(module, field)
    if value.shape not in ((), (in_size,)):
        raise ValueError(
            f"`{site(module, field)}` has shape {value.shape} and the inputs have "
            f"D={in_size}. Pass one {field}, or one a column."
        )
    return jnp.broadcast_to(value, (in_size,))


def _check_shape(module: AbstractParametrized, field: dataclasses.Field) -> None:
    shape = getattr(module, field.name).shape
    if len(shape) in field.metadata["ndims"] and 0 not in shape:
        return
    forms = {0: "()", 1: "(D,)", 2: "(n, m)"}
    wanted = " or ".join(forms[n] for n in field.metadata["ndims"])
    raise ValueError(
        f"`{site(module, field.name)}` must have shape {wanted}. Got {shape}. "
        "For many values at once build the module inside `jax.vmap`."
    )


def _holds(field: dataclasses.Field, value: Any) -> Any:
    """Entry by entry, of NumPy's arrays or JAX's: NumPyro's constraints take either."""
    constraint = field.metadata["constraint"]
    return value > 0 if constraint == POSITIVE else constraint(value)


def _lies_in(field: dataclasses.Field, value: Array) -> Array:
    return jnp.all(_holds(field, value)) & jnp.all(jnp.isfinite(value))


def describe(constraint: "Constraint | str") -> str:
    """A constraint in words: `positive`, `lower cholesky`, `interval(0, 1)`."""
    if isinstance(constraint, str):
        return constraint
    words = type(constraint).__name__.strip("_")
    text = "".join(f" {c.lower()}" if c.isupper() else c for c in words).strip()
    bounds = [getattr(constraint, b, None) for b in ("lower_bound", "upper_bound")]
    if any(bound is None for bound in bounds):
        return text
    return f"{text}({_in_words(bounds[0])}, {_in_words(bounds[1])})"


def _in_words(bound: Any) -> str:
    """A bound, or from where to where those of several entries go."""
    if np.ndim(bound) == 0 or is_traced(bound):
        return f"{bound}"
    return f"{np.min(bound)} to {np.max(bound)}"


def check_value(name: str, value: Array, field: dataclasses.Field) -> None:
    """Raise if a concrete `value` breaks the constraint of `field`."""
    if is_traced(value):
        return
    concrete = np.asarray(value)  # compiles nothing
    if np.isfinite(concrete).all() and np.all(np.asarray(_holds(field, concrete))):
        return
    domain = describe(field.metadata["constraint"])
    raise ValueError(
        f"`{name}` must be finite and {domain}. Got {concrete}. "
        "Pass a value in its domain."
    )


@jax.jit  # one step to all that trace it; JAX keeps its own trace
def valid(tree: Any) -> Array:
    """Whether every hyperparameter in `tree` lies in its domain, as an array."""
    answers = [
        _lies_in(field, getattr(module, field.name))
        for module in modules(tree)
        for field in hyperparameter_fields(module)
    ]
    return jnp.all(jnp.stack(answers)) if answers else jnp.asarray(True)


def require_valid(call: str, tree: Any, x: Array) -> Array:
    """`x`, tied to a check that the hyperparameters are in their domains.

    Concrete values are checked at once, traced ones when the program runs.
    """
    require_known_valid(tree)
    if not any(is_traced(leaf) for leaf in jax.tree.leaves(tree)):
        return x
    return require_ok(x, valid(tree), must_be_valid(call, tree))


def require_known_valid(tree: Any) -> None:
    """Raise if a concrete hyperparameter lies outside its domain: an optimiser or
    `tree_at` may have moved it since its module was made."""
    for module in modules(tree):
        for field in hyperparameter_fields(module):
            check_value(site(module, field.name), getattr(module, field.name), field)


def must_be_valid(call: str, tree: Any) -> str:
    names = ", ".join(
        f"{site(m, f.name)} {describe(f.metadata['constraint'])}"
        for m in modules(tree)
        for f in hyperparameter_fields(m)
    )
    return f"`{call}` needs finite hyperparameters in their domains: {names}."


def map_modules(
    fn: Callable[[Any], Any], tree: Tree, kind: type = AbstractParametrized
) -> Tree:
    """`tree` with `fn` applied to each module of this `kind`, inner modules first."""

    def visit(node):
        if not isinstance(node, kind):
            return node
        inner = jax.tree.map(
            visit, node, is_leaf=lambda x: x is not node and isinstance(x, kind)
        )
        return fn(inner)

    return jax.tree.map(visit, tree, is_leaf=lambda x: isinstance(x, kind))


def modules(tree: Any, kind: type = AbstractParametrized) -> list[Any]:
    """The modules of this `kind` in `tree`, inner ones first."""
    found = []

    def note(module):
        found.append(module)
        return module

    map_modules(note, tree, kind)
    return found


def replace(module: Tree, values: Mapping[str, Array]) -> Tree:
    """A copy of `module` with these fields."""
    if not values:
        return module
    return eqx.tree_at(
        lambda m: [getattr(m, field) for field in values], module, list(values.values())
    )


def raise_if_ambiguous(found: list[AbstractParametrized], names: set[str]) -> None:
    """Raise if two modules with hyperparameters answer to one of these names."""
    seen: dict[str, str] = {}
    for module in found:
        name, kind = display_name(module), type(module).__name__
        if name not in names or not hyperparameter_fields(module):
            continue
        if name in seen:
            raise ValueError(
                f"Two modules are named {name!r} (a {seen[name]} and a {kind}), so "
                f"their hyperparameters share NumPyro sites. Give each a name of its "
                f'own: `{kind}(name="trend")`.'
            )
        seen[name] = kind


def as_hyperparameter(name: str, value: ArrayLike, field_shape: tuple) -> Array:
    """A new value for a hyperparameter, of the shape that its field has."""
    array = as_float(value, name)
    if array.shape != field_shape:
        raise ValueError(
            f"`{name}` has shape {field_shape} and was given {array.shape}. Map over a "
            "leading axis of draws with `jax.vmap` or `paths_over_draws`; call "
            "`sample_hyperparameters(prior)` outside any `numpyro.plate`."
        )
    return array
