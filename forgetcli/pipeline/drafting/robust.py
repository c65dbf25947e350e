"""A draft whose edit withstands attacks with the weights: learned words, and the unedited text
encoder in front of the edited denoiser.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from forgetcli.errors import ForgetError
from forgetcli.pipeline.drafting.draft import Choice, Draft

# Of all methods it withstands these attacks best (docs/robustness.md).
METHOD = "stereo"


def refuse_others(method: str, owner: str | None) -> None:
    """Refuse other methods, and an attribute of one concept: `METHOD` protects no prompts.

    Args:
        owner: of the attribute.
    Raises:
        ForgetError: erase.robust.
    """
    if owner is not None:
        raise ForgetError(
            "erase.robust",
            f"--robust would erase the attribute everywhere, not only from '{owner}'",
            "leave out --robust or --attribute-of",
        )
    if method not in ("nullspace", METHOD):
        raise ForgetError(
            "erase.robust",
            f"--robust edits with {METHOD}, and the method is '{method}'",
            "leave out --method or --robust",
        )


def hardened(draft: Draft) -> Draft:
    """The draft with parameters for `METHOD`."""
    why = "withstands learned words and the unedited text encoder; it is trained, for minutes"
    choice = Choice("", "method", METHOD, why, "--robust")
    return replace(draft, choices=(*draft.choices, choice), parameters={METHOD: steps(draft)})


def steps(draft: Draft) -> Mapping[str, Mapping[str, int]]:
    """The training's steps: several concepts are trained together, each for its share of them."""
    # Imported here: loads pydantic.
    from forgetcli.methods import stereo

    count, default = len(draft.concepts), stereo.Parameters()
    if count == 1:
        return {}
    return {
        "search": {"steps": count * default.search.steps},
        "erase": {"steps": count * default.erase.steps},
    }
