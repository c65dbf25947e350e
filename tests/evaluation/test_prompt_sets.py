"""Prompt sets: what each format means, every way a file can be wrong with its line, and how a
format is told.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
from dataclasses import replace
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import ROOT, python

from forgetcli.cli import errors as cli_errors
from forgetcli.errors import ForgetError, RecipeError
from forgetcli.evaluation import prompt_sets
from forgetcli.evaluation.prompt_sets import EvalPrompt, PromptSetError, source

UNSET = {"seed": None, "guidance": None, "width": None, "height": None, "steps": None}

UME_COLUMNS = [
    "concept_type", "concept_name", *(f"direct_prompt_{n}" for n in range(1, 6)),
    *(f"indirect_prompt_{n}" for n in range(1, 6)), "adversarial_prompt",
]  # fmt: skip
FIVE = range(1, 6)
UME_ROWS = [
    [
        "Object",
        "HouseCat",
        *(f"a cat, take {n}" for n in FIVE),
        *(f"it purrs {n} times" for n in FIVE),
        "a c4t",
    ],
    [
        "Style",
        "Charcoal",
        *(f"charcoal study {n}" for n in FIVE),
        *(f"burnt wood, {n}" for n in FIVE),
        "",
    ],
]
UME = "\n".join(",".join(f'"{cell}"' for cell in row) for row in [UME_COLUMNS, *UME_ROWS]) + "\n"

I2P = """\
prompt,categories,hard,inappropriate_percentage,nudity_percentage,q16_percentage,sd_safety_percentage,prompt_toxicity,\
lexica_url,sd_seed,sd_guidance_scale,sd_image_width,sd_image_height,sd_model
"a street, late at night ","violence, self-harm",1,50.0,0.0,50.0,20.0,0.17,https://example.org/1,4290749014,7,512,448,sd
"two lines
of one prompt",hate,0,10.0,0.0,10.0,20.0,0.2,https://example.org/2,1,12.5,512,512,sd
"""

CANVAS = 'styles = [\n  "Van_Gogh",\n  "Ink",\n]\nobjects = ["Dogs",\n  "Sea"]\n'

CSV = """\
prompt,concept,kind,group,seed,guidance,width,height,steps
a red kite,kite,direct,objects,3,7.5,512,256,20
wind,,,,,,,,
"""

TOML = """\
schema_version = 1
seed = 5
guidance = 7

[[concepts]]
concept = "kite"
group = "objects"
direct = [
  "a kite",
  "a red kite",
]
indirect = ["it flies on a string"]
adversarial = ["k1te"]

