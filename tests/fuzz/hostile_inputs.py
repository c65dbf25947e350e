"""Hypothesis strategies for every file that forget reads: valid ones with a few hostile changes.

Each strategy gives the bytes of a file. Most changes are made to a valid document, because random
bytes rarely get past the first check.
"""

from __future__ import annotations

import copy
import json
import struct
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

# What json.dumps cannot write: text that replaces a quoted placeholder afterwards.
RAW = {
    "@deep-list@": "[" * 100_000 + "]" * 100_000,
    "@deep-table@": '{"a":' * 20_000 + "1" + "}" * 20_000,
    "@digits@": "9" * 4_301,
    "@many-digits@": "1" * 100_000,
    "@nan@": "NaN",
    "@infinity@": "-Infinity",
    "@overflow@": "1e999",
    "@exponent@": "1E400",
    "@long@": '"' + "x" * 200_000 + '"',
    "@open@": '"',
}
TEXTS = (
    "",
    " ",
    ".",
    "..",
    "../x",
    "../../../../etc/passwd",
    "/etc/passwd",
    "a/../../b",
    "C:\\x",
    "\\\\host\\share",
    "\0",
    "\ud800",
    "\udcff",
    "\x1b]0;x\x07",
    "\u202e",
    "\u2028",
    "\ufeff",
    "é",
    "e\u0301",
    "__class__",
    "__metadata__",
    "{0.__class__}",
    "{}" * 50,
    "%s",
    "=1+1",
    "a" * 300,
    "1e9",
    "none",
    "F32",
    "F4",
    "I64",
    "BF16",
    "0" * 64,
    "f" * 64,
    "org/name",
    "torch",
    "os",
    "builtins",
    "system",
    "DDIMScheduler",
    "CLIPTextModel",
)
NUMBERS = (
    0,
    -0.0,
    1,
    -1,
    2,
    3,
    7,
    0.5,
    1e-320,
    1e308,
    255,
    65_536,
    2**31,
    2**32,
    2**53 + 1,
    2**63 - 1,
    2**63,
    2**64,
    -(2**63),
    10**9,
    10**18,
    10**400,
)

oddities = st.one_of(
    st.sampled_from([None, True, False]),
    st.sampled_from(NUMBERS),
    st.sampled_from(TEXTS),
    st.sampled_from(sorted(RAW)),
    st.builds(list),
    st.builds(dict),
    st.lists(st.sampled_from((*NUMBERS, *TEXTS, None, *sorted(RAW))), max_size=4),
    st.dictionaries(st.sampled_from(TEXTS), st.sampled_from((*NUMBERS, *TEXTS, None)), max_size=3),
    st.integers(),
    st.text(max_size=8),
)


def paths_in(value: Any, path: tuple = ()) -> list[tuple]:
    """The paths of all values within a document, its own first."""
    parts = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    return [path, *(below for key, part in parts for below in paths_in(part, (*path, key)))]


@st.composite
def changed(draw: st.DrawFn, document: Any, most: int = 3) -> Any:
    """A copy of `document` with up to `most` of its values replaced, removed, added or renamed."""
    document = copy.deepcopy(document)
    for _ in range(draw(st.integers(0, most))):
        path = draw(st.sampled_from(paths_in(document)))
        if not path:
            if draw(st.integers(0, 9)) == 0:
                return draw(oddities)
            continue
        holder = document
        for key in path[:-1]:
            holder = holder[key]
        key = path[-1]
        kind = draw(st.sampled_from(("replace", "replace", "replace", "remove", "add", "rename")))
        if kind == "replace":
            holder[key] = draw(oddities)
        elif kind == "remove":
            del holder[key]
        elif kind == "add" and isinstance(holder, list):
            holder.insert(draw(st.integers(0, len(holder))), draw(oddities))
        elif kind == "add":
            holder[draw(st.sampled_from(TEXTS))] = draw(oddities)
        elif isinstance(holder, dict):
            holder[draw(st.sampled_from(TEXTS))] = holder.pop(key)
    return document


