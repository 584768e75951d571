"""The house rules that a machine can check: sizes, docstrings, packages, surface, versions.

Which part may import which is in ``test_law.py``.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import search_env

ROOT = Path(__file__).parents[1]
SOURCES = sorted(
    path
    for folder in ("search_env", "agents", "benchmarks", "scripts")
    for path in (ROOT / folder).rglob("*.py")
)
MAX_FILE, MAX_FUNCTION = 500, 80


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_sizes_and_docstrings(path: Path):
    text = path.read_text("utf-8")
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "every module says what it is for"
    assert text.count("\n") <= MAX_FILE
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node, clean=False) or ""
            lines = node.end_lineno - node.lineno + 1 - docstring.count("\n")
            assert lines <= MAX_FUNCTION, f"{node.name} has {lines} lines"


_MAGIC_ATTRIBUTES = {"_getframe", "__dict__", "__new__", "__annotations__"}
_MAGIC_CALLS = {"id", "locals", "globals", "setattr", "delattr", "exec", "eval"}
_BY_ITS_INTERFACE = {("agents/bridges/sb3_env.py", "setattr")}  # what set_attr of a VecEnv is for


@pytest.mark.parametrize(
    "path", [p for p in SOURCES if not name_of(p).startswith("scripts")], ids=name_of
)
def test_no_magic(path: Path):
    """No frames, no instances without a constructor, no keys by id(), no names put together."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Attribute):
            assert node.attr not in _MAGIC_ATTRIBUTES, f"line {node.lineno}: {node.attr}"
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
            continue
        called, place = node.func.id, f"line {node.lineno}: {node.func.id}"
        assert called not in _MAGIC_CALLS or (name_of(path), called) in _BY_ITS_INTERFACE, place
        if called == "getattr":
            assert not isinstance(node.args[1], ast.JoinedStr), place


def imported(path: Path) -> set[str]:
    """Top-level packages that a file imports when it is imported."""
    found: set[str] = set()
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize(
    "path", [p for p in SOURCES if name_of(p).startswith("search_env")], ids=name_of
)
def test_the_core_needs_few_packages(path: Path):
    allowed = {"search_env", "gymnasium", "numpy", "tokenizers", "typing_extensions"}
    if path.parent.name == "cli":
        allowed.add("typer")
    assert imported(path) - set(sys.stdlib_module_names) <= allowed


@pytest.mark.parametrize("path", sorted((ROOT / "search_env" / "core").glob("*.py")), ids=name_of)
def test_rules_do_no_io(path: Path):
    imports = path.read_text("utf-8")
    for forbidden in (
        "search_env.retrieval",
        "search_env.datasets",
        "open(",
        "import time",
        "import random",
        "np.random",
    ):
        assert forbidden not in imports


def test_public_names_exist_and_are_sorted():
    assert sorted(search_env.__all__) == sorted(set(search_env.__all__))
    for name in search_env.__all__:
        assert getattr(search_env, name).__doc__


def test_versions_agree():
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    (version,) = re.findall(r'^version = "(.+)"$', project, re.M)
    assert search_env.__version__ == version
    assert f"version: {version}" in (ROOT / "CITATION.cff").read_text("utf-8")
    assert "[Unreleased]" in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_the_readmes_example_runs():
    text = (ROOT / "README.md").read_text("utf-8")
    code = re.findall(r"```python\n(.*?)```", text, re.S)[0]
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "begin_of_documents" in run.stdout


def test_the_readmes_links_lead_somewhere():
    text = (ROOT / "README.md").read_text("utf-8")
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (ROOT / target).exists(), target


def test_bundled_tokenizer_is_what_its_script_makes():
    script = ROOT / "scripts" / "train_tokenizer.py"
    subprocess.run([sys.executable, str(script), "--check"], check=True, capture_output=True)
