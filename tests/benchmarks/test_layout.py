"""The law of the folders: a row imports only rows above it and files of its own folder."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROWS = (
    {"harness"},
    {"players", "question_sets"},
    {"run", "reports"},
    {"cli", "speed"},
    {"studies"},
)
LEVEL = {name: level for level, row in enumerate(ROWS) for name in row}


def module_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path):
    """Modules of benchmarks that a file imports, inside functions and for types too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("benchmarks"):
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            modules = {name for name in inner if name in MODULES}
            found |= modules or {node.module}
    return found


MODULES = {module_of(path): path for path in (ROOT / "benchmarks").rglob("*.py")}
IMPORTS = {name: imports_of(path) for name, path in MODULES.items()}


def test_rows_import_only_rows_above_them():
    for name, imports in IMPORTS.items():
        if "." not in name:
            continue
        own = name.split(".")[1]
        for other in (module.split(".")[1] for module in imports):
            assert other == own or LEVEL[other] < LEVEL[own], f"{name} imports {other}"


def test_there_are_no_cycles():
    assert set(TopologicalSorter(IMPORTS).static_order()) >= set(MODULES)


def test_tests_lie_where_the_code_does():
    for path in (ROOT / "tests" / "benchmarks").glob("*/test_*.py"):
        assert path.parent.name in LEVEL, path
