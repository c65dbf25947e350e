"""Upload an edited model to the hub: only a verified one, and privately unless the user asks for a
public repository.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from forgetcli.artifact.listing import regular_files
from forgetcli.artifact.manifest import is_hubs
from forgetcli.errors import ForgetError, ModelError
from forgetcli.progress import Observer, Silent
from forgetcli.storage import hub
from forgetcli.verification import audit

LOGIN = "run: hf auth login, with a token that may write"


@dataclass(frozen=True)
class Pushed:
    """An upload.

    Attributes:
        repo: ``org/name``.
        url: the repository's address.
        private: whether the repository was requested to be private.
        revision: the branch; None: the default branch.
        commit: the hash of the commit that has the files.
        files: their number.
    """

    repo: str
    url: str
    private: bool
    revision: str | None
    commit: str
    files: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def push(
    folder: Path,
    repo: str,
    *,
    private: bool = True,
    revision: str | None = None,
    observer: Observer | None = None,
) -> Pushed:
    """Upload every file of a folder in one commit. A repository that does not exist is created.

    Args:
        repo: ``org/name``.
        private: whether the repository must be private.
        revision: a branch, which is created if it does not exist; None: the default branch.
    Raises:
        ModelError: push.not-verified: the folder is not what its manifest says.
        ForgetError: push.name; push.is-public: `private`, and the repository exists and is public;
            push.not-allowed, push.failed. Nothing is uploaded then.
    """
    observer = observer or Silent()
    _refuse_name(repo)
    _refuse_unverified(folder)
    observer.stage("uploading")
    try:
        pushed = _upload(folder, repo, private, revision)
    except ForgetError:
        raise
    except Exception as fault:
        failure = _failure(repo, fault)
        if failure is None:
            raise
        raise failure from fault
    observer.done()
    return pushed


@dataclass(frozen=True)
class PlannedPush:
    """What `push` would upload.

    Attributes:
        repo: ``org/name``.
        files: path in the repository → bytes.
    """

    repo: str
    files: Mapping[str, int]

    def as_dict(self) -> dict[str, Any]:
        return {"repo": self.repo, "dry_run": True, "files": dict(self.files)}


def plan(folder: Path, repo: str) -> PlannedPush:
    """What `push` would upload, after its checks of the name and the folder. The hub is not asked.

    Raises:
        ModelError: push.not-verified.
        ForgetError: push.name.
    """
    _refuse_name(repo)
    _refuse_unverified(folder)
    paths = [path for path in regular_files(folder) if not is_hubs(path)]
    return PlannedPush(repo, {path: (folder / path).stat().st_size for path in paths})


def _refuse_name(repo: str) -> None:
    """
    Raises:
        ForgetError: push.name.
    """
    match = hub.NAME.fullmatch(repo)
    if match is None or match["revision"]:
        raise ForgetError(
            "push.name",
            f"'{repo}' is no name of a repository",
            "give org/name; a branch goes into --revision",
        )


def _refuse_unverified(folder: Path) -> None:
    """
    Raises:
        ModelError: push.not-verified.
    """
    verdict = audit.verify(folder)
    if not verdict.ok:
        first = verdict.problems[0]
        raise ModelError(
            "push.not-verified",
            f"{folder} is not what its manifest says and is not uploaded: "
            f"{first.file} {first.what}",
            f"forget verify {folder} names all {len(verdict.problems)}; "
            f"a changed card is written again by: forget card {folder}",
        )


def _upload(folder: Path, repo: str, private: bool, revision: str | None) -> Pushed:
    """The upload itself. Errors are those of the hub's library, except push.is-public."""
    # The command line starts without the hub's library.
    import huggingface_hub

    # Before anything is made: a link out of the folder is an error here.
    paths = [path for path in regular_files(folder) if not is_hubs(path)]
    api = huggingface_hub.HfApi()
    url = api.create_repo(repo, private=private, exist_ok=True)
    # create_repo ignores `private` if the repository exists.
    if private and not api.model_info(repo).private:
        raise ForgetError(
            "push.is-public",
            f"{repo} exists and is public; nothing was uploaded",
            "say --public, or choose another name",
        )
    if revision:
        api.create_branch(repo, branch=revision, exist_ok=True)
    # Not upload_folder, which may split a large folder into several commits: between them readers
    # of the repository would see a partial model.
    files = [huggingface_hub.CommitOperationAdd(path, folder / path) for path in paths]
    commit = api.create_commit(
        repo, files, revision=revision, commit_message="Upload a model edited by forget"
    )
    return Pushed(
        repo=repo,
        url=str(url),
        private=private,
        revision=revision,
        commit=commit.oid,
        files=len(files),
    )


def _failure(repo: str, fault: Exception) -> ForgetError | None:
    """What an error of the upload means for the user; None for a programming error."""
    # The command line starts without the hub's library.
    from huggingface_hub import errors

    said = _first_line(fault)
    if isinstance(fault, errors.HfHubHTTPError):
        status = getattr(fault.response, "status_code", None)
        if status in (401, 403):
            return ForgetError(
                "push.not-allowed", f"the hub does not let you write {repo}: {said}", LOGIN
            )
        return ForgetError(
            "push.failed",
            f"{repo} was not uploaded: {said}",
            "try again: files that the hub has already are not uploaded twice",
        )
    if isinstance(fault, (errors.LocalTokenNotFoundError, errors.OfflineModeIsEnabled)):
        return ForgetError("push.not-allowed", f"{repo} was not uploaded: {said}", LOGIN)
    if isinstance(fault, (OSError, ValueError)):
        return ForgetError("push.failed", f"{repo} was not uploaded: {said}", "is there a network?")
    # The errors of the HTTP library, which depends on the version of the hub's library.
    if type(fault).__module__.partition(".")[0] in hub.NETWORK_PACKAGES:
        return ForgetError(
            "push.failed",
            f"{repo} was not uploaded: the hub cannot be reached ({said})",
            "is there a network?",
        )
    return None


def _first_line(fault: Exception) -> str:
    """The first line of an error's message that is not empty; its type if there is none."""
    lines = (line.strip() for line in str(fault).splitlines())
    return next((line for line in lines if line), type(fault).__name__)
