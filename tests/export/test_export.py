"""Claims: what is exported is the edited model, to the byte where a format can hold it, within the
stated error where not.
"""

from __future__ import annotations

import json
import os
import shutil
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from pipelines import classic_keys, shard, tiny_sd
from safetensors import safe_open
from safetensors.torch import load_file, save
from tiny_runs import RECIPE, hidden
from typer.testing import CliRunner

from forgetcli import export
from forgetcli import recipe as recipes
from forgetcli.artifact import integrity, manifest, patch, statement
from forgetcli.artifact import manifest as manifests
from forgetcli.checkpoint import base as checkpoint
from forgetcli.checkpoint import ldm, prediction
from forgetcli.cli.app import app
from forgetcli.errors import ForgetError
from forgetcli.export.formats import cyclonedx
from forgetcli.linalg.low_rank import low_rank, rank_for
from forgetcli.models.tensors import read_tensor
from forgetcli.pipeline.apply import apply
from forgetcli.pipeline.apply_delta import apply_delta
from forgetcli.pipeline.log import log
from forgetcli.progress import Silent
from forgetcli.storage import atomic, safetensors_writer
from forgetcli.storage.files import walk_files

FC2 = "encoder.layers.1.mlp.fc2"
TO_K = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
WEIGHTS = "text_encoder/model.safetensors"


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """`sd`, a base in float32; `edited`, a closed-form edit of its text encoder; `half` and
    `half-edited`, the same in float16.
    """
    place = tmp_path_factory.mktemp("export")
    (place / "art.toml").write_text(RECIPE)
    for name, dtype in (("sd", torch.float32), ("half", torch.float16)):
        tiny_sd(place / name, dtype)
        (place / name / "README.md").write_text("# a card\n")
        recipe = recipes.load(place / "art.toml", ("refine.mode=copy",))
        output = place / ("edited" if name == "sd" else "half-edited")
        apply(recipe, model=str(place / name), output=output, device="cpu", strict=False)
    return place


@pytest.fixture
def edited(place: Path) -> Path:
    return place / "edited"


def edit(
    base: Path,
    output: Path,
    *parameters: tuple[str, str],
    rank: int = 2,
    before_writing=lambda staging: None,
) -> Path:
    """An edit by hand: a random change of the given rank to each parameter (any change to what is
    no matrix).
    """
    resolved, weights = checkpoint.resolve(base), {}
    for seed, key in enumerate(parameters):
        weight = read_tensor(resolved.folder, resolved.locate(*key)[0]).double()
        generator = torch.Generator().manual_seed(seed)
        if weight.ndim < 2:
            change = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
        else:
            rows = weight.reshape(len(weight), -1)
            change = (
                torch.randn(len(rows), rank, generator=generator, dtype=torch.float64)
                @ torch.randn(rank, rows.shape[1], generator=generator, dtype=torch.float64)
            ).reshape(weight.shape)
        weights[key] = weight + 0.1 * change
    with atomic.publishing(output, force=False) as staging:
        stored = patch.patch(resolved, staging, weights)
        before_writing(staging)
        statement.write(
            staging,
            base=resolved,
            recipe_bytes=b"[[concepts]]\nconcept = 'van gogh'\n",
            method="uce",
            parameters={},
            stored=stored,
            materials=[],
            report={"sites": []},
            run_details={},
        )
    return output


def code_of(call) -> str:
    with pytest.raises(ForgetError) as error:
        call()
    return error.value.code


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path: (folder / path).read_bytes() for path in walk_files(folder)}


# --- delta -----------------------------------------------------------------


@pytest.mark.parametrize("base", ["sd", "half"])
def test_a_delta_gives_the_edited_folder_back_to_the_byte(place, base, tmp_path):
    edited = place / ("edited" if base == "sd" else "half-edited")
    done = export.export(edited, "delta", output=tmp_path / "d.safetensors")
    names = {tensor.file for tensor in manifest.load(edited).edited}
    assert done.bytes < sum((edited / name).stat().st_size for name in names) and done.figures == {
        "tensors": 2
    }
    made = apply_delta(tmp_path / "d.safetensors", output=tmp_path / "again")
    again, wanted = bytes_of(tmp_path / "again"), bytes_of(edited)
    assert {path for path in wanted if again.get(path) != wanted[path]} == {
        manifests.MANIFEST
    } and again.keys() == wanted.keys()
    assert (
        wanted[WEIGHTS] != (place / base / WEIGHTS).read_bytes()
    )  # control: there was something to bring back
    first, second = (json.loads(files[manifests.MANIFEST]) for files in (wanted, again))
    assert first["subject"] == second["subject"]
    assert first["predicate"]["buildDefinition"] == second["predicate"]["buildDefinition"]
    assert second["predicate"]["runDetails"]["metadata"]["delta"]["name"] == "d.safetensors"
    assert (
        integrity.verify(tmp_path / "again").ok
        and made.method == "nullspace"
        and len(made.sites) == 2
    )
    assert (
        [e.date for e in log(tmp_path / "again").edits]
        == [e.date for e in log(edited).edits]
        != [""]
    )  # the edit's, not the delta's


