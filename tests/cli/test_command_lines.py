"""Claim: `command_lines.parse`, which other tests use, refuses lines that forget would refuse."""

from __future__ import annotations

import pytest
from command_lines import parse


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("forget eval edited -n 2 --judge demo", "eval"),
        ("forget recipe show art_styles --json", "recipe show"),
        ("forget compare my.toml objects --methods nullspace,uce --attacks swap", "compare"),
        ("forget generate 'starry night' --model edited --compare-base", "generate"),
    ],
)
def test_lines_of_forget_are_parsed(line: str, name: str):
    command, values = parse(line)
    assert command == name and values


@pytest.mark.parametrize(
    "line",
    [
        "forget evaluate edited",
        "forget eval edited --no-such 3",
        "forget eval edited --images",
        "forget verify edited another",
        "forget push edited",
        "forget recipe nothing",
        "python -m forgetcli eval",
        "forget apply art_styles --threads 0",
        "forget apply art_style",
        "forget apply art_styles --set refin.steps=6",
        "forget apply art_styles --dtype float8",
        "forget compare art_styles --methods nullspace,ucee",
        "forget attack --attacks swap,invert",
        "forget eval --judge demoo",
        "forget export edited --format lora --naming koya",
    ],
)
def test_lines_that_forget_would_refuse_are_refused(line: str):
    with pytest.raises(BaseException):  # noqa: B017
        parse(line)
