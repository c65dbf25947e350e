"""`forget compare`: every method in a process of its own, one table; cut short and resumed; a
method that fails is a row.
"""

from __future__ import annotations

import csv
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from forked import GONE, Forks
from pipelines import tiny_sd
from processes import ROOT, python
from safetensors import safe_open
from single_files import ldm
from typer.testing import CliRunner

import forgetcli
from forgetcli import methods
from forgetcli import recipe as recipes
from forgetcli.cli.app import app
from forgetcli.cli.numbers import percent
from forgetcli.errors import EditError, ForgetError
from forgetcli.evaluation import Answer, Question, Run, Subject, evaluate, judges
from forgetcli.evaluation.judges import Sight
from forgetcli.evaluation.measures import Measure, ModelQuality
from forgetcli.evaluation.scores import Figure, Scores, score
from forgetcli.experiments.comparison import Comparison, Row, chosen, edits, plan, rows
from forgetcli.experiments.comparison import attacks as comparison_attacks
from forgetcli.experiments.comparison.attacks import AttackSelection, Tally
from forgetcli.experiments.comparison.edits import Fault, MethodEdit, _fault
from forgetcli.experiments.comparison.rows import RowPart
from forgetcli.experiments.comparison.run import check_folder
from forgetcli.pipeline import apply
from forgetcli.progress import Silent
from forgetcli.report import attack_table
from forgetcli.report import comparison as comparison_report
from forgetcli.report.methods import columns, markdown_table
from forgetcli.robustness.outcomes import Outcomes
from forgetcli.robustness.results import Rate
from forgetcli.robustness.run import Settings as AttackSettings

EDITED_CONCEPT = (
    'concept = "van gogh", target = "monet", '
    'direct = ["van gogh picture of a dog", "a house by van gogh"], indirect = ["starry night"]'
)
RETAINED_DOG = '{concept = "a dog", direct = ["a dog", "a picture of a dog"]}'
RECIPE = f"""
schema_version = 1
concepts = [{{{EDITED_CONCEPT}}}]
prompts = {{templates = ["{{}}", "painting by {{}}"]}}
preserve = {{prompts = ["a cat", "a dog"]}}
retain = [
  {RETAINED_DOG},
  {{concept = "a cat", direct = ["a cat"], indirect = ["cat sketch"]}},
]
near = [{{concept = "a cat", direct = ["a cat"]}}]  # its images are there already
[edit]
sites = [9]                               # the tiny model has no such layer: this method fails
[methods.uce.edit]
lam = 0.1
"""
COMPARE = (
    "compare",
    "tiny.toml",
    "--model",
    "model",
    "--methods",
    "uce,nullspace",
    "-n",
    "2",
    "--steps",
    "2",
)


def command(*args: str) -> list[str]:
    return [sys.executable, "-m", "forgetcli", *args]


