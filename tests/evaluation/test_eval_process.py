"""`forget eval` as a process on the embedded model: cut short and resumed, mixed up, shared out,
and in a pipeline.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from faults import Strike
from forked import Forks
from PIL import Image
from processes import ROOT

EVALUATION = """
schema_version = 1
[[concepts]]
concept = "van gogh"
target = "monet"
direct = ["a dog in the style of van gogh", "apple, van gogh style"]
indirect = ["starry night", "cat with thick swirling brushstrokes"]
[[retain]]
concept = "pixel art"
direct = ["a dog in pixel art style", "pixel art picture of an apple"]
indirect = ["cat with retro video game sprite"]
[[retain]]
concept = "a dog"
direct = ["a picture of a dog"]
[[near]]  # its image is there already
concept = "pixel art"
direct = ["a dog in pixel art style"]
"""


EVAL = (
    "eval",
    "edited",
    "--recipe",
    "evaluation.toml",
    "-n",
    "2",
    "--steps",
    "6",
    "--batch",
    "3",
    "-o",
)


@pytest.fixture(scope="module")
def place(forked: Forks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an edited model (a quick edit, whose quality does not matter here) and its
    whole evaluation in `whole`.
    """
    folder = tmp_path_factory.mktemp("eval")
    (folder / "evaluation.toml").write_text(EVALUATION)
    quick = ("--set", "refine.mode=copy", "--set", 'preserve.prompts=["a house"]', "-q")
    made = forked(folder, "apply", "evaluation.toml", *quick)
    assert made.code == 0, made.stderr
    done = forked(folder, *EVAL, "whole", "--json")
    assert done.code == 0, done.stderr
    (folder / "whole.json").write_text(done.stdout)
    return folder


def outcome(folder: Path) -> tuple[dict, str, dict[str, bytes]]:
    """Everything that must not depend on how the run went: results without times, the table, the
    pictures.
    """
    results = {
        k: v for k, v in json.loads((folder / "results.json").read_text()).items() if k != "seconds"
    }
    pictures = {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*.png"))}
    return results, (folder / "results.csv").read_text(), pictures


def test_the_run_wrote_what_it_printed(forked, place):
    printed = json.loads((place / "whole.json").read_text())
    results, table, pictures = outcome(place / "whole")
    assert {k: printed[k] for k in results} == results
    axes = [row["axis"] for row in csv.DictReader(table.splitlines())]
    plain = axes.count("forget") + axes.count("retain")
    assert results["n_images"] == len(pictures) == plain == 2 * 2 * 8
    assert results["edited"]["adjacent_n"] == 2 and axes.count("adjacent") == 2 * 2
    # "a dog in the style of van gogh" and the like: what else they name.
    assert results["edited"]["selective_n"] == axes.count("selective") // 2 > 0
    weights = results["models"][0]["weight_change"]
    assert 0 < weights["relative"] < 1 and weights["tensors"] == len(
        json.loads((place / "edited/forget.report.json").read_text())["sites"]
    )
    assert all(
        "dog" not in name and "apple" not in name for name in pictures
    )  # never named by prompt
    assert (place / "whole/report.html").stat().st_size > 10_000
    # Second moments of 3 sites, of the recipe's and the vocabulary's prompts; and the unedited
    # model's 16 images, 3 a batch. Catches images of edited models in the cache.
    assert len(list((forked.scratch / "cache").rglob("*.safetensors"))) == 3 * 2 + 6
    assert results["quality"]["distance"]["n"] == 8 and results["models"][0]["forgets"] == [
        "van_gogh"
    ]


def test_a_killed_run_ends_as_one_that_was_not(forked, place):
    kill = Strike("forgetcli.generation.generate:png_bytes", "SIGKILL", nth=8)
    killed = forked(place, *EVAL, "killed", "-q", strike=kill)
    there = sorted((place / "killed").rglob("*.png"))
    assert killed.code == -9 and len(there) == 16 + 6  # two batches of the edited model's images
    torn = there[0]
    torn.write_bytes(torn.read_bytes()[:-50])  # and one of its pictures is damaged
    assert forked(place, *EVAL, "killed", "-q").code == 0
    assert outcome(place / "killed") == outcome(place / "whole")


@pytest.mark.parametrize("change", [("--seed", "1"), ("--steps", "7"), ("-n", "1")])
def test_another_run_is_not_mixed_in(forked, place, change):
    before = outcome(place / "whole")
    refused = forked(place, *EVAL, "whole", *change)
    assert (
        refused.code == 2
        and "error[eval.other-run]" in refused.stderr
        and "--force" in refused.stderr
    )
    assert "Traceback" not in refused.stderr and outcome(place / "whole") == before


def test_two_processes_give_what_one_gives(place):
    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--multi_gpu",
        "--num_processes",
        "2",
        "--num_machines",
        "1",
        "--mixed_precision",
        "no",
        "--dynamo_backend",
        "no",
        "-m",
        "forgetcli",
        *EVAL,
        "shared",
        "--json",
    ]
    done = subprocess.run(
        launch,
        cwd=place,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "FORGET_CACHE_DIR": str(place / "cache-of-two"),  # the unedited model's images too
            "OMP_NUM_THREADS": "1",  # with another number sums differ in their last bits
        },
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["n_images"] == 32  # one object: the other process prints nothing
    (results, table, pictures), (wanted, wanted_table, wanted_pictures) = (
        outcome(place / "shared"),
        outcome(place / "whole"),
    )
    assert (pictures, results, table) == (wanted_pictures, wanted, wanted_table)
    assert len(list((place / "shared/verdicts").glob("*.jsonl"))) == 2  # both judged


