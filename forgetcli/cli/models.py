"""``forget models``."""

from __future__ import annotations

from forgetcli.artifact import known_models
from forgetcli.cli.options import JsonFlag, QuietFlag
from forgetcli.cli.sink import Sink
from forgetcli.cli.tables import table


def models(json: JsonFlag = False, quiet: QuietFlag = False) -> None:
    """List the models that --model can name: the embedded one, and those edited in this folder.

    --model also accepts any diffusers folder and any id of the model hub.

    \b
    Example:
      forget models
    """
    known = known_models.known()
    data = {
        "models": [
            {"name": m.name, "family": m.family, "path": str(m.path), "description": m.description}
            for m in known
        ]
    }
    sink = Sink("models", json=json, quiet=quiet)
    sink.result(
        data,
        human=lambda: table(
            ("name", "family", "description"), ([m.name, m.family, m.description] for m in known)
        ),
        quiet=[m.path for m in known],
    )
    sink.next("models", model=known[-1].name)
