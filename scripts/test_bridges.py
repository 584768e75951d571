"""Run each bridge against the package of its trainer, in a virtual environment of its own.

    python scripts/test_bridges.py --only openenv [--work /tmp/bridges]
    python scripts/test_bridges.py --report benchmarks/results/bridges.md

Needs a package index, and Python 3.11 or later for some of the packages. One that cannot be
installed is a row of the table, not an error. Environments and outcomes stay in ``--work``; a
second run uses them again. ``--report`` writes the page from all outcomes that lie there.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "bridges.md"
TESTS = "tests/clients/test_bridges.py"


@dataclass(frozen=True)
class Bridge:
    """What a bridge's environment has.

    Attributes:
        packages: Requirements, pinned; the first one is the bridge's own.
        bare: Requirements that are installed without what they ask for.
        extras: Extras of this package.
        loose: Names whose pins in constraints.txt the package contradicts.
    """

    packages: tuple[str, ...]
    bare: tuple[str, ...] = ()
    extras: str = ""
    loose: tuple[str, ...] = ()


BRIDGES = {
    "openenv": Bridge(("openenv==0.10.0",), extras="serve", loose=("mcp", "starlette", "uvicorn")),
    "trl": Bridge(("trl==1.16.0",), extras="agents"),
    "torchrl": Bridge(("torchrl==0.14.1", "torch")),
    "rllib": Bridge(("ray[rllib]==2.60.0", "torch"), loose=("gymnasium",)),
    "verl": Bridge(
        ("ray==2.60.0", "hydra-core", "tensordict", "codetiming", "cachetools", "torchdata"),
        bare=("verl==0.9.1",),
        extras="agents",
    ),
    "tinker": Bridge(("tinker-cookbook==0.6.1", "torch")),
    "verifiers": Bridge(("verifiers==0.4.0",), loose=("pillow", "moviepy", "mcp")),
    "skyrl-gym": Bridge(("skyrl-gym==0.4.0",), loose=("gymnasium",)),
    "gem": Bridge((), bare=("gem-llm==0.1.0",), loose=("gymnasium",)),
    "minari": Bridge(("minari[create,hdf5]==0.5.4",)),
    "datasets": Bridge(("datasets",)),
    "mlflow": Bridge(("mlflow-skinny",)),
    "wandb": Bridge(("wandb",)),
}
"""Environments by the name of the test and of the block in docs/bridges.md."""


@dataclass
class Outcome:
    """What a run of a bridge's tests came to."""

    name: str
    date: str
    python: str
    versions: dict[str, str] = field(default_factory=dict)
    result: str = ""
    seconds: float = 0.0
    lines: list[str] = field(default_factory=list)  # what the conformance check printed


def block(name: str) -> str:
    """Return the code that a user writes, from docs/bridges.md."""
    found = re.search(rf"```py\n# {re.escape(name)}\n(.*?)```", PAGE.read_text("utf-8"), re.S)
    return found[1] if found else ""


def glue_lines(name: str) -> int:
    """Return how many lines of code there are in it: no blank ones, comments or checks."""
    lines = [line.strip() for line in block(name).splitlines()]
    return sum(bool(line) and not line.startswith(("#", "assert ")) for line in lines)


def _own(requirement: str) -> str:
    return re.split(r"[\[=<>]", requirement)[0]


def install(folder: Path, python: str, bridge: Bridge) -> str:
    """Make the environment; return "" or what went wrong."""
    own = str(folder / "bin" / "python")
    if not folder.exists():
        subprocess.run([python, "-m", "venv", str(folder)], check=True)
    named = {_own(requirement).lower() for requirement in (*bridge.packages, *bridge.bare)}
    # torch stays pinned: a plain `torch` may bring gigabytes of CUDA libraries.
    loose = {*bridge.loose, *(named - {"torch"})}
    pins = folder / "constraints.txt"
    kept = [
        line
        for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines()
        if _own(line).lower() not in loose
    ]
    pins.write_text("\n".join(kept) + "\n", "utf-8")
    extras = f"[{bridge.extras}]" if bridge.extras else ""
    wanted = ["-e", f"{ROOT}{extras}", "pytest", "hypothesis", *bridge.packages]
    steps = [["-c", str(pins), *wanted]]
    if bridge.bare:
        steps.append(["--no-deps", *bridge.bare])
    for step in steps:
        done = subprocess.run(
            [own, "-m", "pip", "install", "-q", *step], capture_output=True, text=True
        )
        if done.returncode:
            reasons = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            return f"could not be installed: {(reasons or ['?'])[0][:160]}"
    return ""


