"""Random problems from seeds: a program's static part, then many sets of numbers."""

import dataclasses
from typing import Any

import combined
import formulas
import jax.numpy as jnp
import numpy as np
import outputs
from formulas import AbstractFormula
from rounded import Long, Rounded
from variational import GUIDES

LEAVES = (
    *("RBF", "Matern", "Matern", "RationalQuadratic", "Periodic", "Cosine"),
    *("SpectralMixture", "Linear", "Polynomial", "Constant", "White"),
)
FIELDS = ("DivergenceFree", "CurlFree")
N_QUERIES = 7
LAYOUTS = ("uniform", "duplicated", "clustered", "gridded", "shifted")


def tilted(X: Any) -> Any:
    """A mean function, for NumPy and JAX alike."""
    return 0.75 * X[:, 0] - 0.5 * X[:, -1] + 0.25


def raised(X: Any) -> Any:
    return jnp.full(X.shape[0], 3.0, X.dtype)


# Each with its formula: a level, and a slope by the first and by the last input.
MEANS = {
    "zero": (None, (0, 0, 0)),
    "tilted": (tilted, (0.25, 0.75, -0.5)),
    "raised": (raised, (3, 0, 0)),
}


@dataclasses.dataclass(frozen=True)
class Structure:
    """What a compiled program is for; `recipe` is a tree of names. Of several outputs
    the last column is the number."""

    recipe: tuple
    n_data: int
    in_size: int
    mean: str
    vector_noise: bool
    jitter: float | None
    guide: str
    dtype: str
    n_outputs: int = 0

    @property
    def eps(self) -> float:
        return float(np.finfo(self.dtype).eps) / 2


def structure(seed: int, dtype: str, most_data: int = 60) -> Structure:
    rng = np.random.default_rng([seed, 0])
    if seed % 5 == 4:
        in_size = int(rng.choice([3, 4]))
        recipe, n_outputs = _of_outputs(rng, in_size), in_size - 1
    else:
        in_size = int(rng.choice([1, 1, 2, 2, 3, 4, 5, 8, 12]))
        recipe, n_outputs = _recipe(rng, int(rng.integers(0, 4)), in_size), 0
    return Structure(
        recipe,
        *(int(np.ceil(most_data * rng.random() ** 1.5)), in_size),
        *(str(rng.choice(list(MEANS))), bool(rng.integers(2))),
        *(None if rng.integers(2) else 10.0 ** -int(rng.integers(2, 9)),),
        *(str(rng.choice(GUIDES)), dtype, n_outputs),
    )


def _of_outputs(rng: np.random.Generator, in_size: int) -> tuple:
    """One term or two: a vector field, or a kernel of inputs times one of outputs."""
    term, other = (_output_term(rng, in_size) for _ in range(2))
    return ("Sum", term, ("Scale", other)) if rng.integers(2) else term


def _output_term(rng: np.random.Generator, in_size: int) -> tuple:
    how, last = str(rng.choice(["Product", *FIELDS])), in_size - 1
    if how in FIELDS:
        return how, ("RBF", 0.0, bool(rng.integers(2)))
    of_inputs = _recipe(rng, int(rng.integers(2)), last), tuple(range(last))
    of_outputs = ("Coregionalization", float(last), False), (last,)
    return how, ("ActiveDims", *of_inputs), ("ActiveDims", *of_outputs)


def _recipe(rng: np.random.Generator, depth: int, in_size: int) -> tuple:
    if depth == 0:
        name = str(rng.choice(LEAVES))
        order = {"Matern": [0.5, 1.5, 2.5, 3.5], "Polynomial": [1, 2, 3]}.get(name, [0])
        return name, float(rng.choice(order)), bool(rng.integers(2))
    how = str(rng.choice(["Sum", "Product", "Scale", "ActiveDims"]))
    if how in ("Sum", "Product"):
        other = int(rng.integers(depth))
        parts = _recipe(rng, depth - 1, in_size), _recipe(rng, other, in_size)
        return how, *parts
    if how == "Scale":
        return how, _recipe(rng, depth - 1, in_size)
    size = int(rng.integers(1, in_size + 1))
    dims = tuple(int(d) for d in rng.permutation(in_size)[:size])
    return how, _recipe(rng, depth - 1, size), dims


@dataclasses.dataclass(frozen=True)
class Problem:
    kernel: AbstractFormula
    X: np.ndarray
    queries: np.ndarray
    y: np.ndarray
    noise: np.ndarray
    structure: Structure

    def mean(self, X: np.ndarray) -> Rounded:
        base, first, last = MEANS[self.structure.mean][1]
        X = X.astype(Long)
        value = base + first * X[:, 0] + last * X[:, -1]
        size = abs(first * X[:, 0]) + abs(last * X[:, -1]) + abs(base)
        return Rounded(value, 3 * size)

    def mean_slope(self, X: np.ndarray) -> Rounded:
        slope = np.zeros(X.shape, Long)
        slope[:, 0] += MEANS[self.structure.mean][1][1]
        slope[:, -1] += MEANS[self.structure.mean][1][2]
        return Rounded(slope, 2 * abs(slope))


