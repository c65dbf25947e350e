"""The wheel works outside the checkout: recipes, weights, judge and completions of names come with
it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The package as pip installs its wheel, alone in a folder, with `bin/forget`; what it depends
    on is here already.
    """
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(ROOT)],
        check=True,
        capture_output=True,
    )
    (wheel,) = folder.glob("*.whl")
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
            "--no-index",
            "--target",
            str(folder / "site"),
            str(wheel),
        ],
        check=True,
        capture_output=True,
    )
    return folder / "site"


def run(
    site: Path, tmp_path: Path, *args: str, command: tuple = ("-m", "forgetcli")
) -> subprocess.CompletedProcess:
    environment = {
        **os.environ,
        "PYTHONPATH": str(site),
        "FORGET_CACHE_DIR": str(tmp_path / "cache"),
    }
    return subprocess.run(
        [sys.executable, *command, *args],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )


def test_the_command_is_the_module(installed, tmp_path):
    """`forget` and `python -m forgetcli` are one, and both are the installed package, not the
    checkout.
    """
    script = str(installed / "bin/forget")
    for command in ((script,), ("-m", "forgetcli")):
        listed = run(installed, tmp_path, "models", "--json", command=command)
        assert listed.returncode == 0, listed.stderr
        assert [model["path"] for model in json.loads(listed.stdout)["models"]] == [
            str(installed / "forgetcli/bundled/model")
        ]
        refused = run(installed, tmp_path, "aply", command=command)
        assert refused.returncode == 2 and refused.stderr.startswith("error[usage]: ")


def test_the_wheel_writes_and_draws_with_its_own_weights(installed, tmp_path):
    """`none` takes the whole way of an edit but for the edit. One process for both commands:
    loading the libraries takes longer than they do.
    """
    script = (
        "import sys; from forgetcli.cli import main\n"
        "sys.argv[1:] = ['apply', 'objects', '--method', 'none', '-q']; assert main() == 0\n"
        "sys.argv[1:] = ['generate', 'a rocket', '--steps', '2', '-q']; assert main() == 0\n"
    )
    done = run(installed, tmp_path, script, command=("-c",))
    # Nothing else on stderr: the libraries that it loads are silent too.
    written, drawn = done.stdout.splitlines()
    assert (done.returncode, written, done.stderr) == (0, "edited", "")
    kept = installed / "forgetcli/bundled/model/unet/diffusion_pytorch_model.safetensors"
    assert (tmp_path / "edited/unet" / kept.name).read_bytes() == kept.read_bytes()
    assert (
        (tmp_path / "edited/recipe.toml")
        .read_bytes()
        .startswith((installed / "forgetcli/bundled/recipes/objects.toml").read_bytes())
    )
    assert (tmp_path / drawn).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("part", ["model", "judge"])
def test_the_weights_are_in_half_precision(installed, part):
    from safetensors import safe_open

    kinds = set()
    for file in (installed / "forgetcli/bundled" / part).rglob("*.safetensors"):
        with safe_open(file, "pt") as tensors:
            kinds |= {tensors.get_slice(name).get_dtype() for name in tensors.keys()}  # noqa: SIM118
    assert {kind for kind in kinds if kind.startswith(("F", "BF"))} == {"F16"}


def test_the_wheel_finds_its_own_recipes(installed, tmp_path):
    listed = run(installed, tmp_path, "recipe", "ls", "--json")
    assert listed.returncode == 0, listed.stderr
    assert all(name in listed.stdout for name in ("art_styles", "objects", "scenes", "actions"))
    for name in ("art_styles", "objects", "scenes", "actions"):
        assert (installed / "forgetcli" / "bundled" / "recipes" / f"{name}.toml").read_bytes() == (
            ROOT / "recipes" / f"{name}.toml"
        ).read_bytes()


def test_without_its_weights_it_says_so(installed, tmp_path):
    hidden = installed / "forgetcli" / "bundled" / "model"
    hidden.rename(hidden.with_name("gone"))
    try:
        drawn = run(installed, tmp_path, "generate", "a rocket", "-o", "out")
    finally:
        hidden.with_name("gone").rename(hidden)
    assert drawn.returncode == 2
    assert "error[model." in drawn.stderr and "Traceback" not in drawn.stderr


def test_the_weights_are_small():
    sizes = {
        name: sum(
            f.stat().st_size for f in (ROOT / "forgetcli/bundled" / name).rglob("*") if f.is_file()
        )
        for name in ("model", "judge")
    }
    assert 0 < sizes["model"] <= 25e6
    assert 0 < sizes["judge"] <= 3e6
