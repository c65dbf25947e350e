"""What comes next after a command that ended well: one table, one line a command.

The line is a command that can be copied. Words in capitals stand for something that only the user
knows.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Step:
    """A next step.

    Attributes:
        line: the command. ``{name}`` is a value of the call; a word that is only ``{name}`` is left
            out if the value is None, and becomes several words if it is a list.
        before: what the user does first, as the beginning of the sentence.
    """

    line: str
    before: str = ""


# The command, or the command and what was done, as the caller names it.
STEPS = {
    "erase": Step("forget eval {output}"),
    "apply": Step("forget generate {prompt} --model {output} --compare-base"),
    "apply --delta": Step("forget verify {output}"),
    "apply --from": Step("forget eval {output}"),
    "generate": Step("forget eval {model}"),
    "eval": Step("forget attack {folder}"),
    "eval --attack-results": Step(
        "forget card {folder} --evidence --eval {results} --attack-results {attacks}"
    ),
    "attack": Step("forget card {folder} --evidence --attack-results {results}"),
    "compare": Step("forget apply {recipe} --method {method} {model}"),
    "tune": Step("forget apply {recipe} {model}"),
    "verify": Step("forget eval {folder}"),
    "verify ORG/NAME": Step("forget apply --from {repo} -o again"),
    "revert": Step("forget eval {output}"),
    "export --format delta": Step("forget apply --delta {output} -o restored"),
    "export --format cyclonedx": Step("forget card {folder} --evidence"),
    "push": Step("forget inspect {repo}"),
    "card": Step("forget eval {folder}"),
    "card --eval": Step("forget push {folder} ORG/NAME"),
    "card --evidence": Step("forget {measure} {folder}"),
    "sign": Step("forget verify {folder} --key PUBLIC.pem"),
    "inspect": Step("forget erase CONCEPT --model {model}"),
    "inspect --recipe": Step("forget apply {recipe} --model {model}"),
    "inspect of an edited model": Step("forget log {model}"),
    "log": Step("forget revert {folder} --edit {edit} -o {output}"),
    "demo": Step("forget erase penguin"),
    "models": Step("forget inspect {model}"),
    "judges": Step("forget judges {judge}"),
    "judges NAME": Step("forget eval --judge {judge}"),
    "recipe init": Step("forget recipe validate {path}", before="edit it, then"),
    "recipe validate": Step("forget apply {recipe}"),
    "recipe show": Step("forget apply {recipe}"),
    "recipe ls": Step("forget recipe show {recipe}"),
    "cache ls": Step("forget cache prune --older-than 30"),
}

# Commands after which there is nothing that most people do next, and why.
LAST = {
    "env": "it is for a bug report",
    "recipe schema": "an editor reads it",
    "recipe sets": "a recipe names them",
    "cache dir": "a script reads it",
    "cache prune": "there is nothing left to do",
}

Value = str | Path | int | Sequence[str] | None


def line(name: str, **values: Value) -> str:
    """The next step after `name`, with the values of the call, quoted for a shell."""
    step = STEPS[name]
    words: list[str] = []
    for word in step.line.split():
        if word.startswith("{"):
            value = values[word[1:-1]]
            if isinstance(value, Sequence) and not isinstance(value, str):
                words += value
            elif value is not None:
                words.append(str(value))
        else:
            words.append(word)
    command = shlex.join(words)
    return f"{step.before}: {command}" if step.before else command
