"""Claim: ComfyUI and A1111 find every key that is exported, and put it where it belongs.

Neither is here. What their loaders do with names is stated below as rules, read off their sources;
a LoRA is then put, by these rules, onto the
base's single file, and must make it the edited one's. docs/export.md says what was seen of the
loaders themselves.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from safetensors.torch import load_file
from test_export import edit, realistic

from forgetcli import export as exports
from forgetcli.checkpoint import base as checkpoint
from forgetcli.models import components

DENOISER = "model.diffusion_model."
ENDS = (".lora_up.weight", ".lora_down.weight", ".alpha")
LAYERS = "text_model_encoder_layers_"  # both look for text encoder layers of this name
OPEN_CLIP = {"mlp_fc1": "mlp.c_fc", "mlp_fc2": "mlp.c_proj", "self_attn_out_proj": "attn.out_proj"}
CLIP = {
    "mlp_fc1": "mlp.fc1",
    "mlp_fc2": "mlp.fc2",
    **{f"self_attn_{x}_proj": f"self_attn.{x}_proj" for x in ("q", "k", "v", "out")},
}
RESNET = {
    "conv1": "in_layers.2",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
TOP = {
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
    "time_embedding_linear_1": "time_embed.0",
    "time_embedding_linear_2": "time_embed.2",
}
OF_XL = {"add_embedding_linear_1": "label_emb.0.0", "add_embedding_linear_2": "label_emb.0.2"}
NOT_IN_A1111 = {
    "lora_unet_add_embedding_linear_1",
    "lora_unet_add_embedding_linear_2",
    "lora_unet_up_blocks_0_upsamplers_0_conv",
    "lora_te2_text_projection",
}


@dataclass(frozen=True)
class Place:
    """A tensor of the single file; `third`: which part of q, k and v in one."""

    key: str
    third: int | None = None


Rules = Callable[[str, dict[str, torch.Tensor]], Place | None]


def of_denoiser(
    name: str, file: dict[str, torch.Tensor], top: dict[str, str], upsampler: Callable[[int], int]
) -> Place | None:
    """``lora_unet_`` and a diffusers layer's name: blocks are counted three a level, which two
    layers a block give.
    """
    flat = {
        key.removeprefix(DENOISER).removesuffix(".weight").replace(".", "_"): key
        for key in file
        if key.startswith(DENOISER) and key.endswith(".weight")
    }  # modules are found without their dots
    if name in top:
        wanted = top[name]
    elif found := re.fullmatch(r"(down|up)_blocks_(\d)_(resnets|attentions)_(\d)_(.+)", name):
        side, block, kind, layer, rest = found[1], int(found[2]), found[3], int(found[4]), found[5]
        stem = (
            f"input_blocks.{1 + 3 * block + layer}"
            if side == "down"
            else f"output_blocks.{3 * block + layer}"
        )
        wanted = f"{stem}.0.{RESNET[rest]}" if kind == "resnets" else f"{stem}.1.{rest}"
    elif found := re.fullmatch(r"mid_block_(resnets|attentions)_(\d)_(.+)", name):
        wanted = (
            f"middle_block.{2 * int(found[2])}.{RESNET[found[3]]}"
            if found[1] == "resnets"
            else f"middle_block.1.{found[3]}"
        )
    elif found := re.fullmatch(r"down_blocks_(\d)_downsamplers_0_conv", name):
        wanted = f"input_blocks.{3 + 3 * int(found[1])}.0.op"
    elif found := re.fullmatch(r"up_blocks_(\d)_upsamplers_0_conv", name):
        wanted = f"output_blocks.{2 + 3 * int(found[1])}.{upsampler(int(found[1]))}.conv"
    else:
        return None
    key = flat.get(wanted.replace(".", "_"))
    return Place(key) if key else None


def of_text(name: str, file: dict[str, torch.Tensor], clip: str, open_clip: str) -> Place | None:
    """A text encoder's layer, in whichever of the two layouts the file has."""
    number, _, layer = name.removeprefix(LAYERS).partition("_")
    if not name.startswith(LAYERS) or layer not in CLIP:
        return None
    key = f"{clip}text_model.encoder.layers.{number}.{CLIP[layer]}.weight"
    if key in file:
        return Place(key)
    block = f"{open_clip}transformer.resblocks.{number}."
    if layer in OPEN_CLIP:
        place = Place(f"{block}{OPEN_CLIP[layer]}.weight")
    else:
        place = Place(
            f"{block}attn.in_proj_weight",
            ["self_attn_q_proj", "self_attn_k_proj", "self_attn_v_proj"].index(layer),
        )
    return place if place.key in file else None


