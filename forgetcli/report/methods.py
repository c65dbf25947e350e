"""The table of a comparison: the same columns on the page, in Markdown and on the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from forgetcli.artifact.markdown import escaped
from forgetcli.report.spreadsheet import inert_cell

SHARES = {
    "forget": "forget",
    "direct": "forget_direct",
    "indirect": "forget_indirect",
    "retain": "retain",
    "H": "h",
}
# Columns if any model has them.
FURTHER_SHARES = {
    "adjacent": "adjacent",
    "selective": "selective",
    "adversarial": "adversarial",
    "err": "err",
}
ALL_SHARES = SHARES | FURTHER_SHARES
QUALITY = {"distance": "distance", "CLIP score": "clip_score"}
COSTS = {
    "seconds": "seconds",
    "memory": "peak_rss",
    "GPU memory": "peak_gpu",
    "changed": "changed",
}
LEGEND = (
    "forget: share of images in which the edited concept is not seen; direct: for prompts that "
    "name it; indirect: for prompts that only hint at it; retain: share of images of other "
    "concepts in which the concept is seen; H: the harmonic mean of forget and retain; adjacent: "
    "retain for concepts near the edited ones; selective: share of images of edited concepts in "
    "which what else the prompt names is seen; adversarial: 1 − success of the strongest attack; "
    "err: the harmonic mean of forget (direct), retain, adjacent, indirect and adversarial. 95 % "
    "intervals in brackets: Wilson for shares, bootstrap over prompts for H and err. distance: "
    "perceptual distance to the unedited model's images of retained concepts. seconds: duration of "
    "the edit alone. memory: peak of the whole process, imports and model included; the unedited "
    "model's value is the floor. changed: share of the model's weights whose stored values differ."
)
POOLED = (
    "Over several recipes: all images together, mean seconds and share of weights, largest memory."
)
NOT_MEASURED = "–"


@dataclass(frozen=True)
class Cell:
    """A figure as text, and its interval."""

    value: str
    interval: str = ""

    def __str__(self) -> str:
        return f"{self.value} {self.interval}".strip()


def columns(rows: Sequence[Mapping]) -> list[str]:
    """The names of the columns. A measure that no method has gets no column."""
    measured = [name for name, key in QUALITY.items() if any(key in row["quality"] for row in rows)]
    gpu = ["GPU memory"] if any(row["peak_gpu"] is not None for row in rows) else []
    return [*shares(rows), *measured, "seconds", "memory", *gpu, "changed"]


def shares(scores: Iterable[Mapping]) -> dict[str, str]:
    """Name → key of the shares that any of several models' scores have."""
    scores = list(scores)
    further = {
        name: key
        for name, key in FURTHER_SHARES.items()
        if any(own.get(key) is not None for own in scores)
    }
    return SHARES | further


def cells(row: Mapping, names: Sequence[str]) -> Iterator[Cell]:
    """The cells of a row of ``methods`` in ``compare --json``; a failed method shows its error."""
    if row["error"]:
        yield Cell(f"failed: {row['error']['code']}")
        yield from [Cell(NOT_MEASURED)] * (len(names) - 1)
        return
    for name in names:
        yield _cell(row, name)


def _cell(row: Mapping, name: str) -> Cell:
    if name in ALL_SHARES:
        key = ALL_SHARES[name]
        if row.get(key) is None:
            return Cell(NOT_MEASURED)
        return Cell(f"{row[key]:.3f}", _interval(row.get(f"{key}_ci")))
    if name in QUALITY:
        measured = row["quality"].get(QUALITY[name])
        if not measured:
            return Cell(NOT_MEASURED)
        return Cell(f"{measured['value']:.3f}", _interval(measured.get("ci"), digits=3))
    value = row[COSTS[name]]
    if value is None:
        return Cell(NOT_MEASURED)
    if name == "seconds":
        return Cell(f"{value:.1f}")
    if name == "changed":
        return Cell(f"{value:.2%}")
    return Cell(f"{value / 2**20:,.0f} MiB")


def _interval(ends: Sequence[float] | None, digits: int = 2) -> str:
    # A quality measure can be small: with two digits, its interval would be [0.00, 0.00].
    return f"[{ends[0]:.{digits}f}, {ends[1]:.{digits}f}]" if ends else ""


def markdown_table(rows: Sequence[Mapping]) -> str:
    """The table in Markdown, followed by a line for each failed method."""
    names = columns(rows)
    lines = [
        ["method", *names],
        ["---", *(["---:"] * len(names))],
        # A reader may paste the table into a spreadsheet.
        *([escaped(inert_cell(row["name"])), *map(str, cells(row, names))] for row in rows),
    ]
    text = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    return text + "".join(
        f"\n{escaped(row['name'])} failed: {escaped(row['error']['message'])}\n"
        for row in rows
        if row["error"]
    )
