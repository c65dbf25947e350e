"""``forget judges``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from forgetcli.cli.completion import suggest
from forgetcli.cli.options import JsonFlag, QuietFlag
from forgetcli.cli.sink import Sink
from forgetcli.cli.tables import facts, table
from forgetcli.evaluation import judges as all_judges

if TYPE_CHECKING:
    from rich.table import Table

    from forgetcli.evaluation.judges import Description

ANYTHING = "any concept in words"


Name = Annotated[
    str | None,
    typer.Argument(
        metavar="[NAME]",
        help="One judge: list every label that it knows.",
        show_default=False,
        autocompletion=suggest("judges"),
    ),
]


def judges(name: Name = None, json: JsonFlag = False, quiet: QuietFlag = False) -> None:
    """List the judges that --judge can name, or what the judge NAME knows.

    A recipe's concept needs a name that the judge knows: its own words, or its `label`.

    \b
    Examples:
      forget judges
      forget judges demo
    """
    found = [all_judges.describe(each) for each in ([name] if name else all_judges.names())]
    sink = Sink("judges", json=json, quiet=quiet)
    sink.result(
        {"judges": [each.as_dict() for each in found]},
        human=lambda: _one(found[0]) if name else _list(found),
        quiet=_labels(found[0]) if name else [each.name for each in found],
    )
    sink.next("judges NAME" if name else "judges", judge=found[0].name)


def _list(found: list[Description]) -> Table:
    rows = ([each.name, _in_short(each), each.summary] for each in found)
    return table(("judge", "knows", "what it is"), rows)


def _in_short(judge: Description) -> str:
    if judge.knows is None:
        return ANYTHING
    return ", ".join(
        labels[0] if len(labels) == 1 else f"{len(labels)} {kind}"
        for kind, labels in judge.knows.items()
    )


def _one(judge: Description) -> list[str]:
    knows = {kind: ", ".join(labels) for kind, labels in (judge.knows or {}).items()}
    return [
        judge.summary,
        facts({"knows": knows or ANYTHING, "settings": ", ".join(judge.settings) or "none"}),
    ]


def _labels(judge: Description) -> list[str]:
    return [label for labels in (judge.knows or {}).values() for label in labels]
