"""Verdicts on disk, one line each. The judge is asked only once about an image."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from forgetcli.errors import ModelError
from forgetcli.evaluation.judges import Judge, Verdict
from forgetcli.evaluation.opened import opened
from forgetcli.evaluation.questions import Question, choices
from forgetcli.evaluation.run_folder import refuse_others
from forgetcli.process.distributed import Processes
from forgetcli.progress import Observer
from forgetcli.storage import atomic
from forgetcli.storage.files import open_regular, sha256_file

MAX_LINE_BYTES = 1 << 20  # ours have a few hundred
MAX_SCORE = 1e6  # scores are from 0 to 1, give or take rounding
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
            [opened(paths[i]) for i in part],
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
            try:
                lines = open_regular(file)
            except (ModelError, FileNotFoundError):  # a pipe would never end; a dangling link
                continue
            with lines:
                while line := lines.readline(MAX_LINE_BYTES):
                    self._read_line(line)

    def _read_line(self, line: bytes) -> None:
        """One verdict; nothing if the line is damaged, so that the judge is asked again.

        A process that was killed while it wrote leaves a part of a line.
        """
        try:
            entry = json.loads(line)
            key, seen, judged, score = (entry[name] for name in ("key", "seen", "judged", "score"))
        except (ValueError, KeyError, TypeError, RecursionError):
            return
        sound = isinstance(key, str) and isinstance(seen, bool) and isinstance(judged, str)
        if sound and type(score) in (int, float) and abs(score) < MAX_SCORE:
            self.verdicts[key] = Verdict(seen, judged, float(score))

    def append(self, verdicts: Mapping[str, Verdict]) -> None:
        """Add verdicts, on disk before this returns."""
        self.verdicts.update(verdicts)
        lines = "".join(
            json.dumps({"key": key, "seen": v.seen, "judged": v.judged, "score": v.score}) + "\n"
            for key, v in verdicts.items()
        )
        with atomic.output_faults(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            refuse_others(self.folder, files=[self.path.name])
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write(("" if _ends_with_newline(self.path) else "\n") + lines)
                stream.flush()
                os.fsync(stream.fileno())


def _ends_with_newline(path: Path) -> bool:
    with open(path, "rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return True
        file.seek(-1, os.SEEK_END)
        return file.read() == b"\n"
