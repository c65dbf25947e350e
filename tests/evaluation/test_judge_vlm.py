"""The judge `vlm` on a tiny LLaVA of the real architecture, against forward passes of one picture
without padding.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from judge_models import WORDS, pictures, tiny_clip, tiny_llava

from forgetcli.errors import ForgetError
from forgetcli.evaluation import judges
from forgetcli.evaluation.judges.vlm import answer_tokens

LABELS = (
    "a cat",
    "painting by Van Gogh with nothing in the starry night",
    "starry night",
    "Van Gogh",
)  # of 2 to 10 tokens
TEMPLATE = (
    "<s>{% for m in messages %}USER : {% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<image>{% else %}{{ c['text'] }}{% endif %}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %} ASSISTANT :{% endif %}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tiny_llava(tmp_path_factory.mktemp("llava"))


@pytest.fixture(scope="module")
def judge(folder):
    return judges.load("vlm", "cpu", {"model": str(folder), "batch": 3})


def alone(folder: Path, picture, text: str) -> tuple[float, float]:
    """p(yes) and p(no) after a text with its four image tokens, by one plain forward pass."""
    from transformers import AutoTokenizer, CLIPImageProcessorPil, LlavaForConditionalGeneration

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokens = torch.tensor(
        [
            tokenizer.convert_tokens_to_ids(["<s>"])
            + tokenizer(text, add_special_tokens=False)["input_ids"]
        ]
    )
    pixels = CLIPImageProcessorPil(
        size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}
    )(picture, return_tensors="pt")
    model = LlavaForConditionalGeneration.from_pretrained(folder)
    with torch.no_grad():
        chances = (
            model(input_ids=tokens, pixel_values=pixels["pixel_values"])
            .logits[0, -1]
            .double()
            .softmax(0)
        )
    return tuple(
        float(sum(chances[tokenizer.convert_tokens_to_ids(w)] for w in words))
        for words in (("yes", "Yes"), ("no", "No"))
    )


def asked(label: str) -> str:
    question = f"Is {label} visible in this picture? Answer yes or no."
    return f"USER: <image><image><image><image>\n{question} ASSISTANT:"


def code_of(call) -> str:
    with pytest.raises(ForgetError) as caught:
        call()
    assert caught.value.hint
    return caught.value.code


def test_batched_answers_are_those_of_each_picture_alone(folder, judge):
    shown = pictures(4)
    sights = judge.see(shown, LABELS)
    for picture, label, sight in zip(shown, LABELS, sights):
        yes, no = alone(folder, picture, asked(label))
        assert sight.score == pytest.approx(yes / (yes + no), abs=1e-5)
        assert sight.judged == ("yes" if yes > no else "no")
    assert len({round(s.score, 3) for s in sights}) == 4  # else anything would agree with anything


def test_with_padding_on_the_right_they_are_not(judge, monkeypatch):
    """The control of the test above: it does notice where the next token's logits are read."""
    left = judge.see(pictures(4), LABELS)
    monkeypatch.setattr(judge.tokenizer, "padding_side", "right")
    right = judge.see(pictures(4), LABELS)
    assert abs(right[0].score - left[0].score) > 1e-3  # padded
    assert right[1].score == pytest.approx(
        left[1].score, abs=1e-6
    )  # the longest of its batch, not padded


def test_the_answer_depends_on_the_picture_and_on_the_label(judge):
    one, other = pictures(2)
    scores = [s.score for s in judge.see([one, other, one], ["a cat", "a cat", "Van Gogh"])]
    assert abs(scores[0] - scores[1]) > 1e-4 and abs(scores[0] - scores[2]) > 1e-4


def test_seen_is_a_score_of_at_least_the_threshold(folder, judge):
    shown, [score] = pictures(1), [s.score for s in judge.see(pictures(1), ["a cat"])]
    for threshold, seen in ((score - 1e-4, True), (score + 1e-4, False)):
        [sight] = judges.load("vlm", "cpu", {"model": str(folder), "threshold": threshold}).see(
            shown, ["a cat"]
        )
        assert (sight.seen, sight.judged, sight.score) == (
            seen,
            "yes" if seen else "no",
            pytest.approx(score, abs=1e-6),
        )


def test_a_model_that_says_something_else_has_not_said_no(tmp_path):
    silent = str(tiny_llava(tmp_path / "silent", says=-6))
    shown = pictures(1)
    assert (
        code_of(lambda: judges.load("vlm", "cpu", {"model": silent}).see(shown, ["a cat"]))
        == "judge.no-answer"
    )
    [sight] = judges.load("vlm", "cpu", {"model": silent, "min_answer_mass": "0"}).see(
        shown, ["a cat"]
    )
    assert 0 < sight.score < 1  # the control: there would have been a number


