"""What an object is made of, as a table: names, values, priors, constraints, units."""

import dataclasses
import functools
import html
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array

from .._hyper.checks import is_traced
from .._hyper.parameters import (
    AbstractParametrized,
    describe,
    hyperparameter_fields,
    modules,
    site,
)
from .._hyper.shown import array_text, number_text
from .._inference.fit_report import Fit
from .._inference.iterative_fit import IterativeFit
from .._inference.latent_fit import LatentFit
from .._inference.sparse_report import SparseFit
from .._kernels.kernel import AbstractKernel
from .._paths.ensemble import PathwiseEnsemble
from .._paths.outputs import MultiOutputPaths, MultiOutputSampler
from .._paths.path import PathwiseFunction
from .._paths.samplers import DecoupledPathwiseSampler, PathwiseSampler
from .._posterior.exact import ConditionedGP, GPPrior
from .._posterior.guide import AbstractGuide
from .._posterior.mean import ZeroMean, own_arrays
from .._posterior.outputs import MultiOutputGP, MultiOutputPrior
from .._posterior.sparse import SparseGPPrior

_UNITS = {
    "input": "as X",
    "input^2": "as X squared",
    "1/input": "one over X",
    "output^2": "as y squared",
    "output^2/input^2": "as y over X, squared",
}
_FEW = 8  # numbers of a value


class Row(NamedTuple):
    """A line of a summary."""

    name: str
    value: str
    prior: str = ""
    constraint: str = ""
    units: str = ""


@dataclasses.dataclass(frozen=True)
class Summary:
    """A table of what an object is made of; what `summary` returns. `print` it, or let
    a notebook show it.

    Attributes:
        title: what the object is, and of what size.
        rows: a line each, with `name`, `value`, `prior`, `constraint` and `units`.
    """

    title: str
    rows: tuple[Row, ...]

    def _table(self) -> list[Sequence[str]]:
        """The head and the lines, without columns that say nothing."""
        columns = zip(Row._fields, *self.rows, strict=True)
        told = [c for c in columns if c[0] in ("name", "value") or any(c[1:])]
        return list(zip(*told, strict=True))

    def __str__(self) -> str:
        table = self._table()
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = [
            "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip()
            for row in table
        ]
        rule = "-" * max(map(len, lines))
        return "\n".join([self.title, "", lines[0], rule, *lines[1:]])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        head, *rest = self._table()

        def line(tag, cells):
            texts = (f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells)
            return f"<tr>{''.join(texts)}</tr>"

        body = "".join(line("td", row) for row in rest)
        return (
            f"<table><caption>{html.escape(self.title)}</caption>"
            f"<thead>{line('th', head)}</thead><tbody>{body}</tbody></table>"
        )


def summary(obj: Any) -> Summary:
    """What a kernel, a process, paths or a fit are made of, as a table.

    Args:
        obj: a kernel or a guide; a prior, exact, sparse or of several outputs; a
            posterior; a sampler; paths, or an ensemble of them; what a fit found.

    Returns:
        A table that prints: the name of each hyperparameter, as NumPyro sees it, its
        value, its prior if one is set, its constraint, and its units, in those of the
        inputs X and the values y. Of stacked objects a value says from where to where
        it goes; what is traced is told by its shape.

    Raises:
        ValueError: another object.

    Example:
        >>> import numpyro.distributions as dist
        >>> from pyrox.gp import RBF, summary
        >>> kernel = RBF(init_lengthscale=0.3)
        >>> kernel.set_prior("variance", dist.LogNormal(0.0, 1.0))
        >>> print(summary(kernel))
        RBF
        <BLANKLINE>
        name             value  prior                      constraint  units
        ---------------------------------------------------------------------------
        RBF.variance     1      LogNormal(loc=0, scale=1)  positive    as y squared
        RBF.lengthscale  0.3                               positive    as X
    """
    title, rows = _read(obj)
    return Summary(title, tuple(rows))


_Read = tuple[str, Iterable[Row]]


@functools.singledispatch
def _read(obj: Any) -> _Read:
    """The title and the lines of an object."""
    raise ValueError(
        "`summary(obj)` takes a kernel, a prior, a posterior, a guide, a sampler, "
        f"paths or a fit. Got a {type(obj).__name__}. Pass a part of it, "
        "`summary(obj.kernel)`, say."
    )


@_read.register(AbstractKernel)
@_read.register(AbstractGuide)
def _(obj: AbstractParametrized) -> _Read:
    return type(obj).__name__, _hyperparameters(obj)


@_read.register
def _(obj: GPPrior) -> _Read:
    title = f"GPPrior at inputs {_size(obj.X)}"
    return title, [*_hyperparameters(obj.kernel), *_mean(obj.mean_fn)]


@_read.register
def _(obj: SparseGPPrior) -> _Read:
    title = f"SparseGPPrior of inducing inputs {_size(obj.Z)}"
    return title, [*_hyperparameters(obj.kernel), *_mean(obj.mean_fn)]


@_read.register
def _(obj: MultiOutputPrior) -> _Read:
    title = f"MultiOutputPrior of {obj.n_outputs} outputs at inputs {_size(obj.X)}"
    return title, [*_hyperparameters(obj.kernel), *_mean(obj.mean_fn)]


