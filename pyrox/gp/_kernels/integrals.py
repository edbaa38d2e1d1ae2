"""The integrals of a kernel, by one argument and by both, and of sums and products.

What Bayesian quadrature asks for (O'Hagan 1991). For a measure of mass one these are
expectations, and those multiply: a product of kernels that look at different inputs,
which are independent under the measure, has the products of theirs.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple, NoReturn, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Array, Float

from .._numerics.measures import AbstractMeasure


class Integrals(NamedTuple):
    """E[k(X_i, x)] for each row of X, and E[k(x, x')] for independent x and x'."""

    once: Float[Array, " N"]
    twice: Float[Array, ""]

    def plus(self, other: "Integrals") -> "Integrals":
        return Integrals(self.once + other.once, self.twice + other.twice)

    def times(self, other: "Integrals") -> "Integrals":
        return Integrals(self.once * other.once, self.twice * other.twice)

    def scaled(self, factor: Float[Array, ""]) -> "Integrals":
        factor = factor.astype(self.once.dtype)
        return Integrals(factor * self.once, factor * self.twice)


@runtime_checkable
class Integrable(Protocol):
    """What is asked of a factor."""

    def columns(self, in_size: int) -> frozenset[int]: ...

    def integrals(self, X: Array, over: AbstractMeasure) -> Integrals: ...


def has_no_integrals(kernel: object) -> NoReturn:
    raise ValueError(
        f"`{type(kernel).__name__}` has no integrals in closed form; `RBF`, `Matern`, "
        "`Linear`, `Constant`, `White`, their sums, scales and `ActiveDims` have. Take "
        "the integrals of paths by quadrature: `integrate_paths(paths, measure, "
        "n_nodes=32)`."
    )


def integrals_of_terms(
    terms: Sequence[Sequence[Integrable]], X: Float[Array, "N D"], over: AbstractMeasure
) -> Integrals:
    """Of a sum of products."""
    each = [_of_product(term, X, over) for term in terms]
    return functools.reduce(Integrals.plus, each)


def _of_product(
    term: Sequence[Integrable], X: Float[Array, "N D"], over: AbstractMeasure
) -> Integrals:
    seen = [factor.columns(X.shape[1]) for factor in term]
    if sum(map(len, seen)) > len(frozenset().union(*seen)):
        names = " and ".join(type(factor).__name__ for factor in term)
        raise ValueError(
            f"A product of kernels that see the same inputs has no integrals in closed "
            f"form. Got {names}. Multiply kernels of different inputs, "
            "`ActiveDims(RBF(), (0,)) * ActiveDims(Matern(), (1,))`, or take those of "
            "paths by quadrature: `integrate_paths(paths, measure, n_nodes=32)`."
        )
    if len(term) > 1 and not over.independent:
        raise ValueError(
            "A product of kernels has integrals in closed form if the inputs are "
            "independent. Got a `GaussianMeasure` with a matrix. Pass variances (D,), "
            "or take the integrals of paths by quadrature: `integrate_paths(paths, "
            "measure, n_nodes=32)`."
        )
    each = [factor.integrals(X, over) for factor in term]
    return functools.reduce(Integrals.times, each)


@functools.cache
def matern_mixture(nu: float) -> tuple[np.ndarray, np.ndarray]:
    """Squares s and weights w with sum_j w_j exp(-r^2 / (2 s_j)) the Matern function of
    r at lengthscale one, once it is integrated.

    Its spectral measure is a normal over the root of a Gamma(nu, rate nu) variable g,
    so it is the expectation of exp(-r^2 / (2 g)). By the trapezoidal rule in log g, of
    which the step bounds the error by exp(-pi^2 / step), 1e-17: the integrand is
    analytic up to where the angle of g is pi / 2. Below, the density falls as g^nu and
    the integrals of a squared exponential as the root of g at least.
    """
    step, digits = 0.25, 40.0
    low, high = -digits / (nu + 0.5), math.log(digits / nu + 4)
    logs = np.arange(low, high + step, step)
    masses = nu * math.log(nu) - math.lgamma(nu) + nu * logs - nu * np.exp(logs)
    return np.exp(logs), step * np.exp(masses)
