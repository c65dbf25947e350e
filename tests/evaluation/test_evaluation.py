"""From verdicts to scores, results and gates; resuming, refusing to mix, sharing out among
processes.
"""

from __future__ import annotations

import csv
import json
import math
import os
import struct
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
from PIL import Image

from forgetcli.errors import ForgetError
from forgetcli.evaluation import Answer, Evaluation, Question, Run, Subject, evaluate, judges
from forgetcli.evaluation import gates as gates_module
from forgetcli.evaluation.figure import Figure
from forgetcli.evaluation.gates import Gate, outcomes, parse
from forgetcli.evaluation.intervals import harmonic_interval
from forgetcli.evaluation.judges import Verdict
from forgetcli.evaluation.measures import Measure, ModelQuality, Quality
from forgetcli.evaluation.opened import opened
from forgetcli.evaluation.questions import choices, of_recipe
from forgetcli.evaluation.run_folder import claim
from forgetcli.evaluation.scores import _attempts, by_prompt, matrix, score, summary
from forgetcli.evaluation.subjects import _labels, _targets, apart, unused
from forgetcli.evaluation.verdicts import Log, look
from forgetcli.generation.generate import batches
from forgetcli.generation.images import ImageRequest, has_origin
from forgetcli.process.distributed import Processes
from forgetcli.progress import Silent
from forgetcli.recipe import Concept
from forgetcli.report.results import COLUMNS, write_csv, write_json, write_junit

COLOURS = {"red": (255, 0, 0), "blue": (0, 0, 255)}


