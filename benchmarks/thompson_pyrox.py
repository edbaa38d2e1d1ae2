"""Our half of `benchmarks.thompson`."""

import time
from typing import TYPE_CHECKING

import jax
import numpy as np

if TYPE_CHECKING:
    from pyrox.gp import PathwiseFunction


def minimised(
    paths: "PathwiseFunction", bounds: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """Minimisers (S, D), minima (S,) and seconds, by our defaults."""
    from pyrox.gp import optimize_paths

    key = jax.random.key(seed)
    start = time.perf_counter()
    found = jax.block_until_ready(optimize_paths(key, paths, bounds))
    seconds = time.perf_counter() - start
    return np.asarray(found.X), np.asarray(found.values), seconds
