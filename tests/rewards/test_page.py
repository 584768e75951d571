"""The page on rewards: its examples run, its tables name what there is."""

from __future__ import annotations

import re
from pathlib import Path

from search_env.rewards import get_reward
from tests.rewards.test_base import PRESETS, RANGES

PAGE = (Path(__file__).parents[2] / "docs" / "rewards.md").read_text("utf-8")


def test_the_examples_run(capsys):
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict[str, object] = {}
    for block in blocks:
        exec(block, names)  # one after the other, as a reader would
    promised = re.findall(r"print\(.*\)  # (.*)", "".join(blocks))
    assert capsys.readouterr().out.splitlines() == promised
    assert names["env"].unwrapped.reward is get_reward("no-repeats")


def test_the_table_of_presets():
    table = re.findall(r"^\| `([a-z0-9+-]+)`.*? \| (`.*?`) \| (.*?) \|", PAGE, re.MULTILINE)
    rows = {name: (parts.replace("`", "").split(", "), span) for name, parts, span in table}
    for reward in PRESETS:
        parts, span = rows[reward.name]
        assert tuple(parts) == reward.parts
        if "..." in span:
            assert tuple(map(float, span.split(" ... "))) == RANGES[reward.name]
