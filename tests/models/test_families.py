"""Families on tiny pipelines of the real architectures: what they encode and predict is what
diffusers' own pipelines do.

A recipe goes through apply → generate → verify on each of them.
"""

from __future__ import annotations

import json
from pathlib import Path

import pipelines
import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from PIL import Image
from recipe_example import EXAMPLE
from safetensors.torch import load_file

import forgetcli
from forgetcli import models, recipe
from forgetcli.artifact import integrity
from forgetcli.checkpoint import base as checkpoint
from forgetcli.editing.moment_cache import MomentCache
from forgetcli.editing.moments import preserve_moments
from forgetcli.editing.pairs import Pairs
from forgetcli.errors import EditError, ForgetError, RecipeError
from forgetcli.generation import generate as generation
from forgetcli.generation.images import ImageRequest
from forgetcli.models.base import Context
from forgetcli.models.families import flux
from forgetcli.models.tokens import tokenise
from forgetcli.models.trajectories import noisy_bank
from forgetcli.pipeline.plan import plan
from forgetcli.progress import Silent
from forgetcli.recipe import text

PROMPTS = ["a van gogh painting of a dog", "cat"]
MAKERS = {
    "sd": pipelines.tiny_inpainting,
    "sdxl": pipelines.tiny_sdxl,
    "sd3": pipelines.tiny_sd3,
    "flux": pipelines.tiny_flux,
}
KEPT = ["a monet painting of a cat", "", "a cat"]
QUICK = {
    "refine.steps": 2,
    "refine.batch": 2,
    "refine.latent_steps": 2,
    "edit.min_rank": 8,
    "prompts.templates": ["{}"],
    "preserve.prior_words": 50,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory, request) -> dict[str, Path]:
    """A pipeline of each family, made once."""
    root = tmp_path_factory.mktemp("families")
    made: dict[str, Path] = {}

    class Lazily(dict):
        def __missing__(self, family: str) -> Path:
            self[family] = MAKERS[family](root / family)
            return self[family]

    return Lazily(made)


@pytest.fixture(scope="module")
def pipes(folders) -> dict:
    """diffusers' own pipelines of the same folders."""

    class Lazily(dict):
        def __missing__(self, family: str):
            self[family] = DiffusionPipeline.from_pretrained(folders[family], local_files_only=True)
            self[family].set_progress_bar_config(disable=True)
            return self[family]

    return Lazily()


@pytest.fixture(scope="module")
def before(folders, tmp_path_factory) -> dict[str, bytes]:
    """The unedited models' images."""

    class Lazily(dict):
        def __missing__(self, family: str) -> bytes:
            self[family] = draw(folders[family], tmp_path_factory.mktemp("before"))
            return self[family]

    return Lazily()


def loaded(folder: Path):
    return models.load(checkpoint.resolve(folder), device="cpu")


def with_settings(**changes) -> recipe.Recipe:
    return recipe.parse(
        EXAMPLE,
        overrides=[f"{key}={json.dumps(value)}" for key, value in {**QUICK, **changes}.items()],
    )


def encoded(model, prompts: list[str]) -> Context:
    with torch.no_grad():
        return model.encode(tokenise(model.tokenizer, prompts).ids)


@torch.no_grad()
def pipelines_own(pipe, family: str) -> Context:
    """What the pipeline's `encode_prompt` gives."""
    match family:
        case "sd":
            return Context(pipe.encode_prompt(PROMPTS, "cpu", 1, False)[0])
        case "sdxl":
            hidden, _, pooled, _ = pipe.encode_prompt(
                PROMPTS, device="cpu", do_classifier_free_guidance=False
            )
        case "sd3":
            hidden, _, pooled, _ = pipe.encode_prompt(
                PROMPTS, None, None, device="cpu", do_classifier_free_guidance=False
            )
        case "flux":
            hidden, pooled, _ = pipe.encode_prompt(PROMPTS, device="cpu")
    return Context(hidden, pooled)