def test_logits_that_are_not_finite_are_an_error(judge, monkeypatch):
    whole = judge.network.lm_head.forward
    monkeypatch.setattr(
        judge.network.lm_head, "forward", lambda hidden: whole(hidden) * float("nan")
    )
    assert code_of(lambda: judge.see(pictures(1), ["a cat"])) == "judge.not-finite"


def test_a_chat_template_is_used_and_its_first_token_not_doubled(tmp_path):
    folder = tiny_llava(tmp_path / "chat", chat_template=TEMPLATE)
    judge = judges.load("vlm", "cpu", {"model": str(folder)})
    assert judge.identity()["format"] == "chat template"
    question = "Is {} visible in this picture? Answer yes or no."
    text = f"USER : <image><image><image><image>{question} ASSISTANT :"
    for label, sight in zip(LABELS[:2], judge.see(pictures(1) * 2, LABELS[:2])):
        yes, no = alone(folder, pictures(1)[0], text.format(label))
        assert sight.score == pytest.approx(yes / (yes + no), abs=1e-5)
        twice = alone(folder, pictures(1)[0], "<s>" + text.format(label))
        assert abs(sight.score - twice[0] / sum(twice)) > 1e-4


def test_the_prompt_is_an_option(folder):
    judge = judges.load("vlm", "cpu", {"model": str(folder), "prompt": "{} or nothing?"})
    yes, no = alone(
        folder, pictures(1)[0], "USER: <image><image><image><image>\na cat or nothing? ASSISTANT:"
    )
    assert judge.see(pictures(1), ["a cat"])[0].score == pytest.approx(yes / (yes + no), abs=1e-5)


def test_answer_tokens_are_whole_words_in_any_spelling():
    vocabulary = {
        "yes": 1,
        "▁Yes": 2,
        "ĠYES": 3,
        "no": 4,
        "▁No": 5,
        "▁": 6,
        "Y": 7,
        "N": 8,
        "yesterday": 9,
        "▁not": 10,
    }
    assert answer_tokens(vocabulary) == ((1, 2, 3), (4, 5))
    for lacking in ({"yes": 1, "no": 1}, {"Y": 1, "no": 2}, {"yes": 1, "N": 2}, {}):
        assert code_of(partial(answer_tokens, lacking)) == "judge.no-answer-tokens"


def test_a_tokenizer_without_the_words_is_an_error(tmp_path):
    mute = tiny_llava(tmp_path / "mute", words=tuple(w for w in WORDS if w.lower() != "yes"))
    assert (
        code_of(lambda: judges.load("vlm", "cpu", {"model": str(mute)})) == "judge.no-answer-tokens"
    )


def test_the_identity_says_what_was_asked_how_and_of_which_weights(folder, judge):
    identity = judge.identity()
    assert json.loads(json.dumps(identity)) == identity
    assert identity["prompt"] == "Is {} visible in this picture? Answer yes or no."
    assert (
        identity["format"],
        identity["threshold"],
        identity["min_answer_mass"],
        identity["dtype"],
    ) == ("LLaVA-1.5", 0.5, 0.1, "float32")
    assert len(identity["digest"]) == len(identity["config_digest"]) == 64
    half = judges.load("vlm", "cpu", {"model": str(folder), "dtype": "bfloat16"})
    assert half.identity() == identity | {"dtype": "bfloat16"}
    assert half.see(pictures(1), ["a cat"])[0].score == pytest.approx(
        judge.see(pictures(1), ["a cat"])[0].score, abs=0.1
    )
    assert judge.label("Van Gogh", "van_gogh") == "Van Gogh"


def test_another_kind_of_model_or_none_is_one_clear_error(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    assert (
        code_of(lambda: judges.load("vlm", "cpu", {"model": str(tiny_clip(tmp_path / "clip"))}))
        == "judge.not-vlm"
    )
    with pytest.raises(ForgetError) as caught:
        judges.load("vlm", "cpu")
    assert (
        caught.value.code == "model.not-found"
        and "hf download llava-hf/llava-1.5-7b-hf" in caught.value.hint
    )
    for bad in (
        {"prompt": "Is it there?"},
        {"threshold": 1},
        {"dtype": "int8"},
        {"min_answer_mass": 2},
        {"batch": 0},
    ):
        assert code_of(partial(judges.load, "vlm", "cpu", bad)) == "judge.bad-option"
