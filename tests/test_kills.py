"""A short form of ``scripts/kill_tests.py``: every rename of an index, evaluation, benchmark."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_b4_killed_commands_lose_double_and_leave_nothing():
    command = [sys.executable, "-m", "scripts.kill_tests", "1", "index", "bench"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert len(done.stdout.splitlines()) == 3
