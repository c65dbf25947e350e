"""Results as rich tables, for people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from forgetcli.cli.visible import visible
from forgetcli.wording import counted

if TYPE_CHECKING:
    from rich.table import Table

_SHARES = (
    ("forget", "forget"),
    ("direct", "forget_direct"),
    ("indirect", "forget_indirect"),
    ("retain", "retain"),
    ("H", "h"),
)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], title: str = "") -> Table:
    """A plain table; a column whose name starts with ``>`` is right-aligned.

    Titles, names and cells are text, never markup. Escaped here already, so that columns fit.
    """
    # Imported here: a command that prints no table must not wait for rich.
    from rich import box
    from rich.table import Table
    from rich.text import Text

    result = Table(
        box=box.SIMPLE_HEAD,
        title=Text(visible(title), style="table.title") if title else None,
        title_justify="left",
        pad_edge=False,
    )
    for column in columns:
        result.add_column(
            Text(visible(column.lstrip(">"), keep="")),
            justify="right" if column.startswith(">") else "left",
            overflow="fold",
        )
    for row in rows:
        result.add_row(*(Text(visible(str(cell), keep="")) for cell in row))
    return result


def facts(values: Mapping[str, Any], indent: int = 0) -> str:
    """``key: value`` lines, nested ones indented; of a long list only its length."""
    lines = []
    for key, value in values.items():
        head = f"{' ' * indent}{key.replace('_', ' ')}:"
        if isinstance(value, Mapping):
            lines += [head, facts(value, indent + 2)] if value else []
        elif isinstance(value, list | tuple):
            short = (
                all(not isinstance(item, list | tuple | Mapping) for item in value)
                and len(value) <= 12
            )
            text = ", ".join(map(str, value)) if short else str(len(value))
            lines.append(f"{head} {visible(text, keep='')}")
        elif value is not None:
            lines.append(f"{head} {visible(str(value), keep='')}")
    return "\n".join(lines)


def plan(data: Mapping[str, Any]) -> list[str | Table]:
    """The output of ``apply --dry-run``: the job, its sites with cached moments, and estimates."""
    job = {key: value for key, value in data.items() if key not in ("sites", "estimates")}
    parts: list[str | Table] = [facts({**job, "seconds": data["seconds"]["total"]})]
    if data.get("sites"):
        rows = [
            [
                s["name"],
                "×".join(map(str, s["shape"])),
                s["dtype"],
                "cached" if s["cached"] else "to be computed",
            ]
            for s in data["sites"]
        ]
        parts.append(table(("site", ">shape", "stored as", "second moments"), rows))
    if data.get("estimates"):
        parts.append(estimates(data["estimates"]))
    return parts


def estimates(data: Mapping[str, Any]) -> str:
    """Estimated time, memory and disk."""
    time = memory = "unknown for this method or model"
    if data["seconds"] is not None:
        time = f"about {data['seconds']:.0f} s"
    if data["memory_bytes"] is not None:
        memory = f"about {size(data['memory_bytes'])}"
    disk = (
        f"up to {size(data['disk_bytes'])}, next to none where files can be shared; "
        f"cache {size(data['cache_bytes'])}"
    )
    lines = {
        "time": time,
        "memory": memory,
        "disk": disk,
        "on": f"{data['device']}, {data['dtype']}",
        "basis": data["basis"],
    }
    return facts({"estimates": lines})


def size(count: float) -> str:
    """Bytes for people: 2.7 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def sites(rows: Iterable[Mapping[str, Any]]) -> Table:
    """The edited layers of ``apply``."""
    keys = ("null_dim", "eig_below", "eig_above", "rcond", "delta_rel", "preserve_drift", "fit")
    return table(
        (
            "site",
            ">null dim",
            ">eig below",
            ">eig above",
            ">rcond",
            ">‖Δ‖/‖W‖",
            ">drift on K₀",
            ">fit on K₁",
        ),
        ([row["name"], *(_figure(row.get(key)) for key in keys)] for row in rows),
    )


def shares(data: Mapping[str, Any]) -> list[Table]:
    """The scores of ``eval``: each edited model beside the unedited one, then concept by concept.
    95 % intervals in brackets.
    """
    models = data["models"]
    head = table(
        ("", *(f">{name}" for name, _ in _SHARES)),
        (
            [name, *(_share(scores, key) for _, key in _SHARES)]
            for name, scores in [
                ("unedited", data["baseline"]),
                *((m["name"], m["edited"]) for m in models),
            ]
        ),
        title=f"{counted(data['n_images'], 'image')}, judge {_judge(data['judge'])}, "
        "95 % intervals in brackets",
    )
    return [
        head,
        *(_concepts(model, title=model["name"] if len(models) > 1 else "") for model in models),
    ]


