"""``forget push``."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from forgetcli.cli.options import DryRunFlag, JsonFlag, QuietFlag
from forgetcli.cli.progress import showing, silence_hub
from forgetcli.cli.sink import Sink
from forgetcli.cli.tables import size, table
from forgetcli.errors import counted
from forgetcli.progress import Silent

if TYPE_CHECKING:
    from rich.table import Table

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The edited model.")]
Repo = Annotated[str, typer.Argument(metavar="ORG/NAME", help="Repository on the hub.")]
Private = Annotated[
    bool,
    typer.Option(
        "--private/--public",
        envvar="FORGET_PUSH_PRIVATE",
        help="Visibility of the repository, if it is created.",
    ),
]
Revision = Annotated[
    str | None,
    typer.Option(
        "--revision",
        show_default="the default one",
        help="Branch to upload to.",
    ),
]


def push(
    folder: Folder,
    repo: Repo,
    private: Private = True,
    revision: Revision = None,
    dry_run: DryRunFlag = False,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Upload DIR to the model hub, if it verifies. Private, unless you say --public.

    \b
    Examples:
      forget push edited my-org/sd-without-van-gogh
      forget push edited my-org/sd-without-van-gogh --public --revision v2
    """
    # Not the sink's observer, which loads diffusers and transformers in order to silence them.
    silence_hub()
    # Imported here: loads the hub client and pydantic.
    from forgetcli.export import push as uploads

    sink = Sink("push", json=json, quiet=quiet)
    if dry_run:
        planned = uploads.plan(folder, repo)
        sink.result(planned.as_dict(), human=lambda: _planned(planned.files), quiet=planned.files)
        return
    with nullcontext(Silent()) if quiet else showing() as observer:
        done = uploads.push(folder, repo, private=private, revision=revision, observer=observer)
    seen_by = "private" if done.private else "public"
    sink.result(
        done.as_dict(),
        human=lambda: (
            f"{done.url} ({counted(done.files, 'file')}, {seen_by}, commit {done.commit[:12]})"
        ),
        quiet=done.url,
    )
    sink.next("push", repo=f"{repo}@{revision}" if revision else repo)


def _planned(files: Mapping[str, int]) -> list[str | Table]:
    total = f"{counted(len(files), 'file')}, {size(sum(files.values()))}: nothing was uploaded"
    return [table(("file", ">size"), ([path, size(n)] for path, n in files.items())), total]
