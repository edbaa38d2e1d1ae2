"""Minibatches from a NumPyro plate that takes a part of the data at a time."""

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpyro
from jaxtyping import ArrayLike
from numpyro import primitives

from .._hyper.checks import as_count


class _Outside(primitives.Messenger):
    """Hides sites from plates of these names: none repeats them, none scales them."""

    def __init__(self, *names: str):
        super().__init__()
        self.names = names

    def process_message(self, msg: Any) -> None:
        infer = msg.get("infer") or {}
        names = {*infer.get("block_plates", ()), *self.names}
        msg["infer"] = {**infer, "block_plates": names}


@contextlib.contextmanager
def minibatch(call: str, X: ArrayLike, n_total: int | None) -> Iterator[int | None]:
    """The number of data that the rows of `X` stand for: the size of the plate around
    the call, if there is one, else what was passed.

    A bound of a minibatch is scaled in part, its divergence not at all, which is more
    than a plate can know. So whatever is made meanwhile is outside of it: the bound,
    and the hyperparameters and other sites, which all rows share.
    """
    # NumPyro's handlers, the outermost first: no message has the size of a plate.
    plates = [p for p in primitives._PYRO_STACK if isinstance(p, numpyro.plate)]
    if not plates:
        yield n_total
        return
    if len(plates) > 1:
        raise ValueError(
            f"`{call}` takes its rows from one `numpyro.plate`. Got it within "
            f"{len(plates)} of them, {[plate.name for plate in plates]}. Leave only "
            "that of the data; for several outputs loop over them, each factor with a "
            "name of its own."
        )
    plate = plates[0]
    _require_its_rows(call, plate, np.shape(X)[:1])
    if n_total is not None:
        total = as_count(f"{call}(n_total=...)", n_total)
        if total != plate.size:
            raise ValueError(
                f"`{call}(n_total=...)` must be {plate.size}, the size of the plate "
                f"{plate.name!r} around it. Got {total}. Leave it out."
            )
    with _Outside(plate.name):
        yield plate.size


def _require_its_rows(call: str, plate: Any, rows: tuple[int, ...]) -> None:
    if not rows or rows == (plate.subsample_size,):
        return  # what is no matrix has a sentence of its own
    name, size, some = plate.name, plate.size, plate.subsample_size
    which = f"{name!r}, {size}" + (f", subsample_size={some}" if some < size else "")
    raise ValueError(
        f"`{call}(X=...)` must have the {some} rows of `numpyro.plate({which})` around "
        f"it. Got {rows[0]}. Pass `X[rows]` and `y[rows]`, where `with numpyro.plate("
        "...) as rows`. Move it out of a plate of anything but data, which would count "
        "it once for every element."
    )
