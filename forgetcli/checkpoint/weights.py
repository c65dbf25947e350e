"""The weight files of a diffusers or transformers folder: variants, shards, and the file and bytes
that hold a parameter.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from forgetcli.errors import ModelError
from forgetcli.storage.files import is_plain_name
from forgetcli.storage.json import read_json
from forgetcli.storage.safetensors import FETCH_AGAIN, TensorSite, WeightFile, damaged

STANDARD_STEMS = ("model", "diffusion_pytorch_model")  # what transformers and diffusers look for
PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl", ".pickle")
_SHARD = re.compile(r"-\d{5}-of-\d{5}")


@dataclass(frozen=True)
class WeightSet:
    """All weights of a component in one form: one file, or the shards that an index names.

    Attributes:
        variant: what stands between the dots of the file name (``fp16``, ``non_ema``), or empty.
        files: the one file's name, or for shards the file name by key.
    """

    variant: str
    files: Mapping[str, str] | str

    @property
    def names(self) -> list[str]:
        """The names of all files, sorted."""
        if isinstance(self.files, str):
            return [self.files]
        return sorted(set(self.files.values()))


def weight_sets(folder: Path, component: str) -> list[WeightSet]:
    """The forms in which a component's weights are stored, the default of loaders first.

    Args:
        component: a subfolder's name, or empty for weights in `folder` itself.
    Raises:
        ModelError: no weights, only pickles, a shard that is missing or whose name leads out of
            the folder.
    """
    place = Path(folder, component)
    names = visible_files(place)
    ranked: list[tuple[tuple[bool, bool, int, str], WeightSet]] = []
    sharded: set[str] = set()
    for name in names:
        if ".safetensors.index." in name and name.endswith(".json"):
            files = _read_index(place, name)
            sharded |= set(files.values())
            stem, _, rest = name.partition(".safetensors.index.")
            variant = stem.partition(".")[2] or rest.removesuffix("json").rstrip(".")
            ranked.append((_rank(stem, variant, 1), WeightSet(variant, files)))
    for name in names:
        if name.endswith(".safetensors") and name not in sharded:
            stem = name.removesuffix(".safetensors")
            if _SHARD.search(stem):
                raise ModelError(
                    "model.damaged",
                    f"{place / name} is one of several shards, but no index.json names it",
                    FETCH_AGAIN,
                )
            variant = stem.partition(".")[2]
            ranked.append((_rank(stem, variant, 0), WeightSet(variant, name)))
    if not ranked:
        raise _no_weights(folder, place, names)
    return [weights for _, weights in sorted(ranked, key=lambda entry: entry[0])]


def visible_files(folder: Path) -> list[str]:
    """The names of a folder's files, sorted, without hidden ones: macOS writes ``._model.json``."""
    if not folder.is_dir():
        return []
    return sorted(
        path.name for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")
    )


def _rank(stem: str, variant: str, sharded: int) -> tuple[bool, bool, int, str]:
    """Sorts the forms in the order in which loaders prefer them."""
    return (variant != "", stem.partition(".")[0] not in STANDARD_STEMS, sharded, stem)


def _no_weights(folder: Path, place: Path, names: list[str]) -> ModelError:
    pickles = [name for name in names if name.endswith(PICKLES)]
    if pickles:
        convert = (
            "from diffusers import DiffusionPipeline as D; "
            f"D.from_pretrained('{folder}', use_safetensors=False).save_pretrained('converted')"
        )
        return ModelError(
            "model.pickle",
            f"{place} has its weights only as a pickle ({pickles[0]}), "
            "which can run code when opened",
            f'if you trust it, convert it: python -c "{convert}"',
        )
    return ModelError(
        "model.not-a-model",
        f"{place} has no weights (.safetensors)",
        "is the model complete? " + FETCH_AGAIN,
    )


def _read_index(place: Path, name: str) -> dict[str, str]:
    try:
        files = read_json(place / name)["weight_map"]
        if not isinstance(files, dict) or not all(isinstance(f, str) for f in files.values()):
            raise ValueError("weight_map is not a table of names")
    except (OSError, ValueError, KeyError, TypeError) as fault:
        raise ModelError(
            "model.damaged", f"{place / name} is no valid index of shards ({fault})", FETCH_AGAIN
        ) from fault
    for file in sorted(set(files.values())):
        # transformers joins these names to the folder unchecked. With `../x`, a file outside of the
        # folder would be patched.
        if not is_plain_name(file) or not file.endswith(".safetensors"):
            raise ModelError(
                "model.damaged",
                f"{place / name} names the shard {file!r}, which is not a plain file name",
                "do not use this model: the name leads out of its folder",
            )
        if not (place / file).is_file():
            raise ModelError(
                "model.damaged", f"{place / file} is missing, {name} names it", FETCH_AGAIN
            )
    return files


def locate(folder: Path, component: str, name: str) -> TensorSite:
    """Where loaders find the parameter `name` (as in memory) of a component.

    Raises:
        ModelError: as `locate_all`.
    """
    return locate_all(folder, component, name)[0]


def locate_all(
    folder: Path,
    component: str,
    name: str,
    sets: Sequence[WeightSet] | None = None,
    weight_file: Callable[[str], WeightFile] | None = None,
) -> list[TensorSite]:
    """Where a parameter lies in every form of a component's weights (``.fp16.``, ``.non_ema.``),
    the form that loaders read by default first.

    The key in a file is `name` itself, or the only key that ends in ``.name`` (transformers 5 has
    no ``text_model.`` in memory, files have it), or `name` without its first part (the reverse).

    Args:
        sets: the component's `weight_sets`, where the caller has them already.
        weight_file: opens a file of `folder`, for callers that keep headers.
    Raises:
        ModelError: model.no-tensor, with similar names; those of `WeightFile.sites` and
            `weight_sets`.
    """
    if sets is None:
        sets = weight_sets(folder, component)
    if weight_file is None:
        weight_file = cache(partial(WeightFile, folder))
    sites: list[TensorSite] = []
    for weights in sets:
        if isinstance(weights.files, str):
            keys: Collection[str] = weight_file(f"{component}/{weights.files}").sites
        else:
            keys = weights.files
        key = _match(keys, name)
        if key is None:
            if not sites:
                raise _no_parameter(folder, component, name, keys)
            continue
        file = weights.files if isinstance(weights.files, str) else weights.files[key]
        holder = weight_file(f"{component}/{file}")
        site = holder.sites.get(key)
        if site is None:
            raise damaged(holder.path, f"it lacks '{key}', which its index.json promises")
        if not sites or site.shape == sites[0].shape:
            sites.append(site)
    return sites


def _no_parameter(folder: Path, component: str, name: str, keys: Collection[str]) -> ModelError:
    near = difflib.get_close_matches(name, keys, 3, 0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else "is it a model of another family?"
    return ModelError("model.no-tensor", f"{component} of {folder} has no parameter '{name}'", hint)


def _match(keys: Collection[str], name: str) -> str | None:
    if name in keys:
        return name
    longer = [key for key in keys if key.endswith("." + name)]
    if len(longer) > 1:
        raise ModelError(
            "model.no-tensor",
            f"'{name}' could be any of {', '.join(sorted(longer)[:3])}",
            "give more of its name",
        )
    if longer:
        return longer[0]
    shorter = name.partition(".")[2]
    return shorter if shorter in keys else None
