"""The figure of the demonstration."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .. import plot
from .demo import Functions, Query

SUFFIXES = (".png", ".pdf", ".svg")
STYLE: Any = {  # Matplotlib types the names of its settings, and no less
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "legend.frameon": False,
    "pdf.fonttype": 42,  # letters, not drawings of letters: journals ask for it
}

# A grid of inputs that vary in one column, and the values of all functions on it.
Slice = tuple[Float[np.ndarray, "M D"], Float[np.ndarray, "S M"]]


def draw_figure(
    path: Path, functions: Functions, slices: Sequence[Slice], query: Query
) -> None:
    """One panel for each input column: bands, functions and data, and the query."""
    n_panels = len(slices)
    n_columns = 2 if n_panels in (2, 4) else min(n_panels, 3)
    n_rows = -(-n_panels // n_columns)
    with matplotlib.rc_context(STYLE):
        height = 4.6 if n_panels == 1 else 0.9 + 2.5 * n_rows
        figure = Figure(figsize=(8, height), layout="constrained")
        panels = figure.subplots(n_rows, n_columns, sharey=True, squeeze=False)
        for d, ax in enumerate(panels.flat):
            if d < n_panels:
                _draw_panel(ax, functions, slices[d], d, query)
            else:
                ax.remove()
        _label(figure, panels, functions)
        figure.savefig(path, dpi=200)


def _draw_panel(
    ax: Axes, functions: Functions, along: Slice, d: int, query: Query
) -> None:
    problem, (grid, draws) = functions.problem, along
    x = grid[:, d]
    plot.fan(ax, x, draws)
    plot.paths(ax, x, draws, n=10, label="functions")
    if grid.shape[1] == 1:
        one = functions.one(query.path, grid)
        plot.paths(ax, x, one[None, :], color=plot.VERMILION, alpha=1, linewidth=1.2)
        plot.data(ax, problem.X[:, d], problem.y, **_recede(len(problem.y)))
        mark = {"linestyle": "-", "label": "one of them and its minimum"}
        plot.query(ax, query.x[d], query.value, **mark)
    else:
        # The data lie off the slice, and so does the query: both recede.
        plot.data(ax, problem.X[:, d], problem.y, color="#8c8c8c", zorder=0)
        plot.query(ax, query.x[d])
        ax.locator_params(axis="x", nbins=5)
    ax.margins(x=0.01)
    _name(ax.xaxis, problem.x_names[d])


def _recede(n_rows: int) -> dict[str, Any]:
    """A style for so many data that they would hide the functions."""
    many = {"color": "#8c8c8c", "zorder": 0, "markersize": 1.5}
    return many if n_rows > 1000 else {}


def _name(axis, name: str) -> None:
    axis.set_label_text(" ".join(name.split()))
    axis.label.set_parse_math(False)  # a column may be called "price ($)"


def _label(figure: Figure, panels: np.ndarray, functions: Functions) -> None:
    for ax in panels[:, 0]:
        _name(ax.yaxis, functions.problem.y_name)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside upper center",
        ncols=len(labels),
        handlelength=1.5,
        columnspacing=1.6,
    )
    if functions.problem.X.shape[1] > 1:
        figure.supxlabel(
            "Each panel varies one column, with the others at their medians; the data "
            "are shown as measured.",
            fontsize=8,
            color=plot.INK,
        )
