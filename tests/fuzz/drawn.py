"""Paths from their own parts, in long double: mean + phi w + k v."""

import functools

import numpy as np
from formulas import AbstractFormula
from rounded import Long, Rounded, steps

from pyrox.gp import FourierFeatures, PathwiseFunction
from pyrox.gp._features.maps import (
    AbstractFeatures,
    ColumnFeatures,
    ScaledFeatures,
    SumFeatures,
    TensorFeatures,
)
from pyrox.gp._kernels.coregionalization import OutputFeatures
from pyrox.gp._kernels.polynomial import MonomialFeatures
from pyrox.gp._kernels.vector_fields import FieldFeatures


def long(x) -> np.ndarray:
    return np.asarray(x).astype(Long)


def features_at(phi: AbstractFeatures, X: np.ndarray) -> Rounded:
    """The feature map, by its kind and the arrays that it holds."""
    if isinstance(phi, SumFeatures):
        waves = [m for m in phi.maps if isinstance(m, FourierFeatures)]
        others = [m for m in phi.maps if not isinstance(m, FourierFeatures)]
        halves = [_waves(m, X) for m in waves]
        pairs = [pair[i] for i in (0, 1) for pair in halves]  # cosines come first
        return _beside([*pairs, *(features_at(m, X) for m in others)])
    if isinstance(phi, FourierFeatures):
        return _beside(list(_waves(phi, X)))
    if isinstance(phi, TensorFeatures):
        maps = (features_at(m, X) for m in phi.maps)
        return functools.reduce(_times, maps)
    if isinstance(phi, ColumnFeatures):
        return features_at(phi.phi, X[:, phi.dims])
    if isinstance(phi, OutputFeatures):
        root = long(phi.root)[X[:, 0].astype(int)]
        return Rounded(root, 0 * root)
    if isinstance(phi, FieldFeatures):
        return _slopes(phi, X)
    if isinstance(phi, ScaledFeatures):
        factor = long(phi.factor)
        return Rounded(factor, factor) * features_at(phi.phi, X)
    assert isinstance(phi, MonomialFeatures), phi
    return _monomials(phi, X)


def _waves(phi: FourierFeatures, X: np.ndarray) -> tuple[Rounded, Rounded]:
    frequencies, masses = long(phi.frequencies), long(phi.masses)
    gap = X - long(phi.origin)
    angle, off = gap @ frequencies.T, abs(gap) @ abs(frequencies).T
    amplitude = np.sqrt(masses)
    error = amplitude * ((X.shape[1] + 3) * off + 8)
    cosine, sine = (amplitude * f(angle) for f in (np.cos, np.sin))
    return Rounded(cosine, error), Rounded(sine, error)


def _slopes(phi: FieldFeatures, X: np.ndarray) -> Rounded:
    """Of waves, in the direction of each row's component for each potential."""
    assert isinstance(phi.phi, FourierFeatures), phi
    cosine, sine = _waves(phi.phi, X)
    frequencies = long(phi.phi.frequencies)[:, :-1]
    maps = []
    for directions in np.array(phi.directions, Long):
        along = directions[X[:, -1].astype(int)]
        rate, most = along @ frequencies.T, abs(along) @ abs(frequencies).T
        turned = Rounded(rate, X.shape[1] * most)
        maps += [Rounded(-rate, turned.error) * sine, turned * cosine]
    return _beside(maps)


def _monomials(phi: MonomialFeatures, X: np.ndarray) -> Rounded:
    if phi.constant is not None:
        X = np.hstack([X, np.full((len(X), 1), long(phi.constant))])
    columns = np.array(phi.columns)
    value = long(phi.scales) * X[:, columns].prod(axis=2)
    return Rounded(value, (columns.shape[1] + 2) * abs(value))


def _beside(maps: list[Rounded]) -> Rounded:
    return Rounded(
        np.hstack([m.value for m in maps]), np.hstack([m.error for m in maps])
    )


def _times(left: Rounded, right: Rounded) -> Rounded:
    product = left[:, :, None] * right[:, None, :]
    flat = len(product.value), -1
    return Rounded(product.value.reshape(flat), product.error.reshape(flat))


def weighed(weights: np.ndarray, rows: Rounded) -> Rounded:
    """weights rows^T, a product of matrices."""
    size = abs(weights) @ abs(rows.value).T
    error = abs(weights) @ rows.error.T + steps(weights.shape[1]) * size
    return Rounded(weights @ rows.value.T, error)


def prior_draw(paths: PathwiseFunction, X: np.ndarray) -> Rounded:
    """phi(X) w"""
    return weighed(long(paths.feature_weights), features_at(paths.features, long(X)))


def update(paths: PathwiseFunction, kernel: AbstractFormula, X: np.ndarray) -> Rounded:
    """k(X, anchors) v"""
    rows = kernel.gram(long(X), long(paths.anchors))
    return weighed(long(paths.update_weights), rows)


def values(
    paths: PathwiseFunction, kernel: AbstractFormula, mean: Rounded, X: np.ndarray
) -> Rounded:
    """The paths at `X`, with the first-order error of evaluating them, in eps."""
    return mean + (prior_draw(paths, X) + update(paths, kernel, X))
