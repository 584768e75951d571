"""How results are written down: where they were measured, tables of figures, intervals of seeds.

Every result names its command, date, versions and machine; nothing here measures anything.
"""

from __future__ import annotations

import datetime
import math
import os
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np

import search_env
from agents.plots import t_quantile


def heading(title: str, command: str, packages: Sequence[str]) -> str:
    """Return a result's title and the circumstances of its measurement.

    Args:
        title: Of the whole result.
        command: What to run for it.
        packages: Distributions whose versions matter.
    """
    versions = ", ".join([f"Python {platform.python_version()}", *map(_versioned, packages)])
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    return (
        f"# {title}\n\n"
        f"* Command: `{command}`\n"
        f"* Date: {datetime.datetime.now(datetime.timezone.utc).date().isoformat()}\n"
        f"* Versions: {versions}\n"
        f"* Machine: {processor()}, {os.cpu_count()} cores, {platform.system()}; "
        f"one thread; load average at the start {load}\n"
    )


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table whose first column is text and whose others are figures.

    Example:
        >>> print(table(["what", "us"], [["step", "5.7"]]))
        | what | us |
        |---|---:|
        | step | 5.7 |
    """
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    ruled = [f"|{'|'.join(cells)}|" if cells is lines[1] else _row(cells) for cells in lines]
    return "\n".join(ruled)


def interval(values: Sequence[float], digits: int = 3) -> str:
    """Return the mean of some seeds and half of its 95 % t interval; of one seed its value alone.

    Example:
        >>> interval([0.6, 0.7, 0.8])
        '0.700 ± 0.248'
    """
    mean = float(np.mean(values))
    if len(values) < 2:
        return f"{mean:.{digits}f}"
    half = t_quantile(len(values) - 1) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return f"{mean:.{digits}f} ± {half:.{digits}f}"


def publish(text: str, output: Path | None) -> None:
    """Print a result and, if asked to, write it."""
    sys.stdout.write(text)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(text, "utf-8")


def processor() -> str:
    """Return the processor's name as the system gives it."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.is_file():
        return platform.processor() or platform.machine()
    fields = dict(
        line.split(":", 1) for line in cpuinfo.read_text().split("\n\n")[0].splitlines() if line
    )
    known = {name.strip(): value.strip() for name, value in fields.items()}
    name = known.get("model name", platform.machine())
    family, model = known.get("cpu family"), known.get("model")
    return f"{name} (family {family}, model {model})" if family else name


def _versioned(package: str) -> str:
    # A checkout need not be installed where peers are.
    known = search_env.__version__ if package == "search-env" else version(package)
    return f"{package} {known}"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
