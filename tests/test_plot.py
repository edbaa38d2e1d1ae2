"""What the plotting helpers put on the caller's axes."""

from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_hex, to_rgba
from matplotlib.figure import Figure
from scipy import stats

from pyrox import plot
from pyrox.gp import Diagnosis

X = np.linspace(-1, 2, 7)
DRAWS = np.random.default_rng(0).normal(size=(201, 7)) + X


@pytest.fixture
def ax():
    return Figure().subplots()


def edges(band: Any) -> set[tuple[float, float]]:
    """The corners of a band, rounded."""
    return {(round(x, 9), round(y, 9)) for x, y in band.get_paths()[0].vertices}


def points(x: Any, y: Any) -> set[tuple[float, float]]:
    return {(round(float(a), 9), round(float(b), 9)) for a, b in zip(x, y, strict=True)}


def test_fan_holds_the_central_share_of_the_draws(ax):
    artists: list[Any] = plot.fan(ax, X, DRAWS)
    wide, narrow, median = artists
    for band, low, high in ((wide, 0.025, 0.975), (narrow, 0.25, 0.75)):
        assert points(X, np.quantile(DRAWS, low, axis=0)) <= edges(band)
        assert points(X, np.quantile(DRAWS, high, axis=0)) <= edges(band)
    np.testing.assert_allclose(median.get_ydata(), np.median(DRAWS, axis=0))
    assert ax.get_legend_handles_labels()[1] == ["95% band", "50% band", "median"]
    assert narrow.get_alpha() > wide.get_alpha()


def test_fan_takes_points_in_any_order(ax):
    order = np.random.default_rng(1).permutation(len(X))
    artists: list[Any] = plot.fan(ax, X[order], DRAWS[:, order], levels=(0.8,))
    band, median = artists
    np.testing.assert_array_equal(median.get_xdata(), X)
    np.testing.assert_allclose(median.get_ydata(), np.median(DRAWS, axis=0))
    assert edges(band) == edges(plot.fan(ax, X, DRAWS, levels=(0.8,))[0])


def test_fan_style_and_legend_are_the_callers(ax):
    bands: list[Any] = plot.fan(
        ax, X, DRAWS, (0.9, 0.995), color="red", median=False, label=None, alpha=0.5
    )
    assert len(bands) == 2 and ax.get_legend_handles_labels() == ([], [])
    assert all(b.get_alpha() == 0.5 for b in bands)
    assert all(to_hex(b.get_facecolor()[0]) == to_hex("red") for b in bands)
    labels = [a.get_label() for a in plot.fan(ax, X, DRAWS, (0.995,), label="of f")]
    assert labels == ["99.5% of f", "median"]


def test_paths_are_spread_over_the_draws(ax):
    lines = plot.paths(ax, X, DRAWS, n=3, label="f")
    for line, i in zip(lines, (0, 100, 200), strict=True):
        np.testing.assert_array_equal(line.get_ydata(), DRAWS[i])
    assert ax.get_legend_handles_labels()[1] == ["f"]
    assert len(plot.paths(ax, X, DRAWS[:2], n=5)) == 2


def test_short_names_of_styles_count(ax):
    (line,) = plot.paths(ax, X, DRAWS[:1], c="black", lw=3)
    assert line.get_linewidth() == 3 and to_rgba(line.get_color()) == (0, 0, 0, 1)
    (dots,) = plot.data(ax, X, DRAWS[0], ms=9, marker="s")
    assert dots.get_markersize() == 9 and dots.get_marker() == "s"


def test_data_are_dots_where_they_were_measured(ax):
    (dots,) = plot.data(ax, np.array([1.0, 0.0]), np.array([5, 6]))
    assert dots.get_linestyle() == "None"
    assert points(dots.get_xdata(), dots.get_ydata()) == {(1.0, 5.0), (0.0, 6.0)}


def test_query_stands_at_its_value_or_on_the_axis(ax):
    (mark,) = plot.query(ax, 0.5, 2.0)
    assert points(mark.get_xdata(), mark.get_ydata()) == {(0.5, 2.0)}
    ax.set(xlim=(0, 1), ylim=(10, 20))
    (mark,) = plot.query(ax, 0.5)
    where = mark.get_transform().transform(np.asarray(mark.get_xydata())[0])
    np.testing.assert_allclose(where, ax.transData.transform([0.5, 10]))


