"""The list of error codes is complete, current, and every code has the promised form."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

import error_codes


def test_the_committed_list_is_current():
    committed = error_codes.PAGE.read_text(encoding="utf-8")
    assert committed == error_codes.page(), "run: python scripts/error_codes.py"


def test_every_code_has_the_form_that_scripts_rely_on():
    codes = {raising.code for raising in error_codes.raisings()}
    assert {code for code in codes if not error_codes.CODE.fullmatch(code)} == set()
    # One of each way in which the package makes errors.
    assert {
        "usage",
        "recipe.unknown-key",
        "prompts.bad-row",
        "prompts.bad-toml",
        "judge.unknown",
        "export.bad-option",
        "output.disk-full",
    } <= codes


def test_a_new_code_is_found(tmp_path: Path):
    source = 'raise ModelError("model.new", f"{x} is new")\nraise EditError(f"edit.{a}", "b")\n'
    (tmp_path / "module.py").write_text(source)
    (found,) = error_codes.raisings(tmp_path)
    assert found == error_codes.Raising("model.new", "module", "{…} is new")
