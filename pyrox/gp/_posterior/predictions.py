"""What a Gaussian process given data answers, whatever it was given."""

import abc
from collections.abc import Sequence

import equinox as eqx
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray, Real

from .._hyper.checks import as_count, common_dtype
from .._kernels.given import as_inputs_of
from .._kernels.kernel import AbstractKernel
from .._numerics.blocks import block_rows
from .._numerics.safe_sqrt import safe_sqrt
from .._solvers.joint_draw import draw
from . import moments
from .conditional import Conditional
from .derivatives import DerivativeSites, require_derivatives


class AbstractConditioned(eqx.Module):
    """A Gaussian process f given data, and its predictions, without noise."""

    @property
    @abc.abstractmethod
    def X(self) -> Float[Array, "N D"]:
        """The inputs that it was conditioned on."""

    @property
    @abc.abstractmethod
    def kernel(self) -> AbstractKernel:
        """The covariance function of the prior."""

    @abc.abstractmethod
    def _conditional(self) -> Conditional:
        """The algebra of it."""

    def predict_mean(
        self, X: Real[ArrayLike, "M D"], *, block_size: int | None = None
    ) -> Float[Array, " M"]:
        """E[f(X) | y].

        Cost: O(M N) time; memory of one block of rows, which `block_size` overrides.
        """
        X = self._query("predict_mean", X)
        size = self._rows("predict_mean", X, block_size)
        return moments.mean(self._conditional(), X, block_size=size)

    def predict_var(
        self, X: Real[ArrayLike, "M D"], *, block_size: int | None = None
    ) -> Float[Array, " M"]:
        """Var[f(x) | y] at each row; rounding below zero is cut off.

        By an iterative solver it takes a solve for each row, a block of rows together:
        for many rows the variance over paths, `paths(X).var(0)`, is cheaper.

        Cost: O(M N^2) time; memory of one block of rows, which `block_size` overrides.
        """
        X = self._query("predict_var", X)
        size = self._rows("predict_var", X, block_size)
        return moments.var(self._conditional(), X, block_size=size)

    def predict(
        self, X: Real[ArrayLike, "M D"], *, block_size: int | None = None
    ) -> tuple[Float[Array, " M"], Float[Array, " M"]]:
        """`predict_mean` and `predict_var`."""
        X = self._query("predict", X)
        size = self._rows("predict", X, block_size)
        given = self._conditional()
        mean = moments.mean(given, X, block_size=size)
        return mean, moments.var(given, X, block_size=size)

    def predict_std(
        self, X: Real[ArrayLike, "M D"], *, block_size: int | None = None
    ) -> Float[Array, " M"]:
        """The root of `predict_var`; its gradient is zero where the variance is."""
        return safe_sqrt(self.predict_var(X, block_size=block_size))

    def predict_cov(
        self, X: Real[ArrayLike, "M D"], Z: Real[ArrayLike, "K D"] | None = None
    ) -> Float[Array, "M K"]:
        """Cov[f(X), f(Z) | y], of all rows of X with all rows of Z; Z is X by default.

        Cost: O((M + K) N^2 + M K N); memory of the result and K N, or M N without Z.
        """
        X = self._query("predict_cov", X)
        if Z is None:
            return moments.cov(self._conditional(), X)
        call = "ConditionedGP.predict_cov(Z=...)"
        Z = as_inputs_of(self.kernel, call, Z, self.X.shape[1])
        X, Z = (x.astype(common_dtype(X, Z)) for x in (X, Z))
        size = self._rows("predict_cov", X, None)
        return moments.cross_cov(self._conditional(), X, Z, block_size=size)

    def predict_gradient(
        self, X: Real[ArrayLike, "M D"], *, block_size: int | None = None
    ) -> tuple[Float[Array, "M D"], Float[Array, "M D D"]]:
        """Mean and covariance of the gradient of f at each row, given y, by derivatives
        of the kernel (Rasmussen & Williams 2006, section 9.4).

        Raises:
            ValueError: a kernel whose functions have no derivative (Matern-1/2).

        Cost: 1 + D times that of `predict_var`.

        Example:
            >>> import jax.numpy as jnp
            >>> from pyrox.gp import RBF, GPPrior
            >>> X = jnp.array([[0.0], [1.0]])
            >>> posterior = GPPrior(RBF(), X).condition(jnp.array([1.0, -1.0]), 0.01)
            >>> mean, cov = posterior.predict_gradient(jnp.array([[0.5]]))
            >>> mean.shape, cov.shape
            ((1, 1), (1, 1, 1))
        """
        mean, cov = self._value_and_gradient("predict_gradient", X, block_size)
        return mean[:, 1:], cov[:, 1:, 1:]

    def predict_value_and_gradient(
        self, X: Real[ArrayLike, "M D"], *, block_size: int | None = None
    ) -> tuple[Float[Array, "M 1+D"], Float[Array, "M 1+D 1+D"]]:
        """Mean and covariance of (f, df/dx_0, df/dx_1, ...) at each row, jointly."""
        return self._value_and_gradient("predict_value_and_gradient", X, block_size)

    def predict_derivatives(
        self, X: Real[ArrayLike, "M D"], dims: int | Sequence[int]
    ) -> tuple[Float[Array, " M"], Float[Array, "M M"]]:
        """Mean and covariance of df/dx_{dims[i]} at X[i], joint over the rows.

        Cost: O(M N^2 + M^2 N).
        """
        call = "ConditionedGP.predict_derivatives"
        X = self._query("predict_derivatives", X)
        require_derivatives(call, self.kernel, 1)
        return moments.derivatives(self._conditional(), DerivativeSites(call, X, dims))

    def sample(
        self, key: PRNGKeyArray, X: Real[ArrayLike, "M D"], n_samples: int = 1
    ) -> Float[Array, "S M"]:
        """Joint draws of f(X) | y, exact.

        The draw is defined at these points only; `PathwiseSampler` gives functions. For
        one key it can be differentiated by the points, the data, the hyperparameters.

        Cost: O(M N^2 + M^3) operations, O(M N + M^2) memory.
        """
        n_samples = as_count("ConditionedGP.sample(n_samples=...)", n_samples)
        X = self._query("sample", X)
        given, size = self._conditional(), self._rows("sample", X, None)
        mean = moments.mean(given, X, block_size=size)
        return draw(key, mean, moments.cov(given, X), n_samples)

    def _query(self, method: str, X: ArrayLike) -> Array:
        weights = self._conditional().weights
        self._require_one(f"{method}(X)")
        call = f"ConditionedGP.{method}(X)"
        X = as_inputs_of(self.kernel, call, X, self.X.shape[1])
        return X.astype(common_dtype(X, weights))

    def _require_one(self, method: str) -> None:
        weights = self._conditional().weights
        if weights.ndim != 1:
            raise ValueError(
                f"`ConditionedGP.{method}`: these posteriors are stacked, with "
                f"leading axes {weights.shape[:-1]}. Map over them: "
                f"`jax.vmap(lambda posterior: posterior.{method})(posteriors)`."
            )

    def _value_and_gradient(
        self, method: str, X: ArrayLike, block_size: int | None
    ) -> tuple[Array, Array]:
        X = self._query(method, X)
        require_derivatives(f"ConditionedGP.{method}", self.kernel, 1)
        size = self._rows(method, X, block_size)
        size = max(1, size // (1 + X.shape[1]))
        found = moments.value_and_gradient(self._conditional(), X, block_size=size)
        return found[:, 0], found[:, 1:]

    def _rows(self, method: str, X: Array, block_size: int | None) -> int:
        call = f"ConditionedGP.{method}"
        n_values = self._conditional().weights.shape[0]
        return block_rows(call, block_size, n_values, X.dtype)
