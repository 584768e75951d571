"""Files that are written whole or not at all, with the permissions of any other file."""

from __future__ import annotations

import errno
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest

from search_env import paths
from search_env.errors import ConfigurationError, StorageError
from search_env.paths import atomic_folder, atomic_path, remove_folder, used_alone


def write_half(path):
    with atomic_path(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt


def test_whole_or_not_at_all(tmp_path):
    path = tmp_path / "deep" / "file"
    with atomic_path(path) as temporary:
        temporary.write_text("old")
    with pytest.raises(KeyboardInterrupt):
        write_half(path)
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.skipif(os.name == "nt", reason="no such permissions")
def test_permissions_are_those_of_open(tmp_path):
    plain = tmp_path / "plain"
    plain.touch()
    with atomic_path(tmp_path / "new") as temporary:
        temporary.touch()
    assert (tmp_path / "new").stat().st_mode == plain.stat().st_mode
    plain.chmod(0o640)
    with atomic_path(plain) as temporary:
        temporary.touch()
    assert plain.stat().st_mode & 0o777 == 0o640


class Faults:
    """Stands in for ``os.replace``; its calls from ``first`` to ``last`` fail before they begin."""

    def __init__(self, error, first: int, last: int) -> None:
        self.calls, self._error, self._failing = 0, error, range(first, last + 1)
        self._real = os.replace

    def __call__(self, source, target) -> None:
        self.calls += 1
        if self.calls in self._failing:
            raise self._error
        self._real(source, target)


@pytest.fixture
def no_swap(monkeypatch):
    """As on systems that cannot exchange two folders."""
    monkeypatch.setattr(paths, "_swap", lambda *_: False)


def write_folder(path, text: str) -> None:
    with atomic_folder(path) as new:
        (new / "file").write_text(text)


def test_a_folders_files_have_the_usual_permissions(tmp_path):
    (tmp_path / "plain").write_text("x")
    with atomic_folder(tmp_path / "new") as new:
        (new / "private").touch(0o600)
    assert (tmp_path / "new" / "private").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_folder_replaces_another(tmp_path):
    path = tmp_path / "deep" / "model"
    write_folder(path, "old")
    (path / "further").touch()
    write_folder(path, "new")
    assert [(file.name, file.read_text()) for file in path.iterdir()] == [("file", "new")]
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, OSError("full")])
@pytest.mark.parametrize("failing", [0, 1, 2])
@pytest.mark.usefixtures("no_swap")
def test_a_fault_leaves_the_old_folder(tmp_path, monkeypatch, error, failing):
    path = tmp_path / "model"
    write_folder(path, "old")
    monkeypatch.setattr(os, "replace", Faults(error, failing, failing))
    with pytest.raises(BaseException) as raised, atomic_folder(path) as new:  # noqa: PT011, PT012
        (new / "file").write_text("new")
        if not failing:
            raise error
    assert raised.type is (error if isinstance(error, type) else OSError)
    assert (path / "file").read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_fault_behind_the_renames_leaves_the_new_folder(tmp_path, monkeypatch):
    path = tmp_path / "model"
    write_folder(path, "old")
    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            write_folder(path, "new")
    assert (path / "file").read_text() == "new"
    write_folder(path, "newer")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.usefixtures("no_swap")
def test_where_not_even_the_old_folder_can_be_put_back_the_next_call_does(tmp_path, monkeypatch):
    path = tmp_path / "model"
    write_folder(path, "old")
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", Faults(OSError("gone"), 2, 3))
        with pytest.raises(OSError, match="gone"):
            write_folder(path, "new")
    assert not path.exists()
    with pytest.raises(KeyboardInterrupt), atomic_folder(path):
        raise KeyboardInterrupt
    assert (path / "file").read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


