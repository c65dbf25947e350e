"""UnlearnDiffAtk: searches for tokens in front of a prompt with which the edited model predicts the
noise in an image of the concept (Zhang et al., arXiv 2310.11868).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from forgetcli.editing.inversion import prediction_target
from forgetcli.models.base import LoadedModel
from forgetcli.models.context import Context
from forgetcli.robustness import prefix_search
from forgetcli.robustness.attacks import Attempt, Case
from forgetcli.robustness.prefix_search import Search, Simplex

# The authors' code makes 40 steps at each of 50 times of one noisy image, and looks at an image
# after each time. It has 3 tokens for objects and styles, 5 for nudity. Its steps are Adam's; here
# they follow the gradient's sign, and each takes a time of its own.
PUBLISHED: Mapping[str, object] = {"tokens": 3, "steps": 2000, "lr": 0.01, "batch": 1, "check": 40}


class Options(BaseModel):
    """Settings of the search."""

    model_config = ConfigDict(extra="forbid")

    prompts: int = Field(6, ge=1, description="Number of prompts. Each has its own search.")
    tokens: int = Field(5, ge=1, description="Number of tokens to search for.")
    steps: int = Field(60, ge=1)
    lr: float = Field(0.01, gt=0, description="Step length along the gradient's sign.")
    batch: int = Field(8, ge=1, description="Timesteps per step, all for the same image.")
    check: int = Field(20, ge=1, description="Steps between two checks of a generated image.")


def refuse(model: LoadedModel) -> None:
    prefix_search.refuse_several_encoders("unlearndiffatk", model)


def run(case: Case, options: Options) -> list[Attempt]:
    """A search and an image for each prompt. The prompt follows the tokens that are found."""
    case.observer.stage(f"unlearndiffatk on {case.goal.label}", options.prompts * options.steps)
    attempts = []
    prompts = case.prompts()[: options.prompts]
    seeds = case.seeds()[: options.prompts]
    table, allowed = prefix_search.allowed_tokens(case.model, [])
    latents = case.references().latents
    for number, (prompt, seed) in enumerate(zip(prompts, seeds)):
        generator = torch.Generator().manual_seed(seed)
        image = latents[number % len(latents)]
        conditioning = prefix_search.search(
            case,
            prompt=prompt,
            seed=seed,
            relaxation=Simplex(table, allowed, options.tokens, generator),
            loss_of=_Loss(case, image[None], options.batch, generator),
            settings=Search(
                tokens=options.tokens,
                steps=options.steps,
                lr=options.lr,
                signed=True,
                check=options.check,
            ),
        )
        attempts.append(prefix_search.attempt(case, conditioning, seed))
    return attempts


class _Loss:
    """The denoising loss of one image at random timesteps with random noise."""

    def __init__(self, case: Case, image: Tensor, batch: int, generator: torch.Generator) -> None:
        self.model = case.model
        self.clean = image.expand(batch, *image.shape[1:])
        self.generator = generator
        self.scheduler = case.model.sampler(1)

    def __call__(self, context: Context) -> Tensor:
        n = len(self.clean)
        noise = torch.randn(self.clean.shape, generator=self.generator).to(self.clean)
        last = self.scheduler.config.num_train_timesteps
        t = torch.randint(last, (n,), generator=self.generator).to(self.clean.device)
        noisy = self.scheduler.add_noise(self.clean, noise, t)
        prediction = self.model.denoise(noisy, t, context.repeated(n))
        target = prediction_target(self.scheduler, self.clean, noise, t)
        return F.mse_loss(prediction.float(), target.float())
