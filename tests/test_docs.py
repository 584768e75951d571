"""The pages: every example runs, every page is listed, environments have Gymnasium's headings."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import search_env

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted(DOCS.glob("*.md"))
TUTORIAL = DOCS / "your_own_algorithm.md"
HEADINGS = (  # in all 24 of Gymnasium's own environments, then in most
    "Description",
    "Action Space",
    "Observation Space",
    "Starting State",
    "Arguments",
    "Version History",
    "Rewards",
    "Episode End",
    "Information",
    "Reset Arguments",
    "References",
)


def blocks(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.S)


@pytest.mark.parametrize(
    "page", [page for page in PAGES if blocks(page) and page != TUTORIAL], ids=lambda p: p.stem
)
def test_a_pages_examples_run_top_to_bottom(page, tmp_path):
    code = "\n".join(blocks(page))
    command = [sys.executable, "-W", "error", "-c", code]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 0, run.stderr


def test_the_tutorial_runs_and_its_policy_learns():
    code = "\n".join(blocks(TUTORIAL))
    namespace: dict = {}
    exec(compile(code, "tutorial", "exec"), namespace)
    curve = namespace["curve"]
    assert sum(curve[:10]) / 10 < 0.3
    assert sum(curve[-10:]) / 10 > 0.95


def test_every_page_is_in_the_table_of_contents():
    listed = re.search(r"```\{toctree\}\n(.*?)```", (DOCS / "index.md").read_text("utf-8"), re.S)
    names = {line for line in listed[1].split() if not line.startswith("reference/")}
    assert names == {page.stem for page in PAGES} - {"index"}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text("utf-8")):
        if not target.startswith("reference/"):  # made with the documentation
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("kind", [search_env.SearchQAEnv, search_env.SearchQAVectorEnv])
def test_environment_pages_have_gymnasiums_headings(kind):
    found = re.findall(r"^ *## (.+)$", kind.__doc__, re.M)
    assert set(HEADINGS) <= set(found)
    assert found.index("Description") == 0
    assert found[-1] == "Version History" or found[-2:] == ["References", "Version History"]
