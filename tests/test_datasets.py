"""The data that travel with the package, and the users' own files."""

import numpy as np
import pytest

from pyrox import datasets


def test_motorcycle_is_the_published_table():
    X, y = datasets.motorcycle()
    assert X.shape == (133, 1) and y.shape == (133,)
    assert X.dtype == y.dtype == np.float64
    # The first and last rows and the extremes of `mcycle` in R's MASS.
    assert X[0, 0] == 2.4 and y[0] == 0.0 and X[-1, 0] == 57.6 and y[-1] == 10.7
    assert y.min() == -134.0 and y.max() == 75.0
    assert np.all(np.diff(X[:, 0]) >= 0)
    np.testing.assert_allclose([X.mean(), y.mean()], [25.1789, -25.5459], atol=5e-5)


def test_mauna_loa_is_the_published_record():
    X, y = datasets.mauna_loa_co2()
    assert X.shape == (521, 1) and y.shape == (521,)
    # The first and last months that Keeling & Whorf report in this table.
    assert X[0, 0] == 1958.2083 and y[0] == 316.1
    assert X[-1, 0] == 2001.9583 and y[-1] == 371.02
    assert np.all(np.diff(X[:, 0]) > 0.08)


@pytest.fixture
def write(tmp_path):
    def write(content: str | bytes):
        path = tmp_path / "own.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def test_columns_come_in_the_order_asked_for(write):
    path = write("a,note,b,y\n1,ok,2,3\n4,,5,6.5\n")
    X, y = datasets.read_csv(path, ["b", "a"], "y")
    np.testing.assert_array_equal(X, [[2.0, 1.0], [5.0, 4.0]])
    np.testing.assert_array_equal(y, [3.0, 6.5])


def test_one_name_is_one_column(write):
    X, y = datasets.read_csv(write("speed,y\n1,2\n3,4\n"), "speed", "y")
    np.testing.assert_array_equal(X, [[1.0], [3.0]])


def test_what_spreadsheets_write_is_read(write):
    path = write(b'\xef\xbb\xbfa ,"y"\r\n 1 ,-2e-3\r\n\r\n"3",4\r\n')
    X, y = datasets.read_csv(str(path), ["a"], "y")
    np.testing.assert_array_equal(X, [[1.0], [3.0]])
    np.testing.assert_array_equal(y, [-2e-3, 4.0])


BAD = {
    "empty file": ("", "the file is empty"),
    "missing column": ("a,y\n1,2\n3,4\n", r"no column 'b'.*columns are 'a', 'y'\."),
    "semicolons": ("a;b;y\n1;2;3\n", "separated by commas, not by semicolons"),
    "column twice": ("a,b,b,y\n1,2,3,4\n5,6,7,8\n", "2 columns are named 'b'"),
    "text": ("a,b,y\n1,2,3\n4,five,6\n", r"row 2 \(line 3\), column 'b': 'five' is"),
    "text in y": ("a,b,y\n1,2,n/a\n4,5,6\n", r"row 1 \(line 2\), column 'y': 'n/a'"),
    "NaN": ("a,b,y\n1,2,3\n\n4,nan,6\n", r"row 2 \(line 4\), column 'b': 'nan' is not"),
    "infinite": ("a,b,y\n1,2,-inf\n4,5,6\n", "row 1 .* 'y': '-inf' is not a finite"),
    "too large": ("a,b,y\n1,2,1e999\n4,5,6\n", "row 1 .* 'y': '1e999' is not a finite"),
    "empty cell": ("a,b,y\n1,2,3\n4, ,6\n", "row 2 .* 'b': the cell is empty"),
    "empty row": ("a,b,y\n1,2,3\n4,5,6\n,,\n", "row 3 .* 'a': the cell is empty"),
    "short row": ("a,b,y\n1,2,3\n4,5\n", "row 2 .* has 2 cells and the header has 3"),
    "long row": (
        "a,b,y\n1,2,3,4\n5,6,7\n",
        "row 1 .* has 4 cells and the header",
    ),
    "header only": ("a,b,y\n", r"0 row\(s\) of data"),
    "one row": ("a,b,y\n1,2,3\n", r"1 row\(s\) of data. Give at least two"),
    "not UTF-8": ("a,b,y\n1,2,3\n4,5,6°\n".encode("latin-1"), "is not UTF-8 text"),
    "a picture": (b"\x89PNG\r\n\x1a\n\x00\x00", "is not UTF-8 text"),
    "endless cell": ("a,b,y\n" + "1" * 200_000, "is not CSV: field larger than"),
}


@pytest.mark.parametrize("content, sentence", BAD.values(), ids=BAD)
def test_bad_file_raises_one_sentence(write, content, sentence):
    path = write(content)
    with pytest.raises(ValueError, match=sentence) as raised:
        datasets.read_csv(path, ["a", "b"], "y")
    assert str(raised.value).startswith(f"{path}: ")
    assert "\n" not in str(raised.value)


def test_file_that_cannot_be_opened(tmp_path):
    with pytest.raises(ValueError, match="none.csv: the file cannot be read: No such"):
        datasets.read_csv(tmp_path / "none.csv", "a", "y")
    with pytest.raises(ValueError, match="the file cannot be read: "):
        datasets.read_csv(tmp_path, "a", "y")


def test_columns_named_twice_or_not_at_all(write):
    path = write("a,y\n1,2\n3,4\n")
    with pytest.raises(ValueError, match="column 'y' is named twice"):
        datasets.read_csv(path, ["a", "y"], "y")
    with pytest.raises(ValueError, match="column 'a' is named twice"):
        datasets.read_csv(path, ["a", "a"], "y")
    with pytest.raises(ValueError, match="no x column is named"):
        datasets.read_csv(path, [], "y")
