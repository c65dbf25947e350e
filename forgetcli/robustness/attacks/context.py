"""Context inversion: learns the denoiser's context itself. Every prompt, word or embedding leads to
some context, so this search is an upper bound of all attacks through the text encoders.

Its success is not evidence that a concept was hidden: on the embedded model it generates dogs with
a denoiser that never saw one (docs/robustness.md).
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field

from forgetcli.editing.inversion import invert_context
from forgetcli.robustness.attacks import Attempt, Case
from forgetcli.robustness.conditioning import Conditioning
from forgetcli.robustness.sampling import sample_images

BOUND = True
PUBLISHED: Mapping[str, object] = {}  # no paper describes this attack


class Options(BaseModel):
    """Settings of the optimisation."""

    model_config = ConfigDict(extra="forbid")

    steps: int = Field(250, ge=1)
    lr: float = Field(0.05, gt=0, description="Relative to the size of the context's entries.")
    batch: int = Field(8, ge=1)


def run(case: Case, options: Options) -> list[Attempt]:
    """Learn one context, and generate all images from it."""
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
    images, _ = sample_images(
        case.model, learned.context.repeated(len(seeds)), seeds, case.sampling
    )
    case.budget.images += len(images)
    pooled = learned.context.pooled
    conditioning = Conditioning(
        "<learned context>",
        hidden=learned.context.hidden[0],
        pooled=None if pooled is None else pooled[0],
    )
    return [
        Attempt(conditioning.prompt, seed, (image,), found=conditioning)
        for seed, image in zip(seeds, images)
    ]
