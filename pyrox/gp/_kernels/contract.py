"""The contract of a kernel, as a function that a user can hold their own to."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, ArrayLike, PRNGKeyArray, Real

from .._features.basis import AbstractBasis
from .._features.by_name import as_basis
from .._features.grid import FourierGrid
from .._hyper.checks import as_inputs
from .._hyper.priors import sample_hyperparameters
from .given import as_kernel
from .kernel import AbstractKernel

_N_SETS = 64  # feature maps that are averaged
_IMAGES = 2e-4  # of the largest entry: what a grid may repeat from its other end
_LARGEST_Z = 7.0  # standard errors; with 64 sets by chance once in 5e8 entries


def check_kernel(
    kernel: AbstractKernel,
    X: Real[ArrayLike, "N D"],
    *,
    basis: AbstractBasis | str | None = "iid",
    n_features: int = 256,
    key: PRNGKeyArray | None = None,
) -> dict[str, float]:
    """Hold a kernel to what every part of this library relies on.

    That its Gram matrix has the shape and dtype of its inputs, is symmetric, positive
    semi-definite, finite and the same under `jit` and in parts; that `diag` is its
    diagonal; that its derivatives by inputs and hyperparameters are finite, also where
    points coincide; and that its features have the kernel as their expectation, by the
    mean of 64 draws within 7 standard errors everywhere.

    Args:
        kernel: the kernel, with values in place of priors.
        X: inputs to check it at; a dozen in the range of the data. All pairs are tried.
        basis: how features are chosen; None leaves them out, for a kernel that has
            none.
        n_features: the columns of each map.
        key: a PRNG key; that of seed 0 if it is left out.

    Returns:
        The largest errors found, by name.

    Raises:
        ValueError: the first promise that is broken, and by how much.

    Cost: O(N^3 + 64 N^2 F), and a compilation for each promise.

    Example:
        >>> import jax.numpy as jnp
        >>> from pyrox.gp import RBF, check_kernel
        >>> found = check_kernel(RBF(), jnp.linspace(0, 2, 8)[:, None])
        >>> found["asymmetry"], found["feature_z"] < 7
        (0.0, True)
    """
    kernel = sample_hyperparameters(as_kernel("check_kernel(kernel)", kernel))
    X = as_inputs("check_kernel(X)", X)
    found = _check_gram(kernel, X)
    _check_derivatives(kernel, X)
    if basis is not None:
        basis = as_basis("check_kernel(basis=...)", basis)
        key = jr.key(0) if key is None else key
        found |= _check_features(kernel, X, basis, n_features, key)
    return found


def _check_gram(kernel: AbstractKernel, X: Array) -> dict[str, float]:
    gram, diag = kernel(X, X), kernel.diag(X)
    n = X.shape[0]
    _promise(kernel, gram.shape == (n, n), f"k(X, X) is ({n}, {n})", gram.shape)
    _promise(kernel, diag.shape == (n,), f"diag(X) is ({n},)", diag.shape)
    dtypes = {gram.dtype.name, diag.dtype.name}
    _promise(kernel, dtypes == {X.dtype.name}, f"values are {X.dtype}", dtypes)
    gram, diag = np.asarray(gram, np.float64), np.asarray(diag, np.float64)
    _promise(kernel, np.isfinite(gram).all(), "k(X, X) is finite", "NaN or inf")

    size, half = np.abs(gram).max(), (n + 1) // 2
    jitted = jax.jit(lambda kernel, X: kernel(X, X))(kernel, X)
    part = np.asarray(kernel(X[:half], X[half:]), np.float64)
    errors = {
        "asymmetry": np.abs(gram - gram.T).max(),
        "negative eigenvalue": max(0.0, -np.linalg.eigvalsh(gram).min() / n),
        "diag(X) against k(X, X)": np.abs(np.diag(gram) - diag).max(),
        "jit": np.abs(np.asarray(jitted, np.float64) - gram).max(),
        "a part of X": np.abs(part - gram[:half, half:]).max(initial=0.0),
    }
    tolerance = 100 * float(np.finfo(X.dtype).eps) * size
    for name, error in errors.items():
        wanted = f"errors of at most {tolerance:.1e}: {name}"
        _promise(kernel, error <= tolerance, wanted, f"{error:.1e}")
    return {name: float(error / size) for name, error in errors.items()}


def _check_derivatives(kernel: AbstractKernel, X: Array) -> None:
    twice = jnp.concatenate([X, X[:1]])  # two points coincide

    @jax.jit
    def gradients(kernel, X):
        by_kernel = jax.grad(lambda kernel: jnp.sum(kernel(X, X)))(kernel)
        by_input = jax.grad(lambda X1: jnp.sum(kernel(X1, X)))(X)
        return by_kernel, by_input

    by_kernel, by_input = gradients(kernel, twice)
    finite = [np.isfinite(leaf).all() for leaf in jax.tree.leaves(by_kernel)]
    _promise(kernel, all(finite), "finite derivatives by hyperparameters", "NaN or inf")
    finite = np.isfinite(by_input).all()
    _promise(kernel, finite, "finite derivatives by inputs, at equal points too", "NaN")


def _check_features(
    kernel: AbstractKernel,
    X: Array,
    basis: AbstractBasis,
    n_features: int,
    key: PRNGKeyArray,
) -> dict[str, float]:
    @jax.jit
    def grams(kernel, keys):
        def one(key):
            phi = basis.on(kernel, X).features(key, kernel, n_features, X.shape[1])(X)
            return phi @ phi.T

        return jax.lax.map(one, keys)

    exact = np.asarray(kernel(X, X), np.float64)
    drawn = np.asarray(grams(kernel, jr.split(key, _N_SETS)), np.float64)
    gaps = drawn - exact[None]
    # Rounding and the images of a grid are no standard error: near-exact features have
    # none of their own.
    images = _IMAGES if isinstance(basis, FourierGrid) else 0
    least = 1e3 * float(np.finfo(X.dtype).eps) + images
    error = np.sqrt(gaps.var(axis=0, ddof=1) / _N_SETS) + least * np.abs(exact).max()
    z = float(np.abs(gaps.mean(axis=0) / error).max())
    wanted = f"features with E[phi phi^T] = K, within {_LARGEST_Z:.0f} standard errors"
    _promise(kernel, z <= _LARGEST_Z, wanted, f"{z:.1f}")
    rms = np.sqrt(np.mean(gaps**2)) / np.abs(exact).max()
    return {"feature_z": z, "feature_rms": float(rms)}


def _promise(kernel: AbstractKernel, kept: object, wanted: str, got: object) -> None:
    if not kept:
        raise ValueError(
            f"`check_kernel`: `{type(kernel).__name__}` must give {wanted}. Got {got}. "
            "Mend the kernel before its numbers are used."
        )
