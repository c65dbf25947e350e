"""Attacks that a family cannot run: refused where the user named them, left out otherwise."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from forgetcli.errors import ForgetError
from forgetcli.models.tokens import Tokenizers
from forgetcli.robustness import attacks
from forgetcli.robustness.outcomes import Outcomes, Settings
from forgetcli.robustness.results import UNEDITED


class Notes:
    """An observer that keeps the notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


def run_of(model: object, names: list[str]) -> tuple[Outcomes, Notes]:
    notes = Notes()
    run = Outcomes(
        bases={},
        goals=[],
        options={name: attacks.options(name, {}) for name in names},
        judge=None,
        settings=Settings(1, 0, 1, None, 1),
        output=Path("nowhere"),
        device=None,
        observer=notes,
    )
    run.__dict__["_loaded"] = {UNEDITED: model}  # as its cached_property would
    return run, notes


FLOW = SimpleNamespace(tokenizer=Tokenizers(()), base=SimpleNamespace(id="flux"))


def test_defaults_are_what_the_family_can_run() -> None:
    run, notes = run_of(FLOW, ["swap", "p4d", "inversion", "noise"])
    assert run.supported_attacks(named=False) == ["swap", "inversion"]
    assert [note.split(": ", 1)[0] for note in notes.notes] == ["not run", "not run"]
    assert "several text encoders" in notes.notes[0] and "adds no noise" in notes.notes[1]


@pytest.mark.parametrize("name", ["p4d", "unlearndiffatk", "ring-a-bell", "noise"])
def test_an_attack_that_was_asked_for_is_refused(name: str) -> None:
    with pytest.raises(ForgetError) as error:
        run_of(FLOW, ["swap", name])[0].supported_attacks(named=True)
    assert error.value.code == "attack.unsupported" and name in error.value.message
