"""Small real data, and the door for the user's own."""

import importlib.resources
import math
from collections.abc import Sequence
from os import PathLike

import numpy as np
from jaxtyping import Float

from ._text_table import (
    Line,
    Path,
    lines_of,
    place,
    read_text,
    require_distinct,
    require_full,
)


def motorcycle() -> tuple[Float[np.ndarray, "133 1"], Float[np.ndarray, " 133"]]:
    """Head acceleration of a dummy rider in a simulated motorcycle accident.

    Still at first, then violent, then noisy: a standard test of regression. Times
    repeat, as several sensors were read at once. Public data, from Silverman (1985),
    "Some aspects of the spline smoothing approach to non-parametric regression curve
    fitting", J. Royal Statistical Society B 47(1); the data set `mcycle` of R's MASS.

    Returns:
        X, times in milliseconds after impact, (133, 1), and y, accelerations in units
        of g, (133,).

    Example:
        >>> from pyrox import datasets
        >>> X, y = datasets.motorcycle()
        >>> X.shape, float(y.min())
        ((133, 1), -134.0)
    """
    return _shipped("motorcycle.csv")


def mauna_loa_co2() -> tuple[Float[np.ndarray, "521 1"], Float[np.ndarray, " 521"]]:
    """Carbon dioxide in the air at Mauna Loa, Hawaii: monthly means, 1958 to 2001.

    A trend that steepens, a season whose shape drifts, and slow irregularities; the
    example of Rasmussen & Williams 2006, section 5.4.3. Public data of Keeling & Whorf
    (2004), Scripps Institution of Oceanography; the data set `co2` of statsmodels,
    averaged over months, five of them without data.

    Returns:
        X, decimal years at the middle of a month, (521, 1), and y, parts per million,
        (521,).

    Example:
        >>> from pyrox import datasets
        >>> X, y = datasets.mauna_loa_co2()
        >>> X.shape, float(y[0])
        ((521, 1), 316.1)
    """
    return _shipped("mauna_loa_co2.csv")


def _shipped(name: str) -> tuple[np.ndarray, np.ndarray]:
    """The first column and the second of a table that comes with the package."""
    source = importlib.resources.files("pyrox").joinpath("data", name)
    with source.open(encoding="utf-8") as file:
        table = np.loadtxt(file, delimiter=",", skiprows=1)
    return table[:, :1], table[:, 1]


def read_csv(
    path: str | PathLike[str], x_columns: str | Sequence[str], y_column: str
) -> tuple[Float[np.ndarray, "N D"], Float[np.ndarray, " N"]]:
    """Inputs and values from a comma-separated file with a header line.

    Other columns are ignored and may hold anything. Blank lines are skipped.

    Args:
        path: a UTF-8 text file, packed by gzip or not; its first line names the
            columns.
        x_columns: the names of the input columns, in the order wanted, or one name.
        y_column: the name of the column of values.

    Returns:
        X, (N, D), and y, (N,), as float64.

    Raises:
        ValueError: a file that cannot be read or is not UTF-8; a column that is not
            there; a row with more or fewer cells than the header; a cell that is empty,
            not a number, NaN or infinite; fewer than two rows. The sentence names the
            file, and the row and the column where there is one.

    Example:
        >>> import pathlib, tempfile
        >>> from pyrox import datasets
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "tides.csv")
        ...     _ = path.write_text("hour,depth\\n0,1.2\\n6,3.4\\n")
        ...     X, y = datasets.read_csv(path, "hour", "depth")
        >>> X.shape, y
        ((2, 1), array([1.2, 3.4]))
    """
    x_columns = [x_columns] if isinstance(x_columns, str) else x_columns
    names = [name.strip() for name in (*x_columns, y_column)]
    require_distinct(path, names)
    header, *rows = lines_of(path, read_text(path))
    places = {name: place(path, header[1], name) for name in names}
    require_full(path, header, rows)
    table = np.array([_numbers(path, i, row, places) for i, row in enumerate(rows, 1)])
    return table[:, :-1], table[:, -1]


def _numbers(path: Path, row: int, line: Line, places: dict[str, int]) -> list[float]:
    where, cells = f"{path}: row {row} (line {line[0]}), column", line[1]
    return [_number(f"{where} {name!r}", cells[i]) for name, i in places.items()]


def _number(where: str, cell: str) -> float:
    fix = "Correct it or leave out the row."
    if not cell.strip():
        raise ValueError(f"{where}: the cell is empty. {fix}")
    try:
        value = float(cell)
    except ValueError:
        raise ValueError(f"{where}: {cell!r} is not a number. {fix}") from None
    if not math.isfinite(value):
        raise ValueError(f"{where}: {cell!r} is not a finite number. {fix}")
    return value
