"""From a recipe and its base model to the task that an editing method receives."""

from __future__ import annotations

from typing import TYPE_CHECKING

from forgetcli.artifact.previous_edits import PreviousEdits
from forgetcli.editing.task import Task
from forgetcli.models.vocabulary import is_in_vocabulary
from forgetcli.recipe.model import pairs_of

if TYPE_CHECKING:
    from forgetcli.checkpoint.base import Base
    from forgetcli.editing.moment_cache import MomentCache
    from forgetcli.models.tokens import Tokenizer, Tokenizers
    from forgetcli.recipe import Recipe


def task_of(
    recipe: Recipe,
    base: Base,
    cache: MomentCache,
    previous: PreviousEdits | None = None,
    tokenizer: Tokenizer | Tokenizers | None = None,
) -> Task:
    """The recipe's edit of this base model.

    Args:
        recipe: as it is for the model's family; see `Recipe.on`.
        base: its ledger, if it was edited before, has what the edit must protect.
        cache: of second moments.
        previous: the edits that `base` holds, if they have been looked at before.
        tokenizer: leave out the prompts of preserve sets that it does not hold in whole words: they
            say nothing to the model, and their pieces would be protected in every other word.
            (Measured on the embedded model, whose tokenizer holds 257 of 2,937: docs/erase.md.)
    """
    shared = [
        tuple(prompt for prompt in part if tokenizer is None or is_in_vocabulary(tokenizer, prompt))
        for part in recipe.shared_prompts()
    ]
    own = recipe.own_preserve_prompts()
    return Task(
        pairs=tuple(recipe.edit_pairs()),
        preserve=tuple(dict.fromkeys([*own, *(prompt for part in shared for prompt in part)])),
        heldout=tuple(
            prompt
            for retained in recipe.retain
            for prompt in (*retained.direct, *retained.indirect)
        ),
        prior_words=recipe.preserve.prior_words if recipe.preserve.prior == "words" else 0,
        prior_captions=recipe.prior_captions,
        shared=tuple(part for part in shared if part),
        seed=recipe.seed,
        earlier=(previous or PreviousEdits(base)).held,
        moments=cache,
        concepts=tuple(
            tuple(pairs_of(concept, recipe.prompts.templates)) for concept in recipe.concepts
        ),
    )
