"""Tables on a terminal: readable at 60, 80 and 120 columns, in one number style."""

from __future__ import annotations

import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table

from forgetcli.cli import edit_tables, numbers, score_tables, tables
from forgetcli.cli.wrapping import wrapped

FIGURE = re.compile(r"[<>]?[\d.]+ % \([\d.]+–[\d.]+\)|[<>]?[\d.]+ %")
SCORES = {
    "forget": 0.95,
    "forget_ci": [0.836, 0.996],
    "forget_direct": 1.0,
    "forget_direct_ci": [0.84, 1.0],
    "forget_indirect": 0.9,
    "forget_indirect_ci": [0.7, 0.97],
    "retain": 0.996,
    "retain_ci": [0.96, 1.0],
    "h": 0.97,
    "h_ci": [0.94, 1.0],
    "adjacent": 0.958,
    "adjacent_ci": [0.86, 0.99],
    "err": None,
    "err_missing": ["forget", "retain", "adjacent", "indirect", "adversarial"],
}
CONCEPTS = {
    "van gogh": {"baseline": {"forget": 0.0}, "edited": SCORES},
    "pencil sketch": {"baseline": {"retain": 1.0}, "edited": {"retain": 1.0, "retain_direct": 1.0}},
}
MODEL = {
    "name": "edited",
    "edited": SCORES,
    "concepts": CONCEPTS,
    "near": {"monet": {"baseline": {"adjacent": 1.0}, "edited": {"adjacent": 0.958}}},
    "quality": {},
    "weight_change": {"relative": 0.01234},
}
DATA = {"n_images": 280, "judge": {"name": "demo"}, "baseline": SCORES, "models": [MODEL]}
SITES = [
    {
        "name": f"encoder.layers.{n}.mlp.fc2",
        "null_dim": 440,
        "eig_below": 2.9871e-3,
        "eig_above": 3.0123e-3,
        "rcond": 1.234e-5,
        "delta_rel": 0.0312,
        "preserve_drift": 1.234e-4,
        "fit": 0.876,
    }
    for n in (1, 2)
]


def rendered(parts: list, width: int) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    for part in parts:
        console.print(part, soft_wrap=isinstance(part, str))
    return console.file.getvalue()


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("models", [1, 2, 5])
def test_no_figure_of_eval_is_broken(width: int, models: int):
    several = [{**MODEL, "name": f"edited-{n}"} for n in range(models)]
    text = rendered(score_tables.shares({**DATA, "models": several}), width)
    wide = rendered(score_tables.shares({**DATA, "models": several}), 500)
    assert FIGURE.findall(text) == FIGURE.findall(wide)
    assert "…" not in text and max(map(len, text.splitlines())) <= width
    assert "err lacks: forget, retain" in text and "0.0123" in text and "near concept" in text


def test_what_is_scored_apart_has_a_row_only_where_there_is_any():
    assert "names erased" not in rendered(score_tables.shares(DATA), 60)
    apart = {**SCORES, "retain_naming": 0.1, "retain_naming_ci": [0.02, 0.4], "retain_naming_n": 10}
    text = rendered(score_tables.shares({**DATA, "models": [{**MODEL, "edited": apart}]}), 60)
    assert re.search(r"names erased +– +10 % \(2–40\)", text) and "shares words" not in text


@pytest.mark.parametrize("width", [80, 120])
def test_no_figure_of_verbose_apply_is_broken(width: int):
    assert rendered(edit_tables.sites(SITES), width) == rendered(edit_tables.sites(SITES), 500)


@pytest.mark.parametrize("width", [60, 80])
def test_no_figure_of_compare_is_broken(width: int):
    measured = {"value": 0.313, "ci": [0.153, 0.52], "n": 100}
    quality = {"distance": measured, "clip_score": {**measured, "value": 27.123}}
    costs = {"seconds": 123.4, "peak_rss": 987654321, "peak_gpu": 12345678901, "changed": 0.0123}
    rows = [
        {"name": name, "error": None, "quality": quality, **costs, **SCORES}
        for name in ("unedited", "nullspace", "mace-cf")
    ]
    nothing = dict.fromkeys(costs)
    error = {"code": "edit.no-null-space", "message": "x", "hint": ""}
    rows.append({"name": "speed", "error": error, "quality": {}, **nothing})
    data = {**DATA, "recipes": [{"name": "art_styles"}], "methods": rows}
    text, wide = (rendered(score_tables.methods(data), columns) for columns in (width, 500))
    assert FIGURE.findall(text) == FIGURE.findall(wide) and "…" not in text
    assert max(map(len, text.splitlines()[1:])) <= width
    for cell in ("27.1 (0.15–0.52)", "123.4", "987.7 MB", "12.3 GB", "1.23 %", "failed"):
        assert cell in text
    rows[:] = [{**row, "peak_gpu": None} for row in rows]
    assert "GPU memory" not in rendered(score_tables.methods(data), width)


