"""A whole report in Chromium: scores, viewer, and the pictures of both that the docs show.

``SEARCH_ENV_SCREENSHOTS=docs/images`` keeps the pictures there; else they go with the test.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from search_env.benchmarks.players.base import Decoding
from search_env.benchmarks.players.factory import make_agent
from search_env.benchmarks.question_sets.registry import get_benchmark
from search_env.benchmarks.run import run
from search_env.cli.main import app
from tests.work import HANGS_AFTER

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
WORLD = get_benchmark("world-2hop/r1-searcher/bm25-world1k/v1")
LIMIT = 16


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """What a user gets of three agents, one of them with episodes and log-probabilities."""
    folder = tmp_path_factory.mktemp("report")
    for agent in ("closed-book", "question-as-query", "oracle-queries"):
        player = make_agent(agent, WORLD, seed=0)
        run(WORLD, player, folder / "runs" / f"{agent}.jsonl", limit=LIMIT, command=agent)
    player = make_agent("model:tiny-trained", WORLD, seed=0, num_envs=16)
    path = folder / "runs" / "model.jsonl"
    episodes = folder / "runs" / "tiny-base.jsonl"
    run(WORLD, player, path, limit=LIMIT, command="model")
    # Greedy tokens have log-probability 0; sampled ones can be told apart.
    base, sampled = make_agent("model:tiny-base", WORLD, seed=0, num_envs=16), Decoding(1.0)
    path = folder / "sampled.jsonl"
    run(WORLD, base, path, limit=LIMIT, episodes=episodes, decoding=sampled, seed=3)
    arguments = ["report", str(folder / "runs"), "--out", str(folder / "report.html")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    return folder / "report.html"


@pytest.fixture
def window(request):
    """The report in a browser; it is only made where there is one."""
    sync_api = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine")
    report = request.getfixturevalue("report")
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        page = browser.new_page(viewport={"width": 1280, "height": 860})
        page.set_default_timeout(1000 * HANGS_AFTER)
        errors = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(report.as_uri())
        yield page
        browser.close()
    assert errors == []


def keep(window, name, tmp_path):
    folder = Path(os.environ.get("SEARCH_ENV_SCREENSHOTS") or tmp_path)
    window.screenshot(path=folder / name)
    assert (folder / name).stat().st_size > 10_000


def test_scores_stand_beside_each_other(window, tmp_path):
    table = window.locator("section:not([hidden]) table").first
    agents = table.locator("td:first-child").all_inner_texts()
    assert agents == ["closed-book", "tiny-trained", "oracle-queries", "question-as-query"]
    pictures = window.locator("img.plot")
    assert pictures.count() >= 1
    assert pictures.first.evaluate("image => image.complete && image.naturalWidth > 100")
    keep(window, "report.png", tmp_path)


def test_episodes_of_the_model_in_its_log_probabilities(window, tmp_path):
    window.get_by_role("tab", name="Episodes").click()
    assert window.locator("#count").inner_text() == f"{LIMIT} episodes"
    searched = "[...document.querySelector('#f-searches').options].map(o => o.value).at(-1)"
    window.select_option("#f-searches", window.evaluate(searched))
    window.locator("#list .row").first.click()
    window.wait_for_selector(".pane .stream span[data-p]")
    window.keyboard.press("c")
    window.wait_for_function("document.querySelector('.tools select').value === 'log_prob'")
    assert window.locator(".legend").is_visible()
    assert window.locator(".card").count() >= 1
    shades = window.locator(".stream span[data-p]").evaluate_all(
        "spans => new Set(spans.map((span) => span.style.background)).size"
    )
    assert shades > 5
    keep(window, "viewer.png", tmp_path)
