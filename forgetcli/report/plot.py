"""The forget–retain plot: a point with its intervals for each model."""

from __future__ import annotations

import io
from collections.abc import Mapping

INK = ("#555555", "#0b6e4f", "#b5432a", "#2f5aa8", "#8a5a9e", "#a87b12", "#137a8b")
MARKS = "os^Dv"  # another one each time the colours begin again


def forget_retain(data: Mapping) -> bytes:
    """SVG of ``eval``'s result. Up and to the right is better; grey curves join points of equal H."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt
    import numpy as np

    points = [("unedited", data["baseline"]), *((m["name"], m["edited"]) for m in data["models"])]
    with matplotlib.rc_context(
        {"svg.hashsalt": "forget", "svg.fonttype": "none", "font.family": "sans-serif"}
    ):
        figure, axes = plt.subplots(figsize=(5.2, 4.6))
        grid = np.linspace(0.005, 1, 200)
        x, y = np.meshgrid(grid, grid)
        curves = axes.contour(
            x,
            y,
            2 * x * y / (x + y),
            levels=[0.2, 0.4, 0.6, 0.8, 0.9],
            colors="#cccccc",
            linewidths=0.7,
        )
        axes.clabel(curves, fmt="H = %.1f", fontsize=7, colors="#999999")
        for k, (name, scores) in enumerate(points):
            forget, retain = scores.get("forget"), scores.get("retain")
            if forget is None or retain is None:
                continue
            errors = [
                [[max(0.0, value - ci[0])], [max(0.0, ci[1] - value)]]
                for value, ci in ((forget, scores["forget_ci"]), (retain, scores["retain_ci"]))
            ]
            axes.errorbar(
                forget,
                retain,
                xerr=errors[0],
                yerr=errors[1],
                fmt=MARKS[k // len(INK) % len(MARKS)],
                capsize=3,
                color=INK[k % len(INK)],
                label=_text(name),
            )
        axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), xlabel="forget", ylabel="retain")
        axes.legend(loc="lower left", frameon=False)
        figure.tight_layout()
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
        plt.close(figure)
    return buffer.getvalue()


def _text(name: str) -> str:
    return name.replace("$", r"\$")  # matplotlib would read it as mathematics
