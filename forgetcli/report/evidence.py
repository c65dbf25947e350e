"""The evidence page: one page of Markdown about an edited model, to be handed on.

It has what was erased, what was measured, the digests, how to repeat it, and what is not claimed.
Evidence that is missing is named. All text from files is escaped.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from forgetcli.artifact import manifest as manifests
from forgetcli.artifact.card import base_name, hub_id
from forgetcli.artifact.edited import EditedModel
from forgetcli.artifact.markdown import code, escaped
from forgetcli.errors import counted
from forgetcli.evaluation.figure import Figure
from forgetcli.export.evidence import Evidence, gather
from forgetcli.export.results import MEASURES, Attacked, AttackFigure, Judge, Scores
from forgetcli.progress import Observer
from forgetcli.storage import atomic
from forgetcli.storage.files import refuse_overlap, sha256_file

NOTHING = "–"
BASE_FOLDER = "BASE"  # in commands: a base that was a local folder
EDITED_FOLDER = "edited"
# The settings in results.json that are options of the command.
OPTIONS = ("images", "seed", "steps", "guidance", "batch", "dtype")
DEFAULT_DTYPE = "torch.float32"


def write(
    folder: Path,
    scores: Path | None,
    attacks: Path | None,
    output: Path,
    *,
    force: bool,
    observer: Observer,
) -> Evidence:
    """Gather the evidence about an edited model and write the page.

    Args:
        scores, attacks: see `gather`.
        force: replace an existing file.
    Returns:
        What the page is about.
    Raises:
        OutputError: `output` is in the edited folder, exists, or cannot be written.
        ForgetError: those of `gather`.
    """
    edited = EditedModel.open(folder)
    # The edited folder's manifest lists every file.
    refuse_overlap(output, folder, kind="the edited model", hint="choose another place: -o")
    atomic.refuse_unwritable(output, folder=False, force=force)
    evidence = gather(edited, scores, attacks, observer)
    with atomic.publishing_file(output, force=force) as writer:
        writer.write(page(evidence).encode())
    return evidence


def page(evidence: Evidence) -> str:
    """The page's text."""
    parts = [
        [f"# Evidence: {escaped(evidence.history.title)}"],
        [
            "What was done to a model, what was measured of it, and what is not claimed. Written "
            "by `forget card --evidence` from files whose digests were checked."
        ],
        ["## What was erased", *_erased(evidence)],
        ["## Scores", *_scores(evidence.scores)],
        ["## Attacks", *_attacks(evidence.attacks)],
        ["## The judge", *_judges(evidence)],
        ["## Digests", *_digests(evidence)],
        ["## How to repeat it", *_commands(evidence)],
        ["## Missing", *_list(evidence.missing(), "Nothing that this page lists.")],
        ["## Not claimed", *_list(evidence.not_claimed())],
    ]
    return "\n\n".join(block for part in parts for block in part) + "\n"


def _erased(evidence: Evidence) -> Iterator[str]:
    manifest, history = evidence.edited.manifest, evidence.history
    if history.concepts:
        yield _table(
            ("erased", "target", "also by the words"),
            (
                (
                    escaped(concept.concept),
                    escaped(concept.target or "(nothing)"),
                    escaped(", ".join(concept.aliases)) or NOTHING,
                )
                for concept in history.concepts
            ),
        )
    else:
        yield "Nothing: no tensor of the base model is replaced."
    finished = manifest.run_details.get("metadata", {}).get("finishedOn")
    yield (
        f"{counted(history.edits, 'edit')} of {escaped(base_name(history.base))}, by the method "
        f"{escaped(manifest.method)}: {counted(len(manifest.edited), 'tensor')} replaced, all "
        f"other bytes of the weights are those of the base model. Finished: "
        f"{code(str(finished)) if finished else 'not recorded'}."
    )


def _scores(scores: Scores | None) -> Iterator[str]:
    if scores is None:
        yield (
            "**Missing.** No evaluation of this model was given: how well the concepts are "
            "forgotten, and what else changed, was not measured. `forget eval` measures it."
        )
        return
    yield (
        f"{scores.images} images of both models, judged by {escaped(scores.judge.name)}; 95 % "
        f"intervals, n images. Settings: {_listed(scores.settings)}."
    )
    yield _table(
        ("measure", "what it is", "unedited", "edited"),
        (
            (
                escaped(key),
                escaped(meaning),
                _figure(scores.unedited.get(key)),
                _figure(scores.edited.get(key)),
            )
            for key, meaning in MEASURES.items()
        ),
    )
    yield _table(
        ("concept", "measure", "unedited", "edited"),
        (
            (escaped(row.concept), row.measure, _figure(row.unedited), _figure(row.edited))
            for row in scores.concepts
        ),
    )


def _attacks(attacks: Attacked | None) -> Iterator[str]:
    if attacks is None:
        yield (
            "**Missing.** No attack was run: nothing is known about hidden knowledge. `forget "
            "attack` tries to bring the concepts back."
        )
        return
    resist = attacks.resist
    by = f", against the strongest attack, {escaped(attacks.strongest)}" if resist else ""
    yield (
        f"Resistance (1 − success of the strongest attack): {_figure(resist)}{by}. Judged by "
        f"{escaped(attacks.judge.name)}. Settings: {_listed(attacks.settings)}."
    )
    yield (
        "The share of attempts that bring the concept back. The control is the same attack on the "
        "unedited model, the floor on a model that never learned the concept."
    )
    yield _table(
        ("attack", "concept", "edited", "control", "floor", "budget", "verdict"),
        map(_attack, attacks.rows),
    )


