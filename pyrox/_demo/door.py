"""The door for the user's own tables: what people have, and what was made of it."""

import csv
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
from jaxtyping import Float

from .._text_table import (
    Path,
    lines_of,
    place,
    read_text,
    require_distinct,
    require_full,
)

_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}
_MISSING = {"", "na", "n/a", "#n/a", "nan", "null", "none", "missing", "-", "?", "."}
_NUMBER = re.compile(r"[+-]?(\d+[.,]?\d*|[.,]\d+)(e[+-]?\d+)?", re.IGNORECASE)
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+")  # 0,500 is none
_YEAR_FIRST = re.compile(r"(\d{4})([-/.])(\d{1,2})(?:\2(\d{1,2}))?(?:[T ]+(\S.*))?")
_YEAR_LAST = re.compile(r"(\d{1,2})([-/.])(\d{1,2})\2(\d{4})(?:[T ]+(\S.*))?")
_TIME = re.compile(
    r"(\d{1,2}):(\d{2})(?::(\d{2}(?:\.\d+)?))?\s*(Z|[+-]\d{2}:?\d{2})?", re.IGNORECASE
)
_DAY = timedelta(days=1)


@dataclass(frozen=True)
class Table:
    """Numbers, what they are called now, and sentences about what was made of them.

    `origins` has for each x column that held dates the first of them.
    """

    X: Float[np.ndarray, "N D"]
    y: Float[np.ndarray, " N"]
    x_names: tuple[str, ...]
    origins: tuple[datetime | None, ...]
    notes: tuple[str, ...]


def read_table(path: Path, x_columns: Sequence[str], y_column: str) -> Table:
    """Inputs and values from a file with a header line, as people have them.

    Cells separated by commas, semicolons or tabs; decimal commas where they cannot be
    anything else; dates in x columns, as days from the first of them; rows with a cell
    missing are left out; the file may be packed by gzip. Each is said in a note.

    Raises:
        ValueError: what cannot be read, or can be read in two ways. The sentence names
            the file, and the row and the column where there is one.
    """
    names = [name.strip() for name in (*x_columns, y_column)]
    require_distinct(path, names)
    text = read_text(path)
    separator = _separator(text, names)
    header, *lines = lines_of(path, text, separator)
    places = [place(path, header[1], name) for name in names]
    require_full(path, header, lines)
    rows = [
        _Row(i, line, [cells[p].strip() for p in places])
        for i, (line, cells) in enumerate(lines, 1)
    ]
    notes = []
    if separator != ",":
        notes.append(f"{path}: cells are separated by {_SEPARATORS[separator]}.")
    rows, left_out = _complete(path, names, rows)
    notes += left_out
    columns = [_Column(path, name, d, rows) for d, name in enumerate(names)]
    dates = [column.dates() for column in columns[:-1]]
    numeric = [c for c, own in zip(columns, [*dates, None], strict=True) if own is None]
    commas = _decimal_commas(numeric)
    if commas:
        notes.append(f"{path}: commas are decimal points, as in {commas!r}.")
    found = [_values(c, own) for c, own in zip(columns, [*dates, None], strict=True)]
    notes += [note for *_, note in found if note]
    values = np.column_stack([own for own, *_ in found])
    labels = tuple(label for _, label, *_ in found[:-1])
    origins = tuple(min(own) if own else None for own in dates)
    return Table(values[:, :-1], values[:, -1], labels, origins, tuple(notes))


@dataclass(frozen=True)
class _Row:
    number: int
    line: int
    cells: list[str]


def _separator(text: str, names: list[str]) -> str:
    """The mark between cells: the one by which the header has the columns asked for,
    else that by which it has most."""
    first = next(filter(str.strip, text.splitlines()), "")

    def columns(mark: str) -> list[str]:
        try:
            return [c.strip() for c in next(csv.reader([first], delimiter=mark), [])]
        except csv.Error:
            return []

    by_mark = {mark: columns(mark) for mark in _SEPARATORS}
    for mark, found in by_mark.items():
        if set(names) <= set(found):
            return mark
    return max(by_mark, key=lambda mark: len(by_mark[mark]))


def _complete(
    path: Path, names: list[str], rows: list[_Row]
) -> tuple[list[_Row], list[str]]:
    """The rows without a missing cell, and what is said of the others."""

    def lacks(row: _Row) -> bool:
        return any(cell.lower() in _MISSING for cell in row.cells)

    lost = list(filter(lacks, rows))
    if not lost:
        return rows, []
    counts = {
        name: sum(row.cells[d].lower() in _MISSING for row in lost)
        for d, name in enumerate(names)
    }
    among = ", ".join(f"{name!r} in {n}" for name, n in counts.items() if n)
    what = (
        f"{path}: {len(lost)} of {len(rows)} rows lack a value ({among}; the first is "
        f"line {lost[0].line})"
    )
    kept = [row for row in rows if not lacks(row)]
    if len(kept) < 2:
        raise ValueError(f"{what}, which leaves {len(kept)}. Give at least two.")
    return kept, [f"{what} and are left out."]


