"""The preserve prompts' second moments at the sites: streamed through the encoder, kept in the cache."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from forgetcli.cache import MomentCache
from forgetcli.linalg import Moment
from forgetcli.progress import Observer
from forgetcli.prompts import tokenise

VERSION = 1                                                           # raise when the numbers would come out otherwise
BATCH = 64


@dataclass(frozen=True)
class Moments:
    """Second moments by site name, and where they came from."""

    by_site: dict[str, Moment]
    materials: tuple[dict, ...]
    hits: int
    misses: int


def preserve_moments(model, sites, prompts: Sequence[str], cache: MomentCache, observer: Observer) -> Moments:
    """K₀K₀ᵀ of all token positions of `prompts` at each site, float64, from the cache where it is there.

    Sites that are missing are computed together in one pass over the prompts, `BATCH` at a time.
    """
    identities = {site.name: _identity(model, site, prompts) for site in sites}
    found = {name: cache.load(identity) for name, identity in identities.items()}
    missing = [site for site in sites if found[site.name] is None]
    by_site = {name: Moment(kept["moment"], int(kept["tokens"])) for name, kept in found.items() if kept is not None}
    if missing:
        observer.stage("second moments", len(prompts))
        for batch in tokenise(model.tokenizer, prompts).split(BATCH):
            for name, keys in model.keys(missing, batch.ids).items():
                part = Moment.of(batch.merge(keys), batch.counts)
                by_site[name] = by_site[name] + part if name in by_site else part
            observer.advance(len(batch.prompts))
        for site in missing:
            moment = by_site[site.name]
            cache.store(identities[site.name], {"moment": moment.matrix, "tokens": torch.tensor(moment.tokens)})
    else:
        observer.note(f"second moments of {len(prompts)} preserve prompts: from the cache")
    materials = tuple({"name": f"k0/{name}", "sha256": _digest(by_site[name].matrix)} for name in sorted(by_site))
    return Moments(by_site, materials, hits=len(sites) - len(missing), misses=len(missing))


def cached(model_base, sites: Sequence[str], prompts: Sequence[str], cache: MomentCache, dtype: str) -> int:
    """How many of these sites' moments are in the cache: for a dry run, which loads no model."""
    return sum(cache.load(_identity_of(model_base, name, prompts, dtype)) is not None for name in sites)


def _identity(model, site, prompts) -> dict:
    return _identity_of(model.base, site.name, prompts, str(model.dtype).removeprefix("torch."))


def _identity_of(base, site_name: str, prompts, dtype: str) -> dict:
    encoder = {name: digest for name, digest in base.files.items() if name.startswith(("text_encoder", "tokenizer"))}
    return {"version": VERSION, "model": base.id, "encoder": encoder, "site": site_name, "prompts": list(prompts),
            "tokens": "all positions, merged by prefix", "dtype": dtype}


def _digest(matrix: torch.Tensor) -> str:
    import hashlib

    return hashlib.sha256(matrix.contiguous().numpy().tobytes()).hexdigest()