class ColourJudge:
    """Sees a concept if the picture has its colour; counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def identity(self) -> dict:
        return {"name": "colour", "digest": "0" * 64}

    def label(self, words: str, name: str | None = None) -> str | None:
        return name or (words if words in COLOURS else None)

    def see(self, pictures, labels, choices) -> list[Verdict]:
        self.asked += len(pictures)
        judged = [
            next((c for c, rgb in COLOURS.items() if p.getpixel((0, 0)) == rgb), "none")
            for p in pictures
        ]
        return [Verdict(j == label, j, float(j == label)) for j, label in zip(judged, labels)]


def base(name: str = "demo") -> SimpleNamespace:
    return SimpleNamespace(id=name, digest=name * 4, folder=Path("nowhere"))


def run(folder: Path, subject: Subject, rows: Sequence[tuple[str, str, str, bool]]) -> Run:
    """Rows of (concept, prompt, kind, seen)."""
    answers = []
    for k, (concept, prompt, kind, seen) in enumerate(rows):
        path = folder / subject.name / f"{k}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), "red").save(path)
        answers.append(
            Answer(
                Question(concept, concept, prompt, kind),
                k,
                path,
                seen,
                concept if seen else "none",
                float(seen),
            )
        )
    return Run(subject, tuple(answers))


ROWS = [
    ("red", "a red", "direct", True),
    ("red", "like blood", "indirect", True),
    ("red", "trained on", "direct", True),
    ("blue", "a blue", "direct", True),
]


@pytest.fixture
def evaluation(tmp_path: Path) -> Evaluation:
    edited = Subject(
        "edited", base("edited"), frozenset({"red"}), frozenset({"trained on"}), "a" * 64
    )
    after = [
        ("red", "a red", "direct", False),
        ("red", "like blood", "indirect", True),
        ("red", "trained on", "direct", False),
        ("blue", "a blue", "direct", True),
    ]
    return Evaluation(
        {"name": "colour", "digest": "0" * 64},
        run(tmp_path, Subject("unedited", base()), ROWS),
        (run(tmp_path, edited, after),),
        {"seed": 0},
        {"total": 1.0},
    )


def test_a_concept_can_be_gone_without_its_target_being_reached(tmp_path):
    """Of three pictures of red, one is blue, one nothing that the judge knows, one still red."""
    subject = Subject("edited", base(), frozenset({"red"}), targets=frozenset({("red", "blue")}))
    rows = [("red", prompt, "direct", False) for prompt in "abc"] + [("blue", "d", "direct", True)]
    unedited = run(tmp_path, Subject("unedited", base()), rows)
    answers = [
        replace(answer, judged=judged, seen=judged == answer.question.label)
        for answer, judged in zip(unedited.answers, ("blue", "none", "red", "blue"))
    ]
    made = summary(unedited, Run(subject, tuple(answers))).as_dict()
    assert made["edited"]["forget"] == pytest.approx(2 / 3, abs=1e-4)
    assert (made["target"]["target"], made["target"]["target_n"]) == (0.3333, 3)
    scored = {"models": [{"name": "edited", **made}]}
    gates = parse("target=0.33,target=0.34")
    assert [o.passed for o in outcomes(scored, gates, confident=False)] == [True, False]
    assert made["concepts"]["red"]["edited"]["target"] == 0.3333
    assert "target" not in made["concepts"]["blue"]["edited"]
    unknown = replace(subject, targets=frozenset())  # a judge that could not have chosen it
    made = summary(unedited, Run(unknown, tuple(answers))).as_dict()
    assert (made["target"]["target"], made["target"]["target_n"]) == (None, 0)


def test_a_target_is_scored_where_the_judge_can_choose_it():
    concept = SimpleNamespace(concept="red", label=None, target="blue", target_label=None)
    recipe, judge = SimpleNamespace(concepts=(concept,)), ColourJudge()
    asked = [Question("red", "red", "a red")]
    assert _targets(recipe, judge, asked) == frozenset()  # what it chooses among is unknown
    judge.first_choices = lambda label, among: ["red", "blue"]
    assert _targets(recipe, judge, asked) == {("red", "blue")}
    judge.first_choices = lambda label, among: list(among)  # red alone: blue could not be chosen
    assert _targets(recipe, judge, asked) == frozenset()


def test_prompts_that_the_edit_was_made_with_are_scored_apart(evaluation):
    data = evaluation.as_dict()
    assert (data["edited"]["forget"], data["edited"]["forget_n"]) == (
        0.5,
        2,
    )  # not 2/3: 'trained on' does not count
    assert (
        data["edited"]["forget_direct"],
        data["edited"]["forget_indirect"],
        data["edited"]["retain"],
    ) == (1.0, 0.0, 1.0)
    assert (
        data["models"][0]["edit_prompts"]["forget"],
        data["models"][0]["edit_prompts"]["forget_n"],
    ) == (1.0, 1)
    assert (data["baseline"]["forget"], data["baseline"]["h"]) == (0.0, 0.0)
    assert data["edited"]["h"] == pytest.approx(2 * 0.5 / 1.5, abs=1e-4)
    assert (
        data["concepts"]["red"]["edited"]["forget"] == 0.5
        and data["concepts"]["blue"]["edited"]["retain"] == 1.0
    )


def test_prompts_with_words_of_the_edit_are_found_told_and_scored_apart(tmp_path):
    recipe = SimpleNamespace(
        concepts=(Concept(concept="red", target="blue", aliases=("like dark blood",)),),
        edit_pairs=lambda: [("red", "blue"), ("like dark blood", "blue")],
    )
    rows = [
        ("red", "a ruby", "indirect", False),
        ("red", "drops of blood", "indirect", True),
        ("red", "like dark blood", "indirect", False),  # edited itself: scored with those
        ("red", "red paint", "direct", False),  # a direct prompt names it, as it should
        ("blue", "a blue", "direct", True),
        ("blue", "a blue, red style", "direct", False),
    ]
    judge, told = ColourJudge(), []
    questions = [Question(label, label, prompt, kind) for label, prompt, kind, _ in rows]
    found = apart(recipe, judge, questions, SimpleNamespace(note=told.append))
    assert found == {("red", "drops of blood"), ("blue", "a blue, red style")}
    assert [line.partition(":")[0] for line in told] == ["warning", "warning"]
    assert "1 of 2 retain prompts name" in told[0] and "1 of 3 indirect prompts" in told[1]

    subject = Subject("edited", base("edited"), frozenset({"red"}), frozenset({"like dark blood"}))
    edited = run(tmp_path, replace(subject, apart=found), rows)
    scores = score(edited.answers, edited.subject).as_dict()
    assert (scores["forget"], scores["forget_n"]) == (1.0, 2)
    assert (scores["retain"], scores["retain_n"]) == (1.0, 1)
    assert (scores["forget_shared"], scores["forget_shared_n"]) == (0.0, 1)
    assert (scores["retain_naming"], scores["retain_naming_n"]) == (0.0, 1)


def test_nothing_measured_is_none_and_not_a_share(evaluation):
    alone = score(
        [a for a in evaluation.edited[0].answers if a.question.label == "blue"],
        evaluation.edited[0].subject,
    )
    assert alone.forget.value is None and alone.h.value is None
    assert alone.forget.interval == (0.0, 1.0)


def test_all_alike_is_not_certainty(tmp_path):
    subject = Subject("edited", base("edited"), frozenset({"red"}))
    perfect = run(
        tmp_path,
        subject,
        [("red", f"a {k}", "direct", False) for k in range(4)]
        + [("blue", f"b {k}", "direct", True) for k in range(4)],
    )
    made = score(perfect.answers, subject).as_dict()
    assert (
        made["h"] == 1.0
        and made["h_ci"] == [pytest.approx(made["forget_ci"][0], abs=1e-3), 1.0]
        and made["h_ci"][0] < 0.6
    )


def test_the_matrix_has_a_row_for_each_model(evaluation):
    made = matrix(evaluation.runs).as_dict()
    assert made["concepts"] == ["red", "blue"] and made["models"] == ["unedited", "edited"]
    assert made["seen"] == [[1.0, 1.0], [pytest.approx(1 / 3, abs=1e-4), 1.0]] and made[
        "forgets"
    ] == [[], ["red"]]


@pytest.mark.parametrize(
    "text, passes",
    [
        ("forget=0.5", True),
        ("forget=0.51", False),
        ("retain=1,forget=0", True),
        ("h=0.66", True),
        ("h=0.67", False),
    ],
)
def test_a_gate_compares_the_measure(evaluation, text, passes):
    assert (
        all(o.passed for o in outcomes(evaluation.as_dict(), parse(text), confident=False))
        == passes
    )


def test_confident_compares_the_lower_end(evaluation):
    (loose,), (strict,) = (
        list(outcomes(evaluation.as_dict(), (Gate("retain", 0.5),), confident=c))
        for c in (False, True)
    )
    assert loose.passed and not strict.passed  # one picture: 1.00 [0.21, 1.00]
    assert "lower end 0.206" in strict.text and "not ≥ 0.5" in strict.text


@pytest.mark.parametrize(
    "scores_",
    [
        {},
        {"forget": None, "forget_n": 0},
        {"forget": math.nan, "forget_n": 3, "forget_ci": [0, 1]},
        {"forget": 1.0, "forget_n": 0, "forget_ci": [0.5, 1]},
        {"forget": 1.0, "forget_n": 3},
        {"forget": 1.0, "forget_n": 3, "forget_ci": [math.nan, 1]},
        {"forget": True, "forget_n": 3, "forget_ci": [0, 1]},
    ],
)
def test_what_was_not_measured_never_passes(scores_):
    for confident in (False, True):
        (outcome,) = outcomes(
            {"models": [{"name": "m", "edited": scores_}]},
            (Gate("forget", 0.0),),
            confident=confident,
        )
        assert not outcome.passed and "not measured" in outcome.text
    (control,) = outcomes(
        {"models": [{"name": "m", "edited": {"forget": 0.0, "forget_n": 3, "forget_ci": [0, 1]}}]},
        (Gate("forget", 0.0),),
        confident=False,
    )
    assert control.passed


@pytest.mark.parametrize(
    "text, code",
    [
        ("forgot=0.5", "eval.unknown-gate"),
        ("forget", "eval.bad-gate"),
        ("forget=nan", "eval.bad-gate"),
        ("forget=80", "eval.bad-gate"),
        ("", "eval.bad-gate"),
        (" , ", "eval.bad-gate"),
    ],
)
def test_bad_gates_are_refused(text, code):
    with pytest.raises(ForgetError) as refused:
        parse(text)
    assert refused.value.code == code
    assert gates_module.parse("forget = 0.5, h=1") == (Gate("forget", 0.5), Gate("h", 1.0))


def test_a_gate_says_the_measure_the_bound_and_which_measures_there_are():
    scores = {"h": 0.5, "h_n": 1, "h_ci": [0.25, 1]}
    for bound, confident, text in (
        (0.5, False, "m: h = 0.500 (≥ 0.5)"),
        (0.75, False, "m: h = 0.500 (not ≥ 0.75)"),
        (0.25, True, "m: h = 0.500, lower end 0.250 (≥ 0.25)"),
        (0.3, True, "m: h = 0.500, lower end 0.250 (not ≥ 0.3)"),
    ):
        found = gates_module.outcome("m", scores, Gate("h", bound), confident)
        assert (found.text, found.passed) == (text, "not" not in text)
        assert (found.gate, found.model) == (Gate("h", bound), "m")
    assert parse("h=0,resist=1", ("resist", "h")) == (Gate("h", 0.0), Gate("resist", 1.0))
    for text, hint in (
        ("retian=1", "did you mean 'retain'?"),
        (
            "x=1",
            "there are: forget, forget_direct, forget_indirect, retain, h, target, adjacent, "
            "selective, err",
        ),
        ("h=-0.01", "for instance h=0.8"),
        ("h=1.01", "for instance h=0.8"),
    ):
        with pytest.raises(ForgetError) as refused:
            parse(text)
        assert refused.value.hint == hint


def test_results_of_attacks_are_read_and_nothing_else_is(tmp_path):
    file = tmp_path / "results.json"
    good = {
        "command": "attack",
        "model": {"digest": "d"},
        "resist": 0.25,
        "resist_ci": [0, 1],
        "resist_n": 4,
    }
    for value in (0.25, 1, None):
        file.write_text(json.dumps({**good, "resist": value}))
        assert gates_module.read_attacks(file) == {"d": Figure(value, (0.0, 1.0), 4)}
    for attempts in (0, 1_000_000):
        file.write_text(json.dumps({**good, "resist_n": attempts}))
        assert gates_module.read_attacks(file)["d"].count == attempts
    for changed in (
        {"command": "eval"},
        {"model": {"digest": 1}},
        {"resist_n": "4"},
        {"resist_n": -1},
        {"resist_n": 1_000_001},  # a list of as many attempts would be made of it
        {"resist": 1.5},
        {"resist_ci": [0, 2]},
        {"resist": True},
        {"resist": "0.25"},
        {"resist": math.nan},
        {"resist_ci": [0]},
        {"resist_ci": [0, 0.5, 1]},
        {"resist_ci": ["low", 1]},
        {"resist_ci": None},
        {"model": None},
    ):
        file.write_text(json.dumps({**good, **changed}))
        with pytest.raises(ForgetError) as refused:
            gates_module.read_attacks(file)
        assert refused.value.code == "eval.bad-attacks"
    with pytest.raises(ForgetError):
        gates_module.read_attacks(tmp_path / "none.json")


def test_figures_have_four_decimals_and_the_interval_of_their_counts(tmp_path):
    """Wilson's limits of 2 of 3 and of 1 of 3 are the roots of his equation, to four decimals."""
    subject = Subject("edited", base("edited"), frozenset({"red"}))
    rows = [("red", f"a {k}", "adversarial", k == 0) for k in range(3)]
    rows += [("blue", f"b {k}", "plain", k == 0) for k in range(3)]
    answers = run(tmp_path, subject, rows).answers
    made = score(answers, subject)
    assert (made.forget.value, made.forget.interval) == (0.6667, (0.2077, 0.9385))
    assert (made.retain.value, made.retain.interval) == (0.3333, (0.0615, 0.7923))
    assert list(made.forget_by_kind) == ["direct", "indirect", "adversarial"]
    assert made.forget_by_kind["adversarial"] == made.forget
    nothing = made.forget_by_kind["direct"]
    assert (nothing.value, nothing.interval, nothing.count) == (None, (0.0, 1.0), 0)
    # H of the rounded fractions, and its bootstrap interval, are rounded too.
    assert (made.h.value, made.h.count) == (0.4444, 6)
    low, high = harmonic_interval([0.0, 1.0, 1.0], [1.0, 0.0, 0.0])
    assert made.h.interval == (round(low, 4), round(high, 4))
    assert 0 <= low < 0.4444 < high <= 1
    assert score(answers[:3], subject).h.interval == (0.0, 1.0)
    assert score(answers[:3], subject).h.count == 3
    assert matrix([Run(subject, answers)]).seen == ((0.3333, 0.3333),)
    assert matrix([Run(subject, answers), Run(subject, answers[:3])]).seen[1] == (0.3333, None)


