"""``forget tune``: the search goes on where it was cut short, gives up on hopeless trials, and
writes a recipe that has what it found.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
import torch
from PIL import Image
from pipelines import tiny_sd
from single_files import ldm

from forgetcli import methods
from forgetcli import recipe as recipes
from forgetcli.editing.moment_cache import MomentCache
from forgetcli.editing.search_space import Choice, Range
from forgetcli.errors import EditError, ForgetError
from forgetcli.evaluation import judges
from forgetcli.evaluation.judges import Sight
from forgetcli.experiments import tuning
from forgetcli.experiments.tuning import study as study_module
from forgetcli.experiments.tuning.space import SearchSpace, suggest
from forgetcli.generation import generate
from forgetcli.pipeline import apply as pipeline
from forgetcli.report.tuning import front, write_front
from forgetcli.storage import atomic

RECIPE = """\
# what it is about
[[concepts]]
concept = "van gogh"
target = "monet"
direct = ["a cat by van gogh", "a dog by van gogh", "a house by van gogh"]
indirect = ["starry night"]

[[retain]]
concept = "house"
direct = ["a house", "a picture of a house"]

[preserve]
prompts = ["a picture of a cat", "a sketch of a dog"]

[edit]
lam = 0.02    # gentle
sites = [1]

[refine]
steps = 2
batch = 1
latent_steps = 1
"""


class Judge:
    """Sees a concept unless its prompt's picture is of the edited model, as the test says."""

    def __init__(self, seen) -> None:
        self.seen = seen

    def identity(self) -> dict:
        return {"name": "fake"}

    def label(self, words: str, name: str | None = None) -> str:
        return words

    def see(self, pictures, labels, choices) -> list[Sight]:
        return [Sight(self.seen(label), label, 1.0) for label in labels]


