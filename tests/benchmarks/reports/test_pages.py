"""Scores of files, groups, samples; reports, the store, and the commands around them."""

from __future__ import annotations

import gzip
import io
import json
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from search_env.agents.baselines.scripted import make_baseline
from search_env.benchmarks.cli.bench import default_path
from search_env.benchmarks.harness.errors import ResultsError
from search_env.benchmarks.harness.results_file import EpisodeResult, read_results
from search_env.benchmarks.harness.scores import group, majority, pass_at, question_scores, score
from search_env.benchmarks.players.base import TokenAgent
from search_env.benchmarks.question_sets import registry
from search_env.benchmarks.question_sets.registry import get_benchmark
from search_env.benchmarks.reports import leaderboard as store
from search_env.benchmarks.reports.leaderboard import PUBLISHED, leaderboard
from search_env.benchmarks.reports.pages import by_protocol, comparison_rows, report_markdown
from search_env.benchmarks.reports.tables import agent_label, score_table
from search_env.benchmarks.run import run
from search_env.benchmarks.studies import sweep
from search_env.benchmarks.studies.sweep import play_row
from search_env.cli.console import open_table
from search_env.cli.main import app
from search_env.envs.loading import _published_questions, load_questions
from search_env.paths import data_dir

ID = "world-2hop/r1-searcher/bm25-world1k/v1"
WORLD = get_benchmark(ID)


