"""Claims: what diffusers generates, forget generates, from the same components and bit for bit.
What diffusers cannot generate is a named error.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
import torch
from pipelines import tiny_flux, tiny_sd, tiny_sd3, tiny_sdxl
from safetensors.torch import load_file, save_file

from forgetcli import models
from forgetcli.checkpoint.base import resolve
from forgetcli.errors import ModelError
from forgetcli.generation.generate import Sampler
from forgetcli.generation.images import ImageRequest
from forgetcli.models.tokens import tokenise

BUILDERS = {"sd": tiny_sd, "sdxl": tiny_sdxl, "sd3": tiny_sd3, "flux": tiny_flux}
PROMPTS = ["a sketch by van gogh", "cat"]


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("models")
    return {name: build(place / name) for name, build in BUILDERS.items()}


@pytest.fixture
def copy(originals: dict[str, Path], tmp_path: Path):
    return lambda name: Path(shutil.copytree(originals[name], tmp_path / name))


def change(path: Path, **settings: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


def drawn(folder: Path) -> numpy.ndarray:
    request = ImageRequest("a cat", 0, steps=2)
    return numpy.asarray(Sampler(resolve(folder), "cpu")([request])[0])


def context(folder: Path, prompts: list[str]):
    model = models.load(resolve(folder), device="cpu")
    with torch.no_grad():
        return model.encode(tokenise(model.tokenizer, prompts).ids)


def reference(folder: Path):
    from diffusers import DiffusionPipeline

    return DiffusionPipeline.from_pretrained(
        folder, torch_dtype=torch.float32, local_files_only=True
    )


@pytest.mark.parametrize("family", BUILDERS)
def test_contexts_are_those_of_the_pipeline(family: str, originals: dict[str, Path]):
    ours = context(originals[family], PROMPTS)
    with torch.no_grad():
        options = {} if family == "flux" else {"do_classifier_free_guidance": False}
        if family in ("sd3", "flux"):
            options |= {"prompt_2": None}
        if family == "sd3":
            options |= {"prompt_3": None}
        theirs = reference(originals[family]).encode_prompt(
            prompt=PROMPTS, device="cpu", num_images_per_prompt=1, **options
        )
    assert torch.equal(ours.hidden, theirs[0])
    pooled = {"sdxl": 2, "sd3": 2, "flux": 1}.get(family)
    if pooled is not None:
        assert torch.equal(ours.pooled, theirs[pooled])


def test_padding_is_hidden_where_the_config_demands_it(copy):
    folder = copy("sd")
    without = context(folder, PROMPTS).hidden
    change(folder / "text_encoder/config.json", use_attention_mask=True)
    ours = context(folder, PROMPTS).hidden
    with torch.no_grad():
        theirs = reference(folder).encode_prompt(PROMPTS, "cpu", 1, False)[0]
    assert torch.equal(ours, theirs)
    assert not torch.allclose(ours, without)


def test_a_textual_inversion_of_several_vectors_is_expanded(copy, tmp_path: Path):
    pipeline = reference(copy("sd"))
    save_file({"<toy>": torch.randn(3, 32)}, tmp_path / "toy.safetensors")
    pipeline.load_textual_inversion(str(tmp_path / "toy.safetensors"), token="<toy>")
    pipeline.save_pretrained(tmp_path / "saved")
    ours = context(tmp_path / "saved", ["a <toy> by monet"]).hidden
    with torch.no_grad():
        theirs = pipeline.encode_prompt(["a <toy> by monet"], "cpu", 1, False)[0]
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("family", BUILDERS)
@pytest.mark.parametrize("kind", ["text_encoder", "denoiser", "vae"])
def test_every_parameter_is_the_files(family: str, kind: str, copy):
    folder = copy(family)
    name = kind
    if kind == "denoiser":
        name = "unet" if (folder / "unet").is_dir() else "transformer"
    (file,) = (folder / name).glob("*.safetensors")
    tensors = load_file(file)
    key = next(key for key in sorted(tensors) if key.endswith("bias"))
    del tensors[key]
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(ModelError) as refused:
        getattr(models.load(resolve(folder), device="cpu"), name)
    assert refused.value.code == "model.damaged"
    assert key.removeprefix("text_model.") in refused.value.message
    save_file({f"module.{k}": v for k, v in tensors.items()}, file, {"format": "pt"})
    with pytest.raises(ModelError) as refused:
        drawn(folder)
    assert refused.value.code == "model.damaged"


def spoil_vocabulary(folder: Path) -> None:
    (folder / "tokenizer/merges.txt").unlink()


def spoil_length(folder: Path) -> None:
    change(folder / "tokenizer/tokenizer_config.json", model_max_length=77)


def point_vocabulary(folder: Path) -> None:
    (folder / "tokenizer/vocab.json").write_text("version https://git-lfs.github.com/spec/v1\n")


@pytest.mark.parametrize(
    "spoil, code",
    [
        (spoil_vocabulary, "model.damaged"),
        (spoil_length, "model.tokenizer"),
        (point_vocabulary, "model.damaged"),
    ],
)
def test_a_tokenizer_that_does_not_fit_is_named(copy, spoil, code: str):
    folder = copy("sd")
    spoil(folder)
    for job in (lambda: drawn(folder), lambda: context(folder, PROMPTS)):
        with pytest.raises(ModelError) as refused:
            job()
        assert refused.value.code == code


def test_without_a_length_the_tokenizer_has_the_encoders(copy):
    folder = copy("sd")
    expected = context(folder, PROMPTS).hidden
    config = json.loads((folder / "tokenizer/tokenizer_config.json").read_text())
    del config["model_max_length"]
    (folder / "tokenizer/tokenizer_config.json").write_text(json.dumps(config))
    assert torch.equal(context(folder, PROMPTS).hidden, expected)


@pytest.mark.parametrize(
    "scheduler, settings",
    [
        ("EDMDPMSolverMultistepScheduler", {"sigma_data": 0.5}),
        ("UniPCMultistepScheduler", {"prediction_type": "flow_prediction"}),
        ("EulerDiscreteScheduler", {"timestep_type": "continuous"}),
    ],
)
def test_noise_that_edits_cannot_reproduce_is_refused(copy, scheduler: str, settings: dict):
    folder = copy("sdxl")
    change(folder / "model_index.json", scheduler=["diffusers", scheduler])
    change(folder / "scheduler/scheduler_config.json", _class_name=scheduler, **settings)
    with pytest.raises(ModelError) as refused:
        models.load(resolve(folder), device="cpu")
    assert refused.value.code == "model.unknown-scheduler"
    models.load(resolve(folder), device="cpu", editable=False)


def test_images_are_those_of_diffusers(originals: dict[str, Path]):
    for family in ("sd", "sdxl"):
        pipeline = reference(originals[family])
        pipeline.set_progress_bar_config(disable=True)
        theirs = pipeline(
            ["a cat"],
            num_inference_steps=2,
            guidance_scale=4.5,
            generator=[torch.Generator().manual_seed(0)],
        ).images[0]
        assert numpy.array_equal(drawn(originals[family]), numpy.asarray(theirs))


def test_other_class_names_and_missing_dispensable_parts_change_no_image(copy):
    folder = copy("sd")
    expected = drawn(folder)
    change(
        folder / "model_index.json",
        _class_name="StableDiffusionImg2ImgPipeline",
        feature_extractor=["transformers", "CLIPImageProcessor"],
        image_encoder=["transformers", "CLIPVisionModelWithProjection"],
        safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"],
    )
    (folder / "safety_checker").mkdir()
    (folder / "safety_checker/config.json").write_text("{}")
    (folder / "safety_checker/pytorch_model.bin").write_bytes(b"PK\x03\x04")
    assert numpy.array_equal(drawn(folder), expected)
    change(folder / "model_index.json", _class_name="StableDiffusionInpaintPipeline")
    assert numpy.array_equal(drawn(folder), expected)


@pytest.mark.parametrize(
    ("family", "names"),
    [
        ("sdxl", ("StableDiffusionXLImg2ImgPipeline", "StableDiffusionXLInpaintPipeline")),
        ("sd3", ("StableDiffusion3Img2ImgPipeline", "StableDiffusion3InpaintPipeline")),
        ("flux", ("FluxImg2ImgPipeline", "FluxInpaintPipeline")),
    ],
)
def test_pipelines_of_images_have_the_images_of_their_family(copy, family: str, names: tuple):
    folder = copy(family)
    expected, encoded = drawn(folder), context(folder, PROMPTS).hidden
    for name in names:
        change(folder / "model_index.json", _class_name=name)
        assert numpy.array_equal(drawn(folder), expected)
        assert torch.equal(context(folder, PROMPTS).hidden, encoded)
    change(folder / "model_index.json", _class_name=names[0].replace("Img2Img", "Other"))
    with pytest.raises(ModelError) as refused:  # the control: not any name
        drawn(folder)
    assert refused.value.code == "model.unknown-family"


@pytest.mark.parametrize("family", ["sd", "sdxl"])
def test_a_tiny_autoencoder_is_that_of_diffusers(copy, family: str):
    from diffusers import AutoencoderTiny

    folder = copy(family)
    with_kl = drawn(folder)
    shutil.rmtree(folder / "vae")
    torch.manual_seed(0)
    AutoencoderTiny(
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
        latent_channels=4,
    ).save_pretrained(folder / "vae")
    change(folder / "model_index.json", vae=["diffusers", "AutoencoderTiny"])
    pipeline = reference(folder)
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        ["a cat"],
        num_inference_steps=2,
        guidance_scale=4.5,
        generator=[torch.Generator().manual_seed(0)],
    ).images[0]
    assert numpy.array_equal(drawn(folder), numpy.asarray(theirs))
    assert not numpy.array_equal(drawn(folder), with_kl)


def test_sizes_may_be_a_list(copy):
    folder = copy("sd")
    change(folder / "unet/config.json", sample_size=[8, 12])
    assert drawn(folder).shape == (16, 24, 3)
    assert models.load(resolve(folder), device="cpu").latent_shape == (4, 8, 12)
    change(folder / "unet/config.json", sample_size=["x"])
    with pytest.raises(ModelError):
        _ = models.load(resolve(folder), device="cpu").latent_shape


@pytest.mark.parametrize("part", ["vae", "text_encoder", "unet", "scheduler", "tokenizer"])
def test_a_part_that_is_null_is_named_by_every_command(copy, part: str):
    folder = copy("sd")
    change(folder / "model_index.json", **{part: [None, None]})
    for job in (lambda: drawn(folder), lambda: models.load(resolve(folder), device="cpu")):
        with pytest.raises(ModelError) as refused:
            job()
        assert refused.value.code == "model.missing-component" and part in refused.value.message


def test_generation_imports_no_onnxruntime(originals: dict[str, Path]):
    code = (
        "import sys; from pathlib import Path; from forgetcli.checkpoint.base import resolve\n"
        "from forgetcli.generation.generate import Sampler\n"
        f"Sampler(resolve({str(originals['sd'])!r}), 'cpu')\n"
        "assert 'diffusers.pipelines.pipeline_utils' in sys.modules\n"
        "assert 'onnxruntime' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
