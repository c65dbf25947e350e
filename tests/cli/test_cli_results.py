"""Progress, and the commands that compute with the computing left out: what is handed over, how
results show.
"""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from forgetcli.cli.app import app
from forgetcli.cli.progress import Bars, Lines, opening, parts_of_line
from forgetcli.errors import ForgetError
from forgetcli.progress import Stages, enter

# progress


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_plain_lines_come_seldom_and_tell_the_time_left():
    clock, written = Clock(), []
    lines = Lines(written.append, clock)
    lines.stage("refinement", 100)
    for _ in range(100):
        clock.now += 0.25
        lines.advance(loss=0.5)
    lines.note("two\nlines")
    lines.stage("writing")
    lines.done()
    assert written == [
        "refinement: 100 steps",
        *(
            f"refinement: {n}/100  loss 0.5  about {(100 - n) * 0.25:.1f} s left"
            for n in (20, 40, 60, 80)
        ),
        "refinement: 100/100  loss 0.5",
        "two lines",
        "refinement: done in 25.0 s  loss 0.5",
        "writing …",
        "writing: done in 0.0 s",
    ]


def test_stages_are_numbered_and_an_observer_without_numbers_is_left_alone():
    written: list[str] = []
    staged = Stages(Lines(written.append, Clock()), ("loading", "editing", "writing"), "all of it")
    enter(staged, "loading", alone=True)
    enter(staged, "editing")
    staged.stage("refinement", 6)
    enter(staged, "writing")
    staged.stage("writing")
    assert [line for line in written if "done" not in line] == [
        "all of it",
        "1/3 loading …",
        "2/3 editing: refinement: 6 steps",
        "3/3 writing …",
    ]
    enter(Lines(written.append, Clock()), "loading", alone=True)
    assert written[-1] == "3/3 writing …"


def test_an_opening_line_has_stages_and_the_time_of_the_edit_that_is_there(tmp_path, monkeypatch):
    assert opening(("a", "b"), tmp_path) == "2 stages: a, b"
    assert opening(("a",), tmp_path, 125.4) == "1 stage: a; about 2 min 05 s"
    monkeypatch.setattr("forgetcli.pipeline.apply.last_seconds", lambda output: 21.3)
    assert opening(("a",), Path("x"), 99.0) == "1 stage: a; the edit that is now in x took 21.3 s"


def test_a_stage_that_was_cut_short_is_not_called_done():
    written: list[str] = []
    lines = Lines(written.append, Clock())
    lines.stage("refinement")
    lines.stop()
    lines.done()
    assert written == ["refinement …"]


def test_bars_leave_a_line_for_each_stage_and_take_markup_as_text():
    screen = io.StringIO()
    bars = Bars(Console(file=screen, force_terminal=True, width=100))
    bars.stage("[red]moments[/red]", 2)
    bars.advance(2, loss=0.25)
    bars.note("[b]note[/b]")
    bars.stage("writing")
    bars.done()
    bars.stop()
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    assert (
        re.search(r"✓ \[red\]moments\[/red\]  \d\.\d s  loss 0\.25\n", shown)
        and "[b]note[/b]\n" in shown
        and "✓ writing" in shown
    )


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_a_bar_is_one_line_on_every_terminal(width: int):
    screen = io.StringIO()
    bars = Bars(Console(file=screen, force_terminal=True, width=width))
    bars.stage("2/4 editing: second moments of the vocabulary's words", 1899)
    bars.advance(14, null_dim=464)
    bars.progress.tasks[0].start_time -= 9  # an estimate of the time left
    lines = Console(width=width).render_lines(bars.progress.get_renderable(), pad=False)
    (line,) = ["".join(segment.text for segment in segments) for segments in lines]
    assert len(line) <= width and "2/4 editing" in line and "14/1899" in line
    assert ("about 20 min" in line) == (width > 40)
    bars.note("word " * 40)
    bars.stop()
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    noted = [line for line in re.split("[\r\n]", shown) if line.lstrip().startswith("word ")]
    assert max(map(len, noted)) <= width and " ".join(noted).split() == ["word"] * 40


@pytest.mark.parametrize(
    ("width", "name", "facts", "line"),
    [
        (58, "images", ("3/9", "about 2 s left"), ("images", 24, "  3/9  about 2 s left")),
        (30, "images", ("3/9", "about 2 s left"), ("images", 0, "  3/9  about 2 s left")),
        (
            24,
            "second moments of words",
            ("3/9", "about 2 s left"),
            ("second moments of w…", 0, "  3/9"),
        ),
        (30, "loading", (), ("loading", 21, "")),
    ],
)
def test_what_of_a_bar_fits(width: int, name: str, facts: tuple, line: tuple):
    shown, bar, end = parts_of_line(width, name, *facts)
    assert (shown, bar, end) == (line[0], line[1], line[2].strip())
    assert len(shown) + bool(bar) + bar + bool(end) + len(end) <= width


