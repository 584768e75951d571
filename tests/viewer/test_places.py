"""Links, turns, groups, raw text, export and live pages, in a browser; ``view --follow``."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from search_env.cli.view import episode_files, follow_files
from search_env.errors import DataNotFoundError
from search_env.recording.files import read_episodes
from search_env.recording.record import RecordedGroup
from search_env.types import Source
from search_env.viewer.page import PageEntry, write_page
from tests.viewer.test_page import browser, entries, files, new_window, parts, read_pane

__all__ = ["browser", "files"]  # fixtures


@pytest.fixture(scope="module")
def path(files, tmp_path_factory):
    """Two runs on the same twelve questions."""
    path = tmp_path_factory.mktemp("places") / "page.html"
    write_page(path, "Episodes", entries(files))
    return path


@pytest.fixture
def window(browser):
    """A window; any error in it fails the test."""
    errors = []
    window = new_window(browser, viewport={"width": 1280, "height": 800})
    window.on("pageerror", lambda error: errors.append(str(error)))
    yield window
    window.close()
    assert errors == []


def fragment(window):
    return window.evaluate("location.hash")


def test_links_name_episode_and_token_and_back_returns(window, path, files):
    (second, third) = [e.transcript.question.text for e in read_episodes(files[0])][1:3]
    window.goto(path.as_uri())
    window.locator("#list .row").nth(1).click()
    window.wait_for_function(
        "q => document.querySelector('.pane h2')?.textContent === q", arg=second
    )
    window.locator("#list .row").nth(2).click()
    window.wait_for_function(
        "q => document.querySelector('.pane h2')?.textContent === q", arg=third
    )
    assert fragment(window) == "#run=oracle&episode=3"
    token = window.locator(".stream span[data-i]").nth(4)
    position = token.get_attribute("data-i")
    token.click()
    assert fragment(window) == f"#run=oracle&episode=3&token={position}"
    assert window.locator(".target").get_attribute("data-i") == position
    window.go_back()
    window.go_back()
    window.wait_for_function(
        "q => document.querySelector('.pane h2')?.textContent === q", arg=second
    )
    window.goto("about:blank")
    window.goto(f"{path.as_uri()}#run=plain&episode=3&token={position}")
    read_pane(window)
    window.wait_for_selector(".target")
    assert "plain, episode 3" in window.locator(".pane .facts").inner_text()
    window.goto("about:blank")
    window.goto(f"{path.as_uri()}#run=nobody&episode=9")  # of another page: no error
    window.wait_for_selector("#list .row")


def test_turns_start_where_the_policy_does(window, path, files):
    transcript = [e.transcript for e in read_episodes(files[0])][2]
    ours = (transcript.sources == Source.POLICY).tolist()
    starts = [i for i, own in enumerate(ours) if own and not ours[i - 1]]
    window.goto(f"{path.as_uri()}#run=oracle&episode=3")
    read_pane(window)
    turns = window.locator(".turn").evaluate_all("all => all.map(n => Number(n.dataset.turn))")
    assert turns == starts
    assert len(starts) >= 2
    for start in starts[:2]:
        window.keyboard.press("]")
        assert fragment(window).endswith(f"&token={start}")
    window.keyboard.press("[")
    assert fragment(window).endswith(f"&token={starts[0]}")


def test_another_policy_beside_follows_the_list(window, path):
    window.goto(f"{path.as_uri()}#run=oracle&episode=2")
    read_pane(window)
    window.keyboard.press("s")
    window.wait_for_function("document.querySelectorAll('.pane').length === 2")
    window.keyboard.press("j")
    window.wait_for_function(
        "[...document.querySelectorAll('.pane .facts')].every("
        "n => n.textContent.includes('episode 3'))"
    )
    heads = window.locator(".pane h2").all_inner_texts()
    facts = window.locator(".pane .facts").all_inner_texts()
    assert heads[0] == heads[1]
    assert "plain, episode 3" in facts[0]
    assert "oracle, episode 3" in facts[1]
    window.keyboard.press("s")
    window.wait_for_function("document.querySelectorAll('.pane').length === 1")


def test_a_group_has_rewards_and_advantages(window, files, tmp_path):
    base = next(read_episodes(files[1]))
    group = RecordedGroup("1", 4)
    many = [
        PageEntry("run", replace(base, group=group, score=base.score._replace(total=total)))
        for total in (1.0, 0.0, 0.0, 0.6)
    ]
    write_page(tmp_path / "p.html", "Group", many)
    window.goto(f"{(tmp_path / 'p.html').as_uri()}#run=run&episode=1")
    read_pane(window)
    window.keyboard.press("g")
    window.wait_for_selector(".group table")
    cells = window.locator(".group tr").evaluate_all(
        "all => all.slice(1).map(r => [...r.cells].map(c => c.textContent))"
    )
    assert [row[2] for row in cells] == ["1.000", "0.000", "0.000", "0.600"]
    assert [row[3] for row in cells] == ["+0.600", "−0.400", "−0.400", "+0.200"]
    window.locator(".group td button").nth(3).click()
    read_pane(window)
    assert fragment(window) == "#run=run&episode=4"


def test_raw_text_and_export_are_exact(window, path, files):
    episode = list(read_episodes(files[0]))[1]
    window.goto(f"{path.as_uri()}#run=oracle&episode=2")
    read_pane(window)
    window.keyboard.press("r")
    window.wait_for_selector(".raw")
    assert window.locator(".raw .text").text_content() == episode.transcript.text()
    with window.expect_download() as download:
        window.keyboard.press("x")
    (line,) = Path(download.value.path()).read_text("utf-8").splitlines()
    content = json.loads(line)
    assert content["tokens"] == episode.transcript.tokens.tolist()
    assert content["text"] == episode.transcript.text()
    assert content["signals"].keys() == episode.signals.keys()
    assert content["searches"][0]["documents"][0]["text"]
    assert download.value.suggested_filename == "oracle-2.jsonl"


def test_phases_are_filtered_by_reward(window, files, tmp_path):
    base = next(read_episodes(files[1]))
    phases = ["r1-searcher-stage1", "r1-searcher-stage1", "r1-searcher-stage2"]
    rows = [PageEntry("run", replace(base, reward=name)) for name in phases]
    write_page(tmp_path / "p.html", "Phases", rows)
    window.goto((tmp_path / "p.html").as_uri())
    window.select_option("#f-phase", "r1-searcher-stage1")
    assert window.locator("#count").inner_text() == "2 of 3 episodes"


def test_a_live_page_keeps_its_place(window, files, tmp_path):
    path, all_of_them = tmp_path / "p.html", entries(files[:1])
    write_page(path, "Live", all_of_them[:3], refresh=0.5)
    window.goto(path.as_uri())
    window.locator("#list .row").nth(1).click()
    read_pane(window)
    window.keyboard.press("]")
    window.wait_for_url("**token=*")
    before = window.url
    write_page(path, "Live", all_of_them)  # the run has ended: the last one is not live
    window.wait_for_function("document.querySelector('#count').textContent === '12 episodes'")
    read_pane(window)
    assert window.url == before
    assert window.locator("#list .row[aria-selected=true]").get_attribute("id") == "row-1"
    assert not window.locator("#live").is_visible()


def test_gold_marks_are_never_folded_away(window, path):
    window.goto(f"{path.as_uri()}#run=oracle&episode=1")
    read_pane(window)
    folded = "all => all.filter(n => !n.closest('.whole')).length"
    assert window.locator(".card .text mark").evaluate_all(folded) == 0
    assert window.locator(".card .text mark").count() >= 1


def test_follow_writes_when_a_run_has_recorded_more(files, tmp_path):
    run, out = tmp_path / "run", tmp_path / "out.html"
    lines = files[0].read_bytes().splitlines(keepends=True)
    counts, live = [], []

    def wait(_):
        """Note what is written; the run records two episodes and half of a third, then ends."""
        index = parts(out)[0]
        counts.append(len(index["episodes"]))
        live.append(index["refresh"])
        if len(counts) == 1:
            run.mkdir()
            (run / "episodes.jsonl").write_bytes(lines[0])
            (run / "metrics.jsonl").write_text('{"step": 1}\n')
        elif len(counts) == 2:
            with (run / "episodes.jsonl").open("ab") as file:
                file.write(lines[1] + lines[2][:50])
        elif len(counts) == 3:
            raise KeyboardInterrupt

    follow_files([run / "episodes.jsonl"], out, None, 2.0, wait=wait)
    assert counts == [0, 1, 2]
    assert live == [2.0] * 3
    assert parts(out)[0]["refresh"] is None


def test_folders_are_searched_for_recordings(files, tmp_path):
    shutil.copy(files[0], tmp_path / "a.jsonl")
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    assert episode_files([tmp_path, files[1]]) == [tmp_path / "a.jsonl", files[1]]
    (tmp_path / "a.jsonl").unlink()
    with pytest.raises(DataNotFoundError, match="--follow"):
        episode_files([tmp_path])
