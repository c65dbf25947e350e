"""What an edit of a model of Stable Diffusion 1.4's size needs: wall time and peak memory of each
stage, each in a process of its own.

    python benchmarks/full_size.py WORK                  # about 2.7 GB in WORK/base, as much again
                                                         in WORK/edited
    python benchmarks/full_size.py WORK --tiny           # the same on a pipeline of a megabyte:
    does it run at all?

The pipeline has the real configuration, float16 files and random weights, so its predictions mean
nothing and its times and memory
do. Pictures are 256×256 (latents 32×32), which is written into the UNet's configuration. The
tokenizer is the embedded model's,
padded to the real size. Nothing is downloaded. WORK/base is kept and used again; take it away with
rm -r.

Peak memory is the process's largest resident set, Python and torch included; the row "imports" is
what these need alone.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from forgetcli.models.tensors import read_tensor
from forgetcli.pipeline import memory

SEED = 0
LATENTS = 32  # 256×256 pictures
SITES = (1, 2, 3)
VOCABULARY, POSITIONS = 49408, 77
BOUND = 1.3  # peak of apply, imports included / (model in memory + one step)
STAGES = ("imports", "load", "moments", "projector", "solve", "step", "save", "verify", "apply")
REAL = {
    "text": {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "projection_dim": 768,
        "hidden_act": "quick_gelu",
    },
    "unet": {
        "block_out_channels": (320, 640, 1280, 1280),
        "layers_per_block": 2,
        "cross_attention_dim": 768,
        "attention_head_dim": 8,
        "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    },
    "vae": {
        "block_out_channels": (128, 256, 512, 512),
        "layers_per_block": 2,
        "sample_size": 512,
        "latent_channels": 4,
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
    },
    "vision": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "patch_size": 14,
        "image_size": 224,
    },
}
TINY = {
    "text": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 5,
        "num_attention_heads": 2,
        "projection_dim": 32,
    },
    "unet": {
        "block_out_channels": (32, 64),
        "layers_per_block": 1,
        "cross_attention_dim": 32,
        "attention_head_dim": 8,
        "norm_num_groups": 8,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    },
    "vae": {
        "block_out_channels": (8, 16),
        "norm_num_groups": 4,
        "sample_size": 16,
        "latent_channels": 4,
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
    },
    "vision": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "patch_size": 14,
        "image_size": 28,
    },
}


# --- the pipeline
# --------------------------------------------------------------------------------


def build(folder: Path, sizes: dict[str, dict], latents: int) -> None:
    """A diffusers folder, written aside and renamed when it is whole."""
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPConfig, CLIPTextConfig, CLIPTextModel

    aside = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(aside, ignore_errors=True)
    write_tokenizer(aside / "tokenizer")
    torch.manual_seed(SEED)
    words = {
        "vocab_size": VOCABULARY,
        "max_position_embeddings": POSITIONS,
        "bos_token_id": VOCABULARY - 2,
        "eos_token_id": VOCABULARY - 1,
        "pad_token_id": VOCABULARY - 1,
    }
    vision = CLIPConfig(
        text_config={
            "hidden_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 32,
        },
        vision_config=sizes["vision"],
        projection_dim=sizes["text"]["projection_dim"],
    )
    makers = {
        "text_encoder": (
            "transformers",
            lambda: CLIPTextModel(CLIPTextConfig(**words, **sizes["text"])),
        ),
        "unet": (
            "diffusers",
            lambda: UNet2DConditionModel(
                sample_size=latents, in_channels=4, out_channels=4, **sizes["unet"]
            ),
        ),
        "vae": ("diffusers", lambda: AutoencoderKL(**sizes["vae"])),
        "safety_checker": ("stable_diffusion", lambda: StableDiffusionSafetyChecker(vision)),
    }
    index: dict[str, Any] = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": "0.35.0",
    }
    for name, (library, make) in makers.items():
        module = make().half()
        module.save_pretrained(aside / name)
        index[name] = [library, type(module).__name__]
        del module
    classic_keys(aside / "text_encoder" / "model.safetensors")
    write_json(
        aside / "scheduler" / "scheduler_config.json",
        {
            "_class_name": "PNDMScheduler",
            "beta_schedule": "scaled_linear",
            "beta_start": 0.00085,
            "beta_end": 0.012,
            "num_train_timesteps": 1000,
            "set_alpha_to_one": False,
            "skip_prk_steps": True,
            "steps_offset": 1,
            "clip_sample": False,
        },
    )
    write_json(
        aside / "feature_extractor" / "preprocessor_config.json",
        {"feature_extractor_type": "CLIPFeatureExtractor", "size": 224},
    )
    write_json(
        aside / "model_index.json",
        index
        | {
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "scheduler": ["diffusers", "PNDMScheduler"],
            "feature_extractor": ["transformers", "CLIPImageProcessor"],
            "requires_safety_checker": True,
        },
    )
    os.rename(aside, folder)


def write_tokenizer(folder: Path) -> None:
    """The embedded model's byte-pair encoding, with tokens that no text gives up to the real size;
    start and end are the last two.
    """
    from forgetcli.bundled.demo import MODEL

    known = json.loads((MODEL / "tokenizer" / "vocab.json").read_text(encoding="utf-8"))
    special = ("<|startoftext|>", "<|endoftext|>")
    tokens = sorted((token for token in known if token not in special), key=known.get)
    tokens += [f"<|unused-{n}|>" for n in range(VOCABULARY - 2 - len(tokens))] + list(special)
    write_json(folder / "vocab.json", {token: n for n, token in enumerate(tokens)})
    shutil.copy(MODEL / "tokenizer" / "merges.txt", folder / "merges.txt")
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "CLIPTokenizer",
            "model_max_length": POSITIONS,
            "bos_token": special[0],
            "eos_token": special[1],
            "unk_token": special[1],
            "pad_token": special[1],
        },
    )


def classic_keys(path: Path) -> None:
    """Published checkpoints have ``text_model.`` in front of a text encoder's keys, whatever
    transformers writes now.
    """
    from safetensors.torch import load_file, save

    tensors = {
        key if key.startswith("text_model.") else f"text_model.{key}": tensor.clone()
        for key, tensor in load_file(path).items()
    }
    path.unlink()
    path.write_bytes(save(tensors, metadata={"format": "pt"}))


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def preserved(prompts: int) -> list[str]:
    """So many preserve prompts, all different."""
    kinds = ("photo", "drawing", "painting", "sketch", "poster", "picture", "closeup", "scene")
    things = (
        "cat",
        "house",
        "boat",
        "tree",
        "car",
        "flower",
        "mountain",
        "clock",
        "horse",
        "bridge",
        "lamp",
        "river",
        "bird",
    )
    looks = ("red", "blue", "old", "small", "bright", "dark", "wooden", "quiet", "tall", "green")
    found = [
        f"a {kind} of a {look} {thing}" for kind in kinds for look in looks for thing in things
    ][:prompts]
    assert len(found) == prompts, "no more than 1040 prompts"
    return found


def write_recipe(path: Path, prompts: int, batch: int) -> None:
    """Four concepts, so many preserve prompts, one step of the descent."""
    preserve = preserved(prompts)
    pairs = (
        ("van gogh", "monet"),
        ("doodle", "realistic"),
        ("neon", "countryside"),
        ("crayon", "realistic"),
    )
    text = "".join(f'[[concepts]]\nconcept = "{c}"\ntarget = "{t}"\n\n' for c, t in pairs)
    path.write_text(
        f"{text}[preserve]\nprompts = {json.dumps(preserve)}\n\n[edit]\nsites = {list(SITES)}\n"
        f"min_rank = 16\n\n"
        f"[refine]\nsteps = 1\nbatch = {batch}\nlatent_steps = 1\n",
        encoding="utf-8",
    )


# --- the stages, each called in a process of its own
# -----------------------------------------------------------------


class Bench:
    """What the stages share: the model, the recipe, and the clock."""

    def __init__(self, work: Path) -> None:
        self.work, self.figures = work, {}

    def opened(self):
        from forgetcli import models
        from forgetcli.checkpoint import base as checkpoint

        return models.load(checkpoint.resolve(self.work / "base"), device="cpu")

    def recipe(self):
        from forgetcli import methods
        from forgetcli import recipe as recipes

        recipe = recipes.load(self.work / "recipe.toml")
        return recipe, methods.get(recipe.method).Parameters.model_validate(recipe.parameters)

    def moments(self, model):
        from forgetcli.editing.moment_cache import MomentCache
        from forgetcli.editing.moments import preserve_moments
        from forgetcli.progress import Silent

        recipe, parameters = self.recipe()
        return preserve_moments(
            model,
            model.pick_sites(SITES),
            recipe.preserve_prompts(),
            MomentCache(self.work / "cache"),
            Silent(),
            balance_empty=parameters.edit.balance_empty,
        )

    def clocked(self, run) -> Any:
        started = time.perf_counter()
        result = run()
        self.figures["seconds"] = time.perf_counter() - started
        return result


# What every other stage imports before it begins.
IMPORTED = (
    "diffusers.models.unets.unet_2d_condition",
    "transformers.models.clip.modeling_clip",
    "forgetcli.pipeline.apply",
)


def stage_imports(bench: Bench) -> None:
    def run():
        for module in IMPORTED:
            importlib.import_module(module)

    bench.clocked(run)


def stage_load(bench: Bench) -> None:
    """Text encoder and UNet, in float32: what apply has in memory."""
    stage_imports(bench)
    model = bench.opened()
    parts = bench.clocked(lambda: (model.text_encoder, model.unet))
    bench.figures["model_bytes"] = sum(
        p.numel() * p.element_size() for part in parts for p in part.parameters()
    )


def stage_moments(bench: Bench) -> None:
    """K₀K₀ᵀ of all preserve prompts at the sites, with nothing cached; the text encoder is loaded
    before the clock starts.
    """
    shutil.rmtree(bench.work / "cache", ignore_errors=True)
    model = bench.opened()
    _ = model.text_encoder, model.tokenizer, model.base.files
    moments = bench.clocked(lambda: bench.moments(model))
    assert (moments.hits, moments.misses) == (0, len(SITES)) and "unet" not in vars(model)


def stage_projector(bench: Bench) -> None:
    from forgetcli.linalg import null_projector

    _, parameters = bench.recipe()
    moments = bench.moments(bench.opened())
    assert moments.misses == 0
    bench.clocked(
        lambda: [
            null_projector(m.matrix, parameters.edit.threshold, parameters.edit.min_rank)
            for m in moments.by_site.values()
        ]
    )


def stage_solve(bench: Bench) -> None:
    """The concept prompts' keys, the n×n systems and Δ at all sites, from projectors that are
    there.
    """
    import torch

    from forgetcli.editing.closed_form import pose
    from forgetcli.editing.pairs import Pairs
    from forgetcli.linalg import Projector

    recipe, parameters = bench.recipe()
    model = bench.opened()
    sites, moments = model.pick_sites(SITES), bench.moments(model)
    pairs = Pairs.of(model.tokenizer, recipe.edit_pairs(), parameters.edit.positions)
    d = sites[0].module.in_features
    basis = torch.linalg.qr(
        torch.randn(d, d // 4, dtype=torch.float64)
    ).Q  # of the real ones' shape

    def run():
        keys = model.keys(sites, pairs.concepts.ids)
        for site in sites:
            problem = pose(
                site,
                pairs.concepts,
                keys[site.name],
                moments.by_site[site.name],
                Projector(basis, 0.0, 0.0),
                parameters.edit,
            )
            problem.delta(torch.randn(problem.values.shape, dtype=torch.float64))

    bench.clocked(run)


def stage_step(bench: Bench) -> None:
    """One step of the descent at 256×256: two predictions of the denoiser, one of them with its
    gradient.
    """
    import torch

    from forgetcli.editing.objectives import Matcher
    from forgetcli.editing.pairs import Pairs
    from forgetcli.editing.refine import changed, descend_once
    from forgetcli.progress import Silent

    recipe, parameters = bench.recipe()
    model = bench.opened()
    pairs = Pairs.of(
        model.tokenizer, recipe.edit_pairs()[: parameters.refine.batch], parameters.edit.positions
    )
    matcher = Matcher.of(model, pairs, parameters.refine, SEED, Silent())
    site = model.pick_sites(SITES[:1])[0]
    change = torch.zeros_like(site.module.weight, requires_grad=True)
    before = bench.figures["peak_before"] = memory.peak_rss()
    with changed(site.module, lambda: change):
        bench.clocked(lambda: descend_once(matcher, torch.optim.Adam([change], lr=0.1)))
    assert change.detach().abs().sum() > 0
    bench.figures["step_bytes"] = memory.peak_rss() - before


def stage_save(bench: Bench) -> None:
    """The base copied (reflinks where the file system can), three tensors patched, read back,
    hashed, and published.
    """
    import torch

    from forgetcli.artifact import patch, statement
    from forgetcli.checkpoint import base as checkpoint
    from forgetcli.storage import atomic

    base = checkpoint.resolve(bench.work / "base")
    weights = {}
    for block in SITES:
        key = ("text_encoder", f"text_model.encoder.layers.{block}.mlp.fc2.weight")
        weight = read_tensor(base.folder, checkpoint.locate(base.folder, *key)).double()
        weights[key] = weight + 0.01 * torch.randn(weight.shape, dtype=torch.float64)
    recipe, parameters = bench.recipe()

    def run():
        with atomic.publishing(bench.work / "saved", force=True) as staging:
            stored = patch.patch(base, staging, weights)
            sites = [
                {
                    "name": name.removesuffix(".weight"),
                    "stored_error": part.error,
                    "delta_rel": float(
                        (
                            weights[component, name] - read_tensor(base.folder, part.site).double()
                        ).norm()
                        / read_tensor(base.folder, part.site).double().norm()
                    ),
                }
                for (component, name), part in stored.items()
            ]
            statement.write(
                staging,
                base=base,
                recipe_bytes=recipe.raw,
                method=recipe.method,
                parameters=parameters.model_dump(mode="json"),
                stored=stored,
                materials=[],
                report={"schema_version": 1, "sites": sites},
                run_details={},
            )

    bench.clocked(run)


def stage_verify(bench: Bench) -> None:
    """All digests of folder and base, every untouched byte, headers, and the report against the
    tensors.
    """
    from forgetcli.verification import audit

    verdict = bench.clocked(lambda: audit.verify(bench.work / "saved"))
    assert verdict.ok, verdict.problems


def stage_apply(bench: Bench) -> None:
    """The whole command with one step of the descent, second moments computed anew; random weights
    learn nothing, so it is lenient.
    """
    from forgetcli.editing.moment_cache import MomentCache
    from forgetcli.pipeline import apply

    shutil.rmtree(bench.work / "cache", ignore_errors=True)
    result = bench.clocked(
        lambda: apply.apply(
            bench.work / "recipe.toml",
            model=str(bench.work / "base"),
            output=bench.work / "edited",
            device="cpu",
            force=True,
            strict=False,
            cache=MomentCache(bench.work / "cache"),
        )
    )
    bench.figures["stages"] = dict(result.seconds)


# --- the table
# --------------------------------------------------------------------------------


def measured(work: Path, stage: str) -> dict[str, Any]:
    """The figures of a stage, from a fresh process."""
    done = subprocess.run(
        [sys.executable, __file__, str(work), "--stage", stage], stdout=subprocess.PIPE, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def table(figures: dict[str, dict], sizes: dict[str, int]) -> str:
    """Markdown: a row for each stage, and whether `apply` keeps within its bound."""
    lines = ["| stage | seconds | peak memory, GB |", "| --- | --- | --- |"]
    lines += [
        f"| {stage} | {row['seconds']:.2f} | {row['peak_rss'] / 1e9:.2f} |"
        for stage, row in figures.items()
    ]
    if {"imports", "load", "step", "apply"} <= figures.keys():
        floor, model, step = (
            figures["imports"]["peak_rss"],
            figures["load"]["model_bytes"],
            figures["step"]["step_bytes"],
        )
        peak = figures["apply"]["peak_rss"]
        stages = ", ".join(
            f"{name} {seconds:.1f} s" for name, seconds in figures["apply"]["stages"].items()
        )
        lines += [
            "",
            f"apply: {peak / 1e9:.2f} GB = {peak / (model + step):.2f} × (model in float32 "
            f"{model / 1e9:.2f} + one step {step / 1e9:.2f} GB); "
            f"at most {BOUND} is wanted. Without what imports alone need, {floor / 1e9:.2f} GB: "
            f"{(peak - floor) / (model + step):.2f} ×. "
            f"Its stages: {stages}.",
        ]
    return "\n".join(
        [
            *lines,
            "",
            "On disk: "
            + ", ".join(f"{name} {size / 1e9:.2f} GB" for name, size in sizes.items())
            + ".",
        ]
    )


def main(work: Path, *, tiny: bool, prompts: int, batch: int, stages: list[str]) -> dict[str, dict]:
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "base").is_dir():
        build(work / "base", TINY if tiny else REAL, 8 if tiny else LATENTS)
    write_recipe(work / "recipe.toml", prompts, batch)
    figures = {}
    for stage in stages:
        print(f"{stage} …", file=sys.stderr, flush=True)
        figures[stage] = measured(work, stage)
    folders = [path for path in sorted((work / "base").iterdir()) if path.is_dir()]
    sizes = {path.name: sum(file.stat().st_size for file in path.iterdir()) for path in folders}
    write_json(
        work / "figures.json",
        {"prompts": prompts, "batch": batch, "tiny": tiny, "stages": figures, "bytes": sizes},
    )
    print(table(figures, sizes))
    return figures


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work", type=Path)
    parser.add_argument("--tiny", action="store_true", help="a pipeline of a megabyte")
    parser.add_argument("--prompts", type=int, default=1000, help="preserve prompts")
    parser.add_argument(
        "--batch",
        type=int,
        default=8,
        help="pictures in a step of the refinement; the reference has 8",
    )
    parser.add_argument(
        "--stages",
        default=",".join(STAGES),
        help="which, by commas; later ones need what earlier ones left in WORK",
    )
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.stage:
        bench = Bench(args.work)
        globals()[f"stage_{args.stage}"](bench)
        print(json.dumps(bench.figures | {"peak_rss": memory.peak_rss()}))
    else:
        main(
            args.work,
            tiny=args.tiny,
            prompts=args.prompts,
            batch=args.batch,
            stages=args.stages.split(","),
        )