def _attack(row: AttackFigure) -> Sequence[str]:
    spent = {key: value for key, value in row.budget.items() if value}
    budget = ", ".join(f"{value:g} {key.replace('_', ' ')}" for key, value in spent.items())
    return (
        escaped(row.attack),
        escaped(row.concept),
        _figure(row.edited),
        _figure(row.control),
        _figure(row.floor),
        escaped(budget) or NOTHING,
        f"none: {escaped(row.no_verdict)}" if row.no_verdict else "counts",
    )


def _judges(evidence: Evidence) -> Iterator[str]:
    measured = [part.judge for part in (evidence.scores, evidence.attacks) if part is not None]
    if not measured:
        yield "**Missing.** Nothing was judged."
    for judge in dict.fromkeys(measured):
        yield from _judge(judge)
    if evidence.scores is not None and "retain" in evidence.scores.unedited:
        seen = evidence.scores.unedited["retain"]
        yield (
            "On the unedited model's images of the other concepts it sees what was asked for in "
            f"{_figure(seen)}. The rest are errors of the judge or of the base model."
        )


def _judge(judge: Judge) -> Iterator[str]:
    digest = f" (weights {code(judge.digest)})" if judge.digest else ""
    if not judge.errors:
        yield (
            f"**Missing.** The error rate of the judge {escaped(judge.name)}{digest} is not known."
        )
        return
    yield f"Error rate of {escaped(judge.name)}{digest} on images whose content is known:"
    yield _table(
        ("images", "asked for", "wrong"),
        (
            (escaped(error.images), escaped(error.kind), _figure(error.rate))
            for error in judge.errors
        ),
    )


def _digests(evidence: Evidence) -> Iterator[str]:
    edited = evidence.edited
    manifest = edited.manifest
    changed = sorted({tensor.file for tensor in manifest.edited})
    results = (("evaluation", evidence.scores), ("attacks", evidence.attacks))
    rows = [
        ("base model", manifest.base_digest),
        ("edited model", edited.digest),
        ("recipe.toml", manifest.recipe_sha256),
        (manifests.MANIFEST, sha256_file(edited.path(manifests.MANIFEST))),
        *((f"{path}, base", manifest.base_files.get(path, "")) for path in changed),
        *((f"{path}, edited", manifest.subjects.get(path, "")) for path in changed),
        *((f"results of the {name}", part.sha256 if part else "") for name, part in results),
    ]
    yield _table(
        ("what", "SHA-256"),
        ((escaped(what), code(digest) if digest else "missing") for what, digest in rows),
    )
    yield (
        "The digest of a model is that of the sorted lines “path sha256” of its files. "
        f"`{manifests.MANIFEST}` lists all files, and every edited tensor with its digest before "
        "and after."
    )


def _commands(evidence: Evidence) -> Iterator[str]:
    manifest = evidence.edited.manifest
    name = manifest.base
    is_public = name == "demo" or hub_id(manifest.base_id) is not None
    base = name if is_public else BASE_FOLDER
    details = manifest.run_details.get("metadata", {})
    dtype = str(details.get("dtype", DEFAULT_DTYPE))
    device = str(details.get("device", "cpu"))
    how = [] if device == "cpu" else ["--device", device]
    how += (
        []
        if dtype == DEFAULT_DTYPE and device == "cpu"
        else ["--dtype", dtype.removeprefix("torch.")]
    )
    commands = [
        ("edit", ["apply", f"{EDITED_FOLDER}/recipe.toml", "--model", base, "-o", "again", *how]),
        ("compare", ["verify", EDITED_FOLDER, "--base", base, "--rebuild"]),
    ]
    if evidence.scores is not None:
        judge = ["--judge", evidence.scores.judge.name]
        options = _options(evidence.scores.settings)
        commands.append(("score", ["eval", EDITED_FOLDER, *judge, *options]))
    if evidence.attacks is not None:
        names = ["--attacks", ",".join(evidence.attacks.names)]
        judge = ["--judge", evidence.attacks.judge.name]
        options = _options(evidence.attacks.settings)
        commands.append(("attack", ["attack", EDITED_FOLDER, *names, *judge, *options]))
    yield _list(f"{what}: {code(shlex.join(['forget', *words]))}" for what, words in commands)[0]
    yield (
        f"`{EDITED_FOLDER}` is the folder of this model. Results record no `--prompts`, `--near` "
        "and settings of a judge or an attack other than the defaults: give those that were given."
    )
    if not is_public:
        yield (
            f"`{BASE_FOLDER}` is a copy of {escaped(base_name(manifest.base_id))} with the digest "
            "above."
        )
    if evidence.history.edits > 1:
        yield (
            f"The model holds {evidence.history.edits} edits, and `recipe.toml` is that of the "
            "last one: `forget log` lists the others."
        )


def _options(settings: Mapping[str, str]) -> list[str]:
    """Settings that were recorded, as options of the command."""
    given = [(f"--{key}", settings[key]) for key in OPTIONS if key in settings]
    flags = ["--published"] if settings.get("published") == "True" else []
    return [*(word for option in given for word in option), *flags]


def _figure(figure: Figure | None) -> str:
    if figure is None or figure.value is None:
        return NOTHING
    low, high = figure.interval
    percent, least, most = (f"{100 * share:.3g}" for share in (figure.value, low, high))
    return f"{percent} % ({least}–{most}; n = {figure.count})"


def _listed(settings: Mapping[str, str]) -> str:
    return code(", ".join(f"{key} {value}" for key, value in settings.items()) or "none recorded")


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _list(items: Iterable[str], otherwise: str = "") -> list[str]:
    lines = [f"- {item}" for item in items]
    return ["\n".join(lines) if lines else otherwise]
