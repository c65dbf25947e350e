"""Claims: edits add up in a ledger; each can be taken out, to the bit; later ones hold what earlier
ones put in place.
"""

from __future__ import annotations

import errno
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from faults import Saboteur, tree
from pipelines import tiny_sd
from typer.testing import CliRunner

from forgetcli import models, recipe
from forgetcli.artifact import card, integrity, ledger, ledger_extension, ledger_keys, patch
from forgetcli.artifact import manifest as manifests
from forgetcli.artifact.patch import encode
from forgetcli.artifact.previous_edits import PreviousEdits
from forgetcli.checkpoint import base
from forgetcli.cli.app import app
from forgetcli.editing.edit import Edit, Keys
from forgetcli.errors import EditError, ForgetError, ModelError, OutputError
from forgetcli.linalg import Moment
from forgetcli.models.tensors import read_tensor
from forgetcli.models.tokens import tokenise
from forgetcli.pipeline.apply import apply as apply_recipe
from forgetcli.pipeline.log import log
from forgetcli.pipeline.revert import revert
from forgetcli.progress import Silent
from forgetcli.storage.files import sha256_file
from forgetcli.storage.safetensors import read_header

WEIGHTS = "text_encoder/model.safetensors"
SITE = ("text_encoder", "encoder.layers.1.mlp.fc2.weight")
DEEPER = ("text_encoder", "encoder.layers.2.mlp.fc2.weight")
OWN = {manifests.MANIFEST, manifests.REPORT, manifests.RECIPE, ledger.LEDGER, ledger.TENSORS}
CARD = manifests.CARD  # forget's own in an edited folder, the base's in one without edits
OF_BASE = "---\nlicense: mit\n---\nthe base's own card\n"
TEXT = """\
name = "{name}"

[[concepts]]
concept = "{concept}"
target = "{target}"

[prompts]
templates = ["{{}}", "a painting by {{}}"]

[preserve]
prompts = ["a picture of a cat", "a sketch of a dog", "a house"]

[edit]
lam = 0.01
prior = 0.0
sites = [1, 2]
threshold = 0.05
min_rank = 40

[refine]
mode = "copy"

[methods.uce.edit]
lam = 0.5
"""


def written(
    name: str, concept: str, target: str, method: str | None = None, **changes: object
) -> recipe.Recipe:
    return recipe.parse(
        TEXT.format(name=name, concept=concept, target=target),
        method=method,
        overrides=[f"{key.replace('__', '.')}={value}" for key, value in changes.items()],
    )


FIRST, SECOND = ("first", "van gogh", "monet"), ("second", "starry night", "a house")


@dataclass(frozen=True)
class Sequence:
    """sd → one (null space) → two (null space) → three (uce); `free`: two again, which does not
    hold the first edit.
    """

    sd: Path
    one: Path
    two: Path
    three: Path
    free: Path


def apply(what: recipe.Recipe, model: Path, output: Path, **options) -> Path:
    return apply_recipe(
        what, model=str(model), output=output, device="cpu", strict=False, **options
    ).output


@pytest.fixture(scope="module")
def sequence(tmp_path_factory) -> Sequence:
    place = tmp_path_factory.mktemp("sequence")
    sd = tiny_sd(place / "sd")
    (sd / CARD).write_text(OF_BASE)
    one = apply(written(*FIRST), sd, place / "one")
    two = apply(written(*SECOND), one, place / "two")
    three = apply(written("third", "dog", "cat", "uce"), two, place / "three")
    return Sequence(
        sd,
        one,
        two,
        three,
        apply(written(*SECOND, edit__hold_earlier="false"), one, place / "free"),
    )


@pytest.fixture
def two(sequence, tmp_path) -> Path:
    return Path(shutil.copytree(sequence.two, tmp_path / "two"))


def stored(folder: Path, key=SITE) -> torch.Tensor:
    return read_tensor(folder, base.locate(folder, *key))


def extended(folder: Path, edit: Edit) -> ledger.Ledger | None:
    """The ledger of a model with one more edit, as the pipeline makes it."""
    model = base.resolve(folder)
    earlier = PreviousEdits(model).fitting_ledger()
    changes = patch.changes(model, edit.weights)
    return ledger_extension.extended(earlier, model, edit, changes, written(*FIRST), {})


def all_but_own(folder: Path) -> dict[str, bytes]:
    return {path: data for path, data in tree(folder).items() if path not in OWN}


