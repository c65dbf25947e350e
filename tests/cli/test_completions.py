"""Shell completion: the committed scripts are the present ones, work in bash, and answer without
loading much.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from forgetcli.cli import suggestions

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import completions  # noqa: E402


@pytest.mark.parametrize("shell", completions.FILES)
def test_the_committed_script_is_the_present_one(shell: str):
    committed = completions.FOLDER / completions.FILES[shell]
    assert committed.read_text(encoding="utf-8") == completions.script(shell), (
        "run: python scripts/completions.py"
    )
    assert "_FORGET_COMPLETE" in committed.read_text(encoding="utf-8")


@pytest.fixture
def on_path(tmp_path: Path) -> dict[str, str]:
    """An environment in which `forget` is a command, as it is once installed."""
    command = tmp_path / "forget"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m forgetcli "$@"\n')
    command.chmod(0o755)
    return {
        **os.environ,
        "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["re"], ["recipe"]),
        (["recipe", "s"], ["show", "schema"]),
        (["apply", "--d"], ["--device", "--dtype", "--dry-run"]),
        (["apply", "x.toml", "--dtype", "float"], ["float32", "float16"]),
        (["nonsense"], []),
    ],
)
def test_bash_completes(words: list[str], offered: list[str], on_path: dict[str, str]):
    script = (
        f"source {completions.FOLDER / 'forget.bash'}; "
        f"COMP_WORDS=(forget {' '.join(words)}); COMP_CWORD={len(words)}; "
        'unset -v COMPREPLY; _forget_completion forget; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "-c", script], check=False, capture_output=True, text=True, env=on_path, timeout=60
    )
    found = done.stdout.split()
    assert set(offered) <= set(found) and (offered or not found), done.stderr


def test_completing_loads_nothing_heavy(on_path: dict[str, str]):
    script = (
        "import sys\nfrom forgetcli.cli import main\nsys.argv = ['forget']\nmain()\n"
        "heavy = ('torch', 'numpy', 'forgetcli.recipe', 'pydantic', 'rich.console')\n"
        "print([m for m in heavy if m in sys.modules], file=sys.stderr)"
    )
    asking = {
        **on_path,
        "_FORGET_COMPLETE": "complete_bash",
        "COMP_WORDS": "forget apply ",
        "COMP_CWORD": "2",
    }
    done = subprocess.run(
        [sys.executable, "-c", script],
        check=False,
        capture_output=True,
        text=True,
        env=asking,
        timeout=60,
    )
    assert done.stderr.splitlines()[-1] == "[]"
    for recipe in (ROOT / "recipes").glob("*.toml"):  # the bundled ones are offered
        assert recipe.stem in done.stdout.split()


@pytest.mark.parametrize(
    ("offer", "incomplete", "offered"),
    [
        (suggestions.methods, "nu", ["nullspace"]),
        (suggestions.method_list, "nullspace,u", ["nullspace,uce"]),
        (suggestions.method_list, "nullspace,null", []),
        (suggestions.judges, "de", ["demo"]),
        (suggestions.features, "", ["auto", "none", "demo", "inception"]),
        (suggestions.namings, "k", ["kohya"]),
        (suggestions.recipe_keys, "concepts.0.tar", ["concepts.0.target="]),
        (suggestions.recipe_keys, "refine.st", ["refine.steps="]),
        (suggestions.recipe_keys, "see", ["seed="]),
        (suggestions.recipe_keys, "nonsense", []),
    ],
)
def test_values_are_offered(offer: Callable, incomplete: str, offered: list[str]):
    found = offer(incomplete)
    assert set(offered) <= set(found) and (offered or not found)
    assert all(value.startswith(incomplete) for value in found)


def test_models_are_the_embedded_one_and_those_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "edited").mkdir()
    assert "edited" not in suggestions.models("")
    (tmp_path / "edited" / "forget.provenance.json").touch()
    assert suggestions.models("")[:2] == ["demo", "edited"]
