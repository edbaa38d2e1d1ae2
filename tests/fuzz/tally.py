"""What a run of the fuzzer has found."""

import collections
import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np


@dataclasses.dataclass
class Tally:
    """Counts, the worst ratio of error to bound of each kind of answer, and faults."""

    where: str = ""
    checked: collections.Counter = dataclasses.field(
        default_factory=collections.Counter
    )
    unresolved: collections.Counter = dataclasses.field(
        default_factory=collections.Counter
    )
    worst: dict[str, tuple[float, str]] = dataclasses.field(default_factory=dict)
    refusals: collections.Counter = dataclasses.field(
        default_factory=collections.Counter
    )
    faults: list[str] = dataclasses.field(default_factory=list)
    # How many residuals there were, and the sum of their squares in units of noise.
    squares: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(2))

    def fault(self, kind: str, what: str) -> None:
        self.faults.append(f"{what}: {kind}, {self.where}")

    def compare(self, kind: str, got: Any, wanted: tuple, resolved: bool) -> None:
        """`got` against a value and its bound. Where the type has no digits left there
        is no bound, but no NaN either."""
        got, (value, bound) = np.asarray(got, np.longdouble), wanted
        if got.shape != np.shape(value):
            return self.fault(kind, f"shape {got.shape}")
        if not np.isfinite(got).all():
            return self.fault(kind, "silent NaN or inf")
        if not resolved:
            self.unresolved[kind] += 1
            return None
        error = abs(got - value)
        self.ratio(kind, float(np.max(np.where(error > 0, error / _some(bound), 0))))

    def ratio(self, kind: str, ratio: float) -> None:
        self.checked[kind] += 1
        if not ratio <= self.worst.get(kind, (-1.0, ""))[0]:
            self.worst[kind] = ratio, self.where
        if not ratio <= 1:
            self.fault(kind, f"{ratio:.3g} times its bound")

    def answer(self, kind: str, call: Callable[[], Any], excused: Any) -> Any:
        """What `call` gives, or None if it refuses with a sentence that `excused`, a
        boolean or a function of the sentence, lets pass."""
        try:
            return call()
        except ValueError as refusal:
            sentence = str(refusal)
            if not _is_sentence(sentence):
                self.fault(kind, f"unclear message {sentence[:200]!r}")
            elif not (excused(sentence) if callable(excused) else excused):
                self.fault(kind, f"refused without need: {sentence[:200]!r}")
            self.refusals[f"{kind}: {_shape(sentence)}"] += 1
        except Exception as error:  # whatever it is: this is what is looked for
            self.fault(kind, f"unclear {type(error).__name__} {str(error)[:200]!r}")
        return None

    def add(self, other: "Tally") -> None:
        for mine, theirs in (
            *((self.checked, other.checked), (self.unresolved, other.unresolved)),
            (self.refusals, other.refusals),
        ):
            mine.update(theirs)
        for kind, found in other.worst.items():
            self.worst[kind] = max(self.worst.get(kind, (-1.0, "")), found)
        self.faults += other.faults
        self.squares = self.squares + other.squares

    def judge_residuals(self) -> None:
        """Their sum of squares is chi-squared: within 7 of its standard deviations."""
        n, total = self.squares
        if n:
            self.where = f"{n:.0f} residuals"
            self.ratio("residuals, sum of squares", abs(total - n) / np.sqrt(98 * n))

    def report(self) -> str:
        lines = [f"{'answer':28} {'checked':>8} {'no digits':>10} {'worst ratio':>12}"]
        for kind in sorted({*self.checked, *self.unresolved}):
            ratio, where = self.worst.get(kind, (float("nan"), ""))
            counts = f"{self.checked[kind]:8} {self.unresolved[kind]:10}"
            lines.append(f"{kind:28} {counts} {ratio:12.3g}  {where}")
        lines += [f"{n:8} refusals  {what}" for what, n in self.refusals.most_common()]
        lines += self.faults[:40]
        return "\n".join([*lines, f"{len(self.faults)} faults"])


def _some(bound: np.ndarray) -> np.ndarray:
    return np.maximum(bound, np.finfo(np.longdouble).tiny)


def _is_sentence(text: str) -> bool:
    return "`" in text and text.rstrip().endswith(".") and len(text) < 1000


def _shape(sentence: str) -> str:
    """A sentence without its numbers, to count alike ones together."""
    return "".join("#" if c.isdigit() else c for c in sentence)[:90]
