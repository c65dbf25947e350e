"""The embedded model in memory, edited and restored for each measurement: no process to start,
nothing to write.

What is drawn is drawn by diffusers' own pipeline and seen by the embedded judge, as `forget eval`
does it; the edited weights are
those before they are rounded to the file's float16 (the rounding is 2e-4 of the change).
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

import torch
from diffusers import StableDiffusionPipeline

from forgetcli import methods, models
from forgetcli.checkpoint import base
from forgetcli.editing.edit import Edit
from forgetcli.editing.moment_cache import MomentCache
from forgetcli.evaluation import judges
from forgetcli.pipeline.task import task_of
from forgetcli.progress import Silent
from forgetcli.recipe import Recipe

STEPS, SEED, GUIDANCE, BATCH = (
    10,
    5000,
    4.5,
    16,
)  # half of the default steps, for twice the pictures
PAIRS_ALONE = {"esd", "hirm", "none", "stereo"}  # methods that preserve prompts play no part in


@dataclass(frozen=True)
class Seen:
    """What the judge said, picture by picture: that the concept is not there; that what must stay
    is there.
    """

    direct: list[bool]
    indirect: list[bool]
    kept: list[bool]

    @property
    def forgot(self) -> list[bool]:
        return self.direct + self.indirect


class Bench:
    def __init__(self) -> None:
        self.made: dict[str, tuple[Edit, float]] = {}
        self.known: dict[tuple, bool] = {}  # (edit, prompt, label, seed) → seen
        logging.disable(logging.WARNING)
        self.model, self.judge = (
            models.load(base.resolve("demo"), device="cpu"),
            judges.load("demo"),
        )
        m = self.model
        self.pipe = StableDiffusionPipeline(
            vae=m.vae,
            text_encoder=m.text_encoder,
            tokenizer=m.tokenizer,
            unet=m.unet,
            scheduler=m.scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        self.pipe.set_progress_bar_config(disable=True)

    def edit(self, recipe: Recipe, method: str, tables: dict) -> tuple[Edit, float]:
        """A method's edit, and the seconds that it took when it was made: once for recipes that
        differ only in what is evaluated.

        Second moments are cached, as in `forget apply`.

        Raises:
            EditError: it cannot be made.
        """
        key = repr(
            (
                method,
                tables,
                recipe.edit_pairs(),
                None
                if method in PAIRS_ALONE
                else (recipe.preserve_prompts(), recipe.preserve.prior, recipe.prior_captions),
            )
        )
        if key not in self.made:
            module, start = methods.get(method), time.time()
            edit = methods.load_edit(method)(
                self.model,
                task_of(recipe, self.model.base, MomentCache(), tokenizer=self.model.tokenizer),
                module.Parameters.model_validate(tables),
                Silent(),
            )
            self.made[key] = edit, time.time() - start
        return self.made[key]

    def look(self, recipe: Recipe, edit: Edit, asked: int | None = None) -> Seen:
        """Draw and judge the recipe's evaluation prompts, of each concept to forget at most `asked`
        of either kind.
        """
        direct = [(p, c.label) for c in recipe.concepts for p in c.direct[:asked]]
        indirect = [(p, c.label) for c in recipe.concepts for p in c.indirect[:asked]]
        kept = [(p, r.label) for r in recipe.retain for p in (*r.direct, *r.indirect)]
        every = direct + indirect + kept
        # Regimes share edits, and ask the same of them at the same noise: each picture is drawn
        # once. `made` keeps the edits, so an id is theirs alone.
        shots = [
            (id(edit) if edit.weights else None, prompt, label, SEED + i)
            for i, (prompt, label) in enumerate(every)
        ]
        new = [shot for shot in shots if shot not in self.known]
        with self.model.weights(edit.weights):
            pictures = self.drawn([prompt for _, prompt, _, _ in new], [seed for *_, seed in new])
        self.known |= zip(
            new, (s.seen for s in self.judge.see(pictures, [label for _, _, label, _ in new]))
        )
        seen = [self.known[shot] for shot in shots]
        a, b = len(direct), len(direct) + len(indirect)
        return Seen([not s for s in seen[:a]], [not s for s in seen[a:b]], list(seen[b:]))

    def drawn(self, prompts: list[str], seeds: list[int] | None = None) -> list:
        """One picture a prompt; seeds: by default counted up."""
        seeds, pictures = seeds or [SEED + i for i in range(len(prompts))], []
        for start in range(0, len(prompts), BATCH):
            part = prompts[start : start + BATCH]
            noise = [torch.Generator().manual_seed(seed) for seed in seeds[start : start + BATCH]]
            pictures += self.pipe(
                part, num_inference_steps=STEPS, guidance_scale=GUIDANCE, generator=noise
            ).images
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
