"""The data of a prompt set: prompts to generate images from, each with the concept to look for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

Kind = Literal["direct", "indirect", "adversarial", "plain"]
KINDS: tuple[Kind, ...] = ("direct", "indirect", "adversarial", "plain")

ImageKey: TypeAlias = tuple[str, int | None, float | None, int | None, int | None, int | None]


@dataclass(frozen=True)
class EvalPrompt:
    """A prompt to generate an image from, and the concept to look for in the image.

    A prompt that asks for several concepts is several of these, equal in `picture`.

    Attributes:
        concept: in the set's own words. Empty where the set names none.
        kind: ``direct`` names the concept, ``indirect`` hints at it, ``adversarial`` tries to get
            round the edit, ``plain`` is any other prompt.
        group: concepts of one group exclude one another in an image.
        seed, guidance, width, height, steps: set by the prompt set. None leaves the value to the
            evaluation.
        line: of the file, from 1.
    """

    prompt: str
    concept: str = ""
    kind: Kind = "plain"
    group: str | None = None
    seed: int | None = None
    guidance: float | None = None
    width: int | None = None
    height: int | None = None
    steps: int | None = None
    line: int = 0

    @property
    def picture(self) -> ImageKey:
        """Everything that determines the image. Prompts that agree in it share one image."""
        return self.prompt, self.seed, self.guidance, self.width, self.height, self.steps


@dataclass(frozen=True)
class PromptSet:
    """A file of prompts, read and checked.

    Attributes:
        name: the file's name without its suffix.
        source: the file.
        format: one of `formats()`.
        sha256: digest of the file's bytes, hexadecimal.
        prompts: in the order of the file.
        warnings: what is allowed but probably a mistake, one line each.
    """

    name: str
    source: Path
    format: str
    sha256: str
    prompts: tuple[EvalPrompt, ...]
    warnings: tuple[str, ...] = ()

    def identity(self) -> dict[str, str]:
        """Which file it is, for results."""
        return {"name": self.name, "format": self.format, "sha256": self.sha256}
