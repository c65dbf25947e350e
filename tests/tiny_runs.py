"""`forget apply` and `forget eval` on a tiny pipeline, and what must hold of a folder after them,
however they ended.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from forked import Forks

RECIPE = """\
[[concepts]]
concept = "van gogh"
target = "monet"
direct = ["a sketch by van gogh"]
indirect = ["starry night"]

[prompts]
templates = ["{}", "a painting by {}"]

[preserve]
prompts = ["a picture of a cat", "a house", "a sketch of a dog", "a painting by monet"]

[[retain]]
concept = "dog"
direct = ["a dog by monet", "a dog"]

[edit]
lam = 0.01
prior = 0.0
sites = [1, 2]
min_rank = 16

[refine]
match = "denoiser"
steps = 4
batch = 2
pictures = 4
damping = 0.01
latent_steps = 2
"""
PROMPTS = 4  # in the evaluation: pictures of each model
WEIGHTS = "text_encoder/model.safetensors"
EVAL = ("eval", "edited", "--steps", "2", "--batch", "2", "--features", "demo", "--near", "0")
EVAL += ("-o", "eval")
OTHER = ("--set", "seed=1")


def apply(place: Path, *more: str | Path) -> tuple:
    """The command that edits the model in `place`, into ``edited``."""
    return ("apply", place / "art.toml", "--model", place / "sd", "-o", "edited", *more)


def furnish(place: Path, forget: Forks) -> Path:
    """Fill `place`: the model, the recipe, two edits of it (``edited``, ``other``), and an
    evaluation that nothing disturbed.
    """
    forget.draw_up(place / "sd")
    (place / "art.toml").write_text(RECIPE)
    forget.rehearse(
        place, *apply(place, "-o", "rehearsed", "--set", "refine.mode=copy", "--lenient", "-q")
    )
    forget.rehearse(place, "eval", "rehearsed", *EVAL[2:], "-o", "rehearsal", "-q")
    for command in (apply(place), apply(place, "-o", "other", *OTHER), (*EVAL, "-q")):
        done = forget(place, *command)
        assert done.code == 0, done.stderr
    assert (place / "edited" / WEIGHTS).read_bytes() != (place / "other" / WEIGHTS).read_bytes()
    assert len(pictures(place / "eval")) == 2 * PROMPTS
    return place


def pictures(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*.png"))
    }


def outcome(folder: Path) -> tuple[dict, str, dict[str, bytes]]:
    """Everything of an evaluation that must not depend on how the run went: results without times,
    the table, the pictures.
    """
    results = {
        k: v for k, v in json.loads((folder / "results.json").read_text()).items() if k != "seconds"
    }
    return results, (folder / "results.csv").read_text(), pictures(folder)


def hidden(folder: Path) -> list[Path]:
    """What is left of temporary files and folders."""
    return [
        path
        for path in folder.rglob("*")
        if path.name.startswith(".") or path.suffix in (".tmp", ".old")
    ]


def assert_kept(folder: Path, whole: Path, at_least: int) -> None:
    """Of an evaluation that was stopped: its pictures are those of one that was not, each one
    whole, and nothing is half-written.
    """
    kept, wanted = pictures(folder), pictures(whole)
    assert kept.items() <= wanted.items() and len(kept) >= at_least
    assert hidden(folder) == []
    for name in ("results.json", "run.json"):
        if (folder / name).exists():
            json.loads((folder / name).read_text())
    if (folder / "report.html").exists():
        assert (folder / "report.html").read_text().rstrip().endswith("</html>")


def assert_resumed(forget: Forks, place: Path, whole: Path) -> None:
    """A second run goes on and ends as one that nothing disturbed."""
    done = forget(place, *EVAL, "-q")
    assert (done.code, done.stdout) == (0, "eval/report.html\n"), done.stderr
    assert outcome(place / "eval") == outcome(whole)
    assert hidden(place / "eval") == []


def stages(told: str) -> list[str]:
    """The stages of which plain progress lines say that they began."""
    # "2/4 editing: refinement: 6 steps" → "refinement: 6 steps"
    lines = [re.sub(r"^\d+/\d+ ([\w ]+: )?", "", line) for line in told.splitlines()]
    begun = [
        line.removesuffix(" …").rpartition(": ")
        for line in lines
        if line.endswith(" …") or (": " in line and line.endswith(" steps"))
    ]
    return [name or last for name, _, last in begun]