def test_shared_modules_are_no_families():
    assert models.family_names() == ["flux", "sd", "sd3", "sdxl"]
    assert all(
        models.get(name).PIPELINES and models.get(name).GUIDANCE for name in models.family_names()
    )


@pytest.mark.parametrize("family", MAKERS)
def test_prompts_are_encoded_as_the_pipeline_does(family, folders, pipes):
    assert models.family_of(folders[family]) == family
    own, theirs = encoded(loaded(folders[family]), PROMPTS), pipelines_own(pipes[family], family)
    assert own.hidden.shape == theirs.hidden.shape and torch.allclose(
        own.hidden, theirs.hidden, atol=1e-5
    )
    assert not torch.allclose(own.hidden[[1, 0]], theirs.hidden, atol=1e-2)
    if family == "sd":
        assert own.pooled is None
    else:
        assert torch.allclose(own.pooled, theirs.pooled, atol=1e-5)
        assert not torch.allclose(own.pooled[[1, 0]], theirs.pooled, atol=1e-2)


def first_step(
    pipe, family: str, guidance: float, **more
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """x_t, t and the denoiser's prediction of the pipeline's own first step for `PROMPTS`, the
    unconditional half first.
    """
    caught = {}
    network = pipe.transformer if hasattr(pipe, "transformer") else pipe.unet

    def keep(module, args, kwargs, output):
        caught.setdefault("in", args[0] if args else kwargs["hidden_states"])
        caught.setdefault("t", args[1] if len(args) > 1 else kwargs["timestep"])
        caught.setdefault("out", output[0])

    handle = network.register_forward_hook(keep, with_kwargs=True)
    try:
        pipe(
            PROMPTS,
            num_inference_steps=2,
            guidance_scale=guidance,
            output_type="latent",
            height=16,
            width=16,
            generator=torch.Generator().manual_seed(0),
            **more,
        )
    finally:
        handle.remove()
    return caught["in"], caught["t"], caught["out"]


def test_sdxl_predicts_as_its_pipeline_does(folders, pipes):
    model = loaded(folders["sdxl"])
    noisy, t, theirs = first_step(pipes["sdxl"], "sdxl", 5.0)
    context = Context.cat([model.unconditional().repeated(2), encoded(model, PROMPTS)])
    with torch.no_grad():
        own = model.denoise(noisy, t, context)
        pooled_alike = model.denoise(
            noisy, t, Context(context.hidden, context.pooled[[2, 2, 2, 2]])
        )
    assert torch.allclose(own, theirs, atol=1e-5)
    assert not torch.allclose(pooled_alike, theirs, atol=1e-5)  # the summaries are read
    assert not context.hidden[0].any()  # force_zeros_for_empty_prompt


def test_sdxl_of_another_size_has_other_time_ids(folders, pipes):
    model, seen = loaded(folders["sdxl"]), []
    handle = model.unet.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["added_cond_kwargs"]["time_ids"]),
        with_kwargs=True,
    )
    with torch.no_grad():
        model.denoise(torch.zeros(1, 4, 8, 4), torch.tensor(5), encoded(model, ["cat"]))
    handle.remove()
    pipe = pipes["sdxl"]
    assert torch.equal(
        seen[0],
        pipe._get_add_time_ids(
            (16, 8), (0, 0), (16, 8), torch.float32, text_encoder_projection_dim=40
        ),
    )


def test_an_empty_prompt_is_zeros_only_where_the_model_says_so(tmp_path, folders):
    assert loaded(pipelines.tiny_sdxl(tmp_path / "not", zeros=False)).unconditional().hidden.any()
    assert not loaded(folders["sdxl"]).unconditional().hidden.any()


