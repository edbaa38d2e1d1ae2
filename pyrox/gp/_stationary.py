"""Stationary kernels: each Gram function side by side with its spectral measure."""

import abc
import functools
import operator

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray
from numpyro.distributions import constraints

from ._checks import as_count, as_float, common_dtype
from ._features import AbstractFeatures, FourierFeatures
from ._hyper import hyperparameter, site
from ._kernel import AbstractKernel


class AbstractStationary(AbstractKernel):
    """k(x, x') = variance * g(|(x - x') / lengthscale|^2).

    A subclass states g and its spectral measure; the rest is here once.
    """

    variance: eqx.AbstractVar[Float[Array, ""]]
    lengthscale: eqx.AbstractVar[Float[Array, "..."]]

    @abc.abstractmethod
    def correlation(self, r2: Float[Array, "..."]) -> Float[Array, "..."]:
        """g, with g(0) = 1, of squared scaled distances."""

    @abc.abstractmethod
    def unit_frequencies(
        self, key: PRNGKeyArray, shape: tuple[int, int]
    ) -> Float[Array, "m D"]:
        """Draws from the spectral measure at lengthscale 1: one row a frequency."""

    def __call__(
        self, X1: Float[Array, "N D"], X2: Float[Array, "M D"]
    ) -> Float[Array, "N M"]:
        X1, X2 = as_float(X1), as_float(X2)
        if X1.ndim != 2 or X2.ndim != 2 or X1.shape[1] != X2.shape[1]:
            raise ValueError(
                f"`{type(self).__name__}(X1, X2)` must be given shapes (N, D) and "
                f"(M, D). Got {X1.shape} and {X2.shape}. "
                "For one input dimension pass `X[:, None]`."
            )
        dtype = common_dtype(X1, X2)
        scale = self._inverse_lengthscale(X1.shape[1]).astype(dtype)
        r2 = squared_distances(X1.astype(dtype), X2.astype(dtype), scale)
        return self.variance.astype(dtype) * self.correlation(r2)

    def diag(self, X: Float[Array, "N D"]) -> Float[Array, " N"]:
        X = as_float(X)
        return jnp.broadcast_to(self.variance.astype(X.dtype), X.shape[:1])

    def features(
        self, key: PRNGKeyArray, n_features: int, in_size: int
    ) -> AbstractFeatures:
        call = f"{type(self).__name__}.features(n_features)"
        m = as_count(call, n_features, 2, even=True) // 2
        frequencies = self.unit_frequencies(key, (m, in_size))
        return FourierFeatures(
            frequencies * self._inverse_lengthscale(in_size)[None, :],
            jnp.broadcast_to(self.variance / m, (m,)),
        )

    def _inverse_lengthscale(self, in_size: int) -> Float[Array, " D"]:
        if self.lengthscale.shape not in ((), (in_size,)):
            raise ValueError(
                f"`{site(self, 'lengthscale')}` has shape {self.lengthscale.shape} and "
                f"the inputs have D={in_size}. Pass one lengthscale, or one a column."
            )
        return jnp.broadcast_to(1 / self.lengthscale, (in_size,))


class RBF(AbstractStationary):
    """The squared exponential kernel: variance * exp(-r^2 / 2), r = |x - x'| / l.

    Rasmussen & Williams 2006, eq. 4.9. Its spectral measure is normal.

    Args:
        init_variance: k(x, x), in squared units of the function.
        init_lengthscale: in input units, () or one for each input, (D,).
        name: the prefix of its NumPyro sites.

    Raises:
        ValueError: a value that is not positive and finite, or another shape.

    Cost: O(N M D) time, O(N M) memory for a Gram matrix.

    Example:
        >>> import jax.numpy as jnp
        >>> from pyrox.gp import RBF
        >>> X = jnp.array([[0.0], [1.0]])
        >>> RBF(init_variance=2.0)(X, X).shape
        (2, 2)
    """

    variance: Float[Array, ""] = hyperparameter(constraints.positive)
    lengthscale: Float[Array, "..."] = hyperparameter(
        constraints.positive, ndims=(0, 1)
    )

    def __init__(
        self,
        init_variance: ArrayLike = 1.0,
        init_lengthscale: ArrayLike = 1.0,
        name: str = "RBF",
    ):
        self.variance = as_float(init_variance)
        self.lengthscale = as_float(init_lengthscale)
        self.name = name
        self.priors = ()

    def correlation(self, r2: Float[Array, "..."]) -> Float[Array, "..."]:
        return jnp.exp(-r2 / 2)

    def unit_frequencies(
        self, key: PRNGKeyArray, shape: tuple[int, int]
    ) -> Float[Array, "m D"]:
        return jr.normal(key, shape, self.lengthscale.dtype)


