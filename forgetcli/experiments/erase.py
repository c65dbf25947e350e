"""``forget erase``: from a concept's name to an edited model, with images before and after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from forgetcli import models
from forgetcli import recipe as recipes
from forgetcli.checkpoint import base as checkpoint
from forgetcli.errors import ForgetError
from forgetcli.generation.generate import generate
from forgetcli.generation.images import GeneratedImage
from forgetcli.models.offload import AUTO
from forgetcli.pipeline.apply import STAGES as EDIT_STAGES
from forgetcli.pipeline.apply import ApplyResult, apply
from forgetcli.pipeline.drafting import attribute, robust
from forgetcli.pipeline.drafting.draft import Draft, draft
from forgetcli.pipeline.drafting.options import OPTIONS, Options
from forgetcli.pipeline.drafting.text import recipe_text
from forgetcli.progress import Observer, Silent, Stopwatch, enter
from forgetcli.recipe import Recipe

STAGES = ("drafting", *EDIT_STAGES, "images")  # for `progress.Stages`
NEAR_PROMPTS = 2  # prompts of near concepts, for each erased concept


@dataclass(frozen=True)
class Drafted:
    """A drafted recipe.

    Attributes:
        draft: the draft.
        recipe: the draft's recipe, parsed from the text of the draft (`recipe.raw`).
    """

    draft: Draft
    recipe: Recipe

    def as_dict(self) -> dict[str, Any]:
        return {"choices": [asdict(choice) for choice in self.draft.choices]}


@dataclass(frozen=True)
class Erased:
    """The result of ``forget erase``.

    Attributes:
        drafted: the recipe.
        applied: the edit.
        images: pairs of images, with the erased concepts first; empty if none were requested.
        seconds: duration of each stage.
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
        """Whether a prompt is for an erased concept."""
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
    """Draft the recipe that `run` applies. Nothing is written.

    Args:
        concepts: with `options.attribute_of`: one attribute of that concept.
    Raises:
        ForgetError: a concept or an option is not valid; see `drafting.draft.draft`.
    """
    observer = observer or Silent()
    owner = options.attribute_of
    if owner is not None and len(concepts) != 1:
        raise ForgetError(
            "erase.attribute",
            f"--attribute-of is for one attribute, not for {len(concepts)}",
            "erase them one after the other: --model edited -o edited-2",
        )
    if options.robust:
        robust.refuse_others(method, owner)
    enter(observer, "drafting")
    base = checkpoint.resolve(model, config=config)
    loaded = models.load(base, device=device, dtype=dtype, observer=observer)
    made = (
        draft(loaded, concepts, options, observer)
        if owner is None
        else attribute.draft(loaded, concepts[0], owner, options, observer)
    )
    if options.robust:
        made = robust.hardened(made)
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
    offload: str = AUTO,
    force: bool = False,
    strict: bool = True,
    observer: Observer | None = None,
) -> Erased:
    """Apply a drafted recipe, and generate images before and after the edit.

    Args:
        made: the drafted recipe.
        output: the edited folder. Its `recipe.toml` is the draft.
        images: folder for the images. It must be outside `output`, because the manifest lists every
            file there.
        count: the number of prompts to generate images for, for each concept; 0: none.
        offload, strict: see `pipeline.apply.apply`.
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
            offload=offload,
            force=force,
            strict=strict,
            observer=observer,
        )
    generated: tuple[GeneratedImage, ...] = ()
    prompts = example_prompts(made.draft, count)
    if prompts:
        enter(observer, "images")
        with watch.stage("images"):
            generated = generate(
                prompts,
                model=output,
                output=images,
                compare_base=True,
                device=device,
                offload=offload,
                observer=observer,
            ).images
    return Erased(made, applied, generated, watch.report())


def example_prompts(made: Draft, count: int) -> list[str]:
    """Prompts to generate images for: `count` for each concept.

    Up to `NEAR_PROMPTS` of them are for near concepts. The prompts for erased concepts come first.
    """
    erased = []
    retained = []
    for concept in made.concepts:
        near = [
            made.evaluation_prompts[name][0]
            for name in concept.near
            if name in made.evaluation_prompts
        ]
        near_count = min(NEAR_PROMPTS, count // 2, len(near))
        # One indirect prompt, if there is one; direct prompts fill the rest.
        first = concept.direct[: max(1, count - near_count - 1)]
        prompts = dict.fromkeys([*first, *concept.indirect[:1], *concept.direct])
        erased += list(prompts)[: count - near_count]
        # The first near concept is the target. It is used only if there is no other.
        retained += near[1 : near_count + 1] or near[:near_count]
    return list(dict.fromkeys([*erased, *retained]))
