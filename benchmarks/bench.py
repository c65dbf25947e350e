"""The embedded model in memory, edited and restored for each measurement: no process to start, nothing to write.

What is drawn is drawn by diffusers' own pipeline and seen by the embedded judge, as `forget eval` does it; the edited weights are
those before they are rounded to the file's float16 (the rounding is 2e-4 of the change).
"""
from __future__ import annotations

import logging
import time
from dataclasses import dataclass

import torch
from diffusers import StableDiffusionPipeline

from forgetcli import checkpoint, judges, methods, models
from forgetcli.cache import MomentCache
from forgetcli.edits import Edit
from forgetcli.progress import Silent
from forgetcli.recipe import Recipe

STEPS, SEED, GUIDANCE, BATCH = 10, 5000, 4.5, 16                      # half of the default steps, for twice the pictures


@dataclass(frozen=True)
class Seen:
    """What the judge said, picture by picture: that the concept is not there; that what must stay is there."""

    direct: list[bool]
    indirect: list[bool]
    kept: list[bool]

    @property
    def forgot(self) -> list[bool]:
        return self.direct + self.indirect


class Bench:
    def __init__(self) -> None:
        logging.disable(logging.WARNING)
        self.model, self.judge = models.load(checkpoint.resolve("demo"), device="cpu"), judges.load("demo")
        m = self.model
        self.pipe = StableDiffusionPipeline(vae=m.vae, text_encoder=m.text_encoder, tokenizer=m.tokenizer, unet=m.unet, scheduler=m.scheduler,
                                            safety_checker=None, feature_extractor=None, requires_safety_checker=False)
        self.pipe.set_progress_bar_config(disable=True)

    def edit(self, recipe: Recipe, method: str, tables: dict) -> tuple[Edit, float]:
        """A method's edit, and its seconds. Second moments are cached, as in `forget apply`.

        Raises:
            EditError: it cannot be made.
        """
        module, start = methods.get(method), time.time()
        edit = module.edit(self.model, recipe.model_copy(update={"method": method}), module.Parameters.model_validate(tables), MomentCache(), Silent())
        return edit, time.time() - start

    def look(self, recipe: Recipe, edit: Edit, asked: int | None = None) -> Seen:
        """Draw and judge the recipe's evaluation prompts, of each concept to forget at most `asked` of either kind."""
        direct = [(p, c.label) for c in recipe.concepts for p in c.direct[:asked]]
        indirect = [(p, c.label) for c in recipe.concepts for p in c.indirect[:asked]]
        kept = [(p, r.label) for r in recipe.retain for p in (*r.direct, *r.indirect)]
        every = direct + indirect + kept
        with self.model.weights(edit.weights):
            pictures = self.drawn([prompt for prompt, _ in every])
        seen = [s.seen for s in self.judge.see(pictures, [label for _, label in every])]
        a, b = len(direct), len(direct) + len(indirect)
        return Seen([not s for s in seen[:a]], [not s for s in seen[a:b]], list(seen[b:]))

    def drawn(self, prompts: list[str], seeds: list[int] | None = None) -> list:
        """One picture a prompt; seeds: by default counted up."""
        seeds, pictures = seeds or [SEED + i for i in range(len(prompts))], []
        for start in range(0, len(prompts), BATCH):
            part = prompts[start:start + BATCH]
            noise = [torch.Generator().manual_seed(seed) for seed in seeds[start:start + BATCH]]
            pictures += self.pipe(part, num_inference_steps=STEPS, guidance_scale=GUIDANCE, generator=noise).images
        return pictures


def mean(values: list) -> float:
    return sum(values) / len(values)


def nested(values: dict) -> dict:
    """{"edit.lam": 1} → {"edit": {"lam": 1}}."""
    tables: dict = {}
    for key, value in values.items():
        table, _, name = key.partition(".")
        tables.setdefault(table, {})[name] = list(value) if isinstance(value, tuple) else value
    return tables
