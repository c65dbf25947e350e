"""Claims: whatever a recipe holds, it is read or refused in seconds, with few short faults and no
error of Python's; it takes no file from outside its folder; Unicode forms are one prompt.
"""

from __future__ import annotations

import os
import signal
import time
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest
from recipe_example import EXAMPLE

from forgetcli import recipe
from forgetcli.errors import ForgetError, RecipeError
from forgetcli.recipe import limits, prompt_files

SMALL = '[[concepts]]\nconcept = "a"\ntarget = "b"\n'
RECORD = "\n#: added by forget when this recipe was used; read again as part of it\n"
DIGITS = "9" * 5000


@pytest.fixture(autouse=True)
def no_hang() -> Iterator[None]:
    signal.alarm(60)
    yield
    signal.alarm(0)


def refusal(text: str | bytes, **arguments) -> list[ForgetError]:
    """The faults of a recipe, which must be few, short, and found in seconds."""
    started = time.process_time()
    with pytest.raises(RecipeError) as caught:
        recipe.parse(text, **arguments)
    assert time.process_time() - started < 10
    problems = caught.value.problems
    assert len(problems) <= 51 and all(len(problem.message) <= 1000 for problem in problems)
    assert all(len(problem.hint) <= 1000 for problem in problems)
    return problems


def words(count: int, form: str = "x{}") -> str:
    return ", ".join(f'"{form.format(number)}"' for number in range(count))


@pytest.mark.parametrize(
    ("text", "code"),
    [
        # size of what follows from it
        (
            SMALL + f"aliases = [{words(3000)}]\n"
            f"[prompts]\ntemplates = [{words(3000, 't{} {{}}')}]",
            "recipe.too-long",
        ),
        (SMALL + f'aliases = ["{"x" * 1_000_000}"]', "recipe.too-long"),
        (SMALL + "# " + "x" * limits.LONGEST_BODY, "recipe.too-long"),
        # many faults
        ("".join(f"key{number} = 1\n" for number in range(50_000)) + SMALL, "recipe.unknown-key"),
        (SMALL + "".join(f"[methods.m{n}]\n" for n in range(8_000)), "recipe.unknown-method"),
        (SMALL + "".join(f"[families.m{n}]\n" for n in range(8_000)), "recipe.unknown-family"),
        ('method = "x"\n' + "".join(f"k{n} = 1\n" for n in range(5000)) + SMALL, None),
        (SMALL * 3000, "recipe.conflict"),
        # depth
        ("a = " + "[" * 100_000, "recipe.toml"),
        ("a = " + "[" * 100_000 + "]" * 100_000, "recipe.toml"),
        ("a = " + "[" * 300 + "]" * 300, "recipe.toml"),
        ("a = " + "{a = " * 1000 + "1" + "}" * 1000, "recipe.toml"),
        (".".join("a" * 200_000) + " = 1", "recipe.toml"),
        ("[" + ".".join("a" * 2000) + "]", "recipe.toml"),
        ("[" + " . ".join(['"a"'] * 2000) + "]", "recipe.toml"),
        ("[[concepts]]\n" + "[concepts.a.b.c.d.e.f.g.h]\ni.j.k.l.m.n.o.p.q = 1", "recipe.toml"),
        # keys, numbers and text
        ("x" * 100_000 + " = 1\n" + SMALL, "recipe.unknown-key"),
        (f"seed = {DIGITS}\n" + SMALL, "recipe.toml"),
        (f"seed = 0x{'f' * 10_000}\n" + SMALL, "recipe.value"),
        (f"seed = {2**64}\n" + SMALL, "recipe.value"),
        ('a = "' + '\\"' * 500_000, "recipe.toml"),
        ('a = """' + '""' * 500_000, "recipe.toml"),
        ("a = '" * 100_000, "recipe.toml"),
        ('name = "\\ud800"\n' + SMALL, "recipe.toml"),
        ('name = "\ud800"\n' + SMALL, "recipe.toml"),
        (b'name = "\xed\xa0\x80"\n' + SMALL.encode(), "recipe.toml"),
        # what forget recorded
        (SMALL + RECORD + "#:file []", "recipe.toml"),
        (SMALL + RECORD + "#:file {}", "recipe.toml"),
        (SMALL + RECORD + "#:file null\n#:line 1", "recipe.toml"),
        (SMALL + RECORD + '#:file "x"\n#:line []', "recipe.toml"),
        (SMALL + RECORD + '#:file "x"\n#:line "\\ud800"', "recipe.toml"),
        (SMALL + RECORD + f"#:file {'[' * 100_000}", "recipe.toml"),
        (SMALL + RECORD + f"#:file {DIGITS}", "recipe.toml"),
        (SMALL + RECORD + '#:line "x"', "recipe.toml"),
        (SMALL + RECORD + "#:evaluation 1", "recipe.toml"),
        ('evaluation = "e"\n' + SMALL + RECORD + '#:evaluation "e"\n#:line "a = ["', "recipe.toml"),
        (SMALL + RECORD + "#:set", "recipe.set"),
        (SMALL + RECORD + "#:set \x00=\x00", "recipe.set"),
        (SMALL + RECORD + "#:set = = =", "recipe.set"),
        (SMALL + RECORD + "#:set concepts", "recipe.set"),
        (SMALL + RECORD + "#:method \x1b[31m", "recipe.unknown-method"),
    ],
)
def test_a_costly_or_strange_recipe_is_refused(text, code):
    assert refusal(text)[0].code == code or code is None


