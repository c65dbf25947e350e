"""The model card: ``README.md`` of an edited model, for people and, in its front matter, for the
hub.

Concepts, prompts and names are anyone's text: in Markdown and in YAML they are escaped, so that
they stay text.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forgetcli import recipe as recipes
from forgetcli.artifact import manifest, markdown, statement
from forgetcli.artifact.edited import EditedModel
from forgetcli.artifact.listing import regular_files
from forgetcli.bundled.demo import MODEL
from forgetcli.checkpoint import base as checkpoint
from forgetcli.errors import ForgetError, ModelError, OutputError
from forgetcli.recipe import Concept
from forgetcli.storage import atomic, hub
from forgetcli.storage.copying import copy_file
from forgetcli.storage.json import decode, read_json
from forgetcli.storage.workspace import collect

if TYPE_CHECKING:
    from forgetcli.artifact.ledger import Ledger
    from forgetcli.artifact.ledger_files import Entry
    from forgetcli.checkpoint.base import Base
    from forgetcli.recipe import Recipe

CARRIED = ("license", "license_name", "license_link", "base_model")  # of the base's card
TAGS = ("text-to-image", "concept-erasure", "unlearning", "forget")
MEASURES = {
    "forget": "forget",
    "direct": "forget_direct",
    "indirect": "forget_indirect",
    "retain": "retain",
    "H": "h",
}
SHOWN = 12  # layers in the card; all are in the report


@dataclass(frozen=True)
class History:
    """The base of a model, and the concepts of all its edits.

    Attributes:
        base, revision: the model that the first edit was made to.
        tensors: number of its tensors that are replaced.
        concepts: concepts of all edits, in their order.
        edits: number of edits.
    """

    base: str
    revision: str | None
    tensors: int = 0
    concepts: Sequence[Concept] = ()
    edits: int = 1

    @property
    def title(self) -> str:
        """A name for the model: that of its base, and what it has forgotten."""
        forgotten = ", ".join(concept.concept for concept in self.concepts)
        base = base_name(self.base)
        return f"{base} without {forgotten}" if forgotten else f"{base}, unedited"

    @classmethod
    def read(cls, edited: EditedModel) -> History:
        """The history of an edited folder.

        Raises:
            ModelError, RecipeError: the ledger, or without one the recipe, cannot be read.
        """
        if edited.ledger:
            return cls.of(edited.ledger)
        # Without a ledger: nothing is edited, or it was before there were ledgers.
        made = edited.manifest
        recipe = recipes.load(edited.path(made.recipe_path.name)) if made.edited else None
        return cls(
            made.base_id,
            made.base_revision,
            len(made.edited),
            recipe.concepts if recipe else (),
        )

    @classmethod
    def of(cls, edits: Ledger) -> History:
        origin = edits.book.base
        concepts = [concept for entry in edits.edits for concept in _concepts(entry)]
        return cls(origin.id, origin.revision, len(edits.book.places), concepts, len(edits.edits))


def _concepts(entry: Entry) -> Sequence[Concept]:
    """The concepts of an edit.

    Their aliases are missing if the recipe cannot be read here (a method that is not installed).
    """
    try:
        return recipes.parse(entry.recipe).concepts
    except ForgetError:
        pairs = [{"concept": concept, "target": target} for concept, target in entry.concepts]
        return [Concept.model_validate(pair) for pair in pairs]


def write(
    staging: Path,
    *,
    base: Base,
    recipe: Recipe,
    edits: Ledger | None,
    sites: Sequence[Mapping],
    check: Mapping[str, float],
) -> None:
    """Write the card of an edit into the staging folder, before `statement.write`, which lists it.

    Args:
        base: the model whose card names licence and base model.
        recipe: the recipe of the last edit.
        edits: the ledger of all edits; None if nothing is edited.
    """
    history = History.of(edits) if edits else History(base.id, base.revision)
    text = render(
        recipe,
        history,
        carried=carried(base.folder / manifest.CARD, history.base),
        sites=sites,
        check=check,
    )
    (staging / manifest.CARD).write_text(text, encoding="utf-8")


def rewrite(folder: Path, results: Path | None = None) -> Path:
    """Replace the card of an edited folder, with the scores of an evaluation, and update the
    manifest.

    Only the card's digest changes in the manifest, so `verify` still reports every other
    difference. The new card and the new manifest appear together. A signature is removed, because
    it covers the earlier state.

    Args:
        results: ``results.json`` of ``forget eval``; without it the card has no scores.
    Raises:
        ModelError: the folder was not made by forget, or its ledger is damaged.
        OutputError: the folder cannot be written; card.results: the evaluation is not one of this
            model.
    """
    # jinja2 loads only where a card is written.
    from jinja2 import TemplateError

    edited = EditedModel(Path(folder))
    folder = edited.folder
    made = edited.manifest
    collect(folder)  # a temporary file of a killed run must not get into the new folder
    files = regular_files(folder)
    recipe = recipes.load(edited.path(made.recipe_path.name))
    report = _report(edited)
    history = History.read(edited)
    measured = scores(folder, results) if results else None
    try:
        text = render(
            recipe,
            history,
            carried=carried(folder / manifest.CARD, history.base),
            sites=report.get("sites", ()),
            check=report.get("check") or {},
            scores=measured,
        )
    except (TypeError, ValueError, TemplateError) as fault:
        raise ModelError(
            "model.changed",
            f"{folder / manifest.REPORT} is damaged: {fault}",
            "run 'forget verify' on the folder; apply the recipe again if it was changed",
        ) from fault
    with atomic.publishing(folder, force=True) as staging:
        for path in files:
            if path not in (manifest.CARD, manifest.MANIFEST, manifest.SIGNATURE):
                _link(folder / path, staging / path)
        (staging / manifest.CARD).write_text(text, encoding="utf-8")
        statement.replace_card(folder, staging)
    return folder / manifest.CARD


def _link(source: Path, target: Path) -> None:
    """Hard-link a file instead of copying gigabytes: its old folder is about to be removed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(os.path.realpath(source), target)
    except OSError:  # The file system has no hard links.
        copy_file(source, target)


