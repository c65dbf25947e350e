"""The blocks of commands that documents show, and the single commands in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from itertools import groupby

import yaml
from processes import ROOT

# Languages of blocks that a reader types. Others are data, Python or what a program prints.
SHELL = ("", "bash", "console")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
LOOP = re.compile(r"^for (\w+) in (.+?); do\n(.*?)^done$", re.DOTALL | re.MULTILINE)
SEPARATORS = {"&&", "||", "|", ";"}


def documents() -> dict[str, str]:
    """All Markdown files that explain something, by their path in the repository, and their text.

    The changelog tells of earlier versions, and the golden folders are outputs.
    """
    found = [
        path
        for pattern in ("*.md", "docs/**/*.md", "benchmarks/**/*.md", "scripts/**/*.md")
        for path in ROOT.glob(pattern)
    ]
    found += [*ROOT.glob("recipes/**/*.md"), *ROOT.glob("forgetcli/bundled/*.md")]
    names = {path.relative_to(ROOT).as_posix(): path for path in sorted(found)}
    return {n: p.read_text(encoding="utf-8") for n, p in names.items() if n != "CHANGELOG.md"}


def commands(markdown: str) -> list[str]:
    """The commands of all blocks for a shell, and those of a workflow, one a line."""
    return [
        command
        for language, block in BLOCK.findall(markdown)
        for script in (_workflow(block) if language == "yaml" else [block])
        if language in (*SHELL, "yaml")
        for command in split(script)
    ]


def split(script: str) -> list[str]:
    """The single commands of a script, without prompts, comments and redirections.

    Continued lines are joined, loops unrolled, lists, pipes and substitutions taken apart.
    """
    script = re.sub(r"\\\n\s*", "", LOOP.sub(_unrolled, script))
    found = []
    for line in script.splitlines():
        line = line.removeprefix("$ ")
        found += [inner for each in re.findall(r"\$\(([^)]+)\)", line) for inner in split(each)]
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
        lexer.whitespace_split, lexer.commenters = True, "#"
        for separates, words in groupby(lexer, SEPARATORS.__contains__):
            if not separates:
                found.append(shlex.join(_without_redirections(words)))
    return found


def _unrolled(loop: re.Match[str]) -> str:
    name, values, body = loop.groups()
    return "".join(re.sub(rf"\${name}\b", value, body) for value in values.split())


def _without_redirections(words: Iterator[str]) -> Iterator[str]:
    for word in words:
        if word in (">", ">>", "<"):
            next(words)
        else:
            yield word


def _workflow(block: str) -> Iterator[str]:
    for job in yaml.safe_load(block)["jobs"].values():
        yield from (step["run"] for step in job["steps"] if "run" in step)
