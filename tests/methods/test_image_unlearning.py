"""Claims: at images of the concept the unedited model asks for the prediction of the target, led
away from the concept; words are learned, replayed and begun anew, and spared once they are
harmless; the denoiser is led away whatever it reads, and what stays stays; concepts that a word
still brings back are trained again; an interruption leaves the model as it was.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from pipelines import tiny_sd, tiny_sdxl
from torch import Tensor

from forgetcli import models
from forgetcli.checkpoint import base
from forgetcli.editing import adversarial_words, image_requests, image_unlearning
from forgetcli.editing.adversarial_words import Words
from forgetcli.editing.finetuning import Student, encoded, trained_names
from forgetcli.editing.image_requests import Kept, noised, subject
from forgetcli.editing.image_unlearning import Recall, loss_ratio, unlearn
from forgetcli.editing.inversion import concept_latents, inserted
from forgetcli.editing.task import Task
from forgetcli.models.base import Context
from forgetcli.progress import Silent

PAIRS = (("a dog", "a cat"), ("a puppy", "a cat"))


def settings(**changed):
    given = {
        "finetune": 2,
        "finetune_repeats": 0,
        "finetune_lr": 2e-4,
        "repel": 2.0,
        "keep": 2.0,
        "guidance": 1.0,
        "budget": 2,
        "batch": 4,
    }
    return SimpleNamespace(**given | changed)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory):
    folder = tiny_sd(tmp_path_factory.mktemp("images") / "sd", torch.float32)
    return models.load(base.resolve(folder), device="cpu")


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch):
    for name, number in {"PICTURES": 8, "PRESERVED": 6, "REPEATS": 2}.items():
        monkeypatch.setattr(image_requests, name, number)


def edited_encoder(model) -> dict[tuple[str, str], Tensor]:
    """Some other weights of the text encoder."""
    name = next(n for n, _ in model.text_encoder.named_parameters() if n.endswith("fc2.weight"))
    return {("text_encoder", name): model.text_encoder.get_parameter(name).detach() * 2}


@pytest.mark.parametrize("repel", [0.0, 2.0])
def test_the_unedited_model_asks_for_the_target_led_away_from_the_concept(tiny, repel: float):
    generator = torch.Generator().manual_seed(0)
    made = subject(tiny, PAIRS, settings(repel=repel), edited_encoder(tiny), 0, generator, Silent())
    asked = made.requests
    # The images of the first and of the fifth prompt: "a dog" by itself, and the first pair's.
    for row in (0, 4, 8):
        x, t = asked.noisy[row : row + 1], asked.t[row : row + 1]
        with torch.no_grad():
            target, concept, empty = (
                tiny.denoise(x, t, encoded(tiny, [prompt])) for prompt in ("a cat", "a dog", "")
            )
        wanted = target - repel * (concept - empty)
        assert torch.allclose(asked.wanted[row : row + 1], wanted, atol=1e-5)
        assert not torch.allclose(asked.wanted[row : row + 1], concept, atol=1e-5)


def test_every_name_of_a_concept_has_images(tiny, monkeypatch: pytest.MonkeyPatch):
    """More pairs than images are spread over them."""
    named: list[str] = []

    def latents(model, prompts, **options):
        named.extend(prompts)
        return concept_latents(model, prompts, **options)

    monkeypatch.setattr(image_requests, "concept_latents", latents)
    pairs = tuple((f"a dog {letter}", "a cat") for letter in "abcdefgh")
    subject(tiny, pairs, settings(), {}, 0, torch.Generator().manual_seed(0), Silent())
    assert named[4:] == ["a dog a", "a dog c", "a dog e", "a dog g"]


def test_what_stays_is_the_unedited_models_and_is_read_through_the_edited_encoder(tiny):
    encoder = edited_encoder(tiny)
    task = Task(PAIRS, preserve=("", "a house", "a tree"))
    kept = Kept.of(tiny, task, settings(), encoder, torch.Generator().manual_seed(0), Silent())
    with torch.no_grad():
        before = encoded(tiny, ["", "a house", "a tree", ""])
        with tiny.weights(encoder):
            after = encoded(tiny, ["", "a house", "a tree", ""])
        wanted = tiny.denoise(kept.requests.noisy, kept.requests.t, before[kept.reads])
    assert torch.allclose(kept.requests.wanted, wanted, atol=1e-5)
    assert torch.allclose(kept.contexts.hidden, after.hidden, atol=1e-5)
    assert not torch.allclose(kept.contexts.hidden, before.hidden, atol=1e-2)


def test_words_are_learned_replayed_and_begun_anew_one_after_another(
    tiny, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(adversarial_words, "WORD_STEPS", 8)
    monkeypatch.setattr(adversarial_words, "REMEMBERED", 1)
    words = Words(tiny, "dog", "cat", torch.Generator().manual_seed(0))
    table = tiny.text_encoder.get_input_embeddings().weight.detach()
    begun = [each for each, _ in words.learned]
    first = [vectors["text_encoder"].detach().clone() for vectors in begun]
    number = tiny.tokenizer.convert_tokens_to_ids("dog</w>")
    assert torch.equal(first[0], table[number]) and torch.allclose(first[1], table.mean(0))
    for step in range(9):
        words.follow(words.contexts().hidden.square().mean((1, 2)), torch.full((4,), 1e9), step)
        # A new word every two steps: the first after step 2, the second after step 4, …
        same = [vectors is old for (vectors, _), old in zip(words.learned, begun)]
        assert same == [step < 2, step < 4, step < 6, step < 8]
    assert all(not torch.equal(now["text_encoder"], was) for now, was in zip(begun, first))
    assert len(words.past) == 9 * 4
    assert torch.equal(words.past[0]["text_encoder"], first[0])
    words.past = words.past[:1]
    with inserted(tiny, words.borrowed, {"text_encoder": first[0]}), torch.no_grad():
        expected = tiny.encode(words.ids).hidden
    read = words.replayed(1).hidden
    assert any(torch.allclose(read[0], each, atol=1e-5) for each in expected)


def test_a_word_that_explains_the_images_worse_than_the_target_is_harmless(
    tiny, monkeypatch: pytest.MonkeyPatch
):
    """By a running mean, since a single image says little."""
    monkeypatch.setattr(adversarial_words, "REMEMBERED", 1)
    words = Words(tiny, "dog", "cat", torch.Generator().manual_seed(0))
    assert not words.harmful().any()  # nothing is known of a new word

    def measured(*ratios: float) -> list[bool]:
        errors = words.contexts().hidden.square().mean((1, 2))
        words.follow(errors, errors.detach() / torch.tensor(ratios), 0)
        return words.harmful().tolist()

    assert measured(0.5, 1.0, 1.3, 9.0) == [True, True, False, False]
    assert measured(9.0, 1.0, 0.1, 1.0) == [False, True, True, False]
    assert len(words.past) == 4


def test_a_word_descends_towards_the_concepts_images(tiny):
    """Against a network that is not trained, its loss on fixed images falls."""
    generator = torch.Generator().manual_seed(0)
    latents = concept_latents(tiny, ["a dog"] * 4, guidance=1.0, seed=0, observer=Silent())
    noisy, t, truth = noised(tiny, latents, generator)
    words = Words(tiny, "dog", "cat", torch.Generator().manual_seed(0))

    def errors(contexts: Context) -> Tensor:
        return (tiny.denoise(noisy, t, contexts).float() - truth).square().mean((1, 2, 3))

    losses = []
    for step in range(40):
        now = errors(words.contexts())
        words.follow(now, torch.ones(4), step)
        losses.append(now.mean().item())
    assert sum(losses[-5:]) < sum(losses[:5])


def test_the_denoiser_is_led_away_whatever_it_reads(monkeypatch: pytest.MonkeyPatch):
    """On the embedded model, at images and in contexts that the training did not see."""
    monkeypatch.setattr(image_requests, "REPEATS", 12)
    model = models.load(base.resolve("demo"), device="cpu", dtype="float32")
    preserve = ("a house", "a fish", "a car", "a wave", "a guitar", "a rabbit")
    task = Task(PAIRS, preserve=preserve)
    asked = settings(finetune=25, guidance=4.5)
    # Other seeds: other images, other noise.
    generator = torch.Generator().manual_seed(5)
    held = subject(model, PAIRS, asked, {}, 77, generator, Silent()).requests
    strange = encoded(model, ["a volcano", "rain", "blue pen on lined paper"])
    contexts = strange[torch.arange(len(held.noisy)) % 3]
    other = Kept.of(model, Task((), preserve, seed=77), asked, {}, generator, Silent())

    def errors(student: Student) -> tuple[float, float]:
        with torch.no_grad():
            led = student.predict(held.noisy, held.t, contexts)
            stays = student.predict(
                other.requests.noisy, other.requests.t, other.contexts[other.reads]
            )
        return (
            float(F.mse_loss(led, held.wanted)),
            float(F.mse_loss(stays, other.requests.wanted)),
        )

    changes, losses, _ = unlearn(model, task, asked, {}, {}, Silent())
    names = trained_names(model, "all")
    before, _ = errors(Student(model, names))
    after, moved = errors(Student(model, names, changes))
    assert len(losses) == 25
    assert after < 0.85 * before
    assert moved < 0.2 * (before - after)


def test_every_concept_has_its_steps_and_an_interruption_leaves_the_model_as_it_was(tiny):
    class Interrupted(Silent):
        def advance(self, count: int = 1, **figures: float) -> None:
            if "loss" in figures:
                raise KeyboardInterrupt

    task = Task((), preserve=("", "a house"), concepts=(PAIRS[:1], PAIRS[1:]))
    encoder = edited_encoder(tiny)
    before = {name: value.clone() for name, value in tiny.text_encoder.state_dict().items()}
    weights = {name: value.clone() for name, value in tiny.unet.state_dict().items()}
    with pytest.raises(KeyboardInterrupt):
        unlearn(tiny, task, settings(), encoder, {}, Interrupted())
    assert all(torch.equal(tiny.text_encoder.state_dict()[n], v) for n, v in before.items())
    _, losses, _ = unlearn(tiny, task, settings(), encoder, {}, Silent())
    assert len(losses) == 4
    assert all(torch.equal(tiny.unet.state_dict()[n], v) for n, v in weights.items())


def test_batches_predicted_apart_have_the_values_and_gradients_of_one_batch(tiny):
    """So the words' own rows can be kept apart in the training."""
    student = Student(tiny, trained_names(tiny, "all"))
    noisy = torch.randn((3, *tiny.latent_shape), generator=torch.Generator().manual_seed(0))
    t, contexts = torch.tensor([10, 500, 900]), encoded(tiny, ["a dog", "a cat", "a house"])
    slopes = []
    parts = [(noisy[rows], t[rows], contexts[rows]) for rows in (slice(0, 1), slice(1, 3))]
    for found in ([student.predict(noisy, t, contexts)], student.predict_each(parts)):
        loss = torch.cat(found).square().sum()
        slopes.append((loss, *torch.autograd.grad(loss, list(student.changes.values()))))
    for whole, apart in zip(*slopes):
        size = float(whole.detach().abs().max())
        assert torch.allclose(whole, apart, rtol=1e-3, atol=1e-4 * size)
    alone = student.predict(*parts[1]).square().sum()
    assert not torch.allclose(slopes[0][0], alone, rtol=1e-3)