def base_files(folder: Path) -> dict[str, bytes]:
    """Without the card, which names recipe and base: equal models can have different ones."""
    return {path: data for path, data in all_but_own(folder).items() if path != CARD}


def delta(folder: Path, number: int, key=SITE) -> torch.Tensor:
    return ledger.load(folder).tensor(f"edit.{number}.delta:{key[0]}:{key[1]}").double()


def code_of(call, *arguments, **options) -> str:
    with pytest.raises(ForgetError) as caught:
        call(*arguments, **options)
    assert caught.value.message and "\n" not in caught.value.message
    return caught.value.code


# what is kept


def test_every_edit_adds_to_the_ledger_and_the_weights_are_the_rounded_sum(sequence):
    book = ledger.load(sequence.three).book
    assert [(e.number, e.name, e.method) for e in book.edits] == [
        (1, "first", "nullspace"),
        (2, "second", "nullspace"),
        (3, "third", "uce"),
    ]
    assert [list(e.concepts) for e in book.edits] == [
        [("van gogh", "monet")],
        [("starry night", "a house")],
        [("dog", "cat")],
    ]
    assert [e.recipe for e in book.edits] == [
        (f / "recipe.toml").read_text() for f in (sequence.one, sequence.two, sequence.three)
    ]
    assert book.base.digest == base.resolve(sequence.sd).digest == book.edits[0].applied_to
    assert book.edits[1].applied_to == base.resolve(sequence.one).digest
    W, d1, d2 = stored(sequence.sd).double(), delta(sequence.two, 1), delta(sequence.two, 2)
    assert torch.equal(stored(sequence.two), patch.round_to(W + d1 + d2, torch.float16))
    assert torch.equal(stored(sequence.one), patch.round_to(W + d1, torch.float16))
    twice = patch.round_to(stored(sequence.one).double() + d2, torch.float16)
    assert not torch.equal(
        stored(sequence.two), twice
    )  # rounding does not add up from edit to edit
    assert {p.component for p in book.places} == {"text_encoder", "unet"}
    for folder in (sequence.one, sequence.two, sequence.three):
        assert integrity.verify(folder).ok
        assert set(manifests.load(folder).written) == {CARD, *OWN} - {manifests.MANIFEST}
    (number,) = {e.number for e in ledger.load(sequence.one).edits}
    assert number == 1


def test_changes_are_kept_much_finer_than_the_weights_and_exactly_beside_wide_ones(
    sequence, tmp_path
):
    header = read_header(sequence.one, ledger.TENSORS)
    assert {site.dtype for name, site in header.items() if ".delta:" in name} == {"F32"}
    wide = tiny_sd(tmp_path / "sd", torch.float32)
    weight = stored(wide).double() + torch.randn(stored(wide).shape, dtype=torch.float64)
    made = extended(wide, Edit({SITE: weight}))
    (place,) = made.book.places
    assert torch.equal(made.exact(place), stored(wide).double() + (weight - stored(wide).double()))


def test_a_repeated_run_writes_the_same_ledger_for_dates_are_in_the_manifest(sequence, tmp_path):
    again = apply(written(*FIRST), sequence.sd, tmp_path / "again")
    assert all(
        (again / name).read_bytes() == (sequence.one / name).read_bytes()
        for name in (ledger.LEDGER, ledger.TENSORS)
    )
    dates = [e.date for e in log(sequence.three).edits]
    assert (
        dates == sorted(dates) and len(set(dates)) == 3
    )  # each its own, the earlier ones carried on
    assert dates[:2] == [e.date for e in log(sequence.two).edits]
    assert dates[0][:10] not in (sequence.three / ledger.LEDGER).read_text()


def test_the_control_carries_the_ledger_on_and_begins_none(sequence, tmp_path):
    control = apply(written(*SECOND, "none"), sequence.one, tmp_path / "control")
    assert (control / ledger.TENSORS).read_bytes() == (sequence.one / ledger.TENSORS).read_bytes()
    assert not (
        apply(written(*SECOND, "none"), sequence.sd, tmp_path / "plain") / ledger.LEDGER
    ).exists()