def test_inpainting_predicts_as_its_pipeline_does(folders, pipes):
    model = loaded(folders["sd"])
    noisy, t, theirs = first_step(
        pipes["sd"],
        "sd",
        3.0,
        image=Image.new("RGB", (16, 16), (127, 127, 127)),
        mask_image=Image.new("L", (16, 16), 255),
        masked_image_latents=model._grey_latents,
    )
    assert noisy.shape[1] == 9 and model.latent_shape == (4, 8, 8)
    assert torch.allclose(model.with_mask(noisy[:, :4]), noisy)
    context = Context.cat([model.unconditional().repeated(2), encoded(model, PROMPTS)])
    with torch.no_grad():
        assert torch.allclose(model.denoise(noisy[:, :4], t, context), theirs, atol=1e-5)
        assert not torch.allclose(
            model.unet(torch.zeros_like(noisy), t, context.hidden).sample, theirs, atol=1e-5
        )


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_flow_matching_predicts_as_the_pipeline_does(family, folders, pipes):
    model, context = loaded(folders[family]), encoded(loaded(folders[family]), PROMPTS)
    noisy, t, theirs = first_step(pipes[family], family, 3.5)
    if family == "sd3":
        context = Context.cat([model.unconditional().repeated(2), context])
    else:
        theirs, noisy, t = (flux.unpacked(theirs, 4, 4, 2), flux.unpacked(noisy, 4, 4, 2), t * 1000)
        assert torch.equal(flux.unpacked(flux.packed(noisy, 2), 4, 4, 2), noisy)
    assert noisy.shape[1:] == model.latent_shape
    with torch.no_grad():
        assert torch.allclose(model.denoise(noisy, t, context), theirs, atol=1e-5)
        assert not torch.allclose(model.denoise(noisy, t / 2, context), theirs, atol=1e-5)
        if family == "flux":
            assert torch.allclose(model.guided(noisy, t, context, context, 3.5), theirs, atol=1e-5)
            assert not torch.allclose(
                model.guided(noisy, t, context, context, 1.0), theirs, atol=1e-5
            )


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_flow_matching_stops_at_the_pipelines_times_and_noises_between_them(family, folders, pipes):
    model = loaded(folders[family])
    first_step(pipes[family], family, 3.5)
    assert torch.allclose(model.sampler(2).timesteps, pipes[family].scheduler.timesteps)
    x0, noise = torch.randn(2, 2, 4, 8, 8)
    t = model.sampler(2).timesteps[1:].repeat(2)
    fresh = FlowMatchEulerDiscreteScheduler.from_config(
        model.scheduler.config
    )  # the pipeline's own counts its steps
    fresh.timesteps, fresh.sigmas = (
        pipes[family].scheduler.timesteps,
        pipes[family].scheduler.sigmas,
    )
    there = fresh.scale_noise(x0, t, noise)
    assert torch.allclose(model.scheduler.add_noise(x0, noise, t), there, atol=1e-5)
    assert torch.equal(
        model.scheduler.add_noise(x0, noise, torch.tensor([0, 1000])),
        torch.stack([x0[0], noise[1]]),
    )


@pytest.mark.parametrize("family", ["sdxl", "flux"])
def test_noisy_latents_end_where_the_pipelines_own_do(family, folders, pipes):
    """From the same noise, with the sampler that the family has."""
    model, pipe = loaded(folders[family]), pipes[family]
    bank = noisy_bank(
        model,
        ["a cat"],
        steps=3,
        guidance=2.0,
        generator=torch.Generator().manual_seed(0),
        observer=Silent(),
    )
    kept = pipe.scheduler
    if family == "sdxl":
        pipe.scheduler = DDIMScheduler.from_config(kept.config, clip_sample=False)
    latents = torch.randn(1, *model.latent_shape, generator=torch.Generator().manual_seed(0))
    if family == "flux":
        latents = pipe._pack_latents(latents, 1, 4, 8, 8)
    theirs, other = (
        pipe(
            prompt,
            num_inference_steps=3,
            guidance_scale=2.0,
            latents=latents,
            output_type="latent",
            height=16,
            width=16,
        ).images
        for prompt in ("a cat", "a dog")
    )
    pipe.scheduler = kept
    if family == "flux":
        theirs, other = (
            pipe._unpack_latents(x, 16, 16, pipe.vae_scale_factor) for x in (theirs, other)
        )
    assert bank.latents.shape == (1, 3, 4, 8, 8)
    assert torch.allclose(bank.finished, theirs, atol=1e-4)
    assert not torch.allclose(bank.finished, other, atol=1e-4)


