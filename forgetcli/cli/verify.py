"""``forget verify``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from forgetcli.cli.errors import one_line
from forgetcli.cli.options import JsonFlag, QuietFlag
from forgetcli.cli.sink import Sink

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The edited model.")]
Base = Annotated[
    str | None,
    typer.Option(
        "--base", envvar="FORGET_BASE", show_default="the one it names", help="The unedited model."
    ),
]


Recipe = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        envvar="FORGET_RECIPE",
        show_default=False,
        help="The recipe that it is to have been made by.",
    ),
]
Rebuild = Annotated[
    bool,
    typer.Option(
        "--rebuild",
        envvar="FORGET_REBUILD",
        help="Repeat the edit in a temporary folder, and compare the weights.",
    ),
]
Signature = Annotated[
    Path | None,
    typer.Option(
        "--signature",
        envvar="FORGET_SIGNATURE",
        show_default="the one in DIR",
        help="A signature to check.",
    ),
]
Key = Annotated[
    Path | None,
    typer.Option(
        "--key",
        envvar="FORGET_PUBLIC_KEY",
        show_default=False,
        help="The signer's public key (PEM), to check it with.",
    ),
]


def verify(
    folder: Folder = Path("edited"),
    base: Base = None,
    recipe: Recipe = None,
    rebuild: Rebuild = False,
    signature: Signature = None,
    key: Key = None,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Check that DIR is exactly what its manifest says, and that nothing else differs from the
    unedited model.

    Says what is proved and what is not: without a signature it finds accidents, not attackers.
    Exit code 1 if there is any difference; every one is named.

    \b
    Examples:
      forget verify edited
      forget verify edited --base path/to/sd-folder --json
      forget verify edited --recipe art_styles --rebuild
      forget verify edited --key public.pem
    """
    from forgetcli.verification import audit

    sink = Sink("verify", json=json, quiet=quiet)
    if rebuild:
        with sink.observer() as observer:
            verdict = audit.verify(
                folder,
                base,
                recipe=recipe,
                rebuild=True,
                signature=signature,
                key=key,
                observer=observer,
            )
    else:
        verdict = audit.verify(folder, base, recipe=recipe, signature=signature, key=key)
    sink.result(
        verdict.as_dict(),
        human=lambda: _shown(folder, verdict),
        quiet=[folder] if verdict.ok else [],
    )
    raise typer.Exit(0 if verdict.ok else 1)


def _shown(folder: Path, verdict) -> str:
    found = len(verdict.problems)
    state = (
        "verified"
        if verdict.ok
        else f"NOT what its manifest says: {found} difference{'s' * (found != 1)}"
    )
    return "\n".join(
        [
            f"{folder}: {state} ({verdict.files} files, {verdict.edited} edited tensors)",
            *(
                f"  ✗ {one_line(problem.file)}: {one_line(problem.what)}"
                for problem in verdict.problems
            ),
            *(f"  ✓ {one_line(claim)}" for claim in verdict.proved),
            *(f"  not proved: {one_line(claim)}" for claim in verdict.not_proved),
        ]
    )
