"""``forget erase``: from a concept's name to an edited model and pictures of both models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from forgetcli import models
from forgetcli import recipe as recipes
from forgetcli.checkpoint import base as checkpoint
from forgetcli.generation.generate import generate
from forgetcli.generation.images import GeneratedImage
from forgetcli.pipeline.apply import ApplyResult, apply
from forgetcli.pipeline.drafting.draft import OPTIONS, Draft, Options, draft
from forgetcli.pipeline.drafting.text import recipe_text
from forgetcli.progress import Observer, Silent, Stopwatch
from forgetcli.recipe import Recipe

KEPT = 2  # pictures of near concepts for each concept that is erased


@dataclass(frozen=True)
class Drafted:
    """A drafted recipe.

    Attributes:
        recipe: as it was read again from its text, which is `recipe.raw`.
    """

    draft: Draft
    recipe: Recipe

    def as_dict(self) -> dict[str, Any]:
        return {"choices": [asdict(choice) for choice in self.draft.choices]}


@dataclass(frozen=True)
class Erased:
    """What ``forget erase`` did.

    Attributes:
        images: pairs of images, those of the concepts first; none if none were asked for.
        seconds: by stage.
    """

    drafted: Drafted
    applied: ApplyResult
    images: tuple[GeneratedImage, ...]
    seconds: dict[str, float]

    def as_dict(self) -> dict[str, Any]:
        return {
            "output": str(self.applied.output),
            **self.drafted.as_dict(),
            "check": dict(self.applied.check),
            "cache": dict(self.applied.cache),
            "images": [image.as_dict() for image in self.images],
            "seconds": self.seconds,
        }

    def is_erased(self, prompt: str) -> bool:
        """Whether a picture's prompt asks for what was erased."""
        return any(prompt in (*c.direct, *c.indirect) for c in self.drafted.draft.concepts)


def drafted(
    concepts: Sequence[str],
    options: Options = OPTIONS,
    *,
    model: str = "demo",
    config: str | None = None,
    method: str = "nullspace",
    seed: int = 0,
    device: str | None = None,
    dtype: str | None = None,
    observer: Observer | None = None,
) -> Drafted:
    """The recipe that `run` applies; nothing is written.

    Raises:
        ForgetError: what was asked for cannot be; see `drafting.draft.draft`.
    """
    base = checkpoint.resolve(model, config=config)
    loaded = models.load(base, device=device, dtype=dtype, observer=observer)
    made = draft(loaded, concepts, options, observer)
    text = recipe_text(made, model=model, method=method, seed=seed)
    return Drafted(made, recipes.parse(text))


def run(
    made: Drafted,
    *,
    output: Path,
    images: Path,
    count: int = 4,
    model: str = "demo",
    config: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    force: bool = False,
    strict: bool = True,
    observer: Observer | None = None,
) -> Erased:
    """Apply a drafted recipe and draw what it changed.

    Args:
        output: the edited folder; its `recipe.toml` is the draft.
        images: folder of the images; not within `output`, of which the manifest lists every file.
        count: prompts that images are drawn for, for each concept; 0: none.
        strict: see `pipeline.apply.apply`.
    """
    observer = observer or Silent()
    watch = Stopwatch()
    with watch.stage("apply"):
        applied = apply(
            made.recipe,
            model=model,
            config=config,
            output=output,
            device=device,
            dtype=dtype,
            force=force,
            strict=strict,
            observer=observer,
        )
    pictures: tuple[GeneratedImage, ...] = ()
    prompts = shown(made.draft, count)
    if prompts:
        with watch.stage("images"):
            pictures = generate(
                prompts,
                model=output,
                output=images,
                compare_base=True,
                device=device,
                observer=observer,
            ).images
    return Erased(made, applied, pictures, watch.report())


def shown(made: Draft, count: int) -> list[str]:
    """Prompts to draw: of each concept `count`, of which up to `KEPT` are of near concepts. Those
    of the concepts come first.
    """
    erased, kept = [], []
    for each in made.concepts:
        staying = [made.asking[near][0] for near in each.near if near in made.asking]
        few = min(KEPT, count // 2, len(staying))
        asked = [*each.direct[: max(1, count - few - 1)], *each.indirect[:1], *each.direct]
        erased += list(dict.fromkeys(asked))[: count - few]
        kept += staying[1 : few + 1] or staying[:few]
    return list(dict.fromkeys([*erased, *kept]))
