"""Chromium, for tests of pages: what it needs to be quiet, and how wide a page is."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-default-apps",
    "--hide-scrollbars",
)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")

PHONE = 390  # CSS pixels
MEASURE = """<script>addEventListener("load", () => {
  const wide = element => element.getBoundingClientRect().width
  parent.postMessage(JSON.stringify({
    window: innerWidth,
    page: document.documentElement.scrollWidth,
    tables: [...document.querySelectorAll("table")].map(t => [wide(t), wide(t.parentElement)]),
  }), "*")
})</script></head>"""


@dataclass(frozen=True)
class Layout:
    """Widths in CSS pixels.

    Attributes:
        page: what can be scrolled to; more than `window` if something sticks out.
        tables: of each table and of the box that it is in.
    """

    window: int
    page: int
    tables: list[tuple[float, float]]


def layout(page: str, folder: Path, width: int = PHONE) -> Layout:
    """How wide a page is in a window of `width`.

    Headless Chromium has no window of less than 500 pixels: with less, a screenshot shows a part of
    a wider page. So the page is a frame within one.
    """
    folder.mkdir(exist_ok=True)
    inner, outer = folder / "inner.html", folder / "outer.html"
    # Without the policy that forbids scripts.
    free = page.replace("Content-Security-Policy", "x").replace("</head>", MEASURE, 1)
    inner.write_text(free, encoding="utf-8")
    outer.write_text(
        "<pre></pre><script>onmessage = e => document.querySelector('pre').textContent = e.data"
        f"</script><iframe src=inner.html width={width} height=900 frameborder=0></iframe>"
    )
    done = subprocess.run(
        [
            CHROMIUM,
            *FLAGS,
            f"--user-data-dir={folder / 'profile'}",
            "--allow-file-access-from-files",
            "--virtual-time-budget=8000",
            "--dump-dom",
            outer.as_uri(),
        ],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return Layout(**json.loads(html.unescape(re.search("<pre>(.*?)</pre>", done.stdout)[1])))
