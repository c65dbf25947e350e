"""What an edit distorts at equal forgetting: each method at several strengths, on one concept of
the embedded model.

    python benchmarks/distortion.py --output WORK [--concept dog] [--methods nullspace uce …]

H is saturated in this small world, so methods are compared by what they change where nobody asked
for it. All have the same data: 20 preserve prompts and the vocabulary's words, none of which names
what distortion is measured on; hirm and esd read neither. A method's strength is one parameter of
its own; the others are those found with such words, parameters_others.toml (--parameters). Each
setting gives

forget      of 10 prompts that the edit did not see, three images each
mse         mean squared change of the denoiser's predictions for prompts that nobody named, at the
            same noise
distance    perceptual distance to the unedited model's images for these prompts, at equal seeds

Writes distortion.csv (a row for each setting), distortion.svg (forgetting against distortion) and
distortion.json, from which it resumes. The printed table has the weakest setting of each method
that forgets at least 0.99. Some ten seconds a setting on one core, of esd and emcid forty.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tomli
import torch
import world_recipes as words
from bench import PAIRS_ALONE, Bench, mean
from PIL.Image import Image
from torch import Tensor

from forgetcli import recipe as recipes
from forgetcli.editing.check import predictions
from forgetcli.editing.edit import Edit
from forgetcli.errors import ForgetError
from forgetcli.evaluation import features
from forgetcli.evaluation.intervals import mean_interval, wilson
from forgetcli.models.trajectories import noisy_bank
from forgetcli.progress import Silent
from forgetcli.storage import atomic

FORGOTTEN = 0.99
REPEATS = 3  # images of each prompt of the concept
DRAWS = 4  # noisy latents of each prompt that nobody named
OTHERS = 24  # concepts that distortion is measured on, a prompt each, unless it names the concept
FEW = 20  # preserve prompts
SCALES = (0.1, 1.0, 10.0, 100.0, 1e3, 1e4, 1e5)


@dataclass(frozen=True)
class Strength:
    """The parameter that sets how much a method changes.

    Attributes:
        table, key: its place among the method's parameters.
        scales: multiples of the method's own value that are tried, each weaker than the one before.
    """

    table: str
    key: str
    scales: tuple[float, ...] = SCALES


STRENGTH = {
    "nullspace": Strength("refine", "damping"),
    "uce": Strength("edit", "lam"),
    "rece": Strength("edit", "lam"),
    "speed": Strength("edit", "alpha", (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)),
    "mace-cf": Strength("edit", "lam"),
    "oce": Strength("edit", "lam", (0.1, 0.3, 1.0, 3.0, 10.0, 100.0)),
    # Below 1: directions under that share of the largest singular value are left as they are.
    "dp": Strength("edit", "cutoff", (0.1, 0.5, 1.0, 2.0, 4.0)),
    # A smaller learning rate changes less.
    "hirm": Strength("train", "lr", (1.0, 0.5, 0.3, 0.1, 0.05, 0.03, 0.01)),
    "esd": Strength("train", "lr", (1.0, 0.5, 0.3, 0.1)),
    "emcid": Strength("edit", "lam", (1.0, 10.0, 100.0, 1e3, 1e4)),
}
COLUMNS = (
    "concept",
    "method",
    "parameter",
    "value",
    "forget",
    "forget_low",
    "forget_high",
    "n",
    "mse",
    "mse_low",
    "mse_high",
    "distance",
    "distance_low",
    "distance_high",
    "on_front",
    "error",
)


@dataclass(frozen=True)
class Unedited:
    """What every setting is compared with.

    Attributes:
        prompts: those that nobody named.
        latents, times: noisy latents, (prompts × DRAWS, c, h, w), and their timesteps.
        predicted: the unedited model's predictions there.
        images: its images of the prompts.
    """

    prompts: list[str]
    latents: Tensor
    times: Tensor
    predicted: Tensor
    images: list[Image]


class Distortion:
    """The embedded model and one concept."""

    def __init__(self, concept: str, parameters: Path) -> None:
        self.bench = Bench()
        self.extractor = features.load("demo", "cpu")
        self.concept = concept
        others = words.others([concept], OTHERS)
        plain = recipes.parse(words.recipe([concept], others, few=FEW, unnamed=True))
        self.recipe = words.with_prior(plain, "others", [concept, *others])
        tuned, own = (
            tomli.loads(file.read_text())["methods"] for file in (words.PARAMETERS, parameters)
        )
        # Methods that read no prior have one set of values, as in regimes.py.
        self.tables = {**{name: tuned[name] for name in PAIRS_ALONE & tuned.keys()}, **own}
        self.unedited = self._unedited()

    def _unedited(self) -> Unedited:
        prompts = [
            prompt
            for retained in self.recipe.retain
            for prompt in (*retained.direct, *retained.indirect)
            if not _names(prompt, self.concept)
        ]
        model, generator = self.bench.model, torch.Generator().manual_seed(0)
        bank = noisy_bank(
            model, prompts, steps=20, guidance=4.5, generator=generator, observer=Silent()
        )
        rows = torch.arange(len(prompts)).repeat_interleave(DRAWS)
        latents, times = bank.sample(rows, (0, 10**9), generator)
        images = self.bench.drawn(prompts)
        return Unedited(prompts, latents, times, self._predicted(prompts, latents, times), images)

    def _predicted(self, prompts: Sequence[str], latents: Tensor, times: Tensor) -> Tensor:
        repeated = [prompt for prompt in prompts for _ in range(DRAWS)]
        return predictions(self.bench.model, latents, times, repeated)

    def measured(self, method: str, scale: float) -> dict:
        """One setting of a method, as a row."""
        table, key = STRENGTH[method].table, STRENGTH[method].key
        tables = json.loads(json.dumps(self.tables.get(method, {})))
        value = scale * tables.get(table, {}).get(key, _default(method, table, key))
        tables.setdefault(table, {})[key] = value
        row = {
            "concept": self.concept,
            "method": method,
            "parameter": f"{table}.{key}",
            "value": float(f"{value:.4g}"),
        }
        try:
            edit, _ = self.bench.edit(self.recipe, method, tables)
        except ForgetError as error:
            return {**row, "error": error.code}
        return {**row, **self._scores(edit)}

    def _scores(self, edit: Edit) -> dict:
        (concept,) = self.recipe.concepts
        asked = [p for p in (*concept.direct, *concept.indirect) for _ in range(REPEATS)]
        base = self.unedited
        with self.bench.model.weights(edit.weights):
            shown = self.bench.drawn(asked)
            images = self.bench.drawn(base.prompts)
            after = self._predicted(base.prompts, base.latents, base.times)
        gone = [not v.seen for v in self.bench.judge.see(shown, [self.concept] * len(shown))]
        squared = (after - base.predicted).square().flatten(1).mean(1)  # (prompts × DRAWS,)
        changes = squared.unflatten(0, (len(base.prompts), DRAWS)).mean(1).tolist()
        distances = self.extractor.distances(_pixels(base.images), _pixels(images)).tolist()
        low, high = wilson(sum(gone), len(gone))
        return {
            "forget": mean(gone),
            "forget_low": low,
            "forget_high": high,
            "n": len(gone),
            **_with_interval("mse", changes),
            **_with_interval("distance", distances),
        }


def _names(prompt: str, label: str) -> bool:
    """Whether a prompt about a style shows it with the concept itself."""
    entry = words.entry(label)
    return any(
        phrase.removeprefix("a ").removeprefix("an ") in prompt
        for phrase in (*entry["names"], *entry["hints"], *entry["heldout"])
    )


def _with_interval(name: str, values: Sequence[float]) -> dict:
    low, high = mean_interval(values)
    return {name: mean(list(values)), f"{name}_low": low, f"{name}_high": high}


def _default(method: str, table: str, key: str) -> float:
    from forgetcli import methods

    return float(getattr(getattr(methods.get(method).Parameters(), table), key))


def _pixels(images: Sequence[Image]) -> Tensor:
    rows = np.stack([np.asarray(image.convert("RGB")) for image in images])
    return torch.from_numpy(rows).permute(0, 3, 1, 2)


def front(rows: Sequence[Mapping]) -> list[int]:
    """Places of the rows that no other row of the same method exceeds: more forgotten at no more
    distortion.
    """
    return [
        place
        for place, row in enumerate(rows)
        if row.get("forget") is not None
        and not any(
            other.get("forget") is not None
            and other["method"] == row["method"]
            and other["forget"] >= row["forget"]
            and other["mse"] <= row["mse"]
            and (other["forget"], -other["mse"]) != (row["forget"], -row["mse"])
            for other in rows
        )
    ]


def weakest(rows: Sequence[Mapping]) -> list[Mapping]:
    """Of each method the weakest setting that forgets at least `FORGOTTEN`, if there is one."""
    return [
        max(enough, key=weakness)
        for method in dict.fromkeys(row["method"] for row in rows)
        if (enough := [r for r in rows if r["method"] == method and forgotten(r)])
    ]


def forgotten(row: Mapping) -> bool:
    return (row.get("forget") or 0) >= FORGOTTEN


def weakness(row: Mapping) -> float:
    """Larger for settings that change less."""
    scales = STRENGTH[row["method"]].scales
    return row["value"] if scales[0] < scales[-1] else -row["value"]


def write(folder: Path, rows: Sequence[Mapping]) -> None:
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
    table.writeheader()
    best = set(front(rows))
    for place, row in enumerate(rows):
        shown = {k: f"{v:.5g}" if isinstance(v, float) else v for k, v in row.items()}
        table.writerow({**shown, "on_front": int(place in best)})
    atomic.write_atomically(folder / "distortion.csv", text.getvalue().encode())
    atomic.write_atomically(folder / "distortion.svg", plot(rows, best))


def plot(rows: Sequence[Mapping], best: set[int]) -> bytes:
    """SVG: a line through each method's front, hollow points for its other settings."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    from forgetcli.report.plot import COLOURS, MARKS

    with matplotlib.rc_context({"svg.hashsalt": "forget", "svg.fonttype": "none"}):
        figure, axes = plt.subplots(figsize=(5.6, 4.4))
        for number, method in enumerate(dict.fromkeys(row["method"] for row in rows)):
            points = [
                (row["forget"], row["mse"], place in best)
                for place, row in enumerate(rows)
                if row["method"] == method and row.get("forget") is not None
            ]
            look = {"color": COLOURS[1 + number % 6], "marker": MARKS[number % len(MARKS)]}
            ahead = sorted(point[:2] for point in points if point[2])
            if ahead:
                axes.plot(*zip(*ahead), label=method, linewidth=1, markersize=5, **look)
            behind = [point[:2] for point in points if not point[2]]
            if behind:
                axes.scatter(*zip(*behind), s=18, facecolors="none", edgecolors=look["color"],
                             marker=look["marker"])  # fmt: skip
        axes.set(
            xlabel="forget", ylabel="mean squared change of predictions nobody named",
            yscale="log", xlim=(-0.03, 1.03),
        )  # fmt: skip
        axes.legend(frameon=False, fontsize=8)
        figure.tight_layout()
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
        plt.close(figure)
    return buffer.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--concept", default="dog", choices=words.LABELS)
    parser.add_argument("--methods", nargs="+", default=list(STRENGTH), choices=list(STRENGTH))
    parser.add_argument(
        "--scales", nargs="+", type=float, help="instead of the methods' own (see STRENGTH)"
    )
    parser.add_argument(
        "--parameters", type=Path, default=words.OTHER_WORDS, help="the methods' other parameters"
    )
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    file = options.output / "distortion.json"
    known: dict[str, dict] = json.loads(file.read_text()) if file.exists() else {}
    distortion: Distortion | None = None
    for method in options.methods:
        for scale in options.scales or STRENGTH[method].scales:
            key = f"{options.concept} {method} {scale:g}"
            if key in known:
                continue
            distortion = distortion or Distortion(options.concept, options.parameters)
            known[key] = distortion.measured(method, scale)
            atomic.write_atomically(file, json.dumps(known, indent=1).encode())
            print(key, known[key], flush=True)
    rows = [row for row in known.values() if row["concept"] == options.concept]
    write(options.output, rows)
    print("| method | weakest setting | forget | mse × 10⁴ | perceptual distance |")
    print("| --- | --- | --- | --- | --- |")
    for row in weakest(rows):
        mse = [f"{1e4 * row[k]:.2f}" for k in ("mse", "mse_low", "mse_high")]
        distance = [f"{row[k]:.3f}" for k in ("distance", "distance_low", "distance_high")]
        last = max((other for other in rows if other["method"] == row["method"]), key=weakness)
        edge = ", the weakest tried" if row is last else ""
        print(
            f"| {row['method']} | {row['parameter']} = {row['value']:g}{edge} | "
            f"{row['forget']:.3f} ({row['forget_low']:.2f}–{row['forget_high']:.2f}) | "
            f"{mse[0]} ({mse[1]}–{mse[2]}) | {distance[0]} ({distance[1]}–{distance[2]}) |"
        )


if __name__ == "__main__":
    main()