class Matern(AbstractStationary):
    """The Matern kernel of smoothness nu = 1/2, 3/2 or 5/2, with z = sqrt(2 nu) r:

        nu = 1/2: variance * exp(-z)
        nu = 3/2: variance * (1 + z) exp(-z)
        nu = 5/2: variance * (1 + z + z^2 / 3) exp(-z)

    Rasmussen & Williams 2006, eq. 4.14. Its spectral measure is a multivariate
    Student-t with 2 nu degrees of freedom: a normal vector over the root of one
    Gamma(nu, rate nu) draw, shared by the coordinates of that vector. (Independent
    Student-t coordinates give a product of one-dimensional kernels instead.)

    First input derivatives exist for nu >= 3/2, also where two points coincide, and are
    given as zero there for nu = 1/2, whose paths have none.

    Args:
        nu: 0.5, 1.5 or 2.5.
        init_variance: k(x, x), in squared units of the function.
        init_lengthscale: in input units, () or one for each input, (D,).
        name: the prefix of its NumPyro sites.

    Raises:
        ValueError: another nu; a value that is not positive and finite; another shape.

    Cost: O(N M D) time, O(N M) memory for a Gram matrix.

    Example:
        >>> import jax.numpy as jnp
        >>> from pyrox.gp import Matern
        >>> float(Matern(nu=0.5)(jnp.array([[0.0]]), jnp.array([[1.0]]))[0, 0])
        0.36787...
    """

    nu: float = eqx.field(static=True)
    variance: Float[Array, ""] = hyperparameter(constraints.positive)
    lengthscale: Float[Array, "..."] = hyperparameter(
        constraints.positive, ndims=(0, 1)
    )

    def __init__(
        self,
        nu: float = 2.5,
        init_variance: ArrayLike = 1.0,
        init_lengthscale: ArrayLike = 1.0,
        name: str = "Matern",
    ):
        if nu not in _MATERN:
            raise ValueError(
                f"`Matern(nu=...)` must be one of {', '.join(map(str, _MATERN))}. "
                f"Got {nu}. For smoother functions use `RBF`."
            )
        self.variance = as_float(init_variance)
        self.lengthscale = as_float(init_lengthscale)
        self.nu = float(nu)
        self.name = name
        self.priors = ()

    def correlation(self, r2: Float[Array, "..."]) -> Float[Array, "..."]:
        return _MATERN[self.nu](2 * self.nu * r2)

    def unit_frequencies(
        self, key: PRNGKeyArray, shape: tuple[int, int]
    ) -> Float[Array, "m D"]:
        # Gamma(nu, rate nu) is the mean of 2 nu squared normals: no rejection loop,
        # which compiles and runs far slower, above all under vmap.
        m, in_size = shape
        n_columns = in_size + round(2 * self.nu)
        normal = jr.normal(key, (m, n_columns), self.lengthscale.dtype)
        mixing = jnp.mean(normal[:, in_size:] ** 2, axis=1, keepdims=True)
        return normal[:, :in_size] * jax.lax.rsqrt(mixing)


@jax.custom_jvp
@jax.jit
def squared_distances(
    X1: Float[Array, "N D"], X2: Float[Array, "M D"], scale: Float[Array, " D"]
) -> Float[Array, "N M"]:
    """Squared distances between rows, each column's difference times its `scale`.

    Differences are taken before anything else, so years near 2020 in float32 lose
    nothing. |x|^2 + |x'|^2 - 2 x.x' would be one matrix product, but it loses half of
    the digits of small distances, which a Matern kernel's root then shows, and with a
    product after it is hardly faster at 26 columns and slower at four.
    """
    rows, columns = X1.T, _contiguous_columns(X2)
    n_groups, size = _groups(X1.shape[1])
    if n_groups == 1:
        return _unrolled_distances(rows, columns, scale)
    fill = n_groups * size - X1.shape[1]
    groups = [
        jnp.pad(x, ((0, fill), (0, 0))).reshape(n_groups, size, x.shape[1])
        for x in (rows, columns, scale[:, None])
    ]

    def add(total, group):
        left, right, scale = group
        return total + _unrolled_distances(left, right, scale[:, 0]), None

    total = jnp.zeros((X1.shape[0], X2.shape[0]), X1.dtype)
    return jax.lax.scan(add, total, tuple(groups))[0]


