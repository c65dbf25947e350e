"""Text from outside (recipes, manifests, file names) made safe to print.

A terminal obeys control characters: ESC and the C1 controls move the cursor, change the window's
title or answer as if the user had typed; bidirectional controls reorder what is read. They are
printed as escapes instead.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable

# Emoji and several scripts need them, and they cannot change the order or the place of other text.
_JOINERS = "\u200c\u200d"


def visible(text: str, keep: str = "\n\t") -> str:
    r"""`text` with every character that is not shown as itself written as ``\x1b`` or ``\u202e``.

    Escapes of characters beyond ASCII are also those of TOML, so a recipe that is printed means the
    same.

    Args:
        keep: control characters that stay as they are.
    """
    if text.isprintable():
        return text
    return "".join(char if char in keep or _is_shown(char) else _escape(char) for char in text)


def one_line(text: str) -> str:
    """`text` on one line: white space runs become a space, control characters become escapes."""
    return visible(" ".join(text.split()), keep="")


def visible_json(text: str, can_hold: Callable[[str], bool] = lambda char: True) -> str:
    r"""JSON text with characters that a terminal could obey as ``\uXXXX``; its value is the same.

    Encoded JSON has such characters inside strings only, apart from its line breaks.

    Args:
        can_hold: whether the output can hold a character. Others are escaped too.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        char if char == "\n" or (_is_shown(char) and can_hold(char)) else _json_escape(char)
        for char in text
    )


def _is_shown(char: str) -> bool:
    return char.isprintable() or char in _JOINERS or unicodedata.category(char) == "Zs"


def _escape(char: str) -> str:
    if char in "\n\r\t":
        return repr(char)[1:-1]
    code = ord(char)
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def _json_escape(char: str) -> str:
    units = char.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))
