"""Claims: a cached model is used if it is complete; what is missing is fetched once, copies of the
weights only where nothing else completes the model; every refusal has the command to fetch it.
"""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants

from forgetcli.errors import ForgetError, ModelError
from forgetcli.storage import hub

NAME = "org/model"
FETCH = "hf download org/model --include '*.json' --include '*.txt' --include '*/*.safetensors'"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with the folders of three models; the model of `NAME` is in none of them."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: None)
    for name in ("org--model-one", "org--model-two", "org--model-three"):
        (tmp_path / f"models--{name}").mkdir()
    return tmp_path


def downloads(monkeypatch: pytest.MonkeyPatch, folder: Path) -> list[dict]:
    """What is asked of the hub from now on; every download ends in `folder`."""
    asked: list[dict] = []

    def download(name: str, **options: object) -> str:
        asked.append({"name": name, **options})
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return asked


def test_a_cached_model_is_used_if_it_is_complete(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = downloads(monkeypatch, cache / "fetched")
    found: list[object] = [str(cache / "cached" / "model_index.json")]
    monkeypatch.setattr(
        huggingface_hub,
        "try_to_load_from_cache",
        lambda name, file, revision: found[0] if (name, file) == (NAME, hub.PIPELINE.index) else 0,
    )
    seen: list[Path] = []

    def complete(folder: Path) -> bool:
        seen.append(folder)
        return True

    assert hub.snapshot(NAME, None, complete) == cache / "cached"
    assert seen == [cache / "cached"] and asked == []
    assert hub.snapshot(NAME, "v1", lambda folder: folder.name == "fetched") == cache / "fetched"
    assert [each["revision"] for each in asked] == ["v1"]
    found[0] = object()  # the hub's mark of a file that is known not to exist
    assert hub.snapshot(NAME, None, complete) == cache / "fetched"
    assert seen[-1] == cache / "fetched"


def test_copies_are_fetched_only_where_nothing_else_completes_the_model(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = downloads(monkeypatch, cache)
    patterns = [*hub.PATTERNS, *hub.LEDGER]
    hub.snapshot(NAME, None, lambda folder: True)
    first = {"name": NAME, "revision": None, "allow_patterns": patterns}
    assert asked == [{**first, "ignore_patterns": list(hub.VARIANTS)}]
    assert hub.snapshot(NAME, None, lambda folder: False) == cache
    assert asked[1:] == [{**first, "ignore_patterns": list(hub.VARIANTS)}, first]
    asked.clear()
    strict = replace(hub.PIPELINE, copies_suffice=False)
    hub.snapshot(NAME, None, lambda folder: False, kind=strict)
    assert len(asked) == 1


class _Elsewhere(Exception):
    pass


class _OfTheHttpLibrary(Exception):
    __module__ = "httpx._exceptions"


@pytest.mark.parametrize(
    "fault",
    [
        OSError(errno.ECONNREFUSED, "refused"),
        ValueError("offline"),
        _OfTheHttpLibrary("timed out"),
    ],
)
def test_a_model_that_cannot_be_fetched_has_the_command_and_near_names(
    cache: Path, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    def fail(*_: object, **__: object) -> str:
        raise fault

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(ModelError) as error:
        hub.snapshot(NAME, None, lambda folder: True)
    assert error.value.code == "model.not-found"
    assert error.value.message == (
        "'org/model' is not a local folder and is not in the local cache, "
        "and the hub cannot be reached"
    )
    assert error.value.hint.endswith(f"fetch it on a machine with a network: {FETCH}")
    assert error.value.hint.startswith("did you mean org/model-two or org/model-one? ")
    with pytest.raises(ModelError) as error:
        hub.snapshot(NAME, "v1", lambda folder: True, kind=replace(hub.PIPELINE, suggests=False))
    assert "'org/model@v1'" in error.value.message
    assert error.value.hint.startswith(
        "fetch it on a machine with a network: hf download org/model --"
    )
    assert " --revision v1 --include" in error.value.hint


def test_other_faults_are_not_called_a_lack_of_network(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def raised(fault: Exception, **options: object) -> BaseException:
        def fail(*_: object, **__: object) -> str:
            raise fault

        monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
        with pytest.raises((ForgetError, _Elsewhere)) as error:
            hub.snapshot(NAME, "v1", lambda folder: True, **options)
        return error.value

    mine = _Elsewhere("mine")
    assert raised(mine) is mine
    not_fetched = raised(mine, download=False)
    assert isinstance(not_fetched, ModelError)
    assert not_fetched.message.endswith("is not a local folder and is not in the local cache")
    for errno_, code in ((errno.ENOSPC, "output.disk-full"), (errno.EACCES, "output.permission")):
        fault = raised(OSError(errno_, "no", str(cache / "x")))
        assert isinstance(fault, ForgetError) and fault.code == code
        assert "set HF_HOME to another folder" in fault.hint
    other = raised(PermissionError(errno.EACCES, "no", "/elsewhere"))
    assert isinstance(other, ModelError) and other.code == "model.not-found"


def test_names_are_near_in_any_case_and_never_the_name_itself(cache: Path) -> None:
    assert hub.similar_names("ORG/Model-ONE") == ["org/model-one", "org/model-two"]
    assert "org/model-one" not in hub.similar_names("org/model-one")
    assert hub.similar_names("stabilityai/sd-turb") == [
        "stabilityai/sd-turbo",
        "stabilityai/sdxl-turbo",
    ]
    assert hub.similar_names("unlike/anything") == []