def methods(data: Mapping[str, Any]) -> Table:
    """The table of ``compare``: a row for each method, the unedited model first; intervals of
    shares only, for width.
    """
    from forgetcli.report.methods import SHARES, cells, columns

    names = columns(data["methods"])
    recipes = ", ".join(part["name"] for part in data["recipes"])
    return table(
        ("method", *(f">{name}" for name in names)),
        (
            [
                row["name"],
                *(
                    cell if name in SHARES else cell.value
                    for name, cell in zip(names, cells(row, names))
                ),
            ]
            for row in data["methods"]
        ),
        title=f"{recipes}: {counted(data['n_images'], 'image')}, "
        f"judge {data['judge'].get('name', '')}, 95 % intervals in brackets",
    )


def quality(data: Mapping[str, Any]) -> list[Table]:
    """Change of the images that should not change."""
    rows = []
    for model in data["models"]:
        measured = model["quality"]
        for key in ("distance", "fid", "kid"):
            if key in measured:
                rows.append(
                    [model["name"], key, _share(measured[key], "value", "ci"), measured[key]["n"]]
                )
        for side, scored in measured.get("clip_score", {}).items():
            rows.append(
                [model["name"], f"CLIP score, {side}", _share(scored, "value", "ci"), scored["n"]]
            )
    title = "quality of the retained images, against the unedited images"
    return [table(("model", "measure", ">value", ">n"), rows, title=title)] if rows else []


def outcomes(data: Mapping[str, Any]) -> Table:
    """The table of ``attack``: success on the edited model, the unedited one and the floor."""
    models = [
        m for m in ("edited", "unedited", "never-learned") if any(r[m] for r in data["attacks"])
    ]
    rows = []
    for row in data["attacks"]:
        spent = row["edited"]["budget"]
        rows.append(
            [
                row["attack"],
                row["label"],
                *(_share(row[m] or {}, "success") for m in models),
                "too weak" if row["powered"] is False else "",
                f"{spent['seconds']:.0f} s",
            ]
        )
    resist = _share(data, "resist")
    return table(
        ("attack", "concept", *(f">{m}" for m in models), "", ">time"),
        rows,
        title=f"share of attempts that bring the concept back; resists {resist}",
    )


def search(data: Mapping[str, Any]) -> Table:
    """The best trial of ``tune`` beside the recipe's own values and the unedited model."""
    tried = [t["state"] for t in data["trials"]]
    rows = [
        [name, *(_share(scores or {}, key) for _, key in _SHARES)]
        for name, scores in (
            ("unedited", data["baseline"]),
            ("the recipe's own values", data["own"]["scores"]),
            (f"best (trial {data['best']['number']})", data["best"]["scores"]),
        )
    ]
    counts = ", ".join(
        f"{tried.count(state)} {state}" for state in ("complete", "pruned", "failed")
    )
    return table(
        ("", *(f">{name}" for name, _ in _SHARES)),
        rows,
        title=f"{counted(len(tried), 'trial')}: {counts}; on the prompts tuned on",
    )


def _judge(judge: Mapping[str, Any]) -> str:
    """The judge's name, and its accuracy on drawings by artists outside its training data."""
    name = judge.get("name", "")
    accuracy = (judge.get("accuracy") or {}).get("other_hands")
    if not accuracy:
        return name
    return (
        f"{name} (right on {accuracy['thing']:.1%} of things and {accuracy['style']:.1%} of styles "
        "drawn by hands it never saw)"
    )


def _concepts(model: Mapping[str, Any], title: str) -> Table:
    rows = []
    for concept, sides in model["concepts"].items():
        kind = "forget" if "forget" in sides["edited"] else "retain"
        for name, side in (("unedited", "baseline"), ("edited", "edited")):
            rows.append(
                [
                    concept if side == "baseline" else "",
                    f"{kind}, {name}",
                    *(
                        _share(sides[side], key)
                        for key in (kind, f"{kind}_direct", f"{kind}_indirect")
                    ),
                ]
            )
    return table(("concept", "", ">all", ">direct", ">indirect"), rows, title=title)


def _share(scores: Mapping[str, Any], key: str, interval_key: str = "") -> str:
    value, interval = scores.get(key), scores.get(interval_key or f"{key}_ci")
    if value is None:
        return "–"
    return f"{value:.3f}" + (f" [{interval[0]:.2f}, {interval[1]:.2f}]" if interval else "")


def _figure(value: object) -> str:
    return "–" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)
