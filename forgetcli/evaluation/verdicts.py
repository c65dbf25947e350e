"""Verdicts on disk, one line each: what a judge has said of a picture need not be asked again."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from forgetcli.distributed import Processes
from forgetcli.evaluation.judges import Sight
from forgetcli.evaluation.questions import Question, choices
from forgetcli.progress import Observer
from forgetcli.storage import atomic
from forgetcli.storage.files import sha256_file

BATCH = 8  # pictures at a time; what processes share out


def look(
    judge,
    paths: Sequence[Path],
    questions: Sequence[Question],
    folder: Path,
    *,
    processes: Processes,
    observer: Observer,
) -> list[Sight]:
    """The judge's verdict on each picture; what stands in `folder` already is not asked again.

    Args:
        paths, questions: a picture each, and what is asked of it. Of several processes, each judges
            its share; after all
            have, every one finds every verdict in the folder.
    """
    from PIL import Image

    log = Log(folder, judge.identity(), processes.index)
    asked = [(path, q.label, among) for path, q, among in zip(paths, questions, choices(questions))]
    keys = [key_of(*a) for a in asked]
    mine = [
        i
        for block in processes.blocks(range(len(asked)), BATCH)
        for i in block
        if keys[i] not in log.sights
    ]
    if mine:
        observer.stage("judging", len(mine))
    for start in range(0, len(mine), BATCH):
        part = mine[start : start + BATCH]
        pictures = [Image.open(asked[i][0]).convert("RGB") for i in part]
        sights = judge.see(pictures, [asked[i][1] for i in part], [asked[i][2] for i in part])
        log.append({keys[i]: sight for i, sight in zip(part, sights)})
        observer.advance(len(part))
    processes.wait()
    log.read()
    return [log.sights[key] for key in keys]


def key_of(path: Path, label: str, among: Sequence[str]) -> str:
    """The picture's bytes and the question."""
    return hashlib.sha256(json.dumps([sha256_file(path), label, *among]).encode()).hexdigest()


class Log:
    """What one judge has said: a file of its own for each process, so that none waits for another."""

    def __init__(self, folder: Path, identity: dict, process: int) -> None:
        digest = hashlib.sha256(
            json.dumps(identity, sort_keys=True, default=str).encode()
        ).hexdigest()[:16]
        self.folder, self.stem = folder, digest
        self.path = folder / f"{digest}-{process}.jsonl"
        self.sights: dict[str, Sight] = {}
        self.read()

    def read(self) -> None:
        for file in sorted(self.folder.glob(f"{self.stem}-*.jsonl")):
            for line in file.read_text(errors="replace").splitlines():
                try:
                    entry = json.loads(line)
                    self.sights[entry["key"]] = Sight(
                        bool(entry["seen"]), str(entry["judged"]), float(entry["score"])
                    )
                except (ValueError, KeyError, TypeError):
                    continue  # cut short while it was written: asked again

    def append(self, sights: dict[str, Sight]) -> None:
        self.sights.update(sights)
        lines = "".join(
            json.dumps({"key": key, "seen": s.seen, "judged": s.judged, "score": s.score}) + "\n"
            for key, s in sights.items()
        )
        with atomic.output_faults(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            with self.path.open("a") as stream:
                stream.write(("" if _ends_with_newline(self.path) else "\n") + lines)
                stream.flush()
                os.fsync(stream.fileno())


def _ends_with_newline(path: Path) -> bool:
    data = path.read_bytes()
    return not data or data.endswith(b"\n")
