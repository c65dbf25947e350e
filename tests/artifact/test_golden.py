"""Claim: what an earlier version wrote is still verified, listed, reverted and described."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import ROOT, Run, python

GOLDEN = ROOT / "tests" / "golden"
FORMATS = sorted(path.name for path in GOLDEN.glob("format-*"))
MANIFEST = "forget.provenance.json"
WEIGHTS = ("text_encoder/model.safetensors", "unet/diffusion_pytorch_model.safetensors")


@pytest.fixture(params=FORMATS)
def golden(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of a format's edited folder; the files as the commit has them are never touched."""
    shutil.copytree(GOLDEN / request.param / "edited", tmp_path / "edited")
    shutil.copy(GOLDEN / request.param / "edited-delta.safetensors", tmp_path / "delta.safetensors")
    return tmp_path / "edited"


def digests(folder: Path) -> dict[str, str]:
    statement = json.loads((folder / MANIFEST).read_text())
    return {subject["name"]: subject["digest"]["sha256"] for subject in statement["subject"]}


def test_verify_passes_and_can_fail(golden: Path, forget: Callable[..., Run]) -> None:
    verified = forget("verify", "edited", "--json")
    assert verified.code == 0, verified.stderr
    assert verified.json["ok"]
    weights = golden / WEIGHTS[0]
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert forget("verify", "edited").code == 1


@pytest.mark.parametrize(
    ("command", "unused"),
    [
        (("log", "edited"), ("torch",)),
        (("revert", "edited", "--all", "-o", "base"), ("diffusers", "transformers")),
        (("export", "edited", "--format", "delta"), ("torch", "diffusers", "transformers")),
    ],
    ids=["log", "revert", "export"],
)
def test_what_a_command_does_not_need_it_does_not_load(
    golden: Path, command: tuple[str, ...], unused: tuple[str, ...]
) -> None:
    """Each of these libraries takes seconds to import."""
    done = python(
        f"import sys; sys.argv = ['forget', *{command!r}]\n"
        "from forgetcli.cli import main\n"
        "code = main()\n"
        f"print([name for name in {unused!r} if name in sys.modules], file=sys.stderr)\n"
        "sys.exit(code)",
        cwd=golden.parent,
    )
    assert (done.returncode, done.stderr.splitlines()[-1]) == (0, "[]"), done.stderr


@pytest.mark.parametrize(
    ("command", "encoding", "says"),
    [("verify", "ascii", "verified"), ("log", "cp1252", "van gogh")],
)
def test_stdout_that_is_not_utf8_keeps_the_exit_code(
    golden: Path, started: Callable[..., Run], command: str, encoding: str, says: str
) -> None:
    """The marks before the lines of one, the arrows and frames of the other are in neither
    encoding: they are replaced.
    """
    shown = started(command, "edited", PYTHONUTF8="0", PYTHONIOENCODING=encoding)
    assert shown.code == 0, shown.stderr
    assert says in shown.stdout and "?" in shown.stdout


def test_log_lists_both_edits(golden: Path, forget: Callable[..., Run]) -> None:
    listed = forget("log", "edited", "--json")
    assert listed.code == 0, listed.stderr
    assert [edit["method"] for edit in listed.json["edits"]] == ["nullspace", "uce"]


def test_revert_gives_the_bases_bytes_and_the_delta_puts_the_edit_back(
    golden: Path, forget: Callable[..., Run]
) -> None:
    before, place = digests(golden), golden.parent
    assert forget("revert", "edited", "--all", "-o", "base").code == 0
    base = json.loads((golden / "forget.ledger.json").read_text())["base"]["files"]
    for name in WEIGHTS:
        assert digests(place / "base")[name] == base[name] != before[name]
    assert forget("revert", "edited", "--edit", "2", "-o", "first").code == 0
    apply_delta = ("apply", "--delta", "delta.safetensors", "--model", "first", "-o", "again")
    put_back = forget(*apply_delta)
    assert put_back.code == 0, put_back.stderr
    after = digests(place / "again")
    assert {name: after[name] for name in WEIGHTS} == {name: before[name] for name in WEIGHTS}


def test_card_is_written_again_and_names_both_concepts(
    golden: Path, forget: Callable[..., Run]
) -> None:
    written = forget("card", "edited")
    assert written.code == 0, written.stderr
    card = (golden / "README.md").read_text()
    assert "van gogh" in card
    assert "house" in card
