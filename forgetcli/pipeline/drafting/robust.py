"""A draft whose edit withstands attacks with the weights: learned words, and the unedited text
encoder in front of the edited denoiser.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from forgetcli.errors import ForgetError
from forgetcli.pipeline.drafting.draft import Choice, Draft

# Both halves, and a fine-tuning after the closed form. What they withstand: docs/robustness.md.
NULLSPACE: Mapping[str, Mapping[str, float | str]] = {
    "edit": {"layers": "both"},
    "robust": {"finetune": 100},
}


def hardened(draft: Draft, method: str) -> Draft:
    """The draft with parameters of `nullspace` that let the edit withstand these attacks.

    Raises:
        ForgetError: erase.robust: another method is to make the edit.
    """
    if method != "nullspace":
        raise ForgetError(
            "erase.robust",
            f"--robust sets parameters of nullspace, and the method is '{method}'",
            "leave out --method; stereo withstands learned words without --robust",
        )
    choice = Choice(
        "", "layers", "text encoder and denoiser, fine-tuned against learned words", "given",
        "--robust",
    )  # fmt: skip
    tables = {
        name: {**draft.nullspace.get(name, {}), **NULLSPACE.get(name, {})}
        for name in dict.fromkeys([*draft.nullspace, *NULLSPACE])
    }
    return replace(draft, choices=(*draft.choices, choice), nullspace=tables)