def test_a_model_that_predicts_v_draws_as_its_pipeline_does(tmp_path):
    folder, ends = pipelines.tiny_sd(tmp_path / "sd", torch.float32), {}
    for kind in ("v_prediction", "epsilon"):
        file = folder / "scheduler/scheduler_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"prediction_type": kind}))
        pipe = DiffusionPipeline.from_pretrained(folder, local_files_only=True)
        latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
        theirs = pipe(
            "a cat",
            num_inference_steps=3,
            guidance_scale=2.0,
            latents=latents,
            output_type="latent",
        ).images
        bank = noisy_bank(
            loaded(folder),
            ["a cat"],
            steps=3,
            guidance=2.0,
            generator=torch.Generator().manual_seed(0),
            observer=Silent(),
        )
        assert torch.allclose(bank.finished, theirs, atol=1e-4)
        ends[kind] = bank.finished
    assert not torch.allclose(ends["v_prediction"], ends["epsilon"], atol=1e-2)


# Tokens


def test_sdxls_second_tokenizer_pads_with_its_own_token(folders, pipes):
    model = loaded(folders["sdxl"])
    batch = tokenise(model.tokenizer, PROMPTS)
    assert batch.ids.shape == (2, 2 * pipelines.POSITIONS)
    for part, tokenizer in (
        ("text_encoder", pipes["sdxl"].tokenizer),
        ("text_encoder_2", pipes["sdxl"].tokenizer_2),
    ):
        own = tokenizer(
            PROMPTS, padding="max_length", max_length=pipelines.POSITIONS, return_tensors="pt"
        ).input_ids
        assert torch.equal(batch.of(part).ids, own)
    first, second = batch.of("text_encoder").ids, batch.of("text_encoder_2").ids
    assert second[0, -1] == 0 and first[0, -1] != 0
    words = int((first[1] == model.tokenizer.eos_token_id).int().argmax()) + 1
    assert torch.equal(first[1, :words], second[1, :words]) and not torch.equal(first, second)


@pytest.mark.parametrize("family", ["sdxl", "sd3", "flux"])
def test_positions_are_merged_where_their_keys_are_the_same(family, folders):
    """By prefix in CLIP; in T5, whose positions see what follows, only where the whole prompt is
    the same.
    """
    model = loaded(folders[family])
    batch = tokenise(model.tokenizer, ["a cat", "a cat house", "a cat"])
    sites = model.pick_sites([1], ("clip", "t5"))
    keys = model.keys(sites, batch.ids)
    for site in sites:
        own = batch.of(site.component)
        flat = keys[site.name].flatten(0, 1)
        assert flat.shape[0] == own.ids.numel() == own.counts.sum()
        merged = own.merge(keys[site.name])  # (d, distinct)
        assert torch.equal(model.distinct_keys(sites, batch)[site.name], merged)
        assert torch.allclose(merged[:, own.owner.flatten()].T, flat, atol=1e-5)
        owner = own.owner
        assert torch.equal(owner[0], owner[2])
        if own.parts[0].causal:
            assert owner[0, 2] == owner[1, 2] and owner[0, 3] != owner[1, 3]
        else:
            assert not set(owner[0].tolist()) & set(owner[1].tolist())
            assert not torch.allclose(
                keys[site.name][0, 0], keys[site.name][1, 0], atol=1e-3
            )  # by prefix it would be false


def test_pairs_of_an_encoder_are_those_of_its_own_tokens(folders):
    model = loaded(folders["flux"])
    pairs = Pairs.of(
        model.tokenizer,
        [("a van gogh painting", "a monet painting"), ("a dog", "a cat")],
        "from-concept",
    )
    clip, t5 = pairs.of_encoder("text_encoder"), pairs.of_encoder("text_encoder_2")
    start = clip.concepts.owner[0, 0]
    assert (
        not clip.movable[start] and clip.movable.any()
    )  # the start token means the same in both prompts
    assert t5.movable.all() and len(t5.movable) == 2 * 512  # T5's knows already what follows
    assert len(clip.movable) == len(clip.concepts.first) and len(pairs.movable) == len(
        clip.movable
    ) + len(t5.movable)


