"""Recipes for any concept of the embedded model, made from its word list: what the protocols over
all concepts use.

The edit sees the concept's names and one hint; the evaluation asks in templates, and with hints,
that the edit does not see.
"""

from __future__ import annotations

import json
import sys
from functools import cache
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from forgetcli import models
from forgetcli import recipe as recipes
from forgetcli.bundled.demo import world
from forgetcli.checkpoint import base
from forgetcli.models import vocabulary

WORLD = world()
STYLES, THINGS = list(WORLD["styles"]), list(WORLD["things"])
LABELS = [*STYLES, *THINGS]
DIRECT, HINTED = WORLD["templates"]["heldout"], WORLD["templates"]["heldout_hinted"]
# Of every method, chosen by tune_methods.py with the vocabulary's words as the prior, with those
# that name nothing measured, and without a prior.
PARAMETERS = Path(__file__).with_name("parameters.toml")
OTHER_WORDS = Path(__file__).with_name("parameters_others.toml")
WITHOUT_PRIOR = Path(__file__).with_name("parameters_none.toml")
PLAIN_STYLE = "flat"  # what a picture without a style word looks like


def entry(label: str) -> dict:
    return WORLD["styles"].get(label) or WORLD["things"][label]


def name(label: str, k: int = 0) -> str:
    names = entry(label)["names"]
    return names[k % len(names)]


def group(label: str) -> str:
    return "style" if label in STYLES else "thing"


def target(label: str) -> str:
    """What it turns into: the next one of its kind (of its own group, for things)."""
    kin = (
        STYLES
        if label in STYLES
        else [t for t in THINGS if entry(t)["group"] == entry(label)["group"]]
    )
    return kin[(kin.index(label) + 1) % len(kin)]


def direct(label: str, count: int = 5) -> list[str]:
    """Prompts that name it, in templates that neither training nor any edit has seen."""
    out = []
    for k in range(count):
        other = partner(label, k)
        thing, style = (other, label) if label in STYLES else (label, other)
        out.append(DIRECT[k % len(DIRECT)].format(t=name(thing, k), s=name(style, k)))
    return list(dict.fromkeys(out))


def indirect(label: str, count: int = 5) -> list[str]:
    """Prompts that only hint at it: hints that the edit does not see, and words that training did
    not see.
    """
    hints = [*entry(label)["hints"][:-1], *entry(label)["heldout"]]
    out = []
    for k in range(count):
        other, hint = partner(label, k + 2), hints[k % len(hints)]
        thing, style = (name(other, k), hint) if label in STYLES else (hint, name(other, k))
        out.append(HINTED[k % len(HINTED)].format(t=thing, s=style))
    return list(dict.fromkeys(out))


def partner(label: str, k: int) -> str:
    """The thing (or style) that the k-th prompt about a style (or thing) shows it with."""
    pool = THINGS if label in STYLES else [s for s in STYLES if s != PLAIN_STYLE]
    return pool[(LABELS.index(label) * 3 + k * 7) % len(pool)]


