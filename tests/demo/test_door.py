"""The door for tables as people have them."""

import contextlib
import gzip
import io
import re
from datetime import datetime

import matplotlib.image
import numpy as np
import pytest

from pyrox import datasets
from pyrox._demo import cli as program
from pyrox._demo.demo import Problem
from pyrox._demo.door import read_table
from pyrox._demo.report import query_text


@pytest.fixture
def read(tmp_path):
    def read(content: str | bytes, *x: str):
        path = tmp_path / "own.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_table(path, x or ("a",), "y")

    return read


def test_a_plain_table_is_read_as_by_read_csv(read, tmp_path):
    table = read("y,b,a\n1.5,x,2\n-3e-2,y,4\n")
    X, y = datasets.read_csv(tmp_path / "own.csv", "a", "y")
    np.testing.assert_array_equal(table.X, X)
    np.testing.assert_array_equal(table.y, y)
    assert table.notes == () and table.x_names == ("a",) and table.origins == (None,)


def test_gzip_is_unpacked_whatever_the_name(read, tmp_path):
    packed = gzip.compress(b"a,y\n1,2\n3,4\n")
    np.testing.assert_array_equal(read(packed).y, [2.0, 4.0])
    X, _ = datasets.read_csv(tmp_path / "own.csv", "a", "y")
    np.testing.assert_array_equal(X, [[1.0], [3.0]])
    for damaged in (packed[:-9], packed[:12] + b"\xff" * 20, packed[:3]):
        with pytest.raises(ValueError, match="packed by gzip and damaged"):
            read(damaged)


@pytest.mark.parametrize("mark, word", [(";", "semicolons"), ("\t", "tabs")])
def test_other_separators_are_told(read, mark, word):
    table = read(f"a{mark}y{mark}n,m\n1.5{mark}2{mark}\n3{mark}4{mark},\n")
    np.testing.assert_array_equal(table.X, [[1.5], [3.0]])
    (note,) = table.notes
    assert f"separated by {word}" in note


def test_decimal_commas_where_they_can_be_nothing_else(read):
    table = read("a;b;y\n1,5;1000;2\n3;7;-4,25e1\n", "a", "b")
    np.testing.assert_array_equal(table.X, [[1.5, 1000.0], [3.0, 7.0]])
    np.testing.assert_array_equal(table.y, [2.0, -42.5])
    assert "commas are decimal points, as in '1,5'" in table.notes[1]
    table = read("a;y\n1,500;2\n0,250;4\n")  # of thousands none begins with 0
    np.testing.assert_array_equal(table.X, [[1.5], [0.25]])
    np.testing.assert_array_equal(read('a,y\n"1,25",2\n3,4\n').X, [[1.25], [3.0]])


def test_rows_that_lack_a_value_are_left_out_and_counted(read):
    table = read("a,b,y\n1,2,3\n4,,6\nNA,8,9\n1,n/a,nan\n7,8,9\n,,\n", "a", "b")
    np.testing.assert_array_equal(table.X, [[1.0, 2.0], [7.0, 8.0]])
    (note,) = table.notes
    assert "4 of 6 rows lack a value ('a' in 2, 'b' in 3, 'y' in 2" in note
    assert "the first is line 3) and are left out." in note
    # What lacks in a column that was not asked for is nobody's loss.
    assert read("a,b,y\n1,,3\n4,,6\n").notes == ()


DAYS = {
    "ISO": ("2020-01-31", "2020-02-01", "2020-03-02"),
    "slashes": ("2020/1/31", "2020/2/1", "2020/3/2"),
    "points": ("31.01.2020", "01.02.2020", "2.3.2020"),
    "day first": ("31/01/2020", "01/02/2020", "02/03/2020"),
    "month first": ("01/31/2020", "02/01/2020", "03/02/2020"),
    "times": ("2020-01-31 00:00", "2020-02-01T00:00:00", "2020-03-02 00:00:00.0"),
    "zones": ("2020-01-31T00:00Z", "2020-02-01 02:00+02:00", "2020-03-01 19:00-0500"),
}


@pytest.mark.parametrize("dates", DAYS.values(), ids=DAYS)
def test_dates_are_days_from_the_first(read, dates):
    a, b, c = dates
    table = read(f"a,y\n{b},1\n{a},2\n{c},3\n")  # in any order
    np.testing.assert_array_equal(table.X[:, 0], [1.0, 0.0, 31.0])
    assert table.x_names == ("a (days from 2020-01-31)",)
    assert table.origins == (datetime(2020, 1, 31),)
    assert (
        "'a' holds dates: they are days from the first, 2020-01-31." in table.notes[0]
    )


def test_hours_and_months_and_leap_days(read):
    table = read("a,y\n2020-02-28 18:00,1\n2020-03-01 06:00:30,2\n")
    assert table.X[1, 0] == pytest.approx(1.5 + 30 / 86400, abs=1e-12)
    assert table.x_names == ("a (days from 2020-02-28 18:00)",)
    table = read("a,y\n2019-12,1\n2020-02,2\n")
    np.testing.assert_array_equal(table.X[:, 0], [0.0, 62.0])


