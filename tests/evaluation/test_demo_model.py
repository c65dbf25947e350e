"""The main job on the embedded model, through the command line: the concept was drawn before and is
not after.
"""

from __future__ import annotations

import json
import shutil
import tomllib
from pathlib import Path

import pytest
import tomlkit
from forked import Forks
from PIL import Image
from processes import ROOT, Run

QUICK = ("--set", "refine.steps=8")  # half of the recipe's steps: far enough for these bounds


def result(done: Run) -> dict:
    assert done.code == 0, done.stderr
    return done.json


@pytest.fixture(scope="module")
def place(forked: Forks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory in which `forget apply art_styles` and `forget eval` have run."""
    folder = tmp_path_factory.mktemp("main-job")
    (folder / "apply.json").write_text(
        json.dumps(result(forked(folder, "apply", "art_styles", *QUICK, "--json")))
    )
    for part in ("art_styles.toml", "preserve/art_styles.txt"):
        (folder / "fewer" / part).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "recipes" / part, folder / "fewer" / part)
    (folder / "fewer/evaluation").mkdir()
    (folder / "fewer/evaluation/art_styles.toml").write_text(fewer_prompts())
    small = ("--steps", "4", "--near", "0", "--features", "none")
    small += ("--recipe", "fewer/art_styles.toml")
    evaluated = forked(folder, "eval", *small, "--json")
    (folder / "eval.json").write_text(json.dumps(result(evaluated)))
    return folder


def fewer_prompts() -> str:
    """Some of the recipe's evaluation prompts: two of each kind for a concept to forget, one for a
    concept to keep.
    """
    file = ROOT / "recipes/evaluation/art_styles.toml"
    evaluation = tomllib.loads(file.read_text(encoding="utf-8"))
    for table, most in (("concepts", 2), ("retain", 1)):
        for entry in evaluation[table]:
            entry |= {kind: entry[kind][:most] for kind in ("direct", "indirect")}
    return tomlkit.dumps(evaluation)


def test_the_concepts_were_drawn_before_and_are_not_after(place):
    scores = json.loads((place / "eval.json").read_text())
    before, after = scores["baseline"], scores["edited"]
    assert before["forget"] < 0.3  # the control: the unedited model does draw them
    assert after["forget"] > 0.7
    assert (
        after["forget_indirect"] > before["forget_indirect"] + 0.3
    )  # prompts that only hint, never edited
    assert after["retain"] > before["retain"] - 0.15
    assert after["h"] > before["h"] + 0.2


def test_every_score_stands_beside_its_interval_and_the_judges_accuracy(place):
    scores = json.loads((place / "eval.json").read_text())
    for side in ("baseline", "edited"):
        for name in ("forget", "forget_direct", "forget_indirect", "retain", "h"):
            low, high = scores[side][f"{name}_ci"]
            assert 0 <= low <= scores[side][name] <= high <= 1
    assert scores["judge"]["accuracy"]["other_hands"]["n"] > 1000


def test_what_was_preserved_hardly_moved(place):
    applied = json.loads((place / "apply.json").read_text())
    assert [s["name"] for s in applied["sites"]] == [
        f"encoder.layers.{b}.mlp.fc2" for b in (1, 2, 3)
    ] or all(s["name"].endswith(f"layers.{b}.mlp.fc2") for b, s in zip((1, 2, 3), applied["sites"]))
    for site in applied["sites"]:
        # Small beside the edit itself: an edit of this size without the projector moves the outputs
        # by as much.
        assert site["preserve_drift"] < site["delta_rel"] / 10
        assert site["null_dim"] >= 100
    assert applied["check"]["moved"] > 0.5 and applied["check"]["preserve_drift"] < 0.1


def test_verify_proves_that_nothing_else_changed(forked, place):
    assert result(forked(place, "verify", "edited", "--json"))["ok"]
    weights = place / "edited/unet/diffusion_pytorch_model.safetensors"
    kept = weights.read_bytes()
    weights.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    damaged = forked(place, "verify", "edited", "--json")
    weights.write_bytes(kept)
    assert damaged.code == 1
    assert damaged.json["problems"][0]["file"] == "unet/diffusion_pytorch_model.safetensors"


def test_before_and_after_at_the_same_seed(forked, place):
    command = ("generate", "starry night", "--model", "edited", "--compare-base", "--steps", "4")
    generated = result(forked(place, *command, "-o", "pictures", "--json"))
    (image,) = generated["images"]
    before, after = Image.open(place / image["base"]), Image.open(place / image["path"])
    assert before.tobytes() != after.tobytes()
    origin = json.loads(after.text["forget"])
    assert (origin["prompt"], origin["seed"]) == ("starry night", 0)
    assert origin["model"] != json.loads(before.text["forget"])["model"]
    again = result(forked(place, *command, "-o", "pictures", "--json"))
    assert again["reused"] == 2


def test_an_output_that_exists_is_not_touched(forked, place):
    before = (place / "edited/forget.provenance.json").read_bytes()
    refused = forked(place, "apply", "art_styles")
    assert refused.code == 2
    assert (
        "error[output.exists]" in refused.stderr
        and "--force" in refused.stderr
        and "Traceback" not in refused.stderr
    )
    assert (place / "edited/forget.provenance.json").read_bytes() == before