def test_moments_of_t5_are_not_taken_for_others(folders, tmp_path):
    model, cache = loaded(folders["sd3"]), MomentCache(tmp_path)
    sites = model.pick_sites([1], ("clip", "t5"))
    found = preserve_moments(model, sites, KEPT, cache, Silent())
    assert (found.hits, found.misses) == (0, 3)
    again = preserve_moments(model, sites, KEPT, cache, Silent())
    assert (again.hits, again.misses) == (3, 0)
    keys = model.keys(sites, tokenise(model.tokenizer, KEPT).ids)
    for site in sites:
        K = keys[site.name].flatten(0, 1)
        assert torch.allclose(again.by_site[site.name].matrix, K.T @ K, rtol=1e-5, atol=1e-5)


# Sites


def test_sites_are_found_by_structure(folders):
    found = {
        family: [s.name for s in loaded(folders[family]).pick_sites([1], ("clip", "t5"))]
        for family in MAKERS
    }
    assert found["sd"] == ["encoder.layers.1.mlp.fc2"]
    assert [name.split(".")[0] for name in found["sdxl"]] == ["text_encoder", "text_encoder_2"]
    assert [name.split(".")[0] for name in found["sd3"]] == [
        "text_encoder",
        "text_encoder_2",
        "text_encoder_3",
    ]
    assert [name.split(".", 1)[1] for name in found["flux"]] == [
        "encoder.layers.1.mlp.fc2",
        "encoder.block.1.layer.1.DenseReluDense.wo",
    ]
    assert len(loaded(folders["flux"]).pick_sites([1, 2])) == 2  # T5 only if it is asked for


def test_what_a_model_does_not_have_is_said(folders, tmp_path):
    sdxl, without = loaded(folders["sdxl"]), loaded(pipelines.tiny_sd3(tmp_path / "sd3", t5=False))
    with pytest.raises(EditError) as caught:
        sdxl.pick_sites([4])  # of the first encoder's last block nothing is read
    assert 4 in sdxl.sites_of(sdxl.encoders[1])  # of the second one's the summary is
    assert (
        caught.value.code == "edit.no-such-site"
        and "text_encoder has no block 4" in caught.value.message
    )
    for model in (sdxl, without):
        with pytest.raises(EditError) as caught:
            model.pick_sites([1], ("t5",))
        assert caught.value.code == "edit.no-such-encoder"
    assert encoded(without, ["cat"]).hidden[:, pipelines.POSITIONS :].abs().max() == 0


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "esd"},
        {"method": "stereo"},
        {"method": "emcid"},
        {"overrides": ["edit.layers=both"]},
    ],
    ids=["esd", "stereo", "emcid", "nullspace-both"],
)
@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_methods_for_cross_attention_refuse_joint_attention(settings, family, folders, tmp_path):
    with pytest.raises(ForgetError) as caught:
        forgetcli.apply(
            recipe.parse(EXAMPLE, **settings),
            model=str(folders[family]),
            output=tmp_path / "out",
        )
    assert (
        caught.value.code in ("edit.no-cross-attention", "edit.several-encoders")
        and "nullspace" in caught.value.hint
    )
    assert not (tmp_path / "out").exists()
    if family == "sd3":  # its attn2 is image attention, which must not be taken for cross-attention
        assert any(
            "attn2" in name for name, _ in loaded(folders[family]).transformer.named_modules()
        )


