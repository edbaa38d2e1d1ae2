"""Functions of several outputs: paths of the one process that these are."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray, Real

from .._features.basis import AbstractBasis
from .._hyper.checks import as_inputs, as_points
from .._hyper.unchecked import jit
from .._numerics.blocks import block_rows, map_rows
from .._posterior.by_outputs import stack_inputs
from .._posterior.derivatives import by_each_input
from .._posterior.mean import mean_at
from .._posterior.outputs import MultiOutputGP, MultiOutputPrior, as_table
from .formula import Formula
from .path import PathwiseFunction, bare
from .samplers import PathwiseSampler


class MultiOutputSampler(eqx.Module):
    """Draws functions of several outputs, as `PathwiseSampler` does of one.

    Args:
        posterior: what `MultiOutputPrior.condition` returned, or a `MultiOutputPrior`
            for prior draws.
        n_features: F, of all outputs together: a `Coregionalization` of P outputs takes
            P columns for each of the waves, of which there are F / P then.
        basis: as in `PathwiseSampler`.

    Raises:
        ValueError: as `PathwiseSampler`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from pyrox.gp import RBF, ActiveDims, Coregionalization
        >>> from pyrox.gp import MultiOutputPrior, MultiOutputSampler
        >>> kernel = ActiveDims(RBF(), (0,)) * ActiveDims(Coregionalization(1, 2), (1,))
        >>> prior = MultiOutputPrior(kernel, jnp.array([[0.0], [1.0]]), n_outputs=2)
        >>> sampler = MultiOutputSampler(prior.condition(jnp.ones((2, 2)), 0.01), 64)
        >>> sampler.sample_paths(jax.random.key(0), 8)(jnp.zeros((5, 1))).shape
        (8, 5, 2)
    """

    sampler: PathwiseSampler
    n_outputs: int = eqx.field(static=True)

    def __init__(
        self,
        posterior: MultiOutputGP | MultiOutputPrior,
        n_features: int = 1024,
        basis: AbstractBasis | str = "grid",
    ):
        if not isinstance(posterior, MultiOutputGP | MultiOutputPrior):
            raise ValueError(
                "`MultiOutputSampler(posterior)` must be what "
                "`MultiOutputPrior.condition` returned, or a MultiOutputPrior. Got a "
                f"{type(posterior).__name__}. For one output use `PathwiseSampler`."
            )
        self.sampler = PathwiseSampler(posterior.stacked, n_features, basis)
        self.n_outputs = posterior.n_outputs

    def sample_paths(self, key: PRNGKeyArray, n_paths: int = 1) -> "MultiOutputPaths":
        """`n_paths` functions."""
        paths = self.sampler.sample_paths(key, n_paths)
        return MultiOutputPaths(paths, self.n_outputs)


class MultiOutputPaths(eqx.Module):
    """S functions of P outputs, callable anywhere: `paths(X)` is (S, N, P).

    A pytree, as what it wraps: `stacked`, the paths of the one process whose inputs
    have the number of an output as the last column, for all that is not said here.
    `paths[i]` and `paths[2:5]` choose draws, `len(paths)` is S.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from pyrox.gp import RBF, ActiveDims, Coregionalization
        >>> from pyrox.gp import MultiOutputPrior, MultiOutputSampler
        >>> kernel = ActiveDims(RBF(), (0,)) * ActiveDims(Coregionalization(1, 2), (1,))
        >>> prior = MultiOutputPrior(kernel, jnp.array([[0.0], [1.0]]), n_outputs=2)
        >>> paths = MultiOutputSampler(prior, 64).sample_paths(jax.random.key(0), 8)
        >>> X = jnp.linspace(0, 1, 5)[:, None]
        >>> paths[:3](X).shape, paths.gradient(X).shape
        ((3, 5, 2), (8, 5, 2, 1))
    """

    stacked: PathwiseFunction
    n_outputs: int = eqx.field(static=True)

    def __call__(
        self, X: Real[ArrayLike, "N D"], *, block_size: int | None = None
    ) -> Float[Array, "S N P"]:
        """The values of every output of every path at every row of `X`.

        Raises:
            ValueError: as a `PathwiseFunction`.

        Cost: P times that of a `PathwiseFunction`.
        """
        X = self._rows("paths(X)", X)
        return as_table(self.stacked(X, block_size=block_size), self.n_outputs)

    def gradient(
        self, X: Real[ArrayLike, "N D"], *, block_size: int | None = None
    ) -> Float[Array, "S N P D"]:
        """The derivative of every output of every path at every row of `X`, by each
        input: of a vector field its Jacobian.

        Rounding leaves each entry off by eps times the terms that it is the sum of, and
        these grow with the number of data over the noise; so the entries of a field
        without divergence would add up to some, 3e-5 of the field in float32 with 50
        vectors. What the law of a `DivergenceFree` or `CurlFree` kernel does not allow
        is therefore taken out, which leaves the rest nearer to the truth. Derivatives
        of `paths` by JAX have it.

        Raises:
            ValueError: as `PathwiseFunction.gradient`.
        """
        X = self._rows("paths.gradient(X)", X)
        slopes = self.stacked.gradient(X, block_size=block_size)
        path, X = bare(self.stacked), X.astype(slopes.dtype)
        n_columns = path.feature_weights.shape[-1] + path.update_weights.shape[-1]
        size = block_rows("paths.gradient(X)", block_size, n_columns, X.dtype)
        return _lawful(path, slopes, X, n_outputs=self.n_outputs, block_size=size)

    def each(
        self, X: Real[ArrayLike, "S N D"], *, block_size: int | None = None
    ) -> Float[Array, "S N P"]:
        """Every output of each path at points of its own: path s at the rows of `X[s]`.
        So particles are followed, each along the flow of its path.

        Raises:
            ValueError: as `PathwiseFunction.each`.

        Example:
            >>> import jax, jax.numpy as jnp
            >>> from pyrox.gp import (
            ...     RBF, DivergenceFree, MultiOutputPrior, MultiOutputSampler
            ... )
            >>> prior = MultiOutputPrior(DivergenceFree(RBF()), jnp.zeros((1, 2)), 2)
            >>> sampler = MultiOutputSampler(prior, 64, basis="sobol")
            >>> paths = sampler.sample_paths(jax.random.key(0), 5)
            >>> places = jnp.zeros((5, 7, 2))
            >>> (places + 0.1 * paths.each(places)).shape  # a step of each particle
            (5, 7, 2)
        """
        call, in_size = "paths.each(X)", self.stacked.anchors.shape[-1] - 1
        X = as_points(X, call)
        if X.ndim != 3 or X.shape[::2] != (len(self), in_size) or X.shape[1] == 0:
            raise ValueError(
                f"`{call}` must have shape ({len(self)}, N, {in_size}), N of at least "
                f"one: points of its own for each path. Got {X.shape}. For all paths "
                "at the same points call `paths(X)`."
            )
        rows = jax.vmap(lambda own: stack_inputs(own, self.n_outputs))(X)
        values = self.stacked.each(rows, block_size=block_size)
        return as_table(values, self.n_outputs)

    def _rows(self, call: str, X: ArrayLike) -> Float[Array, "PN C"]:
        X = as_inputs(call, X, self.stacked.anchors.shape[-1] - 1)
        return stack_inputs(X, self.n_outputs)

    @property
    def n_paths(self) -> int:
        """S, the number of functions."""
        return self.stacked.n_paths

    def __len__(self) -> int:
        return self.n_paths

    def __getitem__(self, index: slice | ArrayLike) -> "MultiOutputPaths":
        return MultiOutputPaths(self.stacked[index], self.n_outputs)

    __hash__ = object.__hash__
    __eq__ = object.__eq__


@functools.partial(jit, static_argnames=("n_outputs", "block_size"))
def _lawful(
    path: Formula,
    slopes: Float[Array, "S PN C"],
    X: Float[Array, "PN C"],
    n_outputs: int,
    block_size: int,
) -> Float[Array, "S N P D"]:
    """Jacobians from slopes, without what functions of the kernel never have; the mean
    function keeps no law."""

    def as_jacobians(slopes):
        *leading, _, n_columns = slopes.shape
        sizes = n_outputs, -1, n_columns - 1
        return jnp.swapaxes(slopes[..., :-1].reshape(*leading, *sizes), -3, -2)

    slopes_of_mean = by_each_input(lambda rows: mean_at(path.mean_fn, rows))
    of_mean = map_rows(slopes_of_mean, X, block_size, axis=-2)
    jacobians = as_jacobians(slopes)
    rest = jacobians - as_jacobians(of_mean)[None]
    return jacobians - path.kernel.breach(rest)
