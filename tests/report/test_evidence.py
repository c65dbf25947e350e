"""Claims: the evidence page has what was erased, every figure with its interval and n beside the
unedited model's, digests that are those of the files, and commands that exist. What is missing is
named. Text from files stays text.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from command_lines import parse
from evidence_runs import ATTACKS, SCORES, measured
from faults import tree
from forked import Forks
from processes import ERROR_LINE, Run

from forgetcli.artifact import manifest as manifests
from forgetcli.artifact.edited import EditedModel
from forgetcli.export.evidence import gather
from forgetcli.progress import Silent
from forgetcli.report import evidence as report

NASTY = "<script>alert(1)</script> ![x](http://evil.example/p.png) | `a` **b** [c](d)\u202e"
NO_ATTACK = "No attack was run: nothing is known about hidden knowledge."


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return measured(tmp_path_factory.mktemp("evidence"))


@pytest.fixture
def forget(forked: Forks, tmp_path: Path) -> Callable[..., Run]:
    return partial(forked, tmp_path, "card", "edited", "--evidence")


@pytest.fixture
def place(original: Path, tmp_path: Path) -> Path:
    """The edited folder alone, where `forget` runs."""
    shutil.copytree(original / "edited", tmp_path / "edited")
    return tmp_path


def section(text: str, title: str) -> str:
    """The part of the page below a heading."""
    (_, rest) = text.split(f"\n## {title}\n")
    return rest.partition("\n## ")[0]


def page_of(folder: Path, scores: Path | None = None, attacks: Path | None = None) -> str:
    return report.page(gather(EditedModel.open(folder), scores, attacks, Silent()))


def figure(side: dict, key: str) -> str:
    """The figure as a person reads it in results.json."""
    value, low, high = (f"{100 * number:.3g}" for number in (side[key], *side[f"{key}_ci"]))
    return f"{value} % ({low}–{high}; n = {side[f'{key}_n']})"


def test_what_was_measured_is_there_with_intervals(original: Path, place: Path, forget: Callable):
    run = forget("--eval", original / SCORES, "--attack-results", original / ATTACKS)
    assert run.code == 0 and run.stdout.startswith("evidence: evidence.md\n"), run.stderr
    text = (place / "evidence.md").read_text()
    assert "| van gogh | monet |" in section(text, "What was erased")
    model = json.loads((original / SCORES).read_text())["models"][0]
    for key in ("forget", "retain", "h"):
        (row,) = [
            line for line in section(text, "Scores").splitlines() if line.startswith(f"| {key} |")
        ]
        before, after = figure(model["baseline"], key), figure(model["edited"], key)
        assert row.endswith(f"| {before} | {after} |"), row
    (row,) = [line for line in section(text, "Attacks").splitlines() if "| swap |" in line]
    (attack,) = json.loads((original / ATTACKS).read_text())["attacks"]
    assert figure(attack["edited"], "success") in row
    assert figure(attack["unedited"], "success") in row
    assert "denoiser calls" in row and "no verdict" not in row
    accuracy = json.loads((original / SCORES).read_text())["judge"]["accuracy"]["other_hands"]
    wrong = f"{100 * (1 - accuracy['thing']):.3g} %"
    assert f"| other\\_hands | thing | {wrong}" in section(text, "The judge")
    assert NO_ATTACK not in text and "No evaluation" not in text
    assert "Attacks that were not run: " in section(text, "Missing")


def test_what_is_missing_is_named(place: Path, forget: Callable):
    run = forget()
    assert run.code == 0 and "missing: No evaluation" in run.stdout
    text = (place / "evidence.md").read_text()
    for title in ("Scores", "Attacks", "The judge"):
        assert section(text, title).strip().startswith("**Missing.**")
    assert f"- {NO_ATTACK}" in section(text, "Missing")
    assert "| results of the evaluation | missing |" in section(text, "Digests")
    assert "%" not in text and not re.search(r"\b(None|nan)\b", text)
    assert "gone from the weights" in section(text, "Not claimed")


def test_a_signature_is_not_called_checked(place: Path):
    assert "The manifest is not signed" in page_of(place / "edited")
    (place / "edited" / manifests.SIGNATURE).write_text("{}")
    text = page_of(place / "edited")
    assert "it was not checked here" in text and "is not signed" not in text


def test_digests_are_those_of_the_files(original: Path, place: Path):
    text = section(page_of(place / "edited", original / SCORES), "Digests").replace("\\", "")
    made = manifests.load(place / "edited")
    rows = dict(re.findall(r"\| (.+) \| `([0-9a-f]{64})` \|", text))
    files = {
        "recipe.toml": place / "edited/recipe.toml",
        manifests.MANIFEST: place / "edited" / manifests.MANIFEST,
        "text_encoder/model.safetensors, base": original / "sd/text_encoder/model.safetensors",
        "text_encoder/model.safetensors, edited": place / "edited/text_encoder/model.safetensors",
        "results of the evaluation": original / SCORES,
    }
    for name, path in files.items():
        assert rows[name] == hashlib.sha256(path.read_bytes()).hexdigest(), name
    assert rows["base model"] == made.base_digest
    assert (
        rows["edited model"] == json.loads((original / SCORES).read_text())["models"][0]["digest"]
    )
    assert "| results of the attacks | missing |" in text


def test_its_commands_parse(original: Path, place: Path):
    """They name options that the commands have; a base that was a folder has a name of its own."""
    text = section(page_of(place / "edited", original / SCORES, original / ATTACKS),
                   "How to repeat it")  # fmt: skip
    lines = re.findall(r"^- \w+: `(forget .+)`$", text, re.MULTILINE)
    assert [shlex.split(line)[1] for line in lines] == ["apply", "verify", "eval", "attack"]
    assert "--model BASE" in lines[0] and str(original) not in text
    for line in lines:
        parse(line)


def test_text_from_files_stays_text(original: Path, place: Path):
    data = json.loads((original / SCORES).read_text())
    data["judge"]["name"] = NASTY
    data["settings"]["seed"] = NASTY
    data["models"][0]["concepts"] = {NASTY: data["models"][0]["concepts"]["van gogh"]}
    (place / "scores.json").write_text(json.dumps(data))
    attacks = json.loads((original / ATTACKS).read_text())
    attacks["attacks"][0]["attack"] = attacks["attacks"][0]["no_verdict"] = NASTY
    (place / "attacks.json").write_text(json.dumps(attacks))
    text = page_of(place / "edited", place / "scores.json", place / "attacks.json")
    shown = re.sub(r"(`+)(?!`).+?(?<!`)\1(?!`)", "", text)  # inline code is shown literally
    assert "alert" in shown and "<script" not in shown and "](" not in shown
    assert "**b**" not in shown and "\u202e" not in text
    for line in shown.splitlines():
        if line.startswith("| ") and "alert" in line:
            cells = line.replace("\\|", "").count("|") - 1
            assert cells in (4, 7)  # no cell more than the table has
    assert "**b**" in re.sub(r"\\", "", shown)  # control: without the backslashes it is markup


def test_the_same_evidence_gives_the_same_page(original: Path, place: Path):
    first = page_of(place / "edited", original / SCORES)
    assert page_of(place / "edited", original / SCORES) == first
    assert page_of(place / "edited") != first


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("--eval", "missing.json"), "evidence.results"),
        (("--attack-results", "edited/recipe.toml"), "evidence.results"),
        (("-o", "edited/evidence.md"), "output.overlaps-base"),
        (("-o", "mine.md"), "output.exists"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(
    place: Path, forget: Callable, arguments: tuple, code: str
):
    (place / "mine.md").write_text("mine")
    before = tree(place)
    run = forget(*arguments)
    assert (run.code, run.stdout) == (2, "")
    error = run.stderr[run.stderr.index("error[") :]
    assert ERROR_LINE.fullmatch(error) and f"error[{code}]" in error and "hint: " in error
    assert tree(place) == before


def test_its_options_need_evidence_and_quiet_prints_the_path(
    place: Path, forked: Forks, forget: Callable
):
    before = tree(place)
    run = forked(place, "card", "edited", "-o", "page.md")
    assert run.code == 2 and "error[usage]" in run.stderr and "--evidence" in run.stderr
    assert tree(place) == before
    run = forget("-o", "page.md", "-q")
    assert (run.code, run.stdout, run.stderr) == (0, "page.md\n", "")
    changed = tree(place)
    assert {path for path in changed if before.get(path) != changed[path]} == {"page.md"}
    run = forget("-o", "page.md", "--force", "--json")
    assert run.code == 0 and run.json["attacks"] is False and NO_ATTACK in run.json["missing"]
