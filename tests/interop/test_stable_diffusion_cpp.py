"""stable-diffusion.cpp, a client that shares no code with diffusers, generates with what forget
exports.

Selected by `pytest -m interop` only (`make interop` builds the client): the client takes nothing
smaller than the published architecture, so 9 GB of files with random weights are made, and several
minutes pass. `INTEROP_PYTHON` names the interpreter that has `stable-diffusion-cpp-python`.

The edit changes the text encoder and nothing else. So a difference between the base model's images
and the edited one's shows that the client read the edited text encoder.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from clip_vocabulary import published
from PIL import Image
from published_size import published_size

from forgetcli import export
from forgetcli.editing.moment_cache import MomentCache
from forgetcli.pipeline.apply import apply

pytestmark = pytest.mark.interop

CLIENT = Path(__file__).with_name("sd_cpp_client.py")
ROOM = 12e9  # bytes on the disk
CONCEPT, CONTROL = "a picture of a cat", "a picture of a tree by the sea"
RECIPE = """\
method = "nullspace"

[[concepts]]
concept = "a cat"
target = "a red house on a hill"

[prompts]
templates = ["{}", "a picture of {}"]

[preserve]
prompts = ["a tree by the sea", "a picture of a tree by the sea"]
prior = "none"

[edit]
sites = [1, 2]
lam = 0.01

[refine]
mode = "copy"
"""


def interpreter() -> str:
    """The interpreter that can import the client.

    Skips the test if there is none, and says how to get one.
    """
    python = os.environ.get("INTEROP_PYTHON", sys.executable)
    done = subprocess.run(
        [python, "-c", "import stable_diffusion_cpp"], check=False, capture_output=True
    )
    if done.returncode:
        pytest.skip(f"{python} has no stable-diffusion-cpp-python: make interop")
    return python


@dataclass(frozen=True)
class Files:
    """What the client reads.

    Attributes:
        base, edited: single files.
        loras: the folder of the exported LoRA, `edit.safetensors`.
    """

    base: Path
    edited: Path
    loras: Path


@pytest.fixture(scope="module")
def files() -> Iterator[Files]:
    interpreter()
    if published() is None:
        pytest.skip("CLIP's vocabulary: pip install --no-deps open-clip-torch")
    with TemporaryDirectory() as scratch:
        if shutil.disk_usage(scratch).free < ROOM:
            pytest.skip(f"{scratch} has less than {ROOM / 1e9:.0f} GB of room")
        yield exported(Path(scratch))


def exported(work: Path) -> Files:
    """A full-size model, its edit, and the exports of the edit."""
    base = published_size(work / "base")
    # The base model's file is that of an edit that changes nothing.
    nothing = RECIPE.replace("nullspace", "none").partition("[edit]")[0]
    for name, text in (("edited", RECIPE), ("unedited", nothing)):
        path = work / f"{name}.toml"
        path.write_text(text)
        apply(
            path, model=str(base), output=work / name, device="cpu", strict=False,
            cache=MomentCache(work / "cache"),
        )  # fmt: skip
    files = Files(work / "base.safetensors", work / "edited.safetensors", work / "loras")
    files.loras.mkdir()
    export.export(work / "unedited", "single-file", output=files.base)
    export.export(work / "edited", "single-file", output=files.edited)
    export.export(
        work / "edited", "lora", output=files.loras / "edit.safetensors",
        options={"naming": "kohya"},
    )  # fmt: skip
    return files


@pytest.fixture(scope="module")
def images(files: Files, tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """Images of the concept's prompt and of the preserved one, by what generated them."""
    return generated(files, tmp_path_factory.mktemp("images"))


def generated(files: Files, folder: Path) -> dict[str, np.ndarray]:
    """See `images`. Each is float, shape (64, 64, 3), with levels from 0 to 255."""
    wanted = {
        "base": (files.base, ""),
        "edited": (files.edited, ""),
        "base + LoRA": (files.base, "<lora:edit:1>"),
        "base + LoRA at 0": (files.base, "<lora:edit:0>"),
    }
    jobs = [
        {
            "model": str(model),
            "loras": str(files.loras),
            "prompts": [f"{prompt}{lora}" for prompt in (CONCEPT, CONTROL)],
            "image": str(folder / f"{name}-{{}}.png"),
        }
        for name, (model, lora) in wanted.items()
    ]
    (folder / "jobs.json").write_text(json.dumps(jobs))
    done = subprocess.run(
        [interpreter(), str(CLIENT), str(folder / "jobs.json")],
        check=False, capture_output=True, text=True, timeout=3600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return {
        f"{name}, {what}": np.asarray(Image.open(folder / f"{name}-{number}.png"), float)
        for name in wanted
        for number, what in enumerate(("concept", "control"))
    }


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Root mean square difference, in levels of 255."""
    return float(np.sqrt(((a - b) ** 2).mean()))


def test_the_edited_file_and_the_base_with_the_lora_agree_and_differ_from_the_base(
    images: dict[str, np.ndarray],
) -> None:
    base, edited = images["base, concept"], images["edited, concept"]
    moved = distance(base, edited)
    assert moved > 3.0
    assert distance(images["base + LoRA, concept"], base) > 3.0
    assert distance(images["base + LoRA, concept"], edited) < 0.1 * moved


def test_a_lora_of_no_strength_is_the_base(images: dict[str, np.ndarray]) -> None:
    for what in ("concept", "control"):
        assert distance(images[f"base + LoRA at 0, {what}"], images[f"base, {what}"]) == 0


def test_a_preserved_prompt_moves_less(images: dict[str, np.ndarray]) -> None:
    """Of both exports; the concept's image is the control."""
    moved = distance(images["edited, concept"], images["base, concept"])
    for name in ("edited", "base + LoRA"):
        assert distance(images[f"{name}, control"], images["base, control"]) < 0.3 * moved
