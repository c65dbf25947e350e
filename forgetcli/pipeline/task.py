"""From a recipe and its base model to the task that an editing method receives."""

from __future__ import annotations

from typing import TYPE_CHECKING

from forgetcli.artifact.previous_edits import PreviousEdits
from forgetcli.editing.task import Task
from forgetcli.recipe.model import pairs_of

if TYPE_CHECKING:
    from forgetcli.checkpoint.base import Base
    from forgetcli.editing.moment_cache import MomentCache
    from forgetcli.recipe import Recipe


def task_of(
    recipe: Recipe, base: Base, cache: MomentCache, previous: PreviousEdits | None = None
) -> Task:
    """The recipe's edit of this base model.

    Args:
        recipe: as it is for the model's family; see `Recipe.on`.
        base: its ledger, if it was edited before, has what the edit must protect.
        cache: of second moments.
        previous: the edits that `base` holds, if they have been looked at before.
    """
    return Task(
        pairs=tuple(recipe.edit_pairs()),
        preserve=tuple(recipe.preserve_prompts()),
        heldout=tuple(
            prompt
            for retained in recipe.retain
            for prompt in (*retained.direct, *retained.indirect)
        ),
        prior_words=recipe.preserve.prior_words if recipe.preserve.prior == "words" else 0,
        prior_captions=recipe.prior_captions,
        seed=recipe.seed,
        earlier=(previous or PreviousEdits(base)).held,
        moments=cache,
        concepts=tuple(
            tuple(pairs_of(concept, recipe.prompts.templates)) for concept in recipe.concepts
        ),
    )
