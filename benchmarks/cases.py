"""The cases: what is timed, at which sizes, and what pyrox promises for it."""

import dataclasses
import json
from collections.abc import Mapping

import numpy as np


@dataclasses.dataclass(frozen=True)
class Case:
    """One thing to time.

    `promises` are the least ratios of a rival's time over that of pyrox; for
    "roofline", whose time is the machine's own, it is the largest ratio of pyrox's time
    over it. "botorch" is asked for values as its manual does, under `no_grad`; "botorch
    graph" records for a gradient, which takes another matrix product and is faster.
    """

    name: str
    task: str
    rivals: tuple[str, ...] = ()
    promises: Mapping[str, float] = dataclasses.field(default_factory=dict)
    dtype: str = "float32"
    n_data: int = 2000
    n_query: int = 10_000
    n_paths: int = 64
    n_features: int = 2048
    in_size: int = 4
    most_extra_mb: float | None = None

    @property
    def sizes(self) -> str:
        return (
            f"N={self.n_data} M={self.n_query} S={self.n_paths} D={self.in_size} "
            f"F={self.n_features} {self.dtype}"
        )

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @staticmethod
    def from_json(text: str) -> "Case":
        fields = json.loads(text)
        return Case(**{**fields, "rivals": tuple(fields["rivals"])})


LENGTHSCALE, NOISE_VAR, JITTER = 0.8, 0.01, 1e-4


def data(case: Case) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Inputs, values and query points: uniform in the unit cube, from a fixed seed."""
    rng = np.random.default_rng(2026)
    X = rng.uniform(size=(case.n_data, case.in_size)).astype(case.dtype)
    y = np.sin(3 * X).sum(axis=1) + 0.1 * rng.normal(size=case.n_data)
    X_query = rng.uniform(size=(case.n_query, case.in_size)).astype(case.dtype)
    return X, y.astype(case.dtype), X_query


BOTH = ("gpjax", "botorch")
THREE = (*BOTH, "botorch graph")

CASES = (
    Case(
        "evaluate",
        "evaluate",
        (*THREE, "roofline"),
        {"gpjax": 5, "botorch": 25, "roofline": 1.5},
    ),
    Case(
        "evaluate, float64",
        "evaluate",
        (*THREE, "roofline"),
        {"gpjax": 2.5, "botorch": 10},
        dtype="float64",
    ),
    Case(
        "evaluate, 1000 paths",
        "evaluate",
        (*THREE, "roofline"),
        {"gpjax": 1.5, "botorch": 5},
        n_paths=1000,
    ),
    Case("gradient of the sum", "gradient_sum", BOTH, {"gpjax": 4, "botorch": 15}),
    Case(
        "gradient of every path", "gradient_each", ("gpjax",), {"gpjax": 5}, n_paths=16
    ),
    Case("draw", "draw", BOTH, {"gpjax": 1}),
    Case("draw, float64", "draw", BOTH, {"gpjax": 1}, dtype="float64"),
    Case(
        "120 draws x 8 paths",
        "draws",
        ("loop", "vmap"),
        {"loop": 20, "vmap": 3},
        dtype="float64",
        n_data=28,
        n_query=200,
        n_paths=8,
        n_features=512,
        in_size=1,
    ),
    Case("a million points", "evaluate", n_query=1_000_000, most_extra_mb=200),
    Case(
        "import to first values",
        "first_values",
        BOTH,
        {"gpjax": 1},
        dtype="float64",
        n_data=28,
        n_query=200,
        n_features=1024,
        in_size=1,
    ),
)


def sweep(size: str, values: tuple[int, ...]) -> tuple[Case, ...]:
    """The evaluation at several values of one size, for the picture."""
    return tuple(
        dataclasses.replace(
            Case(f"evaluate, {size}={value}", "evaluate", BOTH), **{size: value}
        )
        for value in values
    )


SWEEPS = {
    "n_data": sweep("n_data", (250, 1000, 4000)),
    "n_query": sweep("n_query", (100, 1000, 10_000, 100_000)),
    "n_paths": sweep("n_paths", (1, 16, 256)),
}

# The same programs at sizes that the tests can afford.
SMALL = tuple(
    dataclasses.replace(
        case,
        n_data=min(case.n_data, 60),
        n_query=min(case.n_query, 120),
        n_paths=min(case.n_paths, 4),
        n_features=min(case.n_features, 32),
    )
    for case in CASES
)
