"""Run the tests with other Pythons or versions of Gymnasium, each in its own environment.

    python scripts/test_matrix.py --python python3.10 --python python3.13
    python scripts/test_matrix.py --gymnasium 1.2.2 --gymnasium 1.3.0 --part environment

The environments stay in ``--work``; a second run uses them again. Part ``environment`` needs no
PyTorch.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
PARTS = {
    "all": ["search_env", "tests"],
    "environment": [
        *(f"tests/{name}" for name in ("core", "envs", "fuzz", "protocols", "recording")),
        *(f"tests/{name}" for name in ("rendering", "retrieval", "rewards", "testing", "tokens")),
        *(f"tests/{name}" for name in ("viewer", "worlds", "wrappers")),
    ],
}
EXTRAS = {"all": "[dev]", "environment": ""}
TEST_TOOLS = ("pytest", "pytest-xdist", "hypothesis", "moviepy", "jinja2", "transformers")


def run(folder: Path, python: str, gymnasium: str | None, part: str, workers: str) -> str:
    """Install into a folder, run the tests, and return the last line that they print."""
    own = str(folder / "bin" / "python")
    if not folder.exists():
        subprocess.run([python, "-m", "venv", str(folder)], check=True)
    wanted = ["-e", f"{ROOT}{EXTRAS[part]}", *(() if part == "all" else TEST_TOOLS)]
    constraints = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line]
    if gymnasium is not None:
        constraints = [line for line in constraints if not line.startswith("gymnasium==")]
        constraints.append(f"gymnasium=={gymnasium}")
    pins = folder / "constraints.txt"
    pins.write_text("\n".join(constraints) + "\n", "utf-8")
    pip = [own, "-m", "pip", "install", "-q", "-c", str(pins), *wanted]
    if subprocess.run(pip).returncode:
        return "could not be installed"
    command = [own, "-m", "pytest", "-n", workers, "-p", "no:cacheprovider", *PARTS[part]]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    (folder / "tests.log").write_text(done.stdout + done.stderr, "utf-8")
    lines = done.stdout.strip().splitlines() or ["no output"]
    return lines[-1] if not done.returncode else f"{lines[-1]} (see {folder / 'tests.log'})"


def main() -> int:
    """Run every combination; return 1 if one failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--python", action="append", help="an interpreter; this one if left out")
    parser.add_argument("--gymnasium", action="append", help="a version; the pinned one")
    parser.add_argument("--part", choices=sorted(PARTS), default="all")
    parser.add_argument("--work", type=Path, help="folder for the environments; kept")
    parser.add_argument("--workers", default="2", help="processes of a test run")
    arguments = parser.parse_args()
    work = arguments.work or Path(tempfile.mkdtemp(prefix="search-env-matrix-"))
    work.mkdir(parents=True, exist_ok=True)
    failed = False
    print("| python | gymnasium | part | result | seconds |\n|---|---|---|---|---|", flush=True)
    for python in arguments.python or [sys.executable]:
        for gymnasium in arguments.gymnasium or [None]:
            name = f"{Path(python).name}-{gymnasium or 'pinned'}-{arguments.part}"
            start = time.monotonic()
            result = run(work / name, python, gymnasium, arguments.part, arguments.workers)
            failed |= "failed" in result or "passed" not in result
            row = (python, gymnasium or "pinned", arguments.part, result)
            print(f"| {' | '.join(row)} | {time.monotonic() - start:.0f} |", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
