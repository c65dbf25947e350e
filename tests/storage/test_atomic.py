"""Claims: a file or folder is absent, old or complete, whatever fails and whenever; nothing
temporary stays behind.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from faults import Saboteur, tree
from filelock import FileLock

from forgetcli.errors import OutputError
from forgetcli.storage import atomic, temporaries, workspace
from forgetcli.storage.copying import copy_file
from forgetcli.storage.files import sha256_file, walk_files

ROOT = Path(__file__).resolve().parents[2]
OLD = {atomic.MARKER: b"{}", "unet/weights": b"old" * 1000}
NEW = {atomic.MARKER: b"{ }", "unet/weights": b"new" * 2000, "vae/config.json": b"{}"}

FAULTS = {
    "full disk": lambda: OSError(errno.ENOSPC, "No space left on device"),
    "bad disk": lambda: OSError(errno.EIO, "Input/output error"),
    "refused": lambda: PermissionError(errno.EACCES, "Permission denied"),
    "Ctrl-C": KeyboardInterrupt,
    "exit": lambda: SystemExit(143),
}


def fill(folder: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def publish(output: Path, files: dict[str, bytes] = NEW, force: bool = True) -> None:
    with atomic.publishing(output, force=force) as staging:
        fill(staging, files)


@contextmanager
def umask(mask: int):
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


# --- single files


@pytest.mark.parametrize(("mask", "wanted"), [(0o022, 0o644), (0o027, 0o640), (0o000, 0o666)])
def test_files_have_the_mode_that_the_umask_gives(tmp_path, mask, wanted):
    private = tmp_path / "private"
    private.write_bytes(b"x")
    private.chmod(0o400)  # as files in a model cache can be
    with umask(mask):
        atomic.write_atomically(tmp_path / "written", b"data")
        copy_file(private, tmp_path / "copied")
        atomic.write_atomically(tmp_path / "asked", b"data", mode=0o604)
        with atomic.publishing(tmp_path / "folder", force=False):
            pass
    assert mode(tmp_path / "written") == mode(tmp_path / "copied") == wanted
    assert mode(tmp_path / "asked") == 0o604
    assert mode(tmp_path / "folder") == 0o777 & ~mask


def test_a_copy_is_the_same_bytes_and_never_replaces(tmp_path):
    source = tmp_path / "source"
    source.write_bytes(os.urandom((8 << 20) + 17))
    copy_file(source, tmp_path / "copy")
    assert sha256_file(tmp_path / "copy") == sha256_file(source)
    with pytest.raises(FileExistsError):
        copy_file(source, tmp_path / "copy")


def test_sha256_is_that_of_an_independent_tool(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert (
        sha256_file(tmp_path / "abc")
        == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )


@pytest.mark.parametrize("after", [False, True], ids=["instead", "after"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_file_is_old_or_new_whatever_fails(tmp_path, fault, after):
    path = tmp_path / "file"
    for n in range(1, 50):
        path.write_bytes(b"old" * 100)
        saboteur = Saboteur(n, FAULTS[fault], after)
        try:
            with saboteur.at_work():
                atomic.write_atomically(path, b"new" * 200)
        except (OutputError, KeyboardInterrupt, SystemExit):
            assert path.read_bytes() in (b"old" * 100, b"new" * 200)
            assert [p.name for p in tmp_path.iterdir()] == ["file"]
        else:
            break
    assert path.read_bytes() == b"new" * 200
    assert set(saboteur.calls) == {
        "open",
        "write",
        "fsync",
        "replace",
    }  # all of them were failed in turn
    assert n == len(saboteur.calls) + 1


def test_a_write_in_place_would_be_caught(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old" * 100)
    with pytest.raises(OSError), Saboteur(2, FAULTS["full disk"]).at_work():
        handle = os.open(path, os.O_WRONLY | os.O_TRUNC)
        os.write(handle, b"new" * 200)
    assert path.read_bytes() not in (b"old" * 100, b"new" * 200)


# --- folders


@pytest.mark.parametrize("exchange", [True, False], ids=["exchange", "no-exchange"])
@pytest.mark.parametrize("after", [False, True], ids=["instead", "after"])
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("before", [None, OLD], ids=["absent", "old"])
def test_an_output_is_absent_old_or_complete_whatever_fails(
    tmp_path, monkeypatch, before, fault, after, exchange
):
    if not exchange:
        monkeypatch.setattr(atomic, "_exchange", lambda first, second: False)
    output = tmp_path / "edited"
    outcomes = []
    for n in range(1, 100):
        shutil.rmtree(output, ignore_errors=True)
        if before:
            fill(output, before)
        saboteur = Saboteur(n, FAULTS[fault], after)
        try:
            with saboteur.at_work():
                publish(output)
        except (OSError, OutputError, KeyboardInterrupt, SystemExit):
            found = tree(output)
            outcomes.append(found)
            assert found in (before, NEW), f"half an output after call {n}, {saboteur.calls[-1]}"
            assert [p.name for p in tmp_path.iterdir()] == (["edited"] if found else [])
        else:
            assert tree(output) == NEW
            if not saboteur.struck:
                break
    assert before in outcomes  # early faults did stop it
    assert n == len(saboteur.calls) + 1 > 12  # every call was failed in turn
    assert {"mkdir", "fsync", "_exchange" if before else "rename"} <= set(saboteur.calls)


def test_building_in_place_would_be_caught(tmp_path):
    output = tmp_path / "edited"
    halves = 0
    for n in range(1, 20):
        shutil.rmtree(output, ignore_errors=True)
        try:
            with Saboteur(n, FAULTS["full disk"]).at_work():
                fill(output, NEW)
        except OSError:
            halves += tree(output) not in (None, NEW)
        else:
            break
    assert halves


@pytest.mark.parametrize("fault", ["full disk", "bad disk"])
def test_faults_of_the_disk_are_said_in_one_line(tmp_path, fault):
    with pytest.raises(OutputError) as error, Saboteur(1, FAULTS[fault]).at_work():
        publish(tmp_path / "edited")
    assert error.value.code == {"full disk": "output.disk-full", "bad disk": "output.failed"}[fault]
    assert str(tmp_path / "edited") in error.value.message
    assert error.value.hint


def test_a_disk_that_fails_while_an_output_is_filled_is_named(tmp_path):
    """Such an error has no file name if it comes from a write; the output's is always there."""
    for name, said in (
        (None, "error"),
        (str(tmp_path / "base/x"), f"error at {tmp_path / 'base/x'}"),
    ):
        with pytest.raises(OutputError) as error, atomic.publishing(tmp_path / "out", force=False):
            raise OSError(errno.EIO, os.strerror(errno.EIO), name)
        assert error.value.code == "output.failed" and error.value.hint
        assert error.value.message == f"cannot write {tmp_path / 'out'}: input/output {said}"
    with pytest.raises(OSError, match="no such"), atomic.publishing(tmp_path / "out", force=False):
        raise OSError(errno.ENOENT, "no such file")  # the control: another fault passes
    assert not any(tmp_path.iterdir())


