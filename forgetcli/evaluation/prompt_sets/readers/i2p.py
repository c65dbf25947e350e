"""I2P, Inappropriate Image Prompts (Schramowski et al., arXiv 2211.05105), as AIML-TUDA/i2p has it
on the hub.

A row names the seed, guidance and size that its picture is drawn with, and one or more categories.
Each category is a
concept of its own, so a row with two is two EvalPrompts of one picture: the benchmark's own
evaluation, too, counts a
row in every category that it names. Derivatives with the columns evaluation_seed and
evaluation_guidance are read too.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from forgetcli.evaluation.prompt_sets import EvalPrompt, Sheet
from forgetcli.evaluation.prompt_sets.settings import COLUMNS
from forgetcli.evaluation.prompt_sets.sheet import TABLES

_SETTINGS = {
    "seed": "sd_seed",
    "guidance": "sd_guidance_scale",
    "width": "sd_image_width",
    "height": "sd_image_height",
}


def matches(path: Path, header: tuple[str, ...]) -> bool:
    return (
        path.suffix.lower() in TABLES
        and {"prompt", "categories"} <= set(header)
        and not {"sd_seed", "evaluation_seed"}.isdisjoint(header)
    )


def read(sheet: Sheet) -> Iterator[EvalPrompt]:
    """An EvalPrompt for each category of each row."""
    table = sheet.table
    table.need(
        "prompt", "categories", *((name, *COLUMNS[setting]) for setting, name in _SETTINGS.items())
    )
    for row in table.rows:
        prompt, field, settings = (
            row.needed("prompt"),
            row.needed("categories"),
            row.settings(*_SETTINGS),
        )
        categories = dict.fromkeys(filter(None, map(str.strip, field.split(","))))
        if field and not categories:
            sheet.fault(
                row.line,
                f"categories is '{field}'",
                "write them with commas between: violence, hate",
            )
        for category in categories:
            yield EvalPrompt(prompt, category, line=row.line, **settings)
