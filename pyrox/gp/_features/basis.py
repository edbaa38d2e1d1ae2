"""Bases: how the frequencies of a feature map are chosen.

A kernel says which products it is the sum of, and how its frequencies come from
standard normals. A basis says which normals.
"""

import abc
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from .._hyper.checks import as_count
from .._numerics.sobol import sobol_normals
from .maps import (
    AbstractFeatures,
    FourierFeatures,
    count_columns,
    product_features,
    sum_features,
    tensor_features,
)
from .spectrum import RadialSpectrum

# Standard normals: `draw(dtype, 3, 1)` gives columns (m, 3) and (m, 1), new ones at
# every call.
Draw = Callable[..., tuple[Float[Array, "m d"], ...]]


@runtime_checkable
class Factor(Protocol):
    """What a basis asks a kernel that is neither a sum nor a product."""

    def exact_features(
        self, n_features: int, in_size: int
    ) -> AbstractFeatures | None: ...

    def sample_frequencies(
        self, draw: Draw, in_size: int
    ) -> FourierFeatures | None: ...

    def spectrum(self, in_size: int) -> RadialSpectrum | None: ...

    def lifted(self, in_size: int) -> "Lifted | None": ...

    def features(
        self, key: PRNGKeyArray, n_features: int, in_size: int
    ) -> AbstractFeatures: ...


@runtime_checkable
class Expandable(Protocol):
    """What it asks any kernel: itself as a sum of products."""

    def terms(self) -> tuple[tuple[Factor, ...], ...]: ...


class Lifted(NamedTuple):
    """A kernel of the same inputs, what makes features of another of its own, and how
    many times as many these are."""

    kernel: Expandable
    lift: Callable[[AbstractFeatures], AbstractFeatures]
    times: int


class AbstractBasis(eqx.Module):
    """A way to choose features: phi with E[phi(X) phi(X')^T] = K(X, X')."""

    @abc.abstractmethod
    def features(
        self, key: PRNGKeyArray, kernel: Expandable, n_features: int, in_size: int
    ) -> AbstractFeatures:
        """A feature map of `kernel`, (N, D) -> (N, F).

        Args:
            key: a PRNG key.
            kernel: the kernel to reproduce.
            n_features: the most columns that the map may have, even.
            in_size: D.

        Raises:
            ValueError: too few columns for the terms; a kernel without features.
        """

    def on(self, kernel: Expandable, X: Float[Array, "N D"]) -> "AbstractBasis":
        """This basis for functions that are conditioned at the rows of `X`."""
        return self

    def domain_in(self, call: str, in_size: int) -> Float[Array, "... 2 D"] | None:
        """The lowest and the highest inputs at which its functions are right, or None
        if that is everywhere."""
        return None