@pytest.mark.parametrize(
    "override",
    [
        ".".join("x" * 100_000) + "=1",
        ".".join("x" * 40) + "=1",
        "x" * 1_000_000,
        f"seed={DIGITS}",
        f"seed=0x{'f' * 10_000}",
        f"concepts.{DIGITS}.target=1",
        "name=\udcff",
        "\udcff=1",
        "concepts.0.target.x.y=1",
        "name=" + "[" * 10_000,
        "name=" + "[" * 200 + "]" * 200,
        "name=" + "'" * 10_000,
        "name=1\u2028",
    ],
)
def test_a_strange_override_is_refused(override):
    problems = refusal(SMALL, overrides=[override])
    assert problems[0].code in ("recipe.set", "recipe.value", "recipe.encoding", "recipe.type")


def test_many_faults_are_reported_from_the_top():
    problems = refusal("".join(f"key{number} = 1\n" for number in range(1000)) + SMALL)
    assert [problem.message.split(":")[1] for problem in problems[:50]] == [
        str(line) for line in range(1, 51)
    ]
    assert problems[-1].code == "recipe.more-faults"


def test_large_recipes_are_read():
    """A thousand concepts with ten templates, and ten thousand prompts to preserve."""
    concepts = "".join(
        f'[[concepts]]\nconcept = "c{number}"\ntarget = "person"\n' for number in range(1000)
    )
    text = (
        f"[prompts]\ntemplates = [{words(10, '{{}} {}')}]\n"
        f"[preserve]\nprompts = [{words(10_000)}]\n{concepts}"
    )
    loaded = recipe.parse(text)
    assert len(loaded.edit_pairs()) == 10_000
    assert len(loaded.preserve_prompts()) == 10_001


def test_a_large_record_is_read_in_linear_time():
    lines = "".join(f'#:line "prompt {number}"\n' for number in range(60_000))
    started = time.process_time()
    loaded = recipe.parse(SMALL + '[preserve]\nfiles = ["x"]' + RECORD + '#:file "x"\n' + lines)
    assert len(loaded.file_prompts) == 60_000
    assert time.process_time() - started < 15


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A recipe's folder, and a private file beside it."""
    (tmp_path / "secret").write_text("a password\n")
    (tmp_path / "recipes/sub").mkdir(parents=True)
    (tmp_path / "recipes/sub/keep.txt").write_text("a cat\n")
    (tmp_path / "recipes/out.txt").symlink_to(tmp_path / "secret")
    (tmp_path / "recipes/up").symlink_to(tmp_path)
    (tmp_path / "recipes/alias.txt").symlink_to("sub/keep.txt")
    return tmp_path / "recipes"