@pytest.mark.parametrize(
    ("n", "shape"),
    [(3, (8, 3)), (8, (8, 8)), (9, (36,))],
    ids=["few keys", "as many", "more than dimensions"],
)
def test_keys_or_their_moment_are_kept_whichever_is_smaller_and_exactly(
    n: int, shape: tuple[int, ...]
):
    keys = Keys(
        torch.randn(8, n, generator=torch.Generator().manual_seed(0)).double(),
        torch.arange(1, n + 1),
    )
    made = ledger_keys.stored(1, *SITE, keys)
    (name,) = [name for name in made if not name.endswith(":counts")]
    assert made[name].shape == shape
    moment = ledger_keys.moment(ledger.Ledger(None, Path(), made), name)
    wanted = Moment.of(keys.columns, keys.counts)
    assert torch.equal(
        moment.matrix, (wanted.matrix.tril() + wanted.matrix.tril(-1).T) if n > 8 else wanted.matrix
    )
    assert moment.tokens == wanted.tokens
    assert made[name].numel() * made[name].element_size() <= min(4 * 8 * n, 8 * 36)


# what later edits hold


def test_a_later_edit_holds_what_the_earlier_put_in_place(sequence):
    held, free = (
        next(
            s
            for s in json.loads((f / manifests.REPORT).read_text())["sites"]
            if s["name"] in SITE[1]
        )
        for f in (sequence.two, sequence.free)
    )
    tokens = ledger.load(sequence.one).edits[0].tokens["text_encoder:" + SITE[1]]
    assert held["held"] == tokens == 2 * 24  # all positions of both prompts
    assert free["held"] is None is free["held_drift"]
    moment = ledger_keys.protected(ledger.load(sequence.one), *SITE).matrix
    moved = {
        name: float(((d @ moment) * d).sum().sqrt())
        for name, d in (("held", delta(sequence.two, 2)), ("free", delta(sequence.free, 2)))
    }
    assert moved["held"] < 0.7 * moved["free"]

    def contexts(folder: Path, prompts: list[str]) -> torch.Tensor:
        model = models.load(base.resolve(folder), device="cpu")
        return model.encode(tokenise(model.tokenizer, prompts).ids).hidden.double()

    prompts = ["van gogh", "a painting by van gogh"]
    with torch.no_grad():
        put = contexts(sequence.one, prompts)
        off = {
            f.name: float(
                (contexts(f, prompts) - put).norm() / (put - contexts(sequence.sd, prompts)).norm()
            )
            for f in (sequence.two, sequence.free)
        }
    assert off["two"] < 0.5 * off["free"]  # of the way that the first edit went
    materials = manifests.load(sequence.two).materials
    assert (
        "kp/encoder.layers.1.mlp.fc2" in materials
        and "kp/encoder.layers.1.mlp.fc2" not in manifests.load(sequence.free).materials
    )


def test_what_cannot_be_held_is_said(sequence):
    class Noted(Silent):
        def __init__(self) -> None:
            self.notes: list[str] = []

        def note(self, message: str) -> None:
            self.notes.append(message)

    model = models.load(base.resolve(sequence.three), device="cpu")
    for blocks, free in (
        ([1, 2], "edit 3 is"),
        ([0], "edits 1, 2 and 3 are"),
    ):  # uce has no keys there; nobody edited block 0
        observer = Noted()
        found = PreviousEdits(model.base).held(model.pick_sites(blocks), observer)
        assert [note.partition(" not protected: ")[0] for note in observer.notes] == [free]
        assert len(found) == (0 if blocks == [0] else 2)
    observer = Noted()
    assert (
        PreviousEdits(base.resolve(sequence.two))
        .held(model.pick_sites([1]), observer)[SITE[1].removesuffix(".weight")]
        .tokens
        == 96
    )
    assert (
        observer.notes == []
        and PreviousEdits(base.resolve(sequence.sd)).held(model.pick_sites([1]), observer) == {}
    )


def test_the_keys_are_those_of_the_model_after_the_edit(sequence):
    found = ledger.load(sequence.one)
    prompts = [prompt for prompt, _ in written(*FIRST).edit_pairs()]

    def keys(folder: Path, number: int) -> torch.Tensor:
        model = models.load(base.resolve(folder), device="cpu")
        batch = tokenise(model.tokenizer, prompts)
        (site,) = model.pick_sites([number])
        return batch.merge(model.keys([site], batch.ids)[site.name])

    kept = {key: found.tensor(f"edit.1.keys:{key[0]}:{key[1]}").double() for key in (SITE, DEEPER)}
    assert torch.allclose(
        kept[SITE], keys(sequence.sd, 1), atol=1e-5
    )  # nothing before the first site has changed
    assert torch.allclose(
        kept[DEEPER], keys(sequence.one, 2), atol=1e-2
    )  # but for the rounding of what was stored
    assert not torch.allclose(kept[DEEPER], keys(sequence.sd, 2), atol=1e-1)


