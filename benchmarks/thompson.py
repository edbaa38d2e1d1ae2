"""`python -m benchmarks.thompson PART`: Thompson sampling, against BoTorch.

`paths`: the minima of 64 drawn functions, the same ones for both, with both optimisers'
defaults. `regret`: loops of Bayesian optimisation. `rounds`: what 50 rounds compile.
`many`: 1000 paths beside 64. `batches`: 500 points a round, against a sparse posterior
and random points. Each writes what it measured to `thompson.json`.
"""

import argparse
import json
import os
import pathlib
import time

import jax

SIDES = ("pyrox", "botorch", "random")


def main() -> None:
    options = _parse()
    jax.config.update("jax_enable_x64", True)
    records, lines = PARTS[options.part](options)
    print("\n".join(lines))
    path = options.out / "thompson.json"
    stored = json.loads(path.read_text()) if path.exists() else {}
    stored[options.part] = {
        "date": time.strftime("%Y-%m-%d"),
        "cores": os.cpu_count(),
        "records": records,
    }
    path.write_text(json.dumps(stored, indent=1) + "\n")
    print(f"written: {path}")


def _paths(options: argparse.Namespace) -> tuple[list[dict], list[str]]:
    from . import thompson_paths

    records, names = [], [side for side in options.sides if side != "random"]
    for in_size, n in thompson_paths.SIZES:
        if options.only and options.only != f"{in_size},{n}":
            continue
        for seed in options.seeds or range(5):
            records += thompson_paths.measure(in_size, n, seed, names, options.keep)
    return records, thompson_paths.table(records)


def _regret(options: argparse.Namespace) -> tuple[list[dict], list[str]]:
    from . import thompson_regret

    folder = options.keep or options.out
    folder.mkdir(parents=True, exist_ok=True)
    names = [
        name for name in thompson_regret.STRATEGIES if name.split()[0] in options.sides
    ]
    objectives = [o for o in thompson_regret.BY_NAME if options.only in o]
    records = thompson_regret.run(
        folder / "thompson_regret.jsonl",
        names,
        objectives,
        options.seeds or range(10),
        options.n_values or thompson_regret.N_VALUES,
    )
    return thompson_regret.quartiles(records), thompson_regret.table(records)


def _rounds(_: argparse.Namespace) -> tuple[list[dict], list[str]]:
    from . import thompson_rounds

    records = thompson_rounds.rounds()
    return records, thompson_rounds.table(records)


def _many(_: argparse.Namespace) -> tuple[list[dict], list[str]]:
    from . import thompson_paths

    records = thompson_paths.many()
    return records, thompson_paths.table_of_many(records)


def _batches(options: argparse.Namespace) -> tuple[list[dict], list[str]]:
    from . import thompson_batches

    records = [
        thompson_batches.measure(name, seed)
        for seed in options.seeds or range(1)
        for name in thompson_batches.RIVALS
        if options.only in name
    ]
    return records, thompson_batches.table(records)


PARTS = {
    "paths": _paths,
    "regret": _regret,
    "rounds": _rounds,
    "many": _many,
    "batches": _batches,
}


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.thompson", description=__doc__
    )
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--sides", nargs="*", default=SIDES, choices=SIDES)
    parser.add_argument("--only", default="", help="D,N of paths; a function's name")
    parser.add_argument("--seeds", nargs="*", type=int, default=[])
    parser.add_argument("--n-values", type=int, help="that a loop may ask for")
    parser.add_argument("--keep", type=pathlib.Path, help="a folder for what is slow")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("."))
    return parser.parse_args()


if __name__ == "__main__":
    main()
