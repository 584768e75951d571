"""Sphinx settings: `pip install -e ".[docs]" && sphinx-build -W docs docs/_build`.

Three kinds of pages are written into `docs/reference/` at each build and not committed:

* the environments' pages, from class docstrings in Markdown under Gymnasium's headings;
* the API of each package that declares `__all__`, from docstrings in Google's style;
* the measurements of `benchmarks/results/`, which pages link as files of the repository.
"""

import importlib
import inspect
import pkgutil
import shutil
from pathlib import Path
from types import ModuleType

from sphinx.application import Sphinx

import search_env

project = "search-env"
copyright = "2026, the search-env authors"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
exclude_patterns = ["_build"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
napoleon_use_ivar = True  # a field of a class is described once, where the class lists it

DOCS = Path(__file__).parent
REFERENCE = DOCS / "reference"
RESULTS = DOCS.parent / "benchmarks" / "results"
ENVIRONMENTS = (search_env.SearchQAEnv, search_env.SearchQAVectorEnv)


def public_packages() -> list[ModuleType]:
    """Return `search_env` and its subpackages that declare `__all__`, by name."""
    inside = pkgutil.walk_packages(search_env.__path__, "search_env.", onerror=lambda name: None)
    names = [module.name for module in inside if module.ispkg]
    modules = [importlib.import_module(name) for name in ("search_env", *sorted(names))]
    return [module for module in modules if hasattr(module, "__all__")]


def package_page(package: ModuleType, elsewhere: dict[str, object]) -> str:
    """Return the page of a package: its docstring, classes and functions, then constants.

    Public names that are in `elsewhere` too are described on another page and only listed here.
    """
    name, values = package.__name__, {n: getattr(package, n) for n in package.__all__}
    also = [n for n, value in values.items() if elsewhere.get(n) is value]
    described = values.keys() - also
    constants = sorted(n for n in described if n.isupper())
    lines = [name, "=" * len(name), "", f".. automodule:: {name}", "   :members:"]
    if also or constants:
        lines.append(f"   :exclude-members: {', '.join([*also, *constants])}")
    for n in constants:
        lines += ["", f".. py:data:: {n}", f"   :type: {type(values[n]).__name__}"]
    if also:
        listed = ", ".join(f"``{n}``" for n in also)
        lines += ["", f"Also exported here, described on the page of another package: {listed}."]
    return "\n".join(lines) + "\n"


def environment_page(kind: type) -> str:
    """Return the page of an environment: its docstring, then constructor and methods."""
    directive = f".. autoclass:: search_env.{kind.__name__}\n   :members:\n"
    text = inspect.getdoc(kind)
    return f"# {kind.__name__}\n\n{text}\n\n## Methods\n\n```{{eval-rst}}\n{directive}```\n"


def contents(title: str, introduction: str, pages: list[str]) -> str:
    """Return a page that lists others."""
    entries = "\n".join(pages)
    return f"# {title}\n\n{introduction}\n\n```{{toctree}}\n:maxdepth: 1\n\n{entries}\n```\n"


def write_pages() -> None:
    """Write all generated pages anew."""
    shutil.rmtree(REFERENCE, ignore_errors=True)
    (REFERENCE / "results").mkdir(parents=True)
    for kind in ENVIRONMENTS:
        (REFERENCE / f"{kind.__name__}.md").write_text(environment_page(kind), "utf-8")

    packages = public_packages()
    for package in packages:
        elsewhere: dict[str, object] = {kind.__name__: kind for kind in ENVIRONMENTS}
        for other in packages:
            if other.__name__.startswith(package.__name__ + "."):
                elsewhere |= {n: getattr(other, n) for n in other.__all__}
        page = package_page(package, elsewhere)
        (REFERENCE / f"{package.__name__}.rst").write_text(page, "utf-8")
    introduction = "The public names of each package; what is not listed here may change."
    api = contents("API reference", introduction, [p.__name__ for p in packages])
    (REFERENCE / "api.md").write_text(api, "utf-8")

    results = sorted(RESULTS.glob("*.md"))
    for path in results:
        shutil.copy(path, REFERENCE / "results")
    introduction = "Each page has its command, date, versions and machine."
    pages = contents("Measurements", introduction, [path.stem for path in results])
    (REFERENCE / "results" / "index.md").write_text(pages, "utf-8")


def point_to_copied_results(app: Sphinx, docname: str, source: list[str]) -> None:
    """Turn links to result files of the repository into links to their pages."""
    if "/" not in docname:
        source[0] = source[0].replace("](../benchmarks/results/", "](reference/results/")


def drop_docstring(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Leave out docstrings in Markdown, which begin their pages, and those of tuple fields."""
    in_markdown = any(obj is kind for kind in ENVIRONMENTS)
    if in_markdown or (lines and lines[0].startswith("Alias for field number")):
        lines.clear()


def setup(app: Sphinx) -> None:
    """Connect the two hooks."""
    app.connect("source-read", point_to_copied_results)
    app.connect("autodoc-process-docstring", drop_docstring)


write_pages()
