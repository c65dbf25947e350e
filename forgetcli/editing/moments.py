"""Second moments of prompts' keys at the sites: computed in batches and kept in the cache."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from types import SimpleNamespace
from typing import Any

import torch

from forgetcli.editing.moment_cache import MomentCache
from forgetcli.editing.prior import prior_prompts
from forgetcli.editing.task import Task
from forgetcli.linalg import Moment
from forgetcli.models.base import LoadedModel, Site
from forgetcli.models.tokens import TokenBatch, tokenise
from forgetcli.progress import Observer

VERSION = 2  # raise when the computation changes its results
BATCH = 64  # prompts encoded at a time


@dataclass(frozen=True)
class Moments:
    """Second moments by site name.

    Attributes:
        materials: {"name", "sha256"} of each, for the manifest.
        hits, misses: how many were in the cache, and how many were computed.
    """

    by_site: dict[str, Moment]
    materials: tuple[dict, ...]
    hits: int
    misses: int

    def __add__(self, other: Moments) -> Moments:
        """The moments of both sets of prompts, at the same sites."""
        return Moments(
            {site: moment + other.by_site[site] for site, moment in self.by_site.items()},
            (*self.materials, *other.materials),
            self.hits + other.hits,
            self.misses + other.misses,
        )


def preserve_moments(
    model: LoadedModel,
    sites: Sequence[Site],
    prompts: Sequence[str],
    cache: MomentCache,
    observer: Observer,
    *,
    balance_empty: bool = False,
    shared: Sequence[Sequence[str]] = (),
    name: str = "k0",
    what: str = "preserve prompts",
) -> Moments:
    """K₀K₀ᵀ of all token positions of `prompts` at each site, float64, from the cache if possible.

    Sites that are not cached are computed together in one pass over the prompts. Second moments are
    additive: those of each part of `shared` are cached on their own and added.

    Args:
        balance_empty: count the empty prompt as often as all others together. Guidance reads it at
            every step, with every prompt. Counted once among hundreds, its keys fall below the cut
            and the edit moves it. (Measured on the embedded model: the denoiser's prediction for it
            moved so far that the drift of the whole check rose from 3 % to 24 %.)
        shared: parts of `prompts`, as in `Task.shared`. A prompt in two parts counts twice.
        name: precedes the site's name in the manifest.
        what: the prompts' name in messages.
    """
    found = [
        _moments(model, sites, part, often, cache, observer, what)
        for part, often in parts(prompts, shared, balance_empty)
    ]
    by_site = {
        site.name: reduce(add, (part.by_site[site.name] for part in found)) for site in sites
    }
    hits, misses = sum(part.hits for part in found), sum(part.misses for part in found)
    return Moments(by_site, materials(name, by_site), hits, misses)


def _moments(
    model: LoadedModel,
    sites: Sequence[Site],
    prompts: Sequence[str],
    often: int,
    cache: MomentCache,
    observer: Observer,
    what: str,
) -> Moments:
    """Second moments of prompts, of which the empty one counts `often` times; not for the
    manifest.
    """
    identities = {site.name: _identity(model, site, prompts, often) for site in sites}
    found = {site: cache.load(identity) for site, identity in identities.items()}
    missing = [site for site in sites if found[site.name] is None]
    by_site = {
        site: Moment(kept["moment"], int(kept["tokens"]))
        for site, kept in found.items()
        if kept is not None
    }
    if missing:
        observer.stage(f"second moments of {what}", len(prompts))
        for times, batch in _batches(model, prompts, often):
            keys = model.distinct_keys(missing, batch)
            for site in missing:
                part = Moment.of(keys.pop(site.name), batch.of(site.component).counts)
                if times != 1:
                    part = part.times(times)
                by_site[site.name] = by_site[site.name] + part if site.name in by_site else part
            observer.advance(len(batch.prompts))
        for site in missing:
            moment = by_site[site.name]
            cache.store(
                identities[site.name],
                {"moment": moment.matrix, "tokens": torch.tensor(moment.tokens)},
            )
    else:
        observer.note(f"second moments of {what}: {len(prompts)} prompts, from the cache")
    return Moments(by_site, (), len(sites) - len(missing), len(missing))


def _batches(
    model: LoadedModel, prompts: Sequence[str], often: int
) -> Iterator[tuple[int, TokenBatch]]:
    """Batches of the prompts, with the number of times that their keys count."""
    for times, part in ((often, [p for p in prompts if not p]), (1, [p for p in prompts if p])):
        if part:
            for batch in tokenise(model.tokenizer, part).split(BATCH):
                yield times, batch


def parts(
    prompts: Sequence[str], shared: Sequence[Sequence[str]], balance_empty: bool
) -> list[tuple[Sequence[str], int]]:
    """The parts whose second moments are kept, with the number of times that the empty prompt
    counts in each: the prompts that are in no shared part, then each shared part.
    """
    apart = {prompt for part in shared for prompt in part}
    own = [prompt for prompt in prompts if prompt not in apart]
    others = len(own) + sum(map(len, shared)) - 1
    often = max(1, others) if balance_empty else 1
    return [(part, often) for part in (own, *shared) if part]


def prior_moments(
    model: LoadedModel, sites: Sequence[Site], task: Task, observer: Observer
) -> Moments | None:
    """Second moments of the task's prior; None if it has none."""
    prompts = prior_prompts(model.tokenizer, task)
    if not prompts:
        return None
    what = "the captions" if task.prior_captions else "the vocabulary's words"
    return preserve_moments(
        model, sites, prompts, task.moments, observer, name="vocabulary", what=what
    )


