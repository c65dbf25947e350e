"""Record of a recipe's use: comments at its end, so that the recipe file alone repeats the run.

The result of ``--set`` or of prompt files does not follow from the recipe's own bytes. The bytes in
the output are therefore the original bytes plus

    #: added by forget when this recipe was used; read again as part of it
    #:method uce
    #:set refine.steps = 6
    #:file "preserve.txt"
    #:line "a monet painting of a cat"

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
    """

    overrides: tuple[str, ...] = ()
    files: dict[str, tuple[str, ...]] = field(default_factory=dict)
    method: str | None = None


def split(text: str) -> tuple[str, Record]:
    """A recipe's own text and the record behind it, which is empty for most recipes.

    Raises:
        ValueError, KeyError: the record is damaged.
    """
    body, found, block = text.partition(f"\n{_TITLE}\n")
    # Not splitlines, which also breaks at U+2028.
    lines = [line for line in block.split("\n") if line.strip()]
    if not found or any(not line.startswith("#:") for line in lines):
        return text, Record()
    overrides: list[str] = []
    files: dict[str, list[str]] = {}
    name, method = "", None
    for line in lines:
        kind, _, content = line.removeprefix("#:").partition(" ")
        if kind == "set":
            overrides.append(content)
        elif kind == "method":
            method = content
        elif kind == "file":
            name = _string(content)
            files[name] = []
        elif kind == "line":
            files[name].append(_string(content))
    prompts = {name: tuple(lines) for name, lines in files.items()}
    return body, Record(tuple(overrides), prompts, method)


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
    for name, prompts in record.files.items():
        lines += [
            f"#:file {json.dumps(name)}",
            *(f"#:line {json.dumps(prompt)}" for prompt in prompts),
        ]
    return "\n".join([body, _TITLE, *lines, ""])
