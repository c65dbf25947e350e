"""Judges: one file each. A judge decides whether a concept is visible in an image.

A judge is a module, here or behind an entry point of the group ``forgetcli.judges``, with

    Options                             a pydantic model of its settings, each with a default or
                                        required
    load(options, device) -> Judge      the judge, ready to see; `device` as given to --device,
                                        None to choose one

and, if it likes,

    knows() -> Mapping[str, Sequence[str]]
                                        the labels that it knows, by kind; a judge without it takes
                                        any concept in words

`Judge` says what the judge itself must offer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from forgetcli import plugins

if TYPE_CHECKING:
    from PIL.Image import Image

GROUP = "forgetcli.judges"


@dataclass(frozen=True)
class Verdict:
    """What a judge decides about one image.

    Attributes:
        seen: whether the concept is visible.
        judged: what the judge takes the image for.
        score: the judge's score for the concept, from 0 to 1.
    """

    seen: bool
    judged: str
    score: float


# The earlier name, for judges of third parties.
Sight = Verdict


class Judge(Protocol):
    """A classifier that answers one question about each image.

    A judge whose `judged` names concepts can also have ``first_choices(label, choices)``: what
    `judged` can be for a question about `label`. Without it no target is scored. A judge with
    labels of its own can have ``words(label)``: what prompts call it.
    """

    def identity(self) -> dict[str, Any]:
        """Everything that its verdicts depend on: name, revision, weight digest, threshold, prompt.

        Recorded with every result.
        """

    def label(self, words: str, name: str | None = None) -> str | None:
        """The judge's own name for a concept. None if it has none.

        Args:
            words: the concept as the recipe writes it.
            name: the recipe's `label` for it, which overrides the words if the judge knows it.
        """

    def see(
        self,
        images: Sequence[Image],
        labels: Sequence[str],
        choices: Sequence[Sequence[str]] | None = None,
    ) -> list[Verdict]:
        """Whether `labels[i]` is visible in `images[i]`.

        Args:
            choices: for each image the labels that exclude one another, `labels[i]` among them.
                For judges that compare; others ignore it.
        """


def names() -> list[str]:
    """All judges, sorted."""
    return plugins.names(__name__, GROUP)


@dataclass(frozen=True)
class Description:
    """What a judge is, without its weights.

    Attributes:
        name: what ``--judge`` accepts.
        summary: one sentence.
        knows: the labels that it knows, by kind; None if it takes any concept in words.
        settings: the keys of ``--judge-set``.
    """

    name: str
    summary: str
    knows: Mapping[str, tuple[str, ...]] | None
    settings: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """As in ``forget judges --json``."""
        knows = None
        if self.knows is not None:
            knows = {kind: list(labels) for kind, labels in self.knows.items()}
        return {
            "name": self.name,
            "summary": self.summary,
            "knows": knows,
            "settings": list(self.settings),
        }


def describe(name: str) -> Description:
    """The judge called `name`, described. Its weights are not needed.

    Raises:
        ForgetError: judge.unknown; plugin.broken.
    """
    module = plugins.find(__name__, GROUP, name, "judge.unknown", "judge")
    return Description(
        name=name,
        summary=" ".join((module.__doc__ or "").partition("\n\n")[0].split()),
        knows=known(name),
        settings=tuple(module.Options.model_fields),
    )


def known(name: str) -> dict[str, tuple[str, ...]] | None:
    """The labels that the judge called `name` knows, by kind; None if it takes any words.

    Raises:
        ForgetError: judge.unknown; plugin.broken.
    """
    module = plugins.find(__name__, GROUP, name, "judge.unknown", "judge")
    if not hasattr(module, "knows"):
        return None
    return {kind: tuple(labels) for kind, labels in module.knows().items()}


def load(
    name: str, device: str | None = None, options: Mapping[str, object] | None = None
) -> Judge:
    """The judge called `name`, ready to see.

    Args:
        options: the judge's own settings. Strings are converted to the type of the setting.
    Raises:
        ForgetError: there is no such judge, it has no such setting, or the setting is out of range.
    """
    module = plugins.find(__name__, GROUP, name, "judge.unknown", "judge")
    settings = plugins.validated_options("judge", name, module.Options, options or {}, "judge")
    judge: Judge = module.load(settings, device)
    return judge
