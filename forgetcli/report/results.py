"""Results for other programs: results.json, results.csv (a row for each picture), JUnit XML."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from forgetcli.storage import atomic
from forgetcli.storage import json as plain_json

if TYPE_CHECKING:
    from forgetcli.evaluation import Evaluation
    from forgetcli.evaluation.gates import Outcome

SCHEMA_VERSION = 1
COLUMNS = (
    "model",
    "concept",
    "judged",
    "prompt",
    "kind",
    "seed",
    "edited",
    "seen",
    "good",
    "score",
    "picture",
)


def write_json(path: Path, data: Mapping, command: str = "eval") -> None:
    """The object of ``eval --json``, with its `schema_version`; or another command's."""
    atomic.write_atomically(
        path, plain_json.encode({"schema_version": SCHEMA_VERSION, "command": command, **data})
    )


def write_csv(path: Path, evaluation: Evaluation, folder: Path) -> None:
    """A row for each picture of each model: see `picture_rows`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(picture_rows(evaluation, folder))
    atomic.write_atomically(path, text.getvalue().encode())


def picture_rows(evaluation: Evaluation, folder: Path) -> Iterator[list]:
    """`COLUMNS` of each picture; `edited`: the model, or any of the edited ones for the unedited,
    forgets the concept.

    A cell that a spreadsheet would run as a formula begins with an apostrophe instead.
    """
    from forgetcli.evaluation.scores import good

    forgotten = frozenset().union(*(run.subject.forgets for run in evaluation.edited))
    for run in evaluation.runs:
        for a in run.answers:
            edited = a.question.label in (run.subject.forgets or forgotten)
            yield [
                _inert(x)
                for x in (
                    run.subject.name,
                    a.question.label,
                    a.judged,
                    a.question.prompt,
                    a.question.kind,
                    a.seed,
                    int(edited),
                    int(a.seen),
                    int(a.seen != edited if run is evaluation.baseline else good(a, run.subject)),
                    f"{a.score:.6f}",
                    a.path.relative_to(folder).as_posix(),
                )
            ]


def _inert(cell: object) -> object:
    return (
        f"'{cell}"
        if isinstance(cell, str) and cell[:1] in ("=", "+", "-", "@", "\t", "\r")
        else cell
    )


def write_junit(path: Path, data: Mapping, outcomes: Sequence[Outcome]) -> None:
    """A test case for each gate, and one for each concept of each model with its figures as output."""
    cases = [(o.model, o.gate.key, o.text, o.passed) for o in outcomes]
    cases += [
        (model["name"], concept, json.dumps(sides["edited"]), True)
        for model in data["models"]
        for concept, sides in model["concepts"].items()
    ]
    suite = ElementTree.Element(
        "testsuite",
        name="forget eval",
        tests=str(len(cases)),
        errors="0",
        skipped="0",
        failures=str(sum(not passed for *_, passed in cases)),
        time=str(data["seconds"]["total"]),
    )
    for model, name, text, passed in cases:
        case = ElementTree.SubElement(
            suite, "testcase", classname=f"forget.{model}", name=_xml(name), time="0"
        )
        if not passed:
            ElementTree.SubElement(case, "failure", message=_xml(text)).text = _xml(text)
        ElementTree.SubElement(case, "system-out").text = _xml(text)
    atomic.write_atomically(
        path, ElementTree.tostring(suite, encoding="utf-8", xml_declaration=True)
    )


def _xml(text: str) -> str:
    """Without the control characters that XML 1.0 cannot hold."""
    return "".join(
        c
        if c in "\t\n" or (c >= " " and c not in "\ufffe\uffff" and not "\ud800" <= c <= "\udfff")
        else "\ufffd"
        for c in text
    )
