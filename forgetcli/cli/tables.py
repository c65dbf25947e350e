"""Results as rich tables, for people."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from forgetcli.cli.numbers import NOTHING, figure, percent, share
from forgetcli.cli.visible import visible
from forgetcli.cli.wrapping import wrapped
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

_CHANGE = {"‖Δ‖/‖W‖": "delta_rel", "drift on K₀": "preserve_drift", "fit on K₁": "fit"}
_NULL_SPACE = {
    "null dim": "null_dim",
    "eig below": "eig_below",
    "eig above": "eig_above",
    "rcond": "rcond",
}


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    title: str = "",
) -> Table:
    """A plain table; a column whose name starts with ``>`` is right-aligned.

    On a narrow terminal left-aligned cells are wrapped between words. A table that would not fit
    even so is shown as a list: a line for each cell, after its column's name.

    Titles, names and cells are text, never markup. Escaped here already, so that columns fit.
    """
    # Imported here: a command that prints no table must not wait for rich.
    from rich import box
    from rich.cells import cell_len
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.table import Table
    from rich.text import Text

    heads = [visible(column.lstrip(">"), keep="") for column in columns]
    texts = [[visible(str(cell), keep="") for cell in row] for row in rows]
    aligned_right = [column.startswith(">") for column in columns]
    widest = [max(map(cell_len, cells)) for cells in zip(heads, *texts)]
    narrowest = [
        width if right else max(cell_len(word) for cell in cells for word in cell.split() or [""])
        for width, right, cells in zip(widest, aligned_right, zip(heads, *texts))
    ]

    class Fitting(Table):
        """A table that a terminal of any width can show."""

        def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
            # A space at both edges, and three between columns, or two if that makes them fit.
            gaps = len(columns) - 1
            room = options.max_width - 2 - 2 * gaps
            if title:
                # Rich would wrap it to the width of the table.
                yield Text(visible(title), style="table.title")
            if sum(narrowest) > room:
                yield Text(as_list(heads, texts, options.max_width))
                return
            self.collapse_padding = sum(narrowest) > room - gaps
            room -= 0 if self.collapse_padding else gaps
            for column, width in zip(self.columns, shared_out(room, narrowest, widest)):
                column.width = width
            yield from super().__rich_console__(console, options)

    result = Fitting(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for head, right in zip(heads, aligned_right):
        result.add_column(Text(head), justify="right" if right else "left", overflow="fold")
    for row in texts:
        result.add_row(*map(Text, row))
    return result


def shared_out(room: int, narrowest: Sequence[int], widest: Sequence[int]) -> list[int]:
    """Widths of columns, each between two bounds; the largest one is reduced first."""
    widths = list(widest)
    while sum(widths) > room:
        reducible = [n for n, width in enumerate(widths) if width > narrowest[n]]
        widths[max(reducible, key=widths.__getitem__)] -= 1
    return widths


def as_list(heads: Sequence[str], rows: Iterable[Sequence[object]], width: int) -> str:
    """A table as lines: the first cell of a row, then the others, indented, by column."""
    lines = []
    for first, *others in rows:
        lines += ["", f"{heads[0]}: {first}" if heads[0] else str(first)]
        lines += [
            f"  {head}: {cell}" if head else f"  {cell}"
            for head, cell in zip(heads[1:], others)
            if str(cell)
        ]
    return "\n".join(wrapped(line, width) for line in [*lines, ""])


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


def preview(data: Mapping[str, Any]) -> list[str | Table]:
    """The output of ``--dry-run`` of ``demo``, ``compare`` and ``tune``."""
    rows = [
        [
            edit["recipe"],
            edit["method"],
            edit["model"],
            "finished" if edit["finished"] else "to be made",
            "–" if edit["seconds"] is None else f"{edit['seconds']:.0f} s",
        ]
        for edit in data["edits"]
    ]
    images = counted(data["images"], "image")
    if data["trials"]:
        images = f"at most {images}, for {counted(data['trials'], 'trial')} and the unedited model"
    lines = {
        "images": f"{images}; {counted(data['prompts'], 'evaluation prompt')}",
        "searched": data["searched"],
        "output": data["output"],
    }
    return [
        table(("recipe", "method", "model", "edit", ">about"), rows),
        facts(lines),
        "dry run: nothing was written",
    ]


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


def sites(rows: Sequence[Mapping[str, Any]]) -> list[Table]:
    """The edited layers of ``apply --verbose``: the size of the change, and the null space."""
    return [_sites(rows, heads) for heads in (_CHANGE, _NULL_SPACE)]


def _sites(rows: Sequence[Mapping[str, Any]], heads: Mapping[str, str]) -> Table:
    return table(
        ("site", *(f">{head}" for head in heads)),
        ([row["name"], *(_figure(row.get(key)) for key in heads.values())] for row in rows),
    )


def outcome(check: Mapping[str, Any], limits: tuple[float, float]) -> str:
    """The verdict on an edit: whether it took effect, and whether it broke nothing.

    Args:
        check: figures of the check; empty where none was made.
        limits: the smallest fraction of the way that counts as forgotten, and the largest change
            of preserve prompts that counts as kept.
    """
    lines = []
    least, most = limits
    if (moved := check.get("moved")) is not None:
        lines.append(
            f"forgotten: moved {percent(moved)} of the way to the target "
            f"(at least {percent(least)}): {'pass' if moved >= least else 'FAIL'}"
        )
    if (drift := check.get("preserve_drift")) is not None:
        lines.append(
            f"kept: preserve prompts changed by {percent(drift, 1)} "
            f"(at most {percent(most)}): {'pass' if drift <= most else 'FAIL'}"
        )
    return "\n".join(lines)


def extent(rows: Sequence[Mapping[str, Any]]) -> str:
    """One line on the edited layers."""
    changes = [row["delta_rel"] for row in rows if row.get("delta_rel") is not None]
    largest = f", each changed by at most {percent(max(changes), 1)}" if changes else ""
    return f"edited: {counted(len(rows), 'layer')}{largest}; --verbose lists them"


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
        shown = [_figure(change["relative"]) if change else NOTHING for change in changes]
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


def _figure(value: object) -> str:
    return "–" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)
