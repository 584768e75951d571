"""The notebooks: valid nbformat 4, stored without outputs, and every cell runs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

NOTEBOOKS = Path(__file__).parents[1] / "docs" / "notebooks"
FIRST = NOTEBOOKS / "first_policy.ipynb"
KEYS = {
    "markdown": {"cell_type", "id", "metadata", "source"},
    "code": {"cell_type", "id", "metadata", "source", "execution_count", "outputs"},
}


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda p: p.stem)
def test_a_notebook_is_nbformat_4(path):
    """The rules of nbformat's own schema of version 4.5 that such notebooks can break."""
    notebook = json.loads(path.read_text("utf-8"))
    assert set(notebook) == {"cells", "metadata", "nbformat", "nbformat_minor"}
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert set(notebook["metadata"]["kernelspec"]) >= {"name", "display_name"}
    assert notebook["metadata"]["language_info"]["name"] == "python"
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", id) for id in ids)
    for cell in notebook["cells"]:
        assert set(cell) == KEYS[cell["cell_type"]]
        assert all(isinstance(line, str) for line in cell["source"])
        assert all(line.endswith("\n") for line in cell["source"][:-1])
        if cell["cell_type"] == "code":  # outputs would differ with each run
            assert cell["outputs"] == []
            assert cell["execution_count"] is None


def test_the_first_notebook_runs_and_its_policy_learns():
    pytest.importorskip("matplotlib")
    namespace: dict = {}
    for cell in json.loads(FIRST.read_text("utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), cell["id"], "exec"), namespace)
    curve = namespace["curve"]
    assert sum(curve[:10]) / 10 < 0.3
    assert sum(curve[-10:]) / 10 > 0.95
    (line,) = namespace["axes"].get_lines()
    assert line.get_ydata().tolist() == curve


def test_the_notebook_is_linked():
    assert "notebooks/first_policy.ipynb" in (NOTEBOOKS.parent / "index.md").read_text("utf-8")