KILLED = """
import os, signal, sys
from pathlib import Path
from search_env import paths
from search_env.paths import atomic_folder
paths._swap = lambda *_: False
real, calls = os.replace, []
def replace(source, target):
    calls.append(source)
    if len(calls) == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    real(source, target)
os.replace = replace
with atomic_folder(Path(sys.argv[1])) as new:
    (new / "file").write_text("new")
"""


@pytest.mark.skipif(os.name == "nt", reason="no such signal, and no locks that end with a process")
@pytest.mark.parametrize("call", [1, 2])
def test_leftovers_of_killed_processes_are_cleared(tmp_path, call):
    path, other = tmp_path / "model", tmp_path / "model.b"
    write_folder(path, "old")
    write_folder(other, "other")
    with atomic_folder(path) as held:  # by a process that lives: must not be touched
        (held / "file").write_text("held")
        for folder in (path, other):
            subprocess.run([sys.executable, "-c", KILLED, folder, str(call)], check=False)
        assert len(list(tmp_path.glob(".*.tmp"))) == 3
        with pytest.raises(KeyboardInterrupt), atomic_folder(path):
            raise KeyboardInterrupt
        assert (path / "file").read_text() == "old"
        assert len(list(tmp_path.glob(".*.tmp"))) == 2
    assert (path / "file").read_text() == "held"
    write_folder(other, "new")
    assert sorted(tmp_path.iterdir()) == [path, other]


def test_b4_a_reader_finds_the_old_or_the_new_folder_at_every_moment(tmp_path, monkeypatch):
    """Swapped in one system call: there is no moment without a folder."""
    path = tmp_path / "model"
    write_folder(path, "old")
    seen = []

    def watched(name):
        original = getattr(os, name)

        def wrapper(*arguments, **options):
            seen.append((path / "file").read_text())
            result = original(*arguments, **options)
            seen.append((path / "file").read_text())
            return result

        monkeypatch.setattr(os, name, wrapper)

    for name in ("replace", "rename", "unlink", "rmdir", "fsync", "mkdir"):
        watched(name)
    write_folder(path, "new")
    assert set(seen) == {"old", "new"}
    assert seen == sorted(seen, reverse=True)  # old, then new


