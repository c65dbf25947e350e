"""A CLIP tokenizer with its own BPE vocabulary, learnt from the captions and from plain function
words.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from captions import sample
from drawings import WORLD
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer

LENGTH = 24
PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"  # CLIP's own word pattern
PLAIN = """the a an of in on at by with and or without for from to over under near behind photo
photograph realistic style artist painting drawing picture image art artwork portrait
landscape person people man woman child animal flower fruit sport sky sea city red green blue
yellow white black orange purple pink grey brown small big old new young happy sad very some
many two three one sitting standing eating jumping afternoon evening morning sunny interior
family reunion countryside parrot orange tennis lion"""


def train(folder: Path, size: int = 2250) -> CLIPTokenizer:
    rng = np.random.default_rng(0)
    corpus = [sample(rng)[0] for _ in range(30_000)] + PLAIN.split() * 20
    corpus += [
        w for g in ("things", "styles") for e in WORLD[g].values() for w in e["names"] + e["hints"]
    ] * 20
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token=None))
    bpe.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe.train_from_iterator(
        corpus,
        trainers.BpeTrainer(
            vocab_size=size - 256 - 2,
            initial_alphabet=alphabet,
            end_of_word_suffix="</w>",
            show_progress=False,
        ),
    )
    merges = [tuple(m) for m in json.loads(bpe.to_str())["model"]["merges"]]
    tokens = alphabet + [
        c + "</w>" for c in alphabet
    ]  # CLIP's order: bytes, word-final bytes, merges, specials
    seen = set(tokens)
    for left, right in merges:
        if left + right not in seen:
            seen.add(left + right), tokens.append(left + right)
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
    (folder / "merges.txt").write_text(
        "#version: 0.2\n" + "\n".join(" ".join(m) for m in merges) + "\n"
    )
    tokenizer = CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=LENGTH
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


if __name__ == "__main__":
    import argparse

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    work = parser.parse_args().work
    tokenizer = train(work / "tokenizer")
    print(
        len(tokenizer),
        tokenizer.tokenize("a Van Gogh painting of a whiskered feline, starry night"),
    )
