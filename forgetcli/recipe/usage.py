"""Record of a recipe's use: comments at its end, so that the recipe file alone repeats the run.

The result of ``--set`` or of prompt files does not follow from the recipe's own bytes. The bytes in
the output are therefore the original bytes plus

    #: added by forget when this recipe was used; read again as part of it
    #:method uce
    #:set refine.steps = 6
    #:file "preserve.txt"
    #:line "a monet painting of a cat"
    #:evaluation "evaluation.toml"
    #:line "[[retain]]"

and reading them gives the same recipe again, elsewhere and without the files.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from forgetcli.storage.json import decode

_TITLE = "#: added by forget when this recipe was used; read again as part of it"


@dataclass(frozen=True)
class Record:
    """The additions of the command line and of prompt files.

    Attributes:
        overrides: arguments of ``--set``.
        files: prompts of each prompt file of the recipe.
        method: the method of ``--method``, or None.
        evaluation: the lines of the recipe's evaluation file by its name; at most one file.
    """

    overrides: tuple[str, ...] = ()
    files: dict[str, tuple[str, ...]] = field(default_factory=dict)
    method: str | None = None
    evaluation: dict[str, tuple[str, ...]] = field(default_factory=dict)


def split(text: str) -> tuple[str, Record]:
    """A recipe's own text and the record behind it, which is empty for most recipes.

    Raises:
        ValueError: the record is damaged.
    """
    body, found, block = text.partition(f"\n{_TITLE}\n")
    # Not splitlines, which also breaks at U+2028.
    lines = [line for line in block.split("\n") if line.strip()]
    if not found or any(not line.startswith("#:") for line in lines):
        return text, Record()
    overrides: list[str] = []
    files: dict[str, dict[str, list[str]]] = {"file": {}, "evaluation": {}}
    current: list[str] | None = None
    method = None
    for line in lines:
        kind, _, content = line.removeprefix("#:").partition(" ")
        if kind == "set":
            overrides.append(content)
        elif kind == "method":
            method = content
        elif kind in files:
            current = files[kind][_string(content)] = []
        elif kind == "line":
            if current is None:
                raise ValueError("a line of no file")
            current.append(_string(content))
    of_files, of_evaluation = (
        {name: tuple(lines) for name, lines in files[kind].items()} for kind in files
    )
    return body, Record(tuple(overrides), of_files, method, of_evaluation)


def _string(content: str) -> str:
    text = decode(content.encode())
    if not isinstance(text, str):
        raise ValueError("not a string")
    return text


def join(body: str, record: Record) -> str:
    """The inverse of `split`."""
    if record == Record():
        return body
    lines = [f"#:method {record.method}"] if record.method else []
    lines += [f"#:set {override}" for override in record.overrides]
    for kind, files in (("file", record.files), ("evaluation", record.evaluation)):
        for name, texts in files.items():
            lines += [
                f"#:{kind} {json.dumps(name)}",
                *(f"#:line {json.dumps(text)}" for text in texts),
            ]
    return "\n".join([body, _TITLE, *lines, ""])
