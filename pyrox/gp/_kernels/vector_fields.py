"""Vector fields without divergence or without curl: slopes of potentials.

A field that is linear in the derivatives of a Gaussian process is one itself, and its
covariances are the derivatives of that process's kernel, so that every path of it keeps
the law exactly (Narcowich & Ward 1994; Wahlstrom, Kok, Schon & Gustafsson 2013).
"""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._features.basis import Lifted
from .._features.maps import AbstractFeatures
from .._hyper.checks import as_points, common_dtype
from .._hyper.scales import Scales, part
from .active_dims import ActiveDims
from .given import as_kernel
from .kernel import AbstractKernel, Rule
from .output_index import Outputs, as_outputs, output_rule

_Directions = tuple[tuple[tuple[float, ...], ...], ...]


def _of_potential(_: Any, data: Scales) -> Scales:
    """A field has the size of its potential over a length."""
    inputs = Scales(data.inputs[:-1], data.variance)
    return Scales(inputs.inputs, inputs.length**2 * inputs.variance)


class AbstractVectorField(AbstractKernel):
    """A field f_i = sum_b c_bi . grad psi_b of independent potentials of one kernel.

    Its inputs have C = D + 1 columns, the last one the number i of a component.
    """

    kernel: eqx.AbstractVar[AbstractKernel]

    @abc.abstractmethod
    def directions(self, in_size: int) -> np.ndarray:
        """The c, (potentials, components, inputs), for fields in this many inputs."""

    @abc.abstractmethod
    def unlawful(self, jacobian: Float[Array, "... D D"]) -> Float[Array, "... D D"]:
        """`breach`, of a Jacobian of all components."""

    def __call__(
        self, X1: Float[Array, "N C"], X2: Float[Array, "M C"]
    ) -> Float[Array, "N M"]:
        dtype = common_dtype(X1 := as_points(X1), X2 := as_points(X2))
        X1, X2 = X1.astype(dtype), X2.astype(dtype)
        left, right = self._components(X1), self._components(X2)
        total = jnp.zeros((X1.shape[0], X2.shape[0]), dtype)
        for c1, c2 in zip(self._along(left, X1), self._along(right, X2), strict=True):

            def slope(a, c2=c2):
                return _along(lambda b: self.kernel(a, b).T, X2[:, :-1], c2).T

            total = total + _along(slope, X1[:, :-1], c1)
        return right.only(left.only(total).T).T

    def diag(self, X: Float[Array, "N C"]) -> Float[Array, " N"]:
        X = as_points(X)
        components = self._components(X)

        def variance(x, c):
            def slope(a):
                return _along(lambda b: self.kernel(a[None], b[None])[0, 0], x, c)

            return _along(slope, x, c)

        each = [jax.vmap(variance)(X[:, :-1], c) for c in self._along(components, X)]
        return components.only(sum(each[1:], start=each[0]))

    @property
    def smoothness(self) -> float:
        return self.kernel.smoothness - 1

    def rules(self, X: Any) -> tuple[Rule, ...]:
        return (output_rule(type(self).__name__, X[..., -1], X.shape[-1] - 1),)

    def lifted(self, in_size: int) -> Lifted:
        directions = self.directions(in_size - 1)
        static = type(self).__name__, _as_static(directions)
        potential = ActiveDims(self.kernel, range(in_size - 1))
        return Lifted(
            potential, lambda phi: FieldFeatures(phi, *static), len(directions)
        )

    def breach(self, jacobian: Float[Array, "... P D"]) -> Float[Array, "... P D"]:
        n_components, in_size = jacobian.shape[-2:]
        if n_components != in_size:  # of some components no law is known
            return jnp.zeros_like(jacobian)
        return self.unlawful(jacobian)

    def _components(self, X: Float[Array, "N C"]) -> Outputs:
        return as_outputs(type(self).__name__, X[:, -1], X.shape[1] - 1)

    def _along(
        self, components: Outputs, X: Float[Array, "N C"]
    ) -> Float[Array, "B N D"]:
        """The direction of each row for each potential."""
        directions = jnp.asarray(self.directions(X.shape[1] - 1), X.dtype)
        return directions[:, components.numbers]