def json_text(document: Any, ascii_only: bool = True) -> str:
    text = json.dumps(document, ensure_ascii=ascii_only)
    for placeholder, raw in RAW.items():
        if placeholder in text:
            text = text.replace(f'"{placeholder}"', raw, 3)
    return text


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """`data`, mostly as it is; else cut off, with other bytes within it, or in another encoding."""
    kind = draw(st.integers(0, 11))
    at = draw(st.integers(0, max(len(data) - 1, 0)))
    if kind == 0:
        return data[:at]
    if kind == 1:
        return data[:at] + draw(st.binary(min_size=1, max_size=4)) + data[at + 1 :]
    if kind == 2:
        return data + draw(st.sampled_from((b"\0", b"}", b"\n\n", b"\xff", b" " * 1000, data[:99])))
    if kind == 3:
        head = draw(
            st.sampled_from((b"\xef\xbb\xbf", b"\0", b"\xff\xfe", b"PK\x03\x04", b"<html>"))
        )
        return head + data
    return data


@st.composite
def json_files(draw: st.DrawFn, document: Any, most: int = 3) -> bytes:
    """A JSON file like `document`: changed values, names that occur twice, damaged bytes."""
    text = json_text(draw(changed(document, most)), draw(st.booleans()))
    if draw(st.integers(0, 9)) == 0 and "{" in text:
        places = [at for at, letter in enumerate(text[:5_000]) if letter == "{"]
        at = draw(st.sampled_from(places)) + 1
        key = draw(st.sampled_from(sorted(document) if isinstance(document, dict) else TEXTS))
        text = text[:at] + json_text({key: draw(oddities)})[1:-1] + ", " + text[at:]
    return draw(damaged(text.encode("utf-8", "surrogatepass")))


def safetensors_file(header: str | bytes, body: bytes, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else header.encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(text) if length is None else length % 2**64) + text + body


def split_safetensors(data: bytes) -> tuple[dict[str, Any], bytes]:
    """The header and the rest of an intact file."""
    end = 8 + struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8:end]), data[end:]


@st.composite
def safetensors_files(draw: st.DrawFn, original: bytes, most: int = 3) -> bytes:
    """A safetensors file like `original`: changed entries, moved offsets, a header too long."""
    header, body = split_safetensors(original)
    header = draw(changed(header, most))
    kind = draw(st.integers(0, 7))
    if kind == 0 and isinstance(header, dict) and header:  # two tensors in one place
        names = sorted(header)
        header[draw(st.sampled_from(names))] = copy.deepcopy(header[draw(st.sampled_from(names))])
    if kind == 1:  # tensors without bytes that broadcast
        shape = draw(st.lists(st.sampled_from((0, 1, 2, 10**6, 2**40)), max_size=70))
        size = len(body)
        if isinstance(header, dict):
            header["x"] = {"dtype": "F32", "shape": [*shape, 0], "data_offsets": [size, size]}
    text = json_text(header, draw(st.booleans())).encode("utf-8", "surrogatepass")
    length = draw(st.sampled_from((None,) * 12 + (0, 1, -1, 2**63, 10**8, len(text) + 1)))
    return draw(damaged(safetensors_file(text, body, length)))


@st.composite
def delta_files(draw: st.DrawFn, original: bytes) -> bytes:
    """A delta like `original`: its tensors or its header changed, or a JSON file in the header."""
    if draw(st.booleans()):
        return draw(safetensors_files(original))
    header, body = split_safetensors(original)
    texts = dict(header["__metadata__"])
    name = draw(st.sampled_from(sorted(name for name in texts if name.endswith(".json"))))
    texts[name] = json_text(draw(changed(json.loads(texts[name]))))
    text = json.dumps({**header, "__metadata__": texts})
    at = draw(st.integers(0, max(len(body) - 1, 0)))
    if draw(st.booleans()):
        body = body[:at] + bytes([body[at] ^ draw(st.integers(1, 255))]) + body[at + 1 :]
    return safetensors_file(text, body)


# recipes

