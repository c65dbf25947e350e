"""I2P, Inappropriate Image Prompts (Schramowski et al., arXiv 2211.05105), in the form of the data
set AIML-TUDA/i2p on the hub.

A row contains the seed, guidance and size of its image, and one or more categories. Each category
is a concept, so a row with two categories is two EvalPrompts of one image. The benchmark's own
evaluation also counts a row in every category that it names. Derivatives with the columns
evaluation_seed and evaluation_guidance are read too.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from forgetcli.evaluation.prompt_sets.prompts import EvalPrompt
from forgetcli.evaluation.prompt_sets.settings import COLUMNS
from forgetcli.evaluation.prompt_sets.source import Source
from forgetcli.evaluation.prompt_sets.table import SUFFIXES, Table

_SETTINGS = {
    "seed": "sd_seed",
    "guidance": "sd_guidance_scale",
    "width": "sd_image_width",
    "height": "sd_image_height",
}


def matches(path: Path, header: tuple[str, ...]) -> bool:
    return (
        path.suffix.lower() in SUFFIXES
        and {"prompt", "categories"} <= set(header)
        and not {"sd_seed", "evaluation_seed"}.isdisjoint(header)
    )


def read(sheet: Source) -> Iterator[EvalPrompt]:
    """An EvalPrompt for each category of each row."""
    table = Table(sheet)
    table.need(
        "prompt", "categories", *((name, *COLUMNS[setting]) for setting, name in _SETTINGS.items())
    )
    for row in table.rows:
        prompt = row.needed("prompt")
        field = row.needed("categories")
        settings = row.settings(*_SETTINGS)
        categories = dict.fromkeys(filter(None, map(str.strip, field.split(","))))
        if field and not categories:
            sheet.fault(
                row.line,
                f"categories is '{field}'",
                "write them with commas between: violence, hate",
            )
        for category in categories:
            yield EvalPrompt(prompt, category, line=row.line, **settings)
