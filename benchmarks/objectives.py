"""Functions to minimise, as the literature has them, on points in rows."""

import dataclasses
import warnings
from collections.abc import Callable

import numpy as np
from scipy.stats import qmc


@dataclasses.dataclass(frozen=True)
class Objective:
    """A function on a box, its least value, and a loop's first points."""

    name: str
    function: Callable[[np.ndarray], np.ndarray]
    bounds: np.ndarray  # (2, D)
    optimum: float
    optimiser: np.ndarray  # one of them, where several are
    source: str

    @property
    def in_size(self) -> int:
        return self.bounds.shape[1]

    def __call__(self, X: np.ndarray) -> np.ndarray:
        return self.function(np.atleast_2d(X))

    def first_points(self, n: int, seed: int) -> np.ndarray:
        """Scrambled Sobol points, the same for everyone."""
        rng = np.random.default_rng([seed, self.in_size])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # n is no power of two
            unit = qmc.Sobol(self.in_size, rng=rng).random(n)
        return self.bounds[0] + unit * (self.bounds[1] - self.bounds[0])


def _box(low: float, high: float, in_size: int) -> np.ndarray:
    return np.array([[low], [high]]) * np.ones(in_size)


def branin(X: np.ndarray) -> np.ndarray:
    a, b = X.T
    bend = b - 5.1 / (4 * np.pi**2) * a**2 + 5 / np.pi * a - 6
    return bend**2 + 10 * (1 - 1 / (8 * np.pi)) * np.cos(a) + 10


_HEIGHTS = np.array([1.0, 1.2, 3.0, 3.2])
_SHARPNESS = np.array(
    [
        [10, 3, 17, 3.5, 1.7, 8],
        [0.05, 10, 17, 0.1, 8, 14],
        [3, 3.5, 1.7, 10, 17, 8],
        [17, 8, 0.05, 10, 0.1, 14],
    ]
)
_CENTRES = 1e-4 * np.array(
    [
        [1312, 1696, 5569, 124, 8283, 5886],
        [2329, 4135, 8307, 3736, 1004, 9991],
        [2348, 1451, 3522, 2883, 3047, 6650],
        [4047, 8828, 8732, 5743, 1091, 381],
    ]
)


def hartmann6(X: np.ndarray) -> np.ndarray:
    squares = (_SHARPNESS * (X[:, None, :] - _CENTRES) ** 2).sum(axis=2)
    return -np.exp(-squares) @ _HEIGHTS


def ackley(X: np.ndarray) -> np.ndarray:
    far = np.exp(-0.2 * np.sqrt((X**2).mean(axis=1)))
    return 20 - 20 * far + np.e - np.exp(np.cos(2 * np.pi * X).mean(axis=1))


def levy(X: np.ndarray) -> np.ndarray:
    w = 1 + (X - 1) / 4
    first, others, last = w[:, 0], w[:, :-1], w[:, -1]
    middle = (others - 1) ** 2 * (1 + 10 * np.sin(np.pi * others + 1) ** 2)
    end = (last - 1) ** 2 * (1 + np.sin(2 * np.pi * last) ** 2)
    return np.sin(np.pi * first) ** 2 + middle.sum(axis=1) + end


# Eriksson et al. 2019 take this box: in one that is symmetric about the optimum, the
# middle is no achievement.
_TURBO = "the box of Eriksson et al. 2019, arXiv 1910.01739"
OBJECTIVES = (
    Objective(
        "Branin",
        branin,
        np.array([[-5.0, 0.0], [10.0, 15.0]]),
        0.39788735772973816,
        np.array([np.pi, 2.275]),
        "Dixon & Szego 1978",
    ),
    Objective(
        "Hartmann-6",
        hartmann6,
        _box(0, 1, 6),
        -3.322368011415511,
        np.array(
            [0.20168952, 0.15001069, 0.47687398, 0.27533243, 0.31165162, 0.65730053]
        ),
        "Dixon & Szego 1978",
    ),
    Objective(
        "Ackley-5",
        ackley,
        _box(-5, 10, 5),
        0.0,
        np.zeros(5),
        f"Ackley 1987; {_TURBO}",
    ),
    Objective(
        "Levy-8",
        levy,
        _box(-5, 10, 8),
        0.0,
        np.ones(8),
        f"Levy & Montalvo 1985; {_TURBO}",
    ),
)
BY_NAME = {objective.name: objective for objective in OBJECTIVES}
