"""Provenance of records, results and measurements: date, versions, hardware."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("gymnasium", "numpy", "tokenizers", "bm25s", "torch", "transformers", "openai")
"""Distributions that may affect scores."""


def run_provenance() -> dict[str, Any]:
    """Return date, versions and hardware of a run, as JSON values."""
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": versions(("search-env", *PACKAGES)),
        "hardware": f"{processor()}, {os.cpu_count()} cores, {platform.system()}",
    }


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Return the versions of Python and of the installed ones of these distributions."""
    installed = {name: number for name in packages if (number := _version(name)) is not None}
    return {"python": platform.python_version(), **installed}


def package_version() -> str:
    """Return the version of this package; ``"unknown"`` in a checkout that is not installed."""
    return _version("search-env") or "unknown"


def processor() -> str:
    """Return the processor's name as reported by the system."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.is_file():
        return platform.processor() or platform.machine()
    lines = cpuinfo.read_text("utf-8").split("\n\n")[0].splitlines()
    fields = {key.strip(): value.strip() for key, _, value in (x.partition(":") for x in lines)}
    name = fields.get("model name", platform.machine())
    family, model = fields.get("cpu family"), fields.get("model")
    return f"{name} (family {family}, model {model})" if family else name


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
