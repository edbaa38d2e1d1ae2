"""`python -m benchmarks`: all cases against all peers, in one run."""

import argparse
import json
import os
import pathlib
import platform
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from . import report
from .cases import CASES, SMALL, SWEEPS
from .run import measure

_PACKAGES = ("pyrox-gp", "jax", "jaxlib", "gpjax", "botorch", "gpytorch", "torch")
_RIVALS = ("gpjax", "botorch", "botorch graph", "roofline", "loop", "vmap")


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parse(arguments)
    libraries = [x for x in options.rivals if x.split()[0] not in _absent()]
    chosen = SMALL if options.small else CASES
    cases = [case for case in chosen if options.only in case.name]
    print(f"{_environment()}\nrivals: {', '.join(libraries)}\n", flush=True)
    records = []
    for case in cases:
        records.append(measure(case, options.repeats, libraries))
        print(report.table(records[-1:]), flush=True)
    sweeps = {}
    if options.sweeps:
        sweeps = {
            size: [measure(case, 5, libraries, memory=False) for case in several]
            for size, several in SWEEPS.items()
        }
        report.picture(sweeps, options.out / "speed.png")
        print(f"written: {options.out / 'speed.png'}")
    found = {"environment": _environment(), "cases": records, "sweeps": sweeps}
    path = options.out / "speed.json"
    path.write_text(json.dumps(found, indent=1) + "\n")
    print(f"written: {path}")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--rivals", nargs="*", default=_RIVALS, choices=_RIVALS)
    parser.add_argument(
        "--repeats", type=int, default=9, help="runs to take medians of"
    )
    parser.add_argument("--small", action="store_true", help="tiny sizes: a smoke test")
    parser.add_argument("--sweeps", action="store_true", help="time against N, M and S")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("."))
    return parser.parse_args(arguments)


def _absent() -> list[str]:
    return [name for name in ("gpjax", "botorch") if _version(name) is None]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _environment() -> dict:
    return {
        "date": time.strftime("%Y-%m-%d"),
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in _PACKAGES if _version(name)},
    }


if __name__ == "__main__":
    main()
