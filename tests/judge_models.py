"""Tiny models of the real architectures that judges load: transformers' own classes, random
weights, saved as folders.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from pipelines import POSITIONS, tiny_tokenizer

SIDE, PATCH = 16, 8  # pixels
WORDS = (
    "USER",
    "ASSISTANT",
    ":",
    "Is",
    "a",
    "cat",
    "visible",
    "in",
    "this",
    "picture",
    "?",
    "Answer",
    "yes",
    "or",
    "no",
    ".",
    "Yes",
    "No",
    "the",
    "painting",
    "by",
    "Van",
    "Gogh",
    "starry",
    "night",
    "with",
    "yesterday",
    "nothing",
    "\n",
)


def pictures(count: int, side: int = 24) -> list[Image.Image]:
    """Different pictures, the same ones every time."""
    noise = np.random.default_rng(0).integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    return [Image.fromarray(n).resize((side, side), Image.Resampling.NEAREST) for n in noise]


def image_processor():
    from transformers import CLIPImageProcessorPil

    return CLIPImageProcessorPil(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}
    )


def tiny_clip(folder: Path, seed: int = 0) -> Path:
    """A CLIP that reads 24 tokens and 16×16 pictures; its logit scale is e² ≈ 7.4, so that no
    probability is 0 or 1.
    """
    from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig

    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = tiny_tokenizer(folder)
    end = vocabulary["<|endoftext|>"]
    small = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "initializer_factor": 4.0,
    }
    text = CLIPTextConfig(
        vocab_size=len(vocabulary),
        max_position_embeddings=POSITIONS,
        bos_token_id=vocabulary["<|startoftext|>"],
        eos_token_id=end,
        pad_token_id=end,
        **small,
    )
    vision = CLIPVisionConfig(image_size=SIDE, patch_size=PATCH, **small)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        CLIPModel(
            CLIPConfig(
                text_config=text.to_dict(),
                vision_config=vision.to_dict(),
                projection_dim=16,
                logit_scale_init_value=2.0,
            )
        ).save_pretrained(folder)
    image_processor().save_pretrained(folder)
    return folder


def tiny_llava(
    folder: Path,
    *,
    says: float = 3.0,
    chat_template: str | None = None,
    words: tuple[str, ...] = WORDS,
) -> Path:
    """A LLaVA of a CLIP vision tower and a Llama that knows `WORDS`.

    Args:
        says: how much it wants to say yes or no rather than anything else, in logits; negative for
            one that will not.
        words: its vocabulary, but for the special tokens.
    """
    from transformers import (
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    tokenizer = word_tokenizer(words)
    small = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    vision = CLIPVisionConfig(image_size=SIDE, patch_size=PATCH, initializer_factor=4.0, **small)
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        initializer_range=0.3,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **small,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlavaForConditionalGeneration(
            LlavaConfig(
                vision_config=vision.to_dict(),
                text_config=text.to_dict(),
                image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
                image_seq_length=(SIDE // PATCH) ** 2,
                vision_feature_layer=-1,
            )
        )
    with torch.no_grad():
        # Llama has no biases. A channel that is large in every input and is written to by nothing
        # else is one.
        language, head = model.model.language_model, model.lm_head.weight
        language.embed_tokens.weight[:, 0] = 8.0
        for layer in language.layers:
            layer.self_attn.o_proj.weight[0] = 0
            layer.mlp.down_proj.weight[0] = 0
        head[:, 0] = 0
        for word in ("yes", "Yes", "no", "No"):
            if word in words:
                head[tokenizer.convert_tokens_to_ids(word), 0] = says
    model.save_pretrained(folder)
    LlavaProcessor(
        image_processor(),
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=chat_template,
    ).save_pretrained(folder)
    return folder


def word_tokenizer(words: tuple[str, ...]):
    """A token a word, and <s> in front, as Llama's has it."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ("<unk>", "<s>", "</s>", "<pad>", "<image>")
    table = {word: number for number, word in enumerate((*special, *words))}
    tokens = Tokenizer(models.WordLevel(table, unk_token="<unk>"))
    tokens.pre_tokenizer = pre_tokenizers.Split(Regex(r"\w+|\n|[^\w\s]"), "removed", invert=True)
    tokens.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", table["<s>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokens,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        additional_special_tokens=["<image>"],
    )