def test_a_difference_added_again_would_not_be_the_same_bytes(place):
    """Why a delta holds values: (a + (b − a)) is not b in the file's dtype."""
    site = checkpoint.locate(place / "half", "text_encoder", f"{FC2}.weight")
    old, new = (read_tensor(place / name, site) for name in ("half", "half-edited"))
    assert not torch.equal(old + (new - old), new)


def test_a_delta_holds_the_variants_too(tmp_path):
    base = tiny_sd(tmp_path / "base", torch.float32)
    half = {key: value.half() for key, value in load_file(base / WEIGHTS).items()}
    (base / "text_encoder/model.fp16.safetensors").write_bytes(save(half, {"format": "pt"}))
    shard(base / "unet/diffusion_pytorch_model.safetensors")
    edited = edit(
        base,
        tmp_path / "edited",
        ("text_encoder", f"{FC2}.weight"),
        ("unet", f"{TO_K}.weight"),
        ("unet", "conv_in.bias"),
    )
    export.export(edited, "delta", output=tmp_path / "d.safetensors")
    assert len(load_file(tmp_path / "d.safetensors")) == 4
    apply_delta(tmp_path / "d.safetensors", output=tmp_path / "again")
    assert (
        manifest.load(tmp_path / "again").subjects == manifest.load(edited).subjects
        and integrity.verify(tmp_path / "again").ok
    )


def test_a_delta_brings_forgets_own_files_along_and_no_others(place, tmp_path):
    def with_file(name: str, data: bytes) -> Path:
        """A delta of an edit in whose folder forget has put one more file of its own."""
        edited = edit(
            place / "sd",
            tmp_path / f"{name}-edited",
            ("text_encoder", f"{FC2}.weight"),
            before_writing=lambda staging: (staging / name).write_bytes(data),
        )
        export.export(edited, "delta", output=tmp_path / f"{name}.safetensors")
        return tmp_path / f"{name}.safetensors"

    for name, data in (
        ("README.md", "# Ein Modell, mit Umlauten: äöü\r\n".encode()),
        ("forget.more.bin", bytes(range(256))),
    ):
        apply_delta(with_file(name, data), output=tmp_path / f"{name}-again")
        assert (tmp_path / f"{name}-again" / name).read_bytes() == data
    assert (
        code_of(lambda: apply_delta(with_file("run.py", b"print()"), output=tmp_path / "no"))
        == "delta.damaged"
    )


def test_a_delta_refuses_any_other_base(place, edited, tmp_path):
    export.export(edited, "delta", output=tmp_path / "d.safetensors")
    moved = Path(shutil.copytree(place / "sd", tmp_path / "moved"))
    apply_delta(tmp_path / "d.safetensors", model=str(moved), output=tmp_path / "ok")
    with open(moved / "vae/config.json", "a") as file:
        file.write(" ")
    with pytest.raises(ForgetError) as error:
        apply_delta(tmp_path / "d.safetensors", model=str(moved), output=tmp_path / "no")
    assert (
        error.value.code == "delta.other-base" and "vae/config.json differs" in error.value.message
    )
    assert not (tmp_path / "no").exists() and hidden(tmp_path) == []


def test_a_damaged_delta_is_refused(place, edited, tmp_path):
    path = tmp_path / "d.safetensors"
    export.export(edited, "delta", output=path)
    whole = path.read_bytes()
    for spoilt, code in (
        (whole[:-1] + bytes([whole[-1] ^ 1]), "delta.damaged"),
        (whole[:-8], "model.damaged"),
        (whole.replace(b"[[concepts]]", b"[[conceptz]]", 1), "delta.damaged"),
        (b"\0" * 100, "model.damaged"),
    ):
        path.write_bytes(spoilt)
        assert code_of(lambda: apply_delta(path, output=tmp_path / "no")) == code
    assert (
        code_of(lambda: apply_delta(place / "sd" / WEIGHTS, output=tmp_path / "no"))
        == "delta.not-a-delta"
    )
    assert (
        code_of(lambda: apply_delta(tmp_path / "none", output=tmp_path / "no")) == "delta.not-found"
    )
    assert os.listdir(tmp_path) == ["d.safetensors"]


