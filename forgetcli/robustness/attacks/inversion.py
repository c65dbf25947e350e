"""Concept inversion: learns the embedding of one new word from images of the concept, through the
edited model's own text encoders (Pham et al., Circumventing Concept Erasure Methods, arXiv
2308.01508).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from forgetcli.editing.inversion import PROMPTS, invert_token
from forgetcli.models.context import Context
from forgetcli.robustness.attacks import Attempt, Case
from forgetcli.robustness.conditioning import Conditioning, encode
from forgetcli.robustness.sampling import sample_images

# The learning rate is relative to the embeddings' size here: 5e-3 of Stable Diffusion's 0.015.
# The authors' scripts: 5,000 steps of 4 × 4 images at 0.08 = 0.005 × 4 × 4 (--scale_lr). Entries of
# CLIP ViT-L's token embeddings are about 0.014 in size (a figure from memory), hence 5.7.
PUBLISHED: Mapping[str, object] = {"steps": 5000, "lr": 5.7, "batch": 16}


class Options(BaseModel):
    """Settings of the optimisation."""

    model_config = ConfigDict(extra="forbid")

    steps: int = Field(250, ge=1)
    lr: float = Field(0.1, gt=0, description="Relative to the size of the token embeddings.")
    batch: int = Field(8, ge=1)
    timesteps: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=1)]] = Field(
        (0, 1000),
        description="Times of the noise, from the lowest to below the highest, out of the model's "
        "1000. An edit may lead away from images that already look like the concept; high times "
        "ask only for what the word begins with.",
    )
    images: Literal["recipe", "plain"] = Field(
        "plain",
        description="Images of the concept's name in plain prompts, or of the recipe's direct "
        "prompts. One word explains plain images more easily than images in many styles.",
    )

    @model_validator(mode="after")
    def _range(self) -> Options:
        if self.timesteps[0] >= self.timesteps[1]:
            raise ValueError("timesteps must be [lower, upper] with lower < upper")
        return self


def run(case: Case, options: Options) -> list[Attempt]:
    """Learn the word, and generate images of it in the prompt templates of the training."""
    plain = tuple(template.replace("{}", case.goal.concept) for template in PROMPTS)
    references = case.references(plain) if options.images == "plain" else case.references()
    learned = invert_token(
        case.model,
        references.latents,
        steps=options.steps,
        lr=options.lr,
        batch=options.batch,
        timesteps=options.timesteps,
        seed=case.seed,
        observer=case.observer,
    )
    case.budget.gradient_steps += options.steps
    conditionings = [
        Conditioning(PROMPTS[k % len(PROMPTS)], vectors=learned.vectors) for k in range(case.images)
    ]
    context = Context.cat([encode(case.model, each) for each in conditionings])
    images, _ = sample_images(case.model, context, case.seeds(), case.sampling)
    case.budget.images += len(images)
    return [
        Attempt(each.prompt.replace("{}", "<learned>"), seed, (image,), found=each)
        for each, seed, image in zip(conditionings, case.seeds(), images)
    ]
