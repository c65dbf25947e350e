"""Signatures of edited folders, by the model-signing package: a Sigstore bundle over the digest of
every file.

The signature covers every file in the folder, the manifest and hidden files included, except the
signature itself. An elliptic-curve key works offline, and other programs that use model-signing can
check the result.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType
from typing import Any

from forgetcli.artifact.manifest import GIVE_EDITED, MANIFEST, SIGNATURE
from forgetcli.errors import ForgetError, ModelError, OutputError
from forgetcli.storage.atomic import write_atomically
from forgetcli.storage.files import refuse_missing_folder
from forgetcli.storage.scratch import scratch
from forgetcli.storage.workspace import collect

PROVED = "it was signed with the private key that belongs to"


def sign(
    folder: Path, key: Path, *, password: str | None = None, output: Path | None = None
) -> Path:
    """Sign a folder with an elliptic-curve private key (PEM, P-256, P-384 or P-521); where the
    signature lies.

    Args:
        output: by default `SIGNATURE` in the folder, where it goes along with the model.
    Raises:
        ForgetError: sign.no-package; sign.key: the key cannot be read, or is none;
            model.not-edited; OutputError.
    """
    package = _package("signing")
    refuse_missing_folder(folder, GIVE_EDITED)
    if not (folder / MANIFEST).is_file():
        raise ModelError(
            "model.not-edited",
            f"{folder} was not made by forget: it has no {MANIFEST}",
            GIVE_EDITED,
        )
    path = output or folder / SIGNATURE
    try:
        # The package passes the password on as it is, and needs bytes, not text as its hint says.
        configured = package.Config().use_elliptic_key_signer(
            private_key=key, password=password.encode() if password else None
        )
    except (OSError, ValueError, TypeError, AttributeError) as fault:
        raise _bad_key(
            key, fault, "openssl ecparam -name prime256v1 -genkey -noout -out key.pem makes one"
        ) from fault
    configured.set_hashing_config(_hashing(folder, path))
    # A temporary file of a killed run would be signed with the rest, and later be removed.
    collect(folder)
    with scratch("sign") as place:
        made = place / SIGNATURE
        try:
            configured.sign(folder, made)
        except (OSError, ValueError) as fault:
            raise OutputError(
                "sign.failed",
                f"{folder} cannot be signed: {fault}",
                "are there pipes or dangling links in it?",
            ) from fault
        write_atomically(path, made.read_bytes())
    return path


def check(folder: Path, signature: Path, key: str | Path | None) -> list[str]:
    """What is wrong with a signature: nothing, if every file is as it was when the key's owner
    signed it.

    Raises:
        ForgetError: sign.no-package, sign.no-key; sign.key: no public key; sign.no-signature: there
            is no such file.
    """
    if key is None:
        raise ForgetError(
            "sign.no-key",
            "a signature can only be checked with the public key of whoever made it",
            "name it with --key PUBLIC.pem",
        )
    package = _package("verifying")
    if not signature.is_file():
        raise ForgetError(
            "sign.no-signature",
            f"there is no signature {signature}",
            "name it with --signature, or make it: forget sign",
        )
    try:
        configured = package.Config().use_elliptic_key_verifier(public_key=Path(key))
    except (OSError, ValueError, TypeError, AttributeError) as fault:
        raise _bad_key(
            key,
            fault,
            "openssl ec -in key.pem -pubout -out public.pem makes it from the private one",
        ) from fault
    try:
        configured.set_hashing_config(_hashing(folder, signature)).verify(folder, signature)
    except Exception as fault:
        said = fault.args[0] if fault.args else ""
        if isinstance(said, str) and said.startswith("Signature mismatch: "):
            return [
                f"is of other files: {part}"
                for part in _parts(said.removeprefix("Signature mismatch: "))
            ]
        if "mismatch" in str(said) or type(fault).__name__ == "InvalidSignature":
            return [f"was not made with the private key that belongs to {key}"]
        name = type(fault).__name__
        first_line = next(iter(str(fault).splitlines()), "")
        return [f"is no signature that can be checked: {name}: {first_line}".rstrip(": ")]
    return []


def _parts(listed: str) -> list[str]:
    """The package's list of differences, which it gives as the text of a list."""
    import ast

    try:
        return [str(part) for part in ast.literal_eval(listed)]
    except (ValueError, SyntaxError):
        return [listed]


def _hashing(folder: Path, signature: Path) -> Any:
    """Hashing of all files except the signature and those that the hub adds.

    Links are followed: models from the hub's cache consist of links.
    """
    from model_signing import hashing

    own = Path(os.path.abspath(signature))
    inside = (
        [own.relative_to(os.path.abspath(folder))]
        if own.is_relative_to(os.path.abspath(folder))
        else []
    )
    ignored: list[str | Path] = [SIGNATURE, ".gitattributes", ".cache/huggingface", *inside]
    return (
        hashing.Config()
        .set_ignored_paths(paths=ignored, ignore_git_paths=False)
        .set_allow_symlinks(True)
    )


def _package(name: str) -> ModuleType:
    try:
        import importlib

        return importlib.import_module(f"model_signing.{name}")
    except ImportError as fault:
        raise ForgetError(
            "sign.no-package",
            f"signatures need the package model-signing, which is not there ({fault})",
            "pip install 'forgetcli[sign]'",
        ) from fault


def _bad_key(key: str | Path, fault: Exception, hint: str) -> ForgetError:
    why = (
        fault.strerror
        if isinstance(fault, OSError) and fault.strerror
        else str(fault).splitlines()[0]
        if str(fault)
        else type(fault).__name__
    )
    return ForgetError("sign.key", f"{key} cannot be used as a key: {why}", hint)
