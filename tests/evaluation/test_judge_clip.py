"""The judge `clip` on a tiny CLIP of the real architecture, against transformers' own joint forward
pass.
"""

from __future__ import annotations

import json
import math
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from judge_models import pictures, tiny_clip, tiny_llava
from safetensors.torch import load_file, save_file

from forgetcli.errors import ForgetError
from forgetcli.evaluation import judges
from forgetcli.evaluation.pretrained import find

ANIMALS = ("cat", "dog", "house")
STYLES = (
    "van gogh",
    "monet",
    "a starry night by van gogh",
)  # of different lengths: padded in a batch


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tiny_clip(tmp_path_factory.mktemp("clip"))


def judge(folder: Path, **options):
    return judges.load("clip", "cpu", {"model": str(folder), **options})


def embeddings(folder: Path, picture, text: str):
    """One picture and one text through the whole model: (unit features of the picture, of the text,
    cosine × scale).
    """
    from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

    tokens = CLIPTokenizer.from_pretrained(folder)(text, return_tensors="pt")
    pixels = CLIPImageProcessorPil.from_pretrained(folder)(picture, return_tensors="pt")
    with torch.no_grad():
        out = CLIPModel.from_pretrained(folder)(**tokens, **pixels)
    return out.image_embeds[0], out.text_embeds[0], float(out.logits_per_image)


def softmax(logits: dict[str, float]) -> dict[str, float]:
    total = sum(math.exp(x) for x in logits.values())
    return {name: math.exp(x) / total for name, x in logits.items()}


def code_of(call) -> str:
    with pytest.raises(ForgetError) as caught:
        call()
    assert caught.value.hint
    return caught.value.code


def test_a_score_is_the_softmax_over_the_alternatives_of_the_models_own_logits(folder):
    shown, asked = pictures(3), ("cat", "monet", "van gogh")
    among = (ANIMALS, STYLES, STYLES)
    for picture, label, names, sight in zip(
        shown, asked, among, judge(folder).see(shown, asked, among)
    ):
        chances = softmax(
            {name: embeddings(folder, picture, f"a picture of {name}")[2] for name in names}
        )
        assert sight.score == pytest.approx(chances[label], abs=1e-5)
        assert sight.judged == max(chances, key=chances.get)
        assert sight.seen == (sight.judged == label)
        assert max(chances.values()) - min(chances.values()) > 0.05  # the control: they do differ


def test_of_the_alternatives_exactly_one_is_seen(folder):
    for picture in pictures(4):
        sights = judge(folder).see([picture] * 3, ANIMALS, [ANIMALS] * 3)
        assert sum(s.seen for s in sights) == 1
        assert sum(s.score for s in sights) == pytest.approx(1)


def test_neither_the_order_of_the_labels_nor_the_batch_decides_but_the_alternatives_do(folder):
    shown, asked = pictures(5), ("cat", "dog", "house", "cat", "dog")
    first = judge(folder).see(shown, asked, [ANIMALS] * 5)
    assert judge(folder).see(shown, asked, [ANIMALS[::-1]] * 5) == first
    small = judge(folder, batch=2).see(shown, asked, [ANIMALS] * 5)
    assert [s.judged for s in small] == [s.judged for s in first]
    assert [s.score for s in small] == pytest.approx([s.score for s in first], abs=1e-5)
    others = judge(folder).see(shown, asked, [(*ANIMALS, "monet")] * 5)
    assert all(b.score < a.score for a, b in zip(first, others))


def test_several_templates_are_averaged_as_unit_vectors(folder):
    picture, templates = pictures(1)[0], ("a picture of {}", "a painting of a {} by monet")
    [sight] = judge(folder, templates="|".join(templates)).see([picture], ["cat"], [ANIMALS])
    logits = {}
    for name in ANIMALS:
        pairs = [
            embeddings(folder, picture, template.replace("{}", name)) for template in templates
        ]
        mean = (pairs[0][1] + pairs[1][1]) / 2
        logits[name] = float(pairs[0][0] @ mean / mean.norm()) * math.exp(2.0)
    assert sight.score == pytest.approx(softmax(logits)["cat"], abs=1e-5)
    assert abs(sight.score - judge(folder).see([picture], ["cat"], [ANIMALS])[0].score) > 1e-3


def test_clip_score_is_a_hundred_times_the_cosine_and_never_negative(folder):
    shown = pictures(4)
    prompts = ("a cat", "a painting of a house by van gogh", "a cat", "starry night")
    cosines = [
        float(a @ b) for a, b, _ in (embeddings(folder, p, t) for p, t in zip(shown, prompts))
    ]
    assert min(cosines) < 0 < max(cosines)  # else half of the claim is not tested
    assert judge(folder).clip_score(shown, prompts) == pytest.approx(
        [100 * max(c, 0) for c in cosines], abs=1e-3
    )
    assert judge(folder, batch=3).clip_score(shown, prompts) == pytest.approx(
        [100 * max(c, 0) for c in cosines], abs=1e-3
    )


def test_a_long_prompt_is_cut_off_and_a_long_label_refused(folder):
    shown = pictures(1)
    long = " ".join(["cat"] * 22)  # with the two ends, the 24 tokens that there are
    assert judge(folder).clip_score(shown, [long + " dog"]) == judge(folder).clip_score(
        shown, [long]
    )
    assert (
        code_of(lambda: judge(folder).see(shown, [long], [(long, "dog")])) == "judge.label-too-long"
    )


