"""A guide of natural parameters, and its natural-gradient step."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Real, Shaped
from numpyro.distributions import constraints

from .._hyper.checks import as_count, as_float, is_traced
from .._hyper.parameters import hyperparameter
from .._hyper.unchecked import jit
from .._solvers.cholesky import guarded_factor
from .guide import (
    AbstractGaussianGuide,
    as_bound_data,
    as_guide,
    ready,
    sparse_checked,
)
from .likelihood import N_POINTS, AbstractLikelihood
from .natural import bound_and_target, from_precision
from .sparse import Inducing, SparseGPPrior

_MOST_HALVINGS = 30


class NaturalGuide(AbstractGaussianGuide):
    """q(v) of density proportional to exp(linear^T v - v^T precision v / 2), for u =
    mean(Z) + L v, L L^T = Cov[u].

    What `WhitenedGuide` is by mean and root, by the parameters in which data add up.

    Args:
        linear: (M,), precision times mean.
        precision: (M, M), positive definite.
        name: the prefix of its NumPyro parameters.

    Example:
        >>> import jax.numpy as jnp
        >>> import numpyro.distributions as dist
        >>> from pyrox.gp import RBF, NaturalGuide, SparseGPPrior
        >>> X, y = jnp.array([[0.0], [1.0], [2.0]]), jnp.array([0, 3, 8])
        >>> prior, guide = SparseGPPrior(RBF(2.0), Z=X), NaturalGuide.init(3)
        >>> rate = lambda f: dist.Poisson(jnp.exp(f))
        >>> for _ in range(8):
        ...     guide = guide.natural_update(prior, X, y, likelihood=rate)
        >>> print(f"{guide.elbo(prior, X, y, likelihood=rate):.2f}")
        -7.70
    """

    linear: Float[Array, " M"] = hyperparameter(constraints.real, ndims=(1,))
    precision: Float[Array, "M M"] = hyperparameter(
        constraints.positive_definite, ndims=(2,)
    )

    def __init__(
        self,
        linear: Real[ArrayLike, " M"],
        precision: Real[ArrayLike, "M M"],
        name: str = "NaturalGuide",
    ):
        self.linear = as_float(linear)
        self.precision = as_float(precision)
        self.name = name

    def __check_init__(self):
        if set(self.precision.shape) != {self.size}:
            raise ValueError(
                "`NaturalGuide` must have one precision for each pair of inducing "
                f"values. Got a linear part of shape {(self.size,)} and a precision of "
                f"shape {self.precision.shape}. Pass arrays for the same M."
            )

    @classmethod
    def init(cls, n_inducing: int, name: str = "NaturalGuide") -> "NaturalGuide":
        """The prior itself."""
        n_inducing = as_count("guide.init(n_inducing)", n_inducing)
        return cls(jnp.zeros(n_inducing), jnp.eye(n_inducing), name)

    @property
    def size(self) -> int:
        return self.linear.shape[0]

    def whitened(
        self, inducing: Inducing
    ) -> tuple[Float[Array, " M"], Float[Array, "M M"]]:
        dtype = inducing.mean.dtype
        eye = jnp.eye(self.size, dtype=dtype)
        excess = self.precision.astype(dtype) - eye
        q, ok = from_precision(excess, self.linear.astype(dtype))
        return jnp.where(ok, q.mean, jnp.nan), jnp.where(ok, q.root, jnp.nan)

    def natural_update(
        self,
        prior: SparseGPPrior,
        X: Real[ArrayLike, "N D"],
        y: Real[ArrayLike, " N"],
        noise_var: Real[ArrayLike, "..."] | None = None,
        n_total: int | None = None,
        *,
        likelihood: Callable | None = None,
        rate: float | Float[Array, ""] = 1.0,
        n_points: int = N_POINTS,
    ) -> "NaturalGuide":
        """The guide after a natural-gradient step on the evidence lower bound.

        A step of rate one leads to the optimum for Gaussian noise. Where it would lead
        to no Gaussian, as it may with heavy tails, it is halved until it does; whether
        the bound rises is not looked at. `fit_sparse` searches.

        Args:
            rate: above 0 and at most 1; smaller for minibatches.

        Others are those of `elbo`.

        Raises:
            ValueError: what `guide.elbo` raises; a rate outside of its range; a
                covariance of Z without a factor.

        Cost: O(M^3 + N M^2), and `n_points` slopes of the density a datum.

        Source: Khan & Lin 2017 (arXiv 1703.04265); Salimbeni et al. 2018 (arXiv
            1803.09151).
        """
        call = "guide.natural_update"
        as_guide(call, self, prior)
        data = ready(call, prior, self), X, y, noise_var, likelihood
        sizes = n_total, n_points
        checked = as_bound_data(call, self, *data, *sizes, at_run_time=True)
        prior, X, law, values, total = checked
        step = jnp.asarray(_as_rate(f"{call}(rate=...)", rate), X.dtype)
        new = sparse_checked(prior, _updated(self, prior, law, X, values, step, total))
        return NaturalGuide(*new, name=self.name)


def _as_rate(call: str, rate: float | Array) -> float | Array:
    if is_traced(rate) or 0 < float(np.asarray(rate)) <= 1:
        return rate
    raise ValueError(
        f"`{call}` must be above 0 and at most 1. Got {rate}. Pass 1.0 for all data, "
        "0.1 for minibatches, say."
    )


@functools.partial(jit, static_argnames="n_total")
def _updated(
    guide: NaturalGuide,
    prior: SparseGPPrior,
    law: AbstractLikelihood,
    X: Float[Array, "N D"],
    y: Shaped[Array, " N"],
    rate: Float[Array, ""],
    n_total: int,
) -> tuple[tuple[Array, Array], Array]:
    inducing, scale = prior.inducing(), n_total / X.shape[0]
    projection = prior.project(inducing, X)
    eye = jnp.eye(guide.size, dtype=X.dtype)
    linear, precision = (
        part.astype(X.dtype) for part in (guide.linear, guide.precision)
    )
    q, ok = from_precision(precision - eye, linear)
    _, target = bound_and_target(law, projection, y, q)
    A = projection.explained
    towards = eye + scale * (A * target.precision[None]) @ A.T

    def stepped(rate):
        moved = precision + rate * (towards - precision)
        return (moved + moved.T) / 2

    def fails(state):
        rate, n = state
        _, is_precision = guarded_factor(stepped(rate), jnp.zeros_like(rate))
        return ~is_precision & (n < _MOST_HALVINGS)

    def halved(state):
        return state[0] / 2, state[1] + 1

    rate, _ = jax.lax.while_loop(fails, halved, (rate, jnp.zeros((), jnp.int32)))
    moved = linear + rate * (scale * A @ target.linear - linear)
    return (moved, stepped(rate)), inducing.factor.succeeded() & ok