def test_prompts_that_use_words_of_the_edit_are_scored_apart(tmp_path):
    subject = Subject(
        "edited",
        base("edited"),
        frozenset({"red"}),
        frozenset({"trained on"}),
        apart=frozenset({("red", "a"), ("blue", "b"), ("red", "trained on")}),
    )
    rows = [("red", "a", "direct", False), ("red", "c", "direct", True)]
    rows += [("blue", "b", "direct", True)] * 2 + [("blue", "d", "direct", False)]
    rows += [("red", "trained on", "direct", False)]
    made = score(run(tmp_path, subject, rows).answers, subject)
    assert (made.forget.value, made.forget.count) == (0.0, 1)
    assert (made.retain.value, made.retain.count) == (0.0, 1)
    assert (made.forget_shared.value, made.forget_shared.count) == (1.0, 1)
    assert (made.retain_naming.value, made.retain_naming.count) == (1.0, 2)


def test_attempts_of_an_attack_are_failures_and_successes():
    made = _attempts(Figure(0.25, (0.1, 0.7), 4))
    assert (made.value, made.interval, made.count) == (0.25, (0.1, 0.7), 4)
    assert made.outcomes == [1.0, 0.0, 0.0, 0.0]
    assert _attempts(Figure(None, (0.0, 1.0), 100)).outcomes == [0.0] * 100