def _report(edited: EditedModel) -> dict[str, Any]:
    try:
        report = decode(edited.report_bytes)
    except (ForgetError, OSError, ValueError):
        return {}  # Damaged: verify reports it.
    return report if isinstance(report, dict) else {}


def carried(path: Path, base: str) -> dict[str, Any]:
    """Licence and base model that a card's front matter names; the embedded model's are known."""
    if base == "demo":
        return {"license": "mit"}
    from huggingface_hub import metadata_load

    try:
        front = metadata_load(path) or {}
    except Exception:
        return {}
    return {
        key: front[key]
        for key in CARRIED
        if isinstance(front.get(key), str | list)
        and all(
            isinstance(part, str)
            for part in ([front[key]] if isinstance(front[key], str) else front[key])
        )
    }


def scores(folder: Path, results: Path) -> dict[str, Any]:
    """This model's scores in the results of an evaluation.

    Raises:
        OutputError: card.results: no such file, not one of ours, or none of this model.
    """
    digest = checkpoint.resolve(folder).digest
    try:
        data = read_json(results)
        mine = [model for model in data["models"] if model["digest"] == digest]
        judge = str(data["judge"]["name"])
        images = int(data["n_images"])
        rows = [("unedited", data["baseline"]), ("this model", mine[0]["edited"])] if mine else []
        for _, side in rows:
            _check_scores(side)
    except (OSError, ValueError, KeyError, TypeError, OverflowError, ModelError) as fault:
        raise OutputError(
            "card.results",
            f"{results} holds no evaluation: {fault}",
            "give the results.json of forget eval",
        ) from fault
    if not rows:
        raise OutputError(
            "card.results",
            f"{results} has no scores of the model in {folder}: its weights are others",
            f"run: forget eval {folder}",
        )
    return {"judge": judge, "n_images": images, "rows": rows}


def _check_scores(side: Any) -> None:
    """
    Raises:
        TypeError: these are no scores.
    """
    if not isinstance(side, dict):
        raise TypeError("scores that are no table")
    for key in MEASURES.values():
        interval = side.get(f"{key}_ci") or [0, 0]
        pair = isinstance(interval, list) and len(interval) == 2
        values = [side.get(key), *interval] if pair else ["?"]
        if not all(isinstance(value, int | float) for value in values if side.get(key) is not None):
            raise TypeError(f"its '{key}' is no score")


def render(
    recipe: Recipe,
    history: History,
    *,
    carried: Mapping[str, Any],
    sites: Sequence[Mapping],
    check: Mapping[str, float],
    scores: Mapping[str, Any] | None = None,
) -> str:
    """The card's text. `carried`: see the function of that name; `scores`: see `scores`."""
    base = history.base
    name = hub_id(base) or carried.get("base_model")
    front = {
        **({"base_model": name, "base_model_relation": "finetune"} if name else {}),
        "pipeline_tag": "text-to-image",
        "library_name": "diffusers",
        "tags": list(TAGS),
        **{key: carried[key] for key in CARRIED if key != "base_model" and key in carried},
    }
    return _template().render(
        front=front,
        title=history.title,
        base=base_name(base),
        history=history,
        method=recipe.method,
        recipe_sha256=recipe.sha256,
        seed=recipe.seed,
        pairs=len(recipe.edit_pairs()),
        preserve=len(recipe.own_preserve_prompts()),
        sets=", ".join(recipe.preserve.sets),
        sites=sites,
        check=check,
        scores=scores,
        measures=MEASURES,
        shown=SHOWN,
        carried={"license": None, **carried},
        attribution=_attribution() if base == "demo" else "",
    )


@cache
def _template() -> Any:
    """The compiled template: compiling it takes longer than all else of a card."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )  # no HTML: `md` and `yaml` escape
    environment.filters |= {
        "md": lambda value: markdown.escaped_line(_plain(str(value))),
        "yaml": yaml,
        "share": _share,
        "percent": lambda x: f"{100 * x:.3g} %",
        "figure": lambda x: "–" if x is None else f"{x:.3g}",
    }
    return environment.get_template("card.md.j2")


def yaml(value: Any) -> str:
    """`value` in YAML's JSON form, on one line."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(yaml, value))}]"
    return json.dumps(_plain(str(value)), ensure_ascii=False)


def _plain(text: str) -> str:
    """`text` on one line, without joiners: cards have never had any, and their bytes stay equal."""
    return "".join(char for char in markdown.one_line(text) if char not in markdown.JOINERS)


def hub_id(base: str) -> str | None:
    return base if hub.NAME.fullmatch(base) and not Path(base).exists() else None


def base_name(base: str) -> str:
    """The base's name in the card; of a folder the last part only, not its path on the disk."""
    return (
        "forget's embedded model"
        if base == "demo"
        else base
        if hub_id(base)
        else Path(base).resolve().name
    )


def _attribution() -> str:
    """The paragraph on training data and their authors; a part of this package, and Markdown."""
    text = (MODEL.parent / "MODEL_CARD.md").read_text(encoding="utf-8")
    return text[text.index("**Training data") :].strip()


def _share(side: Mapping[str, Any], key: str) -> str:
    value = side.get(key)
    interval = side.get(f"{key}_ci")
    if not isinstance(value, int | float):
        return "–"
    return f"{value:.3f}" + (f" ({interval[0]:.2f}–{interval[1]:.2f})" if interval else "")
