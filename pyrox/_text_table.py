"""Tables of text: the lines of a file, and where its columns are."""

import csv
import gzip
import io
import zlib
from os import PathLike
from pathlib import Path as _Folder

Path = str | PathLike[str]
# A line of the file: its number, counted from 1, and its cells.
Line = tuple[int, list[str]]


def read_text(path: Path) -> str:
    """The text of a file, packed by gzip or not."""
    try:
        content = _Folder(path).read_bytes()
        if content.startswith(b"\x1f\x8b"):
            content = gzip.decompress(content)
        # A byte-order mark, which spreadsheets write, is not part of the first name.
        return content.decode("utf-8-sig")
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(
            f"{path}: the file is packed by gzip and damaged. Pack it anew."
        ) from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise ValueError(f"{path}: the file cannot be read: {reason}.") from error
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: the file is not UTF-8 text. Save it as CSV in UTF-8."
        ) from error


def lines_of(path: Path, text: str, separator: str = ",") -> list[Line]:
    """The lines that are not blank, the header first."""
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
        lines = [(reader.line_num, cells) for cells in reader if cells]
    except csv.Error as error:
        raise ValueError(f"{path}: the file is not CSV: {error}.") from error
    if not lines:
        raise ValueError(
            f"{path}: the file is empty. Name the columns in its first line."
        )
    return lines


def require_distinct(path: Path, names: list[str]) -> None:
    """Raise unless these are x columns and a y column."""
    if len(names) == 1:
        raise ValueError(f"{path}: no x column is named. Name at least one.")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(
            f"{path}: the column {twice[0]!r} is named twice among the x columns and "
            "the y column. Name each column once."
        )


def place(path: Path, header: list[str], name: str) -> int:
    """The index of the column `name`."""
    columns = [cell.strip() for cell in header]
    if columns.count(name) > 1:
        raise ValueError(
            f"{path}: {columns.count(name)} columns are named {name!r}. Rename them."
        )
    if name not in columns:
        raise ValueError(
            f"{path}: there is no column {name!r}. The columns are "
            f"{', '.join(map(repr, columns))}.{_separator_hint(columns)}"
        )
    return columns.index(name)


def _separator_hint(columns: list[str]) -> str:
    if len(columns) == 1 and any(mark in columns[0] for mark in ";\t"):
        return " Cells must be separated by commas, not by semicolons or tabs."
    return ""


def require_full(path: Path, header: Line, rows: list[Line]) -> None:
    """Raise unless there are two rows, of a cell for each column."""
    width = len(header[1])
    for row, (line, cells) in enumerate(rows, start=1):
        if len(cells) != width:
            raise ValueError(
                f"{path}: row {row} (line {line}) has {len(cells)} cells and the "
                f"header has {width}. Give every row one cell for each column."
            )
    if len(rows) < 2:
        raise ValueError(f"{path}: {len(rows)} row(s) of data. Give at least two.")
