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

from forgetcli.editing.edit import Edit
from forgetcli.errors import EditError, ModelError
from forgetcli.models.base import LoadedModel
from forgetcli.models.tokens import tokenise
from forgetcli.models.trajectories import noisy_points
from forgetcli.progress import Observer

PROMPTS = 12  # of each kind, spread over the list
# Few sampler steps without guidance: the noisy images need no quality.
STEPS = 5
# Latents along a side of the noisy images: a denoiser of four levels still has 2 × 2 positions at
# its lowest. At the size for which Stable Diffusion was trained the check takes longer than the
# edit, and says the same: both predictions that it compares are at the same latents.
LARGEST_SIDE = 16
Item = TypeVar("Item")

# An edit that covers a smaller fraction of the distance to the target has no effect.
NO_OP = 0.05
# A larger relative change of the predictions for preserve prompts means a broken model.
WRECKED = 0.25


@dataclass(frozen=True)
class Check:
    """Figures of the check. All are relative root mean squares over predictions.

    Attributes:
        concept_before: ‖ε(concept) − ε(target)‖ / ‖ε(target) − ε(∅)‖ for the unedited model.
        concept_after: the same with the edited model's ε(concept); the targets are the unedited
            model's.
        moved: 1 − after/before, the fraction of the distance to the target that the edit covered.
        preserve_drift: ‖ε_edited − ε‖ / ‖ε‖ for preserve prompts.
    """

    concept_before: float
    concept_after: float
    moved: float
    preserve_drift: float

    def as_dict(self) -> dict[str, float]:
        return {name: round(value, 5) for name, value in asdict(self).items()}

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
        if self.preserve_drift > WRECKED:
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
    pairs, preserve = spread(pairs, PROMPTS), spread(preserve, PROMPTS)
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
    )

    target = predictions(model, x[:n], t[:n], targets)
    empty = predictions(model, x[:n], t[:n], [""] * n)
    before = predictions(model, x[:n], t[:n], concepts)
    preserved = predictions(model, x[n:], t[n:], preserve) if preserve else None
    known = [each for each in (target, empty, before, preserved) if each is not None]
    if not all(bool(each.isfinite().all()) for each in known):
        raise ModelError(
            "model.not-finite",
            f"the predictions of {model.base.id} are not finite numbers before any edit",
            "run it with --dtype float32, or check the checkpoint",
        )
    drift = 0.0
    with model.weights(edit.weights):
        after = predictions(model, x[:n], t[:n], concepts)
        if preserved is not None:
            moved = predictions(model, x[n:], t[n:], preserve)
            drift = float((moved - preserved).norm() / preserved.norm())
    unit = (target - empty).norm().clamp_min(1e-12)
    first = float((before - target).norm() / unit)
    last = float((after - target).norm() / unit)
    return Check(
        concept_before=first,
        concept_after=last,
        moved=1 - last / first if first != 0 else 0.0,
        preserve_drift=drift,
    )


@torch.no_grad()
def predictions(model: LoadedModel, x: Tensor, t: Tensor, prompts: Sequence[str]) -> Tensor:
    """The denoiser's predictions at x_t, (n, c, h, w), and t, (n,), one prompt each: float64, on
    the CPU.
    """
    context = model.encode(tokenise(model.tokenizer, prompts).ids)
    return model.denoise(x, t.to(model.device), context).cpu().double()


def spread(items: Sequence[Item], count: int) -> list[Item]:
    """At most `count` of the items, evenly over the list."""
    if len(items) <= count:
        return list(items)
    return [items[i * len(items) // count] for i in range(count)]
