"""`python -m pyrox`, run in this process with short chains."""

import contextlib
import dataclasses
import io
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import matplotlib
import matplotlib.image
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from pyrox import datasets, plot
from pyrox._demo import cli as program
from pyrox._demo import demo, figure, report
from pyrox.gp import substitute

pytestmark = pytest.mark.usefixtures("plainly_compiled")

SHORT = ["--warmup", "60", "--samples", "60"]
NUMBER = r"(-?[\d.]+(?:e[+-]\d+)?)"


class Terminal(io.StringIO):
    def isatty(self):
        return True


@dataclasses.dataclass
class Run:
    code: int
    out: str
    err: str
    figure: np.ndarray

    def row(self, name: str) -> list[float]:
        """Mean, interval, r-hat and effective sample size of a hyperparameter."""
        cells = rf"{NUMBER} +{NUMBER} to +{NUMBER} +{NUMBER} +{NUMBER}\n"
        found = re.search(rf"^{re.escape(name)} +{cells}", self.out, re.MULTILINE)
        assert found, self.out
        return [float(cell) for cell in found.groups()]


def run(figure, stderr, *args) -> Run:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(stderr):
        code = program.main([*SHORT, "--out", str(figure), *args])
    image = matplotlib.image.imread(figure)
    return Run(code, out.getvalue(), stderr.getvalue(), image)


@pytest.fixture(scope="module")
def motorcycle(tmp_path_factory):
    figure = tmp_path_factory.mktemp("motorcycle") / "figure.png"
    return run(figure, io.StringIO(), "--paths", "130")


