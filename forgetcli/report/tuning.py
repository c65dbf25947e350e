"""The plot of a search: one point for each trial, and a line through the Pareto front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from forgetcli.report.plot import svg_plot
from forgetcli.storage import atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from forgetcli.experiments.tuning import Tuned

FRONT = "front.svg"

Point = tuple[float, float]


def front(points: Sequence[Point]) -> list[Point]:
    """The Pareto front of (forget, retain) points, in descending order of retain."""
    highest = -1.0
    front_points = []
    for forget, retain in sorted(set(points), key=lambda point: (-point[1], -point[0])):
        if forget > highest:
            front_points.append((forget, retain))
            highest = forget
    return front_points


def write_front(path: Path, tuned: Tuned) -> None:
    """Write an SVG of the completed trials.

    The unedited model, the recipe's own values and the best trial are marked.
    """
    points = [_point(trial.scores) for trial in tuned.completed if trial.scores]

    def plot(axes: Axes) -> None:
        line_x, line_y = zip(*front(points))
        axes.plot(line_x, line_y, color="#0b6e4f", linewidth=1, zorder=1)
        x, y = zip(*points)
        axes.scatter(x, y, s=16, color="#999999", label="trials", zorder=2)
        own_x, own_y = points[0]
        axes.scatter(own_x, own_y, s=40, color="#2f5aa8", label="the recipe's own values", zorder=3)
        best_x, best_y = _point(tuned.best.scores or {})
        label = f"best, H = {tuned.best.h:.3f}"
        axes.scatter(best_x, best_y, s=40, color="#0b6e4f", label=label, zorder=4)
        base_x, base_y = _point(tuned.baseline)
        axes.scatter(base_x, base_y, s=40, color="#555555", marker="x", label="unedited", zorder=3)

    atomic.write_atomically(path, svg_plot(plot))


def _point(scores: Mapping) -> Point:
    return scores["forget"], scores["retain"]
