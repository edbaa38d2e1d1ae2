"""The picture of `benchmarks.accuracy`: a panel for each kernel and number of inputs.

`python -m benchmarks.accuracy_figure FOLDER` draws it anew from `accuracy.json` there.
"""

import json
import pathlib
import sys
from collections.abc import Sequence

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from pyrox.plot import BLUE, INK, VERMILION

# The colours of Okabe & Ito, and a marker each for grey print.
_STYLES = {
    "grid": (BLUE, "o", 'pyrox "grid", the default'),
    "sobol": ("#56B4E9", "s", 'pyrox "sobol"'),
    "iid": ("#E69F00", "^", 'pyrox "iid"'),
    "orthogonal": ("#009E73", "v", 'pyrox "orthogonal"'),
    "gpjax": (VERMILION, "x", "GPJax"),
    "botorch": (INK, "+", "BoTorch"),
    "weight-space": ("#CC79A7", "D", "weight space, iid"),
}
_MAIN = 1024
_THINNER = {4096: "--", 16384: ":"}


def picture(records: Sequence[dict], path: pathlib.Path) -> None:
    """Distance against n with n + 1024 columns, and the grid's with more."""
    kernels = list(dict.fromkeys(r["kernel"] for r in records))
    in_sizes = sorted({r["in_size"] for r in records})
    shape = len(kernels), len(in_sizes)
    figure, axes = plt.subplots(
        *shape, figsize=(2.9 * shape[1], 2.3 * shape[0] + 1), sharex=True, squeeze=False
    )
    for row, kernel in zip(axes, kernels, strict=True):
        for ax, in_size in zip(row, in_sizes, strict=True):
            here = kernel, in_size
            cell = [r for r in records if (r["kernel"], r["in_size"]) == here]
            _panel(ax, cell)
            ax.set_title(f"{kernel}, D = {in_size}", fontsize=10)
        row[0].set_ylabel("log10 W2")
    sizes = sorted({r["n"] for r in records})
    for ax in axes[-1]:
        ax.set_xlabel("training points n")
        ax.set_xticks(sizes, [str(n) for n in sizes])
    figure.suptitle(
        f"2-Wasserstein distance to the exact posterior with n + {_MAIN} features",
        fontsize=12,
    )
    lines = sorted(axes[0, 0].get_lines(), key=lambda line: line.get_zorder())
    lines.reverse()  # the uppermost first
    figure.legend(handles=lines, loc="lower center", ncols=5, frameon=False)
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _panel(ax: Axes, records: Sequence[dict]) -> None:
    order = len(_STYLES) + len(_THINNER) + 2
    for i, (method, (color, marker, label)) in enumerate(_STYLES.items()):
        style = {"color": color, "marker": marker, "ms": 4.5, "label": label}
        width = 2.2 if method == "grid" else 1.1
        values = _line(records, method, _MAIN)
        ax.plot(*values, lw=width, zorder=order - i, **style)
    for i, (extra, dashes) in enumerate(_THINNER.items()):
        label = f'pyrox "grid", n + {extra}'
        values = _line(records, "grid", extra)
        if values[0]:
            ax.plot(*values, dashes, color=BLUE, lw=1, zorder=3 - i, label=label)
    ax.set_xscale("log")
    ax.minorticks_off()
    ax.locator_params(axis="y", nbins=5)
    ax.grid(True, alpha=0.25)


def _line(
    records: Sequence[dict], method: str, extra: int
) -> tuple[list[int], list[float]]:
    chosen = sorted(
        (r["n"], r["log10_w2"])
        for r in records
        if r["method"] == method and r["columns"] == r["n"] + extra
    )
    return [n for n, _ in chosen], [value for _, value in chosen]


if __name__ == "__main__":
    folder = pathlib.Path(sys.argv[1])
    picture(json.loads((folder / "accuracy.json").read_text()), folder / "accuracy.png")