def call(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Three agents on twenty questions, whole episodes of one."""
    folder = tmp_path_factory.mktemp("runs")
    for name in ("oracle", "question-as-query"):
        player = TokenAgent(name, make_baseline(name))
        episodes = folder / "episodes.jsonl" if name == "oracle" else None
        run(WORLD, player, folder / f"{name}.jsonl", limit=20, episodes=episodes, command=name)
    player = TokenAgent("oracle", make_baseline("oracle"))
    run(WORLD, player, folder / "ablation.jsonl", limit=20, ablation="no-documents", command="c")
    return folder


def sampled(records, *right):
    """Episodes of one question each, samples right or not as given."""
    base = records[0]
    return [
        EpisodeResult(
            index, sample, replace(base, exact_match=float(ok), answer="a" if ok else "b")
        )
        for index, samples in enumerate(right)
        for sample, ok in enumerate(samples)
    ]


def test_what_was_found_and_searched_is_measured(records):
    """Two of three questions were searched for, one gold was found, and that answer was wrong."""
    base = replace(records[0], exact_match=1.0)
    rows = [
        replace(base, searches=0, answer_recall=0.0),
        replace(base, searches=2, answer_recall=1.0, exact_match=0.0),
        replace(base, searches=1, answer_recall=None),  # yes or no is not looked for
    ]
    measures = score([EpisodeResult(i, 0, row) for i, row in enumerate(rows)]).measures
    assert measures["search rate"].mean == pytest.approx(2 / 3)
    assert measures["EM given recall"].mean == 0.0
    assert measures["EM given recall"].count == 1
    assert measures["EM"].mean == pytest.approx(2 / 3)


@pytest.mark.skipif(data_dir() is None, reason="needs $SEARCH_ENV_DATA")
@pytest.mark.parametrize(
    ("name", "joined", "native"), [("musique", 1070, 347), ("2wikimultihopqa", 346, 164)]
)
def test_questions_fall_into_origins(records, name, joined, native):
    protocol = registry.QUESTION_SETS[name].protocols[0]
    assert f"{joined:,}" in protocol.note
    key = registry.QUESTION_SETS[name].groups["origin"]
    rows = [replace(records[0], question_id=q.id) for q in load_questions(name, "dev", None)]
    assert Counter(map(key, rows)) == {"joined by title": joined, "native records": native}
    in_a_mixture = replace(rows[0], question_id=f"{name}/{rows[0].question_id}")
    assert key(in_a_mixture) == key(rows[0])


@pytest.fixture(scope="module")
def records(runs):
    return read_results(runs / "oracle.jsonl").records


# Scores.


def test_samples_are_averaged_by_question(records):
    episodes = sampled(records, [1, 1, 0, 0], [1, 0, 0, 0])
    found = score(episodes)
    assert (found.questions, found.episodes) == (2, 8)
    assert found.measures["EM"].mean == pytest.approx(0.375)
    assert found.measures["EM"].count == 2
    assert question_scores(episodes, lambda r: r.exact_match) == {0: 0.5, 1: 0.25}


def test_pass_at_k_and_the_majority_by_hand(records):
    episodes = sampled(records, [1, 1, 0, 0], [1, 0, 0, 0])
    assert pass_at(episodes, 1).mean == pytest.approx(0.375)
    assert pass_at(episodes, 2).mean == pytest.approx((5 / 6 + 1 / 2) / 2)
    assert pass_at(episodes, 4).mean == 1.0
    assert majority(episodes).mean == 0.5  # a tie goes to the earliest answer


def test_groups_leave_out_what_is_not_known(records):
    unknown = replace(records[0], hops=None)
    episodes = [EpisodeResult(0, 0, records[0]), EpisodeResult(1, 0, unknown)]
    assert {name: len(held) for name, held in group(episodes, lambda r: r.hops).items()} == {"2": 1}
    assert (
        score([EpisodeResult(0, 0, replace(unknown, policy_tokens=None))]).measures["policy tokens"]
        is None
    )


# Reports.


def test_protocols_share_no_table(runs):
    one = read_results(runs / "oracle.jsonl")
    other = replace(one, header={**one.header, "protocol": ID + "@t1x8"})
    held = by_protocol([one, read_results(runs / "ablation.jsonl"), other])
    assert {id: list(agents) for id, agents in held.items()} == {
        ID + "@first20": ["oracle", "oracle, no-documents"],  # an ablation stands beside its agent
        ID + "@t1x8": ["oracle"],
    }
    assert report_markdown(held).count("## ") == 2


def test_another_corpus_is_another_table(runs):
    one = read_results(runs / "oracle.jsonl")
    digests = {**one.header["digests"], "corpus": "f" * 64}
    other = replace(one, header={**one.header, "digests": digests})
    assert list(by_protocol([one, other])) == [
        ID + "@first20",
        ID + "@first20 (corpus ffffffffffff)",
    ]
    assert list(by_protocol([one, one])[ID + "@first20"]) == ["oracle", "oracle (2)"]


def test_comparisons_are_question_by_question(runs):
    names = ("question-as-query", "oracle")
    (agents,) = by_protocol(read_results(runs / f"{n}.jsonl") for n in names).values()
    head, em, f1 = comparison_rows(agents)
    assert head[0] == "against question-as-query"
    wrong = sum(r.exact_match == 0 for r in agents["question-as-query"].records)
    assert em[:3] == ["oracle", "20", "EM"]
    assert em[4:6] == [str(wrong), "0"]
    assert f1[2] == "F1"


def test_report_of_a_folder(runs, tmp_path):
    out, text = tmp_path / "r.html", tmp_path / "r.md"
    result = call("report", runs, "--out", out, "--markdown", text)
    assert result.exit_code == 0, result.output
    assert "3 results, 0 trainings, 20 episodes" in result.stdout
    page = out.read_text("utf-8")
    assert page.count('class="plot"') >= 1
    assert "Question by question" in page
    assert "oracle, by kind" in page
    assert "http" not in re.sub(r'"(data:|http://www.w3)[^"]*"', "", page).split("<body>")[0]
    markdown = text.read_text("utf-8")
    assert f"## {ID}@first20" in markdown
    assert "| against oracle, no-documents | questions |" in markdown


def test_report_of_what_is_no_run(tmp_path):
    other = tmp_path / "other.jsonl"
    other.write_text('{"question": "Who?"}\n', "utf-8")
    refused = call("report", other)
    assert refused.exit_code == 2
    assert "search-env score" in refused.stderr
    assert "no such file" in call("report", tmp_path / "none").stderr
    assert "got none. Make some" in call("report", tmp_path).stderr


def test_report_of_results_that_were_cut(runs, tmp_path):
    whole = (runs / "oracle.jsonl").read_bytes()
    (tmp_path / "cut.jsonl").write_bytes(whole[:-30])
    with pytest.warns(UserWarning, match="were left out"):
        result = call("report", tmp_path / "cut.jsonl", "--out", tmp_path / "r.html")
    assert result.exit_code == 0, result.output


# The store.


def test_the_store_keeps_the_newest(runs, tmp_path):
    path = tmp_path / "scores.jsonl"
    entries = [store.entry_of(read_results(runs / f"{n}.jsonl")) for n in ("oracle", "ablation")]
    assert store.add(path, entries) == entries
    newer = replace(entries[0], header={**entries[0].header, "date": "2030-01-01"})
    assert store.add(path, [newer]) == [newer, entries[1]]
    assert [agent_label(entry.header) for entry in store.read(path)] == [
        "oracle",
        "oracle, no-documents",
    ]
    assert len(path.read_text("utf-8").splitlines()) == 2
    path.write_text(path.read_text("utf-8") + '{"agent": 1}\n', "utf-8")
    with pytest.raises(ResultsError, match="line 3: expected scores"):
        store.read(path)


def test_the_leaderboard_keeps_published_scores_apart(runs):
    names = ("question-as-query", "oracle")
    entries = [store.entry_of(read_results(runs / f"{n}.jsonl")) for n in names]
    text = leaderboard(entries)
    ours, theirs = text.split("## Reported elsewhere")
    assert ours.index("| oracle |") < ours.index("| question-as-query |")  # best first
    assert "Search-R1" not in ours
    assert "| Search-R1 PPO, Qwen2.5-7B base | EM | wiki-18, e5, whole sets | 0.196 |" in theirs


def test_published_scores_name_metric_setting_and_source():
    assert len(set(PUBLISHED)) == len(PUBLISHED)
    for row in PUBLISHED:
        assert row.metric
        assert row.setting
        assert row.source
        assert all(0 < value < 1 for value in (row.musique, row.bamboogle))


# The sweep.


def test_the_sweep_plays_every_set_with_evidence():
    reported = [id for each in registry.QUESTION_SETS.values() for id in each.reported]
    assert len(reported) == 8
    assert all(get_benchmark(id).questions_digest for id in reported)


def test_a_section_prints_the_command_of_every_row(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [("oracle", None), ("oracle", "no-documents")]
    text = report_markdown(by_protocol(play_row(ID, *row, 5) for row in rows))
    assert f"## {ID}@first5" in text
    assert "| oracle, no-documents | 5 |" in text
    assert f"search-env bench {ID} --agent oracle --ablation no-documents --limit 5" in text
    assert len(list(tmp_path.rglob("*.jsonl"))) == 2


def test_the_sweep_as_a_script(tmp_path, monkeypatch):
    """Without data the published sets are said not to have been run; the world is."""
    monkeypatch.delenv("SEARCH_ENV_DATA", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(sweep, "ROWS", (("oracle", None), ("closed-book", None)))
    _published_questions.cache_clear()  # other tests may have loaded them
    monkeypatch.chdir(tmp_path)
    names = ["--only", "bamboogle", "procedural_world", "--limit", "5", "--output", "p.md"]
    store_ = ["--store", "s.jsonl", "--leaderboard", "l.md"]
    monkeypatch.setattr(sys, "argv", ["sweep", *names, *store_])
    sweep.main()
    page = (tmp_path / "p.md").read_text("utf-8")
    assert "Not run: Expected questions of bamboogle" in page
    assert f"## {ID}@first5" in page
    assert len(store.read(tmp_path / "s.jsonl")) == 2 * 4
    assert "| oracle | 5 |" in (tmp_path / "l.md").read_text("utf-8")


# search-env bench.


def test_bench_lists_protocols():
    result = call("bench")
    assert result.exit_code == 0
    assert ID in result.stdout
    assert "nq-test/search-r1/bm25-own/v1" in result.stdout


def test_bench_plays_and_goes_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = call("bench", ID, "--agent", "oracle", "--limit", "8")
    assert result.exit_code == 0, result.output
    assert re.search(r"^oracle +8 +1\.00 ", result.stdout, re.M)
    assert "Judge: not run" in result.stdout
    path = f"runs/bench/{ID}/oracle+first8.jsonl"
    assert f"Wrote {path}" in result.stdout
    again = call("bench", ID, "--agent", "oracle", "--limit", "8")
    assert "holds 8 of 8 episodes; nothing is left to play" in again.stderr
    header = json.loads((tmp_path / path).read_text("utf-8").splitlines()[0])
    assert header["command"] == f"search-env bench {ID} --agent oracle --limit 8"


def test_bench_warns_of_questions_that_were_trained_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    known = read_questions_of_the_set()[0]
    row = {"id": "x", "question": known.text, "golden_answers": ["y"]}
    (tmp_path / "train.jsonl").write_text(json.dumps(row) + "\n", "utf-8")
    result = call("bench", ID, "--agent", "oracle", "--limit", 2, "--trained-on", "train.jsonl")
    assert result.exit_code == 0, result.output
    assert f"1 of the 500 questions are in train.jsonl, such as {known.id}" in result.stderr


def read_questions_of_the_set():
    from search_env.envs.config import EnvComponents, EnvConfig

    return EnvComponents(EnvConfig(**WORLD.environment())).questions


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["world-5hop"], "protocol id"),
        ([ID, "--agent", "oracel"], "Did you mean 'oracle'"),
        ([ID, "--samples", "3"], "--temperature 1"),
        ([ID, "--ablation", "nothing"], "no-documents"),
        ([ID, "--corpus", "none.jsonl"], "none.jsonl"),
        ([ID, "--agent", "http://localhost:1/v1"], "Pass --model"),
        ([ID, "--limit", "1", "--judge", "http://localhost:1/v1"], "--judge-model"),
        (["nq-test/search-r1/bm25-own/v1"], "Pass one as --corpus"),
    ],
)
def test_bench_of_what_cannot_be(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    result = call("bench", *arguments)
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("Error: ") or "holds" in result.stderr
    assert message in result.stderr


def test_scripted_agents_need_no_torch(tmp_path):
    """The whole command without torch, transformers or openai being imported."""
    code = (
        "import sys\n"
        "for name in ('torch', 'transformers', 'openai', 'matplotlib'): sys.modules[name] = None\n"
        "from search_env.cli.main import main\n"
        f"sys.argv = ['search-env', 'bench', '{ID}', '--agent', 'oracle', '--limit', '3']\n"
        "main()\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr
    assert "oracle" in result.stdout


# Names that somebody else chose.

NAMES = [
    "$\\frac$",
    "$x^{",
    "a|b",
    "a\\|b",
    "<script>alert(1)</script>",
    "two\nlines\r\n| x |",
    "[red]x",
    "[/red]",
    "[link](javascript:x)",
    "`code` ```",
    "long " * 400,
    "\u202eRTL \u05d0\u05d1\u05d2 \u0639\u0631\u0628\u064a",
    "\x1b[31mred\x07",
    "",
    "_hidden",
    "\U0001f600 \u4e2d\u6587",
    "../../etc/passwd",
    "# heading",
    "&amp; \\",
    "half \ud800",
]


@pytest.fixture(scope="module")
def named(runs, tmp_path_factory):
    """The oracle's results under every name."""
    folder = tmp_path_factory.mktemp("named")
    header, *rows = (runs / "oracle.jsonl").read_text("utf-8").splitlines()
    for number, name in enumerate(NAMES):
        head = {**json.loads(header), "agent": {"name": name}, "command": f"bench {name} ```"}
        text = "\n".join([json.dumps(head), *rows]) + "\n"
        (folder / f"{number:02}.jsonl").write_text(text, "utf-8")
    return folder


def test_c7_any_name_stands_in_a_report(named, tmp_path):
    out, markdown = tmp_path / "out.html", tmp_path / "out.md"
    result = call("report", named, "--out", out, "--markdown", markdown)
    assert result.exit_code == 0, result.output
    page = out.read_text("utf-8")
    assert "<script>alert" not in page
    assert '<img class="plot"' in page
    lines = markdown.read_text("utf-8").splitlines()
    fences = [number for number, line in enumerate(lines) if set(line) == {"`"}]
    tables = [line for line in lines[: fences[0]] if line.startswith("| ")]
    widths = {len(re.findall(r"(?<!\\)\|", line.replace("\\\\", ""))) for line in tables}
    assert len(widths) <= 3  # all, compared, grouped: no name breaks a row
    assert not [line for line in lines if "<script>" in line and not line.startswith("bench")]
    assert len(fences) == 2  # one block of commands


@pytest.mark.parametrize("number", range(len(NAMES)), ids=lambda n: repr(NAMES[n][:12]))
def test_c7_any_name_stands_in_the_terminal(named, number):
    results = read_results(named / f"{number:02}.jsonl")
    label = agent_label(results.header)
    assert label
    assert label.isprintable() or "\u05d0" in label
    assert len(label) <= 80
    console = Console(file=io.StringIO(), width=100)
    console.print(score_table({label: results}))
    console.print(open_table(f"against {label}", numbers=[]))
    assert "\x1b" not in console.file.getvalue()
    path = default_path(WORLD, NAMES[number], "", None, None)
    assert path.parent == Path("runs/bench", *ID.split("/"))
    assert 0 < len(path.name.encode()) < 200
    assert not path.name.startswith(".jsonl")


def test_c7_a_store_with_ill_typed_lines(runs, tmp_path):
    path = tmp_path / "scores.jsonl"
    store.add(path, [store.entry_of(read_results(runs / "oracle.jsonl"))])
    row = json.loads(path.read_text("utf-8"))
    for change in (
        {"measures": {"EM": ["a", 1, 2, 3]}},
        {"measures": {}},
        {"measures": [1]},
        {"questions": "many"},
        {"agent": "x"},
        {"digests": {"rules": 1}},
        {"date": None},
    ):
        changed = {**row, **change}
        path.write_text(json.dumps(changed) + "\n", "utf-8")
        if change == {"date": None}:
            continue
        with pytest.raises(ResultsError, match=r"scores.jsonl, line 1"):
            store.read(path)


def test_c7_compressed_runs_are_reported(runs, tmp_path):
    folder = tmp_path / "runs"
    folder.mkdir()
    for name in ("oracle", "episodes"):
        content = (runs / f"{name}.jsonl").read_bytes()
        (folder / f"{name}.jsonl.gz").write_bytes(gzip.compress(content))
    (folder / "folder.jsonl").mkdir()
    result = call("report", folder, "--out", tmp_path / "out.html")
    assert "1 results, 0 trainings, 20 episodes" in result.output
