"""Sphinx settings: `pip install -e ".[docs]" && sphinx-build -W docs docs/_build`."""

import inspect
from pathlib import Path

import search_env

project = "search-env"
copyright = "2026, the search-env authors"
extensions = ["myst_parser"]
html_theme = "furo"
exclude_patterns = ["_build"]
myst_heading_anchors = 3

# Environment pages come from class docstrings, as Gymnasium's do.
reference = Path(__file__).parent / "reference"
reference.mkdir(exist_ok=True)
page = f"# SearchQAEnv\n\n{inspect.getdoc(search_env.SearchQAEnv)}\n"
(reference / "SearchQAEnv.md").write_text(page, "utf-8")
