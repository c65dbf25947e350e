"""The forget–retain plot: one point with its intervals for each model."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#555555", "#0b6e4f", "#b5432a", "#2f5aa8", "#8a5a9e", "#a87b12", "#137a8b")
# 35 models have different pairs of mark and colour. Colours alone would be hard to distinguish.
MARKS = "os^Dv"
SIZE = 6  # of a mark, in points
SIZE_STEP = 4  # a mark is larger by this, in points, than the next mark at the same position
NEAR = 0.015  # marks at a smaller distance would hide one another
H_LEVELS = (0.2, 0.4, 0.6, 0.8, 0.9)


def svg_plot(plot: Callable[[Axes], None]) -> bytes:
    """An SVG with the axes forget and retain, on which `plot` draws its points.

    The same points give the same bytes.
    """
    # Imported here, because matplotlib is slow to import and few commands write a plot.
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    with matplotlib.rc_context(
        {"svg.hashsalt": "forget", "svg.fonttype": "none", "font.family": "sans-serif"}
    ):
        figure, axes = plt.subplots(figsize=(5.2, 4.6))
        plot(axes)
        axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), xlabel="forget", ylabel="retain")
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="lower left", frameon=False, markerscale=0.7)
        figure.tight_layout()
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
        plt.close(figure)
    return buffer.getvalue()


def forget_retain(data: Mapping) -> bytes:
    """The plot of an evaluation's result, as SVG.

    Points further up and to the right are better. Grey curves join points of equal H.
    """
    models = [("unedited", data["baseline"])]
    models += [(model["name"], model["edited"]) for model in data["models"]]
    scored = [
        (number, name, scores)
        for number, (name, scores) in enumerate(models)
        if scores.get("forget") is not None and scores.get("retain") is not None
    ]
    points = [(scores["forget"], scores["retain"]) for _, _, scores in scored]

    def plot(axes: Axes) -> None:
        _plot_levels(axes)
        for (number, name, scores), size in zip(scored, sizes(points)):
            _plot_model(axes, number, name, scores, size)

    return svg_plot(plot)


def sizes(points: Sequence[tuple[float, float]]) -> list[int]:
    """The size of each mark, chosen so that no mark hides another.

    Marks are hollow. If several points are at one position, often (1, 1), each mark is inside the
    mark before it.
    """
    return [
        SIZE + SIZE_STEP * sum(math.dist(point, later) < NEAR for later in points[index + 1 :])
        for index, point in enumerate(points)
    ]


def _plot_levels(axes: Axes) -> None:
    """Curves of equal H."""
    # Imported here for the same reason as matplotlib.
    import numpy as np

    grid = np.linspace(0.005, 1, 200)
    x = grid[np.newaxis, :]
    y = grid[:, np.newaxis]
    curves = axes.contour(
        grid, grid, 2 * x * y / (x + y), levels=list(H_LEVELS), colors="#cccccc", linewidths=0.7
    )
    axes.clabel(curves, fmt="H = %.1f", fontsize=7, colors="#999999")


def _plot_model(axes: Axes, number: int, name: str, scores: Mapping, size: int) -> None:
    """A model's point with its intervals."""
    axes.errorbar(
        scores["forget"],
        scores["retain"],
        xerr=_error_bar(scores["forget"], scores["forget_ci"]),
        yerr=_error_bar(scores["retain"], scores["retain_ci"]),
        fmt=MARKS[number % len(MARKS)],
        markersize=size,
        markerfacecolor="none",
        markeredgewidth=1.8,
        elinewidth=1,
        capthick=1,
        clip_on=False,
        capsize=3,
        color=COLOURS[number % len(COLOURS)],
        label=_plain_label(name),
    )


def _error_bar(value: float, interval: Sequence[float]) -> list[list[float]]:
    """Distances from a value to the ends of its interval."""
    low, high = interval
    return [[max(0.0, value - low)], [max(0.0, high - value)]]


def _plain_label(name: str) -> str:
    """A name without matplotlib's mathematical notation and without characters that XML forbids.

    A space precedes names that begin with an underscore, because matplotlib's legend would leave
    them out.
    """
    printable = "".join(char if char.isprintable() else "\ufffd" for char in name)
    space = " " if printable.startswith("_") else ""
    return space + printable.replace("$", r"\$")
