"""The quick check after every edit: it took effect, and it broke nothing.

Measured on the denoiser's predictions, at noisy pictures that the refinement did not see (another
seed): how far those for
the concept prompts went towards those for the target prompts, and how far those for preserve
prompts moved.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import torch

from forgetcli.editing.edit import Edit
from forgetcli.errors import EditError, ModelError
from forgetcli.models.tokens import tokenise
from forgetcli.models.trajectories import noisy_bank
from forgetcli.progress import Observer

PROMPTS = 12  # of each kind, spread over the list
STEPS, GUIDANCE = 5, 1.0  # of the sampler that makes the noisy pictures: rough ones will do
NO_OP = 0.05  # less of the way than this is no edit
WRECKED = 0.25  # preserve predictions off by more than this are broken


@dataclass(frozen=True)
class Check:
    """All figures are relative root mean squares over predictions.

    Attributes:
        concept_before: ‖ε(concept) − ε(target)‖ / ‖ε(target) − ε(∅)‖ for the unedited model.
        concept_after: the same with the edited model's ε(concept); the targets are the unedited
            model's.
        moved: 1 − after/before, the share of the way that was gone.
        preserve_drift: ‖ε_edited − ε‖ / ‖ε‖ for preserve prompts.
    """

    concept_before: float
    concept_after: float
    moved: float
    preserve_drift: float

    def as_dict(self) -> dict[str, float]:
        return {name: round(value, 5) for name, value in asdict(self).items()}

    def enforce(self) -> None:
        """Raise if the figures say that the edit is none, or too much of one.

        Raises:
            EditError: the edit did nothing (`edit.no-effect`) or the model is wrecked
                (`edit.wrecked`).
        """
        figures = f"moved {self.moved:.0%} of the way to the target, preserve prompts by {self.preserve_drift:.1%}"
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
                "raise [refine] damping (of other methods [edit] lam), lower threshold and min_rank, or add preserve prompts near the concept",
            )
        if self.moved < NO_OP:
            raise EditError(
                "edit.no-effect",
                f"the edit has no effect: {figures}",
                "lower [refine] damping (of other methods [edit] lam), raise min_rank, refine for more steps, or check that the model knows the concept",
            )


def check(model, edit: Edit, pairs, preserve, seed: int, observer: Observer) -> Check:
    """Compare predictions before and after; `Check.enforce` says whether that will do.

    Raises:
        ModelError: the unedited model's own predictions are not finite.
    """
    generator = torch.Generator().manual_seed(seed + 1)
    pairs, preserve = spread(pairs, PROMPTS), spread(preserve, PROMPTS)
    concepts, targets = [c for c, _ in pairs], [t for _, t in pairs]
    bank = noisy_bank(
        model,
        concepts + preserve,
        steps=STEPS,
        guidance=GUIDANCE,
        generator=generator,
        observer=observer,
    )
    n, rows = len(concepts), torch.arange(len(concepts) + len(preserve))
    x, t = bank.draw(rows, (0, 10**9), generator)

    @torch.no_grad()
    def predict(x, t, prompts):
        return (
            model.denoise(
                x, t.to(model.device), model.encode(tokenise(model.tokenizer, prompts).ids)
            )
            .cpu()
            .double()
        )

    wanted, nothing = predict(x[:n], t[:n], targets), predict(x[:n], t[:n], [""] * n)
    before, kept = (
        predict(x[:n], t[:n], concepts),
        predict(x[n:], t[n:], preserve) if preserve else None,
    )
    if not all(bool(x.isfinite().all()) for x in (wanted, nothing, before, kept) if x is not None):
        raise ModelError(
            "model.not-finite",
            f"the predictions of {model.base.id} are not finite numbers before any edit",
            "run it with --dtype float32, or check the checkpoint",
        )
    with model.weights(edit.weights):
        after, kept_after = (
            predict(x[:n], t[:n], concepts),
            predict(x[n:], t[n:], preserve) if preserve else None,
        )
    unit = (wanted - nothing).norm().clamp_min(1e-12)
    drift = float((kept_after - kept).norm() / kept.norm()) if preserve else 0.0
    first, last = float((before - wanted).norm() / unit), float((after - wanted).norm() / unit)
    return Check(first, last, 1 - last / first if first != 0 else 0.0, drift)


def spread(items, count: int) -> list:
    """At most `count` of the items, evenly over the list."""
    return (
        [items[i * len(items) // count] for i in range(count)]
        if len(items) > count
        else list(items)
    )
