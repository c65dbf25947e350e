"""Draw docs/null_space.svg: the spectrum of the preserve prompts' keys, with the cut.

    python scripts/docs_figures.py

The second moments are those of the embedded model and the bundled recipe `art_styles`, at the three
layers that the default edit changes.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import torch

from forgetcli import models
from forgetcli import recipe as recipes
from forgetcli.bundled.demo import MODEL
from forgetcli.checkpoint import base
from forgetcli.editing.moment_cache import MomentCache
from forgetcli.editing.moments import preserve_moments
from forgetcli.linalg import Moment, null_projector
from forgetcli.methods.nullspace import EditSettings, Parameters
from forgetcli.progress import Silent

FIGURE = Path(__file__).resolve().parent.parent / "docs" / "null_space.svg"
SMALLEST = 1e-14  # relative eigenvalues below this are rounding


def moments(recipe: recipes.Recipe, settings: EditSettings) -> dict[str, Moment]:
    """K₀K₀ᵀ of the recipe's preserve prompts, by layer."""
    model = models.load(base.resolve(MODEL), device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        found = preserve_moments(
            model,
            model.pick_sites(settings.sites),
            recipe.preserve_prompts(),
            MomentCache(Path(folder)),
            Silent(),
            balance_empty=settings.balance_empty,
        )
    return found.by_site


def draw(by_site: dict[str, Moment], threshold: float, min_rank: int) -> None:
    """One line a layer: eigenvalues, largest first, relative to their mean."""
    matplotlib.rcParams.update({"svg.hashsalt": "forget", "svg.fonttype": "none", "font.size": 9})
    figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
    for name, moment in by_site.items():
        eigenvalues = torch.linalg.eigvalsh(moment.matrix).flip(0)
        relative = (eigenvalues / eigenvalues.mean()).clamp_min(SMALLEST)
        free = null_projector(moment.matrix, threshold, min_rank).rank
        block = name.split("layers.")[1].split(".")[0]
        axes.semilogy(relative.numpy(), label=f"block {block}: {free} of {len(relative)} free")
    axes.axhline(threshold, color="black", linewidth=0.8, linestyle="--")
    axes.annotate(
        f"cut: {threshold:g} × mean eigenvalue",
        (0, threshold),
        xytext=(4, -4),
        textcoords="offset points",
        verticalalignment="top",
    )
    axes.set_xlabel("direction, by eigenvalue")
    axes.set_ylabel("eigenvalue of K₀K₀ᵀ ÷ mean")
    axes.set_xlim(0, None)
    axes.legend(frameon=False, title="directions below the cut")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(FIGURE, metadata={"Date": None, "Creator": None})
    plt.close(figure)


if __name__ == "__main__":
    matplotlib.use("svg")
    loaded = recipes.load("art_styles")
    settings = Parameters.model_validate(loaded.parameters).edit
    draw(moments(loaded, settings), settings.threshold, settings.min_rank)
