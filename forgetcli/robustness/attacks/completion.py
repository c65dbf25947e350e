"""Completion: the unedited model makes the first sampling steps and the edited model the rest. It
tests whether the edited model can still complete the concept (Lu et al., arXiv 2505.17013).
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field

from forgetcli.models.tokens import tokenise
from forgetcli.robustness.attacks import Attempt, Case
from forgetcli.robustness.sampling import Early, sample_images

PUBLISHED: Mapping[str, object] = {}


class Options(BaseModel):
    """The share of the steps that the unedited model makes."""

    model_config = ConfigDict(extra="forbid")

    shares: tuple[float, ...] = Field(
        (0.1, 0.2), min_length=1, description="Shares of the steps: 0.2 of 20 steps are 4."
    )


def run(case: Case, options: Options) -> list[Attempt]:
    """One variant for each share. Each model encodes the prompts with its own text encoders."""
    attempts = []
    prompts = case.prompts()
    seeds = case.seeds()
    ids = tokenise(case.model.tokenizer, prompts).ids
    context = case.model.encode(ids)
    unedited_context = case.unedited.encode(ids)
    for share in options.shares:
        steps = max(1, round(share * case.sampling.steps))
        images, _ = sample_images(
            case.model,
            context,
            seeds,
            case.sampling,
            early=Early(case.unedited, unedited_context, steps),
        )
        case.budget.images += len(images)
        case.observer.advance(len(images))
        attempts += [
            Attempt(prompt, seed, (image,), variant=f"{steps} of {case.sampling.steps} steps")
            for prompt, seed, image in zip(prompts, seeds, images)
        ]
    return attempts