def counted(used: Sequence[Moments]) -> dict[str, int]:
    """How many of several sets of second moments were in the cache, and how many were computed."""
    return {"hits": sum(m.hits for m in used), "misses": sum(m.misses for m in used)}


def materials(name: str, by_site: Mapping[str, Moment]) -> tuple[dict[str, str], ...]:
    """Records of second moments for the manifest: {"name": "k0/SITE", "sha256"} each, for the name
    `k0`.
    """
    return tuple(
        {"name": f"{name}/{site}", "sha256": _digest(by_site[site].matrix)}
        for site in sorted(by_site)
    )


def are_cached(
    model: LoadedModel,
    site: Any,
    prompts: Sequence[str],
    cache: MomentCache,
    often: int,
) -> bool:
    """Whether `preserve_moments` would find the site's moment of one of the `parts` in the cache.

    No weights are loaded. The base model's files are hashed.

    Args:
        site: has `component` and `name`, as in the model or as in its file.
        often: how often the empty prompt counts.
    """
    # Files have this prefix; transformers 5 does not have it in memory.
    path = site.name.removeprefix("text_model.")
    names = (site.name, path, f"{site.component}.{site.name}", f"{site.component}.{path}")
    return any(
        cache.has(
            _identity(model, SimpleNamespace(component=site.component, name=name), prompts, often)
        )
        for name in names
    )


def _identity(model: LoadedModel, site: Any, prompts: Sequence[str], often: int) -> dict:
    encoder = model.base.parts("text_encoder", "tokenizer")
    (part,) = tokenise(model.tokenizer, [""]).of(site.component).parts
    tokens = (
        "all positions, merged by prefix"
        if part.causal
        else f"all {part.stop} positions, merged by whole prompt"
    )
    return {
        "version": VERSION,
        "model": model.base.id,
        "encoder": encoder,
        "site": site.name,
        "prompts": list(prompts),
        "empty": often,
        "tokens": tokens,
        "dtype": str(model.encoder_dtype).removeprefix("torch."),
        "device": model.device.type,
    }


def _digest(matrix: torch.Tensor) -> str:
    return hashlib.sha256(matrix.contiguous().numpy().tobytes()).hexdigest()