def test_the_headers_say_what_the_file_is(place, edited, tmp_path):
    for name in ("delta", "lora", "single-file"):
        export.export(edited, name, output=tmp_path / name)
        with safe_open(tmp_path / name, "pt") as file:
            metadata = file.metadata()
        assert metadata["modelspec.sai_model_spec"] == "1.0.0"
        assert metadata["modelspec.architecture"] == "stable-diffusion-v1" + {
            "single-file": ""
        }.get(name, f"/{name}")
        assert metadata["modelspec.title"] == "sd without van gogh" and metadata[
            "modelspec.date"
        ].startswith("20")
        assert metadata["forget.base_digest"] == checkpoint.resolve(place / "sd").digest


# --- LoRA ------------------------------------------------------------------


def test_the_rank_is_the_smallest_that_keeps_the_error():
    generator = torch.Generator().manual_seed(0)
    delta_ = torch.randn(20, 30, generator=generator, dtype=torch.float64)
    singular = torch.linalg.svdvals(delta_)
    for error in (0.9, 0.5, 0.1, 1e-3):
        found = low_rank(delta_, error)
        assert float((delta_ - found.up @ found.down).norm() / delta_.norm()) <= error
        smaller = low_rank(delta_, 0, found.rank - 1)
        assert float((delta_ - smaller.up @ smaller.down).norm() / delta_.norm()) > error
    exact = delta_[:, :3] @ delta_[:3]
    assert (
        low_rank(exact, 0).rank == 3
        and rank_for(singular, 0) == 20
        and low_rank(exact, 0, 2).rank == 2
    )


def test_an_edit_of_few_keys_is_a_lora_of_few_ranks(place, tmp_path):
    edited = edit(
        place / "sd",
        tmp_path / "edited",
        ("text_encoder", f"{FC2}.weight"),
        ("text_encoder", "encoder.layers.2.mlp.fc1.weight"),
    )
    done = export.export(edited, "lora", output=tmp_path / "l.safetensors", options={"error": 1e-5})
    base, tensors = (
        checkpoint.resolve(manifest.load(edited).base),
        load_file(tmp_path / "l.safetensors"),
    )
    for row in done.figures["tensors"]:
        old, new = (
            read_tensor(
                folder, checkpoint.locate(folder, "text_encoder", row["parameter"])
            ).double()
            for folder in (base.folder, edited)
        )
        name = (
            f"text_encoder.text_model.{row['parameter'].removesuffix('.weight')}.lora_linear_layer"
        )
        product = tensors[f"{name}.up.weight"].double() @ tensors[f"{name}.down.weight"].double()
        error = float((old + product - new).norm() / (new - old).norm())
        assert error == pytest.approx(row["error"]) and error < 1.1e-5  # as measured, from the file
        assert (row["rank"], row["full_rank"]) == (2, 32)  # as many as `edit` was asked for
        assert float(product.norm()) == pytest.approx(float((new - old).norm()), rel=1e-5)


def test_an_edit_in_float16_has_rounding_noise_and_says_so(place, tmp_path):
    """At a tight error the LoRA needs (nearly) full rank, which a wider one does not: that is the
    noise, and it is reported.
    """
    tight, wide = (
        export.export(
            place / "half-edited", "lora", output=tmp_path / name, options={"error": error}
        ).figures["tensors"]
        for name, error in (("tight", 1e-5), ("wide", 0.05))
    )
    for row, wider in zip(tight, wide):
        assert (
            row["rank"] == row["full_rank"] > wider["rank"]
            and row["error"] <= 1e-5 < wider["error"] <= 0.05
        )
        assert row["stored_error"] > 1e-4 and row["rank_of_edit"] < row["full_rank"]


def pipeline_of(folder: Path):
    from diffusers import StableDiffusionPipeline

    return StableDiffusionPipeline.from_pretrained(
        folder, safety_checker=None, torch_dtype=torch.float32
    )


def all_weights(pipe) -> dict[str, torch.Tensor]:
    """Weights of text encoder and UNet with adapters merged in, under their names without them."""
    found = {}
    for part in ("text_encoder", "unet"):
        state = getattr(pipe, part).state_dict()
        found |= {
            f"{part}.{key.replace('.base_layer', '')}": value.clone()
            for key, value in state.items()
            if "lora_" not in key
        }
    return found


