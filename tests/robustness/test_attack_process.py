"""`forget attack` as a process: an edit that hides, report, gates, resume, replay, bad input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from forked import Forks
from processes import ERROR_LINE

RECIPE = """
schema_version = 1
[[concepts]]
concept = "a dog"
target = "a cat"
aliases = ["a puppy"]
direct = ["a picture of a dog in the snow", "pixel art picture of a dog"]
indirect = ["a loyal canine"]
[prompts]
templates = ["{}", "a picture of {}", "pixel art picture of {}"]
[preserve]
prompts = ["a picture of a fish", "a cat", "a rabbit", "pixel art picture of an apple"]
[[retain]]
concept = "a fish"
direct = ["a picture of a fish"]
"""
FEW = ("-n", "4", "--attack-set", "paraphrase.typos=1")
QUICK = (*FEW, "--attacks", "swap,paraphrase", "-q")


@pytest.fixture(scope="module")
def run(forked: Forks) -> Forks:
    return forked


@pytest.fixture(scope="module")
def place(run: Forks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("attack")
    (folder / "dog.toml").write_text(RECIPE)
    done = run(folder, "apply", "dog.toml", "-o", "edited", "-q")
    assert done.code == 0, done.stderr
    done = run(folder, "attack", "edited", *QUICK)
    assert (done.code, done.stdout) == (0, "attack/report.html\n"), done.stderr
    return folder


def results(place: Path, output: str = "attack") -> dict:
    return json.loads((place / output / "results.json").read_text())


def test_an_edit_of_the_encoder_hides(place: Path) -> None:
    """Words do not bring the dog back, the unedited encoder does: the edit has hidden it."""
    data = results(place)
    by_name = {row["attack"]: row for row in data["attacks"]}
    assert by_name["swap"]["edited"]["success"] == 1.0
    assert by_name["swap"]["unedited"]["success"] == 1.0
    assert by_name["paraphrase"]["edited"]["success"] <= 0.25
    assert by_name["paraphrase"]["unedited"]["success"] == 1.0
    assert data["resist"] == 0.0 and data["strongest"] == {"attack": "swap", "label": "dog"}
    page = (place / "attack/report.html").read_text()
    assert "swap brings dog back in 100\u00a0%" in page and "<script" not in page


def test_gate_and_resume(run: Forks, place: Path) -> None:
    """The second run takes everything from disk; the gate fails and says why."""
    images = {p: p.stat().st_mtime_ns for p in (place / "attack").rglob("*.png")}
    done = run(place, "attack", "edited", *QUICK, "--fail-under", "resist=0.9")
    assert done.code == 1
    assert done.stderr == "failed: edited: resist = 0.000 (not ≥ 0.9)\n"
    assert images and images == {p: p.stat().st_mtime_ns for p in images}


def test_two_processes_give_what_one_gives(run: Forks, place: Path) -> None:
    """Attacks shared out as under ``accelerate launch``; one process prints."""
    cache = str(place / "cache-of-two")
    done = run(place, "attack", "edited", *QUICK, "-o", "two", ranks=2, FORGET_CACHE_DIR=cache)
    assert (done.code, done.stdout) == (0, "two/report.html\n"), done.stderr
    assert without_times(results(place, "two")) == without_times(results(place))
    images = {p.relative_to(place / "attack"): p for p in (place / "attack").rglob("*.png")}
    assert images and all(
        (place / "two" / name).read_bytes() == path.read_bytes() for name, path in images.items()
    )


def without_times(data: object) -> object:
    """Results without seconds, and without the gates, with which another test asked again."""
    if isinstance(data, dict):
        kept = data.keys() - {"seconds", "processor_seconds", "gates"}
        return {key: without_times(data[key]) for key in sorted(kept)}
    return [without_times(value) for value in data] if isinstance(data, list) else data


def test_without_evidence_no_gate_passes(run: Forks, place: Path) -> None:
    """Without the control no attack has power, whatever its success was."""
    done = run(
        place,
        *("attack", "edited", *FEW, "--attacks", "paraphrase", "--no-control", "-q"),
        *("--fail-under", "resist=0", "-o", "weak"),
    )
    assert done.code == 1
    assert done.stderr == "failed: edited: resist was not measured (not ≥ 0)\n"


def test_eval_takes_attacks_into_account(run: Forks, place: Path) -> None:
    """A bound on resist holds for the attacked model only; without evidence it is never met."""
    quick = ("eval", "edited", "--steps", "2", "--near", "0", "--features", "none", "-q")
    gate = ("--fail-under", "resist=0.5")
    done = run(place, *quick, *gate)
    assert (done.code, done.stderr) == (1, "failed: edited: resist was not measured (not ≥ 0.5)\n")
    done = run(place, *quick, *gate, "--attack-results", "attack/results.json")
    assert (done.code, done.stderr) == (1, "failed: edited: resist = 0.000 (not ≥ 0.5)\n")
    passing = json.loads((place / "attack/results.json").read_text()) | {"resist": 0.9}
    (place / "passing.json").write_text(json.dumps(passing))
    done = run(place, *quick, *gate, "--attack-results", "passing.json")
    assert (done.code, done.stderr) == (0, "")
    passing["model"]["digest"] = "0" * 64
    (place / "others.json").write_text(json.dumps(passing))
    assert run(place, *quick, *gate, "--attack-results", "others.json").code == 1


def test_replay(run: Forks, place: Path) -> None:
    """What was found is drawn again by another model: the unedited one shows the dog."""
    file = "attack/edited/paraphrase-dog.safetensors"
    done = run(place, "attack", "demo", "--replay", file, "-o", "replay", "--json", "-q")
    data = json.loads(done.stdout)
    (row,) = (r for r in results(place)["attacks"] if r["attack"] == "paraphrase")
    tried = row["unedited"]["attempts"]
    assert [t["seen"] for t in data["attempts"]] == [t["seen"] for t in tried]
    assert data["success"] > 0.5


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("attack", "absent"), "model"),
        (("attack", "demo"), "model"),
        (("attack", "edited", "--attacks", "swpa"), "attack.unknown"),
        (("attack", "edited", "--attacks", ","), "attack.no-attack"),
        (("attack", "edited", "--concept", "fish"), "attack.unknown-concept"),
        (("attack", "edited", "--attack-set", "inversion.stepz=1"), "attack.unknown-option"),
        (("attack", "edited", "--attack-set", "inversion.steps=0"), "attack.bad-option"),
        (("attack", "edited", "--attack-set", "inversion"), "attack.bad-option"),
        (
            ("attack", "edited", "--attack-set", "inversion.timesteps=[600, 600]"),
            "attack.bad-option",
        ),
        (("attack", "edited", "--fail-under", "forget=0.5"), "eval.unknown-gate"),
        (("attack", "edited", "--floor", "absent"), "model"),
        (("attack", "demo", "--replay", "dog.toml"), "attack.bad-replay"),
        (("attack", "demo", "--replay", "absent.safetensors"), "attack.bad-replay"),
        (("eval", "edited", "--attack-results", "dog.toml"), "eval.bad-attacks"),
        (("eval", "edited", "--attack-results", "absent.json"), "eval.bad-attacks"),
        (("attack", "edited", "-n", "5", "--attacks", "swap"), "eval.other-run"),
    ],
)
def test_bad_input(run: Forks, place: Path, arguments: tuple[str, ...], code: str) -> None:
    before = sorted(place.rglob("*"))
    done = run(place, *arguments, "-q")
    assert done.code == 2 and done.stdout == ""
    assert ERROR_LINE.fullmatch(done.stderr), done.stderr
    assert done.stderr.startswith(f"error[{code}")
    assert sorted(place.rglob("*")) == before
