"""`replay`: use the conditionings that an attack found with another model."""

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
from forgetcli.generation.generate import default_guidance
from forgetcli.models.context import Context
from forgetcli.progress import Observer, Silent, Stopwatch
from forgetcli.robustness import records
from forgetcli.robustness.conditioning import encode
from forgetcli.robustness.results import JudgedAttempt, Rate
from forgetcli.robustness.sampling import Sampling, sample_images

REPLAYED = "replayed"


@dataclass(frozen=True)
class Replayed:
    """The result of `replay`.

    Attributes:
        attack, concept, label: the attack and the concept, from the replayed file.
        model: the id and digest of the other model.
        folder: the folder with the images.
        attempts: one attempt for each conditioning, judged.
        seconds: the duration.
    """

    attack: str
    concept: str
    label: str
    model: Mapping[str, Any]
    folder: Path
    attempts: tuple[JudgedAttempt, ...]
    seconds: Mapping[str, float]

    @property
    def success(self) -> Rate:
        return Rate(sum(attempt.seen for attempt in self.attempts), len(self.attempts))

    def as_dict(self) -> dict[str, Any]:
        """The stable keys of ``attack --replay --json``."""
        return {
            "attack": self.attack,
            "concept": self.concept,
            "label": self.label,
            "model": dict(self.model),
            **self.success.as_dict("success"),
            "attempts": [attempt.as_dict(self.folder) for attempt in self.attempts],
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
    """Generate images with another model from an attack's conditionings and seeds, and judge them.

    Args:
        file: a .safetensors file that `attack` wrote.
        model: any model of the same family.
        judge, judge_options, steps, guidance, device, force: see `forgetcli.evaluate`.
        batch: images generated at a time.
        output: the folder for the images.
    Raises:
        ForgetError: attack.bad-replay: the file is damaged, or does not fit the model.
    """
    observer = observer or Silent()
    watch = Stopwatch()
    replayed, source = records.read_conditionings(Path(file))
    base = checkpoint.resolve(str(model))
    loaded_judge = judges.load(judge, device, judge_options)
    loaded = models.load(base, device=device, observer=observer)
    sampling = Sampling(steps, default_guidance(loaded) if guidance is None else guidance, batch)
    folder = Path(output)
    try:
        context = Context.cat([encode(loaded, conditioning) for conditioning, _ in replayed])
        _refuse_other_width(loaded, context)
    except (ValueError, RuntimeError, KeyError, AttributeError, IndexError) as fault:
        raise ForgetError(
            "attack.bad-replay",
            f"the content of {file} does not fit {base.id}: {str(fault)[: records.LONGEST_REASON]}",
            "replay it on a model of the family that was attacked",
        ) from fault
    claim(folder, {"models": {REPLAYED: base.digest}, "steps": steps}, force)
    observer.stage(f"replay of {source.attack} on {source.label}", len(replayed))
    images, _ = sample_images(loaded, context, [seed for _, seed in replayed], sampling)
    verdicts = loaded_judge.see(
        images, [source.label] * len(images), [tuple(source.rivals)] * len(images)
    )
    attempts = []
    stem = records.stem(source.attack, source.label)
    for number, ((conditioning, seed), image, verdict) in enumerate(
        zip(replayed, images, verdicts)
    ):
        path = folder / REPLAYED / f"{stem}-{number:03d}.png"
        records.write_image(path, image, {"prompt": conditioning.prompt, "seed": seed})
        attempts.append(
            JudgedAttempt(
                prompt=conditioning.prompt,
                variant="",
                seed=seed,
                path=path,
                seen=verdict.seen,
                judged=verdict.judged,
                score=verdict.score,
            )
        )
    observer.done()
    return Replayed(
        attack=source.attack,
        concept=source.concept,
        label=source.label,
        model={"id": base.id, "digest": base.digest},
        folder=folder,
        attempts=tuple(attempts),
        seconds=watch.report(),
    )


def _refuse_other_width(model: Any, context: Context) -> None:
    expected = model.unconditional().hidden.shape[1:]
    if context.hidden.shape[1:] != expected:
        raise ValueError(
            f"contexts of shape {tuple(context.hidden.shape[1:])}, expected {tuple(expected)}"
        )