def test_a_full_disk_within_the_block_is_a_full_disk(tmp_path):
    class SafetensorError(Exception):
        pass

    for fault in (
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        SafetensorError(
            "Error while serializing: I/O error: No space left on device (os error 28)"
        ),
    ):
        with (
            pytest.raises(OutputError) as error,
            atomic.publishing(tmp_path / "edited", force=False),
        ):
            raise fault
        assert error.value.code == "output.disk-full"


def test_other_faults_within_the_block_pass_unchanged(tmp_path):
    for fault in (
        PermissionError(errno.EACCES, "Permission denied", "/elsewhere"),
        FileNotFoundError(2, "none"),
        ValueError("x"),
    ):
        with (
            pytest.raises(type(fault)) as error,
            atomic.publishing(tmp_path / "edited", force=False),
        ):
            raise fault
        assert error.value is fault
    assert not list(tmp_path.iterdir())


def test_a_real_limit_of_the_system_leaves_the_old_output(tmp_path):
    resource = pytest.importorskip("resource")
    output = tmp_path / "edited"
    fill(output, OLD)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))  # NEW's weights have 6000 bytes
    try:
        with pytest.raises(OutputError) as error:
            publish(output)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (
        error.value.code == "output.failed"
        and str(output) in error.value.message
        and error.value.hint
    )
    assert tree(output) == OLD
    assert [p.name for p in tmp_path.iterdir()] == ["edited"]


def refuse(output: Path, *, force: bool) -> OutputError:
    """What `publishing` says before the block is run."""
    with pytest.raises(OutputError) as error, atomic.publishing(output, force=force):
        pytest.fail("the work was begun")
    return error.value


def test_what_exists_is_replaced_only_by_force(tmp_path):
    output = tmp_path / "edited"
    fill(output, OLD)
    error = refuse(output, force=False)
    assert (error.code, "--force" in error.hint) == ("output.exists", True)
    assert tree(output) == OLD
    publish(output, force=True)
    assert tree(output) == NEW


def test_force_replaces_only_what_forget_made(tmp_path):
    output = tmp_path / "photos"
    fill(output, {"holiday.png": b"precious"})
    assert refuse(output, force=True).code == "output.not-ours"
    assert tree(output) == {"holiday.png": b"precious"}
    (tmp_path / "file").write_bytes(b"precious")
    assert refuse(tmp_path / "file", force=True).code == "output.not-ours"
    (tmp_path / "empty").mkdir()
    publish(tmp_path / "empty", force=True)
    assert tree(tmp_path / "empty") == NEW


def test_what_appears_while_we_work_is_not_replaced(tmp_path):
    output = tmp_path / "edited"
    with pytest.raises(OutputError) as error, atomic.publishing(output, force=False) as staging:
        fill(staging, NEW)
        fill(output, OLD)
    assert error.value.code == "output.exists"
    assert tree(output) == OLD


def test_parents_are_made_and_taken_back(tmp_path):
    output = tmp_path / "a" / "b" / "edited"
    with pytest.raises(KeyboardInterrupt), atomic.publishing(output, force=False):
        assert output.parent.is_dir()
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())
    publish(output, force=False)
    assert tree(output) == NEW