def test_prompts_have_equal_weights_in_h_however_many_images_they_have(tmp_path):
    """Images of one prompt are alike: H is resampled over prompts, by the fraction of each."""
    subject = Subject("edited", base("edited"), frozenset({"red"}))
    rows = [("red", prompt, "direct", prompt == "b") for prompt in "aaab"]
    rows += [("blue", prompt, "direct", n != 1) for n, prompt in enumerate("ccd")]
    answers = run(tmp_path, subject, rows).answers
    assert by_prompt(answers[:4], subject) == [1.0, 0.0]
    assert by_prompt(answers[4:], subject) == [0.5, 1.0]
    low, high = harmonic_interval([1.0, 0.0], [0.5, 1.0])
    assert score(answers, subject).h.interval == (round(low, 4), round(high, 4))


def test_a_concept_without_images_of_a_model_has_no_score(evaluation):
    edited = evaluation.edited[0]
    baseline = replace(evaluation.baseline, answers=evaluation.baseline.answers[:3])
    made = summary(baseline, edited)
    assert made.concepts["blue"].baseline is None
    assert made.concepts["blue"].as_dict()["baseline"] == {}
    assert made.concepts["blue"].edited.as_dict()["retain_direct_n"] == 1
    # The prompt that the edit was made with is in none of the concept's figures.
    red = made.concepts["red"].edited.as_dict()
    assert (red["forget_n"], red["forget_direct_n"], red["forget_indirect_n"]) == (2, 1, 1)
    assert (made.edit_prompts.value, made.edit_prompts.count) == (1.0, 1)


