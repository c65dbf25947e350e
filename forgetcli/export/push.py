"""Uploads an edited model to the hub if it verifies, by default to a private repository."""

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
    """The result of `push`.

    Attributes:
        repo: ``org/name``.
        url: the repository's URL.
        private: whether a private repository was requested.
        revision: the branch; None: the default branch.
        commit: the hash of the commit with the files.
        files: the number of files.
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
    """Upload all files of a folder in one commit. If the repository does not exist, it is created.

    Args:
        repo: ``org/name``.
        private: whether the repository must be private.
        revision: a branch, which is created if it does not exist; None: the default branch.
    Raises:
        ModelError: push.not-verified: the folder differs from its manifest.
        ForgetError: push.name; push.is-public: `private` is set, but the repository exists and is
            public; push.not-allowed, push.failed. Nothing has been uploaded then.
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
    """The files that `push` would upload.

    Attributes:
        repo: ``org/name``.
        files: path in the repository → size in bytes.
    """

    repo: str
    files: Mapping[str, int]

    def as_dict(self) -> dict[str, Any]:
        return {"repo": self.repo, "dry_run": True, "files": dict(self.files)}


def plan(folder: Path, repo: str) -> PlannedPush:
    """Make the checks of `push` that need no network, and list the files that it would upload.

    Raises:
        ModelError: push.not-verified.
        ForgetError: push.name.
    """
    _refuse_name(repo)
    _refuse_unverified(folder)
    paths = [path for path in regular_files(folder) if not is_hubs(path)]
    return PlannedPush(repo, {path: (folder / path).stat().st_size for path in paths})


def _refuse_name(repo: str) -> None:
    """Refuse a name that is not valid for a repository.

    Raises:
        ForgetError: push.name.
    """
    match = hub.NAME.fullmatch(repo)
    if match is None or match["revision"]:
        raise ForgetError(
            "push.name",
            f"'{repo}' is not the name of a repository",
            "give org/name, and a branch with --revision",
        )


def _refuse_unverified(folder: Path) -> None:
    """Refuse a folder that differs from its manifest.

    Raises:
        ModelError: push.not-verified.
    """
    verdict = audit.verify(folder)
    if not verdict.ok:
        first = verdict.problems[0]
        raise ModelError(
            "push.not-verified",
            f"{folder} differs from its manifest, so it is not uploaded: {first.file} {first.what}",
            f"'forget verify {folder}' lists all {len(verdict.problems)} differences; "
            f"if you have changed the card, 'forget card {folder}' writes it again",
        )


def _upload(folder: Path, repo: str, private: bool, revision: str | None) -> Pushed:
    """Upload the files. Errors are those of the hub's library, except push.is-public."""
    # Imported here, because the command line starts without the hub's library.
    import huggingface_hub

    # Listed before the repository is created, because a link out of the folder is an error.
    paths = [path for path in regular_files(folder) if not is_hubs(path)]
    api = huggingface_hub.HfApi()
    url = api.create_repo(repo, private=private, exist_ok=True)
    # create_repo ignores `private` if the repository exists.
    if private and not api.model_info(repo).private:
        raise ForgetError(
            "push.is-public",
            f"{repo} exists and is public; nothing was uploaded",
            "use --public, or choose another name",
        )
    if revision:
        api.create_branch(repo, branch=revision, exist_ok=True)
    # upload_folder may split a large folder into several commits. Between them the repository would
    # have a partial model.
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
    """The error for the user, for an error of the upload; None for a programming error."""
    # Imported here, because the command line starts without the hub's library.
    from huggingface_hub import errors

    reason = _first_line(fault)
    if isinstance(fault, errors.HfHubHTTPError):
        status = getattr(fault.response, "status_code", None)
        if status in (401, 403):
            return ForgetError(
                "push.not-allowed", f"the hub does not let you write {repo}: {reason}", LOGIN
            )
        return ForgetError(
            "push.failed",
            f"{repo} was not uploaded: {reason}",
            "try again: files that the hub already has are not uploaded twice",
        )
    if isinstance(fault, (errors.LocalTokenNotFoundError, errors.OfflineModeIsEnabled)):
        return ForgetError("push.not-allowed", f"{repo} was not uploaded: {reason}", LOGIN)
    if isinstance(fault, (OSError, ValueError)):
        return ForgetError(
            "push.failed", f"{repo} was not uploaded: {reason}", "is there a network?"
        )
    # Which HTTP library the hub's library uses, and so its errors, depends on the version.
    if type(fault).__module__.partition(".")[0] in hub.NETWORK_PACKAGES:
        return ForgetError(
            "push.failed",
            f"{repo} was not uploaded: the hub cannot be reached ({reason})",
            "is there a network?",
        )
    return None


def _first_line(fault: Exception) -> str:
    """The first line of an error's message that is not empty, or the error's type."""
    lines = (line.strip() for line in str(fault).splitlines())
    return next((line for line in lines if line), type(fault).__name__)