def test_gates_decide(forked, place):
    gate = ("--fail-under", "retain=1,forget=1,h=1", "--confident", "-q")
    failed = forked(place, *EVAL, "whole", *gate)
    assert failed.code == 1 and failed.stderr.count("failed: edited: ") == 3
    assert forked(place, *EVAL, "whole", "--fail-under", "retain=0,forget=0", "-q").code == 0


@pytest.mark.parametrize(
    "args, code",
    [
        (("eval", "edited", "--prompts", "other.txt", "--ask", "a dog"), "eval.other-prompts"),
        (("eval", "edited", "--features", "nosuch"), "features.unknown"),
    ],
)
def test_bad_input_is_one_clear_line(forked, place, args, code):
    (place / "other.txt").write_text("a dog\n")
    refused = forked(place, *args, "-o", "bad")
    assert (
        refused.code == 2
        and f"error[{code}]" in refused.stderr
        and "Traceback" not in refused.stderr
    ), refused.stderr
    assert "hint: " in refused.stderr and not (place / "bad").exists()


def test_prompts_of_ones_own(forked, place):
    (place / "mine.csv").write_text(
        "prompt,concept,kind,seed\n"
        '"van gogh, a cat",van gogh,direct,5\n'
        "starry night,van gogh,indirect,\n"
        "a dog,a dog,direct,9\n"
    )
    mine = ("--prompts", "mine.csv", "--steps", "4", "-o", "mine", "--json")
    done = forked(place, "eval", "edited", *mine)
    assert done.code == 0, done.stderr
    data = done.json
    assert (data["n_images"], data["edited"]["forget_n"], data["edited"]["retain_n"]) == (6, 2, 1)
    digest = hashlib.sha256((place / "mine.csv").read_bytes()).hexdigest()
    assert data["asked"]["prompts"] == {"name": "mine", "format": "csv", "sha256": digest}
    assert (data["asked"]["ask"], data["asked"]["near"]) == (None, 4)
    seeds = [
        json.loads(Image.open(p).text["forget"])["seed"]
        for p in sorted((place / "mine/edited").glob("*.png"))
    ]
    assert seeds == [5, 0, 9]
