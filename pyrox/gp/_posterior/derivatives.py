"""Derivatives as observations: where they are taken, and their covariances.

A partial derivative of a Gaussian process is Gaussian together with its values, and its
covariances are the kernel's derivatives (Rasmussen & Williams 2006, eq. 9.1):

    Cov[f(x), df/dx'_d] = dk(x, x') / dx'_d

They come from the kernel by forward differentiation. A Gram matrix treats each row of
its arguments alone, so one Jacobian-vector product gives the derivative of every row by
an input of its own, for the price of two Gram matrices.
"""

from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Real

from .._hyper.checks import as_inputs, as_noise, as_numbers, as_values
from .._kernels.given import keep_rules
from .._kernels.kernel import AbstractKernel


class DerivativeSites(eqx.Module):
    """Points, and the input by which the derivative is taken at each."""

    X: Float[Array, "M D"]
    dims: tuple[int, ...] = eqx.field(static=True)

    def __init__(self, call: str, X: Real[ArrayLike, "M D"], dims: int | Sequence[int]):
        self.X = as_inputs(f"{call}(X=...)", X, at_run_time=False)
        self.dims = _as_dims(f"{call}(dims=...)", dims, *self.X.shape)

    def directions(self) -> Float[Array, "M D"]:
        """One unit vector for each row."""
        axes = np.eye(self.X.shape[1], dtype=self.X.dtype)
        return jnp.asarray(axes[np.array(self.dims)])


class Derivatives(eqx.Module):
    """Observed partial derivatives: values[i] = df/dx_{dims[i]} at X[i], plus noise.

    What `GPPrior.condition(y, noise_var, derivatives)` takes beside the values y. The
    points may be those of the values or others, in any number. For whole gradients G of
    shape (N, D) at X pass each row D times, or call `Derivatives.of_gradients`.

    Args:
        X: points, one row for each derivative.
        dims: the input that each is taken by, from 0; one number stands for all.
        values: the derivatives, in units of the function over those of the input.
        noise_var: the variance of their noise, one or one for each.

    Raises:
        ValueError: shapes that do not fit, NaN or inf, an input that does not exist,
            noise that is not positive.

    Example:
        >>> import jax.numpy as jnp
        >>> from pyrox.gp import RBF, Derivatives, GPPrior
        >>> X = jnp.array([[0.0], [1.0]])
        >>> flat = Derivatives(X, 0, jnp.zeros(2), noise_var=1e-4)
        >>> posterior = GPPrior(RBF(), X).condition(jnp.zeros(2), 1e-4, flat)
        >>> mean, cov = posterior.predict_gradient(X)
        >>> bool((cov[:, 0, 0] < 2e-4).all())
        True
    """

    sites: DerivativeSites
    values: Float[Array, " M"]
    noise_var: Float[Array, "..."]

    def __init__(
        self,
        X: Real[ArrayLike, "M D"],
        dims: int | Sequence[int],
        values: Real[ArrayLike, " M"],
        noise_var: Real[ArrayLike, "..."],
    ):
        call = "Derivatives"
        self.sites = DerivativeSites(call, X, dims)
        n = self.sites.X.shape[0]
        self.values = as_values(f"{call}(values=...)", values, n, at_run_time=False)
        self.noise_var = as_noise(
            f"{call}(noise_var=...)", noise_var, n, at_run_time=False
        )

    @staticmethod
    def of_gradients(
        X: Real[ArrayLike, "N D"],
        gradients: Real[ArrayLike, "N D"],
        noise_var: Real[ArrayLike, "..."],
    ) -> "Derivatives":
        """All partial derivatives at each row of `X`; one variance, or (N * D,).

        Example:
            >>> import jax.numpy as jnp
            >>> from pyrox.gp import Derivatives
            >>> X = jnp.zeros((5, 2))
            >>> Derivatives.of_gradients(X, jnp.ones((5, 2)), 0.1).values.shape
            (10,)
        """
        call = "Derivatives.of_gradients"
        X = as_inputs(f"{call}(X)", X, at_run_time=False)
        gradients = as_numbers(gradients, f"{call}(gradients)")
        if gradients.shape != X.shape:
            raise ValueError(
                f"`{call}(gradients)` must have the shape of X, {X.shape}. Got "
                f"{gradients.shape}. For some of them pass `Derivatives(X, dims, ...)`."
            )
        n, d = X.shape
        rows, dims = jnp.repeat(X, d, axis=0), tuple(range(d)) * n
        return Derivatives(rows, dims, gradients.reshape(-1), noise_var)


def sites_of(derivatives: Derivatives | None) -> DerivativeSites | None:
    return None if derivatives is None else derivatives.sites