_ATOMS = (
    '"van gogh"',
    '"\\ud800"',
    '"\\u0000"',
    '""',
    "[]",
    "{}",
    "[[]]",
    "true",
    "nan",
    "-inf",
    "1e400",
    "9" * 4_301,
    "0x" + "f" * 40,
    "1979-05-27",
    "1979-05-27T07:32:00Z",
    "[" * 500 + "]" * 500,
    "[" * 50_000,
    "-1",
    "0",
    "1e-9",
    "999999999999999999999",
    "'''\n\n'''",
    '["a", 1]',
    '["x", "x"]',
    '"../../../etc/passwd"',
    '["/etc/passwd"]',
    '["/dev/zero"]',
    '"' + "{}" * 40 + '"',
    '"' + "y" * 50_000 + '"',
    '[{a = 1}, {b = [{c = "d"}]}]',
)
_LINES = (
    "[edit]",
    "[refine]",
    "[[concepts]]",
    "[concepts]",
    "[methods.uce.edit]",
    "[families.sd.edit]",
    "[families]",
    "[preserve]",
    "[[retain]]",
    "[prompts]",
    "[a.b.c]",
    '["\\u0000"]',
    "schema_version = 1",
    "x",
    "=",
    "a.b.c.d.e = 1",
    ".".join(["k"] * 400) + " = 1",
    "#: added by forget when this recipe was used; read again as part of it",
    '#:file "x"',
    '#:evaluation "x"',
    "#:file []",
    "#:file {}",
    "#:file " + "[" * 50_000,
    '#:line "y"',
    "#:line 3",
    "#:line " + "9" * 4_301,
    "#:set refine.steps = 6",
    "#:set concepts.0.x.x.x = 1",
    "#:set " + ".".join(["x"] * 2_000) + "=1",
    "#:set concepts.99999999999999999999999 = 1",
    "#:method uce",
    "#:method ..",
    "#:method",
    "\ufeff",
    "\x00",
    "\r",
    "\u2028",
)


@st.composite
def recipe_files(draw: st.DrawFn, example: str, keys: tuple[str, ...]) -> bytes:
    """A recipe like `example`: lines moved, removed, added, values replaced.

    Args:
        keys: names of keys that a recipe can have.
    """
    lines = example.split("\n")
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(lines) - 1))
        kind = draw(st.integers(0, 6))
        if kind == 0:
            del lines[at]
        elif kind == 1:
            lines.insert(at, draw(st.sampled_from(_LINES)))
        elif kind == 2:
            lines.append(draw(st.sampled_from(_LINES)))
        elif kind == 3:
            lines.insert(at, lines[draw(st.integers(0, len(lines) - 1))])
        elif kind == 4:
            lines.insert(at, f"{draw(st.sampled_from(keys))} = {draw(st.sampled_from(_ATOMS))}")
        elif "=" in lines[at]:
            key = lines[at].partition("=")[0]
            lines[at] = f"{key}= {draw(st.sampled_from(_ATOMS))}"
        if not lines:
            lines = [""]
    return draw(damaged("\n".join(lines).encode("utf-8", "surrogatepass")))


# lines and tables of text

_CELLS = (
    *TEXTS,
    '"',
    '""',
    '"a\nb"',
    ",",
    "\t",
    ";",
    "\r",
    "x" * 140_000,
    "9" * 4_301,
    "nan",
    "1e400",
    "-1",
    "adversarial",
    "plain",
    "#x",
    "a\0b",
)


@st.composite
def text_files(draw: st.DrawFn, example: str, separator: str = "") -> bytes:
    """A text file like `example`: lines, and cells between `separator`, changed."""
    lines = example.split("\n")
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, max(len(lines) - 1, 0)))
        cells = lines[at].split(separator) if separator else [lines[at]]
        kind = draw(st.integers(0, 4))
        if kind == 0:
            cells[draw(st.integers(0, len(cells) - 1))] = draw(st.sampled_from(_CELLS))
        elif kind == 1:
            cells.append(draw(st.sampled_from(_CELLS)))
        elif kind == 2:
            cells = cells[:-1]
        elif kind == 3:
            lines.insert(at, draw(st.sampled_from(_CELLS)))
            continue
        lines[at] = separator.join(cells)
    ends = draw(st.sampled_from(("\n", "\n", "\n", "\r\n", "\r", "\u2028", "\x0b")))
    return draw(damaged(ends.join(lines).encode("utf-8", "surrogatepass")))


@st.composite
def json_lines(draw: st.DrawFn, documents: list[Any]) -> bytes:
    """A file with a JSON document on each line."""
    lines = [json_text(draw(changed(document, 2))) for document in documents]
    return draw(damaged("\n".join(lines).encode("utf-8", "surrogatepass")))


Strategy = st.SearchStrategy[bytes]
Build = Callable[..., Strategy]
