"""``forget sign``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from forgetcli.cli.options import JsonFlag, QuietFlag
from forgetcli.cli.sink import Sink
from forgetcli.verification import signature

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The edited model.")]
Key = Annotated[
    Path,
    typer.Option(
        "--private-key",
        show_default=False,
        help="Elliptic-curve private key (PEM: P-256, P-384 or P-521).",
    ),
]
Password = Annotated[
    str | None,
    typer.Option(
        "--password",
        envvar="FORGET_KEY_PASSWORD",
        show_default=False,
        help="The key's password; better given in the variable, which process lists do not show.",
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        envvar="FORGET_SIGN_OUTPUT",
        show_default="in DIR",
        help="File for the signature.",
    ),
]


def sign(
    folder: Folder,
    private_key: Key,
    password: Password = None,
    output: Output = None,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Sign DIR with your own key, so that everybody who has the public key can check that it comes
    from you.

    Works offline. Needs: pip install 'forgetcli[sign]'

    \b
    Examples:
      openssl ecparam -name prime256v1 -genkey -noout -out key.pem
      openssl ec -in key.pem -pubout -out public.pem
      forget sign edited --private-key key.pem
      forget verify edited --key public.pem
    """
    path = signature.sign(folder, private_key, password=password, output=output)
    sink = Sink("sign", json=json, quiet=quiet)
    sink.result({"signature": str(path)}, human=lambda: str(path), quiet=path, verbatim=True)
    sink.next("sign", folder=folder)
