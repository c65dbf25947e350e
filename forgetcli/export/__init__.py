"""Formats in which an edited model is handed on: one file each; its name is the format
(`single_file.py` is `single-file`).

A format is a module with

    Options                             a frozen pydantic model of its own settings
                                        (``extra="forbid"``), each with a default
    SUFFIX                              what its output's name ends in; "" for a folder
    write(edited, output, options, force, observer) -> dict
                                        writes `output` in one step; what it returns is added to
                                        ``export --json``

Third parties add one by an entry point in the group ``forgetcli.exports``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from difflib import get_close_matches
from pathlib import Path

from forgetcli import plugins
from forgetcli.artifact.edited import Edited
from forgetcli.errors import ForgetError
from forgetcli.progress import Observer, Silent, Stopwatch
from forgetcli.storage.files import refuse_overlap

GROUP = "forgetcli.exports"

__all__ = ["Edited", "Exported", "default_output", "export", "names"]


@dataclass(frozen=True)
class Exported:
    """What `export` wrote.

    Attributes:
        bytes: of all its files.
        figures: the format's own: see each.
    """

    format: str
    output: Path
    bytes: int
    base: Mapping[str, str | None]
    seconds: Mapping[str, float]
    figures: Mapping[str, object] = field(default_factory=dict)

    def as_dict(self) -> dict:
        data = asdict(self) | {"output": str(self.output)}
        return {**data.pop("figures"), **data}


def names() -> list[str]:
    """Every format, sorted."""
    return plugins.names("forgetcli.export.formats", GROUP)


def default_output(folder: Path, name: str) -> Path:
    """Where a format's output goes if nothing is said: ``edited-lora.safetensors``, in the working
    directory.
    """
    return Path(f"{folder.resolve().name}-{name}{_format(name).SUFFIX}")


def export(
    folder: str | Path,
    name: str,
    *,
    output: Path | str | None = None,
    base: str | None = None,
    options: Mapping[str, object] | None = None,
    force: bool = False,
    observer: Observer | None = None,
) -> Exported:
    """Write the edited model in `folder` in another format.

    Args:
        name: the format's.
        output: default: `default_output`.
        base: the unedited model, for formats that need it; by default the one that the manifest
            names.
        options: the format's settings.
        force: replace an earlier output.
    Raises:
        ForgetError: there is no such format or setting, the folder is not (or no longer) what
            forget wrote, the format
            cannot hold the edit, or the output cannot be written. Nothing is left behind.
    """
    module, watch = _format(name), Stopwatch()
    output = Path(output) if output is not None else default_output(Path(folder), name)
    settings = _settings(name, module.Options, options or {})
    edited = Edited.open(folder, base)
    # One more file in the edited folder would be one that its manifest does not list.
    refuse_overlap(
        output, edited.folder, kind="the edited model", hint="choose another place with -o"
    )
    observer = observer or Silent()
    figures = module.write(edited, output, settings, force, observer)
    observer.done()
    files = [output] if output.is_file() else [path for path in output.rglob("*") if path.is_file()]
    manifest = edited.manifest
    origin = {
        "id": manifest.base_id,
        "revision": manifest.base_revision,
        "digest": manifest.base_digest,
    }
    return Exported(
        name, output, sum(path.stat().st_size for path in files), origin, watch.report(), figures
    )


def _format(name: str):
    return plugins.find("forgetcli.export.formats", GROUP, name, "export.unknown-format", "format")


def _settings(name: str, schema, options: Mapping[str, object]):
    from pydantic import ValidationError

    try:
        return schema.model_validate(options)
    except ValidationError as bad:
        fault = bad.errors()[0]
        key, known = ".".join(map(str, fault["loc"])), sorted(schema.model_fields)
        near = get_close_matches(key, known, 1)
        unknown = fault["type"] == "extra_forbidden"
        what = (
            f"the format '{name}' has no setting '{key}'"
            if unknown
            else f"format '{name}': {key}: {fault['msg']}"
        )
        hint = (
            f"did you mean '{near[0]}'?"
            if near and unknown
            else f"its settings: {', '.join(known) or 'none'}"
        )
        raise ForgetError(f"export.{'unknown' if unknown else 'bad'}-option", what, hint) from None
