"""Train the text encoder and the UNet together on cached latents. Resumable: run again with the
same --work to go on.

v-prediction with the uniform loss and t = 1000·u^0.75: the object is decided in the noisy steps,
and weightings that
favour the clean ones (min-SNR) starve them. A short classification warm-up of the text encoder
makes words bite at
once; it ends after a minute, because kept on it would collapse synonyms into one point.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from captions import sample
from diffusers import DDIMScheduler, UNet2DConditionModel
from drawings import STYLES, THINGS
from tokenizer import LENGTH
from tokenizer import train as train_tokenizer
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

WIDTH = 192
SCHEDULER = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "prediction_type": "v_prediction",
    "clip_sample": False,
    "set_alpha_to_one": True,
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
}
UNET = {
    "sample_size": 16,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (64, 96, 128),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "cross_attention_dim": WIDTH,
    "attention_head_dim": 4,
    "norm_num_groups": 16,
}


def build(tokenizer):
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            num_hidden_layers=6,
            num_attention_heads=4,
            max_position_embeddings=LENGTH,
            projection_dim=WIDTH,
            hidden_act="quick_gelu",
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    return text, UNet2DConditionModel(**UNET)


class Examples:
    """Endless (token ids, latents, thing, style), every picture with one of its many captions."""

    def __init__(
        self, work: Path, tokenizer, scaling: float, seed: int, without: frozenset[str]
    ) -> None:
        self.without = without
        latents = torch.load(work / "latents.pt", weights_only=True)
        self.mean, self.deviation = latents["mean"], latents["deviation"]
        self.per_cell = len(self.mean) // (len(THINGS) * len(STYLES))
        self.rng, self.tokenizer, self.scaling = np.random.default_rng(seed), tokenizer, scaling

    def batch(self, captions: int, draws: int, drop: float = 0.1):
        texts, rows, things, styles = [], [], [], []
        for _ in range(captions):
            text, thing, style = sample(self.rng, self.without)
            cell = THINGS.index(thing) * len(STYLES) + STYLES.index(style)
            rows += [
                cell * self.per_cell + int(k) for k in self.rng.integers(0, self.per_cell, draws)
            ]
            texts.append("" if self.rng.random() < drop else text)
            things.append(THINGS.index(thing)), styles.append(STYLES.index(style))
        ids = self.tokenizer(
            texts, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt"
        ).input_ids
        mean, deviation = self.mean[rows].float(), self.deviation[rows].float()
        return (
            ids,
            (mean + deviation * torch.randn_like(mean)) * self.scaling,
            torch.tensor(things),
            torch.tensor(styles),
        )


def warm_up(text, examples, seconds: float) -> None:
    heads = torch.nn.Linear(WIDTH, len(THINGS)), torch.nn.Linear(WIDTH, len(STYLES))
    optimiser = torch.optim.AdamW(
        [*text.parameters(), *heads[0].parameters(), *heads[1].parameters()], lr=5e-4
    )
    start, running = time.time(), 10.0
    while (
        running > 0.6 and time.time() - start < seconds
    ):  # 0.4 is the floor: one caption in ten names no thing
        ids, _, things, styles = examples.batch(64, 1, drop=0.0)
        pooled = text(ids).pooler_output
        loss = F.cross_entropy(heads[0](pooled), things) + F.cross_entropy(heads[1](pooled), styles)
        optimiser.zero_grad(), loss.backward(), optimiser.step()
        running = 0.95 * running + 0.05 * loss.item()
    print(f"warm-up loss {running:.3f} after {time.time() - start:.0f} s", flush=True)


def main(
    work: Path,
    minutes: float,
    captions: int,
    draws: int,
    lr: float,
    text_share: float,
    begin: Path | None,
    text_encoder: Path | None,
    without: frozenset[str],
    seed: int,
) -> None:
    torch.manual_seed(seed)
    folder = work / "tokenizer"
    tokenizer = (
        CLIPTokenizer.from_pretrained(folder)
        if (folder / "vocab.json").exists()
        else train_tokenizer(folder)
    )
    scaling = json.loads((work / "vae/config.json").read_text())["scaling_factor"]
    text, unet = build(tokenizer)
    text.requires_grad_(text_share > 0)
    scheduler = DDIMScheduler(**SCHEDULER)
    state, elapsed, step = work / "denoiser.pt", 0.0, 0
    examples = Examples(
        work, tokenizer, scaling, int(time.time()) if state.exists() else seed, without
    )
    model = torch.nn.ModuleDict({"text": text, "unet": unet})
    # The text encoder begins eight times slower. At the UNet's rate the early, aimless gradients of
    # the UNet undid the
    # warm-up: a linear probe found the object in 0.55 of captions after 3,000 steps, and the
    # pictures showed none.
    groups = [{"params": unet.parameters(), "rate": lr}] + [
        {"params": text.parameters(), "rate": lr * text_share}
    ] * (text_share > 0)
    optimiser = torch.optim.AdamW(groups, betas=(0.9, 0.99), weight_decay=1e-3)
    if state.exists():
        saved = torch.load(state, weights_only=True)
        model.load_state_dict(saved["model"]), optimiser.load_state_dict(saved["optimiser"])
        elapsed, step = saved["elapsed"], saved["step"]
        average = copy.deepcopy(model)
        average.load_state_dict(saved["average"])
    elif begin is not None:  # released weights, a fresh optimiser and schedule
        text.load_state_dict(
            CLIPTextModel.from_pretrained(
                begin / "text_encoder", torch_dtype=torch.float32
            ).state_dict()
        )
        unet.load_state_dict(
            UNet2DConditionModel.from_pretrained(
                begin / "unet", torch_dtype=torch.float32
            ).state_dict()
        )
        average = copy.deepcopy(model)
    elif text_encoder is not None:  # a UNet from nothing behind an encoder that is trained already
        text.load_state_dict(
            CLIPTextModel.from_pretrained(text_encoder, torch_dtype=torch.float32).state_dict()
        )
        average = copy.deepcopy(model)
    else:
        warm_up(text, examples, 180)
        average = copy.deepcopy(model)
    average.requires_grad_(False)

    def save() -> None:
        temporary = state.with_suffix(".tmp")
        torch.save(
            {
                "model": model.state_dict(),
                "average": average.state_dict(),
                "optimiser": optimiser.state_dict(),
                "elapsed": spent,
                "step": step,
            },
            temporary,
        )
        temporary.replace(state)
        (
            average["text"].save_pretrained(work / "text_encoder"),
            average["unet"].save_pretrained(work / "unet"),
        )
        scheduler.save_pretrained(work / "scheduler")

    start, first, losses = time.time(), step, []
    while (spent := elapsed + time.time() - start) < minutes * 60:
        progress = spent / (minutes * 60)
        for (
            group
        ) in optimiser.param_groups:  # warm-up, flat, then down to nothing in the last third
            group["lr"] = (
                group["rate"] * min(1, (step + 1) / 200) * (min(1.0, (1 - progress) / 0.4) + 0.005)
            )
        ids, latents, _, _ = examples.batch(captions, draws)
        context = text(ids).last_hidden_state.repeat_interleave(
            draws, 0
        )  # (captions·draws, 24, 192)
        t = (1000 * torch.rand(len(latents)) ** 0.75).long().clamp(0, 999)
        noise = torch.randn_like(latents)
        noisy, target = (
            scheduler.add_noise(latents, noise, t),
            scheduler.get_velocity(latents, noise, t),
        )
        loss = F.mse_loss(unet(noisy, t, context).sample, target)
        optimiser.zero_grad(), loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        step += 1
        with torch.no_grad():
            rate = min(0.999, (1 + step) / (10 + step))
            torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - rate)
        losses.append(loss.item())
        if step % 100 == 0:
            print(
                f"{spent / 60:5.1f} min  step {step}  loss {np.mean(losses[-100:]):.4f}  "
                f"{(step - first) * captions * draws / (time.time() - start):.0f} samples/s",
                flush=True,
            )
        if step % 500 == 0:
            save()
    save()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=95)
    parser.add_argument("--captions", type=int, default=16)
    parser.add_argument("--draws", type=int, default=2)
    parser.add_argument("--lr", type=float, default=8e-4)
    parser.add_argument(
        "--text-share",
        type=float,
        default=1 / 8,
        help="the text encoder's learning rate, as a share of the UNet's; 0: it stays as it is",
    )
    parser.add_argument(
        "--begin",
        type=Path,
        help="without a state in --work: go on from this model folder's weights",
    )
    parser.add_argument(
        "--text-encoder",
        type=Path,
        help="without a state in --work: a UNet from nothing behind this folder's text encoder",
    )
    parser.add_argument(
        "--without",
        type=lambda names: frozenset(names.split(",")),
        default=frozenset(),
        help="things and styles, with commas, that no training picture or caption shows",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help="two runs from the same weights with other seeds can be averaged (average.py)",
    )
    args = parser.parse_args()
    if unknown := sorted(args.without - {*THINGS, *STYLES}):
        parser.error(f"--without: no thing or style of the world is called {', '.join(unknown)}")
    main(
        args.work,
        args.minutes,
        args.captions,
        args.draws,
        args.lr,
        args.text_share,
        args.begin,
        args.text_encoder,
        args.without,
        args.seed,
    )
