"""The page of episodes: its content, and its use in a browser.

The browser tests need playwright and Chromium; they are skipped without.
"""

from __future__ import annotations

import base64
import json
import re
import shutil
import zlib
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest

from search_env.agents.baselines.scripted import make_baseline
from search_env.errors import ConfigurationError, EpisodeFileError
from search_env.evaluation.evaluate import evaluate
from search_env.recording.files import EpisodeWriter, read_episodes
from search_env.types import Document, Source
from search_env.viewer.page import PageEntry, Tab, _marked, write_page
from search_env.wrappers.record_episodes import RecordEpisodes
from tests.work import HANGS_AFTER

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
QUESTIONS = 12


def with_signals(path, source):
    """Copy a file with signals for every token that the policy wrote."""
    env = gym.make("SearchQA-v0", split="test").unwrapped
    writer = EpisodeWriter(path, env)
    for episode in read_episodes(source):
        count = episode.transcript.num_policy_tokens
        ramp = np.linspace(-1, 1, count, dtype=np.float32)
        signals = {"log_prob": -np.abs(ramp), "value": ramp, "advantage": ramp[::-1].copy()}
        writer.write(episode.transcript, seed=0, signals=signals)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Episodes of the oracle with signals, and of one plain search without."""
    folder = tmp_path_factory.mktemp("episodes")
    for name in ("oracle", "question-as-query"):
        env = RecordEpisodes(gym.make("SearchQA-v0", split="test"), folder / f"{name}.plain.jsonl")
        evaluate(env, make_baseline(name), range(QUESTIONS))
    with_signals(folder / "oracle.jsonl", folder / "oracle.plain.jsonl")
    (folder / "question-as-query.plain.jsonl").rename(folder / "plain.jsonl")
    return folder / "oracle.jsonl", folder / "plain.jsonl"


def entries(files):
    return [PageEntry(file.stem, episode) for file in files for episode in read_episodes(file)]


@pytest.fixture(scope="module")
def page(files, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "page.html"
    tab = Tab("Scores", "<h2>Scores</h2><p>Some <b>figures</b>.</p>")
    assert write_page(path, "A <report> & more", entries(files), [tab]) == 2 * QUESTIONS
    return path


def parts(path):
    """Return index and blocks of the page."""
    text = path.read_text("utf-8")
    index = re.search(r'<script type="application/json" id="index">(.*?)</script>', text, re.S)
    blocks = re.search(r'<script type="text/plain" id="blocks">\n(.*?)</script>', text, re.S)
    packed = blocks[1].split()
    return json.loads(index[1]), [
        json.loads(zlib.decompress(base64.b64decode(block))) for block in packed
    ]


# Content


def test_every_token_comes_back(files, page):
    index, blocks = parts(page)
    for entry, row, block in zip(entries(files), index["episodes"], blocks, strict=True):
        transcript = entry.episode.transcript
        assert block["tokens"] == transcript.tokens.tolist()
        assert block["sources"] == transcript.sources.tolist()
        words = index["vocabularies"][row["vocabulary"]]
        text = b"".join(base64.b64decode(words[str(i)]) for i in block["tokens"])
        assert text.decode() == transcript.text()
        assert row["question"] == transcript.question.text
        assert [s["query"] for s in block["searches"]] == [s.query for s in transcript.searches]


def test_tags_are_the_policys_own_and_whole(files, page):
    index, blocks = parts(page)
    for block, row in zip(blocks, index["episodes"], strict=True):
        words = index["vocabularies"][row["vocabulary"]]
        assert block["tags"]
        for start, end in block["tags"]:
            ids = block["tokens"][start : end + 1]
            text = b"".join(base64.b64decode(words[str(i)]) for i in ids).decode()
            assert re.search(r"</?[^<>]+>", text)
            assert set(block["sources"][start : end + 1]) == {Source.POLICY}


def test_supporting_documents_are_marked(files, page):
    _, blocks = parts(page)
    for entry, block in zip(entries(files), blocks, strict=True):
        question = entry.episode.transcript.question
        marked = {
            ("".join(title), "".join(text))
            for s in block["searches"]
            for title, text, is_one in s["documents"]
            if is_one
        }
        documents = entry.episode.transcript.documents
        supporting = {documents[i] for i in question.supporting if i in documents}
        assert marked == {(document.title, document.text) for document in supporting}


def test_untrusted_text_is_escaped(files, tmp_path):
    (first, *_) = entries(files[:1])
    transcript = first.episode.transcript
    evil = "</script><script>document.title='taken'</script>"
    question = replace(transcript.question, text=evil, answers=(evil,))
    episode = replace(first.episode, transcript=replace(transcript, question=question))
    write_page(tmp_path / "p.html", evil, [PageEntry(evil, episode)])
    text = (tmp_path / "p.html").read_text("utf-8")
    assert "<script>document" not in text
    assert parts(tmp_path / "p.html")[0]["episodes"][0]["question"] == evil


def test_signals_are_written_and_read(files):
    episode = next(read_episodes(files[0]))
    assert set(episode.signals) == {"log_prob", "value", "advantage"}
    assert all(len(v) == episode.transcript.num_policy_tokens for v in episode.signals.values())
    assert next(read_episodes(files[1])).signals == {}


@pytest.mark.parametrize("bad", [[0.0], "nan"])
def test_signals_that_do_not_fit(files, tmp_path, bad):
    transcript = next(read_episodes(files[1])).transcript
    values = np.full(transcript.num_policy_tokens, np.nan) if bad == "nan" else np.array(bad)
    writer = EpisodeWriter(tmp_path / "e.jsonl", gym.make("SearchQA-v0", split="test").unwrapped)
    with pytest.raises(ConfigurationError, match="one for each token of the policy"):
        writer.write(transcript, signals={"log_prob": values})
    assert not (tmp_path / "e.jsonl").exists()


def test_a_file_with_signals_of_other_tokens(files, tmp_path):
    from search_env.recording.record import _checksum

    row = json.loads(files[0].read_text("utf-8").splitlines()[0])
    row["signals"]["value"].pop()
    del row["sha256"]
    row["sha256"] = _checksum(row)
    (tmp_path / "e.jsonl").write_text(json.dumps(row) + "\n", "utf-8")
    with pytest.raises(EpisodeFileError, match="another number of tokens"):
        list(read_episodes(tmp_path / "e.jsonl"))


# In a browser


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine")
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield running
        running.close()


def new_window(browser, **options):
    """Open a page that waits for what is to appear as long as a busy machine takes."""
    window = browser.new_page(**options)
    window.set_default_timeout(1000 * HANGS_AFTER)
    return window


@pytest.fixture
def opened(browser, page):
    """The page in a fresh window; any error in it fails the test."""
    errors = []
    window = new_window(browser, viewport={"width": 1280, "height": 800})
    window.on("pageerror", lambda error: errors.append(str(error)))
    window.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
    window.goto(page.as_uri())
    window.get_by_role("tab", name="Episodes").click()
    yield window
    window.close()
    assert errors == []


def read_pane(window):
    window.wait_for_selector(".pane .stream")
    return window.locator(".pane").last


def test_tabs_list_and_episode(opened):
    assert opened.title() == "A <report> & more"
    assert opened.locator("#count").inner_text() == f"{2 * QUESTIONS} episodes"
    opened.locator("#list .row").nth(1).click()
    pane = read_pane(opened)
    assert pane.locator(".card").count() >= 1
    assert pane.locator(".card mark").count() >= 1  # the answer is in a document
    assert pane.locator(".card .support").count() >= 1
    assert "reward, f1: 1.000" in pane.locator(".time").inner_text()
    assert pane.locator(".time .track .retrieved").count() >= 1
    text = pane.locator(".stream").inner_text()
    assert "<|begin_of_query|>" in text
    assert "</answer>" in text


def test_filters(opened):
    def count():
        return int(opened.locator("#count").inner_text().split()[0])

    opened.select_option("#f-run", "plain")
    assert count() == QUESTIONS
    opened.select_option("#f-outcome", "right")
    right = count()
    assert 0 <= right < QUESTIONS
    opened.select_option("#f-outcome", "")
    opened.select_option("#f-run", "oracle")
    opened.select_option("#f-searches", "2")
    assert 0 < count() < QUESTIONS
    opened.select_option("#f-searches", "")
    opened.select_option("#f-run", "")
    question = opened.locator("#list .row .q").first.inner_text()
    opened.fill("#f-text", question.upper())
    assert count() == 2  # once in each run
    opened.fill("#f-text", "no such words anywhere")
    assert count() == 0


def test_keyboard_colours_and_comparison(opened):
    opened.keyboard.press("j")
    first = read_pane(opened).locator("h2").inner_text()
    opened.keyboard.press("c")
    opened.wait_for_function("document.querySelector('.tools select').value === 'log_prob'")
    shaded = opened.locator(".stream span[data-p]").first.get_attribute("style")
    assert "rgba(" in shaded
    opened.locator(".stream span[data-p]").nth(3).hover()
    tip = opened.locator("#tip").inner_text()
    assert "log-prob -" in tip
    assert "policy" in tip
    opened.keyboard.press("p")
    opened.keyboard.press("j")
    opened.wait_for_function("document.querySelectorAll('.pane').length === 2")
    heads = opened.locator(".pane h2").all_inner_texts()
    assert heads[0] == first
    assert heads[1] != first
    opened.keyboard.press("p")
    opened.keyboard.press("/")
    assert opened.evaluate("document.activeElement.id") == "f-text"
    opened.keyboard.press("Escape")
    opened.keyboard.press("?")
    assert opened.locator("#help").is_visible()


def contrast(window, selector):
    """WCAG contrast of an element's text on the page."""
    script = """(selector) => {
      const parse = (c) => c.match(/[\\d.]+/g).slice(0, 3).map(Number);
      const level = (c) => { const [r, g, b] = parse(c).map((v) => { v /= 255;
        return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; });
        return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
      const a = level(getComputedStyle(document.querySelector(selector)).color);
      const b = level(getComputedStyle(document.body).backgroundColor);
      return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05); }"""
    return window.evaluate(script, selector)


