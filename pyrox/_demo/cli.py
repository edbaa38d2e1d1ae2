"""The command line of the demonstration: NUTS, then functions of the posterior."""

import argparse
import contextlib
import os
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax
import jax.random as jr
from jaxtyping import Array

from .. import __version__, datasets
from .demo import (
    N_CHAINS,
    Functions,
    Problem,
    draw_functions,
    run_nuts,
    seconds_of_nuts,
    slice_along,
    thompson,
)
from .door import read_table
from .figure import SUFFIXES, draw_figure
from .many import N_INDUCING, draw_of_fit, fit_many
from .report import (
    fit_table,
    hyperparameter_table,
    mixing_warning,
    query_text,
    time_table,
)

MAX_ROWS = 1000  # these take NUTS about half an hour on two cores
MOST_ROWS = 50_000  # and of more than that a sparse process
MANY_ROWS = 300  # and these a minute: with more the user is told first
MAX_COLUMNS = 24
GRID = 300

ABOUT = """\
Fits a Gaussian process and shows its posterior as functions: NUTS over lengthscales,
variance and noise, then functions drawn over all draws of these. Prints the
hyperparameters, a query by Thompson sampling and the time of each stage, and writes a
figure. More than 1000 rows get a sparse process, with fitted hyperparameters in place
of NUTS. Without --csv the data are the motorcycle accident of Silverman (1985).
"""
EXAMPLES = """\
examples:
  python -m pyrox
  python -m pyrox --csv tides.csv --x hour --y depth --out tides.pdf
  python -m pyrox --csv river.csv.gz --x date --y level
  python -m pyrox --csv plant.csv --x temperature pressure --y yield
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demonstration.

    Args:
        argv: the arguments of the command line, those of the process by default.

    Returns:
        The exit code: 0; 1 if the figure could not be written; 2 for arguments or data
        that cannot be used; 130 if interrupted.
    """
    args = _parser().parse_args(argv)
    try:
        with _double_precision():
            return _run(args)
    except KeyboardInterrupt:
        return _refuse("Interrupted before the figure was written.", 130)
    except BrokenPipeError:  # the reader, `head` say, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _run(args: argparse.Namespace) -> int:
    clock = Clock()
    try:
        _require_writable(args.out)
        with clock("load"):
            problem = _load(args)
    except ValueError as error:
        return _refuse(str(error), 2)
    _introduce(problem, args)
    *keys, key_query = jr.split(jr.key(args.seed), 3)
    draw = _draw_sparse if len(problem.y) > MAX_ROWS else _draw_exact
    functions = draw(keys, problem, args, clock)
    with clock("evaluate"):
        grids = [slice_along(problem, d, GRID) for d in range(len(problem.x_names))]
        slices = [(grid, functions(grid)) for grid in grids]
        query = thompson(key_query, functions)
    _say(query_text(problem, query))
    try:
        with clock("figure"):
            draw_figure(args.out, functions, slices, query)
    except OSError as error:
        return _refuse(f"--out {args.out}: {error.strerror or error}.", 1)
    _say(time_table(clock.seconds))
    print(f"Figure: {args.out}", flush=True)
    return 0


def _draw_exact(
    keys: list[Array], problem: Problem, args: argparse.Namespace, clock: "Clock"
) -> Functions:
    """Functions over draws of the hyperparameters, which are printed."""
    with clock("NUTS"):
        chains = run_nuts(keys[0], problem, args.warmup, args.samples)
    _say(hyperparameter_table(problem, chains))
    _note(mixing_warning(chains))
    with clock("draw"):
        functions = draw_functions(keys[1], problem, chains, args.paths)
    _say(f"{functions.n_paths} paths, drawn over {functions.n_draws} draws of these.")
    return functions


def _draw_sparse(
    keys: list[Array], problem: Problem, args: argparse.Namespace, clock: "Clock"
) -> Functions:
    """Functions at the best hyperparameters of a sparse process, which are printed."""
    with clock("fit"):
        found, warning = fit_many(keys[0], problem)
    _say(fit_table(problem, found))
    _note(warning)
    with clock("draw"):
        functions = draw_of_fit(keys[1], problem, found, args.paths)
    _say(f"{functions.n_paths} paths of a sparse process, at these values.")
    return functions


class Clock:
    """Seconds of each stage, by name, in the order in which they ran."""

    def __init__(self):
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[stage] = time.perf_counter() - start


@contextlib.contextmanager
def _double_precision() -> Iterator[None]:
    before = jax.config.read("jax_enable_x64")
    jax.config.update("jax_enable_x64", True)
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", before)