def _groups(in_size: int) -> tuple[int, int]:
    """How many groups of columns are added in turn, and the columns in each.

    Up to four columns are one fused pass. More in one pass XLA would fuse with the
    products of a derivative, in reverse, to a program of twice the time; a loop keeps
    them apart, and compiles in constant time.
    """
    if in_size <= 4:
        return 1, in_size
    n_groups = max(2, -(-in_size // 16))
    return n_groups, -(-in_size // n_groups)


def _unrolled_distances(left: Array, right: Array, scale: Array) -> Array:
    """(D, N) and (D, M): one term a column, which XLA fuses into one pass."""
    terms = [
        ((left[d][:, None] - right[d][None, :]) * scale[d]) ** 2
        for d in range(scale.shape[0])
    ]
    return functools.reduce(operator.add, terms)


def _contiguous_columns(X: Array) -> Array:
    """X^T with each column contiguous in memory, exactly.

    As a product with the identity, since XLA undoes a plain transpose, and the fused
    pass over strided columns is not vectorised: 2.6 times slower at four columns.
    """
    if X.shape[1] == 1:
        return X.T
    identity = jnp.eye(X.shape[1], dtype=X.dtype)
    return jnp.matmul(identity, X.T, precision=jax.lax.Precision.HIGHEST)


@squared_distances.defjvp
def _squared_distances_jvp(primals, tangents):
    # d |a - b|^2 = 2 (a - b).(da - db) for the scaled a and b, as matrix products:
    # several times faster than differentiating the sum, which makes a pass over (N, M)
    # for each column. Measured from a row of X1, they round like the differences do.
    (X1, X2, scale), (dX1, dX2, dscale) = primals, tangents
    origin = jax.lax.stop_gradient(X1[:1])
    A, B = (X1 - origin), (X2 - origin)
    dA = dX1 * scale[None, :] + A * dscale[None, :]
    dB = dX2 * scale[None, :] + B * dscale[None, :]
    A, B = A * scale[None, :], B * scale[None, :]
    own = jnp.sum(A * dA, axis=1)[:, None] + jnp.sum(B * dB, axis=1)[None, :]
    return squared_distances(X1, X2, scale), 2 * (own - A @ dB.T - dA @ B.T)


# Matern functions of t = 2 nu r^2. Written in the squared distance, each one's
# derivative is a smoother one's neighbour, so no root is differentiated at zero:
# all derivatives that exist are right where two points coincide.


@jax.custom_jvp
def _matern12(t: Array) -> Array:
    return jnp.exp(-jnp.sqrt(t))


@jax.custom_jvp
def _matern32(t: Array) -> Array:
    z = jnp.sqrt(t)
    return (1 + z) * jnp.exp(-z)


@jax.custom_jvp
def _matern52(t: Array) -> Array:
    z = jnp.sqrt(t)
    return (1 + z + t / 3) * jnp.exp(-z)


@_matern12.defjvp
def _matern12_jvp(primals, tangents):
    # Infinite at zero, where the kernel has a kink: zero is the middle of its slopes.
    (t,), (dt,) = primals, tangents
    away = jnp.where(t > 0, t, 1)
    slope = -_matern12(away) / (2 * jnp.sqrt(away))
    return _matern12(t), jnp.where(t > 0, slope, 0) * dt


@_matern32.defjvp
def _matern32_jvp(primals, tangents):
    (t,), (dt,) = primals, tangents
    return _matern32(t), -_matern12(t) / 2 * dt


@_matern52.defjvp
def _matern52_jvp(primals, tangents):
    (t,), (dt,) = primals, tangents
    return _matern52(t), -_matern32(t) / 6 * dt


_MATERN = {0.5: _matern12, 1.5: _matern32, 2.5: _matern52}
