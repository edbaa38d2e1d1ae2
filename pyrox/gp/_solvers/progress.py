"""A bar for iterations inside of a compiled program."""

from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array
from tqdm.auto import tqdm

from .._hyper.unchecked import is_checked

_BAR_AFTER = 2.0  # seconds


def reporter(name: str, most: int, wanted: bool) -> Callable[[Array, Array], None]:
    """What is to be called with the count and the worst residual of each iteration. It
    shows a bar, which appears after two seconds; within `unchecked` none, for a program
    that is exported takes no call back into Python along."""
    if not (wanted and is_checked()):
        return lambda count, worst: None
    bar = _Bar(name, most)

    def report(count: Array, worst: Array) -> None:
        jax.debug.callback(bar.move, count, worst)

    return report


class _Bar:
    """A bar that begins anew whenever the count does, and goes where it ends."""

    def __init__(self, name: str, most: int):
        self.name, self.most = name, most
        self.bar: Any = None

    def move(self, count: Any, worst: Any) -> None:
        count, worst = int(count), float(worst)
        if self.bar is not None and count <= self.bar.n:
            self._close()
        if self.bar is None:
            self.bar = tqdm(total=self.most, desc=self.name, delay=_BAR_AFTER)
        self.bar.set_postfix_str(
            f"residual {worst:.2g} of what is allowed", refresh=False
        )
        self.bar.update(count - self.bar.n)
        if worst <= 1 or count >= self.most:
            self._close()

    def _close(self) -> None:
        self.bar.close()
        self.bar = None