def test_results_as_json_csv_and_junit(evaluation, tmp_path):
    data = evaluation.as_dict()
    write_json(tmp_path / "results.json", data | {"bad": math.nan})
    read = json.loads((tmp_path / "results.json").read_text(), parse_constant=pytest.fail)
    assert read["schema_version"] == 1 and read["edited"]["forget"] == 0.5 and read["bad"] is None
    write_csv(tmp_path / "results.csv", evaluation, tmp_path)
    rows = list(csv.DictReader((tmp_path / "results.csv").open()))
    assert tuple(rows[0]) == COLUMNS and len(rows) == 8
    assert [r["good"] for r in rows] == ["0", "0", "0", "1", "1", "0", "1", "1"] and rows[5][
        "picture"
    ] == "edited/1.png"
    write_junit(
        tmp_path / "j.xml",
        data,
        list(outcomes(data, parse("forget=0.9,retain=0.5"), confident=False)),
    )
    suite = ElementTree.parse(tmp_path / "j.xml").getroot()
    assert (suite.get("tests"), suite.get("failures")) == ("4", "1")  # two gates, two concepts
    (failure,) = suite.iter("failure")
    assert "forget = 0.500" in failure.get("message")


def test_a_cell_of_the_table_is_never_a_formula(tmp_path):
    subject = Subject("edited", base("edited"), frozenset({"red"}))
    made = Evaluation(
        {},
        run(tmp_path, Subject("unedited", base()), [("red", "=1+1", "direct", True)]),
        (run(tmp_path, subject, [("red", "=1+1", "direct", True)]),),
        {},
        {},
    )
    write_csv(tmp_path / "r.csv", made, tmp_path)
    assert [r["prompt"] for r in csv.DictReader((tmp_path / "r.csv").open())] == ["'=1+1"] * 2


def test_a_judge_chooses_within_the_group():
    asked = [
        Question("a", "a", "p", group="style"),
        Question("b", "b", "p", group="style"),
        Question("c", "c", "p", group="thing"),
        Question("a", "a", "q", group="style"),
    ]
    assert choices(asked) == [("a", "b"), ("a", "b"), ("c",), ("a", "b")]
    assert choices([Question("a", "a", "p"), Question("c", "c", "p")]) == [("a", "c")] * 2


def questions_and_pictures(folder: Path, count: int) -> tuple[list[Path], list[Question]]:
    paths, questions = [], []
    for k in range(count):
        colour = ("red", "blue")[k % 2]
        paths.append(folder / f"{k}.png")
        Image.new("RGB", (8, 8), (*COLOURS[colour][:2], COLOURS[colour][2])).save(paths[-1])
        questions.append(Question("red", "red", f"prompt {k}"))
    return paths, questions


