"""Description of a model on disk: components, editable layers, and earlier edits by forget. Reads
headers, no weights.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forgetcli import models
from forgetcli import recipe as recipes
from forgetcli.artifact import manifest
from forgetcli.artifact.edited import EditedModel
from forgetcli.checkpoint import pipeline_index
from forgetcli.checkpoint.base import Base, resolve
from forgetcli.checkpoint.pipeline_index import DISPENSABLE
from forgetcli.checkpoint.single_file import has_weights
from forgetcli.checkpoint.weights import weight_sets
from forgetcli.errors import EditError, ForgetError
from forgetcli.models.components import tensors_of
from forgetcli.storage.files import is_regular, walk_files
from forgetcli.storage.safetensors import TensorSite

if TYPE_CHECKING:
    from forgetcli.recipe import Recipe

# The layer that leads out of a text encoder block's MLP, and the denoiser's layers that read
# prompts and nothing else.
SITES = (
    (
        "clip",
        re.compile(r"(?:^|\.)(?P<block>\d+)\.mlp\.(?:fc2|c_proj)\.weight$"),
    ),  # c_proj: OpenCLIP, in single files
    ("t5", re.compile(r"(?:^|\.)block\.(?P<block>\d+)\..*\.wo\.weight$")),
    ("cross-attention", re.compile(r"\.attn2\.to_[kv]\.weight$")),
    (
        "embedder",
        re.compile(r"^(?:context_embedder|time_text_embed\.text_embedder\.linear_1)\.weight$"),
    ),
)
TEXT_ENCODERS = ("clip", "t5")
# Other kinds, with the component that has such layers.
DENOISERS = {"cross-attention": "unet", "embedder": "transformer"}


@dataclass(frozen=True)
class Component:
    """One part of a pipeline.

    Attributes:
        library, class_name: as model_index.json has them.
        parameters: number of parameters in the form that loaders read by default; None for a
            component without weights (a tokenizer).
        dtypes: number of parameters by stored dtype (``F16``).
        bytes: size of those weights; of all files for a component without weights.
        variants: other forms of the weights that lie beside them: ``fp16``, ``non_ema``.
    """

    name: str
    library: str
    class_name: str
    parameters: int | None
    dtypes: Mapping[str, int]
    bytes: int
    variants: tuple[str, ...] = ()


@dataclass(frozen=True)
class EditableSite:
    """One linear layer that some method can edit.

    Attributes:
        kind: ``clip`` or ``t5``, a text encoder's block; ``cross-attention``; ``embedder``, a layer
            by which a transformer reads the tokens or the pooled embedding.
        name: its name in a diffusers folder's file, without ``.weight``. For the denoiser of a
            single file: its name there.
        block: number of the text encoder's block; None for layers of the denoiser.
        shape: (outputs, inputs).
    """

    kind: str
    component: str
    name: str
    file: str
    dtype: str
    shape: tuple[int, ...]
    block: int | None = None


@dataclass(frozen=True)
class MadeBy:
    """How forget made a folder, by its manifest.

    Attributes:
        base, base_digest: the base model's URI or name, and its digest.
        method, recipe_sha256: of the last edit.
        concepts: (concept, target) of the last edit's recipe.
        tensors: the edited tensors, ``component/parameter``.
        finished: when, as the manifest says; None if it does not.
    """

    base: str
    base_digest: str
    method: str
    recipe_sha256: str
    concepts: tuple[tuple[str, str], ...]
    tensors: tuple[str, ...]
    finished: str | None


@dataclass(frozen=True)
class Unreadable:
    """A folder with a manifest that cannot be read.

    Attributes:
        problem: why.
    """

    problem: str


@dataclass(frozen=True)
class Inspection:
    """A model on disk; `edited` is None for one that forget did not make."""

    model: Mapping[str, str | None]
    folder: Path
    family: str | None
    pipeline: str
    components: tuple[Component, ...]
    sites: tuple[EditableSite, ...]
    edited: MadeBy | Unreadable | None

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "folder": str(self.folder)}

    def text_sites(
        self, blocks: Iterable[int], kinds: Iterable[str] = ("clip",)
    ) -> list[EditableSite]:
        """The sites of these blocks in every text encoder of these kinds, in order.

        Raises:
            EditError: edit.no-such-site: there is no such block.
        """
        there = [site for site in self.sites if site.kind in tuple(kinds)]
        known = sorted({site.block for site in there if site.block is not None})
        for block in blocks:
            if block not in known:
                raise EditError(
                    "edit.no-such-site",
                    f"the text encoder has no block {block}",
                    f"[edit] sites can be {known[0]} to {known[-1]}" if known else "",
                )
        return [site for site in there if site.block in set(blocks)]


def inspect(model: str | Path | Base, *, config: str | Path | None = None) -> Inspection:
    """Look at a model's components and editable layers. Reads headers, no weights.

    Args:
        model, config: see `checkpoint.base.resolve`; or a resolved model.
    Raises:
        ModelError: the model cannot be found, or a weight file is damaged.
    """
    base = model if isinstance(model, Base) else resolve(model, config=config)
    index = pipeline_index.read(base.settings)
    components = []
    sites = []
    for name, cls in index.components.items():
        if not (base.settings / name).is_dir():
            continue
        if (
            base.single
            and name not in base.single.keys.components
            and _lacks_weights(base.settings, name)
        ):
            continue
        component, tensors = _component(base, name, cls.library, cls.name)
        components.append(component)
        sites += _sites(name, tensors)
    return Inspection(
        {"id": base.id, "revision": base.revision},
        base.folder,
        _family(base.settings),
        index.class_name,
        tuple(components),
        tuple(sites),
        _edited(base.folder),
    )


def _lacks_weights(settings: Path, name: str) -> bool:
    return (settings / name / "config.json").is_file() and not has_weights(settings, name)


def _component(
    base: Base, name: str, library: str, class_name: str
) -> tuple[Component, dict[str, TensorSite]]:
    """A component and its tensors. A component without weights (a tokenizer) has none."""
    folder = base.settings
    # The single file that holds the component's weights.
    single = base.single if base.single and name in base.single.keys.components else None
    weightless = name in DISPENSABLE and not has_weights(folder, name)
    if weightless or not (folder / name / "config.json").is_file():
        size = sum(
            (folder / name / path).stat().st_size
            for path in walk_files(folder / name)
            if is_regular(folder / name / path)
        )
        return Component(name, library, class_name, None, {}, size), {}
    tensors = single.tensors_of(name) if single else tensors_of(folder, name)
    dtypes: dict[str, int] = {}
    for tensor in tensors.values():
        dtypes[tensor.dtype] = dtypes.get(tensor.dtype, 0) + math.prod(tensor.shape)
    others = [] if single else weight_sets(folder, name)[1:]
    component = Component(
        name=name,
        library=library,
        class_name=class_name,
        parameters=sum(dtypes.values()),
        dtypes=dtypes,
        bytes=sum(tensor.end - tensor.start for tensor in tensors.values()),
        variants=tuple(dict.fromkeys(form.variant for form in others if form.variant)),
    )
    return component, tensors


def _sites(component: str, tensors: Mapping[str, TensorSite]) -> list[EditableSite]:
    found = []
    for key, tensor in tensors.items():
        for kind, pattern in SITES:
            match = pattern.search(key)
            if match and kind in TEXT_ENCODERS and component.startswith("text_encoder"):
                block = int(match["block"])
            elif match and DENOISERS.get(kind) == component:
                block = None
            else:
                continue
            if ".resblocks." in key:  # OpenCLIP's names, in a single file
                name = f"text_model.encoder.layers.{block}.mlp.fc2"
            else:
                name = key.removesuffix(".weight")
            found.append(
                EditableSite(kind, component, name, tensor.file, tensor.dtype, tensor.shape, block)
            )
    return sorted(found, key=lambda site: (site.block is None, site.block or 0, site.name))


def _family(folder: Path) -> str | None:
    try:
        return models.family_of(folder)
    except ForgetError:  # A model that cannot be edited can still be inspected.
        return None


def _edited(folder: Path) -> MadeBy | Unreadable | None:
    """How forget made this folder, by its manifest; None if it did not."""
    if not (folder / manifest.MANIFEST).is_file():
        return None
    try:
        edited = EditedModel(folder)
        made = edited.manifest
    except ForgetError as fault:
        return Unreadable(fault.message)
    return MadeBy(
        base=made.base,
        base_digest=made.base_digest,
        method=made.method,
        recipe_sha256=made.recipe_sha256,
        concepts=tuple((c.concept, c.target) for c in _concepts(edited)),
        tensors=tuple(f"{t.component}/{t.parameter}" for t in made.edited),
        finished=made.run_details.get("metadata", {}).get("finishedOn"),
    )


def _concepts(edited: EditedModel) -> Iterator:
    try:
        recipe: Recipe = recipes.load(edited.path(edited.manifest.recipe_path.name))
    except ForgetError:
        # The recipe is of a later version, or damaged. verify reports that.
        return
    yield from recipe.concepts
