"""The text of a drafted recipe: short and commented, so that the user can change it."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable

from forgetcli.pipeline.drafting.draft import Draft, DraftedConcept

WIDTH = 110


def recipe_text(draft: Draft, *, model: str, method: str = "nullspace", seed: int = 0) -> str:
    """The TOML of a draft.

    Args:
        model: the value of ``--model``.
    """
    forgotten = ", ".join(each.concept for each in draft.concepts)
    description = draft.description or f"{forgotten} is forgotten"
    lines = [
        "# Drafted by `forget erase`. Change what you like, then:  forget apply THIS_FILE",
        "schema_version = 1",
        f"description = {_quoted(description)}",
        f"method = {_quoted(method)}",
        f"model = {_quoted(model)}",
        f"seed = {seed}",
    ]
    for each in draft.concepts:
        lines += ["", *_concept(draft, each)]
    lines += [
        "",
        "[prompts]                # each is filled with the concept, its aliases, and the target",
        *_list("templates", draft.templates),
        "",
        "[preserve]               # near concepts, and prompts that come with forget",
        *([f"sets = {json.dumps(draft.sets)}"] if draft.sets else []),
        *_list("prompts", draft.preserve_prompts),
    ]
    for table, values in draft.nullspace.items() if method == "nullspace" else ():
        lines += ["", f"[{table}]", *(f"{key} = {_quoted(value)}" for key, value in values.items())]
    for name, prompts in draft.evaluation_prompts.items():
        lines.append("")
        # The comment precedes the first table if a list of several lines ends above it.
        if lines[-2].startswith("]"):
            lines.append("# For evaluation only: near concepts that must stay.")
        lines += [
            "[[retain]]",
            f"concept = {_quoted(name)}",
            f"direct = {_quoted(prompts)}",
        ]
    return "\n".join([*lines, ""])


def _concept(draft: Draft, each: DraftedConcept) -> list[str]:
    why = {
        choice.key: choice.why
        for choice in draft.choices
        if choice.concept and each.concept.endswith(choice.concept)
    }
    lines = [
        f"[[concepts]]             # {each.kind.name}: {why.get('kind', '')}",
        f"concept = {_quoted(each.concept)}",
        f"target = {_quoted(each.target)}   # {why.get('target', '')}",
        *_list("aliases", each.aliases),
        *([f"label = {_quoted(each.label)}"] if each.label else []),
    ]
    if each.direct:
        lines += ["# For evaluation only: never edited.", *_list("direct", each.direct)]
    return lines + (_list("indirect", each.indirect) if each.indirect else [])


def _list(key: str, values: Iterable[str]) -> list[str]:
    """``key = [...]``, on one line if it fits."""
    quoted = [_quoted(value) for value in values]
    line = f"{key} = [{', '.join(quoted)}]"
    if len(line) <= WIDTH:
        return [line]
    # Spaces within a prompt must not become line breaks.
    joined = ", ".join(text.replace(" ", "\0") for text in quoted)
    wrapped = textwrap.wrap(joined, WIDTH - 4, break_long_words=False, break_on_hyphens=False)
    return [f"{key} = [", *(f"  {part}".replace("\0", " ") for part in wrapped), "]"]


def _quoted(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