def _load(args: argparse.Namespace) -> Problem:
    if args.csv is None:
        if args.x or args.y:
            raise ValueError("--x and --y name columns of a file. Give --csv FILE too.")
        return _motorcycle()
    if not args.x or not args.y:
        raise ValueError("--csv needs the names of columns: --x COLUMN ... --y COLUMN.")
    table = read_table(args.csv, args.x, args.y)
    _require_small(args.csv, *table.X.shape)
    for note in table.notes:
        _note(note)
    return Problem(
        table.X, table.y, table.x_names, args.y, str(args.csv), table.origins
    )


def _motorcycle() -> Problem:
    X, y = datasets.motorcycle()
    x_names, y_name = ("time after impact (ms)",), "head acceleration (g)"
    return Problem(X, y, x_names, y_name, "motorcycle accident (Silverman 1985)")


def _require_small(path: Path, n_rows: int, n_columns: int) -> None:
    if n_rows > MOST_ROWS:
        raise ValueError(
            f"{path}: {n_rows} rows are too many for this demonstration, which takes "
            f"{MOST_ROWS} at most. Give fewer rows, or call `pyrox.gp.fit_sparse` with "
            "a batch_size."
        )
    if n_columns > MAX_COLUMNS:
        raise ValueError(
            f"{path}: {n_columns} x columns are too many for the figure, which has a "
            f"panel for each. Give {MAX_COLUMNS} at most."
        )


def _require_writable(path: Path) -> None:
    """Finds out before the long run whether the figure can be written."""
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"--out {path}: the name must end in {' or '.join(SUFFIXES)}.")
    new = not path.exists()
    try:
        # The one sure test: permissions alone say nothing of a read-only disk.
        with path.open("ab"):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        raise ValueError(
            f"--out {path}: cannot be written: {reason}. Give another name or folder."
        ) from error
    if new:
        path.unlink()


def _introduce(problem: Problem, args: argparse.Namespace) -> None:
    n_rows, steps = len(problem.y), args.warmup + args.samples
    about = f"{problem.y_name} from {', '.join(problem.x_names)}"
    title = f"pyrox {__version__}: Gaussian process with a Matern-5/2 kernel"
    text = textwrap.fill(f"{problem.source}, {n_rows} rows: {about}", 79)
    _say(f"{title}\n{text}")
    if n_rows > MAX_ROWS:
        _note(
            f"{n_rows} rows, and exact inference costs O(N^3) at every step of NUTS: a "
            f"sparse process of {N_INDUCING} inducing inputs stands in from "
            f"{MAX_ROWS + 1} rows on. Its hyperparameters are fitted, not sampled."
        )
        return
    _note(f"NUTS: {N_CHAINS} chains, {args.warmup} + {args.samples} steps each")
    if n_rows > MANY_ROWS:
        minutes = max(1, round(seconds_of_nuts(problem, steps) / 60))
        _note(
            f"{n_rows} rows, and exact inference costs O(N^3) a step: this will take "
            f"about {minutes} min. Ctrl-C stops it."
        )


def _say(text: str) -> None:
    print(text, end="\n\n", flush=True)


def _note(sentence: str) -> None:
    if sentence:
        print(textwrap.fill(sentence, 79), file=sys.stderr, flush=True)


def _refuse(sentence: str, code: int) -> int:
    print(f"pyrox: {sentence}", file=sys.stderr)
    return code


def _count(least: int, most: int) -> Callable[[str], int]:
    """An argparse type: a whole number in this range."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(
                f"must be a whole number from {least} to {most}, got {text!r}"
            )
        return value

    return parse


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pyrox",
        description=ABOUT,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--version", action="version", version=f"pyrox {__version__}")
    out = "where the figure goes, by suffix png, pdf or svg (default: %(default)s)"
    add("--out", type=Path, default=Path("pyrox-demo.png"), metavar="FIGURE", help=out)
    paths = "how many functions to draw in all (default: %(default)s)"
    add("--paths", type=_count(1, 20_000), default=4000, metavar="N", help=paths)
    seed = "of the random numbers (default: %(default)s)"
    add("--seed", type=_count(0, 2**32 - 1), default=0, metavar="N", help=seed)
    warmup = "steps in which each chain adapts (default: %(default)s)"
    add("--warmup", type=_count(10, 100_000), default=300, metavar="N", help=warmup)
    samples = "draws that each of 2 chains keeps (default: %(default)s)"
    add("--samples", type=_count(10, 100_000), default=500, metavar="N", help=samples)
    own = parser.add_argument_group("your own data")
    add = own.add_argument
    csv = (
        "a UTF-8 table, packed by gzip or not; its first line names the columns. Cells "
        "are separated by commas, semicolons or tabs, x may be dates"
    )
    add("--csv", type=Path, metavar="FILE", help=csv)
    x = "the input columns: one or several names, one panel of the figure for each"
    add("--x", nargs="+", action="extend", metavar="COLUMN", help=x)
    add("--y", metavar="COLUMN", help="the column of values")
    return parser
