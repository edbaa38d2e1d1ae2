"""NumPyro's distributions as words and numbers: those of a fixed table."""

from typing import Any

import numpy as np

from .._hyper.priors import PriorSpec
from .archive import damaged

_LOC_SCALE = "loc", "scale"
_ARGUMENTS = {
    "Beta": ("concentration1", "concentration0"),
    "Cauchy": _LOC_SCALE,
    "Chi2": ("df",),
    "Delta": ("v",),
    "Dirichlet": ("concentration",),
    "Exponential": ("rate",),
    "Gamma": ("concentration", "rate"),
    "Gumbel": _LOC_SCALE,
    "HalfCauchy": ("scale",),
    "HalfNormal": ("scale",),
    "InverseGamma": ("concentration", "rate"),
    "Laplace": _LOC_SCALE,
    "LogNormal": _LOC_SCALE,
    "LogUniform": ("low", "high"),
    "Logistic": _LOC_SCALE,
    "MultivariateNormal": ("loc", "scale_tril"),
    "Normal": _LOC_SCALE,
    "Pareto": ("scale", "alpha"),
    "StudentT": ("df", "loc", "scale"),
    "Uniform": ("low", "high"),
    "Weibull": ("scale", "concentration"),
}
_MOST = 2**20  # numbers of a prior: a file may not ask for more memory than it takes


def distribution_node(writer: Any, spec: PriorSpec, where: str) -> Any:
    """`spec` for a file, if what is read from that is equal to it."""
    import numpyro.distributions as dist

    def node(d: Any) -> Any:
        if type(d) is dist.ExpandedDistribution:
            return {"expanded": [list(d.batch_shape), node(d.base_dist)]}
        if type(d) is dist.Independent:
            return {"events": [d.reinterpreted_batch_ndims, node(d.base_dist)]}
        name = type(d).__name__
        if getattr(dist, name, None) is not type(d) or name not in _ARGUMENTS:
            raise _Unknown(name)
        values = {a: getattr(d, a) for a in _ARGUMENTS[name]}
        return {name: {a: writer.node(v, f"{where}.{a}") for a, v in values.items()}}

    try:
        return node(spec.distribution)
    except _Unknown as error:
        raise ValueError(
            f"`save(path, obj)` writes no code. `{where}` is the prior {error}, which "
            f"is not among those that a file can hold: {', '.join(_ARGUMENTS)}. Save "
            "the object without its priors, `substitute(obj, values)`, or set one of "
            "these."
        ) from None


class _Unknown(Exception):
    pass


def read_distribution(reader: Any, node: Any) -> Any:
    """The distribution that `distribution_node` wrote."""
    import numpyro.distributions as dist

    if not (isinstance(node, dict) and len(node) == 1):
        damaged(reader.call, "it has a prior that is none")
    ((name, content),) = node.items()
    match name, content:
        case "expanded", [list(shape), inner]:
            whole = all(type(n) is int and 0 < n <= _MOST for n in shape)
            if whole and len(shape) < 9 and float(np.prod(shape, dtype=float)) <= _MOST:
                d = read_distribution(reader, inner)
                return _made(reader, lambda: d.expand(tuple(shape)))
        case "events", [int(n), inner]:
            d = read_distribution(reader, inner)
            return _made(reader, lambda: d.to_event(n))
        case str(name), dict(nodes) if set(nodes) == set(_ARGUMENTS.get(name, ())):
            values = {a: reader.value(v) for a, v in nodes.items()}
            if all(map(_is_number, values.values())) and _small(values.values()):
                return _made(reader, lambda: getattr(dist, name)(**values))
    damaged(reader.call, f"there is no prior {name[:40]!r} of such numbers")


def _is_number(value: Any) -> bool:
    numeric = isinstance(value, int | float) and not isinstance(value, bool)
    return numeric or getattr(value, "dtype", np.dtype(bool)).kind == "f"


def _small(values: Any) -> bool:
    try:
        shape = np.broadcast_shapes(*map(np.shape, values))
    except ValueError:
        return False
    return float(np.prod(shape, dtype=float)) <= _MOST


def _made(reader: Any, make: Any) -> Any:
    try:
        return make()
    except Exception:  # whatever NumPyro says of such arguments
        damaged(reader.call, "it has a prior that cannot be")