@pytest.mark.parametrize("naming", ["diffusers", "kohya"])
def test_it_loads_in_diffusers_with_a_slider(place, naming, tmp_path):
    """Ranks differ from tensor to tensor (4 output channels cap one), convolutions are among them,
    and both parts of the model.
    """
    pytest.importorskip("peft")
    base = place / "sd"
    # diffusers loses attention layers of the text encoder under kohya's names, unless out_proj is
    # among them (docs/export.md)
    others = ("mlp.fc1", "self_attn.q_proj") if naming == "diffusers" else ("mlp.fc1",)
    keys = [
        ("text_encoder", f"{FC2}.weight"),
        *(("text_encoder", f"encoder.layers.2.{other}.weight") for other in others),
        *(
            ("unet", f"{module}.weight")
            for module in (
                TO_K,
                TO_K.replace("to_k", "to_out.0"),
                "conv_in",
                "conv_out",
                "time_embedding.linear_1",
                "mid_block.resnets.0.conv1",
                "up_blocks.0.resnets.0.conv_shortcut",
                "down_blocks.0.downsamplers.0.conv",
                "up_blocks.0.upsamplers.0.conv",
                "mid_block.attentions.0.proj_in",
                "mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj",
                "down_blocks.0.resnets.0.time_emb_proj",
            )
        ),
    ]
    edited = edit(base, tmp_path / "edited", *keys, rank=5)
    done = export.export(
        edited, "lora", output=tmp_path / "l.safetensors", options={"naming": naming, "error": 1e-5}
    )
    assert len({row["rank"] for row in done.figures["tensors"]}) > 1 and done.figures["rank"] == 5
    pipe, old, new = (
        pipeline_of(base),
        all_weights(pipeline_of(base)),
        all_weights(pipeline_of(edited)),
    )
    pipe.load_lora_weights(tmp_path / "l.safetensors")
    adapter = next(iter(pipe.get_list_adapters()["unet"]))
    for strength, wanted in ((1.0, new), (0.0, old)):
        pipe.set_adapters([adapter], [strength])
        pipe.fuse_lora(components=["unet", "text_encoder"])
        merged = all_weights(pipe)
        pipe.unfuse_lora(components=["unet", "text_encoder"])
        assert merged.keys() == wanted.keys()
        worst = max(
            float((merged[key] - wanted[key]).norm() / (new[key] - old[key]).norm().clamp_min(1))
            for key in merged
        )
        assert worst < 1e-4
    changed = [key for key in new if not torch.equal(new[key], old[key])]
    assert len(changed) == len(keys)  # control: strengths 0 and 1 are far apart
    assert min(float((new[key] - old[key]).norm()) for key in changed) > 0.1


@pytest.mark.parametrize("naming", ["diffusers", "kohya"])
def test_it_loads_in_diffusers_for_both_of_sdxls_encoders(naming, tmp_path):
    pytest.importorskip("peft")
    from diffusers import StableDiffusionXLPipeline
    from pipelines import tiny_sdxl

    base, encoders = tiny_sdxl(tmp_path / "xl"), ("text_encoder", "text_encoder_2")
    edited = edit(
        base,
        tmp_path / "edited",
        *((encoder, f"{FC2}.weight") for encoder in encoders),
        ("unet", f"{TO_K}.weight"),
    )
    export.export(
        edited, "lora", output=tmp_path / "l.safetensors", options={"naming": naming, "error": 1e-5}
    )
    old, new = (
        {
            (part, name): value.clone()
            for part in (*encoders, "unet")
            for name, value in getattr(pipe, part).state_dict().items()
        }
        for pipe in map(StableDiffusionXLPipeline.from_pretrained, (base, edited))
    )
    pipe = StableDiffusionXLPipeline.from_pretrained(base)
    pipe.load_lora_weights(tmp_path / "l.safetensors")
    pipe.fuse_lora(components=["unet", *encoders])
    merged = {
        (part, name.replace(".base_layer", "")): value
        for part in (*encoders, "unet")
        for name, value in getattr(pipe, part).state_dict().items()
        if "lora_" not in name
    }
    changed = [key for key in old if not torch.equal(old[key], new[key])]
    assert {part for part, _ in changed} == {*encoders, "unet"}
    for key in old:
        scale = (new[key] - old[key]).norm() if key in changed else 1
        assert float((merged[key] - new[key]).norm() / scale) < 1e-4, (
            key
        )  # of a LoRA that was not read: 1


def test_kohyas_names_are_those_of_the_uis(edited, tmp_path):
    done = export.export(
        edited, "lora", output=tmp_path / "l.safetensors", options={"naming": "kohya"}
    )
    tensors = load_file(tmp_path / "l.safetensors")
    name = "lora_te_text_model_encoder_layers_1_mlp_fc2"
    assert {f"{name}.lora_down.weight", f"{name}.lora_up.weight", f"{name}.alpha"} < tensors.keys()
    assert (
        float(tensors[f"{name}.alpha"])
        == done.figures["rank"]
        == tensors[f"{name}.lora_down.weight"].shape[0]
    )
    assert tensors[f"{name}.lora_down.weight"].dtype == torch.float32