def test_numbers_that_may_be_dates_are_told_of(read):
    table = read("a,y\n20200131,1\n20200201,2\n")
    assert table.X[0, 0] == 20200131
    assert "'a' is taken for numbers. If 20200131 is a date" in table.notes[0]
    assert read("a,y\n20200131,1\n20209999,2\n").notes == ()


REFUSED = {
    "text": (
        "a,y\n1,2\nfive,3\n",
        r"row 2 \(line 3\), column 'a': 'five' is not a num",
    ),
    "infinite": ("a,y\n1,inf\n2,3\n", "column 'y': 'inf' is not a number"),
    "too large": ("a,y\n1,1e999\n2,3\n", "'1e999' is not a finite number"),
    "underscores": ("a,y\n1_0,1\n2,3\n", "'1_0' is not a number"),
    "thousands": ("a;y\n1,234;1\n2,345;3\n", "or one between thousands"),
    "both marks": ("a;y\n1.5;1,5\n2;3\n", "'1,5' has a comma, and '1.5' has a point"),
    "German thousands": ("a;y\n1.234,5;1\n2;3\n", "'1.234,5' has a comma"),
    "day or month": ("a,y\n01/02/2020,1\n03/04/2020,2\n", "nothing says which"),
    "day and month": ("a,y\n13/02/2020,1\n03/14/2020,2\n", "has day and month unlike"),
    "no such day": ("a,y\n2020-02-30,1\n2020-03-01,2\n", "not a date that there is"),
    "no such hour": ("a,y\n2020-02-20 25:00,1\n2020-03-01,2\n", "not a date that the"),
    "half past": ("a,y\n2020-02-20 1 PM,1\n2020-03-01,2\n", "not a date that there"),
    "no date": ("a,y\n2020-02-20,1\n7,2\n", "'7' is not a date, as those above"),
    "zones": ("a,y\n2020-02-20 10:00Z,1\n2020-03-01 11:00,2\n", "has a time zone and"),
    "date as value": ("a,y\n1,2020-01-01\n2,2020-01-02\n", "column 'y': '2020-01-01'"),
    "too few left": ("a,y\n1,2\n,3\n4,\n", "2 of 3 rows lack .* which leaves 1. Give"),
    "no column": ("b;y\n1;2\n3;4\n", "no column 'a'. The columns are 'b', 'y'"),
    "empty": ("", "the file is empty"),
}


@pytest.mark.parametrize("content, sentence", REFUSED.values(), ids=REFUSED)
def test_what_can_be_read_in_two_ways_or_none_is_one_sentence(read, content, sentence):
    with pytest.raises(ValueError, match=sentence) as raised:
        read(content)
    assert "\n" not in str(raised.value) and "own.csv: " in str(raised.value)


def test_a_query_at_a_date_tells_the_date():
    class Query:
        x, value, path, n_candidates = np.array([1.5]), 2.0, 0, 10

    X = np.array([[0.0], [3.0]])
    names = ("date (days from 2020-02-28)",), "level", "test"
    problem = Problem(X, X[:, 0], *names, (datetime(2020, 2, 28),))
    text = " ".join(query_text(problem, Query()).split())  # pyright: ignore
    assert "(days from 2020-02-28) = 1.50, 2020-02-29 12:00." in text


@pytest.mark.exhaustive
def test_5000_rows_as_people_have_them(tmp_path):
    rng = np.random.default_rng(0)
    hours = np.sort(rng.uniform(0, 90 * 24, 5000))
    level = 2 + np.sin(2 * np.pi * hours / 24 / 45) + 0.2 * rng.normal(size=5000)
    start = np.datetime64("2023-03-01")
    lines = ["date;note;level"]
    for i, (hour, value) in enumerate(zip(hours, level, strict=True)):
        when = str(start + np.timedelta64(int(hour * 60), "m")).replace("T", " ")
        lines.append(f"{when};x;{'' if i % 100 == 7 else f'{value:.3f}'}")
    path, figure = tmp_path / "level.csv.gz", tmp_path / "figure.png"
    path.write_bytes(gzip.compress("\n".join(lines).replace(".", ",").encode()))
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        args = ["--csv", str(path), "--x", "date", "--y", "level", "--paths", "200"]
        assert program.main([*args, "--out", str(figure)]) == 0
    said = " ".join(err.getvalue().split())
    for part in ("semicolons", "commas are decimal points", "50 of 5000 rows lack",
                 "days from the first, 2023-03-01", "4950 rows, and exact inference",
                 "sparse process of 400 inducing inputs"):  # fmt: skip
        assert part in said, said
    text = " ".join(out.getvalue().split())
    noise = re.search(r"noise sd of level ([\d.]+)", text)
    # Its standard error is .2 / sqrt(2 * 5000): five of these, and three digits.
    assert noise and abs(float(noise[1]) - 0.2) < 0.0105, text
    least = re.search(r"= ([\d.]+), 2023-0(\d)-\d\d \d\d:\d\d\.", text)
    assert least and any(abs(float(least[1]) - d) < 4 for d in (33.75, 78.75)), text
    assert matplotlib.image.imread(figure).shape[1] == 1600