def test_a_verdict_is_asked_once_and_survives_a_torn_file(tmp_path):
    paths, questions = questions_and_pictures(tmp_path, 5)
    judge, folder = ColourJudge(), tmp_path / "verdicts"

    def ask() -> list[bool]:
        return [
            s.seen
            for s in look(judge, paths, questions, folder, processes=Processes(), observer=Silent())
        ]

    assert ask() == [True, False, True, False, True]
    first = judge.asked  # 'blue' pictures are alike: the same bytes, the same question
    assert ask() == [True, False, True, False, True] and judge.asked == first
    (file,) = folder.iterdir()
    file.write_bytes(file.read_bytes()[:-20])  # killed while it wrote
    assert ask() == [True, False, True, False, True] and judge.asked > first
    assert ask() == [True, False, True, False, True]
    Image.new("RGB", (8, 8), "blue").save(paths[0])  # another picture is another question
    assert ask() == [False, False, True, False, True]


def test_two_processes_share_the_work_and_agree_with_one(tmp_path, monkeypatch):
    import forgetcli.evaluation.verdicts as module

    monkeypatch.setattr(module, "BATCH", 2)
    for k in range(9):
        Image.new("RGB", (8, 8), (k, 0, 0) if k % 2 else (255, 0, 0)).resize((8 + k, 8)).save(
            tmp_path / f"{k}.png"
        )
    paths, questions = (
        [tmp_path / f"{k}.png" for k in range(9)],
        [Question("red", "red", str(k)) for k in range(9)],
    )
    alone = look(
        ColourJudge(),
        paths,
        questions,
        tmp_path / "alone",
        processes=Processes(),
        observer=Silent(),
    )
    monkeypatch.setattr(Processes, "wait", lambda self: None)
    second, first = ColourJudge(), ColourJudge()
    with pytest.raises(KeyError):  # alone, it has not got what the first one judges
        look(
            second,
            paths,
            questions,
            tmp_path / "both",
            processes=Processes(1, 2),
            observer=Silent(),
        )
    together = look(
        first, paths, questions, tmp_path / "both", processes=Processes(0, 2), observer=Silent()
    )
    assert together == alone and (first.asked, second.asked) == (5, 4)


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_every_picture_is_made_by_one_process_in_the_same_block(count):
    shots = [ImageRequest(f"p{k}", k, steps=20 if k % 3 else 10) for k in range(23)]
    alone = list(batches(shots, 4, Processes()))
    shared = [list(batches(shots, 4, Processes(i, count))) for i in range(count)]
    assert sorted(tuple(b) for part in shared for b in part) == sorted(tuple(b) for b in alone)
    assert sorted(i for b in alone for i in b) == list(range(23))
    assert all(len({shots[i].steps for i in block}) == 1 for block in alone)


def test_a_folder_belongs_to_one_run(tmp_path):
    claim(tmp_path / "eval", {"models": {"unedited": "x"}, "seed": 0}, force=False)
    (tmp_path / "eval/unedited/0.png").write_bytes(b"")
    (tmp_path / "eval/mine.txt").write_text("kept")
    claim(tmp_path / "eval", {"models": {"unedited": "x"}, "seed": 0}, force=False)
    with pytest.raises(ForgetError) as refused:
        claim(tmp_path / "eval", {"models": {"unedited": "x"}, "seed": 1}, force=False)
    assert refused.value.code == "eval.other-run" and "seed" in refused.value.message
    assert (tmp_path / "eval/unedited/0.png").exists()
    claim(tmp_path / "eval", {"models": {"unedited": "x"}, "seed": 1}, force=True)
    assert not (tmp_path / "eval/unedited/0.png").exists()
    assert (tmp_path / "eval/mine.txt").exists()
    (tmp_path / "eval/run.json").write_text(json.dumps({"models": {"../mine": "x", "/etc": "y"}}))
    (tmp_path / "mine").mkdir()
    claim(
        tmp_path / "eval", {"models": {}, "seed": 2}, force=True
    )  # a doctored file leads nowhere else
    assert (tmp_path / "mine").exists()


def test_names_of_models_do_not_collide():
    assert (
        unused("edited", ["unedited", "edited", "edited-2"]) == "edited-3"
        and unused("a", []) == "a"
    )


def test_an_unknown_judge_or_setting_is_named():
    with pytest.raises(ForgetError, match="there is no judge 'dem'") as refused:
        judges.load("dem")
    assert "demo" in refused.value.hint
    with pytest.raises(ForgetError) as refused:
        judges.load("demo", None, {"threshold": 0.5})
    assert refused.value.code == "judge.unknown-option" and "'threshold'" in refused.value.message


