"""`attack`: runs attacks on an edited model and its controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from forgetcli import recipe as recipes
from forgetcli.artifact.edited import EditedModel
from forgetcli.checkpoint import base as checkpoint
from forgetcli.evaluation import judges
from forgetcli.evaluation.run_folder import claim
from forgetcli.process import distributed
from forgetcli.progress import Observer, Silent, Stopwatch
from forgetcli.robustness import attacks as attacks_
from forgetcli.robustness import goals as goals_
from forgetcli.robustness.outcomes import Outcomes, Settings
from forgetcli.robustness.results import EDITED, FLOOR, UNEDITED, Attacked, Outcome, Robustness

__all__ = ["Request", "Settings", "attack", "attack_each"]


@dataclass(frozen=True)
class Request:
    """What models are attacked with, and how images are generated and judged; see `attack`.

    Attributes:
        keep: keep what other runs left in `output`, whatever it is: each outcome records what it
            was made with.
    """

    settings: Settings
    output: Path
    attacks: Sequence[str] | None = None
    options: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    published: bool = False
    concepts: Sequence[str] = ()
    control: bool = True
    floor: str | Path | None = None
    judge: str = "demo"
    judge_options: Mapping[str, object] | None = None
    device: str | None = None
    force: bool = False
    keep: bool = False


def attack(
    folder: Path | str = "edited",
    *,
    attacks: Sequence[str] | None = None,
    options: Mapping[str, Mapping[str, object]] | None = None,
    published: bool = False,
    concepts: Sequence[str] = (),
    control: bool = True,
    floor: str | Path | None = None,
    judge: str = "demo",
    judge_options: Mapping[str, object] | None = None,
    images: int = 12,
    seed: int = 0,
    steps: int = 20,
    guidance: float | None = None,
    batch: int = 12,
    output: Path | str = "attack",
    device: str | None = None,
    force: bool = False,
    observer: Observer | None = None,
) -> Robustness:
    """Try to bring back the concepts that an edited model was made to forget.

    Args:
        folder: the edited model.
        attacks: names of attacks. Default: all that the model's family can run, except
            ``relearn``, which trains the model.
        options: attack → its settings.
        published: use the values of each attack's paper as defaults instead of values for a CPU.
        concepts: labels or words of the concepts; default: all that the model was made to forget.
        control: also attack the unedited model. Otherwise no attack gives a verdict.
        floor: a model that never learned the concepts. It is attacked too.
        judge, judge_options, steps, guidance, device, force: see `forgetcli.evaluate`.
        images: the number of attempts to generate the concept, for each attack.
        seed: the seed of the first attempt.
        output: folder for images and results. An interrupted run continues there.
        batch: images generated at a time.
        observer: receives progress and notes.
    Raises:
        ForgetError: `folder` is not an edited folder; an attack, setting or concept is unknown; the
            model's family cannot run an attack; or `output` contains another run.
    """
    request = Request(
        settings=Settings(images=images, seed=seed, steps=steps, guidance=guidance, batch=batch),
        output=Path(output),
        attacks=attacks,
        options=options or {},
        published=published,
        concepts=concepts,
        control=control,
        floor=floor,
        judge=judge,
        judge_options=judge_options,
        device=device,
        force=force,
    )
    return attack_each({EDITED: folder}, request, observer)[EDITED]


def attack_each(
    folders: Mapping[str, Path | str], request: Request, observer: Observer | None = None
) -> dict[str, Robustness]:
    """Attack several edits of one base model with the same attacks, budget and seeds.

    The unedited model is attacked only once. Its images of the concepts are generated only once.

    Args:
        folders: the edited models, by the name of their folder in the output.
    Returns:
        the results, by the same name.
    Raises:
        ForgetError: as `attack`.
    """
    processes = distributed.current()
    run = _prepared(folders, request, observer or Silent())
    attacks = run.supported_attacks(named=request.attacks is not None)
    if processes.main:
        claim(
            run.output,
            run.identity(),
            request.force,
            also=("report.html", "results.json"),
            keep_images=request.keep,
        )
    processes.wait()
    watch = Stopwatch()
    # One role after another, so that only one edited model is in memory at a time. The control is
    # first, so that its budget includes the reference images that all roles use.
    shared = [UNEDITED] if request.control else []
    shared += [FLOOR] if request.floor is not None else []
    jobs = [
        (name, goal, role) for role in (*shared, *folders) for name in attacks for goal in run.goals
    ]
    for block in processes.blocks(jobs, 1):
        for name, goal, role in block:
            with watch.stage(name):
                run.outcome(name, goal, role)
    processes.wait()
    run.observer.done()
    return {
        edited: Robustness(
            folder=run.output,
            model={"name": Path(folder).resolve().name, "digest": run.bases[edited].digest},
            base={"id": run.bases[UNEDITED].id, "digest": run.bases[UNEDITED].digest},
            attacked=_attacked_by_all(run, edited, attacks, (edited, *shared)),
            judge=run.judge.identity(),
            settings={
                **asdict(request.settings),
                "guidance": run.sampling.guidance,
                "published": request.published,
            },
            seconds=watch.report(),
        )
        for edited, folder in folders.items()
    }


def _prepared(folders: Mapping[str, Path | str], request: Request, observer: Observer) -> Outcomes:
    """Resolve the models, load the judge, and check the settings and concepts."""
    names = attacks_.defaults() if request.attacks is None else dict.fromkeys(request.attacks)
    options = {
        name: attacks_.options(name, request.options.get(name, {}), published=request.published)
        for name in names
    }
    manifests = [EditedModel(Path(folder)).manifest for folder in folders.values()]
    bases = {name: checkpoint.resolve(folder) for name, folder in folders.items()}
    bases[UNEDITED] = manifests[0].resolve_base()
    if request.floor is not None:
        bases[FLOOR] = checkpoint.resolve(str(request.floor))
    device = request.device or distributed.local_device()
    judge = judges.load(request.judge, device, request.judge_options)
    edit_recipes = [recipes.load(manifest.recipe_path) for manifest in manifests]
    return Outcomes(
        bases=bases,
        goals=goals_.of_recipes(edit_recipes, judge, request.concepts),
        options=options,
        judge=judge,
        settings=request.settings,
        output=request.output,
        device=device,
        observer=observer,
    )


def _attacked_by_all(
    run: Outcomes, edited: str, attacks: Sequence[str], roles: Sequence[str]
) -> tuple[Attacked, ...]:
    """The results of all attacks on an edited model, attack by attack and concept by concept."""
    return tuple(
        _attacked(name, edited, {role: run.outcome(name, goal, role) for role in roles})
        for name in attacks
        for goal in run.goals
    )


def _attacked(name: str, edited: str, outcomes: Mapping[str, Outcome]) -> Attacked:
    """Combine the outcomes by role.

    The attempts of a paired attack count only if they show the concept with the unedited model.

    Args:
        edited: the edited model's role.
    """
    module = attacks_.get(name)
    control = outcomes.get(UNEDITED)
    if control is not None and getattr(module, "PAIRED", False):
        counted = tuple(attempt.seen for attempt in control.attempts)
        outcomes = {role: replace(each, counted=counted) for role, each in outcomes.items()}
    return Attacked(
        edited=outcomes[edited],
        control=outcomes.get(UNEDITED),
        floor=outcomes.get(FLOOR),
        bound=getattr(module, "BOUND", False),
    )
