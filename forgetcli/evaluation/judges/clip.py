"""CLIP as the judge: the concept against its alternatives, by the similarity of image and text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from forgetcli.errors import ForgetError, ModelError
from forgetcli.evaluation.judges import Verdict
from forgetcli.evaluation.pretrained import find
from forgetcli.process.device import pick_device

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

PLACE = "{}"  # stands for the concept's words in a template


def with_place(text: str) -> str:
    """Check that `text` has a place for the concept's words."""
    if PLACE not in text:
        raise ValueError(f"'{text}' has no {PLACE} for the concept")
    return text


class Options(BaseModel):
    """The model and its text templates.

    Attributes:
        model: a folder, or ``org/name`` on the hub.
        revision: branch, tag or commit on the hub.
        templates: texts with ``{}`` in the place of the label. The features of several templates
            are averaged (prompt ensembling). In a string, ``|`` separates them.
        batch: images, or texts, that are processed together.
    """

    model_config = ConfigDict(extra="forbid")

    model: str = "openai/clip-vit-large-patch14"
    revision: str | None = None
    templates: Annotated[
        tuple[Annotated[str, AfterValidator(with_place)], ...],
        BeforeValidator(lambda given: given.split("|") if isinstance(given, str) else given),
    ] = Field(("a picture of {}",), min_length=1)
    batch: int = Field(32, ge=1)


