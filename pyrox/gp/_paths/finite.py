"""Whether what was drawn are numbers: a path of NaN would reach a mean unnoticed."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from .._hyper.checks import is_traced, require_ok, without_nan
from .path import PathwiseFunction


def holds_numbers(paths: PathwiseFunction) -> Any:
    """Whether the paths are numbers. What is not one in features or mean at an anchor
    is in the update; a mass that is not, the square root of features takes as zero."""
    clean, weights = without_nan(paths.features), paths.update_weights
    if is_traced(weights):
        return clean & jnp.all(jnp.isfinite(weights))
    return clean & bool(np.isfinite(np.asarray(weights)).all())  # compiles nothing


def as_finite(call: str, paths: PathwiseFunction, ok: Any) -> PathwiseFunction:
    """The paths, if they are, else raise; when the program runs if that is traced."""
    weights = paths.update_weights
    sentence = (
        f"`{call}.sample_paths` must draw finite functions. Got NaN or inf in "
        f"{weights.dtype}: from the kernel's features, the mean function, the guide, "
        "or values beyond the type. Look at `kernel.features(key, 64, D)(X)` and "
        "`mean_fn(X)`, and at the sizes of the hyperparameters."
    )
    checked = require_ok(weights, ok, sentence)
    if checked is weights:  # known already; a new tree would take a tenth of the draw
        return paths
    return eqx.tree_at(lambda p: p.update_weights, paths, checked)
