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
for kind in (search_env.SearchQAEnv, search_env.SearchQAVectorEnv):
    page = f"# {kind.__name__}\n\n{inspect.getdoc(kind)}\n"
    (reference / f"{kind.__name__}.md").write_text(page, "utf-8")
