"""Render the training pictures: every thing × style, `per_cell` drawings each, as one uint8 array
on disk.
"""

from __future__ import annotations

import argparse
from multiprocessing import Pool
from pathlib import Path

import numpy as np
from drawings import (
    JUDGE_SETS,
    MODEL_SETS,
    OTHERS,
    SHARED_SETS,
    STYLES,
    THINGS,
    UNSEEN_SETS,
    WORLD,
    draw,
)
from styles import RENDER


def cell(job) -> np.ndarray:
    packages, sets, thing, style, per_cell, seed, strength = job
    sets = sets or WORLD["things"][thing]["hands"]
    rng = np.random.default_rng([seed, (THINGS + list(OTHERS)).index(thing), STYLES.index(style)])
    pictures = []
    while len(pictures) < per_cell:
        drawing = draw(packages, sets[int(rng.integers(len(sets)))], thing, rng, strength)
        if drawing is not None:  # not every set draws every thing
            pictures.append((RENDER[style](drawing, rng) * 255).round().astype(np.uint8))
    return np.stack(pictures)


def render(
    packages: Path, things, sets, per_cell: int, seed: int, strength: float = 1.0, workers: int = 2
) -> np.ndarray:
    """uint8, shape (things, styles, per_cell, 64, 64, 3). `sets`: None for each thing's own
    `hands`.
    """
    jobs = [(packages, sets, t, s, per_cell, seed, strength) for t in things for s in STYLES]
    with Pool(workers) as pool:
        cells = pool.map(cell, jobs, chunksize=4)
    return np.stack(cells).reshape(len(things), len(STYLES), per_cell, 64, 64, 3)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--packages", type=Path, required=True, help="node_modules with the @iconify-json sets"
    )
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--per-cell", type=int, default=40)
    parser.add_argument("--for", dest="use", choices=["model", "judge"], default="model")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    jobs = {
        "model": {"model": (THINGS, None, args.per_cell, 1, 0.5)},
        "judge": {
            "judge": (THINGS, JUDGE_SETS, args.per_cell, 2, 1.5),
            "judge-shared": (THINGS, SHARED_SETS, args.per_cell // 2, 6, 1.5),
            "judge-others": (OTHERS, JUDGE_SETS + MODEL_SETS, 6, 3, 1.5),
            "judge-test": (THINGS, JUDGE_SETS, 6, 4, 1.5),  # same drawings, new augmentation
            "judge-test-hands": (THINGS, UNSEEN_SETS, 4, 5, 1.0),
        },
    }[args.use]  # other drawings
    for name, job in jobs.items():
        if (args.work / f"{name}.npy").exists():  # goes on where it was cut short
            continue
        pictures = render(args.packages, *job)
        np.save(args.work / f"{name}.npy", pictures)
        print(name, pictures.shape, f"{pictures.nbytes / 1e6:.0f} MB", flush=True)