class _Column:
    """The cells of one column."""

    def __init__(self, path: Path, name: str, d: int, rows: list[_Row]):
        self.path, self.name = path, name
        self.rows = rows
        self.cells = [row.cells[d] for row in rows]

    def refuse(self, i: int, what: str, fix: str = "Correct it or leave out the row."):
        row = self.rows[i]
        raise ValueError(
            f"{self.path}: row {row.number} (line {row.line}), column {self.name!r}: "
            f"{self.cells[i]!r} {what}. {fix}"
        )

    def dates(self) -> list[datetime] | None:
        """Its dates, if it holds some."""
        if not _is_date(self.cells[0]):
            return None
        for i, cell in enumerate(self.cells):
            if not _is_date(cell):
                self.refuse(i, "is not a date, as those above it are")
        day_first = self._day_first()
        found, zones = [], set()
        for i, cell in enumerate(self.cells):
            try:
                date, zone = _parsed(cell, day_first)
            except (ValueError, OverflowError):
                self.refuse(i, "is not a date that there is")
            found.append(date)
            zones.add(zone is None)
            if len(zones) > 1:
                fix = "Write all of them with a zone, or none."
                self.refuse(i, "has a time zone and others have none, or not", fix)
        return found

    def _day_first(self) -> bool:
        """Whether 01/02/2020 is in February: by a day that can be no month."""
        found = [_YEAR_LAST.fullmatch(cell) for cell in self.cells]
        slashed = [(i, m) for i, m in enumerate(found) if m and m[2] != "."]
        first = [i for i, m in slashed if int(m[1]) > 12]
        second = [i for i, m in slashed if int(m[3]) > 12]
        fix = "Write dates as 2020-01-31."
        if first and second:
            self.refuse(first[0], f"has day and month unlike line {second[0]}", fix)
        if slashed and not (first or second):
            what = "is a day and a month, or a month and a day: nothing says which"
            self.refuse(slashed[0][0], what, fix)
        return bool(first)

    def numbers(self) -> list[float]:
        """Its numbers, decimal commas too."""
        found = []
        for i, cell in enumerate(self.cells):
            if not _NUMBER.fullmatch(cell):
                self.refuse(i, "is not a number")
            found.append(float(cell.replace(",", ".")))
            if not math.isfinite(found[-1]):
                self.refuse(i, "is not a finite number")
        return found


def _values(
    column: _Column, dates: list[datetime] | None
) -> tuple[list[float], str, str]:
    """The numbers of a column, what it is called then, and what is said of it."""
    name = column.name
    if dates is None:
        return column.numbers(), name, _hint_of_dates(column)
    first = min(dates)
    at = f"{first:%Y-%m-%d}" + (f" {first:%H:%M}" if first.time() != _MIDNIGHT else "")
    note = f"{column.path}: {name!r} holds dates: they are days from the first, {at}."
    return [(d - first) / _DAY for d in dates], f"{name} (days from {at})", note


_MIDNIGHT = datetime.min.time()


def _hint_of_dates(column: _Column) -> str:
    """A note on numbers that may be dates, which as numbers are not evenly spaced."""
    for cell in column.cells:
        found = re.fullmatch(r"((?:19|20)\d\d)(\d\d)(\d\d)", cell)
        if not found or not (1 <= int(found[2]) <= 12 and 1 <= int(found[3]) <= 31):
            return ""
    return (
        f"{column.path}: {column.name!r} is taken for numbers. If {column.cells[0]} is "
        "a date, write it with hyphens, as 2020-01-31."
    )


def _decimal_commas(columns: list[_Column]) -> str | None:
    """A cell with a decimal comma, if there are some and they can be nothing else."""
    commas = [(c, i) for c in columns for i, x in enumerate(c.cells) if "," in x]
    if not commas:
        return None
    column, i = commas[0]
    fix = "Write numbers with a decimal point and no mark between thousands."
    points = [x for c in columns for x in c.cells if "." in x]
    if points:
        column.refuse(i, f"has a comma, and {points[0]!r} has a point", fix)
    if all(_THOUSANDS.fullmatch(c.cells[i]) for c, i in commas):
        column.refuse(i, "has a decimal comma, or one between thousands", fix)
    return column.cells[i]


def _is_date(cell: str) -> bool:
    return bool(_YEAR_FIRST.fullmatch(cell) or _YEAR_LAST.fullmatch(cell)) and not (
        _NUMBER.fullmatch(cell)
    )


def _parsed(cell: str, day_first: bool) -> tuple[datetime, str | None]:
    """A date, in UTC if it tells a zone, and the zone."""
    found = _YEAR_FIRST.fullmatch(cell)
    if found:
        year, _, month, day, clock = found.groups()
    else:
        first, mark, second, year, clock = _YEAR_LAST.fullmatch(cell).groups()  # pyright: ignore
        day, month = (first, second) if day_first or mark == "." else (second, first)
    date = datetime(int(year), int(month), int(day or 1))
    if clock is None:
        return date, None
    told = _TIME.fullmatch(clock.strip())
    if told is None:
        raise ValueError
    hours, minutes, seconds, zone = told.groups()
    if int(hours) > 24 or int(minutes) > 59 or float(seconds or 0) >= 61:
        raise ValueError
    date += timedelta(
        hours=int(hours), minutes=int(minutes), seconds=float(seconds or 0)
    )
    if zone and zone not in "Zz":
        sign = -1 if zone[0] == "-" else 1
        date -= sign * timedelta(hours=int(zone[1:3]), minutes=int(zone[-2:]))
    return date, zone