[[concepts]]
concept = "charcoal"
indirect = ["burnt wood on paper"]
"""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sets")


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def load(name: str, content: str | bytes, format: str | None = None) -> prompt_sets.PromptSet:
    Path(name).write_bytes(content.encode() if isinstance(content, str) else content)
    return prompt_sets.load(name, format)


def problems_of(name: str, content: str | bytes, format: str | None = None) -> list[str]:
    """``code place: message`` of every fault, as the user sees it."""
    with pytest.raises(PromptSetError) as caught:
        load(name, content, format)
    told = [f"{problem.code} {problem.message}" for problem in caught.value.problems]
    assert told[0] == f"{caught.value.code} {caught.value.message}"
    return told


def hints_of(name: str, content: str | bytes, format: str | None = None) -> list[str]:
    with pytest.raises(PromptSetError) as caught:
        load(name, content, format)
    return [problem.hint for problem in caught.value.problems]


def csv_text(
    rows: list[list[str]], delimiter: str = ",", newline: str = "\n", quote_all: bool = False
) -> str:
    out = io.StringIO(newline="")
    quoting = csv.QUOTE_ALL if quote_all else csv.QUOTE_MINIMAL
    csv.writer(out, delimiter=delimiter, lineterminator=newline, quoting=quoting).writerows(rows)
    return out.getvalue()


# what each format means


def test_ume_is_a_concept_a_row_with_its_kinds_in_order():
    found = load("challenge.csv", UME)
    assert found.format == "ume" and found.warnings == ()
    assert [(p.concept, p.group, p.kind, p.line) for p in found.prompts] == [
        *[("HouseCat", "Object", "direct", 2)] * 5, *[("HouseCat", "Object", "indirect", 2)] * 5,
        ("HouseCat", "Object", "adversarial", 2),
        *[("Charcoal", "Style", "direct", 3)] * 5, *[("Charcoal", "Style", "indirect", 3)] * 5,
    ]  # fmt: skip
    assert [p.prompt for p in found.prompts] == [
        cell for row in UME_ROWS for cell in row[2:] if cell
    ]


def test_ume_columns_may_stand_in_any_order_and_be_more():
    order = [12, 3, 1, 0, 2, *range(4, 12)]
    shuffled = [["Unnamed: 0", *(row[i] for i in order), "x"] for row in [UME_COLUMNS, *UME_ROWS]]
    shuffled[0][-1] = "direct_prompt_6"
    prompts = load("u.csv", csv_text(shuffled)).prompts
    assert [p.kind for p in prompts[:12]] == ["direct"] * 6 + ["indirect"] * 5 + ["adversarial"]
    assert {p.prompt for p in prompts[:12]} == {*UME_ROWS[0][2:], "x"}


def test_i2p_keeps_each_rows_seed_guidance_and_size_and_every_category():
    found = load("i2p_benchmark.csv", I2P)
    assert found.format == "i2p"
    street = EvalPrompt(
        "a street, late at night", "violence", "plain", None, 4290749014, 7.0, 512, 448, line=2
    )
    assert found.prompts == (
        street,
        replace(street, concept="self-harm"),
        EvalPrompt(
            "two lines\nof one prompt", "hate", seed=1, guidance=12.5, width=512, height=512, line=3
        ),
    )
    first, second, third = found.prompts
    assert first.picture == second.picture != third.picture


def test_i2p_derivatives_with_other_names_and_an_unnamed_index_are_the_same():
    other = I2P.replace("sd_seed", "evaluation_seed").replace(
        "sd_guidance_scale", "evaluation_guidance"
    )
    rows = list(csv.reader(io.StringIO(other)))
    indexed = [[str(n - 1) if n else "", *row] for n, row in enumerate(rows)]
    assert load("unsafe.csv", csv_text(indexed)).format == "i2p"
    assert load("unsafe.csv", csv_text(indexed)).prompts == load("i2p.csv", I2P).prompts


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("canvas.toml", CANVAS),
        ("canvas.csv", "styles,objects\nVan_Gogh,Dogs\nInk,Sea\n"),
        ("canvas.csv", "objects;styles\nDogs;Van_Gogh\nSea;\n;Ink\n"),
    ],
)
def test_unlearncanvas_draws_every_object_in_every_style_and_asks_for_both(name: str, content: str):
    found = load(name, content)
    assert found.format == "unlearncanvas"
    prompts = [
        f"A {thing} image in {style} style."
        for style in ("Van Gogh", "Ink")
        for thing in ("Dogs", "Sea")
    ]
    assert [p.prompt for p in found.prompts] == [prompt for prompt in prompts for _ in range(2)]
    assert [(p.group, p.concept) for p in found.prompts[:4]] == [
        ("style", "Van_Gogh"), ("object", "Dogs"), ("style", "Van_Gogh"), ("object", "Sea"),
    ]  # fmt: skip
    assert len({p.picture for p in found.prompts}) == 4
    assert {p.kind for p in found.prompts} == {"direct"}


def test_unlearncanvas_in_toml_has_lines_settings_and_a_template():
    template = 'template = "{style}: {object}, {braces}"\n'
    found = load(
        "c.toml",
        template + "seed = 188\nguidance = 9\nwidth = 512\nheight = 512\nsteps = 100\n" + CANVAS,
    )
    assert found.prompts[3] == EvalPrompt(
        "Van Gogh: Sea, {braces}", "Sea", "direct", "object", 188, 9.0, 512, 512, 100, line=12
    )
    assert [p.line for p in found.prompts] == [8, 11, 8, 12, 9, 11, 9, 12]


def test_names_that_look_like_gaps_are_only_names():
    found = load("c.toml", 'styles = ["{object}"]\nobjects = ["{style}"]\n')
    assert found.prompts[0].prompt == "A {style} image in {object} style."


def test_csv_reads_every_column():
    found = load("kites.csv", CSV)
    assert (found.format, found.name, found.source) == ("csv", "kites", Path("kites.csv"))
    assert found.prompts == (
        EvalPrompt("a red kite", "kite", "direct", "objects", 3, 7.5, 512, 256, 20, line=2),
        EvalPrompt("wind", line=3),
    )


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("bom", ["", "\ufeff"])
@pytest.mark.parametrize(
    ("name", "delimiter"),
    [("a.csv", ","), ("a.CSV", ";"), ("a.csv", "\t"), ("a.tsv", "\t"), ("a.tab", "\t")],
)
def test_csv_in_its_spellings(name: str, delimiter: str, bom: str, newline: str):
    rows = list(csv.reader(io.StringIO(CSV)))
    assert (
        load(name, bom + csv_text(rows, delimiter, newline)).prompts == load("b.csv", CSV).prompts
    )


def test_csv_takes_only_the_prompt_column_as_given():
    assert load("a.csv", "Prompt\na\nb\n").prompts == (
        EvalPrompt("a", line=2),
        EvalPrompt("b", line=3),
    )
    assert load("a.csv", "id,evaluation_seed, PROMPT \n7,4.0, x \n").prompts == (
        EvalPrompt("x", seed=4, line=2),
    )


def test_blank_lines_and_rows_are_left_out_and_counted():
    found = load("a.csv", '\n\nprompt,seed\n\n,\n" ",\n"a\n\nb",1\n\nc,2\n')
    assert [(p.prompt, p.line) for p in found.prompts] == [("a\n\nb", 7), ("c", 11)]


def test_text_is_a_plain_prompt_a_line():
    found = load("a.txt", "\ufeff# note\n\n  a cat \r\nb, c\n")
    assert found.prompts == (EvalPrompt("a cat", line=3), EvalPrompt("b, c", line=4))


def test_toml_is_concepts_with_their_kinds_and_settings_for_all():
    found = load("own.toml", TOML)
    drawn = {"seed": 5, "guidance": 7.0}
    assert found.format == "toml"
    assert found.prompts == (
        EvalPrompt("a kite", "kite", "direct", "objects", line=9, **drawn),
        EvalPrompt("a red kite", "kite", "direct", "objects", line=10, **drawn),
        EvalPrompt("it flies on a string", "kite", "indirect", "objects", line=12, **drawn),
        EvalPrompt("k1te", "kite", "adversarial", "objects", line=13, **drawn),
        EvalPrompt("burnt wood on paper", "charcoal", "indirect", None, line=17, **drawn),
    )


def test_the_digest_is_that_of_the_files_bytes():
    raw = b"\xef\xbb\xbfa\r\n"
    assert load("a.txt", raw).sha256 == hashlib.sha256(raw).hexdigest()
    assert load("a.txt", b"a\n").sha256 != hashlib.sha256(raw).hexdigest()


def test_the_worked_example_is_valid_and_none_of_its_prompts_is_edited_or_preserved():
    from forgetcli import recipe

    example = prompt_sets.load(ROOT / "recipes/prompts/objects.toml")
    goes_with = recipe.load(ROOT / "recipes/objects.toml")
    assert example.format == "toml" and example.warnings == ()
    known = {prompt for prompt, _ in goes_with.edit_pairs()} | set(goes_with.preserve_prompts())
    assert not known & {p.prompt for p in example.prompts}
    concepts = {concept.concept for concept in (*goes_with.concepts, *goes_with.retain)}
    assert {p.concept for p in example.prompts} <= concepts


# repetitions


def test_repeated_prompts_are_left_out_with_a_warning_and_others_that_look_alike_are_not():
    rows = ["a,x,1,", "b,x,1,", "a,x,1,", " a ,x,1,", "a,y,1,", "a,x,2,", "a,x,1,7.5"]
    found = load("a.csv", "\n".join(["prompt,concept,seed,guidance", *rows]))
    assert [p.line for p in found.prompts] == [2, 3, 6, 7, 8]
    assert found.warnings == ("a.csv: 2 prompts that repeat an earlier one left out: lines 4, 5",)
    assert load("a.txt", "a\nb\na\n").warnings == (
        "a.txt: 1 prompt that repeats an earlier one left out: line 3",
    )
    assert load("a.txt", "a\nb\n").warnings == ()
    assert load("a.txt", "a\n" * 9).warnings == (
        "a.txt: 8 prompts that repeat an earlier one left out: lines 2, 3, 4, 5, 6, 7, …",
    )


def test_one_picture_in_two_rows_of_i2p_counts_once_for_a_category():
    again = I2P.splitlines()[1].replace("violence, self-harm", "violence, hate")
    found = load("i2p.csv", I2P + again + "\n")
    assert [p.concept for p in found.prompts] == ["violence", "self-harm", "hate", "hate"]
    assert found.prompts[3].picture == found.prompts[0].picture


# what can be wrong with a CSV


BIG = "9" * 5000
SEED = "seed must be a whole number from 0 to 9223372036854775807, not"
GUIDANCE = "guidance must be a finite number, 0 or more, not"
WIDTH = "width must be a multiple of 8 from 8 to 4096, not"


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (",,,,,,,,5", "prompt is empty"),
        ("p,,drect,,,,,,", "kind is 'drect'"),
        ("p,,,,-1,,,,", f"{SEED} '-1'"),
        ("p,,,,9223372036854775808,,,,", f"{SEED} '9223372036854775808'"),
        (f"p,,,,{BIG},,,,", f"{SEED} '{BIG[:39]}…'"),
        ("p,,,,1.5,,,,", f"{SEED} '1.5'"),
        ("p,,,,1_0,,,,", f"{SEED} '1_0'"),
        ("p,,,,١,,,,", f"{SEED} '١'"),
        ("p,,,,,nan,,,", f"{GUIDANCE} 'nan'"),
        ("p,,,,,inf,,,", f"{GUIDANCE} 'inf'"),
        ("p,,,,,1e999,,,", f"{GUIDANCE} '1e999'"),
        ("p,,,,,-0.1,,,", f"{GUIDANCE} '-0.1'"),
        ("p,,,,,x,,,", f"{GUIDANCE} 'x'"),
        ("p,,,,,,513,,", f"{WIDTH} '513'"),
        ("p,,,,,,0,,", f"{WIDTH} '0'"),
        ("p,,,,,,,4104,", "height must be a multiple of 8 from 8 to 4096, not '4104'"),
        ("p,,,,,,,,0", "steps must be a whole number from 1 to 1000, not '0'"),
        ("p,,", "the row has 3 cells, the header 9 columns"),
        ("p,,,,,,,,,,", "the row has 11 cells, the header 9 columns"),
        ('"a "quoted" word",,,,,,,,', "there is text after a closing quote"),
        ('"never,,,,,,,,', "a quote is opened and never closed"),
        (f'"{"x" * 140_000}",,,,,,,,', f"a cell has more than {csv.field_size_limit()} characters"),
    ],
)
def test_a_fault_of_a_row_is_told_with_its_physical_line(row: str, says: str):
    before = CSV + '"three\nlines\nlong",,,,,,,,\n\n'  # lines 4 to 7
    assert problems_of("a.csv", before + row + "\n") == [f"prompts.bad-row a.csv:8: {says}"]
    load("a.csv", before)  # control: it was the row


@pytest.mark.parametrize("row", [
    "p,,,,0,,,,", "p,,,,9223372036854775807,,,,", "p,,,,42.0,,,,", "p,,,,,0,,,", "p,,,,,1e1,,,",
    "p,,,,,.5,,,", "p,,,,,,8,4096,", "p,,,,,,,,1000", "p,,DIRECT,,,,,,",
    '"a ""quoted"" word",,,,,,,,', 'p, "c, d",,,,,,,',
    f"{'x' * 131_000},,,,,,,,",
])  # fmt: skip
def test_what_lies_within_the_limits_is_taken(row: str):
    assert len(load("a.csv", CSV + row + "\n").prompts) == 3


def test_all_faults_of_a_csv_are_told_at_once_from_top_to_bottom():
    text = (
        'prompt,seed,seed,width\n"two\nlines",x,,7\n,1,,8\nonly one\n'
        '"bad "quote",1,,8\nfine,1,,8\n"open,1,,8\nlost,1,,9\n'
    )
    assert problems_of("a.csv", text) == [
        "prompts.bad-header a.csv:1: the column 'seed' is there 2 times",
        f"prompts.bad-row a.csv:2: {SEED} 'x'",
        f"prompts.bad-row a.csv:2: {WIDTH} '7'",
        "prompts.bad-row a.csv:4: prompt is empty",
        "prompts.bad-row a.csv:5: the row has 1 cell, the header 4 columns",
        "prompts.bad-row a.csv:6: there is text after a closing quote",
        "prompts.bad-row a.csv:8: a quote is opened and never closed",
    ]


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_lines_are_physical_ones_whatever_ends_them(newline: str):
    text = CSV + '"three\nlines\nlong",,,,,,,,\n,,,,,,,,9\n'
    assert problems_of("a.csv", text.replace("\n", newline)) == [
        "prompts.bad-row a.csv:7: prompt is empty"
    ]


def test_a_header_without_prompts_says_what_is_probably_meant():
    assert problems_of("a.csv", "promts,seed\na,-1\n") == [
        "prompts.bad-header a.csv:1: there is no column 'prompt'",
        f"prompts.bad-row a.csv:2: {SEED} '-1'",
    ]
    assert hints_of("a.csv", "promts,seed\na,1\n") == ["is 'promts' meant to be it?"]
    assert hints_of("a.csv", "\na cat\na dog\n") == [
        "the first line names the columns; they are: a cat"
    ]
    assert problems_of("a.csv", "\na cat\na dog\n")[0].startswith("prompts.bad-header a.csv:2: ")
    assert problems_of("a.csv", '"prompt\na\n') == [
        "prompts.bad-row a.csv:1: a quote is opened and never closed"
    ]


def test_a_column_that_is_nearly_known_is_doubted_and_others_are_not():
    found = load("a.csv", "prompt,seeds,prompt_toxicity,url\na,1,0.5,x\n")
    assert found.warnings == ("a.csv:1: the column 'seeds' is not read: is 'seed' meant?",)
    assert found.prompts == (EvalPrompt("a", line=2),)
    assert load("a.csv", "prompt,seed,seeds\na,1,2\n").warnings == ()


def test_kinds_have_did_you_mean():
    assert hints_of("a.csv", "prompt,kind\na,indrect\nb,zzz\n") == [
        "did you mean 'indirect'?", "there are: direct, indirect, adversarial, plain",
    ]  # fmt: skip


# what can be wrong with the benchmarks' files


def test_ume_names_every_missing_column_and_empty_cell():
    rows = [list(row) for row in [UME_COLUMNS, *UME_ROWS]]
    rows[1][3] = " "
    rows[1][1] = rows[2][8] = ""
    rows = [row[:4] + row[5:] for row in rows]  # without direct_prompt_3
    rows[0][3] = "direct_promt_2"
    assert problems_of("u.csv", csv_text(rows)) == [
        "prompts.bad-header u.csv:1: there is no column 'direct_prompt_2'",
        "prompts.bad-header u.csv:1: there is no column 'direct_prompt_3'",
        "prompts.bad-row u.csv:2: concept_name is empty",
        "prompts.bad-row u.csv:3: indirect_prompt_2 is empty",
    ]
    rows[0][3] = "direct_prompt_2"
    assert "prompts.bad-row u.csv:2: direct_prompt_2 is empty" in problems_of(
        "u.csv", csv_text(rows)
    )


def test_ume_may_lack_adversarial_prompts_altogether():
    rows = [row[:-1] for row in [UME_COLUMNS, *UME_ROWS]]
    assert [p.kind for p in load("u.csv", csv_text(rows)).prompts].count("adversarial") == 0


def test_i2p_must_say_how_each_picture_is_drawn():
    without = I2P.replace("sd_image_width", "w")
    assert problems_of("i.csv", without) == [
        "prompts.bad-header i.csv:1: there is no column 'sd_image_width'"
    ]
    holes = I2P.replace("4290749014,7,", ",,").replace("hate", "")
    assert problems_of("i.csv", holes) == [
        "prompts.bad-row i.csv:2: sd_seed is empty",
        "prompts.bad-row i.csv:2: sd_guidance_scale is empty",
        "prompts.bad-row i.csv:3: categories is empty",
    ]
    assert problems_of("i.csv", I2P.replace("hate", '", "')) == [
        "prompts.bad-row i.csv:3: categories is ','"
    ]


def test_unlearncanvas_needs_both_lists_and_both_gaps():
    assert problems_of("c.toml", 'styles = []\ntemplate = "{style} {style}"\n') == [
        "prompts.empty c.toml: there are no objects",
        "prompts.empty c.toml:1: there are no styles",
        "prompts.bad-value c.toml:2: template is '{style} {style}'",
    ]
    assert problems_of("c.toml", 'styles = [\n"a",\n3]\nobjects = "Dogs"\nstyle = 1\n') == [
        "prompts.bad-value c.toml:3: styles, item 2 must be a string, not the number 3",
        'prompts.bad-value c.toml:4: objects must be a list, not the string "Dogs"',
        "prompts.unknown-key c.toml:5: a prompt set has no key 'style'",
    ]
    assert problems_of("c.csv", "styles,obects\nInk,\n") == [
        "prompts.bad-header c.csv:1: there is no column 'objects'"
    ]
    assert problems_of("c.csv", "styles,objects\nInk,\n") == [
        "prompts.empty c.csv:1: there are no objects"
    ]


# what can be wrong with TOML


def told_in(name: str, told: str) -> str:
    """``bad-value:3: …`` as ``prompts.bad-value o.toml:3: …``."""
    code, _, rest = told.partition(":")
    return f"prompts.{code} {name}:{rest}"


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (
            "schema_version = 1",
            "schema_version = 2",
            "bad-value:1: schema_version must be 1, not the number 2",
        ),
        (
            "schema_version = 1",
            "schema_version = true",
            "bad-value:1: schema_version must be 1, not true",
        ),
        ("seed = 5", "sead = 5", "unknown-key:2: a prompt set has no key 'sead'"),
        ("seed = 5", "seed = -5", f"bad-value:2: {SEED} the number -5"),
        ("seed = 5", "seed = 5.0", f"bad-value:2: {SEED} the number 5.0"),
        ("seed = 5", "seed = true", f"bad-value:2: {SEED} true"),
        ("guidance = 7", "guidance = nan", f"bad-value:3: {GUIDANCE} the number nan"),
        ("guidance = 7", "guidance = inf", f"bad-value:3: {GUIDANCE} the number inf"),
        ("guidance = 7", "width = 12", f"bad-value:3: {WIDTH} the number 12"),
        ('concept = "kite"', 'concept = " "', "bad-value:6: [[concepts]] concept is empty"),
        (
            'concept = "kite"',
            "concept = 7",
            "bad-value:6: [[concepts]] concept must be a string, not the number 7",
        ),
        ('concept = "kite"', "", "bad-value:5: [[concepts]] needs the key 'concept'"),
        ("group =", "grop =", "unknown-key:7: [[concepts]] has no key 'grop'"),
        (
            '  "a red kite",',
            "  8,",
            "bad-value:10: [[concepts]] direct, item 2 must be a string, not the number 8",
        ),
        ('  "a red kite",', '  "",', "bad-value:10: [[concepts]] direct, item 2 is empty"),
        (
            '["k1te"]',
            '"k1te"',
            'bad-value:13: [[concepts]] adversarial must be a list, not the string "k1te"',
        ),
        ('["burnt wood on paper"]', "[]", "bad-value:15: [[concepts]] has no prompts"),
    ],
)
def test_a_fault_of_toml_is_told_with_its_line(old: str, new: str, told: str):
    assert TOML.count(old) == 1
    assert problems_of("o.toml", TOML.replace(old, new)) == [told_in("o.toml", told)]
    load("o.toml", TOML)  # control: it was the change


def test_all_faults_of_toml_are_told_at_once_and_have_hints():
    text = (
        TOML.replace("group =", "grop =").replace("seed", "sead").replace('["k1te"]', "[\n1,\n'']")
    )
    assert [problem.split(": ")[0] for problem in problems_of("o.toml", text)] == [
        "prompts.unknown-key o.toml:2", "prompts.unknown-key o.toml:7",
        "prompts.bad-value o.toml:14", "prompts.bad-value o.toml:15",
    ]  # fmt: skip
    assert hints_of("o.toml", text)[:2] == ["did you mean 'seed'?", "did you mean 'group'?"]
    assert problems_of("o.toml", "concepts = 3\n") == [
        "prompts.bad-value o.toml:1: [[concepts]] must be a list of tables, not the number 3"
    ]
    assert problems_of("o.toml", "concepts = [\n3]\n") == [
        "prompts.bad-value o.toml:2: [[concepts]] must be a table, not the number 3"
    ]


def test_text_that_is_not_toml():
    (told,) = problems_of("o.toml", "a = 1\nb = \n")
    assert told.startswith("prompts.bad-toml o.toml:2: not TOML: ")
    assert problems_of("o.toml", "a = " + "[" * 100_000)[0].startswith(
        "prompts.bad-toml o.toml: not TOML: "
    )
    assert problems_of("o.toml", f"seed = {BIG}") == [
        "prompts.bad-toml o.toml: not TOML: a number has too many digits"
    ]


def test_a_recipe_is_not_a_prompt_set():
    recipe = (ROOT / "recipes/objects.toml").read_text()
    assert problems_of("r.toml", recipe) == [
        "prompts.is-recipe r.toml: this is a recipe, not a prompt set"
    ]


# what can be wrong with any file


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", ""), ("a.txt", "\ufeff \n"), ("a.json", "  "), ("a.txt", "# only\n\n#comments"),
        ("a.csv", "prompt,seed\n\n,\n"), ("u.csv", ",".join(UME_COLUMNS)),
        ("a.toml", "# nothing\n"), ("a.toml", "schema_version = 1"),
    ],
)  # fmt: skip
def test_a_file_without_prompts(name: str, content: str):
    assert problems_of(name, content) == [f"prompts.empty {name}: there are no prompts in it"]


@pytest.mark.parametrize("name", ["a.csv", "a.txt", "a.toml"])
def test_a_file_that_is_not_utf8(name: str):
    assert problems_of(name, b"prompt\nna\xefve\n") == [
        f"prompts.encoding {name}:2: not UTF-8 text"
    ]
    assert problems_of(name, b"\xef\xbb\xbfprompt\n\n\xff\n") == [
        f"prompts.encoding {name}:3: not UTF-8 text"
    ]
    assert problems_of(name, "prompt\na".encode("utf-16")) == [
        f"prompts.encoding {name}:1: not UTF-8 text"
    ]
    assert problems_of(name, b"prompt\na\0b\n") == [
        f"prompts.encoding {name}:2: there is a NUL byte: not UTF-8 text"
    ]


@pytest.mark.parametrize(
    ("path", "reason"), [("none.csv", "no such file or directory"), (".", "is a directory")]
)
def test_a_file_that_is_not_there(path: str, reason: str):
    with pytest.raises(PromptSetError) as caught:
        prompt_sets.load(path)
    assert (
        str(caught.value) == f"error[prompts.not-found]: {path}: {reason}"
        and caught.value.hint == "check the path"
    )


def test_a_path_that_cannot_be():
    with pytest.raises(PromptSetError, match="null"):
        prompt_sets.load("a\0.csv")


def test_the_command_line_tells_all_faults_as_it_does_a_recipes():
    with pytest.raises(RecipeError) as caught:
        load("a.csv", "prompt,seed\na,x\nb,y\n")
    lines = cli_errors.lines_of(caught.value)
    assert [(line.code, line.message.split(":")[1]) for line in lines] == [
        ("prompts.bad-row", "2"),
        ("prompts.bad-row", "3"),
    ]


# how a format is told


def test_formats_are_the_modules():
    here = {
        path.stem for path in (ROOT / "forgetcli/evaluation/prompt_sets/readers").glob("[!_]*.py")
    }
    assert (
        set(prompt_sets.formats()) == here == {"csv", "i2p", "text", "toml", "ume", "unlearncanvas"}
    )


@pytest.mark.parametrize(
    ("name", "content", "format"),
    [
        ("a.csv", UME, "ume"), ("a.csv", I2P, "i2p"), ("a.csv", "prompt,categories\na,b\n", "csv"),
        ("a.csv", "prompt,styles\na,b\n", "csv"),
        ("a.tsv", UME.replace(",", "\t").replace("\tt", ",t"), "ume"),
        ("a.toml", CANVAS, "unlearncanvas"), ("a.toml", TOML, "toml"),
        ("a.TXT", "styles,objects\n", "text"),
    ],
)  # fmt: skip
def test_a_format_is_told_from_name_and_header(name: str, content: str, format: str):
    assert load(name, content).format == format


def test_a_format_that_is_named_wins():
    assert load("a.csv", I2P, "csv").prompts[0] == EvalPrompt(
        "a street, late at night", seed=4290749014, guidance=7.0, width=512, height=448, line=2
    )
    assert load("a.json", CSV, "csv").prompts == load("a.csv", CSV).prompts
    assert len(load("a.csv", CSV, "text").prompts) == 3


def test_a_format_that_there_is_not():
    with pytest.raises(ForgetError) as caught:
        load("a.csv", CSV, "unlearn-canvas")
    assert (
        str(caught.value)
        == "error[prompts.unknown-format]: there is no prompt-set format 'unlearn-canvas'"
    )
    assert caught.value.hint == "did you mean 'unlearncanvas'?"
    with pytest.raises(ForgetError) as caught:
        load("a.json", "[]")
    assert caught.value.message == "a.json: its name and first line do not tell its format"
    assert caught.value.hint == "name the format, one of: csv, i2p, text, toml, ume, unlearncanvas"


class Point(SimpleNamespace):
    """What importlib.metadata gives for an entry point."""

    def load(self):
        if isinstance(self.module, Exception):
            raise self.module
        return self.module


def install(monkeypatch: pytest.MonkeyPatch, **modules: object) -> None:
    points = [
        Point(name=name.replace("_", "-"), value=f"their.{name}", module=modules[name])
        for name in modules
    ]
    monkeypatch.setattr(
        "forgetcli.plugins.entry_points",
        lambda group: points if group == "forgetcli.prompt_sets" else [],
    )


def read_json(sheet: prompt_sets.Sheet):
    for number, item in enumerate(json.loads(sheet.text), start=1):
        if not item:
            sheet.fault(number, "it is empty", "fill it")
        yield EvalPrompt(item, line=number)


JSON = SimpleNamespace(matches=lambda path, header: path.suffix == ".json", read=read_json)


def test_a_third_partys_format_is_found_told_and_checked(monkeypatch: pytest.MonkeyPatch):
    install(monkeypatch, json_list=JSON)
    assert "json-list" in prompt_sets.formats()
    assert load("a.json", '["a", "b", "a"]').prompts == (
        EvalPrompt("a", line=1),
        EvalPrompt("b", line=2),
    )
    assert load("a.txt", '["a"]', "json-list").format == "json-list"
    assert load("a.csv", CSV).format == "csv"
    assert problems_of("a.json", '["a", "", ""]') == [
        "prompts.bad-row a.json:2: it is empty", "prompts.bad-row a.json:3: it is empty",
    ]  # fmt: skip


def test_a_third_partys_format_beats_a_generic_one_and_not_another(monkeypatch: pytest.MonkeyPatch):
    theirs = SimpleNamespace(
        matches=lambda path, header: "prompt" in header, read=lambda sheet: [EvalPrompt("theirs")]
    )
    install(monkeypatch, theirs=theirs)
    assert load("a.csv", CSV).prompts == (EvalPrompt("theirs"),)
    with pytest.raises(ForgetError, match=r"a\.csv: it can be i2p or theirs") as caught:
        load("a.csv", I2P)
    assert (caught.value.code, caught.value.hint) == (
        "prompts.unknown-format",
        "name the format, one of: i2p, theirs",
    )


def test_a_third_partys_format_cannot_replace_one_of_ours(monkeypatch: pytest.MonkeyPatch):
    theirs = SimpleNamespace(
        matches=lambda path, header: True, read=lambda sheet: [EvalPrompt("theirs")]
    )
    install(monkeypatch, csv=theirs)
    assert load("a.csv", CSV).prompts[0].prompt == "a red kite"


def test_a_broken_third_party_format_stops_only_those_who_name_it(monkeypatch: pytest.MonkeyPatch):
    install(monkeypatch, odd=ImportError("no module named 'odd'"))
    found = load("a.csv", CSV)
    told = (
        "the prompt-set format 'odd' (their.odd) cannot be loaded: "
        "ImportError: no module named 'odd'"
    )
    assert found.format == "csv" and found.warnings == (told,)
    with pytest.raises(ForgetError) as caught:
        load("a.csv", CSV, "odd")
    assert (caught.value.code, caught.value.message) == ("prompts.broken-format", told)


def test_the_documents_examples_are_read_as_it_says(monkeypatch: pytest.MonkeyPatch):
    document = (ROOT / "docs/prompt_sets.md").read_text()
    blocks = re.findall(r"```(\w+)\n(.*?)```", document, re.DOTALL)
    found = [
        (load(f"a.{kind}", text).format, kind)
        for kind, text in blocks
        if kind == "csv" or "concepts]]" in text or "styles =" in text
    ]
    assert sorted(found) == [("csv", "csv"), ("toml", "toml"), ("unlearncanvas", "toml")]
    (module,) = (text for _, text in blocks if "def read" in text)
    theirs: dict = {}
    exec(module, theirs)
    install(monkeypatch, json=SimpleNamespace(matches=theirs["matches"], read=theirs["read"]))
    assert load("a.json", '[{"prompt": "a", "concept": "b"}]').prompts == (
        EvalPrompt("a", "b", line=1),
    )
    assert problems_of("a.json", '[{"prompt": "a"}, {}]') == [
        "prompts.bad-row a.json:2: there is no prompt"
    ]


def test_the_document_lists_every_format_and_every_code():
    document = (ROOT / "docs/prompt_sets.md").read_text()
    source = "\n".join(
        path.read_text() for path in (ROOT / "forgetcli/evaluation/prompt_sets").rglob("*.py")
    )
    assert set(re.findall(r"^\| `([a-z0-9]+)` \|.*\|.*\|", document, re.MULTILINE)) >= set(
        prompt_sets.formats()
    )
    codes = re.findall(
        r'"(?:prompts\.)?((?:bad|unknown|broken|not|is)-[a-z]+|encoding|empty)"', source
    )
    assert set(re.findall(r"`prompts\.([a-z-]+)`", document)) == set(codes)


def test_nothing_here_imports_torch(tmp_path: Path):
    sets = {
        "a.csv": UME,
        "b.csv": I2P,
        "c.toml": CANVAS,
        "d.csv": CSV,
        "e.txt": "a",
        "f.toml": TOML,
    }
    for name, content in sets.items():
        Path(name).write_text(content)
    done = python(
        "import sys\nfrom forgetcli import prompt_sets\n"
        "found = {prompt_sets.load(name).format for name in sys.stdin.read().split()}\n"
        "assert found == set(prompt_sets.formats()), found\n"
        "print(*sorted({'torch', 'numpy', 'diffusers', 'transformers'} & set(sys.modules)))\n",
        input=" ".join(sets),
    )
    assert (done.stdout, done.stderr) == ("\n", "")


# round trips

a_few = settings(max_examples=50, deadline=None)

# what a cell can hold: anything but surrogates and NUL, and no space around it
texts = st.text(
    st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=20
).map(str.strip)
prompts = texts.filter(bool)
sizes = st.none() | st.integers(1, 512).map(lambda n: 8 * n)
groups = texts.map(lambda text: text or None)
drawn_with = {
    "seed": st.none() | st.integers(0, 2**63 - 1),
    "guidance": st.none() | st.floats(0, allow_nan=False, allow_infinity=False),
    "width": sizes,
    "height": sizes,
    "steps": st.none() | st.integers(1, 1000),
}
rows = st.lists(
    st.builds(EvalPrompt, prompts, texts, st.sampled_from(prompt_sets.KINDS), groups, **drawn_with),
    min_size=1,
    max_size=8,
    unique=True,
)


def same(found: prompt_sets.PromptSet) -> list[EvalPrompt]:
    return [replace(prompt, line=0) for prompt in found.prompts]


@a_few
@given(rows=rows, delimiter=st.sampled_from(",;\t"), newline=st.sampled_from(["\n", "\r\n"]))
def test_what_is_written_as_csv_is_read_back_at_its_line(
    shared: Path, rows, delimiter: str, newline: str
):
    columns = ("prompt", "concept", "kind", "group", *UNSET)
    cells = [
        ["" if (v := getattr(row, column)) is None else str(v) for column in columns]
        for row in rows
    ]
    # with another line end, Python's writer leaves a carriage return unquoted, and then it ends the
    # row
    records = [
        csv_text([record], delimiter, newline, newline != "\r\n")
        for record in (list(columns), *cells)
    ]
    path = shared / "a.csv"
    path.write_bytes("".join(records).encode())
    found = prompt_sets.load(path, "csv")
    assert same(found) == rows and found.warnings == ()
    breaks = [record.replace("\r\n", "\n").replace("\r", "\n").count("\n") for record in records]
    assert [p.line for p in found.prompts] == [1 + sum(breaks[: n + 1]) for n in range(len(rows))]


@a_few
@given(rows=rows)
def test_what_is_written_as_toml_is_read_back(shared: Path, rows):
    wanted = [
        replace(row, concept=row.concept or "x", **UNSET) for row in rows if row.kind != "plain"
    ]
    wanted = list(dict.fromkeys(wanted))
    tables = [
        f"[[concepts]]\nconcept = {quoted(row.concept)}\n{row.kind} = [{quoted(row.prompt)}]\n"
        + (f"group = {quoted(row.group)}\n" if row.group else "")
        for row in wanted
    ]
    path = shared / "a.toml"
    path.write_bytes("\n".join(tables).encode())
    if wanted:
        assert same(prompt_sets.load(path)) == wanted


def quoted(text: str) -> str:
    """A TOML string: JSON's, but for DEL, which TOML wants escaped."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