def test_a_certificate_compares_standard_deviations(ax):
    exact, implied = np.array([0.1, 0.5, 1.0]), np.array([0.1, 0.4, 1.2])
    found = Diagnosis(0.2, 0.1234, 0.0, 0.3, "Sobol", 64, exact, implied)
    dots, diagonal = plot.certificate(ax, found, color="red")
    np.testing.assert_array_equal(dots.get_xydata(), np.stack([exact, implied], 1))
    assert dots.get_color() == "red" and dots.get_label() == "Sobol, 64 features"
    np.testing.assert_array_equal(diagonal.get_xdata(), [0, 1.2])
    assert ax.get_title() == "distance 0.12 of the spread"


def test_calibration_shows_densities_and_coverage():
    axes = Figure().subplots(1, 2)
    places = np.repeat([0.05, 0.5, 0.95], [10, 20, 10])
    plot.calibration(axes, places, bins=10, label="mine")
    bars: Any = axes[0].containers[0]
    heights = [bar.get_height() for bar in bars]
    np.testing.assert_allclose(heights, [2.5, 0, 0, 0, 0, 5, 0, 0, 0, 2.5])
    line: Any = axes[1].get_lines()[1]
    covered = np.interp([0.5, 0.89, 0.91], *line.get_data())
    np.testing.assert_allclose(covered, [0.5, 0.5, 1])
    assert axes[1].get_legend_handles_labels()[1] == ["95% by chance", "mine"]
    (band,) = axes[1].collections
    low, high = (stats.binom.ppf(p, 40, 0.5) / 40 for p in (0.025, 0.975))
    assert points([0.5, 0.5], [low, high]) <= edges(band)
    with pytest.raises(ValueError, match="numbers or more from 0 to 1"):
        plot.calibration(axes, places + 1)
    with pytest.raises(ValueError, match="draws on two axes. Got 1"):
        plot.calibration(axes[:1], places)


def test_no_global_setting_changes(ax):
    before = dict(matplotlib.rcParams)
    plot.fan(ax, X, DRAWS)
    plot.paths(ax, X, DRAWS)
    plot.data(ax, X, X)
    plot.query(ax, 0.0, 0.0)
    assert dict(matplotlib.rcParams) == before


BAD = {
    "column of x": (lambda ax: plot.fan(ax, X[:, None], DRAWS), r"Pass `x\[:, 0\]`"),
    "one function": (lambda ax: plot.fan(ax, X, DRAWS[0]), r"pass `draws\[None, :\]`"),
    "ensemble": (
        lambda ax: plot.paths(ax, X, DRAWS[None]),
        r"shape \(S, 7\).*Got \(1, 201, 7\).*`draws.reshape\(-1, draws.shape\[-1\]\)`",
    ),
    "transposed": (
        lambda ax: plot.fan(ax, X, DRAWS.T),
        r"`plot.fan\(draws=...\)` .* \(S, 7\).*Got \(7, 201\).*one row for each",
    ),
    "no draws": (lambda ax: plot.fan(ax, X, DRAWS[:0]), r"Got \(0, 7\)"),
    "NaN": (lambda ax: plot.fan(ax, X, DRAWS * np.nan), "must be finite. Got NaN"),
    "per cent": (lambda ax: plot.fan(ax, X, DRAWS, (95,)), "For 95% pass 0.95"),
    "none of them": (lambda ax: plot.paths(ax, X, DRAWS, n=0), "at least 1. Got 0"),
    "column of y": (lambda ax: plot.data(ax, X, X[:, None]), r"Pass `y\[:, 0\]`"),
    "short y": (lambda ax: plot.data(ax, X, X[1:]), r"shape \(7,\).*Got \(6,\)"),
    "scalar x": (lambda ax: plot.data(ax, 1.0, 2.0), r"must be \(N,\). Got \(\)"),
}


@pytest.mark.parametrize("call, sentence", BAD.values(), ids=BAD)
def test_bad_shape_raises_a_sentence_and_draws_nothing(ax, call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call(ax)
    assert not ax.lines and not ax.collections
