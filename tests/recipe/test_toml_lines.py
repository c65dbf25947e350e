"""Each key has its line: every form of TOML by hand, and tomli as the reference for which keys
there are.
"""

from __future__ import annotations

import pytest
import tomli
from recipe_example import EXAMPLE

from forgetcli.bundled import recipes
from forgetcli.recipe import text as recipe_text
from forgetcli.recipe.toml_lines import key_lines, split_key

NASTY = '''\
# comment = 1
"quoted key" = 1
'single' = """
[not.a.table]
fake = 1 \\"""
"""""
dotted . "inner key" . x = 2   # [no]
array = [ # comment ]
  1, "]", \'\'\'
  ]\'\'\',
  { a = 1, b = [2,
    3] }, 1979-05-27 07:32:00,
]

  [ table ]   # trailing
when = 1979-05-27T07:32:00Z
inline = { p.q = "}", r = [ "#" ] }
[[ items ]]
name = "first"
[items.sub]
deep = true
[[items.list]]
n = 1
[[items.list]]
n = 2
[[items]]
"" = 'empty'
[items.sub]
deep = false
'''


def test_lines_of_a_text_with_every_kind_of_toml():
    lines = key_lines(NASTY)
    assert {
        path: lines[path]
        for path in [
            ("quoted key",),
            ("single",),
            ("dotted",),
            ("dotted", "inner key", "x"),
            ("array",),
            ("array", 0),
            ("array", 1),
            ("array", 2),
            ("array", 3),
            ("array", 3, "b", 1),
            ("array", 4),
            ("table",),
            ("table", "when"),
            ("table", "inline", "p", "q"),
            ("table", "inline", "r", 0),
            ("items", 0),
            ("items", 0, "name"),
            ("items", 0, "sub", "deep"),
            ("items", 0, "list", 0, "n"),
            ("items", 0, "list", 1, "n"),
            ("items", 1),
            ("items", 1, ""),
            ("items", 1, "sub", "deep"),
        ]
    } == {
        ("quoted key",): 2,
        ("single",): 3,
        ("dotted",): 7,
        ("dotted", "inner key", "x"): 7,
        ("array",): 8,
        ("array", 0): 9,
        ("array", 1): 9,
        ("array", 2): 9,
        ("array", 3): 11,
        ("array", 3, "b", 1): 12,
        ("array", 4): 12,
        ("table",): 15,
        ("table", "when"): 16,
        ("table", "inline", "p", "q"): 17,
        ("table", "inline", "r", 0): 17,
        ("items", 0): 18,
        ("items", 0, "name"): 19,
        ("items", 0, "sub", "deep"): 21,
        ("items", 0, "list", 0, "n"): 23,
        ("items", 0, "list", 1, "n"): 25,
        ("items", 1): 26,
        ("items", 1, ""): 27,
        ("items", 1, "sub", "deep"): 29,
    }


def paths_of(value: object, path: tuple = ()):
    """Every key path of a parsed TOML text."""
    if path:
        yield path
    children = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, child in children:
        yield from paths_of(child, (*path, key))


@pytest.mark.parametrize(
    "text",
    [NASTY, EXAMPLE, recipe_text.STARTER, *(p.read_text() for p in recipes.bundled().values())],
)
def test_exactly_what_tomli_reads_has_a_line(text: str):
    assert set(key_lines(text)) == set(paths_of(tomli.loads(text)))


@pytest.mark.parametrize(
    ("text", "keys"),
    [("a.b", ("a", "b")), (' "a.b" . c ', ("a.b", "c")), ("concepts.0.x", ("concepts", "0", "x"))],
)
def test_keys_come_apart(text: str, keys: tuple):
    assert split_key(text) == keys


@pytest.mark.parametrize("text", ["", ".", "a.", "a b", "a=", "ä"])
def test_what_is_no_key(text: str):
    with pytest.raises(ValueError):
        split_key(text)
