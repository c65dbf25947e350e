"""`forget eval` as a process on the embedded model: cut short and resumed, mixed up, shared out,
and in a pipeline.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
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
"""


def command(*args: str) -> list[str]:
    return [sys.executable, "-m", "forgetcli", *args]


def environment(cwd: Path, cache: str = "cache") -> dict[str, str]:
    """One thread for every process: with another number of them sums come out otherwise in their
    last bits.

    Args:
        cache: another folder than that of `place`: images of the unedited model are generated too.
    """
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "FORGET_CACHE_DIR": str(cwd / cache),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }


def run(cwd: Path, *args: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        command(*args), cwd=cwd, env=environment(cwd), capture_output=True, text=True, timeout=600
    )


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
def place(tmp_path_factory) -> Path:
    """A folder with an edited model (a quick edit, whose quality does not matter here) and its
    whole evaluation in `whole`.
    """
    folder = tmp_path_factory.mktemp("eval")
    (folder / "evaluation.toml").write_text(EVALUATION)
    made = run(
        folder,
        "apply",
        "evaluation.toml",
        "--set",
        "refine.mode=copy",
        "--set",
        'preserve.prompts=["a house"]',
        "-q",
    )
    assert made.returncode == 0, made.stderr
    done = run(folder, *EVAL, "whole", "--json")
    assert done.returncode == 0, done.stderr
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


def test_the_run_wrote_what_it_printed(place):
    printed = json.loads((place / "whole.json").read_text())
    results, table, pictures = outcome(place / "whole")
    assert {k: printed[k] for k in results} == results
    assert results["n_images"] == len(pictures) == len(table.splitlines()) - 1 == 2 * 2 * 8
    assert all(
        "dog" not in name and "apple" not in name for name in pictures
    )  # never named by prompt
    assert (place / "whole/report.html").stat().st_size > 10_000
    # Second moments of 3 sites, of the recipe's and the vocabulary's prompts; and the unedited
    # model's 16 images, 3 a batch. Catches images of edited models in the cache.
    assert len(list((place / "cache").rglob("*.safetensors"))) == 3 * 2 + 6
    assert results["quality"]["distance"]["n"] == 8 and results["models"][0]["forgets"] == [
        "van_gogh"
    ]


def test_a_killed_run_ends_as_one_that_was_not(place):
    running = subprocess.Popen(
        command(*EVAL, "killed", "-q"), cwd=place, env=environment(place, "cache-of-killed")
    )
    until = time.monotonic() + 300
    while len(list((place / "killed").rglob("*.png"))) < 4 and time.monotonic() < until:
        assert running.poll() is None
        time.sleep(0.05)
    running.send_signal(signal.SIGKILL)
    running.wait()
    there = len(list((place / "killed").rglob("*.png")))
    assert 4 <= there < 32
    torn = sorted((place / "killed").rglob("*.png"))[0]
    torn.write_bytes(torn.read_bytes()[:-50])  # and one of its pictures is damaged
    assert run(place, *EVAL, "killed", "-q").returncode == 0
    assert outcome(place / "killed") == outcome(place / "whole")


@pytest.mark.parametrize("change", [("--seed", "1"), ("--steps", "7"), ("-n", "1")])
def test_another_run_is_not_mixed_in(place, change):
    before = outcome(place / "whole")
    refused = run(place, *EVAL, "whole", *change)
    assert (
        refused.returncode == 2
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
        env=environment(place, "cache-of-two"),
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


def test_gates_decide_and_a_closed_pipe_is_no_crash(place):
    failed = run(
        place, *EVAL, "whole", "--fail-under", "retain=1,forget=1,h=1", "--confident", "-q"
    )
    assert failed.returncode == 1 and failed.stderr.count("failed: edited: ") == 3
    assert run(place, *EVAL, "whole", "--fail-under", "retain=0,forget=0", "-q").returncode == 0
    evaluate = " ".join(command(*EVAL, "whole", "--json"))
    piped = subprocess.run(
        f"set -o pipefail; {evaluate} 2>err.txt | head -c 10 >/dev/null",
        shell=True,
        executable="/bin/bash",
        cwd=place,
        env=environment(place),
        timeout=300,
    )
    assert piped.returncode in (0, 141) and (place / "err.txt").read_text().count("Traceback") == 0


@pytest.mark.parametrize(
    "args, code",
    [
        (("eval", "nowhere"), "model.not-found"),
        (("eval", "edited", "--judge", "dmeo"), "judge.unknown"),
        (("eval", "edited", "--prompts", "empty.txt"), "prompts.empty"),
        (("eval", "edited", "--recipe", "objects"), "eval.other-recipe"),
        (("eval", "edited", "--prompts", "other.txt", "--ask", "a dog"), "eval.other-prompts"),
        (("eval", "edited", "--features", "nosuch"), "features.unknown"),
    ],
)
def test_bad_input_is_one_clear_line(place, args, code):
    (place / "empty.txt").write_text("\n# nothing\n")
    (place / "other.txt").write_text("a dog\n")
    refused = run(place, *args, "-o", "bad")
    assert (
        refused.returncode == 2
        and f"error[{code}]" in refused.stderr
        and "Traceback" not in refused.stderr
    ), refused.stderr
    assert "hint: " in refused.stderr and not (place / "bad").exists()


def test_prompts_of_ones_own(place):
    (place / "mine.csv").write_text(
        "prompt,concept,kind,seed\n"
        '"van gogh, a cat",van gogh,direct,5\n'
        "starry night,van gogh,indirect,\n"
        "a dog,a dog,direct,9\n"
    )
    done = run(
        place, "eval", "edited", "--prompts", "mine.csv", "--steps", "4", "-o", "mine", "--json"
    )
    assert done.returncode == 0, done.stderr
    data = json.loads(done.stdout)
    assert (data["n_images"], data["edited"]["forget_n"], data["edited"]["retain_n"]) == (6, 2, 1)
    seeds = [
        json.loads(Image.open(p).text["forget"])["seed"]
        for p in sorted((place / "mine/edited").glob("*.png"))
    ]
    assert seeds == [5, 0, 9]
