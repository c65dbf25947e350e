"""How the time and memory of an edit grow, as plots with fitted exponents.

python benchmarks/scaling.py WORK --out scaling.json
python benchmarks/plot_scaling.py scaling.json docs/scaling.svg
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

METHODS = ("uce", "speed", "nullspace")


def line(axes: Axes, points: dict[str, float], label: str) -> None:
    """Points of a size and its seconds or bytes, and c·sizeᵏ fitted to their logarithms."""
    sizes, values = [float(size) for size in points], list(points.values())
    x, y = ([math.log(value) for value in each] for each in (sizes, values))
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    k = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y)) / sum((a - mean_x) ** 2 for a in x)
    (drawn,) = axes.plot(sizes, values, "o", label=f"{label}, k = {k:.2f}")
    fitted = [math.exp(mean_y + k * (a - mean_x)) for a in x]
    axes.plot(sizes, fitted, "-", color=drawn.get_color(), linewidth=1)


def finish(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set(xscale="log", yscale="log", title=title, xlabel=x, ylabel=y)
    axes.legend(fontsize=8)
    axes.grid(True, which="major", linewidth=0.3)


def main(figures: dict, output: Path) -> None:
    concepts = {name: figures["concepts"][name] for name in METHODS}
    counted = {
        name: {n: cost for n, cost in each.items() if n.isdigit()}
        for name, each in concepts.items()
    }
    with matplotlib.rc_context({"svg.hashsalt": "forget", "svg.fonttype": "none"}):
        figure, ((prompts, width), (seconds, memory)) = plt.subplots(2, 2, figsize=(9, 7))
        line(prompts, figures["prompts"]["seconds"], "second moments")
        finish(prompts, "Preserve prompts (encoder of width 64)", "prompts", "processor seconds")
        line(width, figures["width, moments of 64 prompts"]["seconds"], "second moments")
        line(width, figures["width of a site, null space"]["seconds"], "null space")
        finish(width, "Width (encoder; layer)", "width", "processor seconds")
        for name, costs in counted.items():
            line(seconds, {n: cost["seconds"] for n, cost in costs.items()}, name)
            line(memory, {n: cost["bytes"] / 1e6 for n, cost in costs.items()}, name)
        finish(seconds, "Concepts in one edit (embedded model)", "concepts", "processor seconds")
        finish(memory, "The same, peak memory", "concepts", "MB")
        figure.tight_layout()
        figure.savefig(output, format="svg", metadata={"Date": None})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("figures", type=Path)
    parser.add_argument("output", type=Path)
    args = parser.parse_args()
    main(json.loads(args.figures.read_text(encoding="utf-8")), args.output)
