"""A likelihood that is asked for other rows than it was read with: those of a
minibatch, those that were held out."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike, Shaped

from .._hyper.likelihood import as_distribution, log_prob

_SAME_F = 0.5  # a product with zero would hide what it multiplies


def law_of_any_rows(
    call: str,
    likelihood: Callable,
    like: jax.ShapeDtypeStruct,
    y: Shaped[ArrayLike, ""],
    why: str,
    fix: str,
) -> Any:
    """The distribution at f = 0, if `likelihood` treats all rows alike, whichever and
    how many they are.

    One that closes over an array, a value for each row, fails for so many others; or
    goes with the wrong rows, without a word, where there happen to be as many. So of
    one f and one `y` in all rows it must make one density.
    """
    sentence = (
        f"`{call}(likelihood=...)` must be the same for all rows, and for any number "
        f"of them: {why}. Got one that "
    )

    def density(f, y):
        law = as_distribution(call, likelihood, f)
        return log_prob(law, jnp.broadcast_to(y, f.shape), like.dtype)

    f = np.zeros(like.shape, like.dtype)
    try:
        law = as_distribution(call, likelihood, f)
        # Traced, NumPyro does not warn of values that only some rows can take.
        each = np.asarray(jax.jit(density)(f + _SAME_F, y))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{sentence}fails for {like.shape[0]} latent values, as what closes over "
            f"an array of the data does. {fix}"
        ) from error
    tolerance = float(np.sqrt(np.finfo(like.dtype).eps))
    same = np.isclose(each, each[0], tolerance, tolerance, equal_nan=True)
    if not same.all():
        i = int(np.argmin(same))
        raise ValueError(
            f"{sentence}gives the same value at the same f a log density of "
            f"{each[0]:.6g} in row 0 and {each[i]:.6g} in row {i}: it closes over an "
            f"array of the data. {fix}"
        )
    return law