# commands


@pytest.fixture
def invoke(monkeypatch: pytest.MonkeyPatch, good: Path) -> Callable:
    monkeypatch.setattr("forgetcli.cli.progress.silence_libraries", lambda: None)
    monkeypatch.chdir(good.parent)
    # A missing model or folder is refused before the library is called.
    for folder in ("sd", "out", "edited"):
        (good.parent / folder).mkdir()
    return lambda *arguments: CliRunner().invoke(app, list(arguments), catch_exceptions=False)


class Result:
    """A result of the library: attributes, and `as_dict`."""

    def __init__(self, **values: object) -> None:
        self.__dict__.update(values)

    def as_dict(self) -> dict:
        return {
            key: str(value) if isinstance(value, Path) else value
            for key, value in self.__dict__.items()
        }


def recorder(monkeypatch: pytest.MonkeyPatch, target: str, result: object) -> list:
    calls: list = []
    monkeypatch.setattr(
        target, lambda *positional, **named: calls.append((positional, named)) or result
    )
    return calls


SITE = {
    "name": "text_model.encoder.layers.1.mlp.fc2",
    "null_dim": 123,
    "eig_below": 1e-7,
    "eig_above": 2e-5,
    "rcond": 0.01,
    "delta_rel": 0.0456,
    "preserve_drift": 1.5e-6,
    "fit": 0.98,
}
APPLIED = Result(
    output=Path("edited"),
    base={"id": "demo"},
    recipe_sha256="0",
    method="nullspace",
    sites=[SITE],
    check={"moved": 0.9},
    cache={"hits": 3, "misses": 0},
    seconds={"total": 7.5, "edit": 7.0},
)


def test_apply_hands_over_and_shows(invoke, monkeypatch: pytest.MonkeyPatch):
    calls = recorder(monkeypatch, "forgetcli.pipeline.apply.apply", APPLIED)
    human = invoke(
        "apply",
        "good.toml",
        "--set",
        "refine.steps=9",
        "-m",
        "sd",
        "-o",
        "out",
        "--dtype",
        "float16",
        "--device",
        "cpu",
        "-f",
    )
    (recipe,), named = calls[0]
    assert recipe.parameters["refine"]["steps"] == 9 and named.pop("observer") is not None
    assert named == {
        "model": "sd",
        "output": Path("out"),
        "device": "cpu",
        "dtype": "float16",
        "offload": "auto",
        "force": True,
        "strict": True,
        "config": None,
        "copying": "reflink",
    }
    assert (
        human.stdout.splitlines()[0]
        == "forgotten: moved 90 % of the way to the target (at least 5 %): pass"
    )
    assert "edited: 1 layer, each changed by at most" in human.stdout
    assert SITE["name"] not in human.stdout
    verbose = invoke("apply", "good.toml", "--verbose").stdout
    assert all(shown in verbose for shown in (SITE["name"], "123", "0.0456", "moved: 0.9"))
    assert (
        "next: forget generate 'starry night' --model out --compare-base\n" in human.stderr
    )  # its own hint, -o's folder
    data = json.loads(invoke("apply", "good.toml", "--json").stdout)
    assert (
        data["command"] == "apply" and data["sites"] == [SITE] and data["seconds"]["total"] == 7.5
    )
    quiet = invoke("apply", "good.toml", "-q")
    assert quiet.stdout == "edited\n" and quiet.stderr == "" and calls[-1][1]["dtype"] == "auto"


def test_figures_that_are_no_numbers_are_null_in_json(invoke, monkeypatch: pytest.MonkeyPatch):
    values = {
        **vars(APPLIED),
        "sites": [{**SITE, "rcond": float("nan")}],
        "check": {"moved": float("-inf"), "n": 1},
    }
    recorder(monkeypatch, "forgetcli.pipeline.apply.apply", Result(**values))
    text = invoke("apply", "good.toml", "--json").stdout
    assert "NaN" in json.dumps(values["sites"])  # control: Python writes what JSON has no word for
    data = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert data["sites"][0] == {**SITE, "rcond": None} and data["check"] == {"moved": None, "n": 1}