def with_file(folder: Path, name: str) -> Path:
    path = folder / "r.toml"
    path.write_text(SMALL + f"[preserve]\nfiles = ['{name}']\n")
    return path


@pytest.mark.parametrize("name", ["sub/keep.txt", "alias.txt", "./sub/keep.txt"])
def test_prompt_files_below_the_recipe_are_read(folder, name):
    assert recipe.load(with_file(folder, name)).file_prompts == ("a cat",)


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../secret", "sub/../../secret", "out.txt", "up/secret", ".."]
)
def test_prompt_files_outside_are_refused(folder, name):
    with pytest.raises(RecipeError) as caught:
        recipe.load(with_file(folder, name))
    assert caught.value.code == "file.outside"
    assert "r.toml:5: " in caught.value.message and "beside the recipe" in caught.value.hint
    assert "password" not in caught.value.message


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path)])
def test_what_is_no_file_is_not_read(folder, make):
    make(folder / "strange")
    with pytest.raises(RecipeError) as caught:
        recipe.load(folder / "strange")
    assert caught.value.code == "recipe.not-found"
    with pytest.raises(RecipeError) as caught:
        recipe.load(with_file(folder, "strange"))
    assert caught.value.code in ("recipe.not-found", "file.outside")
    with pytest.raises(ForgetError) as error:
        prompt_files.read(folder / "strange")
    assert error.value.code == "prompts.not-found"


def test_files_beyond_the_limits_are_not_read(folder):
    with open(folder / "huge", "wb") as writer:
        writer.truncate(10**9)  # no blocks on the disk
    with pytest.raises(RecipeError) as caught:
        recipe.load(folder / "huge")
    assert caught.value.code == "file.too-large"
    with pytest.raises(ForgetError) as error:
        prompt_files.read(folder / "huge")
    assert error.value.code == "file.too-large"
    (folder / "long").write_text("x\n" + "y" * 20_000)
    with pytest.raises(ForgetError) as error:
        prompt_files.read(folder / "long")
    assert error.value.code == "prompts.too-long" and "long:2:" in error.value.message


def test_a_file_name_that_is_not_utf8_gives_a_name(tmp_path):
    path = tmp_path / "a\udcff.toml"
    path.write_text(SMALL)
    assert recipe.load(path).name == "a\ufffd"


def test_lines_of_prompt_files_end_as_in_editors():
    text = "one\u2028still one\ntwo\x85\x0b\x0c\x1cstill two\r\nthree\rfour\u2029\n"
    assert prompt_files.prompts_in(text) == [
        (1, "one\u2028still one"),
        (2, "two\x85\x0b\x0c\x1cstill two"),
        (3, "three"),
        (4, "four"),
    ]


def test_prompts_that_differ_in_unicode_form_only_are_one():
    composed, split = "café", unicodedata.normalize("NFD", "café")
    assert composed != split
    prompts = f'prompts = ["{composed}", "{split}"]'
    loaded = recipe.parse(SMALL + prompts)
    assert [prompt for prompt, _ in loaded.edit_pairs()][-1] == composed
    assert split not in dict(loaded.edit_pairs())
    preserved = recipe.parse(SMALL + f"[preserve]\n{prompts}").preserve_prompts()
    assert preserved == ["", composed]
    # The only form of a prompt is used as it is written.
    assert recipe.parse(SMALL + f'prompts = ["{split}"]').edit_pairs()[-1][0] == split


@pytest.mark.parametrize(
    "text",
    [
        SMALL + 'aliases = ["café", "cafe\u0301"]',
        SMALL + 'prompts = ["café"]\n[preserve]\nprompts = ["cafe\u0301"]',
        '[[concepts]]\nconcept = "café"\ntarget = "cafe\u0301"',
    ],
)
def test_contradictions_are_found_in_any_unicode_form(text):
    assert refusal(text)[0].code == "recipe.conflict"


def test_the_example_is_within_all_limits():
    assert recipe.parse(EXAMPLE).edit_pairs()