class AbstractTermBasis(AbstractBasis):
    """A basis that takes the terms of a sum one by one.

    Each term gets an equal share of the columns. Kernels that are exact in few columns
    (`Linear`, say) take those and leave the rest to the others.
    """

    @abc.abstractmethod
    def waves(
        self,
        key: PRNGKeyArray,
        factors: Sequence[Factor],
        n_features: int,
        in_size: int,
    ) -> FourierFeatures:
        """Features of a product of kernels that have frequencies."""

    def features(
        self, key: PRNGKeyArray, kernel: Expandable, n_features: int, in_size: int
    ) -> AbstractFeatures:
        terms = kernel.terms()
        share = n_features // len(terms)
        exact = [exact_features(term, share, in_size) for term in terms]
        taken = sum(count_columns(phi, in_size) for phi in exact if phi is not None)
        shares = _even_shares(n_features, taken, exact.count(None))
        keys = jr.split(key, len(terms)) if len(terms) > 1 else [key]
        maps = [
            self._product(own, term, next(shares), in_size) if phi is None else phi
            for own, term, phi in zip(keys, terms, exact, strict=True)
        ]
        return sum_features(maps)

    def _product(
        self, key: PRNGKeyArray, term: Sequence[Factor], n_features: int, in_size: int
    ) -> AbstractFeatures:
        """Factors that have frequencies make one map, their frequencies adding up. The
        others multiply it: of independent maps the expectations multiply."""
        spectral, others = split_factors(term, in_size)
        if not others:
            return self.waves(key, spectral, n_features, in_size)
        key, *keys = jr.split(key, 1 + len(others))
        n_maps, taken, maps = len(others) + bool(spectral), 1, []
        for own, factor in zip(keys, others, strict=True):
            columns = _even((n_features // taken) ** (1 / (n_maps - len(maps))))
            maps.append(self._own_features(own, factor, columns, in_size))
            taken *= count_columns(maps[-1], in_size)
        if spectral:
            as_count("features(n_features)", n_features, 2 * taken, even=True)
            columns = _even(n_features // taken)
            exact = exact_features(spectral, columns, in_size)
            maps.append(exact or self.waves(key, spectral, columns, in_size))
        return tensor_features(maps)

    def _own_features(
        self, key: PRNGKeyArray, factor: Factor, n_features: int, in_size: int
    ) -> AbstractFeatures:
        lifted = factor.lifted(in_size)
        if lifted is not None:
            n_features = _even(n_features / lifted.times)
            phi = self.features(key, lifted.kernel, n_features, in_size)
            return lifted.lift(phi)
        exact = factor.exact_features(n_features, in_size)
        return factor.features(key, n_features, in_size) if exact is None else exact


class AbstractRandomBasis(AbstractTermBasis):
    """Frequencies drawn from the spectral measure."""

    @abc.abstractmethod
    def normals(
        self, key: PRNGKeyArray, n: int, first: int, n_columns: int, dtype: np.dtype
    ) -> Float[Array, "n d"]:
        """`n` rows of standard normals, after the `first` columns drawn before."""

    def waves(
        self,
        key: PRNGKeyArray,
        factors: Sequence[Factor],
        n_features: int,
        in_size: int,
    ) -> FourierFeatures:
        used, n = 0, n_features // 2

        def draw(dtype: np.dtype, *widths: int) -> tuple[Float[Array, "m d"], ...]:
            nonlocal used
            own = jr.fold_in(key, used) if used else key
            if sum(widths):
                columns = self.normals(own, n, used, sum(widths), dtype)
            else:  # only the number of rows is asked for
                columns = jnp.zeros((n, 0), dtype)
            used += sum(widths)
            return tuple(jnp.split(columns, np.cumsum(widths)[:-1], axis=1))

        waves = (factor.sample_frequencies(draw, in_size) for factor in factors)
        return product_features([phi for phi in waves if phi is not None])


class Sobol(AbstractRandomBasis):
    """Frequencies by a scrambled Sobol sequence: random, and evenly spread.

    The coordinates of a frequency and what scales them (the mixing variable of a
    Matern, the factors of a product) are columns of one sequence. At equal cost the
    error of the Gram matrix is 1.2 to 16 times smaller than that of independent
    frequencies, the least for rough kernels of many inputs. A posterior gains less:
    what the data leave uncertain is the kernel's finest detail.

    Beyond 1024 columns (one for each input, one more for a Matern) the coordinates are
    independent.

    Example:
        >>> import jax
        >>> from pyrox.gp import RBF, Sobol
        >>> phi = Sobol().features(jax.random.key(0), RBF(), 64, in_size=2)
        >>> phi(jax.numpy.zeros((3, 2))).shape
        (3, 64)
    """

    def normals(
        self, key: PRNGKeyArray, n: int, first: int, n_columns: int, dtype: np.dtype
    ) -> Float[Array, "n d"]:
        return sobol_normals(key, n, first, n_columns, dtype)


class IID(AbstractRandomBasis):
    """Independent frequencies (Rahimi & Recht 2007).

    The error of the Gram matrix falls as the root of the number of columns.
    """

    def normals(
        self, key: PRNGKeyArray, n: int, first: int, n_columns: int, dtype: np.dtype
    ) -> Float[Array, "n d"]:
        return jr.normal(key, (n, n_columns), dtype)


class Orthogonal(AbstractRandomBasis):
    """Independent frequencies whose directions are at right angles in blocks of as many
    as there are columns (Yu et al. 2016, arXiv 1610.09072).

    Better than independent ones for smooth kernels of eight inputs or more.
    """

    def normals(
        self, key: PRNGKeyArray, n: int, first: int, n_columns: int, dtype: np.dtype
    ) -> Float[Array, "n d"]:
        n_blocks = -(-n // n_columns)
        shape = (n_blocks, n_columns, n_columns)
        for_directions, for_lengths = jr.normal(key, (2, *shape), dtype)
        lengths = jnp.linalg.norm(for_lengths, axis=2, keepdims=True)
        rows = lengths * _orthonormal_rows(for_directions)
        return rows.reshape(-1, n_columns)[:n]


def _orthonormal_rows(blocks: Float[Array, "b d d"]) -> Float[Array, "b d d"]:
    """Gram-Schmidt, one row after the other off all that follow."""
    d = blocks.shape[1]

    def step(j, blocks):
        row = jax.lax.dynamic_slice_in_dim(blocks, j, 1, axis=1)
        row = row / jnp.linalg.norm(row, axis=2, keepdims=True)
        along = jnp.sum(blocks * row, axis=2, keepdims=True)
        after = (jnp.arange(d) > j)[None, :, None]
        blocks = blocks - jnp.where(after, along, 0) * row
        return jax.lax.dynamic_update_slice_in_dim(blocks, row, j, axis=1)

    return jax.lax.fori_loop(0, d, step, blocks)


def exact_features(
    term: Sequence[Factor], n_features: int, in_size: int
) -> AbstractFeatures | None:
    """Of a product: products of exact maps are exact. None if a factor has none."""
    columns = _even(n_features ** (1 / len(term)))
    maps = [factor.exact_features(columns, in_size) for factor in term]
    known = [phi for phi in maps if phi is not None]
    return tensor_features(known) if len(known) == len(maps) else None


def has_features(factor: Factor, in_size: int) -> bool:
    """Whether there are frequencies or exact features to build a map from."""
    lifted = factor.lifted(in_size)
    if lifted is not None:
        inner = (f for term in lifted.kernel.terms() for f in term)
        return all(has_features(f, in_size) for f in inner)
    exact = jax.eval_shape(lambda: factor.exact_features(2, in_size))
    return exact is not None or _has_frequencies(factor, in_size)


def split_factors(
    term: Sequence[Factor], in_size: int
) -> tuple[list[Factor], list[Factor]]:
    """Those that have frequencies, and the others."""
    spectral, others = [], []
    for factor in term:
        chosen = spectral if _has_frequencies(factor, in_size) else others
        chosen.append(factor)
    return spectral, others


def _has_frequencies(factor: Factor, in_size: int) -> bool:
    def draw(dtype, *widths):
        return tuple(jnp.zeros((1, width), dtype) for width in widths)

    asked = jax.eval_shape(lambda: factor.sample_frequencies(draw, in_size))
    return asked is not None


def _even(count: float | int) -> int:
    return max(2, int(count) // 2 * 2)


def _even_shares(n_features: int, taken: int, n_terms: int) -> Iterator[int]:
    """What exact maps leave, shared out in pairs; the last terms may get one more."""
    if n_terms:
        as_count("features(n_features)", n_features, taken + 2 * n_terms, even=True)
    pairs = (n_features - taken) // 2
    for i in range(n_terms):
        yield 2 * ((pairs * (i + 1)) // n_terms - (pairs * i) // n_terms)
