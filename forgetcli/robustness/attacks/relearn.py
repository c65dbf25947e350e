"""Relearning: fine-tunes the denoiser by LoRA for a few steps on a few images, either of the
concept or of *other* concepts, and tests whether the concept comes back (Suriyakumar et al.,
Unstable Unlearning: The Hidden Risk of Concept Resurgence in Diffusion Models, arXiv 2410.08074).
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
from forgetcli.robustness.sampling import sample_images

if TYPE_CHECKING:
    from torch import Tensor

    from forgetcli.models.base import LoadedModel

DEFAULT = False  # an attacker cannot train a model that somebody else serves
PUBLISHED: Mapping[str, object] = {}  # the paper's values have not been added yet
LAYERS = ["to_q", "to_k", "to_v", "to_out.0"]


class Options(BaseModel):
    """Settings of the training."""

    model_config = ConfigDict(extra="forbid")

    steps: int = Field(100, ge=1)
    lr: float = Field(1e-3, gt=0)
    batch: int = Field(8, ge=1)
    images: int = Field(8, ge=1, description="Number of training images.")
    rank: int = Field(4, ge=1)


def run(case: Case, options: Options) -> list[Attempt]:
    """Two variants: training on images of other concepts, and on images of the concept."""
    case.observer.stage(f"relearn {case.goal.label}", 2 * options.steps)
    attempts = []
    prompts = case.prompts()
    seeds = case.seeds()
    references = case.references()
    training_sets = {
        "other concepts": _other_concepts(case, options.images),
        "the concept": (
            list(references.prompts[: options.images]),
            references.latents[: options.images],
        ),
    }
    for variant, (training_prompts, latents) in training_sets.items():
        if not training_prompts:  # the recipe names no concepts to retain
            continue
        tuned = finetuned(case, training_prompts, latents, options)
        context = tuned.encode(tokenise(tuned.tokenizer, prompts).ids)
        images, _ = sample_images(tuned, context, seeds, case.sampling)
        case.budget.images += len(images)
        attempts += [
            Attempt(prompt, seed, (image,), variant=variant)
            for prompt, seed, image in zip(prompts, seeds, images)
        ]
    return attempts


def _other_concepts(case: Case, count: int) -> tuple[list[str], Any]:
    """Prompts of retained concepts, and latents that the unedited model generates for them."""
    prompts = list(case.goal.others[:count])
    if not prompts:
        return [], None
    context = case.unedited.encode(tokenise(case.unedited.tokenizer, prompts).ids)
    seeds = [case.seed + 50_000 + k for k in range(len(prompts))]
    _, latents = sample_images(case.unedited, context, seeds, case.sampling)
    case.budget.images += len(prompts)
    return prompts, latents


def finetuned(case: Case, prompts: list[str], latents: Tensor, options: Options) -> LoadedModel:
    """A copy of the model whose denoiser has a LoRA, trained on these prompts and latents."""
    from peft import LoraConfig

    model = copy.copy(case.model)
    denoiser = copy.deepcopy(case.model.denoiser).requires_grad_(False)
    denoiser.add_adapter(LoraConfig(r=options.rank, lora_alpha=options.rank, target_modules=LAYERS))
    model.__dict__[model.DENOISER] = denoiser
    parameters = [p for p in denoiser.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=options.lr, weight_decay=0.0)
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
        prediction = model.denoise(noisy, t, context[rows])
        target = prediction_target(scheduler, clean, noise, t)
        loss = F.mse_loss(prediction.float(), target.float())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        case.budget.gradient_steps += 1
        case.observer.advance(loss=loss.item())
    return model
