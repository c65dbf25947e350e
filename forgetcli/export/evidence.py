"""What is known about an edited model, for documents that are handed on: the ML-BOM and the
evidence page.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from forgetcli.artifact.card import History
from forgetcli.artifact.edited import EditedModel
from forgetcli.artifact.manifest import SIGNATURE
from forgetcli.errors import ForgetError
from forgetcli.export.results import (
    ATTACKS,
    EVALUATION,
    Attacked,
    Scores,
    read_attacks,
    read_scores,
)
from forgetcli.progress import Observer
from forgetcli.robustness import attacks as all_attacks

Results = TypeVar("Results", Scores, Attacked)


@dataclass(frozen=True)
class Evidence:
    """What is known about an edited model.

    Attributes:
        edited: the model; the digests of all its files have been checked.
        history: its base and the concepts of all its edits.
        scores: None without an evaluation of this model.
        attacks: None if no results of attacks on this model were given.
    """

    edited: EditedModel
    history: History
    scores: Scores | None
    attacks: Attacked | None

    @property
    def signed(self) -> bool:
        return (self.edited.folder / SIGNATURE).is_file()

    def missing(self) -> list[str]:
        """What was not measured, a sentence each."""
        return list(self._missing())

    def _missing(self) -> Iterator[str]:
        if self.scores is None:
            yield "No evaluation: how well the concepts are forgotten was not measured."
        else:
            if "adjacent" not in self.scores.edited:
                yield "Near concepts were not measured."
            if not self.scores.judge.errors:
                yield "The error rate of the judge is not known."
        if self.attacks is None:
            yield "No attack was run: nothing is known about hidden knowledge."
            return
        if all(row.control is None for row in self.attacks.rows):
            yield "The unedited model was not attacked, so no attack gives a verdict."
        elif self.attacks.resist is None:
            yield "No attack gives a verdict, so resistance to attacks is not known."
        if all(row.floor is None for row in self.attacks.rows):
            yield (
                "No model that never learned the concepts was attacked, so it was not measured "
                "what the attacks alone can generate."
            )
        not_run = [name for name in all_attacks.names() if name not in self.attacks.names]
        if not_run:
            yield f"Attacks that were not run: {', '.join(not_run)}."

    def not_claimed(self) -> list[str]:
        """What must not be concluded from the evidence, a sentence each."""
        origin = (
            "A signature is in the folder; it was not checked here."
            if self.signed
            else "The manifest is not signed, so the digests show accidents, not a forger."
        )
        scores = (
            "That other judges or prompts give the same scores. These are of one judge on the "
            "evaluation's prompts."
        )
        return [
            "That the concepts are gone from the weights. An edit changes what prompts lead to. "
            "Other wordings, optimised prompts, learned words, image prompts, adapters and further "
            "training may bring a concept back.",
            *([scores] if self.scores else []),
            f"Who made the edit. {origin}",
            "That the model is safe or lawful to use. All limitations and biases of the base model "
            "apply.",
        ]


def gather(
    edited: EditedModel, scores: Path | None, attacks: Path | None, observer: Observer
) -> Evidence:
    """Check the files of an edited model and read what was measured of it.

    Args:
        scores: ``results.json`` of ``forget eval``. Default: `EVALUATION`, if it is of this model.
        attacks: ``results.json`` of ``forget attack``. Default: `ATTACKS`, if it is of this model.
    Raises:
        ModelError: model.changed: a file differs from the manifest; the ledger is damaged.
        ForgetError: evidence.results: a file that the user named holds no such results;
            evidence.other-model: it has the results of another model.
    """
    observer.stage("checking")
    _ = edited.all_files
    history = History.read(edited)
    return Evidence(
        edited=edited,
        history=history,
        scores=_named_or_default(read_scores, scores, EVALUATION, edited.digest, observer),
        attacks=_named_or_default(read_attacks, attacks, ATTACKS, edited.digest, observer),
    )


def _named_or_default(
    read: Callable[[Path, str], Results],
    named: Path | None,
    default: Path,
    digest: str,
    observer: Observer,
) -> Results | None:
    """What `read` returns for the file that the user named, or else for the default one.

    A default file that cannot be used is left out with a note: the user did not ask for it.
    """
    if named is not None:
        return read(named, digest)
    if not default.exists():
        return None
    try:
        return read(default, digest)
    except ForgetError as fault:
        observer.note(f"not used: {fault.message}")
        return None
