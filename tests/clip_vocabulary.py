"""The byte-pair vocabulary that CLIP was published with: the tokenizer of Stable Diffusion, SDXL,
SD3 and FLUX.

Its merges come in the wheel of `open-clip-torch`, of which nothing else is used:

    pip install --no-deps open-clip-torch

Without `--no-deps` its dependencies would replace parts of an installed torch. Where the package is
missing, the tests that need the vocabulary are skipped.
"""

from __future__ import annotations

import gzip
import importlib.util
import json
from pathlib import Path

import pytest
from pipelines import byte_letters, seeded

NAME = "bpe_simple_vocab_16e6.txt.gz"
MERGES = 49152 - 256 - 2  # of the file's lines; the rest is not part of CLIP's vocabulary
TOKENS = 49408
POSITIONS = 77
START, END = "<|startoftext|>", "<|endoftext|>"


def published() -> Path | None:
    """The published file; None if the package is not installed. The package is not imported."""
    spec = importlib.util.find_spec("open_clip")
    if spec is None:
        return None
    folders = map(Path, spec.submodule_search_locations or ())
    return next((folder / NAME for folder in folders if (folder / NAME).is_file()), None)


needed = pytest.mark.skipif(
    published() is None, reason="CLIP's vocabulary: pip install --no-deps open-clip-torch"
)


def write_tokenizer(folder: Path, pad: str = END) -> None:
    """Write the tokenizer of CLIP as published checkpoints have it."""
    file = published()
    assert file is not None
    lines = gzip.decompress(file.read_bytes()).decode("utf-8").split("\n")
    merges = lines[1 : MERGES + 1]  # the first line is a comment
    letters = byte_letters()
    tokens = [*letters, *(letter + "</w>" for letter in letters)]
    tokens += [merge.replace(" ", "") for merge in merges] + [START, END]
    folder.mkdir(parents=True, exist_ok=True)
    numbers = {token: number for number, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(numbers), encoding="utf-8")
    text = "\n".join(["#version: 0.2", *merges, ""])
    (folder / "merges.txt").write_text(text, encoding="utf-8")
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": POSITIONS,
        "bos_token": START,
        "eos_token": END,
        "unk_token": END,
        "pad_token": pad,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")


def read_with(folder: Path, seed: int = 0) -> Path:
    """Give a tiny pipeline CLIP's tokenizers, and its text encoders the tokens and positions.

    Everything else of the text encoders, their widths and layers, stays.
    """
    from transformers import AutoConfig, CLIPTextModel, CLIPTextModelWithProjection

    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    classes = {cls.__name__: cls for cls in (CLIPTextModel, CLIPTextModelWithProjection)}
    for number in ("", "_2"):
        name = f"text_encoder{number}"
        if name not in index:
            continue
        # SDXL's second tokenizer pads with the token 0.
        write_tokenizer(folder / f"tokenizer{number}", pad="!" if number else END)
        config = AutoConfig.from_pretrained(folder / name)
        config.vocab_size, config.max_position_embeddings = TOKENS, POSITIONS
        config.bos_token_id, config.eos_token_id = TOKENS - 2, TOKENS - 1
        config.pad_token_id = 0 if number else TOKENS - 1
        with seeded(seed):
            classes[index[name][1]](config).save_pretrained(folder / name)
    return folder
