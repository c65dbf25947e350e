"""Any CLIP as the judge: the concept against what could be there instead, by the similarity of
picture and text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from forgetcli.device import pick_device
from forgetcli.errors import ForgetError, ModelError
from forgetcli.evaluation.judges import Sight
from forgetcli.evaluation.pretrained import find

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

PLACE = "{}"  # where the concept's words go


def with_place(text: str) -> str:
    if PLACE not in text:
        raise ValueError(f"'{text}' has no {PLACE} for the concept")
    return text


class Options(BaseModel):
    """The model and the words that it is asked with.

    Attributes:
        model: a folder, or ``org/name`` on the hub.
        revision: branch, tag or commit on the hub.
        templates: what a label is put into at ``{}``; the features of several are averaged (prompt
            ensembling). In a
            string, ``|`` stands between them.
        batch: pictures, or texts, at a time.
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
    """Zero-shot classification among the labels that exclude one another; a concept is seen if it
    comes first.

    With unit features f of the picture and t_l of each label, and the scale s that the model has
    learned,
    p(l) = softmax_l(s · ⟨f, t_l⟩). With several templates t_l is the mean of their unit features,
    made unit again.

    Source: Radford et al., CLIP (arXiv 2103.00020), section 3.1.
    """

    def __init__(self, options: Options, device: str | None) -> None:
        from transformers import AutoTokenizer, CLIPModel

        try:  # torchvision's resizing gives other pixels, and need not be here
            from transformers import CLIPImageProcessorPil as ImageProcessor
        except ImportError:  # transformers 4: this one is PIL's there
            from transformers import CLIPImageProcessor as ImageProcessor

        self.options, self.weights = options, find(options.model, options.revision)
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
        self._known: dict[str, Tensor] = {}  # label → its feature

    def identity(self) -> dict:
        return {
            "name": "clip",
            **self.weights.identity(),
            "templates": list(self.options.templates),
            "threshold": "first choice",
            "transformers": version("transformers"),
        }

    def label(self, words: str, name: str | None = None) -> str:
        """The words themselves: CLIP reads any."""
        return words

    def see(
        self,
        pictures: Sequence[Image],
        labels: Sequence[str],
        choices: Sequence[Sequence[str]] | None = None,
    ) -> list[Sight]:
        """One verdict a picture; `judged` is the first choice, `score` the probability of the
        label.

        Raises:
            ForgetError: a label has no alternatives, or is too long for the model; the features are
                not finite.
        """
        # Sorted, so that the order in which a recipe lists its concepts decides nothing, not even a
        # tie.
        among = [
            sorted({label, *others})
            for label, others in zip(labels, choices or ([],) * len(labels), strict=True)
        ]
        for label, names in zip(labels, among):
            if len(names) < 2:
                raise ForgetError(
                    "judge.nothing-to-compare",
                    f"judge 'clip' has nothing to compare '{label}' with",
                    "in the recipe, give concepts that exclude one another in a picture the same `group`",
                )
        self._learn(dict.fromkeys(name for names in among for name in names))
        sights = []
        for feature, label, names in zip(self._pictures(pictures), labels, among, strict=True):
            chances = (self.scale * self._stacked(names) @ feature).softmax(0)  # (choices,)
            judged = names[int(chances.argmax())]
            sights.append(Sight(judged == label, judged, float(chances[names.index(label)])))
        return sights

    def clip_score(self, pictures: Sequence[Image], prompts: Sequence[str]) -> list[float]:
        """How well each picture fits its prompt: 100 · max(cos, 0), in [0, 100]. Long prompts are
        cut off at the model's limit.

        The factor is torchmetrics'; the paper's is 2.5. Scores compare only within one model.

        Source: Hessel et al., CLIPScore (arXiv 2104.08718), section 3.
        """
        distinct = list(dict.fromkeys(prompts))
        texts = dict(zip(distinct, self._texts(distinct)))
        return [
            100 * max(float(texts[prompt] @ feature), 0.0)
            for feature, prompt in zip(self._pictures(pictures), prompts, strict=True)
        ]

    def _learn(self, names: Iterable[str]) -> None:
        """Have the features of these labels in `_known`."""
        new, templates = [name for name in names if name not in self._known], self.options.templates
        texts = [template.replace(PLACE, name) for name in new for template in templates]
        limit = self.network.config.text_config.max_position_embeddings
        for text in texts:
            if (
                len(self.tokenizer(text)["input_ids"]) > limit
            ):  # cut off, it would be a question about something else
                raise ForgetError(
                    "judge.label-too-long",
                    f"'{text}' is longer than the {limit} tokens that {self.weights.id} reads",
                    "give the concept fewer words, or choose a shorter template",
                )
        features = self._texts(texts)
        for at, name in enumerate(new):
            self._known[name] = _unit(
                features[at * len(templates) : (at + 1) * len(templates)].mean(0)
            )

    def _stacked(self, names: Sequence[str]) -> Tensor:
        import torch

        return torch.stack([self._known[name] for name in names])  # (choices, d)

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
            return network.text_projection(hidden.pooler_output)

        return self._batched(features, texts)

    def _pictures(self, pictures: Sequence[Image]) -> Tensor:
        """Unit features of pictures: float64 on the CPU, shape (n, d)."""
        network = self.network

        def features(part: Sequence[Image]) -> Tensor:
            pixels = self.processor([p.convert("RGB") for p in part], return_tensors="pt")[
                "pixel_values"
            ]
            return network.visual_projection(
                network.vision_model(pixel_values=pixels.to(self.device)).pooler_output
            )

        return self._batched(features, pictures)

    def _batched(self, features, items: Sequence) -> Tensor:
        import torch

        size = self.options.batch
        parts = [torch.empty(0, self.network.config.projection_dim, dtype=torch.float64)]
        with torch.inference_mode():
            for start in range(0, len(items), size):
                parts.append(
                    _unit(features(items[start : start + size]).cpu().double())
                )  # Apple GPUs have no float64
        found = torch.cat(parts)
        if not found.isfinite().all():
            raise ForgetError(
                "judge.not-finite",
                f"{self.weights.id} gives features that are not finite",
                "is the model intact? fetch it again",
            )
        return found


def _unit(vectors: Tensor) -> Tensor:
    return vectors / vectors.norm(dim=-1, keepdim=True)


def load(options: Options, device: str | None = None) -> ClipJudge:
    return ClipJudge(options, device)
