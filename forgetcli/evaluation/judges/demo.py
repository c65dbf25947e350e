"""The bundled model's judge: a classifier trained on drawings only, not on generated images."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from forgetcli.bundled.demo import JUDGE, label_of, name_of
from forgetcli.errors import ForgetError
from forgetcli.evaluation.judges import Verdict
from forgetcli.process.device import pick_device
from forgetcli.storage.files import sha256_file

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL.Image import Image
    from torch import Tensor

NONE = "none of these"
BATCH = 128


class Options(BaseModel):
    """This judge has no settings: its weights and its threshold (the first choice) are fixed."""

    model_config = ConfigDict(extra="forbid")


class DemoJudge:
    """Two heads, things and styles. A concept is seen if it is the first choice of its head."""

    def __init__(self, device: str | None) -> None:
        # Imported here: `forget judges` only says what the judge knows.
        from safetensors.torch import load_file

        from forgetcli.evaluation.demo_classifier import Classifier

        self.card = json.loads((JUDGE / "judge.json").read_text())
        self.things: list[str] = self.card["things"]
        self.styles: list[str] = self.card["styles"]
        self.device = pick_device(device)
        network = Classifier(len(self.things), len(self.styles), tuple(self.card["widths"]))
        network.load_state_dict(
            {
                name: tensor.float() if tensor.is_floating_point() else tensor
                for name, tensor in load_file(JUDGE / "judge.safetensors").items()
            }
        )
        self.network = network.to(self.device).eval()

    def identity(self) -> dict[str, Any]:
        """Name, weight digest, and accuracy on drawings."""
        return {
            "name": "demo",
            "digest": sha256_file(JUDGE / "judge.safetensors"),
            "accuracy": self.card["accuracy"],
            "confusions": self.confusions(),
        }

    def confusions(self) -> list[dict[str, Any]]:
        """Which concepts it takes for which others, the most frequent confusion first.

        Measured on drawings by people whose drawings were not used for training.
        """
        confusions = []
        for known, rows in (
            (self.things, self.card["confusion"]["things"]),
            (self.styles, self.card["confusion"]["styles"]),
        ):
            for label, row in zip(known, rows):
                confusions += [
                    {"shown": label, "judged": judged, "share": round(n / sum(row), 3)}
                    for judged, n in zip((*known, NONE), row)
                    if n and judged != label
                ]
        return sorted(confusions, key=lambda confusion: -confusion["share"])

    def label(self, words: str, name: str | None = None) -> str | None:
        """The label of a thing or style, by any of its names, with or without an article."""
        return label_of(words, name)

    def words(self, label: str) -> str:
        """What prompts call a label: "a dog", "pencil sketch"."""
        return name_of(label)

    def first_choices(self, label: str, choices: Sequence[str]) -> list[str]:
        """What `judged` can be for a question about `label`: everything that its head knows."""
        return self.things if label in self.things else self.styles

    def see(
        self,
        images: Sequence[Image],
        labels: Sequence[str],
        choices: Sequence[Sequence[str]] | None = None,
    ) -> list[Verdict]:
        """One verdict an image. `judged` is the first choice, `score` the concept's probability.

        Raises:
            ForgetError: a label that the judge does not know (``judge.unknown-label``).
        """
        unknown = [label for label in labels if label not in (*self.things, *self.styles)]
        if unknown:
            raise ForgetError(
                "judge.unknown-label",
                f"the demo judge does not know '{unknown[0]}'",
                f"it knows: {', '.join((*self.styles, *self.things))}",
            )
        verdicts = []
        for start in range(0, len(images), BATCH):
            logits = self._logits(images[start : start + BATCH])
            things, styles = (rows.softmax(1) for rows in logits)
            for row, label in enumerate(labels[start : start + BATCH]):
                is_thing = label in self.things
                known = self.things if is_thing else self.styles
                chances = (things if is_thing else styles)[row]
                first = int(chances.argmax())
                judged = known[first] if first < len(known) else NONE
                score = float(chances[known.index(label)])
                verdicts.append(Verdict(judged == label, judged, score))
        return verdicts

    def _logits(self, images: Sequence[Image]) -> tuple[Tensor, Tensor]:
        """Logits of things and of styles, a row for each image."""
        import numpy as np
        import torch

        batch = np.stack(
            [np.asarray(p.convert("RGB").resize((64, 64)), dtype=np.float32) for p in images]
        )
        pixels = torch.from_numpy(batch / 127.5 - 1).permute(0, 3, 1, 2).to(self.device)
        with torch.no_grad():
            return self.network.both_ways(pixels)


def knows() -> dict[str, list[str]]:
    """The labels of both heads."""
    card = json.loads((JUDGE / "judge.json").read_text(encoding="utf-8"))
    return {"things": card["things"], "styles": card["styles"]}


def load(options: Options, device: str | None = None) -> DemoJudge:
    return DemoJudge(device)
