"""Priors on hyperparameters, and the one edge where they become values.

A prior is a static statement on a frozen module: the leaves of a kernel stay exactly
its hyperparameters, so an optimiser cannot move the prior, and a jit cache sees a new
one.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import equinox as eqx
import jax
import numpy as np
from jaxtyping import ArrayLike

from .checks import as_float, is_traced
from .parameters import (
    AbstractParametrized,
    as_hyperparameter,
    check_value,
    display_name,
    hyperparameter_fields,
    map_modules,
    modules,
    raise_if_ambiguous,
    replace,
    site,
)
from .shown import distribution_text

if TYPE_CHECKING:
    import numpyro.distributions

Tree = TypeVar("Tree")
Own = TypeVar("Own", bound="AbstractWithPriors")


class PriorSpec:
    """A distribution that compares and hashes by the values of its parameters.

    Being static, it is part of a jit cache's key; an array is not hashable, its bytes
    are. A parameter that is itself traced counts by identity.
    """

    def __init__(self, distribution: "numpyro.distributions.Distribution"):
        self.distribution = distribution

    def _key(self) -> tuple:
        leaves = jax.tree.leaves(self.distribution)
        return (type(self.distribution), *map(_leaf_key, leaves))

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, PriorSpec)
            and self._key() == other._key()
            and jax.tree.structure(self.distribution)
            == jax.tree.structure(other.distribution)
        )

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        return distribution_text(self.distribution)


def _leaf_key(leaf: Any) -> Any:
    if is_traced(leaf):
        return id(leaf)
    value = np.asarray(leaf)
    return (value.dtype.str, value.shape, value.tobytes())


class AbstractWithPriors(AbstractParametrized):
    """A module whose hyperparameters may carry priors."""

    priors: tuple[tuple[str, PriorSpec], ...] = eqx.field(
        static=True, kw_only=True, default=()
    )

    def _set(self, name: str, **hyperparameters: ArrayLike) -> None:
        """The lines that end an `__init__`: hyperparameters, a name, no priors yet.

        The priors are set although the field has a default: a module that leaves it to
        the default is another program to `jit` than one whose priors were substituted.
        """
        for field, value in hyperparameters.items():
            call = f"{name or type(self).__name__}.{field}"
            setattr(self, field, as_float(value, call))
        self.name, self.priors = name, ()

    def set_prior(
        self, field: str, prior: "numpyro.distributions.Distribution"
    ) -> None:
        """State a prior on a hyperparameter of this very module.

        It replaces an earlier prior on the same field. `with_priors` is the twin that
        returns a copy.

        Args:
            field: the hyperparameter's name, such as `"lengthscale"`.
            prior: a NumPyro distribution with its support in the field's domain; a
                scalar one is expanded over a lengthscale per input.

        Raises:
            ValueError: no such field, or a support or a shape that does not fit.

        Example:
            >>> import numpyro.distributions as dist
            >>> from pyrox.gp import RBF
            >>> kernel = RBF()
            >>> kernel.set_prior("variance", dist.LogNormal(0.0, 0.3))
            >>> [field for field, prior in kernel.priors]
            ['variance']
        """
        _bind(self, {**dict(self.priors), field: _checked(self, field, prior)})

    def with_priors(self: Own, **priors: "numpyro.distributions.Distribution") -> Own:
        """A copy of this module with these priors, by field. See `set_prior`.

        Example:
            >>> import numpyro.distributions as dist
            >>> from pyrox.gp import RBF
            >>> RBF().with_priors(variance=dist.LogNormal(0.0, 0.3)).name
            'RBF'
        """
        specs = {f: _checked(self, f, prior) for f, prior in priors.items()}
        return _copy_with(self, {**dict(self.priors), **specs})


def _bind(module: AbstractWithPriors, priors: Mapping[str, PriorSpec]) -> None:
    # The one write to a frozen module: `set_prior` is a statement in the users' own
    # programs, and a static field rebound here changes the jit key with it.
    object.__setattr__(module, "priors", tuple(priors.items()))


def _copy_with(module: Tree, priors: Mapping[str, PriorSpec]) -> Tree:
    copy = jax.tree.map(lambda leaf: leaf, module)
    _bind(copy, priors)
    return copy


def _checked(module: AbstractWithPriors, field: str, prior: Any) -> PriorSpec:
    # The part that needs NumPyro, which nobody waits for who sets no priors.
    from .prior_site import check_prior

    check_prior(module, field, prior)
    return PriorSpec(prior)


def _pending(tree: Any) -> list[tuple[AbstractWithPriors, str]]:
    found = modules(tree, AbstractWithPriors)
    return [(module, field) for module in found for field, _ in module.priors]


def site_names(tree: Any) -> tuple[str, ...]:
    """The names of the hyperparameters in `tree` that NumPyro samples or trains.

    For a kernel or a prior those with a prior set; for a guide all of its parameters.

    Example:
        >>> import numpyro.distributions as dist
        >>> from pyrox.gp import RBF, FullRankGuide, site_names
        >>> site_names(RBF().with_priors(variance=dist.LogNormal(0.0, 0.3)))
        ('RBF.variance',)
        >>> site_names(FullRankGuide.init(3))
        ('FullRankGuide.mean', 'FullRankGuide.scale_tril')
    """
    random = [site(module, field) for module, field in _pending(tree)]
    trained = [
        site(module, field.name)
        for module in modules(tree)
        if not isinstance(module, AbstractWithPriors)
        for field in hyperparameter_fields(module)
    ]
    return (*random, *trained)


def sample_hyperparameters(tree: Tree) -> Tree:
    """`tree` with each prior replaced by a draw from it, a NumPyro sample site.

    The one place where priors become values: what comes back has the same shape, values
    in their fields, and no priors. A tree without priors comes back as it is.

    Args:
        tree: a kernel, a prior over functions, or any pytree that holds some.

    Returns:
        The same tree, resolved. Sites are named `"RBF.variance"`, after the module's
        `name` and the field.

    Raises:
        ValueError: two modules share a name, or no handler gives a value or a key.

    Example:
        >>> import numpyro.distributions as dist
        >>> from numpyro import handlers
        >>> from pyrox.gp import RBF, sample_hyperparameters
        >>> kernel = RBF().with_priors(variance=dist.LogNormal(0.0, 0.3))
        >>> with handlers.substitute(data={"RBF.variance": 2.0}):
        ...     print(sample_hyperparameters(kernel).variance)
        2.0
    """
    pending = _pending(tree)
    if not pending:
        return tree
    raise_if_ambiguous(modules(tree), {display_name(m) for m, _ in pending})
    names = [site(module, field) for module, field in pending]
    from .prior_site import sample_site

    def resolve(module):
        values = {
            field: sample_site(module, field, spec.distribution, names)
            for field, spec in module.priors
        }
        return _copy_with(replace(module, values), {})

    return map_modules(resolve, tree, AbstractWithPriors)


def substitute(tree: Tree, values: Mapping[str, ArrayLike]) -> Tree:
    """`tree` with these hyperparameters, by their names: the way back from samples.

    The priors on the fields it sets are dropped; others stay.

    Args:
        tree: a kernel, a prior over functions, a guide, or any pytree of them.
        values: from name, such as `"RBF.variance"`, to one value of the field's shape.
            Draws of a chain are passed one at a time, or under `jax.vmap`.

    Raises:
        ValueError: a name that the tree does not have (`site_names` picks those it
            has), two modules of one name, a shape or a value that does not fit.

    Example:
        >>> from pyrox.gp import RBF, substitute
        >>> substitute(RBF(), {"RBF.lengthscale": 0.5}).lengthscale
        Array(0.5, dtype=float32)
    """
    found = modules(tree)
    known = [site(m, f.name) for m in found for f in hyperparameter_fields(m)]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ValueError(
            f"`substitute` got {unknown}, which the tree does not have. It has "
            f"{known}. Of a model's draws pass only these: "
            "`{name: draws[name] for name in site_names(tree)}`."
        )
    raise_if_ambiguous(found, {name.rpartition(".")[0] for name in values})

    def put(module):
        given = {
            field.name: _given(module, field, values)
            for field in hyperparameter_fields(module)
            if site(module, field.name) in values
        }
        module = replace(module, given)
        if not isinstance(module, AbstractWithPriors):
            return module
        kept = {f: spec for f, spec in module.priors if f not in given}
        return _copy_with(module, kept)

    return map_modules(put, tree)


def _given(module: AbstractParametrized, field: Any, values: Mapping) -> Any:
    name = site(module, field.name)
    value = as_hyperparameter(name, values[name], getattr(module, field.name).shape)
    check_value(name, value, field)
    return value