def test_b4_leftovers_of_killed_writers_of_files_are_cleared(tmp_path):
    path, other = tmp_path / "log", tmp_path / "log.b"
    code = (
        "import os, signal, sys\nfrom pathlib import Path\n"
        "from search_env.paths import atomic_path\n"
        "with atomic_path(Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    path.write_text("old")
    with atomic_path(path) as held:  # by a process that lives
        for target in (path, other):
            subprocess.run([sys.executable, "-c", code, target], check=False)
        assert len(list(tmp_path.glob(".*.tmp"))) == 3
        held.write_text("held")
        with atomic_path(path) as second:
            second.write_text("second")
        assert len(list(tmp_path.glob(".*.tmp"))) == 2
        assert path.read_text() == "second"
    assert path.read_text() == "held"
    with atomic_path(other) as temporary:
        temporary.write_text("new")
    assert sorted(tmp_path.iterdir()) == [path, other]


def test_b4_what_is_renamed_was_forced_to_the_disk_before(tmp_path, monkeypatch):
    events = []
    for name in ("fsync", "replace"):
        original = getattr(os, name)

        def wrapper(first, *rest, name=name, original=original):
            place = os.readlink(f"/proc/self/fd/{first}") if name == "fsync" else first
            events.append((name, Path(place).name.partition(".tmp")[0][-20:]))
            original(first, *rest)

        monkeypatch.setattr(os, name, wrapper)
    with atomic_folder(tmp_path / "model") as new:
        (new / "file").write_text("new")
    assert events == [
        *(("fsync", "file"), ("fsync", "new"), ("replace", "new"), ("fsync", tmp_path.name[-20:]))
    ]


def test_b4_a_folder_is_removed_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint"
    for name in ("a", "b"):
        write_folder(path / name, name)
    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            remove_folder(path)
    assert not path.exists()
    write_folder(path, "again")
    remove_folder(path)
    assert not list(tmp_path.iterdir())


def _write_often(path, text, barrier):
    barrier.wait()
    for _ in range(30):
        with atomic_folder(path) as new:
            for name in ("a", "b"):
                (new / name).write_text(text)


def test_b4_two_processes_write_one_folder_at_once(tmp_path):
    """As when both build the same cached index."""
    path = tmp_path / "cache"
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(3)
    writers = [context.Process(target=_write_often, args=(path, t, barrier)) for t in "xy"]
    for writer in writers:
        writer.start()
    barrier.wait()
    while any(writer.is_alive() for writer in writers):
        if path.exists():
            assert (path / "a").read_text() in ("x", "y")
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert list(tmp_path.iterdir()) == [path]


REFUSALS = [errno.ENOSPC, errno.EROFS, errno.EIO, errno.EDQUOT]


def refusing(code, original, at=1):
    """Return a function that fails at its n-th call as the system does."""
    calls = []

    def wrapper(*arguments, **options):
        calls.append(arguments)
        if len(calls) == at:
            raise OSError(code, os.strerror(code))
        return original(*arguments, **options)

    return wrapper


def write_file(path, text):
    with atomic_path(path) as temporary:
        temporary.write_text(text)


def _read(path):
    return (path / "file" if path.is_dir() else path).read_text()


@pytest.mark.parametrize("write", [write_file, write_folder])
@pytest.mark.parametrize("code", REFUSALS, ids=errno.errorcode.get)
@pytest.mark.parametrize("name", ["fsync", "replace"])
@pytest.mark.usefixtures("no_swap")
def test_refusals_of_the_disk_are_named_and_leave_the_old(tmp_path, monkeypatch, write, code, name):
    path = tmp_path / "out"
    write(path, "old")
    with monkeypatch.context() as patch:
        patch.setattr(os, name, refusing(code, getattr(os, name)))
        with pytest.raises(StorageError, match=str(path)):
            write(path, "new")
    assert _read(path) == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_disk_that_is_full_is_named(tmp_path):
    """By the system itself, with a limit on the size of files."""
    code = (
        "import resource, sys, numpy as np\nfrom pathlib import Path\n"
        "from search_env.errors import StorageError\n"
        "from search_env.paths import append, atomic_folder, atomic_path\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "root = Path(sys.argv[1])\n"
        "def file():\n"
        "    with atomic_path(root / 'file') as temporary: temporary.write_bytes(bytes(9000))\n"
        "def folder():\n"
        "    with atomic_folder(root / 'folder') as new: np.save(new / 'a.npy', np.zeros(9000))\n"
        "def line(): append(root / 'line', bytes(9000))\n"
        "for write in (file, folder, line):\n"
        "    try: write()\n"
        "    except StorageError as error: print(error)\n"
    )
    (tmp_path / "line").write_bytes(b"old\n")
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True)
    assert [line.split()[3] for line in done.stdout.splitlines()] == [
        f"{tmp_path / name}," for name in ("file", "folder", "line")
    ], done.stderr
    assert list(tmp_path.iterdir()) == [tmp_path / "line"]
    assert (tmp_path / "line").read_bytes() == b"old\n"


def test_errors_of_other_work_in_the_block_stay_as_they_are(tmp_path):
    for error in (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), FileNotFoundError("x")):
        with pytest.raises(type(error)), atomic_path(tmp_path / "out"):
            raise error
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "out"):
        Path("/no/such/file").read_text()
    with pytest.raises(StorageError, match="vanished"), atomic_path(tmp_path / "vanished") as new:
        new.unlink()


@pytest.mark.skipif(sys.platform == "win32", reason="no such locks")
def test_b4_a_folder_is_used_by_one_at_a_time(tmp_path):
    refused = pytest.raises(ConfigurationError, match="no other process writes")
    with used_alone(tmp_path / "run"), refused, used_alone(tmp_path / "run"):
        pytest.fail("used twice")
    with used_alone(tmp_path / "run"):
        pass