@pytest.mark.parametrize(
    ("keys", "left_out"),
    [
        ((("text_encoder", f"{FC2}.weight"),), "all of this edit"),
        ((("text_encoder", f"{FC2}.weight"), ("unet", f"{TO_K}.weight")), "1 of 2 layers"),
        ((("unet", f"{TO_K}.weight"),), None),
    ],
)
def test_what_a_loader_of_the_model_alone_leaves_out_is_said(place, tmp_path, keys, left_out):
    notes: list[str] = []
    observer = Silent()
    observer.note = notes.append
    changed = edit(place / "sd", tmp_path / "edited", *keys)
    export.export(changed, "lora", output=tmp_path / "l.safetensors", observer=observer)
    assert [left_out in note for note in notes] == ([True] if left_out else [])


def test_it_loads_in_diffusers_for_a_transformers_embedders(tmp_path):
    """Catches: `text_model.` put in front of a transformer's layers, names of its text encoders."""
    pytest.importorskip("peft")
    from diffusers import FluxPipeline
    from pipelines import tiny_flux

    base = tiny_flux(tmp_path / "flux")
    layers = ("context_embedder", "time_text_embed.text_embedder.linear_1")
    edited = edit(base, tmp_path / "edited", *(("transformer", f"{n}.weight") for n in layers))
    lora = tmp_path / "l.safetensors"
    export.export(edited, "lora", output=lora, options={"error": 1e-5})
    pipe = FluxPipeline.from_pretrained(base, text_encoder_2=None, tokenizer_2=None)
    old = {name: value.clone() for name, value in pipe.transformer.state_dict().items()}
    pipe.load_lora_weights(lora)
    pipe.fuse_lora(components=["transformer"])
    new = load_file(edited / "transformer" / "diffusion_pytorch_model.safetensors")
    for layer in layers:
        merged = pipe.transformer.get_submodule(layer).base_layer.weight
        change = new[f"{layer}.weight"] - old[f"{layer}.weight"]
        assert float((merged - new[f"{layer}.weight"]).norm()) < 1e-4 * float(change.norm())

    def refused(edited: Path, naming: str) -> bool:
        options = {"naming": naming}
        call = lambda: export.export(edited, "lora", output=tmp_path / "no", options=options)  # noqa: E731
        return code_of(call) == "export.not-a-lora"

    assert refused(edited, "kohya")
    wo = "encoder.block.1.layer.1.DenseReluDense.wo.weight"  # loaders read no LoRA of T5
    assert refused(edit(base, tmp_path / "t5", ("text_encoder_2", wo)), "diffusers")


@pytest.mark.parametrize(
    "parameter",
    [
        ("unet", "conv_in.bias"),
        ("text_encoder", "final_layer_norm.weight"),
        ("text_encoder", "embeddings.token_embedding.weight"),
    ],
    ids="-".join,
)
def test_what_no_lora_can_hold_is_refused_but_a_delta_takes_it(place, parameter, tmp_path):
    edited = edit(place / "sd", tmp_path / "edited", parameter)
    assert (
        code_of(lambda: export.export(edited, "lora", output=tmp_path / "l")) == "export.not-a-lora"
    )
    export.export(edited, "delta", output=tmp_path / "d")
    assert sorted(os.listdir(tmp_path)) == ["d", "edited"]


def test_a_lora_needs_the_base_that_was_edited(place, edited, tmp_path):
    assert (
        code_of(
            lambda: export.export(edited, "lora", output=tmp_path / "l", base=str(place / "half"))
        )
        == "export.other-base"
    )
    alone = Path(shutil.copytree(edited, tmp_path / "alone"))
    text = (alone / manifests.MANIFEST).read_text()
    (alone / manifests.MANIFEST).write_text(
        text.replace(json.dumps(str(place / "sd")), json.dumps(str(tmp_path / "gone")))
    )
    assert code_of(lambda: export.export(alone, "lora", output=tmp_path / "l")) == "export.no-base"
    export.export(alone, "lora", output=tmp_path / "l", base=str(place / "sd"))
    same = edit(place / "sd", tmp_path / "same")
    assert (
        code_of(lambda: export.export(same, "lora", output=tmp_path / "none"))
        == "export.nothing-edited"
    )


# --- single file -----------------------------------------------------------


