"""Scores of evaluations, comparisons, searches and attacks, as tables for people."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from forgetcli.cli.numbers import NOTHING, figure, percent, share
from forgetcli.cli.tables import size, table
from forgetcli.errors import counted

if TYPE_CHECKING:
    from rich.table import Table

# Models beside the unedited one, so that a table fits 60 columns.
MODELS_A_TABLE = 2
# Methods, the unedited model among them, in a table of attacks of 80 columns.
METHODS_A_TABLE = 3
_SHARES = (
    ("forget", "forget"),
    ("direct", "forget_direct"),
    ("indirect", "forget_indirect"),
    ("retain", "retain"),
    ("H", "h"),
)
# A row only where there are any: whether the target was reached, the prompts that use words of the
# edit, and the further axes.
_OPTIONAL = (
    ("target", "target"),
    ("shares words", "forget_shared"),
    ("names erased", "retain_naming"),
    ("adjacent", "adjacent"),
    ("selective", "selective"),
    ("adversarial", "adversarial"),
    ("err", "err"),
)


def shares(data: Mapping[str, Any]) -> list[str | Table]:
    """The scores of ``eval``: each edited model beside the unedited one, then concept by concept.

    A row is a measure, so that the table fits 60 columns: a table has the unedited model and two
    edited ones.
    """
    models = data["models"]
    unedited = ("unedited", data["baseline"])
    edited = [
        (
            m["name"],
            {**m["edited"], **m.get("target", {}), "weight_change": m["weight_change"]},
        )
        for m in models
    ]
    parts: list[str | Table] = [
        f"{counted(data['n_images'], 'image')}; in brackets: 95 % intervals",
        _judge(data["judge"]),
    ]
    for start in range(0, len(edited), MODELS_A_TABLE):
        parts.append(_measures([unedited, *edited[start : start + MODELS_A_TABLE]]))
    if lacking := models[0]["edited"]["err_missing"]:
        parts.append(f"err lacks: {', '.join(lacking)}")
        if "adversarial" in lacking:
            parts.append("(adversarial is of forget attack: --attack-results)")
    for model in models:
        parts += _concepts(model, title=f"{model['name']}: " if len(models) > 1 else "")
    return parts


def _measures(models: Sequence[tuple[str, Mapping[str, Any]]], title: str = "") -> Table:
    """The shares of several models: a row is a measure, a column a model."""
    optional = [
        (measure, key)
        for measure, key in _OPTIONAL
        if any(
            (scores or {}).get(f"{key}_n") and (scores or {}).get(key) is not None
            for _, scores in models
        )
    ]
    rows = [
        [measure, *(share(scores or {}, key) for _, scores in models)]
        for measure, key in (*_SHARES, *optional)
    ]
    changes = [(scores or {}).get("weight_change") for _, scores in models]
    if any(changes):
        shown = [figure(change["relative"]) if change else NOTHING for change in changes]
        rows.append(["‖ΔW‖/‖W‖", *shown])
    return table(
        ("", *(f">{name}" for name, _ in models)),
        rows,
        title=title,
    )


def methods(data: Mapping[str, Any]) -> list[str | Table]:
    """The tables of ``compare``: a row for each method, the unedited model first.

    Each table has few columns, so that it fits 60 and methods can be compared down a column.
    """
    rows = data["methods"]
    recipes = ", ".join(part["name"] for part in data["recipes"])
    parts: list[str | Table] = [
        f"{recipes}: {counted(data['n_images'], 'image')}, "
        f"judge {data['judge'].get('name', '')}; in brackets: 95 % intervals"
    ]
    for group in _COMPARED:
        heads = [head for head, cell in group.items() if any(cell(row) for row in rows)]
        if heads:
            parts.append(
                table(
                    ("method", *(f">{head}" for head in heads)),
                    (
                        [
                            row["name"],
                            *(_compared(row, group[head], n) for n, head in enumerate(heads)),
                        ]
                        for row in rows
                    ),
                )
            )
    return parts


def _compared(row: Mapping[str, Any], cell: Callable[[Mapping[str, Any]], str], place: int) -> str:
    if row["error"] and place == 0:
        return "failed"
    return (not row["error"] and cell(row)) or NOTHING


def _shared(key: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda row: "" if row.get(key) is None else share(row, key)


def _measured(key: str) -> Callable[[Mapping[str, Any]], str]:
    def cell(row: Mapping[str, Any]) -> str:
        measured = row["quality"].get(key)
        return figure(measured["value"], measured.get("ci")) if measured else ""

    return cell


def _cost(key: str, text: Callable[[float], str]) -> Callable[[Mapping[str, Any]], str]:
    return lambda row: "" if row[key] is None else text(row[key])


# Columns by heading, a table each; a cell without a value is empty.
_COMPARED: tuple[Mapping[str, Callable[[Mapping[str, Any]], str]], ...] = (
    {"forget": _shared("forget"), "retain": _shared("retain"), "H": _shared("h")},
    {"direct": _shared("forget_direct"), "indirect": _shared("forget_indirect")},
    {"adjacent": _shared("adjacent"), "selective": _shared("selective")},
    {"adversarial": _shared("adversarial"), "err": _shared("err")},
    {"distance": _measured("distance"), "CLIP score": _measured("clip_score")},
    {
        "seconds": _cost("seconds", "{:.1f}".format),
        "memory": _cost("peak_rss", size),
        "GPU memory": _cost("peak_gpu", size),
        "changed": _cost("changed", lambda share: percent(share, 2)),
    },
)


def attack_methods(data: Mapping[str, Any]) -> list[Table]:
    """Attack × method of ``compare``, a few methods a table; none without attacks."""
    from forgetcli.report import attack_table

    shown = attack_table.attacked(data["methods"])
    parts = []
    for start in range(0, len(shown), METHODS_A_TABLE):
        part = shown[start : start + METHODS_A_TABLE]
        parts.append(
            table(
                ("attack", *(f">{row['name']}" for row in part)),
                (
                    [name, *(attack_table.cell(row, name) for row in part)]
                    for name in attack_table.names(data["methods"])
                ),
                title="share of attempts that bring the concepts back" if not start else "",
            )
        )
    return parts


def quality(data: Mapping[str, Any]) -> list[Table]:
    """Change of the images that should not change."""
    rows = []
    for model in data["models"]:
        measured = model["quality"]
        named = [(key, measured[key]) for key in ("distance", "fid", "kid") if key in measured]
        named += [(f"CLIP score, {k}", v) for k, v in measured.get("clip_score", {}).items()]
        rows += [
            [model["name"], name, figure(scored.get("value"), scored.get("ci")), scored["n"]]
            for name, scored in named
        ]
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
                *(share(row[m] or {}, "success") for m in models),
                "no verdict" if row["no_verdict"] else "",
                f"{spent['seconds']:.0f} s",
            ]
        )
    resist = share(data, "resist")
    return table(
        ("attack", "concept", *(f">{m}" for m in models), "", ">time"),
        rows,
        title=f"share of attempts that bring the concept back; resists {resist}",
    )


def search(data: Mapping[str, Any]) -> Table:
    """The best trial of ``tune`` beside the recipe's own values and the unedited model."""
    tried = [t["state"] for t in data["trials"]]
    best = data["best"]
    counts = ", ".join(
        f"{tried.count(state)} {state}" for state in ("complete", "pruned", "failed")
    )
    return _measures(
        [
            ("unedited", data["baseline"]),
            ("recipe's own", data["own"]["scores"]),
            (f"trial {best['number']}", best["scores"]),
        ],
        title=f"{counted(len(tried), 'trial')}: {counts}; on the prompts tuned on",
    )