def test_dark_and_light_can_be_read(opened):
    opened.keyboard.press("j")
    read_pane(opened)
    for scheme in ("light", "dark"):
        opened.emulate_media(color_scheme=scheme)
        for selector in (".pane h2", ".facts", "details.prompt", ".stream .tag", "#count"):
            assert contrast(opened, selector) >= 4.5, (scheme, selector)
    before = opened.evaluate("getComputedStyle(document.body).backgroundColor")
    opened.click("#theme")
    assert opened.evaluate("getComputedStyle(document.body).backgroundColor") != before


def test_narrow_screen(opened):
    opened.set_viewport_size({"width": 390, "height": 800})
    opened.locator("#list .row").first.click()
    read_pane(opened)
    assert not opened.locator("#side").is_visible()
    opened.keyboard.press("p")
    opened.keyboard.press("j")
    opened.wait_for_function("document.querySelectorAll('.pane').length === 2")
    upper, lower = (opened.locator(".pane").nth(n).bounding_box() for n in (0, 1))
    assert upper["y"] + upper["height"] <= lower["y"] + 1  # one below the other
    wide = opened.evaluate("document.documentElement.scrollWidth")
    assert wide <= 390
    opened.locator("#back").first.click()
    assert opened.locator("#side").is_visible()


def test_of_two_thousand_long_episodes_only_what_is_seen_is_drawn(browser, files, tmp_path):
    """2,000 episodes of 3,000 tokens: some rows of the list, and the tokens of the open one."""
    base = next(read_episodes(files[0]))
    random = np.random.default_rng(0)
    transcript = base.transcript
    rest = 3000 - len(transcript.tokens)
    padded = replace(
        transcript,
        tokens=np.concatenate([random.integers(0, 256, rest).astype(np.int32), transcript.tokens]),
        sources=np.concatenate([np.full(rest, Source.POLICY, np.int8), transcript.sources]),
        events=tuple(replace(e, position=e.position + rest) for e in transcript.events),
    )
    signals = {"log_prob": -random.random(padded.num_policy_tokens).astype(np.float32)}
    episode = replace(base, transcript=padded, signals=signals)
    path = tmp_path / "many.html"
    assert write_page(path, "Many", (PageEntry("run", episode) for _ in range(2000))) == 2000
    window = new_window(browser)
    window.goto(path.as_uri(), wait_until="commit")
    window.wait_for_selector("#list .row")  # while the episodes are still read
    window.wait_for_load_state("load")
    tokens = window.locator(".pane .stream span[data-p]")
    assert window.locator("#list .row").count() < 100
    before = tokens.count()
    assert before <= 4000
    window.locator("#list .row").nth(3).click()
    window.wait_for_selector(".pane .stream span[data-p]")
    assert tokens.count() <= 4000
    window.close()


