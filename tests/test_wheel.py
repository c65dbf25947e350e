"""The wheel works outside the checkout: recipes, weights, judge and completions of names come with it."""
from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The package as a wheel puts it, alone in a folder."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(ROOT)], check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def run(site: Path, tmp_path: Path, *args: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(site), "FORGET_CACHE_DIR": str(tmp_path / "cache")}
    return subprocess.run([sys.executable, "-m", "forgetcli", *args], cwd=tmp_path, env=environment, capture_output=True, text=True)


def test_the_wheel_finds_its_own_recipes(installed, tmp_path):
    listed = run(installed, tmp_path, "recipe", "ls", "--json")
    assert listed.returncode == 0, listed.stderr
    assert all(name in listed.stdout for name in ("art_styles", "objects", "scenes", "actions"))
    for name in ("art_styles", "objects", "scenes", "actions"):
        assert (installed / "forgetcli" / "recipes" / f"{name}.toml").read_bytes() == (ROOT / "recipes" / f"{name}.toml").read_bytes()


def test_the_wheel_draws_with_its_own_weights(installed, tmp_path):
    drawn = run(installed, tmp_path, "generate", "a neon sign style rocket", "--steps", "2", "-o", "out", "--json")
    assert drawn.returncode == 0, drawn.stderr
    (image,) = json.loads(drawn.stdout)["images"]
    assert (tmp_path / image["path"]).read_bytes().startswith(b"\x89PNG")


def test_without_its_weights_it_says_so(installed, tmp_path):
    hidden = installed / "forgetcli" / "demo" / "model"
    hidden.rename(hidden.with_name("gone"))
    try:
        drawn = run(installed, tmp_path, "generate", "a rocket", "-o", "out")
    finally:
        hidden.with_name("gone").rename(hidden)
    assert drawn.returncode == 2
    assert "error[model." in drawn.stderr and "Traceback" not in drawn.stderr


def test_the_weights_are_small():
    sizes = {name: sum(f.stat().st_size for f in (ROOT / "forgetcli/demo" / name).rglob("*") if f.is_file()) for name in ("model", "judge")}
    assert 0 < sizes["model"] <= 25e6
    assert 0 < sizes["judge"] <= 3e6
