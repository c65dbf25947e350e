"""The denoiser's context itself is learned: no prompt, word or embedding can find more than this
search, so it is the upper bound of every attack through the text encoders.

It is too strong to be evidence: on the embedded model it draws dogs with a denoiser that never saw
one (docs/robustness.md).
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field

from forgetcli.editing.inversion import invert_context
from forgetcli.robustness.attacks import Attempt, Case
from forgetcli.robustness.conditioning import Conditioning
from forgetcli.robustness.sampling import draw

BOUND = True
PUBLISHED: Mapping[str, object] = {}  # no paper has it


class Options(BaseModel):
    """The search."""

    model_config = ConfigDict(extra="forbid")

    steps: int = Field(250, ge=1)
    lr: float = Field(0.05, gt=0, description="Relative to the size of the context's entries.")
    batch: int = Field(8, ge=1)


def run(case: Case, options: Options) -> list[Attempt]:
    """Images of the learned context."""
    learned = invert_context(
        case.model,
        case.references().latents,
        start=case.goal.templates[0].replace("{}", case.goal.concept),
        steps=options.steps,
        lr=options.lr,
        batch=options.batch,
        seed=case.seed,
        observer=case.observer,
    )
    case.budget.gradient_steps += options.steps
    seeds = case.seeds()
    images, _ = draw(case.model, learned.context.repeated(len(seeds)), seeds, case.sampling)
    case.budget.images += len(images)
    pooled = learned.context.pooled
    found = Conditioning(
        "<learned context>",
        hidden=learned.context.hidden[0],
        pooled=None if pooled is None else pooled[0],
    )
    return [
        Attempt(found.prompt, seed, (image,), found=found) for seed, image in zip(seeds, images)
    ]