def preserve(forgotten: list[str], count: int | None = None) -> list[str]:
    """Names and hints of everything else, alone and together; never a prompt of the evaluation."""
    things, styles = ([x for x in pool if x not in forgotten] for pool in (THINGS, STYLES))
    single = [
        w for label in (*styles, *things) for w in (*entry(label)["names"], *entry(label)["hints"])
    ]
    pairs = (
        [
            f"{name(s, i)} picture of {name(t, i)}"
            for i, t in enumerate(things)
            for s in (styles[i % len(styles)], styles[(i + 4) % len(styles)])
        ]
        if styles
        else []
    )
    prompts = list(dict.fromkeys([*single, *pairs]))
    return prompts if count is None else [prompts[i * len(prompts) // count] for i in range(count)]


def recipe(
    forgotten: list[str],
    kept: list[str],
    *,
    asked: int | None = None,
    bare: bool = False,
    few: int | None = None,
    unnamed: bool = False,
    tables: str = "",
) -> str:
    """TOML of a recipe.

    Args:
        forgotten, kept: labels to forget, and those that retain is measured on.
        asked: direct and indirect prompts for each of `kept`; by default one prompt each, direct
            and indirect in turn.
        bare: the edit sees nothing but the concept's first name and the target's.
        few: this many preserve prompts instead of all.
        unnamed: no preserve prompt names or hints at one of `kept`.
        tables: further TOML, the methods' parameters.
    """

    def listed(prompts: list[str]) -> str:
        return "[" + ", ".join(json.dumps(p, ensure_ascii=False) for p in prompts) + "]"

    lines = ["schema_version = 1", ""]
    for label in forgotten:
        words = [] if bare else [*entry(label)["names"][1:], entry(label)["hints"][-1]]
        lines += [
            "[[concepts]]",
            f"concept = {json.dumps(name(label))}",
            f"target = {json.dumps(name(target(label)))}",
            f"aliases = {listed(words)}",
            f'label = "{label}"',
            f'group = "{group(label)}"',
            f"direct = {listed(direct(label))}",
            f"indirect = {listed(indirect(label))}",
            "",
        ]
    if bare:
        lines += ["[prompts]", 'templates = ["{}"]', ""]
    lines += [
        "[preserve]",
        f"prompts = {listed(preserve([*forgotten, *kept] if unnamed else forgotten, few))}",
        "",
    ]
    for i, label in enumerate(kept):
        plain, hinted = (asked, asked) if asked is not None else ((0, 1) if i % 2 else (1, 0))
        lines += [
            "[[retain]]",
            f"concept = {json.dumps(name(label))}",
            f'label = "{label}"',
            f'group = "{group(label)}"',
            f"direct = {listed(direct(label, 5)[:plain])}",
            f"indirect = {listed(indirect(label, 5)[:hinted])}",
            "",
        ]
    return "\n".join(lines) + tables


# Values are chosen on the first, figures come from the second: no concept is in both. Both have
# some of all four groups.
TUNING = [label for i, label in enumerate(LABELS) if i % 5 == 0]
HELDOUT = [label for i, label in enumerate(LABELS) if i % 5 in (1, 3)][:20]


def heldout(count: int) -> list[str]:
    """This many of HELDOUT, from all over the list: its groups stand one after the other."""
    return [HELDOUT[i * len(HELDOUT) // count] for i in range(count)]


def others(forgotten: list[str], count: int) -> list[str]:
    """This many of the concepts that stay, from all over the list."""
    rest = [label for label in LABELS if label not in forgotten]
    count = min(count, len(rest))
    return [rest[i * len(rest) // count] for i in range(count)]


PRIORS = ("none", "others", "words")


def parameters_for(prior: str) -> Path:
    """The file with the methods' parameters for a kind of prior."""
    return {"none": WITHOUT_PRIOR, "others": OTHER_WORDS}.get(prior, PARAMETERS)


@cache
def vocabulary_words() -> tuple[str, ...]:
    """The words of the embedded model's tokenizer."""
    model = models.load(base.resolve("demo"), device="cpu")
    return tuple(vocabulary.words(model.tokenizer))


def with_prior(recipe: recipes.Recipe, kind: str, measured: list[str]) -> recipes.Recipe:
    """The recipe with another prior.

    Args:
        kind: `none`; `words`: all of the tokenizer's words; `others`: those that name or hint at
            none of the concepts that retain is measured on.
        measured: labels of these.
    """
    if kind == "others":
        said = {word for label in measured for word in said_of(label)}
        prompts = tuple(word for word in vocabulary_words() if word not in said)
        return recipe.model_copy(
            update={
                "preserve": recipe.preserve.model_copy(update={"prior": "captions"}),
                "prior_captions": prompts,
            }
        )
    return recipe.model_copy(
        update={"preserve": recipe.preserve.model_copy(update={"prior": kind})}
    )


def said_of(label: str) -> set[str]:
    """The words of a concept's names, of all hints at it, and of their plurals."""
    phrases = (*entry(label)["names"], *entry(label)["hints"], *entry(label)["heldout"])
    said = {word for phrase in phrases for word in phrase.lower().replace("-", " ").split()}
    return said | {f"{word}s" for word in said} | {word.removesuffix("s") for word in said}


def nearest(label: str, count: int = 5) -> list[str]:
    """Its neighbours in the unedited text encoder: those of its kind whose summaries of their names
    are most alike (cosine).
    """
    import torch

    from forgetcli.models.tokens import tokenise

    model = models.load(base.resolve("demo"), device="cpu")
    kin = [x for x in (STYLES if label in STYLES else THINGS) if x != label]
    with torch.no_grad():
        ids = tokenise(model.tokenizer, [name(x) for x in (label, *kin)]).ids
        summaries = torch.nn.functional.normalize(model.text_encoder(ids).pooler_output, dim=1)
    order = (summaries[1:] @ summaries[0]).argsort(descending=True)
    return [kin[int(i)] for i in order[:count]]