@pytest.fixture
def source(edit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe file for a tiny pipeline; the working directory is the recipe's."""
    shutil.copytree(edit.parent / "sd", tmp_path / "sd")
    file = tmp_path / "mine.toml"
    file.write_text('model = "sd"\n' + RECIPE)
    monkeypatch.chdir(tmp_path)
    return file


@pytest.fixture(scope="module")
def edit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, edited."""
    folder = tmp_path_factory.mktemp("edit")
    tiny_sd(folder / "sd", torch.float32)
    pipeline.apply(
        recipes.parse(RECIPE),
        model=folder / "sd",
        output=folder / "edited",
        strict=False,
        cache=MomentCache(folder / "cache"),
    )
    return folder / "edited"


class PlainSampler:
    """Generates images of one colour, each of another: verdicts on an image are kept."""

    model = None
    colours = itertools.count()

    def __init__(self, *_) -> None: ...

    def within_memory(self, requests) -> list[Image.Image]:
        return [Image.new("RGB", (8, 8), next(self.colours)) for _ in requests]


@pytest.fixture
def quick(edit: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list]:
    """Trials without edits and images, for tests of the search alone: each trial gets the same
    edited model. Call it with what happens before an edit; it returns the recipes of the edits.
    """

    def quick(before=lambda recipe: None) -> list:
        calls = []

        def copied(recipe, *, output: Path, **_) -> None:
            before(recipe)
            calls.append(recipe)
            shutil.copytree(edit, output)

        monkeypatch.setattr(pipeline, "apply", copied)
        monkeypatch.setattr(generate, "Sampler", PlainSampler)
        monkeypatch.setattr(generate, "_note_truncated", lambda *_: None)
        return calls

    return quick


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Labels that the judge sees; changed by a test while a search runs."""
    labels = ["van gogh", "house"]
    monkeypatch.setattr(judges, "load", lambda *_: Judge(lambda label: label in labels))
    return labels


def lenient(monkeypatch: pytest.MonkeyPatch, before=lambda recipe: None) -> list:
    """`apply` as it is, but a tiny untrained model's edit need not have an effect; what it was
    called with.
    """
    calls, apply = [], pipeline.apply

    def watched(recipe, **options):
        before(recipe)
        calls.append(recipe)
        return apply(recipe, **{**options, "strict": False})

    monkeypatch.setattr(pipeline, "apply", watched)
    return calls


def test_the_recipes_own_values_come_first_and_the_best_is_written(
    source: Path, seen: list[str], monkeypatch: pytest.MonkeyPatch
):
    calls = lenient(
        monkeypatch,
        lambda recipe: (
            seen.remove("van gogh")
            if recipe.parameters["edit"]["lam"] != 0.02 and "van gogh" in seen
            else None
        ),
    )
    result = tuning.tune(source, trials=2, steps=1, output="tune")
    first, second = (recipe.parameters for recipe in calls)
    assert (
        first["edit"]["lam"] == 0.02
        and first["refine"]["steps"] == 2
        and tuple(first["edit"]["sites"]) == (1,)
    )
    assert (
        result.own.parameters["edit.lam"] == 0.02
        and result.own.scores["forget"] == 0
        and result.own.scores["h"] == 0
    )
    assert (
        result.best.number == 1 and result.best.scores["h"] == 1
    )  # the judge no longer sees it: this trial wins
    assert result.baseline["forget"] == 0 and result.baseline["retain"] == 1
    found = recipes.load(result.recipe)
    assert (
        found.parameters["edit"]["lam"] == second["edit"]["lam"]
        and found.parameters["refine"]["batch"] == 1
    )
    assert {f"{table}.{key}" for table, values in second.items() for key in values} >= set(
        methods.get("nullspace").SEARCH
    )
    text = result.recipe.read_text()
    assert "# what it is about" in text and "# gentle" in text  # comments stay
    write_front(Path("front.svg"), result)
    assert Path("front.svg").read_text().count("<svg") == 1
    assert not list(Path("tune/trials").glob("[0-9]*"))  # no checkpoint of each trial is left


def test_a_single_file_is_tuned_with_the_settings_that_are_named(
    source: Path, seen: list[str], monkeypatch: pytest.MonkeyPatch
):
    calls = lenient(monkeypatch)
    file = ldm(Path("sd"), Path("alone/tiny.safetensors"), "sd1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(source.parent / "hub"))
    with pytest.raises(ForgetError) as error:  # control: nothing lies beside the file
        tuning.tune(source, model=str(file), trials=1, steps=1, output="tune")
    assert error.value.code == "model.no-config"
    result = tuning.tune(source, model=str(file), config="sd", trials=1, steps=1, output="tune")
    assert result.best.state == "complete" and result.baseline["retain"] == 1 and len(calls) == 1


def test_what_the_recipe_says_for_the_models_family_is_its_own_and_the_found_goes_before_it(
    source: Path, seen: list[str], quick: Callable[..., list]
):
    source.write_text(
        source.read_text()
        + "\n[families.sd.edit]\nlam = 0.5\nthreshold = 0.01\n\n[families.sdxl.edit]\nlam = 7.0\n"
        "min_rank = 9\n"
    )
    calls = quick(
        lambda recipe: (
            seen.remove("van gogh")
            if recipe.parameters["edit"]["lam"] != 0.5 and "van gogh" in seen
            else None
        ),
    )
    result = tuning.tune(source, trials=2, steps=1, output="tune")
    assert (
        result.own.parameters["edit.lam"]
        == calls[0].on("sd").parameters["edit"]["lam"]
        == 0.5
        != 0.02
    )
    found = recipes.load(result.recipe)
    assert (
        result.best.number == 1
        and found.on("sd").parameters["edit"]["lam"] == result.best.parameters["edit.lam"] != 0.5
    )
    assert (
        recipes.load(source).on("sd").parameters["edit"]["lam"] == 0.5
    )  # the control: this would have gone before it
    assert found.on("sdxl").parameters["edit"]["min_rank"] == 9  # what was not searched stays


def test_a_search_that_was_cut_short_goes_on(
    source: Path, seen: list[str], quick: Callable[..., list], monkeypatch: pytest.MonkeyPatch
):
    def interrupt(recipe) -> None:
        if len(calls) == 1:
            raise KeyboardInterrupt

    calls = quick(interrupt)
    with pytest.raises(KeyboardInterrupt):
        tuning.tune(source, trials=3, steps=1, output="tune")
    assert len(calls) == 1  # the second was cut short
    study = optuna.load_study(
        study_name="tune",
        storage=optuna.storages.JournalStorage(
            optuna.storages.journal.JournalFileBackend("tune/study.log")
        ),
    )
    cut = study.trials[1].params["edit.lam"]
    calls = quick()
    result = tuning.tune(source, trials=3, steps=1, output="tune")
    assert (
        len(calls) == 2 and calls[0].parameters["edit"]["lam"] == cut
    )  # the one that was cut short, and the third
    assert [t.number for t in result.trials] == [0, 1, 2]
    calls.clear()
    # As kill -9 leaves it; what a folder has is looked at once in the life of a process.
    left = Path("tune/.tuned.toml.1-0123abcd.forget.tmp")
    left.touch()
    monkeypatch.setattr(atomic, "_collected", set())
    assert tuning.tune(source, trials=3, steps=1, output="tune").best == result.best and not calls
    assert not left.exists()


def test_searches_with_one_database_search_together(
    source: Path, seen: list[str], quick: Callable[..., list]
):
    calls = quick()
    shared = {"steps": 1, "storage": "sqlite:///search.db"}
    first = tuning.tune(source, trials=2, output="one-machine", **shared)
    assert len(calls) == len(first.trials) == 2
    second = tuning.tune(source, trials=3, output="another", **shared)
    assert len(calls) == 3 and second.trials[:2] == first.trials
    assert second.own == first.own and Path("another/tuned.toml").is_file()
    # Another search in the same database begins with the recipe's own values.
    other = tuning.tune(source, trials=1, output="other", seed=5, **shared)
    assert len(calls) == 4 and other.own.parameters == first.own.parameters


@pytest.mark.parametrize(
    "url", ["nonsense", "sqlite:///no/such/folder/x.db", "odd+driver://me:secret@host/x"]
)
def test_a_database_that_cannot_be_used_is_one_error_without_its_password(url: str):
    with pytest.raises(ForgetError) as error:
        study_module.open_shared_study(url, "x", {})
    assert error.value.code == "tune.storage"
    assert "secret" not in f"{error.value} {error.value.hint}"


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """The journal of a search with two trials."""
    path = tmp_path / "study.log"
    study = study_module.open_study(path, {"x": 1.0}, 0)
    for _ in range(2):
        trial = study.ask()
        trial.suggest_float("x", 0, 2)
        trial.set_user_attr("parameters", {"edit.lam": 1.0})
        trial.set_user_attr("scores", {"h": 0.5})
        study.tell(trial, 0.5)
    return path


def test_a_journal_that_was_cut_off_goes_on(journal: Path):
    """As kill -9 or a full disk leaves it. optuna would go on behind the torn line."""
    whole = journal.read_bytes()
    journal.write_bytes(whole + whole.splitlines()[-1][:40])
    for _ in range(2):
        study = study_module.open_study(journal, {"x": 1.0}, 0)
        assert len(study_module.recorded_trials(study)) == 2
        study.tell(study.ask(), 0.25)
    assert len(study_module.open_study(journal, {"x": 1.0}, 0).trials) == 4


def test_a_search_that_was_killed_between_scores_and_value_goes_on(journal: Path):
    lines = journal.read_bytes().splitlines(keepends=True)
    (scored, *_) = [n for n, line in enumerate(lines) if b'"scores"' in line]
    journal.write_bytes(b"".join(lines[: scored + 1]))
    study = study_module.open_study(journal, {"x": 1.0}, 0)
    assert not study_module.has_scores(study) and study_module.recorded_trials(study) == ()
    assert study.ask().suggest_float("x", 0, 2) == 1.0  # it is queued again


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"{", b"garbage {"),
        (b"{", b"\xff\xfe{"),
        (b"{", b"[" * 100_000 + b"\n{"),
        (b'"op_code":8', b'"op_code":99'),
        (b'{"h":0.5}', b"[1]"),
        (b'{"h":0.5}', b'{"h":"x"}'),
        (b'{"edit.lam":1.0}', b'"x"'),
        (b"[0.5]", b'["x"]'),
        (b"FloatDistribution", b"EvilDistribution"),
    ],
)
def test_a_damaged_journal_is_named(journal: Path, old: bytes, new: bytes):
    data = journal.read_bytes()
    assert old in data
    journal.write_bytes(data.replace(old, new, 1))
    with pytest.raises(ForgetError) as caught:
        study_module.open_study(journal, {"x": 1.0}, 0)
    assert caught.value.code == "tune.damaged" and str(journal) in caught.value.message
    assert journal.read_bytes().startswith(data.replace(old, new, 1))  # nothing is lost