def _judge(judge: Mapping[str, Any]) -> str:
    """The judge's name, and its accuracy on drawings by artists outside its training data."""
    name = f"judge: {judge.get('name', '')}"
    accuracy = (judge.get("accuracy") or {}).get("other_hands")
    if not accuracy:
        return name
    return (
        f"{name}, right on {percent(accuracy['thing'])} of things and "
        f"{percent(accuracy['style'])} of styles drawn by hands it never saw"
    )


def _concepts(model: Mapping[str, Any], title: str) -> list[Table]:
    """Tables of the concepts to forget, of those to keep, and of the near ones."""
    parts = []
    for kind, meaning, concepts in (
        ("forget", "the concept is not seen", model["concepts"]),
        ("retain", "it is seen", model["concepts"]),
        ("adjacent", "a near concept is seen", model["near"]),
    ):
        rows = [
            [
                concept,
                share({kind: sides["baseline"].get(kind)}, kind),
                share(sides["edited"], kind),
                *(
                    share({kind: sides["edited"].get(f"{kind}_{prompts}")}, kind)
                    for prompts in ("direct", "indirect")
                ),
            ]
            for concept, sides in concepts.items()
            if kind in sides["edited"]
        ]
        if rows:
            heads = ("concept", ">unedited", ">edited", ">direct", ">indirect")
            parts.append(table(heads, rows, title=f"{title}{kind}: {meaning}"))
    return parts