def test_a_table_that_does_not_fit_is_a_list():
    heads = ("", *(f">{name}" for name, _ in score_tables._SHARES))
    row = ["edited", *(numbers.share(SCORES, key) for _, key in score_tables._SHARES)]
    text, wide = (rendered([tables.table(heads, [row])], width) for width in (80, 500))
    assert text.split("\n")[1:4] == [
        "edited",
        "  forget: 95 % (84–100)",
        "  direct: 100 % (84–100)",
    ]
    assert FIGURE.findall(text) == FIGURE.findall(wide) and len(wide.splitlines()) == 5
    # The figures are compared because rich breaks them: without the list it would.
    folded = Table(*heads)
    folded.add_row(*row)
    assert FIGURE.findall(rendered([folded], 80)) != FIGURE.findall(wide)


@given(
    rows=st.lists(
        st.lists(
            st.lists(st.text("x", min_size=1, max_size=20), max_size=4), min_size=3, max_size=3
        ),
        min_size=1,
        max_size=3,
    ),
    right=st.lists(st.booleans(), min_size=3, max_size=3),
    width=st.sampled_from([40, 60, 80, 120]),
)
def test_no_word_of_a_table_is_broken(rows: list, right: list, width: int):
    heads = [f"{'>' * aligned}head" for aligned in right]
    text = rendered(
        [tables.table(heads, [[" ".join(cell) for cell in row] for row in rows])], width
    )
    words = sorted(word for row in rows for cell in row for word in cell)
    assert sorted(word for word in text.split() if set(word) == {"x"}) == words
    assert max(map(len, text.splitlines())) <= width


def test_lines_are_wrapped_between_words():
    line = "  things: dog, cat, rabbit"
    assert wrapped(line, 20) == "  things: dog, cat,\n    rabbit"
    assert wrapped("at least 5 %: pass", 10) == "at least\n  5 %:\n  pass"
    digest = "base digest: " + "0" * 64
    assert wrapped(f"{line}\n{digest}", 40) == f"{line}\n{digest}"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 %"), (1, "100 %"), (0.95, "95 %"), (0.996, ">99 %"), (0.004, "<1 %")],
)
def test_a_share_is_rounded_to_nothing_or_all_only_if_it_is(value: float, text: str):
    assert numbers.percent(value) == text


def test_numbers_have_one_style():
    assert numbers.share({"a": 0.5, "a_ci": [0.1, 0.9]}, "a") == "50 % (10–90)"
    assert numbers.share({}, "a") == numbers.figure(None) == "–"
    assert numbers.figure(0.3127, [0.21, 0.42]) == "0.313 (0.21–0.42)"
    assert numbers.figure(-0.01, [-0.02, 0.01]) == "-0.01 (-0.02 to 0.01)"
    assert numbers.figure(0.00085, [0.0006, 0.0011]) == "0.00085 (0.0006–0.0011)"
    assert numbers.figure(3e-5, [2e-5, 4.1e-5]) == "0.000030 (0.000020–0.000041)"
    assert numbers.figure(3e-9, [2e-9, 4e-9]) == "3.0e-09 (2.0e-09 to 4.0e-09)"
    assert numbers.figure(27.123, [26.8, 27.4]) == "27.1 (26.80–27.40)"
    assert numbers.figure(0.0, [0.0, 0.0]) == "0 (0.00–0.00)"


def test_apply_leads_with_a_verdict():
    passed = edit_tables.outcome({"moved": 0.75, "preserve_drift": 0.002})
    assert passed.splitlines() == [
        "forgotten: moved 75 % of the way to the target (at least 5 %): pass",
        "kept: preserve prompts changed by 0.2 % (at most 25 %): pass",
    ]
    failed = edit_tables.outcome({"moved": 0.01, "preserve_drift": 0.5})
    assert [line.rpartition(": ")[2] for line in failed.splitlines()] == ["FAIL", "FAIL"]
    assert edit_tables.outcome({}) == ""
    assert edit_tables.extent(SITES) == (
        "edited: 2 layers, each changed by at most 3.1 %; --verbose lists them"
    )