def problem(seed: int, index: int, about: Structure) -> Problem:
    rng = np.random.default_rng([seed, 1 + index])
    X, queries = _inputs(rng, about)
    kernel = _numbers(rng, about.recipe, X, about.dtype)
    wanted = 10.0 ** rng.uniform(-6, 6)
    diag = np.mean(kernel.diag(X))
    factor = np.dtype(about.dtype).type(wanted / diag)
    kernel = kernel.scaled(factor)
    lowest = -8 if about.dtype == "float64" else -5
    noise = wanted * 10 ** rng.uniform(lowest, 0.5)
    if about.vector_noise:
        noise = noise * 10 ** rng.uniform(-1, 1, about.n_data)
    y = np.sqrt(wanted) * rng.normal(size=about.n_data)
    if rng.integers(2):  # a smooth function, with noise
        K = kernel.gram(X, X).value.astype(np.float64)
        values, vectors = np.linalg.eigh(K)
        y = vectors @ (np.sqrt(np.maximum(values, 0)) * y) / np.sqrt(wanted)
        y = y + np.sqrt(noise) * rng.normal(size=about.n_data)
    if rng.random() < 0.2:  # outliers
        y = y * np.where(rng.random(about.n_data) < 0.2, 1e3, 1)
    empty = Problem(kernel, X, queries, y, np.asarray(noise), about)
    y = y + empty.mean(X).value.astype(np.float64)
    y, noise = (np.asarray(a, about.dtype) for a in (y, noise))
    return Problem(kernel, X, queries, y, noise, about)


def _inputs(
    rng: np.random.Generator, about: Structure
) -> tuple[np.ndarray, np.ndarray]:
    double = about.dtype == "float64"
    in_size = about.in_size - bool(about.n_outputs)
    shape, layout = (about.n_data, in_size), str(rng.choice(LAYOUTS))
    X, shift = rng.random(shape), 0.0
    if layout == "duplicated":
        X = X[rng.integers(0, max(1, about.n_data // 2), about.n_data)]
    elif layout == "clustered":
        centres = rng.random((3, in_size))
        size = 10 ** rng.uniform(-6 if double else -3, -1)
        X = centres[rng.integers(0, 3, about.n_data)] + size * X
    elif layout == "gridded":
        X = np.round(8 * X) / 8
    elif layout == "shifted":
        shift = 10 ** (rng.uniform(3, 6) if double else rng.uniform(0, 2.5))
    chosen = rng.integers(0, about.n_data, (2, N_QUERIES))
    pairs = X[chosen]
    weight = rng.random((N_QUERIES, 1))
    weight[:2] = 0  # at data
    between = (1 - weight) * pairs[0] + weight * pairs[1]
    unit = 10 ** rng.uniform(-2, 2)
    X, between = (unit * (Z + shift) for Z in (X, between))
    if about.n_outputs:
        numbers = rng.integers(0, about.n_outputs, about.n_data)
        X, between = np.c_[X, numbers], np.c_[between, numbers[chosen[0]]]
    return X.astype(about.dtype), between.astype(about.dtype)


def _numbers(
    rng: np.random.Generator, recipe: tuple, X: np.ndarray, dtype: str
) -> AbstractFormula:
    name, *rest = recipe
    if name in ("Sum", "Product"):
        parts = (_numbers(rng, part, X, dtype) for part in rest)
        return getattr(combined, name)(*parts)
    if name == "Scale":
        inner = _numbers(rng, rest[0], X, dtype)
        return combined.Scale(inner, np.asarray(10 ** rng.uniform(-1, 1), dtype))
    if name == "ActiveDims":
        return combined.ActiveDims(
            _numbers(rng, rest[0], X[:, rest[1]], dtype), rest[1]
        )
    if name in FIELDS:
        potential = _numbers(rng, rest[0], X[:, :-1], dtype)
        return getattr(outputs, name)(potential)
    if name == "Coregionalization":
        size = int(rest[0])
        W = rng.normal(size=(size, size - 1))
        values = np.asarray(W, dtype), np.asarray(10 ** rng.uniform(-2, 0, size), dtype)
        return outputs.Coregionalization(np.ones((), dtype), values)
    variance, values = _leaf(rng, name, rest[1], X)
    values = tuple(np.asarray(v, dtype) for v in values)
    return getattr(formulas, name)(np.asarray(variance, dtype), values, rest[0])


def _leaf(
    rng: np.random.Generator, name: str, each: bool, X: np.ndarray
) -> tuple[Any, list]:
    """A variance near one at the data, and lengths that fit their span."""
    n_inputs = X.shape[1]
    span = float(np.ptp(X, axis=0).max()) or float(abs(X).max()) or 1.0
    square = float((X.astype(np.float64) ** 2).sum(1).mean()) or 1.0
    shape = (n_inputs,) if each else ()

    def length() -> np.ndarray:
        return span * np.sqrt(n_inputs) * 10 ** rng.uniform(-0.8, 0.6, shape)

    variance = 10 ** rng.uniform(-1, 1)
    ranges = {
        "RBF": lambda: [length()],
        "Matern": lambda: [length()],
        "RationalQuadratic": lambda: [length(), 10 ** rng.uniform(-2, 1.5)],
        "Periodic": lambda: [10 ** rng.uniform(-0.5, 0.7, shape), length()],
        "Cosine": lambda: [length()],
        "SpectralMixture": lambda: [
            rng.normal(size=n_inputs) / span,
            10 ** rng.uniform(-1.5, 0, n_inputs) / span,
        ],
        "Polynomial": lambda: [square * 10 ** rng.uniform(-1, 1)],
    }
    if name == "Linear":
        return variance / square * np.ones(shape), []
    values = ranges.get(name, list)()
    return variance, values