class ClipJudge:
    """Zero-shot classification among labels that exclude one another.

    A concept is seen if its label has the highest probability. With unit features f of the image
    and t_l of each label, and the model's learned scale s, p(l) = softmax_l(s · ⟨f, t_l⟩). With
    several templates, t_l is the normalised mean of their unit features.

    Source: Radford et al., CLIP (arXiv 2103.00020), section 3.1.
    """

    def __init__(self, options: Options, device: str | None) -> None:
        from transformers import AutoTokenizer, CLIPModel

        # The variant that resizes with PIL: torchvision gives other pixels and is not required.
        try:
            from transformers import CLIPImageProcessorPil as ImageProcessor
        except ImportError:  # in transformers 4, this class resizes with PIL
            from transformers import CLIPImageProcessor as ImageProcessor

        self.options = options
        self.weights = find(options.model, options.revision)
        kind = self.weights.kind
        if kind != "clip":
            raise ModelError(
                "judge.not-clip",
                f"{options.model} is a model of the kind '{kind}', not CLIP",
                "choose a CLIP, for instance openai/clip-vit-large-patch14",
            )
        self.device = pick_device(device)
        self.network = self.weights.load(CLIPModel).to(self.device)
        self.tokenizer = self.weights.part("tokenizer", AutoTokenizer)
        self.processor = self.weights.part("image processor", ImageProcessor)
        self.scale = float(self.network.logit_scale.exp())
        self._features_of: dict[str, Tensor] = {}  # by label

    def identity(self) -> dict[str, Any]:
        """Weight digest, templates, and the version of transformers, which makes the pixels."""
        return {
            "name": "clip",
            **self.weights.identity(),
            "templates": list(self.options.templates),
            "threshold": "first choice",
            "transformers": version("transformers"),
        }

    def label(self, words: str, name: str | None = None) -> str:
        """The words themselves: CLIP reads any text."""
        return words

    def first_choices(self, label: str, choices: Sequence[str]) -> list[str]:
        """What `judged` can be for a question about `label`: it compares the choices alone."""
        return list(choices)

    def see(
        self,
        images: Sequence[Image],
        labels: Sequence[str],
        choices: Sequence[Sequence[str]] | None = None,
    ) -> list[Verdict]:
        """One verdict an image. `judged` is the first choice, `score` the label's probability.

        Raises:
            ForgetError: a label has no alternatives, a label is too long for the model, or the
                features are not finite.
        """
        # Sorted: the order of the concepts in a recipe has no influence, not even on a tie.
        among = [
            sorted({label, *others})
            for label, others in zip(labels, choices or ([],) * len(labels), strict=True)
        ]
        for label, names in zip(labels, among):
            if len(names) < 2:
                raise ForgetError(
                    "judge.nothing-to-compare",
                    f"judge 'clip' has nothing to compare '{label}' with",
                    "in the recipe, give concepts that exclude one another in a picture "
                    "the same `group`",
                )
        self._learn(dict.fromkeys(name for names in among for name in names))
        verdicts = []
        for feature, label, names in zip(self._images(images), labels, among, strict=True):
            chances = (self.scale * self._stacked(names) @ feature).softmax(0)  # (choices,)
            judged = names[int(chances.argmax())]
            verdicts.append(Verdict(judged == label, judged, float(chances[names.index(label)])))
        return verdicts

    def clip_score(self, images: Sequence[Image], prompts: Sequence[str]) -> list[float]:
        """How well each image fits its prompt: 100 · max(cos, 0), in [0, 100].

        Prompts are truncated at the model's limit. The factor 100 is that of torchmetrics; the
        paper has 2.5. Scores of different CLIP models are not comparable.

        Source: Hessel et al., CLIPScore (arXiv 2104.08718), section 3.
        """
        distinct = list(dict.fromkeys(prompts))
        texts = dict(zip(distinct, self._texts(distinct)))
        return [
            100 * max(float(texts[prompt] @ feature), 0.0)
            for feature, prompt in zip(self._images(images), prompts, strict=True)
        ]

    def _learn(self, names: Iterable[str]) -> None:
        """Compute the features of these labels, where they are not known yet."""
        new = [name for name in names if name not in self._features_of]
        templates = self.options.templates
        texts = [template.replace(PLACE, name) for name in new for template in templates]
        limit = self.network.config.text_config.max_position_embeddings
        for text in texts:
            # A truncated text would ask about something else.
            if len(self.tokenizer(text)["input_ids"]) > limit:
                raise ForgetError(
                    "judge.label-too-long",
                    f"'{text}' is longer than the {limit} tokens that {self.weights.id} reads",
                    "give the concept fewer words, or choose a shorter template",
                )
        features = self._texts(texts)
        for number, name in enumerate(new):
            start = number * len(templates)
            self._features_of[name] = _unit(features[start : start + len(templates)].mean(0))

    def _stacked(self, names: Sequence[str]) -> Tensor:
        """The features of these labels, shape (choices, d)."""
        import torch

        return torch.stack([self._features_of[name] for name in names])

    def _texts(self, texts: Sequence[str]) -> Tensor:
        """Unit features of texts: float64 on the CPU, shape (n, d)."""
        network = self.network

        def features(part: Sequence[str]) -> Tensor:
            tokens = self.tokenizer(
                list(part),
                padding=True,
                truncation=True,
                return_tensors="pt",
                max_length=network.config.text_config.max_position_embeddings,
            ).to(self.device)
            hidden = network.text_model(
                input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
            )
            projected: Tensor = network.text_projection(hidden.pooler_output)
            return projected

        return self._batched(features, texts)

    def _images(self, images: Sequence[Image]) -> Tensor:
        """Unit features of images: float64 on the CPU, shape (n, d)."""
        network = self.network

        def features(part: Sequence[Image]) -> Tensor:
            pixels = self.processor([p.convert("RGB") for p in part], return_tensors="pt")[
                "pixel_values"
            ]
            hidden = network.vision_model(pixel_values=pixels.to(self.device))
            projected: Tensor = network.visual_projection(hidden.pooler_output)
            return projected

        return self._batched(features, images)

    def _batched(self, features: Callable[[Sequence[Any]], Tensor], items: Sequence[Any]) -> Tensor:
        import torch

        size = self.options.batch
        parts = [torch.empty(0, self.network.config.projection_dim, dtype=torch.float64)]
        with torch.inference_mode():
            for start in range(0, len(items), size):
                # First to the CPU: Apple GPUs have no float64.
                parts.append(_unit(features(items[start : start + size]).cpu().double()))
        result = torch.cat(parts)
        if not result.isfinite().all():
            raise ForgetError(
                "judge.not-finite",
                f"{self.weights.id} gives features that are not finite",
                "is the model intact? fetch it again",
            )
        return result


def _unit(vectors: Tensor) -> Tensor:
    return vectors / vectors.norm(dim=-1, keepdim=True)


def load(options: Options, device: str | None = None) -> ClipJudge:
    return ClipJudge(options, device)
