"""The classes that a file may name, and what their fields may hold.

A file names a class by a word, which is looked up here and nowhere else: what a file
says is never imported.
"""

import collections.abc
import types
from importlib import import_module
from typing import Any, Union, get_args, get_origin

import jax
import numpy as np
from jaxtyping import AbstractArray

# The rooms of `pyrox.gp`, and the classes of each that are kept.
_ROOMS = {
    "_kernels.kernel": ("Sum", "Product", "Scale"),
    "_kernels.stationary": ("RBF", "RationalQuadratic"),
    "_kernels.matern": ("Matern",),
    "_kernels.periodic": ("Periodic", "Cosine"),
    "_kernels.spectral_mixture": ("SpectralMixture",),
    "_kernels.polynomial": ("Linear", "Polynomial", "MonomialFeatures"),
    "_kernels.constant": ("Constant", "White"),
    "_kernels.active_dims": ("ActiveDims",),
    "_kernels.coregionalization": ("Coregionalization", "OutputFeatures"),
    "_kernels.vector_fields": ("DivergenceFree", "CurlFree", "FieldFeatures"),
    "_kernels.landmarks": ("Landmarks", "LandmarkFeatures"),
    "_features.maps": (
        "FourierFeatures",
        "SumFeatures",
        "TensorFeatures",
        "ColumnFeatures",
        "ScaledFeatures",
    ),
    "_features.basis": ("Sobol", "IID", "Orthogonal"),
    "_features.grid": ("FourierGrid",),
    "_solvers.solver": (
        "Cholesky",
        "ConjugateGradients",
        "StochasticDualDescent",
        "_Conjugate",
        "_Descent",
    ),
    "_solvers.convergence": ("Convergence",),
    "_solvers.products": ("NoisyGram",),
    "_solvers.preconditioner": ("LowRank",),
    "_solvers.kronecker": ("Parts", "Factors", "KroneckerInverse"),
    "_solvers.iterative": ("IterativeInverse",),
    "_solvers.cholesky": ("CholeskyFactor", "ExtendedFactor"),
    "_posterior.mean": ("ZeroMean", "ConstantMean"),
    "_posterior.derivatives": ("DerivativeSites", "Derivatives"),
    "_posterior.exact": ("GPPrior", "ConditionedGP"),
    "_posterior.outputs": ("MultiOutputPrior", "MultiOutputGP"),
    "_posterior.sparse": ("SparseGPPrior",),
    "_posterior.families": (
        "FullRankGuide",
        "MeanFieldGuide",
        "WhitenedGuide",
        "DeltaGuide",
    ),
    "_posterior.natural_guide": ("NaturalGuide",),
    "_paths.samplers": ("PathwiseSampler", "DecoupledPathwiseSampler"),
    "_paths.path": ("PathwiseFunction",),
    "_paths.outputs": ("MultiOutputSampler", "MultiOutputPaths"),
    "_paths.ensemble": ("PathwiseEnsemble",),
    "_paths.given": ("AnchorValues",),
    "_numerics.measures": ("LebesgueMeasure", "GaussianMeasure"),
    "_calibration.coverage": ("Intervals",),
    "_functionals.expectation": ("Expectation",),
    "_functionals.quadrature": ("Quadrature",),
    "_functionals.crossings": ("Crossings",),
    "_functionals.vorobev": ("VorobevSet",),
    "_functionals.dynamics": ("RollOut",),
    "_inference.fit_report": ("Starts", "Fit"),
    "_inference.iterative_fit": ("IterativeFit",),
    "_inference.latent_fit": ("LatentFit",),
    "_inference.sparse_report": ("SparseFit",),
    "_decisions.optima": ("PathOptima",),
    "_decisions.optimize_acquisition": ("BatchOptimum",),
    "_decisions.trade_offs": ("TradeOffs",),
    "_decisions.trust_region": ("TrustRegion",),
    "_decisions.thompson_state": ("ThompsonState",),
}
_PLACES = {
    name.strip("_"): (room, name) for room, names in _ROOMS.items() for name in names
}


def names() -> tuple[str, ...]:
    """The words for classes, as they stand in a file."""
    return tuple(_PLACES)


def class_of(name: str) -> type | None:
    """The class that a word stands for, None if there is none."""
    if name not in _PLACES:
        return None
    room, attribute = _PLACES[name]
    return getattr(import_module(f"pyrox.gp.{room}"), attribute)


def name_of(kind: type) -> str | None:
    """The word for a class, None if it has none."""
    name = kind.__name__.strip("_")
    ours = kind.__module__.startswith("pyrox.gp.")
    return name if ours and class_of(name) is kind else None


def fits(value: Any, kind: Any) -> bool:
    """Whether `value` is what the annotation of a field says, whatever its shape:
    objects may be stacked."""
    origin, parts = get_origin(kind), get_args(kind)
    if kind is Any or isinstance(kind, str):
        return True
    if origin in (Union, types.UnionType):
        return any(fits(value, part) for part in parts)
    if origin is tuple:
        return isinstance(value, tuple) and _all_fit(value, parts)
    if origin is dict:
        entries = value.items() if isinstance(value, dict) else [(None, None)]
        return all(fits(k, parts[0]) and fits(v, parts[1]) for k, v in entries)
    if origin is collections.abc.Callable or kind is collections.abc.Callable:
        return callable(value)
    if kind is None:
        return value is None
    if isinstance(kind, type) and issubclass(kind, AbstractArray):
        is_array = isinstance(value, jax.Array | np.ndarray)
        return is_array and isinstance(value, kind.dtype[Any, "..."])
    if kind in (int, float):
        numbers = int if kind is int else int | float
        return isinstance(value, numbers) and not isinstance(value, bool)
    return isinstance(value, origin or kind)


def _all_fit(values: tuple, kinds: tuple) -> bool:
    if kinds[1:] == (Ellipsis,):
        return all(fits(value, kinds[0]) for value in values)
    return len(values) == len(kinds) and all(map(fits, values, kinds))
