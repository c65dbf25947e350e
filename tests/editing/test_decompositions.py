"""Claims: an eigendecomposition from the cache gives the same edit to the last bit, and an entry
that does not fit its moment is never used.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from pipelines import tiny_sd
from safetensors import safe_open
from safetensors.torch import load, save

from forgetcli.editing import decompositions
from forgetcli.editing.decompositions import decomposed
from forgetcli.editing.moment_cache import MomentCache, _checksum
from forgetcli.linalg import Spectrum
from forgetcli.pipeline.apply import apply
from forgetcli.progress import Silent
from forgetcli.storage.files import sha256_file

KIND = "eigendecomposition"
RECIPE = """\
[[concepts]]
concept = "van gogh"
target = "monet"

[preserve]
prompts = ["a picture of a cat", "a house", "a sketch of a dog"]

[edit]
sites = [1, 2, 3]
lam = 0.001
min_rank = 24

[refine]
steps = 8
"""


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def small(monkeypatch):
    """Keep the decompositions of tiny models."""
    monkeypatch.setattr(decompositions, "SMALLEST_WIDTH", 2)


def moment(width: int = 40, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    keys = torch.randn(width, 3 * width, generator=generator, dtype=torch.float64)
    return keys @ keys.T


def entries(cache: MomentCache) -> list[Path]:
    return [cache.bucket / f"{e.key}.safetensors" for e in cache.entries() if e.kind == KIND]


def rewritten(path: Path, change) -> None:
    """The entry with other tensors and the checksum that goes with them."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = change(load(path.read_bytes()))
    path.write_bytes(save(tensors, metadata | {"sha256": _checksum(tensors)}))


# Whether it fits.


def test_a_decomposition_fits_its_moment_and_no_other():
    spectrum = Spectrum.of(moment())
    assert spectrum.fits(moment())
    assert not spectrum.fits(moment(seed=1))
    assert not spectrum.fits(moment(width=41))
    assert not spectrum.fits(moment().float())
    assert not spectrum.fits(moment() * float("nan"))


def turned(vectors: torch.Tensor) -> torch.Tensor:
    """The first two eigenvectors turned into each other by a millionth."""
    vectors = vectors.clone()
    first, second = vectors[:, 0].clone(), vectors[:, 1].clone()
    vectors[:, 0], vectors[:, 1] = first + 1e-6 * second, second - 1e-6 * first
    return vectors


HOSTILE = {
    "no vectors": lambda t: {"eigenvalues": t["eigenvalues"]},
    "another tensor": lambda t: t | {"more": torch.ones(1)},
    "float32": lambda t: t | {"vectors": t["vectors"].float()},
    "another shape": lambda t: t | {"vectors": t["vectors"][:, 1:].contiguous()},
    "not a number": lambda t: t | {"vectors": t["vectors"] * float("nan")},
    "another order": lambda t: {
        "eigenvalues": t["eigenvalues"].flip(0),
        "vectors": t["vectors"].flip(1).contiguous(),
    },
    "an eigenvalue": lambda t: t | {"eigenvalues": t["eigenvalues"] * (1 + 1e-6)},
    "one vector twice": lambda t: t | {"vectors": t["vectors"][:, [0, *range(39)]].contiguous()},
    "two vectors turned": lambda t: t | {"vectors": turned(t["vectors"])},
    "longer vectors": lambda t: t | {"vectors": t["vectors"] * 1.001},
    "another basis": lambda t: t | {"vectors": torch.eye(40, dtype=torch.float64)},
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE)
def test_an_entry_that_does_not_fit_is_computed_again(small, tmp_path, change):
    cache, expected = MomentCache(tmp_path), Spectrum.of(moment())
    decomposed(moment(), "demo", cache)
    (path,) = entries(cache)
    rewritten(path, change)
    spectrum, hit = decomposed(moment(), "demo", cache)
    assert not hit
    assert torch.equal(spectrum.vectors, expected.vectors)
    assert torch.equal(spectrum.eigenvalues, expected.eigenvalues)
    rewritten(path, lambda tensors: tensors)
    assert decomposed(moment(), "demo", cache)[1]  # it was stored again, and a copy is used


# When it is used.


def test_a_decomposition_is_stored_once_and_read_bit_by_bit(small, tmp_path):
    cache = MomentCache(tmp_path)
    first, stored = decomposed(moment(), "demo", cache)
    second, found = decomposed(moment(), "demo", cache)
    assert (stored, found) == (False, True)
    assert torch.equal(first.vectors, second.vectors)
    assert torch.equal(first.eigenvalues, second.eigenvalues)
    (entry,) = cache.entries()
    assert (entry.kind, entry.model) == (KIND, "demo")


def test_another_moment_version_or_number_of_threads_is_a_miss(small, tmp_path, monkeypatch):
    cache = MomentCache(tmp_path)
    decomposed(moment(), "demo", cache)
    nearly = moment()
    nearly[0, 0] = nearly[0, 0].nextafter(nearly[0, 0] + 1)
    assert not decomposed(nearly, "demo", cache)[1]
    torch.set_num_threads(2)
    assert not decomposed(moment(), "demo", cache)[1]
    torch.set_num_threads(1)
    monkeypatch.setattr(decompositions, "VERSION", 2)
    assert not decomposed(moment(), "demo", cache)[1]
    assert len(entries(cache)) == 4


def test_narrow_moments_are_not_kept(tmp_path, monkeypatch):
    cache = MomentCache(tmp_path)
    assert not decomposed(moment(), "demo", cache)[1]
    assert cache.entries() == []
    monkeypatch.setattr(decompositions, "SMALLEST_WIDTH", 40)
    decomposed(moment(), "demo", cache)
    assert len(entries(cache)) == 1


# The edit.


class Notes(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, message: str) -> None:
        self.lines.append(message)


def test_an_edit_is_the_same_to_the_byte_whatever_the_cache_has(small, tmp_path):
    model = tiny_sd(tmp_path / "sd", torch.float32)
    recipe = tmp_path / "art.toml"
    recipe.write_text(RECIPE)
    cache = MomentCache(tmp_path / "cache")

    def edited(name: str, cache: MomentCache) -> tuple[str, dict, bool]:
        """The digest of the edited weights, the report's sites, and whether a decomposition was in
        the cache.
        """
        notes, output = Notes(), tmp_path / name
        apply(recipe, model=str(model), output=output, device="cpu", cache=cache, observer=notes)
        report = json.loads((output / "forget.report.json").read_text())
        used = any("eigendecomposition" in line for line in notes.lines)
        return sha256_file(output / "text_encoder" / "model.safetensors"), report["sites"], used

    *cold, used = edited("cold", cache)
    assert not used
    assert len(entries(cache)) == 3
    assert edited("warm", cache) == (*cold, True)
    damaged, cut, hostile = entries(cache)
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\xff")
    cut.write_bytes(cut.read_bytes()[:1000])
    rewritten(hostile, lambda t: t | {"vectors": t["vectors"].roll(1, 1).contiguous()})
    assert edited("damaged", cache) == (*cold, False)
    assert edited("repaired", cache) == (*cold, True)
    nowhere = tmp_path / "a-file"
    nowhere.write_text("")
    assert edited("no-cache", MomentCache(nowhere)) == (*cold, False)
    # The check can fail: without the fit, the hostile entry would change the edit.
    rewritten(hostile, lambda t: t | {"vectors": t["vectors"].roll(1, 1).contiguous()})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Spectrum, "fits", lambda self, moment: True)
        patch.setattr("forgetcli.editing.check.Check.enforce", lambda self: None)
        assert edited("unchecked", cache)[0] != cold[0]
