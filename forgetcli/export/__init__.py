"""Export of edited models. Each format is one module of `export.formats`.

The name of a format is the name of its module with hyphens: ``single_file.py`` is ``single-file``.
The modules implement the protocol `Format`. Third parties add a format with an entry point in the
group ``forgetcli.exports``.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol, cast

from forgetcli import plugins
from forgetcli.artifact.edited import EditedModel
from forgetcli.progress import Observer, Silent, Stopwatch
from forgetcli.storage import atomic
from forgetcli.storage.files import refuse_overlap

if TYPE_CHECKING:
    from pydantic import BaseModel

FORMATS = "forgetcli.export.formats"
GROUP = "forgetcli.exports"

# The name that third parties' formats use.
Edited = EditedModel

__all__ = ["Edited", "Exported", "Format", "default_output", "export", "names"]


class Format(Protocol):
    """The module of a format.

    Attributes:
        Options: a frozen pydantic model of the format's settings (``extra="forbid"``). All settings
            have defaults.
        SUFFIX: the suffix of the output file; empty if the output is a folder.
    """

    Options: type[BaseModel]
    SUFFIX: str

    def write(
        self, edited: EditedModel, output: Path, options: Any, force: bool, observer: Observer
    ) -> dict[str, Any]:
        """Write `output` in one step, so that no partial output is ever left.

        Args:
            options: an instance of `Options`.
            force: replace an existing output.
        Returns:
            figures to add to ``export --json``.
        """
        ...


@dataclass(frozen=True)
class Exported:
    """The result of `export`.

    Attributes:
        format: the format's name.
        output: the file or folder.
        bytes: the total size of the output's files; None after a dry run.
        base: id, revision and digest of the base model.
        seconds: duration of each stage.
        figures: the figures of the format; see its `write`.
    """

    format: str
    output: Path
    bytes: int | None
    base: Mapping[str, str | None]
    seconds: Mapping[str, float]
    figures: Mapping[str, object] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The keys of ``export --json``."""
        data = asdict(self) | {"output": str(self.output)}
        return {**data.pop("figures"), **data}


def names() -> list[str]:
    """The names of all formats, sorted."""
    return plugins.names(FORMATS, GROUP)


def default_output(folder: Path, name: str) -> Path:
    """The default output in the working directory, such as ``edited-lora.safetensors``."""
    return Path(f"{folder.resolve().name}-{name}{_format(name).SUFFIX}")


def export(
    folder: str | Path,
    name: str,
    *,
    output: Path | str | None = None,
    base: str | None = None,
    options: Mapping[str, object] | None = None,
    force: bool = False,
    dry_run: bool = False,
    observer: Observer | None = None,
) -> Exported:
    """Write the edited model in `folder` in another format.

    Args:
        name: the format's name.
        output: default: `default_output`.
        base: the base model, for formats that need it; default: the base model in the manifest.
        options: the format's settings.
        force: replace an existing output.
        dry_run: check the format, its settings, the folder and the output, and write nothing.
    Raises:
        ForgetError: the format or a setting is unknown, the folder differs from its manifest, the
            format cannot represent the edit, or the output cannot be written. No partial output is
            left.
    """
    observer = observer or Silent()
    watch = Stopwatch()
    module = _format(name)
    output = Path(output) if output is not None else default_output(Path(folder), name)
    settings = plugins.validated_options("format", name, module.Options, options or {}, "export")
    edited = EditedModel.open(folder, base)
    # The output must be outside the edited folder, whose manifest lists every file.
    refuse_overlap(
        output, edited.folder, kind="the edited model", hint="choose another place with -o"
    )
    if dry_run:
        atomic.refuse_unwritable(output, folder=not module.SUFFIX, force=force)
        figures: Mapping[str, object] = {"dry_run": True}
    else:
        figures = module.write(edited, output, settings, force, observer)
    observer.done()
    manifest = edited.manifest
    return Exported(
        format=name,
        output=output,
        bytes=None if dry_run else _total_size(output),
        base={
            "id": manifest.base_id,
            "revision": manifest.base_revision,
            "digest": manifest.base_digest,
        },
        seconds=watch.report(),
        figures=figures,
    )


def _format(name: str) -> Format:
    module = plugins.find(FORMATS, GROUP, name, code="export.unknown-format", what="format")
    return cast(Format, module)


def _total_size(output: Path) -> int:
    files = [output] if output.is_file() else output.rglob("*")
    return sum(path.stat().st_size for path in files if path.is_file())


class _Callable(ModuleType):
    """This package is `forgetcli.export` once it is imported, and so is the function `export`."""

    def __call__(self, *positional: Any, **named: Any) -> Exported:
        return export(*positional, **named)


sys.modules[__name__].__class__ = _Callable
