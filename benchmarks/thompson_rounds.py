"""What 50 rounds of one point compile."""

import time

import jax
import numpy as np

from . import thompson_pyrox
from .objectives import BY_NAME

N_ROUNDS, N_FIRST = 50, 10
COMPILED = "/jax/core/compile/backend_compile_duration"
COMPILING = (
    COMPILED,
    "/jax/core/compile/jaxpr_trace_duration",
    "/jax/core/compile/jaxpr_to_mlir_module_duration",
)


def rounds(name: str = "Hartmann-6") -> list[dict]:
    """For each round the seconds, those of them that went into compilation, and how
    many programs were compiled. Tell it one process: what ran before is compiled."""
    objective = BY_NAME[name]
    X = objective.first_points(N_FIRST, 0)
    y = objective(X)
    ask = thompson_pyrox.Thompson(objective.bounds, 1, 0)
    durations: list[tuple[str, float]] = []

    def listen(event: str, duration_secs: float, **_: object) -> None:
        if event in COMPILING:
            durations.append((event, duration_secs))

    jax.monitoring.register_event_duration_secs_listener(listen)
    records = []
    for _ in range(N_ROUNDS):
        durations.clear()
        start = time.perf_counter()
        X_next = ask(X, y)
        records.append(
            {
                "seconds": time.perf_counter() - start,
                "compiling": sum(seconds for _, seconds in durations),
                "programs": sum(event == COMPILED for event, _ in durations),
            }
        )
        X, y = np.concatenate([X, X_next]), np.concatenate([y, objective(X_next)])
    return records


def table(records: list[dict]) -> list[str]:
    programs = [r["programs"] for r in records]
    later = records[3:]
    total = sum(r["seconds"] for r in later)
    share = sum(r["compiling"] for r in later) / total
    return [
        f"{len(records)} rounds from {N_FIRST} data: {sum(programs)} programs "
        f"{'ok' if sum(programs) <= 12 else 'MORE than 12'}, "
        f"{programs[:3]} in the first three rounds",
        f"the first three took {sum(r['seconds'] for r in records[:3]):.2f} s, the "
        f"others {total:.2f} s, {100 * share:.1f}% of that in compilation "
        f"{'ok' if share < 0.05 else 'MORE than 5%'}",
    ]
