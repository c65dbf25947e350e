"""Results for other programs: results.json, results.csv (a row for each image), JUnit XML."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from forgetcli.evaluation.scores import good
from forgetcli.report.spreadsheet import csv_table
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
    "axis",
)


def write_json(path: Path, data: Mapping, command: str = "eval") -> None:
    """Write the object that a command prints with ``--json``, with its ``schema_version``."""
    atomic.write_atomically(
        path, plain_json.encode({"schema_version": SCHEMA_VERSION, "command": command, **data})
    )


def write_csv(path: Path, evaluation: Evaluation, folder: Path) -> None:
    """Write a row for each image of each model; see `image_rows`."""
    atomic.write_atomically(path, csv_table(COLUMNS, image_rows(evaluation, folder)))


def image_rows(evaluation: Evaluation, folder: Path) -> Iterator[list[object]]:
    """The values of `COLUMNS` for each image.

    ``edited`` is 1 if the model was edited to forget the concept. In rows of the unedited model it
    is 1 if any of the edited models was. ``axis`` is what the verdict counts for.
    """
    forgotten = frozenset().union(*(run.subject.forgets for run in evaluation.edited))
    for run in evaluation.runs:
        for answer in run.answers:
            question = answer.question
            edited = question.label in (run.subject.forgets or forgotten)
            if run is evaluation.baseline:
                as_intended = answer.seen != edited
            else:
                as_intended = good(answer, run.subject)
            yield [
                run.subject.name,
                question.label,
                answer.judged,
                question.prompt,
                question.kind,
                answer.seed,
                int(edited),
                int(answer.seen),
                int(as_intended),
                f"{answer.score:.6f}",
                answer.path.relative_to(folder).as_posix(),
                question.axis or ("forget" if edited else "retain"),
            ]


def write_junit(path: Path, data: Mapping, outcomes: Sequence[Outcome]) -> None:
    """Write a test case for each gate, and one for each model and concept with its scores as
    output.
    """
    cases = [
        (outcome.model, outcome.gate.key, outcome.text, outcome.passed) for outcome in outcomes
    ]
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
            suite, "testcase", classname=_xml(f"forget.{model}"), name=_xml(name), time="0"
        )
        if not passed:
            ElementTree.SubElement(case, "failure", message=_xml(text)).text = _xml(text)
        ElementTree.SubElement(case, "system-out").text = _xml(text)
    atomic.write_atomically(
        path, ElementTree.tostring(suite, encoding="utf-8", xml_declaration=True)
    )


def _xml(text: str) -> str:
    """`text` with U+FFFD for control characters and surrogates, which XML 1.0 forbids."""
    return "".join(char if _is_xml(char) else "\ufffd" for char in text)


def _is_xml(char: str) -> bool:
    if char in "\t\n":
        return True
    return char >= " " and char not in "\ufffe\uffff" and not "\ud800" <= char <= "\udfff"