def _as_dims(
    call: str, dims: int | Sequence[int], n: int, in_size: int
) -> tuple[int, ...]:
    array = np.asarray(dims)
    whole = np.issubdtype(array.dtype, np.integer) and array.shape in ((), (n,))
    if not whole:
        raise ValueError(
            f"`{call}` must be the number of an input, or one for each of the {n} rows "
            f"of X. Got {dims!r}. Inputs count from 0."
        )
    if not ((array >= 0) & (array < in_size)).all():
        worst = array.reshape(-1)[np.argmax((array < 0) | (array >= in_size))]
        raise ValueError(
            f"`{call}` must be inputs from 0 to {in_size - 1}, as X has D={in_size}. "
            f"Got {worst}."
        )
    return tuple(int(d) for d in np.broadcast_to(array, (n,)))


def require_derivatives(call: str, kernel: AbstractKernel, order: int) -> None:
    """Raise if functions of this kernel do not have that many derivatives."""
    if kernel.smoothness >= order:
        return
    have = ("no derivative", "one derivative", "two derivatives")
    raise ValueError(
        f"`{call}` needs functions with {have[order]}. Got a kernel whose functions "
        f"have {have[int(kernel.smoothness)]}: {_roughest(kernel)}. Use a smoother "
        "one, Matern(nu=2.5) or RBF, say."
    )


def _roughest(kernel: AbstractKernel) -> str:
    factors = [factor for term in kernel.terms() for factor in term]
    roughest = min(factors, key=lambda factor: factor.smoothness)
    nu = getattr(roughest, "nu", None)
    return type(roughest).__name__ + ("" if nu is None else f"(nu={nu})")


def checked(
    call: str, derivatives: Derivatives | None, kernel: AbstractKernel, X: Array
) -> Derivatives | None:
    """`derivatives`, if they fit the kernel and the inputs of the values."""
    if derivatives is None:
        return None
    call = f"{call}(derivatives=...)"
    if not isinstance(derivatives, Derivatives):
        raise ValueError(
            f"`{call}` must be a `Derivatives`. Got a {type(derivatives).__name__}. "
            "Pass `Derivatives(X, dims, values, noise_var)`."
        )
    if derivatives.sites.X.shape[1] != X.shape[1]:
        raise ValueError(
            f"`{call}` must have points of D={X.shape[1]}, as the inputs of the "
            f"values. Got D={derivatives.sites.X.shape[1]}. Pass the same columns."
        )
    keep_rules(kernel, call, derivatives.sites.X, at_run_time=False)
    require_derivatives(call, kernel, 1)
    return derivatives


def along(f: Callable[[Array], Array], sites: DerivativeSites) -> Float[Array, "M ..."]:
    """The derivative of each row of `f(X)`, which treats rows alone, by the input of
    that row."""
    return jax.jvp(f, (sites.X,), (sites.directions(),))[1]


def by_each_input(f: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """The derivatives of an `f` that treats rows alone, along a new last axis."""

    def slopes(rows):
        directions = jnp.eye(rows.shape[1], dtype=rows.dtype)
        _, push = jax.linearize(f, rows)
        # In turn, not by `vmap`, which would compute the kernel's slope D times.
        each = jax.lax.map(lambda d: push(jnp.broadcast_to(d, rows.shape)), directions)
        return jnp.moveaxis(each, 0, -1)

    return slopes


def observe(
    f: Callable[[Array], Array],
    X: Float[Array, "N D"],
    sites: DerivativeSites | None,
) -> Float[Array, "U ..."]:
    """The rows of `f(X)`, then the derivatives at the sites, if there are any."""
    values = f(X)
    return values if sites is None else jnp.concatenate([values, along(f, sites)])


def cross_gram(
    kernel: AbstractKernel,
    X1: Float[Array, "N D"],
    X2: Float[Array, "M D"],
    sites: DerivativeSites | None,
) -> Float[Array, "N U"]:
    """Cov of f(X1) with f(X2) and the derivatives at the sites."""
    if sites is None:
        return kernel(X1, X2)
    return observe(lambda rows: kernel(X1, rows).T, X2, sites).T


def gram(
    kernel: AbstractKernel, X: Float[Array, "N D"], sites: DerivativeSites | None
) -> Float[Array, "U U"]:
    """Cov of f(X) and the derivatives at the sites, all together."""
    return observe(lambda rows: cross_gram(kernel, rows, X, sites), X, sites)


def with_derivatives(
    y: Float[Array, " N"],
    noise_var: Float[Array, "..."],
    derivatives: Derivatives | None,
) -> tuple[Float[Array, " U"], Float[Array, "..."]]:
    """All observations and the variances of their noise, values first."""
    if derivatives is None:
        return y, noise_var
    n, m = y.shape[0], derivatives.values.shape[0]
    values = jnp.concatenate([y, derivatives.values.astype(y.dtype)])
    variances = (
        jnp.broadcast_to(noise_var, (n,)).astype(y.dtype),
        jnp.broadcast_to(derivatives.noise_var, (m,)).astype(y.dtype),
    )
    return values, jnp.concatenate(variances)