def test_concepts_that_inversion_still_brings_back_are_trained_again(
    tiny, monkeypatch: pytest.MonkeyPatch
):
    """As often as asked, and with a note if one is left."""
    task = Task((), preserve=("", "a house"), concepts=(PAIRS[:1], PAIRS[1:]))
    notes: list[str] = []

    def ratio(model, student, concept, *others) -> float:
        return {"a dog": 1.3, "a puppy": 1.1}[concept.concept]

    class Noted(Silent):
        def note(self, message: str) -> None:
            notes.append(message)

    monkeypatch.setattr(image_unlearning, "loss_ratio", ratio)
    _, losses, recalls = unlearn(tiny, task, settings(finetune_repeats=2), {}, {}, Noted())
    assert len(losses) == 2 * 2 + 2 + 2
    assert recalls == [
        Recall(1, "a dog", 1.3),
        *(Recall(turn, "a puppy", 1.1) for turn in (1, 2, 3)),
    ]
    said = "inversion still brings back 'a puppy': "
    assert notes == [said + "trained again"] * 2 + [said + "not trained again"]
    _, losses, recalls = unlearn(tiny, task, settings(), {}, {}, Noted())
    assert len(losses) == 4 and not recalls and len(notes) == 3


@pytest.mark.parametrize("blank", [False, True])
def test_a_word_brings_back_what_the_unedited_model_knows_and_nothing_from_a_blank_one(blank: bool):
    """The blank denoiser predicts zero, whatever it reads."""
    model = models.load(base.resolve("demo"), device="cpu", dtype="float32")
    generator = torch.Generator().manual_seed(0)
    student = Student(model, trained_names(model, "all"))
    if blank:
        for name in ("conv_out.weight", "conv_out.bias"):
            student.changes[name].data.copy_(-model.denoiser.get_parameter(name))
    before = {name: value.clone() for name, value in model.denoiser.state_dict().items()}
    concept = subject(model, PAIRS, settings(guidance=4.5), {}, 0, generator, Silent())
    found = loss_ratio(model, student, concept, settings(budget=30), 0, Silent())
    assert Recall(1, concept.concept, found).succeeded is not blank
    assert all(torch.equal(model.denoiser.state_dict()[n], v) for n, v in before.items())


def test_a_model_with_two_text_encoders_learns_its_words_in_both(tmp_path: Path):
    model = models.load(base.resolve(tiny_sdxl(tmp_path / "xl")), device="cpu", dtype="float32")
    words = Words(model, "dog", "cat", torch.Generator().manual_seed(0))
    first = {name: vector.detach().clone() for name, vector in words.learned[0][0].items()}
    assert set(first) == {"text_encoder", "text_encoder_2"}
    words.follow(words.contexts().hidden.square().mean((1, 2)), torch.ones(4), 0)
    after, _ = words.learned[0]
    assert all(not torch.equal(after[name], vector) for name, vector in first.items())
    changes, losses, _ = unlearn(
        model, Task(PAIRS, preserve=("", "a house")), settings(), {}, {}, Silent()
    )
    assert len(losses) == 2 and all(bool(change.any()) for change in changes.values())