def environment(cwd: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FORGET_")}
    return {
        **kept,
        "PYTHONPATH": str(ROOT),
        "FORGET_CACHE_DIR": str(cwd / "cache"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }


@pytest.fixture(scope="module")
def place(forked: Forks, tmp_path_factory) -> Path:
    """A folder with a tiny model, a recipe, and their comparison in `whole`.

    The command is forked, and each edit from it.
    """
    folder = tmp_path_factory.mktemp("compare")
    tiny_sd(folder / "model")
    (folder / "tiny.toml").write_text(RECIPE)
    done = forked(folder, *COMPARE, "-o", "whole", "--json")
    (folder / "whole.json").write_text(done.stdout)
    (folder / "whole.err").write_text(done.stderr)
    assert done.code == 0, done.stderr
    return folder


@pytest.fixture
def inside(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same folder, for calls of the library: one thread, as in the processes."""
    monkeypatch.chdir(place)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield place
    torch.set_num_threads(threads)


def outcome(folder: Path) -> tuple[list[dict], list[dict], dict[str, bytes], str]:
    """What must not depend on how the run went: rows without what was measured of the machine,
    results, pictures, the table.
    """
    data = json.loads((folder / "results.json").read_text())
    rows_ = [
        {k: v for k, v in row.items() if k not in ("seconds", "peak_rss", "cache", "reused")}
        for row in data["methods"]
    ]
    evaluations = [
        {k: v for k, v in part["evaluation"].items() if k != "seconds"} for part in data["recipes"]
    ]
    pictures = {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*.png"))}
    return rows_, evaluations, pictures, (folder / "results.csv").read_text()


# the table


def test_the_table_has_the_unedited_model_and_every_method(place):
    printed = json.loads((place / "whole.json").read_text())  # one object and nothing else
    unedited, uce, nullspace = printed["methods"]
    assert (printed["schema_version"], printed["command"]) == (1, "compare") and printed["seconds"][
        "total"
    ] > 0
    assert [unedited["name"], uce["name"], nullspace["name"]] == ["unedited", "uce", "nullspace"]
    for row in (unedited, uce):
        assert (
            row["error"] is None
            and row["seconds"] >= 0
            and row["peak_rss"] > 100 << 20
            and row["reused"] is False
        )
        for key, n in (
            ("forget", 6),
            ("forget_direct", 4),
            ("forget_indirect", 2),
            ("retain", 8),
            ("h", 14),
        ):
            low, high = row[f"{key}_ci"]
            assert 0 <= low <= row[key] <= high <= 1 and row[f"{key}_n"] == n
    assert unedited["changed"] == 0 < uce["changed"] < 1
    recipe = printed["recipes"][0]
    assert (
        recipe["recipe_sha256"] == recipes.load(place / "tiny.toml").sha256
        and recipe["methods"] == printed["methods"]
    )
    assert printed["n_images"] == 2 * 7 * 2 and printed["settings"]["images"] == 2


def test_what_was_printed_is_what_was_written(place):
    printed, whole = json.loads((place / "whole.json").read_text()), place / "whole"
    assert json.loads((whole / "results.json").read_text()) == printed
    table = list(csv.DictReader((whole / "results.csv").open()))
    axes = [row["axis"] for row in table]
    assert (
        len(table) - axes.count("adjacent") - axes.count("selective") == printed["n_images"]
        and axes.count("adjacent") == 2 * 2  # of both models
        and {row["model"] for row in table} == {"unedited", "uce"}
        and table[0]["recipe"] == "tiny"
    )
    assert all((whole / row["picture"]).is_file() for row in table)
    text = (whole / "compare.md").read_text()
    head, _, *lines = [line for line in text.splitlines() if line.startswith("|")]
    assert [line.split("|")[1].strip() for line in lines] == ["unedited", "uce", "nullspace"]
    assert len({line.count("|") for line in (head, *lines)}) == 1
    html = (whole / "report.html").read_text()
    assert (
        "<tr><td>uce</td>" in html
        and "<th>uce</th>" in html
        and "nullspace failed: " in html
        and "<script" not in html
    )


def test_a_method_that_fails_is_a_row_and_a_warning(place):
    row = json.loads((place / "whole.json").read_text())["methods"][2]
    assert (
        row["error"]["code"].startswith("edit.")
        and row["error"]["message"]
        and "forget" not in row
        and row["seconds"] is None
    )
    told = (place / "whole.err").read_text()
    assert (
        f"warning: tiny: nullspace failed: {row['error']['message']}" in told
        and "Traceback" not in told
    )
    assert "tiny: uce (1 of 2)" in told and "tiny: nullspace (2 of 2)" in told
    assert sorted(p.name for p in (place / "whole/edited").iterdir()) == [
        "none",
        "none.json",
        "recipe.toml",
        "uce",
        "uce.json",
    ]


def test_the_share_of_changed_weights_is_that_of_the_files(place):
    changed = total = 0
    for file in sorted(place.joinpath("model").rglob("*.safetensors")):
        with (
            safe_open(file, "pt") as before,
            safe_open(
                place / "whole/edited/uce" / file.relative_to(place / "model"), "pt"
            ) as after,
        ):
            for key in before.keys():  # noqa: SIM118 - safe_open is no mapping
                a, b = before.get_tensor(key), after.get_tensor(key)
                if a.is_floating_point():
                    changed, total = (
                        changed + int((a.view(torch.int16) != b.view(torch.int16)).sum()),
                        total + a.numel(),
                    )
    assert (
        json.loads((place / "whole.json").read_text())["methods"][1]["changed"]
        == pytest.approx(changed / total, rel=1e-12)
        and changed
    )


def test_the_edits_are_those_of_the_recipe(place):
    for method in ("none", "uce"):
        used = recipes.load(place / "whole/edited" / method / "recipe.toml")
        assert (
            used.method == method
            and used.sha256 == recipes.load(place / "tiny.toml", method=method).sha256
        )
    assert used.parameters == {"edit": {"lam": 0.1}}  # those that the recipe has for it


def test_the_unedited_row_is_the_baseline_of_evaluate(inside, tmp_path):
    same = {"images": 2, "steps": 2, "features": None}
    alone = evaluate("whole/edited/uce", output=tmp_path / "eval", **same)
    rows_ = json.loads(Path("whole.json").read_text())["methods"]
    for row, side in ((rows_[0], "baseline"), (rows_[1], "edited")):
        assert {key: row[key] for key in alone.as_dict()[side]} == alone.as_dict()[side]
    drawn = {p.name: p.read_bytes() for p in Path("whole/pictures/unedited").glob("*.png")}
    assert (
        drawn == {p.name: p.read_bytes() for p in (tmp_path / "eval/unedited").glob("*.png")}
        and len(drawn) == 14
    )
    assert sorted(p.name for p in Path("whole/pictures").iterdir()) == [
        "run.json",
        "uce",
        "unedited",
        "verdicts",
    ]  # drawn once
    evaluate("whole/edited/uce", output=tmp_path / "other", seed=2, **same)
    assert not {p.read_bytes() for p in (tmp_path / "other/unedited").glob("*.png")} & set(
        drawn.values()
    )  # control: they can differ


# resuming


def test_two_processes_give_what_one_gives(forked, place):
    """Edits, one of which fails, and images, shared out as under ``accelerate launch``."""
    cut_short(place, "two", "none")
    cache = str(place / "cache-of-two")
    done = forked(place, *COMPARE, "-o", "two", "--json", ranks=2, FORGET_CACHE_DIR=cache)
    assert done.code == 0, done.stderr
    faults = [row["error"] for row in json.loads(done.stdout)["methods"]]  # one object
    assert faults[:2] == [None, None] and faults[2]["code"] == "edit.no-such-site"
    assert outcome(place / "two") == outcome(place / "whole")
    assert len(list((place / "two/pictures/verdicts").glob("*.jsonl"))) == 2  # both judged


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")
def test_an_interrupted_comparison_goes_on_and_ends_as_one_that_was_not(forked, place):
    cut_short(place, "cut", "none", "uce")  # it has been before; that saves the test some seconds
    running = subprocess.Popen(
        command(*COMPARE, "-o", "cut", "-q"),
        cwd=place,
        env=environment(place),
        stderr=subprocess.PIPE,
        text=True,
    )
    until = time.monotonic() + 300
    while (
        not ((place / "cut/edited/uce.json").exists() and children(running.pid))
        and time.monotonic() < until
    ):
        assert running.poll() is None
        time.sleep(0.02)
    (child,) = children(running.pid)  # at work on the next method
    running.send_signal(signal.SIGINT)  # to the parent alone
    _, told = running.communicate(timeout=120)
    assert (
        running.returncode == 130
        and told.startswith("error[interrupted]")
        and "run the same command again" in told
    ), told
    assert not Path(f"/proc/{child}").exists()  # not without its child
    edited = place / "cut/edited"
    assert sorted(p.name for p in edited.iterdir()) == [
        "none",
        "none.json",
        "recipe.toml",
        "uce",
        "uce.json",
    ]
    kept = (edited / "uce/forget.provenance.json").read_bytes(), (edited / "uce.json").read_bytes()
    left = edited / ".speed.1-0123abcd.tmp"  # as kill -9 leaves it: nobody holds its lock
    (left / "new").mkdir(parents=True)
    (left / "lock").touch()
    done = forked(place, *COMPARE, "-o", "cut", "--json", stdout=GONE)
    assert done.code == 0 and "Traceback" not in done.stderr  # its reader left, which is no crash
    assert outcome(place / "cut") == outcome(place / "whole")
    assert not left.exists()
    assert kept == (
        (edited / "uce/forget.provenance.json").read_bytes(),
        (edited / "uce.json").read_bytes(),
    )
    uce = json.loads((place / "cut/results.json").read_text())["methods"][1]
    assert uce["reused"] and (uce["seconds"], uce["peak_rss"]) == tuple(
        json.loads(kept[1])[key] for key in ("seconds", "peak_rss")
    )


def cut_short(place: Path, output: str, *finished: str) -> None:
    """A comparison that was stopped after these edits."""
    for name in finished:
        for path in (name, f"{name}.json"):
            source, target = (place / run / "edited" / path for run in ("whole", output))
            target.parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if source.is_dir() else shutil.copy)(source, target)


def children(pid: int) -> list[int]:
    return [
        int(child)
        for task in Path(f"/proc/{pid}/task").iterdir()
        for child in (task / "children").read_text().split()
    ]


def test_other_methods_need_no_force(inside):
    shutil.copytree("whole", "fewer")
    times = {p: p.stat().st_mtime_ns for p in Path("fewer").rglob("*.png")}
    same = {"model": "model", "images": 2, "steps": 2, "output": "fewer"}
    fewer = forgetcli.compare("tiny.toml", methods="uce", **same)
    assert [row.name for row in fewer.rows] == ["unedited", "uce"] and all(
        row.reused for row in fewer.rows
    )
    shutil.rmtree("fewer/pictures/uce")  # as before uce was added
    added = forgetcli.compare("tiny.toml", methods="uce", **same)
    after = {p: p.stat().st_mtime_ns for p in times}
    assert [row.as_dict() for row in added.rows] == [row.as_dict() for row in fewer.rows]
    assert {p.parent.name for p in times if after[p] != times[p]} == {
        "uce"
    }  # control: those are drawn anew


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"steps": 3}, {"images": 1}, {"quick": True}, {"recipes": "other.toml"}]
)
def test_another_comparison_is_not_mixed_in(inside, change):
    Path("other.toml").write_text(RECIPE.replace("lam = 0.1", "lam = 0.2"))
    before = outcome(Path("whole"))
    with pytest.raises(ForgetError) as refused:
        forgetcli.compare(
            **{
                "recipes": "tiny.toml",
                "methods": "uce",
                "model": "model",
                "images": 2,
                "steps": 2,
                "output": "whole",
                **change,
            }
        )
    assert (
        refused.value.code == "eval.other-run"
        and "--force" in refused.value.hint
        and outcome(Path("whole")) == before
    )


def test_an_edit_is_kept_only_if_it_is_just_this_one(inside, tmp_path):
    base = plan.resolve("model")
    used = recipes.load("tiny.toml", method="uce")
    shutil.copytree("whole/edited", tmp_path / "edited")
    folder = tmp_path / "edited/uce"
    kept = edits.existing(used, base, folder)
    assert (
        kept.reused
        and kept.seconds == json.loads(folder.with_name("uce.json").read_text())["seconds"]
    )
    assert edits.existing(recipes.load("tiny.toml", ["seed=1"], method="uce"), base, folder) is None
    assert edits.existing(recipes.load("tiny.toml", method="none"), base, folder) is None
    assert edits.existing(used, plan.resolve("demo"), folder) is None  # another base
    notes = folder.with_name("uce.json").read_bytes()
    for damage in (b"", b"[]", notes.replace(b'"manifest_sha256": "', b'"manifest_sha256": "0')):
        folder.with_name("uce.json").write_bytes(damage)
        assert edits.existing(used, base, folder) is None
    folder.with_name("uce.json").write_bytes(notes)
    assert edits.existing(used, base, folder) == kept  # control
    weights = next(folder.rglob("diffusion_pytorch_model.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-2] + b"xx")
    assert edits.existing(used, base, folder) is None


# what stops it


def test_an_unknown_method_is_named_before_anything_is_loaded(forked, place):
    refused = forked(
        place, "compare", "tiny.toml", "--methods", "uce,nulspace", "-o", "bad", "--json"
    )
    assert (refused.code, refused.stdout) == (2, "") and "Traceback" not in refused.stderr
    assert (
        refused.stderr
        == "error[recipe.unknown-method]: there is no method 'nulspace'\nhint: did you mean "
        "'nullspace'?\n"
    )
    assert not (place / "bad").exists()


def test_a_single_file_is_compared_with_the_settings_that_are_named(
    forked, inside, tmp_path, monkeypatch
):
    def apply_in_fork(command: list[str]) -> dict | Fault:
        done = forked(inside, *command[command.index("apply") :])
        return done.json if done.code == 0 else _fault(done.stderr, done.code)

    monkeypatch.setattr(edits, "_apply", apply_in_fork)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    file = ldm(inside / "model", tmp_path / "alone" / "tiny.safetensors", "sd1")
    options = {
        "methods": "uce",
        "model": str(file),
        "images": 1,
        "steps": 1,
        "output": tmp_path / "out",
        "features": "none",
    }
    with pytest.raises(ForgetError) as error:  # control: nothing lies beside the file
        forgetcli.compare("tiny.toml", **options)
    assert error.value.code == "model.no-config"
    result = forgetcli.compare("tiny.toml", config="model", **options)
    assert [row.name for row in result.rows] == ["unedited", "uce"] and result.rows[1].fault is None
    assert (tmp_path / "out" / "edited" / "uce" / "config" / "model_index.json").is_file()


def test_which_methods_are_meant():
    assert chosen("all") == [
        name for name in methods.names() if name != "none"
    ] and "uce" in chosen("all")
    assert chosen("uce, none,nullspace,uce") == chosen(["uce", "nullspace"]) == ["uce", "nullspace"]
    for nothing in ("", "none", []):
        with pytest.raises(ForgetError) as refused:
            chosen(nothing)
        assert refused.value.code == "compare.no-method" and "uce" in refused.value.hint


def test_all_failed_is_an_error_and_so_is_a_control_that_fails(inside, monkeypatch):
    same = {"methods": "nullspace", "model": "model", "images": 2, "steps": 2}
    shutil.rmtree("alone", ignore_errors=True)
    shutil.copytree("whole", "alone")
    monkeypatch.setattr(
        edits,
        "_apply",
        lambda command: Fault("edit.x", f"no {command[command.index('--method') + 1]}", "h"),
    )
    with pytest.raises(EditError) as failed:
        forgetcli.compare("tiny.toml", output="alone", **same)  # the control is there already
    assert (failed.value.code, failed.value.message, failed.value.hint) == (
        "compare.all-failed",
        "every method failed: nullspace: no nullspace",
        "h",
    )
    with pytest.raises(ForgetError) as failed:
        forgetcli.compare("tiny.toml", output="none", **same)
    assert (failed.value.code, failed.value.message) == ("edit.x", "no none")


@pytest.mark.parametrize(
    ("said", "code", "fault"),
    [
        (
            "warning: x\nerror[edit.no-effect]: it did nothing\nhint: do more\n",
            2,
            Fault("edit.no-effect", "it did nothing", "do more"),
        ),
        ("error[memory]: too little\n", 2, Fault("memory", "too little")),
        ("", -9, Fault("killed", "the edit's process was ended by SIGKILL", "too little memory?")),
        (
            "Traceback …\nValueError: x\n",
            1,
            Fault("internal", "the edit ended with exit code 1: ValueError: x"),
        ),
        ("", 1, Fault("internal", "the edit ended with exit code 1: no error message")),
    ],
)
def test_why_an_edit_failed(said, code, fault):
    assert _fault(said, code) == fault


@pytest.mark.parametrize(
    ("said", "stops"),
    [
        ("edit.no-effect", False),
        ("internal", False),
        ("model.not-finite", False),
        ("output.disk-full", True),
        ("permission", True),
    ],
)
def test_what_every_method_would_meet_ends_the_comparison(said, stops, tmp_path, monkeypatch):
    fake = tmp_path / "python"
    fake.write_text(
        f"#!/bin/sh\nenv > {tmp_path}/env\necho \"$@\" > {tmp_path}/args\necho 'error[{said}]: x' "
        f">&2\nexit 2\n"
    )
    fake.chmod(0o755)
    monkeypatch.setattr(edits.sys, "executable", str(fake))
    for name in ("DRY_RUN", "SET", "METHOD", "CACHE_DIR"):
        monkeypatch.setenv(f"FORGET_{name}", "1")
    base = plan.resolve("demo")
    files = {"folder": tmp_path / "uce", "source": tmp_path / "r.toml"}
    command = edits._command("uce", base=base, **files, device="cpu", dtype="bfloat16")
    if stops:
        with pytest.raises(ForgetError) as ended:
            edits._apply(command)
        assert ended.value.code == said
    else:
        assert edits._apply(command) == Fault(said, "x")
        assert (
            (tmp_path / "args")
            .read_text()
            .endswith(
                f"--model demo --output {tmp_path}/uce --lenient --force --json --quiet --device "
                f"cpu --dtype bfloat16\n"
            )
        )
    inherited = re.findall(r"^(FORGET_\w+)=", (tmp_path / "env").read_text(), re.MULTILINE)
    assert inherited == ["FORGET_CACHE_DIR"]  # flags of the comparison are not flags of its edits


# memory


@pytest.mark.skipif(
    not Path("/proc/self/status").exists() or "VmHWM" not in Path("/proc/self/status").read_text(),
    reason="needs VmHWM",
)
def test_peak_memory_is_the_process_own_and_not_its_parents():
    child = (
        "import resource; from forgetcli.pipeline.memory import peak_rss; "
        "print(peak_rss(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)"
    )
    done = python(
        f"import subprocess, sys\nheld = b'x' * (300 << 20)\n"
        f"print(subprocess.run([sys.executable, '-c', {child!r}], capture_output=True, "
        f"text=True).stdout)\n"
        "from forgetcli.pipeline.memory import peak_rss; print(peak_rss())"
    )
    (own, rusage), parent = (
        map(int, done.stdout.splitlines()[0].split()),
        int(done.stdout.split()[-1]),
    )
    assert own < 100 << 20 and parent > 300 << 20
    assert rusage > 300 << 20  # control: what getrusage says is the parent's


def test_apply_tells_its_peak(place):
    notes = {
        method: json.loads((place / f"whole/edited/{method}.json").read_text())
        for method in ("none", "uce")
    }
    assert all(
        100 << 20 < note["peak_rss"] < 64 << 30 and note["peak_gpu"] is None
        for note in notes.values()
    )


# several recipes


class BrightJudge:
    """Sees a concept in a picture if its mean is odd: of pictures of noise, in about half."""

    def identity(self) -> dict:
        return {"name": "bright", "digest": "0" * 64}

    def label(self, words: str, name: str | None = None) -> str:
        return words

    def see(self, pictures, labels, choices) -> list[Sight]:
        odd = [bool(sum(p.convert("L").tobytes()) % 2) for p in pictures]
        return [
            Sight(seen, label if seen else "none", float(seen)) for seen, label in zip(odd, labels)
        ]

    def clip_score(self, pictures, prompts) -> list[float]:
        return [sum(p.convert("L").tobytes()) / 1e4 for p in pictures]


@pytest.fixture(scope="module")
def both(place: Path, tmp_path_factory) -> tuple[Comparison, Path]:
    """Two recipes, one the other way round, on the tiny model; edits in this process, for time;
    nullspace fails with the first.
    """
    folder = tmp_path_factory.mktemp("both")
    (folder / "first.toml").write_text(RECIPE)
    reversed_ = RECIPE.replace(
        EDITED_CONCEPT,
        'concept = "a dog", target = "a cat", '
        'direct = ["a dog by van gogh"], indirect = ["dog sketch"]',
    )
    reversed_ = reversed_.replace(
        'preserve = {prompts = ["a cat", "a dog"]}', 'preserve = {prompts = ["a cat"]}'
    ).replace(RETAINED_DOG, '{concept = "van gogh", direct = ["van gogh picture of a dog"]}')
    (folder / "second.toml").write_text(
        reversed_.replace("sites = [9]", "sites = [1]\nmin_rank = 4").replace(
            "[methods", '[refine]\nmode = "copy"\n[methods'
        )
    )

    def edit(recipe, base, where, *, source, device, dtype, force):
        try:
            made = apply.apply(recipe, model=str(base.folder), output=where, strict=False)
        except EditError as fault:
            return MethodEdit(
                recipe.method, where, fault=Fault(fault.code, fault.message, fault.hint)
            )
        return MethodEdit(
            recipe.method,
            where,
            seconds=made.seconds["edit"],
            peak_rss=made.peak_rss,
            peak_gpu=made.peak_gpu,
            changed=0.25,
            cache=made.cache,
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(edits, "edit", edit)
        load = judges.load
        patch.setattr(
            judges,
            "load",
            lambda name, *rest: BrightJudge() if name == "bright" else load(name, *rest),
        )
        patch.setattr(judges, "known", lambda name: None)
        patch.setenv("FORGET_CACHE_DIR", str(folder / "cache"))
        result = forgetcli.compare(
            [folder / "first.toml", folder / "second.toml"],
            methods="uce,nullspace",
            model=str(place / "model"),
            images=2,
            steps=2,
            judge="bright",
            features="demo",
            attacks=["swap", "paraphrase"],
            attack_options={"paraphrase": {"typos": 1}},
            attempts=2,
            output=folder / "out",
        )
    comparison_report.write(
        folder / "out", result, result.as_dict(), command="forget compare first.toml second.toml"
    )
    return result, folder / "out"


def test_several_recipes_are_pooled_over_their_pictures(both):
    result, _ = both
    unedited, uce, nullspace = result.rows
    parts = [{row.name: row for row in compared.rows} for compared in result.recipes]
    for row in (unedited, uce):
        figures = row.scores.as_dict()
        # The last two: the second recipe's "dog sketch" shares a word, and its prompt for van gogh
        # names a dog.
        for key in (
            *("forget", "forget_direct", "forget_indirect", "retain"),
            *("forget_shared", "retain_naming"),
        ):
            own = [part[row.name].scores.as_dict() for part in parts]
            count = sum(s[f"{key}_n"] for s in own)
            assert figures[f"{key}_n"] == count > 0
            assert figures[key] == pytest.approx(
                sum((s[key] or 0.0) * s[f"{key}_n"] for s in own) / count, abs=1e-4
            )
    assert (
        0 < uce.scores.forget.value < 1 and 0 < uce.scores.retain.value < 1
    )  # control: not all alike, so a mean means something
    low, high = uce.scores.h.interval
    assert low <= uce.scores.h.value <= high
    assert uce.seconds == pytest.approx(sum(part["uce"].seconds for part in parts) / 2)
    assert uce.peak_rss == max(part["uce"].peak_rss for part in parts) and uce.changed == 0.25
    for key in ("clip_score", "distance"):
        measured = [getattr(part["uce"].quality, key) for part in parts]
        count = sum(m.count for m in measured)
        mean = sum(m.value * m.count for m in measured) / count
        assert getattr(uce.quality, key) == Measure(pytest.approx(mean, abs=1e-4), count)
    assert (
        unedited.quality.clip_score.value > 0
        and unedited.quality.distance is None
        and parts[0]["uce"].quality.kid is not None
    )
    assert (
        nullspace.fault is not None
        and nullspace.scores is None
        and "failed on 1 of 2 recipes" in nullspace.fault.message
    )
    assert (
        parts[0]["nullspace"].fault is not None
        and parts[1]["nullspace"].fault is None
        and parts[1]["nullspace"].scores.forget.count == 2
        and parts[1]["nullspace"].scores.forget_shared.count == 2
    )


def test_several_recipes_have_a_folder_each_and_a_page_over_all(both):
    _, folder = both
    data = json.loads((folder / "results.json").read_text())
    assert (
        [part["name"] for part in data["recipes"]] == ["first", "second"]
        and "forget" in data["methods"][1]
        and "forget" not in data["methods"][2]
    )
    for name in ("first", "second"):
        assert {
            "report.html",
            "results.json",
            "results.csv",
            "compare.md",
            "edited",
            "pictures",
        } <= {p.name for p in (folder / name).iterdir()}
        own = json.loads((folder / name / "results.json").read_text())
        assert (
            own["name"] == name and own["command"] == "compare" and own["judge"]["name"] == "bright"
        )
    table = list(csv.DictReader((folder / "results.csv").open()))
    assert {row["recipe"] for row in table} == {"first", "second"} and all(
        (folder / row["picture"]).is_file() for row in table
    )
    html = (folder / "report.html").read_text()
    assert (
        'href="first/report.html"' in html
        and 'href="second/report.html"' in html
        and "CLIP score" in html
        and 'class="plot"' in html
    )
    assert (folder / "compare.md").read_text().count("| method |") == 3


def test_every_method_is_attacked_alike_and_the_control_once(both):
    """Fails if a method has a control of its own, or attacks that were made are made again."""
    result, folder = both
    for compared in result.recipes:
        methods_ = [row.name for row in compared.rows[1:] if row.fault is None]
        assert list(compared.attacks) == methods_
        attacks_folder = compared.folder / "attacks"
        assert {p.name for p in attacks_folder.iterdir() if p.is_dir()} - {"verdicts"} == {
            "unedited",
            *methods_,
        }
        controls = [[a.control for a in own.attacked] for own in compared.attacks.values()]
        assert all(control == controls[0] for control in controls)
        assert {
            a.edited.options == a.control.options for a in compared.attacks["uce"].attacked
        } == {True}
    unedited, uce, nullspace = result.rows
    assert set(unedited.attacks) == set(uce.attacks) == {"swap", "paraphrase"}
    assert nullspace.attacks == {}  # it failed with one recipe
    own = [compared.attacks["uce"].attacked for compared in result.recipes]
    swaps = [part.edited.success for parts in own for part in parts if part.edited.attack == "swap"]
    assert unedited.attacks["swap"].rate.count == 4 and sum(r.count for r in swaps) == 4
    data = json.loads((folder / "results.json").read_text())
    rows_ = list(csv.DictReader((folder / "attacks.csv").open()))
    assert {(r["recipe"], r["method"], r["attack"]) for r in rows_} == {
        (part["name"], method, attack)
        for part in data["recipes"]
        for method in part["attacks"]
        for attack in ("swap", "paraphrase")
    }
    for text in ("report.html", "compare.md"):
        assert "swap" in (folder / text).read_text() and "paraphrase" in (folder / text).read_text()
    first = result.recipes[0]
    made = MethodEdit("uce", first.folder / "edited" / "uce")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judges, "load", lambda *_: BrightJudge())
        patch.setattr(Outcomes, "_compute", lambda *_: pytest.fail("an attack is made again"))
        again = comparison_attacks.attack_edits(
            SimpleNamespace(folder=first.folder),
            [made],
            AttackSelection(("swap", "paraphrase"), {"paraphrase": {"typos": 1}}, 2),
            settings=AttackSettings(images=2, seed=0, steps=2, guidance=None, batch=8),
            judge="bright",
            judge_options=None,
            device=None,
            observer=Silent(),
        )
    assert again["uce"].attacked == first.attacks["uce"].attacked


def test_attacks_without_a_verdict_do_not_dilute_the_others():
    weak, strong = Tally(Rate(0, 10), "too weak"), Tally(Rate(3, 10))
    pooled = comparison_attacks.pooled([{"swap": weak}, {"swap": strong}])
    assert pooled["swap"] == strong
    silent = comparison_attacks.pooled([{"swap": weak}, {"swap": weak}])["swap"]
    assert silent == Tally(Rate(0, 20), "too weak")
    row = {"attacks": {"swap": silent.as_dict()}}
    assert str(attack_table.cell(row, "swap")) == "no verdict (0.00)"
    assert str(attack_table.cell({"attacks": {"swap": strong.as_dict()}}, "swap")).startswith(
        "0.30"
    )
    for attacking, code in (
        (AttackSelection(("swop",)), "attack.unknown"),
        (AttackSelection(("swap",), {"inversion": {"steps": 3}}), "attack.no-attack"),
        (AttackSelection(("inversion",), {"inversion": {"stops": 3}}), "attack.unknown-option"),
    ):
        with pytest.raises(ForgetError) as refused:
            attacking.check()
        assert refused.value.code == code


def test_a_label_forgotten_here_and_kept_there_is_each_recipes_own(tmp_path):
    def part(recipe: str, forgets: str, seen: dict[str, bool]):
        subject = Subject("m", None, frozenset({forgets}))
        answers = tuple(
            Answer(Question(label, label, f"a {label}"), 0, tmp_path, there, label, 1.0)
            for label, there in seen.items()
        )
        return RowPart(recipe, Row("m"), Run(subject, answers), subject)

    parts = [
        part("one", "dog", {"dog": False, "cat": True}),
        part("two", "cat", {"dog": True, "cat": False}),
    ]
    made = rows.pooled("m", parts).scores.as_dict()
    assert (made["forget"], made["forget_n"], made["retain"], made["retain_n"]) == (1.0, 2, 1.0, 2)
    naive = score(
        [a for part in parts for a in part.run.answers],
        replace(parts[0].subject, forgets=frozenset({"dog", "cat"})),
    )
    assert naive.forget.value == 0.5 and naive.retain.value is None  # control: labels mixed up


def test_names_become_names_of_folders(tmp_path):
    assert [plan.plain(name) for name in ("art_styles", "../../x", "..", "a b/c", "-x", "")] == [
        "art_styles",
        "_.._x",
        "_",
        "a_b_c",
        "x",
        "_",
    ]
    assert all(
        Path(plan.plain(name)).name == plan.plain(name) for name in ("../../x", "..", "/", "a/b")
    )


def test_quick_asks_less_of_the_same():
    whole = recipes.load("art_styles")
    quick = plan.shortened(whole)
    assert len(whole.retain) > len(quick.retain) == 6
    assert {c.concept for c in quick.retain} <= {c.concept for c in whole.retain}
    assert (
        max(len(c.direct) for c in whole.concepts)
        > 3
        == max(len(c.direct) for c in quick.concepts)
        == max(len(c.indirect) for c in quick.concepts)
    )
    assert (
        quick.edit_pairs() == whole.edit_pairs() and quick.sha256 == whole.sha256
    )  # edits are the same
    few = recipes.parse(RECIPE)
    assert plan.shortened(few).retain == few.retain


# how it shows


def test_the_table_as_markdown_is_text_whatever_it_holds():
    nothing = Figure(None, (0.0, 1.0), 0)
    side = Scores(
        forget=Figure(0.5, (0.25, 0.75), 4),
        forget_by_kind={"direct": nothing, "indirect": nothing},
        retain=Figure(1.0, (0.9, 1.0), 4),
        h=Figure(0.667, (0.5, 0.8), 8),
        forget_shared=nothing,
        retain_naming=nothing,
    )
    good = {
        **Row(
            "a|b",
            seconds=1.25,
            peak_rss=512 << 20,
            changed=0.0123,
            scores=side,
            quality=ModelQuality(clip_score=Measure(25.0, 3)),
        ).as_dict()
    }
    bad = Row("c", fault=Fault("edit.x", "no *good*\n|", "")).as_dict()
    assert columns([good, bad]) == [
        "forget",
        "direct",
        "indirect",
        "retain",
        "H",
        "CLIP score",
        "seconds",
        "memory",
        "changed",
    ]
    _, _, first, second, _, told = markdown_table([good, bad]).splitlines()
    assert (
        first == "| a\\|b | 0.500 [0.25, 0.75] | – | – | 1.000 [0.90, 1.00] | 0.667 [0.50, 0.80] | "
        "25.000 | 1.2 | 512 MiB | 1.23% |"
    )
    assert second.startswith("| c | failed: edit.x | – |") and told == "c failed: no \\*good\\* \\|"
    assert "distance" in columns(
        [{**good, "quality": {"distance": {}}}]
    ) and "GPU memory" in columns([{**good, "peak_gpu": 1}])


def test_the_command_hands_over_and_shows(both, place, monkeypatch, tmp_path):
    result, _ = both
    calls: list = []
    monkeypatch.setattr("forgetcli.cli.progress.silence_libraries", lambda: None)
    monkeypatch.setattr(
        "forgetcli.experiments.comparison.compare",
        lambda *positional, **named: calls.append((positional, named)) or result,
    )
    monkeypatch.setattr(
        comparison_report,
        "write",
        lambda *positional, **named: type(
            "Files",
            (),
            {
                "page": tmp_path / "r.html",
                "results": tmp_path / "r.json",
                "table": tmp_path / "r.csv",
                "markdown": tmp_path / "c.md",
            },
        ),
    )
    monkeypatch.chdir(place)

    def invoke(*args: str):
        return CliRunner().invoke(app, ["compare", *args], catch_exceptions=False)

    human = invoke(
        "tiny.toml",
        "--methods",
        "uce,nullspace",
        "--quick",
        "--config",
        "sd",
        "--judge-set",
        "x=1",
        "-m",
        "model",
        "-n",
        "3",
        "--seed",
        "4",
        "--attacks",
        "swap,inversion",
        "--attack-set",
        "inversion.steps=9",
    )
    ((loaded,), named) = calls[0]
    assert (
        [r.name for r in loaded] == ["tiny"]
        and named.pop("observer") is not None
        and human.exit_code == 0
    )
    assert named == {
        "methods": ["uce", "nullspace"],
        "model": "model",
        "config": "sd",
        "images": 3,
        "seed": 4,
        "steps": 20,
        "guidance": None,
        "judge": "demo",
        "judge_options": {"x": 1},
        "features": "auto",
        "quick": True,
        "attacks": ["swap", "inversion"],
        "attack_options": {"inversion": {"steps": 9}},
        "attempts": 12,
        "output": Path("compare"),
        "device": None,
        "batch": 8,
        "dtype": "auto",
        "force": False,
    }
    lines = [line.split() for line in human.stdout.splitlines()]
    names = ["unedited", "uce", "nullspace"]
    # The tables of forget, of the two kinds of prompts, and of costs.
    assert [words[0] for words in lines if words and words[0] in names][:6] == names * 2
    assert (
        all(len(line) <= 160 for line in human.stdout.splitlines())
        and percent(result.rows[1].scores.h.value) in human.stdout
    )
    assert (
        f"report: {tmp_path}/r.html\n" in human.stdout
        and human.stderr.count("warning: first: nullspace failed: ") == 1
    )
    assert (
        invoke("tiny.toml", "-q").stdout == f"{tmp_path}/r.html\n"
        and invoke("tiny.toml", "-q").stderr == ""
    )
    data = json.loads(invoke("tiny.toml", "--json").stdout)
    assert data["command"] == "compare" and [row["name"] for row in data["methods"]] == [
        "unedited",
        "uce",
        "nullspace",
    ]
    assert not any(
        isinstance(row["seconds"], float) and math.isnan(row["seconds"]) for row in data["methods"]
    )


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("force", [False, True])
def test_what_a_comparison_did_not_make_is_refused_before_the_edits(tmp_path, several, force):
    output = tmp_path / "compare"
    folder = output / "art" if several else output
    plan = SimpleNamespace(folder=folder)
    beside = tmp_path / "beside"
    (beside / "edited").mkdir(parents=True)
    (beside / "edited/run.json").write_text("precious")

    def check(code: str | None) -> None:
        if code is None:
            check_folder(plan, output, force)
        else:
            with pytest.raises(ForgetError) as refused:
                check_folder(plan, output, force)
            assert refused.value.code == code and refused.value.hint

    check(None)
    output.mkdir()
    if several:
        folder.symlink_to(beside)
        check("eval.not-ours")
        folder.unlink()
        folder.mkdir()
    for name in ("edited", "pictures"):
        (folder / name).symlink_to(beside)
        check("eval.not-ours")
        (folder / name).unlink()
        (folder / name).write_text("a file")
        check("eval.not-ours")
        (folder / name).unlink()
    # A folder of a version without markers resumes, and is not deleted.
    (folder / "pictures/unedited").mkdir(parents=True)
    (folder / "pictures/unedited/0.png").touch()
    check("eval.not-ours" if force else None)
    shutil.rmtree(folder / "pictures")
    # An edited model's recipe.toml would be overwritten.
    (folder / "edited").mkdir()
    check(None)
    (folder / "edited/forget.provenance.json").touch()
    check("eval.not-ours")
    assert (beside / "edited/run.json").read_text() == "precious"
