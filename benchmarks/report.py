"""What a run found: a table with its verdicts, and a picture."""

import pathlib
from collections.abc import Sequence

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from .cases import Case

_COLOURS = {"pyrox": "C0", "gpjax": "C1", "botorch": "C2"}
_LABELS = {
    "n_query": "query points M",
    "n_data": "data N",
    "n_paths": "paths S",
}


def table(records: Sequence[dict]) -> str:
    """One line for each case and library; `kept` says whether a promise holds."""
    header = (
        f"{'case':25}{'library':15}{'median':>10}{'ratio':>8}{'promised':>10}  "
        f"{'first call':>10}{'extra MB':>10}{'feature rms':>13}"
    )
    lines = [header, "-" * len(header)]
    for record in records:
        case = record["case"]
        for library, result in record["results"].items():
            lines.append(_line(case, library, result))
        lines.append("")
    return "\n".join(lines)


def _line(case: dict, library: str, result: dict) -> str:
    ratio, promised = "", ""
    if library == "roofline":
        ratio = f"{1 / result['ratio']:.2f}"
    elif library != "pyrox":
        ratio = f"{result['ratio']:.1f}"
    verdict = kept(case, library, result)
    if verdict is not None:
        promised = f"{_bound(case, library)} {'ok' if verdict else 'NO'}"
    name = case["name"] if library == "pyrox" else ""
    columns = [
        f"{name:25}{library:15}{_seconds(result['median_s']):>10}",
        f"{ratio:>8}{promised:>10}  ",
        f"{_seconds(result['first_s']):>10}" if "first_s" in result else " " * 10,
        f"{result['extra_mb']:>10.0f}" if "extra_mb" in result else " " * 10,
        f"{result['feature_rms']:>13.4f}" if "feature_rms" in result else "",
    ]
    return "".join(columns).rstrip()


def kept(case: dict, library: str, result: dict) -> bool | None:
    """Whether the promise about this library holds; None if there is none."""
    if library == "pyrox":
        most = case["most_extra_mb"]
        if most is None or "extra_mb" not in result:
            return None
        return result["extra_mb"] < most
    promise = case["promises"].get(library)
    if promise is None:
        return None
    if library == "roofline":
        return 1 / result["ratio"] < promise
    return result["ratio"] >= promise


def _bound(case: dict, library: str) -> str:
    if library == "pyrox":
        return f"<{case['most_extra_mb']:g}MB"
    sign = "<" if library == "roofline" else ">="
    return f"{sign}{case['promises'][library]:g}"


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1e3 * seconds:.1f} ms"


def picture(sweeps: dict[str, list[dict]], path: pathlib.Path) -> None:
    """Time against M, N and S, one line for each library."""
    figure, axes = plt.subplots(1, len(sweeps), figsize=(3.6 * len(sweeps), 3.4))
    for axis, (size, records) in zip(axes, sweeps.items(), strict=True):
        records = sorted(records, key=lambda record: record["case"][size])
        values = [record["case"][size] for record in records]
        for library in records[0]["results"]:
            times = [record["results"][library]["median_s"] for record in records]
            colour = _COLOURS[library]
            axis.loglog(values, times, "o-", color=colour, label=library, ms=4)
        axis.set_xlabel(_LABELS[size])
        axis.set_xticks(values, [f"{value:,}" for value in values])
        axis.minorticks_off()
        axis.grid(True, alpha=0.3)
    axes[0].set_ylabel("seconds to evaluate")
    handles, labels = axes[0].get_legend_handles_labels()
    title = f"Evaluating posterior paths; where not varied, {Case('', '').sizes}"
    figure.suptitle(title, fontsize=10)
    figure.legend(handles, labels, loc="lower center", ncols=3, frameon=False)
    figure.tight_layout(rect=(0, 0.07, 1, 1))
    figure.savefig(path, dpi=150)
    plt.close(figure)