def test_a_link_stays_a_link(tmp_path):
    fill(tmp_path / "disk" / "edited", OLD)
    (tmp_path / "edited").symlink_to(tmp_path / "disk" / "edited")
    publish(tmp_path / "edited")
    assert (tmp_path / "edited").is_symlink()
    assert tree(tmp_path / "disk" / "edited") == NEW
    assert [p.name for p in (tmp_path / "disk").iterdir()] == ["edited"]


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="needs POSIX users")
def test_no_permission_is_said_before_the_work():
    place = Path(tempfile.mkdtemp())  # pytest's own folders are closed to other users altogether
    fill(place / "old", OLD)
    place.chmod(0o555)
    user = os.geteuid()
    try:
        if user == 0:
            os.seteuid(65534)  # root is refused nothing
        for output in (place / "edited", place / "a" / "edited", place / "old"):
            assert refuse(output, force=True).code == "output.permission"
    finally:
        os.seteuid(user)
        place.chmod(0o755)
    assert tree(place) == {f"old/{name}": data for name, data in OLD.items()}
    shutil.rmtree(place)


def test_a_parent_that_is_a_file_is_said_in_one_line(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    assert refuse(tmp_path / "file" / "edited", force=False).code == "output.failed"


# --- processes

SLOW_RUN = """
    import sys, time
    from pathlib import Path
    from forgetcli.storage import atomic
    with atomic.publishing(Path(sys.argv[1]), force=True) as staging:
        (staging / atomic.MARKER).write_bytes(b"half")
        print("half", flush=True)
        sys.stdin.read()
"""


def running(code: str, *arguments: object) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        text=True,
    )


def slow_run(output: Path) -> subprocess.Popen:
    """A process that has half of its output written and waits for its stdin to close."""
    run = running(SLOW_RUN, output)
    assert run.stdout.readline() == "half\n", run.stderr.read()
    return run


def temporary(folder: Path) -> list[Path]:
    return [p for p in folder.iterdir() if p.name.startswith(".")]


@pytest.mark.parametrize("before", [None, OLD], ids=["absent", "old"])
def test_kill_9_leaves_the_old_output_and_the_next_run_clears_up(tmp_path, before):
    output = tmp_path / "edited"
    if before:
        fill(output, before)
    run = slow_run(output)
    run.send_signal(signal.SIGKILL)
    run.communicate()
    assert tree(output) == before
    assert len(temporary(tmp_path)) == 1  # nobody was there to remove it
    publish(output)
    assert tree(output) == NEW
    assert temporary(tmp_path) == []


def test_ctrl_c_leaves_the_old_output_and_nothing_else(tmp_path):
    fill(tmp_path / "edited", OLD)
    run = slow_run(tmp_path / "edited")
    run.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in run.communicate()[1]
    assert tree(tmp_path / "edited") == OLD
    assert temporary(tmp_path) == []


def test_a_run_that_is_still_at_work_is_left_alone(tmp_path):
    output = tmp_path / "edited"
    run = slow_run(output)
    publish(output)  # another run overtakes it
    assert len(temporary(tmp_path)) == 1
    run.stdin.close()
    assert run.wait(10) == 0
    assert tree(output) == {atomic.MARKER: b"half"}  # the last to finish wins, whole
    assert temporary(tmp_path) == []
    for stream in (run.stdout, run.stderr):
        stream.close()


def test_a_held_lock_decides_and_no_process_number(tmp_path):
    """In a container every run has the same pid, and another name space has other ones."""
    dead = tmp_path / f".edited.{os.getpid()}-0123abcd.tmp"
    dead.mkdir()
    alive = tmp_path / f".edited.{os.getppid()}-0123abcd.tmp"  # alive, but it is no run of forget
    alive.mkdir()
    held = tmp_path / ".edited.999999999-0123abcd.tmp"  # no such pid here, but the lock is held
    held.mkdir()
    with FileLock(held / workspace.LOCK):
        publish(tmp_path / "edited")
        assert temporary(tmp_path) == [held]
    publish(tmp_path / "edited")
    assert temporary(tmp_path) == []


@pytest.mark.parametrize("locks", [True, False], ids=["locks", "no-locks"])
def test_two_runs_of_one_process_leave_each_other_alone(tmp_path, monkeypatch, locks):
    if not locks:

        def refuse(*_, **__):
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr(FileLock, "acquire", refuse)
    with atomic.publishing(tmp_path / "edited", force=True) as staging:
        fill(staging, OLD)
        publish(tmp_path / "edited")  # must not take the first one's folder for a dead run's
    assert tree(tmp_path / "edited") == OLD
    assert temporary(tmp_path) == []


def test_a_new_folder_that_another_run_removes_is_made_again(tmp_path, monkeypatch):
    """Between mkdir and lock, a folder looks like a dead run's."""
    mkdir, taken = os.mkdir, []

    def taken_at_once(path, *args, **kwargs):
        mkdir(path, *args, **kwargs)
        if str(path).endswith(".tmp") and len(taken) < 2:
            taken.append(Path(path))
            workspace.collect(tmp_path, "edited")
            assert not taken[-1].exists()

    monkeypatch.setattr(os, "mkdir", taken_at_once)
    publish(tmp_path / "edited")
    assert tree(tmp_path / "edited") == NEW and len(taken) == 2
    assert temporary(tmp_path) == []