# The whole way


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("sd", {}),
        ("sdxl", {}),
        ("sdxl", {"refine.mode": "sequential"}),
        ("sd3", {"edit.encoders": ["clip", "t5"]}),
        ("flux", {"edit.encoders": ["clip", "t5"], "refine.mode": "copy"}),
        ("flux", {}),
    ],
)
def test_a_recipe_edits_any_family(family, settings, folders, before, tmp_path):
    chosen = with_settings(**settings)
    result = forgetcli.apply(
        chosen, model=str(folders[family]), output=tmp_path / "edited", strict=False
    )
    kinds = chosen.parameters["edit"].get("encoders", ["clip"])
    sites = loaded(folders[family]).pick_sites([1, 2, 3], kinds)
    assert [s.name for s in result.sites] == [s.name for s in sites]
    assert all(
        s.delta_rel > 0 and s.stored_error * s.delta_rel < 1e-7 for s in result.sites
    )  # float32
    check_edited(
        folders[family],
        tmp_path / "edited",
        {(s.component, s.parameter) for s in sites},
        before[family],
    )


@pytest.mark.parametrize(("family", "method"), [("sd3", "speed"), ("flux", "uce")])
def test_other_methods_edit_what_reads_prompts(family, method, folders, before, forked, tmp_path):
    """Models without cross-attention; FLUX by the command, as a user does it."""
    (tmp_path / "art.toml").write_text(EXAMPLE)
    options = {"model": str(folders[family]), "output": tmp_path / "edited"}
    if family == "sd3":
        fewer = ["preserve.prior_words=50", "methods.speed.prior.copies=2"]
        chosen = recipe.parse(EXAMPLE, overrides=fewer, method=method)
        forgetcli.apply(chosen, strict=False, **options)
    else:
        words = [word for key, value in options.items() for word in (f"--{key}", value)]
        words += ["--method", method, "--lenient", "--device", "cpu", "-q"]
        done = forked(tmp_path, "apply", "art.toml", *words)
        assert done.code == 0, done.stderr
    layers = ("context_embedder", "time_text_embed.text_embedder.linear_1")
    changed = {("transformer", f"{layer}.weight") for layer in layers}
    check_edited(folders[family], tmp_path / "edited", changed, before[family])


@pytest.mark.parametrize("method", ["uce", "none", "esd"])
def test_other_methods_edit_sdxl(method, folders, before, tmp_path):
    overrides = (
        ["methods.esd.train.steps=1", "methods.esd.sample.steps=2"] if method == "esd" else []
    )
    chosen, sites = (
        recipe.parse(EXAMPLE, overrides=overrides, method=method),
        loaded(folders["sdxl"]).cross_attention,
    )
    forgetcli.apply(chosen, model=str(folders["sdxl"]), output=tmp_path / "edited", strict=False)
    changed = {("unet", site.parameter) for site in sites.values()} if method != "none" else set()
    check_edited(
        folders["sdxl"], tmp_path / "edited", changed, before["sdxl"], more=method == "esd"
    )
    assert len(changed) == 0 or all(".attn2.to_" in name for _, name in changed)


def check_edited(
    base: Path, edited: Path, changed: set[tuple[str, str]], before: bytes, more: bool = False
) -> None:
    """Exactly these weights are others, the manifest proves it, and the pipeline draws other
    images with them.
    """
    differing = set()
    for file in sorted(base.glob("*/*.safetensors")):
        old, new = load_file(file), load_file(edited / file.relative_to(base))
        assert old.keys() == new.keys()
        differing |= {(file.parent.name, key) for key in old if not torch.equal(old[key], new[key])}
    plain = {(component, key.removeprefix("text_model.")) for component, key in differing}
    wanted = {(component, key.removeprefix("text_model.")) for component, key in changed}
    assert wanted <= plain if more else wanted == plain
    assert integrity.verify(edited, base=str(base)).ok
    assert (draw(edited, edited.parent / "after") != before) == bool(changed)


def draw(folder: Path, output: Path) -> bytes:
    shot = ImageRequest("a van gogh painting of a dog", 0, steps=2, width=16, height=16)
    (path,), _ = generation.generate_images(
        checkpoint.resolve(folder), [shot], output, device="cpu", batch=1, observer=Silent()
    )
    with Image.open(path) as image:
        assert image.size == (16, 16)
        return image.tobytes()