# what can be taken out


def test_the_last_edit_taken_out_gives_the_model_before_it(sequence, tmp_path):
    for folder, number, before in (
        (sequence.three, 3, sequence.two),
        (sequence.two, 2, sequence.one),
    ):
        result = revert(folder, [number], output=tmp_path / before.name)
        assert base_files(result.output) == base_files(before)
        assert (result.output / ledger.TENSORS).read_bytes() == (
            before / ledger.TENSORS
        ).read_bytes()
        verdict = integrity.verify(
            result.output, sequence.sd
        )  # the original base: edits of it, no longer of `one`
        assert verdict.ok and any(
            "every other file and byte is that of the base" in claim for claim in verdict.proved
        )


def test_an_edit_in_the_middle_taken_out_leaves_the_others_as_if_alone(sequence, tmp_path):
    result = revert(sequence.two, [1], output=tmp_path / "out")
    W, d1, d2 = stored(sequence.sd).double(), delta(sequence.two, 1), delta(sequence.two, 2)
    assert torch.equal(stored(result.output), patch.round_to(W + d2, torch.float16))
    from_rounded = patch.round_to(stored(sequence.two).double() - d1, torch.float16)
    assert not torch.equal(
        stored(result.output), from_rounded
    )  # taken from what was rounded, it would not be
    assert (result.reverted, result.left) == ((1,), (2,))
    manifest = manifests.load(result.output)
    assert (manifest.base_digest, manifest.method) == (
        base.resolve(sequence.sd).digest,
        "nullspace",
    )
    assert recipe.load(manifest.recipe_path).name == "second"
    assert integrity.verify(result.output).ok
    assert [e.number for e in log(result.output).edits] == [2]
    third = apply(written("third", "dog", "cat", "uce"), result.output, tmp_path / "third")
    assert [e.number for e in log(third).edits] == [2, 3]  # numbers stay


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 2, 1), (2, 3, 1)])
def test_all_taken_out_in_any_order_give_the_bases_bytes(sequence, tmp_path, order):
    folder = sequence.three
    for number in order:
        folder = revert(folder, [number], output=tmp_path / f"without-{number}").output
        assert integrity.verify(folder, sequence.sd).ok
    assert all_but_own(folder) == tree(sequence.sd)  # the card included
    assert set(tree(folder)) - set(tree(sequence.sd)) == {
        manifests.MANIFEST,
        manifests.REPORT,
        manifests.RECIPE,
    }
    assert manifests.load(folder).edited == () and manifests.load(folder).method == "none"
    assert recipe.load(folder / "recipe.toml").method == "none"
    assert log(folder).edits == ()
    assert base_files(sequence.three) != base_files(sequence.sd)  # though there were edits


def test_all_at_once_and_without_the_base(sequence, tmp_path):
    shutil.copytree(sequence.three, tmp_path / "three")
    hidden = sequence.sd.rename(sequence.sd.with_name("hidden"))
    try:
        result = revert(tmp_path / "three", None, output=tmp_path / "out")
    finally:
        hidden.rename(sequence.sd)
    assert result.reverted == (1, 2, 3) and all_but_own(result.output) == tree(sequence.sd)


def test_the_card_names_the_edits_that_are_left_and_then_is_the_bases_again(
    sequence, two, tmp_path
):
    (two / CARD).write_text("changed by hand")
    text = (revert(sequence.three, [2], output=tmp_path / "one-three").output / CARD).read_text()
    assert (
        "# sd without van gogh, dog\n" in text
        and "| van gogh | monet |" in text
        and "| dog | cat |" in text
    )
    assert "holds 2 edits" in text and "Method: uce" in text and "starry night" not in text
    assert 'license: "mit"' in text  # as the base's card names it
    text = (revert(two, [2], output=tmp_path / "first").output / CARD).read_text()
    assert (
        "| van gogh | monet |" in text
        and "starry night" not in text
        and "edits of the base" not in text
    )
    assert (revert(two, None, output=tmp_path / "out").output / CARD).read_text() == OF_BASE


