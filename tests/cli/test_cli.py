"""The commands that need no model, as a process: help, the three output modes, errors, imports."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from processes import ERROR_LINE, python
from recipe_example import EXAMPLE
from typer.testing import CliRunner

import forgetcli
from forgetcli.cli.app import COMMANDS, app
from forgetcli.cli.commands import LazyGroup
from forgetcli.recipe import json_schema
from forgetcli.recipe import text as recipe_text


def assert_one_error(run, code: str, *says: str, exit_code: int = 2) -> None:
    """One error line and at most one hint on stderr, nothing on stdout, no traceback."""
    assert run.code == exit_code and run.stdout == ""
    assert ERROR_LINE.fullmatch(run.stderr), run.stderr
    assert run.stderr.startswith(f"error[{code}]: ") and "Traceback" not in run.stderr
    for part in says:
        assert part in run.stderr


# help, names, imports


def commands(group=None, path: tuple = ()) -> Iterator[tuple]:
    """(words, command) of every command that does something."""
    group = group or typer.main.get_command(app)
    for name, listed in group.commands.items():
        command = group.load(name) if isinstance(group, LazyGroup) else listed
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


def test_the_commands_are_those_of_the_design():
    assert {" ".join(words) for words, _ in commands()} == {
        "erase",
        "apply",
        "generate",
        "eval",
        "attack",
        "compare",
        "tune",
        "verify",
        "export",
        "log",
        "revert",
        "push",
        "sign",
        "card",
        "inspect",
        "demo",
        "models",
        "judges",
        "env",
        "recipe init",
        "recipe validate",
        "recipe show",
        "recipe schema",
        "recipe ls",
        "recipe sets",
        "cache dir",
        "cache ls",
        "cache prune",
    }


@pytest.mark.parametrize("words", [words for words, _ in commands()], ids=" ".join)
def test_every_command_has_help_with_an_example(words: tuple):
    shown = CliRunner().invoke(app, [*words, "--help"])
    assert shown.exit_code == 0
    assert (
        "Example" in shown.output
        and f"forget {' '.join(words)}" in shown.output.split("Example")[1]
    )
    assert "--json" in shown.output and "--quiet" in shown.output


def test_every_flag_has_a_variable_of_its_own_meaning():
    seen: dict[str, str] = {}
    for words, command in commands():
        for parameter in command.params:
            flag = next((name for name in parameter.opts if name.startswith("--")), None)
            if flag in (None, "--help"):
                continue
            assert str(parameter.envvar).startswith("FORGET_"), (words, flag)
            assert seen.setdefault(parameter.envvar, flag) == flag, (
                f"{parameter.envvar} means two flags"
            )
    assert len(seen) > 20


def test_the_variable_of_every_option_is_the_documented_one():
    """The list was made before the variables were derived from names: users rely on it."""
    documented = json.loads((Path(__file__).parent / "variables.json").read_text(encoding="utf-8"))
    present = {
        " ".join(words): {
            max(parameter.opts, key=len): parameter.envvar
            for parameter in command.params
            if parameter.param_type_name == "option"
        }
        for words, command in commands()
    }
    assert present == documented


def test_a_derived_variable_is_read_and_named_in_help_and_errors(forget):
    assert forget("recipe", "ls", FORGET_QUIET="1").stdout == forget("recipe", "ls", "-q").stdout
    page = " ".join(forget("generate", "--help").stdout.replace("│", " ").split())
    assert "[env var: FORGET_COUNT;" in page
    run = forget("generate", "x", FORGET_COUNT="0")
    assert run.code == 2 and "FORGET_COUNT" in run.stderr
    assert "FORGET_HELP" not in forget("generate", "--help").stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_of_commands_says_what_the_command_says(name: str):
    """Help lists summaries from a table, so that it need not import the commands."""
    group = typer.main.get_command(app)
    documented = " ".join(group.load(name).help.split("\n\n")[0].split())
    assert COMMANDS[name].summary == documented


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["recipe", "validate", "x.toml"]])
def test_only_the_command_that_is_called_is_imported(arguments: list[str], tmp_path: Path):
    script = (
        f"import sys; sys.argv = ['forget', *{arguments!r}]; "
        "from forgetcli.cli import main; main(); "
        "print(*(m.rpartition('.')[2] for m in sys.modules if m.startswith('forgetcli.cli.')), "
        "file=sys.stderr)"
    )
    loaded = set(python(script, cwd=tmp_path).stderr.splitlines()[-1].split())
    called = {arguments[0]} & set(COMMANDS)
    assert loaded & {entry.home.partition(":")[0] for entry in COMMANDS.values()} == called


def test_square_brackets_of_recipe_tables_are_shown_in_help(forget):
    for command, table in (
        (("apply",), "[methods.NAME]"),
        (("compare",), "[methods.NAME]"),
        (("recipe", "show"), "[families.NAME]"),
    ):
        assert table in forget(*command, "--help").stdout


@pytest.mark.parametrize("arguments", [["--help"], ["apply", "--help"]], ids=" ".join)
def test_help_loads_neither_rich_nor_pydantic(arguments: list[str], tmp_path: Path):
    loaded = heavy_modules(arguments, tmp_path, ("rich.console", "pydantic"))
    assert loaded == (0, [])


def test_the_check_for_rich_can_fail(tmp_path: Path):
    code, loaded = heavy_modules(["recipe", "ls"], tmp_path, ("rich.console", "pydantic"))
    assert (code, loaded) == (0, ["rich.console", "pydantic"])


def test_help_fits_the_terminal_and_its_encoding(started):
    for columns, encoding, corner in (("60", "utf-8", "╭"), ("90", "ascii", "+")):
        page = started("export", "--help", COLUMNS=columns, PYTHONIOENCODING=encoding).stdout
        lines = page.splitlines()
        frames = [line for line in lines if line.startswith((corner, "│", "|", "╰"))]
        assert {len(line) for line in frames} == {int(columns)}
        # A block that is marked as such keeps its columns; examples can be copied.
        whole = " single-file  a whole .safetensors checkpoint, for ComfyUI and A1111"
        example = (
            "   forget export edited --format lora --naming kohya -o forget-van-gogh.safetensors"
        )
        if columns == "60":
            assert [line for line in lines if len(line) > 60] == []
            at = lines.index(" single-file  a whole .safetensors checkpoint, for ComfyUI")
            assert lines[at + 1] == "              and A1111"
            at = lines.index("   forget export edited --format lora --naming kohya -o \\")
            assert lines[at + 1] == "     forget-van-gogh.safetensors"
        else:
            assert whole in lines and example in lines
        assert "?" not in page


HEAVY = ("torch", "diffusers", "transformers", "numpy", "PIL")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["apply", "--help"],
        ["--version"],
        ["recipe", "validate", "good.toml"],
        ["recipe", "show", "good.toml"],
        ["recipe", "schema"],
        ["recipe", "ls"],
        ["recipe", "init", "new.toml"],
        ["cache", "dir"],
        ["cache", "ls"],
        ["models"],
        ["judges"],
        ["inspect", "demo"],
    ],
    ids=" ".join,
)
def test_commands_that_do_not_compute_do_not_load_torch(arguments: list[str], good: Path):
    # The safetensors package, which checks every header that is read, needs numpy.
    allowed = ["numpy"] if arguments[0] in ("inspect", "judges") else []
    code, loaded = heavy_modules(arguments, good.parent)
    assert (code, [name for name in loaded if name not in allowed]) == (0, [])


@pytest.mark.parametrize("command", [["recipe", "validate"], ["apply"]], ids=" ".join)
def test_a_bad_recipe_is_refused_without_torch(command: list[str], good: Path):
    """Unknown keys, methods and values of a method's own parameters too, with what was probably
    meant.
    """
    bad = EXAMPLE.replace("steps", "step").replace("seed = 7", 'seed = "7"\nmethod = "nulspace"')
    assert bad.count("step =") == 1 and "nulspace" in bad
    (good.parent / "bad.toml").write_text(bad)
    assert heavy_modules([*command, "bad.toml"], good.parent) == (2, [])


def test_the_check_for_torch_can_fail(tmp_path: Path):
    code, loaded = heavy_modules(["env", "-q"], tmp_path)
    assert code == 0 and "torch" in loaded


def heavy_modules(
    arguments: list[str], folder: Path, heavy: tuple[str, ...] = HEAVY
) -> tuple[int, list[str]]:
    script = (
        f"import sys; sys.argv = ['forget', *{arguments!r}]; "
        "from forgetcli.cli import main; code = main(); "
        f"print(code, *[m for m in {heavy!r} if m in sys.modules], file=sys.stderr)"
    )
    done = python(script, cwd=folder)
    code, *loaded = done.stderr.splitlines()[-1].split()
    return int(code), loaded


def test_version_and_no_command(forget):
    assert forget("--version").stdout == f"forget {forgetcli.__version__}\n"
    for arguments in ((), ("recipe",), ("cache",)):
        run = forget(*arguments)
        assert run.code == 2 and run.stdout == "" and "Usage: forget" in run.stderr


# three modes of each command that needs no model


def test_recipe_show(forget, good: Path):
    human = forget("recipe", "show", good)
    assert (
        human.code == 0
        and "[refine]\n" in human.stdout
        and '# "van gogh" -> "monet"\n' in human.stdout
        and human.stderr == f"next: forget apply {good}\n"
    )
    data = forget("recipe", "show", good, "--json").json
    assert (
        data["schema_version"] == 1
        and data["command"] == "recipe show"
        and data["seconds"]["total"] >= 0
    )
    assert data["recipe"]["refine"]["steps"] == 6 and data["recipe"]["edit"]["sites"] == [1, 2, 3]
    assert ["van gogh painting", "monet painting"] in data["edit_pairs"] and data[
        "preserve_prompts"
    ][0] == ""
    assert forget("recipe", "show", good, "-q").stdout == f"{good}\n"


def test_recipe_show_with_set_gives_a_recipe_that_says_so(forget, good: Path):
    changed = forget(
        "recipe", "show", good, "--set", "refine.steps=9", "--set", "concepts.0.target=claude monet"
    ).stdout
    (good.parent / "full.toml").write_text(changed)
    data = forget("recipe", "show", "full.toml", "--json").json
    assert (
        data["recipe"]["refine"]["steps"] == 9
        and data["recipe"]["concepts"][0]["target"] == "claude monet"
    )


def test_recipe_validate(forget, good: Path):
    assert (
        forget("recipe", "validate", good).stdout
        == f"{good}: valid (1 concept, 5 edit pairs, 3 prompts preserved)\n"
    )
    assert forget("recipe", "validate", good, "-q").stdout == f"{good}\n"
    data = forget("recipe", "validate", good, "--json").json
    assert data["ok"] is True and data["files"] == [
        {"path": str(good), "ok": True, "warnings": [], "problems": []}
    ]


def test_recipe_validate_tells_every_fault_of_every_file(forget, good: Path):
    (good.parent / "a.toml").write_text(
        EXAMPLE.replace("steps", "step").replace("seed = 7", 'seed = "7"')
    )
    (good.parent / "b.toml").write_text(EXAMPLE.replace('"a cat"', '"van gogh"'))
    run = forget("recipe", "validate", "a.toml", good, "b.toml", "c.toml")
    assert run.code == 2 and run.stdout.startswith(f"{good}: valid") and run.stdout.count("\n") == 1
    found = [line for line in run.stderr.splitlines() if not line.startswith("hint: ")]
    assert [line.split(":")[0:3] for line in found[:2]] == [
        ["error[recipe.type]", " a.toml", "1"],
        ["error[recipe.unknown-key]", " a.toml", "21"],
    ]
    assert found[2].startswith("error[recipe.conflict]: b.toml:15: ") and "(b.toml:4)" in found[2]
    assert (
        found[3] == "error[recipe.not-found]: c.toml: there is no such recipe" and len(found) == 4
    )
    data = forget("recipe", "validate", "a.toml", good, "--json")
    assert data.code == 2 and [file["ok"] for file in data.json["files"]] == [False, True]
    assert data.json["files"][0]["problems"][1] == {
        "code": "recipe.unknown-key",
        "message": "a.toml:21: [refine] has no key 'step'",
        "hint": "did you mean 'steps'?  (forget recipe schema lists all)",
    }
    quiet = forget("recipe", "validate", "a.toml", good, "-q")
    assert quiet.code == 2 and quiet.stdout == f"{good}\n" and "error[recipe.type]" in quiet.stderr


def test_doubts_go_to_stderr_but_not_when_quiet(forget, good: Path):
    good.write_text(EXAMPLE.replace('"starry night"', '"van gogh"'))
    run = forget("recipe", "validate", good)
    assert run.code == 0 and run.stderr.startswith(f"warning: {good}:9: ")
    assert forget("recipe", "validate", good, "-q").stderr == ""


def test_recipe_schema(forget):
    assert forget("recipe", "schema").stdout == json_schema.text()
    assert forget("recipe", "schema", "--json").json["schema"] == json_schema.build()
    assert (
        Path(forget("recipe", "schema", "-q").stdout.strip()).read_text(encoding="utf-8")
        == json_schema.text()
    )


def test_recipe_ls(forget):
    data = forget("recipe", "ls", "--json").json["recipes"]
    human, quiet = forget("recipe", "ls").stdout, forget("recipe", "ls", "-q").stdout
    assert quiet.splitlines() == [entry["path"] for entry in data] and human.split()[:3] == [
        "name",
        "concepts",
        "description",
    ]
    for entry in data:
        assert re.search(rf"^\s*{entry['name']}\s+{len(entry['concepts'])}\s", human, re.MULTILINE)


def test_recipe_init_writes_what_validate_accepts_and_overwrites_only_by_force(
    forget, tmp_path: Path
):
    run = forget("recipe", "init", "my.toml")
    assert run.code == 0 and run.stdout == "my.toml\n" and run.stderr.startswith("next: ")
    assert forget("recipe", "validate", "my.toml").code == 0
    (tmp_path / "my.toml").write_text("mine")
    assert_one_error(forget("recipe", "init", "my.toml"), "output.exists", "my.toml", "--force")
    assert (tmp_path / "my.toml").read_text() == "mine"
    assert forget("recipe", "init", "my.toml", "--force", "--json").json["path"] == "my.toml"
    assert (tmp_path / "my.toml").read_text(encoding="utf-8") == recipe_text.STARTER


def test_cache(forget, tmp_path: Path):
    folder = tmp_path / "k"
    entry = folder / "k0-v1" / f"{'a' * 64}.safetensors"
    entry.parent.mkdir(parents=True)
    entry.write_bytes(b"x" * 1500)  # damaged, and still listed, so that it can be pruned

    def cache(*arguments: str):
        return forget("cache", *arguments, FORGET_CACHE_DIR=str(folder))

    assert cache("dir").stdout == cache("dir", "-q").stdout == f"{folder}\n" and cache(
        "dir", "--json"
    ).json["path"] == str(folder)
    assert "1 entry, 1.5 kB" in cache("ls").stdout and cache("ls", "-q").stdout == f"{entry}\n"
    listed = cache("ls", "--json").json
    assert listed["bytes"] == 1500 and listed["entries"][0]["key"] == "a" * 64
    assert_one_error(cache("prune"), "usage", "nothing says what to delete")
    assert_one_error(cache("prune", "--max-size", "lots"), "usage", "'lots' is not a size")
    assert (
        cache("prune", "--max-size", "2kB").stdout == "0 entries deleted, 0 B freed\n"
        and entry.exists()
    )
    assert cache("prune", "--older-than", "1", "--json").json["pruned"] == [] and entry.exists()
    assert cache("prune", "--max-size", "1k", "-q").stdout == "a" * 64 + "\n" and not entry.exists()


def test_models(forget):
    data = forget("models", "--json").json["models"]
    assert all(set(model) == {"name", "family", "path", "description"} for model in data)
    assert forget("models", "-q").stdout.splitlines() == [model["path"] for model in data]
    human = forget("models").stdout
    assert human.split()[:3] == ["name", "family", "description"] and all(
        model["name"] in human for model in data
    )


def test_env(forget):
    data = forget("env", "--json").json
    assert (
        data["forget"] == forgetcli.__version__
        and "cpu" in data["devices"]
        and data["packages"]["torch"]
    )
    human = forget("env").stdout
    assert (
        f"forget: {data['forget']}\n" in human
        and f"  torch: {data['packages']['torch']}\n" in human
    )
    assert forget("env", "-q").stdout == f"{data['cache_dir']}\n"


def test_variables_stand_for_flags_and_json_can_be_quiet(forget, good: Path):
    run = forget("recipe", "show", good, FORGET_JSON="1", FORGET_SET="refine.steps=9")
    assert run.json["recipe"]["refine"]["steps"] == 9
    good.write_text(EXAMPLE.replace('"starry night"', '"van gogh"'))
    assert forget("recipe", "show", good, "--json").stderr.startswith("warning: ")
    both = forget("recipe", "show", good, "--json", "-q")
    assert both.json["warnings"] and both.stderr == ""


# errors


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["aply"], "usage", "did you mean 'apply'"),
        (["apply"], "usage", "give a recipe, --delta or --from"),
        (["apply", "good.toml", "--sede", "3"], "usage", "--sede"),
        (["apply", "good.toml", "--dtype", "float8"], "usage", "float8"),
        (["generate", "x", "-n", "0"], "usage", "--count"),
        (["generate"], "usage", "nothing to generate"),
        (["generate", "--prompts", "absent.txt"], "prompts.not-found", "absent.txt: no such file"),
        (["apply", "absent.toml"], "recipe.not-found", "absent.toml: there is no such recipe"),
        (
            ["apply", "good.toml", "--set", "refine.step=3"],
            "recipe.unknown-key",
            "--set refine.step: [refine] has no key 'step'",
        ),
        (["apply", "bad\n\x1b[31mname.toml"], "recipe.not-found", "bad \\x1b[31mname.toml"),
        (["recipe", "show", "."], "recipe.not-found", "is a directory"),
        (["recipe", "init", "absent/x/y.toml"], "output.failed", "absent/x/y.toml"),
        (["verify", "absent"], "model.not-found", "absent"),
    ],
)
def test_a_mistake_is_one_line(forget, good: Path, arguments: list[str], code: str, says: str):
    run = forget(*arguments)
    assert_one_error(run, code)
    assert says.lower() in run.stderr.lower()


def test_offline_and_not_cached_gives_the_command_that_fetches_it(forked, tmp_path: Path):
    """`HF_HOME` and `HF_HUB_OFFLINE` as huggingface_hub has them."""
    run = forked(
        tmp_path,
        "apply",
        "sd14/objects",
        "--model",
        "org/none@v1",
        HF_HOME=str(tmp_path / "hf"),
        HF_HUB_OFFLINE="1",
    )
    command = (
        "hf download org/none --revision v1 --include '*.json' --include '*.txt' "
        "--include '*/*.safetensors'"
    )
    assert (
        run.code == 2
        and run.stderr.startswith("error[model.not-found]: 'org/none@v1'")
        and run.stderr.endswith(f"{command}\n")
    )
    assert not (tmp_path / "edited").exists()


def test_prompts_that_are_not_utf8(forget, tmp_path: Path):
    (tmp_path / "p.txt").write_bytes(b"caf\xe9\n")
    assert_one_error(forget("generate", "-p", "p.txt"), "prompts.encoding", "p.txt: not UTF-8")
