"""Matplotlib helpers for drawn functions, on axes that the caller owns.

Nothing here opens a window or changes a global setting. The colours are those of Okabe
& Ito, told apart by colour-blind readers and in grey print.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import ArrayLike, Real

if TYPE_CHECKING:  # Axes come from the caller, who has imported matplotlib already.
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

    from .gp import Diagnosis

BLUE, VERMILION, INK = "#0072B2", "#D55E00", "#333333"


def fan(
    ax: "Axes",
    x: Real[ArrayLike, " N"],
    draws: Real[ArrayLike, "S N"],
    levels: tuple[float, ...] = (0.5, 0.95),
    *,
    color: str = BLUE,
    median: bool = True,
    label: str | None = "band",
    **style: Any,
) -> "list[Artist]":
    """Bands that hold the central part of the draws at each x, and their median.

    Args:
        ax: the axes to draw on.
        x: where the functions were evaluated, in any order.
        draws: their values, one row a function; what `paths(X)` returns.
        levels: the share of the draws in each band, between 0 and 1.
        color: of the bands and the median.
        median: whether to draw the median.
        label: the legend says "95% band"; None leaves the bands out of it.
        **style: passed to `Axes.fill_between`.

    Returns:
        The bands from the widest to the narrowest, then the median's line.

    Raises:
        ValueError: shapes that do not fit, values that are not finite, other levels.

    Example:
        >>> import numpy as np
        >>> from matplotlib.figure import Figure
        >>> from pyrox import plot
        >>> ax = Figure().subplots()
        >>> draws = np.random.default_rng(0).normal(size=(100, 20))
        >>> artists = plot.fan(ax, np.linspace(0, 1, 20), draws)
        >>> [a.get_label() for a in artists]
        ['95% band', '50% band', 'median']
    """
    x, draws = _curves("fan", x, draws)
    artists: list[Artist] = []
    for i, level in enumerate(sorted(_as_levels(levels), reverse=True)):
        low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0)
        name = "_nolegend_" if label is None else f"{100 * level:.3g}% {label}"
        alpha = min(0.18 * (i + 1), 0.9)
        default = {"color": color, "alpha": alpha, "linewidth": 0, "label": name}
        artists.append(ax.fill_between(x, low, high, **_styled(style, default)))
    if median:
        name = "_nolegend_" if label is None else "median"
        middle = np.median(draws, axis=0)
        artists += ax.plot(x, middle, color=color, linewidth=1.4, label=name)
    return artists


def paths(
    ax: "Axes",
    x: Real[ArrayLike, " N"],
    draws: Real[ArrayLike, "S N"],
    n: int = 12,
    **style: Any,
) -> "list[Line2D]":
    """Thin lines, one for each of `n` functions spread evenly over the draws.

    Args:
        ax: the axes to draw on.
        x: where the functions were evaluated, in any order.
        draws: their values, one row a function; what `paths(X)` returns.
        n: how many to draw; all of them if there are fewer.
        **style: passed to `Axes.plot`. A `label` names the first line only.

    Raises:
        ValueError: shapes that do not fit, values that are not finite, n below one.

    Example:
        >>> import numpy as np
        >>> from matplotlib.figure import Figure
        >>> from pyrox import plot
        >>> ax = Figure().subplots()
        >>> len(plot.paths(ax, np.arange(5.0), np.zeros((100, 5)), n=8))
        8
    """
    x, draws = _curves("paths", x, draws)
    if n < 1:
        raise ValueError(f"`plot.paths(n=...)` must be at least 1. Got {n}.")
    chosen = np.linspace(0, len(draws) - 1, min(n, len(draws))).round().astype(int)
    default = {"color": BLUE, "linewidth": 0.7, "alpha": 0.6}
    style = _styled(style, default)
    label = style.pop("label", "_nolegend_")
    lines = ax.plot(x, draws[chosen].T, **style)
    for i, line in enumerate(lines):
        line.set_label(label if i == 0 else "_nolegend_")
    return lines


def data(
    ax: "Axes", x: Real[ArrayLike, " N"], y: Real[ArrayLike, " N"], **style: Any
) -> "list[Line2D]":
    """Observations, as small dark dots.

    Args:
        ax: the axes to draw on.
        x: one input for each observation.
        y: the observed values.
        **style: passed to `Axes.plot`.

    Raises:
        ValueError: shapes that do not fit.

    Example:
        >>> from matplotlib.figure import Figure
        >>> from pyrox import datasets, plot
        >>> X, y = datasets.motorcycle()
        >>> [line.get_label() for line in plot.data(Figure().subplots(), X[:, 0], y)]
        ['data']
    """
    x = _as_line("data", x)
    values = np.asarray(y)
    if values.shape != x.shape:
        fix = "Pass `y[:, 0]`." if values.ndim == 2 else "Pass one value for each x."
        raise ValueError(
            f"`plot.data(y=...)` must have shape {x.shape}, as x has. "
            f"Got {values.shape}. {fix}"
        )
    default = {
        "linestyle": "none",
        "marker": "o",
        "markersize": 3.2,
        "color": INK,
        "markeredgewidth": 0,
        "label": "data",
    }
    return ax.plot(x, values, **_styled(style, default))


def query(ax: "Axes", x: float, y: float | None = None, **style: Any) -> "list[Line2D]":
    """The point that an acquisition chose, such as the minimum of one drawn path.

    Args:
        ax: the axes to draw on.
        x: where to measure next.
        y: the value expected there; without one the mark stands on the x axis.
        **style: passed to `Axes.plot`.

    Example:
        >>> from matplotlib.figure import Figure
        >>> from pyrox import plot
        >>> [line.get_label() for line in plot.query(Figure().subplots(), 0.3, -1.0)]
        ['next query']
    """
    default = {
        "linestyle": "none",
        "marker": "D",
        "markersize": 6,
        "color": VERMILION,
        "markeredgecolor": "white",
        "zorder": 5,
        "label": "next query",
    }
    if y is None:
        on_axis = {"transform": ax.get_xaxis_transform(), "clip_on": False}
        default, y = default | on_axis, 0.0
    return ax.plot([x], [y], **_styled(style, default))


def certificate(ax: "Axes", found: "Diagnosis", **style: Any) -> "list[Line2D]":
    """What `diagnose` found: at each test point the standard deviation that the paths
    have against that of the exact posterior. Right paths lie on the diagonal.

    Args:
        ax: the axes to draw on.
        found: what `pyrox.gp.diagnose` returned.
        **style: passed to `Axes.plot`, for the points.

    Returns:
        The points, then the diagonal.

    Example:
        >>> import jax.numpy as jnp
        >>> from matplotlib.figure import Figure
        >>> from pyrox import plot
        >>> from pyrox.gp import RBF, GPPrior, PathwiseSampler, diagnose
        >>> X = jnp.linspace(0, 1, 9)[:, None]
        >>> found = diagnose(PathwiseSampler(GPPrior(RBF(), X), 64), X)
        >>> len(plot.certificate(Figure().subplots(), found))
        2
    """
    default = {
        "linestyle": "none",
        "marker": "o",
        "markersize": 3.5,
        "color": BLUE,
        "markeredgewidth": 0,
        "alpha": 0.7,
        "label": f"{found.basis}, {found.n_features} features",
    }
    points = ax.plot(found.exact_sd, found.implied_sd, **_styled(style, default))
    largest = max(found.exact_sd.max(), found.implied_sd.max())
    diagonal = ax.plot([0, largest], [0, largest], color=INK, linewidth=0.8, zorder=0)
    ax.set(
        xlabel="standard deviation of the posterior",
        ylabel="of the paths",
        title=f"distance {found.relative:.2g} of the spread",
    )
    return points + diagonal


def calibration(
    axes: "Sequence[Axes]",
    pit: Real[ArrayLike, " N"],
    bins: int | None = None,
    *,
    color: str = BLUE,
    label: str = "forecast",
) -> None:
    """Whether a forecast is calibrated: the histogram of the probability integral
    transform, flat if it is, and the coverage of central intervals at all levels, on
    the diagonal if it is. The grey bands are where 95% of each lies by chance, if so,
    for independent values.

    Args:
        axes: two, `figure.subplots(1, 2)`.
        pit: what `pyrox.gp.pit` returned, one number for each value that was held out.
        bins: of the histogram; by default so many that each has twenty values or more,
            from 5 to 20.
        color: of bars and line.
        label: the name of the forecast in the legend.

    Raises:
        ValueError: numbers that are not from 0 to 1, fewer than two; not two axes.

    Source: Gneiting, Balabdaoui & Raftery 2007; the bands are binomial.

    Example:
        >>> import numpy as np
        >>> from matplotlib.figure import Figure
        >>> from pyrox import plot
        >>> axes = Figure().subplots(1, 2)
        >>> plot.calibration(axes, np.random.default_rng(0).uniform(size=200))
        >>> len(axes[0].containers[0])
        10
    """
    places = _as_pit(pit)
    if np.size(np.asarray(axes, object)) != 2:
        raise ValueError(
            "`plot.calibration(axes, pit)` draws on two axes. Got "
            f"{np.size(np.asarray(axes, object))}. Pass `figure.subplots(1, 2)`."
        )
    n = places.size
    bins = int(np.clip(n // 20, 5, 20)) if bins is None else bins
    left, right = axes
    heights, edges = np.histogram(places, bins, (0, 1))
    low, high = _by_chance(n, np.array([1 / bins]))
    # Over the bars, which would hide it.
    chance = {"color": INK, "alpha": 0.15, "linewidth": 0, "zorder": 2}
    left.axhspan(*(bins * low), *(bins * high), **chance)
    left.axhline(1, color=INK, linewidth=0.8, zorder=3)
    bar = {"width": 1 / bins, "align": "edge", "color": color, "alpha": 0.75}
    left.bar(edges[:-1], heights * bins / n, edgecolor="white", linewidth=0.6, **bar)
    left.set(
        xlim=(0, 1),
        xlabel="probability integral transform",
        ylabel="density",
        title=f"PIT of {n} values",
    )
    levels = np.linspace(0, 1, 101)
    covered = np.mean(np.abs(2 * places - 1)[:, None] <= levels, axis=0)
    low, high = _by_chance(n, levels)
    band = {"color": INK, "alpha": 0.15, "linewidth": 0, "label": "95% by chance"}
    right.fill_between(levels, low, high, **band)
    right.plot([0, 1], [0, 1], color=INK, linewidth=0.8)
    right.plot(levels, covered, color=color, linewidth=1.6, label=label)
    right.set(
        xlim=(0, 1),
        ylim=(0, 1),
        xlabel="level of the central interval",
        ylabel="share of values inside",
        title=f"90% intervals hold {100 * covered[90]:.0f}%",
    )
    right.legend(loc="upper left", frameon=False)


def _by_chance(n: int, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Between which shares 95% of n draws of probability p lie."""
    from scipy.stats import binom

    low, high = binom.ppf(0.025, n, p), binom.ppf(0.975, n, p)
    return low / n, high / n


