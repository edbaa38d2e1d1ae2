"""Bayesian quadrature: the integral of a process that was given data."""

from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._hyper.checks import as_count, common_dtype
from .._hyper.unchecked import jit
from .._numerics.measures import AbstractMeasure
from .._numerics.safe_sqrt import safe_sqrt
from .._paths.formula import Formula
from .._posterior.conditional import Conditional
from .._posterior.derivatives import observe
from .._posterior.exact import ConditionedGP
from .._posterior.mean import ConstantMean, ZeroMean, mean_at
from .._posterior.missing import in_use, only, with_sites

_MOST_NODES = 4096


class Quadrature(eqx.Module):
    """The law of an integral, which is normal; what `bayesian_quadrature` returns."""

    mean: Float[Array, ""]
    """Its mean."""
    var: Float[Array, ""]
    """Its variance."""

    @property
    def std(self) -> Float[Array, ""]:
        """Its standard deviation."""
        return safe_sqrt(self.var)


def bayesian_quadrature(
    posterior: ConditionedGP, measure: AbstractMeasure, *, n_nodes: int | None = None
) -> Quadrature:
    """The mean and the variance of the integral of f over a box, or of its expectation
    under a normal distribution, given the data.

    The integral of a Gaussian process is normal, and its moments are integrals of the
    kernel: closed for `RBF`, `Linear`, `Constant`, and for `Matern`, which is a mixture
    of squared exponentials, by a rule in the one variable of that mixture that is exact
    to rounding; for their sums, scales and `ActiveDims`, and for products of kernels of
    different inputs. Others say that they have none. All of it has derivatives, in the
    data and the bounds too.

    The prior mean counts: zero and constant means exactly, others by a Gauss rule.
    Noise is left out, as in `predict`.

    Args:
        posterior: what `GPPrior.condition` returned.
        measure: a `LebesgueMeasure(bounds)` or a `GaussianMeasure(mean, cov)`.
        n_nodes: points an input of the rule for the prior mean; by default 32 for one
            or two inputs, 16 for three, 8 for four.

    Returns:
        A `Quadrature` of the wider dtype of data and measure. A mean over the box is
        `found.mean / measure.mass`.

    Raises:
        ValueError: another posterior or measure, inputs of another D, a kernel without
            integrals, a mean function of more than four inputs without `n_nodes`.

    Cost: O(N D) kernel integrals, 40 to 180 times that for a Matern, and O(N^2).

    Source: O'Hagan 1991, "Bayes-Hermite quadrature", J. Statistical Planning and
        Inference 29; Briol et al. 2019, arXiv 1512.00933, table 1.

    Example:
        >>> import jax.numpy as jnp
        >>> from pyrox.gp import RBF, GPPrior, LebesgueMeasure, bayesian_quadrature
        >>> X = jnp.linspace(0, 3, 9)[:, None]
        >>> posterior = GPPrior(RBF(), X).condition(jnp.sin(X[:, 0]), noise_var=1e-4)
        >>> bounds = jnp.array([[0.0], [3.0]])
        >>> found = bayesian_quadrature(posterior, LebesgueMeasure(bounds))
        >>> bool(abs(found.mean - (1 - jnp.cos(3.0))) < 3 * found.std)
        True
    """
    call = "bayesian_quadrature"
    if not isinstance(posterior, ConditionedGP):
        raise ValueError(
            f"`{call}(posterior, ...)` must be a ConditionedGP. Got a "
            f"{type(posterior).__name__}. Pass what `GPPrior.condition` returns; for "
            "paths call `integrate_paths`."
        )
    if posterior.weights.ndim != 1:
        raise ValueError(
            f"`{call}(posterior, ...)`: these posteriors are stacked. Got leading axes "
            f"{posterior.weights.shape[:-1]}. Map over them with `jax.vmap`."
        )
    measure = as_measure(call, measure, posterior.X.shape[1])
    given = posterior._conditional()
    return _moments(given, measure, n_nodes=nodes_for_mean(call, given, n_nodes))


def as_measure(call: str, measure: AbstractMeasure, in_size: int) -> AbstractMeasure:
    """`measure`, if it is one of so many inputs."""
    if not isinstance(measure, AbstractMeasure):
        raise ValueError(
            f"`{call}(..., measure)` must be a measure. Got a "
            f"{type(measure).__name__}. Pass `LebesgueMeasure(bounds)` for a box, "
            "`GaussianMeasure(mean, cov)` for an expectation."
        )
    if measure.in_size != in_size:
        raise ValueError(
            f"`{call}(..., measure)` must be of D={in_size} inputs, as the data. Got "
            f"D={measure.in_size}. Give bounds, or a mean, for every input."
        )
    return measure


def nodes_for_mean(call: str, given: Conditional | Formula, n_nodes: int | None) -> int:
    """Points an input for what has a mean function, one where that is constant."""
    if n_nodes is not None:
        return as_count(f"{call}(n_nodes=...)", n_nodes)
    in_size = (given.X if isinstance(given, Conditional) else given.anchors).shape[1]
    if isinstance(given.mean_fn, ZeroMean | ConstantMean):
        return 1
    if in_size > 4:
        raise ValueError(
            f"`{call}`: the prior mean is integrated by a product rule, n_nodes^D "
            f"points. Got D={in_size}. Say how many: `n_nodes=5`, or give `GPPrior` a "
            "`ConstantMean`."
        )
    return min(32, int(_MOST_NODES ** (1 / in_size) + 1e-9))


def integral_of_mean(
    mean_fn: Callable, measure: AbstractMeasure, n_nodes: int, dtype: np.dtype
) -> Float[Array, ""]:
    """The expectation of a mean function."""
    points, weights = measure.nodes(n_nodes)
    return weights.astype(dtype) @ mean_at(mean_fn, points.astype(dtype))


def _moments_of(
    given: Conditional, measure: AbstractMeasure, n_nodes: int
) -> Quadrature:
    seen, data = given.observed, in_use(given.X, given.observed)
    dtype = common_dtype(given.weights, measure.mean)

    def embedded(X):
        return given.kernel.integrals(X.astype(dtype), measure).once

    own = only(with_sites(seen, given.sites), observe(embedded, data, given.sites))
    mean = integral_of_mean(given.mean_fn, measure, n_nodes, dtype)
    mean = mean + own @ given.weights.astype(dtype)
    left, right = given.inverse.halves(own.astype(given.weights.dtype)[:, None])
    twice = given.kernel.integrals(data[:1].astype(dtype), measure).twice
    var = jnp.maximum(twice - jnp.sum(left * right).astype(dtype), 0)
    mass = measure.mass.astype(dtype)
    return Quadrature(mass * mean, mass**2 * var)


_moments = jit(_moments_of, static_argnames="n_nodes")
