"""Upload an edited model to the hub: only one that verifies, and private unless its owner says
otherwise.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from forgetcli.artifact.manifest import is_hubs
from forgetcli.errors import ForgetError, ModelError
from forgetcli.progress import Observer, Silent
from forgetcli.storage import hub
from forgetcli.storage.files import walk_files
from forgetcli.verification import audit

LOGIN = "run: hf auth login, with a token that may write"


@dataclass(frozen=True)
class Pushed:
    """What lies on the hub now. `commit`: the commit that holds it."""

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
    """Upload every file of a folder in one commit; the repository is made if there is none.

    Args:
        repo: ``org/name``. revision: a branch, made if there is none; the default branch if None.
    Raises:
        ModelError: push.not-verified: the folder is not what its manifest says.
        ForgetError: push.name; push.is-public: it is to be private, and the repository is public
            already; push.not-allowed,
            push.failed. Nothing is uploaded then.
    """
    import huggingface_hub
    from huggingface_hub import errors

    observer = observer or Silent()
    match = hub.NAME.fullmatch(repo)
    if match is None or match["revision"]:
        raise ForgetError(
            "push.name",
            f"'{repo}' is no name of a repository",
            "give org/name; a branch goes into --revision",
        )
    verdict = audit.verify(folder)
    if not verdict.ok:
        first = verdict.problems[0]
        raise ModelError(
            "push.not-verified",
            f"{folder} is not what its manifest says and is not uploaded: {first['file']} {first['what']}",
            f"forget verify {folder} names all {len(verdict.problems)}; a changed card is written anew by: forget card {folder}",
        )
    observer.stage("uploading")
    try:
        api = huggingface_hub.HfApi()
        url = api.create_repo(repo, private=private, exist_ok=True)
        if private and not api.model_info(repo).private:  # it was there before
            raise ForgetError(
                "push.is-public",
                f"{repo} exists and is public; nothing was uploaded",
                "say --public, or choose another name",
            )
        if revision:
            api.create_branch(repo, branch=revision, exist_ok=True)
        # Not upload_folder, which may split a large one: readers of the repository would see half a
        # model.
        sent = [
            huggingface_hub.CommitOperationAdd(path, folder / path)
            for path in walk_files(folder)
            if not is_hubs(path)
        ]
        done = api.create_commit(
            repo, sent, revision=revision, commit_message="Upload a model edited by forget"
        )
    except errors.HfHubHTTPError as fault:
        status = getattr(fault.response, "status_code", None)
        if status in (401, 403):
            raise ForgetError(
                "push.not-allowed", f"the hub does not let you write {repo}: {_said(fault)}", LOGIN
            ) from fault
        raise ForgetError(
            "push.failed",
            f"{repo} was not uploaded: {_said(fault)}",
            "try again: what is there already is not sent twice",
        ) from fault
    except (errors.LocalTokenNotFoundError, errors.OfflineModeIsEnabled) as fault:
        raise ForgetError(
            "push.not-allowed", f"{repo} was not uploaded: {_said(fault)}", LOGIN
        ) from fault
    except (OSError, ValueError) as fault:
        raise ForgetError(
            "push.failed", f"{repo} was not uploaded: {_said(fault)}", "is there a network?"
        ) from fault
    except Exception as fault:  # the hub's HTTP library has errors of its own, by version
        if type(fault).__module__.partition(".")[0] not in hub.NETWORK_PACKAGES:
            raise
        raise ForgetError(
            "push.failed",
            f"{repo} was not uploaded: the hub cannot be reached ({_said(fault)})",
            "is there a network?",
        ) from fault
    observer.done()
    return Pushed(repo, str(url), private, revision, done.oid, len(sent))


def _said(fault: Exception) -> str:
    return next(
        (line.strip() for line in str(fault).splitlines() if line.strip()), type(fault).__name__
    )
