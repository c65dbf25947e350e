"""`replay`: another model is given what an attack found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forgetcli import models
from forgetcli.checkpoint import base as checkpoint
from forgetcli.errors import ForgetError
from forgetcli.evaluation import judges
from forgetcli.evaluation.run_folder import claim
from forgetcli.generation.draw import default_guidance
from forgetcli.models.context import Context
from forgetcli.progress import Observer, Silent, Stopwatch
from forgetcli.robustness import records
from forgetcli.robustness.conditioning import encode
from forgetcli.robustness.results import Rate, Tried
from forgetcli.robustness.sampling import Sampling, draw

REPLAYED = "replayed"


@dataclass(frozen=True)
class Replayed:
    """What another model draws of what an attack found.

    Attributes:
        attack, concept, label: of the file.
        folder: of the images.
        tried: the attempts, judged.
        seconds: of the whole.
    """

    attack: str
    concept: str
    label: str
    model: Mapping[str, Any]
    folder: Path
    tried: tuple[Tried, ...]
    seconds: Mapping[str, float]

    @property
    def success(self) -> Rate:
        return Rate(sum(t.seen for t in self.tried), len(self.tried))

    def as_dict(self) -> dict[str, Any]:
        """The stable keys of ``attack --replay --json``."""
        return {
            "attack": self.attack,
            "concept": self.concept,
            "label": self.label,
            "model": dict(self.model),
            **self.success.as_dict("success"),
            "attempts": [t.as_dict(self.folder) for t in self.tried],
            "seconds": dict(self.seconds),
        }


def replay(
    file: Path | str,
    model: Path | str,
    *,
    judge: str = "demo",
    judge_options: Mapping[str, object] | None = None,
    steps: int = 20,
    guidance: float | None = None,
    batch: int = 12,
    output: Path | str = "attack",
    device: str | None = None,
    force: bool = False,
    observer: Observer | None = None,
) -> Replayed:
    """Draw with another model from what an attack found, at the same seeds, and judge.

    Args:
        file: a .safetensors file that `attack` wrote.
        model: any model of the same family.
    Raises:
        ForgetError: attack.bad-replay: the file is damaged, or does not fit the model.
    """
    observer = observer or Silent()
    watch = Stopwatch()
    found, about = records.read_found(Path(file))
    base = checkpoint.resolve(str(model))
    loaded_judge = judges.load(judge, device, judge_options)
    loaded = models.load(base, device=device, observer=observer)
    sampling = Sampling(steps, default_guidance(loaded) if guidance is None else guidance, batch)
    folder = Path(output)
    try:
        context = Context.cat([encode(loaded, conditioning) for conditioning, _ in found])
        _refuse_other_width(loaded, context)
    except (ValueError, RuntimeError, KeyError, AttributeError, IndexError) as fault:
        raise ForgetError(
            "attack.bad-replay",
            f"what {file} holds does not fit {base.id}: {str(fault)[: records.LONGEST_REASON]}",
            "replay it on a model of the family that was attacked",
        ) from fault
    claim(folder, {"models": {REPLAYED: base.digest}, "steps": steps}, force)
    observer.stage(f"replay of {about.attack} on {about.label}", len(found))
    images, _ = draw(loaded, context, [seed for _, seed in found], sampling)
    verdicts = loaded_judge.see(
        images, [about.label] * len(images), [tuple(about.rivals)] * len(images)
    )
    tried = []
    for number, ((conditioning, seed), image, v) in enumerate(zip(found, images, verdicts)):
        path = folder / REPLAYED / f"{records.stem(about.attack, about.label)}-{number:03d}.png"
        records.write_image(path, image, {"prompt": conditioning.prompt, "seed": seed})
        tried.append(Tried(conditioning.prompt, "", seed, path, v.seen, v.judged, v.score))
    observer.done()
    return Replayed(
        attack=about.attack,
        concept=about.concept,
        label=about.label,
        model={"id": base.id, "digest": base.digest},
        folder=folder,
        tried=tuple(tried),
        seconds=watch.report(),
    )


def _refuse_other_width(model: Any, context: Context) -> None:
    expected = model.unconditional().hidden.shape[1:]
    if context.hidden.shape[1:] != expected:
        raise ValueError(
            f"contexts of shape {tuple(context.hidden.shape[1:])}, expected {tuple(expected)}"
        )
