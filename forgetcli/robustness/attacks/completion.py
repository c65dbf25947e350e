"""The unedited model makes the first steps and the edited one finishes: is the knowledge of how the
concept is completed still there? (Lu and others, arXiv 2505.17013)
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field

from forgetcli.models.tokens import tokenise
from forgetcli.robustness.attacks import Attempt, Case
from forgetcli.robustness.sampling import Early, draw

PUBLISHED: Mapping[str, object] = {}


class Options(BaseModel):
    """How much the unedited model draws."""

    model_config = ConfigDict(extra="forbid")

    shares: tuple[float, ...] = Field(
        (0.1, 0.2), min_length=1, description="Of the steps: 0.2 of 20 steps are 4."
    )


def run(case: Case, options: Options) -> list[Attempt]:
    """The share of the steps is a variant. Both models read the prompt with their own encoders."""
    attempts = []
    prompts, seeds = case.prompts(), case.seeds()
    ids = tokenise(case.model.tokenizer, prompts).ids
    contexts = case.model.encode(ids), case.unedited.encode(ids)
    for share in options.shares:
        steps = max(1, round(share * case.sampling.steps))
        images, _ = draw(
            case.model,
            contexts[0],
            seeds,
            case.sampling,
            early=Early(case.unedited, contexts[1], steps),
        )
        case.budget.images += len(images)
        case.observer.advance(len(images))
        attempts += [
            Attempt(prompt, seed, (image,), variant=f"{steps} of {case.sampling.steps} steps")
            for prompt, seed, image in zip(prompts, seeds, images)
        ]
    return attempts