@_read.register
def _(obj: ConditionedGP) -> _Read:
    title = f"ConditionedGP on values {_size(obj.y)} at inputs {_size(obj.X)}"
    if obj.derivatives is not None:
        title += f" and derivatives {_size(obj.derivatives.values)}"
    noise = Row("noise_var", _value(obj.noise_var), "", "positive", "as y squared")
    return title, [*_read(obj.prior)[1], noise]


@_read.register
def _(obj: MultiOutputGP) -> _Read:
    title, rows = _read(obj.stacked)
    return f"MultiOutputGP of {obj.n_outputs} outputs: {title}", rows


@_read.register
def _(obj: PathwiseFunction) -> _Read:
    title = (
        f"{obj.n_paths} paths of {obj.feature_weights.shape[-1]} features and "
        f"anchors {_size(obj.anchors)}"
    )
    return title, [*_hyperparameters(obj.kernel), *_mean(obj.mean_fn)]


@_read.register
def _(obj: PathwiseEnsemble) -> _Read:
    title, rows = _read(obj.paths)
    return f"{len(obj)} draws, for each {title}", rows


@_read.register
def _(obj: MultiOutputPaths) -> _Read:
    title, rows = _read(obj.stacked)
    return f"of {obj.n_outputs} outputs: {title}", rows


@_read.register(PathwiseSampler)
@_read.register(DecoupledPathwiseSampler)
@_read.register(MultiOutputSampler)
def _(obj: Any) -> _Read:
    if isinstance(obj, MultiOutputSampler):
        obj = obj.sampler
    of = obj.prior if isinstance(obj, DecoupledPathwiseSampler) else obj.posterior
    title, rows = _read(of)
    return f"{type(obj).__name__} of {obj.n_features} features: {title}", rows


@_read.register(Fit)
@_read.register(IterativeFit)
@_read.register(LatentFit)
def _(obj: Any) -> _Read:
    title, rows = _read(obj.posterior)
    return f"{_end(obj)}: {title}", _marked(rows, getattr(obj, "fixed", ()))


@_read.register
def _(obj: SparseFit) -> _Read:
    title, rows = _read(obj.prior)
    found = [
        Row(name, _value(value), "", *_of_parameter(name))
        for name, value in obj.parameters.items()
    ]
    title = f"{_end(obj)}: {title}, from {obj.n_data} data"
    return title, _marked([*rows, *found], obj.fixed)


def _of_parameter(name: str) -> tuple[str, str]:
    return ("positive", "as y squared") if name == "noise_var" else ("", "")


def _end(found: Any) -> str:
    name, converged = type(found).__name__, found.converged
    if is_traced(converged):
        return name
    done = np.asarray(converged)
    if done.ndim:
        return f"{done.size} of {name}, {done.sum()} converged"
    if getattr(found, "batch_size", None) is not None:
        return f"{name}, by minibatches"
    return f"{name}, {'converged' if done else 'NOT CONVERGED'}"


def _marked(rows: Iterable[Row], fixed: Sequence[str]) -> Iterator[Row]:
    """Rows that say what was not trained."""
    for row in rows:
        yield row._replace(prior="(fixed)") if row.name in fixed else row


def _hyperparameters(tree: Any) -> Iterator[Row]:
    for module in modules(tree):
        priors = dict(getattr(module, "priors", ()))
        for field in hyperparameter_fields(module):
            value, scale = getattr(module, field.name), field.metadata["scale"]
            yield Row(
                site(module, field.name),
                _value(value, _most(module)),
                repr(priors[field.name]) if field.name in priors else "",
                describe(field.metadata["constraint"]),
                _UNITS.get(scale, "") if isinstance(scale, str) else "",
            )


def _most(module: AbstractParametrized) -> int:
    """The leading axes along which a module is stacked, by its hyperparameters."""
    extra = [
        np.ndim(getattr(module, f.name)) - max(f.metadata["ndims"])
        for f in hyperparameter_fields(module)
    ]
    return max(0, *extra)


def _mean(mean_fn: Any) -> list[Row]:
    if isinstance(mean_fn, ZeroMean):
        return [Row("mean", "0", "", "", "as y")]
    arrays = jax.tree.leaves(own_arrays(mean_fn))
    if not arrays:
        return [Row("mean", "a function", "", "", "as y")]
    values = ", ".join(map(_value, arrays))
    return [Row("mean", values, "", "real", "as y" if len(arrays) == 1 else "")]


def _value(x: Any, stacked: int = 0) -> str:
    """The numbers of an array; of many, or of stacked ones, from where to where."""
    if is_traced(x) or not isinstance(x, Array | np.ndarray):
        return array_text(x)
    values = np.asarray(x)
    if values.size == 0:
        return array_text(x)
    if not stacked and values.ndim < 2 and values.size <= _FEW:
        return " ".join(map(number_text, np.ravel(values)))
    low, high = number_text(values.min()), number_text(values.max())
    shape = "x".join(map(str, values.shape))
    return f"{low} to {high} ({shape})"


def _size(X: Any) -> str:
    return f"({', '.join(map(str, X.shape))}{',' if len(X.shape) == 1 else ''})"
