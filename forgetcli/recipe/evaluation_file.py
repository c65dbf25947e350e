"""The evaluation file of a recipe: prompts and retained concepts, kept beside the recipe.

It holds tables that a recipe can hold itself. They become part of the recipe as it is read, so
everything that reads a recipe finds them in their usual place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from forgetcli.errors import ForgetError, ModelError
from forgetcli.recipe import limits, prompt_files, toml_lines, toml_text
from forgetcli.recipe import usage as records
from forgetcli.recipe.model import Document, Evaluation, folded
from forgetcli.recipe.problems import MOST_FAULTS, Sheet, clipped, did_you_mean, faults_of
from forgetcli.recipe.toml_lines import KeyPath
from forgetcli.storage.files import read_regular

KEY: KeyPath = ("evaluation",)


@dataclass(frozen=True)
class Merged:
    """A recipe with the tables of its evaluation file.

    Attributes:
        document: the recipe with them.
        text: the text of the file by its name in the recipe; empty without a file.
        places: ``file:line`` of each key that came from the file, by its path in `document`.
        faults: of the file. With faults `document` lacks the file's tables.
    """

    document: Document
    text: dict[str, tuple[str, ...]] = field(default_factory=dict)
    places: Mapping[KeyPath, str] = field(default_factory=dict)
    faults: tuple[ForgetError, ...] = ()


def merged(document: Document, record: records.Record, sheet: Sheet, source: Path | None) -> Merged:
    """The recipe with what its ``evaluation`` file holds.

    Keys that the recipe itself has override the file's.

    Args:
        record: of a recipe that was used before; it has the file's text.
        source: the recipe's file. The evaluation file is searched for beside it.
    """
    name = document.evaluation
    if name is None:
        return Merged(document)
    folder = source.parent if source else Path()
    try:
        lines = record.evaluation.get(name)
        raw = "\n".join(lines) if lines is not None else _read(folder, name)
    except ForgetError as error:
        return Merged(document, faults=(prompt_files.unreadable(error, KEY, sheet),))
    place = str(folder / name)
    try:
        text = toml_text.decoded(raw, place)
        data = toml_text.tables_of(text, place)
    except ForgetError as error:
        return Merged(document, faults=(error,))
    lines_of_keys = toml_lines.key_lines(text.removeprefix(toml_text.BOM))
    own = Sheet(place, data, lines_of_keys)
    unusable = list(islice(limits.faults_of_values(data, own), MOST_FAULTS + 1))
    if faults := unusable or faults_of(Evaluation, data, own):
        return Merged(document, faults=tuple(faults))
    evaluation = Evaluation.model_validate(data)
    positions, faults = _positions(document, evaluation, own)
    if faults:
        return Merged(document, faults=tuple(faults))
    return Merged(
        _joined(document, evaluation, positions),
        {name: tuple(text.split("\n"))},
        _places(own, positions),
    )


def _read(folder: Path, name: str) -> bytes:
    """The bytes of the evaluation file `name`, which must lie below `folder`.

    Raises:
        ForgetError: file.outside, file.too-large, prompts.not-found.
    """
    path = prompt_files.beside(folder, name)
    try:
        return read_regular(path, limits.LARGEST_FILE)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ForgetError("prompts.not-found", f"{path}: {reason}") from error
    except ModelError as error:
        raise ForgetError(error.code, error.message) from error


def _positions(
    document: Document, evaluation: Evaluation, sheet: Sheet
) -> tuple[dict[int, int], list[ForgetError]]:
    """The position in the recipe of each concept of the file, and the faults."""
    in_recipe = {folded(each.concept): index for index, each in enumerate(document.concepts)}
    positions: dict[int, int] = {}
    faults = []
    for index, asked in enumerate(evaluation.concepts):
        path: KeyPath = ("concepts", index, "concept")
        shown = clipped(asked.concept)
        position = in_recipe.get(folded(asked.concept))
        if position is None:
            names = [each.concept for each in document.concepts]
            message = f"the recipe does not forget '{shown}'"
            hint = did_you_mean(asked.concept, names, "the recipe's [[concepts]]")
            faults.append(sheet.problem("value", path, message, hint))
        elif position in positions.values():
            message = f"'{shown}' has two tables"
            faults.append(sheet.problem("value", path, message, "put its prompts into one"))
        else:
            positions[index] = position
    return positions, faults[: MOST_FAULTS + 1]


def _joined(document: Document, evaluation: Evaluation, positions: Mapping[int, int]) -> Document:
    """`document` with the tables of `evaluation`, except for keys that it sets itself."""
    concepts = list(document.concepts)
    for index, position in positions.items():
        asked, concept = evaluation.concepts[index], concepts[position]
        added = _set_by(asked, asked.model_fields_set - concept.model_fields_set)
        concepts[position] = concept.model_copy(update=added)
    added = _set_by(evaluation, {"retain", "near"} - document.model_fields_set)
    return document.model_copy(update={**added, "concepts": tuple(concepts)})


def _set_by(tables: Any, keys: set[str]) -> dict[str, Any]:
    return {key: getattr(tables, key) for key in keys}


def _places(sheet: Sheet, positions: Mapping[int, int]) -> dict[KeyPath, str]:
    """``file:line`` by key path in the recipe, for the keys of the evaluation file.

    A recipe's own keys are searched for first, so that a path here may also exist in the recipe.
    """
    places: dict[KeyPath, str] = {}
    for path, line in sheet.lines.items():
        match path:
            case ("concepts", int(index), key, *rest):
                path = ("concepts", positions[index], key, *rest)
            case ("retain" | "near", int(_), *_):
                pass
            case _:
                continue
        places[path] = f"{sheet.name}:{line}"
    return places