def test_the_card_is_of_all_edits_whenever_it_is_written(sequence, tmp_path):
    text = (sequence.three / CARD).read_text()  # an edit of an edit
    assert "# sd without van gogh, starry night, dog\n" in text and "holds 3 edits" in text
    out = revert(sequence.three, [2], output=tmp_path / "out").output
    before = (out / CARD).read_text()
    card.rewrite(out)
    assert (
        (out / CARD).read_text() == before
        and "# sd without van gogh, dog\n" in before
        and integrity.verify(out).ok
    )
    back = revert(out, None, output=tmp_path / "back").output
    card.rewrite(back)
    text = (back / CARD).read_text()
    assert (
        "# sd, unedited\n" in text and "Nothing is forgotten" in text and integrity.verify(back).ok
    )
    assert not [c for c in ("van gogh", "starry night", "| dog") if c in text]


@pytest.mark.parametrize(
    "text", [None, b"", "Ein Bär\r\n".encode("latin-1")], ids=["none", "empty", "no UTF-8"]
)
def test_a_base_gets_back_the_card_that_it_had(tmp_path, text):
    sd = tiny_sd(tmp_path / "sd")
    if text is not None:
        (sd / CARD).write_bytes(text)
    edited = apply(written("third", "dog", "cat", "uce"), sd, tmp_path / "edited")
    assert (edited / CARD).read_bytes() != text and integrity.verify(edited).ok
    back = revert(edited, None, output=tmp_path / "back").output
    assert all_but_own(back) == tree(sd) and integrity.verify(back, sd).ok
    assert (back / CARD).exists() == (text is not None)


def test_edits_whose_recipes_cannot_be_read_here_can_be_taken_out_and_leave_the_bases_card(
    two, tmp_path, monkeypatch
):
    def refuse(*_, **__):
        raise ForgetError("recipe.method", "there is no such method", "install it")

    monkeypatch.setattr(recipe, "parse", refuse)
    out = revert(two, [1], output=tmp_path / "out").output
    assert (out / CARD).read_text() == OF_BASE and integrity.verify(out).ok


def test_other_forms_of_the_weights_come_back_too(tmp_path):
    sd = tiny_sd(tmp_path / "sd", torch.float32)
    half = tiny_sd(tmp_path / "half", torch.float16)
    shutil.copy(half / WEIGHTS, sd / WEIGHTS.replace("model.", "model.fp16."))
    edited = apply(written(*FIRST, refine__mode='"copy"'), sd, tmp_path / "edited")
    (_, also) = [t for t in manifests.load(edited).edited if t.parameter == SITE[1]]
    assert also.file.endswith("fp16.safetensors")
    back = revert(edited, [1], output=tmp_path / "back").output
    assert all_but_own(back) == tree(sd) != base_files(edited)


# in place, interrupted, damaged


def test_in_place_needs_force_and_is_one_step(two, sequence):
    before = tree(two)
    assert code_of(revert, two, [2]) == "output.exists"
    assert tree(two) == before
    revert(two, [2], force=True)
    assert base_files(two) == base_files(sequence.one)
    assert code_of(revert, two, [1], output=two / "inside") == "output.overlaps-base"


@pytest.mark.parametrize(
    "fault",
    [KeyboardInterrupt, lambda: OSError(errno.ENOSPC, "no space")],
    ids=["Ctrl-C", "full disk"],
)
def test_stopped_anywhere_the_folder_is_the_old_or_the_new_one(two, sequence, fault):
    before, after, at, outcomes = base_files(two), base_files(sequence.one), 1, []
    own = {name: (two / name).read_bytes() for name in (*OWN, CARD)}
    while True:
        saboteur = Saboteur(at, fault)
        try:
            with saboteur.at_work():
                revert(two, [2], force=True)
        except (KeyboardInterrupt, OutputError):
            pass
        here = base_files(two)
        assert here in (before, after)
        if here == before:
            assert {name: (two / name).read_bytes() for name in own} == own
        assert integrity.verify(two).ok
        assert [p for p in two.parent.iterdir() if p.name.startswith(".")] == []
        outcomes.append(here == after)
        if here == after:
            break
        at += 3
    assert outcomes.count(False) > 5  # it was stopped in many places


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


def listed_again(folder: Path) -> None:
    """Make the manifest agree with the ledger's files, as a forger or a careless script would."""
    manifest = json.loads((folder / manifests.MANIFEST).read_text())
    for subject in manifest["subject"]:
        subject["digest"]["sha256"] = sha256_file(folder / subject["name"])
    (folder / manifests.MANIFEST).write_text(json.dumps(manifest))


