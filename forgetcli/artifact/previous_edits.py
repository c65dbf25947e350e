"""The edits that a base model holds already, and what a new edit must keep of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from forgetcli.artifact import ledger as ledgers
from forgetcli.artifact import ledger_keys
from forgetcli.artifact.ledger import Ledger
from forgetcli.artifact.manifest import Manifest
from forgetcli.checkpoint.base import Base

if TYPE_CHECKING:
    from forgetcli.linalg import Moment
    from forgetcli.models.base import Site
    from forgetcli.progress import Observer


@dataclass(frozen=True)
class PreviousEdits:
    """The edits that a base model holds already; manifest and ledger are read when they are first
    asked for, and kept.
    """

    base: Base

    @cached_property
    def manifest(self) -> Manifest | None:
        """The manifest of the base's folder; None if forget did not make it.

        Raises:
            ModelError: model.manifest: it is damaged.
        """
        return ledgers.manifest_in(self.base.folder)

    @cached_property
    def ledger(self) -> Ledger | None:
        """The ledger that goes with the base; None if it has none.

        A single file may lie in the folder of another model: that model's ledger is not its own.

        Raises:
            ModelError: ledger.damaged; model.manifest.
        """
        found = ledgers.load(self.base.folder, self.manifest)
        return found if found and self.base.file in (None, *found.book.base.files) else None

    def fitting_ledger(self) -> Ledger | None:
        """The ledger, checked against the base's weights.

        Raises:
            ModelError: ledger.other-weights; those of `ledger`.
        """
        if self.ledger:
            self.ledger.check_fits(self.base.folder)
        return self.ledger

    def held(self, sites: Sequence[Site], observer: Observer) -> dict[str, Moment]:
        """K_pK_pᵀ of the edits by site name, where the ledger has keys for the site.

        Raises:
            ModelError: those of `ledger`.
        """
        ledger = self.ledger
        if ledger is None:
            return {}
        moments = {
            site.name: ledger_keys.protected(ledger, site.component, site.parameter)
            for site in sites
        }
        keys = {f"{site.component}:{site.parameter}" for site in sites}
        unprotected = [str(e.number) for e in ledger.edits if keys.isdisjoint(e.tokens)]
        if unprotected:
            observer.note(_unprotected_note(unprotected))
        return {name: moment for name, moment in moments.items() if moment}


def _unprotected_note(numbers: Sequence[str]) -> str:
    if len(numbers) == 1:
        subject = f"edit {numbers[0]} is"
        them = "it"
    else:
        subject = f"edits {', '.join(numbers[:-1])} and {numbers[-1]} are"
        them = "them"
    return f"{subject} not protected: the ledger has no keys for {them} at these layers"
