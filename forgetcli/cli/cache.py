"""``forget cache``."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated

import typer

from forgetcli.cli.commands import Command, Group, show_help
from forgetcli.cli.options import JsonFlag, QuietFlag
from forgetcli.cli.sink import Sink
from forgetcli.cli.tables import size, table
from forgetcli.editing import moment_cache
from forgetcli.errors import ForgetError, counted

app = typer.Typer(
    name="cache",
    cls=Group,
    help="Manage what is kept on disk for a second edit or evaluation of the same model.",
    invoke_without_command=True,
    add_completion=False,
    rich_markup_mode=None,
)
app.callback()(show_help)

_UNITS = {
    "": 1,
    "k": 10**3,
    "m": 10**6,
    "g": 10**9,
    "t": 10**12,
    "ki": 2**10,
    "mi": 2**20,
    "gi": 2**30,
    "ti": 2**40,
}


def _size(text: str) -> int:
    """Bytes in ``500MB``, ``2GiB``, ``1000``."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]i?)?b?\s*", text, re.IGNORECASE)
    if match is None:
        raise ForgetError("usage", f"--max-size '{text}' is not a size", "write 500MB or 2GiB")
    return int(float(match[1]) * _UNITS[(match[2] or "").lower()])


@app.command("dir", cls=Command)
def show_folder(json: JsonFlag = False, quiet: QuietFlag = False) -> None:
    """Print the cache's folder; FORGET_CACHE_DIR sets it.

    \b
    Example:
      rm -r "$(forget cache dir)"
    """
    folder = moment_cache.default_folder()
    Sink("cache dir", json=json, quiet=quiet).result(
        {"path": str(folder)}, human=lambda: str(folder), quiet=folder, verbatim=True
    )


@app.command("ls", cls=Command)
def list_entries(json: JsonFlag = False, quiet: QuietFlag = False) -> None:
    """List what is in the cache, least recently used first.

    \b
    Example:
      forget cache ls
    """
    cache = moment_cache.MomentCache()
    entries = cache.entries()
    data = {
        "path": str(cache.folder),
        "bytes": sum(entry.bytes for entry in entries),
        "entries": [_as_dict(entry) for entry in entries],
    }
    sink = Sink("cache ls", json=json, quiet=quiet)
    sink.result(
        data,
        human=lambda: _as_text(entries, data),
        quiet=[cache.bucket / f"{entry.key}.safetensors" for entry in entries],
    )
    if entries:
        sink.next("cache ls")


@app.command("prune", cls=Command)
def prune(
    older_than: Annotated[
        float | None,
        typer.Option(
            "--older-than",
            metavar="DAYS",
            min=0,
            show_default=False,
            help="Delete entries that were not used for so many days.",
        ),
    ] = None,
    max_size: Annotated[
        str | None,
        typer.Option(
            "--max-size",
            metavar="SIZE",
            show_default=False,
            help="Delete the least recently used entries until the rest is no larger: 500MB, 2GiB.",
        ),
    ] = None,
    everything: Annotated[
        bool,
        typer.Option(
            "--all",
            envvar="FORGET_CACHE_ALL",
            help="Delete everything, including entries of older versions.",
        ),
    ] = False,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Delete entries of the cache. They are computed again when they are needed.

    \b
    Examples:
      forget cache prune --older-than 30
      forget cache prune --max-size 2GiB
      forget cache prune --all
    """
    if older_than is None and max_size is None and not everything:
        raise ForgetError(
            "usage",
            "nothing says what to delete",
            "use --older-than DAYS, --max-size SIZE or --all",
        )
    limit = _size(max_size) if max_size is not None else None
    cache = moment_cache.MomentCache()
    deleted = cache.prune(older_than_days=older_than, max_bytes=limit, everything=everything)
    freed = sum(entry.bytes for entry in deleted)
    data = {
        "path": str(cache.folder),
        "bytes": freed,
        "pruned": [_as_dict(entry) for entry in deleted],
    }
    Sink("cache prune", json=json, quiet=quiet).result(
        data,
        human=lambda: f"{_entries(len(deleted))} deleted, {size(freed)} freed",
        quiet=[entry.key for entry in deleted],
    )


def _as_dict(entry: moment_cache.Entry) -> dict:
    return {
        "key": entry.key,
        "bytes": entry.bytes,
        "modified": entry.modified,
        "kind": entry.kind,
        "model": entry.model,
        "prompts": entry.prompts,
    }


def _as_text(entries: list, data: dict) -> list:
    rows = (
        [
            entry.key[:12],
            size(entry.bytes),
            datetime.fromtimestamp(entry.modified).strftime("%Y-%m-%d %H:%M"),
            entry.kind or "–",
            entry.model or "–",
            "–" if entry.prompts is None else entry.prompts,
        ]
        for entry in entries
    )
    columns = ("key", ">size", "last used", "kind", "model", ">prompts")
    shown = [table(columns, rows)] if entries else []
    return [*shown, f"{_entries(len(entries))}, {size(data['bytes'])} in {data['path']}"]


def _entries(count: int) -> str:
    return counted(count, "entry", "entries")
