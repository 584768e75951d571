"""The declared surface: what is public is listed, documented, and used in the pages.

Packages of ``search_env`` re-export their public names; agents and benchmarks, whose modules need
extras, declare them in the module that one imports from. Everything else may change at any time.
"""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIST = ROOT / "tests" / "public_names.txt"
MOST = 150


def declared() -> dict[str, list[str]]:
    """Return the names in each ``__all__``, by module."""
    found = {}
    for folder in ("search_env", "agents", "benchmarks"):
        for path in sorted((ROOT / folder).rglob("*.py")):  # follows no links
            for node in ast.parse(path.read_text("utf-8")).body:
                if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                    parts = path.relative_to(ROOT).with_suffix("").parts
                    module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
                    prefix = "" if folder == "search_env" else "search_env."
                    found[prefix + module] = ast.literal_eval(node.value)
    return found


DECLARED = declared()
NAMES = [f"{module}.{name}" for module, names in DECLARED.items() for name in names]


def test_the_list_is_the_surface():
    listed = LIST.read_text("utf-8").split()
    assert listed == sorted(NAMES), "a public name was added or removed: say so in the list too"
    assert len(NAMES) <= MOST


@pytest.mark.parametrize("module", DECLARED)
def test_names_exist_once(module):
    names = DECLARED[module]  # sorted: ruff RUF022
    assert len(names) == len(set(names))
    if module.startswith("search_env.agents.bridges"):
        pytest.importorskip("stable_baselines3")
    loaded = importlib.import_module(module)
    for name in names:
        assert hasattr(loaded, name)


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_used_in_the_pages(name):
    word = re.compile(rf"\b{name.rpartition('.')[2]}\b")
    assert any(word.search(page.read_text("utf-8")) for page in (ROOT / "docs").glob("*.md"))