def test_apply_dry_run_plans_and_does_not_apply(invoke, monkeypatch: pytest.MonkeyPatch):
    applied = recorder(monkeypatch, "forgetcli.pipeline.apply.apply", APPLIED)
    recorder(
        monkeypatch,
        "forgetcli.pipeline.plan.plan",
        Result(base={"id": "demo"}, preserve=3, pairs=[["a", "b"]], seconds={"total": 0.1}),
    )
    assert json.loads(invoke("apply", "good.toml", "--dry-run", "--json").stdout)["preserve"] == 3
    assert (
        "preserve: 3\npairs: 1\n" in invoke("apply", "good.toml", "--dry-run").stdout
        and applied == []
    )


def test_generate_takes_prompts_from_everywhere(
    invoke, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    picture = Result(path=Path("images/1.png"), prompt="a", seed=3)
    made = Result(images=[picture], grid=None, reused=2)
    made.as_dict = lambda: {"images": [picture.as_dict()], "seconds": {"total": 1}}
    calls = recorder(monkeypatch, "forgetcli.generation.generate.generate", made)
    (tmp_path / "p.txt").write_text("# two\nb\n\nc\n")
    human = invoke(
        "generate",
        "a",
        "-p",
        "p.txt",
        "-n",
        "2",
        "--seed",
        "3",
        "--guidance",
        "2.5",
        "--grid",
        "--compare-base",
        "-m",
        "edited",
    )
    (prompts,), named = calls[0]
    assert (
        prompts == ["a", "b", "c"]
        and named["count"] == 2
        and named["seed"] == 3
        and named["guidance"] == 2.5
    )
    assert (
        named["grid"]
        and named["compare_base"]
        and named["model"] == "edited"
        and named["output"] == Path("images")
    )
    assert human.stdout == "images/1.png\n" and "2 images kept from an earlier run" in human.stderr
    assert json.loads(invoke("generate", "a", "--json").stdout)["images"] == [
        {"path": "images/1.png", "prompt": "a", "seed": 3}
    ]
    CliRunner().invoke(
        app, ["generate", "-p", "-", "-q"], input="from stdin\n", catch_exceptions=False
    )
    assert calls[-1][0] == (["from stdin"],)
    made.grid = Path("images/grid.png")
    assert invoke("generate", "a", "-q").stdout == "images/grid.png\n"


def side(forget_: float, retain: float) -> dict:
    return {
        "forget": forget_,
        "forget_ci": [0.1, 0.9],
        "forget_n": 24,
        "forget_direct": forget_,
        "forget_indirect": None,
        "retain": retain,
        "h": 0.5,
        "err_missing": [],
    }


CONCEPTS = {
    "van gogh": {"baseline": {"forget": 0.05}, "edited": {"forget": 0.935, "forget_direct": 1.0}},
    "pixel art": {"baseline": {"retain": 1.0}, "edited": {"retain": 0.96}},
}
QUALITY = {
    "distance": {"value": 0.0125, "ci": [0.01, 0.02], "n": 48},
    "fid": {"value": 1.5, "n": 48},
}
EVALUATED = Result(
    judge={"name": "demo"},
    n_images=24,
    baseline=side(0.05, 0.97),
    edited=side(0.935, 0.96),
    seconds={"total": 2.0},
    concepts=CONCEPTS,
    models=[
        {
            "name": "edited",
            "digest": "d",
            "edited": side(0.935, 0.96),
            "concepts": CONCEPTS,
            "quality": QUALITY,
            "weight_change": {"relative": 0.01},
            "near": {},
        }
    ],
    attacks={},
)


@pytest.fixture
def evaluated(monkeypatch: pytest.MonkeyPatch) -> list:
    """`forget eval` with the work left out: what the library is called with."""
    made = Result(**{**EVALUATED.__dict__, "edited": (Result(subject=Result(name="edited")),)})
    made.as_dict = EVALUATED.as_dict
    files = Result(
        page=Path("eval/report.html"),
        results=Path("eval/results.json"),
        table=Path("eval/results.csv"),
    )
    monkeypatch.setattr("forgetcli.report.write", lambda *positional, **named: files)
    return recorder(monkeypatch, "forgetcli.evaluation.evaluate", made)


def test_eval_shows_both_models_and_every_concept(invoke, evaluated):
    human = invoke("eval", "out", "--recipe", "good.toml", "-n", "2").stdout
    assert evaluated[0][0] == ([Path("out")],) and evaluated[0][1]["images"] == 2
    assert evaluated[0][1]["recipe"].seed == 7
    rows = [line.split() for line in human.splitlines()]
    assert ["forget", "5", "%", "(10–90)", "94", "%", "(10–90)"] in rows
    assert ["van", "gogh", "5", "%", "94", "%", "100", "%", "–"] in rows
    assert ["pixel", "art", "100", "%", "96", "%", "–", "–"] in rows
    assert ["edited", "distance", "0.0125", "(0.01–0.02)", "48"] in rows
    assert json.loads(invoke("eval", "--json").stdout)["edited"]["h"] == 0.5
    assert evaluated[-1][0] == ([Path("edited")],) and evaluated[-1][1]["recipe"] is None
    assert invoke("eval", "-q").stdout == "eval/report.html\n"


def test_eval_hands_the_judge_its_settings(invoke, evaluated):
    invoke(
        "eval",
        "--judge",
        "clip",
        "--judge-set",
        "model=org/name",
        "--judge-set",
        "batch=4",
        "--judge-set",
        'x=["a"]',
    )
    assert evaluated[0][1]["judge"] == "clip"
    assert evaluated[0][1]["judge_options"] == {"model": "org/name", "batch": 4, "x": ["a"]}
    with pytest.raises(ForgetError, match="--judge-set model: not KEY=VALUE"):
        invoke("eval", "--judge-set", "model")


def test_gates_decide_the_exit_code(invoke, evaluated, tmp_path: Path):
    passed = invoke("eval", "--fail-under", "forget=0.9", "--json")
    assert passed.exit_code == 0 and json.loads(passed.stdout)["gates"] == [
        {"model": "edited", "key": "forget", "bound": 0.9, "passed": True}
    ]
    failed = invoke("eval", "--fail-under", "forget=0.9", "--confident", "--junit", "j.xml", "-q")
    assert failed.exit_code == 1 and failed.stdout == "eval/report.html\n"
    assert failed.stderr == "failed: edited: forget = 0.935, lower end 0.100 (not ≥ 0.9)\n"
    assert 'failures="1"' in (tmp_path / "j.xml").read_text()
    assert invoke("eval", "--fail-under", "h=0.1").exit_code == 1  # no count with it: not measured
    with pytest.raises(ForgetError, match="no measure 'forgot'"):
        invoke("eval", "--fail-under", "forgot=0.9")
    with pytest.raises(ForgetError, match="--confident needs --fail-under"):
        invoke("eval", "--confident")


def test_demo_shows_the_scores_and_where_things_lie(invoke, monkeypatch: pytest.MonkeyPatch):
    story = Result(edited=Path("demo/edited"))
    story.evaluation = EVALUATED
    files = Result(page=Path("demo/report.html"), sheet=Path("demo/grid.png"))
    module = type(sys)("forgetcli.experiments.demo")
    monkeypatch.setitem(sys.modules, "forgetcli.experiments.demo", module)
    monkeypatch.setattr("forgetcli.experiments.demo", module, raising=False)
    module.run, module.STAGES = (lambda *positional, **named: story), ("editing", "report")
    monkeypatch.setattr("forgetcli.report.demo.write", lambda *positional, **named: files)
    human = invoke("demo").stdout
    assert (
        "94 %" in human
        and "report: demo/report.html\n" in human
        and "grid: demo/grid.png\n" in human
    )
    assert invoke("demo", "-q").stdout == "demo/report.html\n"
    data = json.loads(invoke("demo", "--json").stdout)
    assert data["command"] == "demo"
    keys = ["schema_version", "command", "report", "grid", "output", "evaluation", "seconds"]
    assert list(data) == keys


def test_verify_names_every_difference_and_exits_with_the_verdict(
    invoke, monkeypatch: pytest.MonkeyPatch
):
    from forgetcli.artifact.integrity import Problem, Verdict

    bad = Verdict(
        False,
        [Problem("a.bin", "changed"), Problem("b\n", "extra")],
        ["x holds"],
        ["who"],
        3,
        12,
    )
    calls = recorder(monkeypatch, "forgetcli.verification.audit.verify", bad)
    human = invoke("verify", "out", "--base", "sd", "--recipe", "r.toml", "--key", "k.pem")
    asked = {"recipe": "r.toml", "signature": None, "key": Path("k.pem")}
    assert calls == [((Path("out"), "sd"), asked)] and human.exit_code == 1
    assert (
        "✗ a.bin: changed\n" in human.stdout
        and "✗ b: extra\n" in human.stdout
        and "not proved: who\n" in human.stdout
    )
    data = invoke("verify", "--json")
    assert (
        data.exit_code == 1
        and json.loads(data.stdout)["ok"] is False
        and len(json.loads(data.stdout)["problems"]) == 2
    )
    assert invoke("verify", "-q").stdout == ""
    recorder(
        monkeypatch,
        "forgetcli.verification.audit.verify",
        Verdict(True, [], ["x holds"], [], 3, 12),
    )
    good = invoke("verify", "-q")
    assert (
        good.exit_code == 0 and good.stdout == "edited\n" and "verified" in invoke("verify").stdout
    )