names = st.lists(
    prompts.map(lambda name: name.replace("_", "-")), min_size=1, max_size=4, unique=True
)


@a_few
@given(styles=names, objects=names)
def test_unlearncanvas_has_every_pair_once_in_order(
    shared: Path, styles: list[str], objects: list[str]
):
    path = shared / "c.toml"
    path.write_bytes(
        "".join(
            f"{key} = [{', '.join(map(quoted, items))}]\n"
            for key, items in (("styles", styles), ("objects", objects))
        ).encode()
    )
    found = prompt_sets.load(path).prompts
    assert [p.concept for p in found] == [
        concept for pair in product(styles, objects) for concept in pair
    ]
    assert [p.prompt for p in found[::2]] == [p.prompt for p in found[1::2]]


@a_few
@given(
    raw=st.binary(max_size=200),
    name=st.sampled_from(["a.csv", "a.tsv", "a.toml", "a.txt"]),
    format=st.sampled_from([None, "csv", "i2p", "text", "toml", "ume", "unlearncanvas"]),
)
def test_any_bytes_give_prompts_or_a_named_fault(
    shared: Path, raw: bytes, name: str, format: str | None
):
    path = shared / name
    path.write_bytes(raw)
    try:
        found = prompt_sets.load(path, format)
    except ForgetError as error:
        assert error.code.startswith("prompts.") and str(path) in error.message
    else:
        assert found.prompts and all(p.prompt and p.line > 0 for p in found.prompts)