def test_a_concept_without_alternatives_is_an_error(folder):
    for choices in ([("cat",)], [()], None):
        assert (
            code_of(partial(judge(folder).see, pictures(1), ["cat"], choices))
            == "judge.nothing-to-compare"
        )
    assert len(judge(folder).see(pictures(1), ["cat"], [("cat", "dog")])) == 1


def test_any_words_are_a_label(folder):
    assert judge(folder).label("A Night in Arles", "starry_night") == "A Night in Arles"


def test_the_identity_is_of_the_content_not_of_the_place(folder, tmp_path):
    def identity(place: Path) -> dict:
        return {k: v for k, v in judge(place).identity().items() if k != "model"}

    first = identity(folder)
    assert json.loads(json.dumps(first)) == first
    copied = Path(shutil.copytree(folder, tmp_path / "copy"))
    assert identity(copied) == first
    (copied / "preprocessor_config.json").write_text(
        (copied / "preprocessor_config.json").read_text().replace("0.48145466", "0.5")
    )
    assert identity(copied) == first | {"config_digest": identity(copied)["config_digest"]} != first
    assert identity(tiny_clip(tmp_path / "other", seed=1))["digest"] != first["digest"]
    assert judge(folder, templates="{}").identity()["templates"] == ["{}"]


@pytest.mark.parametrize(
    "damage, code",
    [
        (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), "model.pickle"),
        (lambda f: (f / "config.json").unlink(), "model.not-a-model"),
        (
            lambda f: (f / "model.safetensors").write_bytes(
                (f / "model.safetensors").read_bytes()[:-9]
            ),
            "model.damaged",
        ),
        (
            lambda f: _without(f / "model.safetensors", "visual_projection.weight"),
            "model.damaged",
        ),  # transformers makes one up
        (
            lambda f: (f / "vocab.json").unlink(),
            "model.not-a-model",
        ),  # … and a tokenizer to which all words are the same
        (lambda f: (f / "preprocessor_config.json").write_text("{"), "model.unreadable"),
    ],
)
def test_a_damaged_model_is_one_clear_error(folder, tmp_path, damage, code):
    copied = Path(shutil.copytree(folder, tmp_path / "copy"))
    damage(copied)
    assert code_of(lambda: judge(copied)) == code


def _without(file: Path, name: str) -> None:
    tensors = load_file(file)
    del tensors[name]
    save_file(tensors, file, metadata={"format": "pt"})


def test_features_that_are_not_finite_are_an_error(folder):
    broken = judge(folder)
    broken.network.visual_projection.weight.fill_(float("nan"))
    assert code_of(lambda: broken.see(pictures(1), ["cat"], [ANIMALS])) == "judge.not-finite"


def test_another_kind_of_model_is_an_error(tmp_path):
    assert code_of(lambda: judge(tiny_llava(tmp_path / "llava"))) == "judge.not-clip"


def test_a_package_that_a_model_needs_is_named(folder):
    class Processor:
        @staticmethod
        def from_pretrained(*_, **__):
            raise ImportError(
                "\nVideoProcessor requires the Torchvision library but it was not found. "
                "Check out\nthe page"
            )

    with pytest.raises(ForgetError) as caught:
        find(str(folder)).part("processor", Processor)
    assert caught.value.message.endswith(
        "VideoProcessor requires the Torchvision library but it was not found"
    )
    assert caught.value.hint == "pip install torchvision"


def test_options_are_checked(folder):
    for bad in ({"templates": "a picture"}, {"templates": []}, {"batch": 0}, {"temperature": 1}):
        assert code_of(partial(judge, folder, **bad)).startswith("judge.")


class TestHub:
    @pytest.fixture(autouse=True)
    def cache(self, monkeypatch, tmp_path) -> Path:
        from huggingface_hub import constants

        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        return tmp_path / "hub"

    def test_a_model_that_is_nowhere_is_one_clear_error_with_the_command_that_fetches_it(self):
        with pytest.raises(ForgetError) as caught:
            judges.load("clip", "cpu")
        assert caught.value.code == "model.not-found"
        assert "openai/clip-vit-large-patch14" in caught.value.message
        assert "hf download openai/clip-vit-large-patch14 --include" in caught.value.hint
        assert code_of(lambda: judge(Path("/no/such/folder"))) == "model.not-found"

    def test_a_cached_model_is_used_without_network_and_its_commit_recorded(
        self, folder, cache, monkeypatch
    ):
        from huggingface_hub import HfApi, constants

        def called(*_, **__):
            raise AssertionError("the network was asked")

        commit = "0123456789abcdef0123456789abcdef01234567"
        place = cache / "models--org--tiny"
        shutil.copytree(folder, place / "snapshots" / commit)
        (place / "refs").mkdir()
        (place / "refs" / "main").write_text(commit)
        with monkeypatch.context() as online:
            online.setattr(constants, "HF_HUB_OFFLINE", False)
            online.setattr(HfApi, "repo_info", called)
            found = judges.load("clip", "cpu", {"model": "org/tiny"}).identity()
        assert (found["model"], found["revision"]) == ("org/tiny", commit)
        assert found["digest"] == judge(folder).identity()["digest"]
        assert (
            code_of(lambda: judges.load("clip", "cpu", {"model": "org/tiny", "revision": "v2"}))
            == "model.not-found"
        )
