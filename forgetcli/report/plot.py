"""The forget–retain plot: a point with its intervals for each model."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#555555", "#0b6e4f", "#b5432a", "#2f5aa8", "#8a5a9e", "#a87b12", "#137a8b")
MARKS = "os^Dv"  # with `COLOURS` a pair for each of 35 models; colour alone tells no two apart
SIZE, LARGER = 6, 4  # points; by how much a mark outgrows the next one at the same place
NEAR = 0.015  # points nearer than this hide one another
H_LEVELS = (0.2, 0.4, 0.6, 0.8, 0.9)


def svg_plot(plot: Callable[[Axes], None]) -> bytes:
    """An SVG with axes from forget to retain, on which `plot` puts its points; the same bytes for
    the same points.
    """
    # matplotlib is slow to import, and only commands that write a plot need it.
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    with matplotlib.rc_context(
        {"svg.hashsalt": "forget", "svg.fonttype": "none", "font.family": "sans-serif"}
    ):
        figure, axes = plt.subplots(figsize=(5.2, 4.6))
        plot(axes)
        axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), xlabel="forget", ylabel="retain")
        axes.legend(loc="lower left", frameon=False, markerscale=0.7)
        figure.tight_layout()
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
        plt.close(figure)
    return buffer.getvalue()


def forget_retain(data: Mapping) -> bytes:
    """SVG of ``eval``'s result.

    Up and to the right is better; grey curves join points of equal H.
    """
    models = [("unedited", data["baseline"]), *((m["name"], m["edited"]) for m in data["models"])]
    shown = [
        (number, name, scores)
        for number, (name, scores) in enumerate(models)
        if scores.get("forget") is not None and scores.get("retain") is not None
    ]
    points = [(scores["forget"], scores["retain"]) for _, _, scores in shown]

    def plot(axes: Axes) -> None:
        _plot_levels(axes)
        for (number, name, scores), size in zip(shown, sizes(points)):
            _plot_model(axes, number, name, scores, size)

    return svg_plot(plot)


def sizes(points: Sequence[tuple[float, float]]) -> list[int]:
    """The size of each mark, so that no point is hidden under another.

    Marks are hollow; of points at one place, often (1, 1), each is drawn inside the one before it.
    """
    return [
        SIZE + LARGER * sum(math.dist(point, later) < NEAR for later in points[place + 1 :])
        for place, point in enumerate(points)
    ]


def _plot_levels(axes: Axes) -> None:
    """Curves of equal H."""
    import numpy as np  # with matplotlib, for plots only

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
    """A name that matplotlib does not read as mathematics, and that XML can hold.

    Names that begin with an underscore get a blank: matplotlib's legend would leave them out.
    """
    shown = "".join(char if char.isprintable() else "\ufffd" for char in name)
    blank = " " if shown.startswith("_") else ""
    return blank + shown.replace("$", r"\$")
