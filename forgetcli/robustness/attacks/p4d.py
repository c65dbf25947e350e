"""Prompting4Debugging: searches for tokens with which the edited model makes the same predictions
as the unedited model makes for the concept (Chin et al., arXiv 2309.06135).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from forgetcli.models.base import LoadedModel
from forgetcli.models.context import Context
from forgetcli.models.tokens import tokenise
from forgetcli.robustness import prefix_search
from forgetcli.robustness.attacks import Attempt, Case
from forgetcli.robustness.prefix_search import Nearest, Search

PUBLISHED: Mapping[str, object] = {
    "tokens": 16,
    "steps": 3000,
    "lr": 0.1,
    "batch": 1,
    "check": 50,
    "keep_prompt": False,
}  # configs/esd_nudity_optmz_config.json of the authors' code


class Options(BaseModel):
    """Settings of the search."""

    model_config = ConfigDict(extra="forbid")

    prompts: int = Field(6, ge=1, description="Number of prompts. Each has its own search.")
    tokens: int = Field(4, ge=1, description="Number of tokens to search for.")
    steps: int = Field(60, ge=1)
    lr: float = Field(0.1, gt=0)
    batch: int = Field(4, ge=1, description="Noisy images per step.")
    check: int = Field(20, ge=1, description="Steps between two checks of a generated image.")
    keep_prompt: bool = Field(
        True,
        description="Search for tokens beside the prompt (P4D-K) instead of tokens alone (P4D-N).",
    )


def refuse(model: LoadedModel) -> None:
    prefix_search.refuse_several_encoders("p4d", model)


def run(case: Case, options: Options) -> list[Attempt]:
    """A search and an image for each prompt."""
    case.observer.stage(f"p4d on {case.goal.label}", options.prompts * options.steps)
    attempts = []
    prompts = case.prompts()[: options.prompts]
    seeds = case.seeds()[: options.prompts]
    table, allowed = prefix_search.allowed_tokens(case.model, [])
    for prompt, seed in zip(prompts, seeds):
        generator = torch.Generator().manual_seed(seed)
        conditioning = prefix_search.search(
            case,
            prompt=prompt if options.keep_prompt else "",
            seed=seed,
            relaxation=Nearest(table, allowed, options.tokens, generator),
            loss_of=_Loss(case, prompt, options.batch, generator),
            settings=Search(
                tokens=options.tokens,
                steps=options.steps,
                lr=options.lr,
                signed=False,
                check=options.check,
            ),
        )
        attempts.append(prefix_search.attempt(case, conditioning, seed))
    return attempts


class _Loss:
    """The mean squared difference of two predictions at noisy images of the concept: the edited
    model's for the searched context, and the unedited model's for the prompt of the concept.
    """

    def __init__(self, case: Case, prompt: str, batch: int, generator: torch.Generator) -> None:
        self.case = case
        self.batch = batch
        self.generator = generator
        self.scheduler = case.unedited.sampler(1)
        with torch.no_grad():
            ids = tokenise(case.unedited.tokenizer, [prompt]).ids
            self.concept = case.unedited.encode(ids)

    def __call__(self, context: Context) -> Tensor:
        latents = self.case.references().latents
        rows = torch.randint(len(latents), (self.batch,), generator=self.generator)
        clean = latents[rows]
        noise = torch.randn(clean.shape, generator=self.generator).to(clean)
        last = self.scheduler.config.num_train_timesteps
        t = torch.randint(last, (self.batch,), generator=self.generator).to(clean.device)
        noisy = self.scheduler.add_noise(clean, noise, t)
        with torch.no_grad():
            target = self.case.unedited.denoise(noisy, t, self.concept.repeated(self.batch))
        prediction = self.case.model.denoise(noisy, t, context.repeated(self.batch))
        return F.mse_loss(prediction.float(), target.float())