def test_a_lock_in_a_folder_that_another_run_removes_is_given_back(tmp_path, monkeypatch):
    acquired, locks = workspace._acquired, []

    def removed_twice(path):
        locks.append(acquired(path))
        if len(locks) < 3:
            shutil.rmtree(path.parent)
        return locks[-1]

    monkeypatch.setattr(workspace, "_acquired", removed_twice)
    made = workspace.Workspace(tmp_path / "edited")
    made.create()
    assert [lock.is_locked for lock in locks] == [False, False, True]
    made.remove()
    assert not locks[-1].is_locked and temporary(tmp_path) == []


def test_only_a_folder_is_set_aside(tmp_path):
    (tmp_path / "edited").write_bytes(b"precious")
    made = workspace.Workspace(tmp_path / "edited")
    made.create()
    with pytest.raises(NotADirectoryError):
        made.set_aside()
    made.remove()
    assert (tmp_path / "edited").read_bytes() == b"precious"


NO_EXCHANGE = """
    import os, sys
    from pathlib import Path
    from forgetcli.storage import atomic
    from forgetcli.storage.workspace import Workspace
    atomic._exchange = lambda first, second: False
    rename = os.rename
    def stop(source, target):
        rename(source, target)
        if Path(target).name == "old":
            print("aside", flush=True)
            sys.stdin.read()
    os.rename = stop
    with atomic.publishing(Path(sys.argv[1]), force=True) as staging:
        (staging / atomic.MARKER).write_bytes(b"half")
"""


def killed_with_the_output_aside(output: Path) -> Path:
    """The workspace of a run that was killed between its two renames."""
    run = running(NO_EXCHANGE, output)
    assert run.stdout.readline() == "aside\n"
    run.send_signal(signal.SIGKILL)
    run.communicate()
    (left,) = temporary(output.parent)
    assert not output.exists() and tree(left / "old")
    return left


def test_an_output_that_a_killed_run_had_moved_aside_comes_back(tmp_path):
    fill(tmp_path / "edited", OLD)
    killed_with_the_output_aside(tmp_path / "edited")
    assert refuse(tmp_path / "edited", force=False).code == "output.exists"
    assert tree(tmp_path / "edited") == OLD
    assert temporary(tmp_path) == []


def test_an_output_aside_goes_when_there_is_a_newer_one(tmp_path):
    fill(tmp_path / "edited", OLD)
    killed_with_the_output_aside(tmp_path / "edited")
    fill(tmp_path / "edited", NEW)
    publish(tmp_path / "edited", OLD)
    assert tree(tmp_path / "edited") == OLD
    assert temporary(tmp_path) == []


PLANTED = {
    "the name of earlier versions": lambda place, left: left.rename(
        place / ".edited.999999999-0123abcd.old"
    ),
    "a copy": lambda place, left: (
        shutil.copytree(left / "old", left / "copy"),
        shutil.rmtree(left / "old"),
        (left / "copy").rename(left / "old"),
    ),
    "no record": lambda place, left: (left / "moved.json").unlink(),
    "a damaged record": lambda place, left: (left / "moved.json").write_text("{"),
    "another output's record": lambda place, left: (left / "moved.json").write_text(
        (left / "moved.json").read_text().replace("edited", "other")
    ),
    "a record that is a link": lambda place, left: (
        (left / "moved.json").rename(place / "elsewhere"),
        (left / "moved.json").symlink_to(place / "elsewhere"),
    ),
    "a link": lambda place, left: (
        (left / "old").rename(place / "elsewhere"),
        (left / "old").symlink_to(place / "elsewhere"),
    ),
    "a workspace that is a link": lambda place, left: (
        left.rename(place / "elsewhere"),
        left.symlink_to(place / "elsewhere"),
    ),
}


@pytest.mark.parametrize("way", PLANTED)
def test_what_only_looks_like_an_output_set_aside_is_not_put_in_place(tmp_path, way):
    fill(tmp_path / "edited", OLD)
    PLANTED[way](tmp_path, killed_with_the_output_aside(tmp_path / "edited"))
    with (
        pytest.raises(ValueError, match="stop"),
        atomic.publishing(tmp_path / "edited", force=False),
    ):
        raise ValueError("stop")
    assert not os.path.lexists(tmp_path / "edited")
    publish(tmp_path / "edited")
    assert tree(tmp_path / "edited") == NEW


def test_a_lock_that_is_a_link_is_not_opened(tmp_path):
    (tmp_path / "precious").write_bytes(b"precious")
    left = tmp_path / ".edited.1-0123abcd.tmp"
    left.mkdir()
    (left / workspace.LOCK).symlink_to(tmp_path / "precious")
    publish(tmp_path / "edited")
    assert (tmp_path / "precious").read_bytes() == b"precious"


