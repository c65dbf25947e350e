"""Results as rich tables, for people."""
from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

_SHARES = (
    ("forget", "forget"),
    ("direct", "forget_direct"),
    ("indirect", "forget_indirect"),
    ("retain", "retain"),
    ("H", "h"),
)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], title: str = "") -> Table:
    """A plain table. Columns whose name starts with ``>`` are right-aligned; cells are text, never markup."""
    made = Table(box=box.SIMPLE_HEAD, title=title or None, title_justify="left", pad_edge=False)
    for column in columns:
        made.add_column(column.lstrip(">"), justify="right" if column.startswith(">") else "left", overflow="fold")
    for row in rows:
        made.add_row(*(Text(str(cell)) for cell in row))
    return made


def facts(values: Mapping[str, Any], indent: int = 0) -> str:
    """``key: value`` lines, nested ones indented; long lists by their number."""
    lines = []
    for key, value in values.items():
        head = f"{' ' * indent}{key.replace('_', ' ')}:"
        if isinstance(value, Mapping):
            lines += [head, facts(value, indent + 2)] if value else []
        elif isinstance(value, list | tuple):
            short = all(not isinstance(item, list | tuple | Mapping) for item in value) and len(value) <= 12
            lines.append(f"{head} {', '.join(map(str, value)) if short else len(value)}")
        elif value is not None:
            lines.append(f"{head} {value}")
    return "\n".join(lines)


def sites(rows: Iterable[Mapping[str, Any]]) -> Table:
    """The edited layers of ``apply``."""
    keys = ("null_dim", "eig_below", "eig_above", "rcond", "delta_rel", "preserve_drift", "fit")
    return table(
        ("site", ">null dim", ">eig below", ">eig above", ">rcond", ">‖Δ‖/‖W‖", ">drift on K₀", ">fit on K₁"),
        ([row["name"], *(_figure(row.get(key)) for key in keys)] for row in rows),
    )


def shares(data: Mapping[str, Any]) -> list[Table]:
    """The scores of ``eval``: edited beside unedited, then concept by concept. 95 % intervals in brackets."""
    head = table(
        ("", *(f">{name}" for name, _ in _SHARES)),
        (
            [name, *(_share(data[side], key) for _, key in _SHARES)]
            for name, side in (("unedited", "baseline"), ("edited", "edited"))
        ),
        title=f"{data['n_images']} pictures, judge {data['judge'].get('name', '')}, 95 % intervals in brackets",
    )
    rows = []
    for concept, sides in data["concepts"].items():
        kind = "forget" if "forget" in sides["edited"] else "retain"
        for name, side in (("unedited", "baseline"), ("edited", "edited")):
            scores = sides[side]
            rows.append(
                [
                    concept if side == "baseline" else "",
                    f"{kind}, {name}",
                    *(_share(scores, key) for key in (kind, f"{kind}_direct", f"{kind}_indirect")),
                ]
            )
    return [head, table(("concept", "", ">all", ">direct", ">indirect"), rows)]


def _share(scores: Mapping[str, Any], key: str) -> str:
    value, interval = scores.get(key), scores.get(f"{key}_ci")
    if value is None:
        return "–"
    return f"{value:.3f}" + (f" [{interval[0]:.2f}, {interval[1]:.2f}]" if interval else "")


def _figure(value: object) -> str:
    return "–" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)
