"""TOML of a recipe or of its evaluation file: decoded, measured and parsed."""

from __future__ import annotations

import re
from typing import Any

import tomli

from forgetcli.errors import ForgetError
from forgetcli.recipe import limits

BOM = "\ufeff"  # Windows editors write it; TOML does not have it


def decoded(text: str | bytes, name: str) -> str:
    """`text` as Unicode text.

    Args:
        name: the file's name in messages.
    Raises:
        ForgetError: recipe.toml.
    """
    try:
        characters = text.decode() if isinstance(text, bytes) else text
        characters.encode()  # raises for lone surrogates, which no file can contain
        return characters
    except UnicodeEncodeError as error:
        raise ForgetError(
            "recipe.toml", f"{name}: not Unicode text: it has lone surrogates", "save it as UTF-8"
        ) from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ForgetError(
            "recipe.toml", f"{name}:{line}: not UTF-8 text", "save the file as UTF-8"
        ) from error


def tables_of(body: str, name: str) -> dict[str, Any]:
    """The tables of a TOML text.

    Raises:
        ForgetError: recipe.toml, recipe.too-long.
    """
    limits.check_text(body, name)
    try:
        return tomli.loads(body.removeprefix(BOM))
    except tomli.TOMLDecodeError as error:
        # tomli's "Invalid value (at line 3, column 5)": the line moves to the front.
        message, _, position = str(error).partition(" (at ")
        line_match = re.match(r"line (\d+)", position)
        line = int(line_match[1]) if line_match else body.count("\n") + 1
        raise ForgetError(
            "recipe.toml",
            f"{name}:{line}: not TOML: {message[:1].lower()}{message[1:]}",
            "strings need quotes, lists square brackets; see https://toml.io",
        ) from error
    except ValueError as error:  # from Python: a number has more than 4,300 digits
        raise ForgetError("recipe.toml", f"{name}: not TOML: a number is too long") from error
    except RecursionError as error:
        raise ForgetError(
            "recipe.toml", f"{name}: not TOML that can be read: lists nested too deep"
        ) from error