class DivergenceFree(AbstractVectorField):
    """A vector field without divergence, in two or three inputs: flows of what neither
    appears nor vanishes, magnetic fields.

    In two inputs f = (d psi / dx_1, -d psi / dx_0) of a stream function psi ~ GP(0, k),
    in three f = curl A of three independent potentials. Inputs have one more column at
    the end, the number of a component, from 0: see `MultiOutputPrior`. All that is
    drawn, predicted or conditioned has no divergence beyond rounding.

    Args:
        kernel: of the potential, of D inputs and smooth enough to have slopes. The
            variance of the field is its variance over a lengthscale squared, in three
            inputs twice that.
        name: of this module; hyperparameters are those of the kernel.

    Raises:
        ValueError: a kernel whose functions have no derivative; other than two or three
            inputs; a component that is no whole number from 0 to D - 1.

    Cost: 4 kernel values an entry of a Gram matrix, in three inputs 12.

    Source: Narcowich & Ward 1994; Wahlstrom et al. 2013.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from pyrox.gp import (
        ...     RBF, DivergenceFree, MultiOutputPrior, MultiOutputSampler
        ... )
        >>> X = jnp.array([[0.0, 0.0], [1.0, 0.5]])
        >>> velocity = jnp.array([[1.0, 0.2], [0.7, -0.1]])
        >>> prior = MultiOutputPrior(DivergenceFree(RBF()), X, n_outputs=2)
        >>> posterior = prior.condition(velocity, noise_var=0.01)
        >>> sampler = MultiOutputSampler(posterior, 256)
        >>> paths = sampler.sample_paths(jax.random.key(0), 3)
        >>> jacobian = paths.gradient(jnp.array([[0.3, 0.4]]))
        >>> divergence = jacobian[..., 0, 0] + jacobian[..., 1, 1]
        >>> bool(jnp.abs(divergence).max() < 1e-5)
        True
    """

    kernel: AbstractKernel = part(_of_potential)

    def __init__(self, kernel: AbstractKernel, name: str = ""):
        self.kernel = _as_potential(type(self).__name__, kernel)
        self._set(name)

    def directions(self, in_size: int) -> np.ndarray:
        if in_size == 2:
            return np.array([[[0.0, 1.0], [-1.0, 0.0]]])
        if in_size != 3:
            raise ValueError(
                "`DivergenceFree` must see two or three inputs, and the number of a "
                f"component as the last column. Got {in_size} and that column."
            )
        # f_i = sum_ab e_iab d A_b / dx_a, at [b, i, a].
        axes = np.eye(3)
        return np.cross(axes[:, None], axes[None])

    def unlawful(self, jacobian: Float[Array, "... D D"]) -> Float[Array, "... D D"]:
        """Its trace, shared out over the diagonal."""
        in_size = jacobian.shape[-1]
        mean = jnp.trace(jacobian, axis1=-2, axis2=-1) / in_size
        leading = (1,) * mean.ndim
        eye = jnp.eye(in_size, dtype=jacobian.dtype).reshape(*leading, *(in_size,) * 2)
        return mean[..., None, None] * eye


class CurlFree(AbstractVectorField):
    """A vector field without curl, the gradient of a potential: forces that have one.

    f = grad psi with psi ~ GP(0, k), in any number of inputs, which have one more
    column at the end, the number of a component, from 0: see `MultiOutputPrior`. All
    that is drawn, predicted or conditioned has no curl beyond rounding.

    Args:
        kernel: of the potential, of D inputs and smooth enough to have slopes. The
            variance of the field is its variance over a lengthscale squared.
        name: of this module; hyperparameters are those of the kernel.

    Raises:
        ValueError: a kernel whose functions have no derivative; a component that is no
            whole number from 0 to D - 1.

    Cost: 4 kernel values an entry of a Gram matrix.

    Source: Wahlstrom et al. 2013.

    Example:
        >>> import jax.numpy as jnp
        >>> from pyrox.gp import RBF, CurlFree
        >>> X = jnp.array([[0.3, 0.4, 0.0], [0.3, 0.4, 1.0]])  # both components
        >>> CurlFree(RBF(init_lengthscale=0.5))(X, X)
        Array([[4., 0.],
               [0., 4.]], dtype=float32)
    """

    kernel: AbstractKernel = part(_of_potential)

    def __init__(self, kernel: AbstractKernel, name: str = ""):
        self.kernel = _as_potential(type(self).__name__, kernel)
        self._set(name)

    def directions(self, in_size: int) -> np.ndarray:
        return np.eye(in_size)[None]

    def unlawful(self, jacobian: Float[Array, "... D D"]) -> Float[Array, "... D D"]:
        """What is not symmetric in it."""
        return (jacobian - jnp.swapaxes(jacobian, -1, -2)) / 2


class FieldFeatures(AbstractFeatures):
    """The slopes of features of a potential in the directions of each component, side
    by side for several potentials."""

    phi: AbstractFeatures
    kind: str = eqx.field(static=True)
    directions: _Directions = eqx.field(static=True)

    def __call__(self, X: Float[Array, "N C"]) -> Float[Array, "N F"]:
        directions = np.array(self.directions)
        components = as_outputs(self.kind, X[:, -1], directions.shape[1])
        padded = np.pad(directions, ((0, 0), (0, 0), (0, 1)))  # not by the number
        rows = jnp.asarray(padded, X.dtype)[:, components.numbers]
        _, push = jax.linearize(self.phi, X)
        slopes = jnp.concatenate([push(c) for c in rows], axis=1)
        return components.only(slopes)


def _as_static(directions: np.ndarray) -> _Directions:
    return tuple(tuple(map(tuple, rows)) for rows in directions.tolist())


def _as_potential(kind: str, kernel: AbstractKernel) -> AbstractKernel:
    kernel = as_kernel(f"{kind}(kernel)", kernel)
    if kernel.smoothness < 1:
        raise ValueError(
            f"`{kind}(kernel)` must be of a potential that has slopes. Got a kernel "
            "whose functions have no derivative. Pass RBF or Matern(nu=2.5), say."
        )
    return kernel


def _along(f: Callable[[Array], Array], X: Array, directions: Array) -> Array:
    """The derivative of `f` at `X` in these directions, row by row if `f` is."""
    return jax.jvp(f, (X,), (directions,))[1]
