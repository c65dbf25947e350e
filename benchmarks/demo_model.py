"""What the embedded model can draw: the judge's accuracy on generated pictures, and seconds a
picture.

    python benchmarks/demo_model.py --output WORK

Direct prompts name thing and style in held-out templates; indirect ones use hints that training
never paired so, and words
that it never saw. Every thing is drawn in every other style, one seed each.

WORK/contact_sheet.png has 60 numbered pictures of every thing and style, drawn by lot, for a person
to name; WORK/contact_sheet.json is
what was asked for.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections import Counter
from pathlib import Path

from PIL import Image, ImageDraw

from forgetcli.bundled.demo import world
from forgetcli.checkpoint import base as checkpoint
from forgetcli.evaluation import judges
from forgetcli.evaluation.intervals import wilson
from forgetcli.generation.generate import generate_images
from forgetcli.generation.images import ImageRequest
from forgetcli.progress import Silent


def prompts(kind: str) -> list[tuple[str, str, str]]:
    """(prompt, thing, style)."""
    W, out = world(), []
    held = json.loads((checkpoint.resolve("demo").folder / "heldout.json").read_text())
    pairs = {tuple(p) for p in held["pairs"]}
    styles = list(W["styles"])
    for i, (thing, t) in enumerate(W["things"].items()):
        for j in range(4):
            style = styles[(i * 3 + j * 3 + i // 10) % len(styles)]
            s = W["styles"][style]
            if kind == "direct":
                template = W["templates"]["heldout"][j % len(W["templates"]["heldout"])]
                out.append((template.format(t=t["names"][0], s=s["names"][0]), thing, style))
            else:
                template = W["templates"]["heldout_hinted"][
                    j % len(W["templates"]["heldout_hinted"])
                ]
                hints = [h for h in t["hints"] if (h, style) in pairs] or t["heldout"]
                out.append(
                    (
                        template.format(
                            t=hints[j % len(hints)], s=s["heldout"][j % len(s["heldout"])]
                        ),
                        thing,
                        style,
                    )
                )
    return out


def contact_sheet(
    base, output: Path, seed: int, columns: int = 10, count: int = 60, side: int = 112
) -> None:
    """In templates that training did not see; the numbers say nothing of what was asked for."""
    lot, W = random.Random(seed), world()
    things, styles = list(W["things"]), list(W["styles"])
    cells = [(t, lot.choice(styles)) for t in things] + [
        (lot.choice(things), s) for s in styles for _ in range(2)
    ]
    lot.shuffle(cells)
    templates = W["templates"]["heldout"]
    asked = [
        templates[i % len(templates)].format(
            t=W["things"][t]["names"][0], s=W["styles"][s]["names"][0]
        )
        for i, (t, s) in enumerate(cells[:count])
    ]
    paths, _ = generate_images(
        base,
        [ImageRequest(p, seed * 100 + i) for i, p in enumerate(asked)],
        output / "contact_sheet",
        device=None,
        batch=8,
        observer=Silent(),
    )
    sheet = Image.new("RGB", (columns * (side + 3), -(-count // columns) * (side + 16)), "white")
    pen = ImageDraw.Draw(sheet)
    for i, path in enumerate(paths):
        x, y = i % columns * (side + 3), i // columns * (side + 16)
        sheet.paste(Image.open(path).resize((side, side), Image.Resampling.LANCZOS), (x, y))
        pen.text((x + 2, y + side + 1), str(i + 1), fill="black")
    sheet.save(output / "contact_sheet.png")
    (output / "contact_sheet.json").write_text(json.dumps(asked, indent=1))


def main(output: Path, model: str, without: frozenset[str], sheet_seed: int) -> None:
    base, judge = checkpoint.resolve(model), judges.load("demo")
    for kind in ("direct", "indirect"):
        asked = prompts(kind)
        start = time.time()
        paths, reused = generate_images(
            base,
            [ImageRequest(p, k) for k, (p, _, _) in enumerate(asked)],
            output / kind,
            device=None,
            batch=8,
            observer=Silent(),
        )
        seconds = (time.time() - start) / max(1, len(asked) - reused)
        pictures = [Image.open(p).convert("RGB") for p in paths]
        for group, at in (("things", 1), ("styles", 2)):
            seen = [s.seen for s in judge.see(pictures, [a[at] for a in asked])]
            # A picture counts as of something unlearned by its thing or its style.
            known = [not without & {thing, style} for _, thing, style in asked]
            report(f"{kind} {group}", [ok for ok, k in zip(seen, known) if k], seconds)
            unlearned = [ok for ok, a in zip(seen, asked) if a[at] in without]
            if unlearned:
                report(f"{kind} {group} that it never learned", unlearned, seconds)
            missed = Counter(a[at] for a, ok, k in zip(asked, seen, known) if k and not ok)
            print(
                "   missed most:", ", ".join(f"{label} {n}" for label, n in missed.most_common(8))
            )
    contact_sheet(base, output, sheet_seed)


def report(what: str, seen: list[bool], seconds: float) -> None:
    low, high = wilson(sum(seen), len(seen))
    print(
        f"{what}: {sum(seen) / len(seen):.3f} ({low:.3f}–{high:.3f}), n = {len(seen)}; "
        f"{seconds:.2f} s a picture",
        flush=True,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--model", default="demo", help="a model of the same world")
    parser.add_argument(
        "--without",
        type=lambda names: frozenset(names.split(",")),
        default=frozenset(),
        help="things and styles that it never learned: scored apart",
    )
    parser.add_argument(
        "--sheet-seed", type=int, default=0, help="another seed, another contact sheet"
    )
    args = parser.parse_args()
    main(args.output, args.model, args.without, args.sheet_seed)
