"""The embedded model's judge: a classifier trained on drawings only, never on generated pictures."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from forgetcli.bundled.demo import JUDGE, world
from forgetcli.errors import ForgetError
from forgetcli.evaluation.judges import Sight
from forgetcli.storage.files import sha256_file

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL.Image import Image

NONE = "none of these"


class Options(BaseModel):
    """None: the weights and the threshold (the first choice) are fixed."""

    model_config = ConfigDict(extra="forbid")


class DemoJudge:
    """Two heads, things and styles; a concept is seen if its head's first choice is the concept."""

    def __init__(self, device: str | None) -> None:
        from safetensors.torch import load_file

        from forgetcli.device import pick_device
        from forgetcli.evaluation.demo_classifier import Classifier

        self.card = json.loads((JUDGE / "judge.json").read_text())
        self.things, self.styles = self.card["things"], self.card["styles"]
        self.device = pick_device(device)
        network = Classifier(len(self.things), len(self.styles), tuple(self.card["widths"]))
        network.load_state_dict(
            {
                name: t.float() if t.is_floating_point() else t
                for name, t in load_file(JUDGE / "judge.safetensors").items()
            }
        )
        self.network = network.to(self.device).eval()

    def identity(self) -> dict:
        return {
            "name": "demo",
            "digest": sha256_file(JUDGE / "judge.safetensors"),
            "accuracy": self.card["accuracy"],
            "confusions": self.confusions(),
        }

    def confusions(self) -> list[dict]:
        """What it takes one concept for, on drawings by hands it never saw, the most frequent
        first; what it never mixes up is left out.
        """
        found = []
        for known, rows in (
            (self.things, self.card["confusion"]["things"]),
            (self.styles, self.card["confusion"]["styles"]),
        ):
            for label, row in zip(known, rows):
                found += [
                    {"shown": label, "judged": judged, "share": round(n / sum(row), 3)}
                    for judged, n in zip((*known, NONE), row)
                    if n and judged != label
                ]
        return sorted(found, key=lambda f: -f["share"])

    def label(self, words: str, name: str | None = None) -> str | None:
        for wanted in (name, words):
            wanted = (wanted or "").casefold().replace("_", " ").strip()
            for group in ("things", "styles"):
                for label, entry in world()[group].items():
                    names = {
                        label.replace("_", " "),
                        *entry["names"],
                        *(n.removeprefix(a) for n in entry["names"] for a in ("a ", "an ", "the ")),
                    }
                    if wanted in {n.casefold() for n in names}:
                        return label
        return None

    def see(self, pictures: Sequence[Image], labels: Sequence[str], choices=None) -> list[Sight]:
        import torch

        unknown = [label for label in labels if label not in (*self.things, *self.styles)]
        if unknown:
            raise ForgetError(
                "judge.unknown-label",
                f"the demo judge does not know '{unknown[0]}'",
                f"it knows: {', '.join((*self.styles, *self.things))}",
            )
        sights = []
        for start in range(0, len(pictures), 128):
            thing, style = (
                p.softmax(1) for p in self._logits(pictures[start : start + 128], torch)
            )
            for row, label in enumerate(labels[start : start + 128]):
                chances, known = (
                    (thing[row], self.things) if label in self.things else (style[row], self.styles)
                )
                first = int(chances.argmax())
                judged = known[first] if first < len(known) else NONE
                sights.append(Sight(judged == label, judged, float(chances[known.index(label)])))
        return sights

    def _logits(self, pictures, torch):
        import numpy as np

        batch = np.stack(
            [np.asarray(p.convert("RGB").resize((64, 64)), dtype=np.float32) for p in pictures]
        )
        with torch.no_grad():
            return self.network.both_ways(
                torch.from_numpy(batch / 127.5 - 1).permute(0, 3, 1, 2).to(self.device)
            )


def load(options: Options, device: str | None = None) -> DemoJudge:
    return DemoJudge(device)
