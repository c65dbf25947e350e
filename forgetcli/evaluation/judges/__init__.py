"""Judges: one file each; a judge decides whether a concept is visible in a picture.

A judge is a module, here or behind an entry point of the group ``forgetcli.judges``, with

    Options                                 a pydantic model of its settings, each with a default or
                                            required
    load(options, device) -> judge          ready to see; `device` as given to --device, None to
                                            detect

and the judge has

    identity() -> dict                      name, revision, weight digest, threshold, prompt …:
                                            recorded with every result
    label(words, name=None) -> str | None   its own name for a concept, found by the recipe's
                                            `label` for it if it knows
                                            that, else by its words; None if it has none
    see(pictures, labels, choices) -> list[Sight]
        one question for each picture: is `labels[i]` visible in `pictures[i]`? `choices[i]` are the
            labels that
        exclude one another there, `labels[i]` among them, for judges that compare; others ignore
        them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from forgetcli import plugins

GROUP = "forgetcli.judges"


@dataclass(frozen=True)
class Sight:
    """A judge's answer: is the concept visible, what it took the picture for, and its score of the
    concept in [0, 1].
    """

    seen: bool
    judged: str
    score: float


def names() -> list[str]:
    return plugins.names(__name__, GROUP)


def load(name: str, device: str | None = None, options: Mapping[str, object] | None = None):
    """The judge called `name`, ready to see.

    Args:
        options: the judge's own settings; strings are read as the setting's type.
    Raises:
        ForgetError: there is no such judge, or it has no such setting, or the setting is out of
            range.
    """
    module = plugins.find(__name__, GROUP, name, "judge.unknown", "judge")
    return module.load(
        plugins.validated_options("judge", name, module.Options, options or {}, "judge"), device
    )
