"""``forget card``."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from forgetcli.cli.options import ForceFlag, JsonFlag, QuietFlag, existing_folder
from forgetcli.cli.progress import showing
from forgetcli.cli.sink import Sink
from forgetcli.cli.tables import facts
from forgetcli.errors import ForgetError
from forgetcli.progress import Silent

EVIDENCE = Path("evidence.md")

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The edited model.")]
Results = Annotated[
    Path | None,
    typer.Option(
        "--eval",
        envvar="FORGET_CARD_EVAL",
        show_default=False,
        help="Scores for the card: the results.json of forget eval.",
    ),
]
Evidence = Annotated[
    bool,
    typer.Option(
        "--evidence",
        help="Write one page to hand on instead: what was erased, measured and not measured.",
    ),
]
AttackResults = Annotated[
    Path | None,
    typer.Option(
        "--attack-results",
        metavar="FILE",
        envvar="FORGET_CARD_ATTACK_RESULTS",
        show_default="attack/results.json, if it is of this model",
        help="With --evidence: the results.json of forget attack.",
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        envvar="FORGET_CARD_OUTPUT",
        show_default=str(EVIDENCE),
        help="With --evidence: the page.",
    ),
]


def card(
    folder: Folder = Path("edited"),
    results: Results = None,
    evidence: Evidence = False,
    attack_results: AttackResults = None,
    output: Output = None,
    force: ForceFlag = False,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Write the model card of DIR (README.md) again, with the scores of an evaluation.

    The manifest is updated. A signature is removed, because it covers the old card: sign again.
    With --evidence DIR stays as it is: the page is written beside it.

    \b
    Examples:
      forget card edited --eval eval/results.json
      forget card edited
      forget card edited --evidence -o evidence.md
    """
    sink = Sink("card", json=json, quiet=quiet)
    if evidence:
        _write_evidence(sink, folder, results, attack_results, output or EVIDENCE, force)
        return
    if output is not None or attack_results is not None:
        raise ForgetError(
            "usage",
            "-o and --attack-results are for the evidence page; the card is README.md in DIR",
            "add --evidence, or leave them out",
        )
    # Imported here: loads torch or pydantic, which completion and help must not wait for.
    from forgetcli.artifact import card as cards

    signed = (folder / cards.manifest.SIGNATURE).exists()
    path = cards.rewrite(folder, results)
    sink.result(
        {"card": str(path), "scores": results is not None},
        human=lambda: str(path),
        quiet=path,
        verbatim=True,
    )
    if signed:
        sink.remark(
            "the signature covered the earlier card and was removed: run forget sign again",
            title="note",
        )
    sink.next("card --eval" if results else "card", folder=folder)


def _write_evidence(
    sink: Sink,
    folder: Path,
    results: Path | None,
    attack_results: Path | None,
    output: Path,
    force: bool,
) -> None:
    existing_folder(folder)
    # Imported here: loads pydantic, which completion and help must not wait for.
    from forgetcli.report import evidence as report

    with nullcontext(Silent()) if sink.quiet else showing() as observer:
        found = report.write(
            folder, results, attack_results, output, force=force, observer=observer
        )
        observer.done()
    missing = found.missing()
    data = {
        "evidence": str(output),
        "scores": found.scores is not None,
        "attacks": found.attacks is not None,
        "missing": missing,
    }
    sink.result(
        data,
        human=lambda: facts({"evidence": output, "missing": " ".join(missing) or None}),
        quiet=output,
    )
    for measure, measured in (("eval", found.scores), ("attack", found.attacks)):
        if measured is None:
            sink.next("card --evidence", measure=measure, folder=folder)
            return
    sink.next("card --eval", folder=folder)
