"""A vision-language model as the judge: one yes-or-no question about each image.

The answer is read from the logits of the next token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from forgetcli.errors import ForgetError, ModelError
from forgetcli.evaluation.judges import Verdict
from forgetcli.evaluation.judges.clip import PLACE, with_place
from forgetcli.evaluation.pretrained import find
from forgetcli.process.device import pick_device

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

SPACES = "▁Ġ"  # stand for a space before a word in vocabularies
IMAGE = "<image>"
LLAVA = "USER: {image}\n{question} ASSISTANT:"  # the format that LLaVA-1.5 was trained on


class Options(BaseModel):
    """The model, its question, and what counts as an answer.

    Attributes:
        model: a folder, or ``org/name`` on the hub. Any model for which transformers has an
            image-text-to-text class. Models that also read videos (such as Qwen2-VL) need
            torchvision; LLaVA does not.
        revision: branch, tag or commit on the hub.
        prompt: the question, with ``{}`` for the concept.
        threshold: a concept is seen if p(yes) / (p(yes) + p(no)) is at least this.
        min_answer_mass: if p(yes) + p(no) is lower, the model has answered something else, and the
            score would be a ratio of two small remainders. A model that follows the prompt has more
            than 0.9. A model that does not follow it has about 0.0002 (six of 32,000 tokens).
        dtype: ``auto`` is the checkpoint's own.
        batch: images that are processed together.
    """

    model_config = ConfigDict(extra="forbid")

    model: str = "llava-hf/llava-1.5-7b-hf"
    revision: str | None = None
    prompt: Annotated[str, AfterValidator(with_place)] = (
        "Is {} visible in this picture? Answer yes or no."
    )
    threshold: float = Field(0.5, gt=0, lt=1)
    min_answer_mass: float = Field(0.1, ge=0, le=1)
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    batch: int = Field(8, ge=1)


class VlmJudge:
    """score = p(yes) / (p(yes) + p(no)), each summed over the tokens that spell the word.

    The model is asked once about each image; nothing is sampled.

    Source: the score is that of Lin et al., VQAScore (arXiv 2404.01291), with "no" as its
    complement.
    """

    def __init__(self, options: Options, device: str | None) -> None:
        from transformers import AutoModelForImageTextToText, AutoProcessor
        from transformers.models.auto.modeling_auto import (
            MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
        )

        self.options = options
        self.weights = find(options.model, options.revision)
        if self.weights.kind not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
            raise ModelError(
                "judge.not-vlm",
                f"{options.model} is a model of the kind '{self.weights.kind}', "
                "which answers no questions",
                "choose a vision-language model, for instance llava-hf/llava-1.5-7b-hf",
            )
        self.device = pick_device(device)
        self.processor = self.weights.part("processor", AutoProcessor)
        self.tokenizer = self.processor.tokenizer
        # The logits are read at the last position, which must be the end of the question in every
        # row of a batch.
        self.tokenizer.padding_side = "left"
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.yes, self.no = answer_tokens(self.tokenizer.get_vocab())
        self.network = self.weights.load(AutoModelForImageTextToText, torch_dtype=options.dtype).to(
            self.device
        )

    def identity(self) -> dict[str, Any]:
        """Everything that the verdicts depend on."""
        return {
            "name": "vlm",
            **self.weights.identity(),
            "prompt": self.options.prompt,
            "format": "chat template" if self._template else "LLaVA-1.5",
            "threshold": self.options.threshold,
            "min_answer_mass": self.options.min_answer_mass,
            "dtype": str(self.network.dtype).removeprefix("torch."),
            "yes": list(self.yes),
            "no": list(self.no),
            "transformers": version("transformers"),
            # transformers resizes with torchvision where that is installed, which gives slightly
            # different pixels.
            "image_processor": type(getattr(self.processor, "image_processor", None)).__name__,
        }

    def label(self, words: str, name: str | None = None) -> str:
        """The words themselves, which become part of the question."""
        return words

    def see(
        self,
        images: Sequence[Image],
        labels: Sequence[str],
        choices: Sequence[Sequence[str]] | None = None,
    ) -> list[Verdict]:
        """One verdict an image. `judged` is yes or no.

        Raises:
            ForgetError: judge.no-answer, judge.not-finite.
        """
        verdicts = []
        size = self.options.batch
        for start in range(0, len(images), size):
            part = labels[start : start + size]
            chances = self._chances(images[start : start + size], part)
            for label, yes, no in zip(part, *chances, strict=True):
                if yes + no < self.options.min_answer_mass or not yes + no:
                    raise ForgetError(
                        "judge.no-answer",
                        f"{self.weights.id} did not answer yes or no when asked for '{label}': "
                        f"these words have {yes + no:.2g} of the probability",
                        "ask so that one word is the answer (--judge-set prompt=…), "
                        "or choose another model",
                    )
                score = yes / (yes + no)
                seen = score >= self.options.threshold
                verdicts.append(Verdict(seen, "yes" if seen else "no", score))
        return verdicts

    def _chances(
        self, images: Sequence[Image], labels: Sequence[str]
    ) -> tuple[list[float], list[float]]:
        """p(yes) and p(no) as the next token, for each image."""
        logits = self._logits(images, [self._question(label) for label in labels])
        chances = logits.cpu().double().softmax(1)
        # The softmax is checked, not the logits: a logit of −∞ only excludes a token.
        if not chances.isfinite().all():
            raise ForgetError(
                "judge.not-finite",
                f"{self.weights.id} gives logits that are not finite",
                "does it overflow in this dtype? try --judge-set dtype=float32",
            )
        yes = chances[:, list(self.yes)].sum(1).tolist()
        no = chances[:, list(self.no)].sum(1).tolist()
        return yes, no

    def _logits(self, images: Sequence[Image], questions: Sequence[str]) -> Tensor:
        """Logits of the next token, shape (images, vocabulary)."""
        import torch
        from transformers import GenerationConfig

        start = self.tokenizer.bos_token
        inputs = self.processor(
            images=[[p.convert("RGB")] for p in images],
            text=list(questions),
            padding=True,
            return_tensors="pt",
            # Some chat templates already begin with the start token.
            add_special_tokens=not (start and questions[0].startswith(start)),
        )
        # generate() rather than a forward pass: it knows how each model counts positions after
        # padding, and it computes the logits of the last position only.
        once = GenerationConfig(
            max_new_tokens=1,
            do_sample=False,
            num_beams=1,
            output_logits=True,
            return_dict_in_generate=True,
            pad_token_id=self.tokenizer.pad_token_id,
        )
        with torch.inference_mode():
            output = self.network.generate(
                **inputs.to(self.device, self.network.dtype), generation_config=once
            )
        logits: Tensor = output.logits[0]
        return logits

    def _question(self, label: str) -> str:
        words = self.options.prompt.replace(PLACE, label)
        if self._template:
            content = [{"type": "image"}, {"type": "text", "text": words}]
            question: str = self.processor.apply_chat_template(
                [{"role": "user", "content": content}], add_generation_prompt=True
            )
            return question
        return LLAVA.format(image=getattr(self.processor, "image_token", IMAGE), question=words)

    @property
    def _template(self) -> bool:
        return bool(getattr(self.processor, "chat_template", None))


def answer_tokens(vocabulary: Mapping[str, int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The tokens that are the whole word "yes", and those that are the whole word "no".

    Upper and lower case count, with or without a space before. The tokens are looked up in the
    vocabulary, not found by encoding " yes": some tokenizers encode that as a bare space and a
    word, so that it would begin like " no", and a first token like "Y" may begin any word.

    Raises:
        ForgetError: there are no such tokens, or both words have one in common.
    """

    def spell(word: str) -> tuple[int, ...]:
        numbers = {
            number
            for piece, number in vocabulary.items()
            if isinstance(piece, str) and piece.strip(SPACES + " ").casefold() == word
        }
        return tuple(sorted(numbers))

    yes = spell("yes")
    no = spell("no")
    if not yes or not no or {*yes} & {*no}:
        raise ForgetError(
            "judge.no-answer-tokens",
            "the model's tokenizer has no tokens of their own for yes and for no",
            "choose another vision-language model",
        )
    return yes, no


def load(options: Options, device: str | None = None) -> VlmJudge:
    return VlmJudge(options, device)