@pytest.fixture(scope="module")
def own_csv(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    rng = np.random.default_rng(0)
    X = np.column_stack([rng.uniform(2010, 2020, 40), rng.uniform(0, 1e-3, 40)])
    y = 1e4 + 500 * np.sin(X[:, 0] - 2010) + 20 * rng.normal(size=40)
    path = folder / "own.csv"
    table = np.column_stack([X, y])
    head = "year ($),width ($),n_{x}"
    np.savetxt(path, table, delimiter=",", header=head, comments="")
    columns = ["--x", "year ($)", "--x", "width ($)", "--y", "n_{x}"]
    with pytest.MonkeyPatch.context() as patch:
        # NumPyro shows no progress bar where it sees one of these.
        patch.delenv("CI", raising=False)
        patch.delenv("PYTEST_XDIST_WORKER", raising=False)
        args = ("--csv", str(path), *columns, "--paths", "60")
        return run(folder / "figure.png", Terminal(), *args)


def share_near(image: np.ndarray, color: str) -> float:
    """The share of the pixels that have this colour."""
    gap = np.abs(image[..., :3] - np.array(to_rgb(color))).max(axis=-1)
    return float(np.mean(gap < 0.06))


@pytest.mark.exhaustive
def test_motorcycle_hyperparameters_are_in_the_users_units(motorcycle):
    assert motorcycle.code == 0
    mean, low, high, r_hat, ess = motorcycle.row(
        "lengthscale of time after impact (ms)"
    )
    assert 1 < low < mean < high < 20 and 4 < mean < 12
    mean, low, high, *_ = motorcycle.row("sqrt(variance) of head acceleration (g)")
    assert 15 < low < mean < high < 150 and 35 < mean < 80
    mean, low, high, *_ = motorcycle.row("noise sd of head acceleration (g)")
    assert 18 < low < mean < high < 29
    assert 0.9 < r_hat < 1.2 and 10 < ess <= 1000


@pytest.mark.exhaustive
def test_motorcycle_report_names_paths_query_and_stages(motorcycle):
    # 130 paths of 120 draws: two for each of 65.
    assert "130 paths, drawn over 65 draws of these.\n" in motorcycle.out
    text = " ".join(motorcycle.out.split())
    query = re.search(
        rf"measure next at time after impact \(ms\) = {NUMBER}\. There path (\d+), "
        rf"drawn at random, .* head acceleration \(g\) = {NUMBER}\. ",
        text,
    )
    assert query, text
    x, path, value = map(float, query.groups())
    assert 15 < x < 30 and 1 <= path <= 130 and -190 < value < -80
    stages = re.findall(rf"^(\w+) +{NUMBER}$", motorcycle.out, re.MULTILINE)
    names = ["load", "NUTS", "draw", "evaluate", "figure", "total"]
    assert [name for name, _ in stages] == names
    *parts, total = (float(seconds) for _, seconds in stages)
    assert sum(parts) == pytest.approx(total, abs=0.05)
    assert all(len(line) < 80 for line in motorcycle.out.splitlines()[:-1])


@pytest.mark.exhaustive
def test_motorcycle_figure_shows_data_functions_and_query(motorcycle):
    height, width, _ = motorcycle.figure.shape
    assert width == 1600 and height > 700
    for color, least in ((plot.INK, 2e-3), (plot.BLUE, 2e-3), (plot.VERMILION, 1e-3)):
        assert share_near(motorcycle.figure, color) > least


@pytest.mark.exhaustive
def test_log_holds_no_progress_bar(motorcycle):
    lines = motorcycle.err.splitlines()
    assert lines[0] == "NUTS: 2 chains, 60 + 60 steps each"
    assert "it/s" not in motorcycle.err and "\r" not in motorcycle.err


@pytest.mark.exhaustive
def test_own_columns_have_a_lengthscale_and_a_panel_each(own_csv):
    assert own_csv.code == 0
    assert 0.5 < own_csv.row("lengthscale of year ($)")[0] < 6
    # The second column does nothing: its lengthscale exceeds its range.
    assert own_csv.row("lengthscale of width ($)")[0] > 3e-4
    assert 10 < own_csv.row("noise sd of n_{x}")[0] < 40
    assert "60 paths, drawn over 60 draws of these.\n" in own_csv.out
    text = " ".join(own_csv.out.split())
    query = (
        rf"year \(\$\) = {NUMBER}, width \(\$\) = {NUMBER}\. .* n_{{x}} = {NUMBER}\."
    )
    found = re.search(query, text)
    assert found, text
    year, width, value = map(float, found.groups())
    assert 2010 <= year <= 2020 and 0 <= width <= 1e-3
    assert 1e4 + 500 * np.sin(year - 2010) == pytest.approx(value, abs=250)
    for half in np.array_split(own_csv.figure, 2, axis=1):
        assert share_near(half, plot.BLUE) > 1e-3
        assert share_near(half, plot.VERMILION) > 1e-4


@pytest.mark.exhaustive
def test_terminal_shows_the_progress_bar(own_csv):
    assert re.search(r"\rsample: 100%\|.*\| 120/120", own_csv.err)


@pytest.fixture
def no_nuts(monkeypatch):
    def run_nuts(*_):
        raise AssertionError("NUTS ran before the arguments were checked")

    monkeypatch.setattr(program, "run_nuts", run_nuts)


COLUMNS = ["--x", "a", "b", "--y", "y"]
REFUSED = {
    "text": (
        "a,b,y\n1,2,3\n4,5,six\n",
        COLUMNS,
        r"row 2 \(line 3\), column 'y': 'six'",
    ),
    "missing column": ("a,y\n1,2\n3,4\n", COLUMNS, "columns are 'a', 'y'"),
    "one row": ("a,b,y\n1,2,3\n", COLUMNS, "Give at least two"),
    "constant x": ("a,b,y\n1,7,3\n4,7,6\n", COLUMNS, "'b' has the value 7 in every"),
    "constant y": ("a,b,y\n1,2,3\n4,5,3\n", COLUMNS, "'y' has the value 3 in every"),
    "huge": (
        "a,b,y\n1,2,1e300\n4,5,-1e300\n",
        COLUMNS,
        "'y' is too large or too small",
    ),
    "tiny": ("a,b,y\n1,2,1e-300\n4,5,0\n", COLUMNS, "'y' is too large or too small"),
    "no columns named": ("a,y\n1,2\n3,4\n", [], "--csv needs the names of columns"),
    "no y named": ("a,y\n1,2\n3,4\n", ["--x", "a"], "--csv needs the names of columns"),
    "many rows": (
        "a,b,y\n" + "1,2,3\n4,5,6\n" * 25_001,
        COLUMNS,
        "50002 rows are too many .* 50000 at most.*`pyrox.gp.fit_sparse`",
    ),
    "many columns": (
        "\n".join([",".join(f"c{i}" for i in range(26)), *[",".join("1" * 26)] * 2]),
        ["--x", *(f"c{i}" for i in range(25)), "--y", "c25"],
        "25 x columns are too many .* 24 at most",
    ),
}


@pytest.mark.parametrize("content, columns, sentence", REFUSED.values(), ids=REFUSED)
def test_bad_csv_is_one_sentence_and_exit_2(
    no_nuts, tmp_path, capsys, content, columns, sentence
):
    path = tmp_path / "own.csv"
    path.write_text(content)
    figure = tmp_path / "figure.png"
    code = program.main(["--csv", str(path), *columns, "--out", str(figure)])
    out, err = capsys.readouterr()
    assert code == 2 and out == ""
    assert re.search(sentence, err), err
    assert err.startswith("pyrox: ") and err.count("\n") == 1
    assert not figure.exists()


def test_columns_without_a_file(no_nuts, tmp_path, capsys):
    assert program.main(["--x", "a", "--out", str(tmp_path / "f.png")]) == 2
    assert "Give --csv FILE too." in capsys.readouterr().err


OUT = {
    "figure": "must end in .png or .pdf or .svg",
    "figure.jpeg": "must end in .png or .pdf or .svg",
    "none/figure.png": "cannot be written: No such file",
    "folder.png": "cannot be written: Is a directory",
}


@pytest.mark.parametrize("name, sentence", OUT.items(), ids=OUT)
def test_bad_out_is_refused_before_the_long_run(
    no_nuts, tmp_path, capsys, name, sentence
):
    (tmp_path / "folder.png").mkdir()
    assert program.main(["--out", str(tmp_path / name)]) == 2
    err = capsys.readouterr().err
    assert sentence in err and err.count("\n") == 1


@pytest.mark.parametrize("option", ["--paths=0", "--seed=-1", "--warmup=x", "--odd"])
def test_bad_options_exit_2(capsys, option):
    with pytest.raises(SystemExit) as stopped:
        program.main([option])
    assert stopped.value.code == 2
    assert option.split("=")[0] in capsys.readouterr().err


@pytest.mark.numpyro
def test_interrupt_and_long_run_are_told(tmp_path, capsys, monkeypatch):
    def run_nuts(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(program, "run_nuts", run_nuts)
    monkeypatch.setattr(program, "MANY_ROWS", 100)
    figure = tmp_path / "figure.png"
    figure.write_bytes(b"of an earlier run")
    x64 = jax.config.read("jax_enable_x64")
    assert program.main(["--out", str(figure)]) == 130
    err = capsys.readouterr().err
    assert re.search(r"133 rows, .* this will take about\s+\d+ min", err)
    assert err.endswith("pyrox: Interrupted before the figure was written.\n")
    assert figure.read_bytes() == b"of an earlier run"
    assert jax.config.read("jax_enable_x64") == x64


@pytest.fixture(scope="module")
def functions():
    """1200 functions over six draws of made-up chains, on motorcycle data."""
    X, y = datasets.motorcycle()
    problem = demo.Problem(X, y, ("time",), "acceleration", "test")
    chains = {
        demo.LENGTHSCALE: jnp.linspace(0.4, 0.7, 6).reshape(2, 3, 1),
        demo.VARIANCE: jnp.linspace(1.5, 0.8, 6).reshape(2, 3),
        demo.NOISE: jnp.linspace(0.4, 0.5, 6).reshape(2, 3),
    }
    with jax.enable_x64(True):
        chains = jax.tree.map(lambda v: v.astype(jnp.float64), chains)
        made = demo.draw_functions(jax.random.key(0), problem, chains, 1200)
    return made, chains


def test_functions_average_to_the_exact_mean_in_the_users_units(functions, x64):
    made, chains = functions
    problem, draws = made.problem, {k: v.reshape(6, -1) for k, v in chains.items()}
    grid = np.linspace(5, 55, 9)[:, None]
    prior, standard = demo.build_prior(problem), (grid - problem.X.mean()) / 13.0826
    means = []
    for i in range(6):
        values = {
            demo.LENGTHSCALE: draws[demo.LENGTHSCALE][i],
            demo.VARIANCE: draws[demo.VARIANCE][i, 0],
        }
        noise_var = draws[demo.NOISE][i, 0] ** 2
        y = (problem.y - problem.y.mean()) / 48.14005
        posterior = substitute(prior, values).condition(y, noise_var)
        means.append(problem.y.mean() + 48.14005 * posterior.predict_mean(standard))
    values = made(grid)
    assert values.shape == (1200, 9)
    error = values.std(axis=0) / np.sqrt(1200)
    # Nine comparisons: a false alarm once in a million.
    assert np.all(np.abs(values.mean(axis=0) - np.mean(means, axis=0)) < 5.3 * error)


def test_one_function_is_that_row_of_all(functions, x64):
    made, _ = functions
    grid = np.linspace(5, 55, 9)[:, None]
    for i in (0, 199, 200, 1199):
        np.testing.assert_allclose(made.one(i, grid), made(grid)[i], rtol=1e-9)


def test_thompson_gives_the_least_of_one_function(functions, x64):
    made, _ = functions
    query = demo.thompson(jax.random.key(1), made, 500)
    grid = np.linspace(made.problem.X.min(), made.problem.X.max(), 500)[:, None]
    values = made.one(query.path, grid)
    assert query.value == values.min() and query.x == grid[values.argmin()]
    paths = {demo.thompson(jax.random.key(s), made, 50).path for s in range(5)}
    assert len(paths) > 1


@pytest.mark.parametrize("suffix", figure.SUFFIXES)
def test_figure_in_every_format_without_a_trace_in_matplotlib(
    functions, x64, tmp_path, suffix
):
    made, _ = functions
    before, path = dict(matplotlib.rcParams), tmp_path / f"figure{suffix}"
    grid = demo.slice_along(made.problem, 0, 50)
    query = demo.thompson(jax.random.key(1), made, 50)
    figure.draw_figure(path, made, [(grid, made(grid))], query)
    start = {".png": b"\x89PNG", ".pdf": b"%PDF", ".svg": b"<?xml"}[suffix]
    assert path.read_bytes().startswith(start) and path.stat().st_size > 10_000
    assert dict(matplotlib.rcParams) == before


def test_slices_hold_the_other_columns_at_their_medians():
    X = np.array([[0.0, 5.0], [1.0, 7.0], [4.0, 6.0]])
    problem = demo.Problem(X, X[:, 0], ("a", "b"), "y", "test")
    grid = demo.slice_along(problem, 1, 3)
    np.testing.assert_array_equal(grid, [[1.0, 5.0], [1.0, 6.0], [1.0, 7.0]])


@pytest.mark.parametrize("n, drawn", [(1, (1, 1)), (7, (7, 1)), (1201, (601, 2))])
def test_number_of_paths_is_what_was_asked_for(monkeypatch, n, drawn):
    def paths_over_draws(key, draws, condition, n_paths):
        assert draws[demo.NOISE].shape == (drawn[0],) and n_paths == drawn[1]
        assert drawn[0] == 1 or draws[demo.NOISE][-1] == 999  # over all draws
        raise StopIteration

    monkeypatch.setattr(demo, "paths_over_draws", paths_over_draws)
    X, y = datasets.motorcycle()
    problem = demo.Problem(X, y, ("time",), "acceleration", "test")
    with pytest.raises(StopIteration):
        chains = {demo.NOISE: jnp.arange(1000.0).reshape(2, 500)}
        demo.draw_functions(jax.random.key(0), problem, chains, n)


def test_chains_that_disagree_are_told():
    rng = np.random.default_rng(0)
    good = rng.normal(size=(2, 500))
    assert report.mixing_warning({"noise": jnp.asarray(good)}) == ""
    apart = jnp.asarray(good + [[0.0], [3.0]])
    warning = report.mixing_warning({"noise": apart})
    assert "r-hat is up to" in warning and "Raise --warmup" in warning
    assert report.mixing_warning({"noise": jnp.asarray(good[:, :20])}) != ""


NUMBERS = {
    (0, None): "0",
    (7.0149, None): "7.01",
    (-0.04714, None): "-0.0471",
    (51.86, None): "51.9",
    (12345.6, None): "12346",
    (2.5e9, None): "2.50e+09",
    (1.234e-7, None): "1.23e-07",
    (2015.374, 3.0): "2015.37",
    (21.52, 13.0): "21.5",
    (1.23456789e9, 1e6): "1.23457e+09",
}


@pytest.mark.parametrize("given, text", NUMBERS.items())
def test_numbers_have_three_digits_of_their_scale(given, text):
    assert report.number(*given) == text


def test_the_threads_are_chosen_before_jax_is_imported():
    source = """
import os, sys
os.environ.pop("OPENBLAS_NUM_THREADS", None)
import pyrox.__main__
assert "jax" not in sys.modules
try:
    pyrox.__main__.main(["--version"])
except SystemExit:
    assert os.environ["OPENBLAS_NUM_THREADS"] == "1" and "jax" in sys.modules
"""
    subprocess.run([sys.executable, "-c", source], check=True, capture_output=True)


def test_help_in_a_fresh_process():
    done = subprocess.run(
        [sys.executable, "-m", "pyrox", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    for option in ("--out", "--paths", "--seed", "--csv", "--x", "--y"):
        assert option in done.stdout
    assert "NUTS" in done.stdout and done.stderr == ""


def test_importing_the_demonstration_changes_no_setting():
    source = """
import jax, matplotlib
before = dict(jax.config.values), dict(matplotlib.rcParams)
import pyrox._demo.cli
assert (dict(jax.config.values), dict(matplotlib.rcParams)) == before
"""
    subprocess.run([sys.executable, "-c", source], check=True)
