"""The input of an editing method: what to change, what to keep, and where known results lie.

A method receives a `Task` instead of a recipe, so that methods know neither recipes nor edited
folders, and a test can write one down directly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from forgetcli.editing.moment_cache import MomentCache

if TYPE_CHECKING:
    from forgetcli.linalg import Moment
    from forgetcli.progress import Observer

    # Second moments K_pK_pᵀ of earlier edits by site name, for those of the given sites that have
    # any. The observer gets a note about edits that cannot be protected there.
    EarlierEdits = Callable[[Sequence[Any], Observer], Mapping[str, Moment]]


def no_earlier_edits(sites: Sequence[Any], observer: Observer) -> Mapping[str, Moment]:
    """`Task.earlier` of a model that was not edited before: there is nothing to protect."""
    return {}


@dataclass(frozen=True)
class Task:
    """One edit, as a method receives it.

    Attributes:
        pairs: (concept prompt, target prompt) in the recipe's order, each concept prompt once.
        preserve: prompts that the edit protects, each once, the empty prompt first.
        heldout: prompts that should keep their meaning too, which the edit must not use: they only
            measure how far it reaches beyond `preserve`.
        prior_words: this many of the vocabulary's most frequent words are held besides, with a
            weight of their own; see `forgetcli.editing.prior`.
        prior_captions: prompts that are held in the same way.
        shared: the parts of `preserve` that many edits preserve, which nobody has read word by
            word for this one. The second moments of each part are kept on their own.
        seed: seed of everything random.
        earlier: returns the second moments of earlier edits' keys at given sites.
        moments: cache of second moments.
        concepts: the pairs of each concept, the plainest first; empty: all pairs are one concept's.
    """

    pairs: tuple[tuple[str, str], ...]
    preserve: tuple[str, ...] = ("",)
    heldout: tuple[str, ...] = ()
    prior_words: int = 0
    prior_captions: tuple[str, ...] = ()
    shared: tuple[tuple[str, ...], ...] = ()
    seed: int = 0
    earlier: EarlierEdits = no_earlier_edits
    moments: MomentCache = field(default_factory=MomentCache)
    concepts: tuple[tuple[tuple[str, str], ...], ...] = ()

    @property
    def own(self) -> list[str]:
        """The prompts of `preserve` that are in no shared part."""
        apart = {prompt for part in self.shared for prompt in part}
        return [prompt for prompt in self.preserve if prompt not in apart]

    @property
    def prior_size(self) -> int:
        """The largest number of prompts that the prior can have; a vocabulary may have fewer
        words.
        """
        return self.prior_words + len(self.prior_captions)
