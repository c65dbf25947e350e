"""`evaluate`: the whole measurement on one page."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forgetcli import models
from forgetcli.artifact.edited import EditedModel
from forgetcli.artifact.weight_change import WeightChange, weight_change
from forgetcli.errors import ForgetError
from forgetcli.evaluation import judges, named, near, quality
from forgetcli.evaluation.judged import Answer, Run, Subject
from forgetcli.evaluation.measures import Quality
from forgetcli.evaluation.questions import Question, once
from forgetcli.evaluation.results import Evaluation
from forgetcli.evaluation.run_folder import RUN, VERDICTS, claim
from forgetcli.evaluation.subjects import UNEDITED, Asked, subjects, unused
from forgetcli.evaluation.verdicts import look
from forgetcli.generation.generate import generate_images
from forgetcli.generation.image_cache import ImageCache
from forgetcli.generation.images import DTYPE, ImageRequest, refuse_too_many
from forgetcli.process import distributed
from forgetcli.process.device import AUTO, pick_device
from forgetcli.progress import Observer, Silent, Stopwatch

if TYPE_CHECKING:
    from forgetcli.evaluation.features import Extractor
    from forgetcli.evaluation.judges import Judge
    from forgetcli.evaluation.prompt_sets import PromptSet
    from forgetcli.models.base import LoadedModel
    from forgetcli.recipe import Recipe

__all__ = [
    "RUN",
    "UNEDITED",
    "Answer",
    "Evaluation",
    "EvaluationSettings",
    "Run",
    "Subject",
    "answered",
    "claim",
    "evaluate",
    "subjects",
    "unused",
]


@dataclass(frozen=True)
class EvaluationSettings:
    """How the images of an evaluation are generated. Recorded with the result.

    Attributes:
        images: images for each prompt.
        seed: seed of the first image of each prompt. The others have the seeds that follow.
        steps: sampling steps of prompts that do not set their own.
        guidance: classifier-free guidance of prompts that do not set their own. None: the model's.
        batch: images generated together.
        dtype: what the models run in.
    """

    images: int
    seed: int
    steps: int
    guidance: float | None
    batch: int
    dtype: str = DTYPE

    def as_dict(self) -> dict[str, Any]:
        """The stable keys of `settings` in results.json. `dtype` is recorded unless it is `DTYPE`:
        so that runs from before it could be chosen continue.
        """
        settings = asdict(self)
        if self.dtype == DTYPE:
            del settings["dtype"]
        return settings

    def requests(self, questions: Sequence[Question]) -> list[ImageRequest]:
        """One image to generate for each question; `questions` repeats each `images` times."""
        return [
            ImageRequest(
                prompt=q.prompt,
                seed=(self.seed if q.seed is None else q.seed) + index % self.images,
                steps=q.steps or self.steps,
                guidance=self.guidance if q.guidance is None else q.guidance,
                width=q.width,
                height=q.height,
            )
            for index, q in enumerate(questions)
        ]


def evaluate(
    folders: Sequence[Path | str] | Path | str = "edited",
    *,
    recipe: Recipe | None = None,
    prompts: PromptSet | None = None,
    ask: str | None = None,
    images: int = 1,
    seed: int = 0,
    steps: int = 20,
    guidance: float | None = None,
    judge: str = "demo",
    judge_options: Mapping[str, object] | None = None,
    features: str | None = "auto",
    output: Path | str = "eval",
    device: str | None = None,
    batch: int = 8,
    dtype: str = AUTO,
    offload: str = AUTO,
    force: bool = False,
    keep_images: bool = False,
    near_concepts: int = near.NEAR,
    observer: Observer | None = None,
) -> Evaluation:
    """Generate images with edited models and with the unedited one, judge all of them, and score.

    Args:
        folders: edited checkpoints of one base model, which their manifests name.
        recipe: the recipe whose evaluation prompts are used. Default: the recipes that the
            checkpoints were made with.
        prompts: a prompt set to use instead of a recipe's prompts.
        ask: the concept to look for in the images of all prompts, whatever the set says.
        images: images for each prompt, at seeds `seed`, `seed + 1`, … A seed that the prompt set
            gives replaces `seed`.
        steps: sampling steps.
        guidance: classifier-free guidance. Default: the model's own.
        judge: name of the classifier that judges the images.
        judge_options: the judge's own settings.
        features: the feature extractor of the quality measures. `auto`: `demo` for edits of the
            bundled model, else none.
        output: folder for images and verdicts. An interrupted run continues there.
        device: default: the best one of this machine.
        batch: images generated together.
        dtype: what the models run in; see `models.image_dtype`.
        offload: see `forgetcli.generate`.
        force: delete the images and verdicts that another run left in `output`.
        keep_images: keep them instead, and use those that this run needs.
        near_concepts: near concepts to ask for, for each erased one, where the recipe lists none;
            0: none.
        observer: told about progress.
    Raises:
        ForgetError: not an edited folder, edits of different bases, no evaluation prompts, an
            unknown judge or concept, or `output` contains another run.
    """
    return _evaluate(
        [folders] if isinstance(folders, str | Path) else folders,
        recipe=recipe,
        prompts=prompts,
        ask=ask,
        settings=EvaluationSettings(images, seed, steps, guidance, batch, dtype),
        judge=judge,
        judge_options=judge_options,
        features=features,
        output=Path(output),
        device=device,
        offload=offload,
        force=force,
        keep_images=keep_images,
        near_concepts=near_concepts,
        observer=observer or Silent(),
    )


def _evaluate(
    folders: Sequence[Path | str],
    *,
    recipe: Recipe | None,
    prompts: PromptSet | None,
    ask: str | None,
    settings: EvaluationSettings,
    judge: str,
    judge_options: Mapping[str, object] | None,
    features: str | None,
    output: Path,
    device: str | None,
    offload: str,
    force: bool,
    keep_images: bool,
    near_concepts: int,
    observer: Observer,
) -> Evaluation:
    watch = Stopwatch()
    processes = distributed.current()
    device = device or distributed.local_device()
    loaded_judge = judges.load(judge, device, judge_options)
    with watch.stage("load"):
        asked = subjects(folders, recipe, prompts, ask, loaded_judge, observer)
        baseline, edited = asked.baseline, asked.edited
        dtype = models.image_dtype(baseline.base, device, settings.dtype)
        settings = replace(settings, dtype=dtype)
        questions = [
            *asked.questions,
            *_further_questions(
                asked, loaded_judge, judges.known(judge), near_concepts, device, observer
            ),
        ]
        extractor = _extractor(features, baseline, device)
    refuse_too_many(len(questions), settings.images)
    questions = [q for q in questions for _ in range(settings.images)]
    if processes.main:
        identity = _identity([baseline, *edited], settings, questions)
        claim(output, identity, force, keep_images=keep_images)
    processes.wait()
    runs = [
        answered(
            subject,
            questions,
            settings.requests(questions),
            loaded_judge,
            output,
            device=device,
            batch=settings.batch,
            dtype=settings.dtype,
            offload=offload,
            observer=observer,
            watch=watch,
            processes=processes,
            # Of the unedited model only: every edited model is another.
            cache=ImageCache(baseline.base, device) if subject is baseline else None,
        )
        for subject in (baseline, *edited)
    ]
    measured: dict[str, Quality] = {}
    with watch.stage("quality"):
        for run in runs[1:] if processes.main else ():
            measured[run.subject.name] = quality.measure(
                runs[0], run, extractor, loaded_judge, observer
            )
    observer.done()
    changed = [(subject.name, _weight_change(subject)) for subject in edited]
    return Evaluation(
        judge=loaded_judge.identity(),
        baseline=runs[0],
        edited=tuple(runs[1:]),
        settings=settings.as_dict(),
        seconds=watch.report(),
        asked={
            "prompts": prompts.identity() if prompts else None,
            "ask": ask,
            "near": near_concepts,
            "features": features,
            "judge_settings": dict(judge_options or {}),
        },
        quality=measured,
        weights={name: change for name, change in changed if change is not None},
    )


def _weight_change(subject: Subject) -> WeightChange | None:
    """None if the folder or its base is no longer what the manifest says."""
    try:
        return weight_change(EditedModel(subject.base.folder))
    except ForgetError:
        return None


def _further_questions(
    asked: Asked,
    judge: Judge,
    known: Mapping[str, Sequence[str]] | None,
    near_concepts: int,
    device: str | None,
    observer: Observer,
) -> list[Question]:
    """The questions of the axes adjacent and selective."""

    @cache
    def unedited() -> LoadedModel:
        # As an edit runs it: which concepts are near must not depend on the images' dtype.
        base = asked.baseline.base
        dtype = models.dtype_of(base, pick_device(device).type)
        return models.load(base, device=device, dtype=dtype, editable=False, observer=observer)

    # Recipes of one comparison differ in the method alone.
    recipes = {(r.concepts, r.near, r.retain, r.prompts): r for r in asked.recipes}
    neighbours = [
        question
        for recipe in recipes.values()
        for question in near.questions_of(recipe, judge, known, unedited, near_concepts)
    ]
    erased = frozenset[str]().union(*(subject.forgets for subject in asked.edited))
    return once([*neighbours, *named.questions_of(asked.questions, erased, judge, known)])


def _extractor(features: str | None, baseline: Subject, device: str | None) -> Extractor | None:
    if features == "auto":
        features = "demo" if baseline.base.id == "demo" else None
    if features is None or features == "none":
        return None
    return quality.load(features, device)


def _identity(
    models: Sequence[Subject], settings: EvaluationSettings, questions: Sequence[Question]
) -> dict[str, Any]:
    """Everything that the images and questions of a run depend on, for ``run.json``.

    Near concepts and what prompts name besides are left out: a run can be asked more, and each
    image records what it was made with.
    """
    asked = json.dumps([_plain(q) for q in questions if not q.axis]).encode()
    return {
        "models": {subject.name: subject.base.digest for subject in models},
        **settings.as_dict(),
        "prompts": hashlib.sha256(asked).hexdigest(),
    }


def _plain(question: Question) -> dict[str, Any]:
    """A question as run.json has counted it from the first version on."""
    return {k: v for k, v in asdict(question).items() if k not in ("axis", "beside")}


def answered(
    subject: Subject,
    questions: Sequence[Question],
    requests: Sequence[ImageRequest],
    judge: Judge,
    output: Path,
    *,
    device: str | None,
    batch: int,
    observer: Observer,
    watch: Stopwatch,
    processes: distributed.Processes,
    dtype: str = DTYPE,
    offload: str = AUTO,
    cache: ImageCache | None = None,
) -> Run:
    """One model's images for these questions, generated in `output` and judged.

    Images and verdicts that are already in `output` are used. Several questions about one image
    share that image.

    Args:
        questions: the questions, in the order of the result.
        requests: the image of each question.
        dtype: what the model runs in.
        offload: see `forgetcli.generate`.
        cache: of this model's images.
    """
    distinct = list(dict.fromkeys(requests))
    with watch.stage(f"pictures {subject.name}"):
        drawn, _ = generate_images(
            subject.base,
            distinct,
            output / subject.name,
            device=device,
            batch=batch,
            observer=observer,
            processes=processes,
            dtype=dtype,
            offload=offload,
            cache=cache,
        )
    path_of = dict(zip(distinct, drawn))
    paths = [path_of[request] for request in requests]
    with watch.stage("judging"):
        verdicts = look(
            judge, paths, questions, output / VERDICTS, processes=processes, observer=observer
        )
    answers = [
        Answer(q, request.seed, path, v.seen, v.judged, v.score)
        for q, request, path, v in zip(questions, requests, paths, verdicts)
    ]
    return Run(subject, tuple(answers))