def test_another_search_is_refused_and_force_replaces_it(
    source: Path, seen: list[str], quick: Callable[..., list]
):
    calls = quick()
    tuning.tune(source, trials=1, steps=1, output="tune")
    with pytest.raises(ForgetError) as caught:
        tuning.tune(source, trials=1, steps=1, seed=5, output="tune")
    assert caught.value.code == "eval.other-run" and "seed" in caught.value.message
    assert (
        len(tuning.tune(source, trials=1, steps=1, seed=5, output="tune", force=True).trials) == 1
        and len(calls) == 2
    )


def test_an_edit_that_wrecks_is_pruned_and_one_that_cannot_be_made_failed(
    source: Path, seen: list[str], quick: Callable[..., list]
):
    faults = [EditError("edit.wrecked", "too much"), EditError("edit.singular", "cannot"), None]

    def fault(recipe) -> None:
        if (now := faults.pop(0)) is not None:
            raise now

    quick(fault)
    result = tuning.tune(source, trials=3, steps=1, output="tune")
    assert [(t.state, t.why) for t in result.trials] == [
        ("pruned", "too much"),
        ("failed", "cannot"),
        ("complete", ""),
    ]
    assert result.best.number == 2
    faults[:] = [EditError("edit.wrecked", "too much")]
    with pytest.raises(ForgetError) as caught:
        tuning.tune(source, trials=1, steps=1, output="other")
    assert caught.value.code == "tune.no-trial"


