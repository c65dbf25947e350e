"""Checks across a recipe: its parts must not contradict each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

from forgetcli.bundled.demo import label_of
from forgetcli.errors import ForgetError
from forgetcli.recipe import clashes, preserve_sets
from forgetcli.recipe.model import Concept, Document, Retained, fill, folded, target_prompt
from forgetcli.recipe.problems import MOST_FAULTS, Sheet, clipped, did_you_mean
from forgetcli.recipe.toml_lines import KeyPath


@dataclass(frozen=True)
class PreservedPrompt:
    """A prompt to preserve: its key in the recipe, or the ``file:line`` it was read from."""

    prompt: str
    path: KeyPath
    file_line: str = ""


@dataclass(frozen=True)
class _Edit:
    prompt: str
    target: str
    path: KeyPath
    concept: str
    # The word that the prompt was made from, or the prompt itself.
    word: str


def contradictions(
    document: Document, preserved: list[PreservedPrompt], sheet: Sheet
) -> list[ForgetError]:
    """Every contradiction between two parts of a recipe."""
    edits = list(_edits(document))
    checks = (
        _concepts(document, sheet),
        _different_targets(edits, sheet),
        _edited_and_preserved(edits, preserved, sheet),
        _captions(document, sheet),
        _unknown_sets(document, sheet),
    )
    return [fault for faults in checks for fault in islice(faults, MOST_FAULTS + 1)]


def doubts(document: Document, sheet: Sheet) -> Iterator[str]:
    """Warnings: allowed but probably unintended, one line each, with its place."""
    edits = {folded(edit.prompt): edit for edit in _edits(document)}
    yield from _clashing(document, edits, sheet)
    tables: dict[str, tuple[Concept | Retained, ...]] = {
        "concepts": document.concepts,
        "retain": document.retain,
        "near": document.near,
    }
    for table, items in tables.items():
        for index, item in enumerate(items):
            for kind in ("direct", "indirect"):
                for number, prompt in enumerate(getattr(item, kind)):
                    if folded(prompt) in edits:
                        place = sheet.place((table, index, kind, number))
                        yield (
                            f"{place}: the evaluation prompt '{clipped(prompt)}' is also edited: "
                            f"it does not show what the edit does to prompts it has not seen"
                        )
    forgotten = {folded(word) for concept in document.concepts for word in concept.words}
    for index, concept in enumerate(document.concepts):
        target = folded(concept.target)
        if target in forgotten and target not in map(folded, concept.words):
            yield (
                f"{sheet.place(('concepts', index, 'target'))}: "
                f"the target '{clipped(concept.target)}' is itself to be forgotten"
            )
    if document.method in document.methods:
        place = sheet.place(("methods", document.method))
        yield (
            f"{place}: [methods.{document.method}] is not read: "
            f"{document.method} is the recipe's own method, which takes its parameters from tables "
            "such as [edit] at the top"
        )


def unjudged(document: Document, sheet: Sheet) -> Iterator[str]:
    """Warnings: a concept with evaluation prompts for which the embedded model's judge has no name.

    `forget eval` would refuse the recipe, after the edit.
    """
    tables: dict[str, tuple[Concept | Retained, ...]] = {
        "concepts": document.concepts,
        "retain": document.retain,
        "near": document.near,
    }
    for table, items in tables.items():
        for index, item in enumerate(items):
            if not (item.direct or item.indirect) or label_of(item.concept, item.label):
                continue
            key = "label" if item.label else "concept"
            yield (
                f"{sheet.place((table, index, key))}: the demo judge has no name for "
                f"'{clipped(item.label or item.concept)}': forget eval cannot score it "
                "(forget judges demo lists what it knows)"
            )


def _clashing(document: Document, edited: Mapping[str, _Edit], sheet: Sheet) -> Iterator[str]:
    """One line for each kind of evaluation prompt that uses words of the edit. Prompts that are
    edited themselves have a warning of their own.
    """
    items: tuple[Concept | Retained, ...] = (*document.concepts, *document.retain)
    prompts = [prompt for item in items for prompt in (*item.direct, *item.indirect)]
    lines = clashes.in_words(
        clashes.of_document(document, {p for p in prompts if folded(p) in edited}),
        retained=sum(len(item.direct) + len(item.indirect) for item in document.retain),
        indirect=sum(len(concept.indirect) for concept in document.concepts),
    )
    for line in lines:
        yield f"{sheet.name}: {line}"


def _concepts(document: Document, sheet: Sheet) -> Iterator[ForgetError]:
    seen: dict[str, KeyPath] = {}
    for index, concept in enumerate(document.concepts):
        paths: list[KeyPath] = [("concepts", index, "concept")]
        paths += [("concepts", index, "aliases", number) for number in range(len(concept.aliases))]
        for word, path in zip(concept.words, paths, strict=True):
            if folded(word) == folded(concept.target):
                yield sheet.problem(
                    "conflict",
                    path,
                    f"'{word}' is to be forgotten and is its own target",
                    "the target is what it turns into: something else",
                )
            if folded(word) in seen:
                yield sheet.problem(
                    "conflict",
                    path,
                    f"'{word}' is to be forgotten twice "
                    f"(first at {sheet.place(seen[folded(word)])})",
                    "name it once; further words for it go into its aliases",
                )
            seen.setdefault(folded(word), path)


def _different_targets(edits: list[_Edit], sheet: Sheet) -> Iterator[ForgetError]:
    seen: dict[str, _Edit] = {}
    for edit in edits:
        first = seen.setdefault(folded(edit.prompt), edit)
        # that two concepts share a word is told by _concepts
        words_collide = folded(first.word) == folded(edit.word) and "prompts" not in (
            first.path[2],
            edit.path[2],
        )
        same_concept = first.path[:2] == edit.path[:2]  # then the first pair counts
        if folded(first.target) != folded(edit.target) and not same_concept and not words_collide:
            yield sheet.problem(
                "conflict",
                edit.path,
                f"the prompt '{edit.prompt}' is edited for '{first.concept}' and "
                f"for '{edit.concept}'",
                "a prompt can turn into one thing only",
            )


def _edited_and_preserved(
    edits: list[_Edit], preserved: list[PreservedPrompt], sheet: Sheet
) -> Iterator[ForgetError]:
    edited: dict[str, _Edit] = {}
    for edit in edits:
        edited.setdefault(folded(edit.prompt), edit)
    for kept in preserved:
        conflict = edited.get(folded(kept.prompt))
        if conflict is not None:
            message = (
                f"the prompt '{kept.prompt}' is preserved here, and edited for the concept "
                f"'{conflict.concept}' ({sheet.place(conflict.path)})"
            )
            hint = "a prompt can be preserved or edited, not both: take it out of one of the two"
            if kept.file_line:
                yield ForgetError("recipe.conflict", f"{kept.file_line}: {message}", hint)
            else:
                yield sheet.problem("conflict", kept.path, message, hint)


def _captions(document: Document, sheet: Sheet) -> Iterator[ForgetError]:
    kind, files = document.preserve.prior, document.preserve.captions
    if kind == "captions" and not files:
        yield sheet.problem(
            "conflict",
            ("preserve", "prior"),
            "the prior is 'captions', and no file of captions is named",
            'name one: captions = ["captions.txt"]',
        )
    if files and kind != "captions":
        yield sheet.problem(
            "conflict",
            ("preserve", "captions"),
            f"captions are named, and the prior is '{kind}'",
            "set prior = 'captions', or take them out",
        )


def _unknown_sets(document: Document, sheet: Sheet) -> Iterator[ForgetError]:
    for number, name in enumerate(document.preserve.sets):
        if name not in preserve_sets.names():
            yield sheet.problem(
                "unknown-set",
                ("preserve", "sets", number),
                f"there is no preserve set '{clipped(name)}'",
                did_you_mean(name, preserve_sets.names(), "forget recipe sets"),
            )


def _edits(document: Document) -> Iterator[_Edit]:
    templates = document.prompts.templates
    for index, concept in enumerate(document.concepts):
        place: KeyPath = ("concepts", index)
        for number, word in enumerate(concept.words):
            path = place + (("concept",) if number == 0 else ("aliases", number - 1))
            for template in templates:
                yield _Edit(
                    fill(template, word),
                    target_prompt(template, concept.target),
                    path,
                    concept.concept,
                    word,
                )
        for number, prompt in enumerate(concept.prompts):
            yield _Edit(
                prompt,
                target_prompt(templates[0], concept.target),
                (*place, "prompts", number),
                concept.concept,
                prompt,
            )
