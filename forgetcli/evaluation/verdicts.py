"""Verdicts on disk, one line each. The judge is asked only once about an image."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from forgetcli.distributed import Processes
from forgetcli.evaluation.judges import Judge, Verdict
from forgetcli.evaluation.questions import Question, choices
from forgetcli.progress import Observer
from forgetcli.storage import atomic
from forgetcli.storage.files import sha256_file

BATCH = 8  # images that are judged together, and the unit that is shared among processes


def look(
    judge: Judge,
    paths: Sequence[Path],
    questions: Sequence[Question],
    folder: Path,
    *,
    processes: Processes,
    observer: Observer,
) -> list[Verdict]:
    """The judge's verdict on each image. Verdicts that are in `folder` already are reused.

    Each process judges its share of the images. When all processes are done, each of them reads all
    verdicts from the folder.

    Args:
        paths: an image for each question.
        questions: what the judge is asked about each image.
    """
    # PIL takes a while to import, and a run whose verdicts are all there does not need it.
    from PIL import Image

    log = Log(folder, judge.identity(), processes.index)
    labels = [q.label for q in questions]
    among = choices(questions)
    keys = [key_of(*asked) for asked in zip(paths, labels, among)]
    missing = [
        index
        for block in processes.blocks(range(len(keys)), BATCH)
        for index in block
        if keys[index] not in log.verdicts
    ]
    if missing:
        observer.stage("judging", len(missing))
    for start in range(0, len(missing), BATCH):
        part = missing[start : start + BATCH]
        verdicts = judge.see(
            [Image.open(paths[i]).convert("RGB") for i in part],
            [labels[i] for i in part],
            [among[i] for i in part],
        )
        log.append({keys[i]: verdict for i, verdict in zip(part, verdicts)})
        observer.advance(len(part))
    processes.wait()
    log.read()
    return [log.verdicts[key] for key in keys]


def key_of(path: Path, label: str, among: Sequence[str]) -> str:
    """Digest of the image's bytes and the question."""
    return hashlib.sha256(json.dumps([sha256_file(path), label, *among]).encode()).hexdigest()


class Log:
    """One judge's verdicts. Each process writes a file of its own, so that none waits for another.

    Attributes:
        verdicts: by `key_of`.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any], process: int) -> None:
        digest = hashlib.sha256(
            json.dumps(identity, sort_keys=True, default=str).encode()
        ).hexdigest()[:16]
        self.folder = folder
        self.stem = digest
        self.path = folder / f"{digest}-{process}.jsonl"
        self.verdicts: dict[str, Verdict] = {}
        self.read()

    def read(self) -> None:
        """Read the files of all processes."""
        for file in sorted(self.folder.glob(f"{self.stem}-*.jsonl")):
            for line in file.read_text(errors="replace").splitlines():
                try:
                    entry = json.loads(line)
                    self.verdicts[entry["key"]] = Verdict(
                        bool(entry["seen"]), str(entry["judged"]), float(entry["score"])
                    )
                except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
                    # The process was killed while it wrote this line: the judge is asked again.
                    continue

    def append(self, verdicts: Mapping[str, Verdict]) -> None:
        """Add verdicts, on disk before this returns."""
        self.verdicts.update(verdicts)
        lines = "".join(
            json.dumps({"key": key, "seen": v.seen, "judged": v.judged, "score": v.score}) + "\n"
            for key, v in verdicts.items()
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
