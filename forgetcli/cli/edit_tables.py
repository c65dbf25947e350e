"""What an edit will do and has done, as tables for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from forgetcli.cli.numbers import NOTHING, percent
from forgetcli.cli.tables import facts, size, table
from forgetcli.editing.check_limits import NO_OP, WRECKED
from forgetcli.errors import counted

if TYPE_CHECKING:
    from rich.table import Table

_CHANGE = {"‖Δ‖/‖W‖": "delta_rel", "drift on K₀": "preserve_drift", "fit on K₁": "fit"}
_NULL_SPACE = {
    "null dim": "null_dim",
    "eig below": "eig_below",
    "eig above": "eig_above",
    "rcond": "rcond",
}


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
        "on": _device(data),
        "basis": data["basis"],
    }
    return facts({"estimates": lines})


def _device(data: Mapping[str, Any]) -> str:
    """Device and dtype, and what a GPU must have free."""
    text = f"{data['device']}, {data['dtype']}"
    if data["device"] != "cuda":
        return text
    text += f"; about {size(data['device_bytes'])} of its memory"
    if data["offloaded_bytes"] is None:
        return text
    return f"{text}, {size(data['offloaded_bytes'])} with --offload model"


def sites(rows: Sequence[Mapping[str, Any]]) -> list[Table]:
    """The edited layers of ``apply --verbose``: the size of the change, and the null space."""
    return [_sites(rows, heads) for heads in (_CHANGE, _NULL_SPACE)]


def _sites(rows: Sequence[Mapping[str, Any]], heads: Mapping[str, str]) -> Table:
    return table(
        ("site", *(f">{head}" for head in heads)),
        ([row["name"], *(_figure(row.get(key)) for key in heads.values())] for row in rows),
    )


def outcome(check: Mapping[str, Any]) -> str:
    """The verdict on an edit: whether it took effect, and whether it broke nothing.

    Args:
        check: figures of the check; empty where none was made.
    """
    lines = []
    if (moved := check.get("moved")) is not None:
        lines.append(
            f"forgotten: moved {percent(moved)} of the way to the target "
            f"(at least {percent(NO_OP)}): {'pass' if moved >= NO_OP else 'FAIL'}"
        )
    if (drift := check.get("preserve_drift")) is not None:
        limit = check.get("drift_limit", WRECKED)
        lines.append(
            f"kept: preserve prompts changed by {percent(drift, 1)} "
            f"(at most {percent(limit)}): {'pass' if drift <= limit else 'FAIL'}"
        )
    return "\n".join(lines)


def extent(rows: Sequence[Mapping[str, Any]]) -> str:
    """One line on the edited layers."""
    changes = [row["delta_rel"] for row in rows if row.get("delta_rel") is not None]
    largest = f", each changed by at most {percent(max(changes), 1)}" if changes else ""
    return f"edited: {counted(len(rows), 'layer')}{largest}; --verbose lists them"


def _figure(value: object) -> str:
    return NOTHING if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)