def comfyui(name: str, file: dict[str, torch.Tensor]) -> Place | None:
    xl = "conditioner.embedders.1.model.ln_final.weight" in file
    if name.startswith("lora_unet_"):
        attended = (
            f"{DENOISER}output_blocks.2.1.norm.weight" in file
        )  # told from the file, block by block
        return of_denoiser(
            name.removeprefix("lora_unet_"),
            file,
            TOP | OF_XL,
            lambda block: 2 if block or attended else 1,
        )
    if name == "lora_te2_text_projection" and xl:
        return Place("conditioner.embedders.1.model.text_projection")
    first = (
        ("conditioner.embedders.0.transformer.", "")
        if xl
        else ("cond_stage_model.transformer.", "cond_stage_model.model.")
    )
    return _of_encoders(
        name,
        file,
        {
            "lora_te_": first,
            "lora_te1_": first,
            "lora_te2_": ("", "conditioner.embedders.1.model."),
        },
    )


def a1111(name: str, file: dict[str, torch.Tensor]) -> Place | None:
    if name.startswith("lora_unet_"):
        return of_denoiser(
            name.removeprefix("lora_unet_"), file, TOP, lambda block: 2 if block else 1
        )  # as 1.x and 2.x have it
    return _of_encoders(
        name,
        file,
        {
            "lora_te_": ("cond_stage_model.transformer.", "cond_stage_model.model."),
            "lora_te1_": ("conditioner.embedders.0.transformer.", ""),
            "lora_te2_": ("", "conditioner.embedders.1.model."),
        },
    )


def _of_encoders(
    name: str, file: dict[str, torch.Tensor], prefixes: dict[str, tuple[str, str]]
) -> Place | None:
    for prefix, (clip, open_clip) in prefixes.items():
        if name.startswith(prefix):
            return of_text(name.removeprefix(prefix), file, clip, open_clip)
    return None


def put(
    lora: dict[str, torch.Tensor], file: dict[str, torch.Tensor], rules: Rules
) -> tuple[dict[str, torch.Tensor], set[str]]:
    """The single file with the LoRA at strength 1 on it, and the names that were not found."""
    made, lost = {key: value.float() for key, value in file.items()}, set()
    for name in sorted({name.partition(".")[0] for name in lora}):
        assert all(name + end in lora for end in ENDS)
        up, down, alpha = (lora[name + end] for end in ENDS)
        change = (up.flatten(1) @ down.flatten(1)) * (alpha / len(down))
        place = rules(name, file)
        if place is None:
            lost.add(name)
            continue
        target = made[place.key] if place.third is None else made[place.key].chunk(3)[place.third]
        change = change.T if place.key.endswith("text_projection") else change
        target += change.reshape(target.shape)
    return made, lost


@dataclass(frozen=True)
class Exported:
    base: dict[str, torch.Tensor]
    edited: dict[str, torch.Tensor]
    kohya: dict[str, torch.Tensor]
    diffusers: dict[str, torch.Tensor]
    layers: int


@pytest.fixture(scope="module", params=["1", "2", "xl"])
def exported(request, tmp_path_factory) -> Exported:
    """An edit of every weight that a LoRA can hold, in every form, of a model with the blocks of
    Stable Diffusion 1.x, 2.x or XL.
    """
    place = tmp_path_factory.mktemp("uis")
    base = realistic(place / "base", request.param)
    resolved, keys = checkpoint.resolve(base), []
    for component in ("text_encoder", *["text_encoder_2"] * (request.param == "xl"), "unet"):
        keys += [
            (component, key.removeprefix("text_model."))
            for key, shape in components.shapes(resolved, component).items()
            if key.endswith(".weight")
            and len(shape) in (2, 4)
            and "embedding" not in key.split(".")[-2]
        ]
    edited, same = edit(base, place / "edited", *keys), edit(base, place / "same")
    for name, folder, form, options in (
        ("edited", edited, "single-file", {}),
        ("base", same, "single-file", {}),
        *(
            (naming, edited, "lora", {"naming": naming, "error": 1e-2})
            for naming in ("kohya", "diffusers")
        ),
    ):
        exports.export(folder, form, output=place / f"{name}.safetensors", options=options)
    return Exported(
        *(
            load_file(place / f"{name}.safetensors")
            for name in ("base", "edited", "kohya", "diffusers")
        ),
        len(keys),
    )