def run(name: str, work: Path, python: str) -> Outcome:
    """Install and test one bridge."""
    bridge, folder = BRIDGES[name], work / name
    outcome = Outcome(name, str(datetime.date.today()), platform.python_version())
    outcome.result = install(folder, python, bridge)
    if outcome.result:
        return outcome
    own = str(folder / "bin" / "python")
    names = [_own(r) for r in (*bridge.packages[:1], *bridge.bare)]
    names += ["gymnasium", "numpy", "torch"]
    code = (
        "import importlib.metadata as m, json, sys\n"
        "have = {d.metadata['Name'].lower().replace('_', '-'): d.version\n"
        "        for d in m.distributions()}\n"
        "print(json.dumps({n: have[n.lower()] for n in sys.argv[1:] if n.lower() in have}))"
    )
    shown = subprocess.run([own, "-c", code, *names], capture_output=True, text=True)
    outcome.versions = json.loads(shown.stdout or "{}")
    lines = folder / "conformance.txt"
    lines.unlink(missing_ok=True)
    command = [
        own,
        "-m",
        "pytest",
        "-q",
        "-o",
        "addopts=",
        "--noconftest",
        "-p",
        "no:cacheprovider",
    ]
    command += ["-rs", TESTS, "-k", f"{name.replace('-', '_')}_"]
    environment = {**os.environ, "BRIDGE_LINES": str(lines), "RAY_DEDUP_LOGS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    (folder / "tests.log").write_text(done.stdout + done.stderr, "utf-8")
    last = (done.stdout.strip().splitlines() or ["no output"])[-1]
    seconds = re.search(r" in ([\d.]+)s", last)
    outcome.seconds = float(seconds[1]) if seconds else 0.0
    outcome.result = re.sub(r" in [\d.]+s.*|=+", "", last).strip()
    if lines.exists():
        outcome.lines = lines.read_text("utf-8").splitlines()
    return outcome


def report(work: Path) -> str:
    """Return the page of all outcomes, measurements and curves in a folder."""
    outcomes = [json.loads(path.read_text("utf-8")) for path in sorted(work.glob("*.outcome.json"))]
    order = {name: number for number, name in enumerate(BRIDGES)}
    outcomes.sort(key=lambda outcome: order[outcome["name"]])
    text = [
        "# Bridges",
        "",
        "The environment through the doors of other trainers, each in a venv of its own.",
        "",
        "* Command: `python scripts/test_bridges.py --report benchmarks/results/bridges.md`",
        f"* Date: {datetime.date.today()}",
        f"* Machine: {_processor()}, {os.cpu_count()} cores",
        "",
        "Lines of glue are those of the example in `docs/bridges.md` without blanks, comments and",
        "checks.",
        "",
        "| bridge | versions | lines | tests | seconds | date, Python |",
        "|---|---|---:|---|---:|---|",
    ]
    for o in outcomes:
        versions = ", ".join(f"{name} {version}" for name, version in o["versions"].items())
        place = f"{o['date']}, {o['python']}"
        lines = glue_lines(o["name"]) or "-"
        cells = [o["name"], versions or "-", str(lines), o["result"], f"{o['seconds']:.0f}", place]
        text.append(f"| {' | '.join(cells)} |")
    text += [
        "",
        "## Conformance",
        "",
        "The same seed and ids, compared with the bare environment:",
        "",
    ]
    text += ["```text", *(line for o in outcomes for line in o["lines"]), "```"]
    for part in sorted(work.glob("*.part.md")):
        text += ["", part.read_text("utf-8").strip()]
    return "\n".join(text) + "\n"


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.+)", path.read_text()) if path.exists() else []
    return names[0] if names else platform.processor() or platform.machine()


def main() -> int:
    """Run the chosen bridges, or write the report; return 1 if a test failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", choices=BRIDGES, action="append", help="a bridge; all by default")
    parser.add_argument("--work", type=Path, help="folder for environments and outcomes; kept")
    parser.add_argument("--python", default=sys.executable, help="interpreter of the environments")
    parser.add_argument(
        "--report", type=Path, help="write this page from the outcomes, run nothing"
    )
    arguments = parser.parse_args()
    work = arguments.work or Path(tempfile.gettempdir()) / "search-env-bridges"
    work.mkdir(parents=True, exist_ok=True)
    if arguments.report:
        arguments.report.write_text(report(work), "utf-8")
        return 0
    failed = False
    for name in arguments.only or BRIDGES:
        outcome = run(name, work, arguments.python)
        path = work / f"{name}.outcome.json"
        path.write_text(json.dumps(asdict(outcome), indent=1), "utf-8")
        failed |= "failed" in outcome.result or "error" in outcome.result
        print(f"{name}: {outcome.versions} {outcome.result}", flush=True)
        print("\n".join(outcome.lines), flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
