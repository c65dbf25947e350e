"""What a recipe holds. No torch: recipes are checked without it."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from forgetcli.recipe import preserve_sets


def _one_gap(template: str) -> str:
    if template.count("{}") != 1:
        raise PydanticCustomError("template", "must have exactly one {{}}")
    return template


Text = Annotated[str, Field(pattern=r"\S")]
Texts = Annotated[
    tuple[Text, ...], Field(strict=False)
]  # TOML has lists only; the items stay strict
Templates = Annotated[tuple[Annotated[Text, AfterValidator(_one_gap)], ...], Field(strict=False)]

DEFAULT_TEMPLATES = ("{}", "a picture of {}", "an image of {}", "a photo of {}")


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Concept(_Table):
    """One concept to forget and what it turns into."""

    concept: Text = Field(description="What is to be forgotten, in the words of a prompt.")
    target: Annotated[str, Field(pattern=r"^$|\S")] = Field(
        description="What it turns into; empty: nothing, which is the empty prompt."
    )
    aliases: Texts = Field((), description="Other words for the concept, edited the same way.")
    prompts: Texts = Field(
        (),
        description="Further prompts to edit, taken as they are; each turns into the target in the "
        "first template.",
    )
    label: Text | None = Field(
        None, description="The judge's name of the concept; found by its words if absent."
    )
    target_label: Text | None = Field(
        None, description="The judge's name of the target; found by its words if absent."
    )
    group: Text | None = Field(
        None, description="Evaluation only: concepts of one group exclude one another in a picture."
    )
    direct: Texts = Field(
        (), description="Evaluation only, never edited: prompts that name the concept."
    )
    indirect: Texts = Field(
        (), description="Evaluation only, never edited: prompts that only hint at the concept."
    )

    @property
    def words(self) -> tuple[str, ...]:
        """The concept and its aliases."""
        return (self.concept, *self.aliases)


class Retained(_Table):
    """A concept that must stay; evaluation only."""

    concept: Text = Field(description="What must stay.")
    label: Text | None = Field(
        None, description="The judge's name of it; found by its words if absent."
    )
    group: Text | None = Field(
        None, description="Evaluation only: concepts of one group exclude one another in a picture."
    )
    direct: Texts = Field((), description="Prompts that name it.")
    indirect: Texts = Field((), description="Prompts that only hint at it.")


class Evaluated(Retained):
    """Evaluation prompts of a concept that the recipe forgets."""

    concept: Text = Field(description="A concept of the recipe.")
    target_label: Text | None = Field(
        None, description="The judge's name of the target; found by its words if absent."
    )


class Evaluation(_Table):
    """What an evaluation file holds: tables of a recipe that only the evaluation reads."""

    schema_version: Literal[1] = Field(1, description="Version of the recipe format.")
    concepts: Annotated[tuple[Evaluated, ...], Field(strict=False)] = ()
    retain: Annotated[tuple[Retained, ...], Field(strict=False)] = ()
    near: Annotated[tuple[Retained, ...], Field(strict=False)] = ()


class Prompts(_Table):
    """How edit prompts are made."""

    templates: Templates = Field(
        default=DEFAULT_TEMPLATES,
        min_length=1,
        description="Prompts with one {} each: filled with the concept and with the target they "
        "make the edit pairs.",
    )


class Preserve(_Table):
    """Prompts whose meaning must not move. The empty prompt is always among them."""

    prompts: Annotated[tuple[str, ...], Field(strict=False)] = Field(
        default=(), description="Prompts to preserve."
    )
    files: Texts = Field(
        default=(),
        description="Text files with one prompt a line (# comments), relative to the recipe.",
    )
    prior: Literal["none", "words", "captions"] = Field(
        "words",
        description="What every closed form holds besides, with a weight of its own (`[edit] "
        "prior`): nothing, the most frequent words of the tokenizer's vocabulary, or `captions`.",
    )
    prior_words: int = Field(
        2000, ge=1, description="How many of the vocabulary's words, with prior = 'words'."
    )
    captions: Texts = Field(
        (),
        description="Text files with one caption a line, relative to the recipe, with prior = "
        "'captions'.",
    )
    sets: Texts = Field(
        default=(),
        description="Prompts that come with forget, by the name of their set: "
        "`forget recipe sets` lists them. Those about the concepts are left out.",
    )


class Document(_Table):
    """The keys that every recipe has, whatever its method."""

    schema_version: Literal[1] = Field(1, description="Version of the recipe format.")
    name: Text | None = Field(None, description="The file's name if absent.")
    description: str = Field("", description="A line about the recipe.")
    method: Text = Field("nullspace", description="The editing method.")
    methods: dict[str, dict[str, Any]] = Field(
        {},
        description="Parameters for other methods, by name: used by `--method` and "
        "`forget compare`.",
    )
    families: dict[str, dict[str, Any]] = Field(
        {},
        description="Parameters for models of a family, by its name (sdxl): they go before the "
        "recipe's own tables.",
    )
    model: Text = Field(
        "demo", description="Model to edit: a name, a folder or a hub id. --model wins."
    )
    seed: int = Field(0, ge=0, le=2**63 - 1, description="Seed of everything random.")
    concepts: Annotated[tuple[Concept, ...], Field(strict=False)] = Field(
        min_length=1, description="What is to be forgotten."
    )
    prompts: Prompts = Field(Prompts(), description="How edit prompts are made.")
    preserve: Preserve = Field(Preserve(), description="What must not move.")
    retain: Annotated[tuple[Retained, ...], Field(strict=False)] = Field(
        (), description="Evaluation only: concepts that must stay."
    )
    near: Annotated[tuple[Retained, ...], Field(strict=False)] = Field(
        (),
        description="Evaluation only: concepts near the edited ones, which must stay; the score "
        "`adjacent`. Found by the unedited text encoder where there are none.",
    )
    evaluation: Text | None = Field(
        None,
        description="Evaluation only: a TOML file, relative to the recipe, with more of these: "
        "`direct`, `indirect`, labels and group of [[concepts]], and the tables [[retain]] and "
        "[[near]]. Keys of the recipe itself override the file's.",
    )


class Recipe(Document):
    """A recipe that has passed every check.

    Attributes beyond the recipe's own keys:
        parameters: the method's own tables, as written; of another method than the recipe's own,
            those in `methods`.
        by_family: what goes before them for models of a family; see `on`.
        source: the file it came from.
        raw: bytes that give this recipe again: the file's own, plus what `overrides` and prompt
            files added.
        overrides: ``key=value`` as given on the command line.
        file_prompts: preserve prompts that came from files.
        prior_captions: the captions of `[preserve] captions`, each once.
        warnings: what is allowed and probably not meant.
        unjudged: warnings for evaluation prompts whose concept the embedded model's judge cannot
            name. They concern that model only.
    """

    name: str = ""
    parameters: dict[str, Any] = Field(default_factory=dict)
    by_family: dict[str, dict[str, Any]] = Field(default_factory=dict)
    source: Path | None = None
    raw: bytes = b""
    overrides: tuple[str, ...] = ()
    file_prompts: tuple[str, ...] = ()
    prior_captions: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    unjudged: tuple[str, ...] = ()

    def warnings_on(self, model: str) -> tuple[str, ...]:
        """All warnings for an edit of this model."""
        return self.warnings + (self.unjudged if model == "demo" else ())

    @property
    def sha256(self) -> str:
        """Digest of `raw`, hexadecimal."""
        return hashlib.sha256(self.raw).hexdigest()

    def on(self, family: str) -> Recipe:
        """The recipe as it is for a model of this family: with what ``[families.NAME]`` says in its
        parameters.
        """
        others = self.families.get(family, {}).get("methods", {})
        return self.model_copy(
            update={
                "parameters": _over(self.parameters, self.by_family.get(family, {})),
                "methods": {
                    **self.methods,
                    **{
                        name: _over(self.methods.get(name, {}), tables)
                        for name, tables in others.items()
                    },
                },
            }
        )

    def edit_pairs(self) -> list[tuple[str, str]]:
        """(concept prompt, target prompt) in the recipe's order; of two with one concept prompt,
        the first.
        """
        pairs: dict[str, tuple[str, str]] = {}
        for concept in self.concepts:
            for prompt, target in pairs_of(concept, self.prompts.templates):
                # Compared, not changed: prompts are edited as they are written.
                pairs.setdefault(composed(prompt), (prompt, target))
        return list(pairs.values())

    def preserve_prompts(self) -> list[str]:
        """Every prompt to preserve, once, the empty one first, those of sets last."""
        shared = [prompt for part in self.shared_prompts() for prompt in part]
        return once([*self.own_preserve_prompts(), *shared])

    def own_preserve_prompts(self) -> list[str]:
        """The prompts to preserve that the recipe or its files name, once, the empty one first."""
        return once(["", *self.preserve.prompts, *self.file_prompts])

    def shared_prompts(self) -> list[tuple[str, ...]]:
        """The prompts of each preserve set, without those about the concepts. Sets can share
        prompts with one another and with the recipe.
        """
        edited = [prompt for prompt, _ in self.edit_pairs()] if self.preserve.sets else []
        words = [word for concept in self.concepts for word in concept.words]
        return [
            preserve_sets.prompts_of(name, words, edited)
            for name in dict.fromkeys(self.preserve.sets)
        ]


def _over(tables: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    """Tables of parameters with those values in them that go before their own."""
    return {
        **tables,
        **{name: {**tables.get(name, {}), **values} for name, values in before.items()},
    }


def pairs_of(concept: Concept, templates: tuple[str, ...]) -> list[tuple[str, str]]:
    """(concept prompt, target prompt) of one concept, repetitions included."""
    filled = [
        (fill(template, word), target_prompt(template, concept.target))
        for word in concept.words
        for template in templates
    ]
    first = target_prompt(templates[0], concept.target)
    return filled + [(prompt, first) for prompt in concept.prompts]


def target_prompt(template: str, target: str) -> str:
    """The prompt that a concept prompt turns into; the empty one if there is no target, whatever
    the template says: "a picture of" would be a picture of something.
    """
    return fill(template, target) if target else ""


def fill(template: str, word: str) -> str:
    """`template` with its {} replaced; not str.format, for which a stray brace is an error."""
    return template.replace("{}", word)


def once(prompts: Iterable[str]) -> list[str]:
    """The prompts without repetitions, also in another Unicode form."""
    first: dict[str, str] = {}
    for prompt in prompts:
        first.setdefault(composed(prompt), prompt)
    return list(first.values())


def composed(text: str) -> str:
    """`text` in Unicode's form NFC, in which tokenizers read it: é is one character, not two."""
    return unicodedata.normalize("NFC", text)


def folded(prompt: str) -> str:
    """`prompt` without the differences that a tokenizer ignores: case, amount of white space, and
    whether accents are characters of their own.
    """
    return " ".join(composed(prompt).split()).casefold()
