"""``forget verify``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from forgetcli.cli.options import (
    JsonFlag,
    QuietFlag,
    ThreadsOption,
)
from forgetcli.cli.progress import silence_hub
from forgetcli.cli.sink import Sink
from forgetcli.cli.visible import one_line
from forgetcli.errors import counted

if TYPE_CHECKING:
    from forgetcli.artifact.edited import EditedModel
    from forgetcli.artifact.integrity import Verdict

Folder = Annotated[
    Path,
    typer.Argument(metavar="DIR", help="The edited model: a folder, or org/name on the hub."),
]
Base = Annotated[
    str | None,
    typer.Option("--base", show_default="the one it names", help="The base model."),
]


Recipe = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        show_default=False,
        help="Fail unless the model was made with exactly this recipe.",
    ),
]
Rebuild = Annotated[
    bool,
    typer.Option(
        "--rebuild",
        help="Repeat the edit in a temporary folder and compare the weights.",
    ),
]
Signature = Annotated[
    Path | None,
    typer.Option(
        "--signature",
        show_default="the one in DIR",
        help="Signature to check.",
    ),
]
Key = Annotated[
    Path | None,
    typer.Option(
        "--key",
        envvar="FORGET_PUBLIC_KEY",
        show_default=False,
        help="The signer's public key (PEM), which checks the signature.",
    ),
]


def verify(
    folder: Folder = Path("edited"),
    base: Base = None,
    recipe: Recipe = None,
    rebuild: Rebuild = False,
    signature: Signature = None,
    key: Key = None,
    threads: ThreadsOption = None,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Check that DIR is exactly what its manifest says, and that nothing else differs from the base
    model.

    Reports what is proved and what is not. Without a signature it detects accidents, not attackers.
    Exit code 1 if there is any difference; every difference is named.

    \b
    Examples:
      forget verify edited
      forget verify edited --base path/to/sd-folder --json
      forget verify edited --recipe art_styles --rebuild
      forget verify edited --key public.pem
      forget verify my-org/sd-without-van-gogh --rebuild
    """
    # Imported here: loads torch or pydantic, which completion and help must not wait for.
    from forgetcli.artifact import published
    from forgetcli.verification import audit

    sink = Sink("verify", json=json, quiet=quiet, threads=threads)
    source: Path | EditedModel = folder
    shown = str(folder)
    on_hub = published.is_name(folder.as_posix())
    if on_hub:
        silence_hub()
        fetched = published.fetched(folder.as_posix(), base)
        source, shown = fetched.model, fetched.name
    if rebuild:
        with sink.observer() as observer:
            verdict = audit.verify(
                source,
                base,
                recipe=recipe,
                rebuild=True,
                signature=signature,
                key=key,
                observer=observer,
            )
    else:
        verdict = audit.verify(source, base, recipe=recipe, signature=signature, key=key)
    sink.result(
        verdict.as_dict() | ({"model": shown} if on_hub else {}),
        human=lambda: _as_text(shown, verdict),
        quiet=[shown] if verdict.ok else [],
    )
    if not verdict.ok:
        raise typer.Exit(1)
    if on_hub:
        sink.next("verify ORG/NAME", repo=shown)
    else:
        sink.next("verify", folder=folder)


def _as_text(shown: str, verdict: Verdict) -> str:
    state = "verified"
    if not verdict.ok:
        state = f"NOT what its manifest says: {counted(len(verdict.problems), 'difference')}"
    return "\n".join(
        [
            f"{shown}: {state} ({counted(verdict.files, 'file')}, "
            f"{counted(verdict.edited, 'edited tensor')})",
            *(
                f"  ✗ {one_line(problem.file)}: {one_line(problem.what)}"
                for problem in verdict.problems
            ),
            *(f"  ✓ {one_line(claim)}" for claim in verdict.proved),
            *(f"  not proved: {one_line(claim)}" for claim in verdict.not_proved),
        ]
    )
