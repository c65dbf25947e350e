"""Draft a recipe: choose what the user has not chosen, and say why."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from forgetcli.bundled import word_lists
from forgetcli.errors import ForgetError
from forgetcli.models.tokens import tokenise
from forgetcli.models.vocabulary import is_in_vocabulary
from forgetcli.pipeline.drafting import lexicon, reading
from forgetcli.pipeline.drafting.kinds import KINDS, THINGS, Kind, bare, guessed, phrased
from forgetcli.progress import Observer, Silent
from forgetcli.recipe.model import fill
from forgetcli.recipe.problems import clipped, did_you_mean

if TYPE_CHECKING:
    from forgetcli.models.base import LoadedModel

CANDIDATES = 400  # words of a kind that the encoder reads, the most common
SAME = 0.9  # cosine from which the encoder reads a word as the concept itself
APART = 0.6  # cosine below which a word is something else: a target, or to be preserved
SAYS = 0.8  # of a target: how much of what the concept says
ALIASES = 6
NEAR = 24  # near concepts that are preserved
ASKED = 8  # of them, how many the evaluation asks for
NEIGHBOURS = 7  # words that vote on the kind of an unlisted concept
LONGEST = 100  # characters of a concept
MOST = 50  # concepts


@dataclass(frozen=True)
class Options:
    """What the user has chosen; None: to be chosen here."""

    kind: str | None = None
    target: str | None = None
    aliases: tuple[str, ...] | None = None
    templates: tuple[str, ...] | None = None
    near: tuple[str, ...] | None = None
    sets: tuple[str, ...] = tuple(word_lists.SETS)


OPTIONS = Options()  # nothing chosen


@dataclass(frozen=True)
class Choice:
    """One thing that was chosen.

    Attributes:
        key: kind, target, aliases, near, templates or sets.
        why: the reason; ``given`` if the user chose it.
        option: the option that chooses otherwise.
    """

    concept: str
    key: str
    value: str
    why: str
    option: str


@dataclass(frozen=True)
class DraftedConcept:
    """One concept of a draft, as its recipe has it.

    Attributes:
        direct, indirect: evaluation prompts.
        near: near concepts, the nearest first: preserved, and the first of them evaluated.
    """

    concept: str
    kind: Kind
    target: str
    aliases: tuple[str, ...] = ()
    near: tuple[str, ...] = ()
    direct: tuple[str, ...] = ()
    indirect: tuple[str, ...] = ()


@dataclass(frozen=True)
class Draft:
    """A recipe's content, and how it came about; `forgetcli.pipeline.drafting.text` writes it.

    Attributes:
        keeping: prompts to preserve.
        asking: near concept → its evaluation prompts.
        choices: everything that was chosen, in order.
    """

    concepts: tuple[DraftedConcept, ...]
    templates: tuple[str, ...]
    keeping: tuple[str, ...]
    asking: Mapping[str, tuple[str, ...]]
    sets: tuple[str, ...]
    choices: tuple[Choice, ...] = field(default=())


def draft(
    model: LoadedModel,
    concepts: Sequence[str],
    options: Options = OPTIONS,
    observer: Observer | None = None,
) -> Draft:
    """A recipe for forgetting these concepts.

    Args:
        model: unedited; only its tokenizers and text encoders are read.
        concepts: as people say them: "van gogh", "a dog", "running".
    Raises:
        ForgetError: erase.concept, erase.alias, erase.kind, erase.target, erase.template,
            erase.set: what was asked for cannot be.
    """
    observer = observer or Silent()
    words = [checked(text) for text in concepts]
    _refuse(words, options)
    observer.stage("drafting", len(words))
    choices: list[Choice] = []
    drafted: list[DraftedConcept] = []
    for word in words:
        taken = [other for other in words if other is not word]
        taken += [bare(w) for done in drafted for w in (done.concept, *done.aliases)]
        if not is_in_vocabulary(model.tokenizer, word):
            observer.note(f"the tokenizer breaks '{word}' into pieces: the model may not know it")
        drafted.append(_drafted(model, word, taken, options, choices))
        observer.advance()
    made = _assembled(drafted, options, choices)
    _refuse_long(model, made)
    return made


def checked(text: str) -> str:
    """A concept without its article.

    Raises:
        ForgetError: erase.concept: it is none.
    """
    word = bare(text)
    hint = 'name what a prompt can name: forget erase "van gogh"'
    if not re.search(r"\w", word) or not any(char.isalpha() for char in word):
        raise ForgetError("erase.concept", f"'{clipped(text)}' has no word in it", hint)
    if len(word) > LONGEST:
        message = f"'{clipped(text)}' has {len(word)} characters, more than {LONGEST}"
        raise ForgetError("erase.concept", message, hint)
    if not word.isprintable():
        raise ForgetError("erase.concept", "a concept has control characters", hint)
    return word


def _refuse(words: Sequence[str], options: Options) -> None:
    """Refuse options that no model could follow."""
    folded = [word.casefold() for word in words]
    for word in folded:
        if folded.count(word) > 1:
            raise ForgetError("erase.concept", f"'{word}' is named twice", "name it once")
    if len(words) > MOST:
        hint = "erase some first, then the others from the result: --model edited -o edited-2"
        raise ForgetError("erase.concept", f"{len(words)} concepts are more than {MOST}", hint)
    if options.aliases and len(words) > 1:
        hint = "erase them one after the other: --model edited -o edited-2"
        raise ForgetError("erase.alias", "--alias is for one concept", hint)
    if options.kind is not None and options.kind not in KINDS:
        hint = did_you_mean(options.kind, KINDS, "forget erase --help")
        raise ForgetError("erase.kind", f"there is no kind '{clipped(options.kind)}'", hint)
    for name in options.sets:
        if name not in word_lists.SETS:
            hint = did_you_mean(name, word_lists.SETS, "forget recipe sets")
            message = f"there is no preserve set '{clipped(name)}'"
            raise ForgetError("erase.set", message, hint)
    for template in options.templates or ():
        if template.count("{}") != 1:
            hint = 'write the place of the concept as {}: --template "a photo of {}"'
            message = f"the template '{clipped(template)}' must have exactly one {{}}"
            raise ForgetError("erase.template", message, hint)
    if options.target is None:
        return
    target = checked(options.target)
    for word in words:
        same = [other.casefold() for kind in KINDS for other in lexicon.same_meaning(word, kind)]
        same += [checked(alias).casefold() for alias in options.aliases or ()]
        if target.casefold() in (word.casefold(), *same):
            raise ForgetError(
                "erase.target",
                f"'{options.target}' means '{word}': it cannot turn into itself",
                "name something else with --to, or leave --to out",
            )


def _drafted(
    model: LoadedModel,
    word: str,
    taken: Sequence[str],
    options: Options,
    choices: list[Choice],
) -> DraftedConcept:
    """One concept; what is chosen is added to `choices`.

    Args:
        word: without an article.
        taken: words of the other concepts, which are neither target nor near.
    """

    def chose(key: str, value: str, why: str, option: str) -> None:
        choices.append(Choice(word, key, value, why, option))

    name, why = (options.kind, "given") if options.kind else guessed(word)
    if not name:
        name, why = _voted(model, word), "the encoder reads it among such words"
    kind = KINDS[name]
    chose("kind", name, why, "--kind")

    same = lexicon.same_meaning(word, name)
    own = {word.casefold(), *(other.casefold() for other in (*same, *taken))}
    others = [c for c in candidates(model, name) if not _overlaps(c, own)]
    wide = [w for w in lexicon.broader(word, name) if is_in_vocabulary(model.tokenizer, w)]
    used = {other.casefold() for other in taken}
    known = [o for o in same if is_in_vocabulary(model.tokenizer, o) and o.casefold() not in used]
    near = beside(model, word, list(dict.fromkeys([*known, *others, *wide])), kind)
    ranked = sorted(near, key=lambda other: -near[other].similarity)

    if options.aliases is None:
        read = [other for other in ranked if near[other].similarity >= SAME and other in others]
        aliases = tuple(dict.fromkeys([*known, *read]))[:ALIASES]
        why = "same meaning, or read as the concept by the encoder"
    else:
        aliases, why = tuple(checked(alias) for alias in options.aliases), "given"
    chose("aliases", _listed(aliases), why, "--alias")

    apart = [o for o in ranked if near[o].similarity < APART and o in others and o not in aliases]
    target, why = _target(word, options, apart, near, [w for w in wide if not _overlaps(w, own)])
    chose("target", target, why, "--to")

    if options.near is None:
        kept = tuple(dict.fromkeys([target, *apart]))[:NEAR]
        why = "the encoder's nearest that are something else"
    else:
        kept, why = (target, *(checked(other) for other in options.near)), "given"
    chose("near", _listed(kept, 6), why, "--near")
    described = [entry.description for entry in lexicon.words_like(word, name)]
    return DraftedConcept(
        concept=phrased(word, name),
        kind=kind,
        target=phrased(target, name),
        aliases=tuple(phrased(alias, name) for alias in aliases),
        near=tuple(phrased(other, name) for other in kept),
        direct=tuple(fill(template, phrased(word, name)) for template in kind.asking),
        indirect=tuple(dict.fromkeys(text for text in described if text)),
    )


def candidates(model: LoadedModel, kind: str) -> list[str]:
    """Words of a kind that the tokenizer holds whole, the most common first."""
    found: dict[str, str] = {}
    for entry in lexicon.of_kind(kind):
        if len(found) < CANDIDATES and is_in_vocabulary(model.tokenizer, entry.name):
            found.setdefault(entry.name.casefold(), entry.name)
    return list(found.values())


def beside(
    model: LoadedModel, word: str, others: Sequence[str], kind: Kind
) -> dict[str, reading.Read]:
    """How the encoder reads other words of the kind beside a concept."""
    said = [phrased(other, kind.name) for other in others]
    found = reading.read_beside(model, phrased(word, kind.name), said, kind.reading)
    return {other: found[phrase] for other, phrase in zip(others, said)}


def _target(
    word: str,
    options: Options,
    apart: Sequence[str],
    near: Mapping[str, reading.Read],
    wide: Sequence[str],
) -> tuple[str, str]:
    """What a concept turns into, and why."""
    if options.target is not None:
        return checked(options.target), "given"
    for why, words in (("broader", wide), ("nearest that is something else", apart)):
        for other in words:
            read = near[other]
            if read.similarity < APART and read.says >= SAYS:
                return other, f"{why}, similarity {read.similarity:.2f}"
    raise ForgetError(
        "erase.target",
        f"no listed word is near '{word}' and something else",
        "name what it is to turn into: --to",
    )


def _voted(model: LoadedModel, word: str) -> str:
    """The kind of most of the words that the encoder reads like this one."""
    listed = {c: kind for kind in KINDS for c in candidates(model, kind)[: CANDIDATES // 4]}
    if not listed:
        return "object"
    found = reading.read_beside(model, word, list(listed), "a picture of {}")
    nearest = sorted(found, key=lambda other: -found[other].similarity)[:NEIGHBOURS]
    votes = [listed[other] for other in nearest]
    return max(dict.fromkeys(votes), key=votes.count)


def _overlaps(word: str, own: set[str]) -> bool:
    """Whether a word has one of the concept's in it, or is in one: "oil painting", "painting"."""
    folded = word.casefold()
    return any(re.search(rf"(?<!\w){re.escape(o)}(?!\w)", folded) or folded in o.split()
               for o in own)  # fmt: skip


