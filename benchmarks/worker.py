"""One process for one case in one library: it runs the case each time it is told to.

Apart, so that no library's threads, caches or memory touch another's; on demand, so
that the rivals take turns and the noise of a shared machine falls on all alike.
"""

import importlib
import importlib.metadata
import json
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any

from .cases import Case

_LIBRARIES = {
    "pyrox": "pyrox_side",
    "gpjax": "gpjax_side",
    "botorch": "botorch_side",
    "roofline": "roofline",
}
_STATUS = pathlib.Path("/proc/self/status")


def main(case: Case, library: str) -> None:
    if not library.startswith("botorch"):
        import jax

        jax.config.update("jax_enable_x64", case.dtype == "float64")
    start = time.perf_counter()
    call = _prepare(case, library)
    prepared = time.perf_counter()
    call()
    first = time.perf_counter() - prepared
    _say({"prepare_s": prepared - start, "first_s": first, **_about(case, library)})
    for line in sys.stdin:
        _say(_memory(call) if line.strip() == "memory" else _time(call))


def _prepare(case: Case, library: str) -> Callable[[], Any]:
    if library in ("loop", "vmap"):
        from . import contract

        return contract.loop(case) if library == "loop" else contract.plain_vmap(case)
    if library == "botorch graph":
        from . import botorch_side

        return botorch_side.prepare(case, graph=True)
    return importlib.import_module(f".{_LIBRARIES[library]}", __package__).prepare(case)


def _time(call: Callable[[], Any]) -> dict:
    start = time.perf_counter()
    result = call()
    seconds = time.perf_counter() - start
    return {"seconds": result if isinstance(result, float) else seconds}


def _memory(call: Callable[[], Any]) -> dict:
    """Peak memory of a call above what was there before it, its result left out."""
    if not _STATUS.exists():
        return {}  # measured on Linux only
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = _status("VmRSS")
    result = call()
    extra = _status("VmHWM") - before - getattr(result, "nbytes", 0) / 2**20
    return {"extra_mb": max(extra, 0.0)}


def _status(field: str) -> float:
    line = next(x for x in _STATUS.read_text().splitlines() if x.startswith(field))
    return int(line.split()[1]) / 1024


def _about(case: Case, library: str) -> dict:
    if library not in ("pyrox", "gpjax", "botorch") or case.task == "draws":
        return {}
    side = importlib.import_module(f".{_LIBRARIES[library]}", __package__)
    device = "cpu"
    if library != "botorch":
        import jax

        device = jax.devices()[0].device_kind
    return {
        "feature_rms": side.feature_error(case),
        "version": importlib.metadata.version(
            {"pyrox": "pyrox-gp"}.get(library, library)
        ),
        "device": device,
    }


def _say(record: dict) -> None:
    print(json.dumps(record), flush=True)


if __name__ == "__main__":
    main(Case.from_json(sys.argv[1]), sys.argv[2])