def test_a_judge_of_a_third_party_is_found_and_cannot_replace_ours(monkeypatch):
    from importlib.metadata import EntryPoint

    points = [EntryPoint(name, "json", "forgetcli.judges") for name in ("theirs", "demo")]
    monkeypatch.setattr(
        "forgetcli.plugins.entry_points",
        lambda group: points if group == "forgetcli.judges" else [],
    )
    assert "theirs" in judges.names()
    with pytest.raises(AttributeError):  # it is the module `json`, which is no judge
        judges.load("theirs")
    assert judges.load("demo").identity()["name"] == "demo"


def test_a_folder_that_is_no_edited_model_is_refused(tmp_path):
    with pytest.raises(ForgetError):
        evaluate(tmp_path, output=tmp_path / "eval")
    with pytest.raises(ForgetError) as refused:
        evaluate([], output=tmp_path / "eval")
    assert refused.value.code == "eval.no-model" and not (tmp_path / "eval").exists()


def test_the_demo_judge_knows_its_concepts_by_label_and_by_words():
    judge = judges.load("demo")
    assert judge.label("van gogh") == judge.label("anything", "van_gogh") == "van_gogh"
    assert judge.label("a dog") == judge.label("dog") == "dog"
    assert judge.label("the unheard of") is None
    (sight,) = judge.see([Image.new("RGB", (64, 64))], ["dog"], [("dog",)])
    assert 0 <= sight.score <= 1
    confusions = judge.identity()["confusions"]
    assert confusions and all(0 < c["share"] <= 1 and c["shown"] != c["judged"] for c in confusions)


def test_questions_need_a_label_and_both_sides(tmp_path):
    from forgetcli import recipe as recipes

    recipe, judge = recipes.load("art_styles"), judges.load("demo")
    asked = of_recipe(recipe, judge)
    assert {q.label for q in asked} >= {"van_gogh", "monet", "dog"} and {q.kind for q in asked} == {
        "direct",
        "indirect",
    }
    with pytest.raises(ForgetError) as refused:
        of_recipe(recipe.model_copy(update={"retain": ()}), judge)
    assert refused.value.code == "eval.no-prompts"
    with pytest.raises(ForgetError) as refused:
        of_recipe(recipe, ColourJudge2())
    assert refused.value.code == "eval.no-label"


class ColourJudge2(ColourJudge):
    def label(self, words: str, name: str | None = None) -> str | None:
        return None


def test_a_log_of_another_judge_is_not_read(tmp_path):
    one = Log(tmp_path, {"name": "a"}, 0)
    one.append({"k": Verdict(True, "x", 1.0)})
    assert Log(tmp_path, {"name": "a"}, 1).verdicts == {"k": Verdict(True, "x", 1.0)}
    assert Log(tmp_path, {"name": "b"}, 0).verdicts == {}


def test_summary_keeps_the_keys_of_the_command(evaluation):
    made = summary(evaluation.baseline, evaluation.edited[0]).as_dict()
    for side in ("baseline", "edited"):
        for key in ("forget", "forget_direct", "forget_indirect", "retain", "h"):
            assert key in made[side] and f"{key}_ci" in made[side]


def test_the_table_of_scores_has_the_figures_of_the_result(evaluation):
    quality = Quality(
        {"name": "demo"},
        baseline=ModelQuality(clip_score=Measure(20.0, 1)),
        edited=ModelQuality(
            distance=Measure(0.1, 1, (0.0, 0.2)), fid=Measure(2.0, 2), clip_score=Measure(19.0, 1)
        ),
    )
    measured = replace(evaluation, quality={"edited": quality})
    unedited, edited = measured.rows()
    data = measured.as_dict()
    assert data["quality"] == {
        "extractor": {"name": "demo"},
        "distance": {"value": 0.1, "ci": [0.0, 0.2], "n": 1},
        "fid": {"value": 2.0, "n": 2},
        "clip_score": {"baseline": {"value": 20.0, "n": 1}, "edited": {"value": 19.0, "n": 1}},
    }
    assert (unedited.name, edited.name) == ("unedited", "edited")
    assert unedited.scores.as_dict() == data["baseline"]
    assert edited.scores.as_dict() == data["edited"]
    assert (unedited.quality, edited.quality) == (quality.baseline, quality.edited)
    assert evaluation.rows()[1].quality.as_dict() == {}


