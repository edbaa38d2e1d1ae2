"""UCI regression sets with published hyperparameters, as `benchmarks.large` takes them.

A folder holds NAME.npz with X (n, D), y (n,) and `test_mask` (n, splits), and
hyperparameters.json: for each name and split a noise_std, a signal_std and a
lengthscale for each input, of a Matern-3/2 kernel on inputs and targets that are
standardised by the training rows (Lin et al. 2023, arXiv 2306.11589). Beside this file
lies `bike3000.npz`, 3,000 rows of the bike-sharing data (Fanaee-T & Gama 2013, UCI
Machine Learning Repository, CC BY 4.0) in the same form.
"""

import dataclasses
import json
import pathlib
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import ArrayLike

if TYPE_CHECKING:
    from pyrox.gp import AbstractKernel

BESIDE = pathlib.Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class Split:
    """Training and test rows, standardised, in float32."""

    name: str
    X: np.ndarray
    y: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray
    noise_var: np.float32
    variance: np.float32
    lengthscale: np.ndarray

    @property
    def kernel(self) -> "AbstractKernel":
        from pyrox.gp import Matern

        return Matern(1.5, self.variance, self.lengthscale)

    def first(self, n: int) -> "Split":
        """With the first n training rows alone."""
        return dataclasses.replace(self, X=self.X[:n], y=self.y[:n])


def load(folder: pathlib.Path | None, name: str, split: int = 0) -> Split:
    folder = BESIDE if folder is None else folder
    with np.load(folder / f"{name}.npz") as stored:
        X, y, test = stored["X"], stored["y"], stored["test_mask"][:, split]
    found = json.loads((folder / "hyperparameters.json").read_text())[name][str(split)]
    X, y = _standardised(X, ~test), _standardised(y, ~test)
    return Split(
        name,
        X[~test],
        y[~test],
        X[test],
        y[test],
        np.float32(found["noise_std"] ** 2),
        np.float32(found["signal_std"] ** 2),
        np.asarray(found["lengthscale"], np.float32),
    )


def _standardised(x: np.ndarray, train: np.ndarray) -> np.ndarray:
    mean, deviation = x[train].mean(axis=0), x[train].std(axis=0)
    return ((x - mean) / np.where(deviation > 0, deviation, 1)).astype(np.float32)


def scores(mean: ArrayLike, var: ArrayLike, split: Split) -> tuple[float, float]:
    """Root mean square error, and the mean negative log density of a test value."""
    total = np.asarray(var, float) + float(split.noise_var)
    apart = split.y_test - np.asarray(mean, float)
    density = np.log(2 * np.pi * total) + apart**2 / total
    return float(np.sqrt(np.mean(apart**2))), float(np.mean(density) / 2)