def _assembled(drafted: Sequence[DraftedConcept], options: Options, choices: list[Choice]) -> Draft:
    kinds = list(dict.fromkeys(each.kind.name for each in drafted))
    if options.templates is not None:
        templates, why = options.templates, "given"
    elif len(kinds) == 1:
        templates, why = drafted[0].kind.templates, f"those for a {kinds[0]}"
    else:
        templates, why = THINGS, "those for any kind"
    choices.append(Choice("", "templates", _listed(templates, 3), why, "--template"))
    chosen = "all that come with forget" if options.sets == OPTIONS.sets else "given"
    choices.append(Choice("", "sets", ", ".join(options.sets) or "none", chosen, "--sets"))
    edited = {
        fill(template, word)
        for each in drafted
        for word in (each.concept, *each.aliases)
        for template in templates
    }
    forgotten = {w for each in drafted for w in (each.concept, *each.aliases)}
    near = [(other, each.kind) for each in drafted for other in each.near if other not in forgotten]
    keeping = [fill(template, other) for other, kind in near for template in kind.keeping]
    asking = {
        other: tuple(fill(template, other) for template in each.kind.asking[:2])
        for each in drafted
        for other in each.near[:ASKED]
        if other not in forgotten
    }
    return Draft(
        concepts=tuple(drafted),
        templates=tuple(templates),
        keeping=tuple(p for p in dict.fromkeys(keeping) if p not in edited),
        asking=asking,
        sets=options.sets,
        choices=tuple(choices),
    )


def _refuse_long(model: LoadedModel, made: Draft) -> None:
    """Refuse words that no prompt of the model can hold.

    Raises:
        ForgetError: edit.prompt-too-long.
    """
    prompts = [
        fill(template, word)
        for each in made.concepts
        for word in (each.concept, *each.aliases, each.target)
        for template in made.templates
    ]
    tokenise(model.tokenizer, prompts, strict=True)
    for each in made.concepts:
        _refuse_unknown(model, each.concept)


def _refuse_unknown(model: LoadedModel, word: str) -> None:
    first: Any = model.tokenizer
    unknown = getattr(first, "unk_token", None)
    if hasattr(first, "tokenize") and unknown and unknown in first.tokenize(word):
        raise ForgetError(
            "erase.concept",
            f"the model's tokenizer cannot hold '{word}'",
            "name it in letters that the model's training captions had",
        )


def _listed(words: Sequence[str], shown: int = 8) -> str:
    rest = len(words) - shown
    return (", ".join(words[:shown]) + (f" and {rest} more" if rest > 0 else "")) or "none"