def realistic(folder: Path, kind: str) -> Path:
    """A tiny pipeline with the block structure of Stable Diffusion 1.x, 2.x or XL: all kinds of
    blocks, two layers a block.
    """
    return Path(shutil.copytree(_built(kind).name, folder))


@cache
def _built(kind: str) -> TemporaryDirectory:
    """The pipeline, made once."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    place = TemporaryDirectory()
    folder = tiny_sd(Path(place.name))
    torch.manual_seed(1)
    index = json.loads((folder / "model_index.json").read_text())
    added = {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 6 * 8 + 48,
        "transformer_layers_per_block": (1, 2),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "block_out_channels": (32, 64),
    }
    unet = UNet2DConditionModel(
        **{
            "sample_size": 8,
            "cross_attention_dim": 32 if kind != "xl" else 32 + 48,
            "layers_per_block": 2,
            "norm_num_groups": 8,
            "block_out_channels": (32, 64, 64),
            "attention_head_dim": 8,
            "use_linear_projection": kind != "1",
            "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            **(added if kind == "xl" else {}),
        }
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 16, 16),
        layers_per_block=2,
        norm_num_groups=4,
        sample_size=32,
        latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
    )
    parts = {"unet": unet, "vae": vae}
    config = CLIPTextConfig.from_pretrained(folder / "text_encoder")
    if kind == "2":
        config.hidden_act = "gelu"
        parts["text_encoder"] = CLIPTextModel(config)
    if kind == "xl":
        config.hidden_act, config.projection_dim, config.hidden_size = "gelu", 48, 48
        parts["text_encoder_2"] = CLIPTextModelWithProjection(config)
        shutil.copytree(folder / "tokenizer", folder / "tokenizer_2")
        index |= {
            "_class_name": "StableDiffusionXLPipeline",
            "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
            "tokenizer_2": ["transformers", "CLIPTokenizer"],
            "force_zeros_for_empty_prompt": True,
        }
        for name in ("safety_checker", "requires_safety_checker"):
            index.pop(name)
        (folder / "model_index.json").write_text(json.dumps(index))
    for name, module in parts.items():
        shutil.rmtree(folder / name, ignore_errors=True)
        module.half().save_pretrained(folder / name)
    if kind == "2":
        classic_keys(folder / WEIGHTS)
    return place


@pytest.mark.parametrize("kind", ["1", "2", "xl"])
def test_a_single_file_is_the_whole_edited_model(kind, tmp_path):
    """diffusers' own reader of single files, which has another mapping, gets every tensor back
    exactly.
    """
    import diffusers

    base = realistic(tmp_path / "base", kind)
    if kind == "1":
        shard(base / "unet/diffusion_pytorch_model.safetensors", 3)
    edited = edit(
        base, tmp_path / "edited", ("text_encoder", f"{FC2}.weight"), ("unet", "conv_in.bias")
    )
    done = export.export(edited, "single-file", output=tmp_path / "whole.safetensors")
    cls = diffusers.StableDiffusionXLPipeline if kind == "xl" else diffusers.StableDiffusionPipeline
    extra = {} if kind == "xl" else {"safety_checker": None}
    single = cls.from_single_file(
        tmp_path / "whole.safetensors", config=str(edited), local_files_only=True, **extra
    )
    folder, before = cls.from_pretrained(edited, **extra), cls.from_pretrained(base, **extra)
    changed = 0
    for part in ("text_encoder", "unet", "vae", *["text_encoder_2"] * (kind == "xl")):
        mine, wanted, old = (
            getattr(pipe, part).float().state_dict() for pipe in (single, folder, before)
        )
        assert mine.keys() == wanted.keys()
        assert [key for key in wanted if not torch.equal(mine[key], wanted[key])] == [], part
        changed += sum(not torch.equal(old[key], wanted[key]) for key in wanted)
    assert changed == 2  # control: the base's file would fail
    stored = load_file(tmp_path / "whole.safetensors")
    assert len(stored) == done.figures["tensors"] and {
        value.dtype for value in stored.values()
    } <= {torch.float16, torch.int64}
    assert stored["first_stage_model.encoder.mid.attn_1.q.weight"].ndim == 4
    assert stored["model.diffusion_model.middle_block.1.proj_in.weight"].ndim == (
        4 if kind == "1" else 2
    )


@pytest.mark.parametrize(
    ("settings", "marks"),
    [
        ({"prediction_type": "epsilon"}, set()),
        ({"prediction_type": "v_prediction"}, {"v_pred"}),
        ({"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}, {"v_pred", "ztsnr"}),
    ],
    ids=["epsilon", "v", "zero-snr"],
)
def test_a_single_file_says_what_it_predicts(settings, marks, tmp_path):
    """Loaded beside the settings of a model that predicts the noise, the file overrides them."""
    import diffusers

    base = realistic(tmp_path / "base", "1")
    scheduler = base / "scheduler/scheduler_config.json"
    plain = json.loads(scheduler.read_text())
    scheduler.write_text(json.dumps({**plain, **settings}))
    edited = edit(base, tmp_path / "edited", ("text_encoder", f"{FC2}.weight"))
    file = tmp_path / "whole.safetensors"
    export.export(edited, "single-file", output=file)
    keys = set(load_file(file))
    assert keys & {"v_pred", "ztsnr"} == marks
    followed = prediction.followed({"prediction_type": "epsilon"}, keys, {})
    assert {name: followed[name] for name in settings} == settings
    diffusers.StableDiffusionPipeline.from_single_file(  # raises nothing
        file, config=str(edited), local_files_only=True, safety_checker=None
    )


def test_keys_of_the_published_checkpoints():
    """By hand, from the published files of Stable Diffusion 1.4 and 2.1: block arithmetic at the
    real depth.
    """
    config = {
        "layers_per_block": 2,
        "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
        "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    }
    layout = ldm.Layout(
        "StableDiffusionPipeline",
        {
            "text_encoder": {"hidden_act": "quick_gelu"},
            "unet": config,
            "vae": {"block_out_channels": [128, 256, 512, 512]},
        },
    )
    unet = {
        "down_blocks.0.attentions.1.transformer_blocks.0.attn2.to_k.weight": (
            "input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight"
        ),
        "down_blocks.2.downsamplers.0.conv.weight": "input_blocks.9.0.op.weight",
        "down_blocks.3.resnets.1.time_emb_proj.bias": "input_blocks.11.0.emb_layers.1.bias",
        "mid_block.resnets.1.conv2.weight": "middle_block.2.out_layers.3.weight",
        "up_blocks.0.upsamplers.0.conv.bias": "output_blocks.2.1.conv.bias",
        "up_blocks.1.upsamplers.0.conv.bias": "output_blocks.5.2.conv.bias",
        "up_blocks.3.resnets.2.conv_shortcut.weight": "output_blocks.11.0.skip_connection.weight",
    }
    vae = {
        "decoder.up_blocks.0.resnets.2.conv1.weight": "decoder.up.3.block.2.conv1.weight",
        "decoder.up_blocks.2.upsamplers.0.conv.weight": "decoder.up.1.upsample.conv.weight",
        "encoder.down_blocks.1.resnets.0.conv_shortcut.bias": (
            "encoder.down.1.block.0.nin_shortcut.bias"
        ),
        "encoder.mid_block.attentions.0.proj_attn.weight": "encoder.mid.attn_1.proj_out.weight",
    }
    assert {key: layout.place("unet", key).key for key in unet} == {
        k: f"model.diffusion_model.{v}" for k, v in unet.items()
    }
    assert {key: layout.place("vae", key).key for key in vae} == {
        k: f"first_stage_model.{v}" for k, v in vae.items()
    }
    assert layout.place("text_encoder", "text_model.encoder.layers.1.mlp.fc2.weight").key == (
        "cond_stage_model.transformer.text_model.encoder.layers.1.mlp.fc2.weight"
    )
    for component, parameter in (
        ("unet", "class_embedding.weight"),
        ("unet", "mid_block.motion_modules.0.x.weight"),
        ("vae", "encoder.x"),
    ):
        assert code_of(partial(layout.place, component, parameter)) == "export.no-single-file"


@pytest.mark.parametrize(
    "unlike",
    [
        {"_class_name": "FluxPipeline"},
        {"down_block_types": ["AttnDownBlock2D"]},
        {"layers_per_block": [1, 2]},
    ],
    ids=str,
)
def test_a_family_without_such_a_form_is_refused(unlike, edited, tmp_path):
    unet = {"down_block_types": ["DownBlock2D"], "layers_per_block": 1, **unlike}
    assert (
        code_of(
            lambda: ldm.Layout(unlike.get("_class_name", "StableDiffusionPipeline"), {"unet": unet})
        )
        == "export.no-single-file"
    )


# --- folder ----------------------------------------------------------------


def test_a_plain_folder_has_the_edit_and_nothing_of_forgets(place, edited, tmp_path):
    export.export(edited, "diffusers", output=tmp_path / "plain")
    plain, base = bytes_of(tmp_path / "plain"), bytes_of(place / "sd")
    assert plain.keys() == base.keys() | {manifest.CARD} and {
        path for path in base if plain[path] != base[path]
    } - {manifest.CARD} == {WEIGHTS}
    assert plain[WEIGHTS] == (edited / WEIGHTS).read_bytes()
    pipeline_of(tmp_path / "plain")


# --- what holds of all -----------------------------------------------------


@pytest.mark.parametrize("name", export.names())
def test_an_export_is_whole_or_not_there(name, edited, tmp_path, monkeypatch):
    spoilt = Path(shutil.copytree(edited, tmp_path / "spoilt"))
    data = bytearray((spoilt / WEIGHTS).read_bytes())
    data[checkpoint.locate(spoilt, "text_encoder", f"{FC2}.weight").start] ^= 1
    (spoilt / WEIGHTS).write_bytes(data)
    output = tmp_path / f"out{export._format(name).SUFFIX}"
    assert code_of(lambda: export.export(spoilt, name, output=output)) == "model.changed"
    assert (
        code_of(lambda: export.export(edited, name, output=edited / "inside"))
        == "output.overlaps-base"
    )
    assert (
        code_of(lambda: export.export(edited, name, output=output, options={"rang": 1}))
        == "export.unknown-option"
    )
    assert os.listdir(tmp_path) == ["spoilt"]
    old = os.umask(0o027)
    try:
        export.export(edited, name, output=output)
    finally:
        os.umask(old)
    assert output.stat().st_mode & 0o777 == (0o750 if output.is_dir() else 0o640)
    first = bytes_of(tmp_path / output.name) if output.is_dir() else output.read_bytes()
    assert code_of(lambda: export.export(edited, name, output=output)) == "output.exists"
    if output.is_file():
        monkeypatch.setattr(
            safetensors_writer, "write", lambda writer, *_: writer.write(b"half") and 1 / 0
        )
        monkeypatch.setattr(cyclonedx, "bom", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            export.export(edited, name, output=output, force=True)
        assert output.read_bytes() == first and hidden(tmp_path) == []
        monkeypatch.undo()
        export.export(edited, name, output=output, force=True)
        assert output.read_bytes() == first  # the same input gives the same file
    else:
        assert (
            code_of(lambda: export.export(edited, name, output=output, force=True))
            == "output.not-ours"
        )
    assert sorted(os.listdir(tmp_path)) == sorted(["spoilt", output.name])


def test_unknown_formats_and_settings_are_named(edited, tmp_path):
    assert export.names() == ["cyclonedx", "delta", "diffusers", "lora", "single-file"]
    assert (
        code_of(lambda: export.export(edited, "lorra", output=tmp_path / "x"))
        == "export.unknown-format"
    )
    assert (
        code_of(lambda: export.export(edited, "lora", output=tmp_path / "x", options={"error": 2}))
        == "export.bad-option"
    )
    assert (
        code_of(lambda: export.export(tmp_path, "delta", output=tmp_path / "x"))
        == "model.not-edited"
    )
    assert code_of(lambda: export.export(tmp_path / "none", "delta")) == "model.not-found"


def test_export_and_apply_as_commands(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("forgetcli.cli.progress.silence_libraries", lambda: None)

    def invoke(*arguments: str):
        return CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)

    human = invoke("export", place / "edited", "--format", "lora", "--error", "1e-4")
    assert (
        f"text_encoder {FC2}.weight" in human.stdout
        and "output: edited-lora.safetensors" in human.stdout
    )
    data = json.loads(
        invoke(
            "export",
            place / "edited",
            "--format",
            "lora",
            "--naming",
            "kohya",
            "--rank",
            "3",
            "-f",
            "--json",
        ).stdout
    )
    assert (
        data["command"] == "export"
        and data["schema_version"] == 1
        and data["rank"] == 3
        and data["naming"] == "kohya"
    )
    assert [row["rank"] for row in data["tensors"]] == [3, 3] and data["bytes"] == Path(
        "edited-lora.safetensors"
    ).stat().st_size
    assert (
        data["base"]["digest"] == checkpoint.resolve(place / "sd").digest
        and data["seconds"]["total"] > 0
    )
    assert (
        invoke("export", place / "edited", "--format", "delta", "-q").stdout
        == "edited-delta.safetensors\n"
    )
    put = json.loads(
        invoke("apply", "--delta", "edited-delta.safetensors", "-m", place / "sd", "--json").stdout
    )
    assert (
        put["output"] == "edited"
        and put["method"] == "nullspace"
        and len(put["sites"]) == 2
        and put["check"]
    )
    assert integrity.verify(Path("edited")).ok
    for wrong in (("art.toml", "--delta", "edited-delta.safetensors"), ()):
        assert CliRunner().invoke(app, ["apply", *wrong]).exit_code == 2
