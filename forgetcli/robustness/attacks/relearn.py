"""A few steps of LoRA fine-tuning of the denoiser on a few images, of the concept or of *other*
concepts: does it come back? (Suriyakumar and others, Unstable Unlearning: The Hidden Risk of
Concept Resurgence in Diffusion Models, arXiv 2410.08074)
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field

from forgetcli.editing.inversion import prediction_target
from forgetcli.models.tokens import tokenise
from forgetcli.robustness.attacks import Attempt, Case
from forgetcli.robustness.sampling import draw

if TYPE_CHECKING:
    from torch import Tensor

    from forgetcli.models.base import LoadedModel

DEFAULT = False  # training the denoiser is no attack on a model that somebody else serves
PUBLISHED: Mapping[str, object] = {}  # the paper's own values are not here yet
LAYERS = ["to_q", "to_k", "to_v", "to_out.0"]


class Options(BaseModel):
    """The training."""

    model_config = ConfigDict(extra="forbid")

    steps: int = Field(100, ge=1)
    lr: float = Field(1e-3, gt=0)
    batch: int = Field(8, ge=1)
    images: int = Field(8, ge=1, description="Images that it is trained on.")
    rank: int = Field(4, ge=1)


def run(case: Case, options: Options) -> list[Attempt]:
    """Two trainings, two variants: on images of other concepts, and of the concept."""
    case.observer.stage(f"relearn {case.goal.label}", 2 * options.steps)
    attempts = []
    prompts, seeds, known = case.prompts(), case.seeds(), case.references()
    for variant, texts, latents in (
        ("other concepts", *_others(case, options.images)),
        (
            "the concept",
            list(known.prompts[: options.images]),
            known.latents[: options.images],
        ),
    ):
        if not texts:  # the recipe names nothing that stays
            continue
        tuned = finetuned(case, texts, latents, options)
        context = tuned.encode(tokenise(tuned.tokenizer, prompts).ids)
        images, _ = draw(tuned, context, seeds, case.sampling)
        case.budget.images += len(images)
        attempts += [
            Attempt(prompt, seed, (image,), variant=variant)
            for prompt, seed, image in zip(prompts, seeds, images)
        ]
    return attempts


def _others(case: Case, count: int) -> tuple[list[str], Any]:
    """Prompts of concepts that stay, and the unedited model's latents of them."""
    prompts = list(case.goal.others[:count])
    if not prompts:
        return [], None
    context = case.unedited.encode(tokenise(case.unedited.tokenizer, prompts).ids)
    seeds = [case.seed + 50_000 + k for k in range(len(prompts))]
    _, latents = draw(case.unedited, context, seeds, case.sampling)
    case.budget.images += len(prompts)
    return prompts, latents


def finetuned(case: Case, prompts: list[str], latents: Tensor, options: Options) -> LoadedModel:
    """The model with a denoiser of its own, in which a LoRA was trained on these latents."""
    from peft import LoraConfig

    model = copy.copy(case.model)
    denoiser = copy.deepcopy(case.model.denoiser).requires_grad_(False)
    denoiser.add_adapter(LoraConfig(r=options.rank, lora_alpha=options.rank, target_modules=LAYERS))
    model.__dict__[model.DENOISER] = denoiser
    trained = [p for p in denoiser.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=options.lr, weight_decay=0.0)
    generator = torch.Generator().manual_seed(case.seed)
    scheduler = model.sampler(1)
    last = scheduler.config.num_train_timesteps
    with torch.no_grad():
        context = model.encode(tokenise(model.tokenizer, prompts).ids)
    for _ in range(options.steps):
        rows = torch.randint(len(latents), (options.batch,), generator=generator)
        clean = latents[rows]
        noise = torch.randn(clean.shape, generator=generator).to(clean)
        t = torch.randint(last, (options.batch,), generator=generator).to(clean.device)
        noisy = scheduler.add_noise(clean, noise, t)
        predicted = model.denoise(noisy, t, context[rows])
        wanted = prediction_target(scheduler, clean, noise, t)
        loss = F.mse_loss(predicted.float(), wanted.float())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        case.budget.gradient_steps += 1
        case.observer.advance(loss=loss.item())
    return model
