"""A drawn function: what it is made of, evaluation, selection."""

import dataclasses
from collections.abc import Callable, Iterator

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray, Real

from .._features.basis import AbstractBasis
from .._features.maps import AbstractFeatures, SumFeatures
from .._hyper.arrays import cast_floats
from .._hyper.checks import (
    as_inputs,
    as_points,
    common_dtype,
    is_traced,
    require_finite,
    require_held,
    require_inside,
)
from .._kernels.given import keep_rules
from .._kernels.kernel import AbstractKernel, product_of
from .._numerics.blocks import block_rows
from .._posterior.derivatives import DerivativeSites, require_derivatives
from .._posterior.mean import ZeroMean
from .._posterior.told import as_new_data
from .._solvers.convergence import Convergence
from .formula import Formula, evaluate, evaluate_each, gradient, hessian
from .given import AnchorValues
from .told import told


class PathwiseFunction(eqx.Module):
    """S functions drawn from a Gaussian process, callable anywhere.

        f_s(x) = mean(x) + phi(x) w_s + k(x, anchors) v_s

    A prior draw phi w plus the update that data make (Wilson et al. 2020, eq. 10;
    2021, arXiv 2011.04026); where derivatives were observed, k is differentiated by the
    anchor. It is a pytree of arrays: it is returned from `jit`,
    stacked by `vmap` (over draws of hyperparameters, say) and passed as an argument
    without a new trace. `paths(X)` is `(S, N)`; `paths[i]` and `paths[2:5]` choose
    draws and keep the leading axis, so `paths[i](X)` is `(1, N)`; `len(paths)` is S.

    `paths.basis` says how its features were chosen. With a `FourierGrid`, the default
    for few inputs, there is a `paths.domain`, and points outside it raise an error.

    It compares and hashes by identity, so that `jax.jit(paths)` works.

    Cost of a call on N points: O(N (F + M) (D + S)) time for F features and M anchors.
    It works in blocks of rows that stay in cache, so its memory beyond the result does
    not grow with N; nor does that of a derivative.

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
    update_weights: Float[Array, "S U"]
    kernel: AbstractKernel
    mean_fn: Callable
    given: AnchorValues | None
    basis: AbstractBasis
    derivative_sites: DerivativeSites | None = None

    def __call__(
        self, X: Real[ArrayLike, "N D"], *, block_size: int | None = None
    ) -> Float[Array, "S N"]:
        """The values of every path at every row of `X`.

        Args:
            X: query points.
            block_size: how many rows to work on at once. The default keeps a block in
                cache; values do not depend on it beyond rounding.

        Raises:
            ValueError: a shape that is not (N, D), NaN or inf, a point outside the
                domain; under `jit` values are checked when the program runs.
        """
        X, size = self._query("paths(X)", X, block_size)
        return evaluate(bare(self), X, block_size=size)

    def each(
        self, X: Real[ArrayLike, "S N D"], *, block_size: int | None = None
    ) -> Float[Array, "S N"]:
        """The values of each path at points of its own: path s at the rows of `X[s]`.

        What optimising many paths at once needs: features and kernel are computed once
        for each point, S times fewer than the diagonal of `paths` at all points takes.

        Args:
            X: query points, N for each path.
            block_size: how many rows to work on at once, of all paths together.

        Raises:
            ValueError: a shape that is not (S, N, D), NaN or inf, a point outside the
                domain.

        Cost: O(S N (F + M) D) time, the memory of one block.

        Example:
            >>> import jax, jax.numpy as jnp
            >>> from pyrox.gp import RBF, GPPrior, PathwiseSampler
            >>> prior = GPPrior(RBF(), X=jnp.zeros((1, 2)))
            >>> paths = PathwiseSampler(prior, 64).sample_paths(jax.random.key(0), 5)
            >>> paths.each(jnp.ones((5, 7, 2))).shape
            (5, 7)
        """
        call, in_size = "paths.each(X)", self.anchors.shape[-1]
        X = as_points(X, call)
        self._require_one_draw(call)
        wanted = X.ndim == 3 and X.shape[::2] == (self.n_paths, in_size)
        if not wanted or X.shape[1] == 0:
            raise ValueError(
                f"`{call}` must have shape ({self.n_paths}, N, {in_size}), N of at "
                f"least one: points of its own for each path. Got {X.shape}. For all "
                "paths at the same points call `paths(X)`."
            )
        X = self._inside(call, require_finite(X, call))
        X, size = self._block(call, X, block_size)
        return evaluate_each(bare(self), X, block_size=size)

    def gradient(
        self, X: Real[ArrayLike, "N D"], *, block_size: int | None = None
    ) -> Float[Array, "S N D"]:
        """The derivative of every path at every row of `X`, by each input.

        The same as `jax.jacfwd` point by point, in blocks, and several times faster.

        Args:
            X: query points.
            block_size: how many rows to work on at once.

        Raises:
            ValueError: a shape that is not (N, D), NaN or inf, a point outside the
                domain, functions without a derivative (Matern-1/2).

        Cost: D times that of `paths(X)`, sines and exponentials once.

        Example:
            >>> import jax, jax.numpy as jnp
            >>> from pyrox.gp import RBF, GPPrior, PathwiseSampler
            >>> prior = GPPrior(RBF(), X=jnp.zeros((1, 2)))
            >>> paths = PathwiseSampler(prior, 64).sample_paths(jax.random.key(0), 5)
            >>> paths.gradient(jnp.ones((7, 2))).shape
            (5, 7, 2)
        """
        call = "paths.gradient(X)"
        X, size = self._query(call, X, block_size)
        require_derivatives(call, self.kernel, 1)
        return gradient(bare(self), X, block_size=size)

    def hessian(
        self, X: Real[ArrayLike, "N D"], *, block_size: int | None = None
    ) -> Float[Array, "S N D D"]:
        """The second derivatives of every path at every row of `X`.

        Raises:
            ValueError: as `gradient`, and functions with fewer than two derivatives
                (Matern-1/2, Matern-3/2).

        Cost: D^2 times that of `paths(X)`.

        Example:
            >>> import jax, jax.numpy as jnp
            >>> from pyrox.gp import RBF, GPPrior, PathwiseSampler
            >>> prior = GPPrior(RBF(), X=jnp.zeros((1, 2)))
            >>> paths = PathwiseSampler(prior, 64).sample_paths(jax.random.key(0), 5)
            >>> paths.hessian(jnp.ones((7, 2))).shape
            (5, 7, 2, 2)
        """
        call = "paths.hessian(X)"
        X, size = self._query(call, X, block_size)
        require_derivatives(call, self.kernel, 2)
        size = max(1, size // X.shape[1])
        return hessian(bare(self), X, block_size=size)

    def condition_on(
        self,
        X: Real[ArrayLike, "Q D"],
        y: Real[ArrayLike, " Q"],
        noise_var: Real[ArrayLike, "..."],
        *,
        key: PRNGKeyArray | None = None,
    ) -> "PathwiseFunction":
        """The same functions, told y = f(X) + e, e ~ N(0, noise_var), as well.

        They keep their prior weights and the noise of the old data, so what changes is
        what was learnt; in law they are paths of `posterior.condition_on(X, y,
        noise_var)`, in the same features. Paths of a prior become those of a posterior,
        paths of a sparse posterior take its q(u) for what was known before. The jitter
        of the new values is that of the old ones.

        The noise e of the new values comes with the path: the same path told the same
        again is the same function, and `paths[i]` is told as it is within `paths`.
        Paths told one thing after the other have noise of their own each time.

        For fantasies map over y:
        `jax.vmap(lambda y: paths.condition_on(X, y, noise_var)(points))(ys)`.

        Args:
            X: more inputs, within the domain of the paths.
            y: their values.
            noise_var: variance of the noise, one or one for each value.
            key: for noise other than the path's own, now and later.

        Raises:
            ValueError: shapes that do not fit, NaN or inf, noise that is not positive,
                a point outside the domain, a block that cannot be factored; a part of a
                path, or paths that are stacked.

        Cost: O(N^2 Q + N Q S) for N old and Q new values, with the factor that a path
            shares with its posterior. Paths drawn within `jit` or `vmap`, over draws of
            hyperparameters or from a sparse posterior have none, and make it once, in
            N^3 / 3; what was told has it.

        Source: Wilson et al. 2021, arXiv 2011.04026, section 3: Matheron's rule.

        Example:
            >>> import jax, jax.numpy as jnp
            >>> from pyrox.gp import RBF, GPPrior, PathwiseSampler
            >>> X = jnp.array([[0.0], [1.0]])
            >>> posterior = GPPrior(RBF(), X).condition(jnp.array([1.0, -1.0]), 0.01)
            >>> paths = PathwiseSampler(posterior, 256).sample_paths(jax.random.key(0))
            >>> told = paths.condition_on([[0.5]], [0.3], noise_var=1e-4)
            >>> bool(abs(told([[0.5]])[0, 0] - 0.3) < 0.05)
            True
        """
        call = "paths.condition_on"
        self._require_one_draw(f"{call}(X, y, noise_var)")
        if self.given is None or self.given.key is None:
            raise ValueError(
                f"`{call}`: a part of a path was told nothing of its own. Got a path "
                "of `paths.parts()`. Tell the whole path, then take its parts: "
                "`paths.condition_on(X, y, noise_var).parts()`."
            )
        data = as_new_data(call, X, y, noise_var, self.anchors.shape[-1])
        data = data._replace(X=self._inside(f"{call}(X=...)", data.X))
        given = self.given if key is None else self.given.seeded(key)
        path, given = told(bare(self), given, data)
        parts = path.anchors, path.update_weights, self.kernel, self.mean_fn
        rest = given, self.basis, path.sites
        return PathwiseFunction(path.features, path.feature_weights, *parts, *rest)

    def parts(self) -> "tuple[PathwiseFunction, ...]":
        """The path as a sum: one function for each additive term of its kernel.

        Draws from the joint posterior of the terms: a trend, a season and what else the
        kernel is made of, in its order, products of sums multiplied out. Together with
        the mean function they add up to the path.

        Example:
            >>> import jax, jax.numpy as jnp
            >>> from pyrox.gp import RBF, GPPrior, PathwiseSampler, Periodic
            >>> prior = GPPrior(RBF() + Periodic(), X=jnp.zeros((1, 1)))
            >>> paths = PathwiseSampler(prior, 256).sample_paths(jax.random.key(0), 5)
            >>> trend, season = paths.parts()
            >>> whole, X = paths(jnp.ones((3, 1))), jnp.ones((3, 1))
            >>> bool(jnp.allclose(trend(X) + season(X), whole, atol=1e-5))
            True
        """
        self._require_one_draw("paths.parts()")
        phi, terms = self.features, self.kernel.terms()
        in_size = self.anchors.shape[-1]
        if isinstance(phi, SumFeatures):
            columns = [phi.columns(i, in_size) for i in range(len(terms))]
            maps = phi.maps
        else:
            columns, maps = [slice(None)], (phi,)
        return tuple(
            dataclasses.replace(
                self,
                features=own,
                feature_weights=self.feature_weights[:, chosen],
                kernel=product_of(term),
                mean_fn=ZeroMean(),
                given=None,
            )
            for own, chosen, term in zip(maps, columns, terms, strict=True)
        )

    def astype(self, dtype: DTypeLike) -> "PathwiseFunction":
        """The same functions with their floating arrays of another type.

        Drawing needs the digits that evaluation can often do without: draw in float64,
        then evaluate in float32 in half of the time. The result has the wider type of
        the path and the points, so cast the points too.

        Raises:
            ValueError: a type that is not floating, or in which a hyperparameter of the
                kernel would be zero or inf.

        Example:
            >>> import jax, jax.numpy as jnp
            >>> from pyrox.gp import RBF, GPPrior, PathwiseSampler
            >>> prior = GPPrior(RBF(), X=jnp.zeros((1, 1)))
            >>> paths = PathwiseSampler(prior, 64).sample_paths(jax.random.key(0), 5)
            >>> paths.astype(jnp.float16)(jnp.zeros((1, 1), jnp.float16)).dtype
            dtype('float16')
        """
        if not jnp.issubdtype(dtype, jnp.floating):
            raise ValueError(
                f"`paths.astype(dtype)` must be a floating type. Got {dtype!r}. "
                "Pass `jnp.float32`, say."
            )
        require_held("paths.astype", self.kernel, dtype)
        return cast_floats(self, dtype)

    def _query(
        self, call: str, X: ArrayLike, block_size: int | None
    ) -> tuple[Array, int]:
        self._require_one_draw(call)
        X = self._inside(call, as_inputs(call, X, self.anchors.shape[-1]))
        return self._block(call, X, block_size)

    def _inside(self, call: str, X: Array) -> Array:
        X = keep_rules(self.kernel, call, X)
        return require_inside(X, call, self.domain, OUTSIDE)

    def _require_one_draw(self, call: str) -> None:
        if self.feature_weights.ndim != 2:
            raise ValueError(
                f"`{call}`: these paths are stacked, with leading axes "
                f"{self.feature_weights.shape[:-2]}. "
                "Map over them: `jax.vmap(lambda path: path(X))(paths)`."
            )

    def _block(self, call: str, X: Array, block_size: int | None) -> tuple[Array, int]:
        """The points in the type to compute in, and the rows of a block."""
        X = X.astype(common_dtype(X, self.feature_weights))
        n_columns = self.feature_weights.shape[-1] + self.update_weights.shape[-1]
        return X, block_rows(call, block_size, n_columns, X.dtype)

    @property
    def convergence(self) -> Convergence | None:
        """How near an iterative solver came, None where there was none."""
        return None if self.given is None else self.given.convergence

    @property
    def domain(self) -> Float[Array, "... 2 D"] | None:
        """The lowest and the highest inputs at which paths are right, None if that is
        everywhere; one pair for each if paths are stacked."""
        return self.basis.domain_in("paths", self.anchors.shape[-1])

    @property
    def n_paths(self) -> int:
        """S, the number of functions."""
        return self.feature_weights.shape[-2]

    def __len__(self) -> int:
        return self.n_paths

    def __getitem__(self, index: slice | ArrayLike) -> "PathwiseFunction":
        if not isinstance(index, slice):
            index = self._in_range(index)
        return dataclasses.replace(
            self,
            feature_weights=self.feature_weights[index],
            update_weights=self.update_weights[index],
            given=None if self.given is None else self.given.chosen(index),
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


OUTSIDE = (
    "Draw the paths on a domain that holds every point, with "
    "`basis=FourierGrid((lowest, highest))`, or with `basis='sobol'`, which needs none."
)


def bare(path: PathwiseFunction) -> Formula:
    """`path` without what only tells where it comes from."""
    weights = path.feature_weights, path.anchors, path.update_weights
    process = path.kernel, path.mean_fn, path.derivative_sites
    return Formula(path.features, *weights, *process)
