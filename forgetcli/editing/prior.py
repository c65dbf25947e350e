"""The prior of a task: prompts that an edit holds besides the preserve prompts, with a weight of
their own.

The preserve prompts are what the user thought of. The prior stands for everything else that the
model knows: the most frequent words of the tokenizer's vocabulary, which every model brings along,
or captions. The concept's own words and their synonyms are among them. So the prior must not be a
hard constraint where the method has a choice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from forgetcli.editing.task import Task
from forgetcli.models import vocabulary

if TYPE_CHECKING:
    from forgetcli.models.tokens import Tokenizer, Tokenizers


def prior_prompts(tokenizer: Tokenizer | Tokenizers, task: Task) -> list[str]:
    """The prompts of the task's prior, each once."""
    if not task.prior_words:
        return list(task.prior_captions)
    return [*task.prior_captions, *vocabulary.words(tokenizer, task.prior_words)]