def test_links_with_a_temporary_name_are_not_followed(tmp_path):
    fill(tmp_path / "photos", {"holiday.png": b"precious"})
    (tmp_path / ".edited.1-0123abcd.tmp").symlink_to(tmp_path / "photos")
    publish(tmp_path / "edited")
    assert tree(tmp_path / "photos") == {"holiday.png": b"precious"}


@pytest.mark.parametrize("where", ["mkdir", "lock", "new"])
def test_kill_9_at_any_point_of_a_file_leaves_the_old_one(tmp_path, where):
    output = tmp_path / "edit.safetensors"
    output.write_bytes(b"old")
    run = running(KILLED_FILE, output, where)
    assert run.stdout.readline() == f"{where}\n"
    run.send_signal(signal.SIGKILL)
    run.communicate()
    assert output.read_bytes() == b"old" and len(temporary(tmp_path)) == 1
    with atomic.publishing_file(output, force=True) as writer:
        writer.write(b"new")
    assert output.read_bytes() == b"new" and temporary(tmp_path) == []


KILLED_FILE = """
    import os, sys
    from pathlib import Path
    from forgetcli.storage import atomic, temporaries, workspace
    where = sys.argv[2]
    def stop(name):
        if name == where:
            print(name, flush=True)
            sys.stdin.read()
    acquired, mkdir = workspace._acquired, os.mkdir
    def make(*args):
        mkdir(*args)
        stop("mkdir")
    def acquire(path):
        lock = acquired(path)
        stop("lock")
        return lock
    os.mkdir, workspace._acquired = make, acquire
    with atomic.publishing_file(Path(sys.argv[1]), force=True) as writer:
        writer.write(b"half")
        stop("new")
"""


KILLED_WRITE = """
    import os, sys
    from pathlib import Path
    from forgetcli.storage import atomic
    path, where = Path(sys.argv[1]), sys.argv[2]
    call = getattr(os, where)
    def stop(*args, **kwargs):
        if where != "open" or str(args[0]).endswith(".tmp"):
            result = call(*args, **kwargs) if where in ("open", "write") else None
            print(where, flush=True)
            sys.stdin.read()
            return result
        return call(*args, **kwargs)
    setattr(os, where, stop)
    atomic.write_atomically(path, b"half" * 100)
"""


@pytest.mark.parametrize("where", ["open", "write", "fsync", "replace"])
@pytest.mark.parametrize("writer", ["write", "publish", "publish_file"])
def test_what_a_killed_write_leaves_goes_with_the_next_writer(tmp_path, where, writer):
    """Whatever the next run writes there: another image, a report, an edited model."""
    run = running(KILLED_WRITE, tmp_path / "image 1.png", where)
    assert run.stdout.readline() == f"{where}\n"
    (left,) = temporary(tmp_path)
    next_write = {
        "write": lambda: atomic.write_atomically(tmp_path / "image 2.png", b"new"),
        "publish": lambda: publish(tmp_path / "edited"),
        "publish_file": lambda: publish_bytes(tmp_path / "delta.safetensors"),
    }[writer]
    atomic._collected.clear()
    next_write()
    # In use by a process that is alive. Before its lock is taken, it makes a new one.
    assert temporary(tmp_path) == ([] if where == "open" else [left])
    run.send_signal(signal.SIGKILL)
    run.communicate()
    (tmp_path / ".image.png.1-0123abcd.forget.tmp").symlink_to(tmp_path / "precious")
    (tmp_path / "precious").write_bytes(b"precious")
    atomic._collected.clear()
    shutil.rmtree(tmp_path / "edited", ignore_errors=True)
    next_write()
    assert [path.name for path in temporary(tmp_path)] == [".image.png.1-0123abcd.forget.tmp"]
    assert (tmp_path / "precious").read_bytes() == b"precious"


def publish_bytes(path: Path) -> None:
    with atomic.publishing_file(path, force=True) as writer:
        writer.write(b"new")


def test_a_write_whose_file_another_run_collects_makes_a_new_one(tmp_path):
    run = running(KILLED_WRITE, tmp_path / "image 1.png", "open")
    assert run.stdout.readline() == "open\n"
    workspace.collect(tmp_path)
    assert temporary(tmp_path) == []
    run.stdin.close()
    assert run.wait(10) == 0
    assert (tmp_path / "image 1.png").read_bytes() == b"half" * 100
    assert temporary(tmp_path) == []
    for stream in (run.stdout, run.stderr):
        stream.close()


def test_a_folder_is_looked_through_once(tmp_path, monkeypatch):
    listed = []
    monkeypatch.setattr(atomic, "collect", listed.append)
    for number in range(3):
        atomic.write_atomically(tmp_path / str(number), b"x")
    assert listed == [tmp_path]


