"""Train the judge on drawings only, never on generated pictures; two of the denoiser's hands it
never sees.

Every tenth cell (thing × style) is kept out and scored apart: there the judge has seen the thing,
and the style, but
never one in the other.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from captions import chosen
from drawings import STYLES, THINGS
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).parents[2]))
from forgetcli.evaluation.demo_classifier import Classifier

WIDTHS = (32, 64, 128, 192)  # 1.8 MB in float16


def kept_out(thing: str, style: str) -> bool:
    return chosen(0.1, "judge-cell", thing, style)


def to_tensor(pictures) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


def augment(x: torch.Tensor) -> torch.Tensor:
    """Random shift, zoom, turn, mirror, colour, blur and noise, each picture its own: generated
    ones are never as crisp.
    """
    n = len(x)
    angle, zoom = torch.randn(n) * 0.12, 1 + torch.randn(n) * 0.08
    shear = torch.randn(n) * 0.08
    mirror = torch.where(torch.rand(n) < 0.5, -1.0, 1.0)
    shift = (torch.rand(n, 2) - 0.5) * 0.22
    theta = torch.stack(
        [
            torch.stack(
                [mirror * zoom * angle.cos(), -zoom * (angle.sin() + shear), shift[:, 0]], 1
            ),
            torch.stack([mirror * zoom * angle.sin(), zoom * angle.cos(), shift[:, 1]], 1),
        ],
        1,
    )
    x = F.grid_sample(
        x,
        F.affine_grid(theta, list(x.shape), align_corners=False),
        padding_mode="reflection",
        align_corners=False,
    )
    x = x * (1 + torch.randn(n, 1, 1, 1) * 0.12) + torch.randn(n, 3, 1, 1) * 0.08
    recolour = torch.rand(n) < 0.15  # channel order says nothing about the thing
    x = torch.where(recolour[:, None, None, None], x[:, torch.randperm(3)], x)
    blurred = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), 3, 1)
    x = torch.lerp(x, blurred, torch.rand(n, 1, 1, 1) * 0.9)
    x = x + torch.randn_like(x) * (torch.rand(n, 1, 1, 1) * 0.08)
    # A square of some is covered: no single detail, an eye or a beak, is to decide.
    side, corner = 20, torch.randint(0, 64 - 20, (n, 2))
    at = torch.arange(64)
    inside = [
        (at >= corner[:, k, None]) & (at < corner[:, k, None] + side) for k in (0, 1)
    ]  # (n, 64) each
    covered = (
        inside[0][:, None, :, None]
        & inside[1][:, None, None, :]
        & (torch.rand(n) < 0.3)[:, None, None, None]
    )
    return torch.where(covered, x.mean((2, 3), keepdim=True), x)


def styleless(x: torch.Tensor) -> torch.Tensor:
    """Pictures of no known style: negatives, cut up and shuffled, or drowned in noise."""
    kind = torch.randint(3, (len(x),))
    patches = (
        x.reshape(len(x), 3, 8, 8, 8, 8).permute(0, 2, 4, 1, 3, 5).reshape(len(x), 64, 3, 8, 8)
    )
    shuffled = (
        patches[:, torch.randperm(64)]
        .reshape(len(x), 8, 8, 3, 8, 8)
        .permute(0, 3, 1, 4, 2, 5)
        .reshape_as(x)
    )
    noise = 0.25 * x + F.interpolate(torch.randn(len(x), 3, 16, 16), 64) * 0.6
    choice = kind[:, None, None, None]
    return torch.where(
        choice == 0, shuffled, torch.where(choice == 1, noise, torch.randn_like(x) * 0.6)
    )


@torch.no_grad()
def predict(net, pictures) -> tuple[np.ndarray, np.ndarray]:
    net.eval()
    outputs = [
        net.both_ways(to_tensor(pictures[k : k + 256])) for k in range(0, len(pictures), 256)
    ]
    return tuple(torch.cat(part).argmax(1).numpy() for part in zip(*outputs))


def accuracies(net, pictures, mask=None) -> dict:
    shape = pictures.shape[:3]
    thing, style = (
        np.broadcast_to(a, shape)
        for a in (np.arange(shape[0])[:, None, None], np.arange(shape[1])[None, :, None])
    )
    use = np.broadcast_to(
        np.ones(shape[:2], bool)[..., None] if mask is None else mask[..., None], shape
    )
    got_thing, got_style = predict(net, pictures[use])
    return {
        "thing": float((got_thing == thing[use]).mean()),
        "style": float((got_style == style[use]).mean()),
        "n": int(use.sum()),
    }


def main(
    work: Path, output: Path, minutes: float, batch: int, lr: float, begin: Path | None
) -> None:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    pictures = np.concatenate(
        [np.load(work / "judge.npy"), np.load(work / "judge-shared.npy")], axis=2
    )
    others = np.load(work / "judge-others.npy")
    out = np.array([[kept_out(t, s) for s in STYLES] for t in THINGS])
    cells = np.argwhere(~out)
    net = Classifier(len(THINGS), len(STYLES), WIDTHS)
    # The mean of the last weights judges drawings by other hands better than the last ones alone.
    average = torch.optim.swa_utils.AveragedModel(
        net, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.99), use_buffers=True
    )
    state = work / "judge.pt"
    if state.exists():  # goes on from an earlier run's weights
        net.load_state_dict(torch.load(state, weights_only=True))
    elif begin is not None:  # released weights, a fresh optimiser and schedule
        net.load_state_dict(
            {
                name: t.float() if t.is_floating_point() else t
                for name, t in load_file(begin / "judge.safetensors").items()
            }
        )
    average.module.load_state_dict(net.state_dict())
    optimiser = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=5e-2)
    start, step = time.time(), 0
    while (spent := time.time() - start) < minutes * 60:
        net.train()
        progress = spent / (minutes * 60)
        for group in optimiser.param_groups:
            group["lr"] = lr * min(1, (step + 1) / 50) * (1 - progress + 0.003)
        rows = cells[rng.integers(0, len(cells), batch)]
        x = pictures[rows[:, 0], rows[:, 1], rng.integers(0, pictures.shape[2], batch)]
        extra = batch // 10
        other = others[
            rng.integers(0, others.shape[0], extra),
            (styles := rng.integers(0, others.shape[1], extra)),
            rng.integers(0, others.shape[2], extra),
        ]
        x = augment(to_tensor(np.concatenate([x, other])))
        x = torch.cat([x, styleless(x[torch.randperm(len(x))[: extra // 2]])])
        thing = torch.tensor([*rows[:, 0], *[len(THINGS)] * (extra + extra // 2)])
        style = torch.tensor([*rows[:, 1], *styles, *[len(STYLES)] * (extra // 2)])
        to_thing, to_style = net(x)
        loss = F.cross_entropy(to_thing, thing, label_smoothing=0.05) + 0.5 * F.cross_entropy(
            to_style, style, label_smoothing=0.05
        )
        optimiser.zero_grad(), loss.backward(), optimiser.step()
        average.update_parameters(net)
        step += 1
        if step % 100 == 0:
            print(
                f"{spent / 60:4.1f} min  step {step}  loss {loss.item():.3f}  {step * len(x) / (time.time() - start):.0f} images/s",  # noqa: E501
                flush=True,
            )
    net = average.module
    torch.save(net.state_dict(), state)
    test, hands = np.load(work / "judge-test.npy"), np.load(work / "judge-test-hands.npy")
    got_thing, got_style = predict(net, hands.reshape(-1, 64, 64, 3))
    n = hands.shape[1] * hands.shape[2]
    confusion = np.zeros((len(THINGS), len(THINGS) + 1), int)
    np.add.at(confusion, (np.arange(len(THINGS)).repeat(n), got_thing), 1)
    style_confusion = np.zeros((len(STYLES), len(STYLES) + 1), int)
    np.add.at(
        style_confusion,
        (np.tile(np.arange(len(STYLES)).repeat(hands.shape[2]), len(THINGS)), got_style),
        1,
    )
    card = {
        "things": THINGS,
        "styles": STYLES,
        "widths": WIDTHS,
        "minutes": minutes,
        "steps": step,
        "heldout_cells": [[t, s] for t in THINGS for s in STYLES if kept_out(t, s)],
        "accuracy": {
            "heldout_augmentations": accuracies(net, test, ~out),
            "heldout_cells": accuracies(net, test, out),
            "other_hands": accuracies(net, hands, ~out),
            "other_hands_heldout_cells": accuracies(net, hands, out),
        },
        "confusion": {
            "drawings": "other_hands",
            "things": confusion.tolist(),
            "styles": style_confusion.tolist(),
        },
    }
    output.mkdir(parents=True, exist_ok=True)
    save_file(
        {
            k: (v.half() if v.is_floating_point() else v).contiguous()
            for k, v in net.state_dict().items()
        },
        output / "judge.safetensors",
    )
    (output / "judge.json").write_text(json.dumps(card, indent=1))
    print(json.dumps(card["accuracy"], indent=1))
    worst = [
        (THINGS[i], THINGS[j] if j < len(THINGS) else "none", int(confusion[i, j]))
        for i in range(len(THINGS))
        for j in range(len(THINGS) + 1)
        if j != i and confusion[i, j] > 1
    ]
    print(sorted(worst, key=lambda w: -w[2])[:30])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).parents[2] / "forgetcli/bundled/judge"
    )
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--batch", type=int, default=96)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument(
        "--begin", type=Path, help="without a state in --work: go on from this judge's weights"
    )
    args = parser.parse_args()
    main(args.work, args.output, args.minutes, args.batch, args.lr, args.begin)
