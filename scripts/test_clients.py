"""Run ``tests/clients`` with each library in a virtual environment of its own; print a table.

    python scripts/test_clients.py [--only minari] [--work /tmp/clients]

Needs a package index. A library that cannot be installed is a row of the table, not an error.
"""

from __future__ import annotations

import argparse
import datetime
import platform
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
CLIENTS = {
    "stable-baselines3": ("test_stable_baselines3", "stable-baselines3"),
    "sb3-contrib (masks)": ("test_sb3_contrib_maskable_ppo", "sb3-contrib"),
    "sb3-contrib (recurrent)": ("test_sb3_contrib_recurrent_ppo", "sb3-contrib"),
    "CleanRL-style loop": ("test_cleanrl_style_loop", "torch"),
    "torchrl": ("test_torchrl", "torchrl"),
    "minari": ("test_minari", "minari[create,hdf5]"),
    "skrl": ("test_skrl", "skrl[torch]"),
    "tianshou": ("test_tianshou", "tianshou"),
}
"""Test and requirement by the name in the table."""


def run(folder: Path, test: str, requirement: str, constraints: list[str]) -> tuple[str, str, str]:
    """Return the client's version, Gymnasium's version, and the outcome of its test."""
    venv.create(folder, with_pip=True)
    python = str(folder / "bin" / "python")
    install = [python, "-m", "pip", "install", "-q", requirement, "pytest", "-e", str(ROOT)]
    install += constraints
    if subprocess.run(install, capture_output=True).returncode:
        return "-", "-", "could not be installed"
    name = requirement.partition("[")[0]
    versions = "import importlib.metadata as m; print(m.version({!r}), m.version('gymnasium'))"
    shown = subprocess.run([python, "-c", versions.format(name)], capture_output=True, text=True)
    command = [python, "-m", "pytest", "-q", "-o", "addopts=", "--noconftest", "-p"]
    command += ["no:cacheprovider", f"tests/clients/test_clients.py::{test}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    last = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else done.stderr[-80:]
    client, gymnasium = [*shown.stdout.split(), "-", "-"][:2]
    return client, gymnasium, "passed" if not done.returncode and "passed" in last else last


def main() -> int:
    """Run the chosen clients; return 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=CLIENTS, action="append", help="a row of the table")
    parser.add_argument("--work", type=Path, help="folder for the environments; kept")
    parser.add_argument("--constraint", help="a requirement that holds for all: torch==2.13.0")
    arguments = parser.parse_args()
    constraints = [arguments.constraint] if arguments.constraint else []
    work = arguments.work or Path(tempfile.mkdtemp(prefix="search-env-clients-"))
    print(f"{datetime.date.today()}, Python {platform.python_version()}\n")
    print("| client | version | gymnasium | result |\n|---|---|---|---|", flush=True)
    failed = False
    for number, (name, (test, requirement)) in enumerate(CLIENTS.items()):
        if arguments.only and name not in arguments.only:
            continue
        client, gymnasium, outcome = run(work / str(number), test, requirement, constraints)
        failed |= outcome != "passed"
        print(f"| {name} | {client} | {gymnasium} | {outcome} |", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