# [families.NAME]


OVERRIDES = (
    EXAMPLE
    + """
[edit]
lam = 0.5

[methods.uce.edit]
lam = 3.0

[families.sdxl.edit]
lam = 0.25
threshold = 0.5

[families.sdxl.methods.uce.edit]
lam = 4.0
"""
)


def test_a_recipe_says_what_is_different_for_a_family():
    read = recipe.parse(OVERRIDES)
    assert read.on("sdxl").parameters["edit"] == {"lam": 0.25, "threshold": 0.5}
    assert read.on("sd").parameters["edit"] == {"lam": 0.5}
    assert read.on("sdxl").parameters["refine"] == read.parameters["refine"]
    other = recipe.parse(OVERRIDES, method="uce")
    assert (other.on("sdxl").parameters, other.on("flux").parameters) == (
        {"edit": {"lam": 4.0}},
        {"edit": {"lam": 3.0}},
    )
    said = recipe.parse(OVERRIDES, overrides=["edit.lam=9"])
    assert said.on("sdxl").parameters["edit"] == {
        "lam": 9,
        "threshold": 0.5,
    }  # the command line has the last word
    assert recipe.parse(text.to_toml(read)).on("sdxl").parameters["edit"]["lam"] == 0.25


def test_show_prints_the_recipe_as_it_is_for_a_family(forget, tmp_path):
    (tmp_path / "r.toml").write_text(OVERRIDES)

    def shown(*more: str) -> dict:
        return forget("recipe", "show", "r.toml", "--json", *more).json["recipe"]

    plain, own, other = shown(), shown("--family", "sdxl"), shown("--family", "flux")
    assert [r["edit"]["lam"] for r in (plain, own, other)] == [0.5, 0.25, 0.5]
    assert [r["methods"]["uce"]["edit"]["lam"] for r in (plain, own, other)] == [3.0, 4.0, 3.0]
    assert (own["edit"]["threshold"], own["families"]) == (0.5, {}) and set(plain["families"]) == {
        "sdxl"
    }
    assert shown("--family", "sdxl", "--method", "uce")["edit"]["lam"] == 4.0
    again = recipe.parse(forget("recipe", "show", "r.toml", "--family", "sdxl").stdout)
    assert (
        again.parameters["edit"]["lam"] == 0.25 == again.on("sdxl").parameters["edit"]["lam"]
        and not again.families
    )
    wrong = forget("recipe", "show", "r.toml", "--family", "sdlx")
    assert (
        wrong.code == 2
        and wrong.stderr.startswith("error[recipe.unknown-family]")
        and "'sdxl'" in wrong.stderr
    )


def test_faults_of_a_family_have_their_line():
    bad = (
        OVERRIDES
        + """
[families.sdlx.edit]
lam = 1.0

[families.flux.edit]
lamb = 1.0
threshold = -1

[families.flux.methods.uce.edit]
erase = "much"

[families.sd]
methods = 3
"""
    )
    with pytest.raises(RecipeError) as caught:
        recipe.parse(bad)
    lines = dict(enumerate(bad.splitlines(), start=1))
    told = [
        (found.code, lines[int(found.message.split(":")[1])], found.hint)
        for found in caught.value.problems
    ]
    assert [(code, line) for code, line, _ in told] == [
        ("recipe.unknown-family", "[families.sdlx.edit]"),
        ("recipe.unknown-key", "lamb = 1.0"),
        ("recipe.value", "threshold = -1"),
        ("recipe.type", 'erase = "much"'),
        ("recipe.type", "methods = 3"),
    ]
    assert "'sdxl'" in told[0][2] and "'lam'" in told[1][2]


def test_the_family_of_the_base_decides(folders, quick_timing):
    read = recipe.parse(OVERRIDES)
    assert plan(read, model=str(folders["sdxl"])).parameters["edit"]["lam"] == 0.25
    assert plan(read, model=str(folders["flux"])).parameters["edit"]["lam"] == 0.5