def test_a_file_with_a_long_name_is_written(tmp_path):
    path = tmp_path / ("ä" * 127)
    atomic.write_atomically(path, b"x")
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_killed_runs_folder_goes_whatever_is_written_next(tmp_path):
    run = slow_run(tmp_path / "edited")
    run.send_signal(signal.SIGKILL)
    run.communicate()
    (left,) = temporary(tmp_path)
    shutil.copytree(left, tmp_path / ".mine.1-0123abcd.tmp")
    (tmp_path / ".mine.1-0123abcd.tmp/thesis").write_bytes(b"")
    atomic._collected.clear()
    atomic.write_atomically(tmp_path / "report.html", b"x")
    assert [path.name for path in temporary(tmp_path)] == [".mine.1-0123abcd.tmp"]


def test_without_locks_only_old_files_go(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(temporaries.fcntl, "flock", refuse)
    new, old = (tmp_path / f".x.{number}-0123abcd.forget.tmp" for number in (1, 2))
    new.touch()
    old.touch()
    os.utime(old, (0, 0))
    atomic.write_atomically(tmp_path / "x", b"x")
    assert temporary(tmp_path) == [new]


def test_names_that_only_look_like_ours_stay(tmp_path):
    for name in (".edited.tmp", ".edited.12-0123abcd.tmpx", ".other.999999999-0123abcd.tmp"):
        (tmp_path / name).mkdir()
    publish(tmp_path / "edited")
    assert len(temporary(tmp_path)) == 3


def test_walk_follows_links_and_ends(tmp_path):
    fill(tmp_path / "model", {"a": b"", "unet/b": b""})
    (tmp_path / "model" / "unet" / "up").symlink_to(tmp_path / "model")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "c").write_bytes(b"")
    (tmp_path / "model" / "vae").symlink_to(tmp_path / "elsewhere")
    assert walk_files(tmp_path / "model") == ["a", "unet/b", "vae/c"]


def test_no_torch():
    modules = ", ".join(
        f"forgetcli.{name}"
        for name in (
            "storage.atomic",
            "checkpoint.base",
            "artifact.integrity",
            "artifact.statement",
            "editing.moment_cache",
        )
    )
    code = f"import sys, {modules}; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"


def test_names_and_modes_of_temporary_files(tmp_path, monkeypatch):
    """Private where a mode is asked for, and never longer than a file system allows."""
    path = tmp_path / ("x" * 60)
    with umask(0o022):
        for requested, expected in ((None, 0o644), (0o600, 0o600)):
            temporary_path, handle = temporaries.create(path, requested)
            assert temporary_path.parent == tmp_path and mode(temporary_path) == expected
            name = re.fullmatch(
                rf"\.x{{50}}\.{os.getpid()}-[0-9a-f]{{8}}\.forget\.tmp", temporary_path.name
            )
            assert name
            temporaries.collect(tmp_path)
            assert temporary_path.exists()  # its lock is held
            os.close(handle)
            temporaries.collect(tmp_path)
            assert not temporary_path.exists()
    folder = workspace.Workspace(tmp_path / "edited")
    folder.create()
    assert mode(folder.folder) == 0o700
    folder.remove()
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("what", ["file", "folder"])
def test_names_are_tried_five_times(tmp_path, monkeypatch, what):
    """Each new file or folder is taken for an abandoned one at once."""
    tried = []

    def taken(path, *_):
        tried.append(path)
        return False

    if what == "file":
        monkeypatch.setattr(temporaries, "_is_same", taken)
        with pytest.raises(FileExistsError) as error:
            temporaries.create(tmp_path / "x", None)
        assert error.value.errno == errno.EEXIST
    else:
        monkeypatch.setattr(workspace, "_acquired", lambda path: taken(path) or None)
        with pytest.raises(FileExistsError):
            workspace.Workspace(tmp_path / "x").create()
    assert len(set(tried)) == len(tried) == 5


def test_a_day_old_file_is_abandoned_where_there_are_no_locks(tmp_path, monkeypatch):
    monkeypatch.setattr(temporaries, "_lock", lambda handle: None)
    now = 1_000_000.0
    monkeypatch.setattr(temporaries.time, "time", lambda: now)
    ages = {86_399: True, 86_400: True, 86_401: False}
    for age in ages:
        path = tmp_path / f".x.{age}-0123abcd.forget.tmp"
        path.touch()
        os.utime(path, (now - age, now - age))
    temporaries.collect(tmp_path)
    left = {int(path.name.split(".")[2].split("-")[0]) for path in tmp_path.iterdir()}
    assert left == {age for age, stays in ages.items() if stays}


def test_a_link_that_takes_the_place_of_a_temporary_file_is_not_followed(tmp_path, monkeypatch):
    """Between the look at it and its opening."""
    (tmp_path / "precious").write_bytes(b"precious")
    link = tmp_path / ".x.1-0123abcd.forget.tmp"
    link.symlink_to("precious")
    monkeypatch.setattr(os, "lstat", os.stat)
    with pytest.raises(OSError) as error:
        temporaries._remove_abandoned(link)
    assert error.value.errno == errno.ELOOP


