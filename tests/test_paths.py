"""Files that are written whole or not at all, with the permissions of any other file."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from search_env import paths
from search_env.paths import atomic_folder, atomic_path


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