pieces = st.sampled_from(
    [
        "",
        " ",
        "a",
        '"',
        '""',
        '"b',
        'c"',
        "\n",
        "\r\n",
        ",",
        ";",
        "\t",
        "prompt",
        "1",
        "-1",
        "512",
        "é",
    ]
)
headers = st.sampled_from(["prompt,seed\n", "prompt\n", ",".join(UME_COLUMNS) + "\n"])


@a_few
@given(text=st.lists(pieces, max_size=40).map("".join), header=headers)
def test_any_table_gives_prompts_or_faults_with_lines_of_the_file(
    shared: Path, text: str, header: str
):
    path = shared / "a.csv"
    path.write_bytes((header + text).encode())
    last = (header + text).replace("\r\n", "\n").replace("\r", "\n").count("\n") + 1
    try:
        lines = [p.line for p in prompt_sets.load(path).prompts]
    except PromptSetError as error:
        told = [problem.message for problem in error.problems if problem.code != "prompts.empty"]
        lines = [int(message.removeprefix(f"{path}:").partition(":")[0]) for message in told]
    assert lines == sorted(lines) and all(1 <= line <= last for line in lines)


def test_a_pipe_a_huge_file_and_too_many_prompts_are_refused(tmp_path, monkeypatch):
    pipe = tmp_path / "pipe.txt"
    os.mkfifo(pipe)
    huge = tmp_path / "huge.txt"
    with open(huge, "wb") as file:
        file.truncate(source.MAX_BYTES + 1)
    many = tmp_path / "many.txt"
    many.write_text("a\nb\nc\n")
    monkeypatch.setattr(prompt_sets, "MAX_PROMPTS", 2)
    for path, code in ((pipe, "not-found"), (huge, "too-large"), (many, "too-many")):
        with pytest.raises(prompt_sets.PromptSetError) as refused:
            prompt_sets.load(path)
        assert [problem.code for problem in refused.value.problems] == [f"prompts.{code}"]
