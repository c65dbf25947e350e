"""A model's tokenizers, loaded and compared with their text encoders.

transformers and torch are imported inside functions, because families are listed without them.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forgetcli.checkpoint import component_settings, pipeline_index
from forgetcli.checkpoint.weights import visible_files
from forgetcli.errors import ModelError
from forgetcli.models import components
from forgetcli.storage.files import open_regular
from forgetcli.storage.scratch import scratch

if TYPE_CHECKING:
    from torch import Tensor

    from forgetcli.checkpoint.base import Base
    from forgetcli.checkpoint.pipeline_index import PipelineIndex
    from forgetcli.models.encoder import TextEncoder
    from forgetcli.models.tokens import Tokenizer

CONFIG = "tokenizer_config.json"
# All files that a tokenizer of CLIP or T5 can consist of.
FILES = (
    CONFIG,
    "added_tokens.json",
    "merges.txt",
    "special_tokens_map.json",
    "spiece.model",
    "tokenizer.json",
    "vocab.json",
)
# The possible sets of vocabulary files, by kind of text encoder. One set must be complete.
VOCABULARIES = {
    "clip": (("vocab.json", "merges.txt"), ("tokenizer.json",)),
    "t5": (("spiece.model",), ("tokenizer.json",)),
}
# transformers sets the maximum length to 10^30 if a tokenizer's config gives none.
LONGEST = 2**20


def load(base: Base, index: PipelineIndex, encoder: TextEncoder, positions: int) -> Tokenizer:
    """The tokenizer of a text encoder.

    Args:
        positions: the number of token positions that the text encoder has.
    Raises:
        ModelError: model.missing-component, model.unknown-class; model.damaged: a file is missing,
            or is still a git-lfs pointer; model.unreadable; model.tokenizer: the tokenizer does
            not fit its text encoder.
    """
    name = encoder.tokenizer
    cls = index.require(name, pipeline_index.TOKENIZERS[encoder.kind])

    def opened(folder: Path) -> tuple[Any, list[int]]:
        tokenizer = _from_folder(folder, components.loaded_class(cls), encoder.kind)
        # transformers looks special tokens up only now, and fails if there is no such token.
        return tokenizer, tokenizer.all_special_ids

    tokenizer, special_ids = components.part(base, name, opened)
    if len(tokenizer) <= len(special_ids):
        raise _no_vocabulary(base.settings / name)
    longest = tokenizer.model_max_length
    if isinstance(longest, bool) or not isinstance(longest, int | float):
        raise ModelError(
            "model.tokenizer",
            f"{name} of {base.id}: model_max_length is not a number",
            f"set model_max_length in {name}/{CONFIG} to {positions}",
        )
    if tokenizer.model_max_length > LONGEST:
        tokenizer.model_max_length = positions
    if encoder.length is None and tokenizer.model_max_length > positions:
        raise ModelError(
            "model.tokenizer",
            f"{name} of {base.id} allows {tokenizer.model_max_length} tokens per prompt, "
            f"but {encoder.component} has only {positions} positions",
            f"set model_max_length in {name}/{CONFIG} to {positions}",
        )
    return tokenizer


def refuse_unembedded(encoder: TextEncoder, tokenizer: Tokenizer, ids: Tensor, rows: int) -> None:
    """Refuse token ids that have no embedding in the text encoder.

    Args:
        rows: the number of embeddings that the text encoder has.
    Raises:
        ModelError: model.tokenizer.
    """
    if not ids.numel() or int(ids.max()) < rows:
        return
    number = int(ids.max())
    token = next((t for t, n in tokenizer.get_vocab().items() if n == number), str(number))
    raise ModelError(
        "model.tokenizer",
        f"{encoder.tokenizer} has the token '{token}', but {encoder.component} has no embedding "
        "for it",
        "save the text encoder together with its new embeddings, or remove the token from the "
        "prompt",
    )


def _from_folder(folder: Path, cls: Any, kind: str) -> Any:
    files = visible_files(folder)
    if not any(set(names) <= set(files) for names in VOCABULARIES[kind]):
        raise _no_vocabulary(folder)
    for file in files:
        if file in FILES:
            with open_regular(folder / file) as reader:
                component_settings.refuse_pointer(folder / file, reader.read(64))
    config = folder / CONFIG
    entries = _config(config) if CONFIG in files else {}
    if set(files) <= set(FILES) and not component_settings.unused(entries):
        return _opened(folder, cls)
    # transformers would also read other files and settings, so it gets a copy without them.
    with scratch("tokenizer") as copy:
        for file in files:
            if file in FILES:
                shutil.copyfile(folder / file, copy / file)
        if CONFIG in files:
            text = json.dumps(component_settings.used(entries))
            (copy / CONFIG).write_text(text, encoding="utf-8")
        return _opened(copy, cls)


def _config(path: Path) -> dict[str, Any]:
    try:
        return component_settings.read_json(path)
    except ValueError as fault:
        raise ModelError(
            "model.damaged", f"{path} is damaged: it is not valid ({fault})", "fetch it again"
        ) from fault


def _opened(folder: Path, cls: Any) -> Any:
    return cls.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def _no_vocabulary(folder: Path) -> ModelError:
    return ModelError(
        "model.damaged",
        f"the tokenizer in {folder} has no vocabulary: all prompts would get the same tokens",
        "is the model complete? fetch it again",
    )