def test_a_hopeless_trial_is_given_up_after_its_first_pictures(
    source: Path, seen: list[str], quick: Callable[..., list], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(study_module, "STARTUP_TRIALS", 1)

    def before(recipe) -> None:
        seen[:] = (
            ["house"] if recipe.parameters["edit"]["lam"] == 0.02 else ["van gogh"]
        )  # only the first trial is any good

    quick(before)
    result = tuning.tune(source, trials=3, steps=1, output="tune")
    assert [t.state for t in result.trials] == ["complete", "pruned", "pruned"]
    assert (
        "after 3 of 6 images" in result.trials[1].why
    )  # a direct, an indirect, and one of what stays


def test_another_methods_values_go_into_its_own_tables(
    source: Path, seen: list[str], quick: Callable[..., list], monkeypatch: pytest.MonkeyPatch
):
    space = {
        "edit.lam": Range(0.1, 10.0, log=True),
        "edit.positions": Choice(("last", "from-last")),
    }
    monkeypatch.setattr(methods.get("uce"), "SEARCH", space, raising=False)
    calls = quick()
    result = tuning.tune(source, method="uce", trials=2, steps=1, output="tune")
    assert [r.method for r in calls] == ["uce", "uce"] and result.method == "uce"
    found = recipes.load(result.recipe, method="uce")
    assert {f"edit.{key}": value for key, value in found.parameters["edit"].items()} == dict(
        result.best.parameters
    )
    plain = recipes.load(result.recipe)
    assert plain.method == "nullspace" and plain.parameters["edit"]["lam"] == 0.02


def test_a_method_that_says_nothing_of_its_space_cannot_be_tuned(source: Path, seen: list[str]):
    with pytest.raises(ForgetError) as caught:
        tuning.tune(source, method="none", output="tune")
    assert caught.value.code == "tune.no-space" and not Path("tune").exists()


def test_the_space_is_widened_to_the_recipes_own_values():
    space = {
        "edit.lam": Range(0.1, 1.0, log=True),
        "edit.sites": Choice(((1, 2), (3,))),
        "refine.steps": Range(10, 20),
    }
    read = recipes.parse(RECIPE)
    found = SearchSpace.around(read, space)
    wide, own = found.dimensions, found.start
    assert wide["edit.lam"] == Range(0.02, 1.0, log=True) and wide["refine.steps"] == Range(2, 20)
    # A logarithm has no 0.
    zero = recipes.parse(RECIPE.replace("lam = 0.02", "lam = 0.02\nprior = 0.0"))
    at_zero = SearchSpace.around(zero, {"edit.prior": Range(0.1, 1.0, log=True)})
    assert at_zero.dimensions["edit.prior"] == Range(0.0, 1.0, log=False)
    optuna.create_study().ask().suggest_float("x", 0.0, 1.0, log=False)
    assert wide["edit.sites"].values[own["edit.sites"]] == (1,)
    trial = optuna.create_study().ask(fixed_distributions=None)
    value = suggest(trial, "refine.steps", wide["refine.steps"])
    assert isinstance(value, int) and 2 <= value <= 20
    assert suggest(
        SimpleNamespace(suggest_categorical=lambda key, values: values[-1]),
        "edit.sites",
        wide["edit.sites"],
    ) == (1,)


def test_front_is_what_no_other_beats_in_both():
    assert front([(0.2, 0.9), (0.5, 0.8), (0.4, 0.7), (0.9, 0.1), (0.9, 0.05)]) == [
        (0.2, 0.9),
        (0.5, 0.8),
        (0.9, 0.1),
    ]
