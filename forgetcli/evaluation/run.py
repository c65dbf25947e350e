"""`evaluate`: the whole measurement on one page."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from forgetcli import distributed as processes_
from forgetcli.errors import ForgetError
from forgetcli.evaluation import judges
from forgetcli.evaluation.questions import Question, of_prompt_set, of_recipe, once
from forgetcli.evaluation.scores import matrix, summary
from forgetcli.progress import Observer, Silent, Stopwatch

if TYPE_CHECKING:
    from forgetcli.checkpoint.base import Base
    from forgetcli.evaluation.prompt_sets import PromptSet
    from forgetcli.generation.images import ImageRequest
    from forgetcli.recipe import Recipe

SCHEMA_VERSION = 1
UNEDITED = "unedited"
RUN = "run.json"  # what the pictures in a folder were made with


@dataclass(frozen=True)
class Subject:
    """A model under evaluation.

    Attributes:
        forgets: the judge's labels of what it was edited to forget; of the unedited model, none.
        edit_prompts: the prompts that the edit was made with.
    """

    name: str
    base: Base
    forgets: frozenset[str] = frozenset()
    edit_prompts: frozenset[str] = frozenset()
    recipe_sha256: str | None = None


@dataclass(frozen=True)
class Answer:
    """One picture of a question, judged."""

    question: Question
    seed: int
    path: Path
    seen: bool
    judged: str
    score: float


@dataclass(frozen=True)
class Run:
    """One model's pictures and the verdicts on them, in the order of the questions."""

    subject: Subject
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class Evaluation:
    """The unedited model and one or more edited ones, through one judge at equal prompts and seeds."""

    judge: Mapping[str, object]
    baseline: Run
    edited: tuple[Run, ...]
    settings: Mapping[str, object]
    seconds: Mapping[str, float]
    quality: Mapping[str, Mapping] = field(default_factory=dict)  # by the name of the edited model

    @property
    def runs(self) -> tuple[Run, ...]:
        return (self.baseline, *self.edited)

    def as_dict(self) -> dict:
        """The stable keys of ``eval --json`` and results.json. `baseline`, `edited`, `concepts` are
        those of the first model.
        """
        summaries = [summary(self.baseline, run) for run in self.edited]
        described = [
            {
                "name": run.subject.name,
                "digest": run.subject.base.digest,
                "recipe_sha256": run.subject.recipe_sha256,
                "forgets": sorted(run.subject.forgets),
                "quality": dict(self.quality.get(run.subject.name, {})),
                **scored,
            }
            for run, scored in zip(self.edited, summaries)
        ]
        return {
            "judge": dict(self.judge),
            "n_images": sum(len({a.path for a in run.answers}) for run in self.runs),
            **summaries[0],
            "quality": dict(self.quality.get(self.edited[0].subject.name, {})),
            "models": described,
            "base": {
                "id": self.baseline.subject.base.id,
                "digest": self.baseline.subject.base.digest,
            },
            "matrix": matrix(self.runs),
            "settings": dict(self.settings),
            "seconds": dict(self.seconds),
        }


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
    force: bool = False,
    observer: Observer | None = None,
) -> Evaluation:
    """Draw prompts with edited models and with the unedited one, judge all pictures, and score.

    Args:
        folders: edited checkpoints of one base model; their manifests name it.
        recipe: whose evaluation prompts are used; default: the recipes that the checkpoints were
            made with.
        prompts: a prompt set to use instead of a recipe's prompts.
        ask: the concept that all its prompts ask for, whatever the set says.
        images: pictures for each prompt, at seeds `seed`, `seed + 1`, … (or from the seed that the
            prompt set gives).
        judge, judge_options: who decides what is seen, and its own settings.
        features: the feature extractor of the quality measures; `auto`: `demo` for edits of the
            embedded model, else none.
        output: where pictures and verdicts are kept; a run that was cut short goes on there.
        force: throw away what an earlier, other run left in `output`.
    Raises:
        ForgetError: not an edited folder, edits of different bases, no evaluation prompts, an
            unknown judge or concept, or
            `output` holds another run.
    """
    from forgetcli.evaluation import quality
    from forgetcli.generation.images import ImageRequest

    observer, watch, output = observer or Silent(), Stopwatch(), Path(output)
    processes, device = processes_.current(), device or processes_.local_device()
    judge_ = judges.load(judge, device, judge_options)
    with watch.stage("load"):
        baseline, edited, questions = subjects(
            [folders] if isinstance(folders, str | Path) else folders, recipe, prompts, ask, judge_
        )
        if features == "auto":
            features = "demo" if baseline.base.id == "demo" else None
        extractor = quality.load(features, device) if features not in (None, "none") else None
    questions = [q for q in questions for _ in range(images)]
    shots = [
        ImageRequest(
            q.prompt,
            (seed if q.seed is None else q.seed) + k % images,
            q.steps or steps,
            guidance if q.guidance is None else q.guidance,
            q.width,
            q.height,
        )
        for k, q in enumerate(questions)
    ]
    settings = {
        "images": images,
        "seed": seed,
        "steps": steps,
        "guidance": guidance,
        "batch": batch,
    }
    if processes.main:
        claim(
            output,
            {
                "models": {s.name: s.base.digest for s in (baseline, *edited)},
                **settings,
                "prompts": hashlib.sha256(
                    json.dumps([asdict(q) for q in questions]).encode()
                ).hexdigest(),
            },
            force,
        )
    processes.wait()
    runs = []
    for subject in (baseline, *edited):
        runs.append(
            answered(
                subject,
                questions,
                shots,
                judge_,
                output,
                device=device,
                batch=batch,
                observer=observer,
                watch=watch,
                processes=processes,
            )
        )
    with watch.stage("quality"):
        measured = (
            {
                run.subject.name: quality.measure(runs[0], run, extractor, judge_, observer)
                for run in runs[1:]
            }
            if processes.main
            else {}
        )
    observer.done()
    return Evaluation(
        judge_.identity(), runs[0], tuple(runs[1:]), settings, watch.report(), measured
    )


