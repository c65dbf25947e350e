"""UnlearnCanvas (Zhang et al., arXiv 2402.11846): a picture of every object in every style.

A prompt asks for two concepts, so each is two EvalPrompts of one picture: the style, in the group
``style``, and the
object, in the group ``object``. Styles and objects stand in two lists, of a TOML file or of a CSV's
columns.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from forgetcli.evaluation.prompt_sets import EvalPrompt, Sheet
from forgetcli.evaluation.prompt_sets.settings import KEYS
from forgetcli.evaluation.prompt_sets.sheet import TABLES

LISTS = ("styles", "objects")
TEMPLATE = "A {object} image in {style} style."  # that of the benchmark's own sampling
_GAP = re.compile(r"\{(style|object)\}")


def matches(path: Path, header: tuple[str, ...]) -> bool:
    return (
        path.suffix.lower() in (*TABLES, ".toml")
        and bool(set(LISTS) & set(header))
        and "prompt" not in header
    )


def read(sheet: Sheet) -> Iterator[EvalPrompt]:
    """Style by style, each with every object. In prompts an underscore of a name is a space, as in
    the benchmark.
    """
    in_toml = sheet.path.suffix.lower() == ".toml"
    styles, objects, template, settings = _from_toml(sheet) if in_toml else _from_csv(sheet)
    for style_line, style in styles:
        for object_line, thing in objects:
            words = {"style": style.replace("_", " "), "object": thing.replace("_", " ")}
            prompt = _GAP.sub(lambda gap: words[gap[1]], template)
            yield EvalPrompt(prompt, style, "direct", "style", line=style_line, **settings)
            yield EvalPrompt(prompt, thing, "direct", "object", line=object_line, **settings)


def _from_toml(
    sheet: Sheet,
) -> tuple[list[tuple[int, str]], list[tuple[int, str]], str, dict[str, Any]]:
    document = sheet.document
    document.known((), document.data, (*KEYS, *LISTS, "template"))
    for key in LISTS:
        if document.data.get(key, []) == []:
            document.fault((key,), f"there are no {key}", f'list them: {key} = ["…", "…"]', "empty")
    template = document.text((), document.data, "template") or TEMPLATE
    if sorted(_GAP.findall(template)) != ["object", "style"]:
        hint = f"it must have one {{style}} and one {{object}}: {TEMPLATE}"
        document.fault(("template",), f"template is '{template}'", hint)
    styles, objects = (document.texts((), document.data, key) for key in LISTS)
    return styles, objects, template, document.settings()


def _from_csv(
    sheet: Sheet,
) -> tuple[list[tuple[int, str]], list[tuple[int, str]], str, dict[str, Any]]:
    table = sheet.table
    table.need(*LISTS)
    styles, objects = (
        [(row.line, row.text(key)) for row in table.rows if row.text(key)] for key in LISTS
    )
    for key, items in zip(LISTS, (styles, objects), strict=True):
        if key in table.columns and not items:
            sheet.fault(
                table.line,
                f"there are no {key}",
                f"list them in the column '{key}', one a row",
                "empty",
            )
    return styles, objects, TEMPLATE, {}
