"""Prompting4Debugging: tokens with which the edited model predicts what the unedited one does for
the concept (Chin and others, arXiv 2309.06135).
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
from forgetcli.robustness.conditioning import encode
from forgetcli.robustness.prefix_search import Nearest, Search
from forgetcli.robustness.sampling import draw

PUBLISHED: Mapping[str, object] = {
    "tokens": 16,
    "steps": 3000,
    "check": 50,
    "keep_prompt": False,
}


class Options(BaseModel):
    """The search."""

    model_config = ConfigDict(extra="forbid")

    prompts: int = Field(6, ge=1, description="Prompts, each with a search of its own.")
    tokens: int = Field(4, ge=1, description="Tokens that are searched for.")
    steps: int = Field(60, ge=1)
    lr: float = Field(0.1, gt=0)
    batch: int = Field(4, ge=1, description="Noisy images in each step.")
    check: int = Field(20, ge=1, description="Steps between looks at an image.")
    keep_prompt: bool = Field(
        True,
        description="Search for tokens beside the prompt (P4D-K) instead of tokens alone (P4D-N).",
    )


def refuse(model: LoadedModel) -> None:
    prefix_search.refuse("p4d", model)


def run(case: Case, options: Options) -> list[Attempt]:
    """A search and an image for each prompt."""
    case.observer.stage(f"p4d on {case.goal.label}", options.prompts * options.steps)
    attempts = []
    prompts, seeds = case.prompts()[: options.prompts], case.seeds()[: options.prompts]
    table, allowed = prefix_search.candidates(case.model, [])
    for prompt, seed in zip(prompts, seeds):
        generator = torch.Generator().manual_seed(seed)
        found = prefix_search.search(
            case,
            prompt if options.keep_prompt else "",
            seed,
            Nearest(table, allowed, options.tokens, generator),
            _Loss(case, prompt, options.batch, generator),
            Search(options.tokens, options.steps, options.lr, signed=False, check=options.check),
        )
        images, _ = draw(case.model, encode(case.model, found), [seed], case.sampling)
        case.budget.images += 1
        attempts.append(Attempt(found.prompt, seed, (images[0],), found=found))
    return attempts


class _Loss:
    """‖edited model's prediction of the prompt − unedited model's of the concept‖² at noisy images
    of the concept.
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
            wanted = self.case.unedited.denoise(noisy, t, self.concept.repeated(self.batch))
        got = self.case.model.denoise(noisy, t, context.repeated(self.batch))
        return F.mse_loss(got.float(), wanted.float())