def answered(
    subject: Subject,
    questions: Sequence[Question],
    shots: Sequence[ImageRequest],
    judge,
    output: Path,
    *,
    device: str | None,
    batch: int,
    observer: Observer,
    watch: Stopwatch,
    processes: processes_.Processes,
) -> Run:
    """One model's pictures of these questions, drawn into `output` and judged; what is there
    already is used.
    """
    from forgetcli.evaluation.verdicts import look
    from forgetcli.generation.draw import draw

    different = list(dict.fromkeys(shots))  # of one picture, several things may be asked
    with watch.stage(f"pictures {subject.name}"):
        drawn, _ = draw(
            subject.base,
            different,
            output / subject.name,
            device=device,
            batch=batch,
            observer=observer,
            processes=processes,
        )
    path_of = dict(zip(different, drawn))
    paths = [path_of[shot] for shot in shots]
    with watch.stage("judging"):
        sights = look(
            judge, paths, questions, output / "verdicts", processes=processes, observer=observer
        )
    return Run(
        subject,
        tuple(
            Answer(q, shot.seed, path, s.seen, s.judged, s.score)
            for q, shot, path, s in zip(questions, shots, paths, sights)
        ),
    )


def subjects(
    folders: Sequence[Path | str],
    recipe: Recipe | None,
    prompts: PromptSet | None,
    ask: str | None,
    judge,
) -> tuple[Subject, list[Subject], list[Question]]:
    """The unedited model, the edited ones, and what is asked of all of them.

    Raises:
        ForgetError: see `evaluate`.
    """
    from forgetcli import recipe as recipes
    from forgetcli.artifact.edited import EditedModel
    from forgetcli.checkpoint import base as checkpoint
    from forgetcli.evaluation.questions import label_of

    if not folders:
        raise ForgetError(
            "eval.no-model",
            "there is no edited model to evaluate",
            "name one or more edited folders",
        )
    edited, questions, bases = [], [], []
    for folder in map(Path, folders):
        manifest = EditedModel(folder).manifest
        bases.append(manifest.resolve_base())
        if bases[-1].digest != bases[0].digest:
            raise ForgetError(
                "eval.other-base",
                f"{folder} and {folders[0]} are edits of different models",
                "evaluate them one by one",
            )
        own = recipes.load(manifest.recipe_path)
        forgets = frozenset(label_of(judge, c.concept, c.label) for c in own.concepts)
        if recipe and forgets.isdisjoint(
            label_of(judge, c.concept, c.label) for c in recipe.concepts
        ):
            raise ForgetError(
                "eval.other-recipe",
                f"{folder} was edited by another recipe: it forgot {', '.join(sorted(forgets))}",
                "leave --recipe out, or name a recipe with prompts for that",
            )
        name = unused(folder.resolve().name, [UNEDITED, "verdicts", *(s.name for s in edited)])
        edited.append(
            Subject(
                name,
                checkpoint.resolve(folder),
                forgets,
                frozenset(p for p, _ in own.edit_pairs()),
                own.sha256,
            )
        )
        questions += (
            of_prompt_set(prompts, judge, own.concepts[0].concept, ask)
            if prompts
            else of_recipe(recipe or own, judge)
        )
    questions = once(questions)
    if prompts and not any(q.label in s.forgets for q in questions for s in edited):
        raise ForgetError(
            "eval.other-prompts",
            "none of the prompts asks for a concept that the model was edited to forget",
            f"it forgot: {', '.join(sorted(edited[0].forgets))}",
        )
    return Subject(UNEDITED, bases[0]), edited, questions


def unused(name: str, taken: Sequence[str]) -> str:
    number, candidate = 2, name
    while candidate in taken:
        number, candidate = number + 1, f"{name}-{number}"
    return candidate


def claim(output: Path, identity: Mapping, force: bool, also: Sequence[str] = ()) -> None:
    """Make `output` this run's: new, or an earlier one of exactly the same models, prompts and
    seeds.

    Args:
        also: what else such a run makes in `output`; thrown away with its pictures.

    Raises:
        ForgetError: it holds another run, and `force` is not given.
    """
    import shutil

    from forgetcli.storage import atomic

    wanted = json.loads(json.dumps({"schema_version": SCHEMA_VERSION, **identity}))
    try:
        with atomic.output_faults(output):
            found = json.loads((output / RUN).read_text()) if (output / RUN).exists() else None
    except ValueError:
        found = {}
    found = found if isinstance(found, dict | None) else {}
    if found == wanted:
        return
    if found is not None:
        other = sorted(k for k in {*found, *wanted} if found.get(k) != wanted.get(k))
        if not force:
            raise ForgetError(
                "eval.other-run",
                f"{output} holds another run: {', '.join(other)} differ",
                "choose another folder with -o, or start afresh with --force",
            )
        for name in (*found.get("models", {}), "verdicts", *also):  # only what such a run makes
            place = output / name
            if Path(name).name != name:
                continue
            if place.is_file():
                place.unlink()
            else:
                shutil.rmtree(place, ignore_errors=True)
    with atomic.output_faults(output):
        output.mkdir(parents=True, exist_ok=True)
        atomic.write_atomically(output / RUN, json.dumps(wanted, indent=1).encode())