@pytest.mark.parametrize("rules", [comfyui, a1111])
def test_a_kohya_lora_on_the_bases_file_gives_the_edited_file(exported, rules):
    made, lost = put(exported.kohya, exported.base, rules)
    xl = "conditioner.embedders.1.model.ln_final.weight" in exported.base
    assert lost == (
        NOT_IN_A1111 if xl and rules is a1111 else set()
    )  # docs/export.md names these; no method here edits them
    changed = {key for key in made if not torch.equal(exported.base[key], exported.edited[key])}
    assert len(changed) > 0.5 * exported.layers  # q, k and v may be one tensor
    missing = set()
    for key in made:
        wanted, old = exported.edited[key].float(), exported.base[key].float()
        if key not in changed:
            assert torch.equal(made[key], old), key  # nothing landed where nothing was edited
        elif float((made[key] - wanted).norm() / (wanted - old).norm()) > 0.03:
            missing.add(key)
    assert len(missing) == len(lost)


@pytest.mark.parametrize("rules", [comfyui, a1111])
def test_other_names_are_not_found(exported, rules):
    """Control: kohya's rules take neither diffusers' names, nor a wrong prefix, nor a block that is
    not there.
    """
    assert all(rules(name.partition(".")[0], exported.base) is None for name in exported.diffusers)
    name = next(name for name in exported.kohya if "mlp_fc2" in name).partition(".")[0]
    assert rules(name, exported.base) is not None
    for wrong in (
        name.replace("lora_te", "lora_text"),
        name.replace("text_model_", ""),
        re.sub(r"layers_\d+", "layers_40", name),
        "lora_unet_down_blocks_9_attentions_0_proj_in",
    ):
        assert rules(wrong, exported.base) is None
    # one layer's change under another's name is seen
    swapped, _ = put(
        exported.kohya
        | {
            key.replace("attn1_to_k", "attn1_to_q"): value
            for key, value in exported.kohya.items()
            if "attn1_to_k" in key
        },
        exported.base,
        rules,
    )
    asked = [key for key in swapped if key.endswith("attn1.to_q.weight")]
    assert asked and all(
        float((swapped[key] - exported.edited[key].float()).abs().max()) > 0.1 for key in asked
    )


def test_the_loaders_tell_the_kind_of_a_single_file_by_these_keys(exported):
    """Each looks for a few names: A1111 to choose the settings, ComfyUI to build the networks."""
    keys = set(exported.edited)
    signs = {
        "1": "cond_stage_model.transformer.text_model.encoder.layers.0.mlp.fc2.weight",
        "2": "cond_stage_model.model.transformer.resblocks.0.attn.in_proj_weight",
        "xl": "conditioner.embedders.1.model.ln_final.weight",
    }
    kind = (
        "xl"
        if "conditioner.embedders.0.transformer.text_model.final_layer_norm.weight" in keys
        else "2"
        if signs["2"] in keys
        else "1"
    )
    assert {name for name, sign in signs.items() if sign in keys} == {kind}
    assert {
        f"{DENOISER}{key}"
        for key in (
            "input_blocks.0.0.weight",
            "out.0.weight",
            "out.2.bias",
            "time_embed.0.weight",
            "middle_block.1.proj_in.weight",
        )
    } < keys
    assert (f"{DENOISER}label_emb.0.0.weight" in keys) == (kind == "xl")
    assert {
        "first_stage_model.decoder.conv_in.weight",
        "first_stage_model.quant_conv.weight",
    } < keys