def test_files_of_other_users_and_folders_are_not_collected(tmp_path, monkeypatch):
    path, folder = (tmp_path / f".{name}.1-0123abcd.forget.tmp" for name in "xy")
    path.touch()
    folder.mkdir()
    plain, left = (tmp_path / f".{name}.1-0123abcd.tmp" for name in ("edited", "other"))
    plain.mkdir()
    left.mkdir()
    (left / workspace.LOCK).touch()
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    workspace.collect(tmp_path, "edited")
    assert {path, folder, plain, left} == set(tmp_path.iterdir())
    monkeypatch.undo()
    workspace.collect(tmp_path, "edited")
    assert set(tmp_path.iterdir()) == {folder}
    workspace.collect(tmp_path / "none", "edited")  # no folder, nothing to collect


def test_a_fault_in_the_block_is_ours_only_where_we_write(tmp_path):
    """`output_faults` with a folder: what happens elsewhere is not called a fault of the output."""

    def raised(number: int, name: object, **options) -> OSError | OutputError:
        with (
            pytest.raises((OSError, OutputError)) as error,
            atomic.output_faults(tmp_path / "out", **options),
        ):
            raise OSError(number, os.strerror(number), name)
        return error.value

    inner, outer = str(tmp_path / "in/x"), str(tmp_path / "elsewhere")
    within = {"within": tmp_path / "in"}
    for number, code in (
        (errno.EACCES, "output.permission"),
        (errno.EPERM, "output.permission"),
        (errno.EROFS, "output.permission"),
        (errno.ENOSPC, "output.disk-full"),
        (errno.EDQUOT, "output.disk-full"),
        (errno.EIO, "output.failed"),
        (errno.EFBIG, "output.failed"),
        (errno.ENOENT, "output.failed"),
    ):
        fault = raised(number, outer)
        assert isinstance(fault, OutputError) and fault.code == code
        assert "choose another place with -o" in fault.hint or number == errno.EIO
        for name in (inner, outer, None):
            fault = raised(number, name, **within)
            passes = number == errno.ENOENT or (code == "output.permission" and name != inner)
            assert isinstance(fault, OSError) == passes
            assert passes or fault.code == code
    assert raised(errno.EROFS, outer, remedy="the remedy").hint.startswith("the remedy, or")
    for named, said in ((outer, f"error at {outer}"), (str(tmp_path / ".x.tmp"), "error")):
        assert raised(errno.EIO, named).message.endswith(said)
    with pytest.raises(OutputError) as error, atomic.output_faults(tmp_path):
        raise ValueError("serializing: (os error 28)")
    assert error.value.code == "output.disk-full"
    with pytest.raises(ValueError), atomic.output_faults(tmp_path):
        raise ValueError("(os error 2)")


def test_what_would_be_refused_is_told_without_writing(tmp_path, monkeypatch):
    fill(tmp_path / "ours", {atomic.MARKER: b"{}"})
    fill(tmp_path / "photos", {"x": b""})
    (tmp_path / "file").touch()
    before = tree(tmp_path)
    for name, folder, force, code in (
        ("none", True, False, None),
        ("none", False, False, None),
        ("ours", True, False, "output.exists"),
        ("ours", True, True, None),
        ("photos", True, True, "output.not-ours"),
        ("file", True, True, "output.not-ours"),
        ("file", False, False, "output.exists"),
        ("file", False, True, None),
        ("photos", False, True, "output.not-ours"),
    ):
        found = None
        try:
            atomic.refuse_unwritable(tmp_path / name, folder=folder, force=force)
            if folder:
                atomic.refuse_existing(tmp_path / name, force=force)
        except OutputError as fault:
            found = fault.code
            assert str(tmp_path / name) in fault.message and fault.hint
        assert found == code, (name, folder, force)
        if folder and code:
            with pytest.raises(OutputError):
                atomic.refuse_existing(tmp_path / name, force=force)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(OutputError) as error:
        atomic.refuse_unwritable(tmp_path / "ours", folder=True, force=True)
    assert error.value.code == "output.permission"
    assert tree(tmp_path) == before


def test_names_are_exchanged_or_it_is_said_that_they_cannot_be(tmp_path, monkeypatch):
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_bytes(b"1")
    second.write_bytes(b"2")
    if not atomic._exchange(first, second):
        pytest.skip("this system cannot exchange names")
    assert (first.read_bytes(), second.read_bytes()) == (b"2", b"1")
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path / "none"))):
        atomic._exchange(first, tmp_path / "none")
    library = SimpleNamespace(renameat2=lambda *_: -1)
    monkeypatch.setattr(atomic.ctypes, "CDLL", lambda *_, **__: library)
    for fault in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        monkeypatch.setattr(atomic.ctypes, "get_errno", lambda fault=fault: fault)
        assert atomic._exchange(first, second) is False
    with monkeypatch.context() as patched:
        patched.setattr(os, "name", "nt")
        found = atomic._exchange(first, second)
    assert found is False
    del library.renameat2  # a C library that does not have it
    assert atomic._exchange(first, second) is False


