"""The quick check after every edit: it took effect, and it broke nothing.

The check compares the denoiser's predictions at noisy images that the refinement did not use
(another seed): how far the predictions for the concept prompts moved to those for the target
prompts, and how far the predictions for preserve prompts moved.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TypeVar

import torch
from torch import Tensor

from forgetcli.editing.check_limits import LARGEST_SIDE, NO_OP, STEPS, WRECKED, prompts_of
from forgetcli.editing.edit import Edit
from forgetcli.errors import EditError, ModelError
from forgetcli.models.base import LoadedModel
from forgetcli.models.tokens import tokenise
from forgetcli.models.trajectories import noisy_points
from forgetcli.progress import Observer

BATCH = 24  # predictions made at a time
Item = TypeVar("Item")


@dataclass(frozen=True)
class Check:
    """Figures of the check. All are relative root mean squares over predictions.

    Attributes:
        concept_before: ‖ε(concept) − ε(target)‖ / ‖ε(target) − ε(∅)‖ for the unedited model.
        concept_after: the same with the edited model's ε(concept); the targets are the unedited
            model's.
        moved: 1 − after/before, the fraction of the distance to the target that the edit covered.
        preserve_drift: ‖ε_edited − ε‖ / ‖ε‖ for preserve prompts.
        drift_limit: the largest accepted drift, where the edit has one of its own; None: `WRECKED`.
    """

    concept_before: float
    concept_after: float
    moved: float
    preserve_drift: float
    drift_limit: float | None = None

    def as_dict(self) -> dict[str, float]:
        figures = asdict(self).items()
        return {name: round(value, 5) for name, value in figures if value is not None}

    def enforce(self) -> None:
        """Raise if the edit has no effect, or changes too much.

        Raises:
            EditError: the edit did nothing (`edit.no-effect`) or the model is wrecked
                (`edit.wrecked`).
        """
        moved = round(self.moved, 2) + 0.0  # no "-0%"
        figures = (
            f"moved {moved:.0%} of the way to the target, "
            f"preserve prompts by {self.preserve_drift:.1%}"
        )
        if not (math.isfinite(self.moved) and math.isfinite(self.preserve_drift)):
            raise EditError(
                "edit.wrecked",
                "the edited model's predictions are not finite numbers",
                "raise [refine] damping (of other methods [edit] lam)",
            )
        if self.preserve_drift > (WRECKED if self.drift_limit is None else self.drift_limit):
            raise EditError(
                "edit.wrecked",
                f"the edit breaks what it should preserve: {figures}",
                "raise [refine] damping (of other methods [edit] lam), lower threshold and "
                "min_rank, or add preserve prompts near the concept",
            )
        if self.moved < NO_OP:
            raise EditError(
                "edit.no-effect",
                f"the edit has no effect: {figures}",
                "lower [refine] damping (of other methods [edit] lam), raise min_rank, "
                "refine for more steps, or check that the model knows the concept",
            )


def check(
    model: LoadedModel,
    edit: Edit,
    pairs: Sequence[tuple[str, str]],
    preserve: Sequence[str],
    seed: int,
    observer: Observer,
) -> Check:
    """Compare predictions before and after the edit; `Check.enforce` judges the figures.

    Raises:
        ModelError: the unedited model's own predictions are not finite.
    """
    generator = torch.Generator().manual_seed(seed + 1)
    count = prompts_of(sum(each.numel() for each in model.denoiser.parameters()))
    pairs, preserve = spread(pairs, count), spread(preserve, count)
    concepts = [concept for concept, _ in pairs]
    targets = [target for _, target in pairs]
    n = len(concepts)
    x, t = noisy_points(
        model,
        concepts + preserve,
        steps=STEPS,
        largest_side=LARGEST_SIDE,
        generator=generator,
        observer=observer,
        batch=BATCH,
    )
    # Before and after the edit in the same batches: no change then gives a drift of exactly 0.
    unedited = predictions(model, x, t, concepts + preserve)
    rows = [*range(n), *range(n)]
    references = predictions(model, x[rows], t[rows], [*targets, *[""] * n])
    if not bool(unedited.isfinite().all() and references.isfinite().all()):
        raise ModelError(
            "model.not-finite",
            f"the predictions of {model.base.id} are not finite numbers before any edit",
            "run it with --dtype float32, or check the checkpoint",
        )
    with model.weights(edit.weights):
        edited = predictions(model, x, t, concepts + preserve)
    target, empty = references.split(n)
    before, after = unedited[:n], edited[:n]
    drift = float((edited[n:] - unedited[n:]).norm() / unedited[n:].norm()) if preserve else 0.0
    unit = (target - empty).norm().clamp_min(1e-12)
    distance = float((before - target).norm() / unit)
    left = float((after - target).norm() / unit)
    return Check(
        concept_before=distance,
        concept_after=left,
        moved=1 - left / distance if distance != 0 else 0.0,
        preserve_drift=drift,
        drift_limit=edit.drift_limit,
    )


@torch.no_grad()
def predictions(model: LoadedModel, x: Tensor, t: Tensor, prompts: Sequence[str]) -> Tensor:
    """The denoiser's predictions at x_t, (n, c, h, w), and t, (n,), one prompt each: float64, on
    the CPU.
    """
    ids = tokenise(model.tokenizer, prompts).ids
    parts = zip(x.split(BATCH), t.to(model.device).split(BATCH), ids.split(BATCH), strict=True)
    return torch.cat([model.denoise(x, t, model.encode(ids)).cpu().double() for x, t, ids in parts])


def spread(items: Sequence[Item], count: int) -> list[Item]:
    """At most `count` of the items, evenly over the list."""
    if len(items) <= count:
        return list(items)
    return [items[i * len(items) // count] for i in range(count)]
