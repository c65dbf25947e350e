"""An attribute erased from one concept only, by `forget erase STYLE --attribute-of THING` on the
embedded model; goes on where it was cut short.

    python benchmarks/attribute_of.py --output WORK [--pairs van_gogh:dog …]

Judged are images of prompts that the edit has not seen, at the same noise for both models: whether
the style has gone from the thing, whether the thing is still there, and whether the style on other
things, the plain thing, and the thing in other styles are as asked.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import world_recipes as words
from all_concepts import Seen, share
from bench import Bench
from erase_concepts import spoken

from forgetcli import recipe as recipes
from forgetcli.pipeline.drafting import attribute
from forgetcli.pipeline.drafting.options import Options
from forgetcli.pipeline.drafting.text import recipe_text

PAIRS = ["van_gogh:dog", "neon:cat", "pixel:rabbit", "monet:banana", "sketch:guitar", "pop:fish"]
PHRASES = attribute.PHRASES["style"].evaluation
PLAIN = ("a drawing of {}", "{} on a plain background", "an image of {}", "{} at night")
OTHERS = 16  # things that keep the style
WORDINGS = 3  # of each phrase, at its own noise: the prompt decides it
KINDS = {
    "style gone": "of the thing in the style, the style is no longer seen",
    "thing kept": "of the same images, the thing is seen",
    "style on others": "of other things in the style, the style is seen",
    "thing alone": "of the plain thing, the thing is seen",
    "other styles": "of the thing in other styles, that style is seen",
}


def questions(style: str, thing: str) -> dict[str, list[tuple[str, str]]]:
    """Kind → prompts, each with the label that is asked for."""
    names = words.entry(thing)["names"], words.entry(style)["names"]
    both = [
        attribute.joined(phrase, thing_name, style_name)
        for phrase in PHRASES
        for thing_name in names[0]
        for style_name in names[1][:WORDINGS]
    ]
    others = [t for t in words.THINGS if t != thing][:: max(1, (len(words.THINGS) - 1) // OTHERS)]
    return {
        "style gone": [(prompt, style) for prompt in both],
        "thing kept": [(prompt, thing) for prompt in both],
        "style on others": [
            (attribute.joined(PHRASES[k % len(PHRASES)], words.name(t), words.name(style)), style)
            for k, t in enumerate(others)
        ],
        "thing alone": [(p.format(name), thing) for p in PLAIN for name in names[0]],
        "other styles": [
            (attribute.joined(PHRASES[k % len(PHRASES)], words.name(thing), words.name(s)), s)
            for k, s in enumerate(words.STYLES)
            if s not in (style, words.PLAIN_STYLE)
        ],
    }


def one(pair: str, seen: Seen) -> dict:
    """Whether each question is answered as it should be after the edit, for both models."""
    style, thing = pair.split(":")
    asked = questions(style, thing)
    flat = [question for each in asked.values() for question in each]
    before = seen.of_unedited(flat)
    options = Options(attribute_of=words.name(thing))
    drafted = attribute.draft(seen.bench.model, spoken(style), words.name(thing), options)
    recipe = recipes.parse(recipe_text(drafted, model="demo"))
    edit, seconds = seen.bench.edit(recipe, "nullspace", recipe.parameters)
    with seen.bench.model.weights(edit.weights):
        after = seen.of_current(flat)
    return {
        "seconds": seconds,
        "pairs": len(recipe.edit_pairs()),
        "preserved": len(recipe.own_preserve_prompts()),
        "baseline": told(asked, before),
        "edited": told(asked, after),
    }


def told(asked: dict, seen: list[bool]) -> dict[str, list[bool]]:
    out, start = {}, 0
    for kind, prompts in asked.items():
        part = seen[start : start + len(prompts)]
        out[kind] = [not s for s in part] if kind == "style gone" else part
        start += len(prompts)
    return out


def main(output: Path, pairs: list[str]) -> None:
    file = output / "results.json"
    rows = json.loads(file.read_text()) if file.exists() else {}
    seen = Seen(Bench())
    for pair in pairs:
        if pair not in rows:
            rows[pair] = one(pair, seen)
            file.write_text(json.dumps(rows))
        row = rows[pair]
        figures = [f"{k} {sum(row['edited'][k])}/{len(row['edited'][k])}" for k in KINDS]
        print(f"{pair} ({row['pairs']} pairs, {row['seconds']:.0f} s): {', '.join(figures)}")
    print("\n| asked | n | unedited | edited |\n| --- | --- | --- | --- |")
    for kind, what in KINDS.items():
        sides = [
            [value for pair in pairs for value in rows[pair][side][kind]]
            for side in ("baseline", "edited")
        ]
        print(f"| {what} | {len(sides[0])} | {share(sides[0])} | {share(sides[1])} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--pairs", nargs="+", default=PAIRS, metavar="STYLE:THING")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    main(args.output, args.pairs)
