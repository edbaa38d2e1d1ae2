"""A drawn function: what it is made of, evaluation, selection."""

from collections.abc import Callable, Iterator

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Real

from ._checks import as_inputs, common_dtype, is_traced
from ._features import AbstractFeatures
from ._kernel import AbstractKernel
from ._mean import mean_at


class PathwiseFunction(eqx.Module):
    """S functions drawn from a Gaussian process, callable anywhere.

        f_s(x) = mean(x) + phi(x) w_s + k(x, anchors) v_s

    A prior draw phi w plus the update that data make (Wilson et al. 2020, eq. 10;
    2021, arXiv 2011.04026). It is a pytree of arrays: it is returned from `jit`,
    stacked by `vmap` (over draws of hyperparameters, say) and passed as an argument
    without a new trace. `paths(X)` is `(S, N)`; `paths[i]` and `paths[2:5]` choose
    draws and keep the leading axis, so `paths[i](X)` is `(1, N)`; `len(paths)` is S.

    It compares and hashes by identity, so that `jax.jit(paths)` works.

    Cost of a call on N points: O(N (F + M) (D + S)) time and O(N (F + M)) memory, for F
    features and M anchors.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from pyrox.gp import RBF, GPPrior, PathwiseSampler
        >>> prior = GPPrior(RBF(), X=jnp.zeros((1, 1)))
        >>> paths = PathwiseSampler(prior, 64).sample_paths(jax.random.key(0), 5)
        >>> paths(jnp.linspace(0, 1, 7)[:, None]).shape, len(paths[2:4])
        ((5, 7), 2)
    """

    features: AbstractFeatures
    feature_weights: Float[Array, "S F"]
    anchors: Float[Array, "M D"]
    update_weights: Float[Array, "S M"]
    kernel: AbstractKernel
    mean_fn: Callable

    def __call__(self, X: Real[ArrayLike, "N D"]) -> Float[Array, "S N"]:
        """The values of every path at every row of `X`.

        Raises:
            ValueError: a shape that is not (N, D), NaN or inf; under `jit` the latter
                when the program runs.
        """
        if self.feature_weights.ndim != 2:
            raise ValueError(
                "`paths(X)`: these paths are stacked, with leading axes "
                f"{self.feature_weights.shape[:-2]}. "
                "Map over them: `jax.vmap(lambda path: path(X))(paths)`."
            )
        X = as_inputs("paths(X)", X, self.anchors.shape[-1])
        return _evaluate(self, X.astype(common_dtype(X, self.feature_weights)))

    @property
    def n_paths(self) -> int:
        """S, the number of functions."""
        return self.feature_weights.shape[-2]

    def __len__(self) -> int:
        return self.n_paths

    def __getitem__(self, index: slice | ArrayLike) -> "PathwiseFunction":
        if not isinstance(index, slice):
            index = self._in_range(index)
        chosen = [self.feature_weights[index], self.update_weights[index]]
        return eqx.tree_at(
            lambda p: [p.feature_weights, p.update_weights], self, chosen
        )

    def _in_range(self, index: ArrayLike) -> Array:
        """One index or many, of rank one so that the leading axis stays."""
        indices = jnp.atleast_1d(jnp.asarray(index))
        if is_traced(indices) or indices.dtype == bool:
            return indices
        concrete = np.asarray(indices)
        if not ((-len(self) <= concrete) & (concrete < len(self))).all():
            raise IndexError(f"`paths[{index}]`: there are {len(self)} paths, from 0.")
        return indices

    def __iter__(self) -> Iterator["PathwiseFunction"]:
        return (self[i] for i in range(len(self)))

    __hash__ = object.__hash__
    __eq__ = object.__eq__


@jax.jit
def _evaluate(path: PathwiseFunction, X: Array) -> Array:
    dtype = X.dtype
    drawn = path.features(X) @ path.feature_weights.astype(dtype).T
    update = path.kernel(X, path.anchors) @ path.update_weights.astype(dtype).T
    return (mean_at(path.mean_fn, X)[:, None] + drawn + update).T