def test_colours_compare_episodes(browser, files, tmp_path):
    """An advantage that is the same for all tokens is coloured, by its size among all episodes."""
    base = next(read_episodes(files[1]))
    path = tmp_path / "page.html"
    advantages = (-0.25, 1.0, 0.0)
    many = (
        PageEntry("run", replace(base, signals={"advantage": np.full(length, a, np.float32)}))
        for a in advantages
        for length in [base.transcript.num_policy_tokens]
    )
    write_page(path, "Advantages", many)
    assert parts(path)[0]["ranges"] == {"advantage": [-0.25, 1.0]}
    window = new_window(browser)
    window.goto(path.as_uri())
    window.locator("#list .row").first.click()
    window.get_by_label("Colour tokens by").select_option("advantage")
    # Strength goes with the root: a quarter of the largest is half as strong.
    shades = ("var(--warm), 0.375)", "var(--cold), 0.750)", "var(--cold), 0.000)")
    for number, shade in enumerate(shades):
        window.locator("#list .row").nth(number).click()
        window.wait_for_function(
            "shade => { const all = [...document.querySelectorAll('.pane .stream span[data-p]')]; "
            "return all.length && all.every(token => token.style.background.includes(shade)); }",
            arg=shade,
        )
    window.close()


def test_a11_documents_mark_golds_as_the_scores_find_them():
    document = Document("d", "No known Art", "of unknown men, no. Art\u2019s \U0001f600 New-York")
    title, text = _marked(document, ("no", "art", "New York", "art of"))
    assert title == ["No known ", "Art", ""]
    assert text == ["", "of", " unknown men, no. ", "Art", "\u2019s \U0001f600 ", "New-York", ""]