def handles() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="Linux only")
def test_no_handle_is_left_open_however_a_write_ends(tmp_path, monkeypatch):
    before = handles()
    atomic.write_atomically(tmp_path / "x", b"1")
    publish(tmp_path / "edited")
    publish_bytes(tmp_path / "file")
    left = tmp_path / ".x.1-0123abcd.forget.tmp"
    left.touch()
    temporaries._remove_abandoned(left)
    assert not left.exists()
    made = workspace.Workspace(tmp_path / "edited")
    made.create()
    assert handles() == before + 1  # the lock
    assert not workspace.Workspace(tmp_path / "edited", made.folder).acquire()
    made.remove()
    with monkeypatch.context() as patched:
        patched.setattr(temporaries, "_is_same", lambda *_: False)
        with pytest.raises(OutputError):
            atomic.write_atomically(tmp_path / "y", b"1")
    assert handles() == before


@pytest.mark.parametrize("done", [False, True], ids=["instead", "after"])
def test_what_a_first_ctrl_c_interrupts_is_cleared_up_all_the_same(tmp_path, monkeypatch, done):
    """The removal of a temporary file or folder is repeated, and the interrupt goes on."""

    def interrupted_once(real):
        calls = []

        def call(*args, **kwargs):
            calls.append(args)
            if len(calls) > 1 or done:
                real(*args, **kwargs)
            if len(calls) == 1:
                raise KeyboardInterrupt

        return call

    path = tmp_path / "x"
    path.touch()
    with monkeypatch.context() as patched:
        patched.setattr(os, "unlink", interrupted_once(os.unlink))
        with pytest.raises(KeyboardInterrupt):
            temporaries.remove(path)
    made = workspace.Workspace(tmp_path / "edited")
    made.create()
    made.new.mkdir()
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", interrupted_once(shutil.rmtree))
        with pytest.raises(KeyboardInterrupt):
            made.remove()
    assert made._lock is None and not any(tmp_path.iterdir())
    made.remove()  # nothing is left to remove, and that is no fault
    temporaries.remove(path)


def test_a_record_is_on_the_disk_before_the_output_is_moved(tmp_path, monkeypatch):
    fill(tmp_path / "edited", OLD)
    made = workspace.Workspace(tmp_path / "edited")
    made.create()
    synced = []

    def fsync(handle: int) -> None:
        synced.append((made.record.read_text(), (tmp_path / "edited").exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    made.set_aside()
    inode = made.old.stat().st_ino
    assert synced == [(json.dumps({"output": "edited", "inode": inode}), True)]
    made.remove()
    assert tree(tmp_path / "edited") == OLD and temporary(tmp_path) == []


@pytest.mark.parametrize(("size", "back"), [(10_000, True), (10_001, False)])
def test_a_record_is_read_up_to_its_limit(tmp_path, size, back):
    fill(tmp_path / "edited", OLD)
    made = workspace.Workspace(tmp_path / "edited")
    made.create()
    made.set_aside()
    made.record.write_text(made.record.read_text().ljust(size))
    made.restore()
    assert tree(tmp_path / "edited") == (OLD if back else None)
    made.remove()  # nobody else has a copy of an output that cannot be put back: it stays
    assert made._lock is None and made.folder.exists() != back
    assert back or tree(made.old) == OLD


def test_a_complete_workspace_of_a_dead_run_goes_with_any_writer(tmp_path):
    for name in ("edited", "other"):
        made = workspace.Workspace(tmp_path / name)
        made.create()
        made.new.mkdir()
        made.old.mkdir()
        made.record.write_text("{}")
        made.target.mkdir()  # a newer output
        assert {path.name for path in made.folder.iterdir()} == workspace.CONTENT
        made._lock.release()
    workspace.collect(tmp_path)
    assert temporary(tmp_path) == []
    assert not workspace._is_users_folder(tmp_path / "none")
    assert not workspace._has_lock_and_known_files(tmp_path / "none")
    (tmp_path / "x").touch()
    with open(tmp_path / "x") as reader:
        assert temporaries._is_same(tmp_path / "x", reader.fileno())
        assert not temporaries._is_same(tmp_path / "none", reader.fileno())


def test_a_lock_that_is_held_is_not_waited_for(tmp_path):
    with FileLock(tmp_path / "lock"):
        begun = time.monotonic()
        assert workspace._acquired(tmp_path / "lock") is None
        assert time.monotonic() - begun < 0.5
    workspace._acquired(tmp_path / "lock").release()


@pytest.mark.parametrize(
    ("number", "raised"),
    [(errno.EACCES, PermissionError), (errno.EIO, OSError)]
    + [(number, NotImplementedError) for number in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)],
)
def test_a_lock_that_cannot_be_opened_is_no_lack_of_locks(tmp_path, monkeypatch, number, raised):
    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(FileLock, "acquire", refuse)
    with pytest.raises(raised):
        workspace._acquired(tmp_path / "lock")


def test_a_parent_that_another_run_makes_meanwhile_is_no_fault(tmp_path, monkeypatch):
    exists = Path.exists
    monkeypatch.setattr(Path, "exists", lambda path: path != tmp_path / "a" and exists(path))
    (tmp_path / "a").mkdir()
    atomic.write_atomically(tmp_path / "x", b"")
    with atomic.publishing_file(tmp_path / "a" / "b" / "file", force=False) as writer:
        writer.write(b"x")
    assert (tmp_path / "a/b/file").read_bytes() == b"x"