def without_tensor(folder: Path) -> None:
    from safetensors.torch import load, save

    tensors = load((folder / ledger.TENSORS).read_bytes())
    (folder / ledger.TENSORS).write_bytes(
        save({name: t for name, t in tensors.items() if not name.startswith("base:")})
    )
    listed_again(folder)


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (lambda f: flipped(f / ledger.TENSORS), "ledger.damaged"),
        (lambda f: (f / ledger.TENSORS).write_bytes(b""), "ledger.damaged"),
        (lambda f: (f / ledger.TENSORS).unlink(), "ledger.damaged"),
        (lambda f: (f / ledger.LEDGER).unlink(), "ledger.damaged"),
        (lambda f: flipped(f / ledger.LEDGER), "ledger.damaged"),
        (lambda f: ((f / ledger.LEDGER).write_text("{}"), listed_again(f)), "ledger.damaged"),
        (
            lambda f: ((f / ledger.LEDGER).write_text('{"schema_version": 1,'), listed_again(f)),
            "ledger.damaged",
        ),
        (
            lambda f: (
                (f / ledger.TENSORS).write_bytes((f / ledger.TENSORS).read_bytes()[:-9]),
                listed_again(f),
            ),
            "ledger.damaged",
        ),
        (without_tensor, "ledger.damaged"),
        (
            lambda f: (flipped(f / ledger.TENSORS), listed_again(f)),
            "ledger.damaged",
        ),  # the base's card, which is last
        (lambda f: flipped(f / WEIGHTS), "model.changed"),
        (lambda f: flipped(f / "tokenizer/merges.txt"), "model.changed"),
        (lambda f: (f / "unet/config.json").unlink(), "model.changed"),
    ],
    ids=[
        "flipped",
        "empty",
        "missing",
        "json missing",
        "json flipped",
        "json empty",
        "json cut",
        "cut",
        "tensors gone",
        "flipped, listed",
        "weights",
        "tokenizer",
        "file gone",
    ],
)
def test_damage_is_said_and_nothing_is_written(two, tmp_path, damage, code):
    damage(two)
    before = tree(two)
    found = code_of(revert, two, [1], output=tmp_path / "out")
    assert found == code
    assert tree(two) == before and not (tmp_path / "out").exists()
    if code == "ledger.damaged":
        assert code_of(extended, two, Edit({})) == code


def test_weights_that_something_else_changed_are_not_edited_on_top(two):
    site = base.locate(two, *SITE)
    with open(two / WEIGHTS, "r+b") as file:
        file.seek(site.start)
        file.write(encode(stored(two).double() + 1, site))
    with pytest.raises(ModelError) as caught:
        extended(two, Edit({SITE: stored(two).double()}))
    assert caught.value.code == "ledger.other-weights"


def test_a_bad_edit_is_refused_before_the_ledger_grows(two):
    with pytest.raises(EditError) as caught:
        extended(two, Edit({SITE: torch.zeros(3, 3)}))
    assert caught.value.code == "edit.shape"


# the commands


def test_log_and_revert_as_commands(two, sequence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = CliRunner()
    shown = run.invoke(app, ["log", "two"], catch_exceptions=False)
    assert (
        "first" in shown.stdout
        and "van gogh → monet" in shown.stdout
        and "nullspace" in shown.stdout
    )
    found = json.loads(run.invoke(app, ["log", "two", "--json"]).stdout)
    assert {"schema_version", "command", "seconds", "folder", "base", "edits"} <= set(found)
    assert [e["number"] for e in found["edits"]] == [1, 2]
    assert found["edits"][0]["concepts"] == [{"concept": "van gogh", "target": "monet"}]
    norm = float(delta(two, 1).norm() / stored(sequence.sd).double().norm())
    assert found["edits"][0]["delta_rel"] == pytest.approx(norm, rel=0.7)  # over both sites
    done = json.loads(
        run.invoke(app, ["revert", "two", "--edit", "1", "-o", "out", "--json", "-q"]).stdout
    )
    assert (done["output"], done["reverted"], done["left"]) == ("out", [1], [2])
    assert run.invoke(app, ["revert", "out", "--all", "--force", "-q"]).stdout == "out\n"
    assert "no edits" in run.invoke(app, ["log", "out"]).stdout
    assert code_of(revert, "two", [7]) == "ledger.no-such-edit"
    assert code_of(revert, "out", None) == "ledger.none"
    assert code_of(log, sequence.sd) == "model.not-edited"
    for arguments in (["revert", "two"], ["revert", "two", "--all", "--edit", "1"]):
        with pytest.raises(ForgetError) as caught:
            run.invoke(app, arguments, catch_exceptions=False)
        assert (caught.value.code, caught.value.hint) == ("usage", "'forget log two' lists them")
