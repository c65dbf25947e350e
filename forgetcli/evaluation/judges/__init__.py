"""Judges: one file each. A judge decides whether a concept is visible in an image.

A judge is a module, here or behind an entry point of the group ``forgetcli.judges``, with

    Options                             a pydantic model of its settings, each with a default or
                                        required
    load(options, device) -> Judge      the judge, ready to see; `device` as given to --device,
                                        None to choose one

`Judge` says what the judge itself must offer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from forgetcli import plugins
from forgetcli.errors import ForgetError

if TYPE_CHECKING:
    from PIL.Image import Image
    from pydantic import BaseModel

GROUP = "forgetcli.judges"
Options = TypeVar("Options", bound="BaseModel")


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
    """A classifier that answers one question about each image."""

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
    judge: Judge = module.load(_read(name, module.Options, options or {}), device)
    return judge


def _read(name: str, schema: type[Options], options: Mapping[str, object]) -> Options:
    # pydantic takes a while to import, and `names` does not need it.
    from pydantic import ValidationError

    try:
        return schema.model_validate(options)
    except ValidationError as bad:
        fault = bad.errors()[0]
        key, known = ".".join(map(str, fault["loc"])), sorted(schema.model_fields)
        near = get_close_matches(key, known, 1)
        unknown = fault["type"] == "extra_forbidden"
        raise ForgetError(
            f"judge.{'unknown-option' if unknown else 'bad-option'}",
            f"judge '{name}' has no setting '{key}'"
            if unknown
            else f"judge '{name}': {key}: {fault['msg']}",
            f"did you mean '{near[0]}'?"
            if near and unknown
            else f"its settings: {', '.join(known) or 'none'}",
        ) from None