@pytest.mark.parametrize(
    "line",
    [
        b"null",
        b"[]",
        b"7",
        b"{",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"key": KEY, "seen": "no", "judged": "x", "score": 1}',
        b'{"key": KEY, "seen": true, "judged": null, "score": 1}',
        b'{"key": KEY, "seen": true, "judged": "x", "score": [1]}',
        b'{"key": KEY, "seen": true, "judged": "x", "score": true}',
        b'{"key": KEY, "seen": true, "judged": "x", "score": 1' + b"0" * 400 + b"}",
        b'{"key": KEY, "seen": true, "judged": "x", "score": NaN}',
        b'{"key": [], "seen": true, "judged": "x", "score": 1}',
        b'{"key": KEY, "seen": true, "judged": "' + b"x" * (2 << 20) + b'", "score": 1}',
    ],
    ids=lambda line: line[:60].decode(errors="replace"),
)
def test_a_damaged_line_of_a_log_is_as_none(tmp_path, line):
    paths, questions = questions_and_pictures(tmp_path, 1)
    folder = tmp_path / "verdicts"
    options = {"processes": Processes(), "observer": Silent()}
    (before,) = look(ColourJudge(), paths, questions, folder, **options)
    (file,) = folder.iterdir()
    key = json.loads(file.read_text())["key"]
    file.write_bytes(line.replace(b"KEY", json.dumps(key).encode()))
    judge = ColourJudge()
    assert look(judge, paths, questions, folder, **options) == [before] and judge.asked == 1


def test_a_pipe_among_the_logs_is_not_opened(tmp_path):
    paths, questions = questions_and_pictures(tmp_path, 1)
    folder = tmp_path / "verdicts"
    options = {"processes": Processes(), "observer": Silent()}
    (before,) = look(ColourJudge(), paths, questions, folder, **options)
    (file,) = folder.iterdir()
    os.mkfifo(folder / file.name.replace("-0", "-1"))
    assert look(ColourJudge(), paths, questions, folder, **options) == [before]
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(ForgetError) as refused:
        look(ColourJudge(), paths, questions, folder, **options)
    assert refused.value.code == "eval.not-ours"


def bomb() -> bytes:
    """A PNG of a few bytes that says that it has 10^10 pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + header
        + struct.pack(">I", zlib.crc32(header))
        + struct.pack(">I", 0)
        + b"IDAT"
        + struct.pack(">I", zlib.crc32(b"IDAT"))
    )


@pytest.mark.parametrize("content", [b"", b"text", b"\x89PNG\r\n\x1a\n", bomb(), None])
def test_an_image_that_was_replaced_is_a_named_error(tmp_path, content):
    path = tmp_path / "0.png"
    if content is None:
        os.mkfifo(path)
    else:
        path.write_bytes(content)
    with pytest.raises(ForgetError) as refused:
        opened(path)
    assert refused.value.code == "eval.image" and refused.value.hint
    # The generator makes it again.
    assert not has_origin(path, {})


def test_a_concept_that_the_judge_cannot_name_matters_only_if_it_is_asked_for():
    class Judge(ColourJudge):
        def label(self, words: str, name: str | None = None) -> str | None:
            return words if words in COLOURS else None

    def recipe(*concepts: str) -> SimpleNamespace:
        return SimpleNamespace(concepts=[SimpleNamespace(concept=c, label=None) for c in concepts])

    assert _labels(recipe("red", "violence"), Judge()) == {"red"}
    with pytest.raises(ForgetError) as refused:
        _labels(recipe("violence"), Judge())
    assert refused.value.code == "eval.no-label"


def test_near_concepts_of_a_draft_that_the_judge_cannot_name_are_left_out_and_told():
    class Noted(Silent):
        def __init__(self) -> None:
            self.notes: list[str] = []

        def note(self, message: str) -> None:
            self.notes.append(message)

    from forgetcli import recipe as recipes

    text = """
    [[concepts]]
    concept = "a dog"
    target = "a cat"
    direct = ["a drawing of a dog"]
    [[retain]]
    concept = "a cat"
    direct = ["a drawing of a cat"]
    [[retain]]
    concept = "a zeppelin"
    direct = ["a drawing of a zeppelin"]
    """
    read, judge, noted = recipes.parse(text), judges.load("demo"), Noted()
    assert [q.label for q in of_recipe(read, judge, noted)] == ["dog", "cat"]
    assert len(noted.notes) == 1 and "a zeppelin" in noted.notes[0]
    with pytest.raises(ForgetError) as refused:  # whoever has no observer would not be told
        of_recipe(read, judge)
    assert refused.value.code == "eval.no-label"
    zeppelin = read.retain[1]
    alone = read.model_copy(update={"retain": (zeppelin,)})
    with pytest.raises(ForgetError):
        of_recipe(alone, judge, noted)