def _as_pit(pit: ArrayLike) -> np.ndarray:
    places = np.asarray(pit, float)
    if places.ndim != 1 or places.size < 2 or not ((0 <= places) & (places <= 1)).all():
        raise ValueError(
            "`plot.calibration(axes, pit)` must be two numbers or more from 0 to 1, "
            f"(N,). Got shape {places.shape}. Pass what `pyrox.gp.pit` returns."
        )
    return places


def _styled(style: dict[str, Any], default: dict[str, Any]) -> dict[str, Any]:
    """`default` overruled by the user's `style`, whose short names count as well."""
    short = {"c": "color", "lw": "linewidth", "ls": "linestyle", "ms": "markersize"}
    return {**default, **{short.get(name, name): v for name, v in style.items()}}


def _as_line(call: str, x: ArrayLike) -> np.ndarray:
    x = np.asarray(x)
    if x.ndim != 1:
        fix = "Pass `x[:, 0]`." if x.ndim == 2 else "Pass one number for each point."
        raise ValueError(f"`plot.{call}(x=...)` must be (N,). Got {x.shape}. {fix}")
    return x


def _curves(call: str, x: ArrayLike, draws: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """x in increasing order, and the draws with it."""
    x, draws = _as_line(call, x), np.asarray(draws)
    if draws.ndim != 2 or draws.shape[1] != len(x) or 0 in draws.shape:
        fix = {
            1: "For one function pass `draws[None, :]`.",
            3: "For draws of an ensemble pass `draws.reshape(-1, draws.shape[-1])`.",
        }.get(draws.ndim, "Pass one row for each function, one column for each x.")
        raise ValueError(
            f"`plot.{call}(draws=...)` must have shape (S, {len(x)}), as x has "
            f"{len(x)} points. Got {draws.shape}. {fix}"
        )
    if not (np.isfinite(x).all() and np.isfinite(draws).all()):
        raise ValueError(
            f"`plot.{call}(x, draws)` must be finite. Got NaN or inf. Leave those "
            "points or draws out."
        )
    order = np.argsort(x, kind="stable")
    return x[order], draws[:, order]


def _as_levels(levels: tuple[float, ...]) -> tuple[float, ...]:
    if not all(0 < level < 1 for level in levels):
        raise ValueError(
            f"`plot.fan(levels=...)` must be shares between 0 and 1. Got {levels}. "
            "For 95% pass 0.95."
        )
    return levels
