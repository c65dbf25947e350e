"""A draft whose edit withstands attacks with the weights: learned words, and the unedited text
encoder in front of the edited denoiser.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from forgetcli.errors import ForgetError
from forgetcli.pipeline.drafting.draft import Choice, Draft

METHOD = "nullspace"
# Both halves, and a fine-tuning after the closed form. What they withstand: docs/robustness.md.
TABLES: Mapping[str, Mapping[str, float | str]] = {
    "edit": {"layers": "both"},
    "robust": {"finetune": 600},
}


def refuse_others(method: str, owner: str | None) -> None:
    """Refuse another method, and an attribute of one concept.

    Args:
        owner: of the attribute: the training at its images would not leave others alone.
    Raises:
        ForgetError: erase.robust.
    """
    if method != METHOD:
        raise ForgetError(
            "erase.robust",
            f"--robust sets parameters of {METHOD}, and the method is '{method}'",
            "leave out --method or --robust",
        )
    if owner is not None:
        raise ForgetError(
            "erase.robust",
            f"--robust would erase the attribute everywhere, not only from '{owner}'",
            "leave out --robust or --attribute-of",
        )


def hardened(draft: Draft) -> Draft:
    """The draft with parameters that let the edit withstand these attacks."""
    why = "withstands learned words and the unedited text encoder; trained for minutes"
    choice = Choice("", "layers", "text encoder and denoiser", why, "--robust")
    tables = {
        name: {**draft.nullspace.get(name, {}), **TABLES.get(name, {})}
        for name in dict.fromkeys([*draft.nullspace, *TABLES])
    }
    return replace(draft, choices=(*draft.choices, choice), nullspace=tables)
