"""UnlearnDiffAtk: tokens in front of a prompt with which the edited model predicts the noise of an
image of the concept (Zhang and others, arXiv 2310.11868).
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
from forgetcli.robustness.conditioning import encode
from forgetcli.robustness.prefix_search import Search, Simplex
from forgetcli.robustness.sampling import draw

PUBLISHED: Mapping[str, object] = {"tokens": 5, "steps": 40, "lr": 0.01, "batch": 50, "check": 1}


class Options(BaseModel):
    """The search."""

    model_config = ConfigDict(extra="forbid")

    prompts: int = Field(6, ge=1, description="Prompts, each with a search of its own.")
    tokens: int = Field(5, ge=1, description="Tokens that are searched for.")
    steps: int = Field(60, ge=1)
    lr: float = Field(0.01, gt=0, description="Step length along the gradient's sign.")
    batch: int = Field(8, ge=1, description="Times of the one image in each step.")
    check: int = Field(20, ge=1, description="Steps between looks at an image.")


def refuse(model: LoadedModel) -> None:
    prefix_search.refuse("unlearndiffatk", model)


def run(case: Case, options: Options) -> list[Attempt]:
    """A search and an image for each prompt, which stands behind the tokens that are found."""
    case.observer.stage(f"unlearndiffatk on {case.goal.label}", options.prompts * options.steps)
    attempts = []
    prompts, seeds = case.prompts()[: options.prompts], case.seeds()[: options.prompts]
    table, allowed = prefix_search.candidates(case.model, [])
    latents = case.references().latents
    for number, (prompt, seed) in enumerate(zip(prompts, seeds)):
        generator = torch.Generator().manual_seed(seed)
        image = latents[number % len(latents)]
        found = prefix_search.search(
            case,
            prompt,
            seed,
            Simplex(table, allowed, options.tokens, generator),
            _Loss(case, image[None], options.batch, generator),
            Search(options.tokens, options.steps, options.lr, signed=True, check=options.check),
        )
        images, _ = draw(case.model, encode(case.model, found), [seed], case.sampling)
        case.budget.images += 1
        attempts.append(Attempt(found.prompt, seed, (images[0],), found=found))
    return attempts


class _Loss:
    """The denoising loss of one image at random times and noise."""

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
        got = self.model.denoise(noisy, t, context.repeated(n))
        wanted = prediction_target(self.scheduler, self.clean, noise, t)
        return F.mse_loss(got.float(), wanted.float())
