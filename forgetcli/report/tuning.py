"""The forget–retain front of a search: every trial a point, the ones that no other beats in both
joined by a line.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from forgetcli.storage import atomic

if TYPE_CHECKING:
    from forgetcli.experiments.tuning import Tuned


FRONT = "front.svg"


def front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The (forget, retain) pairs that no other pair beats in both, by falling retain."""
    best, kept = -1.0, []
    for forget, retain in sorted(set(points), key=lambda p: (-p[1], -p[0])):
        if forget > best:
            kept.append((forget, retain))
            best = forget
    return kept


def write_front(path: Path, tuned: Tuned) -> None:
    """SVG of the completed trials; the unedited model and the best trial are marked."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    baseline, best = tuned.baseline, tuned.best
    points = [(t.scores["forget"], t.scores["retain"]) for t in tuned.completed]
    with matplotlib.rc_context(
        {"svg.hashsalt": "forget", "svg.fonttype": "none", "font.family": "sans-serif"}
    ):
        figure, axes = plt.subplots(figsize=(5.2, 4.6))
        axes.plot(*zip(*front(points)), color="#0b6e4f", linewidth=1, zorder=1)
        axes.scatter(*zip(*points), s=16, color="#999999", label="trials", zorder=2)
        axes.scatter(*points[0], s=40, color="#2f5aa8", label="the recipe's own values", zorder=3)
        axes.scatter(
            best.scores["forget"],
            best.scores["retain"],
            s=40,
            color="#0b6e4f",
            label=f"best, H = {best.scores['h']:.3f}",
            zorder=4,
        )
        axes.scatter(
            baseline["forget"],
            baseline["retain"],
            s=40,
            color="#555555",
            marker="x",
            label="unedited",
            zorder=3,
        )
        axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), xlabel="forget", ylabel="retain")
        axes.legend(loc="lower left", frameon=False)
        figure.tight_layout()
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
        plt.close(figure)
    atomic.write_atomically(path, buffer.getvalue())
