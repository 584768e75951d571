"""How measurements are written down: provenance, tables of figures, intervals over seeds.

Every result names its command, date, versions and machine; nothing here measures anything.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from search_env.metrics.statistics import t_quantile
from search_env.paths import DATA_VARIABLE
from search_env.provenance import run_provenance, versions


def heading(title: str, command: str, packages: Sequence[str], threads: int = 1) -> str:
    """Return a result's title and the circumstances of its measurement."""
    made = run_provenance()
    installed = ", ".join(f"{name} {number}" for name, number in versions(packages).items())
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    return (
        f"# {title}\n\n"
        f"* Command: `{command}`\n"
        f"* Date: {made['date'][:10]}\n"
        f"* Versions: {installed.replace('python', 'Python', 1)}\n"
        f"* Machine: {made['hardware']}; {threads} thread(s); "
        f"load average at the start {load}\n"
    )


def parser(doc: str | None, module: str) -> argparse.ArgumentParser:
    """Return a script's command line: the first line of its docstring, and ``--output``."""
    made = argparse.ArgumentParser(f"python -m {module}", description=(doc or "").splitlines()[0])
    made.add_argument("--output", type=Path, help="Markdown file to write")
    return made


def measure(
    options: argparse.ArgumentParser,
    title: str,
    packages: Sequence[str],
    page: Callable[[argparse.Namespace], str],
    *,
    arguments: Sequence[str] | None = None,
    positional: str = "",
) -> None:
    """Read a measurement's command line, take the measurement and publish it.

    ``packages`` are distributions whose versions matter beside this one; ``page`` measures and
    returns the Markdown below the heading; ``positional`` names the argument that is no option.
    """
    args = options.parse_args(arguments)
    data = [f"{DATA_VARIABLE}=..."] if DATA_VARIABLE in os.environ else []
    words = [*data, options.prog]
    for name, value in vars(args).items():
        if value is None or value is False or isinstance(value, Path):
            continue
        words += [] if name == positional else [f"--{name.replace('_', '-')}"]
        values = value if isinstance(value, list) else [value] * (value is not True)
        words += [shlex.quote(f"{x:g}" if isinstance(x, float) else str(x)) for x in values]
    head = heading(title, " ".join(words), ["search-env", *packages], getattr(args, "threads", 1))
    publish(f"{head}\n{page(args)}", args.output)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table whose first column is text and whose others are figures.

    Example:
        >>> print(table(["what", "us"], [["step", "5.7"]]))
        | what | us |
        |---|---:|
        | step | 5.7 |
    """
    ruler = f"|---|{'---:|' * (len(columns) - 1)}"
    head, *body = (f"| {' | '.join(map(_cell, cells))} |" for cells in (columns, *rows))
    return "\n".join([head, ruler, *body])


def _cell(text: str) -> str:
    """Return a cell whose text ends neither itself nor its row."""
    return re.sub(r"(?<!\\)((?:\\\\)*)\|", r"\1\|", " ".join(text.splitlines()))


def plain(text: str) -> str:
    r"""Return a text on one line as Markdown that shows it as it is.

    Example:
        >>> print(plain("a|b <c> $x$"))
        a\|b \<c\> \$x\$
    """
    return re.sub(r"([\\`*_\[\]<>|#~$&])", r"\\\1", " ".join(text.split()))


def code_block(text: str) -> str:
    """Return a block of code that its text cannot end."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{text}\n{fence}\n"


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
