"""The generated pages are current, and every page's links lead somewhere."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
from processes import ROOT

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
OUTSIDE = ("http://", "https://", "mailto:")


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    place = ROOT / "scripts" / "docs_reference.py"
    spec = importlib.util.spec_from_file_location("docs_reference", place)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_pages_are_current(generator: ModuleType) -> None:
    for name, text in generator.pages().items():
        committed = (DOCS / "reference" / name).read_text(encoding="utf-8")
        assert committed == text, f"run: python scripts/docs_reference.py ({name})"


def test_every_command_and_every_recipe_key_is_described(generator: ModuleType) -> None:
    from forgetcli.cli.app import COMMANDS

    commands = (DOCS / "reference" / "cli.md").read_text(encoding="utf-8")
    for name in COMMANDS:
        assert f"## `forget {name}`" in commands
    recipe = (DOCS / "reference" / "recipe.md").read_text(encoding="utf-8")
    for key in ("concept", "aliases", "templates", "threshold", "damping"):
        assert f"**`{key}`**" in recipe


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES], ids=str)
def test_links_to_files_and_headings_exist(page: Path) -> None:
    text = without_code(page.read_text(encoding="utf-8"))
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith(OUTSIDE):
            continue
        place, _, anchor = link.partition("#")
        target = (page.parent / place).resolve() if place else page
        assert target.exists(), f"{page.name}: {link}"
        if anchor:
            assert anchor in anchors(target), f"{page.name}: {link}"


def test_the_readme_is_short() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 150
    assert max(map(len, lines)) <= 100


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in PAGES:
        assert page.relative_to(DOCS).as_posix() in navigation


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """The headings' anchors, as the site and common hosts make them."""
    headings = re.findall(
        r"^#+ (.+)$", without_code(page.read_text(encoding="utf-8")), re.MULTILINE
    )
    return {re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", h.lower()).strip()) for h in headings}


def test_files_and_tests_that_pages_name_exist() -> None:
    """`forgetcli/…`, `tests/…`, `benchmarks/…`, `scripts/…` in code, and pytest's node ids."""
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py")]
    defined = set(re.findall(r"^\s*def (test_\w+)", "\n".join(sources), re.MULTILINE))
    missing = []
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *PAGES]:
        text = page.read_text(encoding="utf-8")
        for name in re.findall(r"::(test_\w+)", text):
            if name not in defined:
                missing.append(f"{page.name}: {name}")
        for place in re.findall(
            r"`[^`\n]*?\b((?:forgetcli|tests|benchmarks|scripts)/[\w/.]+)", text
        ):
            if place != "forgetcli/methods/values/" and not (ROOT / place.rstrip(".")).exists():
                missing.append(f"{page.name}: {place}")
    assert not missing
